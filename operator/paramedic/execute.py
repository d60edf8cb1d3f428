"""Carries out one step, or puts one back: plan, guard, intent, act, result (design: "Act once: the protocol").

An intent (``Executing`` with operation id, attempt and planned change) is stored before anything is done, with a
resourceVersion precondition: whoever wins that write acts. An intent that is found without a result is looked at, under
the same operation id, and never just repeated.
"""

import asyncio
from collections.abc import Callable
from datetime import datetime
from typing import Any

from pydantic import ValidationError

from paramedic.actions import ACTIONS
from paramedic.actions.base import Action, Change, Observed, Outcome, Prepared, may_put_back
from paramedic.actions.rollback import Rollback, release_started_at
from paramedic.api import conditions as c
from paramedic.api.base import format_duration
from paramedic.api.incident import Revert, StepStatus, Verification
from paramedic.api.reasons import Reason
from paramedic.api.workload import BoundTarget
from paramedic.approval import ask_for_approval
from paramedic.clients.kube import Kube
from paramedic.core.expressions import ExpressionError, evaluate_condition
from paramedic.core.facts import when_values
from paramedic.core.guard import ActionRecord, TargetKey
from paramedic.core.match import serves
from paramedic.core.operation import new_operation
from paramedic.core.plan import Wait, no_longer_wanted
from paramedic.errors import Conflict, NotFound, Refused, Retry, Terminal
from paramedic.metrics import Metrics
from paramedic.permit import Permits
from paramedic.record import Draft, Recorder, apply_summary, escalate
from paramedic.store import Store

_WORKLOAD_KINDS = ("Deployment", "StatefulSet", "DaemonSet")


_LOOK_AHEAD_SECONDS = 0.5


class NotActing(Retry):
    """This process is not, or no longer, the one that acts."""


class Executor:
    """Acts for the reconciler. Its methods leave the draft as it should be stored; a Wait ends the round."""

    def __init__(
        self,
        kube: Kube,
        store: Store,
        recorder: Recorder,
        metrics: Metrics,
        *,
        namespace: str,
        may_act: Callable[[], bool],
        clock: Callable[[], datetime],
    ) -> None:
        self._kube = kube
        self._store = store
        self._recorder = recorder
        self._metrics = metrics
        self._namespace = namespace
        self._may_act = may_act
        self._clock = clock
        self._ahead: dict[tuple[str, TargetKey], asyncio.Future[Observed]] = {}
        self._permits = Permits(kube, store, metrics)

    def look_ahead(self, action: str, target: BoundTarget) -> None:
        """Reads a target that a step is about to want, while its Incident is being stored.

        It is as live as a look after that: whatever is planned on it has its resourceVersion as a precondition.
        """
        key = action, target.key
        if key in self._ahead or action not in ACTIONS:
            return
        look = asyncio.ensure_future(ACTIONS[action].observe(target, self._kube))
        look.add_done_callback(lambda done: done.cancelled() or done.exception())
        self._ahead[key] = look
        asyncio.get_running_loop().call_later(_LOOK_AHEAD_SECONDS, self._ahead.pop, key, None)

    # -- forward ------------------------------------------------------------------------------------------------------

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
        healthy = await self._permits.namespace_health(draft)
        return await self._guard_and_act(draft, step, prepared, healthy)

    async def look(self, draft: Draft, index: int) -> None:
        """An intent without a result: claims it by a write, looks, and acts under the same id if nothing was done."""
        step = draft.incident.status.steps[index]
        step.attempts += 1
        await self._commit(draft)
        action = ACTIONS[step.action]
        try:
            observed = await self._observe(draft, step)
            outcome = action.settled(observed, step.before or {}, step.operation or "")
            if outcome is Outcome.APPLIED:
                self._applied(draft, step, step.message)
            elif outcome is Outcome.UNKNOWN:
                self._unknown(draft, step)
            else:
                await self._act_again(draft, step, action, observed)
        except (Refused, Terminal) as error:
            self._fail(draft, step, error.reason, str(error))

    async def describe_plan(self, draft: Draft, index: int) -> None:
        """Mode Observe: records what the step would do, and what would hold it back."""
        step = draft.incident.status.steps[index]
        try:
            prepared = await self._prepare(draft, step)
        except (Refused, Terminal) as error:
            step.state, step.reason, step.message = "Skipped", str(Reason.OBSERVE_MODE), f"could not act: {error}"
            return
        if prepared is None:
            return
        refusal = self._permits.refusal(draft, step, prepared.observed, None)
        held = f" (now refused: {refusal.message})" if refusal else ""
        step.before, step.after = prepared.change.before, prepared.change.after
        step.state, step.reason = "Skipped", str(Reason.OBSERVE_MODE)
        step.message = f"would: {prepared.change.message}{held}"
        draft.say(Reason.OBSERVE_MODE, f"step {step.name} {step.message}", event=True)

    async def _prepare(self, draft: Draft, step: StepStatus) -> Prepared | None:
        """Live look, ``when`` and plan; None when the step was skipped. Raises Refused or Terminal."""
        if step.target is None:
            raise Terminal(Reason.TARGET_UNKNOWN, "neither the step, the incident, the policy nor the alert names one")
        self._check_namespace(draft)
        _check_target(draft, step.target)
        observed = await self._observe(draft, step)
        if step.when and not await self._applies(draft, step, observed):
            _skip(step, Reason.CONDITION_FALSE, f"when is false: {step.when}")
            return None
        action = ACTIONS[step.action]
        change = action.plan(observed, _parameters(action, step), _operation(draft, step))
        if change.is_empty:
            _skip(step, Reason.ALREADY_IN_PLACE, change.message)
            return None
        return Prepared(action, observed, change)

    def _check_namespace(self, draft: Draft) -> None:
        """At run time once more what admission has checked: the policy may act in this namespace."""
        pinned = draft.incident.status.policy
        policy = self._store.policy(pinned.key) if pinned else None
        if policy is None or not serves(policy, draft.incident.metadata.namespace, self._namespace):
            raise Terminal(
                Reason.NAMESPACE_NOT_SERVED,
                f"policy {pinned.key if pinned else '?'} does not serve namespace {draft.incident.metadata.namespace}",
            )

    async def _observe(self, draft: Draft, step: StepStatus) -> Observed:
        """A live look at the step's target. Raises Terminal when it is gone, going, or not the one that was pinned."""
        assert step.target is not None
        if step.target.namespace != draft.incident.metadata.namespace:
            raise Terminal(Reason.NAMESPACE_NOT_SERVED, f"{step.target} is in another namespace than its incident")
        ahead = self._ahead.pop((step.action, step.target.key), None)
        try:
            observed = await (ahead or ACTIONS[step.action].observe(step.target, self._kube))
        except NotFound as error:
            raise Terminal(
                Reason.TARGET_NOT_FOUND, f"{step.target} does not exist in {step.target.namespace}"
            ) from error
        if observed.target["metadata"].get("deletionTimestamp"):
            raise Terminal(Reason.TARGET_DELETED, f"{step.target} is being deleted")
        if step.attempts and step.target.uid and step.target.uid != observed.uid:
            raise Terminal(Reason.TARGET_REPLACED, f"{step.target} was deleted and made anew: it is not the one pinned")
        left = self._store.left_states(step.target.key)
        return Observed(observed.target, observed.related, left, draft.incident.metadata.name)

    async def _applies(self, draft: Draft, step: StepStatus, observed: Observed) -> bool:
        started_at = None
        assert step.when is not None
        assert step.target is not None
        if "lastRolloutAge" in step.when:
            history = observed
            if not isinstance(ACTIONS[step.action], Rollback):
                history = await ACTIONS["rollback"].observe(step.target, self._kube)
            started_at = release_started_at(history)
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
        operation = _operation(draft, step)
        record = ActionRecord(pinned.key, step.target.key, draft.now, draft.key, operation)
        # From the guards' answer to the reservation nothing is awaited: no other incident can use the same allowance.
        with self._store.reserve(record):
            await self._write_intent(draft, step, prepared, operation)
        await self._act(draft, step, prepared.action, prepared.change)
        return None

    async def _write_intent(self, draft: Draft, step: StepStatus, prepared: Prepared, operation: str) -> None:
        assert step.target is not None
        if step.ttl or step.revert_when:
            await self._recorder.set_finalizer(draft, present=True)
        step.state, step.reason = "Executing", str(Reason.EXECUTING)
        step.message = prepared.change.message
        step.operation, step.attempts, step.started_at = operation, 1, draft.now
        step.before, step.after = prepared.change.before, prepared.change.after
        step.target.uid = prepared.observed.uid
        draft.say(Reason.EXECUTING, f"step {step.name}: {step.message}")
        draft.set_condition(c.REMEDIATION_ALLOWED, "True", Reason.ALLOWED, f"step {step.name} may act")
        draft.set_condition(c.REMEDIATED, "Unknown", Reason.EXECUTING, f"step {step.name}: {step.message}")
        await self._commit(draft)

    async def _act(self, draft: Draft, step: StepStatus, action: Action, change: Change) -> None:
        """Makes the change. On a conflict the step stays Executing, so that the next move is to look."""
        self._require_lead()
        try:
            await action.apply(change, self._kube)
        except Conflict:
            return
        except NotFound:
            self._fail(draft, step, Reason.TARGET_NOT_FOUND, f"{step.target} has just been deleted")
        except (Refused, Terminal) as error:
            self._fail(draft, step, error.reason, str(error))
        else:
            draft.now = self._clock()
            self._applied(draft, step, change.message)
            await self._commit(draft)

    async def _act_again(self, draft: Draft, step: StepStatus, action: Action, observed: Observed) -> None:
        assert step.started_at is not None
        if no_longer_wanted(draft.incident):
            step.state, step.reason, step.message = "Pending", str(Reason.NOT_NEEDED), "nothing was changed"
            step.attempts, step.started_at = 0, None
            return
        if step.timeout and draft.now > step.started_at + step.timeout:
            self._fail(
                draft, step, Reason.TIMED_OUT, f"not done within {format_duration(step.timeout)}; nothing was changed"
            )
            return
        change = action.plan(observed, _parameters(action, step), step.operation or "")
        if change.after != step.after:
            self._fail(draft, step, Reason.TARGET_CHANGED, "what the step would do has changed since it was planned")
            return
        await self._act(draft, step, action, change)

    def _applied(self, draft: Draft, step: StepStatus, message: str) -> None:
        first = not any(s.reason == Reason.APPLIED or s.verification for s in draft.incident.status.steps)
        self._count(draft, step, "Applied")
        if first:
            self._measure_latency(draft)
        step.message = message
        step.revert_at = draft.now + step.ttl if step.ttl else None
        draft.say(Reason.APPLIED, f"step {step.name}: {message}", event=True)
        if step.verify is None or step.verify.is_empty():
            step.state, step.reason, step.finished_at = "Succeeded", str(Reason.APPLIED), draft.now
            draft.set_condition(c.REMEDIATED, "True", Reason.APPLIED, message)
            return
        step.state, step.reason = "Verifying", str(Reason.VERIFYING)
        step.verification = Verification(started_at=draft.now)
        draft.set_condition(c.VERIFIED, "Unknown", Reason.VERIFYING, f"watching whether step {step.name} helped")

    # -- back ---------------------------------------------------------------------------------------------------------

    async def put_back(self, draft: Draft, index: int, why: Reason) -> None:
        """Undoes a step once: intent, act, result. Hands off when others have changed the same fields since."""
        step = draft.incident.status.steps[index]
        action = ACTIONS[step.action]
        operation = new_operation(draft.now)
        if not action.undoable:
            step.revert = Revert(state="Succeeded", reason=str(why), message="needs no undo", operation=operation)
            return
        try:
            observed = await self._observe(draft, step)
            may_put_back(action, observed, step)
            change = action.restore(observed, step.before or {}, operation)
        except (Refused, Terminal) as error:
            self._close_revert(draft, step, Revert(state="Executing", operation=operation, reason=str(why)), error)
            return
        step.revert = Revert(
            state="Executing",
            reason=str(why),
            message=change.message,
            operation=operation,
            before=change.before,
            after=change.after,
            started_at=draft.now,
        )
        draft.say(Reason.PUTTING_BACK, f"step {step.name}: {change.message} ({why.meaning})")
        await self._commit(draft)
        await self._act_back(draft, step, action, change)

    async def look_at_revert(self, draft: Draft, index: int) -> None:
        """A putting back without a result: claimed, looked at, and done under the same id only if nothing was done."""
        step = draft.incident.status.steps[index]
        revert, action = step.revert, ACTIONS[step.action]
        assert revert is not None
        revert.attempts += 1
        await self._commit(draft)
        try:
            observed = await self._observe(draft, step)
            outcome = action.settled(observed, revert.before or {}, revert.operation)
            if outcome is Outcome.APPLIED:
                self._close_revert(draft, step, revert, None)
            elif outcome is Outcome.UNKNOWN:
                raise Refused(Reason.TARGET_CHANGED, f"{step.target} is neither as before nor as after: hands off")
            else:
                await self._act_back(draft, step, action, action.restore(observed, step.before or {}, revert.operation))
        except (Refused, Terminal) as error:
            self._close_revert(draft, step, revert, error)

    async def _act_back(self, draft: Draft, step: StepStatus, action: Action, change: Change) -> None:
        assert step.revert is not None
        self._require_lead()
        try:
            await action.apply(change, self._kube)
        except Conflict:
            return
        except NotFound:
            gone = Terminal(Reason.TARGET_NOT_FOUND, f"{step.target} has just been deleted")
            self._close_revert(draft, step, step.revert, gone)
        except (Refused, Terminal) as error:
            self._close_revert(draft, step, step.revert, error)
        else:
            draft.now = self._clock()
            self._close_revert(draft, step, step.revert, None)

    def _close_revert(self, draft: Draft, step: StepStatus, revert: Revert, error: Refused | Terminal | None) -> None:
        """Records how the putting back ended. A target that is gone holds nothing any more."""
        gone = error is not None and error.reason in (
            Reason.TARGET_NOT_FOUND,
            Reason.TARGET_DELETED,
            Reason.TARGET_REPLACED,
        )
        step.revert, revert.finished_at = revert, draft.now
        if error is not None and not gone:
            revert.state, revert.message = "Failed", str(error)
            self._count(draft, step, "NotPutBack")
            escalate(draft, Reason.NOT_PUT_BACK, f"step {step.name} could not be put back: {error}")
            return
        revert.state = "Succeeded"
        revert.message = f"nothing to put back: {error}" if error else revert.message
        self._count(draft, step, "PutBack")
        leased = revert.reason != Reason.VERIFICATION_FAILED
        step.state = "Reverted"
        step.reason = str(Reason.LEASE_ENDED) if leased else str(Reason.VERIFICATION_FAILED)
        draft.say(Reason.PUT_BACK, f"step {step.name}: {revert.message}", event=True)

    # -- what is known and what is said -------------------------------------------------------------------------------

    def _fail(self, draft: Draft, step: StepStatus, reason: Reason, message: str) -> None:
        step.state, step.reason, step.message, step.finished_at = "Failed", str(reason), message, draft.now
        step.after = None  # nothing was changed, so that there is nothing to put back
        self._count(draft, step, "Failed")
        draft.set_condition(c.REMEDIATED, "False", reason, message)
        draft.say(reason, f"step {step.name} failed: {message}", event=True)

    def _unknown(self, draft: Draft, step: StepStatus) -> None:
        message = f"{step.target} is neither as before nor as the step leaves it; not repeated, please look"
        step.state, step.reason, step.message = "Unknown", str(Reason.OUTCOME_UNKNOWN), message
        step.finished_at = draft.now
        self._count(draft, step, "Unknown")
        draft.set_condition(c.REMEDIATED, "Unknown", Reason.OUTCOME_UNKNOWN, message)
        draft.say(Reason.OUTCOME_UNKNOWN, f"step {step.name}: {message}", event=True)

    def _count(self, draft: Draft, step: StepStatus, result: str) -> None:
        draft.afterwards(lambda: self._metrics.actions.labels(step.action, result).inc())

    def _measure_latency(self, draft: Draft) -> None:
        heard = draft.incident.status.alert
        if heard and heard.last_received_at:
            seconds = (draft.now - heard.last_received_at).total_seconds()
            draft.afterwards(lambda: self._metrics.alert_to_action.observe(max(0.0, seconds)))

    async def _commit(self, draft: Draft) -> None:
        """Stores the draft in the middle of the work. Raises NotActing when the lead was lost."""
        self._require_lead()
        apply_summary(draft, None)
        await self._recorder.commit(draft)

    def _require_lead(self) -> None:
        if not self._may_act():
            raise NotActing("another process is the leader")


def _check_target(draft: Draft, target: BoundTarget) -> None:
    """Admission has checked that whoever applied an Incident may change its target, and only that one."""
    named = draft.incident.spec.target
    if named is None or draft.incident.spec.alert is not None:
        return
    if (named.kind, named.name) != (target.kind, target.name):
        raise Terminal(
            Reason.TARGET_NOT_NAMED,
            f"the step acts on {target}, but the incident names {named.kind}/{named.name}; apply one without a target",
        )


def _skip(step: StepStatus, reason: Reason, message: str) -> None:
    step.state, step.reason, step.message = "Skipped", str(reason), message


def _operation(draft: Draft, step: StepStatus) -> str:
    if step.operation is None:
        step.operation = new_operation(draft.now)
    return step.operation


def _parameters(action: Action, step: StepStatus) -> Any:
    try:
        return action.params.model_validate(step.params)
    except ValidationError as error:
        first = error.errors()[0]
        raise Terminal(
            Reason.INVALID_PARAMETERS, f"{action.name}.{'.'.join(map(str, first['loc']))}: {first['msg']}"
        ) from error
