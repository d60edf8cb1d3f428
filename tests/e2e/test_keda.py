"""Workloads that KEDA scales: ``scale`` moves their ScaledObject's bounds, the emergency procedures pause it, where the
policy allows it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest

from e2e.world import World, step, story
from products import SCALED_OBJECTS, install, remove
from testbed.api import Api, eventually

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


PAUSED = "autoscaling.keda.sh/paused-replicas"
WORKLOADS: Json = {"workloads": [{"name": "app"}]}
QUICK: Json = {"rollout": True, "timeout": "8s"}


async def pause(world: World) -> str | None:
    found = await world.admin.get(SCALED_OBJECTS, "app-scaler", world.namespace)
    return (found["metadata"].get("annotations") or {}).get(PAUSED)


async def emergency(world: World, **procedures: Json) -> None:
    """A policy for each procedure, and an incident that it answers to with consent given."""
    for name, params in procedures.items():
        step_ = {"name": "go", "approval": "Required", name: WORKLOADS | params, "verify": QUICK}
        match = {"incidents": {"types": [name.capitalize()]}}
        await world.policy(step_, name=name, mode="Approve", guards={"cooldown": "0s"}, target=None, match=match)


async def begin(world: World, name: str) -> None:
    await world.incident(name, type=name.capitalize(), approvals=[{"step": "go", "approvedBy": "admin"}])


async def test_a_shutdown_pauses_it_and_a_recovery_frees_it(world: World) -> None:
    await scaled(world)
    await emergency(world, shutdown={"scaledObject": "Patch"}, recover={"scaledObject": "Patch", "stages": [1, "100%"]})
    await begin(world, "shutdown")
    found = await world.reaches("Resolved", name="shutdown", timeout=40)
    assert (await pause(world), await world.replicas()) == ("0", 0), story(found)
    assert step(found)["message"] == "app: 2 replicas → 0 replicas, KEDA paused at 0"
    await begin(world, "recover")
    found = await world.reaches("Resolved", name="recover", timeout=60)
    assert (await pause(world), await world.replicas()) == (None, 2), story(found)
    held = [s["after"]["ScaledObject/app-scaler"]["pausedReplicas"] for s in found["status"]["steps"][1:]]
    assert held == [1, "none"]


async def test_a_shutdown_that_keda_would_undo_is_refused(world: World) -> None:
    await scaled(world)
    await emergency(world, shutdown={})
    await begin(world, "shutdown")
    found = await world.reaches("Escalated", name="shutdown")
    assert "write scaledObject: Patch" in step(found)["message"], story(found)
    assert (await pause(world), await world.replicas()) == (None, 2)


async def test_what_is_brought_back_meanwhile_was_not_shut_down(world: World) -> None:
    """Somebody like KEDA puts the replicas back after the shutdown."""
    await scaled(world, paused="true")
    await emergency(world, shutdown={})
    await begin(world, "shutdown")
    await eventually(lambda: at_zero(world), interval=0.02, what="it is scaled to 0")
    await world.scale(2)
    found = await world.reaches("Escalated", name="shutdown", timeout=40)
    assert "2 replicas are wanted again" in step(found)["message"], story(found)
    assert await world.replicas() == 2


async def at_zero(world: World) -> bool:
    return await world.replicas() == 0


async def test_who_manages_it_is_told_before_anybody_agrees(world: World) -> None:
    """Mode Observe and a step that waits for consent say who puts back the change of the ScaledObject."""
    await scaled(world)
    argo = {"metadata": {"annotations": {"argocd.argoproj.io/tracking-id": "covet:keda.sh/ScaledObject:x/app-scaler"}}}
    await world.admin.patch(SCALED_OBJECTS, "app-scaler", argo, world.namespace)
    for name, mode in (("observe", "Observe"), ("approve", "Approve")):
        match = {"incidents": {"types": [name.capitalize()]}}
        await world.policy(more(scaledObject="Patch"), name=name, mode=mode, match=match)
        await world.incident(name, type=name.capitalize())
    warning = "(scaledobjects/app-scaler managed by Argo CD (covet), which will put it back"
    observed = await world.says("ObserveMode", name="observe")
    assert warning in step(observed)["message"], story(observed)
    asked = await world.reaches("AwaitingApproval", name="approve")
    assert warning in step(asked)["message"], story(asked)
