"""What PagerDuty is told: which events, in what shape, and which notes."""

from __future__ import annotations

from typing import Any

import pytest

from builders import NOW, ago, incident
from paramedic.api.incident import Notice
from paramedic.core import pagerduty as core
from people.pagerduty_vendor import ROUTING_KEY, Trigger


def notices(*kinds: str) -> list[Notice]:
    return [Notice(key=f"{n}", kind=kind, at=ago(10 - n), message=f"fact {n}") for n, kind in enumerate(kinds)]  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("kinds", "actions"),
    [
        ("Opened", ["trigger"]),
        ("Opened Update Update", ["trigger"]),
        ("Update", []),
        ("Call", ["trigger"]),
        ("Opened Call Acknowledged", ["trigger", "acknowledge"]),
        ("Opened Acknowledged Acknowledged", ["trigger", "acknowledge"]),
        ("Acknowledged Call", ["acknowledge", "trigger"]),
        ("Resolved", ["resolve"]),
        ("Opened Update Resolved", ["resolve"]),  # over before anybody could be paged
        ("Resolved Update Reminder", ["resolve"]),
        ("Resolved Acknowledged", ["resolve"]),  # said too late
        ("Resolved Reopened", ["trigger"]),
        ("Opened Resolved Reopened Acknowledged", ["trigger", "acknowledge"]),
        ("Shutdown ApprovalNeeded", []),
    ],
)
def test_which_events_the_notices_come_to(kinds: str, actions: list[str]) -> None:
    assert core.actions(notices(*kinds.split())) == actions


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
