"""What the tests of dumps share: the database that is dumped, and looks at who dumps it."""

from __future__ import annotations

import contextlib
import subprocess
from pathlib import Path

from databases.bed import PASSWORD
from testbed.postgres import PostgresServer

DUMPER = {"username": "dumper", "database": "customers"}
"""For the connection."""
ROWS = 200_000
LOCK = "LOCK TABLE people IN ACCESS EXCLUSIVE MODE"


def fill(server: PostgresServer) -> None:
    """Makes a database that no zip makes small, and a role that may read all of it."""
    server.psql(f"CREATE ROLE dumper LOGIN PASSWORD '{PASSWORD}' IN ROLE pg_read_all_data")
    server.psql("CREATE DATABASE customers")
    server.psql(
        "CREATE TABLE people (id int PRIMARY KEY, note text); CREATE TABLE cards (id int, number text);"
        f"INSERT INTO people SELECT n, md5(n::text) || md5((-n)::text) FROM generate_series(1, {ROWS}) n;"
        "INSERT INTO cards VALUES (1, '4111-1111');",
        database="customers",
    )


def empty(server: PostgresServer) -> None:
    """Takes both away."""
    server.psql("DROP DATABASE customers WITH (FORCE)")
    server.psql("DROP ROLE dumper")


def restored(server: PostgresServer, file: str, *, complete: bool = True) -> str:
    """The name of a new database that the file was restored into."""
    server.psql("DROP DATABASE IF EXISTS restored WITH (FORCE)")
    server.psql("CREATE DATABASE restored")
    argv = [str(server.program("pg_restore")), "--no-owner", "-d", server.url(database="restored"), file]
    done = subprocess.run(argv, capture_output=True, text=True, check=False)
    assert (done.returncode == 0) is complete, done.stderr
    return "restored"


def sessions(server: PostgresServer) -> int:
    """Of pg_dump's role, whoever runs it."""
    return int(server.psql("SELECT count(*) FROM pg_stat_activity WHERE usename = 'dumper'"))


def waiting(server: PostgresServer) -> bool:
    """Whether it waits for a lock, for which it has 10 s."""
    where = "usename = 'dumper' AND wait_event_type = 'Lock'"
    return server.psql(f"SELECT count(*) FROM pg_stat_activity WHERE {where}") == "1"


def dumping(port: int) -> list[int]:
    """Processes, anywhere on the machine, that dump from the server at this port."""
    wanted = {b"PGUSER=dumper", f"PGPORT={port}".encode()}
    found = []
    for folder in Path("/proc").iterdir():
        with contextlib.suppress(OSError):
            if folder.name.isdigit() and wanted <= set((folder / "environ").read_bytes().split(b"\0")):
                found.append(int(folder.name))
    return found
