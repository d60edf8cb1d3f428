"""Makes the parent of several incidents that are one outage, apart from the work on them, which it never holds up.

Which parts it has, each incident finds out by itself when its status is written (``people.py``); here is decided that
there is to be a parent, and who has to look again because of it.
"""

from collections.abc import Callable
from datetime import datetime, timedelta

from paramedic.api.incident import Incident
from paramedic.api.people import SeveralServices
from paramedic.clients.kube import Kube
from paramedic.core import several
from paramedic.errors import AlreadyExists, ParamedicError, Retry
from paramedic.gate import Urgency
from paramedic.log import get_logger
from paramedic.record import incident_path, reread
from paramedic.store import Store
from paramedic.workqueue import WorkQueue

_log = get_logger(__name__)
_AT_ONCE, _SOON, _LATER = timedelta(0), timedelta(seconds=1), timedelta(seconds=15)
# Many parts come and go at once; their parent is written once for all of them.
_TOGETHER = timedelta(seconds=3)


class Parents:
    """One look at a namespace at a time, a moment after the last of several incidents was worked on."""

    def __init__(
        self,
        kube: Kube,
        store: Store,
        rule: SeveralServices | None,
        wake: Callable[[str, timedelta], None],
        leads: Callable[[], bool],
        clock: Callable[[], datetime],
    ) -> None:
        self._kube = kube
        self._store = store
        self._rule = rule
        self._wake = wake
        self._leads = leads
        self._clock = clock
        self.queue = WorkQueue(self._work, 1)

    def after_round(self, incident: Incident) -> None:
        """An incident was worked on: its namespace is looked at soon."""
        if self._rule and (incident.status.resolved_at is None or several.is_parent(incident)):
            self.queue.add_after(incident.metadata.namespace, _SOON)

    def part_left(self, namespace: str, parent: str) -> None:
        """A part is over or gone, and may have been the last."""
        self._wake(f"{namespace}/{parent}", _TOGETHER)

    def parent_gone(self, namespace: str) -> None:
        """A parent was deleted, whose parts may not be over."""
        self.queue.add_after(namespace, _SOON)

    async def _work(self, namespace: str) -> None:
        """The queue's handler: never raises."""
        if self._rule is None or not self._leads():
            return
        try:
            await self._look(namespace, self._rule)
        except Retry as error:
            _log.info("will look again", namespace=namespace, error=str(error))
            self.queue.add_after(namespace, max(_SOON, error.after or _SOON))
        except ParamedicError as error:
            _log.error("the parent of several incidents cannot be made", namespace=namespace, error=str(error))
        except Exception:  # noqa: BLE001 - one bad namespace must not end the work on the others
            _log.exception("a look at several incidents failed", namespace=namespace)

    async def _look(self, namespace: str, rule: SeveralServices) -> None:
        members = list(self._store.members(namespace))
        parents = several.open_parents(members, rule)
        parts = several.by_parent(members, parents)
        joining = [self._wake_behind(namespace, one.parent, parts[one.parent.name]) for one in parents]
        for one in members:
            if one.parent and self._store.is_over(f"{namespace}/{one.parent}"):
                self._wake(f"{namespace}/{one.name}", _AT_ONCE)
        if any(joining):  # once they have, others may, which are no outage of their own
            return
        last_at, last_uid = self._store.last_parent(namespace)
        if found := several.outage(parts[None], rule, self._clock(), last_at):
            await self._create(namespace, several.parent_name(namespace, last_uid), found)

    def _wake_behind(self, namespace: str, parent: several.Member, parts: list[several.Member]) -> bool:
        """Whoever has not taken over yet what follows from the others; whether some are about to join."""
        if several.lacks(parent, parts):
            self._wake(f"{namespace}/{parent.name}", _TOGETHER)
        behind = [part for part in parts if several.must_look_again(part, parent)]
        for part in behind:
            self._wake(f"{namespace}/{part.name}", _AT_ONCE)
        return any(part.parent is None for part in behind)

    async def _create(self, namespace: str, name: str, parts: list[several.Member]) -> None:
        """The API server lets one be made, whoever else tries at the same time."""
        try:
            stored = await self._kube.create(
                incident_path(namespace), several.parent_manifest(namespace, name, parts), Urgency.RECORD
            )
        except AlreadyExists:
            await reread(self._kube, self._store, f"{namespace}/{name}")
            self.queue.add_after(namespace, _LATER)
            return
        self._store.put_incident(stored)
        self._wake(f"{namespace}/{name}", _AT_ONCE)
        self.queue.add_after(namespace, _AT_ONCE)
