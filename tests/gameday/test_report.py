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
from gameday.installation import POLL_GRACE_SECONDS
from gameday.report import HEAD, Row, table
from gameday.run import Run, longest, phase_of, sorted_out
from gameday.scene import Scene
from testbed.audit import Request

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
    outside=Counter(),
    phases=["Resolved"],
    traces=0,
    killed=Counter(),
)
ALONE = replace(GOOD, acted=None, recovered=None, watched=180.0, acts=Counter(), phases=[])
LEAK = next(day for day in DAYS if day.name == "leak")


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
        ({"phases": ["Resolved"] * 2, "acts": Counter({"patch deployments covet-app": 2})}, "was due"),
        ({"outside": Counter({"patch deployments web in shop": 1})}, "none of its business"),
        ({"hurt": None, "recovered": None}, "hurt nobody"),
        ({"detected": None}, "told of no alert"),
        ({"acted": 4.0 + POLL_GRACE_SECONDS}, "the webhook did not tell"),
    ],
)
def test_what_went_wrong_is_said(change: dict[str, object], words: str) -> None:
    assert words in " ".join(Row(DAY, replace(GOOD, **change), None).problems())  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"acts": Counter({"patch deployments covet-app": 1}), "phases": ["Resolved"]}, "nothing was due"),
        ({"outside": Counter({"patch deployments web in shop": 1})}, "nothing was due"),
        ({"hurt": None}, "hurt nobody"),
    ],
)
def test_where_nobody_was_to_act_nobody_may_have(change: dict[str, object], words: str) -> None:
    assert Row(DAY, GOOD, ALONE).problems() == []
    assert words in " ".join(Row(DAY, GOOD, replace(ALONE, **change)).problems())  # type: ignore[arg-type]


def test_only_a_fault_that_comes_again_is_answered_again_and_then_each_incident_may_act_once() -> None:
    twice = replace(GOOD, phases=["Resolved", "Resolved"], acts=Counter({"patch deployments covet-app": 2}))
    assert Row(LEAK, twice, None).problems() == []
    assert Row(LEAK, replace(twice, phases=["Resolved"]), None).problems() != []
    assert Row(DAY, twice, None).problems() != []
    assert [day.name for day in DAYS if day.repeats] == ["leak"]


def test_a_leak_nobody_stops_is_stopped_by_the_kernel() -> None:
    killed = replace(ALONE, hurt=None, killed=Counter({"OOMKilled": 3}))
    assert Row(LEAK, GOOD, killed).problems() == []
    assert "no container was OOMKilled" in " ".join(Row(LEAK, GOOD, replace(killed, killed=Counter())).problems())


def test_what_was_done_must_leave_its_traces_and_only_then() -> None:
    day = replace(DAY, trace=Scene.turned_away)
    seen = replace(GOOD, traces=12)
    assert Row(day, seen, ALONE).problems() == []
    assert "no effect" in " ".join(Row(day, GOOD, ALONE).problems())
    assert "nobody acted" in " ".join(Row(day, seen, replace(ALONE, traces=1)).problems())


def test_a_day_that_must_be_watched_is_not_cut_short() -> None:
    assert longest(LEAK, 60) > LEAK.watch_seconds
    assert longest(LEAK, 1000) == 1000
    assert longest(DAY, 60) == 60


def test_changes_outside_of_the_day_s_namespace_are_told_apart_from_what_is_only_recorded_or_asked() -> None:
    def write(
        resource: str, group: str = "", namespace: str = "covet-day", verb: str = "patch", **more: Any
    ) -> Request:
        raw = {"objectRef": {"apiGroup": group}}
        base = Request(verb, "paramedic", resource, namespace, "x", 200, "/apis", "", "2026-01-01T00:00:00Z", raw)
        return replace(base, **more)

    inside, outside = sorted_out(
        [
            write("deployments", "apps"),
            write("deployments", "apps", "shop"),
            write("nodes", namespace=""),
            write("deployments", "apps", "shop", status=409),
            write("deployments", "apps", "shop", uri="/apis?dryRun=All"),
            write("incidents/status", "paramedic.dev", "shop"),
            write("subjectaccessreviews", "authorization.k8s.io", "", "create"),
            write("events", "events.k8s.io", "shop", "create"),
        ],
        "covet-day",
    )
    assert [one.what for one in inside] == ["patch deployments x"]
    assert outside == {"patch deployments x in shop": 1, "patch nodes x in no namespace": 1}


def test_a_round_may_take_two_incidents() -> None:
    day = replace(DAY, incidents=2, by_alert=False, acts={"patch services covet-service": 2})
    acts = Counter({"patch services covet-service": 2})
    good = replace(GOOD, detected=None, phases=["Resolved"] * 2, acts=acts)
    assert Row(day, good, None).problems() == []
    half = replace(good, phases=["Resolved"], acts=Counter({"patch services covet-service": 1}))
    assert "ended as" in " ".join(Row(day, half, None).problems())


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({}, ""),
        ({"generations": 2}, "was due"),
        ({"phases": ["Resolved"] * 2}, "ended"),
        ({"recovered": None}, "hurt"),
        ({"outside": Counter({"patch deployments web in shop": 1})}, "none of its business"),
    ],
)
def test_chaos_is_judged_by_what_the_api_server_says(change: dict[str, object], words: str) -> None:
    acts = Counter({"patch deployments covet-app": 1})
    good = Aftermath(CHAOS[0], 5.0, 12.0, 900, 200, ["Resolved"], acts, 1, Counter())
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
