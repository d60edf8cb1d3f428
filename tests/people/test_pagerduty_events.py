"""What PagerDuty is told: which events, in what shape, and which notes."""

from __future__ import annotations

from typing import Any

import pytest

from builders import NOW, ago, incident
from paramedic.api.incident import Notice
from paramedic.core import pagerduty as core
from paramedic.core.alert import short_hash
from people.pagerduty_vendor import ROUTING_KEY, Trigger


def notices(*kinds: str) -> list[Notice]:
    return [Notice(key=f"{n}", kind=kind, at=ago(10 - n), message=f"fact {n}") for n, kind in enumerate(kinds)]  # type: ignore[arg-type]


OWN = "paramedic-uid-1"


def page(number: int) -> str:
    """The key of the alert that the notice of this number has for itself."""
    return f"{OWN}/{short_hash(str(number))}"


def sent(kinds: str, paged: core.Paged = core.Paged(), *, again: bool = False, severity: str = "P1") -> list[str]:  # noqa: B008
    """The events as ``action number``: 0 for the incident's own alert, else the notice's that has one for itself."""
    told = notices(*kinds.split())
    numbers = {OWN: "0"} | {page(n): str(n) for n in range(1, 100)}
    events = core.events(incident(severity=severity), told, paged, again=again)
    return [f"{event.action} {numbers[event.key]}" for event in events]


@pytest.mark.parametrize(
    ("kinds", "events"),
    [
        ("Opened", ["trigger 0"]),
        ("Opened Update Update", ["trigger 0"]),
        ("Update", []),
        ("Update Call", ["trigger 0"]),  # nobody was paged before
        ("Opened Call Call Acknowledged", ["trigger 0", "acknowledge 0"]),  # all at once: once
        ("Opened Acknowledged Acknowledged", ["trigger 0", "acknowledge 0"]),
        ("Opened Acknowledged Call", ["trigger 0", "acknowledge 0", "trigger 2"]),  # who works on it needs more people
        ("Resolved", ["resolve 0"]),
        ("Opened Update Resolved", ["resolve 0"]),  # over before anybody could be paged
        ("Resolved Update Reminder", ["resolve 0"]),
        ("Resolved Acknowledged", ["resolve 0"]),  # said too late
        ("Shutdown ApprovalNeeded", []),
    ],
)
def test_which_events_the_notices_come_to(kinds: str, events: list[str]) -> None:
    assert sent(kinds) == events


@pytest.mark.parametrize(
    ("kinds", "events"),
    [
        ("Update Call", ["trigger 1"]),  # in an alert that is open it would page nobody
        ("Update Call Call Acknowledged", ["trigger 1", "acknowledge 0", "acknowledge 7", "acknowledge 1"]),
        ("Acknowledged", ["acknowledge 0", "acknowledge 7"]),
        ("Update Call Resolved", ["resolve 0", "resolve 7"]),
    ],
)
def test_once_people_were_paged_each_call_is_an_alert_of_its_own(kinds: str, events: list[str]) -> None:
    assert sent(kinds, core.Paged((OWN, page(7)), "P1")) == events


@pytest.mark.parametrize(
    ("kinds", "events"),
    [
        ("Opened", ["trigger 0"]),
        ("Opened Call", ["trigger 0", "trigger 1"]),  # the first may be open there already
        ("Opened Call Resolved", ["resolve 0", "resolve 1"]),  # either may
    ],
)
def test_what_may_have_been_told_takes_no_call_with_it(kinds: str, events: list[str]) -> None:
    assert sent(kinds, again=True) == events


@pytest.mark.parametrize(
    ("before", "severity", "again", "events"),
    [
        ("P3", "P0", False, ["trigger 0"]),
        ("P2", "P1", False, ["trigger 0"]),
        ("P3", "P2", False, []),
        ("P1", "P0", False, []),
        ("P3", "P1", True, ["trigger 0"]),
    ],
)
def test_an_incident_that_turns_out_to_be_grave_pages_again(
    before: str, severity: str, again: bool, events: list[str]
) -> None:
    raised = notices("Update")
    raised[0].reason = "SeverityRaised"
    known = core.Paged((OWN,), before)
    made = core.events(incident(severity=severity), raised, known, again=again)
    assert [f"{event.action} 0" for event in made if event.key == page(0)] == events
    assert len(made) == len(events)


def test_what_was_told_when_it_was_less_grave_pages_again_though_it_is_told_again() -> None:
    told = notices("Opened", "Update")
    told[1].reason = "SeverityRaised"
    keys = [event.key for event in core.events(incident(severity="P0"), told, core.Paged(), again=True)]
    assert keys == [OWN, page(1)]
    keys = [event.key for event in core.events(incident(severity="P0"), told, core.Paged(), again=False)]
    assert keys == [OWN]


@pytest.mark.parametrize("again", [False, True])
def test_an_event_that_was_accepted_is_not_sent_again(again: bool) -> None:
    """Wherever the others failed, and whatever has come since."""
    told = notices("Opened", "Call", "Update", "Acknowledged", "Call", "Update", "Call")
    whole = [(e.action, e.key) for e in core.events(incident(), told, core.Paged(), again=again)]
    for accepted in range(1, len(whole) + 1):
        then = core.events(incident(), told, core.Paged(), again=again)[accepted - 1].then
        kept = incident(status={"external": then.to_external("pager")})
        assert core.Paged.read(kept, "pager") == then
        rest = core.events(kept, told, then, again=again)
        left = [(e.action, e.key) for e in rest]
        assert [one for one in left if one[0] == "trigger"] == [o for o in whole[accepted:] if o[0] == "trigger"]
        assert left[len(left) - len(whole[accepted:]) :] == whole[accepted:]


def test_an_incident_has_so_many_alerts_and_no_more() -> None:
    """The oldest call's is resolved in favour of a new one, so that none is forgotten there."""
    paged, is_open = core.Paged(), set[str]()
    for number in range(100):
        call = Notice(key=f"call.{number}", kind="Call", at=NOW, message="help")
        for event in core.events(incident(), [call], paged, again=False):
            (is_open.discard if event.action == "resolve" else is_open.add)(event.key)
            paged = event.then
        assert is_open == set(paged.keys)
    assert len(is_open) == 32
    assert OWN in is_open
    assert max(map(len, paged.to_external("pager").values())) < 1024


def test_an_event_is_within_what_pagerduty_documents() -> None:
    hostile = "a\x00b\nc {{ 7*7 }} <!channel> \u202e " + "x" * 2000
    hurt = incident(
        title="t\r\n" + "y" * 1000,
        status={"message": hostile, "findings": [{"reason": "R", "message": hostile}] * 5, "target": "Deployment/app"},
        metadata={"creationTimestamp": NOW.isoformat()},
    )
    wire = {"routing_key": ROUTING_KEY, "event_action": "trigger", "dedup_key": core.dedup_key(hurt)}
    built: dict[str, Any] = core.event(hurt, ["https://grafana.example.com/d/a", "https://grafana.example.com/d/b"])
    event = Trigger.model_validate(wire | built)
    assert event.payload.summary.startswith("[P0] t yyy")
    assert event.payload.summary.isprintable()
    assert event.payload.severity == "critical"
    assert event.payload.source == "covet/Deployment/app"
    assert event.payload.custom_details["incident"] == "covet/api-down"
    assert len(event.payload.custom_details["findings"]) == 3
    assert len(event.model_dump_json()) < 16_000
    assert [link.href for link in event.links] == ["https://grafana.example.com/d/a", "https://grafana.example.com/d/b"]


@pytest.mark.parametrize(("said", "wanted"), [("P0", "critical"), ("P1", "error"), ("P2", "warning"), ("P3", "info")])
def test_severity(said: str, wanted: str) -> None:
    assert core.event(incident(severity=said), [])["payload"]["severity"] == wanted


def test_the_severity_that_an_alert_has_raised_counts() -> None:
    assert core.event(incident(severity="P3", status={"severity": "P1"}), [])["payload"]["severity"] == "error"


def test_only_web_pages_are_linked() -> None:
    source = {"fingerprint": "f", "labels": {"alertname": "A"}, "generatorURL": "javascript:alert(1)"}
    assert core.event(incident(alert=source), [])["links"] == []
    source["generatorURL"] = "https://prometheus.example.com/graph"
    assert core.event(incident(alert=source), [])["links"] == [
        {"href": "https://prometheus.example.com/graph", "text": "The alert"}
    ]


def test_the_key_is_the_incidents_own() -> None:
    first, namesake = incident(), incident(metadata={"uid": "uid-2"})
    assert core.dedup_key(first) != core.dedup_key(namesake)
    assert core.uid_of(core.dedup_key(first)) == "uid-1"
    assert core.uid_of(f"{core.dedup_key(first)}/0123456789abcdef") == "uid-1"
    assert core.uid_of("srv01/mysql") is None


def test_what_is_told_is_not_told_again() -> None:
    told, more = notices("Update", "Update", "Call"), notices("Update", "Update", "Call", "Acknowledged")
    notes = core.notes(core.untold(told, []))
    assert len(notes) == 1
    assert core.untold(more, notes) == [core.note_line(more[3])]
    assert core.untold(notices("Opened"), []) == []


def test_a_note_that_would_be_too_long_is_several() -> None:
    lines = [f"{n} " + "x" * 1000 for n in range(50)]
    notes = core.notes(lines)
    assert [line for note in notes for line in note.splitlines()] == lines
    assert 1 < len(notes) < 10
    assert max(map(len, notes)) <= 20_000
