"""covet's PostgreSQL and Redis, on an address of this machine that pods reach."""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from testbed import toolchain
from testbed.postgres import PostgresServer
from testbed.redis import RedisServer

DATABASE = ROLE = "covet"
OPERATOR = "paramedic"
QUEUE = "task_queue"
SCHEMA = toolchain.HACK / "covet" / "schema.sql"
_ENDED = ("canceling statement due to user request", "terminating connection due to administrator command")


@dataclass(frozen=True)
class Stores:
    """Both, and the password of their users."""

    host: str
    postgres: PostgresServer
    redis: RedisServer
    password: str

    def queue_tasks(self, count: int) -> None:
        """Puts tasks into the queue, for orders that are shipped already."""
        self.redis.cli("RPUSH", QUEUE, *['{"order": 0}'] * count)

    def queue_depth(self) -> int:
        return int(self.redis.cli("LLEN", QUEUE))

    def ended_statements(self) -> list[float]:
        """When somebody ended statements of covet's, as PostgreSQL's log tells it (seconds since 1970)."""
        lines = self.postgres.log.read_text(errors="replace").splitlines()
        return [float(line.split()[0]) for line in lines if f" {ROLE} " in line and any(one in line for one in _ENDED)]

    def clear(self) -> None:
        """As at the beginning: nothing queued, no sessions."""
        self.redis.cli("DEL", QUEUE)
        self.postgres.psql("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = 'covet'")


@contextmanager
def stores(host: str, network: str) -> Iterator[Stores]:
    """Started, with covet's schema; `network` is where clients may come from."""
    password = secrets.token_urlsafe(16)
    settings = {"listen_addresses": f"127.0.0.1,{host}", "log_line_prefix": "%n %u ", "max_connections": "120"}
    with PostgresServer(settings=settings) as postgres, RedisServer(password=password) as redis:
        allow(postgres, network)
        redis.cli("CONFIG", "SET", "bind", f"127.0.0.1 {host}")
        set_up(postgres, password)
        yield Stores(host, postgres, redis, password)


def allow(postgres: PostgresServer, network: str) -> None:
    """Lets clients from there log in."""
    with (postgres.data / "pg_hba.conf").open("a") as rules:
        rules.write(f"host all all {network} scram-sha-256\n")
    postgres.psql("SELECT pg_reload_conf()")


def set_up(postgres: PostgresServer, password: str) -> None:
    """covet's role, database and schema, and Paramedic's role."""
    postgres.psql(
        f"CREATE ROLE {ROLE} LOGIN PASSWORD '{password}';"
        f"CREATE ROLE {OPERATOR} LOGIN PASSWORD '{password}' IN ROLE pg_monitor, pg_signal_backend;"
        f"CREATE DATABASE {DATABASE} OWNER {ROLE}"
    )
    postgres.psql(SCHEMA.read_text(), database=DATABASE, user=ROLE, password=password)
