"""What the table calls a problem."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import replace
from typing import Any

import pytest

from gameday.chaos import CHAOS, MOMENTS, Aftermath
from gameday.days import DAYS
from gameday.ground import HERE
from gameday.report import HEAD, Row, table
from gameday.run import Run, phase_of

DAY = DAYS[0]
GOOD = Run(
    detected=4.0,
    acted=5.0,
    hurt=1.0,
    recovered=12.0,
    watched=30.0,
    sent=900,
    failed=Counter({"HTTP 500": 200, "timeout": 3}),
    acts=Counter({"patch deployments covet-app": 1}),
    phases=["Resolved"],
)
ALONE = replace(GOOD, acted=None, recovered=None, watched=180.0, acts=Counter(), phases=[])


def test_a_good_run_has_no_problems_and_a_line_with_all_that_matters() -> None:
    row = Row(DAY, GOOD, ALONE)
    assert row.problems() == []
    line = table(HEAD, [row.cells()]).splitlines()[-1]
    for figure in ("4.0 s", "5.0 s", "12.0 s", "not within 180 s", "203 of 900", "1 × patch deployments covet-app"):
        assert figure in line
    assert json.loads(json.dumps(row.as_json()))["with"]["failed"] == {"HTTP 500": 200, "timeout": 3}


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"acts": Counter({"patch deployments covet-app": 2})}, "was due"),
        ({"acts": Counter()}, "was due"),
        ({"acts": Counter({"patch deployments covet-app": 1, "patch services covet-service": 1})}, "was due"),
        ({"phases": ["Escalated"]}, "Escalated"),
        ({"phases": []}, "none"),
        ({"recovered": None}, "not recovered"),
    ],
)
def test_what_went_wrong_is_said(change: dict[str, object], words: str) -> None:
    assert words in " ".join(Row(DAY, replace(GOOD, **change), None).problems())  # type: ignore[arg-type]


def test_each_incident_may_act_once() -> None:
    twice = replace(GOOD, phases=["Resolved", "Resolved"], acts=Counter({"patch deployments covet-app": 2}))
    assert Row(DAY, twice, None).problems() == []


def test_a_round_may_take_two_incidents() -> None:
    day = replace(DAY, incidents=2, acts={"patch services covet-service": 2})
    good = replace(GOOD, phases=["Resolved"] * 2, acts=Counter({"patch services covet-service": 2}))
    assert Row(day, good, None).problems() == []
    half = replace(good, phases=["Resolved"], acts=Counter({"patch services covet-service": 1}))
    assert "ended as" in " ".join(Row(day, half, None).problems())


@pytest.mark.parametrize(
    ("change", "words"),
    [({}, ""), ({"generations": 2}, "was due"), ({"phases": ["Resolved"] * 2}, "ended"), ({"recovered": None}, "hurt")],
)
def test_chaos_is_judged_by_what_the_api_server_says(change: dict[str, object], words: str) -> None:
    good = Aftermath(CHAOS[0], 5.0, 12.0, 900, 200, ["Resolved"], Counter({"patch deployments covet-app": 1}), 1)
    problems = replace(good, **change).problems()  # type: ignore[arg-type]
    assert bool(problems) == bool(words)
    assert words in " ".join(problems)
    assert json.loads(json.dumps(good.as_json()))["acts"] == {"patch deployments covet-app": 1}


def test_every_day_has_its_policy_and_every_chaos_its_moment() -> None:
    assert {day.policy for day in DAYS} == {file.stem for file in (HERE / "policies").glob("*.yaml")}
    assert {one.when for one in CHAOS} == set(MOMENTS)
    names = [one.name for one in (*DAYS, *CHAOS)]
    assert len(set(names)) == len(names)


@pytest.mark.parametrize(
    ("status", "phase"),
    [
        ({}, ""),
        ({"phase": "Remediating", "steps": [{"state": "Executing"}]}, "Remediating"),
        ({"phase": "Remediating", "steps": [{"state": "Succeeded", "revertAt": "2026-01-01T00:00:00Z"}]}, "Holding"),
        (
            {"phase": "Verifying", "steps": [{"state": "Verifying", "revertAt": "2026-01-01T00:00:00Z"}]},
            "Verifying",
        ),
        ({"phase": "Escalated", "steps": [{"state": "Succeeded", "revertAt": "2026-01-01T00:00:00Z"}]}, "Escalated"),
        ({"phase": "Resolved", "steps": [{"state": "Reverted"}]}, "Resolved"),
    ],
)
def test_an_incident_that_only_waits_to_put_something_back_is_told_apart(status: dict[str, Any], phase: str) -> None:
    assert phase_of(status) == phase
