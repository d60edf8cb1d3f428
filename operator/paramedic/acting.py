"""What acting and putting back share: the live look at a target, the lead, the stored intent, the write itself."""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import replace
from datetime import datetime
from typing import Any, TypeVar

from pydantic import ValidationError

from paramedic.actions import ACTIONS
from paramedic.actions.base import Action, Change, Clients, Observed, Report, is_pinned
from paramedic.actions.elsewhere import held_elsewhere
from paramedic.api.incident import StepStatus
from paramedic.api.reasons import Reason
from paramedic.api.workload import BoundTarget
from paramedic.core.guard import TargetKey
from paramedic.core.situation import began_at
from paramedic.errors import NotFound, Refused, Retry, Terminal, Unreachable
from paramedic.metrics import Metrics
from paramedic.record import Draft, Recorder, apply_summary
from paramedic.store import Store

T = TypeVar("T")
GONE = (Reason.TARGET_NOT_FOUND, Reason.TARGET_DELETED, Reason.TARGET_REPLACED)
"""Why a look fails at a target that holds nothing (any more) of what was done; something else may."""
_LOOK_AHEAD_SECONDS = 0.5
# An API server that has just been started refuses what it allows a moment later: it has not read the roles yet.
_FORBIDDEN_TRIES, _FORBIDDEN_PAUSE_SECONDS = 4, 1.0


class NotActing(Retry):
    """This process is not, or no longer, the one that acts."""


class Acting:
    """The operator's hands: whatever reads or changes a target goes through here."""

    def __init__(
        self,
        clients: Clients,
        store: Store,
        recorder: Recorder,
        metrics: Metrics,
        *,
        may_act: Callable[[], bool],
        clock: Callable[[], datetime],
    ) -> None:
        self.clients = clients
        self.clock = clock
        self._store = store
        self.recorder = recorder
        self._metrics = metrics
        self._may_act = may_act
        self._ahead: dict[tuple[str, str, TargetKey], asyncio.Future[Observed]] = {}

    def look_ahead(self, action: str, params: dict[str, Any], target: BoundTarget) -> None:
        """Reads a target that a step is about to want, while its Incident is being stored.

        It is as live as a look after that: whatever is planned on it has its resourceVersion as a precondition.
        """
        key = action, repr(params), target.key
        if key in self._ahead or action not in ACTIONS:
            return
        look = asyncio.ensure_future(ACTIONS[action].observe_for(target, params, self.clients))
        look.add_done_callback(lambda done: done.cancelled() or done.exception())
        self._ahead[key] = look
        asyncio.get_running_loop().call_later(_LOOK_AHEAD_SECONDS, self._ahead.pop, key, None)

    async def observe(self, draft: Draft, step: StepStatus) -> Observed:
        """A live look at the step's target. Raises Terminal when it is gone, going, or not the one that was pinned."""
        assert step.target is not None
        if step.target.namespace != draft.incident.metadata.namespace:
            raise Terminal(Reason.NAMESPACE_NOT_SERVED, f"{step.target} is in another namespace than its incident")
        observed = await self._look(step, step.target)
        if observed.target["metadata"].get("deletionTimestamp"):
            raise Terminal(Reason.TARGET_DELETED, f"{step.target} is being deleted")
        if step.attempts and not is_pinned(observed, step):
            raise Terminal(Reason.TARGET_REPLACED, f"{step.target} was deleted and made anew: it is not the one pinned")
        left = self._store.left_states(step.target.key)
        meta = draft.incident.metadata
        since = began_at(draft.incident)
        found = replace(observed, left=left, incident=meta.name, incident_uid=meta.uid, step=step.name, since=since)
        spec = draft.incident.spec
        told = replace(found, alert=spec.alert, source_addresses=tuple(spec.source_addresses))
        return replace(told, operation=step.operation or "")

    async def _look(self, step: StepStatus, target: BoundTarget) -> Observed:
        ahead = self._ahead.pop((step.action, repr(step.params), target.key), None)
        try:
            if ahead:
                return await ahead
            return await patiently(lambda: ACTIONS[step.action].observe_for(target, step.params, self.clients))
        except NotFound as error:
            raise Terminal(Reason.TARGET_NOT_FOUND, f"{target} does not exist in {target.namespace}") from error
        except Unreachable as error:
            if step.attempts:
                raise  # something may have been done: it is asked until it answers
            raise Terminal(Reason.CONNECTION_FAILED, str(error)) from error

    async def held_elsewhere(self, step: StepStatus) -> str:
        """What still holds the change of a step whose target does not; empty when nothing does."""
        assert step.target is not None
        try:
            return await held_elsewhere(step.target, step.before or {}, step.after or {}, self.clients)
        except (Refused, Terminal) as error:
            return f"what else holds the change cannot be seen: {error}"

    async def apply(self, action: Action, change: Change) -> Report | None:
        """Makes the change. Raises NotActing when the lead was lost, else what the action raises."""

        async def apply() -> Report | None:
            self.require_lead()  # each time: meanwhile another may have dropped the intent
            return await action.apply(change, self.clients)

        return await patiently(apply)

    async def commit(self, draft: Draft) -> None:
        """Stores the draft in the middle of the work. Raises NotActing when the lead was lost."""
        self.require_lead()
        apply_summary(draft, None)
        await self.recorder.commit(draft)

    def require_lead(self) -> None:
        """Raises NotActing unless this process is surely the one that acts."""
        if not self._may_act():
            raise NotActing("another process is the leader")

    def count(self, draft: Draft, step: StepStatus, result: str) -> None:
        """Counts the action's result once the draft is stored."""
        draft.afterwards(lambda: self._metrics.actions.labels(step.action, result).inc())


async def patiently(call: Callable[[], Awaitable[T]]) -> T:
    """The call's answer; one that is forbidden is asked again a few times before that is believed."""
    for _ in range(_FORBIDDEN_TRIES - 1):
        try:
            return await call()
        except Refused as error:
            if error.reason is not Reason.FORBIDDEN:
                raise
        await asyncio.sleep(_FORBIDDEN_PAUSE_SECONDS)
    return await call()


def parameters_of(action: Action, step: StepStatus) -> Any:
    """A step's parameters as its action takes them. Raises Terminal."""
    try:
        return (action.part_params or action.params if step.part_of else action.params).model_validate(step.params)
    except ValidationError as error:
        first = error.errors()[0]
        raise Terminal(
            Reason.INVALID_PARAMETERS, f"{action.name}.{'.'.join(map(str, first['loc']))}: {first['msg']}"
        ) from error
