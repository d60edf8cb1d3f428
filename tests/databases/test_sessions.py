"""Whom terminateQueries may end: pure, over rows of pg_stat_activity."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from paramedic.core.sessions import Identity, Session, Wanted, choose, why_spared

START = datetime(2026, 1, 1, 3, 0, 0, 123456, tzinfo=UTC)
SESSION = Session(
    pid=4711,
    backend_start=START,
    since=START + timedelta(hours=1),
    age=timedelta(minutes=12),
    backend_type="client backend",
    user="app",
    database="covet",
    application="covet-app",
    state="active",
    query="SELECT * FROM orders",
)
WANTED = Wanted(older_than=timedelta(minutes=10), states=["active"])


@pytest.mark.parametrize(
    "backend_type",
    [
        "autovacuum worker",
        "autovacuum launcher",
        "background worker",
        "background writer",
        "checkpointer",
        "logical replication launcher",
        "logical replication worker",
        "parallel worker",
        "startup",
        "walreceiver",
        "walsender",
        "walwriter",
        "",
    ],
)
def test_only_clients_are_ended(backend_type: str) -> None:
    spared = replace(SESSION, backend_type=backend_type, query="autovacuum: VACUUM t (to prevent wraparound)")
    assert why_spared(spared, include_ddl=True)
    assert choose([spared], replace(WANTED, include_ddl=True)).victims == ()


@pytest.mark.parametrize("program", ["pg_dump", "pg_dumpall", "pg_restore", "pg_basebackup", "pg_receivewal"])
def test_backups_are_spared_even_with_ddl(program: str) -> None:
    assert why_spared(replace(SESSION, application=program), include_ddl=True) == "backup"


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({}, ""),
        ({"own": True}, "Paramedic's own"),
        ({"holds_ddl_locks": True}, "DDL or maintenance"),
        ({"query": "CREATE INDEX CONCURRENTLY i ON t (a)"}, "DDL or maintenance"),
        ({"query": "VACUUM FULL t"}, "DDL or maintenance"),
        ({"out_of_reach": True}, "a superuser's"),
        ({"needs_right": True}, ""),
    ],
)
def test_others_that_are_spared(change: dict[str, object], reason: str) -> None:
    assert why_spared(replace(SESSION, **change), include_ddl=False) == reason  # type: ignore[arg-type]


def test_age_counts_strictly_and_the_oldest_come_first() -> None:
    exactly = replace(SESSION, pid=1, age=timedelta(minutes=10))
    older = replace(SESSION, pid=2, since=START, age=timedelta(hours=2))
    chosen = choose([exactly, SESSION, older], replace(WANTED, at_most=1))
    assert [v.pid for v in chosen.victims] == [2]
    assert chosen.more == 1


def test_an_identity_survives_the_status() -> None:
    assert Identity.of_status(SESSION.to_status()) == SESSION.identity


def test_wait_events_by_type_or_name() -> None:
    waiting = replace(SESSION, wait_event_type="Lock", wait_event="transactionid")
    for name in ("Lock", "transactionid"):
        assert choose([waiting, SESSION], replace(WANTED, wait_events=[name])).victims == (waiting,)
