"""Did it help, is the rollout complete: the verdicts."""

from __future__ import annotations

from datetime import datetime
from math import inf, nan
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from builders import NOW, Json, ago, later, stored, verify, workload
from paramedic.api.checks import RevertWhen
from paramedic.core.rollout import is_healthy, rollout_result
from paramedic.core.verify import Facts, Result, judge

STUCK = Result("Inconclusive", "a person must delete the pod", held_up=True)
GOOD, BAD, SOON = Result("Passed", "complete"), Result("Failed", "stuck"), Result("Waiting", "1 of 2")
UNREADABLE = Result("Inconclusive", "cannot be read")
ERRORS = {"prometheus": {"query": "errors", "condition": "value < 0.01"}}
EMPTY_IS = {state: {"prometheus": ERRORS["prometheus"] | {"noData": state}} for state in ("Passed", "Failed")}


@pytest.mark.parametrize(
    ("checks", "facts", "before_deadline", "after_deadline"),
    [
        ({}, Facts(), "Passed", "Passed"),
        # the rollout
        ({"rollout": True}, Facts(rollout=GOOD), "Passed", "Passed"),
        ({"rollout": True}, Facts(rollout=SOON), "Waiting", "Failed"),
        ({"rollout": True}, Facts(rollout=BAD), "Failed", "Failed"),
        ({"rollout": True}, Facts(rollout=UNREADABLE), "Waiting", "Inconclusive"),
        ({"rollout": True}, Facts(), "Waiting", "Inconclusive"),
        ({"rollout": False}, Facts(rollout=BAD), "Passed", "Passed"),
        # the alert
        ({"alertResolved": True}, Facts(alert_firing=False), "Passed", "Passed"),
        ({"alertResolved": True}, Facts(alert_firing=True), "Waiting", "Failed"),
        ({"alertResolved": True}, Facts(alert_firing=None), "Passed", "Passed"),
        # Prometheus: unreachable is neither good nor bad
        (ERRORS, Facts(samples=[0.001]), "Passed", "Passed"),
        (ERRORS, Facts(samples=[0.01]), "Waiting", "Failed"),
        (ERRORS, Facts(samples=[inf]), "Waiting", "Failed"),
        (ERRORS, Facts(samples=None, unreadable="refused"), "Waiting", "Inconclusive"),
        (ERRORS, Facts(samples=[]), "Waiting", "Inconclusive"),
        (ERRORS, Facts(samples=[nan]), "Waiting", "Inconclusive"),
        (ERRORS, Facts(samples=[nan, 0.0]), "Passed", "Passed"),
        (ERRORS, Facts(samples=[0.0, 0.0]), "Waiting", "Inconclusive"),
        (EMPTY_IS["Passed"], Facts(samples=[nan]), "Passed", "Passed"),
        (EMPTY_IS["Failed"], Facts(samples=[]), "Waiting", "Failed"),
        (EMPTY_IS["Passed"], Facts(samples=None), "Waiting", "Inconclusive"),
        # together: what is known not to hold outweighs what could not be read
        (ERRORS | {"rollout": True}, Facts(rollout=GOOD, samples=[0.0]), "Passed", "Passed"),
        (ERRORS | {"rollout": True}, Facts(rollout=SOON, samples=None), "Waiting", "Failed"),
        (ERRORS | {"rollout": True}, Facts(rollout=GOOD, samples=None), "Waiting", "Inconclusive"),
        (ERRORS | {"rollout": True}, Facts(rollout=BAD, samples=None), "Failed", "Failed"),
        ({"rollout": True, "alertResolved": True}, Facts(rollout=GOOD, alert_firing=True), "Waiting", "Failed"),
        # what a person must help to take effect is not blamed for an alert that goes on
        ({"rollout": True, "alertResolved": True}, Facts(rollout=STUCK, alert_firing=True), "Waiting", "Inconclusive"),
    ],
)
def test_verdicts(checks: Json, facts: Facts, before_deadline: str, after_deadline: str) -> None:
    chosen = verify(**checks)
    assert judge(chosen, facts, NOW, deadline=later(1), passing_since=None).state == before_deadline
    assert judge(chosen, facts, NOW, deadline=NOW, passing_since=None).state == after_deadline
    assert judge(chosen, facts, NOW, deadline=None, passing_since=None).state == before_deadline


def test_what_only_does_not_answer_just_now_is_asked_again_for_a_while_after_the_deadline() -> None:
    chosen, away = verify(rollout=True), Facts(rollout=Result("Inconclusive", "no answer", for_now=True))
    states = [judge(chosen, away, at, deadline=NOW, passing_since=None).state for at in (NOW, later(0.2), later(0.5))]
    assert states == ["Waiting", "Waiting", "Inconclusive"]
    assert judge(chosen, Facts(rollout=SOON), NOW, deadline=NOW, passing_since=None).state == "Failed"


HOLD = {"rollout": True, "for": "30s"}


@pytest.mark.parametrize(
    ("since", "deadline", "state", "kept"),
    [
        (None, later(1), "Waiting", NOW),
        (ago(0.49), later(1), "Waiting", ago(0.49)),
        (ago(0.5), later(1), "Passed", ago(0.5)),
        # a hold that began in time may end after the deadline, but not much later
        (ago(0.1), NOW, "Waiting", ago(0.1)),
        (ago(0.1), ago(0.49), "Waiting", ago(0.1)),
        (ago(0.1), ago(0.5), "Failed", None),
        (ago(0.5), ago(5), "Passed", ago(0.5)),
        (None, None, "Waiting", NOW),
    ],
)
def test_a_check_must_hold(
    since: datetime | None, deadline: datetime | None, state: str, kept: datetime | None
) -> None:
    found = judge(verify(**HOLD), Facts(rollout=GOOD), NOW, deadline=deadline, passing_since=since)
    assert (found.state, found.passing_since) == (state, kept)


def test_a_break_starts_the_hold_anew() -> None:
    assert judge(verify(**HOLD), Facts(rollout=SOON), NOW, deadline=None, passing_since=ago(9)).passing_since is None


def test_the_message_says_what_is_missing() -> None:
    found = judge(verify(**ERRORS), Facts(samples=[0.5]), NOW, deadline=later(1), passing_since=None)
    assert found.message == "not yet: value < 0.01 with value = 0.5"


@given(st.floats() | st.integers(), st.sampled_from(["value < 1", "value == value", "value > 1e308", "value != 0.0"]))
def test_any_number_gives_a_verdict(value: float, condition: str) -> None:
    checks = verify(prometheus={"query": "q", "condition": condition})
    assert judge(checks, Facts(samples=[value]), NOW, deadline=NOW, passing_since=None).state != "Waiting"


def test_a_lease_until_the_alert_ends_is_not_over_where_there_is_no_alert() -> None:
    lease = RevertWhen(alert_resolved=True)
    assert judge(lease, Facts(), NOW, deadline=None, passing_since=None).state == "Waiting"
    assert judge(lease, Facts(alert_firing=False), NOW, deadline=None, passing_since=None).state == "Passed"
    assert judge(verify(alertResolved=True), Facts(), NOW, deadline=NOW, passing_since=None).state == "Passed"


# -- kubectl rollout status --------------------------------------------------------------------------------------------


def seen(kind: str, spec: Json, generation: int = 1, **status: Any) -> Json:
    whole = stored(workload(kind, **spec)) | {"status": {"observedGeneration": 1} | status}
    whole["metadata"]["generation"] = generation
    return whole


def replicas(updated: int, total: int, available: int, **more: Any) -> Json:
    return {"updatedReplicas": updated, "replicas": total, "availableReplicas": available} | more


DEADLINE = {"conditions": [{"type": "Progressing", "reason": "ProgressDeadlineExceeded", "status": "False"}]}
PARTITION = {"updateStrategy": {"type": "RollingUpdate", "rollingUpdate": {"partition": 1}}}
ON_DELETE = {"updateStrategy": {"type": "OnDelete"}}
RECREATE = {"updateStrategy": {"type": "Recreate"}}
PARALLEL = {"podManagementPolicy": "Parallel"}
BACK = {"updateRevision": "a", "currentRevision": "a"}
MOVING = {"updateRevision": "b", "currentRevision": "a"}


@pytest.mark.parametrize(
    ("object_", "state", "said"),
    [
        (seen("Deployment", {}, generation=2, **replicas(2, 2, 2)), "Waiting", "not been observed"),
        (seen("Deployment", {}, **replicas(1, 3, 2)), "Waiting", "1 of 2 replicas updated"),
        (seen("Deployment", {}, **replicas(2, 3, 2)), "Waiting", "1 old replicas still to end"),
        (seen("Deployment", {}, **replicas(2, 2, 1)), "Waiting", "1 of 2 updated replicas available"),
        (seen("Deployment", {}, **replicas(2, 2, 2)), "Passed", "2 of 2"),
        (seen("Deployment", {}, **replicas(0, 2, 0, **DEADLINE)), "Failed", "progress deadline"),
        (seen("Deployment", {"replicas": 0}), "Passed", "0 of 0"),
        (seen("Deployment", {}), "Waiting", "0 of 2"),
        (seen("StatefulSet", {}, readyReplicas=1, updatedReplicas=2), "Waiting", "1 of 2 replicas ready"),
        (seen("StatefulSet", {}, readyReplicas=2, updatedReplicas=1, **MOVING), "Waiting", "1 of 2 replicas updated"),
        (seen("StatefulSet", {}, readyReplicas=2, updatedReplicas=2, **MOVING), "Waiting", "being updated"),
        (seen("StatefulSet", {}, readyReplicas=2, updatedReplicas=2), "Passed", "2 of 2"),
        (seen("StatefulSet", PARTITION, readyReplicas=2, updatedReplicas=1, **MOVING), "Passed", "2 of 2"),
        (seen("StatefulSet", PARTITION, readyReplicas=2, updatedReplicas=0, **MOVING), "Waiting", "0 of 1"),
        (seen("StatefulSet", ON_DELETE, readyReplicas=2), "Inconclusive", "OnDelete"),
        # the template is the one of before, and a pod of the bad one is in the way
        (
            seen("StatefulSet", {}, replicas=2, readyReplicas=1, updatedReplicas=1, **BACK),
            "Inconclusive",
            "not replace",
        ),
        (seen("StatefulSet", {}, replicas=2, readyReplicas=1, **MOVING), "Inconclusive", "1 of 2 replicas ready; Kub"),
        (seen("StatefulSet", RECREATE, replicas=2, readyReplicas=1, **MOVING), "Waiting", "1 of 2 replicas ready"),
        (seen("StatefulSet", PARALLEL, replicas=2, readyReplicas=1, **MOVING), "Waiting", "1 of 2 replicas ready"),
        # the new template's own pod does not get ready, or there are too few pods
        (seen("StatefulSet", {}, replicas=2, readyReplicas=1, updatedReplicas=1, **MOVING), "Waiting", "1 of 2"),
        (seen("StatefulSet", {}, replicas=1, readyReplicas=1, updatedReplicas=1, **BACK), "Waiting", "1 of 2"),
        (seen("DaemonSet", {}, desiredNumberScheduled=2, updatedNumberScheduled=1), "Waiting", "1 of 2 pods updated"),
        (
            seen("DaemonSet", {}, desiredNumberScheduled=2, updatedNumberScheduled=2, numberAvailable=1),
            "Waiting",
            "1 of 2 pods available",
        ),
        (
            seen("DaemonSet", {}, desiredNumberScheduled=2, updatedNumberScheduled=2, numberAvailable=2),
            "Passed",
            "2 of 2",
        ),
        (seen("DaemonSet", ON_DELETE), "Inconclusive", "OnDelete"),
        (seen("Deployment", {}) | {"kind": "CronJob"}, "Inconclusive", "CronJob has no rollout"),
    ],
)
def test_rollout_status(object_: Json, state: str, said: str) -> None:
    found = rollout_result(object_)
    assert (found.state, said in found.message) == (state, True), found


@pytest.mark.parametrize(
    ("seconds_after", "deadline", "state"),
    [
        (-600, None, "Waiting"),
        (-1, None, "Waiting"),
        (5, None, "Waiting"),
        (299, None, "Waiting"),
        (300, None, "Failed"),
        (600, None, "Failed"),
        (5, 60, "Waiting"),
        (60, 60, "Failed"),
    ],
)
def test_what_the_controller_said_of_the_rollout_before_is_no_verdict_on_this_one(
    seconds_after: float, deadline: int | None, state: str
) -> None:
    """Its clock may be ahead of ours: what it said before may seem to be said after."""
    said = DEADLINE["conditions"][0] | {"lastUpdateTime": later(seconds_after / 60).strftime("%Y-%m-%dT%H:%M:%SZ")}
    spec = {"progressDeadlineSeconds": deadline} if deadline else {}
    deployment = seen("Deployment", spec, **replicas(1, 2, 1, conditions=[said]))
    assert rollout_result(deployment, since=NOW).state == state


@pytest.mark.parametrize(
    ("object_", "healthy"),
    [
        (seen("Deployment", {}, availableReplicas=2), True),
        (seen("Deployment", {}, availableReplicas=1), False),
        (seen("Deployment", {}), False),
        (seen("Deployment", {"replicas": 0}), True),
        (seen("StatefulSet", {}, availableReplicas=2), True),
        (seen("DaemonSet", {}, desiredNumberScheduled=2, numberAvailable=1), False),
        (seen("DaemonSet", {}, desiredNumberScheduled=2, numberAvailable=2), True),
        (seen("DaemonSet", {}), True),
    ],
)
def test_health(object_: Json, healthy: bool) -> None:
    assert is_healthy(object_) is healthy
