"""What comes next: every branch in a table, then any history that a reconciler could live through."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from random import Random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from builders import NOW, OPERATION, ago, held, incident, later, minutes, policy, step, verify
from paramedic.actions import ACTIONS
from paramedic.api import FINALIZER
from paramedic.api.checks import RevertWhen, Verify
from paramedic.api.incident import EscalationStatus, Incident, Resolution, Revert, StepStatus, Verification
from paramedic.api.policy import Step
from paramedic.api.reasons import Reason
from paramedic.core import plan
from paramedic.core.pinning import pinned_steps
from paramedic.core.plan import (
    Escalate,
    Look,
    LookAtRevert,
    ObservePlan,
    PutBack,
    Release,
    Resolve,
    RunStep,
    VerifyStep,
    Wait,
    next_move,
)
from paramedic.core.situation import (
    WAITING_STATES,
    began_at,
    failed,
    goes_on,
    helped,
    is_begun,
    is_firing,
    is_remediating,
    verification_deadline,
)

ESCALATED = {"escalation": {"since": ago(1), "message": "look"}}
CLOSED = {"resolution": {"resolvedBy": "alice", "rootCause": "a typo"}}
DELETED = {"deletionTimestamp": NOW.isoformat()}
REVERTING = {"state": "Executing", "operation": OPERATION}
UNDONE = {"state": "Succeeded", "operation": OPERATION, "reason": "VerificationFailed"}
WHEN_OVER: dict[str, Any] = {"ttl": None, "revert_at": None, "revert_when": {"alertResolved": True}}


def parts(*states: str, group: str = "stop", **fields: Any) -> list[StepStatus]:
    """The parts of a procedure, in these states."""
    return [step(f"{group}-{n}", state, part_of=group, **fields) for n, state in enumerate(states, 1)]


def leased_parts(*ends: Any, **fields: Any) -> list[StepStatus]:
    """The parts of a leased procedure that are in place until then."""
    return [held(f"stop-{n}", part_of="stop", revert_at=end, **fields) for n, end in enumerate(ends, 1)]


def reverted(name: str = "undo", reason: str = "VerificationFailed", **fields: Any) -> StepStatus:
    return step(name, "Reverted", reason=reason, revert=UNDONE, **fields)


NOTHING, IN_VAIN = "no step of the policy applied; nothing was done", "no step of the policy helped"
DONE = "undo: 3 → 5"

MOVES: list[tuple[str, Incident, Any]] = [
    # what was begun is finished first, whatever anybody says
    ("an intent without a result", incident(step(state="Executing")), Look(0)),
    ("also when paused", incident(step(state="Executing"), paused=True), Look(0)),
    ("also when deleted", incident(step(state="Executing"), metadata=DELETED), Look(0)),
    ("also when over", incident(step(state="Executing"), phase="Resolved"), Look(0)),
    ("a revert without a result", incident(held(revert=REVERTING)), LookAtRevert(0)),
    ("of a later step", incident(step(state="Skipped"), held(revert=REVERTING)), LookAtRevert(1)),
    # deletion: what is held is put back, the last first
    ("deleted, holding", incident(held("a"), held("b"), metadata=DELETED), PutBack(1, Reason.DELETED)),
    ("deleted while verifying", incident(held(state="Verifying"), metadata=DELETED), PutBack(0, Reason.DELETED)),
    ("deleted, holding nothing", incident(step(state="Succeeded"), metadata=DELETED), Release()),
    # over is over
    ("over, finalizer left", incident(phase="Resolved", metadata={"finalizers": [FINALIZER]}), Release()),
    ("over", incident(step(), phase="Resolved"), Wait("resolved")),
    # a person's word
    ("closed", incident(step(), **CLOSED), Resolve(Reason.RESOLVED_BY_PERSON, "closed by alice: a typo")),
    ("closed while verifying", incident(step(state="Verifying"), **CLOSED), Resolve),
    ("closed, paused", incident(step(), paused=True, **CLOSED), Resolve),
    ("closed, escalated", incident(step(state="Failed"), status=ESCALATED, **CLOSED), Resolve),
    ("closed, holding", incident(held(), **CLOSED), Wait),
    ("closed, lease over", incident(held(revert_at=NOW), **CLOSED), PutBack(0, Reason.LEASE_ENDED)),
    ("closed, verifying, holding", incident(held(state="Verifying", revert_at=NOW), **CLOSED), VerifyStep(0)),
    ("closed, unknown, ttl over", incident(held(state="Unknown", revert_at=None, ttl=minutes(5)), **CLOSED), PutBack),
    ("closed, unknown, ttl not over", incident(held(state="Unknown", revert_at=None), **CLOSED), Wait),
    ("closed, unknown, no ttl", incident(held(state="Unknown", **WHEN_OVER), **CLOSED), PutBack),
    ("closed, holding till revertWhen", incident(held(**WHEN_OVER), **CLOSED), Wait),
    # paused: nothing further
    ("paused", incident(step(), paused=True), Wait("paused: a person has taken over", None, Reason.PAUSED)),
    ("paused, lease over", incident(held(revert_at=NOW), paused=True), Wait),
    ("paused while verifying", incident(step(state="Verifying"), paused=True), Wait),
    ("paused, alert over", incident(step(), alert_state="resolved", paused=True), Wait),
    # leases
    ("lease over", incident(held(revert_at=NOW)), PutBack(0, Reason.LEASE_ENDED)),
    ("lease not over", incident(held(revert_at=later(0.01)), alert_state=None), Wait),
    ("lease over, escalated", incident(held(revert_at=ago(1)), status=ESCALATED), PutBack(0, Reason.LEASE_ENDED)),
    ("the last first", incident(held("a", revert_at=ago(9)), held("b", revert_at=NOW)), PutBack(1, Reason.LEASE_ENDED)),
    ("while verifying, verify first", incident(held(state="Verifying", revert_at=ago(1))), VerifyStep(0)),
    ("unknown, ttl over", incident(held(state="Unknown", revert_at=None, ttl=minutes(5))), PutBack),
    # verification
    ("verifying", incident(step(state="Verifying")), VerifyStep(0)),
    ("verifying, alert over", incident(step(state="Verifying"), alert_state="resolved"), VerifyStep(0)),
    # the alert's end
    ("before anything", incident(step(), alert_state="resolved"), Resolve),
    ("while waiting for approval", incident(step(state="AwaitingApproval"), alert_state="resolved"), Resolve),
    ("blocked and escalated", incident(step(state="Blocked"), alert_state="resolved", status=ESCALATED), Resolve),
    ("after a remedy", incident(step(state="Succeeded", message="3 → 5"), alert_state="resolved"), Resolve),
    ("holding", incident(held(), alert_state="resolved"), Wait),
    ("holding, unknown, no ttl", incident(held(state="Unknown", **WHEN_OVER), alert_state="resolved"), PutBack),
    ("until recovered, unfinished", incident(step(state="Failed"), step("b"), alert_state="resolved"), Resolve),
    (
        "a sequence goes on",
        incident(step("a", "Succeeded"), step("b"), alert_state="resolved", strategy="Sequence"),
        RunStep(1),
    ),
    (
        "a sequence that stopped does not",
        incident(step("a", "Failed"), step("b"), alert_state="resolved", strategy="Sequence"),
        Resolve,
    ),
    # escalated: a person works on it
    ("escalated", incident(step(state="Failed"), step("b"), status=ESCALATED), Wait("a person is needed: look")),
    ("escalated, holding", incident(held(), status=ESCALATED), Wait("a person is needed: look", later(55))),
    # Observe
    ("observe", incident(step("a", "Skipped"), step("b"), mode="Observe"), ObservePlan()),
    ("observed", incident(step(state="Skipped"), mode="Observe"), Wait),
    # the steps in order
    ("the first", incident(step("a"), step("b")), RunStep(0)),
    ("blocked: again", incident(step("a", "Blocked"), step("b")), RunStep(0)),
    ("awaiting: again", incident(step("a", "AwaitingApproval"), step("b")), RunStep(0)),
    ("after a skipped one", incident(step("a", "Skipped"), step("b")), RunStep(1)),
    ("after one that helped", incident(step("a", "Succeeded"), step("b"), alert_state=None), Resolve),
    ("in a sequence", incident(step("a", "Succeeded"), step("b"), strategy="Sequence"), RunStep(1)),
    ("after a lease", incident(reverted("a", "LeaseEnded"), step("b"), alert_state=None), Resolve),
    ("a lease in a sequence", incident(reverted("a", "LeaseEnded"), step("b"), strategy="Sequence"), RunStep(1)),
    ("failed, continue", incident(step("a", "Failed", on_failure="Continue"), step("b")), RunStep(1)),
    ("reverted, continue", incident(reverted("a", on_failure="Continue"), step("b")), RunStep(1)),
    (
        "failed, stop",
        incident(step("a", "Failed", on_failure="Stop", message="no"), step("b")),
        Wait("stopped after step a: no", None, Reason.STEP_FAILED),
    ),
    (
        "failed, escalate",
        incident(step("a", "Failed", message="no"), step("b")),
        Escalate(Reason.STEP_FAILED, "step a: no"),
    ),
    ("reverted, escalate", incident(reverted("a"), step("b")), Escalate),
    (
        "unknown always escalates",
        incident(step("a", "Unknown", on_failure="Continue", reason="OutcomeUnknown", message="?"), step("b")),
        Escalate(Reason.OUTCOME_UNKNOWN, "step a: ?"),
    ),
    (
        "unknown and stop",
        incident(step("a", "Unknown", on_failure="Stop", reason="OutcomeUnknown"), step("b")),
        Escalate,
    ),
    # a procedure: several steps for one of the policy's, done to its end, or left out from where it failed
    ("a procedure begins", incident(*parts("Pending", "Pending")), RunStep(0)),
    ("after what only lets people see", incident(held("a", action="slowQueryLog"), step("b")), RunStep(1)),
    ("a part that helped is not the end", incident(*parts("Succeeded", "Pending")), RunStep(1)),
    ("nor is one that was in place", incident(*parts("Skipped", "Pending")), RunStep(1)),
    ("until all of it is done", incident(*parts("Succeeded", "Succeeded"), step("b"), alert_state=None), Resolve),
    ("the last in place already", incident(*parts("Succeeded", "Skipped"), step("b"), alert_state=None), Resolve),
    ("all of it in place already", incident(*parts("Skipped", "Skipped"), step("b"), alert_state=None), RunStep(2)),
    ("in a sequence", incident(*parts("Succeeded", "Succeeded"), step("b"), strategy="Sequence"), RunStep(2)),
    ("a part failed: a person", incident(*parts("Succeeded", "Failed", "Pending"), step("b")), Escalate),
    (
        "a part failed, continue: the rest of it is left out",
        incident(*parts("Succeeded", "Failed", "Pending", on_failure="Continue"), step("b")),
        RunStep(3),
    ),
    (
        "a stage was taken back: the same",
        incident(
            *parts("Succeeded", on_failure="Continue"),
            reverted("stop-2", part_of="stop", on_failure="Continue"),
            step("stop-3", part_of="stop"),
            step("b"),
        ),
        RunStep(3),
    ),
    (
        "a part failed, continue, nothing else: in vain",
        incident(*parts("Succeeded", "Failed", "Pending", on_failure="Continue"), alert_state=None),
        Escalate(Reason.REMEDIES_EXHAUSTED, IN_VAIN),
    ),
    ("a part unknown", incident(*parts("Unknown", "Pending", reason="OutcomeUnknown"), step("b")), Escalate),
    (
        "not to be done at all",
        incident(step("stop-1", "Skipped", reason="ConditionFalse", part_of="stop"), *parts("Pending"), step("b")),
        RunStep(2),
    ),
    ("another procedure", incident(*parts("Failed", on_failure="Continue"), *parts("Pending", group="go")), RunStep(1)),
    ("the alert ends in between", incident(*parts("Succeeded", "Pending"), alert_state="resolved"), RunStep(1)),
    ("the alert ends before", incident(*parts("Pending", "Pending"), alert_state="resolved"), Resolve),
    ("the alert ends after", incident(*parts("Succeeded", "Succeeded"), alert_state="resolved"), Resolve),
    (
        "the alert ends, a part has failed",
        incident(*parts("Succeeded", "Failed", "Pending"), alert_state="resolved"),
        Resolve,
    ),
    ("paused in between", incident(*parts("Succeeded", "Pending"), paused=True), Wait),
    ("closed in between", incident(*parts("Succeeded", "Pending"), **CLOSED), Resolve),
    # its leases end together, the last part first
    ("one part's lease over, not the last's", incident(*leased_parts(ago(1), later(1)), alert_state=None), Wait),
    ("all over", incident(*leased_parts(ago(2), ago(1)), alert_state=None), PutBack(1, Reason.LEASE_ENDED)),
    (
        "the last put back, then the one before",
        incident(*leased_parts(ago(2)), reverted("stop-2", "LeaseEnded", part_of="stop"), alert_state=None),
        PutBack(0, Reason.LEASE_ENDED),
    ),
    (
        "its own lease is over while the last is verified",
        incident(*leased_parts(ago(1)), *leased_parts(ago(1), state="Verifying"), alert_state=None),
        VerifyStep(1),
    ),
    ("another's lease does not wait", incident(*leased_parts(ago(1)), held("b", revert_at=later(9))), PutBack),
    # at the end
    ("all skipped", incident(step(state="Skipped")), Escalate(Reason.NO_STEP_APPLIED, NOTHING)),
    ("no steps", incident(), Escalate),
    ("all failed", incident(step(state="Failed", on_failure="Continue")), Escalate(Reason.REMEDIES_EXHAUSTED, IN_VAIN)),
    (
        "helped, no alert",
        incident(step(state="Succeeded", message="3 → 5"), alert_state=None),
        Resolve(Reason.REMEDIATION_SUCCEEDED, DONE),
    ),
    ("helped, holding", incident(held(), alert_state=None), Wait),
    ("helped, alert goes on", incident(step(state="Succeeded", finished_at=ago(1), verify=verify(timeout="2m"))), Wait),
    ("for too long", incident(step(state="Succeeded", finished_at=ago(2), verify=verify(timeout="2m"))), Escalate),
]


@pytest.mark.parametrize(("situation", "move"), [m[1:] for m in MOVES], ids=[m[0] for m in MOVES])
def test_next_move(situation: Incident, move: Any) -> None:
    before = situation.model_copy(deep=True)
    found = next_move(situation, NOW)
    assert found == move if not isinstance(move, type) else isinstance(found, move)
    assert next_move(situation, NOW) == found
    assert situation == before


@pytest.mark.parametrize(
    ("situation", "move"),
    [
        (incident(held(revert_at=NOW)), Wait),
        (incident(held(revert_at=NOW), status=ESCALATED), Wait),
        (incident(held(state="Unknown", **WHEN_OVER), alert_state="resolved"), Wait),
        # what was begun, and a person's word on this very incident
        (incident(held(revert=REVERTING)), LookAtRevert),
        (incident(held(revert_at=NOW), **CLOSED), PutBack),
        (incident(held(revert_at=NOW), metadata=DELETED), PutBack),
        # what changes nothing goes on
        (incident(step(state="Verifying")), VerifyStep),
        (incident(step(), alert_state="resolved"), Resolve),
    ],
)
def test_a_paused_policy_puts_nothing_back(situation: Incident, move: Any) -> None:
    found = next_move(situation, NOW, policy_paused=True)
    assert isinstance(found, move)
    assert not isinstance(found, Wait) or (found.reason, found.until) == (Reason.POLICY_PAUSED, None)


@pytest.mark.parametrize(
    ("situation", "counts"),
    [
        (incident(step()), False),
        (incident(step(state="Executing"), phase="Remediating"), True),
        (incident(step("a", "Succeeded"), step("b", "AwaitingApproval"), phase="AwaitingApproval"), True),
        (incident(step("a", "Failed", on_failure="Continue"), step("b", "Blocked"), phase="Blocked"), True),
        (incident(step("a", "Succeeded"), step("b"), phase="Open"), True),
        (incident(step("a", "Failed", on_failure="Stop"), step("b"), phase="Blocked"), False),
        (incident(step(state="Failed"), phase="Escalated"), False),
        (incident(step("a", "Succeeded"), step("b"), phase="Blocked", paused=True), False),
        (incident(step(state="Succeeded"), phase="Resolved"), False),
        (incident(step(state="Succeeded", action="diagnose"), step("b", "Blocked"), phase="Blocked"), False),
    ],
)
def test_what_counts_as_an_open_remediation(situation: Incident, counts: bool) -> None:
    assert is_remediating(situation) is counts


def test_a_lease_that_was_seen_to_be_over_is_put_back() -> None:
    assert next_move(incident(held(**WHEN_OVER)), NOW, frozenset({0})) == PutBack(0, Reason.LEASE_ENDED)
    assert isinstance(next_move(incident(held(**WHEN_OVER)), NOW), Wait)


def test_waits_say_when_to_look_again() -> None:
    until = [held("a", revert_at=later(9)), held("b", revert_at=later(5))]
    assert next_move(incident(*until, **CLOSED), NOW) == Wait(
        "closed by alice; a is put back at 2026-03-02 12:09:00 UTC; b is put back at 2026-03-02 12:05:00 UTC", later(5)
    )
    patient = incident(step(state="Succeeded", message="3 → 5", finished_at=ago(1), verify=verify(timeout="2m")))
    assert next_move(patient, NOW) == Wait("undo: 3 → 5; waiting for the alert to end", later(1))


NOT_BACK = {"state": "Failed", "operation": "o", "message": "not allowed"}


@pytest.mark.parametrize(
    ("failure", "facts", "move", "words"),
    [
        ("Forbidden", {}, Wait, "a person is needed"),
        ("TargetChanged", {}, Resolve, "the alert has ended"),  # what is there now is others'
        ("Forbidden", CLOSED, Wait, "more-room could not be put back: do that by hand"),
        ("TargetChanged", CLOSED, Resolve, "closed by alice"),
        ("Forbidden", {"resolution": {"resolvedBy": "alice", "keep": ["more-room"]}}, plan.Keep, ""),
    ],
)
def test_what_could_not_be_put_back_is_not_left_behind_silently(
    failure: str, facts: dict[str, Any], move: Any, words: str
) -> None:
    handed_over = {"since": NOW.isoformat(), "handedOver": True, "message": "not put back"}
    left = held(revert=Revert.model_validate(NOT_BACK | {"failure": failure}))
    found = next_move(incident(left, alert_state="resolved", status={"escalation": handed_over}, **facts), NOW)
    assert isinstance(found, move)
    assert words in getattr(found, "message", "")


def not_put_back(name: str = "more-room", failure: str = "Forbidden", tries: int = 1, at: datetime = NOW) -> StepStatus:
    """A leased step whose putting back has failed for the so-manyth time."""
    tried: dict[str, Any] = NOT_BACK | {"failure": failure, "attempts": tries, "finishedAt": at}
    return held(name, revert=Revert.model_validate(tried))


@pytest.mark.parametrize(
    ("tries", "seconds"), [(1, 15), (2, 30), (5, 240), (6, 300), (2000, 300)], ids=lambda value: str(value)
)
def test_a_deleted_incident_stays_while_something_is_left_and_tries_again_later_and_later(
    tries: int, seconds: int
) -> None:
    again = NOW + timedelta(seconds=seconds)
    found = next_move(incident(not_put_back(tries=tries), metadata=DELETED), NOW)
    assert isinstance(found, Wait)
    assert found.until == again
    assert found.message == (
        f"to be deleted, but more-room could not be put back (tried again at {again:%H:%M:%S} UTC): do that by hand, "
        "or leave it in place, and name it in spec.resolution.keep"
    )
    due = not_put_back(tries=tries, at=NOW - timedelta(seconds=seconds))
    assert next_move(incident(due, metadata=DELETED), NOW) == PutBack(0, Reason.DELETED)


KEPT = {"resolution": {"resolvedBy": "alice", "keep": ["more-room"]}}


@pytest.mark.parametrize(
    ("steps", "said", "move"),
    [
        ([held("a"), not_put_back()], {}, PutBack(0, Reason.DELETED)),
        ([not_put_back("a", tries=3, at=ago(9)), not_put_back("b", at=ago(9))], {}, PutBack(1, Reason.DELETED)),
        ([not_put_back("a", at=ago(9)), not_put_back("b")], {}, PutBack(0, Reason.DELETED)),
        ([not_put_back(failure="TargetChanged")], {}, Release()),  # what is there now is others'
        ([not_put_back()], CLOSED, Wait),
        ([not_put_back()], KEPT, plan.Keep(0)),
        ([held()], KEPT, plan.Keep(0)),
        ([not_put_back().model_copy(update={"kept_by": "alice"})], KEPT, Release()),
    ],
)
def test_what_a_deleted_incident_could_not_put_back_is_put_back_or_kept(
    steps: list[StepStatus], said: dict[str, Any], move: Any
) -> None:
    found = next_move(incident(*steps, metadata=DELETED, **said), NOW)
    assert found == move if not isinstance(move, type) else isinstance(found, move)


# -- a change that stands on another one -------------------------------------------------------------------------------

ON_TOP = {0: "incident covet/second"}
BEHIND = "more-room waits: what incident covet/second has changed since is put back first"


@pytest.mark.parametrize(
    ("situation", "words"),
    [
        (incident(held(revert_at=ago(1))), "recovered; "),
        (incident(held(revert_at=ago(1)), **CLOSED), "closed by alice; "),
        (incident(held(revert_at=ago(1)), status=ESCALATED), "a person is needed: look; "),
        (incident(held(), metadata=DELETED), "to be deleted; "),
        (incident(not_put_back(at=ago(9)), metadata=DELETED), "to be deleted; "),
    ],
)
def test_what_a_later_change_stands_on_is_put_back_after_that(situation: Incident, words: str) -> None:
    assert isinstance(next_move(situation, NOW), PutBack)
    found = next_move(situation, NOW, covered=ON_TOP)
    assert isinstance(found, Wait)
    assert found.message.startswith(words)
    assert found.message.endswith(BEHIND)
    assert found.until == NOW + timedelta(seconds=15)


def test_what_is_not_due_says_nothing_of_it() -> None:
    found = next_move(incident(held()), NOW, covered=ON_TOP)
    assert found == Wait("recovered; more-room is put back at 2026-03-02 12:55:00 UTC", later(55))
    assert next_move(incident(held(revert_at=ago(1)), paused=True), NOW, covered=ON_TOP) == Wait(
        "paused: a person has taken over", None, Reason.PAUSED
    )


def test_it_holds_up_nothing_else() -> None:
    begun = [held(revert_at=ago(1)), held("b", revert_at=ago(1)), step("c")]
    going = incident(*begun, strategy="Sequence")
    assert next_move(going, NOW, covered=ON_TOP) == PutBack(1, Reason.LEASE_ENDED)
    going.status.steps[1] = reverted("b", "LeaseEnded")
    assert next_move(going, NOW, covered=ON_TOP) == RunStep(2)
    assert next_move(incident(held(), metadata=DELETED, **KEPT), NOW, covered=ON_TOP) == plan.Keep(0)


# -- pinning -----------------------------------------------------------------------------------------------------------


def test_pinned_steps_are_resolved_for_the_incident() -> None:
    chosen = policy(
        mode="Approve",
        target={"nameFromLabel": "deployment"},
        verify={"rollout": True, "timeout": "1m"},
        steps=[
            {"name": "own", "restart": {}, "target": {"kind": "StatefulSet", "name": "db"}, "approval": "NotRequired"},
            {"name": "shared", "scale": {"replicas": "+2"}, "ttl": "1h", "verify": {"alertResolved": True}},
        ],
    )
    fired = incident(alert={"labels": {"deployment": "web"}, "startsAt": NOW.isoformat()})
    own, shared = pinned_steps(chosen, fired)
    assert (str(own.target), own.approval_required, own.verify) == ("StatefulSet/db", False, chosen.spec.verify)
    assert (str(shared.target), shared.approval_required, shared.params) == ("Deployment/web", True, {"replicas": "+2"})
    assert shared.verify
    assert (shared.ttl, shared.verify.alert_resolved) == (minutes(60), True)
    named = incident(alert_state=None, target={"kind": "DaemonSet", "name": "agent"})
    assert [str(s.target) for s in pinned_steps(chosen, named)] == ["StatefulSet/db", "DaemonSet/agent"]


LOG: dict[str, Any] = {"name": "log", "slowQueryLog": {}, "ttl": "30m", "target": {"kind": "Connection", "name": "db"}}


def test_what_only_lets_people_see_more_does_not_wait_for_the_alert_to_end() -> None:
    fired = incident(alert={"labels": {}, "startsAt": NOW.isoformat()})
    checks = {"alertResolved": True, "prometheus": {"query": "q", "condition": "value < 1"}}
    for given_checks in ({"verify": checks}, {}):
        log, undo = pinned_steps(policy(steps=[LOG, {"name": "undo", "rollback": {}}], **given_checks), fired)
        assert log.verify == Verify(rollout=True)
        assert undo.verify
        assert undo.verify.alert_resolved
    (own,) = pinned_steps(policy(steps=[LOG | {"verify": checks}]), fired)
    assert own.verify
    assert own.verify.alert_resolved, "what its step says itself counts"


@pytest.mark.parametrize(
    ("mode", "approval", "required"),
    [
        ("Auto", None, False),
        ("Auto", "Required", True),
        ("Auto", "NotRequired", False),
        ("Approve", None, True),
        ("Approve", "Required", True),
        ("Approve", "NotRequired", False),
    ],
)
def test_who_must_approve(mode: str, approval: str | None, required: bool) -> None:
    one = {"name": "undo", "rollback": {}} | ({"approval": approval} if approval else {})
    assert pinned_steps(policy(mode=mode, steps=[one]), incident())[0].approval_required is required


def test_evidence_of_a_breach_comes_before_anything_is_changed() -> None:
    breach = incident(alert_state=None, type="SecurityBreach")
    app = {"kind": "Deployment", "name": "covet-app"}
    chosen = policy(
        target=None,
        steps=[
            {"name": "kick", "restart": {}, "target": app},
            {"name": "room", "scale": {"replicas": 1}, "target": app},
        ],
    )
    first, *rest = pinned_steps(chosen, breach)
    assert (first.name, first.action, first.on_failure) == ("capture-evidence", "captureEvidence", "Continue")
    assert str(first.target) == "Deployment/covet-app"
    assert [s.name for s in rest] == ["kick", "room"]
    assert [s.name for s in pinned_steps(chosen, incident())] == ["kick", "room"]


SERVICE = {"kind": "Service", "name": "front"}
CONFIG_MAP = {"kind": "ConfigMap", "name": "config"}
WORKLOAD = {"kind": "StatefulSet", "name": "db"}
BLOCKED = {"name": "block", "blockTraffic": {}, "target": SERVICE}
AUDITED = {"name": "audit", "patchConfig": {"data": {"A": "1"}}, "target": CONFIG_MAP}
STOPPED = {"name": "stop", "approval": "Required", "shutdown": {"services": ["front"], "workloads": [{"name": "app"}]}}
OWN = {"name": "own", "captureEvidence": {}}


@pytest.mark.parametrize(
    ("steps", "spec", "named", "captures"),
    [
        ([BLOCKED], {}, None, ["capture-evidence Service/front"]),
        ([BLOCKED], {"target": CONFIG_MAP}, None, ["capture-evidence Service/front"]),
        ([AUDITED], {"target": SERVICE}, None, ["capture-evidence Service/front"]),
        (
            [BLOCKED, AUDITED, {"name": "kick", "restart": {}}],
            {"target": WORKLOAD},
            None,
            ["capture-evidence StatefulSet/db"],
        ),
        ([STOPPED], {}, None, ["capture-evidence Deployment/app"]),
        ([STOPPED], {"target": CONFIG_MAP}, None, ["capture-evidence Deployment/app"]),
        # its own counts where it surely captures something
        ([BLOCKED, OWN | {"target": SERVICE}], {}, None, ["own Service/front"]),
        ([BLOCKED, OWN], {"target": WORKLOAD}, None, ["own StatefulSet/db"]),
        ([BLOCKED, OWN], {"target": CONFIG_MAP}, None, ["own ConfigMap/config", "capture-evidence Service/front"]),
        (
            [BLOCKED, OWN | {"target": SERVICE, "when": "false"}],
            {},
            None,
            ["own Service/front", "capture-evidence Service/front"],
        ),
        (
            [BLOCKED, OWN | {"name": "capture-evidence", "target": SERVICE, "when": "false"}],
            {},
            None,
            ["capture-evidence Service/front", "capture-evidence-2 Service/front"],
        ),
        # who names a target may have only that looked into
        ([BLOCKED, {"name": "kick", "restart": {}}], {}, WORKLOAD, ["capture-evidence StatefulSet/db"]),
        (
            [BLOCKED, OWN | {"target": SERVICE}],
            {},
            WORKLOAD,
            ["own Service/front", "capture-evidence StatefulSet/db"],
        ),
    ],
)
def test_evidence_of_a_breach_is_of_something_with_pods(
    steps: list[Any], spec: dict[str, Any], named: Any, captures: list[str]
) -> None:
    breach = incident(alert_state=None, type="SecurityBreach", **({"target": named} if named else {}))
    chosen = policy(**{"target": None, "steps": steps} | spec)
    pinned = pinned_steps(chosen, breach, lambda one: ACTIONS[one.action].expand(one))
    first = [f"{one.name} {one.target}" for one in pinned if one.action == "captureEvidence"]
    assert first == captures
    assert [one.action for one in pinned[: len(first)]] == ["captureEvidence"] * len(first), (
        "before anything is changed"
    )


def test_evidence_of_a_breach_is_of_what_the_alert_names() -> None:
    by_label = {"kind": "Service", "nameFromLabel": "service"}
    fired = incident(alert={"labels": {"service": "web"}, "startsAt": NOW.isoformat()}, type="SecurityBreach")
    first, _ = pinned_steps(policy(target=None, steps=[BLOCKED | {"target": by_label}]), fired)
    assert str(first.target) == "Service/web"


def test_a_policys_own_capture_is_moved_to_the_front() -> None:
    breach = incident(alert_state=None, type="SecurityBreach")
    steps = [{"name": "kick", "restart": {}}, {"name": "logs", "captureEvidence": {"since": "24h"}}]
    pinned = pinned_steps(policy(steps=steps), breach)
    assert [(s.name, s.params) for s in pinned] == [("logs", {"since": "24h"}), ("kick", {})]


def test_reading_needs_no_approval_unless_it_is_asked_for() -> None:
    steps = [
        {"name": "logs", "captureEvidence": {}},
        {"name": "asked", "captureEvidence": {}, "approval": "Required"},
        {"name": "kick", "restart": {}},
    ]
    pinned = pinned_steps(policy(mode="Approve", steps=steps), incident())
    assert [s.approval_required for s in pinned] == [False, True, True]


@pytest.mark.parametrize(
    "more",
    [
        {"networkCapture": {"image": "netshoot:1"}},
        {"snapshots": {"connection": "account"}},
        {"databaseDump": {"connection": "dump"}},
    ],
)
def test_evidence_that_costs_something_needs_consent_and_comes_first_all_the_same(more: dict[str, Any]) -> None:
    logs = {"name": "logs", "captureEvidence": {}}
    steps = [{"name": "kick", "restart": {}}, {"name": "all", "captureEvidence": more}, logs]
    breach = incident(alert_state=None, type="SecurityBreach")
    pinned = pinned_steps(policy(mode="Approve", steps=steps), breach)
    assert [(s.name, s.approval_required) for s in pinned] == [("logs", False), ("all", True), ("kick", True)]
    assert not any(s.approval_required for s in pinned_steps(policy(mode="Auto", steps=steps), breach))


SECRET = {"kind": "Secret", "name": "s"}


@pytest.mark.parametrize(
    ("own", "shared", "named", "pinned"),
    [
        (None, None, None, "hunter2"),
        ({"kind": "ConfigMap", "name": "c"}, SECRET, SECRET, "hunter2"),
        (SECRET, None, None, ""),
        ({"kind": "Secret", "nameFromLabel": "missing"}, None, None, ""),
        (None, SECRET, None, ""),
        (None, {"kind": "ConfigMap", "name": "c"}, SECRET, ""),
    ],
)
def test_values_for_a_secret_are_not_pinned(own: Any, shared: Any, named: Any, pinned: str) -> None:
    target = {"target": own} if own else {}
    one = {"name": "set", "patchConfig": {"data": {"PASSWORD": "hunter2"}, "restart": "None"}} | target
    chosen = policy(steps=[one], target=shared or {"kind": "ConfigMap", "name": "c"})
    (found,) = pinned_steps(chosen, incident(alert_state=None, **({"target": named} if named else {})))
    assert found.params == {"data": {"PASSWORD": pinned}, "restart": "None"}


@pytest.mark.parametrize("label", ["", "Web", "a/b", "../secrets", "a b", "-a", "a" * 254, "a\n", "é", "a;rm -rf"])
def test_a_label_that_is_no_name_selects_nothing(label: str) -> None:
    fired = incident(alert={"labels": {"deployment": label}, "startsAt": NOW.isoformat()})
    assert pinned_steps(policy(target={"nameFromLabel": "deployment"}), fired)[0].target is None


def test_the_default_is_to_verify_the_rollout_and_the_alerts_end() -> None:
    by_alert, by_person = (pinned_steps(policy(), i)[0].verify for i in (incident(), incident(alert_state=None)))
    assert by_alert
    assert by_person
    assert (by_alert.rollout, by_alert.alert_resolved) == (True, True)
    assert (by_person.rollout, by_person.alert_resolved) == (True, None)


def test_waits_for_a_procedures_lease_as_long_as_its_last_part_has() -> None:
    over, left = ago(1), later(1)
    move = next_move(incident(*leased_parts(over, left), alert_state=None), NOW)
    assert isinstance(move, Wait)
    assert move.until == left


def test_a_procedure_becomes_its_parts() -> None:
    def expand(one: Step) -> list[Step]:
        return [one] if one.action != "scale" else [one.model_copy(update={"name": f"{one.name}-{n}"}) for n in "ab"]

    steps = [{"name": "kick", "restart": {}}, {"name": "stop", "scale": {"replicas": 0}}]
    pinned = pinned_steps(policy(steps=steps), incident(), expand)
    assert [(s.name, s.part_of) for s in pinned] == [("kick", None), ("stop-a", "stop"), ("stop-b", "stop")]


def test_a_procedure_of_one_part_is_one_too() -> None:
    steps = [{"name": "stop", "scale": {"replicas": 0}}]
    renamed = pinned_steps(
        policy(steps=steps), incident(), lambda one: [one.model_copy(update={"name": f"{one.name}-a"})]
    )
    assert [(s.name, s.part_of) for s in renamed] == [("stop-a", "stop")]


@pytest.mark.parametrize(
    ("steps", "index", "follows", "begun"),
    [
        (parts("Verifying", "Pending"), 0, True, False),
        (parts("Succeeded", "Pending"), 1, False, True),
        ([*parts("Succeeded"), step("b")], 0, False, False),
        ([step("a", "Succeeded"), step("b")], 0, False, False),
        ([step("a", "Succeeded"), step("b")], 1, False, False),
        (parts("Skipped", "Pending"), 1, False, False),
    ],
)
def test_what_follows_in_a_procedure_and_whether_it_is_begun(
    steps: list[StepStatus], index: int, follows: bool, begun: bool
) -> None:
    assert goes_on(steps, index) is follows
    assert is_begun(steps, steps[index]) is begun


# -- any history -------------------------------------------------------------------------------------------------------


@dataclass
class Life:
    """A reconciler, a target and people, all simulated: what happens is chance, what must never happen is asserted."""

    incident: Incident
    chance: Random
    now: datetime = NOW
    news: int = 6
    moves: int = 0
    in_place: set[int] = field(default_factory=set)
    made: Counter[int] = field(default_factory=Counter)
    undone: Counter[int] = field(default_factory=Counter)
    begun: list[int] = field(default_factory=list)
    released: bool = False

    @property
    def steps(self) -> list[StepStatus]:
        return self.incident.status.steps

    def run(self) -> None:
        """Until nothing can happen any more."""
        rounds = 0
        while not self.released:
            rounds, since_wait = rounds + 1, 0
            assert rounds < 1000, "it never comes to rest"
            while not isinstance(move := next_move(self.incident, self.now, self._leases_over()), Wait):
                self.moves, since_wait = self.moves + 1, since_wait + 1
                assert since_wait <= 64, "the reconciler's limit of moves in a round"
                if self._do(move) or self.released:
                    break
            assert self.moves < 400, "it never comes to rest"
            if isinstance(move, Wait):
                assert move.until is None or move.until > self.now, "a wait that is over at once is a busy loop"
            if not self._time_passes(move):
                return

    # -- what the reconciler does --------------------------------------------------------------------------------------

    def _do(self, move: Any) -> bool:  # noqa: C901 - one case for each kind of move
        """Performs a move; true when the round ends with it."""
        match move:
            case RunStep(index):
                return self._run_step(index)
            case Look(index):
                self._look(index)
            case VerifyStep(index):
                return self._verify(index)
            case PutBack(index):
                self._put_back(index)
            case LookAtRevert(index):
                self._end_revert(index)
            case ObservePlan():
                for one in self.steps:
                    one.state = "Skipped" if one.state == "Pending" else one.state
            case Escalate(reason, message):
                assert self.incident.status.escalation is None, "escalated twice"
                self._escalate(f"{reason}: {message}")
            case plan.Keep(index):
                self.steps[index].kept_by = "alice"
            case Resolve():
                self._resolve()
            case Release():
                self.incident.metadata.finalizers = []
                self.released = self.incident.metadata.deletion_timestamp is not None
        return False

    def _run_step(self, index: int) -> bool:
        self._may_begin(index)
        one = self.steps[index]
        what = self.chance.choice(["act"] * 6 + ["crash", "skip", "fail", "blocked", "for a person", "approval"])
        if what == "skip":
            one.state = "Skipped"
        elif what == "fail":
            one.state, one.reason = "Failed", "TargetNotFound"
        elif what in ("blocked", "for a person", "approval"):
            one.state = "AwaitingApproval" if what == "approval" else "Blocked"
            if what == "for a person":
                self._escalate("too old")
            return True
        else:
            self.begun.append(index)
            one.state, one.operation, one.attempts, one.started_at = "Executing", OPERATION, 1, self.now
            one.before, one.after = {"replicas": 3}, {"replicas": 5}
            if what == "act" or self.chance.random() < 0.5:
                self._change(index)
            if what == "act":
                self._applied(index)
        return False

    def _may_begin(self, index: int) -> None:
        """What must hold before a step is begun."""
        status, spec = self.incident.status, self.incident.spec
        assert status.policy
        assert not spec.paused
        assert spec.resolution is None
        assert status.policy.mode != "Observe"
        assert status.escalation is None
        assert status.phase != "Resolved"
        assert self.incident.metadata.deletion_timestamp is None
        assert index not in self.begun, "a step is run twice"
        one, before = self.steps[index], self.steps[:index]
        own = [s for s in before if s.part_of and s.part_of == one.part_of]
        assert all(s.state in ("Skipped", "Succeeded", "Failed", "Reverted") or self._left_out(s) for s in before)
        assert all(s.on_failure == "Continue" for s in before if failed(s))
        assert not any(failed(s) or s.state == "Reverted" for s in own), "a procedure goes on where it has failed"
        if is_firing(self.incident) is False:
            assert status.policy.strategy == "Sequence" or is_begun(self.steps, one)
            assert self.begun, "begun after the alert's end"
        if status.policy.strategy == "UntilRecovered":
            others = [s for s in before if s not in own]
            whole = [s for s in others if helped(s) and not any(map(failed, self._group(s)))]
            assert not whole, "a remedy has helped already"

    def _group(self, one: StepStatus) -> list[StepStatus]:
        return [s for s in self.steps if s.part_of and s.part_of == one.part_of] or [one]

    def _left_out(self, one: StepStatus) -> bool:
        earlier = self._group(one)[: self._group(one).index(one)]
        return one.state in WAITING_STATES and any(failed(s) or s.state == "Reverted" for s in earlier)

    def _change(self, index: int) -> None:
        self.made[index] += 1
        self.in_place.add(index)

    def _applied(self, index: int) -> None:
        one = self.steps[index]
        one.revert_at = self.now + one.ttl if one.ttl else None
        if one.verify is None or one.verify.is_empty():
            one.state, one.finished_at = "Succeeded", self.now
        else:
            one.state, one.verification = "Verifying", Verification(started_at=self.now)

    def _look(self, index: int) -> None:
        one = self.steps[index]
        one.attempts += 1
        seen = self.chance.choice(["truth"] * 4 + ["unknown", "conflict"])
        if seen == "unknown":
            one.state, one.reason = "Unknown", "OutcomeUnknown"
        elif index in self.in_place:
            self._applied(index)
        elif seen == "conflict" and one.attempts < 4:
            return
        elif self.chance.random() < 0.3:
            one.state, one.reason, one.after = "Failed", "TimedOut", None  # nothing was changed
        else:
            self._change(index)
            self._applied(index)

    def _verify(self, index: int) -> bool:
        one = self.steps[index]
        assert one.verification
        deadline = verification_deadline(one)
        assert deadline
        verdict = self.chance.choice(["Passed", "Failed", "Inconclusive", "Waiting"])
        if verdict == "Waiting" and self.now < deadline:
            return True
        one.finished_at = self.now
        if verdict == "Passed":
            one.state = "Succeeded"
            strategy = self.incident.status.policy.strategy if self.incident.status.policy else ""
            if strategy == "UntilRecovered" and not goes_on(self.steps, index):
                self._skip_pending()
        elif verdict == "Inconclusive":
            one.state, one.reason = "Unknown", "VerificationInconclusive"
        else:
            one.state, one.reason = "Failed", "VerificationFailed"
            self._put_back(index, Reason.VERIFICATION_FAILED)
        return False

    def _put_back(self, index: int, why: Reason = Reason.LEASE_ENDED) -> None:
        one = self.steps[index]
        tried = one.revert.attempts if one.revert else 0
        deleted = self.incident.metadata.deletion_timestamp is not None
        assert one.revert is None or (deleted and one.is_left_in_place), "put back twice"
        later = [s for s in self.steps[index + 1 :] if s.part_of and s.part_of == one.part_of]
        assert not any(s.holds_mitigation for s in later), "the last part of a procedure is put back first"
        one.revert = Revert(state="Executing", operation=OPERATION, reason=str(why), attempts=tried + 1)
        if self.chance.random() < 0.7:
            self._end_revert(index)

    def _end_revert(self, index: int) -> None:
        one = self.steps[index]
        assert one.revert
        if index not in self.in_place or self.chance.random() < 0.2:
            one.revert.state, one.revert.finished_at = "Failed", self.now
            one.revert.failure = self.chance.choice(["TargetChanged", "Forbidden", "PartlyDone"])
            self._escalate("hands off")
            return
        self.undone[index] += 1
        self.in_place.discard(index)
        one.revert.state, one.state = "Succeeded", "Reverted"
        one.reason = str(
            Reason.VERIFICATION_FAILED if one.revert.reason == "VerificationFailed" else Reason.LEASE_ENDED
        )

    def _resolve(self) -> None:
        left = [i for i in self.in_place if self.steps[i].ttl or self.steps[i].revert_when]
        assert all(r is not None and r.state == "Failed" for r in (self.steps[i].revert for i in left))
        assert not any(one.is_left_in_place for one in self.steps), "what could not be put back is left silently"
        self._skip_pending()
        self.incident.status.phase = "Resolved"
        self.incident.metadata.finalizers = []

    def _skip_pending(self) -> None:
        for one in self.steps:
            one.state = "Skipped" if one.state in WAITING_STATES else one.state

    def _escalate(self, message: str) -> None:
        if self.incident.status.escalation is None:
            self.incident.status.escalation = EscalationStatus(since=self.now, message=message)

    # -- what time and people do ---------------------------------------------------------------------------------------

    def _leases_over(self) -> frozenset[int]:
        """As the reconciler looks: at steps that succeeded, or of which that is not known."""
        watched = [
            i
            for i, s in enumerate(self.steps)
            if s.holds_mitigation and s.revert_when and s.state in ("Succeeded", "Unknown")
        ]
        return frozenset(watched if self.news == 0 else ())

    def _time_passes(self, end: Any) -> bool:
        """Something happens; false when nothing can."""
        if self.news:
            self.news -= 1
            self.now += minutes(self.chance.choice([0.1, 1, 10, 60]))
            self._something_happens()
            return True
        if self.incident.spec.paused:
            self.incident.spec.paused = False
            return True
        if self.incident.metadata.deletion_timestamp and self.chance.random() < 0.2:
            self.incident.spec.resolution = Resolution(resolved_by="alice", keep=[one.name for one in self.steps])
            return True
        if isinstance(end, Wait) and end.until is None:
            return any(s.holds_mitigation and s.revert_when and s.state == "Succeeded" for s in self.steps)
        self.now = end.until if isinstance(end, Wait) else self.now + minutes(5)
        return True

    def _something_happens(self) -> None:
        spec, status = self.incident.spec, self.incident.status
        what = self.chance.choice(["nothing", "nothing", "pause", "go on", "close", "alert", "delete"])
        if what in ("pause", "go on"):
            spec.paused = what == "pause"
        elif what == "close" and self.chance.random() < 0.5:
            spec.resolution = Resolution(resolved_by="alice")
        elif what == "alert" and status.alert:
            status.alert.state = self.chance.choice(["firing", "resolved"])
        elif what == "delete" and self.chance.random() < 0.3:
            self.incident.metadata.deletion_timestamp = self.now


def a_life(chance: Random) -> Life:
    steps = []
    for number in range(chance.randint(1, 4)):
        leased = chance.choice([{}, {}, {"ttl": minutes(30)}, {"revert_when": RevertWhen(alert_resolved=True)}])
        checked = {"verify": verify(rollout=True, timeout="2m") if chance.random() < 0.7 else verify()}
        how = {"on_failure": chance.choice(["Continue", "Continue", "Stop", "Escalate"])}
        steps.append(step(f"s{number}", **leased, **checked, **how))
    if chance.random() < 0.5:
        _make_procedure(steps, chance)
    return Life(
        incident(
            *steps,
            alert_state=chance.choice(["firing", None]),
            strategy=chance.choice(["UntilRecovered", "Sequence"]),
            mode=chance.choice(["Auto", "Auto", "Auto", "Observe"]),
            metadata={"finalizers": [FINALIZER]},
        ),
        chance,
    )


def _make_procedure(steps: list[StepStatus], chance: Random) -> None:
    """Some neighbours become the parts of one of the policy's steps, with its lease and its onFailure."""
    first = chance.randrange(len(steps))
    for part in steps[first : first + chance.randint(1, 3)]:
        part.part_of = "all"
        part.ttl, part.revert_when, part.on_failure = (
            steps[first].ttl,
            steps[first].revert_when,
            steps[first].on_failure,
        )


@settings(max_examples=800, deadline=None)
@given(st.integers(0, 2**64))
def test_any_life_comes_to_rest_and_breaks_no_rule(seed: int) -> None:
    life = a_life(Random(seed))
    life.run()
    assert all(count == 1 for count in life.made.values()), "a change was made twice"
    assert all(count == 1 for count in life.undone.values()), "a change was undone twice"
    assert life.begun == sorted(set(life.begun))
    if life.incident.metadata.deletion_timestamp:
        assert life.released
    elif life.incident.spec.resolution:
        is_over = life.incident.status.phase == "Resolved"
        assert is_over != any(one.is_left_in_place for one in life.steps), life.incident
    else:
        assert not any(s.state in ("Executing", "Verifying") for s in life.steps)
    if life.incident.status.policy and life.incident.status.policy.mode == "Observe":
        assert not life.made


@settings(max_examples=100, deadline=None)
@given(st.integers(1, 6), st.sampled_from(["UntilRecovered", "Sequence"]), st.integers(0, 5))
def test_a_sequence_runs_all_and_remedies_stop_at_the_first_that_helps(count: int, strategy: str, helps: int) -> None:
    steps = [step(f"s{n}", on_failure="Continue") for n in range(count)]
    going = incident(*steps, strategy=strategy, alert_state=None)
    run = []
    while isinstance(move := next_move(going, NOW), RunStep):
        run.append(move.step)
        good = move.step == helps or strategy == "Sequence"
        going.status.steps[move.step] = step(f"s{move.step}", "Succeeded" if good else "Failed", on_failure="Continue")
    wanted = count if strategy == "Sequence" else min(helps + 1, count)
    assert run == list(range(wanted))
    assert isinstance(move, Resolve if strategy == "Sequence" or helps < count else Escalate)


def test_a_start_that_is_not_known_is_that_of_the_incident() -> None:
    opened = ago(3).isoformat()
    unknown = incident(
        alert={"fingerprint": "f1", "startsAt": "1970-01-01T00:00:00Z"}, metadata={"creationTimestamp": opened}
    )
    assert began_at(unknown) == ago(3)
    assert began_at(incident(metadata={"creationTimestamp": opened})) == ago(10)
