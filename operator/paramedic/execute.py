"""Carries out one step: plan, guard, intent, act, result (design: "Act once: the protocol").

An intent (``Executing`` with operation id, attempt and planned change) is stored before anything is done, with a
resourceVersion precondition: whoever wins that write acts. An intent that is found without a result is looked at, under
the same operation id, and never just repeated. A slow action is ``Running`` instead, which may be begun again.
"""

from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import datetime, timedelta
from itertools import chain
from typing import Any

from pydantic import ValidationError

from paramedic.acting import GONE, Acting
from paramedic.actions import ACTIONS
from paramedic.actions.base import Action, Change, Delete, Observed, Outcome, Prepared, Report, State, same_state
from paramedic.actions.rollback import Rollback, release_started_at
from paramedic.api import conditions as c
from paramedic.api.base import format_duration
from paramedic.api.incident import Incident, StepStatus, Verification
from paramedic.api.policy import SHUTDOWN, only_reads
from paramedic.api.reasons import Reason
from paramedic.api.workload import WORKLOADS, BoundTarget
from paramedic.approval import ask_for_approval
from paramedic.background import Background
from paramedic.core.expressions import ExpressionError, evaluate_condition
from paramedic.core.facts import when_values
from paramedic.core.gitops import gitops_warning
from paramedic.core.guard import ActionRecord
from paramedic.core.match import serves
from paramedic.core.operation import new_operation
from paramedic.core.plan import Wait, no_longer_wanted, planned_before
from paramedic.core.results import filled
from paramedic.core.summary import progress
from paramedic.errors import AlreadyExists, Conflict, NotFound, PartlyDone, Refused, Retry, Terminal
from paramedic.metrics import Metrics
from paramedic.permit import Permits
from paramedic.record import Draft, keep_evidence, put_findings
from paramedic.store import Store

_FOLLOW_EVERY = timedelta(seconds=5)
_NO_TIMEOUT = timedelta(minutes=5)
_TO_SEE_ITS_END = timedelta(seconds=15)
"""For what was begun and is looked at again when its time is almost or altogether over."""
_FIRST_PAUSE, _LONGEST_PAUSE = timedelta(milliseconds=200), timedelta(seconds=30)


class Executor:
    """Acts for the reconciler. Its methods leave the draft as it should be stored; a Wait ends the round."""

    def __init__(
        self,
        acting: Acting,
        store: Store,
        metrics: Metrics,
        background: Background,
        permits: Permits,
        *,
        namespace: str,
    ) -> None:
        self._acting = acting
        self._store = store
        self._metrics = metrics
        self._background = background
        self._permits = permits
        self._namespace = namespace
        self.when_done: Callable[[str], None] = lambda _: None
        """Told the incident whose slow action has ended."""

    def stop(self) -> None:
        """Gives up what runs in the background: another process goes on with it."""
        self._background.stop()

    async def run_step(self, draft: Draft, index: int) -> Wait | None:
        """Evaluates, plans, asks, guards and acts; whatever stands in the way is recorded on the step."""
        step = draft.incident.status.steps[index]
        try:
            prepared = await self._prepare(draft, step)
        except (Refused, Terminal) as error:
            self._fail(draft, step, error.reason, str(error))
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
            if error.reason in GONE:
                self._fail(draft, step, error.reason, str(error))
            else:
                self._unknown(draft, step, Reason.OUTCOME_UNKNOWN, f"whether it was done cannot be seen: {error}")
            return
        if outcome is Outcome.APPLIED:
            self._applied(draft, step, step.message)
        elif outcome is Outcome.UNKNOWN:
            text = f"{step.target} is neither as before nor as the step leaves it; not repeated, please look"
            self._unknown(draft, step, Reason.OUTCOME_UNKNOWN, text)
        else:
            await self._act_again(draft, step, action, observed)

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
        change = _plan(action, observed, step, _operation(draft, step))
        if change.is_empty:
            _skip(step, Reason.ALREADY_IN_PLACE, change.message)
            return None
        if change.no_undo and (step.ttl or step.revert_when):
            raise Refused(Reason.FORBIDDEN, f"{change.no_undo}; without ttl and revertWhen the step would be done")
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
            return self._begin(draft, step, prepared.change)
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
            self._unknown(draft, step, Reason.PARTLY_DONE, str(error))
        except NotFound:
            self._cannot(draft, step, Reason.TARGET_NOT_FOUND, f"{step.target} has just been deleted", untouched)
        except (Refused, Terminal) as error:
            self._cannot(draft, step, error.reason, str(error), untouched)
        else:
            self._take_report(draft, step, report)
            await self._acting.commit(draft)

    async def _act_again(self, draft: Draft, step: StepStatus, action: Action, observed: Observed) -> None:
        assert step.started_at is not None
        untouched = same_state(action.state(observed), step.before or {})
        if untouched and self._is_dropped(draft, step):
            return
        if step.timeout and draft.now > step.started_at + step.timeout:
            self._cannot(draft, step, Reason.TIMED_OUT, f"not done within {format_duration(step.timeout)}", untouched)
            return
        try:
            parameters = _parameters(action, step)
            change = action.plan_again(observed, parameters, step.operation or "", step.before or {}, step.after or {})
        except (Refused, Terminal) as error:
            self._cannot(draft, step, error.reason, str(error), untouched)
            return
        await self._act(draft, step, action, change, untouched=untouched)

    def _is_dropped(self, draft: Draft, step: StepStatus) -> bool:
        """An intent of which nothing has been carried out, and nothing may be any more, is as if it had not been."""
        held = self._store.policy_holds(draft.incident.status.policy) and not only_reads(step.action, step.params)
        if not held and not no_longer_wanted(draft.incident):
            return False
        step.state, step.reason, step.message = "Pending", str(Reason.NOT_NEEDED), "nothing was changed"
        step.attempts, step.started_at = 0, None
        return True

    # -- slow actions -------------------------------------------------------------------------------------------------

    async def follow(self, draft: Draft, index: int) -> Wait | None:
        """A slow action: waits for it, takes its result, or begins it again when this process knows nothing of it."""
        step = draft.incident.status.steps[index]
        operation = step.operation or ""
        if not self._background.knows(operation):
            return await self._begin_again(draft, step)
        if noted := self._background.noted(operation):
            step.after = (step.after or {}) | noted
        ended = self._background.end_of(operation)
        if ended is None:
            step.message = self._background.said(operation) or step.message
            return Wait(progress(step), draft.now + _FOLLOW_EVERY)
        try:
            self._take_report(draft, step, ended.result())
        except (Conflict, AlreadyExists):
            self._background.forget(operation)
            return await self._begin_again(draft, step)
        except Retry as error:
            until = self._background.rest(operation, draft.now + _pause(step, error))
            if draft.now < until:
                return Wait(f"{progress(step)}; tried again at {until:%H:%M:%S} UTC: {error}", until)
            self._background.forget(operation)
            return await self._begin_again(draft, step)
        except PartlyDone as error:
            self._unknown(draft, step, Reason.PARTLY_DONE, str(error))
        except NotFound as error:
            self._fail(draft, step, Reason.TARGET_NOT_FOUND, str(error))
        except (Refused, Terminal) as error:
            self._end_badly(draft, step, error)
        draft.afterwards(lambda: self._background.forget(operation))
        return None

    def _begin(self, draft: Draft, step: StepStatus, change: Change, least: timedelta = timedelta(0)) -> Wait:
        seconds = max(_ends_at(step) - draft.now, least).total_seconds()
        operation = step.operation or ""
        key = draft.key

        def note(facts: State) -> None:
            self._background.note(operation, facts)
            self.when_done(key)

        told = replace(
            change,
            seconds=seconds,
            attempt=step.attempts,
            tell=lambda text: self._background.say(operation, text),
            note=note,
        )
        work = self._acting.apply(ACTIONS[step.action], told)
        self._background.begin(operation, work, seconds, lambda: self.when_done(key))
        return Wait(progress(step), draft.now + _FOLLOW_EVERY)

    async def _begin_again(self, draft: Draft, step: StepStatus) -> Wait | None:
        """Under the same operation, unless what it would do has changed since, or nothing was begun and its time is
        over or it is not wanted any more. What was begun is seen to its end, however late.
        """
        action = ACTIONS[step.action]
        late = draft.now >= _ends_at(step)
        if late and action.reads_only:  # it leaves nothing that would have to be looked at
            self._time_out(draft, step)
            return None
        try:
            observed = await self._acting.observe(draft, step)
            change = action.plan(observed, _parameters(action, step), step.operation or "")
            begun = await action.is_begun(change, step.after or {}, self._acting.clients)
        except (Refused, Terminal) as error:
            self._end_badly(draft, step, error)
            return None
        if not begun and self._is_dropped(draft, step):
            return None
        if not begun and late:
            self._time_out(draft, step)
            return None
        step.attempts += 1
        await self._acting.commit(draft)
        return self._begin(draft, step, change, _TO_SEE_ITS_END if begun else timedelta(0))

    def _time_out(self, draft: Draft, step: StepStatus) -> None:
        self._fail(draft, step, Reason.TIMED_OUT, f"not done within {format_duration(step.timeout or _NO_TIMEOUT)}")

    def _end_badly(self, draft: Draft, step: StepStatus, error: Refused | Terminal) -> None:
        if error.reason is Reason.OUTCOME_UNKNOWN:
            self._unknown(draft, step, error.reason, str(error))
        else:
            self._fail(draft, step, error.reason, str(error))

    def _take_report(self, draft: Draft, step: StepStatus, report: Report | None) -> None:
        draft.now = self._acting.clock()
        if report is None:
            self._applied(draft, step, step.message)
            return
        step.result = dict(report.result) if report.result else None
        keep_evidence(draft, report.evidence)
        if report.findings is not None:
            put_findings(draft, report.findings)
        if report.failed:
            self._fail(draft, step, Reason.WORK_FAILED, report.message)
        else:
            self._applied(draft, step, report.message or step.message)

    # -- what is known and what is said -------------------------------------------------------------------------------

    def _applied(self, draft: Draft, step: StepStatus, message: str) -> None:
        first = not any(s.reason == Reason.APPLIED or s.verification for s in draft.incident.status.steps)
        self._acting.count(draft, step, "Applied")
        if first:
            self._measure_latency(draft)
        step.message = message
        step.revert_at = draft.now + step.ttl if step.ttl else None
        draft.say(Reason.APPLIED, f"step {step.name}: {message}", event=True)
        if step.verify is None or step.verify.is_empty() or ACTIONS[step.action].reads_only:
            step.state, step.reason, step.finished_at = "Succeeded", str(Reason.APPLIED), draft.now
            draft.set_condition(c.REMEDIATED, "True", Reason.APPLIED, message)
            return
        step.state, step.reason = "Verifying", str(Reason.VERIFYING)
        step.verification = Verification(started_at=draft.now)
        draft.set_condition(c.VERIFIED, "Unknown", Reason.VERIFYING, f"watching whether step {step.name} helped")

    def _fail(self, draft: Draft, step: StepStatus, reason: Reason, message: str) -> None:
        step.state, step.reason, step.message, step.finished_at = "Failed", str(reason), message, draft.now
        step.after = None  # nothing was changed, so that there is nothing to put back
        self._acting.count(draft, step, "Failed")
        draft.set_condition(c.REMEDIATED, "False", reason, message)
        draft.say(reason, f"step {step.name} failed: {message}", event=True)

    def _cannot(self, draft: Draft, step: StepStatus, reason: Reason, message: str, untouched: bool) -> None:
        """A change that cannot be made; what was made of it before is still there, and a person must know."""
        if untouched:
            self._fail(draft, step, reason, f"{message}; nothing was changed")
        else:
            self._unknown(draft, step, Reason.PARTLY_DONE, message)

    def _unknown(self, draft: Draft, step: StepStatus, reason: Reason, message: str) -> None:
        step.state, step.reason, step.message = "Unknown", str(reason), message
        step.finished_at = draft.now
        self._acting.count(draft, step, "Unknown")
        draft.set_condition(c.REMEDIATED, "Unknown", reason, message)
        draft.say(reason, f"step {step.name}: {message}", event=True)

    def _measure_latency(self, draft: Draft) -> None:
        heard = draft.incident.status.alert
        if heard and heard.last_received_at:
            seconds = (draft.now - heard.last_received_at).total_seconds()
            draft.afterwards(lambda: self._metrics.alert_to_action.observe(max(0.0, seconds)))


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


def _ends_at(step: StepStatus) -> datetime:
    """When a slow action's time is over."""
    assert step.started_at is not None
    return step.started_at + (step.timeout or _NO_TIMEOUT)


def _pause(step: StepStatus, error: Retry) -> timedelta:
    """Before a slow action is begun again: as long as is asked for, and longer with each attempt."""
    doublings = min(max(step.attempts - 1, 0), 10)
    grown = min(_FIRST_PAUSE * (1 << doublings), _LONGEST_PAUSE)
    return max(grown, error.after or grown)


def _skip(step: StepStatus, reason: Reason, message: str) -> None:
    step.state, step.reason, step.message = "Skipped", str(reason), message


def _plan(action: Action, observed: Observed, step: StepStatus, operation: str) -> Change:
    """The step's change. Raises Refused, Terminal."""
    parameters = _parameters(action, step)
    if step.state == "AwaitingApproval" and step.after is not None:
        return action.plan_as_shown(observed, parameters, operation, step.before or {}, step.after)
    return action.plan(observed, parameters, operation)


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


def _parameters(action: Action, step: StepStatus) -> Any:
    try:
        return (action.part_params or action.params if step.part_of else action.params).model_validate(step.params)
    except ValidationError as error:
        first = error.errors()[0]
        raise Terminal(
            Reason.INVALID_PARAMETERS, f"{action.name}.{'.'.join(map(str, first['loc']))}: {first['msg']}"
        ) from error
