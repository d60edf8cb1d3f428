"""covet's PostgreSQL and Redis, on an address of this machine that pods reach."""

from __future__ import annotations

import re
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
SLOW_LOG = "log_min_duration_statement"
SCHEMA = toolchain.HACK / "covet" / "schema.sql"
REVIEWS = """
INSERT INTO reviews (item_id, body)
SELECT 1 + n % 100, 'I bought item ' || n % 100 || ', it came on day ' || n || ' and does what it should, I would again'
FROM generate_series(1, {}) AS n
"""
_TIME = re.compile(r"\d+\.\d{3}(?= )")
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
        return [at for at, line in self._logged() if f" {ROLE} " in line and any(one in line for one in _ENDED)]

    def changed_parameters(self) -> list[float]:
        """When the server took up another threshold for its log of slow statements, as that log tells it."""
        return [at for at, line in self._logged() if f'parameter "{SLOW_LOG}"' in line]

    def logged_statements(self) -> list[float]:
        """When statements of covet's were logged because of how long they took."""
        return [at for at, line in self._logged() if f" {ROLE} " in line and "duration: " in line]

    def fill(self, reviews: int) -> None:
        """So many reviews, and no more."""
        self.psql(f"TRUNCATE reviews; {REVIEWS.format(reviews)}; ANALYZE reviews")

    def psql(self, sql: str) -> str:
        """What psql prints, as covet's own role in covet's database."""
        return self.postgres.psql(sql, database=DATABASE, user=ROLE, password=self.password)

    def _logged(self) -> list[tuple[float, str]]:
        """The lines of the server's log that begin with a time, and that time."""
        lines = self.postgres.log.read_text(errors="replace").splitlines()
        return [(float(found[0]), line) for line in lines if (found := _TIME.match(line))]

    def clear(self) -> None:
        """As at the beginning: nothing queued, no sessions."""
        self.redis.cli("DEL", QUEUE)
        self.fill(0)
        self.postgres.psql("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = 'covet'")


@contextmanager
def stores(host: str, network: str) -> Iterator[Stores]:
    """Started, with covet's schema; `network` is where clients may come from."""
    password = secrets.token_urlsafe(16)
    settings = {"listen_addresses": f"127.0.0.1,{host}", "log_line_prefix": "%n %u ", "max_connections": "120"}
    with PostgresServer(settings=settings) as postgres, RedisServer(password=password) as redis:
        with (postgres.data / "pg_hba.conf").open("a") as rules:
            rules.write(f"host all all {network} scram-sha-256\n")
        postgres.psql("SELECT pg_reload_conf()")
        redis.cli("CONFIG", "SET", "bind", f"127.0.0.1 {host}")
        _set_up(postgres, password)
        yield Stores(host, postgres, redis, password)


def _set_up(postgres: PostgresServer, password: str) -> None:
    postgres.psql(
        f"CREATE ROLE {ROLE} LOGIN PASSWORD '{password}';"
        f"CREATE ROLE {OPERATOR} LOGIN PASSWORD '{password}' IN ROLE pg_monitor, pg_signal_backend;"
        f"CREATE DATABASE {DATABASE} OWNER {ROLE}"
    )
    postgres.psql(SCHEMA.read_text(), database=DATABASE, user=ROLE, password=password)
    postgres.psql(
        f"CREATE EXTENSION pg_stat_statements;"
        f"GRANT ALTER SYSTEM ON PARAMETER {SLOW_LOG} TO {OPERATOR};"
        f"GRANT EXECUTE ON FUNCTION pg_reload_conf() TO {OPERATOR}",
        database=DATABASE,
    )
