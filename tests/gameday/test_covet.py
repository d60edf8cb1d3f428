"""covet as plain processes, on a real PostgreSQL and a real Redis: it serves, and each fault is what it says."""

from __future__ import annotations

import os
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from gameday.load import TIMEOUT, Call, Load
from testbed import toolchain
from testbed.api import eventually
from testbed.ports import Ports
from testbed.postgres import PostgresServer
from testbed.processes import Child, ProcessError, spawn
from testbed.redis import RedisServer

PASSWORD = "c0vet-passw0rd"
SCHEMA = toolchain.HACK / "covet" / "schema.sql"

Environment = dict[str, str]


class Covet:
    """One process of covet's."""

    def __init__(self, child: Child, port: int) -> None:
        self.child = child
        self.url = f"http://127.0.0.1:{port}"

    def ask(self, method: str, path: str, timeout: float = 10, **headers: str) -> tuple[int, str]:
        request = urllib.request.Request(self.url + path, headers=headers, method=method)
        try:
            with urllib.request.urlopen(request, timeout=timeout) as answer:
                return answer.status, answer.read().decode()
        except urllib.error.HTTPError as error:
            with error:
                return error.code, error.read().decode()

    async def serves(self, status: int = 200) -> None:
        await eventually(
            lambda: self.ask("GET", "/health")[0] == status, 20, what=f"covet is there: {self.child.tail()}"
        )

    def metric(self, series: str) -> float:
        lines = self.ask("GET", "/metrics")[1].splitlines()
        return float(next((line.rpartition(" ")[2] for line in lines if line.startswith(f"{series} ")), "nan"))


@pytest.fixture(scope="module")
def postgres() -> Iterator[PostgresServer]:
    with PostgresServer() as server:
        server.psql(f"CREATE ROLE covet LOGIN PASSWORD '{PASSWORD}'; CREATE DATABASE covet OWNER covet")
        server.psql(SCHEMA.read_text(), database="covet", user="covet", password=PASSWORD)
        yield server


@pytest.fixture(scope="module")
def redis() -> Iterator[RedisServer]:
    with RedisServer(password=PASSWORD) as server:
        yield server


Start = Callable[..., Covet]


@pytest.fixture
def start(postgres: PostgresServer, redis: RedisServer, tmp_path: Path) -> Iterator[Start]:
    """Starts a process of covet's with the given environment on top of the usual."""
    with ExitStack() as stack:
        ports = Ports()
        stack.callback(ports.release)

        def begin(module: str = "covet.app", **more: str) -> Covet:
            port = ports.reserve()
            env = {
                "PATH": os.environ["PATH"],
                "PYTHONPATH": str(toolchain.HACK),
                "DB_HOST": "127.0.0.1",
                "DB_PORT": str(postgres.port),
                "DB_PASSWORD": PASSWORD,
                "REDIS_HOST": "127.0.0.1",
                "REDIS_PORT": str(redis.port),
                "REDIS_PASSWORD": PASSWORD,
                "LISTEN_HOST": "127.0.0.1",
                "LISTEN_PORT": str(port),
            }
            child = spawn(module, [sys.executable, "-m", module], tmp_path / f"{port}.log", env=env | more)
            stack.callback(child.stop)
            return Covet(child, port)

        yield begin


def stock(postgres: PostgresServer, item: int) -> int:
    return int(postgres.psql(f"SELECT stock FROM items WHERE id = {item}", database="covet"))


async def test_it_sells_and_ships(start: Start, postgres: PostgresServer, redis: RedisServer) -> None:
    app = start()
    await app.serves()
    before = stock(postgres, 7)
    assert app.ask("GET", "/items/7") == (200, f'{{"name": "item 7", "stock": {before}}}')
    assert app.ask("GET", "/items/999")[0] == 404
    for _ in range(3):
        assert app.ask("POST", "/items/7/orders")[0] == 201
    assert stock(postgres, 7) == before - 3
    assert redis.cli("LLEN", "task_queue") == "3"
    assert app.metric('covet_queue_depth{queue="task_queue"}') == 3
    assert app.metric('http_requests_total{code="201"}') == 3
    worker = start("covet.worker", TASK_SECONDS="0.01")
    shipped = "SELECT count(*) FROM orders WHERE shipped_at IS NOT NULL"
    await eventually(lambda: postgres.psql(shipped, database="covet") == "3", 20)
    await eventually(lambda: worker.metric("covet_tasks_total") == 3, 10)
    assert redis.cli("LLEN", "task_queue") == "0"


async def test_only_who_has_the_token_gets_in(start: Start) -> None:
    app = start(ADMIN_TOKEN="t0ken")
    await app.serves()
    assert app.ask("GET", "/admin")[0] == 401
    assert app.ask("GET", "/admin", Authorization="Bearer guess")[0] == 401
    assert app.ask("GET", "/admin", Authorization="Bearer t0ken")[0] == 200
    assert app.metric('http_requests_total{code="401"}') == 2


async def test_who_is_refused_is_in_the_audit_log_and_with_debug_everybody_is(start: Start) -> None:
    quiet, talkative = start(ADMIN_TOKEN="t0ken"), start(ADMIN_TOKEN="t0ken", AUDIT_LOG_LEVEL="DEBUG")
    for app in (quiet, talkative):
        await app.serves()
        for path in ("/admin", "/items/7", "/items/999"):
            app.ask("GET", path)
    refused = "WARNING security: 127.0.0.1 GET /admin was refused"
    await eventually(lambda: refused in quiet.child.tail(), 5)
    assert "/items/7" not in quiet.child.tail()
    told = [refused, "DEBUG audit: 127.0.0.1 GET /items/7 200", "DEBUG audit: 127.0.0.1 GET /items/999 404"]
    await eventually(lambda: all(line in talkative.child.tail() for line in told), 5)
    assert "t0ken" not in quiet.child.tail() + talkative.child.tail()


async def test_a_release_that_searches_without_an_index_is_slow_in_the_database(
    start: Start, postgres: PostgresServer
) -> None:
    postgres.psql(
        "INSERT INTO reviews (body) SELECT repeat('a broken thing. ', 20) FROM generate_series(1, 3000)",
        database="covet",
    )
    seconds = []
    for fault in ("", "unindexed"):
        app = start(FAULT=fault)
        await app.serves()
        took = []
        for _ in range(5):
            began = time.perf_counter()
            assert app.ask("POST", "/items/7/orders")[0] == 201
            took.append(time.perf_counter() - began)
        seconds.append(min(took))
    assert seconds[1] > seconds[0] + 0.02


async def test_a_bad_release_answers_500_and_says_that_it_is_well(start: Start) -> None:
    app = start(FAULT="errors")
    await app.serves()
    assert app.ask("GET", "/items/7")[0] == 500
    assert app.metric('http_requests_total{code="500"}') == 1


async def test_a_release_crashes_at_its_start(start: Start) -> None:
    app = start(FAULT="crash")
    assert app.child.wait(20)
    assert "missing" in app.child.tail()


async def test_a_release_is_never_ready_and_could_be_asked(start: Start) -> None:
    app = start(FAULT="never-ready")
    await app.serves(503)
    assert app.ask("GET", "/items/7")[0] == 200


async def test_a_slow_release_is_slower_than_users_wait(start: Start) -> None:
    app = start(FAULT="slow")
    await app.serves()
    with pytest.raises(TimeoutError):
        app.ask("GET", "/items/7", timeout=TIMEOUT)


async def test_a_release_leaks_what_it_is_told_to(start: Start) -> None:
    app = start(FAULT="leak", LEAK_BYTES="4000000")
    await app.serves()
    before = app.metric("process_resident_memory_bytes")
    for _ in range(20):
        assert app.ask("GET", "/items/7")[0] == 200
    assert app.metric("process_resident_memory_bytes") > before + 70e6


async def test_a_wrong_database_host_makes_it_unready_and_every_request_fail(start: Start) -> None:
    app = start(DB_HOST="127.0.0.2")
    await app.serves(503)
    assert app.ask("GET", "/items/7")[0] == 503


async def test_a_poisoned_query_stops_the_orders_until_it_is_ended(start: Start, postgres: PostgresServer) -> None:
    app = start()
    await app.serves()
    with pytest.raises(TimeoutError):
        app.ask("POST", "/restock", timeout=1)
    assert app.ask("POST", "/items/7/orders")[0] == 503
    assert app.ask("GET", "/items/7")[0] == 200
    assert app.ask("GET", "/health")[0] == 200
    ended = postgres.psql(
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
        "WHERE query LIKE 'SELECT pg_sleep%' AND state = 'active'"
    )
    assert ended == "t"
    await eventually(lambda: app.ask("POST", "/items/7/orders")[0] == 201, 10)


async def test_more_requests_than_it_has_room_for_wait_and_are_turned_away(start: Start) -> None:
    app = start(SLOTS="1", WORK_SECONDS="0.2")
    await app.serves()
    with Load(app.url, rate=40, calls=[Call("GET", "/items/7")], timeout=5) as load:
        await eventually(lambda: {one.failure for one in load.samples} >= {"", "HTTP 503"}, 20)


async def test_it_mends_its_connections_when_the_database_comes_back(start: Start) -> None:
    with PostgresServer() as server:
        server.psql(f"CREATE ROLE covet LOGIN PASSWORD '{PASSWORD}'; CREATE DATABASE covet OWNER covet")
        server.psql(SCHEMA.read_text(), database="covet", user="covet", password=PASSWORD)
        app = start(DB_PORT=str(server.port))
        await app.serves()
        assert app.ask("GET", "/items/7")[0] == 200
        server.stop()
        assert app.ask("GET", "/items/7")[0] == 503
        with pytest.raises(ProcessError):
            server.psql("SELECT 1")
        server.start()
        await eventually(lambda: app.ask("GET", "/items/7")[0] == 200, 20)
