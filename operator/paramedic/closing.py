"""Looks at incidents that have ended: whether all stays stable, and writes the report. Apart from the work on open
ones, which it never holds up.

When an incident has to be looked at is on its status (``attendAt``), so a restart forgets none; since when all is
stable is kept in memory only: a restart makes that begin anew, which is the safe side.
"""

import asyncio
from collections.abc import Awaitable, Callable
from datetime import datetime, timedelta
from typing import Protocol

from paramedic.api.incident import Evidence, Incident
from paramedic.checklists import Checklists
from paramedic.clients.kube import Kube
from paramedic.core import checklist
from paramedic.errors import NotFound, ParamedicError
from paramedic.log import get_logger
from paramedic.record import Draft, incident_path, keep_evidence
from paramedic.store import Store
from paramedic.verification import Verifier
from paramedic.workqueue import WorkQueue

_log = get_logger(__name__)
_AT_ONCE = 2
_LOOKS = 5
_PAUSE_SECONDS = 1.0
"""After each look: thousands that have ended at once take a hundredth of a core, and a little longer."""
_OWN_WORK_AGAIN, _AFTER_AN_ERROR = timedelta(minutes=10), timedelta(minutes=1)
KeepReport = Callable[[Incident], Awaitable[list[Evidence]]]


class Amend(Protocol):
    """Puts something on an incident's status; returns once it is stored. Raises Retry, NotFound."""

    async def __call__(self, key: str, change: Callable[[Draft], None]) -> None:
        """``change`` is called with the draft, once for each try."""


class Closing:
    """A queue of ended incidents. Only the leader looks at them."""

    def __init__(
        self,
        kube: Kube,
        store: Store,
        checklists: Checklists,
        verifier: Verifier,
        keep_report: KeepReport | None,
        amend: Amend,
        stable_for: timedelta,
        leads: Callable[[], bool],
        clock: Callable[[], datetime],
    ) -> None:
        self._kube = kube
        self._store = store
        self._checklists = checklists
        self._verifier = verifier
        self._keep_report = keep_report
        self._amend = amend
        self._stable_for = stable_for
        self._leads = leads
        self._clock = clock
        self._holding_since: dict[str, datetime] = {}
        self.queue = WorkQueue(self._work, _AT_ONCE)

    def wake(self, key: str, at: datetime) -> None:
        """An ended incident is to be looked at then."""
        self.queue.add_after(key, at - self._clock())

    def look_soon(self, key: str) -> None:
        """An ended incident has changed: perhaps somebody has ticked an item."""
        self.queue.add(key)

    def wake_all(self) -> None:
        """A new leader takes over. What ended a moment ago is looked at from now on, and what was written on since."""
        now = self._clock()
        for entry in self._store.entries.values():
            if entry.attend_at is not None and not entry.open:
                at_once = entry.behind or entry.attend_at <= now + self._stable_for
                self.wake(entry.key, now if at_once else entry.attend_at)

    def stop(self) -> None:
        """The lead is lost: forgets everything."""
        self.queue.clear()
        self._holding_since.clear()

    async def _work(self, key: str) -> None:
        """The queue's handler: never raises."""
        entry = self._store.entries.get(key)
        if entry is None or entry.open or entry.attend_at is None or not self._leads():
            self._holding_since.pop(key, None)
            return
        try:
            await self._look(key)
        except NotFound:
            self._store.drop_incident(key)
        except ParamedicError as error:
            _log.warning("an ended incident cannot be looked at", incident=key, error=str(error))
            self.queue.add_after(key, _AFTER_AN_ERROR)
        except Exception:  # noqa: BLE001 - one bad incident must not end the work on the others
            _log.exception("looking at an ended incident failed", incident=key)
            self.queue.add_after(key, _AFTER_AN_ERROR)

    async def _look(self, key: str) -> None:
        incident = Incident.model_validate(await self._kube.get(incident_path(*key.split("/", 1))))
        stable = checklist.awaits_stability(incident, self._clock()) and await self._has_been_stable(incident)
        report = await self._report(incident)
        at = incident.status.attend_at
        read = incident.status.observed_generation == incident.metadata.generation
        if stable or report or not read or (at and at <= self._clock()):
            await self._amend(key, lambda draft: _put(draft, stable=stable, report=report))
        self._look_again(incident, stable=stable, reported=bool(report))
        await asyncio.sleep(_PAUSE_SECONDS)

    async def _has_been_stable(self, incident: Incident) -> bool:
        """Whether all has held since a look that is long enough ago."""
        holds = [self._verifier.holds(incident, step) for step in checklist.verified_steps(incident)]
        if not all(await asyncio.gather(*holds)) or self._is_struck_again(incident):
            self._holding_since.pop(incident.key, None)
            return False
        since = self._holding_since.setdefault(incident.key, self._clock())
        return self._clock() - since >= self._stable_for

    def _is_struck_again(self, incident: Incident) -> bool:
        """Whether another incident of its target is open."""
        target = incident.status.target
        members = self._store.members(incident.metadata.namespace)
        return target is not None and any(one.target == target and not one.is_parent for one in members)

    async def _report(self, incident: Incident) -> list[Evidence]:
        """The report, where it is time for it and it could be kept."""
        at = self._checklists.own_work_at(incident, self._clock())
        wanted = checklist.awaits_report(incident, self._clock()) and at is not None and at <= self._clock()
        if self._keep_report is None or not wanted:
            return []
        kept = await self._keep_report(incident)
        return kept if all(item.uri for item in kept) else []

    def _look_again(self, incident: Incident, *, stable: bool, reported: bool) -> None:
        """At the time that is on its status, and before it while something is still to be found out."""
        key, now = incident.key, self._clock()
        if checklist.awaits_stability(incident, now) and not stable:
            self.queue.add_after(key, self._stable_for / _LOOKS)
        else:
            self._holding_since.pop(key, None)
        own, at = self._checklists.own_work_at(incident, now), incident.status.attend_at
        if own is not None and not reported:
            self.queue.add_after(key, own - now if own > now else _OWN_WORK_AGAIN)
        if at is not None and at > now:
            self.wake(key, at)


def _put(draft: Draft, *, stable: bool, report: list[Evidence]) -> None:
    status = draft.incident.status
    own = {checklist.STABLE} if stable else set()
    status.checklist = checklist.ticked(status.checklist, own, draft.incident.spec.checklist, draft.now)
    keep_evidence(draft, report)
