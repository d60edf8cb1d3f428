"""What a diagnosis sees of clusters at AWS, before moto's server."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from aws.faults import EXPIRED, THROTTLED, Fault, error, rewritten
from aws.world import NAMESPACE, REGION, Cloud
from builders import NOW
from paramedic.api.diagnosis import ConnectionCheck
from paramedic.clients.aws import HURRIED
from paramedic.core.findings import findings_of
from paramedic.core.outside import CacheGroup, ClusterState, Outside, row_of
from paramedic.core.picture import Picture
from paramedic.diagnosis.connections import read_connections
from paramedic.diagnosis.looking import Looks
from testbed.silent import silent

ENOUGH_SECONDS = 30.0


async def seen(
    cloud: Cloud, name: str, *more: dict[str, Any], seconds: float = ENOUGH_SECONDS
) -> tuple[Outside | None, list[str]]:
    """What is seen of a connection, and what could not be looked at."""
    connections, looks, kube = cloud.connections(None, NAMESPACE, *more), Looks(), None
    try:
        found = await read_connections(
            connections,
            kube,  # type: ignore[arg-type]  # no Secret is looked for
            NAMESPACE,
            [ConnectionCheck(name=name)],
            looks,
            seconds,
        )
    finally:
        connections.close()
    return (found[0] if found else None), looks.failed


def told(one: Outside | None) -> dict[str, str]:
    """The findings' messages by reason."""
    picture = Picture("Deployment/web", NAMESPACE, NOW, outside=() if one is None else (one,))
    return {finding.reason: finding.message for finding in findings_of(picture)}


def snapshot(cloud: Cloud, name: str) -> None:
    cloud.client("rds").create_db_cluster_snapshot(DBClusterIdentifier="covet-aurora", DBClusterSnapshotIdentifier=name)


async def test_a_cluster_that_is_well_and_its_snapshots(cloud: Cloud) -> None:
    cloud.create_cluster()
    for name in ("first", "second", "third", "fourth"):
        snapshot(cloud, name)
    found, failed = await seen(cloud, "covet-db")
    assert isinstance(found, ClusterState)
    assert (told(found), failed) == ({}, [])
    assert found.database is not None
    assert found.database.writer == "covet-1"
    assert len(found.snapshots) == 3
    assert "fourth of 20" in found.snapshots[0]
    assert row_of(found)["database"]["members"][0]["name"] == "covet-1"


async def test_a_cluster_in_trouble_is_told_with_its_latest_snapshot(cloud: Cloud) -> None:
    cloud.create_cluster()
    snapshot(cloud, "before-the-release")
    cloud.faults.on("DescribeDBClusters", rewritten("<Status>available", "<Status>failing-over"))
    status = "<DBInstanceStatus>available"
    cloud.faults.on("DescribeDBInstances", rewritten(f"(?s){status}(.*?)$", r"<DBInstanceStatus>rebooting\1"))
    found, failed = await seen(cloud, "covet-db")
    message = told(found)["DatabaseClusterNotAvailable"]
    assert message.startswith("covet-db: the cluster is failing-over; 1 of 3 instances not available (covet-1)")
    assert "latest snapshot: before-the-release of 20" in message
    assert failed == []


async def test_a_cluster_that_is_gone(cloud: Cloud) -> None:
    found, _ = await seen(cloud, "covet-db")
    assert set(told(found)) == {"DatabaseClusterNotAvailable"}


async def test_without_its_snapshots_the_cluster_is_seen_all_the_same(cloud: Cloud) -> None:
    cloud.create_cluster()
    cloud.faults.on("DescribeDBClusterSnapshots", error("AccessDenied", "not you", 403), times=9)
    found, failed = await seen(cloud, "covet-db")
    assert isinstance(found, ClusterState)
    [line] = failed
    assert line.startswith("could not look: snapshots of covet-db: ")
    assert "lacks rds:DescribeDBClusterSnapshots" in line


async def test_a_replication_group_that_is_well(cloud: Cloud) -> None:
    cloud.create_replication_group()
    found, failed = await seen(cloud, "covet-cache")
    assert isinstance(found, CacheGroup)
    assert (told(found), failed) == ({}, [])
    assert (found.status, found.automatic_failover) == ("available", "enabled")
    [shard] = found.shards
    assert (shard.status, len(shard.members)) == ("available", 2)
    assert shard.primary in shard.members


async def test_a_replication_group_in_trouble(cloud: Cloud) -> None:
    cloud.create_replication_group()
    cloud.faults.on("DescribeReplicationGroups", rewritten("<Status>available</Status>", "<Status>modifying</Status>"))
    found, _ = await seen(cloud, "covet-cache")
    message = told(found)["CacheNotAvailable"]
    assert "replication group covet-redis is modifying" in message
    assert "node group 0001 is modifying" in message


async def test_a_replication_group_that_is_gone(cloud: Cloud) -> None:
    found, failed = await seen(cloud, "covet-cache")
    assert told(found) == {"CacheNotAvailable": "covet-cache: there is no replication group covet-redis"}
    assert failed == []


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        (EXPIRED, "the credentials are expired or wrong"),
        (error("AccessDenied", "not you", 403), "lacks elasticache:DescribeReplicationGroups"),
        (THROTTLED, "Rate exceeded"),
        (Fault(forward=False, status=503, answer=""), "DescribeReplicationGroups"),
    ],
    ids=["expired", "forbidden", "throttled", "cut"],
)
async def test_when_aws_does_not_say_nothing_is_said_of_the_cache(cloud: Cloud, fault: Fault, words: str) -> None:
    cloud.create_replication_group()
    cloud.faults.on("DescribeReplicationGroups", fault, times=9)
    found, failed = await seen(cloud, "covet-cache")
    assert found is None
    [line] = failed
    assert line.startswith("could not look: connection covet-cache: ")
    assert words in line or words == "DescribeReplicationGroups"
    assert cloud.faults.count("DescribeReplicationGroups") <= HURRIED.attempts


async def test_one_throttled_answer_is_asked_for_again(cloud: Cloud) -> None:
    cloud.create_replication_group()
    cloud.faults.on("DescribeReplicationGroups", THROTTLED)
    found, failed = await seen(cloud, "covet-cache")
    assert isinstance(found, CacheGroup)
    assert failed == []


async def test_an_aws_that_says_nothing_holds_nobody_up(cloud: Cloud) -> None:
    """Neither the diagnosis nor, with its threads, an action on the same cluster."""
    async with silent() as url:
        access = {"region": REGION, "endpointURL": url, "replicationGroup": "covet-redis"}
        mute = {"name": "mute", "namespaces": [NAMESPACE], "elasticache": access}
        found, failed = await asyncio.wait_for(seen(cloud, "mute", mute, seconds=1.0), ENOUGH_SECONDS)
    assert found is None
    assert failed == ["could not look: connection mute: no answer within 1 s"]


async def test_a_connection_with_nothing_to_see_is_passed_over(cloud: Cloud) -> None:
    assert await seen(cloud, "covet-account") == (None, [])
