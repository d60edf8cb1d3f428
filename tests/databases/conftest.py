"""A PostgreSQL and a Redis server for all of these tests, and connections to them."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest

from databases import dumps
from databases.bed import NAMESPACE, PASSWORD, ROLES, Busy, Run, clients_of, postgres_entry
from e2e.world import World
from paramedic.actions.base import Clients
from paramedic.api.workload import BoundTarget, bound
from testbed.api import Api, eventually
from testbed.operator_process import Operator
from testbed.postgres import PostgresServer
from testbed.redis import RedisServer


@pytest.fixture(scope="session")
def postgres() -> Iterator[PostgresServer]:
    with PostgresServer() as server:
        server.psql(ROLES)
        for database in ("covet", "other"):  # rights on functions are of one database
            server.psql("GRANT EXECUTE ON FUNCTION pg_reload_conf() TO paramedic", database=database)
        server.psql("CREATE EXTENSION pg_stat_statements", database="covet")
        server.psql(
            "CREATE TABLE orders (id int PRIMARY KEY, card text); ALTER TABLE orders OWNER TO app", database="covet"
        )
        yield server


@pytest.fixture(scope="session")
def redis_server() -> Iterator[RedisServer]:
    with RedisServer(password=PASSWORD) as server:
        yield server


@pytest.fixture(scope="module")
def customers(postgres: PostgresServer) -> Iterator[PostgresServer]:
    """The server with a database to be dumped."""
    dumps.fill(postgres)
    yield postgres
    dumps.empty(postgres)


@pytest.fixture
def target() -> BoundTarget:
    return bound("Connection", NAMESPACE, "covet-db")


@pytest.fixture
def clients(postgres: PostgresServer, tmp_path: Path) -> Callable[..., Clients]:
    """Clients whose connection covet-db leads to the server, with what a test wants otherwise."""

    def make(**more: Any) -> Clients:
        return clients_of(postgres_entry(postgres.port, tmp_path, **more))

    return make


@pytest.fixture
async def busy(postgres: PostgresServer) -> AsyncIterator[Run]:
    """Opens sessions with a statement under way, and ends them after the test."""
    opened: list[Busy] = []

    async def open_one(
        query: str | None = "SELECT pg_sleep(60)",
        *,
        user: str = "app",
        database: str = "covet",
        application: str = "covet-app",
        before: str | None = None,
        autocommit: bool = True,
    ) -> Busy:
        password = postgres.password if user == "postgres" else PASSWORD
        url = postgres.url(user, password, database, application_name=application)
        connection = await psycopg.AsyncConnection.connect(url, autocommit=autocommit)
        if before:
            await connection.execute(before)  # type: ignore[call-overload]
        task = asyncio.create_task(connection.execute(query)) if query else None  # type: ignore[call-overload]
        if task:
            task.add_done_callback(lambda done: done.cancelled() or done.exception())
        one = Busy(connection, task)
        opened.append(one)
        if task:
            asked = f"SELECT count(*) FROM pg_stat_activity WHERE pid = {one.pid} AND state = 'active'"
            await eventually(
                lambda: task.done() or asyncio.to_thread(lambda: postgres.psql(asked) == "1"), what="it is under way"
            )
        return one

    yield open_one
    for one in opened:
        postgres.psql(f"SELECT pg_terminate_backend({one.pid})")
        if one.task:
            with contextlib.suppress(Exception):
                await asyncio.wait_for(one.task, 5)
        await one.connection.close()


@pytest.fixture
def world(admin: Api, namespace: str, operator: Operator) -> World:
    """The namespace of a test with the operator of its module watching it."""
    return World(admin, namespace, operator)
