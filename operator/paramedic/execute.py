"""Carries out one step: plan, guard, intent, act, result (design: "Act once: the protocol").

An intent (``Executing`` with operation id, attempt and planned change) is stored before anything is done, with a
resourceVersion precondition: whoever wins that write acts. An intent that is found without a result is looked at, under
the same operation id, and never just repeated. A slow action is ``Running`` instead, which may be begun again.
"""

from collections.abc import Iterator
from dataclasses import replace
from itertools import chain
from typing import Any

from paramedic.acting import GONE, Acting, parameters_of
from paramedic.actions import ACTIONS
from paramedic.actions.base import Action, Change, Delete, Observed, Outcome, Prepared, same_state
from paramedic.actions.emergency import require_not_down
from paramedic.actions.rollback import Rollback, release_started_at
from paramedic.api import conditions as c
from paramedic.api.base import format_duration
from paramedic.api.incident import Incident, StepStatus
from paramedic.api.policy import SHUTDOWN, only_reads
from paramedic.api.reasons import Reason
from paramedic.api.workload import WORKLOADS, BoundTarget
from paramedic.approval import ask_for_approval
from paramedic.core.expressions import ExpressionError, evaluate_condition
from paramedic.core.facts import when_values
from paramedic.core.gitops import gitops_warning
from paramedic.core.guard import ActionRecord
from paramedic.core.match import serves
from paramedic.core.operation import new_operation
from paramedic.core.plan import Wait
from paramedic.core.results import filled
from paramedic.core.room import has_room
from paramedic.core.situation import planned_before
from paramedic.errors import AlreadyExists, Conflict, NotFound, PartlyDone, Refused, Terminal
from paramedic.outcomes import Outcomes
from paramedic.permit import Permits
from paramedic.record import Draft
from paramedic.slow import SlowActions
from paramedic.store import Store


class Executor:
    """Acts for the reconciler. Its methods leave the draft as it should be stored; a Wait ends the round."""

    def __init__(
        self,
        acting: Acting,
        store: Store,
        permits: Permits,
        slow: SlowActions,
        outcomes: Outcomes,
        *,
        namespace: str,
    ) -> None:
        self._acting = acting
        self._store = store
        self._permits = permits
        self._slow = slow
        self._outcomes = outcomes
        self._namespace = namespace

    async def run_step(self, draft: Draft, index: int) -> Wait | None:
        """Evaluates, plans, asks, guards and acts; whatever stands in the way is recorded on the step."""
        step = draft.incident.status.steps[index]
        try:
            prepared = await self._prepare(draft, step)
        except (Refused, Terminal) as error:
            self._outcomes.fail(draft, step, error.reason, str(error))
            return None
        if prepared is None:
            return None
        waiting = ask_for_approval(draft, step, prepared)
        if waiting:
            return waiting
        if only_reads(step.action, step.params):
            await self._write_intent(draft, step, prepared)
            return await self._carry_out(draft, step, prepared)
        healthy = await self._permits.namespace_health(draft)
        return await self._guard_and_act(draft, step, prepared, healthy)

    async def look(self, draft: Draft, index: int) -> None:
        """An intent without a result: claims it by a write, looks, and acts under the same id if nothing was done."""
        step = draft.incident.status.steps[index]
        step.attempts += 1
        await self._acting.commit(draft)
        action = ACTIONS[step.action]
        try:
            observed = await self._acting.observe(draft, step)
            outcome = action.settled(observed, step.before or {}, step.after or {}, step.operation or "")
        except (Refused, Terminal) as error:
            await self._unseen(draft, step, error)
            return
        if outcome is Outcome.APPLIED:
            self._outcomes.applied(draft, step, step.message)
        elif outcome is Outcome.UNKNOWN:
            text = f"{step.target} is neither as before nor as the step leaves it; not repeated, please look"
            self._outcomes.unknown(draft, step, Reason.OUTCOME_UNKNOWN, text)
        else:
            await self._act_again(draft, step, action, observed)

    async def _unseen(self, draft: Draft, step: StepStatus, error: Refused | Terminal) -> None:
        """An intent whose target cannot be looked at: nothing is left of it when that is gone, unless elsewhere."""
        text = f"whether it was done cannot be seen: {error}"
        if error.reason in GONE:
            held = await self._acting.held_elsewhere(step)
            if not held:
                self._outcomes.fail(draft, step, error.reason, str(error))
                return
            text = f"{error}, but {held}"
        self._outcomes.unknown(draft, step, Reason.OUTCOME_UNKNOWN, text)

    async def describe_plan(self, draft: Draft, index: int) -> None:
        """Mode Observe: records what the step would do, and what would hold it back."""
        step = draft.incident.status.steps[index]
        try:
            prepared = await self._prepare(draft, step)
        except (Refused, Terminal) as error:
            step.state, step.reason = "Skipped", str(Reason.OBSERVE_MODE)
            earlier = planned_before(draft.incident.status.steps, step)
            step.message = f"would be planned after {earlier.name}" if earlier else f"could not act: {error}"
            return
        if prepared is None:
            return
        refusal = None
        if not only_reads(step.action, step.params):
            healthy = await self._permits.namespace_health(draft)
            refusal = self._permits.refusal(draft, step, prepared.observed, healthy)
        held = f" (now refused: {refusal.message})" if refusal else ""
        step.before, step.after = prepared.change.before, prepared.change.after
        step.state, step.reason = "Skipped", str(Reason.OBSERVE_MODE)
        step.message = f"would: {prepared.change.message}{held}"
        draft.say(Reason.OBSERVE_MODE, f"step {step.name} {step.message}", event=True)

    async def _prepare(self, draft: Draft, step: StepStatus) -> Prepared | None:
        """Live look, ``when`` and plan; None when the step was skipped. Raises Refused or Terminal."""
        if step.target is None:
            raise Terminal(Reason.TARGET_UNKNOWN, "neither the step, the incident, the policy nor the alert names one")
        action = ACTIONS[step.action]
        self._check_namespace(draft)
        _check_target(draft, step, step.target)
        step.params = _filled(draft, step)
        observed = await self._acting.observe(draft, step)
        if step.when and not await self._applies(draft, step, observed):
            _skip(step, Reason.CONDITION_FALSE, f"when is false: {step.when}")
            return None
        _require_up(action, observed)
        change = _plan(action, observed, step, _operation(draft, step))
        if change.is_empty:
            _skip(step, Reason.ALREADY_IN_PLACE, change.message)
            return None
        if change.no_undo and (step.ttl or step.revert_when):
            raise Refused(Reason.FORBIDDEN, f"{change.no_undo}; without ttl and revertWhen the step would be done")
        if not has_room(draft.incident.status.steps, step, change.before, change.after):
            raise Refused(
                Reason.INVALID_PARAMETERS, "what it changes is too large to be noted on the Incident's status"
            )
        told = change.message + gitops_warning(_written(observed, change))
        return Prepared(action, observed, replace(change, message=told))

    def _check_namespace(self, draft: Draft) -> None:
        """At run time once more what admission has checked: the policy may act in this namespace."""
        pinned = draft.incident.status.policy
        policy = self._store.policy(pinned.key) if pinned else None
        if policy is None or not serves(policy, draft.incident.metadata.namespace, self._namespace):
            raise Terminal(
                Reason.NAMESPACE_NOT_SERVED,
                f"policy {pinned.key if pinned else '?'} does not serve namespace {draft.incident.metadata.namespace}",
            )

    async def _applies(self, draft: Draft, step: StepStatus, observed: Observed) -> bool:
        started_at = None
        assert step.when is not None
        assert step.target is not None
        if "lastRolloutAge" in step.when:
            history = observed
            if step.target.kind in WORKLOADS and not isinstance(ACTIONS[step.action], Rollback):
                history = await ACTIONS["rollback"].observe(step.target, self._acting.clients)
            started_at = release_started_at(history) if step.target.kind in WORKLOADS else None
        try:
            return evaluate_condition(step.when, when_values(draft.incident, observed.target, started_at, draft.now))
        except ExpressionError as error:
            raise Terminal(Reason.CONDITION_ERROR, str(error)) from error

    async def _guard_and_act(
        self, draft: Draft, step: StepStatus, prepared: Prepared, healthy: tuple[int, int] | None
    ) -> Wait | None:
        refusal = self._permits.refusal(draft, step, prepared.observed, healthy)
        if refusal:
            return self._permits.hold_back(draft, step, refusal)
        pinned = draft.incident.status.policy
        assert step.target is not None
        assert pinned is not None
        target = None if prepared.action.reads_only else step.target.key
        record = ActionRecord(pinned.key, target, draft.now, draft.key, _operation(draft, step))
        # From the guards' answer to the reservation nothing is awaited: no other incident can use the same allowance.
        with self._store.reserve(record):
            await self._write_intent(draft, step, prepared)
        return await self._carry_out(draft, step, prepared)

    async def _carry_out(self, draft: Draft, step: StepStatus, prepared: Prepared) -> Wait | None:
        """What the intent says, at once or in the background."""
        if prepared.action.slow:
            return self._slow.begin(draft, step, prepared.change)
        await self._act(draft, step, prepared.action, prepared.change)
        return None

    async def _write_intent(self, draft: Draft, step: StepStatus, prepared: Prepared) -> None:
        assert step.target is not None
        if step.ttl or step.revert_when:
            await self._acting.recorder.set_finalizer(draft, present=True)
        step.state, step.reason = "Executing", str(Reason.RUNNING if prepared.action.slow else Reason.EXECUTING)
        step.message = prepared.change.message
        if _begins_shutdown(draft.incident, step):
            draft.say(Reason.SHUTDOWN_INITIATED, f"emergency shutdown initiated; first {step.message}")
        step.operation, step.attempts, step.started_at = _operation(draft, step), 1, draft.now
        step.before, step.after = prepared.change.before, prepared.change.after
        step.target.uid = prepared.observed.uid
        draft.say(Reason.EXECUTING, f"step {step.name}: {step.message}")
        draft.set_condition(c.REMEDIATION_ALLOWED, "True", Reason.ALLOWED, f"step {step.name} may act")
        draft.set_condition(c.REMEDIATED, "Unknown", Reason.EXECUTING, f"step {step.name}: {step.message}")
        await self._acting.commit(draft)

    async def _act(
        self, draft: Draft, step: StepStatus, action: Action, change: Change, *, untouched: bool = True
    ) -> None:
        """Makes the change, or what is left of it when it is not ``untouched``. On a conflict the step stays Executing,
        so that the next move is to look.
        """
        try:
            report = await self._acting.apply(action, change)
        except (Conflict, AlreadyExists):
            return
        except PartlyDone as error:
            self._outcomes.unknown(draft, step, Reason.PARTLY_DONE, str(error))
        except NotFound:
            self._outcomes.cannot(
                draft, step, Reason.TARGET_NOT_FOUND, f"{step.target} has just been deleted", untouched
            )
        except (Refused, Terminal) as error:
            self._outcomes.cannot(draft, step, error.reason, str(error), untouched)
        else:
            self._outcomes.take_report(draft, step, report)
            await self._acting.commit(draft)

    async def _act_again(self, draft: Draft, step: StepStatus, action: Action, observed: Observed) -> None:
        assert step.started_at is not None
        untouched = same_state(action.state(observed), step.before or {})
        if untouched and self._permits.drops(draft, step):
            return
        if step.timeout and draft.now > step.started_at + step.timeout:
            self._outcomes.cannot(
                draft, step, Reason.TIMED_OUT, f"not done within {format_duration(step.timeout)}", untouched
            )
            return
        try:
            _require_up(action, observed)
            parameters = parameters_of(action, step)
            change = action.plan_again(observed, parameters, step.operation or "", step.before or {}, step.after or {})
        except (Refused, Terminal) as error:
            self._outcomes.cannot(draft, step, error.reason, str(error), untouched)
            return
        await self._act(draft, step, action, change, untouched=untouched)


def _check_target(draft: Draft, step: StepStatus, target: BoundTarget) -> None:
    """Admission has checked that whoever applied an Incident may change its target, and only that one."""
    action = ACTIONS[step.action]
    if target.kind not in action.kinds:
        raise Terminal(
            Reason.UNSUPPORTED_KIND, f"{action.name} is not for {target.kind}, only for {', '.join(action.kinds)}"
        )
    named = draft.incident.spec.target
    if named is None or draft.incident.spec.alert is not None:
        return
    beyond = action.reaches_beyond(step.params)
    if beyond or (named.kind, named.name) != (target.kind, target.name):
        what = f"{action.name} reaches beyond its target" if beyond else f"the step acts on {target}"
        raise Terminal(
            Reason.TARGET_NOT_NAMED,
            f"{what}, but the incident names {named.kind}/{named.name}; apply one without a target",
        )


def _written(observed: Observed, change: Change) -> Iterator[tuple[str, dict[str, Any]]]:
    """The objects that were there before and that the change writes to, as ``deployments/covet-app``."""
    known = {o["metadata"].get("uid"): o for o in (observed.target, *chain(*observed.related.values()))}
    for write in change.forward:
        uid = write.uid if isinstance(write, Delete) else write.body["metadata"].get("uid")
        if uid and uid in known:
            yield "/".join(write.path.split("/")[-2:]), known[uid]


def _skip(step: StepStatus, reason: Reason, message: str) -> None:
    step.state, step.reason, step.message = "Skipped", str(reason), message


def _plan(action: Action, observed: Observed, step: StepStatus, operation: str) -> Change:
    """The step's change. Raises Refused, Terminal."""
    parameters = parameters_of(action, step)
    if step.state == "AwaitingApproval" and step.after is not None:
        return action.plan_as_shown(observed, parameters, operation, step.before or {}, step.after)
    return action.plan(observed, parameters, operation)


def _require_up(action: Action, observed: Observed) -> None:
    """Raises Refused when the target is shut down and the action might bring it back."""
    if not (action.while_shut_down or action.reads_only):
        require_not_down(observed)


def _filled(draft: Draft, step: StepStatus) -> dict[str, Any]:
    """The parameters, with what earlier parts of the procedure have come to. Raises Terminal when it is not there."""
    try:
        return dict(filled(step.params, draft.incident.status.steps))
    except LookupError as error:
        raise Terminal(Reason.INVALID_PARAMETERS, f"{step.name}: {error}") from error


def _begins_shutdown(incident: Incident, step: StepStatus) -> bool:
    """Whether this is the first part of a complete shutdown."""
    begun = any(other.started_at for other in incident.status.steps if other.action == SHUTDOWN)
    return step.action == SHUTDOWN and not begun


def _operation(draft: Draft, step: StepStatus) -> str:
    if step.operation is None:
        step.operation = new_operation(draft.now)
    return step.operation
