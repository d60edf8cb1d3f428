"""What `show` says, and that no text of others reaches a terminal as anything but text."""

import contextlib
import io
import os
import pty
import sys
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import yaml

from builders import NOW, ago, held, incident, later, minutes, step
from paramedic.api.incident import Incident
from paramedic.plugin.describing import describe
from paramedic.plugin.next_steps import commands
from paramedic.plugin.planned import change_lines, lease_line
from paramedic.plugin.resolving import held_lines
from paramedic.plugin.screen import Line, Screen, Span
from paramedic.plugin.showing import news
from paramedic.plugin.texts import age, clean, duration, harmless_json, moment

GOLDEN = Path(__file__).parent / "golden"
HOSTILE = "bad \x1b[31m[bold red]\x1b]0;owned\x07\u202e\r\n\x9b2J[/] end"


def entry(count: float, reason: str, message: str, actor: str = "paramedic") -> dict[str, Any]:
    return {"at": ago(count), "actor": actor, "reason": reason, "message": message}


def plain(lines: list[Line]) -> str:
    """As in a pipe."""
    written = io.StringIO()
    with contextlib.redirect_stdout(written):
        Screen().lines(lines)
    return written.getvalue()


def in_the_middle() -> Incident:
    undo = step(
        "undo-bad-deploy",
        "Failed",
        action="rollback",
        reason="VerificationFailed",
        message="covet-app: revision 7 → 6",
        before={"image": "app:7", "env": {"MODE": "fast"}},
        after={"image": "app:6", "env": {"MODE": "fast"}},
        finished_at=ago(4),
        revert={"state": "Succeeded", "message": "revision 6 → 7", "operation": "o"},
    )
    room = held(reason="Applied", message="covet-app: replicas 3 → 10", finished_at=ago(4), approved_by="alice")
    limit = step(
        "limit",
        "AwaitingApproval",
        action="rateLimit",
        message="would: covet-app: 100 requests in 60 s",
        approval_required=True,
        operation="op-1",
        ttl=minutes(30),
        revert_when={"alertResolved": True},
        before={},
        after={"requests": 100},
    )
    status = {
        "message": "step limit would: covet-app: 100 requests in 60 s",
        "target": "Deployment/covet-app",
        "alert": {"state": "firing", "count": 12, "firing": ["f1"]},
        "acknowledgement": {"by": "bob", "at": ago(8), "via": "slack"},
        "commander": "bob",
        "escalation": {
            "level": 2,
            "since": ago(3),
            "team": "engineering",
            "message": "no one there",
            "handedOver": False,
        },
        "times": {"acknowledge": "2m"},
        "children": ["other-1", "other-2"],
        "findings": [{"reason": "RecentRollout", "message": "rolled out 12m ago", "object": "Deployment/covet-app"}],
        "external": {"slack": "C0123", "pagerduty": "PABC"},
        "evidence": [
            {"name": "logs", "uri": "s3://covet/logs", "sha256": "ab12", "sizeBytes": 9},
            {"name": "pcap", "note": "no tcpdump"},
        ],
        "timeline": [entry(10, "Opened", "opened by an alert"), entry(8, "Acknowledged", "acknowledged by bob", "bob")],
    }
    return incident(undo, room, limit, mode="Approve", phase="AwaitingApproval", status=status)


def ended() -> Incident:
    status = {
        "message": "closed by alice: a bad release",
        "resolvedAt": later(-1),
        "times": {"acknowledge": "1m30s", "mitigate": "5m", "resolve": "9m"},
        "checklist": [
            {
                "due": "1h",
                "item": "Send all-clear communication",
                "done": True,
                "doneBy": "paramedic",
                "doneAt": ago(0),
            },
            {"due": "168h", "item": "Document lessons learned"},
        ],
    }
    resolution = {"resolvedBy": "alice", "rootCause": "a bad release\nof covet-app", "followUps": ["test before merge"]}
    kept = held(kept_by="alice", message="covet-app: replicas 3 → 10", finished_at=ago(4))
    return incident(kept, phase="Resolved", alert_state=None, status=status, resolution=resolution)


@pytest.mark.parametrize(("name", "made"), [("show-in-the-middle", in_the_middle), ("show-ended", ended)])
def test_show_in_a_pipe(name: str, made: Any) -> None:
    """PARAMEDIC_WRITE_GOLDEN=1 writes the file anew, to be read before it is kept."""
    text, path = plain(describe(made(), NOW)), GOLDEN / f"{name}.txt"
    if os.environ.get("PARAMEDIC_WRITE_GOLDEN"):
        path.write_text(text, "utf-8")
    assert text == path.read_text("utf-8")


def test_every_text_of_others_is_on_one_line_and_harmless() -> None:
    hostile = in_the_middle().model_copy(deep=True)
    hostile.spec.title = HOSTILE
    hostile.status.message = hostile.status.steps[0].message = hostile.status.timeline[0].message = HOSTILE
    hostile.status.steps[0].before = {HOSTILE: HOSTILE, "image": HOSTILE}
    hostile.status.external = {HOSTILE: HOSTILE, "slack": HOSTILE}
    text = plain(describe(hostile, NOW))
    assert all(c.isprintable() or c == "\n" for c in text)
    lines = len(plain(describe(in_the_middle(), NOW)).splitlines())
    assert len(text.splitlines()) == lines + 2, "two fields more differ; each text is on a line of its own"
    assert "[bold red]" in text, "what looks like markup is shown as it is"


def shown_in_a_terminal(monkeypatch: pytest.MonkeyPatch, *spans: Span | str, **environment: str) -> str:
    """What a terminal 20 columns wide is sent."""
    for name, value in {"TERM": "xterm-256color", "COLUMNS": "20", "LINES": "9"}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.delenv("NO_COLOR", raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    reader, writer = pty.openpty()
    with os.fdopen(writer, "w", encoding="utf-8") as terminal, monkeypatch.context() as patched:
        patched.setattr(sys, "stdout", terminal)
        Screen().line(*spans)
        terminal.flush()
        sent = os.read(reader, 65536).decode()
    os.close(reader)
    return sent


def test_in_a_terminal_there_are_our_colours_and_no_other(monkeypatch: pytest.MonkeyPatch) -> None:
    sent = shown_in_a_terminal(monkeypatch, Span("P0", "bold red"), HOSTILE)
    assert sent.startswith("\x1b[1;31mP0\x1b[0m")
    rest = sent.removeprefix("\x1b[1;31mP0\x1b[0m")
    assert "[bold red]" in rest
    assert not set(rest) & set("\x1b\x07\x9b\u202e")


def test_no_color(monkeypatch: pytest.MonkeyPatch) -> None:
    sent = shown_in_a_terminal(monkeypatch, Span("P0", "red"), NO_COLOR="1")
    assert "31" not in sent
    assert "P0" in sent


def test_a_long_line_is_not_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    assert "x" * 200 in shown_in_a_terminal(monkeypatch, "x" * 200)
    assert plain([["x" * 200]]) == "x" * 200 + "\n"


def test_json_stays_json() -> None:
    assert harmless_json('{\n "a": "\x9b\u202e\U000e0001é"\n}') == '{\n "a": "\\u009b\\u202e\\udb40\\udc01é"\n}'


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(-3, "0s"), (0, "0s"), (119, "119s"), (120, "2m"), (332, "5m32s"), (3600, "60m"), (11000, "3h3m"), (90000, "25h"),
     (180000, "2d2h"), (864000, "10d")],
)  # fmt: skip
def test_spans_as_kubectl_writes_them(seconds: int, text: str) -> None:
    assert duration(timedelta(seconds=seconds)) == text


def test_times_that_are_none() -> None:
    assert moment("") is None
    assert age(None, NOW) == "<unknown>"
    assert clean("a\tb\n") == "a b "


def test_what_is_new() -> None:
    before, after = in_the_middle(), in_the_middle()
    assert news(before, after) == []
    after.status.timeline = [*after.status.timeline, after.status.timeline[0].model_copy(update={"at": NOW})]
    after.status.phase, after.status.message = "Remediating", "more-room: going on"
    assert plain(news(before, after)).splitlines() == [
        "  2026-03-02 12:00:00 UTC  Opened  opened by an alert  (paramedic)",
        "  Remediating: more-room: going on",
    ]


def test_what_a_step_changes() -> None:
    assert change_lines({"a": {"b": 1, "c": 2}}, {"a": {"b": 2, "c": 2}, "d": "x"}) == ["a.b: 1 → 2", "d: – → x"]
    assert change_lines(None, None) == []
    assert change_lines({"a": 1}, None) == [], "a step that has not been planned changes nothing"


def test_when_it_is_put_back() -> None:
    by_query = {"prometheus": {"query": "up", "condition": "value > 0"}}
    assert lease_line(step("s")) == ""
    assert lease_line(step("s", revert_when=by_query)) == "put back when up gives value > 0"
    assert lease_line(held()) == "put back at 2026-03-02 12:55:00 UTC"
    assert lease_line(held(revert_when={"alertResolved": True})).endswith("UTC, or when the alert has ended")


def test_what_can_be_done_next() -> None:
    name = "api-down -n covet"
    assert commands(in_the_middle())[:3] == [
        f"kubectl incident approve {name}",
        f"kubectl incident reject {name}",
        f"kubectl incident pause {name}",
    ]
    assert f"kubectl incident ack {name}" in commands(incident())
    assert f"kubectl incident resume {name}" in commands(incident(paused=True))
    assert commands(ended()) == [f"kubectl incident tick {name} <number>", f"kubectl incident report {name}"]
    unexplained = incident(phase="Resolved", alert_state=None)
    assert commands(unexplained)[0].startswith(f"kubectl incident resolve {name} --root-cause")


def test_what_could_not_be_put_back_is_told_until_somebody_keeps_it() -> None:
    failed = {"state": "Failed", "operation": "o", "failure": "Forbidden"}
    left = incident(held("more-room", revert=failed, message="replicas 2 → 5; not put back"))
    assert held_lines(left, []) == [
        "Could not be put back; do that by hand, then name it with --keep:",
        "  more-room: replicas 2 → 5; not put back",
    ]
    assert held_lines(left, ["more-room"]) == []


@pytest.mark.parametrize(
    "title", [HOSTILE, "a \u2066 b", "a\u200bb", "a\u2028b \u00a0", "tag \U000e0041", "日本 é \u202e"]
)
def test_yaml_holds_nothing_that_a_terminal_might_obey(title: str, capsys: pytest.CaptureFixture[str]) -> None:
    resource = {"metadata": {"name": "down"}, "spec": {"title": title}}
    Screen().resource(resource, "yaml")
    shown = capsys.readouterr().out
    assert all(c.isprintable() or c == "\n" for c in shown)
    assert yaml.safe_load(shown) == resource


def test_yaml_of_any_script_can_be_read(capsys: pytest.CaptureFixture[str]) -> None:
    Screen().resource({"spec": {"title": "日本 é"}}, "yaml")
    assert "日本 é" in capsys.readouterr().out
