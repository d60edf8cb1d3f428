"""A person's consent to one step, bound to the plan that was shown."""

from typing import Any

from paramedic.actions.base import Prepared
from paramedic.api import conditions as c
from paramedic.api.incident import StepStatus
from paramedic.api.reasons import Reason
from paramedic.core import people
from paramedic.core.operation import new_operation, operation_time
from paramedic.core.plan import Wait
from paramedic.record import Draft


def ask_for_approval(draft: Draft, step: StepStatus, prepared: Prepared) -> Wait | None:
    """None when no approval is needed or it was given for this very plan."""
    if not step.approval_required:
        return None
    shown = step.state == "AwaitingApproval" or step.approved_by is not None
    same_plan = (step.before or {}) == prepared.change.before and _wanted(step.after) == _wanted(prepared.change.after)
    same_object = step.target is not None and step.target.uid == prepared.observed.uid
    unchanged = shown and same_plan and same_object
    given = [a for a in people.approvals(draft.incident) if a.step in (step.name, step.part_of)]
    shown_operations = _operations_of_procedure(draft, step)
    bound = next((a for a in given if a.operation is not None and a.operation in shown_operations), None)
    consent = bound or next((a for a in given if a.operation is None and step.reason != Reason.PLAN_CHANGED), None)
    if consent and (unchanged or not shown):
        _approved(draft, step, consent.approved_by)
        return None
    changed = bool(consent) or step.reason == Reason.PLAN_CHANGED
    return _await_approval(draft, step, prepared, changed=changed, keep_operation=unchanged)


def _wanted(after: Any) -> Any:
    """What a plan comes to. A restart's is the operation id, which is another each time that it is planned."""
    if isinstance(after, dict):
        return {k: _wanted(v) for k, v in after.items()}
    return "" if isinstance(after, str) and operation_time(after) else after


def _operations_of_procedure(draft: Draft, step: StepStatus) -> set[str | None]:
    """The step's own operation. A procedure is approved whole, by the plan of the part that was shown: for a part that
    is shown itself, because its plan has changed since, only its own counts."""
    if step.part_of is None or step.reason == Reason.PLAN_CHANGED:
        return {step.operation}
    return {s.operation for s in draft.incident.status.steps if s.part_of == step.part_of}


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
    step.message = f"would: {prepared.change.message}{_what_follows(draft, step)}"
    how = (
        f"add {{step: {step.part_of or step.name}, approvedBy: <you>"
        + (f", operation: {step.operation}" if changed else "")
        + "}"
    )
    command = f"kubectl incident approve {draft.incident.metadata.name} -n {draft.incident.metadata.namespace}"
    text = f"step {step.name} {step.message}; to approve, {command}, or {how} to spec.approvals"
    draft.say(reason, text, condition=(c.REMEDIATION_ALLOWED, "False"), event=True)
    return Wait(text, reason=reason)


def _what_follows(draft: Draft, step: StepStatus) -> str:
    """The other parts of the procedure, which are approved with this one."""
    steps = draft.incident.status.steps
    later = [s.name for s in steps[steps.index(step) + 1 :] if s.part_of and s.part_of == step.part_of]
    return f", then {', '.join(later)}" if later else ""
