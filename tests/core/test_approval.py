"""Consent: to the plan that was shown, and for a procedure once for all of it."""

from __future__ import annotations

from typing import Any

import pytest

from builders import NOW, incident, observed, step
from paramedic.actions import ACTIONS
from paramedic.actions.base import Change, Prepared
from paramedic.api.incident import Approval, StepStatus
from paramedic.approval import ask_for_approval
from paramedic.core.operation import new_operation
from paramedic.record import Draft

SCALE = ACTIONS["scale"]


def asked(*steps: StepStatus, index: int = 0, after: Any = None, approvals: Any = ()) -> tuple[Any, StepStatus]:
    """The answer for one of the steps, and the step as it is left."""
    given = [Approval.model_validate({"approvedBy": "alice"} | a) for a in approvals]
    draft = Draft(incident(*steps, alert_state=None, approvals=given), {}, NOW)
    one = draft.incident.status.steps[index]
    change = Change({"replicas": 3}, after or {"replicas": 0}, (), None, "covet-app: replicas 3 → 0")
    return ask_for_approval(draft, one, Prepared(SCALE, observed(), change)), one


def part(number: int, **fields: Any) -> StepStatus:
    return step(f"stop-{number}", part_of="stop", approval_required=True, operation=new_operation(NOW), **fields)


def shown(one: StepStatus) -> StepStatus:
    """A step whose plan was shown."""
    return asked(one)[1]


def test_a_procedure_is_shown_whole() -> None:
    answer, first = asked(part(1), part(2), part(3), step("later"))
    assert first.state == "AwaitingApproval"
    assert first.message == "would: covet-app: replicas 3 → 0, then stop-2, stop-3"
    assert "add {step: stop, approvedBy: <you>} to spec.approvals" in answer.message


@pytest.mark.parametrize("named", ["stop", "stop-1"])
def test_consent_to_the_procedure_or_to_the_part(named: str) -> None:
    answer, first = asked(shown(part(1)), part(2), approvals=[{"step": named}])
    assert answer is None
    assert first.approved_by == "alice"


def test_consent_to_the_procedure_is_for_parts_that_were_not_shown() -> None:
    begun = part(1, state="Succeeded", approved_by="alice")
    assert asked(begun, part(2), index=1, approvals=[{"step": "stop"}])[0] is None
    assert asked(begun, part(2), index=1, approvals=[{"step": "stop-1"}])[0] is not None
    assert asked(begun, part(2), index=1, approvals=[{"step": "go"}])[0] is not None


def test_consent_bound_to_the_plan_shown_is_for_all_of_the_procedure() -> None:
    first, second = shown(part(1)), part(2)
    approvals = [{"step": "stop", "operation": first.operation}]
    assert asked(first, second, approvals=approvals)[0] is None
    assert asked(first, second, index=1, approvals=approvals)[0] is None
    assert asked(first, second, approvals=[{"step": "stop", "operation": new_operation(NOW)}])[0] is not None


def test_a_part_whose_plan_has_changed_is_asked_for_anew() -> None:
    first, second = part(1, state="Succeeded"), shown(part(2))
    general = {"step": "stop"}
    answer, changed = asked(first, second, index=1, after={"replicas": 1}, approvals=[general])
    assert answer is not None
    assert changed.reason == "PlanChanged"
    again, _ = asked(first, changed, index=1, after={"replicas": 1}, approvals=[general])
    assert again is not None
    elsewhere = [general, {"step": "stop", "operation": first.operation}]
    assert asked(first, changed, index=1, after={"replicas": 1}, approvals=elsewhere)[0] is not None
    bound = [general, {"step": "stop", "operation": changed.operation}]
    assert asked(first, changed, index=1, after={"replicas": 1}, approvals=bound)[0] is None


@pytest.mark.parametrize("after", [lambda op: {"restart": op}, lambda op: {"Deployment/app": {"restart": op}}])
def test_a_restart_is_the_same_plan_under_another_operation(after: Any) -> None:
    once = asked(step("kick", approval_required=True), after=after(new_operation(NOW)))[1]
    assert once.state == "AwaitingApproval"
    answer, _ = asked(once, after=after(new_operation(NOW)), approvals=[{"step": "kick"}])
    assert answer is None
