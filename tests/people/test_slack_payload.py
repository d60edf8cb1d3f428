"""What comes from Slack, whether it does, and where an answer may go."""

from __future__ import annotations

import json
import re
import urllib.parse
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from paramedic.core.slack_payload import (
    Command,
    Interaction,
    is_signed,
    may_respond_to,
    read_create,
    read_form,
    read_payload,
)
from paramedic.settings import Settings, load_settings

# The example of docs.slack.dev/authentication/verifying-requests-from-slack.
SECRET = "8f742231b10e8888abcd99yyyzzz85a5"
TIMESTAMP = "1531420618"
SIGNATURE = "v0=a2114d57b48eac39b9ad189dd8316235a7b4a8d21a10bd27519666489c69b503"
BODY = (
    b"token=xyzz0WbapA4vBCDEFasx0q6G&team_id=T1DC2JH3J&team_domain=testteamnow&channel_id=G8PSS9T3V&channel_name="
    b"foobar&user_id=U2CERLKJA&user_name=roadrunner&command=%2Fwebhook-collect&text=&response_url=https%3A%2F%2F"
    b"hooks.slack.com%2Fcommands%2FT1DC2JH3J%2F397700885554%2F96rGlfmibIGlgcZRskXaIFfN&trigger_id=398738663015."
    b"47445629121.803a0bc887a14d10d2c447fce8b6703c"
)
NOW = float(TIMESTAMP)


def test_slacks_own_example_is_signed() -> None:
    assert is_signed(SECRET, TIMESTAMP, BODY, SIGNATURE, NOW)
    said = read_form(BODY)
    assert isinstance(said, Command)
    assert (said.who, said.text, said.places) == (("U2CERLKJA", "roadrunner"), "", {"T1DC2JH3J"})


@pytest.mark.parametrize("age", [-300, 0, 300])
def test_five_minutes_are_young_enough(age: float) -> None:
    assert is_signed(SECRET, TIMESTAMP, BODY, SIGNATURE, NOW + age)


@pytest.mark.parametrize(
    ("secret", "timestamp", "body", "signature", "now"),
    [
        (SECRET, TIMESTAMP, BODY, SIGNATURE, NOW + 301),
        (SECRET, TIMESTAMP, BODY, SIGNATURE, NOW - 301),
        (SECRET[:-1], TIMESTAMP, BODY, SIGNATURE, NOW),
        (SECRET, str(int(TIMESTAMP) + 1), BODY, SIGNATURE, NOW),
        (SECRET, f"0{TIMESTAMP}", BODY, SIGNATURE, NOW),
        (SECRET, "", BODY, SIGNATURE, NOW),
        (SECRET, "١٥٣١٤٢٠٦١٨", BODY, SIGNATURE, NOW),
        (SECRET, TIMESTAMP, BODY + b"&x=y", SIGNATURE, NOW),
        (SECRET, TIMESTAMP, BODY, SIGNATURE.upper(), NOW),
        (SECRET, TIMESTAMP, BODY, "", NOW),
        (SECRET, TIMESTAMP, BODY, "v0=ü", NOW),
        (SECRET, TIMESTAMP, BODY, "\udcff", NOW),
    ],
)
def test_anything_else_is_not(secret: str, timestamp: str, body: bytes, signature: str, now: float) -> None:
    assert not is_signed(secret, timestamp, body, signature, now)


@pytest.mark.parametrize(
    ("url", "api", "allowed"),
    [
        ("https://hooks.slack.com/actions/T1/2/x", "https://slack.com/api/", True),
        ("https://hooks.slack-gov.com/actions/T1/2/x", "https://slack-gov.com/api/", True),
        ("https://hooks.slack-gov.com/actions/T1/2/x", "https://slack.com/api/", False),
        ("http://127.0.0.1:9/hooks/x", "http://127.0.0.1:9/api/", True),
        ("http://127.0.0.1:8/hooks/x", "http://127.0.0.1:9/api/", False),
        ("http://hooks.slack.com/actions/T1/2/x", "https://slack.com/api/", False),
        ("https://hooks.slack.com:8443/actions", "https://slack.com/api/", False),
        ("https://hooks.slack.com.evil.example/x", "https://slack.com/api/", False),
        ("https://hooks.slack.com@evil.example/x", "https://slack.com/api/", False),
        ("https://a:b@hooks.slack.com/x", "https://slack.com/api/", False),
        ("https://evil.example/hooks.slack.com", "https://slack.com/api/", False),
        ("http://169.254.169.254/latest", "https://slack.com/api/", False),
        ("https://[::1", "https://slack.com/api/", False),
        ("", "https://slack.com/api/", False),
    ],
)
def test_answers_go_to_slack_only(url: str, api: str, allowed: bool) -> None:
    assert may_respond_to(url, api) is allowed


def pressed(**own: Any) -> dict[str, Any]:
    usual = {
        "type": "block_actions",
        "user": {"id": "U1AB", "username": "al\nice", "team_id": "T1AB"},
        "team": {"id": "T1AB"},
        "enterprise": None,
        "channel": {"id": "C1AB", "name": "x"},
        "actions": [{"action_id": "paramedic.pause", "value": "{}", "type": "button"}],
        "response_url": "https://hooks.slack.com/actions/x",
    }
    return usual | own


def test_a_person_of_another_workspace_is_of_that_one() -> None:
    """In a channel that is shared with another organization (Slack Connect), ``team`` is ours."""
    said = read_payload(pressed(user={"id": "U2CD", "username": "eve", "team_id": "T9XY"}))
    assert isinstance(said, Interaction)
    assert said.places == {"T9XY"}
    said = read_payload(pressed(enterprise={"id": "E1AB"}))
    assert said is not None
    assert said.places == {"T1AB", "E1AB"}
    assert said.who == ("U1AB", "al ice")


@pytest.mark.parametrize(
    "payload",
    [
        [],
        None,
        "x",
        pressed(user=None),
        pressed(user={"id": "../etc"}),
        pressed(channel=None),
        pressed(actions=[]),
        pressed(actions=[{"action_id": "x", "value": "v"}] * 26),
        pressed(actions=[{"action_id": "x", "value": "v" * 5000}]),
        {"command": "/incident", "user_id": "U1AB"},
        {"command": "/incident", "user_id": "U1AB", "trigger_id": ""},
    ],
)
def test_what_is_no_payload_is_refused(payload: Any) -> None:
    with pytest.raises(ValueError):
        read_payload(payload)
    with pytest.raises(ValueError):
        read_form(urllib.parse.urlencode({"payload": json.dumps(payload)}).encode())


@pytest.mark.parametrize("payload", [{}, {"type": "view_submission"}, {"ssl_check": "1"}])
def test_what_is_of_no_concern_is_nothing(payload: Any) -> None:
    assert read_payload(payload) is None


@given(st.binary(max_size=300))
def test_no_body_does_anything_but_be_refused(body: bytes) -> None:
    for candidate in (body, b"payload=" + body):
        try:
            read_form(candidate)
        except ValueError:
            continue


def test_the_documented_settings_are_settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = (Path(__file__).parents[2] / "docs" / "slack.md").read_text()
    manifest, settings = re.findall(r"```yaml\n(.*?)```", text, re.DOTALL)
    assert yaml.safe_load(manifest)["features"]["slash_commands"][0]["command"] == "/incident"
    path = tmp_path / "settings.yaml"
    path.write_text(settings)
    monkeypatch.setenv("PARAMEDIC_CONFIG", str(path))
    found: Settings = load_settings()
    assert found.channels[0].slack is not None
    assert found.channels[0].slack.users[0].kubernetes == "alice@example.com"


def test_a_slack_channel_without_any_place_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "settings.yaml"
    path.write_text("channels: [{name: chat, slack: {tokenFile: /x, channelPerIncident: false}}]")
    monkeypatch.setenv("PARAMEDIC_CONFIG", str(path))
    with pytest.raises(Exception, match="there is no place to tell people"):
        load_settings()


@pytest.mark.parametrize(
    ("text", "severity", "title"),
    [
        ("API down", "P2", "API down"),
        ("p0 API down", "P0", "API down"),
        ('"API down"', "P2", "API down"),
        ("“API down”", "P2", "API down"),
        ("„API down“", "P2", "API down"),
        ("‘API down’", "P2", "API down"),
        ("'API down'", "P2", "API down"),
        ('P0 "API down"', "P0", "API down"),
        ('"P0 API down"', "P0", "API down"),
        ("“P1  API down ”", "P1", "API down"),
        ('"a" and "b"', "P2", '"a" and "b"'),
        ('P0 "a" is down', "P0", '"a" is down'),
        ('API "down"', "P2", 'API "down"'),
        ('API down"', "P2", 'API down"'),
        ('"', "P2", '"'),
        ('""', "P2", ""),
        ('P0 ""', "P0", ""),
        ("P0", "P0", ""),
        ("", "P2", ""),
        ("P05 is no severity", "P2", "P05 is no severity"),
    ],
)
def test_what_is_to_be_opened(text: str, severity: str, title: str) -> None:
    assert read_create(text) == (severity, title)


@given(st.text())
def test_a_title_is_never_made_up(text: str) -> None:
    assert read_create(text)[1] in text
