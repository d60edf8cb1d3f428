"""A replication group in ElastiCache, as AWS describes it."""

from typing import Any

from paramedic.api.connection import ReplicationGroup
from paramedic.clients.aws import Aws
from paramedic.core.outside import CacheGroup, Shard
from paramedic.errors import NotFound

Json = dict[str, Any]


async def read_group(aws: Aws) -> CacheGroup:
    """Its state; without a status where there is none. Raises AwsFault, Refused, Terminal, Unreachable."""
    access = aws.access
    assert isinstance(access, ReplicationGroup)
    name = access.replication_group
    try:
        found = await aws.read("elasticache", "describe_replication_groups", ReplicationGroupId=name)
    except NotFound:
        return CacheGroup(aws.name, name, status="")
    group: Json = found["ReplicationGroups"][0]
    return CacheGroup(
        connection=aws.name,
        group=name,
        status=str(group.get("Status", "")),
        automatic_failover=str(group.get("AutomaticFailover", "")),
        shards=tuple(map(_shard, group.get("NodeGroups") or [])),
    )


def _shard(group: Json) -> Shard:
    members = group.get("NodeGroupMembers") or []
    primaries = [m["CacheClusterId"] for m in members if m.get("CurrentRole") == "primary"]
    return Shard(
        name=str(group.get("NodeGroupId", "")),
        status=str(group.get("Status", "")),
        primary=str(primaries[0]) if primaries else "",
        members=tuple(str(m.get("CacheClusterId", "")) for m in members),
    )
