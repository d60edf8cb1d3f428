"""From raw objects to ranked findings."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime, timedelta
from typing import Any

import pytest

from builders import NOW, ago, workload
from paramedic.api.incident import Finding
from paramedic.api.reasons import FindingReason as R
from paramedic.core.findings import findings_of
from paramedic.core.picture import Answer, Breaker, Picture
from paramedic.core.release import Changes, Release

Json = dict[str, Any]
TARGET = "Deployment/covet-app"


def stamp(at: datetime) -> str:
    return at.isoformat()


def pod(
    number: int = 0, *, ready: bool = False, entry: str = "covet-app-7", container: Json | None = None, **parts: Any
) -> Json:
    """A running pod of revision 7; ``container`` adds to its container's status, ``parts`` to the pod's."""
    condition = {"type": "Ready", "status": str(ready), "lastTransitionTime": stamp(ago(7))}
    status: Json = {
        "phase": "Running",
        "conditions": [condition],
        "containerStatuses": [
            {"name": "main", "image": "covet:2", "ready": ready, "restartCount": 0} | (container or {})
        ],
    }
    spec = {
        "nodeName": "node-a",
        "containers": [{"name": "main", "resources": {"limits": {"memory": "128Mi", "cpu": "1"}}}],
    }
    meta = {"name": f"covet-app-{number}", "ownerReferences": [{"kind": "ReplicaSet", "name": entry}]}
    return {
        "metadata": meta | parts.get("metadata", {}),
        "spec": spec | parts.get("spec", {}),
        "status": status | parts.get("status", {}),
    }


def waiting(why: str, message: str = "", restarts: int = 0, **last: Any) -> Json:
    ended = {"lastState": {"terminated": last}} if last else {}
    return {"state": {"waiting": {"reason": why, "message": message}}, "restartCount": restarts} | ended


def terminated(code: int, minutes_ago: float) -> Json:
    return {"terminated": {"exitCode": code, "finishedAt": stamp(ago(minutes_ago))}}


def release(minutes: float = 12, **fields: Any) -> Release:
    """Revision 7, so many minutes before NOW; the alert began 10 minutes before NOW."""
    usual: Json = {
        "revision": 7,
        "started_at": ago(minutes),
        "restarted_at": None,
        "entries": frozenset({"covet-app-7"}),
        "previous": 6,
        "changes": Changes(),
    }
    return Release(**(usual | fields))


def picture(*pods: Json, **facts: Any) -> Picture:
    usual: Json = {"target": TARGET, "namespace": "covet", "now": NOW, "alert_started_at": ago(10), "pods": list(pods)}
    return Picture(**(usual | facts))


def reasons(findings: Iterable[Finding]) -> list[str]:
    return [f.reason for f in findings]


def the(reason: R, seen: Picture) -> Finding:
    found = [f for f in findings_of(seen) if f.reason == reason]
    assert len(found) == 1, [f.message for f in findings_of(seen)]
    return found[0]


# -- rollouts ----------------------------------------------------------------------------------------------------------


def test_a_rollout_whose_pods_are_not_ready_comes_first_with_counts_time_and_what_changed() -> None:
    changes = Changes(images=("image of main: covet:1 → covet:2",), env=("env of main: DB_HOST",))
    seen = picture(pod(1), pod(2), pod(3), pod(4, ready=True), release=release(changes=changes))
    first, second, *_ = findings_of(seen)
    assert first.reason == R.RECENT_ROLLOUT
    assert first.object == TARGET
    assert first.message == (
        "3 of 4 pods NotReady since the rollout to revision 7, 2 min before the alert; "
        "changed since revision 6: image of main: covet:1 → covet:2; env of main: DB_HOST"
    )
    assert (second.reason, second.message) == (
        R.CONFIG_CHANGED,
        "revision 7 changed env of main: DB_HOST (values are not told)",
    )


def test_a_rollout_stands_before_what_it_causes_but_behind_other_causes_when_its_pods_are_well() -> None:
    dead = [Answer("dependency", "http://db", error="no connection")]
    bad = picture(pod(1, container=waiting("ErrImagePull")), release=release(), answers=dead)
    assert reasons(findings_of(bad)) == [
        R.RECENT_ROLLOUT,
        R.IMAGE_PULL_FAILED,
        R.DEPENDENCY_UNREACHABLE,
        R.PODS_NOT_READY,
    ]
    well = picture(pod(1, ready=True), release=release(), answers=dead)
    assert reasons(findings_of(well)) == [R.DEPENDENCY_UNREACHABLE, R.RECENT_ROLLOUT]


def test_pods_of_an_earlier_revision_do_not_speak_against_the_rollout() -> None:
    seen = picture(pod(1, entry="covet-app-6"), pod(2, ready=True), release=release())
    assert the(R.RECENT_ROLLOUT, seen).message == "rollout to revision 7, 2 min before the alert"


@pytest.mark.parametrize(
    ("minutes_ago", "told"),
    [(69, True), (71, False), (0, True), (10, True)],
    ids=["59 min before the alert", "61 min before", "a moment ago", "with the alert"],
)
def test_a_rollout_is_recent_from_an_hour_before_the_alert_on(minutes_ago: float, told: bool) -> None:
    assert (R.RECENT_ROLLOUT in reasons(findings_of(picture(release=release(minutes_ago))))) is told


def test_a_restart_is_not_a_rollout() -> None:
    seen = picture(release=release(600, restarted_at=ago(5)))
    assert reasons(findings_of(seen)) == [R.RECENT_RESTART]
    assert "5 min after the alert" in the(R.RECENT_RESTART, seen).message


def test_pods_of_stateful_and_daemon_sets_are_told_by_their_revision_label() -> None:
    by_name = pod(1, entry="db", metadata={"labels": {"controller-revision-hash": "db-5f4"}})
    by_hash = pod(2, entry="db", metadata={"labels": {"controller-revision-hash": "5f4"}})
    seen = picture(by_name, by_hash, release=release(entries=frozenset({"db-5f4"})))
    assert the(R.RECENT_ROLLOUT, seen).message.startswith("2 of 2 pods NotReady since the rollout")


# -- pods --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("container", "reason", "words"),
    [
        (
            waiting("ImagePullBackOff", "Back-off pulling"),
            R.IMAGE_PULL_FAILED,
            "image covet:2 of container main cannot be",
        ),
        (waiting("InvalidImageName"), R.IMAGE_PULL_FAILED, "cannot be pulled"),
        (
            waiting("CreateContainerConfigError", 'secret "covet-secrets" not found'),
            R.CONTAINER_CANNOT_START,
            'container main cannot start (CreateContainerConfigError: secret "covet-secrets" not found)',
        ),
        (
            waiting("CrashLoopBackOff", "back-off 5m0s", 9, exitCode=1, reason="Error", finishedAt=stamp(ago(8))),
            R.CRASH_LOOPING,
            "crashes again and again (exit code 1), up to 9 restarts, last 2 min after the alert",
        ),
        ({"state": terminated(1, 8), "restartCount": 2}, R.CRASH_LOOPING, "(exit code 1), up to 2 restarts"),
        (
            {"state": {"running": {}}, "restartCount": 2, "lastState": terminated(3, 8)},
            R.CRASH_LOOPING,
            "(exit code 3), up to 2 restarts",
        ),
        (
            waiting("CrashLoopBackOff", "", 3, exitCode=137, reason="OOMKilled", finishedAt=stamp(ago(12))),
            R.OOM_KILLED,
            "killed for want of memory (limit 128Mi), up to 3 restarts, last 2 min before the alert",
        ),
        (
            {"state": {"running": {}}, "restartCount": 6, "lastState": {"terminated": {"finishedAt": stamp(ago(1))}}},
            R.HIGH_RESTARTS,
            "restarted 5 times or more, up to 6 restarts, last 9 min after the alert",
        ),
    ],
)
def test_a_containers_trouble(container: Json, reason: R, words: str) -> None:
    assert words in the(reason, picture(pod(1, container=container))).message


@pytest.mark.parametrize(
    "container",
    [
        waiting("ContainerCreating"),
        waiting("PodInitializing"),
        {"state": {"running": {}}, "restartCount": 9, "lastState": {"terminated": {"finishedAt": stamp(ago(300))}}},
        {"state": {"running": {}}, "restartCount": 4, "lastState": {"terminated": {"finishedAt": stamp(ago(1))}}},
        {"state": terminated(1, 300), "restartCount": 4},
        {"lastState": {"terminated": {"reason": "OOMKilled", "finishedAt": stamp(ago(71))}}},
        {"state": None, "lastState": None},
    ],
    ids=["creating", "initialising", "old restarts", "few restarts", "ended long ago", "old OOM", "no state"],
)
def test_what_is_no_trouble(container: Json) -> None:
    assert reasons(findings_of(picture(pod(1, container=container)))) == [R.PODS_NOT_READY]


def test_two_hundred_pods_with_the_same_trouble_are_one_finding() -> None:
    pods = [pod(n, container=waiting("ImagePullBackOff", f"attempt {n}")) for n in range(200)]
    found = the(R.IMAGE_PULL_FAILED, picture(*pods))
    assert found.message.startswith("200 of 200 pods: image covet:2")
    assert found.message.endswith("(covet-app-0, covet-app-1, covet-app-10 and 197 more)")
    assert found.object == TARGET


def test_one_pod_is_named_as_the_object() -> None:
    seen = picture(pod(5, container=waiting("ErrImagePull")), pod(6, ready=True))
    assert the(R.IMAGE_PULL_FAILED, seen).object == "Pod/covet-app-5"


def test_unschedulable_says_what_the_scheduler_said() -> None:
    condition = {"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": "0/3 nodes: no cpu"}
    seen = picture(pod(1, status={"conditions": [condition]}), pod(2, ready=True))
    assert "1 of 2 pods: no node takes it (Unschedulable: 0/3 nodes: no cpu)" in the(R.UNSCHEDULABLE, seen).message


def test_pods_that_have_ended_or_are_about_to_do_not_count() -> None:
    going = pod(1, metadata={"deletionTimestamp": stamp(NOW)})
    seen = picture(going, pod(2, status={"phase": "Succeeded"}), pod(3, status={"phase": "Failed"}), pod(4))
    assert the(R.PODS_NOT_READY, seen).message == (
        "1 of 1 pods NotReady, the first since 3 min after the alert (covet-app-4)"
    )


def test_evicted_and_stuck_pods() -> None:
    evicted = {
        "phase": "Failed",
        "reason": "Evicted",
        "message": "Low on memory. Main was using 1Gi",
        "startTime": stamp(ago(9)),
    }
    stuck = pod(2, metadata={"deletionTimestamp": stamp(ago(6))})
    found = findings_of(picture(pod(1, status=evicted), stuck))
    assert reasons(found) == [R.EVICTED, R.STUCK_TERMINATING]
    assert found[0].message.startswith("1 pod: evicted (Low on memory)")


def test_a_thousand_different_troubles_leave_room_for_the_rest() -> None:
    pods = [pod(n, container=waiting("CreateContainerError", f"no. {n}")) for n in range(1000)]
    found = findings_of(picture(*pods, answers=[Answer("health", "http://x/health", 503, 4)]))
    assert reasons(found) == [R.CONTAINER_CANNOT_START] * 2 + [R.PODS_NOT_READY, R.HEALTH_CHECK_FAILED]


def test_init_containers_count() -> None:
    broken = {"name": "migrate", "image": "x", "ready": False} | waiting("CrashLoopBackOff", restarts=2, exitCode=3)
    assert (
        "container migrate crashes"
        in the(R.CRASH_LOOPING, picture(pod(1, status={"initContainerStatuses": [broken]}))).message
    )


# -- the workload ------------------------------------------------------------------------------------------------------


def deployment(replicas: int = 4, **status: Any) -> Json:
    return workload(replicas=replicas) | {"status": status}


def test_scaled_to_zero() -> None:
    assert reasons(findings_of(picture(workload=deployment(0)))) == [R.SCALED_TO_ZERO]


def test_refused_pods_are_a_quota_or_something_else() -> None:
    def refused(message: str) -> Picture:
        failure = {"type": "ReplicaFailure", "status": "True", "reason": "FailedCreate", "message": message}
        return picture(workload=deployment(conditions=[failure]))

    assert "exceeded quota: compute" in the(R.QUOTA_EXCEEDED, refused("forbidden: exceeded quota: compute")).message
    assert reasons(findings_of(refused("denied by webhook"))) == [R.PODS_NOT_CREATED]


def test_a_full_quota_counts_only_while_pods_are_lacking() -> None:
    quota = {
        "metadata": {"name": "compute"},
        "status": {"hard": {"pods": "2", "cpu": "4"}, "used": {"pods": "2", "cpu": "500m"}},
    }
    lacking = picture(pod(1, ready=True), pod(2, ready=True), workload=deployment(4), quotas=[quota])
    assert the(R.QUOTA_EXCEEDED, lacking).message == "ResourceQuota/compute is used up: pods 2 of 2"
    enough = picture(pod(1, ready=True), pod(2, ready=True), workload=deployment(2), quotas=[quota])
    assert findings_of(enough) == ()


def test_a_rollout_past_its_deadline() -> None:
    late = {"type": "Progressing", "status": "False", "reason": "ProgressDeadlineExceeded"}
    assert reasons(findings_of(picture(workload=deployment(conditions=[late])))) == [R.ROLLOUT_STUCK]


# -- events ------------------------------------------------------------------------------------------------------------


def event(
    reason: str, message: str, name: str = "covet-app-1", minutes_ago: float = 9, count: int = 3, **rest: Any
) -> Json:
    about = {"kind": "Pod", "name": name}
    return {
        "metadata": {"name": f"{name}.1", "creationTimestamp": stamp(ago(60))},
        "involvedObject": about,
        "reason": reason,
        "message": message,
        "count": count,
        "lastTimestamp": stamp(ago(minutes_ago)),
    } | rest


def test_failing_probes_of_several_pods_are_one_finding() -> None:
    text = "Readiness probe failed: HTTP probe failed with statuscode: 503"
    events = [event("Unhealthy", text), event("Unhealthy", text, "covet-app-2", 8, 4)]
    found = the(R.PROBE_FAILING, picture(pod(1), pod(2), pod(3, ready=True), events=events))
    assert found.message == (
        "2 of 3 pods: readiness probe fails, 7 times, last 2 min after the alert: "
        "HTTP probe failed with statuscode: 503 (covet-app-1, covet-app-2)"
    )


def test_events_of_long_ago_and_of_pods_that_are_gone_do_not_count() -> None:
    old = event("FailedMount", "no volume", minutes_ago=71)
    gone = event("FailedMount", "no volume", "covet-app-gone")
    assert reasons(findings_of(picture(pod(1), events=[old, gone]))) == [R.PODS_NOT_READY]
    assert R.VOLUME_FAILED in reasons(findings_of(picture(pod(1), events=[event("FailedMount", "no volume")])))


def test_refused_pods_told_by_events_count_while_pods_are_lacking() -> None:
    text = 'pods "x" is forbidden: exceeded quota: compute'
    events = [event("FailedCreate", text, "covet-app-7", involvedObject={"kind": "ReplicaSet", "name": "covet-app-7"})]
    lacking = the(R.QUOTA_EXCEEDED, picture(pod(1, ready=True), workload=deployment(2), events=events))
    assert lacking.message.startswith("pods are refused, 3 times, last 60 s after the alert: pods")
    assert findings_of(picture(pod(1, ready=True), workload=deployment(1), events=events)) == ()


def test_events_of_the_new_api_have_their_time_in_a_series() -> None:
    series = {"lastTimestamp": None, "series": {"count": 12, "lastObservedTime": stamp(ago(5))}}
    found = the(R.VOLUME_FAILED, picture(pod(1), events=[event("FailedMount", "no volume", **series)]))
    assert "12 times, last 5 min after the alert" in found.message


# -- what is around ----------------------------------------------------------------------------------------------------


def node(name: str = "node-a", **conditions: str) -> Json:
    states = {"Ready": "True"} | conditions
    return {"metadata": {"name": name}, "status": {"conditions": [{"type": k, "status": v} for k, v in states.items()]}}


def test_nodes_that_are_down_say_how_many_of_the_pods_they_have() -> None:
    seen = picture(pod(1), pod(2), nodes=[node(Ready="Unknown"), node("node-b")])
    found = the(R.NODE_NOT_READY, seen)
    assert found.message == "1 of 2 nodes NotReady (node-a); 2 of the target's pods are there"
    assert found.object == "Node/node-a"


def test_pressure_counts_only_where_the_targets_pods_are() -> None:
    seen = picture(pod(1, ready=True), nodes=[node(), node("node-b", DiskPressure="True")])
    assert findings_of(seen) == ()
    assert reasons(findings_of(picture(pod(1, ready=True), nodes=[node(DiskPressure="True")]))) == [R.NODE_PRESSURE]


def hpa(*conditions: tuple[str, str, str]) -> Json:
    metric = {"type": "Resource", "resource": {"name": "cpu", "target": {"averageUtilization": 70}}}
    used = {"type": "Resource", "resource": {"name": "cpu", "current": {"averageUtilization": 180}}}
    return {
        "metadata": {"name": "covet-hpa"},
        "spec": {"maxReplicas": 5, "metrics": [metric]},
        "status": {
            "currentReplicas": 5,
            "currentMetrics": [used],
            "conditions": [{"type": t, "status": s, "reason": r, "message": "so"} for t, s, r in conditions],
        },
    }


@pytest.mark.parametrize(
    ("condition", "reason", "words"),
    [
        (
            ("ScalingLimited", "True", "TooManyReplicas"),
            R.AUTOSCALER_AT_LIMIT,
            "5 of at most 5 replicas; cpu at 180 % where 70 %",
        ),
        (("ScalingActive", "False", "FailedGetResourceMetric"), R.AUTOSCALER_FAILING, "FailedGetResourceMetric: so"),
        (("ScalingLimited", "True", "TooFewReplicas"), None, ""),
        (("ScalingLimited", "False", "DesiredWithinRange"), None, ""),
        (("ScalingActive", "False", "ScalingDisabled"), None, ""),
    ],
)
def test_autoscalers(condition: tuple[str, str, str], reason: R | None, words: str) -> None:
    seen = picture(autoscalers=[hpa(condition)])
    if reason is None:
        assert findings_of(seen) == ()
    else:
        assert words in the(reason, seen).message


def service(name: str = "covet-service", **selector: str) -> Json:
    return {"metadata": {"name": name}, "spec": {"type": "ClusterIP", "selector": selector}}


def endpoints(*ready: bool | None, of: str = "covet-service") -> Json:
    one_by_one = [
        {"addresses": [f"10.0.0.{n}"], "conditions": {"ready": r} if r is not None else {}} for n, r in enumerate(ready)
    ]
    return {"metadata": {"labels": {"kubernetes.io/service-name": of}}, "endpoints": one_by_one}


@pytest.mark.parametrize(
    ("slices", "words"),
    [
        ([], "it has none at all"),
        ([endpoints()], "it has none at all"),
        ([endpoints(False, False)], "2 not ready"),
        ([endpoints(True, of="other")], "it has none at all"),
        ([endpoints(False), endpoints(None)], None),
        ([endpoints(True)], None),
    ],
)
def test_ready_endpoints(slices: list[Json], words: str | None) -> None:
    found = findings_of(picture(services=[service(app="covet-app")], endpoint_slices=slices))
    assert [f"Service/covet-service has no ready endpoint ({words})"] * bool(words) == [f.message for f in found]


def test_endpoints_that_could_not_be_read_are_not_taken_for_none() -> None:
    assert findings_of(picture(services=[service(app="covet-app")], endpoint_slices=None)) == ()


def test_a_service_that_selects_others_says_what_it_looks_for() -> None:
    seen = picture(stray_services=[service(app="maintenance")], labels={"app": "covet-app", "tier": "web"})
    assert the(R.SERVICE_SELECTS_NOTHING, seen).message == (
        "Service/covet-service selects none of the target's pods: it looks for app=maintenance, they have app=covet-app"
    )


@pytest.mark.parametrize(
    ("answer", "wanted"),
    [
        (Answer("health", "https://api/health", 503, 12), [(R.HEALTH_CHECK_FAILED, "answered 503 in 12 ms")]),
        (Answer("health", "https://api/health", 302, 12), []),
        (
            Answer("health", "https://api/health", error="no answer within 1.5 s"),
            [(R.HEALTH_CHECK_FAILED, "does not answer")],
        ),
        (
            Answer("health", "https://api/health", 200, 1, "", "certificate has expired"),
            [(R.CERTIFICATE_PROBLEM, "expired")],
        ),
        (Answer("metrics", "http://api/metrics", 302, 1), [(R.METRICS_UNAVAILABLE, "answered 302")]),
        (Answer("dependency", "http://db", 404, 1), []),
        (Answer("dependency", "http://db", 502, 1), [(R.DEPENDENCY_UNREACHABLE, "answered 502")]),
    ],
)
def test_urls(answer: Answer, wanted: list[tuple[R, str]]) -> None:
    found = findings_of(picture(answers=[answer]))
    assert reasons(found) == [reason for reason, _ in wanted]
    assert all(words in f.message for f, (_, words) in zip(found, wanted, strict=True))


def test_names_breakers_and_missing_objects() -> None:
    seen = picture(
        names={"covet-service.covet.svc": "not known", "other.covet.svc": None},
        breakers=[
            Breaker("a", "outbound|80||db", "default_rq_pending"),
            Breaker("b", "outbound|80||db", "default_rq_pending"),
        ],
        missing=("Service/covet-service",),
    )
    found = findings_of(seen)
    assert reasons(found) == [R.OBJECT_MISSING, R.DNS_FAILED, R.CIRCUIT_BREAKER_OPEN]
    assert found[1].object == "Service/covet-service"
    assert found[2].message == "Envoy's circuit breaker default_rq_pending for outbound|80||db is open in 2 pods (a, b)"


def test_usage_near_the_limits() -> None:
    usage = [
        {
            "metadata": {"name": "covet-app-1"},
            "containers": [{"name": "main", "usage": {"memory": "125Mi", "cpu": "899m"}}],
        }
    ]
    assert the(R.MEMORY_NEAR_LIMIT, picture(pod(1, ready=True), pod_usage=usage)).message == (
        "1 of 1 pods: container main uses 98% of its memory limit (covet-app-1)"
    )
    usage[0]["containers"][0]["usage"] = {"memory": "115Mi", "cpu": "900m"}  # type: ignore[index]
    assert reasons(findings_of(picture(pod(1, ready=True), pod_usage=usage))) == [R.CPU_NEAR_LIMIT]


# -- the list as a whole -----------------------------------------------------------------------------------------------


def test_nothing_seen_is_nothing_found() -> None:
    assert findings_of(Picture(target=TARGET, namespace="covet", now=NOW)) == ()


def test_objects_of_which_nothing_is_known_yet_are_no_trouble() -> None:
    bare: Json = {"metadata": {"name": "x"}}
    specless = bare | {"spec": {}}
    seen = picture(
        bare,
        workload=bare | {"kind": "Deployment", "spec": {}},
        services=[specless],
        endpoint_slices=[bare],
        ingresses=[bare],
        nodes=[],
        autoscalers=[specless],
        quotas=[bare],
        pod_usage=[bare],
        events=[bare],
    )
    assert reasons(findings_of(seen)) == [R.PODS_NOT_READY, R.NO_READY_ENDPOINTS]


def test_at_most_ten() -> None:
    answers = [Answer("health", f"http://x/{n}", 500, 1) for n in range(30)]
    found = findings_of(picture(pod(1), answers=answers))
    assert len(found) == 10
    assert found[0].reason == R.PODS_NOT_READY


def test_without_an_alert_times_are_ages() -> None:
    seen = picture(release=release(3), alert_started_at=None)
    assert "rollout to revision 7, 3 min ago" in the(R.RECENT_ROLLOUT, seen).message


def test_hostile_text_becomes_one_short_printable_line_without_secrets() -> None:
    nasty = "boom\x1b[2J\r\n\u202eDB_PASSWORD=hunter2 " + "x" * 5000
    found = the(R.CONTAINER_CANNOT_START, picture(pod(1, container=waiting("CreateContainerError", nasty))))
    assert found.message.isprintable()
    assert len(found.message) < 400
    assert "hunter2" not in found.message
    assert "boom DB_PASSWORD=***" in found.message


def test_a_message_is_bounded_whatever_a_release_changed() -> None:
    changes = Changes(images=tuple(f"image of c{n}: {'a' * 120} → {'b' * 120}" for n in range(20)))
    assert len(the(R.RECENT_ROLLOUT, picture(pod(1), release=release(changes=changes))).message) == 500


@pytest.mark.parametrize(
    ("length", "text"),
    [
        (timedelta(seconds=89), "89 s"),
        (timedelta(seconds=91), "2 min"),
        (timedelta(minutes=89), "89 min"),
        (timedelta(minutes=95), "2 h"),
        (timedelta(hours=49), "2 d"),
    ],
)
def test_times_before_and_after_the_alert(length: timedelta, text: str) -> None:
    assert picture().when(ago(10) - length) == f"{text} before the alert"
    assert picture().when(ago(10) + length) == f"{text} after the alert"
