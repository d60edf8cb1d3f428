"""What people read: the runbook's texts filled in, what a team may write itself, and hostile text that stays text."""

from __future__ import annotations

import re
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from builders import policy
from paramedic.api.incident import Incident
from paramedic.api.people import Templates
from paramedic.api.policy import ImpactFigure, MessageTemplates
from paramedic.core import markup, messages
from paramedic.core.messages import Circumstances, TextName, facts, impact_line, in_words, problems, render, status_word
from paramedic.core.texts import compile_text, render_text
from paramedic.policies import find_problems
from paramedic.settings import Settings, SettingsError, load_settings

Json = dict[str, Any]
HERE = Path(__file__).parent
BEGAN = datetime(2024, 1, 15, 14, 5, tzinfo=UTC)
NOW = datetime(2024, 1, 15, 14, 30, tzinfo=UTC)
ENDED = datetime(2024, 1, 15, 15, 15, tzinfo=UTC)
# No template may be harmed by them, and what shows them must not obey them.
HOSTILE = (
    "API down\nIC: @mallory\r\n\x1b[31mred\x07 {{ 7 * 7 }} {% for a in b %} <script>alert(1)</script> "
    "<!channel> <@U123> @everyone @all [click](http://evil.example) **bold** `code` \u202egnp.exe \u2028next "
    "password=hunter2hunter2"
)


def incident(began: datetime = BEGAN, **status: Any) -> Incident:
    spec = {"title": "API is slow", "type": "HighLoad", "severity": "P1"} | status.pop("spec", {})
    return Incident.model_validate(
        {
            "metadata": {
                "name": "INC-2024-0115-001",
                "namespace": "covet",
                "uid": "uid-1",
                "creationTimestamp": began.isoformat(),
            },
            "spec": spec,
            "status": status,
        }
    )


def step(message: str, state: str = "Succeeded", action: str = "scale", **more: Any) -> Json:
    return {
        "name": f"{action}-it",
        "action": action,
        "state": state,
        "message": message,
        "startedAt": BEGAN.isoformat(),
    } | more


def under_way() -> Incident:
    """The runbook's example, taken on 25 minutes after it began."""
    return incident(
        began=NOW,
        spec={"alert": {"labels": {}, "startsAt": BEGAN.isoformat()}},
        phase="Verifying",
        commander="john.doe",
        message="Monitoring resource utilization",
        steps=[
            step("Scaled app servers from 3 to 10 instances", "Verifying"),
            step("Investigating database query performance", "Executing", "slowQueryLog"),
        ],
    )


def over() -> Incident:
    """The runbook's example at its end."""
    causes = ["Recent data growth triggered query performance regression", "Connection pool sizing inadequate for load"]
    follow_ups = [
        "Post-incident review scheduled for 2024-01-16 10:00 UTC",
        "Database performance monitoring improvements in progress",
    ]
    resolution = {"resolvedBy": "john.doe", "rootCause": "\n".join(causes), "followUps": follow_ups}
    return incident(
        began=NOW,
        spec={"resolution": resolution},
        phase="Resolved",
        resolvedAt=ENDED.isoformat(),
        message="All metrics returned to normal",
        steps=[
            step("Identified slow database query causing connection pool exhaustion"),
            step("Applied query optimization and increased pool size"),
        ],
    )


def hostile() -> Incident:
    alert = {"labels": {"alertname": HOSTILE}, "annotations": {"summary": HOSTILE}, "startsAt": BEGAN.isoformat()}
    return incident(
        spec={
            "title": HOSTILE,
            "commander": "everyone",
            "alert": alert,
            "resolution": {"resolvedBy": "x", "rootCause": HOSTILE, "followUps": [HOSTILE]},
        },
        phase="Verifying",
        message=HOSTILE,
        target=HOSTILE,
        steps=[step(HOSTILE)],
        findings=[{"reason": "CrashLooping", "message": HOSTILE}],
    )


def around(now: datetime = NOW, **more: Any) -> Circumstances:
    return Circumstances(now=now, update_every=timedelta(minutes=30), **more)


def text(name: TextName, of: Incident, circumstances: Circumstances | None = None, escape: Any = markup.plain) -> str:
    return render(name, facts(of, circumstances or around(), escape), None, Templates())


def in_runbook(name: str) -> str:
    """A text of the runbook, without the blanks at lines' ends."""
    return (HERE / "golden" / f"runbook_{name}.txt").read_text().removesuffix("\n")


# -- as in the runbook -------------------------------------------------------------------------------------------------


def test_internal_update_is_the_runbooks() -> None:
    impact = ["API response times 3x normal", "15% of requests timing out", "~1000 users affected"]
    told = text("internal_update", under_way(), around(impact=impact))
    wanted = in_runbook("internal_update").replace("Status: INVESTIGATING", "Status: IDENTIFIED")
    assert told == wanted


def test_customer_message_is_the_runbooks() -> None:
    told = text(
        "customer_message", incident(), around(service="API service", status_page="https://status.covet.example.com")
    )
    assert told == in_runbook("customer_message")


def test_all_clear_is_the_runbooks() -> None:
    told = text("all_clear", over(), around(ENDED))
    assert told == in_runbook("all_clear")


def test_shutdown_is_the_runbooks() -> None:
    shut = incident(spec={"type": "EmergencyShutdown"}, steps=[step("covet-app: replicas 3 → 0", action="shutdown")])
    assert text("shutdown_notice", shut) == "EMERGENCY: Service shutdown initiated at Mon Jan 15 14:05:00 UTC 2024"
    commands = in_runbook("shutdown")
    assert "EMERGENCY: Service shutdown initiated at $(date)" in commands
    assert f"'incident[name]={text('customer_title', shut)}'" in commands
    assert f"'incident[body]={text('customer_message', shut)}'" in commands


# -- golden files ------------------------------------------------------------------------------------------------------

GOLDEN: dict[str, tuple[TextName, Any, Any]] = {
    "internal_update": ("internal_update", under_way, markup.plain),
    "internal_update_first": ("internal_update", incident, markup.plain),
    "internal_update_hostile": ("internal_update", hostile, markup.plain),
    "internal_update_hostile_html": ("internal_update", hostile, markup.html),
    "internal_update_hostile_markdown": ("internal_update", hostile, markup.markdown),
    "customer_message": ("customer_message", incident, markup.plain),
    "customer_message_identified": ("customer_message", under_way, markup.plain),
    "customer_message_hostile": ("customer_message", hostile, markup.html),
    "customer_title": ("customer_title", incident, markup.plain),
    "all_clear": ("all_clear", over, markup.plain),
    "all_clear_hostile_html": ("all_clear", hostile, markup.html),
    "customer_all_clear": ("customer_all_clear", over, markup.plain),
    "shutdown_notice": ("shutdown_notice", incident, markup.plain),
}


@pytest.mark.parametrize("name", GOLDEN)
def test_golden(name: str) -> None:
    """To write the files anew, delete them and run the test twice; then read what they say."""
    which, of, escape = GOLDEN[name]
    told = text(which, of(), around(service="API service", status_page="https://status.covet.example.com"), escape)
    path = HERE / "golden" / f"{name}.txt"
    if not path.exists():
        path.write_text(f"{told}\n")
        pytest.fail(f"{path.name} was not there; it is now: read it")
    assert f"{told}\n" == path.read_text()


@pytest.mark.parametrize("name", messages.TEXTS)
def test_hostile_text_stays_text(name: TextName) -> None:
    """No line of its own, no control character, no secret; escaped, no markup and no mention."""
    told = text(name, hostile())
    assert all(line.isprintable() for line in told.split("\n"))
    assert not any(line.startswith("IC: @mallory") for line in told.split("\n"))
    assert "hunter2" not in told
    as_html = text(name, hostile(), escape=markup.html)
    assert "<" not in as_html
    as_markdown = text(name, hostile(), escape=markup.markdown)
    assert "@mallory" not in as_markdown
    assert "@all" not in as_markdown
    assert not re.search(r"(?<!\\)[*`\[<]", as_markdown)
    assert "://evil" not in as_markdown


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("see https://evil.example/a?b=1&c=2", "see https\uff1a//evil.example/a?b=1&c=2"),
        ("FTP://evil.example ssh:/x", "FTP\uff1a//evil.example ssh\uff1a/x"),
        ("www.evil.example _WWW2.evil.example", "www\uff0eevil.example \\_WWW2\uff0eevil.example"),
        ("mailto:me tel:123 Mailto:x", "mailto\uff1ame tel\uff1a123 Mailto\uff1ax"),
        ("&#64;all &commat;all &#x40;all", "\uff06\\#64;all \uff06commat;all \uff06\\#x40;all"),
        ("http&colon;//evil.example", "http\uff06colon;//evil.example"),
        ("@all me@evil.example", "\uff20all me\uff20evil.example"),
        ("s3://b/x ec2://r/snap xs3://evil", "s3://b/x ec2://r/snap xs3\uff1a//evil"),
        ("nginx:1.25 at 14:30, hotel:5, a & b; c&d", "nginx:1.25 at 14:30, hotel:5, a & b; c&d"),
    ],
)
def test_in_markdown_nothing_becomes_a_link_or_a_mention(text: str, shown: str) -> None:
    assert markup.markdown(text) == shown


@pytest.mark.parametrize("name", ["customer_message", "customer_title", "customer_all_clear"])
@pytest.mark.parametrize("kind", ["HighLoad", "APIOutage", "SecurityBreach", "QueueBacklog", "SomethingOwn"])
def test_customers_read_nothing_internal(name: TextName, kind: str) -> None:
    secret = incident(
        spec={"title": "INTERNAL", "type": kind, "resolution": {"resolvedBy": "INTERNAL", "rootCause": "INTERNAL"}},
        message="INTERNAL",
        target="Deployment/INTERNAL",
        commander="INTERNAL",
        steps=[step("INTERNAL")],
        findings=[{"reason": "CrashLooping", "message": "INTERNAL"}],
    )
    told = text(name, secret)
    assert told
    assert "INTERNAL" not in told
    assert "INC-2024" not in told
    assert "breach" not in told.lower()


# -- facts -------------------------------------------------------------------------------------------------------------


def test_every_variable_is_there() -> None:
    assert set(facts(incident(), around())) == messages.NAMES


@pytest.mark.parametrize(
    ("status", "word"),
    [
        ({}, "INVESTIGATING"),
        ({"steps": [step("looked", action="diagnose")]}, "INVESTIGATING"),
        ({"steps": [step("", "Pending")]}, "INVESTIGATING"),
        ({"steps": [step("", "AwaitingApproval")]}, "INVESTIGATING"),
        ({"steps": [step("did not help", "Failed")]}, "INVESTIGATING"),
        ({"steps": [step("", "Verifying")]}, "IDENTIFIED"),
        ({"steps": [step("", "Failed"), step("", "Executing")]}, "IDENTIFIED"),
        ({"steps": [step("")], "mitigatedAt": NOW.isoformat()}, "MONITORING"),
        ({"phase": "Resolved", "resolvedAt": NOW.isoformat()}, "RESOLVED"),
    ],
)
def test_status_word(status: Json, word: str) -> None:
    assert status_word(incident(**status)) == word


@pytest.mark.parametrize(
    ("minutes", "words"),
    [
        (0, "less than a minute"),
        (-5, "less than a minute"),
        (1, "1 minute"),
        (25, "25 minutes"),
        (60, "1 hour"),
        (65, "1 hour 5 minutes"),
        (1440, "1 day"),
        (3 * 1440 + 121, "3 days 2 hours"),
    ],
)
def test_in_words(minutes: float, words: str) -> None:
    assert in_words(timedelta(minutes=minutes)) == words


def test_an_unknown_start_is_no_duration() -> None:
    epoch = {"alert": {"labels": {}, "startsAt": "1970-01-01T00:00:00Z"}}
    assert facts(incident(spec=epoch), around())["duration"] == "25 minutes"


def test_without_a_clock_for_updates_none_is_promised() -> None:
    quiet = Circumstances(now=NOW)
    assert "Next Update" not in text("internal_update", incident(), quiet)
    assert "another update" not in text("customer_message", incident(), quiet)


@pytest.mark.parametrize("name", [None, "everyone", "Here", "channel", "all"])
def test_nobody_leads(name: str | None) -> None:
    """Nor does a word that would mention all."""
    assert text("internal_update", incident(spec={"commander": name})).endswith("\nIC: unassigned")


def test_long_facts_and_lists_are_cut() -> None:
    many = incident(spec={"title": "x" * 1024, "resolution": {"resolvedBy": "x", "rootCause": "line\n" * 3000}})
    told = facts(many, around())
    assert len(told["root_cause"]) == 20
    long = facts(incident(message="y" * 100_000), around())
    assert len(long["message"]) == 1024


# -- figures -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("template", "value", "line"),
    [
        ("{{ value | percent }} of requests timing out", 0.153, "15% of requests timing out"),
        ("{{ value | percent(1) }} failing", 0.153, "15.3% failing"),
        ("~{{ value | number(0) }} users affected", 1000.4, "~1000 users affected"),
        ("API response times {{ value | number }}x normal", 3.0, "API response times 3x normal"),
        ("{{ value | number }}", 2.3333, "2.33"),
        ("{{ value | number }}", 1200.0, "1200"),
        ("{{ value | percent }} of requests", None, "unknown of requests"),
        ("{% if value == 'unknown' %}not known{% else %}{{ value }}{% endif %}", None, "not known"),
        ("two\nlines {{ value }}", 1.0, "two lines 1.0"),
        ("{{ value | percent('a') }}", 1.0, "errors: unknown"),
    ],
)
def test_impact_line(template: str, value: float | None, line: str) -> None:
    assert impact_line(ImpactFigure(name="errors", query="up", text=template), value) == line


# -- a team's own words ------------------------------------------------------------------------------------------------


def test_policy_before_settings_before_runbook() -> None:
    known = facts(incident(), around())
    settings = Templates(internal_update="settings: {{ title }}", all_clear="settings")
    own = MessageTemplates(internal_update="policy: {{ title }}")
    assert render("internal_update", known, own, settings) == "policy: API is slow"
    assert render("internal_update", known, None, settings) == "settings: API is slow"
    assert render("all_clear", known, own, settings) == "settings"
    assert render("shutdown_notice", known, own, settings).startswith("EMERGENCY: ")


def test_a_template_that_breaks_at_run_time_is_passed_over() -> None:
    own = MessageTemplates(internal_update="{% for a in title %}{{ a }}{% endfor %}")
    assert render("internal_update", facts(incident(), around()), own, Templates()).startswith("INCIDENT UPDATE - ")


@pytest.mark.parametrize(
    ("template", "shown"),
    [
        ("{% for line in impact %}* {{ line }}\n{% endfor %}", "* a\n* b"),
        ("{% if severity == 'P1' %}grave{% elif severity == 'P0' %}worst{% else %}minor{% endif %}", "grave"),
        ("{{ impact | join('; ') }}", "a; b"),
        ("{{ labels.alertname }} {{ labels.items }}{{ labels.none }}", "Slow"),
        ("{{ impact | first }} {{ impact | last }} {{ follow_ups | first }}.", "a b ."),
        ("a\n\n\n\n\nb   \n", "a\n\nb"),
        ("bell\x07 and \x1b[31mred", "bell  and  [31mred"),
    ],
)
def test_renders(template: str, shown: str) -> None:
    of = incident(spec={"alert": {"labels": {"alertname": "Slow"}}})
    assert render_text(template, facts(of, around(impact=["a", "b"]))) == shown


@pytest.mark.parametrize(
    "template",
    [
        "{{ unknown_fact }}",
        "{{ title.upper() }}",
        "{{ title * 1000000 }}",
        "{% for a in impact %}{% for b in impact %}x{% endfor %}{% endfor %}",
        "{% for a in impact recursive %}{{ loop(a) }}{% endfor %}",
        "{% for a in impact %}{{ loop.index }}{% endfor %}",
        "{% set x = 1 %}",
        "{% include '/etc/passwd' %}",
        "{% macro m() %}{% endmacro %}",
        "{% import 'os' as os %}",
        "{{ ''.__class__.__mro__ }}{{ cycler.__init__() }}",
        "{{ title | attr('__class__') }}",
        "{{ title",
        "x" * 20_000,
        "{{ " + "(" * 300 + "1" + ")" * 300 + " }}",
    ],
)
def test_refused_beforehand(template: str) -> None:
    with pytest.raises(ValueError):
        compile_text(template, messages.NAMES)


def test_attributes_are_keys() -> None:
    assert render_text("{{ title.__class__ }}{{ impact.append }}{{ labels.keys }}.", facts(incident(), around())) == "."


def test_the_most_expensive_template_is_cheap() -> None:
    """A tenant writes it: 4096 characters, over the longest facts."""
    of = incident(spec={"title": "{" * 1024, "resolution": {"resolvedBy": "x", "followUps": ["y" * 2048] * 64}})
    known = facts(of, around(impact=["z" * 1024] * 20))
    unit = "{{ title | replace('{', title) }}"
    template = "{% for a in follow_ups %}" + unit * (4000 // len(unit)) + "{% endfor %}"
    began = time.process_time()
    told = render_text(template, known)
    assert len(told) <= 16_384
    assert time.process_time() - began < 1


def test_putting_much_together_for_a_filter_is_cheap() -> None:
    """``~`` makes megabytes of a fact; ligatures become three letters each."""
    known = facts(incident(spec={"title": "\ufb03" * 1024}), around())
    many = "{% for x in [" + ",".join(["title"] * 50) + "] %}{% if ("
    end = ")" + "|title|upper|lower" * 8 + " == '' %}{% endif %}{% endfor %}"
    template = many + "~".join("x" * ((4096 - len(many) - len(end)) // 2)) + end
    compile_text(template, frozenset(known))
    began = time.process_time()
    with pytest.raises(ValueError, match="works on too much text"):
        render_text(template, known)
    assert time.process_time() - began < 1


def test_a_wrong_template_makes_the_policy_unready() -> None:
    wrong = {
        "internalUpdate": "{{ secrets }}",
        "impact": [{"name": "errors", "query": "up", "text": "{{ values }}"}],
    }
    found = "\n".join(find_problems(policy(messages=wrong), "paramedic-system"))
    assert re.search(r"messages\.internalUpdate: unknown secrets; known are actions, ", found)
    assert "messages.impact.errors.text: unknown values; known are value" in found
    assert not list(find_problems(policy(messages={"internalUpdate": "{{ title }}"}), "paramedic-system"))


def test_wrong_settings_are_refused_at_start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "settings.yaml"
    path.write_text("templates: {allClear: '{{ nothing }}'}\n")
    monkeypatch.setenv("PARAMEDIC_CONFIG", str(path))
    with pytest.raises(SettingsError, match=r"templates\.allClear: unknown nothing; known are"):
        load_settings()


def test_settings_templates_have_every_text() -> None:
    assert set(Templates.model_fields) == set(messages.TEXTS)
    assert set(MessageTemplates.model_fields) == {*messages.TEXTS, "service", "impact"}
    assert not list(problems(Settings().templates))
