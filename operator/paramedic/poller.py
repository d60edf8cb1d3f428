"""The Prometheus edge, the net under the webhook: alerts whose webhook was missed, and ends that were not told."""

import asyncio
from collections import defaultdict
from collections.abc import Awaitable, Callable, Iterable, Mapping
from datetime import UTC, datetime
from typing import TypeVar

from paramedic.api.base import parse_time
from paramedic.clients.prometheus import ActiveAlert, Prometheus
from paramedic.core.alert import Alert, fingerprint
from paramedic.core.heard import Heard
from paramedic.core.polled import Known, KnownAlerts, Labels, ToldEnds, by_name, has_ended
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
        self._told = ToldEnds()
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
        active = await self._try(self._active(now))
        if active is not None:
            await self._try(self._take_missed([alert for fires, alert in active if fires], now))
            await self._try(self._tell_ends([alert for _, alert in active], now))

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

    async def _active(self, now: datetime) -> list[tuple[bool, Alert]]:
        """What fires or is pending, and whether it fires, as Alertmanager would have it."""
        active: list[tuple[bool, Alert]] = []
        known, self._fingerprints = self._fingerprints, {}
        for number, found in enumerate(await self._prometheus.active_alerts(), start=1):
            labels = {**self._settings.external_labels, **found.labels}
            key = frozenset(labels.items())
            mark = self._fingerprints[key] = known.get(key) or fingerprint(labels)
            active.append((found.fires, Alert("firing", labels, found.annotations, _since(found, now), None, "", mark)))
            if number % _ALERTS_AT_ONCE == 0:
                await asyncio.sleep(0)  # thousands of them must not hold up the lead's renewal
        return active

    async def _take_missed(self, firing: list[Alert], now: datetime) -> None:
        """Alerts that fire for longer than the grace, in which their webhook should have come."""
        self._told.keep(self._store.entries)
        old = [self._told.begun_anew(a, now) for a in firing if now - a.starts_at >= self._settings.poll_grace]
        entries = self._store.with_labels()
        known = KnownAlerts(Known(namespace_of(e.key), e.alert_labels or {}, e.ended_at) for e in entries)
        await self._intake.take(old, "poller", but=known.include)

    async def _tell_ends(self, active: list[Alert], now: datetime) -> None:
        """Alerts that have not been shown for longer than the grace: Alertmanager is given time to tell it first, and
        a Prometheus that has just started, to find anew what fires.
        """
        suspects = [e for e in self._store.with_labels() if e.firing]
        if not suspects:
            self._absent_since.clear()
            return
        rules, shown = await self._prometheus.alerting_rules(), by_name(active)
        absent = [(e.key, mark) for e in suspects for mark in self._ended(e, active, shown, rules)]
        self._absent_since = {one: self._absent_since.get(one, now) for one in absent}
        grace = max(self._settings.poll_grace, self._settings.end_grace)
        ended: dict[str, dict[str, datetime]] = defaultdict(dict)
        for (key, mark), since in self._absent_since.items():
            if now - since >= grace:
                ended[key][mark] = since
        for key, marks in ended.items():
            await self._tell_end(key, marks)

    def _ended(
        self, entry: Entry, active: Iterable[Alert], shown: Mapping[str, list[Labels]], rules: set[str]
    ) -> frozenset[str]:
        """Fingerprints of those of the incident's alerts that have ended: all, where nothing like its group is shown;
        else the first one, whose labels are known, unless it stands for others of its group that go on.
        """
        labels = entry.alert_labels or {}
        if not has_ended(labels, shown, rules):
            return frozenset()
        if has_ended(entry.group_labels or labels, shown, rules):
            return entry.firing
        is_alone = entry.firing == {entry.opened_by}
        stands_for_others = is_alone and any(entry.group in self._intake.groups(alert) for alert in active)
        return frozenset() if stands_for_others else entry.firing & {entry.opened_by}

    async def _tell_end(self, key: str, marks: Mapping[str, datetime]) -> None:
        """That these of the incident's alerts are not shown since then."""
        entry, now = self._store.entries.get(key), datetime.now(UTC)
        ends = (Alert("resolved", {}, {}, since, since, "", mark) for mark, since in marks.items())
        try:
            await self._reconciler.tell(key, *(Heard(end, now) for end in ends))
        except NotFound:
            return
        self._metrics.alerts.labels("poller", "resolved").inc(len(marks))
        if entry and entry.open and entry.firing == marks.keys():
            first_only = marks.keys() == {entry.opened_by}
            labels = entry.alert_labels if first_only else entry.group_labels
            self._told.add(key, labels or {}, max(marks.values()))


def _since(found: ActiveAlert, now: datetime) -> datetime:
    """Prometheus tells when the expression became true, not when the alert fired; the incident is marked as having seen
    everything up to now, so that a late webhook of this firing joins it. Unreadable, it is now: its webhook is waited
    for, and its incident is not told that it has ended.
    """
    try:
        return parse_time(found.active_at)
    except ValueError:
        return now
