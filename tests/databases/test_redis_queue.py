"""The depth of queues in a real Redis."""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from databases.bed import NAMESPACE, PASSWORD, clients_of
from paramedic.api.reasons import Reason
from paramedic.clients.redis import Redis
from paramedic.clients.redis_queue import depth
from paramedic.core.queues import QueueType, Sizing, wanted_replicas
from paramedic.errors import Refused, Terminal, Unreachable
from testbed.redis import RedisServer
from testbed.tcpproxy import TcpProxy


@pytest.fixture(autouse=True)
def empty(redis_server: RedisServer) -> Iterator[None]:
    redis_server.cli("FLUSHALL")
    yield
    redis_server.cli("ACL", "DELUSER", "reader")


async def queue(port: int, folder: Path, password: str = PASSWORD, **more: Any) -> Redis:
    file = folder / "redis-password"
    file.write_text(password)
    server = {"host": "127.0.0.1", "port": port, "tls": False, "passwordFile": str(file)} | more
    entry = {"name": "covet-queue", "namespaces": [NAMESPACE], "redis": server}
    connections = clients_of(entry).connections
    assert connections is not None
    return await connections.redis(NAMESPACE, "covet-queue")


@pytest.mark.parametrize("kind", [None, "List", "SortedSet"])
async def test_lists_and_sorted_sets(redis_server: RedisServer, tmp_path: Path, kind: QueueType | None) -> None:
    if kind == "SortedSet":
        redis_server.cli("ZADD", "jobs", 1, "a", 2, "b", 3, "c")
    else:
        redis_server.cli("RPUSH", "jobs", *range(7))
    expected = 3 if kind == "SortedSet" else 7
    assert await depth(await queue(redis_server.port, tmp_path), "jobs", kind, None, 100) == expected


async def test_a_key_that_is_not_there_is_an_empty_queue(redis_server: RedisServer, tmp_path: Path) -> None:
    assert await depth(await queue(redis_server.port, tmp_path), "nothing", "List", None, 100) == 0


async def test_an_address_that_does_not_answer_is_not_the_last_word(
    redis_server: RedisServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The server listens at 127.0.0.1 only, and its name stands for more."""
    known = {"redis.covet": ["127.0.0.2", "127.0.0.3", "127.0.0.1"], "lost.covet": ["127.0.0.2", "127.0.0.3"]}

    def look_up(host: str, port: int, **_: Any) -> list[Any]:
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, port)) for address in known[host]]

    monkeypatch.setattr(socket, "getaddrinfo", look_up)
    redis_server.cli("RPUSH", "jobs", 1, 2)
    found = await queue(redis_server.port, tmp_path, host="redis.covet")
    assert await depth(found, "jobs", "List", None, 100) == 2
    with pytest.raises(Unreachable, match=r"covet-queue: .*connect"):
        await depth(await queue(redis_server.port, tmp_path, host="lost.covet"), "jobs", "List", None, 100)


async def test_another_database_of_the_server(redis_server: RedisServer, tmp_path: Path) -> None:
    redis_server.cli("-n", 3, "RPUSH", "jobs", 1, 2)
    assert await depth(await queue(redis_server.port, tmp_path, database=3), "jobs", None, None, 100) == 2


async def test_a_stream_counts_what_is_pending_and_what_is_left(redis_server: RedisServer, tmp_path: Path) -> None:
    for number in range(10):
        redis_server.cli("XADD", "events", f"{number + 1}-0", "n", number)
    redis_server.cli("XGROUP", "CREATE", "events", "workers", 0)
    redis_server.cli("XREADGROUP", "GROUP", "workers", "w1", "COUNT", 4, "STREAMS", "events", ">")
    redis_server.cli("XACK", "events", "workers", "1-0")
    redis = await queue(redis_server.port, tmp_path)

    assert await depth(redis, "events", "Stream", "workers", 1000) == 3 + 6

    redis_server.cli("XDEL", "events", "8-0")  # then Redis cannot tell the lag
    assert redis_server.cli("XINFO", "GROUPS", "events").endswith("\nlag"), "a lag is told"
    assert await depth(redis, "events", None, "workers", 1000) == 3 + 5


async def test_entries_too_large_to_be_counted_are_said(redis_server: RedisServer, tmp_path: Path) -> None:
    """Redis gives no count of a part of a stream, only the entries themselves."""
    redis_server.cli("XGROUP", "CREATE", "events", "workers", 0, "MKSTREAM")
    for number in range(100):
        redis_server.cli("XADD", "events", f"{number + 1}-0", "n", "x" * (20_000 if number < 50 else 100_000))
    redis_server.cli("XDEL", "events", "2-0")
    redis = await queue(redis_server.port, tmp_path)
    with pytest.raises(Terminal, match="covet-queue: the server answers more than can be read"):
        await depth(redis, "events", None, "workers", 1000)
    redis_server.cli("XTRIM", "events", "MINID", "=", "60-0")
    assert await depth(redis, "events", None, "workers", 1000) == 41


@pytest.mark.parametrize(("kind", "told"), [("List", "not a List"), (None, "not a list, stream, zset")])
async def test_what_is_no_queue(redis_server: RedisServer, tmp_path: Path, kind: QueueType | None, told: str) -> None:
    redis_server.cli("SET", "jobs", "x")
    with pytest.raises(Refused, match=f"jobs is a string, {told}") as caught:
        await depth(await queue(redis_server.port, tmp_path), "jobs", kind, None, 100)
    assert caught.value.reason is Reason.INVALID_PARAMETERS


async def test_a_stream_needs_a_group_that_is_there(redis_server: RedisServer, tmp_path: Path) -> None:
    redis_server.cli("XADD", "events", "*", "a", 1)
    redis = await queue(redis_server.port, tmp_path)
    with pytest.raises(Refused, match="set group"):
        await depth(redis, "events", None, None, 100)
    with pytest.raises(Refused, match="no consumer group workers"):
        await depth(redis, "events", None, "workers", 100)


async def test_a_missing_right_is_refused(redis_server: RedisServer, tmp_path: Path) -> None:
    redis_server.cli("ACL", "SETUSER", "reader", "on", ">readerpass", "~other*", "+type", "+llen", "+@connection")
    redis = await queue(redis_server.port, tmp_path, "readerpass", username="reader")
    with pytest.raises(Refused) as caught:
        await depth(redis, "jobs", None, None, 100)
    assert caught.value.reason is Reason.FORBIDDEN


async def test_a_wrong_password_is_said_and_not_shown(redis_server: RedisServer, tmp_path: Path) -> None:
    with pytest.raises(Unreachable) as caught:
        await depth(await queue(redis_server.port, tmp_path, "wr0ng-p4ss"), "jobs", None, None, 100)
    assert "wr0ng-p4ss" not in str(caught.value) + repr(caught.value.__cause__)


async def test_nobody_there(tmp_path: Path) -> None:
    with pytest.raises(Unreachable, match="covet-queue"):
        await depth(await queue(1, tmp_path), "jobs", None, None, 100)


async def test_a_connection_that_is_cut(redis_server: RedisServer, tmp_path: Path) -> None:
    with TcpProxy(redis_server.port) as proxy:
        redis_server.cli("RPUSH", "jobs", 1)
        redis = await queue(proxy.port, tmp_path)
        for _ in range(2):
            proxy.cut_on(b"LLEN", forward=True)
            with suppress(Unreachable):  # to read a second time is allowed
                assert await depth(redis, "jobs", None, None, 100) == 1
        assert proxy.cuts >= 1


async def test_a_server_that_hangs_is_given_up(redis_server: RedisServer, tmp_path: Path) -> None:
    redis = await queue(redis_server.port, tmp_path)
    redis_server.freeze()
    try:
        began = time.monotonic()
        with pytest.raises(Unreachable):
            await depth(redis, "jobs", None, None, 100)
        assert time.monotonic() - began < 25
    finally:
        redis_server.thaw()


async def test_two_sessions_at_once_at_the_most(redis_server: RedisServer, tmp_path: Path) -> None:
    redis = await queue(redis_server.port, tmp_path)
    most, running = 0, 0

    async def one() -> None:
        nonlocal most, running
        async with redis.session() as session:
            running += 1
            most = max(most, running)
            await session.call("PING")
            await asyncio.sleep(0.02)
            running -= 1

    await asyncio.gather(*(one() for _ in range(8)))
    assert most == 2


@pytest.mark.parametrize("trusted", [True, False])
async def test_tls_is_verified(tmp_path: Path, trusted: bool) -> None:
    with RedisServer(password=PASSWORD, tls=True) as server:
        assert server.certificates is not None
        more = {"caFile": str(server.certificates.ca)} if trusted else {}
        redis = await queue(server.port, tmp_path, tls=True, host="localhost", **more)
        if trusted:
            assert await depth(redis, "jobs", None, None, 100) == 0
            return
        with pytest.raises(Unreachable, match=r"(?i)certificate"):
            await depth(redis, "jobs", None, None, 100)


@pytest.mark.parametrize(
    ("depth_", "present", "wanted"),
    [
        (0, 1, 1),
        (0, 10, 8),
        (950, 2, 10),
        (901, 2, 10),
        (900, 2, 9),
        (100_000, 2, 20),
        (100_000, 30, 28),
        (450, 10, 8),
        (450, 6, 5),
        (450, 5, 5),
        (0, 0, 1),
    ],
)
def test_how_many_workers(depth_: int, present: int, wanted: int) -> None:
    assert wanted_replicas(depth_, present, Sizing(per_replica=100, least=1, most=20, shrink_by=2)) == wanted
