"""Databases, caches and queues: whether they serve, and how full they are.

Whoever asks is the incident's namespace: what it may not use is not looked at.
"""

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass

from paramedic.api.diagnosis import ConnectionCheck
from paramedic.clients import postgres_load, redis_load
from paramedic.clients.aurora import Aurora
from paramedic.clients.aws import HURRIED
from paramedic.clients.cloudnativepg import CloudNativePGCluster
from paramedic.clients.connections import Connections
from paramedic.clients.credentials import LoginRefused, NoConnectionLeft
from paramedic.clients.elasticache import read_group
from paramedic.clients.kube import Kube
from paramedic.core.failover import Database, Snapshot
from paramedic.core.outside import ClusterState, Outside, Unavailable
from paramedic.diagnosis.looking import Looks
from paramedic.errors import NotFound, Unreachable

_SNAPSHOTS_SHOWN = 3
_SNAPSHOT_SECONDS = 4.0


@dataclass(frozen=True, slots=True)
class _Look:
    """One look at one connection."""

    connections: Connections
    kube: Kube
    namespace: str
    check: ConnectionCheck
    looks: Looks

    @property
    def name(self) -> str:
        return self.check.name


async def read_connections(
    connections: Connections,
    kube: Kube,
    namespace: str,
    checks: Sequence[ConnectionCheck],
    looks: Looks,
    seconds: float,
) -> tuple[Outside, ...]:
    """All of them at once. A server that does not serve is what is looked for; one whose state cannot be learned is a
    line in ``looks``.
    """
    wanted = [_Look(connections, kube, namespace, check, looks) for check in checks]
    found = await asyncio.gather(*(looks.at(_named(one.name), _look(one), seconds, hint="") for one in wanted))
    return tuple(seen for seen in found if seen is not None)


async def _look(one: _Look) -> Outside | None:
    """None for a type of connection of which there is nothing to see."""
    found = await one.connections.find(one.namespace, one.name)
    look = _BY_TYPE.get(found.type)
    return await look(one) if look else None


async def _postgres(one: _Look) -> Outside:
    database = await one.connections.postgres(one.namespace, one.name)
    try:
        return await postgres_load.read_load(database, one.check.long_query_after)
    except LoginRefused:
        raise  # it serves others
    except Unreachable as error:
        return Unavailable(one.name, "database", str(error), full=isinstance(error, NoConnectionLeft))


async def _redis(one: _Look) -> Outside:
    cache = await one.connections.redis(one.namespace, one.name)

    def missed(why: str) -> None:
        one.looks.missed(_named(one.name), why)

    try:
        return await redis_load.read_load(cache, one.check.queues, missed)
    except LoginRefused:
        raise
    except Unreachable as error:
        return Unavailable(one.name, "cache", str(error), full=isinstance(error, NoConnectionLeft))


async def _aurora(one: _Look) -> Outside:
    cluster = Aurora(await one.connections.aws(one.namespace, one.name, "aurora", patience=HURRIED))

    async def snapshots() -> list[Snapshot] | None:
        return await one.looks.at(f"snapshots of {one.name}", cluster.snapshots(), _SNAPSHOT_SECONDS, hint="")

    database, listed = await asyncio.gather(_known(cluster.look(briefly=True)), snapshots())
    return ClusterState(one.name, database, tuple(map(_told, (listed or [])[:_SNAPSHOTS_SHOWN])))


async def _cloud_native_pg(one: _Look) -> Outside:
    cluster = CloudNativePGCluster(one.kube, await one.connections.cloud_native_pg(one.namespace, one.name))
    database = await _known(cluster.look(briefly=True))
    latest = await cluster.latest_snapshot() if database else ""
    return ClusterState(one.name, database, (latest,) if latest else ())


async def _elasticache(one: _Look) -> Outside:
    return await read_group(await one.connections.aws(one.namespace, one.name, "elasticache", patience=HURRIED))


_BY_TYPE: Mapping[str, Callable[[_Look], Awaitable[Outside]]] = {
    "postgres": _postgres,
    "redis": _redis,
    "aurora": _aurora,
    "cloudNativePG": _cloud_native_pg,
    "elasticache": _elasticache,
}


async def _known(look: Awaitable[Database]) -> Database | None:
    """None for a cluster that does not exist."""
    try:
        return await look
    except NotFound:
        return None


def _told(snapshot: Snapshot) -> str:
    return str(snapshot) if snapshot.is_ready else f"{snapshot} ({snapshot.status})"


def _named(connection: str) -> str:
    return f"connection {connection}"
