"""What outlives a target and still holds what was done to it: tables, on a cluster of a few objects."""

from __future__ import annotations

from typing import cast

import pytest

from builders import NOW, OPERATION, Json, held, hpa, observed, scaled_object, workload
from paramedic.actions import ACTIONS
from paramedic.actions.base import Clients, is_pinned, may_put_back
from paramedic.actions.elsewhere import held_elsewhere
from paramedic.api.reasons import Reason
from paramedic.api.workload import BoundTarget, bound
from paramedic.clients.kube import Kube
from paramedic.core.operation import new_operation
from paramedic.errors import NotFound, Refused

TARGET = bound("Deployment", "covet", "covet-app").model_copy(update={"uid": "uid-w"})
BOUNDS: tuple[Json, Json] = {"minReplicas": 2, "maxReplicas": 5}, {"minReplicas": 10, "maxReplicas": 20}
COUNTS: tuple[Json, Json] = (
    {"minReplicaCount": "default", "maxReplicaCount": 10},
    {"minReplicaCount": 6, "maxReplicaCount": 10},
)
PAUSED: tuple[Json, Json] = {"replicas": 3, "pausedReplicas": "none"}, {"replicas": 0, "pausedReplicas": 0}
STAGE: tuple[Json, Json] = (
    {"Deployment/covet-app": {"replicas": 0}, "HorizontalPodAutoscaler/covet-app": BOUNDS[0]},
    {
        "Deployment/covet-app": {"replicas": 3},
        "HorizontalPodAutoscaler/covet-app": {"minReplicas": 3, "maxReplicas": 3},
    },
)
CREATED: tuple[Json, Json] = {"NetworkPolicy/block": "absent"}, {"NetworkPolicy/block": "as created"}
LIMITED: tuple[Json, Json] = {"EnvoyFilter/limit": "absent"}, {"EnvoyFilter/limit": "as created"}


class KubeWith:
    """Lists these objects; what else is asked for, the cluster has no API of."""

    def __init__(self, **lists: list[Json]) -> None:
        self._lists = lists

    async def list(self, path: str) -> list[Json]:
        if (plural := path.rpartition("/")[2]) not in self._lists:
            raise NotFound(path)
        return self._lists[plural]


def scaler(paused: str = "", **spec: int) -> Json:
    made = scaled_object(**spec)
    made["metadata"]["annotations"] = {"autoscaling.keda.sh/paused-replicas": paused} if paused else {}
    return made


def owned(name: str, *owners: str) -> Json:
    return {"metadata": {"name": name, "ownerReferences": [{"uid": uid} for uid in owners]}}


async def left(states: tuple[Json, Json], target: BoundTarget = TARGET, **lists: list[Json]) -> str:
    return await held_elsewhere(target, *states, Clients(cast("Kube", KubeWith(**lists))))


@pytest.mark.parametrize(
    ("states", "lists", "words"),
    [
        (
            BOUNDS,
            {"horizontalpodautoscalers": [hpa(least=10, most=20)]},
            "HorizontalPodAutoscaler/covet-app still has minReplicas 10, maxReplicas 20 "
            "(before: minReplicas 2, maxReplicas 5)",
        ),
        (BOUNDS, {"horizontalpodautoscalers": [hpa(least=2, most=20)]}, "maxReplicas 20 (before: maxReplicas 5)"),
        (
            COUNTS,
            {"scaledobjects": [scaler(minReplicaCount=6, maxReplicaCount=10)]},
            "minReplicaCount 6",
        ),
        (PAUSED, {"scaledobjects": [scaler("0")]}, "still has pausedReplicas 0 (before: pausedReplicas none)"),
        (STAGE, {"horizontalpodautoscalers": [hpa(least=3, most=3)]}, "still has minReplicas 3, maxReplicas 3"),
        (CREATED, {"networkpolicies": [owned("block")]}, "NetworkPolicy/block is still there"),
        (LIMITED, {"envoyfilters": [owned("limit")]}, "EnvoyFilter/limit is still there"),
    ],
)
async def test_what_still_holds_the_change_is_named(states: tuple[Json, Json], lists: Json, words: str) -> None:
    assert words in await left(states, **lists)


@pytest.mark.parametrize(
    ("states", "lists"),
    [
        (BOUNDS, {}),
        (BOUNDS, {"horizontalpodautoscalers": [hpa(least=2, most=5)]}),
        (BOUNDS, {"horizontalpodautoscalers": [hpa(least=3, most=6)]}),
        (BOUNDS, {"horizontalpodautoscalers": []}),
        (COUNTS, {"scaledobjects": [scaler(maxReplicaCount=10)]}),
        (PAUSED, {"scaledobjects": [scaler()]}),
        (STAGE, {"horizontalpodautoscalers": [hpa(least=2, most=5)]}),
        (CREATED, {"networkpolicies": [owned("block", "uid-w"), owned("theirs")]}),
        (CREATED, {"networkpolicies": []}),
        (LIMITED, {}),
        (({"replicas": 3}, {"replicas": 10}), {"horizontalpodautoscalers": [hpa(least=10, most=10)]}),
    ],
)
async def test_what_went_with_the_target_or_is_as_before_holds_nothing(states: tuple[Json, Json], lists: Json) -> None:
    assert await left(states, **lists) == ""


async def test_an_autoscaler_of_another_workload_is_not_meant() -> None:
    other = bound("Deployment", "covet", "covet-worker").model_copy(update={"uid": "uid-w"})
    assert await left(BOUNDS, other, horizontalpodautoscalers=[hpa(least=10, most=20)]) == ""


async def test_a_connection_that_leads_elsewhere_leaves_the_server_it_led_to_as_it_was_made() -> None:
    alb = bound("Connection", "covet", "alb").model_copy(update={"uid": "arn:old"})
    told = await left(({"rules": "none"}, {"rules": {"0": "203.0.113.7/32"}}), alb)
    assert told == "arn:old, where it led to, may still have rules {'0': '203.0.113.7/32'} (before: rules none)"


@pytest.mark.parametrize(
    ("stamp", "pinned"),
    [(OPERATION, True), (new_operation(NOW), False), ("", False)],
    ids=["its own", "another one's", "none"],
)
def test_bounds_are_put_back_by_the_stamp_on_their_autoscaler(stamp: str, pinned: bool) -> None:
    before, after = BOUNDS
    target = {"namespace": "covet", "name": "covet-app", "uid": "uid-of-the-one-before"}
    step = held(before=before, after=after, target=target)
    seen = observed(hpa=[hpa(least=10, most=20, stamp=stamp)])
    assert is_pinned(seen, step) is pinned
    if pinned:
        may_put_back(ACTIONS["scale"], seen, step)
    else:
        with pytest.raises(Refused) as refusal:
            may_put_back(ACTIONS["scale"], seen, step)
        assert refusal.value.reason is Reason.TARGET_REPLACED


@pytest.mark.parametrize("after", [{"replicas": 10}, PAUSED[1], STAGE[1], None])
def test_what_the_target_itself_held_is_not_looked_for_on_its_namesake(after: Json | None) -> None:
    target = {"namespace": "covet", "name": "covet-app", "uid": "uid-of-the-one-before"}
    seen = observed(workload(replicas=10), hpa=[hpa(stamp=OPERATION)])
    assert not is_pinned(seen, held(before={}, after=after, target=target))
