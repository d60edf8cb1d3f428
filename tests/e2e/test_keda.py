"""``scale`` of a workload that KEDA scales: its ScaledObject's bounds are moved, where the policy allows it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest

from e2e.world import World, step, story
from products import SCALED_OBJECTS, install, remove
from testbed.api import Api

Json = dict[str, Any]


@pytest.fixture(autouse=True)
async def keda(admin: Api) -> AsyncIterator[None]:
    await install(admin, SCALED_OBJECTS)
    yield
    await remove(admin, SCALED_OBJECTS)


async def scaled(world: World, **annotations: str) -> None:
    """A workload of two replicas, and KEDA's object for it."""
    await world.workload()
    triggers = [{"type": "cpu", "metadata": {"value": "60"}}]
    spec = {"scaleTargetRef": {"name": "app"}, "triggers": triggers, "minReplicaCount": 2, "maxReplicaCount": 4}
    meta = {"name": "app-scaler", "annotations": {f"autoscaling.keda.sh/{k}": v for k, v in annotations.items()}}
    await world.admin.create(
        {"apiVersion": "keda.sh/v1alpha1", "kind": "ScaledObject", "metadata": meta, "spec": spec}, world.namespace
    )


async def bounds(world: World) -> tuple[int, int]:
    spec = (await world.admin.get(SCALED_OBJECTS, "app-scaler", world.namespace))["spec"]
    return spec["minReplicaCount"], spec["maxReplicaCount"]


def more(**params: Any) -> Json:
    return {"name": "more", "scale": {"replicas": 6} | params}


async def test_its_bounds_are_moved_and_put_back(world: World) -> None:
    await scaled(world)
    await world.policy(more(maxReplicas=9, scaledObject="Patch") | {"ttl": "3s"})
    await world.alert()
    found = await world.says("Applied")
    assert await bounds(world) == (6, 9), story(found)
    assert step(found)["message"] == "app: minReplicaCount 2 → 6, maxReplicaCount 4 → 9"
    await world.alert(state="resolved")
    found = await world.reaches("Resolved", timeout=30)
    assert step(found)["state"] == "Reverted", story(found)
    assert await bounds(world) == (2, 4)
    assert await world.replicas() == 2, "it is KEDA's to change"


async def test_it_is_left_alone_unless_the_policy_allows_it(world: World) -> None:
    await scaled(world)
    await world.policy(more())
    await world.alert()
    found = await world.reaches("Escalated")
    assert step(found)["state"] == "Failed", story(found)
    assert "write scaledObject: Patch" in step(found)["message"]
    assert (await bounds(world), await world.replicas()) == ((2, 4), 2)


async def test_one_that_is_paused_is_refused(world: World) -> None:
    await scaled(world, paused="true")
    await world.policy(more(scaledObject="Patch"))
    await world.alert()
    found = await world.reaches("Escalated")
    assert step(found)["reason"] == "InvalidParameters", story(found)
    assert "ScaledObject/app-scaler is paused: its bounds have no effect" in step(found)["message"]
    assert await bounds(world) == (2, 4)
