"""A dump as evidence, of a real PostgreSQL by the real pg_dump."""

from __future__ import annotations

import asyncio
import hashlib
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from databases.bed import NAMESPACE, PASSWORD, Run, clients_of, postgres_entry
from databases.dumps import DUMPER, LOCK, ROWS, dumping, restored, sessions, waiting
from paramedic.actions.base import Clients
from paramedic.api.incident import Evidence
from paramedic.clients.evidence import EvidenceStore, Limits
from paramedic.clients.evidence_directory import DirectoryBackend
from paramedic.clients.pg_dump import Selection, dump
from paramedic.errors import Unreachable
from paramedic.evidence.database import Dump, capture_dump
from testbed.api import eventually
from testbed.postgres import PostgresServer
from testbed.tcpproxy import TcpProxy

MakeClients = Callable[..., Clients]
NAME = "database/covet-db.dump"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    folder = tmp_path / "evidence"
    folder.mkdir()
    return folder


async def dumped(
    clients: Clients,
    root: Path,
    selection: Selection | None = None,
    *,
    seconds: float = 60.0,
    most_bytes: int | None = None,
    limits: Limits | None = None,
) -> Evidence:
    """The one item that a capture adds."""
    assert clients.connections is not None
    store = EvidenceStore(DirectoryBackend(root), limits)
    try:
        async with store.collection(NAMESPACE, "breach", "op", seconds=seconds) as kept:
            wanted = Dump("covet-db", selection or Selection(), most_bytes)
            await capture_dump(kept, clients.connections, wanted, NAMESPACE)
        (item,) = [one for one in kept.items if one.name != "index.json"]
        return item
    finally:
        store.close()


def path_of(item: Evidence) -> str:
    assert item.uri is not None, item.note
    return item.uri.removeprefix("file://")


async def test_it_can_be_restored_and_is_what_was_there(
    customers: PostgresServer, clients: MakeClients, root: Path
) -> None:
    await dumped(clients(**DUMPER), root, Selection(schema_only=True))  # what is imported then stays
    tracemalloc.start()
    item = await dumped(clients(**DUMPER), root)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert (item.name, item.note) == (NAME, None)
    assert peak < (item.size_bytes or 0) / 2, "it is not held in memory"
    data = Path(path_of(item)).read_bytes()
    assert (hashlib.sha256(data).hexdigest(), len(data)) == (item.sha256, item.size_bytes)
    assert Path(path_of(item)).stat().st_mode & 0o077 == 0
    database = restored(customers, path_of(item))
    for question in (
        "SELECT count(*), md5(string_agg(note, '' ORDER BY id)) FROM people",
        "SELECT * FROM cards",
        "SELECT conname FROM pg_constraint WHERE conrelid = 'people'::regclass",
    ):
        assert customers.psql(question, database=database) == customers.psql(question, database="customers")
    assert sessions(customers) == 0
    assert dumping(customers.port) == []


async def test_rows_can_be_left_out(customers: PostgresServer, clients: MakeClients, root: Path) -> None:
    item = await dumped(clients(**DUMPER), root, Selection(without_rows_of=("public.card*",)))
    database = restored(customers, path_of(item))
    assert customers.psql("SELECT count(*) FROM cards", database=database) == "0"
    assert customers.psql("SELECT count(*) FROM people", database=database) == str(ROWS)
    assert b"4111-1111" not in Path(path_of(item)).read_bytes()
    item = await dumped(clients(**DUMPER), root, Selection(schema_only=True))
    database = restored(customers, path_of(item))
    assert customers.psql("SELECT count(*) FROM people", database=database) == "0"


@pytest.mark.parametrize("limit", ["of the policy", "of the settings"])
async def test_what_is_too_large_is_cut_and_the_program_ended(
    customers: PostgresServer, clients: MakeClients, root: Path, limit: str
) -> None:
    size = 3_000_000
    if limit == "of the policy":
        item = await dumped(clients(**DUMPER), root, most_bytes=size)
    else:
        item = await dumped(clients(**DUMPER), root, limits=Limits(1 << 30, 1 << 30, dump_bytes=size))
    assert item.size_bytes == size
    assert item.note == "cut at 2.861 MiB, the most for one item (2.861 MiB)"
    assert dumping(customers.port) == []
    await eventually(lambda: sessions(customers) == 0, what="its session is gone")
    database = restored(customers, path_of(item), complete=False)
    assert customers.psql("SELECT count(*) FROM cards", database=database) == "1", "what fitted can be restored"


async def test_it_waits_for_locks_only_so_long(
    customers: PostgresServer, clients: MakeClients, busy: Run, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("paramedic.clients.pg_dump._LOCK_WAIT_MILLISECONDS", 300)
    await busy(None, user="postgres", database="customers", before=LOCK, autocommit=False)
    item = await dumped(clients(**DUMPER), root)
    assert item.uri is None
    assert item.note is not None
    assert "covet-db: pg_dump: error: query failed: ERROR:" in item.note
    assert "statement timeout" in item.note


async def test_when_its_time_is_over_it_is_ended_at_the_server_too(
    customers: PostgresServer, clients: MakeClients, busy: Run, root: Path
) -> None:
    """It waits for a lock, so that the server would not notice by itself that nobody listens any more."""
    await busy(None, user="postgres", database="customers", before=LOCK, autocommit=False)
    item = await dumped(clients(**DUMPER), root, seconds=2)
    assert item.note == "not captured: the time for this step was over"
    assert dumping(customers.port) == []
    await eventually(lambda: sessions(customers) == 0, timeout=5, what="its session is gone")


async def test_cancelled_it_ends_the_program(
    customers: PostgresServer, clients: MakeClients, busy: Run, root: Path
) -> None:
    await busy(None, user="postgres", database="customers", before=LOCK, autocommit=False)
    task = asyncio.create_task(dumped(clients(**DUMPER), root))
    await eventually(lambda: waiting(customers), what="it dumps")
    assert len(dumping(customers.port)) == 1
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert dumping(customers.port) == []
    await eventually(lambda: sessions(customers) == 0, timeout=5, what="its session is gone")
    assert [path for path in root.rglob("*") if path.is_file()] == []


async def test_a_connection_that_is_cut_midway_is_said_and_what_came_is_kept(
    customers: PostgresServer, root: Path, tmp_path: Path
) -> None:
    with TcpProxy(customers.port) as proxy:
        made = clients_of(postgres_entry(proxy.port, tmp_path, **DUMPER))
        proxy.cut_on(b"COPY public.people", forward=True)
        item = await dumped(made, root)
    assert proxy.cuts == 1
    assert item.note is not None
    assert item.note.startswith("incomplete: covet-db: pg_dump: error:")
    assert item.size_bytes
    restored(customers, path_of(item), complete=False)
    assert dumping(proxy.port) == []


async def test_a_wrong_password_is_said_and_not_shown(customers: PostgresServer, root: Path, tmp_path: Path) -> None:
    made = clients_of(postgres_entry(customers.port, tmp_path, "wr0ng-p4ss", **DUMPER))
    item = await dumped(made, root)
    assert item.uri is None
    assert item.note is not None
    assert 'password authentication failed for user "dumper"' in item.note
    assert "wr0ng-p4ss" not in item.note


async def test_a_right_that_lacks_is_said(customers: PostgresServer, clients: MakeClients, root: Path) -> None:
    item = await dumped(clients(database="customers", username="stranger"), root)
    assert item.note is not None
    assert "permission denied for table" in item.note


@pytest.mark.parametrize("password", [PASSWORD, "with:colon\\and backslash ", "päßwörd'\" $(id)"])
async def test_a_password_is_neither_in_the_argv_nor_in_the_environment(
    customers: PostgresServer, root: Path, tmp_path: Path, busy: Run, password: str
) -> None:
    quoted = password.replace("'", "''")
    customers.psql(f"ALTER ROLE dumper PASSWORD '{quoted}'")
    try:
        holder = await busy(None, user="postgres", database="customers", before=LOCK, autocommit=False)
        made = clients_of(postgres_entry(customers.port, tmp_path, password, **DUMPER))
        task = asyncio.create_task(dumped(made, root))
        await eventually(lambda: waiting(customers), what="it dumps")
        (pid,) = dumping(customers.port)
        seen = b"".join(Path(f"/proc/{pid}/{name}").read_bytes() for name in ("cmdline", "environ"))
        assert password.encode() not in seen
        assert b"AWS_" not in seen
        assert b"PARAMEDIC" not in seen
        await holder.connection.rollback()
        item = await task
        assert item.note is None
        await asyncio.to_thread(restored, customers, path_of(item))
    finally:
        customers.psql(f"ALTER ROLE dumper PASSWORD '{PASSWORD}'")


def fake_pg_dump(folder: Path, script: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """In the PATH of the operator, alone."""
    folder.mkdir()
    if script:
        program = folder / "pg_dump"
        program.write_text(f"#!/bin/sh\n{script}\n")
        program.chmod(0o755)
    monkeypatch.setenv("PATH", str(folder))


@pytest.mark.parametrize(
    ("script", "words"),
    [
        ("", "pg_dump, which is not installed: install postgresql-client-15 or newer"),
        ("echo 'pg_dump (PostgreSQL) 14.9'", "pg_dump 14 cannot dump covet-db, a server of version 15: install"),
        ("echo nonsense", "is no pg_dump: it says 'nonsense'"),
    ],
    ids=["absent", "older", "another program"],
)
async def test_a_program_that_will_not_do_is_said_with_what_to_install(
    customers: PostgresServer,
    clients: MakeClients,
    root: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    script: str,
    words: str,
) -> None:
    fake_pg_dump(tmp_path / "bin", script, monkeypatch)
    item = await dumped(clients(**DUMPER), root)
    assert item.uri is None
    assert item.note is not None
    assert words in item.note


async def test_one_that_does_not_heed_is_killed(
    customers: PostgresServer, clients: MakeClients, root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("paramedic.clients.pg_dump._GRACE_SECONDS", 0.3)
    version = '[ "$1" = --version ] && echo "pg_dump (PostgreSQL) 99.1" && exit'
    fake_pg_dump(tmp_path / "bin", f"{version}\ntrap '' TERM\necho begun\nwhile :; do :; done", monkeypatch)
    item = await dumped(clients(**DUMPER), root, seconds=2)
    assert item.note == "incomplete: the time for this step was over"
    assert Path(path_of(item)).read_text() == "begun\n"
    assert dumping(customers.port) == []


async def test_tls_is_verified_as_the_connection_says(root: Path, tmp_path: Path) -> None:
    with PostgresServer(tls=True) as server, PostgresServer(tls=True) as other:
        assert server.certificates is not None
        assert other.certificates is not None
        more: dict[str, Any] = {"host": "localhost", "username": "postgres", "database": "postgres"}
        more["sslmode"] = "verify-full"
        own, foreign = str(server.certificates.ca), str(other.certificates.ca)
        trusting = clients_of(postgres_entry(server.port, tmp_path, server.password, **more, caFile=own))
        assert (await dumped(trusting, root)).note is None
        wary = clients_of(postgres_entry(server.port, tmp_path, server.password, **more, caFile=foreign))
        assert "certificate verify failed" in str((await dumped(wary, root)).note)
        assert wary.connections is not None
        database = await wary.connections.postgres(NAMESPACE, "covet-db")
        with pytest.raises(Unreachable, match=r"pg_dump: error: .*certificate verify failed"):
            await anext(dump(str(server.program("pg_dump")), database, Selection()))
