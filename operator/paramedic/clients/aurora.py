"""An Aurora cluster in RDS: who writes, who could, how far behind they are, and the request to fail over.

The request takes no client token. So the cluster is tagged first, with the operation and where it is to go: a cluster
without the tag has not been asked, and one with it is never asked again without a look.
"""

import asyncio
from datetime import UTC, datetime, timedelta
from typing import Any
from weakref import WeakValueDictionary

from paramedic.api import ANNOTATION_INCIDENT, ANNOTATION_OPERATION
from paramedic.api.base import format_time, parse_time
from paramedic.api.connection import AuroraCluster
from paramedic.clients.aws import Aws, AwsFault
from paramedic.core.failover import Asked, Database, Member, Phase, Snapshot
from paramedic.errors import Conflict, Refused, Terminal

Json = dict[str, Any]
_TAG_TO = "paramedic.dev/failover-to"
_TAG_AT = "paramedic.dev/failover-at"
_LAG_WINDOW = timedelta(minutes=5)
_LAG_PERIOD_SECONDS = 60
_EVENTS_WINDOW_MINUTES = 24 * 60
_FAILOVER_CATEGORY = "failover"
_NOT_NOW = frozenset({"InvalidDBClusterStateFault", "InvalidDBClusterState"})
_asking: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()  # by cluster: whoever's connection it is
_not_taken: dict[str, Asked] = {}
"""By cluster: the stamp that this process has written for a request that AWS has refused since. It stands for nothing;
one of the same operation that another process has written does.
"""


class Aurora:
    """One cluster. Its methods raise NotFound, AwsFault, Refused, Terminal, Unreachable."""

    def __init__(self, aws: Aws) -> None:
        assert isinstance(aws.access, AuroraCluster)
        self._aws = aws
        self._name = aws.access.cluster

    async def look(self, *, briefly: bool = False) -> Database:
        """The cluster as it is, with the lag of its readers and the failovers of the last day."""
        cluster = await self._cluster()
        where = [{"Name": "db-cluster-id", "Values": [self._name]}]
        instances = {
            one["DBInstanceIdentifier"]: one
            for one in await self._aws.items("rds", "describe_db_instances", "DBInstances", Filters=where)
        }
        members = cluster.get("DBClusterMembers") or []
        readers = [m["DBInstanceIdentifier"] for m in members if not m["IsClusterWriter"]]
        lags = {} if briefly else await self._lags(readers)
        return Database(
            identity=str(cluster.get("DbClusterResourceId") or cluster["DBClusterArn"]),
            phase=_phase(cluster["Status"]),
            status=str(cluster["Status"]),
            writer=_writer(cluster),
            members=tuple(
                _member(m["DBInstanceIdentifier"], instances.get(m["DBInstanceIdentifier"], {}), lags) for m in members
            ),
            endpoint=str(cluster.get("Endpoint") or ""),
            port=int(cluster.get("Port") or 5432),
            asked=_asked(cluster),
            failovers=() if briefly else tuple(await self._failovers()),
            lag_source="CloudWatch's AuroraReplicaLag",
        )

    async def latest_snapshot(self) -> str:
        """The newest snapshot that could be restored, for people; the empty string when there is none."""
        ready = (str(one) for one in await self.snapshots() if one.is_ready)
        return next(ready, "")

    async def snapshots(self) -> list[Snapshot]:
        """All snapshots, the newest first."""
        found = await self._aws.items(
            "rds", "describe_db_cluster_snapshots", "DBClusterSnapshots", DBClusterIdentifier=self._name
        )
        listed = [
            Snapshot(str(one["DBClusterSnapshotIdentifier"]), str(one.get("Status", "")), one["SnapshotCreateTime"])
            for one in found
            if one.get("SnapshotCreateTime")
        ]
        return sorted(listed, key=lambda one: one.at, reverse=True)

    async def ask(self, to: str, database: Database, operation: str, incident: str, now: datetime) -> None:
        """Asks for the failover, once. Raises Conflict when the cluster is not as it was seen (another failover was
        asked for, too), or in no state for it (it fails over already); Unreachable is uncertain when it may have been
        taken.
        """
        async with _asking.setdefault(database.identity, asyncio.Lock()):
            cluster = await self._cluster()
            _require_as_seen(self._name, cluster, database, _not_taken.pop(database.identity, None))
            tags = {
                ANNOTATION_OPERATION: operation,
                ANNOTATION_INCIDENT: incident,
                _TAG_TO: to,
                _TAG_AT: format_time(now),
            }
            await self._aws.write(
                "rds",
                "add_tags_to_resource",
                idempotent=True,
                ResourceName=cluster["DBClusterArn"],
                Tags=[{"Key": key, "Value": value} for key, value in tags.items()],
            )
            try:
                await self._fail_over(to)
            except (Refused, Terminal):
                _not_taken[database.identity] = Asked(operation, to, parse_time(tags[_TAG_AT]), incident)
                raise

    async def _fail_over(self, to: str) -> None:
        try:
            await self._aws.write(
                "rds", "failover_db_cluster", DBClusterIdentifier=self._name, TargetDBInstanceIdentifier=to
            )
        except AwsFault as fault:
            if fault.code in _NOT_NOW:
                raise Conflict(str(fault)) from fault
            raise

    async def _cluster(self) -> Json:
        found = await self._aws.read("rds", "describe_db_clusters", DBClusterIdentifier=self._name)
        cluster: Json = found["DBClusters"][0]
        return cluster

    async def _lags(self, readers: list[str]) -> dict[str, float]:
        """Seconds behind the writer, by the newest minute of the last five; those that are not told are left out."""
        if not readers:
            return {}
        now = datetime.now(UTC)
        queries = [
            {
                "Id": f"lag{number}",
                "MetricStat": {
                    "Metric": {
                        "Namespace": "AWS/RDS",
                        "MetricName": "AuroraReplicaLag",
                        "Dimensions": [{"Name": "DBInstanceIdentifier", "Value": name}],
                    },
                    "Period": _LAG_PERIOD_SECONDS,
                    "Stat": "Maximum",
                },
            }
            for number, name in enumerate(readers)
        ]
        found = await self._aws.read(
            "cloudwatch",
            "get_metric_data",
            MetricDataQueries=queries,
            StartTime=now - _LAG_WINDOW,
            EndTime=now + timedelta(seconds=_LAG_PERIOD_SECONDS),
            ScanBy="TimestampDescending",
        )
        values = {one["Id"]: one["Values"] for one in found["MetricDataResults"]}
        named = {name: values.get(f"lag{number}") or [] for number, name in enumerate(readers)}
        return {name: known[0] / 1000 for name, known in named.items() if known}

    async def _failovers(self) -> list[tuple[datetime, str]]:
        """What RDS tells of failovers. It may leave something out: so that nothing is told proves little by itself."""
        events = await self._aws.items(
            "rds",
            "describe_events",
            "Events",
            SourceType="db-cluster",
            SourceIdentifier=self._name,
            Duration=_EVENTS_WINDOW_MINUTES,
        )
        return [
            (parse_time(one["Date"]), str(one.get("Message", "")))
            for one in events
            if _FAILOVER_CATEGORY in (one.get("EventCategories") or [])
        ]


def _writer(cluster: Json) -> str:
    members = cluster.get("DBClusterMembers") or []
    return next((str(m["DBInstanceIdentifier"]) for m in members if m["IsClusterWriter"]), "")


def _phase(status: str) -> Phase:
    if status == "available":
        return Phase.AVAILABLE
    return Phase.FAILING_OVER if status == "failing-over" else Phase.OTHER


def _member(name: str, instance: Json, lags: dict[str, float]) -> Member:
    endpoint = (instance.get("Endpoint") or {}).get("Address") or ""
    return Member(name, instance.get("DBInstanceStatus", "unknown") == "available", str(endpoint), lags.get(name))


def _asked(cluster: Json) -> Asked | None:
    tags = {tag["Key"]: str(tag["Value"]) for tag in cluster.get("TagList") or []}
    try:
        at = parse_time(tags[_TAG_AT])
    except (KeyError, ValueError):
        return None
    return Asked(tags.get(ANNOTATION_OPERATION, ""), tags.get(_TAG_TO, ""), at, tags.get(ANNOTATION_INCIDENT, ""))


def _require_as_seen(name: str, cluster: Json, database: Database, not_taken: Asked | None) -> None:
    """Raises Conflict: the stamp of a request that came before must not be written over, but for one of our own that
    was ``not_taken``.
    """
    if _writer(cluster) != database.writer:
        raise Conflict(f"{name}: the writer is {_writer(cluster)} now, not {database.writer}")
    if _asked(cluster) not in (database.asked, not_taken or database.asked):
        raise Conflict(f"{name}: another failover has been asked for meanwhile")
    if _phase(cluster["Status"]) is not Phase.AVAILABLE:
        raise Conflict(f"{name} is {cluster['Status']} now")
