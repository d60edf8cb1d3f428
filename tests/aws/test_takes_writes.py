"""awaitDatabase with a real PostgreSQL server behind verifyConnection: a standby that is promoted."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import pytest

from aws.world import NAMESPACE, Cloud, Json
from builders import NOW
from paramedic.actions.await_database import AwaitDatabase, AwaitDatabaseParams
from paramedic.actions.base import Change, Clients, Report
from paramedic.actions.database_failover import DatabaseFailover, DatabaseFailoverParams
from paramedic.api.policy import RemediationPolicy
from paramedic.api.reasons import Reason
from paramedic.api.workload import bound
from paramedic.clients import extras
from paramedic.clients.kube import Kube
from paramedic.core.operation import new_operation
from paramedic.errors import NotFound, Refused, Terminal
from paramedic.reachable import Reachable
from testbed.api import eventually
from testbed.postgres import PostgresServer

ACTION = AwaitDatabase()
FAILOVER = DatabaseFailover()
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


# -- before the failover: whether it could be verified -----------------------------------------------------------------


def entry_of(server: PostgresServer, file: Path, **more: Any) -> Json:
    given: Json = {"host": "127.0.0.1", "port": server.port, "database": "postgres", "username": "paramedic"}
    given |= {"sslmode": "disable", "passwordFile": str(file)} | more
    return {"name": "covet-sql", "namespaces": [NAMESPACE], "postgres": given}


class NoSecrets:
    async def get(self, path: str) -> Json:
        raise NotFound(path)


async def planned_failover(cloud: Cloud, entry: Json, connection: str = "covet-sql") -> Change:
    kube = cast("Kube", NoSecrets())
    clients = Clients(kube, connections=cloud.connections(kube, NAMESPACE, entry))
    params = {"verifyConnection": connection}
    seen = await FAILOVER.observe_for(bound("Connection", NAMESPACE, "covet-db"), params, clients)
    return FAILOVER.plan(seen, DatabaseFailoverParams.model_validate(params), new_operation(NOW))


@pytest.fixture
def password_file(cloud: Cloud, tmp_path: Path) -> Path:
    cloud.create_cluster()
    file = tmp_path / "password"
    file.write_text(PASSWORD)
    return file


async def test_a_failover_that_nobody_could_verify_is_not_asked_for(
    cloud: Cloud, standby: PostgresServer, password_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Found out afterwards, it would be too late."""
    standby.psql("SELECT pg_promote()")
    good = entry_of(standby, password_file)
    assert (await planned_failover(cloud, good)).after == {"writer": "covet-3"}
    cases = [
        (good, "typo", Reason.CONNECTION_UNKNOWN, "there is no connection typo for namespace"),
        (good, "covet-account", Reason.CONNECTION_UNKNOWN, "of type aws, not postgres"),
        (entry_of(standby, password_file.with_name("none")), "covet-sql", Reason.CONNECTION_FAILED, "cannot be read"),
        (entry_of(standby, password_file, username="no"), "covet-sql", Reason.CONNECTION_FAILED, "authentication"),
        (entry_of(standby, password_file, database="no"), "covet-sql", Reason.CONNECTION_FAILED, "does not exist"),
    ]
    for entry, connection, reason, told in cases:
        with pytest.raises(Refused, match=f"whether it takes writes could not be verified: .*{told}") as refusal:
            await planned_failover(cloud, entry, connection)
        assert refusal.value.reason is reason
    standby.psql("REVOKE TEMPORARY ON DATABASE postgres FROM PUBLIC")
    with pytest.raises(Refused, match='lacks a right: GRANT TEMPORARY ON DATABASE "postgres" TO "paramedic"'):
        await planned_failover(cloud, good)
    monkeypatch.setitem(extras._LIBRARIES, "postgres", "no_such_library")
    with pytest.raises(Refused, match=r"pip install 'paramedic\[postgres\]'") as lacking:
        await planned_failover(cloud, good)
    assert lacking.value.reason is Reason.EXTRA_MISSING


async def test_that_the_writer_does_not_answer_keeps_nobody_from_failing_over(
    cloud: Cloud, standby: PostgresServer, password_file: Path
) -> None:
    """Nor that it is in recovery, or has no connection left: that is what a failover is for."""
    good = entry_of(standby, password_file)
    assert (await planned_failover(cloud, good)).after == {"writer": "covet-3"}, "in recovery"
    standby.psql("SELECT pg_promote()")
    standby.psql("ALTER ROLE paramedic CONNECTION LIMIT 0")
    assert (await planned_failover(cloud, good)).after == {"writer": "covet-3"}, "no connection is left"
    standby.stop()
    assert (await planned_failover(cloud, good)).after == {"writer": "covet-3"}, "nobody answers"


async def test_a_policy_names_only_connections_that_will_do(
    cloud: Cloud, standby: PostgresServer, password_file: Path
) -> None:
    entry = entry_of(standby, password_file)
    unreadable = entry_of(standby, password_file.with_name("none")) | {"name": "covet-unreadable"}
    reachable = Reachable(cloud.connections(cast("Kube", NoSecrets()), NAMESPACE, entry, unreadable))

    async def problem(step: Json, target: str = "covet-db") -> str:
        body = {"match": {"incidents": {}}, "target": {"kind": "Connection", "name": target}, "steps": [step]}
        policy = RemediationPolicy.model_validate({"metadata": {"name": "p", "namespace": NAMESPACE}, "spec": body})
        found = await reachable.problem(policy)
        return found[1] if found else ""

    for action in ("databaseFailover", "awaitDatabase"):
        assert await problem({"name": "s", action: {"verifyConnection": "covet-sql"}}) == ""
        for name, told in {
            "typo": "steps.s: there is no connection typo for namespace covet",
            "covet-account": "steps.s: connection covet-account is of type aws, not postgres",
            "covet-unreadable": "none of the settings' connections cannot be read",
        }.items():
            assert told in await problem({"name": "s", action: {"verifyConnection": name}})
    dump = {"captureEvidence": {"databaseDump": {"connection": "covet-account"}}}
    assert "of type aws, not postgres" in await problem({"name": "s"} | dump)
    snapshots = {"captureEvidence": {"snapshots": {"connection": "covet-sql"}}}
    assert "of type postgres, not aws" in await problem({"name": "s"} | snapshots)
