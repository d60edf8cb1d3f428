"""awaitDatabase with a real PostgreSQL server behind verifyConnection: a standby that is promoted."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import cast

import pytest

from aws.world import NAMESPACE, Cloud, Json
from builders import NOW
from paramedic.actions.await_database import AwaitDatabase, AwaitDatabaseParams
from paramedic.actions.base import Change, Clients, Report
from paramedic.api.workload import bound
from paramedic.clients.kube import Kube
from paramedic.core.operation import new_operation
from paramedic.errors import Terminal
from testbed.api import eventually
from testbed.postgres import PostgresServer

ACTION = AwaitDatabase()
PASSWORD = "s3cr3t-p4ssw0rd"


@pytest.fixture
async def standby(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[PostgresServer]:
    """A server in recovery, as a replica is until it becomes the writer."""
    monkeypatch.setattr(AwaitDatabase, "every_seconds", 0.1)
    with PostgresServer() as server:
        server.psql(f"CREATE ROLE paramedic LOGIN PASSWORD '{PASSWORD}'")
        server.stop()
        marker = server.data / "standby.signal"
        marker.touch()
        owner = server.data.stat()
        shutil.chown(marker, owner.st_uid, owner.st_gid)
        server.start()
        yield server


@pytest.fixture
def clients(cloud: Cloud, standby: PostgresServer, tmp_path: Path) -> Clients:
    cloud.create_cluster()
    password = tmp_path / "password"
    password.write_text(PASSWORD)
    server: Json = {"host": "127.0.0.1", "port": standby.port, "database": "postgres", "username": "paramedic"}
    entry = {"postgres": server | {"sslmode": "disable", "passwordFile": str(password)}}
    connections = cloud.connections(None, NAMESPACE, {"name": "covet-sql", "namespaces": [NAMESPACE]} | entry)
    return Clients(cast("Kube", None), connections=connections)


async def planned(clients: Clients, seconds: float, heard: list[str]) -> Change:
    seen = await ACTION.observe(bound("Connection", NAMESPACE, "covet-db"), clients)
    params = AwaitDatabaseParams(writer="covet-1", verify_connection="covet-sql")
    return replace(ACTION.plan(seen, params, new_operation(NOW)), seconds=seconds, tell=heard.append)


async def test_waits_until_the_server_is_promoted(clients: Clients, standby: PostgresServer) -> None:
    heard: list[str] = []
    waiting: asyncio.Task[Report] = asyncio.create_task(ACTION.apply(await planned(clients, 60, heard), clients))

    async def told() -> bool:
        return "covet-db: covet-sql still leads to a server that is in recovery" in heard

    await eventually(told, timeout=20, what="it says that the server is in recovery")
    assert not waiting.done()
    assert standby.psql("SELECT pg_promote()") == "t"
    report = await waiting
    assert report.message.endswith("and covet-sql takes writes")
    assert standby.psql("SELECT count(*) FROM pg_class WHERE relname = 'paramedic_takes_writes'") == "0"


async def test_a_server_that_takes_no_writes_is_waited_for_in_vain(clients: Clients, standby: PostgresServer) -> None:
    standby.psql("SELECT pg_promote()")
    standby.psql("ALTER ROLE paramedic SET default_transaction_read_only = on")
    with pytest.raises(Terminal, match=r"covet-sql takes no writes: .*read-only transaction") as ended:
        await ACTION.apply(await planned(clients, 3.0, []), clients)
    assert PASSWORD not in str(ended.value)
    standby.psql("ALTER ROLE paramedic RESET default_transaction_read_only")
    standby.stop()
    with pytest.raises(Terminal, match=r"covet-sql takes no writes: .*connect"):
        await ACTION.apply(await planned(clients, 3.0, []), clients)
