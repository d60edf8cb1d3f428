"""What stands in Slack's messages: hostile text, limits, and what a button carries."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import TypeAdapter

from builders import NOW, incident, step
from paramedic.api.incident import Acknowledgement, Notice
from paramedic.core import slack_blocks as blocks
from paramedic.core.slack_buttons import action_id, awaiting, read_press, shown
from people.slack_vendor import Block, marked_up

HOSTILE = "<!channel> <@U123ABC> <https://evil.example|click> & *bold* _so_ ~no~ @here `x` :tada: ```all\n> quoted"
MESSAGE = TypeAdapter(list[Block])


def waiting(**fields):
    operation = "019cbe40-1c00-7000-8000-000000000002"
    usual = {"operation": operation, "message": "would: app: 2 → 10"}
    return step("more-room", "AwaitingApproval", **(usual | fields))


def notice(message="it hurts", kind="Update", reason="StepFailed", **fields):
    return Notice(key=f"{reason}.{message}"[:80], kind=kind, reason=reason, at=NOW, message=message, **fields)


def labels(found):
    return [e["text"]["text"] for b in found if b["type"] == "actions" for e in b["elements"]]


def test_hostile_text_makes_no_mention_link_or_line_of_its_own() -> None:
    hostile = incident(
        waiting(part_of=None),
        step("bad", "Failed", message=HOSTILE),
        title=HOSTILE,
        commander=HOSTILE,
        status={"message": HOSTILE, "findings": [{"reason": "X", "message": HOSTILE}], "target": HOSTILE},
    )
    everything = [
        blocks.main_blocks(hostile),
        blocks.approval_blocks(hostile, waiting(message=HOSTILE)),
        blocks.notices_blocks([notice(HOSTILE)]),
        blocks.text_blocks(blocks.escape(HOSTILE)),
        blocks.text_blocks(blocks.line_text(hostile, notice(HOSTILE, mentions=[HOSTILE, "<!here>", "u1"]))),
    ]
    for found in everything:
        MESSAGE.validate_python(found)
        assert marked_up(found) == []
    assert marked_up([{"type": "mrkdwn", "text": blocks.topic(hostile)}]) == []
    header = everything[0][0]["text"]["text"]
    assert "\n" not in header
    assert header.startswith("P0: &lt;!channel&gt; &lt;@U123ABC&gt;")


@pytest.mark.parametrize("mark", ["*bold*", "_so_", "~no~", "`x`", "```", ":tada:", "> quoted", "<!here>"])
def test_what_slack_would_format_is_found(mark: str) -> None:
    """Else the test above could not fail."""
    text = f"P0: {mark}" if not mark.startswith(">") else f"&gt;{mark[1:]}"
    assert marked_up([{"type": "section", "text": {"type": "mrkdwn", "text": text, "verbatim": True}}]) != []


def test_of_a_line_only_whom_it_calls_and_where_it_leads_is_markup() -> None:
    line = blocks.line_text(incident(title="*ALL CLEAR* :tada:"), notice("```", kind="Call", mentions=["U012AB3CD"]))
    told, own = blocks.text_blocks(f"{line} <#C0000001>\n{line} <#C0000001>")
    assert told["text"] == {
        "type": "plain_text",
        "text": "\n".join(["📣 P0: *ALL CLEAR* :tada:: ```"] * 2),
        "emoji": False,
    }
    assert own["text"] == {"type": "mrkdwn", "text": "<@U012AB3CD> <#C0000001>", "verbatim": True}
    MESSAGE.validate_python([told, own])


@pytest.mark.parametrize("text", ["", "\n\n", "<@U012AB3CD>", "\n" + "x" * 5000])
def test_a_text_without_words_is_still_a_message(text: str) -> None:
    MESSAGE.validate_python(blocks.text_blocks(text))


def test_only_ids_of_slacks_are_mentioned() -> None:
    ids = ["U012AB3CD", "S0ONCALL", "U012AB3CD", "channel", "!here", "U1><!channel>", "PABC123", "u0lower"]
    assert blocks.mentions(ids) == ["<@U012AB3CD>", "<!subteam^S0ONCALL>"]
    text = blocks.line_text(incident(), notice("nobody answers", kind="Call", mentions=ids))
    assert text == "📣 <@U012AB3CD> <!subteam^S0ONCALL> P0: API returns 5xx: nobody answers"


@given(st.text(max_size=4000), st.integers(30, 3000))
def test_what_fits_is_escaped_and_never_too_long(text: str, limit: int) -> None:
    fitted = blocks.fit(text, limit)
    assert 1 <= len(fitted.encode("utf-16-le", "surrogatepass")) // 2 <= limit
    bare = fitted.replace("&amp;", "").replace("&lt;", "").replace("&gt;", "")
    assert not set(bare) & set("&<>")


def test_an_incident_with_a_hundred_steps_is_still_a_message() -> None:
    many = [step(f"step-{number}", "Failed", message="💥" * 1000) for number in range(100)]
    found = blocks.main_blocks(incident(*many, title="x" * 1024, status={"message": "m" * 1024}))
    MESSAGE.validate_python(found)


def test_of_too_many_notices_the_newest_are_told_and_the_rest_counted() -> None:
    found = blocks.notices_blocks([notice(f"{number} " + "<" * 300) for number in range(50)])
    MESSAGE.validate_python(found)
    text = "\n".join(b["text"]["text"] for b in found)
    assert len(text) < 13_000
    assert "StepFailed: 49 " in text
    assert "StepFailed: 0 " not in text
    left_out = 50 - text.count("StepFailed: ")
    assert f"({left_out} earlier ones" in text


@pytest.mark.parametrize(
    ("case", "wanted"),
    [
        (incident(), ["Acknowledge", "Pause"]),
        (incident(paused=True), ["Acknowledge", "Resume"]),
        (incident(waiting()), ["Approve", "Reject", "Acknowledge", "Pause"]),
        (
            incident(waiting(), status={"acknowledgement": Acknowledgement(by="alice", at=NOW)}),
            ["Approve", "Reject", "Pause"],
        ),
        (incident(waiting(), phase="Resolved"), []),
    ],
)
def test_buttons_are_those_that_can_do_something(case, wanted) -> None:
    assert labels(blocks.main_blocks(case)) == wanted


def test_an_approval_is_bound_to_the_plan_that_is_shown_beside_it() -> None:
    asked = incident(waiting())
    found = blocks.main_blocks(asked)
    approve = next(e for b in found if b["type"] == "actions" for e in b["elements"] if e["text"]["text"] == "Approve")
    assert "would: app: 2 → 10" in approve["confirm"]["text"]["text"]
    press = read_press(approve["action_id"], approve["value"])
    assert press is not None
    assert (press.action, press.shown) == ("approve", shown(asked, awaiting(asked)))
    assert (press.shown.step, press.shown.operation) == ("more-room", waiting().operation)


@pytest.mark.parametrize(
    ("identifier", "value"),
    [
        ("approve", '{"incident": "a/b", "uid": "u"}'),
        ("paramedic.delete", '{"incident": "a/b", "uid": "u"}'),
        ("paramedic.approve", ""),
        ("paramedic.approve", "[]"),
        ("paramedic.approve", '{"incident": ["a/b"], "uid": "u"}'),
        ("paramedic.approve", json.dumps({"incident": "a" * 400, "uid": "u"})),
        ("paramedic.approve", '{"incident": "a/b", "uid": "u", "admin": true}'),
        ("paramedic.approve", "{" * 5000),
    ],
)
def test_what_is_no_button_of_ours_is_no_press(identifier: str, value: str) -> None:
    assert read_press(identifier, value) is None


def test_button_values_stay_within_slacks_limit_for_the_longest_names() -> None:
    long = incident(waiting(), metadata={"name": "n" * 253, "namespace": "s" * 63, "uid": "u" * 36})
    MESSAGE.validate_python(blocks.main_blocks(long))
    value = shown(long, long.status.steps[0]).model_dump_json()
    assert read_press(action_id("approve"), value) is not None


@pytest.mark.parametrize("name", ["api-down", "a.b.c", "x" * 253, ("long-" * 50) + "end"])
def test_channel_names_follow_slacks_rules(name: str) -> None:
    named = incident(metadata={"name": name})
    for unique in (False, True):
        found = blocks.channel_name(named, unique=unique)
        assert len(found) <= 80
        assert set(found) <= set("abcdefghijklmnopqrstuvwxyz0123456789-_")
        assert found.startswith("incident-")
    assert blocks.channel_name(named) != blocks.channel_name(incident(metadata={"name": name[:-1] + "z"}))
    other = incident(metadata={"name": name, "uid": "uid-2"})
    assert blocks.channel_name(named, unique=True) != blocks.channel_name(other, unique=True)


def test_the_short_name_is_the_incidents() -> None:
    assert blocks.channel_name(incident()) == "incident-api-down"
