"""The runbook's database and queue sections, by a running operator on a real PostgreSQL and Redis under load."""

from __future__ import annotations

import asyncio
import json
import uuid
from collections.abc import Iterator
from typing import Any

import psycopg
import pytest

from databases.bed import PASSWORD, Run, operator_with, postgres_entry
from e2e.world import INCIDENTS, POLICIES, World, condition, reasons, step, story
from products import SCALED_OBJECTS, install, remove
from testbed.access import Access
from testbed.api import eventually
from testbed.operator_process import Operator
from testbed.postgres import PostgresServer
from testbed.redis import RedisServer

Json = dict[str, Any]
NAMESPACES = [f"outside-{uuid.uuid4().hex[:8]}" for _ in range(20)]
"""Of these tests, known before the operator starts: its settings name them."""
DATABASE: Json = {"kind": "Connection", "name": "covet-db"}
END: Json = {"olderThan": "1s", "applications": ["covet-app"], "grace": "1s"}
EVENTS = "events.k8s.io/v1/events"
SETTING = "log_min_duration_statement"


@pytest.fixture(scope="module")
def operator(
    installed: Access, postgres: PostgresServer, redis_server: RedisServer, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Operator]:
    folder = tmp_path_factory.mktemp("operator")
    (folder / "redis-password").write_text(PASSWORD)
    redis = {"host": "127.0.0.1", "port": redis_server.port, "tls": False, "passwordFile": f"{folder}/redis-password"}
    database = postgres_entry(postgres.port, folder)
    connections = [
        database | {"namespaces": NAMESPACES},
        database | {"name": "covet-nowhere", "namespaces": NAMESPACES, "postgres": database["postgres"] | {"port": 1}},
        {"name": "covet-queue", "namespaces": NAMESPACES, "redis": redis},
        database | {"name": "covet-elsewhere", "namespaces": ["somewhere-else"]},
    ]
    with operator_with(installed, folder, connections) as running:
        yield running


@pytest.fixture
def namespace_name() -> str:
    return NAMESPACES.pop()


@pytest.fixture(autouse=True)
def without_the_setting(postgres: PostgresServer) -> Iterator[None]:
    yield
    postgres.psql(f"ALTER SYSTEM RESET {SETTING}")
    postgres.psql("SELECT pg_reload_conf()")


async def procedure(world: World, *steps: Json, **spec: Any) -> None:
    guards = {"cooldown": "0s", "rateLimit": {"actions": 100, "period": "1h"}}
    rest = {"strategy": "Sequence", "target": DATABASE, "verify": {"timeout": "5s"}, "guards": guards}
    await world.policy(*steps, **(rest | spec))


def in_force(postgres: PostgresServer) -> str:
    return postgres.psql(f"SHOW {SETTING}")


async def test_a_server_full_of_long_queries_is_freed(world: World, postgres: PostgresServer, busy: Run) -> None:
    """And who only asks short questions meanwhile notices nothing."""
    for _ in range(40):
        await busy("SELECT pg_sleep(120), 'card 4111-1111'")
    for number in (1, 2):
        await busy(None, before=f"INSERT INTO orders VALUES ({number}, 'left open')", autocommit=False)
    waiting = await busy("INSERT INTO orders VALUES (1, 'x')")
    lively = asyncio.create_task(_short_questions(postgres, 60))
    await asyncio.sleep(1.2)
    abandoned = {"name": "abandoned", "terminateQueries": END | {"states": ["idle in transaction"]}}
    await procedure(
        world, abandoned, {"name": "long", "terminateQueries": END | {"atMost": 100, "queryPattern": "pg_sleep"}}
    )

    await world.incident(type="DatabaseDegraded")
    found = await world.reaches("Resolved", timeout=40)

    first, second = step(found), step(found, 1)
    assert (first["state"], second["state"]) == ("Succeeded", "Succeeded"), story(found)
    assert first["result"] == {"ended": 2, "cancelled": 0, "terminated": 2, "left": 0}
    assert second["result"] == {"ended": 40, "cancelled": 40, "terminated": 0, "left": 0}
    assert second["after"] == {"ended": 40}
    assert {s["query"] for s in second["before"]["sessions"]} == {"SELECT pg_sleep(?), ?"}
    assert "of 60 connections" in first["message"]
    assert await waiting.outcome() == "done", "the lock that it waited for is gone"
    await lively
    assert (
        postgres.psql("SELECT count(*) FROM pg_stat_activity WHERE query LIKE '%pg_sleep%' AND state = 'active'") == "1"
    )
    _assert_nothing_leaks(world, found, await world.events("Applied"), "card 4111")


async def _short_questions(postgres: PostgresServer, count: int) -> None:
    url = postgres.url("app", PASSWORD, "covet", application_name="covet-app")
    async with await psycopg.AsyncConnection.connect(url, autocommit=True) as connection:
        for _ in range(count):
            await connection.execute("SELECT count(*) FROM pg_catalog.pg_class")
            await asyncio.sleep(0.1)


def _assert_nothing_leaks(world: World, found: Json, events: list[Json], *more: str) -> None:
    everything = json.dumps(found) + json.dumps(events) + world.operator.log.read_text()
    for secret in (PASSWORD, *more):
        assert secret not in everything


async def test_a_person_sees_whom_it_would_end_and_consents_to_those(world: World, busy: Run) -> None:
    shown = [await busy(), await busy()]
    await asyncio.sleep(1.2)
    await procedure(world, {"name": "long", "terminateQueries": END, "approval": "Required"})
    await world.incident()
    found = await world.reaches("AwaitingApproval")
    assert {s["pid"] for s in step(found)["before"]["sessions"]} == {s.pid for s in shown}
    later = await busy()
    await shown[0].connection.cancel_safe()
    await asyncio.sleep(1.2)

    await world.edit("incident", {"approvals": [{"step": "long", "approvedBy": "admin"}]})
    found = await world.reaches("Resolved")

    assert step(found)["state"] == "Succeeded", story(found)
    assert [s.runs() for s in shown] == [False, False]
    assert later.runs(), "it was not there when the person consented"


async def test_nothing_to_end_is_no_failure(world: World) -> None:
    await procedure(world, {"name": "long", "terminateQueries": END | {"olderThan": "1h"}})
    await world.incident()
    found = await world.reaches("Escalated")
    assert (step(found)["state"], step(found)["reason"]) == ("Skipped", "AlreadyInPlace")
    assert "nothing older than 1h" in step(found)["message"]


async def test_killed_between_cancelling_and_terminating(world: World, busy: Run) -> None:
    """The next process ends those of the plan that are left, under the same operation, and nobody else."""
    endless = "LOOP BEGIN PERFORM pg_sleep(120); EXCEPTION WHEN query_canceled THEN NULL; END; END LOOP"
    stubborn = f"DO $$ BEGIN {endless}; END $$"
    tough, soft = await busy(stubborn), await busy()
    await asyncio.sleep(1.2)
    await procedure(world, {"name": "long", "terminateQueries": END | {"grace": "8s"}})
    await world.incident()
    assert await soft.outcome() == "canceled"
    younger = await busy()
    before = step(await world.the_incident())

    await asyncio.to_thread(world.operator.kill)
    assert tough.runs()
    await asyncio.to_thread(world.operator.restart)
    found = await world.reaches("Resolved", timeout=60)

    after = step(found)
    assert after["state"] == "Succeeded", story(found)
    assert (after["operation"], after["before"]) == (before["operation"], before["before"])
    assert after["attempts"] == 2
    assert after["result"] == {"ended": 1, "cancelled": 0, "terminated": 1, "left": 0}
    assert await tough.outcome() == "terminated"
    assert younger.runs()


async def test_slow_queries_are_logged_and_no_longer_after_the_lease_even_across_a_restart(
    world: World, postgres: PostgresServer
) -> None:
    await procedure(world, {"name": "log", "slowQueryLog": {"thresholdMilliseconds": 20}, "ttl": "4s"})
    await world.incident()
    found = await world.says("Applied")
    assert in_force(postgres) == "20ms"
    assert step(found)["before"] == {SETTING: "not set"}
    assert "top" in step(found)["result"]
    await asyncio.to_thread(world.operator.kill)
    await asyncio.sleep(3)
    assert in_force(postgres) == "20ms"
    await asyncio.to_thread(world.operator.restart)
    found = await world.reaches("Resolved", timeout=40)
    assert step(found)["state"] == "Reverted", story(found)
    assert in_force(postgres) == "-1"
    assert SETTING not in (postgres.data / "postgresql.auto.conf").read_text()


async def test_hands_off_a_setting_that_somebody_else_has_changed(world: World, postgres: PostgresServer) -> None:
    await procedure(world, {"name": "log", "slowQueryLog": {"thresholdMilliseconds": 20}, "ttl": "3s"})
    await world.incident()
    await world.says("Applied")
    postgres.psql(f"ALTER SYSTEM SET {SETTING} = 55")
    postgres.psql("SELECT pg_reload_conf()")
    found = await world.says("NotPutBack")
    assert "changed by others since" in step(found)["revert"]["message"]
    assert in_force(postgres) == "55ms"


async def test_a_server_that_is_not_there(world: World) -> None:
    await procedure(world, {"name": "long", "terminateQueries": END}, target=DATABASE | {"name": "covet-nowhere"})
    await world.incident()
    found = await world.reaches("Escalated", timeout=40)
    assert (step(found)["state"], step(found)["reason"]) == ("Failed", "ConnectionFailed"), story(found)
    assert "refused" in step(found)["message"].lower()
    _assert_nothing_leaks(world, found, await world.events("ConnectionFailed"))


async def test_a_server_that_is_down_when_the_lease_ends_is_asked_until_it_is_back(
    world: World, postgres: PostgresServer
) -> None:
    await procedure(world, {"name": "log", "slowQueryLog": {"thresholdMilliseconds": 20}, "ttl": "2s"})
    await world.incident()
    await world.says("Applied")
    await asyncio.to_thread(postgres.stop)
    await asyncio.sleep(4)
    assert step(await world.the_incident())["state"] != "Reverted"
    await asyncio.to_thread(postgres.start)
    found = await world.reaches("Resolved", timeout=60)
    assert step(found)["state"] == "Reverted", story(found)
    assert in_force(postgres) == "-1"


async def test_a_connection_that_does_not_exist_is_said_on_the_policy_and_on_the_incident(world: World) -> None:
    await procedure(
        world, {"name": "long", "terminateQueries": END}, target=DATABASE | {"name": "no-such"}, ready=False
    )
    policy = await world.admin.get(POLICIES, "policy", world.namespace)
    ready = condition(policy, "Ready")
    assert ready["reason"] == "Forbidden"
    assert "kubectl create role paramedic-connection-no-such" in ready["message"]
    await world.incident()
    found = await world.reaches("Escalated", timeout=40)
    assert step(found)["reason"] == "Forbidden", story(found)


async def test_a_wrong_kind_of_connection(world: World) -> None:
    await procedure(
        world, {"name": "long", "terminateQueries": END}, target=DATABASE | {"name": "covet-queue"}, ready=False
    )
    policy = await world.admin.get(POLICIES, "policy", world.namespace)
    assert condition(policy, "Ready")["reason"] == "ConnectionUnknown"
    assert "of type redis, not postgres" in condition(policy, "Ready")["message"]


async def test_slow_query_log_needs_a_ttl(world: World) -> None:
    with pytest.raises(Exception, match="set ttl"):
        await procedure(world, {"name": "log", "slowQueryLog": {}})


# -- the diagnosis -----------------------------------------------------------------------------------------------------


def findings(found: Json) -> dict[str, str]:
    """Messages by reason, of those about connections."""
    listed = found.get("status", {}).get("findings") or []
    return {f["reason"]: f["message"] for f in listed if str(f.get("object")).startswith("Connection/")}


async def test_an_incident_tells_what_is_wrong_with_the_database_that_its_policy_is_about(
    world: World, busy: Run
) -> None:
    """Nobody has told the diagnosis where to look, and there is no workload."""
    holder = await busy(None, before="INSERT INTO orders VALUES (31, 'card 4111-1111')", autocommit=False)
    await busy("INSERT INTO orders VALUES (31, 'card 4111-2222')")
    await asyncio.sleep(2.5)  # so long is nothing for a lock
    await procedure(world, {"name": "long", "terminateQueries": END}, mode="Approve")
    await world.incident(type="DatabaseDegraded")
    await world.reaches("AwaitingApproval")

    async def told() -> Json | None:
        found = await world.the_incident()
        return found if findings(found) else None

    found = await eventually(told, 20, what="findings about the database")
    message = findings(found)["DatabaseLocksWaiting"]
    assert "covet-db: 1 session waits for locks" in message
    assert f"held up by pid {holder.pid} (app, idle in transaction for" in message
    assert message.endswith("INSERT INTO orders VALUES (?, ?)")
    assert any("covet-db: 1 session waits" in entry["message"] for entry in found["status"]["timeline"])
    _assert_nothing_leaks(world, found, await world.admin.list(EVENTS, world.namespace), "card 4111")


async def test_a_remedy_is_chosen_by_what_the_database_and_the_queue_say(
    world: World, redis_server: RedisServer
) -> None:
    redis_server.cli("FLUSHALL")
    redis_server.cli("RPUSH", "task_queue", *range(30))
    await world.workload("covet-worker")
    connections = [
        {"name": "covet-nowhere"},
        {"name": "covet-queue", "queues": [{"key": "task_queue", "maxDepth": 20}, {"key": "other"}]},
    ]
    steps: list[Json] = [
        {"name": "look", "diagnose": {"connections": connections}},
        {"name": "no", "when": "findings.exists(f, f.reason == 'CacheUnreachable')", "restart": {}},
        {
            "name": "yes",
            "when": " && ".join(f"findings.exists(f, f.reason == '{r}')" for r in ("DatabaseUnreachable", "QueueDeep")),
            "scale": {"replicas": 3},
        },
    ]
    worker = {"kind": "Deployment", "name": "covet-worker"}
    await procedure(world, *steps, target=worker, verify={"rollout": True, "timeout": "20s"})
    await world.incident(type="QueueBacklog")
    found = await world.reaches("Resolved", "Escalated", timeout=40)
    assert found["status"]["phase"] == "Resolved", story(found)
    assert [s["state"] for s in found["status"]["steps"]] == ["Succeeded", "Skipped", "Succeeded"], story(found)
    assert await world.replicas("covet-worker") == 3
    told = findings(found)
    assert "refused" in told["DatabaseUnreachable"].lower()
    assert told["QueueDeep"] == "covet-queue: 30 entries wait in task_queue (more than 20)"
    _assert_nothing_leaks(world, found, await world.admin.list(EVENTS, world.namespace))


async def test_a_diagnosis_of_a_connection_that_another_namespace_has_is_said_on_the_policy(world: World) -> None:
    await world.workload("covet-worker")
    worker = {"kind": "Deployment", "name": "covet-worker"}
    look = {"name": "look", "diagnose": {"connections": [{"name": "covet-elsewhere"}]}}
    await procedure(world, look, target=worker, ready=False)
    policy = await world.admin.get(POLICIES, "policy", world.namespace)
    assert condition(policy, "Ready")["reason"] == "Forbidden"
    assert (
        "steps.look: connection covet-elsewhere is not in Paramedic's settings" in condition(policy, "Ready")["message"]
    )
    await world.incident(type="DatabaseDegraded")
    found = await world.reaches("Resolved", "Escalated", timeout=40)
    assert step(found)["state"] == "Succeeded", "what cannot be looked at fails nothing"
    assert findings(found) == {}


# -- queues ------------------------------------------------------------------------------------------------------------


@pytest.fixture
def backlog(redis_server: RedisServer) -> RedisServer:
    redis_server.cli("FLUSHALL")
    redis_server.cli("RPUSH", "task_queue", *range(950))
    return redis_server


SCALE: Json = {"connection": "covet-queue", "key": "task_queue", "perReplica": 100, "min": 2, "max": 8}


async def test_workers_for_a_backlog_and_fewer_again_after_the_lease(world: World, backlog: RedisServer) -> None:
    await world.workload("covet-worker")
    workers = {"kind": "Deployment", "name": "covet-worker"}
    verify = {"rollout": True, "timeout": "20s"}
    await world.policy({"name": "workers", "scaleByQueue": SCALE, "ttl": "3s"}, target=workers, verify=verify)
    await world.incident(type="QueueBacklog")
    found = await world.says("Applied")
    assert await world.replicas("covet-worker") == 8
    assert "replicas 2 → 8 (950 in task_queue)" in step(found)["message"]
    backlog.stop()  # to put back, the queue is not needed
    try:
        found = await world.reaches("Resolved", timeout=40)
    finally:
        backlog.start()
    assert step(found)["state"] == "Reverted", story(found)
    assert await world.replicas("covet-worker") == 2


async def test_an_emptied_queue_lets_workers_go_step_by_step(world: World, backlog: RedisServer) -> None:
    await world.workload("covet-worker", replicas=6)
    backlog.cli("DEL", "task_queue")
    workers = {"kind": "Deployment", "name": "covet-worker"}
    await world.policy({"name": "workers", "scaleByQueue": SCALE | {"shrinkBy": 3}}, target=workers)
    await world.incident(type="QueueBacklog")
    await world.reaches("Resolved", timeout=40)
    assert await world.replicas("covet-worker") == 3


async def test_keda_keeps_the_workload_and_gets_other_bounds(world: World, backlog: RedisServer) -> None:
    await install(world.admin, SCALED_OBJECTS)
    try:
        await world.workload("covet-worker")
        triggers = [{"type": "redis", "metadata": {"listName": "task_queue"}}]
        spec = {
            "scaleTargetRef": {"name": "covet-worker"},
            "triggers": triggers,
            "minReplicaCount": 1,
            "maxReplicaCount": 4,
        }
        scaled = {"apiVersion": "keda.sh/v1alpha1", "kind": "ScaledObject", "metadata": {"name": "workers"}}
        await world.admin.create(scaled | {"spec": spec}, world.namespace)
        workers = {"kind": "Deployment", "name": "covet-worker"}
        scale = SCALE | {"scaledObject": "Patch"}
        await world.policy({"name": "workers", "scaleByQueue": scale, "ttl": "3s"}, target=workers)
        await world.incident(type="QueueBacklog")
        await world.says("Applied")
        moved = (await world.admin.get(SCALED_OBJECTS, "workers", world.namespace))["spec"]
        assert (moved["minReplicaCount"], moved["maxReplicaCount"]) == (8, 8)
        await world.scale(8, "covet-worker")  # as KEDA does
        found = await world.reaches("Resolved", timeout=40)
        assert step(found)["state"] == "Reverted", story(found)
        back = (await world.admin.get(SCALED_OBJECTS, "workers", world.namespace))["spec"]
        assert (back["minReplicaCount"], back["maxReplicaCount"]) == (1, 4)
        assert await world.replicas("covet-worker") == 8, "it is KEDA's to change"
    finally:
        await remove(world.admin, SCALED_OBJECTS)


async def test_a_queue_that_cannot_be_asked_changes_nothing(world: World, backlog: RedisServer) -> None:
    await world.workload("covet-worker")
    workers = {"kind": "Deployment", "name": "covet-worker"}
    backlog.stop()
    try:
        await world.policy({"name": "workers", "scaleByQueue": SCALE}, target=workers)
        await world.incident(type="QueueBacklog")
        found = await world.reaches("Escalated", timeout=40)
    finally:
        backlog.start()
    assert step(found)["reason"] == "ConnectionFailed", story(found)
    assert await world.replicas("covet-worker") == 2
    assert "ConnectionFailed" in reasons(found)
    assert (await world.admin.get(INCIDENTS, "incident", world.namespace))["status"]["phase"] == "Escalated"
