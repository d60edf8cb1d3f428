"""What actions share whose connection is a database cluster with a writer and readers."""

from dataclasses import dataclass, replace
from datetime import datetime
from typing import Protocol

from paramedic.actions.base import Clients
from paramedic.actions.outside import connections_of
from paramedic.api.reasons import Reason
from paramedic.clients.aurora import Aurora
from paramedic.clients.cloudnativepg import CloudNativePGCluster
from paramedic.clients.postgres_lag import replica_lags
from paramedic.core.failover import Asked, Database
from paramedic.errors import ParamedicError, Terminal

TYPES = ("aurora", "cloudNativePG")


class Provider(Protocol):
    """Who runs a database cluster. Its methods raise NotFound, Refused, Retry, Terminal, Unreachable."""

    async def look(self, *, briefly: bool = False) -> Database:
        """The cluster as it is; ``briefly``: without lags and events."""

    async def latest_snapshot(self) -> str:
        """The newest that could be restored, for people; the empty string when there is none."""

    async def ask(self, to: str, database: Database, operation: str, incident: str, now: datetime) -> None:
        """Asks for the failover, once. Raises Conflict when the cluster is not as it was seen, or not ready for it."""


@dataclass(frozen=True, slots=True)
class Seen:
    """A look at a database cluster; ``under_way``: the request by which it is failing over."""

    database: Database
    snapshot: str = ""
    under_way: Asked | None = None


async def provider(clients: Clients, namespace: str, name: str) -> Provider:
    """Who runs the cluster behind a connection. Raises Terminal when it is of another type."""
    connections = connections_of(clients)
    found = await connections.find(namespace, name)
    if found.type == "cloudNativePG":
        return CloudNativePGCluster(clients.kube, await connections.cloud_native_pg(namespace, name))
    if found.type == "aurora":
        return Aurora(await connections.aws(namespace, name, "aurora"))
    raise Terminal(Reason.CONNECTION_UNKNOWN, f"connection {name} is of type {found.type}, not {' or '.join(TYPES)}")


async def with_lags(clients: Clients, namespace: str, name: str, database: Database) -> Database:
    """The cluster with its readers' lags as the writer tells them through a connection of type postgres, which name
    them as the cluster does. Why they cannot be had is said; nothing is raised for it.
    """
    source = f"{name}'s pg_stat_replication"
    try:
        lags = await replica_lags(await connections_of(clients).postgres(namespace, name))
    except ParamedicError as error:
        return replace(database, lag_source=source, lag_problem=f" ({error})")
    members = tuple(replace(one, lag_seconds=lags.get(one.name)) for one in database.members)
    return replace(database, lag_source=source, members=members)
