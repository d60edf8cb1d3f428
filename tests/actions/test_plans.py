"""What the actions plan: pure tables."""

from __future__ import annotations

import contextlib
import copy
from datetime import timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from builders import NOW, OPERATION, Json, ago, hpa, observed, replica_set, scaled_object, stored, workload
from paramedic.actions import ACTIONS
from paramedic.actions.base import Change, Observed, Outcome, describe, same_state, stamps
from paramedic.actions.rollback import current_revision, release_started_at, revisions
from paramedic.api import ANNOTATION_LEFT_REVISIONS, ANNOTATION_OPERATION
from paramedic.api.reasons import Reason
from paramedic.errors import Refused, Retry

SCALE, ROLLBACK, RESTART = ACTIONS["scale"], ACTIONS["rollback"], ACTIONS["restart"]


def plan(action: Any, seen: Observed, **params: Any) -> Change:
    change: Change = action.plan(seen, action.params.model_validate(params), OPERATION)
    return change


def spec_of(change: Change) -> Json:
    (patch,) = change.forward
    spec: Json = patch.body["spec"]
    return spec


# -- scale -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("present", "params", "wanted"),
    [
        (3, {"replicas": 10}, 10),
        (3, {"replicas": 0}, 0),
        (3, {"replicas": "+2"}, 5),
        (3, {"replicas": "-2"}, 1),
        (3, {"replicas": "-9"}, 0),
        # percent: always at least one more, or one less
        (3, {"replicas": "+50%"}, 5),
        (1, {"replicas": "+1%"}, 2),
        (10, {"replicas": "-25%"}, 7),
        (2, {"replicas": "-100%"}, 0),
        # less of one is one
        (1, {"replicas": "-25%"}, 1),
        (1, {"replicas": "-99%"}, 1),
        (2, {"replicas": "-99%"}, 1),
        (1, {"replicas": "-100%"}, 0),
        (1, {"replicas": "-1"}, 0),
        (0, {"replicas": "-25%"}, 0),
        (0, {"replicas": "+50%"}, 0),
        (0, {"replicas": "+2"}, 2),
        # the cap holds back, but never takes away
        (3, {"replicas": "+9", "maxReplicas": 5}, 5),
        (5, {"replicas": "+9", "maxReplicas": 5}, 5),
        (8, {"replicas": "+9", "maxReplicas": 5}, 8),
        (8, {"replicas": 7, "maxReplicas": 5}, 5),
        (8, {"replicas": "-1", "maxReplicas": 20}, 7),
    ],
)
def test_scale(present: int, params: Json, wanted: int) -> None:
    change = plan(SCALE, observed(workload(replicas=present)), **params)
    assert (change.before, change.after) == ({"replicas": present}, {"replicas": wanted})
    assert change.is_empty is (present == wanted)
    if not change.is_empty:
        assert spec_of(change) == {"replicas": wanted}
        assert change.message == f"covet-app: replicas {present} → {wanted}"


def test_scale_counts_what_is_not_written_as_one() -> None:
    bare = workload()
    del bare["spec"]["replicas"]
    assert plan(SCALE, observed(bare), replicas="+1").after == {"replicas": 2}


@pytest.mark.parametrize(
    ("bounds", "params", "wanted"),
    [
        ((2, 5), {"replicas": 4}, (4, 5)),
        ((2, 5), {"replicas": 8}, (8, 8)),
        ((2, 5), {"replicas": 4, "maxReplicas": 10}, (4, 10)),
        ((2, 5), {"replicas": "+2", "maxReplicas": 3}, (3, 5)),
        ((None, 5), {"replicas": "+2"}, (5, 5)),  # three run now
        ((4, 5), {"replicas": "+50%"}, (6, 6)),
    ],
)
def test_scale_moves_the_bounds_of_an_hpa(
    bounds: tuple[int | None, int], params: Json, wanted: tuple[int, int]
) -> None:
    change = plan(SCALE, observed(workload(replicas=3), hpa=[hpa("scaler", *bounds)]), **params)
    assert spec_of(change) == {"minReplicas": wanted[0], "maxReplicas": wanted[1]}
    (patch,) = change.forward
    assert patch.path == "/apis/autoscaling/v2/namespaces/covet/horizontalpodautoscalers/scaler"
    assert patch.body["metadata"] == {
        "uid": "uid-scaler",
        "resourceVersion": "3",
        "annotations": {ANNOTATION_OPERATION: OPERATION},
    }


@pytest.mark.parametrize(
    ("running", "bounds", "params", "wanted"),
    [
        (24, (3, 50), {"replicas": "+50%", "maxReplicas": 20}, (24, 50)),
        (6, (3, 50), {"replicas": "+50%", "maxReplicas": 20}, (9, 50)),
        (30, (3, 50), {"replicas": 10, "maxReplicas": 20}, (10, 50)),
        (24, (24, 50), {"replicas": "+50%", "maxReplicas": 20}, (24, 50)),
        (24, (3, 20), {"replicas": "+50%", "maxReplicas": 40}, (36, 40)),
        # who asks for no more contains: then the ceiling comes down
        (8, (3, 10), {"replicas": 1, "maxReplicas": 1}, (1, 1)),
        (8, (3, 10), {"replicas": 3, "maxReplicas": 5}, (3, 5)),
        (8, (3, 10), {"replicas": "-75%", "maxReplicas": 2}, (2, 2)),
        (8, (3, 10), {"replicas": 2}, (2, 10)),
    ],
)
def test_a_growing_scale_takes_no_room_away(
    running: int, bounds: tuple[int, int], params: Json, wanted: tuple[int, int]
) -> None:
    least, most = bounds
    run, scaled = workload(replicas=running), scaled_object(minReplicaCount=least, maxReplicaCount=most)
    by_hpa = plan(SCALE, observed(run, hpa=[hpa(least=least, most=most)]), **params)
    by_keda = plan(SCALE, observed(run, scaledObject=[scaled]), **params, scaledObject="Patch")
    assert tuple(by_hpa.after.values()) == tuple(by_keda.after.values()) == wanted


@pytest.mark.parametrize(
    ("running", "params", "words"),
    [
        (0, {"replicas": 10}, "covet-app is at 0, where its HPA does nothing: recover it"),
        (0, {"replicas": "+2"}, "is at 0"),
        (8, {"replicas": 0}, "keeps at least one: to have none, use shutdown"),
        (8, {"replicas": "-100%"}, "use shutdown"),
    ],
)
def test_scale_refuses_what_an_hpa_makes_no_difference_of(running: int, params: Json, words: str) -> None:
    with pytest.raises(Refused, match=words) as refusal:
        plan(SCALE, observed(workload(replicas=running), hpa=[hpa(least=3, most=10)]), **params)
    assert refusal.value.reason is Reason.INVALID_PARAMETERS


def test_what_was_scaled_under_an_hpa_can_be_put_back_though_it_is_at_0_by_now() -> None:
    seen = observed(workload(replicas=0), hpa=[hpa(least=10, most=50)])
    assert SCALE.restore(seen, {"minReplicas": 3, "maxReplicas": 50}, OPERATION).after["minReplicas"] == 3


@pytest.mark.parametrize(
    ("bounds", "params", "wanted"),
    [
        ((1, 4), {"replicas": 3}, (3, 4)),
        ((1, 4), {"replicas": 8}, (8, 8)),
        ((1, 4), {"replicas": 8, "maxReplicas": 20}, (8, 20)),
        ((1, 4), {"replicas": 1, "maxReplicas": 1}, (1, 1)),
        ((1, 4), {"replicas": "+2"}, (5, 5)),  # three run now
        ((2, None), {"replicas": 8}, (8, None)),
        ((None, 4), {"replicas": 3}, (3, 4)),
        ((2, 4), {"replicas": 0}, (0, 4)),
    ],
)
def test_scale_moves_the_bounds_of_a_scaled_object(
    bounds: tuple[int | None, int | None], params: Json, wanted: tuple[int | None, int | None]
) -> None:
    names = ("minReplicaCount", "maxReplicaCount")
    spec = {name: value for name, value in zip(names, bounds, strict=True) if value is not None}
    seen = observed(workload(replicas=3), scaledObject=[scaled_object(**spec)])
    change = plan(SCALE, seen, **params, scaledObject="Patch")
    assert spec_of(change) == dict(zip(names, wanted, strict=True))
    (patch,) = change.forward
    assert patch.path == "/apis/keda.sh/v1alpha1/namespaces/covet/scaledobjects/workers"
    moved = {name: value for name, value in spec_of(change).items() if value is not None}
    back = SCALE.restore(observed(scaledObject=[scaled_object(**moved)]), change.before, OPERATION)
    assert spec_of(back) == dict(zip(names, bounds, strict=True))


def test_scale_stays_above_what_keda_keeps_when_idle() -> None:
    seen = observed(scaledObject=[scaled_object(minReplicaCount=4, maxReplicaCount=9, idleReplicaCount=2)])
    assert spec_of(plan(SCALE, seen, replicas=1, scaledObject="Patch"))["minReplicaCount"] == 3


@pytest.mark.parametrize(
    ("params", "note", "words"),
    [
        ({}, "", "ScaledObject/workers scales covet-app: write scaledObject: Patch"),
        ({"scaledObject": "Refuse"}, "", "write scaledObject: Patch"),
        ({"scaledObject": "Patch"}, "paused", "ScaledObject/workers is paused"),
        ({"scaledObject": "Patch"}, "paused-replicas", "ScaledObject/workers is paused"),
    ],
)
def test_scale_refuses_what_keda_scales(params: Json, note: str, words: str) -> None:
    scaled = scaled_object(minReplicaCount=1)
    scaled["metadata"]["annotations"] = {f"autoscaling.keda.sh/{note}": "2"} if note else {}
    with pytest.raises(Refused, match=words) as refusal:
        plan(SCALE, observed(scaledObject=[scaled]), replicas=3, **params)
    assert refusal.value.reason is Reason.INVALID_PARAMETERS


def test_scale_refuses_when_two_scaled_objects_want_the_same() -> None:
    two = [scaled_object("one"), scaled_object("two")]
    with pytest.raises(Refused, match="several ScaledObjects scale covet-app: one, two"):
        plan(SCALE, observed(scaledObject=two), replicas=3, scaledObject="Patch")


def test_scale_refuses() -> None:
    with pytest.raises(Refused) as refusal:
        plan(SCALE, observed(workload("DaemonSet")), replicas=3)
    assert refusal.value.reason is Reason.UNSUPPORTED_KIND
    for wrong in ("3", "+", "50%", "++3", "+3.5", "+3 ", "+3\n", "+٣", "×2", ""):
        with pytest.raises(Refused) as refusal:
            plan(SCALE, observed(), replicas=wrong)
        assert refusal.value.reason is Reason.INVALID_PARAMETERS


@pytest.mark.parametrize(
    "params", [{}, {"replicas": None}, {"replicas": 3, "maxReplicas": 0}, {"replicas": 3, "min": 1}]
)
def test_scale_parameters_that_cannot_be_read(params: Json) -> None:
    with pytest.raises(ValidationError):
        SCALE.params.model_validate(params)


def test_scale_hands_off_when_an_hpa_came_or_went() -> None:
    for seen, before in (
        (observed(hpa=[hpa()]), {"replicas": 3}),
        (observed(), {"minReplicas": 2, "maxReplicas": 5}),
    ):
        with pytest.raises(Refused) as refusal:
            SCALE.restore(seen, before, OPERATION)
        assert refusal.value.reason is Reason.TARGET_CHANGED


@pytest.mark.parametrize(
    ("replicas", "after", "state"),
    [
        (3, {"minReplicas": 10, "maxReplicas": 20}, "Waiting"),
        (10, {"minReplicas": 10, "maxReplicas": 20}, "Passed"),
        (15, {"minReplicas": 10, "maxReplicas": 20}, "Passed"),
        (3, {"minReplicas": 1, "maxReplicas": 1}, "Waiting"),
        (3, {"minReplicaCount": 10, "maxReplicaCount": "default"}, "Waiting"),
        (10, {"minReplicaCount": 10, "maxReplicaCount": "default"}, "Passed"),
        (3, {"minReplicaCount": "default", "maxReplicaCount": 2}, "Waiting"),
        (3, {"minReplicaCount": "default", "maxReplicaCount": "default"}, "Passed"),
        (3, {"replicas": 3}, "Passed"),
    ],
)
@pytest.mark.parametrize("action", [SCALE, ACTIONS["scaleByQueue"]])
def test_scale_is_verified_once_the_autoscaler_has_scaled(action: Any, replicas: int, after: Json, state: str) -> None:
    counts = {"replicas": replicas, "updatedReplicas": replicas, "availableReplicas": replicas}
    seen = stored(workload(replicas=replicas)) | {"status": {"observedGeneration": 1} | counts}
    found = action.rollout(seen, after, NOW)
    assert (found.state, "has not scaled it yet" in found.message) == (state, state == "Waiting"), found


@given(st.integers(0, 50), st.integers(0, 50) | st.from_regex(r"[+-][0-9]{1,3}%?", fullmatch=True), st.integers(1, 60))
def test_scale_there_and_back(present: int, replicas: int | str, cap: int) -> None:
    seen = observed(workload(replicas=present))
    change = plan(SCALE, seen, replicas=replicas, maxReplicas=cap)
    assert 0 <= change.after["replicas"] <= max(cap, present)
    moved = observed(workload(replicas=change.after["replicas"]))
    back = SCALE.restore(moved, change.before, OPERATION)
    assert back.after == {"replicas": present}
    assert SCALE.settled(seen, change.before, change.after, "another") is Outcome.NOT_APPLIED


# -- restart -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["Deployment", "StatefulSet", "DaemonSet"])
def test_restart_stamps_the_template(kind: str) -> None:
    change = plan(RESTART, observed(workload(kind)))
    assert spec_of(change) == {"template": {"metadata": {"annotations": {ANNOTATION_OPERATION: OPERATION}}}}
    assert (change.before, change.after) == ({"restart": ""}, {"restart": OPERATION})


def test_a_paused_workload_is_refused() -> None:
    for action in (RESTART, ROLLBACK):
        with pytest.raises(Refused) as refusal:
            plan(action, observed(workload(paused=True), replicasets=HISTORY))
        assert refusal.value.reason is Reason.WORKLOAD_PAUSED


@pytest.mark.parametrize("kind", ["StatefulSet", "DaemonSet"])
@pytest.mark.parametrize("action", [RESTART, ROLLBACK])
def test_what_rolls_out_only_as_its_pods_are_deleted_is_refused(action: Any, kind: str) -> None:
    with pytest.raises(Refused, match="OnDelete and would not roll out: delete its pods yourself") as refusal:
        plan(action, observed(workload(kind, updateStrategy={"type": "OnDelete"})))
    assert refusal.value.reason is Reason.ROLLS_OUT_ON_DELETE


# -- rollback ----------------------------------------------------------------------------------------------------------

HISTORY = [replica_set(1, "covet:1"), replica_set(2, "covet:2"), replica_set(3, "covet:3")]
RESTARTED = {"kubectl.kubernetes.io/restartedAt": "2026-03-02T11:00:00Z"}
STAMPED = {ANNOTATION_OPERATION: "an earlier one"}


def running(image: str, *history: Json, left: tuple[Json, ...] = (), notes: Json | None = None) -> Observed:
    """A Deployment whose template has this image, with its history in any order."""
    manifest = workload(image=image)
    if notes:
        manifest["spec"]["template"]["metadata"]["annotations"] = notes
    return observed(manifest, left, replicasets=list(history or HISTORY))


def left(number: int) -> Json:
    return {"revisionName": f"covet-app-{number}", "revision": number}


@pytest.mark.parametrize(
    ("seen", "params", "to"),
    [
        (running("covet:3"), {}, 2),
        (running("covet:3", *reversed(HISTORY)), {}, 2),
        (running("covet:3"), {"toRevision": 1}, 1),
        # only what is older: a newer entry is what somebody has already gone back from
        (running("covet:2"), {}, 1),
        (running("covet:2"), {"toRevision": 3}, 3),
        # what Paramedic has left before was bad
        (running("covet:3", left=(left(2),)), {}, 1),
        (running("covet:3", left=(left(3), left(9))), {}, 2),
        (running("covet:3", left=(left(2),)), {"toRevision": 2}, 2),
        # a revision that differs only by a restart is the same release
        (running("covet:2", *HISTORY[:2], replica_set(4, "covet:2", annotations=RESTARTED), notes=RESTARTED), {}, 1),
        (running("covet:2", *HISTORY[:2], replica_set(4, "covet:2", annotations=STAMPED), notes=STAMPED), {}, 1),
        (running("covet:3", replica_set(1, "covet:1", annotations=RESTARTED), HISTORY[2]), {}, 1),
    ],
)
def test_rollback(seen: Observed, params: Json, to: int) -> None:
    change = plan(ROLLBACK, seen, **params)
    assert change.after["revision"] == to
    assert change.after["revisionName"] == f"covet-app-{to}"
    (image,) = [c["image"] for c in spec_of(change)["template"]["spec"]["containers"]]
    assert image == f"covet:{to}"
    assert change.message == f"covet-app: revision {change.before['revision']} → {to}"


@pytest.mark.parametrize(
    ("seen", "params", "reason", "said"),
    [
        (running("covet:1"), {}, Reason.NO_EARLIER_REVISION, "its history holds no other release"),
        (running("covet:1", HISTORY[0]), {}, Reason.NO_EARLIER_REVISION, "no other release"),
        (running("covet:2", left=(left(1),)), {}, Reason.NO_EARLIER_REVISION, "all earlier ones were rolled back from"),
        (running("covet:3"), {"toRevision": 7}, Reason.REVISION_NOT_FOUND, "no revision 7; its history has 3, 2, 1"),
        (
            running("covet:1", HISTORY[0], replica_set(2, "covet:1", annotations=RESTARTED), notes=RESTARTED),
            {},
            Reason.NO_EARLIER_REVISION,
            "no other release",
        ),
    ],
)
def test_rollback_refuses(seen: Observed, params: Json, reason: Reason, said: str) -> None:
    with pytest.raises(Refused) as refusal:
        plan(ROLLBACK, seen, **params)
    assert refusal.value.reason is reason
    assert said in str(refusal.value)


def test_rollback_waits_for_the_controller_to_record_the_newest() -> None:
    with pytest.raises(Retry) as retry:
        plan(ROLLBACK, running("covet:4"))
    assert retry.value.after == timedelta(seconds=1)


def test_rollback_waits_until_an_old_template_that_was_applied_again_has_its_new_number() -> None:
    seen = running("covet:2")
    seen.target["metadata"]["generation"] = 2
    with pytest.raises(Retry, match="not in its history yet"):
        plan(ROLLBACK, seen)
    renumbered = running("covet:2", HISTORY[0], HISTORY[2], replica_set(4, "covet:2"))
    assert plan(ROLLBACK, renumbered).message == "covet-app: revision 4 → 3"


def test_rollback_to_where_it_is_already() -> None:
    assert plan(ROLLBACK, running("covet:3"), toRevision=3).is_empty


@pytest.mark.parametrize("params", [{"toRevision": 0}, {"toRevision": -1}, {"toRevision": "last"}, {"revision": 1}])
def test_rollback_parameters_that_cannot_be_read(params: Json) -> None:
    with pytest.raises(ValidationError):
        ROLLBACK.params.model_validate(params)


def test_rollback_takes_the_change_cause_along() -> None:
    history = [replica_set(1, "covet:1", cause="good old 1"), replica_set(2, "covet:2", cause="fatal")]
    (patch,) = plan(ROLLBACK, running("covet:2", *history)).forward
    assert patch.body["metadata"]["annotations"] == {
        ANNOTATION_OPERATION: OPERATION,
        "kubernetes.io/change-cause": "good old 1",
        "paramedic.dev/left-revisions": f"{history[1]['metadata']['name']}=2",
    }


def test_rollback_takes_out_what_the_release_has_added() -> None:
    manifest = workload(image="covet:2")
    pod = manifest["spec"]["template"]["spec"]
    pod |= {"volumes": [{"name": "v", "emptyDir": {}}], "hostNetwork": True}
    pod["containers"][0]["env"] = [{"name": "A", "value": "1"}]
    newest = replica_set(2, "covet:2")
    newest["spec"]["template"]["spec"] = copy.deepcopy(pod)
    patch = spec_of(plan(ROLLBACK, observed(manifest, replicasets=[HISTORY[0], newest])))["template"]["spec"]
    assert (patch["volumes"], patch["hostNetwork"]) == (None, None)
    assert patch["containers"] == HISTORY[0]["spec"]["template"]["spec"]["containers"]


def test_the_way_back_needs_its_revision() -> None:
    with pytest.raises(Refused) as refusal:
        ROLLBACK.restore(running("covet:2"), left(9), OPERATION)
    assert refusal.value.reason is Reason.REVISION_NOT_FOUND
    assert ROLLBACK.restore(running("covet:2"), left(3), OPERATION).after["revision"] == 3


@pytest.mark.parametrize(
    ("seen", "hours_ago"),
    [
        (running("covet:3"), 21),
        (running("covet:1"), 23),
        (running("covet:2", *HISTORY[:2], replica_set(9, "covet:2", annotations=RESTARTED), notes=RESTARTED), 22),
        (running("covet:4"), None),
    ],
)
def test_since_when_a_release_is_there(seen: Observed, hours_ago: int | None) -> None:
    """A restart makes no new release."""
    wanted = NOW - timedelta(hours=hours_ago) if hours_ago else None
    assert release_started_at(seen) == wanted


def again(number: int, image: str, now: int, *, at: float | None) -> Json:
    """A ReplicaSet whose release was rolled out again as number ``now``, written to ``at`` so many minutes ago."""
    found = replica_set(number, image)
    notes = found["metadata"]["annotations"]
    notes |= {"deployment.kubernetes.io/revision": str(now), "deployment.kubernetes.io/revision-history": str(number)}
    fields = {"f:metadata": {"f:annotations": {"f:deployment.kubernetes.io/revision": {}}}}
    return written(found, fields, at) if at is not None else found


def written(found: Json, fields: Json, at: float) -> Json:
    entry = {"manager": "someone", "time": ago(at).strftime("%Y-%m-%dT%H:%M:%SZ"), "fieldsV1": fields}
    found["metadata"].setdefault("managedFields", []).append(entry)
    return found


def applied(seen: Observed, at: float, marks: str = "") -> Observed:
    """The same with a template whose owner has last written so many minutes ago."""
    written(seen.target, {"f:spec": {"f:replicas": {}}}, 1)
    written(seen.target, {"f:spec": {"f:template": {"f:spec": {}}}}, at)
    seen.target["metadata"]["annotations"] = {ANNOTATION_LEFT_REVISIONS: marks}
    return seen


BACK, LONG_BACK = again(1, "covet:1", 3, at=40), again(1, "covet:1", 3, at=90)
LATER_RESTART = replica_set(23, "covet:2", annotations=RESTARTED)


@pytest.mark.parametrize(
    ("seen", "minutes_ago"),
    [
        # out again 40 minutes ago, after a rollback
        (running("covet:2", BACK, again(2, "covet:2", 4, at=40)), 40),
        # scaled since: the ReplicaSet of before was at 0 by then
        (running("covet:2", BACK, again(2, "covet:2", 4, at=1)), 40),
        (running("covet:2", again(1, "covet:1", 3, at=1), again(2, "covet:2", 4, at=40)), 40),
        (applied(running("covet:2", again(1, "covet:1", 3, at=1), again(2, "covet:2", 4, at=1)), 40), 40),
        (running("covet:2", LONG_BACK, again(2, "covet:2", 4, at=60), LATER_RESTART, notes=RESTARTED), 90),
        # another ReplicaSet, of a release that was there before
        (running("covet:2", BACK, HISTORY[1], LATER_RESTART, notes=RESTARTED), 60),
        # by Paramedic: after its last rollback, or as the undo of that
        (applied(running("covet:2", BACK, again(2, "covet:2", 4, at=40)), 40, "covet-app-2=2"), 40),
        (applied(running("covet:2", BACK, again(2, "covet:2", 4, at=40)), 40, "covet-app-2=2,covet-app-1=3"), 22 * 60),
        # back to what is older: a remedy
        (running("covet:1", again(1, "covet:1", 3, at=2), HISTORY[1]), 23 * 60),
        # nobody knows when
        (running("covet:2", again(1, "covet:1", 3, at=None), again(2, "covet:2", 4, at=None)), 22 * 60),
    ],
)
def test_since_when_a_release_is_there_that_was_rolled_out_again(seen: Observed, minutes_ago: float) -> None:
    assert release_started_at(seen) == ago(minutes_ago)


def releases() -> list[Json]:
    """Two of covet-app as a StatefulSet or DaemonSet has them."""
    template = workload("StatefulSet")["spec"]["template"]
    older = copy.deepcopy(template)
    older["spec"]["containers"][0]["image"] = "covet:0"
    older["metadata"]["creationTimestamp"] = None
    return [
        {
            "metadata": {"name": f"covet-app-{n}", "creationTimestamp": NOW.isoformat()},
            "revision": n,
            "data": {"spec": {"template": body | {"$patch": "replace"}}},
        }
        for n, body in ((1, older), (2, template))
    ]


def test_revisions_of_stateful_and_daemon_sets() -> None:
    seen = Observed(stored(workload("StatefulSet")), {"controllerrevisions": releases()})
    assert [r.number for r in revisions(seen)] == [2, 1]
    change = plan(ROLLBACK, seen)
    assert change.after == {"revisionName": "covet-app-1", "revision": 1, "images": "covet:0"}
    assert "$patch" not in spec_of(change)["template"]


@pytest.mark.parametrize(
    ("policy", "ready", "told"),
    [
        (
            "OrderedReady",
            1,
            "; 1 of its pods not ready: Kubernetes does not replace a pod that is not ready: delete it",
        ),
        ("OrderedReady", 2, ""),
        ("Parallel", 1, ""),
    ],
)
def test_who_goes_back_is_told_of_pods_that_kubernetes_does_not_replace(policy: str, ready: int, told: str) -> None:
    seen = Observed(stored(workload("StatefulSet", podManagementPolicy=policy)), {"controllerrevisions": releases()})
    seen.target["status"]["readyReplicas"] = ready
    assert plan(ROLLBACK, seen).message.startswith(f"covet-app: revision 2 → 1{told}")
    assert ("not ready" in plan(ROLLBACK, seen).message) is bool(told)


def test_planning_changes_nothing_that_it_was_given() -> None:
    for action, seen, params in (
        (ROLLBACK, running("covet:3", notes=RESTARTED | {"a": "b"}), {"toRevision": 1}),
        (SCALE, observed(hpa=[hpa()]), {"replicas": "+1"}),
        (RESTART, observed(), {}),
    ):
        before = copy.deepcopy(seen)
        with contextlib.suppress(Retry):
            plan(action, seen, **params)
        assert seen == before


# -- what all share ----------------------------------------------------------------------------------------------------


def test_settled_by_stamp_then_by_state() -> None:
    stamped = workload(replicas=9)
    stamped["metadata"]["annotations"] = {ANNOTATION_OPERATION: OPERATION}
    assert SCALE.settled(observed(stamped), {"replicas": 2}, {"replicas": 3}, OPERATION) is Outcome.APPLIED
    assert SCALE.settled(observed(stamped), {"replicas": 2}, {"replicas": 3}, "another") is Outcome.UNKNOWN
    assert SCALE.settled(observed(stamped), {"replicas": 9}, {"replicas": 3}, "another") is Outcome.NOT_APPLIED
    assert SCALE.settled(observed(hpa=[hpa(stamp=OPERATION)]), {}, {}, OPERATION) is Outcome.APPLIED
    assert stamps(observed(stamped, hpa=[hpa(stamp="x")])) == {OPERATION, "x"}


def test_a_record_may_hold_more_than_the_state() -> None:
    assert same_state({"a": 1}, {"a": 1, "b": 2})
    assert not same_state({"a": 1, "b": 2}, {"a": 1})
    assert not same_state({"a": 1}, {})
    assert describe({"replicas": 3, "images": None, "revision": 7}) == "replicas 3, revision 7"
    assert describe({}) == "nothing"


def test_the_history_without_a_match_has_no_current_revision() -> None:
    assert current_revision(observed(replicasets=[])) is None
