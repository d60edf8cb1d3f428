"""Who is called when: each trigger once, level by level, at the hours in which people are called, whatever restarts."""

from __future__ import annotations

import json
from collections import Counter
from datetime import datetime, timedelta
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from builders import NOW, held, incident, later, minutes
from paramedic.api.incident import Acknowledgement, EscalationRequest, EscalationStatus, Incident, StepStatus
from paramedic.api.people import PeopleSettings
from paramedic.api.reasons import Reason
from paramedic.core import escalation
from paramedic.core.alert import short_hash
from paramedic.core.escalation import decide, next_look
from paramedic.record import Draft, escalate

Json = dict[str, Any]
OPENED = {"creationTimestamp": NOW.isoformat()}


def team(name: str = "engineering", levels: int = 3, next_after: str = "15m") -> Json:
    contacts = [{"channel": "pager", "mention": f"U{name}"}]
    return {
        "name": name,
        "levels": [
            {"name": f"level {n}", "contacts": [*contacts, {"channel": f"{name}-{n}"}], "nextAfter": next_after}
            for n in range(1, levels + 1)
        ],
    }


def people(**spec: Any) -> PeopleSettings:
    usual: Json = {"teams": [team(), team("security", 2)], "defaultTeam": "engineering", "securityTeam": "security"}
    return PeopleSettings.model_validate(usual | spec)


def opened(*steps: Any, **fields: Any) -> Incident:
    """An incident that was opened at NOW."""
    return incident(*steps, metadata=OPENED, **fields)


def advance(found: Incident, chosen: PeopleSettings, now: datetime) -> list[str]:
    """What one write at ``now`` adds, stored; gives the keys of the calls."""
    decision = decide(found, chosen, now)
    if decision is None:
        return []
    found.status.escalation = decision.status
    return [call.key for call in decision.calls]


def reread(found: Incident) -> Incident:
    """As the next process reads it."""
    return Incident.model_validate(
        json.loads(
            json.dumps(
                {"metadata": OPENED | {"name": "a", "namespace": "b"}}
                | {"spec": found.spec.to_wire(), "status": found.status.to_wire()}
            )
        )
    )


def acknowledge(found: Incident, at: datetime) -> None:
    found.status.acknowledgement = Acknowledgement(by="alice", at=at)


# -- the runbook's triggers --------------------------------------------------------------------------------------------


def test_p0_that_nobody_acknowledges_goes_level_by_level_after_five_minutes() -> None:
    found, chosen = opened(), people()
    assert advance(found, chosen, later(4.9)) == []
    assert next_look(found, chosen, later(4.9)) == later(5)
    assert advance(found, chosen, later(5)) == ["call.engineering.1.NotAcknowledged"]
    assert advance(found, chosen, later(5)) == []
    assert next_look(found, chosen, later(5)) == later(20)
    assert advance(found, chosen, later(20)) == ["call.engineering.2.Unanswered"]
    assert advance(found, chosen, later(35)) == ["call.engineering.3.Unanswered"]
    assert advance(found, chosen, later(59)) == []
    assert found.status.escalation is not None
    assert not found.status.escalation.handed_over
    assert found.status.escalation.message == "nobody has acknowledged within 5m"


def test_who_has_been_acknowledged_to_is_not_followed_by_the_next_level() -> None:
    found, chosen = opened(), people()
    advance(found, chosen, later(5))
    acknowledge(found, later(6))
    assert advance(found, chosen, later(30)) == []
    assert advance(found, chosen, later(60)) == ["call.engineering.2.NotResolved"]


def test_p1_that_is_not_resolved_within_an_hour() -> None:
    found, chosen = opened(severity="P1"), people()
    acknowledge(found, later(1))
    assert next_look(found, chosen, later(1)) == later(60)
    assert advance(found, chosen, later(60)) == ["call.engineering.1.NotResolved"]
    assert next_look(found, chosen, later(60)) is None


def test_security_breach_is_the_security_teams_at_once_unless_the_policy_names_one() -> None:
    found, chosen = opened(type="SecurityBreach", severity="P3"), people()
    assert advance(found, chosen, NOW) == ["call.security.1.SecurityBreach"]
    found = opened(type="SecurityBreach")
    assert found.status.policy is not None
    found.status.policy.team = "engineering"
    assert advance(found, chosen, NOW) == ["call.engineering.1.SecurityBreach"]


def test_a_team_that_there_is_not_is_no_reason_to_call_nobody() -> None:
    found = opened()
    assert found.status.policy is not None
    found.status.policy.team = "no-such-team"
    assert advance(found, people(), later(5)) == ["call.engineering.1.NotAcknowledged"]


def test_without_a_team_it_is_escalated_all_the_same() -> None:
    found = opened()
    decision = decide(found, PeopleSettings(), later(5))
    assert decision is not None
    assert decision.calls == []
    assert decision.status.triggers == ["NotAcknowledged"]
    assert [reason for reason, _ in decision.facts] == [Reason.NOT_ACKNOWLEDGED]
    assert "no team is configured" in decision.facts[0][1]


@pytest.mark.parametrize(
    ("phase", "spec", "expected"),
    [
        ("Blocked", {}, ["call.engineering.1.BlockedTooLong"]),
        ("Blocked", {"paused": True}, []),
        ("AwaitingApproval", {}, ["call.engineering.1.ApprovalOverdue"]),
        ("Remediating", {}, []),
    ],
)
def test_what_waits_for_too_long(phase: str, spec: Json, expected: list[str]) -> None:
    found, chosen = opened(phase=phase, status={"phaseSince": later(2).isoformat()}, **spec), people()
    acknowledge(found, later(1))
    assert advance(found, chosen, later(11.9)) == []
    assert advance(found, chosen, later(12)) == expected
    assert advance(found, chosen, later(13)) == []


def test_handed_over_by_paramedic_calls_the_present_level_and_keeps_its_reason() -> None:
    handed = {"level": 1, "since": later(1).isoformat(), "reason": "StepFailed", "message": "step undo: it failed"}
    found, chosen = opened(status={"escalation": handed}), people()
    decision = decide(found, chosen, later(1))
    assert decision is not None
    assert [call.key for call in decision.calls] == ["call.engineering.1.HandedOver"]
    assert decision.calls[0].fact == "StepFailed"
    assert decision.facts == []
    found.status.escalation = decision.status
    assert advance(found, chosen, later(5)) == ["call.engineering.1.NotAcknowledged"]
    assert advance(found, chosen, later(16)) == ["call.engineering.2.Unanswered"]
    kept = found.status.escalation
    assert (kept.reason, kept.message, kept.handed_over) == ("StepFailed", "step undo: it failed", True)


def not_put_back(name: str, at: datetime) -> StepStatus:
    """A leased step whose change is still there."""
    return held(name, revert={"state": "Failed", "operation": "op", "message": "it was denied", "finished_at": at})


def test_each_change_that_cannot_be_put_back_after_a_hand_over_calls_once_more() -> None:
    handed = {"level": 1, "since": later(1).isoformat(), "reason": "StepFailed", "message": "step undo: it failed"}
    found, chosen = opened(held("a"), held("b"), status={"escalation": handed}, severity="P2"), people()
    assert advance(found, chosen, later(1)) == ["call.engineering.1.HandedOver"]
    acknowledge(found, later(2))
    found.status.steps[0] = not_put_back("a", later(60))
    decision = decide(found, chosen, later(60))
    assert decision is not None
    assert decision.facts == [], "who has handed over says it"
    assert [(call.fact, call.message) for call in decision.calls] == [
        ("NotPutBack", "level 1 of engineering (level 1): step a could not be put back: it was denied")
    ]
    assert advance(found, chosen, later(60)) == ["call.engineering.1.NotPutBack.a"]
    found = reread(found)
    assert advance(found, chosen, later(61)) == []
    found.status.steps[1] = not_put_back("b", later(70))
    assert advance(found, chosen, later(70)) == ["call.engineering.1.NotPutBack.b"]
    assert advance(reread(found), chosen, later(71)) == []


def test_changes_that_cannot_be_put_back_at_one_moment_are_one_call_each() -> None:
    found, chosen = opened(not_put_back("a", later(1)), not_put_back("b", later(1))), people()
    draft = Draft(found, {}, later(1))
    for name in ("a", "b"):
        escalate(draft, Reason.NOT_PUT_BACK, f"step {name} could not be put back: it was denied")
    assert [entry.message for entry in found.status.timeline] == [
        "escalated: step a could not be put back: it was denied",
        "escalated: step b could not be put back: it was denied",
    ]
    assert advance(found, chosen, later(1)) == ["call.engineering.1.HandedOver", "call.engineering.1.NotPutBack.b"]
    assert advance(reread(found), chosen, later(2)) == []


def test_a_change_that_cannot_be_put_back_at_night_is_told_of_in_the_morning_in_its_own_words() -> None:
    handed = {"level": 1, "since": later(1).isoformat(), "reason": "StepFailed", "message": "step undo: it failed"}
    found, chosen = opened(held("a"), status={"escalation": handed}), people(responses=[AT_WORK])
    assert advance(found, chosen, later(1)) == ["call.engineering.1.HandedOver"]
    found.status.steps[0] = not_put_back("a", later(300))
    assert advance(found, chosen, later(300)) == []
    decision = decide(reread(found), chosen, NOW + timedelta(hours=21))
    assert decision is not None
    call = next(call for call in decision.calls if call.key == "call.engineering.1.NotPutBack.a")
    assert call.message.endswith("step a could not be put back: it was denied")


def ask(found: Incident, message: str) -> None:
    found.spec.escalation = EscalationRequest(requested_by="alice", message=message)


def test_a_person_calls_the_next_level_by_hand_each_time_with_other_words() -> None:
    found, chosen = opened(severity="P2"), people()
    ask(found, "customer data may be concerned")
    first = advance(found, chosen, later(1))
    assert [key.rpartition(".")[0] for key in first] == ["call.engineering.1.Requested"]
    assert advance(reread(found), chosen, later(2)) == []
    acknowledge(found, later(2))
    ask(found, "legal has to know")
    assert [key.rpartition(".")[0] for key in advance(found, chosen, later(3))] == ["call.engineering.2.Requested"]
    assert not found.status.escalation or not found.status.escalation.handed_over, "Paramedic goes on"


def test_words_that_a_person_has_used_before_call_again_when_others_were_said_between() -> None:
    found, chosen = opened(severity="P2"), people()
    calls = []
    for minute, message in enumerate(["database is down", "network too", "database is down", "network too"], 1):
        ask(found, message)
        calls += advance(found, chosen, later(minute))
        found = reread(found)
        assert advance(found, chosen, later(minute)) == [], "once"
    assert [key.rpartition(".Requested.")[0] for key in calls] == [f"call.engineering.{n}" for n in (1, 2, 3, 3)]
    assert len(set(calls)) == 4


def test_a_request_that_an_older_version_has_stored_is_not_called_for_again() -> None:
    found, chosen = opened(severity="P2"), people()
    ask(found, "database is down")
    stored = ["Requested.earlier", f"Requested.{short_hash('alice', 'database is down')}", "NotResolved"]
    found.status.escalation = EscalationStatus(since=NOW, handed_over=False, triggers=stored)
    assert advance(found, chosen, later(1)) == []


def test_what_a_person_asks_for_at_night_is_called_in_the_morning() -> None:
    hours = {"schedule": "0 8 * * *", "duration": "10h"}
    found = opened(severity="P3")
    chosen = people(responses=[{"severity": "P3", "respondWithin": "4h", "callDuring": [hours]}])
    night, morning = NOW.replace(hour=2, minute=0), NOW.replace(hour=8, minute=0)
    found.metadata.creation_timestamp = night
    found.spec.escalation = EscalationRequest(requested_by="alice", message="help")
    assert advance(found, chosen, night) == []
    assert next_look(found, chosen, night) == morning
    assert len(advance(reread(found), chosen, morning)) == 1


def test_a_call_names_the_levels_channels_and_mentions() -> None:
    decision = decide(opened(), people(), later(5))
    assert decision is not None
    (call,) = decision.calls
    assert call.channels == ("pager", "engineering-1")
    assert call.mentions == ("Uengineering",)
    assert call.message == "level 1 of engineering (level 1): nobody has acknowledged within 5m"


# -- what stops it -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "over",
    [
        {"phase": "Resolved"},
        {"status": {"resolvedAt": later(2).isoformat()}},
        {"metadata": OPENED | {"deletionTimestamp": later(2).isoformat()}},
    ],
)
def test_nothing_is_due_of_what_is_over(over: Json) -> None:
    found = incident(**({"metadata": OPENED} | over))
    assert decide(found, people(), later(500)) is None
    assert next_look(found, people(), later(500)) is None


def test_who_deletes_an_incident_is_called_for_what_could_not_be_put_back_and_for_no_clock() -> None:
    failed: Json = {"state": "Failed", "operation": "o", "failure": "Forbidden", "finishedAt": later(2).isoformat()}
    going = {"metadata": OPENED | {"deletionTimestamp": later(2).isoformat()}}
    handed_over = {"escalation": {"since": later(2).isoformat(), "message": "step more-room could not be put back"}}
    found, chosen = incident(held(revert=failed), **going, status=handed_over), people()
    assert advance(found, chosen, later(6)) == [
        "call.engineering.1.HandedOver",
        "call.engineering.1.NotPutBack.more-room",
    ]
    assert next_look(found, chosen, later(6)) == later(17)
    found.status.steps[0].kept_by = "alice"
    assert decide(found, chosen, later(500)) is None


def test_a_pause_stops_no_clock() -> None:
    assert advance(opened(paused=True), people(), later(5)) == ["call.engineering.1.NotAcknowledged"]


def test_the_clocks_of_a_part_are_its_parents_but_not_what_paramedic_hands_over() -> None:
    found, chosen = opened(status={"parent": "several-services-1"}), people()
    assert advance(found, chosen, later(100)) == []
    assert next_look(found, chosen, later(100)) is None
    found = opened(
        status={"parent": "several-services-1", "escalation": {"since": later(1).isoformat(), "message": "it failed"}}
    )
    assert advance(found, chosen, later(1)) == ["call.engineering.1.HandedOver"]


CLOSED = {"resolution": {"resolvedBy": "alice"}}
HANDED_OVER = {"level": 1, "since": NOW.isoformat(), "reason": "StepFailed", "message": "step undo: it failed"}
COUNTED = {"handedOver": False, "team": "engineering", "triggers": ["NotAcknowledged", "NotResolved"]}
NOT_ANSWERED = HANDED_OVER | {"reason": "NotAcknowledged"} | COUNTED


@pytest.mark.parametrize("closed", [{"spec": CLOSED}, {"status": {"closure": {"by": "bob", "at": NOW.isoformat()}}}])
@pytest.mark.parametrize("severity", ["P0", "P1"])
@pytest.mark.parametrize("called", [None, NOT_ANSWERED], ids=["nobody was called", "the first level was called"])
def test_what_a_person_has_closed_calls_nobody_while_a_lease_keeps_it_open(
    closed: Json, severity: str, called: Json | None
) -> None:
    """Neither by its clocks nor by the next level; without that word both would."""

    def calls(status: Json, spec: Json) -> list[str]:
        known = status | ({"escalation": called} if called else {})
        found = opened(held(), severity=severity, status=known, **spec)
        chosen = people()
        made = advance(found, chosen, later(90))
        look = next_look(found, chosen, later(90))
        assert bool(made) or look is None, "it would look again and again for nothing"
        return made

    assert calls({}, {}) != []
    assert calls(closed.get("status", {}), closed.get("spec", {})) == []


def test_what_a_person_has_closed_and_paramedic_cannot_end_is_still_for_people() -> None:
    found, chosen = opened(held(), status={"escalation": HANDED_OVER}, **CLOSED), people()
    assert advance(found, chosen, later(1)) == ["call.engineering.1.HandedOver"]
    assert advance(found, chosen, later(16)) == ["call.engineering.2.Unanswered"]


def test_a_severity_that_was_raised_counts() -> None:
    found, chosen = opened(severity="P3"), people()
    assert advance(found, chosen, later(10)) == []
    found.status.severity = "P0"
    assert advance(found, chosen, later(10)) == ["call.engineering.1.NotAcknowledged"]


# -- hours -------------------------------------------------------------------------------------------------------------

# NOW is a Monday, 12:00 UTC.
WORK_HOURS = {"schedule": "0 9 * * MON-FRI", "duration": "8h", "timeZone": "UTC"}
AT_WORK = {"severity": "P0", "respondWithin": "0s", "acknowledgeWithin": "5h", "callDuring": [WORK_HOURS]}


def test_calls_wait_for_their_hours_and_are_made_when_those_begin() -> None:
    found, chosen = opened(), people(responses=[AT_WORK])
    decision = decide(found, chosen, later(5 * 60))
    assert decision is not None
    assert decision.calls == []
    assert decision.status.waiting == ["1.NotAcknowledged"]
    found.status.escalation = decision.status
    morning = NOW + timedelta(hours=21)
    assert next_look(found, chosen, later(301)) == morning
    assert next_look(found, chosen, morning + minutes(1)) == morning + minutes(1), "the hours began since the last look"
    assert advance(found, chosen, later(301)) == []
    assert next_look(found, chosen, morning) is not None
    assert advance(found, chosen, morning) == ["call.engineering.1.NotAcknowledged"]
    assert advance(found, chosen, morning) == []
    assert next_look(found, chosen, morning) == morning + minutes(15)


def test_a_call_for_want_of_acknowledgement_is_not_made_any_more_when_there_is_one() -> None:
    found, chosen = opened(), people(responses=[AT_WORK])
    advance(found, chosen, later(300))
    acknowledge(found, later(310))
    assert advance(found, chosen, later(310)) == []
    assert found.status.escalation is not None
    assert found.status.escalation.waiting == []
    assert advance(found, chosen, NOW + timedelta(hours=21)) == []


def test_a_graver_severity_without_hours_calls_at_once() -> None:
    found, chosen = opened(severity="P2"), people(responses=[AT_WORK | {"severity": "P2"}])
    advance(found, chosen, later(300))
    found.status.severity = "P1"
    assert "call.engineering.1.NotAcknowledged" in advance(found, chosen, later(310))


# -- walks through time ------------------------------------------------------------------------------------------------

OFTEN = {"schedule": "*/20 * * * *", "duration": "7m"}
EVENTS = st.sampled_from(["ack", "block", "await", "go on", "hand over", "raise", "restart", "pause"])
WALK = st.lists(st.tuples(st.floats(0.1, 40), st.one_of(st.none(), EVENTS)), max_size=40)


def happen(found: Incident, event: str | None, now: datetime) -> Incident:
    """Something that people or Paramedic do."""
    status = found.status
    if event == "ack" and status.acknowledgement is None:
        acknowledge(found, now)
    elif event in ("block", "await", "go on"):
        status.phase = {"block": "Blocked", "await": "AwaitingApproval", "go on": "Verifying"}[event]  # type: ignore[assignment]
        status.phase_since = now
    elif event == "hand over":
        known = status.escalation or escalation.EscalationStatus(since=now)
        status.escalation = known.model_copy(
            update={"handed_over": True, "reason": "StepFailed", "message": "it failed"}
        )
    elif event == "raise":
        status.severity = "P0"
    elif event == "restart":
        return reread(found)
    elif event == "pause":
        found.spec.paused = not found.spec.paused
    return found


@settings(max_examples=300, deadline=None)
@given(walk=WALK, severity=st.sampled_from(["P0", "P1", "P2", "P3"]), at_hours=st.booleans(), late=st.floats(0, 300))
def test_each_call_is_made_once_and_none_is_lost(
    walk: list[tuple[float, str | None]], severity: str, at_hours: bool, late: float
) -> None:
    often = {"severity": severity, "acknowledgeWithin": "7m", "callDuring": [OFTEN]}
    spec = {"responses": [AT_WORK | often]} if at_hours else {}
    chosen, found, now = people(**spec), opened(severity=severity), NOW
    calls: Counter[str] = Counter()
    for gap, event in [*walk, (late, "restart")]:
        until = now + minutes(gap)
        # The process looks whenever it said it would, unless it is down: then it looks at the end.
        while event != "restart" and (at := next_look(found, chosen, now)) and at <= until:
            now = max(now, at)
            made = advance(found, chosen, now)
            calls.update(made)
            again = next_look(found, chosen, now)
            assert again is None or again > now, "it would look again and again at the same moment"
        now = until
        if event != "restart":
            assert decide(found, chosen, now) is None, "it did not look when something was due"
        found = happen(found, event, now)
        calls.update(advance(found, chosen, now))
    assert max(calls.values(), default=0) <= 1, calls
    # Whatever was due has been called, or waits for its hours.
    known = found.status.escalation
    counted = set(known.triggers) if known else set()
    answered = {key.rpartition(".")[2] for key in calls} | {
        one.partition(".")[2] for one in (known.waiting if known else [])
    }
    dropped = {"NotAcknowledged"} if found.status.acknowledgement else set()
    assert counted <= answered | dropped
    assert decide(found, chosen, now) is None, "nothing that is due is left"
    levels = [int(key.split(".")[2]) for key in calls]
    assert max(levels, default=1) <= 3
