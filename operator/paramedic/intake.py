"""Alerts become Incidents, or join the one that is open. Both edges, receiver and poller, come through here.

``take`` returns only when everything that must not be lost is stored; what cannot be stored raises Retry, and the
sender keeps it. Taking the same alerts again changes nothing, so half of a batch may be repeated safely.
"""

import asyncio
import itertools
from collections.abc import AsyncIterator, Callable, Collection, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Any

from paramedic.api.policy import RemediationPolicy
from paramedic.clients.kube import Kube
from paramedic.core.alert import UNKNOWN_START, Alert
from paramedic.core.heard import Heard
from paramedic.core.match import incident_manifest, is_new_firing, policies_for_alert, severity_of
from paramedic.errors import AlreadyExists, NotFound, ParamedicError, Refused, Retry, Terminal
from paramedic.gate import Urgency
from paramedic.log import get_logger
from paramedic.metrics import Metrics
from paramedic.reconcile import Reconciler
from paramedic.record import incident_path, reread
from paramedic.store import Entry, GroupKey, Store, key_of

Json = dict[str, Any]
IsKnown = Callable[[Alert, str], bool]
"""Whether an alert is known in a namespace."""
_log = get_logger(__name__)
_GROUPS_AT_ONCE = 16
_ALERTS_AT_ONCE = 100
_TRIES = 6


@dataclass(frozen=True, slots=True)
class _Place:
    """Where a batch belongs: the incident, what of the batch it has not heard yet, and what its first status will tell
    of.
    """

    incident: str
    rest: Sequence[Heard] = ()
    told: Sequence[asyncio.Future[None]] = ()


def _nothing(alert: Alert, namespace: str) -> bool:
    """All of it is news."""
    return False


@dataclass(slots=True)
class _Batch:
    """What was received of one group. Without a ``policy`` it can only join what there is."""

    policy: RemediationPolicy | None
    heard: list[Heard] = field(default_factory=list)


class Intake:
    """Stores what the edges have received."""

    def __init__(
        self,
        kube: Kube,
        store: Store,
        reconciler: Reconciler,
        metrics: Metrics,
        *,
        namespace: str,
        leads: Callable[[], bool],
    ) -> None:
        self._kube = kube
        self._store = store
        self._reconciler = reconciler
        self._metrics = metrics
        self._namespace = namespace
        self._leads = leads
        self._slots = asyncio.Semaphore(_GROUPS_AT_ONCE)
        self._locks: dict[GroupKey, tuple[asyncio.Lock, int]] = {}

    async def take(self, alerts: Sequence[Alert], source: str, *, but: IsKnown = _nothing) -> None:
        """Returns when all that matched is stored, ``but`` what is said to be known in a namespace. Raises Retry when
        something could not be, for whatever reason; the rest is stored.
        """
        batches, failed = await self._batches(alerts, source, but)
        results = await asyncio.gather(*(self._try_batch(key, batch, source) for key, batch in batches.items()))
        failed += [error for error in results if error]
        if failed:
            _log.warning("alerts not stored", count=len(failed), error=str(failed[0]))
            raise Retry(f"not all could be stored, {len(failed)} failed: {failed[0]}")

    def groups(self, alert: Alert) -> list[GroupKey]:
        """The groups that the alert belongs to by the policies that answer to it."""
        return [_group_of(alert, *one) for one in self._answering(alert)]

    def _answering(self, alert: Alert) -> list[tuple[RemediationPolicy, str]]:
        return policies_for_alert(self._store.policies_that_may_mean(alert), alert, self._namespace)

    async def _batches(
        self, alerts: Sequence[Alert], source: str, but: IsKnown
    ) -> tuple[dict[GroupKey, _Batch], list[ParamedicError]]:
        """The batches, and what stood in the way of alerts that are in none."""
        now = datetime.now(UTC)
        batches: dict[GroupKey, _Batch] = {}
        failed: list[ParamedicError] = []
        for number, alert in enumerate(alerts, start=1):
            try:
                self._sort_in(alert, batches, source, but, now)
            except Exception as error:  # noqa: BLE001 - one odd alert must not keep the others back
                failed.append(self._own_error(source, error, alert=alert.fingerprint))
            if number % _ALERTS_AT_ONCE == 0:
                await asyncio.sleep(0)  # thousands of them must not hold up the lead's renewal
        return batches, failed

    def _sort_in(self, alert: Alert, batches: dict[GroupKey, _Batch], source: str, but: IsKnown, now: datetime) -> None:
        routes = self._routes(alert)
        if not routes:
            self._count(source, "unmatched")
        covers = now if source == "poller" else None
        for key, policy in routes.items():
            if but(alert, key[0]):
                continue
            speaker = policy or self._store.policy(key[1])
            severity = severity_of(speaker, alert) if speaker else None
            batches.setdefault(key, _Batch(policy)).heard.append(Heard(alert, now, covers, severity))

    def _routes(self, alert: Alert) -> dict[GroupKey, RemediationPolicy | None]:
        """Where the alert belongs: the open incidents that know it, whatever became of their policies, and in other
        namespaces the policies that answer to it.
        """
        known = [entry.group for entry in self._store.open_with(alert) if entry.group]
        taken = {namespace for namespace, _, _ in known}
        found = self._answering(alert)
        answering = {policy.key: policy for policy, _ in found}
        return {group: answering.get(group[1]) for group in known} | {
            _group_of(alert, policy, namespace): policy for policy, namespace in found if namespace not in taken
        }

    async def _try_batch(self, key: GroupKey, batch: _Batch, source: str) -> ParamedicError | None:
        """What stood in the way, if something did."""
        try:
            await self._take_batch(key, batch, source)
        except ParamedicError as error:
            return error
        except Exception as error:  # noqa: BLE001 - one team's policy must not keep the alerts of others back
            return self._own_error(source, error, namespace=key[0], policy=key[1])
        return None

    def _own_error(self, source: str, error: Exception, **where: str) -> Retry:
        """Of a kind that nobody expects: it is seen in the log and the figures, and the alert is sent again."""
        self._count(source, "failed")
        _log.error("an alert could not be taken in", exc_info=error, **where)
        return Retry(f"an error of Paramedic's own ({type(error).__name__})")

    async def _take_batch(self, key: GroupKey, batch: _Batch, source: str) -> None:
        for _ in range(_TRIES):
            async with self._one_at_a_time(key), self._slots:
                place = await self._find_place(key, batch, source)
            # Joining waits for a write that it may share with others of the group, so it must not hold them up.
            if place is not None and await self._join(place, source):
                return
        raise Retry(f"the incidents of group {key} keep changing")

    async def _find_place(self, key: GroupKey, batch: _Batch, source: str) -> _Place | None:
        """The open incident that the batch joins, or a new one for it; None when another process was quicker and the
        state has to be looked at anew."""
        known = self._store.in_group(key)
        polled = source == "poller"  # it tells of no end but the first alert's and the whole group's, so no other joins
        under_way = next((e for e in known if e.open), None)
        if under_way:
            return _Place("") if polled else _Place(under_way.key, batch.heard)
        new = [h for h in batch.heard if h.alert.state == "firing" and _is_new(h, known)]
        if not new:
            for heard in batch.heard:
                self._count(source, "ended" if heard.alert.state == "resolved" else "repeated")
            self._tell_late(known, batch.heard)
            return _Place("")
        if batch.policy is None:  # it has just been closed, and its policy answers no more: who does is asked anew
            raise Retry(f"the incident of group {key} has just ended")
        first = min(new, key=lambda h: h.alert.starts_at)
        rest = [] if polled else [h for h in batch.heard if h is not first]
        opened = await self._open(key[0], batch.policy, first, rest, known)
        if opened is None:
            return None
        self._count(source, "opened")
        if opened.told:
            self._count_joined(rest, source)
        return opened

    def _tell_late(self, known: Sequence[Entry], batch: Sequence[Heard]) -> None:
        """A person may close an incident whose alert still fires: its end is put on record too."""
        for entry, heard in itertools.product(known if self._leads() else (), batch):
            if heard.alert.state == "resolved" and heard.alert.fingerprint in entry.firing:
                self._reconciler.hear_late(entry.key, heard)

    async def _open(
        self, namespace: str, policy: RemediationPolicy, first: Heard, rest: Sequence[Heard], known: Sequence[Entry]
    ) -> _Place | None:
        """Creates the Incident; None when it is there already."""
        manifest = _manifest(policy, namespace, first, {entry.key for entry in known})
        key = key_of(manifest)
        try:
            if not self._leads():
                await self._create(policy, manifest)
                self._reconciler.queue.add(key)  # should the lead have come to this process meanwhile
                return _Place(key, rest)
            self._reconciler.look_ahead(policy, manifest)
            with self._reconciler.opening(key, first, rest) as told:
                await self._create(policy, manifest)
            return _Place(key, told=told)
        except AlreadyExists:
            await reread(self._kube, self._store, key)
            return None

    async def _create(self, policy: RemediationPolicy, manifest: Json) -> None:
        path = incident_path(manifest["metadata"]["namespace"])
        try:
            stored = await self._kube.create(path, manifest, Urgency.OPEN)
        except (Refused, Terminal, NotFound) as error:
            self._metrics.alerts.labels("any", "refused").inc()
            _log.error("an incident was refused", policy=policy.key, error=str(error))
            raise Retry(str(error)) from error
        self._store.put_incident(stored)

    async def _join(self, place: _Place, source: str) -> bool:
        """Returns once all is stored. False when the incident has ended meanwhile."""
        try:
            await asyncio.gather(*place.told)
            return not place.rest or await self._tell(place, source)
        except NotFound:
            return False

    async def _tell(self, place: _Place, source: str) -> bool:
        """Resends are only counted; what changes who fires is stored before this returns."""
        entry = self._store.entries.get(place.incident)
        if entry is None:
            return False
        changing, resent = _split(place.rest, entry)
        self._count_joined(place.rest, source)
        if self._leads():
            for heard in resent:
                self._reconciler.hear(entry.key, heard)
        if changing:
            await self._reconciler.tell(entry.key, *changing)
        return True

    @asynccontextmanager
    async def _one_at_a_time(self, key: GroupKey) -> AsyncIterator[None]:
        """Alerts of one group are taken one batch after the other; the lock lives as long as somebody wants it."""
        lock, users = self._locks.get(key) or (asyncio.Lock(), 0)
        self._locks[key] = lock, users + 1
        try:
            async with lock:
                yield
        finally:
            lock, users = self._locks[key]
            if users == 1:
                del self._locks[key]
            else:
                self._locks[key] = lock, users - 1

    def _count_joined(self, batch: Sequence[Heard], source: str) -> None:
        for heard in batch:
            self._count(source, "resolved" if heard.alert.state == "resolved" else "joined")

    def _count(self, source: str, outcome: str) -> None:
        self._metrics.alerts.labels(source, outcome).inc()


def _group_of(alert: Alert, policy: RemediationPolicy, namespace: str) -> GroupKey:
    return namespace, policy.key, alert.group_key(policy.spec.incident.group_by)


def _is_new(heard: Heard, known: Sequence[Entry]) -> bool:
    """Whether no incident of its group has heard of this firing."""
    return all(_is_new_to(entry, heard) for entry in known)


def _is_new_to(entry: Entry, heard: Heard) -> bool:
    """By its start, or when its sender tells none, by whether it has ended since it was heard of."""
    alert = heard.alert
    if alert.starts_at <= UNKNOWN_START:
        return alert.fingerprint not in entry.firing
    return is_new_firing(alert, entry.heard_until(alert.fingerprint), heard.at)


def _manifest(policy: RemediationPolicy, namespace: str, heard: Heard, taken: Collection[str]) -> Json:
    """Under a name that no ended incident of the group has ``taken``: another alert of it may have begun at once. An
    alert whose sender tells no start begins now.
    """
    alert = heard.alert if heard.alert.starts_at > UNKNOWN_START else replace(heard.alert, starts_at=heard.at)
    manifest = incident_manifest(policy, namespace, alert)
    return incident_manifest(policy, namespace, alert, own_name=True) if key_of(manifest) in taken else manifest


def _split(batch: Sequence[Heard], entry: Entry) -> tuple[list[Heard], list[Heard]]:
    """What changes who fires, or since when, and what is only heard once more."""
    changing: list[Heard] = []
    resent: list[Heard] = []
    for heard in batch:
        (resent if _is_resent(heard, entry) else changing).append(heard)
    return changing, resent


def _is_resent(heard: Heard, entry: Entry) -> bool:
    mark = heard.alert.fingerprint
    if (mark in entry.firing) != (heard.alert.state == "firing"):
        return False
    return heard.alert.state == "resolved" or not _is_new(heard, [entry])
