"""The Prometheus edge, the net under the webhook: alerts whose webhook was missed, and ends that were not told."""

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Mapping
from datetime import UTC, datetime
from typing import TypeVar

from paramedic.api.base import parse_time
from paramedic.clients.prometheus import FiringAlert, Prometheus
from paramedic.core.alert import Alert, fingerprint
from paramedic.core.heard import Heard
from paramedic.core.polled import Known, KnownAlerts, Labels, by_name, has_ended
from paramedic.errors import NotFound, ParamedicError
from paramedic.intake import Intake
from paramedic.log import get_logger
from paramedic.metrics import Metrics
from paramedic.reconcile import Reconciler
from paramedic.settings import PrometheusSettings
from paramedic.store import Entry, Store, namespace_of

_log = get_logger(__name__)
_ALERTS_AT_ONCE = 100
_T = TypeVar("_T")


class Poller:
    """Looks at Prometheus' alerts at intervals; only for the leader."""

    def __init__(
        self,
        prometheus: Prometheus,
        intake: Intake,
        reconciler: Reconciler,
        store: Store,
        metrics: Metrics,
        settings: PrometheusSettings,
        leads: Callable[[], bool],
    ) -> None:
        self._prometheus = prometheus
        self._intake = intake
        self._reconciler = reconciler
        self._store = store
        self._metrics = metrics
        self._settings = settings
        self._leads = leads
        self._absent_since: dict[tuple[str, str], datetime] = {}
        """By incident and fingerprint."""
        self._fingerprints: dict[frozenset[tuple[str, str]], str] = {}
        """Of the alerts of the last look, by their labels."""

    async def run(self) -> None:
        """Polls until cancelled."""
        while True:
            await asyncio.sleep(self._settings.poll_interval.total_seconds())
            if self._leads():
                await self.look()

    async def look(self) -> None:
        """One look. What fails is counted and tried again at the next; ends are told also when something cannot be
        taken in.
        """
        now = datetime.now(UTC)
        firing = await self._try(self._firing(now))
        if firing is not None:
            await self._try(self._take_missed(firing, now))
            await self._try(self._tell_ends(firing, now))

    async def _try(self, part: Awaitable[_T]) -> _T | None:
        try:
            return await part
        except ParamedicError as error:
            self._metrics.poller_errors.inc()
            _log.warning("cannot look at Prometheus' alerts", error=str(error))
        except Exception:  # noqa: BLE001 - an odd answer must not end the process
            self._metrics.poller_errors.inc()
            _log.exception("looking at Prometheus' alerts failed")
        return None

    async def _firing(self, now: datetime) -> list[Alert]:
        """What fires, as Alertmanager would have it."""
        shown = await self._prometheus.firing_alerts()
        firing: list[Alert] = []
        known, self._fingerprints = self._fingerprints, {}
        for number, found in enumerate(shown, start=1):
            labels = {**self._settings.external_labels, **found.labels}
            key = frozenset(labels.items())
            mark = self._fingerprints[key] = known.get(key) or fingerprint(labels)
            firing.append(Alert("firing", labels, found.annotations, _since(found, now), None, "", mark))
            if number % _ALERTS_AT_ONCE == 0:
                await asyncio.sleep(0)  # thousands of them must not hold up the lead's renewal
        return firing

    async def _take_missed(self, firing: list[Alert], now: datetime) -> None:
        """Alerts that fire for longer than the grace, in which their webhook should have come."""
        old = [a for a in firing if now - a.starts_at >= self._settings.poll_grace]
        entries = self._store.with_labels()
        known = KnownAlerts(Known(namespace_of(e.key), e.alert_labels or {}, e.ended_at) for e in entries)
        await self._intake.take(old, "poller", but=known.include)

    async def _tell_ends(self, firing: list[Alert], now: datetime) -> None:
        """Alerts that have not been seen firing for longer than the grace."""
        suspects = [e for e in self._store.with_labels() if e.firing]
        if not suspects:
            self._absent_since.clear()
            return
        rules, shown = await self._prometheus.alerting_rules(), by_name(firing)
        absent = [(e.key, mark) for e in suspects for mark in self._ended(e, firing, shown, rules)]
        self._absent_since = {one: self._absent_since.get(one, now) for one in absent}
        for (key, mark), since in list(self._absent_since.items()):
            if now - since >= self._settings.poll_grace:
                await self._tell_end(key, mark, since)

    def _ended(
        self, entry: Entry, firing: Iterable[Alert], shown: Mapping[str, list[Labels]], rules: set[str]
    ) -> frozenset[str]:
        """Fingerprints of those of the incident's alerts that have ended: all, where nothing like its group fires; else
        the first one, whose labels are known, unless it stands for others of its group that still fire.
        """
        labels = entry.alert_labels or {}
        if not has_ended(labels, shown, rules):
            return frozenset()
        if has_ended(entry.group_labels or labels, shown, rules):
            return entry.firing
        is_alone = entry.firing == {entry.opened_by}
        stands_for_others = is_alone and any(entry.group in self._intake.groups(alert) for alert in firing)
        return frozenset() if stands_for_others else entry.firing & {entry.opened_by}

    async def _tell_end(self, key: str, mark: str, since: datetime) -> None:
        end = Alert("resolved", {}, {}, since, since, "", mark)
        try:
            await self._reconciler.tell(key, Heard(end, datetime.now(UTC)))
        except NotFound:
            return
        self._metrics.alerts.labels("poller", "resolved").inc()


def _since(found: FiringAlert, now: datetime) -> datetime:
    """Prometheus tells when the expression became true, not when the alert fired; the incident is marked as having seen
    everything up to now, so that a late webhook of this firing joins it. Unreadable, it is now: its webhook is waited
    for, and its incident is not told that it has ended.
    """
    try:
        return parse_time(found.active_at)
    except ValueError:
        return now
