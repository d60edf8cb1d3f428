"""A dump by the whole operator: killed in the middle of it, no pg_dump stays, and the next process makes it whole."""

from __future__ import annotations

import asyncio
import json
import subprocess
import uuid
from collections.abc import Iterator
from typing import Any

import pytest

from databases.bed import PASSWORD, Busy, Run, operator_with, postgres_entry
from databases.dumps import DUMPER, LOCK, ROWS, dumping, restored, sessions, waiting
from e2e.world import World, condition, step, story
from testbed.access import Access
from testbed.api import eventually
from testbed.operator_process import Operator
from testbed.postgres import PostgresServer

Json = dict[str, Any]
NAMESPACES = [f"dumped-{uuid.uuid4().hex[:8]}" for _ in range(4)]
"""Of these tests, known before the operator starts: its settings name them."""
KEEP: Json = {"name": "keep", "captureEvidence": {"include": ["events"], "databaseDump": {"connection": "covet-db"}}}


@pytest.fixture(scope="module")
def operator(
    installed: Access, customers: PostgresServer, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Operator]:
    folder = tmp_path_factory.mktemp("operator")
    (folder / "evidence").mkdir()
    connections = [postgres_entry(customers.port, folder, **DUMPER) | {"namespaces": NAMESPACES}]
    env = {"PARAMEDIC_EVIDENCE__DIRECTORY": str(folder / "evidence")}
    with operator_with(installed, folder, connections, env=env) as running:
        yield running


@pytest.fixture
def namespace_name() -> str:
    return NAMESPACES.pop()


def dump_of(found: Json) -> Json:
    (item,) = [one for one in found["status"]["evidence"] if one["name"].startswith("database/")]
    return item


async def under_way(world: World, customers: PostgresServer, busy: Run) -> Busy:
    """A dump that waits for a lock of the session that is returned."""
    await world.workload()
    await world.policy(KEEP | {"timeout": "2m"}, strategy="Sequence")
    holder = await busy(None, user="postgres", database="customers", before=LOCK, autocommit=False)
    await world.incident(type="SecurityBreach")
    await eventually(lambda: waiting(customers), timeout=30, what="it dumps")
    assert len(dumping(customers.port)) == 1
    return holder


async def test_killed_in_the_middle_it_leaves_no_process_and_is_made_whole_later(
    world: World, customers: PostgresServer, busy: Run
) -> None:
    holder = await under_way(world, customers, busy)

    await asyncio.to_thread(world.operator.kill)
    # By itself it would wait for the lock for 10 s.
    await eventually(lambda: not dumping(customers.port), timeout=4, what="no pg_dump is left")
    await eventually(lambda: sessions(customers) == 0, timeout=4, what="its session is gone")

    await holder.connection.rollback()
    await asyncio.to_thread(world.operator.restart)
    found = await world.reaches("Escalated", "Resolved", timeout=60)
    assert step(found)["state"] == "Succeeded", story(found)
    assert step(found)["attempts"] == 2
    item = dump_of(found)
    assert "note" not in item
    sha256 = subprocess.run(["sha256sum", item["uri"].removeprefix("file://")], capture_output=True, check=True).stdout
    assert sha256.decode().split()[0] == item["sha256"]
    database = await asyncio.to_thread(restored, customers, item["uri"].removeprefix("file://"))
    assert customers.psql("SELECT count(*) FROM people", database=database) == str(ROWS)
    assert PASSWORD not in json.dumps(found) + world.operator.log.read_text()


async def test_stopped_in_the_middle_it_leaves_no_process(world: World, customers: PostgresServer, busy: Run) -> None:
    holder = await under_way(world, customers, busy)
    await asyncio.to_thread(world.operator.stop)
    assert dumping(customers.port) == []
    await holder.connection.rollback()
    await asyncio.to_thread(world.operator.restart)
    found = await world.reaches("Escalated", "Resolved", timeout=60)
    assert step(found)["state"] == "Succeeded", story(found)
    assert "note" not in dump_of(found)


async def test_an_incident_that_names_its_target_has_no_database_dumped(
    world: World, customers: PostgresServer
) -> None:
    await world.workload()
    await world.policy(KEEP, strategy="Sequence")
    await world.incident(type="SecurityBreach", target={"name": "app"})
    found = await world.reaches("Escalated", timeout=30)
    assert step(found)["reason"] == "TargetNotNamed", story(found)
    assert [one for one in found["status"].get("evidence", []) if one["name"].startswith("database/")] == []


async def test_a_connection_that_is_not_there_is_said_on_the_policy(world: World) -> None:
    dump = {"include": ["events"], "databaseDump": {"connection": "no-such"}}
    await world.policy({"name": "keep", "captureEvidence": dump}, ready=False)
    policy = await world.admin.get("paramedic.dev/v1alpha1/remediationpolicies", "policy", world.namespace)
    assert "paramedic-connection-no-such" in condition(policy, "Ready")["message"]
