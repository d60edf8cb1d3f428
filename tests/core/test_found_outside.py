"""What is said of databases, caches and queues."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from builders import NOW, ago, incident
from paramedic.api.diagnosis import ConnectionCheck, QueueCheck
from paramedic.api.incident import StepStatus
from paramedic.api.reasons import FindingReason as R
from paramedic.api.workload import bound
from paramedic.core.failover import Database, Member, Phase
from paramedic.core.findings import findings_of
from paramedic.core.outside import (
    CacheGroup,
    CacheLoad,
    ClusterState,
    DatabaseLoad,
    Outside,
    QueueDepth,
    Running,
    Shard,
    Unavailable,
    row_of,
)
from paramedic.core.picture import Answer, Picture
from paramedic.diagnostician import checks_of, target_of

UPDATE = Running(7, "app", "idle in transaction", timedelta(minutes=4), "UPDATE orders SET card = ?")
BUSY = DatabaseLoad("db", 10, 57, active=2, idle_in_transaction=0, long_after=timedelta(minutes=5))
CACHE = CacheLoad("cache", 10, 100, "noeviction", clients=1, max_clients=100)
MEMBERS = (Member("one", healthy=True), Member("two", healthy=True))
CLUSTER = Database("id", Phase.AVAILABLE, "available", "one", MEMBERS, "one.example", 5432)
SHARDS = (Shard("0001", "available", "a-1", ("a-1", "a-2")), Shard("0002", "available", "b-1", ("b-1",)))
GROUP = CacheGroup("cache", "covet-redis", "available", "enabled", SHARDS)


def found(*seen: Outside, **facts: Any) -> list[tuple[str, str]]:
    usual: dict[str, Any] = {"target": "Deployment/web", "namespace": "covet", "now": NOW, "alert_started_at": ago(10)}
    return [(f.reason, f.message) for f in findings_of(Picture(**(usual | facts), outside=seen))]


@pytest.mark.parametrize(
    "seen",
    [
        BUSY,
        replace(BUSY, connections=51),
        CACHE,
        replace(CACHE, max_bytes=0, used_bytes=10**9, max_clients=0),
        replace(CACHE, used_bytes=100, policy="allkeys-lru", evicted=5000),
        replace(CACHE, queues=(QueueDepth("jobs", 10, 10),), rejected=3),
        ClusterState("db", CLUSTER),
        GROUP,
        replace(GROUP, status="snapshotting"),
        replace(GROUP, shards=tuple(replace(shard, primary="") for shard in SHARDS)),
    ],
    ids=repr,
)
def test_what_is_well_is_not_told(seen: Outside) -> None:
    assert found(seen) == []


@pytest.mark.parametrize(
    ("seen", "reason", "words"),
    [
        (Unavailable("db", "database", "db: refused"), R.DATABASE_UNREACHABLE, "db: does not serve: refused"),
        (Unavailable("db", "database", "too many", full=True), R.DATABASE_CONNECTIONS_EXHAUSTED, "is left: too many"),
        (Unavailable("c", "cache", "LOADING"), R.CACHE_UNREACHABLE, "c: does not serve: LOADING"),
        (Unavailable("c", "cache", "max number", full=True), R.CACHE_CONNECTIONS_EXHAUSTED, "no connection is left"),
        (replace(BUSY, connections=52), R.DATABASE_CONNECTIONS_EXHAUSTED, "52 of 57 connections are taken (2 active"),
        (
            replace(BUSY, long_running=3, longest=(UPDATE,)),
            R.LONG_RUNNING_QUERIES,
            "3 at work for more than 5 min; the longest: pid 7 (app, idle in transaction for 4 min): UPDATE",
        ),
        (
            replace(BUSY, waiting=1, waited=timedelta(seconds=30), blockers=(UPDATE, UPDATE)),
            R.DATABASE_LOCKS_WAITING,
            "1 session waits for locks, the first for 30 s; held up by pid 7 (app, idle in transaction for 4 min): "
            "UPDATE orders SET card = ? and 1 more",
        ),
        (replace(BUSY, waiting=2), R.DATABASE_LOCKS_WAITING, "2 sessions wait for locks"),
        (ClusterState("db", None), R.DATABASE_CLUSTER_NOT_AVAILABLE, "no such database cluster"),
        (
            ClusterState("db", replace(CLUSTER, phase=Phase.FAILING_OVER, status="failing-over", writer=""), ("s-1",)),
            R.DATABASE_CLUSTER_NOT_AVAILABLE,
            "the cluster is failing-over; nobody writes; latest snapshot: s-1",
        ),
        (
            ClusterState("db", replace(CLUSTER, members=(MEMBERS[0], Member("two", healthy=False)))),
            R.DATABASE_CLUSTER_NOT_AVAILABLE,
            "1 of 2 instances not available (two); latest snapshot: none",
        ),
        (CacheGroup("c", "covet-redis", ""), R.CACHE_NOT_AVAILABLE, "no replication group covet-redis"),
        (replace(GROUP, status="modifying"), R.CACHE_NOT_AVAILABLE, "covet-redis is modifying"),
        (
            replace(GROUP, shards=(SHARDS[0], replace(SHARDS[1], primary=""))),
            R.CACHE_NOT_AVAILABLE,
            "node group 0002 has no primary",
        ),
        (
            replace(GROUP, shards=(replace(SHARDS[0], status="deleting"), SHARDS[1])),
            R.CACHE_NOT_AVAILABLE,
            "node group 0001 is deleting",
        ),
        (
            replace(CACHE, used_bytes=95 << 20, max_bytes=100 << 20),
            R.CACHE_MEMORY_FULL,
            "95.0 MiB of 100.0 MiB are used, and noeviction is in force",
        ),
        (
            replace(CACHE, evicting=4, evicted=9),
            R.CACHE_EVICTING,
            "4 keys were evicted while it was looked at, 9 since",
        ),
        (replace(CACHE, clients=90), R.CACHE_CONNECTIONS_EXHAUSTED, "90 of 100 connections are taken"),
        (replace(CACHE, rejecting=1, rejected=6), R.CACHE_CONNECTIONS_EXHAUSTED, "6 were rejected"),
        (replace(CACHE, queues=(QueueDepth("jobs", 11, 10),)), R.QUEUE_DEEP, "11 entries wait in jobs (more than 10)"),
    ],
)
def test_what_is_told(seen: Outside, reason: R, words: str) -> None:
    [(told, message)] = found(seen)
    assert told == reason
    assert words in message


def test_a_cause_comes_before_its_symptoms() -> None:
    held = replace(BUSY, connections=57, long_running=1, waiting=3, longest=(UPDATE,), blockers=(UPDATE,))
    health = Answer("health", "http://web/health", 500)
    ranked = [
        reason for reason, _ in found(replace(CACHE, queues=(QueueDepth("jobs", 9, 1),)), held, answers=(health,))
    ]
    assert ranked == [
        R.DATABASE_LOCKS_WAITING,
        R.LONG_RUNNING_QUERIES,
        R.DATABASE_CONNECTIONS_EXHAUSTED,
        R.QUEUE_DEEP,
        R.HEALTH_CHECK_FAILED,
    ]


def test_foreign_words_are_made_fit_to_be_shown() -> None:
    hostile = Running(7, "\x1b[31mapp", "active", timedelta(0), "SELECT \x1b]0;x\x07 1")
    [(_, message)] = found(replace(BUSY, long_running=1, longest=(hostile,)))
    assert message.isprintable()


def test_the_evidence_holds_the_whole_of_it() -> None:
    row = row_of(replace(BUSY, longest=(UPDATE,)))
    assert (row["seen"], row["connection"], row["long_after"]) == ("DatabaseLoad", "db", "300.0 s")
    assert row["longest"][0]["query"] == "UPDATE orders SET card = ?"
    cluster = row_of(ClusterState("db", CLUSTER, ("s-1",)))
    assert (cluster["database"]["phase"], cluster["snapshots"]) == ("available", ["s-1"])


# -- what the diagnosis of an incident looks at by itself --------------------------------------------------------------

DATABASE = bound("Connection", "covet", "covet-db")
WORKER = bound("Deployment", "covet", "worker")
QUEUE: dict[str, Any] = {"connection": "covet-queue", "key": "jobs", "perReplica": 100, "min": 2, "max": 8}


def test_the_connections_that_the_steps_use() -> None:
    steps = [
        StepStatus(name="a", action="terminateQueries", target=DATABASE, params={"olderThan": "5m"}),
        StepStatus(name="b", action="terminateQueries", target=DATABASE, params={"olderThan": "5m"}),
        StepStatus(name="c", action="scaleByQueue", target=WORKER, params=QUEUE),
        StepStatus(name="d", action="scaleByQueue", target=WORKER, params=QUEUE | {"key": "mails", "min": 0}),
        StepStatus(name="e", action="awaitDatabase", target=DATABASE, params={"verifyConnection": "covet-sql"}),
        StepStatus(name="f", action="blockAddresses", target=bound("Connection", "covet", "covet-alb")),
        StepStatus(name="g", action="restart", target=WORKER),
        StepStatus(name="h", action="scaleByQueue", target=WORKER, params={"connection": "none", "key": 1}),
        StepStatus(name="i", action="diagnose", target=WORKER, params={"connections": [{"name": "covet-cache"}]}),
    ]
    queues = [QueueCheck(key="jobs", max_depth=200), QueueCheck(key="mails", max_depth=100)]
    assert checks_of(steps) == [
        ConnectionCheck(name="covet-db"),
        ConnectionCheck(name="covet-queue", queues=queues),
        ConnectionCheck(name="covet-sql"),
        ConnectionCheck(name="covet-alb"),
        ConnectionCheck(name="covet-cache"),
    ]


def test_an_incident_about_a_database_alone_is_looked_into() -> None:
    one = incident(alert_state=None, target=None)
    one.status.steps = [StepStatus(name="a", action="terminateQueries", target=DATABASE)]
    assert target_of(one) == DATABASE
    one.status.steps.append(StepStatus(name="b", action="restart", target=WORKER))
    assert target_of(one) == WORKER
