"""Alerts become Incidents, or join the one that is open. Both edges, receiver and poller, come through here.

``take`` returns only when everything that must not be lost is stored; what cannot be stored raises Retry, and the
sender keeps it. Taking the same alerts again changes nothing, so half of a batch may be repeated safely.
"""

import asyncio
import itertools
from collections.abc import AsyncIterator, Callable, Collection, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from paramedic.api.policy import RemediationPolicy
from paramedic.clients.kube import Kube
from paramedic.core.alert import Alert
from paramedic.core.heard import Heard
from paramedic.core.match import incident_manifest, is_new_firing, policies_for_alert, severity_of
from paramedic.errors import AlreadyExists, NotFound, ParamedicError, Refused, Retry, Terminal
from paramedic.gate import Urgency
from paramedic.log import get_logger
from paramedic.metrics import Metrics
from paramedic.news import take_heard
from paramedic.reconcile import Reconciler
from paramedic.record import incident_path, reread
from paramedic.store import Entry, GroupKey, Store, key_of

Json = dict[str, Any]
_log = get_logger(__name__)
_GROUPS_AT_ONCE = 16
_TRIES = 6


@dataclass(frozen=True, slots=True)
class _Place:
    """Where a batch belongs: the incident, what of the batch it has not heard yet, and what its first status will tell
    of.
    """

    incident: str
    rest: Sequence[Heard] = ()
    told: Sequence[asyncio.Future[None]] = ()


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

    async def take(self, alerts: Sequence[Alert], source: str) -> None:
        """Returns when all that matched is stored. Raises Retry when something could not be; the rest is stored."""
        groups = self._grouped(alerts, source)
        results = await asyncio.gather(
            *(self._take_group(key, policy, batch, source) for key, (policy, batch) in groups.items()),
            return_exceptions=True,
        )
        failed = [r for r in results if isinstance(r, BaseException)]
        for error in failed:
            if not isinstance(error, ParamedicError):
                raise error
        if failed:
            _log.warning("alerts not stored", count=len(failed), error=str(failed[0]))
            raise Retry(f"{len(failed)} of {len(groups)} incidents could not be stored: {failed[0]}")

    def _grouped(self, alerts: Sequence[Alert], source: str) -> dict[GroupKey, tuple[RemediationPolicy, list[Heard]]]:
        policies, now = self._store.usable_policies(), datetime.now(UTC)
        groups: dict[GroupKey, tuple[RemediationPolicy, list[Heard]]] = {}
        for alert in alerts:
            found = policies_for_alert(policies, alert, self._namespace)
            if not found:
                self._count(source, "unmatched")
            covers = now if source == "poller" else None
            for policy, namespace in found:
                key = (namespace, policy.key, alert.group_key(policy.spec.incident.group_by))
                groups.setdefault(key, (policy, []))[1].append(Heard(alert, now, covers, severity_of(policy, alert)))
        return groups

    async def _take_group(self, key: GroupKey, policy: RemediationPolicy, batch: list[Heard], source: str) -> None:
        for _ in range(_TRIES):
            async with self._one_at_a_time(key), self._slots:
                place = await self._find_place(key, policy, batch, source)
            # Joining waits for a write that it may share with others of the group, so it must not hold them up.
            if place is not None and await self._join(place, source):
                return
        raise Retry(f"the incidents of group {key} keep changing")

    async def _find_place(
        self, key: GroupKey, policy: RemediationPolicy, batch: list[Heard], source: str
    ) -> _Place | None:
        """The open incident that the batch joins, or a new one for it; None when another process was quicker and the
        state has to be looked at anew."""
        known = self._store.in_group(key)
        polled = source == "poller"  # it tells of no end but the first alert's and the whole group's, so no other joins
        under_way = next((e for e in known if e.open), None)
        if under_way:
            return _Place("") if polled else _Place(under_way.key, batch)
        new = [h for h in batch if h.alert.state == "firing" and _is_new(h, known)]
        if not new:
            for heard in batch:
                self._count(source, "ended" if heard.alert.state == "resolved" else "repeated")
            self._tell_late(known, batch)
            return _Place("")
        first = min(new, key=lambda h: h.alert.starts_at)
        rest = [] if polled else [h for h in batch if h is not first]
        opened = await self._open(key[0], policy, first, rest, known)
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
        manifest = _manifest(policy, namespace, first.alert, {entry.key for entry in known})
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
        changing, resent = _split(place.rest, entry.firing)
        self._count_joined(place.rest, source)
        if self._leads():
            for heard in resent:
                self._reconciler.hear(entry.key, heard)
            await asyncio.gather(*(self._reconciler.tell(entry.key, h) for h in changing))
        elif changing:
            await self._reconciler.amend(entry.key, lambda draft: take_heard(draft, place.rest))
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


def _is_new(heard: Heard, known: Sequence[Entry]) -> bool:
    """Whether no incident of its group has heard of this firing."""
    mark = heard.alert.fingerprint
    return all(is_new_firing(heard.alert, entry.heard_until(mark), heard.at) for entry in known)


def _manifest(policy: RemediationPolicy, namespace: str, alert: Alert, taken: Collection[str]) -> Json:
    """Under a name that no ended incident of the group has ``taken``: another alert of it may have begun at once."""
    manifest = incident_manifest(policy, namespace, alert)
    return incident_manifest(policy, namespace, alert, own_name=True) if key_of(manifest) in taken else manifest


def _split(batch: Sequence[Heard], firing: frozenset[str]) -> tuple[list[Heard], list[Heard]]:
    """What changes who fires, and what is only heard once more."""
    changing: list[Heard] = []
    resent: list[Heard] = []
    for heard in batch:
        known = heard.alert.fingerprint in firing
        (resent if known == (heard.alert.state == "firing") else changing).append(heard)
    return changing, resent
