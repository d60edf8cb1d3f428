"""What a diagnosis sees of a real PostgreSQL and a real Redis in trouble, and what it does not tell."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import psycopg
import pytest

from builders import NOW
from databases.bed import NAMESPACE, PASSWORD, Run, clients_of, postgres_entry
from paramedic.actions.base import Clients
from paramedic.api.diagnosis import ConnectionCheck
from paramedic.core.findings import findings_of
from paramedic.core.outside import CacheLoad, DatabaseLoad, Outside, row_of
from paramedic.core.picture import Picture
from paramedic.diagnosis.connections import read_connections
from paramedic.diagnosis.looking import Looks
from testbed.api import eventually
from testbed.ports import Ports
from testbed.postgres import PostgresServer
from testbed.redis import RedisServer
from testbed.silent import silent

SECRET = "4111-1111"
ENOUGH_SECONDS = 20.0


class Bed:
    """A database and a cache, as a diagnosis of an incident in a namespace sees them."""

    def __init__(self, clients: Clients) -> None:
        self.clients = clients
        self.looks = Looks()

    async def seen(self, name: str, namespace: str = NAMESPACE, **check: Any) -> Outside | None:
        """What is seen of one connection."""
        assert self.clients.connections is not None
        self.looks = Looks()
        wanted = [ConnectionCheck.model_validate({"name": name} | check)]
        kube: Any = None  # no Secret is looked for
        found = await read_connections(self.clients.connections, kube, namespace, wanted, self.looks, ENOUGH_SECONDS)
        return found[0] if found else None

    async def told(self, name: str, **check: Any) -> dict[str, str]:
        """The findings' messages by reason."""
        seen = await self.seen(name, **check)
        outside = () if seen is None else (seen,)
        picture = Picture("Deployment/web", NAMESPACE, NOW, outside=outside)
        return {finding.reason: finding.message for finding in findings_of(picture)}


@pytest.fixture
def bed(postgres: PostgresServer, redis_server: RedisServer, tmp_path: Path) -> Bed:
    return make_bed(postgres.port, redis_server.port, tmp_path)


def make_bed(postgres: int, redis: int, folder: Path, password: str = PASSWORD, **more: Any) -> Bed:
    file = folder / "redis-password"
    file.write_text(password)
    server = {"host": "127.0.0.1", "port": redis, "tls": False, "passwordFile": str(file)}
    cache = {"name": "covet-queue", "namespaces": [NAMESPACE], "redis": server}
    return Bed(clients_of(postgres_entry(postgres, folder, password, **more), cache))


@pytest.fixture
async def nobody() -> AsyncIterator[int]:
    """A port where nobody listens."""
    ports = Ports()
    yield ports.reserve()
    ports.release()


@pytest.fixture
def small() -> Iterator[RedisServer]:
    """A Redis of its own, to be filled and refused by."""
    with RedisServer(password=PASSWORD) as server:
        yield server


# -- PostgreSQL --------------------------------------------------------------------------------------------------------


async def test_a_database_at_rest_has_nothing_to_tell(bed: Bed) -> None:
    seen = await bed.seen("covet-db")
    assert isinstance(seen, DatabaseLoad)
    assert (seen.most, seen.waiting, seen.long_running) == (57, 0, 0), "60, of which 3 are a superuser's"
    assert 1 <= seen.connections < 20
    assert await bed.told("covet-db") == {}
    assert bed.looks.failed == []


async def test_long_statements_are_told_without_their_literals(bed: Bed, busy: Run) -> None:
    longest = await busy(f"SELECT pg_sleep(60), '{SECRET}'")
    await busy(None, before=f"INSERT INTO orders VALUES (77, '{SECRET}')", autocommit=False)
    await busy(f"SELECT pg_sleep(60), '{SECRET}'", database="other")

    async def both() -> bool:
        seen = await bed.seen("covet-db", longQueryAfter="1s")
        return isinstance(seen, DatabaseLoad) and seen.long_running == 2

    await eventually(both, 15, what="two long statements in the connection's own database")
    told = await bed.told("covet-db", longQueryAfter="1s")
    assert set(told) == {"LongRunningQueries"}
    assert f"pid {longest.pid} (app, active for" in told["LongRunningQueries"]
    assert "SELECT pg_sleep(?), ?" in told["LongRunningQueries"]
    seen = await bed.seen("covet-db", longQueryAfter="1s")
    assert seen is not None
    assert SECRET not in repr(told) + repr(row_of(seen)) + repr(bed.looks.failed)
    assert {one["query"] for one in row_of(seen)["longest"]} == {
        "SELECT pg_sleep(?), ?",
        "INSERT INTO orders VALUES (?, ?)",
    }
    assert await bed.told("covet-db") == {}, "not by the runbook's five minutes"


async def test_who_holds_the_locks_is_named_and_not_who_waits_itself(bed: Bed, busy: Run) -> None:
    holder = await busy(None, before=f"INSERT INTO orders VALUES (78, '{SECRET}')", autocommit=False)
    for _ in range(3):
        await busy("INSERT INTO orders VALUES (78, 'me too')")

    async def all_wait() -> str | None:
        told = (await bed.told("covet-db")).get("DatabaseLocksWaiting", "")
        return told if told.startswith("covet-db: 3 sessions wait for locks") else None

    told = await eventually(all_wait, 20, what="three sessions that wait")
    assert f"held up by pid {holder.pid} (app, idle in transaction for" in told
    assert told.endswith("INSERT INTO orders VALUES (?, ?)")


async def test_a_server_whose_connections_are_nearly_taken(bed: Bed, postgres: PostgresServer, busy: Run) -> None:
    taken = 0
    while taken < 52:
        await busy(None)
        taken = int(postgres.psql("SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'client backend'")) - 1
    told = await bed.told("covet-db")
    assert set(told) == {"DatabaseConnectionsExhausted"}
    assert "of 57 connections are taken (0 active, 0 idle in a transaction)" in told["DatabaseConnectionsExhausted"]


async def test_a_server_that_has_no_connection_left_at_all(bed: Bed, postgres: PostgresServer, busy: Run) -> None:
    await taken_up(postgres, busy)
    told = await bed.told("covet-db")
    assert set(told) == {"DatabaseConnectionsExhausted"}
    assert "no connection is left" in told["DatabaseConnectionsExhausted"]
    assert bed.looks.failed == []


async def taken_up(postgres: PostgresServer, busy: Run) -> None:
    """All connections that roles like Paramedic's may have; those that have just been closed are still counted."""
    clients = "SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'client backend' AND pid <> pg_backend_pid()"

    async def no_more() -> bool:
        try:
            await busy(None)
        except psycopg.OperationalError:
            return int(postgres.psql(clients)) == 57
        return False

    await eventually(no_more, interval=0, what="no connection is left")


async def test_a_database_that_is_not_there(redis_server: RedisServer, nobody: int, tmp_path: Path) -> None:
    told = await make_bed(nobody, redis_server.port, tmp_path).told("covet-db")
    assert set(told) == {"DatabaseUnreachable"}
    assert "refused" in told["DatabaseUnreachable"].lower()


async def test_servers_that_say_nothing_are_waited_for_only_so_long(tmp_path: Path) -> None:
    async with silent() as url:
        port = int(url.rpartition(":")[2])
        bed = make_bed(port, port, tmp_path)
        database, cache = await asyncio.gather(bed.told("covet-db"), bed.told("covet-queue"))
    assert "no answer within 2.5 s" in database["DatabaseUnreachable"]
    assert set(cache) == {"CacheUnreachable"}


async def test_who_is_not_let_in_does_not_say_that_the_server_is_down(
    postgres: PostgresServer, redis_server: RedisServer, tmp_path: Path
) -> None:
    wrong = make_bed(postgres.port, redis_server.port, tmp_path, "wr0ng-p4ss")
    for name, words in (("covet-db", "password authentication failed"), ("covet-queue", "password")):
        assert await wrong.told(name) == {}
        [line] = wrong.looks.failed
        assert line.startswith(f"could not look: connection {name}: ")
        assert words in line
        assert "wr0ng-p4ss" not in line


async def test_a_role_that_may_not_see_others_is_told_what_it_lacks(
    postgres: PostgresServer, redis_server: RedisServer, tmp_path: Path
) -> None:
    bed = make_bed(postgres.port, redis_server.port, tmp_path, username="stranger")
    assert await bed.told("covet-db") == {}
    [line] = bed.looks.failed
    assert 'GRANT pg_read_all_stats TO "stranger"' in line
    assert "manifests/components" not in line, "rights in Kubernetes would not help"


async def test_a_connection_of_another_namespace_is_not_looked_at(
    postgres: PostgresServer, redis_server: RedisServer, tmp_path: Path
) -> None:
    bed = make_bed(postgres.port, redis_server.port, tmp_path)

    class NoSecrets:
        async def get(self, path: str) -> Any:
            raise AssertionError(path)

    assert bed.clients.connections is not None
    bed.clients.connections._kube = NoSecrets()  # type: ignore[assignment]
    before = postgres.psql("SELECT sum(sessions) FROM pg_stat_database WHERE datname = 'covet'")
    assert await bed.seen("covet-db", namespace="elsewhere") is None
    assert "/namespaces/elsewhere/secrets/covet-db" in bed.looks.failed[0]
    assert postgres.psql("SELECT sum(sessions) FROM pg_stat_database WHERE datname = 'covet'") == before


# -- Redis -------------------------------------------------------------------------------------------------------------


async def test_queues_and_memory_of_a_cache(bed: Bed, redis_server: RedisServer) -> None:
    redis_server.cli("FLUSHALL")
    redis_server.cli("RPUSH", "jobs", *range(12))
    redis_server.cli("ZADD", "later", 1, "a", 2, "b", 3, "c")
    redis_server.cli("XADD", "log", "*", "a", "1")
    redis_server.cli("XGROUP", "CREATE", "log", "workers", 0)
    redis_server.cli("SET", "plain", "x")
    queues = [
        {"key": "jobs", "maxDepth": 10},
        {"key": "later", "type": "SortedSet", "maxDepth": 3},
        {"key": "log", "group": "workers", "maxDepth": 0},
        {"key": "plain"},
        {"key": "nothing", "maxDepth": 0},
    ]
    seen = await bed.seen("covet-queue", queues=queues)
    assert isinstance(seen, CacheLoad)
    assert seen.used_bytes > 100_000
    assert seen.max_clients > 100
    assert {one.key: one.entries for one in seen.queues} == {"jobs": 12, "later": 3, "log": 1, "nothing": 0}
    assert bed.looks.failed == [
        "could not look: connection covet-queue: covet-queue: plain is a string, not a list, stream, zset"
    ]
    redis_server.cli("DEL", "log")
    assert await bed.told("covet-queue", queues=queues[:2]) == {
        "QueueDeep": "covet-queue: 12 entries wait in jobs (more than 10)"
    }


async def test_a_cache_that_is_full_and_may_free_nothing(
    small: RedisServer, postgres: PostgresServer, tmp_path: Path
) -> None:
    bed = make_bed(postgres.port, small.port, tmp_path)
    used = int(small.cli("INFO", "memory").partition("used_memory:")[2].split()[0])
    small.cli("CONFIG", "SET", "maxmemory", used)
    told = await bed.told("covet-queue")
    assert set(told) == {"CacheMemoryFull"}
    assert "noeviction is in force" in told["CacheMemoryFull"]
    small.cli("CONFIG", "SET", "maxmemory-policy", "allkeys-lru")
    assert "CacheMemoryFull" not in await bed.told("covet-queue"), "such a cache is full by design"
    small.cli("CONFIG", "SET", "maxmemory", used + 3_000_000)

    async def evicts() -> str | None:
        writing = asyncio.create_task(asyncio.to_thread(_write, small))
        told = await bed.told("covet-queue")
        await writing
        return told.get("CacheEvicting")

    assert "keys were evicted while it was looked at" in await eventually(evicts, 20, what="keys that are evicted")


def _write(server: RedisServer) -> None:
    """So much for a second or so that other keys have to go."""
    for number in range(150):
        server.cli("SET", f"key-{number}", "x" * 50_000)


async def test_a_cache_that_has_no_connection_left(
    small: RedisServer, postgres: PostgresServer, tmp_path: Path
) -> None:
    bed = make_bed(postgres.port, small.port, tmp_path)
    small.cli("CONFIG", "SET", "maxclients", 20)
    with ExitStack() as held:
        for _ in range(18):
            held.enter_context(socket.create_connection(("127.0.0.1", small.port)))
        told = await eventually(lambda: bed.told("covet-queue"), 10, what="a cache with hardly a connection left")
        assert "of 20 connections are taken" in told["CacheConnectionsExhausted"]
        for _ in range(2):
            held.enter_context(socket.create_connection(("127.0.0.1", small.port)))
        told = await bed.told("covet-queue")
    assert set(told) == {"CacheConnectionsExhausted"}
    assert "no connection is left" in told["CacheConnectionsExhausted"]


async def test_a_cache_that_is_not_there(postgres: PostgresServer, nobody: int, tmp_path: Path) -> None:
    told = await make_bed(postgres.port, nobody, tmp_path).told("covet-queue")
    assert set(told) == {"CacheUnreachable"}


async def test_a_frozen_cache(small: RedisServer, postgres: PostgresServer, tmp_path: Path) -> None:
    small.freeze()
    try:
        told = await make_bed(postgres.port, small.port, tmp_path).told("covet-queue")
    finally:
        small.thaw()
    assert set(told) == {"CacheUnreachable"}
