"""`paramedic settings check`: every mistake where and as it is written, and what to do."""

from __future__ import annotations

from pathlib import Path

import pytest

from paramedic.__main__ import main

GOOD = """
channels:
- {name: pager, pagerduty: {routingKeyFile: KEYFILE}}
- {name: chat, webhook: {url: "https://chat.example.com/hook"}}
notify: [chat]
people:
  responses:
  - severity: P2
    respondWithin: 1h
    callDuring: [{schedule: "0 9 * * MON-FRI", duration: 8h, timeZone: Europe/Berlin}]
  teams:
  - name: engineering
    levels: [{name: On-call engineer, contacts: [{channel: pager}]}, {name: Lead, contacts: [{channel: chat}]}]
  defaultTeam: engineering
"""


@pytest.fixture(autouse=True)
def bare_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    import os

    for name in list(os.environ):
        if name.startswith("PARAMEDIC_"):
            monkeypatch.delenv(name)
    monkeypatch.setenv("PARAMEDIC_CONFIG", "")


def check(tmp_path: Path, text: str) -> int:
    file = tmp_path / "settings.yaml"
    file.write_text(text)
    return main(["settings", "check", str(file)])


def test_one_line_on_what_is_configured(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "key").write_text("s3cret")
    assert check(tmp_path, GOOD.replace("KEYFILE", str(tmp_path / "key"))) == 0
    said = capsys.readouterr()
    assert said.err == ""
    assert said.out.splitlines() == [
        f"{tmp_path}/settings.yaml: channels: pager (pagerduty), chat (webhook); notify: chat; "
        "teams: engineering (2 levels); connections: none"
    ]


def test_a_secret_that_cannot_be_read_is_told_and_no_mistake(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert check(tmp_path, GOOD.replace("KEYFILE", "/secrets/pager/key")) == 0
    said = capsys.readouterr()
    assert "not readable here: channels[0].pagerduty.routingKeyFile: /secrets/pager/key cannot be read" in said.err


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ("webhookMaxBytes: 3", "  webhookMaxBytes: "),
        ("logLevl: INFO", "  logLevl: there is no such setting here; logLevel is meant?"),
        ("evidence: {s3: {endpointURL: 3, bucket: b}}", "  evidence.s3.endpointURL: "),
        ("evidence: {s3: {prefix: p}}", "  evidence.s3.bucket: is needed"),
        ("people: {responses: [{severity: P9, respondWithin: 1m}]}", "  people.responses[0].severity: "),
        ("people: {responses: [{severity: P1, respondWithin: soon}]}", "'soon' is not a duration: write for example"),
        ("people: {teams: [{name: A b, levels: [{name: x}]}]}", "  people.teams[0].name: lower-case letters"),
        ("people: {defaultTeam: nobody}", "there is no such team"),
        ("notify: [nowhere]", "  notify names the channel nowhere, and there is no such channel: none is named"),
        ("channels: [{name: a}]", "  channels[0]: channel a: exactly one of slack, pagerduty, statuspage, webhook"),
        ("a: [", "cannot be read"),
    ],
)
def test_a_mistake_is_told_as_it_is_written(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], wrong: str, said: str
) -> None:
    assert check(tmp_path, wrong + "\n") == 1
    told = capsys.readouterr()
    assert told.out == ""
    assert said in told.err


def test_what_only_the_whole_shows_is_told_all_at_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    wrong = (
        GOOD.replace("KEYFILE", "/x").replace("Europe/Berlin", "Mars/Olympus").replace("channel: pager", "channel: p")
    )
    assert check(tmp_path, wrong.replace("notify: [chat]", "notify: [chat, slack]")) == 1
    told = capsys.readouterr().err
    assert "notify names the channel slack" in told
    assert "people.teams: engineering, level 1 (On-call engineer) names the channel p," in told
    assert "people.responses, P2: callDuring[0]: 'Mars/Olympus' is not an IANA time zone" in told


def test_no_value_of_the_file_is_quoted(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    check(tmp_path, "channels: [{name: a, webhook: {url: 's3cret token', body: [s3cret]}}]\nwebhookToken: s3cret\n")
    assert "s3cret" not in capsys.readouterr().err


def test_a_file_that_is_not_there(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["settings", "check", "/nowhere/settings.yaml"]) == 1
    assert "/nowhere/settings.yaml is not a file" in capsys.readouterr().err
