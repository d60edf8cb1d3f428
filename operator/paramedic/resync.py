"""The first look at everything, and further looks in case the watch has missed something.

No incident is lost when a watch goes silent: what a list shows and the mirror lacks is taken in. And a watch that stays
behind what lists show is dead: then liveness fails, and the process is started anew.
"""

import asyncio
import time
from collections.abc import Callable
from datetime import timedelta
from typing import Any

from paramedic.api import API_VERSION
from paramedic.clients.kube import Kube
from paramedic.errors import Expired, ParamedicError
from paramedic.log import get_logger
from paramedic.metrics import Metrics
from paramedic.policies import read_policy
from paramedic.reconcile import Reconciler
from paramedic.record import reread
from paramedic.store import Store, WatchProgress, key_of

Json = dict[str, Any]
_log = get_logger(__name__)
# What may be in the middle of something comes first, what waits for people last.
_URGENCY = {"Remediating": 0, "Verifying": 0, "Open": 0, "Blocked": 1, "AwaitingApproval": 2, "Escalated": 2}
_INCIDENTS = f"/apis/{API_VERSION}/incidents"
_TO_ATTEND = "status.phase=Resolved,status.attendAt!="


class Resync:
    """Lists both kinds, once in full and then the open ones at intervals."""

    def __init__(
        self,
        kube: Kube,
        store: Store,
        reconciler: Reconciler,
        metrics: Metrics,
        progress: WatchProgress,
        *,
        namespace: str,
        every: timedelta,
    ) -> None:
        self._kube = kube
        self._store = store
        self._reconciler = reconciler
        self._metrics = metrics
        self._progress = progress
        self._namespace = namespace
        self._every = every
        self._behind_since: dict[str, float] = {}
        self.ended_changed: Callable[[str], None] = lambda key: None
        """Told of an incident that was changed after its end."""
        self.last_full: float | None = None
        self._last_look, self._look_before = "", ""
        """Until when changes of ended incidents were asked for, as resourceVersions."""

    async def load_everything(self) -> None:
        """Fills the mirror with all policies and all incidents, ended ones too. Raises Retry, Terminal."""
        self._last_look = self._look_before = await self._kube.newest_version(_INCIDENTS)
        await asyncio.gather(self._policies(), self._all_incidents())
        self._store.loaded = True
        self.last_full = time.monotonic()

    def wake_all(self) -> None:
        """Every open incident is looked at: a new leader takes over what it finds."""
        held = [e for e in self._store.entries.values() if e.raw is not None]
        for entry in sorted(held, key=lambda e: _URGENCY.get(e.phase, 0)):
            self._reconciler.queue.add(entry.key)

    async def run(self) -> None:
        """Looks at intervals until cancelled."""
        while True:
            await asyncio.sleep(self._every.total_seconds())
            try:
                await self.look()
            except ParamedicError as error:
                _log.warning("cannot look for missed changes", error=str(error))
            except Exception:  # noqa: BLE001 - one bad object must not end the process
                _log.exception("looking for missed changes failed")

    async def look(self) -> None:
        """One look at the policies and the open incidents. Raises Retry, Terminal."""
        newest_policy = await self._policies()
        newest_incident = await self._open_incidents()
        self._wake_what_is_behind()
        self._note_progress("remediationpolicies", newest_policy)
        self._note_progress("incidents", newest_incident)
        await self._ended_incidents()

    def _wake_what_is_behind(self) -> None:
        """Whatever has kept it from being worked on, it is not forgotten."""
        for entry in self._store.open_entries():
            if entry.behind:
                self._reconciler.queue.add(entry.key)

    def problem(self) -> str | None:
        """Why the process should be started anew, or None."""
        limit = max(90.0, 3 * self._every.total_seconds())
        now = time.monotonic()
        for resource, since in self._behind_since.items():
            if now - since > limit:
                return f"the watch of {resource} has shown nothing for {now - since:.0f} s though there are changes"
        return None

    def _note_progress(self, resource: str, newest: int) -> None:
        if newest > self._progress.newest.get(resource, 0):
            self._behind_since.setdefault(resource, time.monotonic())
        else:
            self._behind_since.pop(resource, None)
        since = min(self._behind_since.values(), default=time.monotonic())
        self._metrics.watch_lag.set(time.monotonic() - since)

    async def _policies(self) -> int:
        newest, seen = 0, set()
        async for page in self._kube.pages(f"/apis/{API_VERSION}/remediationpolicies"):
            for raw in page:
                version, key = int(raw["metadata"]["resourceVersion"]), key_of(raw)
                newest = max(newest, version)
                seen.add(key)
                known = self._store.policies.get(key)
                if known is None or known.version != version:
                    self._store.put_policy(raw, *read_policy(raw, self._namespace))
                    await asyncio.sleep(0)  # reading one may take long, and probes and the lease must not wait for all
        for key in set(self._store.policies) - seen:
            self._store.remove_policy(self._store.policies[key].raw)
        return newest

    async def _all_incidents(self) -> None:
        async for page in self._kube.pages(_INCIDENTS):
            for raw in page:
                self._store.put_incident(raw)
            await asyncio.sleep(0)

    async def _open_incidents(self) -> int:
        """Compares resourceVersions only; what differs is read whole."""
        newest, seen = 0, set()
        known = {e.key: e.version for e in self._store.open_entries()}
        async for page in self._kube.pages(_INCIDENTS, metadata_only=True, fieldSelector="status.phase!=Resolved"):
            for raw in page:
                version, key = int(raw["metadata"]["resourceVersion"]), key_of(raw)
                newest = max(newest, version)
                seen.add(key)
                entry = self._store.entries.get(key)
                if entry is None or entry.version < version:
                    await self._read(key)
        for key in set(known) - seen:
            await self._look_for_ghost(key, known[key])
        return newest

    async def _ended_incidents(self) -> None:
        """Those that somebody may still write on, as far as they were changed lately: there may be ten thousand, and no
        watch is kept of them. Asked for is what was changed since the look before the last one: an API server may show
        a moment late what another one has stored.
        """
        now = await self._kube.newest_version(_INCIDENTS)
        try:
            async for raw in self._kube.changed_since(_INCIDENTS, self._look_before, fieldSelector=_TO_ATTEND):
                await self._read_ended(raw)
        except Expired:
            async for page in self._kube.pages(_INCIDENTS, metadata_only=True, fieldSelector=_TO_ATTEND):
                for raw in page:
                    await self._read_ended(raw)
        self._look_before, self._last_look = self._last_look, now

    async def _read_ended(self, metadata: Json) -> None:
        entry = self._store.entries.get(key_of(metadata))
        if entry and not entry.open and entry.version < int(metadata["metadata"]["resourceVersion"]):
            await reread(self._kube, self._store, entry.key)
            self.ended_changed(entry.key)

    async def _read(self, key: str) -> None:
        if await reread(self._kube, self._store, key):
            self._reconciler.queue.add(key)

    async def _look_for_ghost(self, key: str, version: int) -> None:
        """One that was open before the list and is neither in it nor changed since: deleted, or ended, unseen."""
        entry = self._store.entries.get(key)
        if entry and entry.open and entry.version == version:
            await reread(self._kube, self._store, key)
