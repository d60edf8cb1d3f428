"""What scaleByQueue makes of a depth: pure, for each of the things that can hold the number of replicas."""

from __future__ import annotations

from typing import Any

import pytest

from builders import Json, hpa, scaled_object, stored, workload
from paramedic.actions.base import Observed
from paramedic.actions.scale_by_queue import ScaleByQueue, ScaleByQueueParams, _Depth
from paramedic.api.reasons import Reason
from paramedic.errors import Refused, Terminal

ACTION = ScaleByQueue()


def seen(entries: int, replicas: int = 2, **related: list[Json]) -> Observed:
    return Observed(stored(workload(replicas=replicas)), related, seen=_Depth(entries))


def params(**more: Any) -> ScaleByQueueParams:
    given = {"connection": "q", "key": "jobs", "perReplica": 100, "min": 1, "max": 20, "scaledObject": "Patch"}
    return ScaleByQueueParams.model_validate(given | more)


@pytest.mark.parametrize(
    ("entries", "present", "after"),
    [(950, {}, 10), (100_000, {}, 20), (0, {}, 1), (200, {}, None)],
)
def test_a_plain_workload(entries: int, present: Json, after: int | None) -> None:
    change = ACTION.plan(seen(entries, 2), params(shrinkBy=5), "op")
    assert change.is_empty is (after is None)
    if after is not None:
        assert change.after == {"replicas": after}
        assert change.forward[0].body["spec"] == {"replicas": after}  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("entries", "after"),
    [
        (450, {"minReplicas": 5, "maxReplicas": 5}),
        (950, {"minReplicas": 10, "maxReplicas": 10}),
        (0, {"minReplicas": 1, "maxReplicas": 5}),
    ],
)
def test_bounds_of_an_hpa(entries: int, after: Json) -> None:
    assert ACTION.plan(seen(entries, hpa=[hpa()]), params(), "op").after == after


@pytest.mark.parametrize(
    ("spec", "entries", "after"),
    [
        ({"minReplicaCount": 1, "maxReplicaCount": 4}, 950, {"minReplicaCount": 10, "maxReplicaCount": 10}),
        ({"minReplicaCount": 1, "maxReplicaCount": 40}, 950, {"minReplicaCount": 10, "maxReplicaCount": 40}),
        ({}, 950, {"minReplicaCount": 10, "maxReplicaCount": "default"}),
        ({"minReplicaCount": 10}, 0, {"minReplicaCount": 9, "maxReplicaCount": "default"}),
        ({"minReplicaCount": 4, "idleReplicaCount": 3}, 0, None),
    ],
)
def test_bounds_of_a_scaled_object(spec: Json, entries: int, after: Json | None) -> None:
    change = ACTION.plan(seen(entries, scaledObject=[scaled_object(**spec)]), params(), "op")
    assert change.is_empty is (after is None)
    if after:
        assert change.after == after


def test_what_was_not_set_is_taken_away_again() -> None:
    moved = seen(0, scaledObject=[scaled_object(minReplicaCount=10)])
    back = ACTION.restore(moved, {"minReplicaCount": "default", "maxReplicaCount": "default"}, "op")
    assert back.forward[0].body["spec"] == {"minReplicaCount": None, "maxReplicaCount": None}  # type: ignore[union-attr]


def test_a_scaled_object_is_refused_unless_it_may_be_changed() -> None:
    with pytest.raises(Refused, match="scaledObject: Patch"):
        ACTION.plan(seen(950, scaledObject=[scaled_object()]), params(scaledObject="Refuse"), "op")


@pytest.mark.parametrize("name", ["paused", "paused-replicas"])
def test_a_paused_scaled_object_is_refused(name: str) -> None:
    scaled = scaled_object()
    scaled["metadata"]["annotations"] = {f"autoscaling.keda.sh/{name}": "true"}
    with pytest.raises(Refused, match="is paused"):
        ACTION.plan(seen(950, scaledObject=[scaled]), params(), "op")


def test_several_scaled_objects_are_refused() -> None:
    with pytest.raises(Refused, match="several ScaledObjects"):
        ACTION.plan(seen(950, scaledObject=[scaled_object(), scaled_object()]), params(), "op")


def test_a_depth_that_is_not_known_changes_nothing() -> None:
    unknown = Observed(stored(workload()), seen=_Depth(problem="covet-queue: refused"))
    with pytest.raises(Terminal, match="covet-queue: refused") as caught:
        ACTION.plan(unknown, params(), "op")
    assert caught.value.reason is Reason.CONNECTION_FAILED
    assert not ACTION.restore(unknown, {"replicas": 7}, "op").is_empty


# -- what was planned or shown is done, though the queue moves ---------------------------------------------------------


def test_going_on_keeps_to_what_was_planned() -> None:
    planned = ACTION.plan(seen(950), params(), "op")
    again = ACTION.plan_again(seen(1010), params(), "op", planned.before, planned.after)
    assert again.after == planned.after == {"replicas": 10}
    assert again.forward == planned.forward
    unknown = Observed(stored(workload(replicas=2)), seen=_Depth(problem="covet-queue: refused"))
    assert ACTION.plan_again(unknown, params(), "op", planned.before, planned.after).after == planned.after


@pytest.mark.parametrize("depth", [901, 1010, 5000, 0])
def test_what_a_person_was_shown_stays_while_nobody_else_scales_it(depth: int) -> None:
    shown = ACTION.plan(seen(950), params(), "op")
    assert ACTION.plan_as_shown(seen(depth), params(), "op", shown.before, shown.after).after == shown.after
    moved = ACTION.plan_as_shown(seen(depth, replicas=4), params(), "op", shown.before, shown.after)
    assert moved.after == ACTION.plan(seen(depth, replicas=4), params(), "op").after, "planned anew"


@pytest.mark.parametrize(
    ("replicas", "related"),
    [
        (10, {}),
        (2, {"hpa": [hpa(least=10, most=10)]}),
        (2, {"scaledObject": [scaled_object(minReplicaCount=10)]}),
    ],
)
def test_no_worker_is_taken_away_that_the_queue_needs_by_now(replicas: int, related: Json) -> None:
    shown = ACTION.plan(seen(0, replicas, **related), params(), "op")
    assert 9 in shown.after.values()
    same = ACTION.plan_again(seen(50, replicas, **related), params(), "op", shown.before, shown.after)
    assert same.after == shown.after
    full = seen(2000, replicas, **related)
    with pytest.raises(Refused, match="jobs needs more by now") as refusal:
        ACTION.plan_again(full, params(), "op", shown.before, shown.after)
    assert refusal.value.reason is Reason.TARGET_CHANGED
    assert 20 in ACTION.plan_as_shown(full, params(), "op", shown.before, shown.after).after.values()
    unknown = Observed(stored(workload(replicas=replicas)), related, seen=_Depth(problem="covet-queue: refused"))
    with pytest.raises(Terminal, match="refused"):
        ACTION.plan_again(unknown, params(), "op", shown.before, shown.after)
