"""covet's PostgreSQL and Redis, on an address of this machine that pods reach."""

from __future__ import annotations

import re
import secrets
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from covet.app import COMPLAINTS
from testbed import toolchain
from testbed.postgres import PostgresServer
from testbed.processes import ProcessError
from testbed.redis import RedisServer

DATABASE = ROLE = "covet"
OPERATOR = "paramedic"
DUMPER = "paramedic_dump"
QUEUE = "task_queue"
SCHEMA = toolchain.HACK / "covet" / "schema.sql"
SEARCH_SECONDS = 0.7
"""So long a search takes a processor that looks at each review."""
SERVER = {"log_line_prefix": "%n %u ", "max_connections": "120"}
"""How each of covet's servers is set: lines of its log begin with the time and the role."""
_SAMPLE = 2000
_REVIEWS = """
INSERT INTO reviews (body)
SELECT 'review ' || n || ': ' || repeat('a fine thing that works as it should, and came early. ', 4)
FROM generate_series(1, {count}) AS n"""
_PROCESSOR = re.compile(r"!\s+([\d.]+) s user, ([\d.]+) s system")
_CHANGED = 'parameter "log_min_duration_statement"'
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
        return [
            float(line.split()[0]) for line in self._log() if f" {ROLE} " in line and any(one in line for one in _ENDED)
        ]

    def log_changes(self) -> list[float]:
        """When PostgreSQL began or ceased to log slow statements, by its log (seconds since 1970)."""
        return [float(line.split()[0]) for line in self._log() if _CHANGED in line]

    def slow_statements(self, words: str) -> list[float]:
        """When statements of covet's with these words were logged with their duration (seconds since 1970)."""
        lines = [line for line in self._log() if f" {ROLE} " in line and " duration: " in line and words in line]
        return [float(line.split()[0]) for line in lines]

    def restored(self, dump: bytes, tables: Sequence[str]) -> dict[str, int]:
        """How many rows these tables have once the dump is restored, into a database that is gone afterwards.
        ProcessError with pg_restore's words when it cannot be.
        """
        self.postgres.psql("CREATE DATABASE restored")
        try:
            argv = [self.postgres.program("pg_restore"), "--no-owner", "--exit-on-error", "-d"]
            command = [*map(str, argv), self.postgres.url(database="restored")]
            done = subprocess.run(command, input=dump, capture_output=True, check=False)
            if done.returncode:
                raise ProcessError(f"pg_restore: {done.stderr.decode(errors='replace').strip()[-800:]}")
            count = "SELECT count(*) FROM {}"
            return {one: int(self.postgres.psql(count.format(one), database="restored")) for one in tables}
        finally:
            self.postgres.psql("DROP DATABASE restored")

    def _log(self) -> list[str]:
        """Its entries, each as one line: all but the first line of one begin with a tab."""
        return self.postgres.log.read_text(errors="replace").replace("\n\t", " ").splitlines()

    def clear(self) -> None:
        """As at the beginning: nothing queued, no sessions, no log of slow statements."""
        self.redis.cli("DEL", QUEUE)
        self.postgres.psql("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = 'covet'")
        self.postgres.psql("ALTER SYSTEM RESET log_min_duration_statement; SELECT pg_reload_conf()")


@contextmanager
def stores(host: str, network: str) -> Iterator[Stores]:
    """Started, with covet's schema; `network` is where clients may come from."""
    password = secrets.token_urlsafe(16)
    settings = SERVER | {"listen_addresses": f"127.0.0.1,{host}"}
    with PostgresServer(settings=settings) as postgres, RedisServer(password=password) as redis:
        allow(postgres, network)
        redis.cli("CONFIG", "SET", "bind", f"127.0.0.1 {host}")
        set_up(postgres, password)
        _fill_reviews(postgres)
        yield Stores(host, postgres, redis, password)


def allow(postgres: PostgresServer, network: str) -> None:
    """Lets clients from there log in."""
    with (postgres.data / "pg_hba.conf").open("a") as rules:
        rules.write(f"host all all {network} scram-sha-256\n")
    postgres.psql("SELECT pg_reload_conf()")


def set_up(postgres: PostgresServer, password: str) -> None:
    """covet's role, database and schema, and Paramedic's roles."""
    postgres.psql(
        f"CREATE ROLE {ROLE} LOGIN PASSWORD '{password}';"
        f"CREATE ROLE {OPERATOR} LOGIN PASSWORD '{password}' IN ROLE pg_monitor, pg_signal_backend;"
        f"CREATE ROLE {DUMPER} LOGIN PASSWORD '{password}' IN ROLE pg_read_all_data;"
        f"CREATE DATABASE {DATABASE} OWNER {ROLE}"
    )
    postgres.psql(
        f"CREATE EXTENSION pg_stat_statements;"
        f"GRANT ALTER SYSTEM ON PARAMETER log_min_duration_statement TO {OPERATOR};"
        f"GRANT EXECUTE ON FUNCTION pg_reload_conf() TO {OPERATOR}",
        database=DATABASE,
    )
    postgres.psql(SCHEMA.read_text(), database=DATABASE, user=ROLE, password=password)


def _fill_reviews(postgres: PostgresServer) -> None:
    """As many as make a search among them slow on this machine, whatever its speed, and whatever else it does now."""
    postgres.psql(_REVIEWS.format(count=_SAMPLE), database=DATABASE)
    postgres.psql(f"SET log_executor_stats = on; {COMPLAINTS}", database=DATABASE)
    used = _PROCESSOR.findall(postgres.log.read_text())[-1]
    more = round(_SAMPLE * (SEARCH_SECONDS / sum(map(float, used)) - 1))
    postgres.psql(_REVIEWS.format(count=max(more, 0)) + "; ANALYZE reviews", database=DATABASE)
