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
        ("[]", "cannot be read: a list is there instead of settings by their names"),
        ("hello", "cannot be read: a text is there instead of settings by their names"),
        ("notify: []\nlogLevel: INFO\nnotify: [a]\n", "  line 3: notify is there twice, first on line 1: leave one"),
        ("people:\n  teams: []\n  teams: []\n", "  line 3: teams is there twice, first on line 2"),
        ("logLevel: INFO\nlog_level: INFO\n", "  line 2: log_level is there twice, first on line 1"),
        ("people: {teams: [{name: a, levels: [{name: x, contacts: []}]}]}", "  people.teams[0].levels[0].contacts: "),
        ("people: {teams: [{name: a, levels: [{name: x}]}]}", "  people.teams[0].levels[0].contacts: is needed"),
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


def test_what_only_the_whole_shows_is_told_beside_what_is_wrong_by_itself(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    wrong = (
        GOOD.replace("KEYFILE", "/x").replace("Europe/Berlin", "Mars/Olympus").replace("channel: pager", "channel: p")
    )
    wrong = wrong.replace("notify: [chat]", "notify: [nowhere]") + "logLevel: LOUD\nsurprise: 1\n"
    assert check(tmp_path, wrong) == 1
    told = capsys.readouterr().err
    for said in ("logLevel: ", "surprise: ", "the channel nowhere,", "names the channel p,", "'Mars/Olympus' is not"):
        assert said in told
    assert "more may show then" in told
    assert check(tmp_path, wrong.replace("respondWithin: 1h", "respondWithin: soon")) == 1
    told = capsys.readouterr().err
    assert "the channel nowhere," in told
    assert "names the channel p," not in told, "whom teams call cannot be told while people is wrong"


def test_names_of_somebody_elses_may_differ_by_their_case_alone(tmp_path: Path) -> None:
    assert check(tmp_path, "prometheus: {externalLabels: {regionId: eu, region_id: eu}}\n") == 0


@pytest.mark.parametrize(
    ("contact", "said"),
    [
        ('channel: slack, mention: "@jane"', "@jane is no id of Slack's, so nobody would be mentioned"),
        ('channel: slack, mention: "@everyone"', "Copy member ID"),
        ("channel: page", "page is a public status page, which calls nobody"),
        ("channel: updates", "updates is not told of calls: add Call to its kinds"),
        ("channel: slack, mention: U012AB3CD", None),
        ("channel: slack, mention: S012AB3CD", None),
        ("channel: slack", None),
    ],
)
def test_a_contact_whom_nothing_would_reach(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], contact: str, said: str | None
) -> None:
    channels = """
channels:
- {name: slack, slack: {tokenFile: /x, channel: incidents}}
- {name: page, statuspage: {pageId: kctbh9vrtdwd, apiKeyFile: /x}}
- {name: updates, webhook: {url: "https://chat.example.com/hook", kinds: [Update]}}
"""
    teams = f"people: {{teams: [{{name: ops, levels: [{{name: on call, contacts: [{{{contact}}}]}}]}}]}}\n"
    assert check(tmp_path, channels + teams) == (1 if said else 0)
    told = capsys.readouterr().err
    assert not said or "people.teams: ops, level 1 (on call): " in told
    assert not said or said in told


def test_no_value_of_the_file_is_quoted(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    check(tmp_path, "channels: [{name: a, webhook: {url: 's3cret token', body: [s3cret]}}]\nwebhookToken: s3cret\n")
    assert "s3cret" not in capsys.readouterr().err


def test_a_file_that_is_not_there(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["settings", "check", "/nowhere/settings.yaml"]) == 1
    assert "/nowhere/settings.yaml is not a file" in capsys.readouterr().err
