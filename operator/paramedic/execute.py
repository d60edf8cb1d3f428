"""Carries out one step, or puts one back: plan, guard, intent, act, result (design: "Act once: the protocol").

An intent (``Executing`` with operation id, attempt and planned change) is stored before anything is done, with a
resourceVersion precondition: whoever wins that write acts. An intent that is found without a result is looked at, under
the same operation id, and never just repeated.
"""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from pydantic import ValidationError

from paramedic.actions import ACTIONS
from paramedic.actions.base import Action, Change, Observed, Outcome, annotation, collection_path, may_put_back
from paramedic.actions.rollback import Rollback, release_started_at
from paramedic.api import ANNOTATION_OPERATION
from paramedic.api import conditions as c
from paramedic.api.base import format_duration
from paramedic.api.incident import EscalationStatus, Revert, StepStatus, Verification
from paramedic.api.reasons import Reason
from paramedic.clients.kube import Kube
from paramedic.core.expressions import ExpressionError, evaluate_condition
from paramedic.core.facts import when_values
from paramedic.core.guard import ActionRecord, Refusal, Situation, first_refusal
from paramedic.core.match import serves
from paramedic.core.operation import new_operation, operation_time
from paramedic.core.plan import Wait, has_acted
from paramedic.core.rollout import is_healthy
from paramedic.core.summary import summarize
from paramedic.errors import Conflict, NotFound, Refused, Retry, Terminal
from paramedic.metrics import Metrics
from paramedic.record import Draft, Recorder
from paramedic.store import Store

_WORKLOAD_KINDS = ("Deployment", "StatefulSet", "DaemonSet")


class NotActing(Retry):
    """This process is not, or no longer, the one that acts."""


@dataclass(frozen=True, slots=True)
class Prepared:
    """A step ready to be done."""

    action: Action
    observed: Observed
    change: Change


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
        waiting = _ask_for_approval(draft, step, prepared)
        if waiting:
            return waiting
        healthy = await self._namespace_health(draft)
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
        refusal = first_refusal(_guards(draft), self._situation(draft, step, prepared.observed, None))
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
        try:
            observed = await ACTIONS[step.action].observe(step.target, self._kube)
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
        situation = self._situation(draft, step, prepared.observed, healthy)
        refusal = first_refusal(_guards(draft), situation)
        if refusal:
            return self._hold_back(draft, step, refusal)
        assert step.target is not None
        operation = _operation(draft, step)
        record = ActionRecord(situation.policy, step.target.key, draft.now, draft.key, operation)
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

    async def _act_again(self, draft: Draft, step: StepStatus, action: Action, observed: Observed) -> None:
        assert step.started_at is not None
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

    async def _namespace_health(self, draft: Draft) -> tuple[int, int] | None:
        """Healthy and all workloads of the namespace; None when the guard does not ask."""
        if _guards(draft).min_healthy_fraction == 0:
            return None
        namespace = draft.incident.metadata.namespace
        paths = [(kind, collection_path(kind, namespace)) for kind in _WORKLOAD_KINDS]
        found = await asyncio.gather(*(self._kube.list(path) for _, path in paths))
        workloads = [{"kind": kind} | item for (kind, _), items in zip(paths, found, strict=True) for item in items]
        return sum(is_healthy(w) for w in workloads), len(workloads)

    def _situation(
        self, draft: Draft, step: StepStatus, observed: Observed, healthy: tuple[int, int] | None
    ) -> Situation:
        pinned = draft.incident.status.policy
        assert pinned is not None
        assert step.target is not None
        policy, target = self._store.policy(pinned.key), step.target.key
        return Situation(
            now=draft.now,
            incident=draft.key,
            opened_at=draft.incident.metadata.creation_timestamp or draft.now,
            acted_before=has_acted(draft.incident),
            policy=pinned.key,
            policy_paused=bool(policy and policy.spec.paused),
            target=target,
            on_target=self._store.actions_on(target),
            under_policy=self._store.actions_under(pinned.key),
            busy_with=self._store.busy_with(target, draft.key),
            open_remediations=self._store.open_remediations(pinned.key, draft.key),
            target_acted_at=_stamped_at(observed),
            healthy=healthy,
        )

    def _hold_back(self, draft: Draft, step: StepStatus, refusal: Refusal) -> Wait | None:
        """A refusal is as visible as an action; one without an end is for a person."""
        step.state, step.reason, step.message = "Blocked", str(refusal.reason), refusal.message
        text = f"step {step.name} held back: {refusal.message}"
        if draft.say(refusal.reason, text, condition=(c.REMEDIATION_ALLOWED, "False"), event=True):
            draft.afterwards(lambda: self._metrics.refusals.labels(str(refusal.reason)).inc())
        if refusal.ask_again_at is None:
            escalate(draft, refusal.reason, text)
            return None
        return Wait(text, refusal.ask_again_at, refusal.reason)

    def _fail(self, draft: Draft, step: StepStatus, reason: Reason, message: str) -> None:
        step.state, step.reason, step.message, step.finished_at = "Failed", str(reason), message, draft.now
        self._count(draft, step, str(reason))
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


def escalate(draft: Draft, reason: Reason, message: str) -> None:
    """Calls for a person; nothing further is done by itself, besides putting back what is leased."""
    if draft.incident.status.escalation is None:
        draft.incident.status.escalation = EscalationStatus(
            level=1, since=draft.now, reason=str(reason), message=message
        )
    draft.say(reason, f"escalated: {message}", condition=(c.ESCALATED, "True"), event=True)


def apply_summary(draft: Draft, end: Any) -> None:
    """Phase, message and the kstatus conditions from what the draft says."""
    status = draft.incident.status
    summary = summarize(draft.incident, end)
    status.phase, status.message, status.step = summary.phase, summary.message, summary.step
    status.target = summary.target
    status.observed_generation = draft.incident.metadata.generation
    over = summary.phase == "Resolved"
    reason = Reason.RECOVERED if over else Reason.IN_PROGRESS
    draft.set_condition(c.READY, "True" if over else "False", reason, summary.message)
    for kind, true in ((c.RECONCILING, summary.reconciling), (c.STALLED, summary.stalled)):
        if true:
            draft.set_condition(kind, "True", Reason.IN_PROGRESS, summary.message)
        else:
            draft.drop_condition(kind)


def _ask_for_approval(draft: Draft, step: StepStatus, prepared: Prepared) -> Wait | None:
    """None when no approval is needed or it was given for this very plan."""
    if not step.approval_required:
        return None
    shown = step.state == "AwaitingApproval" or step.approved_by is not None
    same_plan = step.before == prepared.change.before and step.after == prepared.change.after
    same_object = step.target is not None and step.target.uid == prepared.observed.uid
    unchanged = shown and same_plan and same_object
    given = [a for a in draft.incident.spec.approvals if a.step == step.name]
    bound = next((a for a in given if a.operation is not None and a.operation == step.operation), None)
    consent = bound or next((a for a in given if a.operation is None and step.reason != Reason.PLAN_CHANGED), None)
    if consent and (unchanged or not shown):
        _approved(draft, step, consent.approved_by)
        return None
    changed = bool(consent) or step.reason == Reason.PLAN_CHANGED
    return _await_approval(draft, step, prepared, changed=changed, keep_operation=unchanged)


def _approved(draft: Draft, step: StepStatus, who: str) -> None:
    if step.approved_by != who:
        step.approved_by = who
        draft.say(Reason.APPROVED, f"step {step.name} approved", actor=who)


def _await_approval(draft: Draft, step: StepStatus, prepared: Prepared, *, changed: bool, keep_operation: bool) -> Wait:
    if not keep_operation:
        step.operation = new_operation(draft.now)
    reason = Reason.PLAN_CHANGED if changed else Reason.AWAITING_APPROVAL
    step.state, step.reason, step.approved_by = "AwaitingApproval", str(reason), None
    step.before, step.after = prepared.change.before, prepared.change.after
    if step.target:
        step.target.uid = prepared.observed.uid
    step.message = f"would: {prepared.change.message}"
    how = f"add {{step: {step.name}, approvedBy: <you>" + (f", operation: {step.operation}" if changed else "") + "}"
    text = f"step {step.name} {step.message}; to approve, {how} to spec.approvals"
    draft.say(reason, text, condition=(c.REMEDIATION_ALLOWED, "False"), event=True)
    return Wait(text, reason=reason)


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


def _guards(draft: Draft) -> Any:
    assert draft.incident.status.policy is not None
    return draft.incident.status.policy.guards


def _stamped_at(observed: Observed) -> datetime | None:
    """When Paramedic last acted on the target, by the stamp that it left there."""
    stamps = (annotation(o, ANNOTATION_OPERATION) for o in (observed.target, *observed.related.get("hpa", [])))
    return max((at for stamp in stamps if (at := operation_time(stamp))), default=None)
