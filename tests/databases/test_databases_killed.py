"""The operator is killed with -9 at each statement that changes something: what is planned is done, once, no more."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from databases.bed import Run, operator_with, postgres_entry
from e2e.world import World, step, story
from testbed.access import Access
from testbed.api import eventually
from testbed.operator_process import Operator
from testbed.postgres import PostgresServer
from testbed.tcpproxy import TcpProxy

Json = dict[str, Any]
NAMESPACES = [f"killed-{uuid.uuid4().hex[:8]}" for _ in range(16)]
"""Of these tests, known before the operator starts: its settings name them."""
SETTING = "log_min_duration_statement"
ENDLESS = "LOOP BEGIN PERFORM pg_sleep(120); EXCEPTION WHEN query_canceled THEN NULL; END; END LOOP"
GUARDS: Json = {"cooldown": "0s", "rateLimit": {"actions": 100, "period": "1h"}}
forwarded = pytest.mark.parametrize("forward", [True, False], ids=["the server got it", "the server did not get it"])


@pytest.fixture(scope="module")
def proxy(postgres: PostgresServer) -> Iterator[TcpProxy]:
    with TcpProxy(postgres.port) as one:
        yield one


@pytest.fixture(scope="module")
def operator(installed: Access, proxy: TcpProxy, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Operator]:
    folder = tmp_path_factory.mktemp("operator")
    connections = [postgres_entry(proxy.port, folder) | {"namespaces": NAMESPACES}]
    (folder / "evidence").mkdir()
    env = {"PARAMEDIC_EVIDENCE__DIRECTORY": str(folder / "evidence")}
    with operator_with(installed, folder, connections, env) as running:
        yield running


@pytest.fixture
def evidence(operator: Operator) -> Path:
    return operator.folder / "evidence"


@pytest.fixture
def namespace_name() -> str:
    return NAMESPACES.pop()


async def _policy(world: World, one: Json) -> None:
    await world.policy(one, target={"kind": "Connection", "name": "covet-db"}, guards=GUARDS, verify={"timeout": "5s"})


async def _killed(world: World, proxy: TcpProxy, cuts: int) -> None:
    await eventually(lambda: proxy.cuts > cuts and not world.operator.alive, timeout=20, what="it is killed")


@forwarded
@pytest.mark.parametrize("at", [b"pg_cancel_backend", b"pg_terminate_backend"], ids=["cancelling", "terminating"])
async def test_ending_queries(world: World, proxy: TcpProxy, busy: Run, at: bytes, forward: bool) -> None:
    planned = [await busy(f"DO $$ BEGIN {ENDLESS}; END $$"), await busy()]
    await asyncio.sleep(1.2)
    end = {"olderThan": "1s", "applications": ["covet-app"], "grace": "1s"}
    await _policy(world, {"name": "long", "terminateQueries": end})
    cuts = proxy.cuts
    proxy.cut_on(at, forward=forward, then=world.operator.kill)
    await world.incident()
    await _killed(world, proxy, cuts)
    intent = step(await world.the_incident())
    assert intent["state"] == "Executing"
    younger = await busy()
    await asyncio.sleep(1.2)

    await asyncio.to_thread(world.operator.restart)
    found = await world.reaches("Resolved", timeout=40)

    after = step(found)
    assert after["state"] == "Succeeded", story(found)
    assert [after[field] for field in ("operation", "before", "after")] == [
        intent[field] for field in ("operation", "before", "after")
    ]
    assert {s["pid"] for s in after["before"]["sessions"]} == {s.pid for s in planned}
    assert not any(s.runs() for s in planned)
    assert younger.runs(), "it was not in the plan"


@forwarded
@pytest.mark.parametrize(
    "at",
    [b"ALTER SYSTEM SET", b"SELECT pg_reload_conf()", b"ALTER SYSTEM RESET"],
    ids=["setting", "loading", "putting back"],
)
async def test_logging_slow_queries(
    world: World, proxy: TcpProxy, postgres: PostgresServer, at: bytes, forward: bool
) -> None:
    await _policy(world, {"name": "log", "slowQueryLog": {"thresholdMilliseconds": 20}, "ttl": "3s"})
    cuts = proxy.cuts
    proxy.cut_on(at, forward=forward, then=world.operator.kill)
    await world.incident()
    await _killed(world, proxy, cuts)
    intent = step(await world.the_incident())
    assert intent["before"] == {SETTING: "not set"}

    await asyncio.to_thread(world.operator.restart)
    if b"RESET" not in at:
        await world.says("Applied")
        assert postgres.psql(f"SHOW {SETTING}") == "20ms"
    found = await world.reaches("Resolved", timeout=40)

    assert step(found)["state"] == "Reverted", story(found)
    assert step(found)["operation"] == intent["operation"]
    assert postgres.psql(f"SHOW {SETTING}") == "-1"
    assert SETTING not in (postgres.data / "postgresql.auto.conf").read_text()


@forwarded
async def test_resetting_statistics(
    world: World, proxy: TcpProxy, postgres: PostgresServer, evidence: Path, forward: bool
) -> None:
    """It comes last: what was kept of them before is not overwritten by what is left afterwards."""
    postgres.psql("GRANT EXECUTE ON FUNCTION pg_stat_statements_reset TO paramedic", database="covet")
    postgres.psql("SELECT pg_sleep(0.3), 'slow one'", database="covet")
    log = {"name": "log", "slowQueryLog": {"thresholdMilliseconds": 20, "resetStatistics": True}, "ttl": "3s"}
    await _policy(world, log)
    cuts = proxy.cuts
    proxy.cut_on(b'pg_stat_statements_reset"()', forward=forward, then=world.operator.kill)
    await world.incident()
    await _killed(world, proxy, cuts)

    await asyncio.to_thread(world.operator.restart)
    found = await world.reaches("Resolved", timeout=40)

    assert step(found)["state"] == "Reverted", story(found)
    (kept,) = evidence.glob(f"{world.namespace}/**/slow-queries-before.json")
    assert "pg_sleep" in kept.read_text()
    assert postgres.psql(f"SHOW {SETTING}") == "-1"
