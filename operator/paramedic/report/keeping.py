"""Keeps the report of an incident with its evidence."""

from collections.abc import AsyncGenerator, Callable
from datetime import datetime

from paramedic.api.incident import Evidence, Incident
from paramedic.clients.evidence import EvidenceStore
from paramedic.clients.prometheus import Prometheus
from paramedic.core.checklist import REPORT_NAMES
from paramedic.report.gather import make_report
from paramedic.report.render import render
from paramedic.store import Store

_MEDIA_TYPES = {"html": "text/html; charset=utf-8", "json": "application/json"}


class ReportKeeper:
    """Writes reports into the evidence store, in a folder of the incident's own; a newer one replaces the older."""

    def __init__(
        self, evidence: EvidenceStore, prometheus: Prometheus | None, store: Store, clock: Callable[[], datetime]
    ) -> None:
        self._evidence = evidence
        self._prometheus = prometheus
        self._store = store
        self._clock = clock

    async def keep(self, incident: Incident) -> list[Evidence]:
        """What was kept; an item without a place could not be, as its note says. Raises nothing but what cancels it."""
        pinned, meta = incident.status.policy, incident.metadata
        policy = self._store.policy(pinned.key) if pinned else None
        report = await make_report(incident, policy.spec.messages if policy else None, self._prometheus, self._clock())
        place = self._evidence.collection(meta.namespace, meta.name, f"report-{meta.uid}")
        for name in REPORT_NAMES:
            form = name.rpartition(".")[2]
            await place.keep(name, _MEDIA_TYPES[form], _encoded(render(report, form)))
        return place.items


async def _encoded(text: str) -> AsyncGenerator[bytes, None]:
    yield text.encode()
