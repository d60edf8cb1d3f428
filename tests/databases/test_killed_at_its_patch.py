"""The operator is killed with -9, or met by a conflict, at the one patch of what a database or a queue asks for."""

from __future__ import annotations

import asyncio
import gc
import json
import threading
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from aws.test_cloudnativepg import COMPONENT, Stage, crd
from conftest import forget_incidents
from databases.bed import PASSWORD
from e2e.world import World, step, story
from paramedic.clients.kube import Kube
from testbed.access import Access
from testbed.api import Api, eventually
from testbed.faultproxy import Answer, Fault, FaultProxy, Rule, Seen
from testbed.operator_process import NAMESPACE, SERVICE_ACCOUNT, Operator
from testbed.redis import RedisServer

__all__ = ["crd"]  # a fixture
Json = dict[str, Any]
NAMESPACES = [f"patched-{uuid.uuid4().hex[:8]}" for _ in range(12)]
"""Of these tests, known before the operator starts: its settings name them."""
WORKERS = {"kind": "Deployment", "name": "covet-worker"}
SCALE: Json = {"connection": "covet-queue", "key": "task_queue", "perReplica": 100, "min": 2, "max": 20}
at_the_patch = pytest.mark.parametrize("reached", [True, False], ids=["the server got it", "the server did not get it"])


@pytest.fixture(scope="module")
def proxy(installed: Access) -> Iterator[FaultProxy]:
    with FaultProxy(installed.credentials()) as one:
        yield one
    gc.collect()  # as in faults/conftest.py: CPython 3.11 does not bear it while it compiles a module


@pytest.fixture(scope="module")
def operator(
    installed: Access, proxy: FaultProxy, redis_server: RedisServer, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Operator]:
    folder: Path = tmp_path_factory.mktemp("operator")
    (folder / "redis-password").write_text(PASSWORD)
    redis = {"host": "127.0.0.1", "port": redis_server.port, "tls": False, "passwordFile": f"{folder}/redis-password"}
    clusters = [
        {"name": "covet-pg", "namespaces": [name], "cloudNativePG": {"cluster": "covet-db", "namespace": name}}
        for name in NAMESPACES
    ]
    env = {
        "PARAMEDIC_CONNECTIONS": json.dumps(
            [*clusters, {"name": "covet-queue", "namespaces": NAMESPACES, "redis": redis}]
        ),
        "PARAMEDIC_RESYNC_INTERVAL": "5s",
        "PARAMEDIC_DIAGNOSE": "false",
    }
    kubeconfig = proxy.kubeconfig(installed.service_account_token(NAMESPACE, SERVICE_ACCOUNT), folder)
    installed.kubectl("apply", "-f", str(COMPONENT))
    with Operator(installed, folder / "operator", kubeconfig=kubeconfig, env=env) as running:
        running.wait_leading()
        yield running
        assert "unexpected error" not in running.log.read_text()
    installed.kubectl("delete", "-f", str(COMPONENT))


@pytest.fixture
def namespace_name() -> str:
    return NAMESPACES.pop()


def killed_at(proxy: FaultProxy, world: World, resource: str, reached: bool) -> threading.Event:
    """Set when the operator was killed at its patch of that resource."""
    dead = threading.Event()

    def kill(_: Seen) -> None:
        world.operator.kill()
        dead.set()

    fault = Fault(after=kill) if reached else Fault(before=kill, forward=False)
    proxy.on(lambda seen: touches(seen, world, resource), fault)
    return dead


def touches(seen: Seen, world: World, resource: str) -> bool:
    return seen.method == "PATCH" and (seen.namespace, seen.resource) == (world.namespace, resource)


def done(proxy: FaultProxy, world: World, resource: str) -> int:
    """How many of those patches the API server has taken."""
    return sum(1 for seen in proxy.writes(world.namespace) if touches(seen, world, resource) and seen.upstream == 200)


async def answered(event: threading.Event) -> bool:
    return event.is_set()


# -- workers for a queue -----------------------------------------------------------------------------------------------


@pytest.fixture
def backlog(redis_server: RedisServer) -> RedisServer:
    redis_server.cli("FLUSHALL")
    redis_server.cli("RPUSH", "task_queue", *range(950))
    return redis_server


async def scaling(world: World, **spec: Any) -> None:
    await world.workload("covet-worker")
    await world.policy({"name": "workers", "scaleByQueue": SCALE}, target=WORKERS, **spec)


@at_the_patch
async def test_scaling_by_a_queue_that_moves(
    world: World, proxy: FaultProxy, backlog: RedisServer, reached: bool
) -> None:
    await scaling(world)
    dead = killed_at(proxy, world, "deployments", reached)
    await world.incident(type="QueueBacklog")
    await eventually(lambda: answered(dead), timeout=30, what="the operator is dead")
    intent = step(await world.the_incident())
    assert (intent["state"], intent["after"]) == ("Executing", {"replicas": 10})
    backlog.cli("RPUSH", "task_queue", *range(400))
    await asyncio.to_thread(world.operator.restart)
    found = await world.reaches("Resolved", "Escalated", timeout=60)
    assert step(found)["state"] == "Succeeded", story(found)
    assert (step(found)["operation"], step(found)["after"]) == (intent["operation"], {"replicas": 10})
    assert await world.replicas("covet-worker") == 10
    assert done(proxy, world, "deployments") == 1


async def test_a_conflict_while_the_queue_moves(world: World, proxy: FaultProxy, backlog: RedisServer) -> None:
    await scaling(world)

    def grow(_: Seen) -> None:
        backlog.cli("RPUSH", "task_queue", *range(400))

    conflict = Fault(before=grow, forward=False, answer=Answer(409))
    rule: Rule = proxy.on(lambda seen: touches(seen, world, "deployments"), conflict)
    await world.incident(type="QueueBacklog")
    found = await world.reaches("Resolved", "Escalated", timeout=40)
    assert rule.struck
    assert step(found)["state"] == "Succeeded", story(found)
    assert await world.replicas("covet-worker") == 10
    assert done(proxy, world, "deployments") == 1


async def test_a_person_can_approve_though_the_queue_moves(
    world: World, proxy: FaultProxy, backlog: RedisServer
) -> None:
    await scaling(world, mode="Approve")
    await world.incident(type="QueueBacklog")
    found = await world.stays("AwaitingApproval", 1)
    assert step(found)["after"] == {"replicas": 10}
    backlog.cli("RPUSH", "task_queue", *range(400))
    approval = {"step": "workers", "approvedBy": "admin", "operation": step(found)["operation"]}
    await world.edit("incident", {"approvals": [approval]})
    found = await world.reaches("Resolved", "Escalated", timeout=40)
    assert step(found)["state"] == "Succeeded", story(found)
    assert await world.replicas("covet-worker") == 10
    assert done(proxy, world, "deployments") == 1


# -- a Cluster of CloudNativePG ----------------------------------------------------------------------------------------


@at_the_patch
async def test_promoting_an_instance(
    world: World, proxy: FaultProxy, crd: None, admin: Api, kube: Kube, reached: bool
) -> None:
    stage = Stage(admin, kube, world.namespace)
    await stage.create()
    dead = killed_at(proxy, world, "clusters/status", reached)
    failover = {"name": "failover", "databaseFailover": {"targetInstance": "covet-db-2"}, "timeout": "1m"}
    await world.policy(failover, strategy="Sequence", target={"kind": "Connection", "name": "covet-pg"})
    await world.incident(type="DatabaseDegraded")
    await eventually(lambda: answered(dead), timeout=30, what="the operator is dead")
    intent = step(await world.the_incident())
    await asyncio.to_thread(world.operator.restart)

    async def promoted() -> bool:
        return bool((await stage.get())["status"]["targetPrimary"] == "covet-db-2")

    await eventually(promoted, timeout=30, what="the request is there")
    await stage.set_status({"currentPrimary": "covet-db-2", "phase": "Cluster in healthy state"})
    found = await world.reaches("Resolved", "Escalated", timeout=60)
    assert found["status"]["phase"] == "Resolved", story(found)
    assert step(found)["operation"] == intent["operation"]
    assert done(proxy, world, "clusters/status") == 1
    await forget_incidents(admin, world.namespace)
