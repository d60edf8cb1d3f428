"""terminateQueries against a real server, with real sessions of every kind that it must spare."""

from __future__ import annotations

import asyncio
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import psycopg
import pytest

from databases.bed import PASSWORD, Busy, Run, clients_of, postgres_entry
from paramedic.actions.base import Change, Clients, Observed, Outcome, Report
from paramedic.actions.terminate_queries import TerminateQueries, TerminateQueriesParams
from paramedic.api.base import parse_time
from paramedic.api.reasons import Reason
from paramedic.api.workload import BoundTarget
from paramedic.errors import Refused, Unreachable
from testbed.postgres import PostgresServer
from testbed.tcpproxy import TcpProxy

ACTION = TerminateQueries()
MakeClients = Callable[..., Clients]


class Doctor:
    """Looks, plans and acts, as the operator does."""

    def __init__(self, clients: Clients, target: BoundTarget) -> None:
        self.clients = clients
        self.target = target

    async def look(self) -> Observed:
        return await ACTION.observe(self.target, self.clients)

    async def plan(self, **params: Any) -> Change:
        return ACTION.plan(await self.look(), _params(**params), "op")

    async def act(self, **params: Any) -> Report:
        change = await self.plan(**params)
        assert not change.is_empty, change.message
        return await ACTION.apply(change, self.clients)

    async def settled(self, change: Change) -> Outcome:
        return ACTION.settled(await self.look(), change.before, change.after, "op")

    async def again(self, change: Change, **params: Any) -> Change:
        return ACTION.plan_again(await self.look(), _params(**params), "op", change.before, change.after)


@pytest.fixture
def doctor(clients: MakeClients, target: BoundTarget) -> Doctor:
    return Doctor(clients(), target)


def _params(**params: Any) -> TerminateQueriesParams:
    return TerminateQueriesParams.model_validate({"olderThan": "1s", "applications": ["covet-app"]} | params)


def _pids(change: Change) -> list[int]:
    return [s["pid"] for s in change.before["sessions"]]


async def _old(*sessions: Busy) -> None:
    """Until the statements are older than a second."""
    await asyncio.sleep(1.2)
    assert all(s.runs() for s in sessions if s.task)


async def test_a_long_query_is_cancelled_and_its_session_goes_on(doctor: Doctor, busy: Run) -> None:
    long, other = await busy(), await busy(application="other-app")
    await _old(long, other)
    young = await busy()

    report = await doctor.act()

    assert report.result == {"ended": 1, "cancelled": 1, "terminated": 0, "left": 0}
    assert await long.outcome() == "canceled"
    assert await (await long.connection.execute("SELECT 1")).fetchone() == (1,)
    assert other.runs()
    assert young.runs()


async def test_a_query_that_ignores_the_cancellation_is_terminated(doctor: Doctor, busy: Run) -> None:
    stubborn = await busy(
        "DO $$ BEGIN PERFORM pg_sleep(60); EXCEPTION WHEN query_canceled THEN PERFORM pg_sleep(60); END $$"
    )
    await _old(stubborn)

    began = time.monotonic()
    report = await doctor.act(grace="1s")

    assert 1 <= time.monotonic() - began < 6
    assert report.result == {"ended": 1, "cancelled": 0, "terminated": 1, "left": 0}
    assert await stubborn.outcome() == "terminated"


async def test_idle_in_a_transaction_only_when_asked(doctor: Doctor, busy: Run) -> None:
    idle = await busy(None, before="SELECT 1", autocommit=False)
    await _old()

    assert (await doctor.plan()).is_empty
    report = await doctor.act(states=["idle in transaction"])

    assert report.result == {"ended": 1, "cancelled": 0, "terminated": 1, "left": 0}
    with pytest.raises(psycopg.OperationalError):
        await idle.connection.execute("SELECT 1")


async def test_a_session_that_goes_on_with_something_else_is_left_alone(doctor: Doctor, busy: Run) -> None:
    """What was planned is one statement; the session's next one is another, though pid and start are the same."""
    app = await busy("SELECT pg_sleep(2.5)")
    await _old(app)
    change = await doctor.plan()
    assert await app.outcome() == "done"
    app.task = asyncio.create_task(app.connection.execute("SELECT pg_sleep(60)"))

    await asyncio.sleep(0.2)
    report = await ACTION.apply(change, doctor.clients)

    assert report.result == {"ended": 1, "cancelled": 0, "terminated": 0, "left": 0}
    await asyncio.sleep(0.3)
    assert app.runs()


async def test_a_pid_that_is_used_again_is_left_alone(doctor: Doctor, busy: Run) -> None:
    app = await busy()
    await _old(app)
    change = await doctor.plan()
    earlier = dict(change.before["sessions"][0], backendStart="2026-01-01T00:00:00.000000Z")
    forged = Change({"sessions": [earlier]}, change.after, (), None, "")

    assert await doctor.settled(forged) is Outcome.APPLIED
    again = await doctor.again(forged)
    await ACTION.apply(again, doctor.clients)

    victims = [replace(v, backend_start=parse_time("2026-01-01T00:00:00Z")) for v in change.work.victims]
    report = await ACTION.apply(replace(change, work=replace(change.work, victims=victims)), doctor.clients)
    assert report.result["terminated"] == 0
    await asyncio.sleep(0.3)
    assert app.runs()


async def test_at_most_so_many_the_oldest_first(doctor: Doctor, busy: Run) -> None:
    sessions = [await busy() for _ in range(4)]
    await _old(*sessions)

    change = await doctor.plan(atMost=2)

    assert _pids(change) == [s.pid for s in sessions[:2]]
    assert change.after == {"ended": 2}
    assert "2 more are left (atMost)" in change.message
    await ACTION.apply(change, doctor.clients)
    assert [s.runs() for s in sessions] == [False, False, True, True]


async def test_the_plan_tells_who_without_literals(doctor: Doctor, busy: Run) -> None:
    query = "SELECT pg_sleep(60), 'card 4111-1111' AS \"the card\", $$hush$$, 4711000004711 -- for Alice"
    app = await busy(query)
    await _old(app)

    change = await doctor.plan()

    told = change.before["sessions"][0]
    assert told["query"] == 'SELECT pg_sleep(?), ? AS "the card", ?, ?'
    assert (told["pid"], told["user"], told["database"], told["application"]) == (app.pid, "app", "covet", "covet-app")
    assert parse_time(told["backendStart"]) <= parse_time(told["since"])
    for secret in ("card 4111", "hush", "4711000004711", "Alice"):
        assert secret not in str(change.before) + change.message
    assert "of 60 connections" in change.message
    assert "longest: app for" in change.message


@pytest.mark.parametrize(
    ("params", "meant"),
    [
        ({"users": ["app"]}, True),
        ({"users": ["postgres"]}, False),
        ({"databases": ["covet"]}, True),
        ({"databases": ["other"]}, False),
        ({"queryPattern": "(?i)^select pg_SLEEP"}, True),
        ({"queryPattern": "orders"}, False),
        ({"waitEvents": ["Timeout"]}, True),
        ({"waitEvents": ["PgSleep"]}, True),
        ({"waitEvents": ["Lock"]}, False),
        ({"applications": []}, True),
        ({"olderThan": "1h"}, False),
    ],
)
async def test_what_is_meant(doctor: Doctor, busy: Run, params: dict[str, Any], meant: bool) -> None:
    app = await busy()
    await _old(app)
    assert (app.pid in _pids(await doctor.plan(**params))) is meant


async def test_other_databases_only_when_named(doctor: Doctor, busy: Run) -> None:
    other = await busy(database="other")
    await _old(other)
    assert (await doctor.plan()).is_empty
    assert _pids(await doctor.plan(databases=["other"])) == [other.pid]


# -- what is never ended ----------------------------------------------------------------------------------------------


async def test_ddl_under_way_is_spared_unless_asked_for(doctor: Doctor, busy: Run) -> None:
    holder = await busy(None, before="LOCK TABLE orders IN ACCESS SHARE MODE", autocommit=False, application="holder")
    ddl = await busy("/* harmless */ ALTER TABLE orders ADD COLUMN note text")
    await _old(ddl)

    change = await doctor.plan()

    assert change.is_empty
    assert "spared: 1 DDL or maintenance" in change.message
    report = await doctor.act(includeDDL=True)
    assert report.result["cancelled"] == 1
    assert await ddl.outcome() == "canceled"
    assert holder.connection.info.status.name == "OK"


@pytest.mark.parametrize(
    "statements",
    [
        "BEGIN; DROP TABLE IF EXISTS gone; CREATE TABLE gone (); SELECT pg_sleep(60)",
        "DO $$ BEGIN CREATE TABLE made (); PERFORM pg_sleep(60); END $$",
        "SELECT 1; TRUNCATE orders; SELECT pg_sleep(60)",
    ],
    ids=["in a transaction", "in a block", "between others"],
)
async def test_hidden_ddl_is_spared(doctor: Doctor, busy: Run, statements: str) -> None:
    hidden = await busy(statements)
    await _old(hidden)
    change = await doctor.plan()
    assert change.is_empty, change
    assert "1 DDL or maintenance" in change.message


async def test_a_temporary_table_is_no_reason_to_spare(doctor: Doctor, busy: Run) -> None:
    app = await busy(
        "SELECT pg_sleep(60) FROM pg_catalog.pg_class LIMIT 1",
        before="CREATE TEMPORARY TABLE scratch (a int); COMMIT; BEGIN; TRUNCATE scratch",
        autocommit=False,
    )
    await _old(app)
    assert _pids(await doctor.plan()) == [app.pid]


async def test_a_backup_is_spared(doctor: Doctor, busy: Run, postgres: PostgresServer, tmp_path: Path) -> None:
    """pg_dump itself, held up by a lock; and under another name, its COPY."""
    await busy(None, before="LOCK TABLE orders IN ACCESS EXCLUSIVE MODE", autocommit=False, application="holder")
    url = postgres.url("app", PASSWORD, "covet")
    dump = [str(postgres.program("pg_dump")), "-f", str(tmp_path / "dump"), "-t", "orders", url]
    with _running(dump):
        copy = await busy("COPY (SELECT pg_sleep(60)) TO STDOUT")
        await _old()
        change = await doctor.plan(applications=[], includeDDL=True, users=["app"])
        assert copy.pid not in _pids(change)
        present = postgres.psql("SELECT count(*) FROM pg_stat_activity WHERE application_name = 'pg_dump'")
        assert present == "1"
        assert "spared: 2 backup" in change.message
        assert change.is_empty


async def test_replication_is_spared(doctor: Doctor, postgres: PostgresServer, tmp_path: Path) -> None:
    folder = tmp_path / "wal"
    folder.mkdir()
    url = postgres.url("replicator", PASSWORD)
    argv = [str(postgres.program("pg_receivewal")), "-D", str(folder), "-d", url]
    with _running(argv):
        await asyncio.sleep(1.5)
        sender = postgres.psql("SELECT pid FROM pg_stat_activity WHERE backend_type = 'walsender' AND state = 'active'")
        assert sender
        change = await doctor.plan(applications=[], databases=[], users=["replicator"], includeDDL=True)
        assert change.is_empty
        everywhere = await doctor.look()
        assert int(sender) in {s.pid for s in everywhere.seen.sessions}


async def test_own_sessions_are_spared(doctor: Doctor, busy: Run) -> None:
    own = await busy(user="paramedic", application="paramedic")
    await _old(own)
    change = await doctor.plan(applications=[])
    assert own.pid not in _pids(change)
    assert "1 Paramedic's own" in change.message


async def test_a_superusers_session_is_spared(doctor: Doctor, busy: Run) -> None:
    root = await busy(user="postgres")
    await _old(root)
    change = await doctor.plan()
    assert change.is_empty
    assert "spared: 1 a superuser's" in change.message


# -- rights and refusals ----------------------------------------------------------------------------------------------


async def test_who_may_not_see_sessions_is_told_which_right_is_missing(
    clients: MakeClients, target: BoundTarget
) -> None:
    with pytest.raises(Refused, match='GRANT pg_read_all_stats TO "stranger"') as caught:
        await Doctor(clients(username="stranger"), target).look()
    assert caught.value.reason is Reason.FORBIDDEN


async def test_who_may_not_signal_others_is_told_so(clients: MakeClients, target: BoundTarget, busy: Run) -> None:
    app = await busy()
    await _old(app)
    with pytest.raises(Refused, match='GRANT pg_signal_backend TO "watcher"'):
        await Doctor(clients(username="watcher"), target).plan()
    assert app.runs()


@pytest.fixture
def proxy(postgres: PostgresServer) -> Iterator[TcpProxy]:
    with TcpProxy(postgres.port) as one:
        yield one


@pytest.mark.parametrize("forward", [True, False], ids=["the server got it", "the server did not get it"])
async def test_a_connection_cut_in_the_middle_is_looked_at(
    proxy: TcpProxy, target: BoundTarget, tmp_path: Path, busy: Run, forward: bool
) -> None:
    sessions = [await busy(), await busy()]
    await _old(*sessions)
    doctor = Doctor(clients_of(postgres_entry(proxy.port, tmp_path)), target)
    change = await doctor.plan()
    young = await busy()
    proxy.cut_on(b"pg_cancel_backend", forward=forward)

    with pytest.raises(Unreachable) as caught:
        await ACTION.apply(change, doctor.clients)

    assert caught.value.uncertain
    assert proxy.cuts == 1
    await asyncio.sleep(0.5)
    assert [s.runs() for s in sessions] == [not forward] * 2
    assert await doctor.settled(change) is (Outcome.APPLIED if forward else Outcome.NOT_APPLIED)
    await asyncio.sleep(1)  # by now the other is old enough, too, but it is not in the plan
    again = await doctor.again(change)
    assert (again.before, again.after) == (change.before, change.after)
    await ACTION.apply(again, doctor.clients)
    assert [s.runs() for s in sessions] == [False, False]
    assert young.runs()


async def test_a_consent_is_for_those_that_were_shown(doctor: Doctor, busy: Run) -> None:
    first, second = await busy(), await busy()
    await _old(first, second)
    shown = await doctor.plan()
    third = await busy()
    await first.connection.cancel_safe()
    assert await first.outcome() == "canceled"
    await _old(third)

    change = ACTION.plan_as_shown(await doctor.look(), _params(), "op", shown.before, shown.after)

    assert (change.before, change.after) == (shown.before, shown.after)
    assert [v.pid for v in change.work.victims] == [second.pid]
    await second.connection.cancel_safe()
    assert await second.outcome() == "canceled"
    anew = ACTION.plan_as_shown(await doctor.look(), _params(), "op", shown.before, shown.after)
    assert _pids(anew) == [third.pid]


@contextmanager
def _running(argv: list[str]) -> Iterator[subprocess.Popen[bytes]]:
    process = subprocess.Popen(argv, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    try:
        yield process
    finally:
        process.terminate()
        process.communicate(timeout=10)
