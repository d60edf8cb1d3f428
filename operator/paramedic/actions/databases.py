"""What actions share whose connection is a database cluster with a writer and readers."""

from dataclasses import dataclass, replace
from datetime import datetime
from typing import LiteralString, Protocol

from paramedic.actions.base import Clients, Json
from paramedic.actions.outside import connections_of
from paramedic.api.connection import PostgresServer
from paramedic.api.reasons import Reason
from paramedic.clients.aurora import Aurora
from paramedic.clients.cloudnativepg import CloudNativePGCluster
from paramedic.clients.credentials import LoginWrong
from paramedic.clients.postgres import Session
from paramedic.clients.postgres_lag import replica_lags
from paramedic.core.failover import Asked, Database
from paramedic.errors import ParamedicError, Refused, Retry, Terminal

TYPES = ("aurora", "cloudNativePG")
_CONNECT_SECONDS = 5.0
_STATEMENT_SECONDS = 3.0
_MAY_WRITE: LiteralString = "SELECT has_database_privilege(current_database(), 'TEMPORARY') AS may"


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
    """A look at a database cluster; ``under_way``: the request by which it is failing over; ``cannot_verify``: why
    nobody could tell afterwards whether the new writer takes writes.
    """

    database: Database
    snapshot: str = ""
    under_way: Asked | None = None
    cannot_verify: ParamedicError | None = None


async def provider(clients: Clients, namespace: str, name: str) -> Provider:
    """Who runs the cluster behind a connection. Raises Terminal when it is of another type."""
    connections = connections_of(clients)
    found = await connections.find(namespace, name)
    if found.type == "cloudNativePG":
        return CloudNativePGCluster(clients.kube, await connections.cloud_native_pg(namespace, name))
    if found.type == "aurora":
        return Aurora(await connections.aws(namespace, name, "aurora"))
    raise Terminal(Reason.CONNECTION_UNKNOWN, f"connection {name} is of type {found.type}, not {' or '.join(TYPES)}")


def verifying(params: Json) -> tuple[tuple[str, tuple[str, ...]], ...]:
    """The connection that is to tell whether the writer takes writes, if one is named, with the type that will do."""
    name = params.get("verifyConnection")
    return ((str(name), ("postgres",)),) if name else ()


async def verification_problem(clients: Clients, namespace: str, name: str) -> ParamedicError | None:
    """What is wrong with a connection of type postgres itself, so that no writer could be tried through it. That its
    server does not answer, or has trouble of its own, is none: that is what a failover is for.
    """
    connections = connections_of(clients)
    try:
        await connections.check(namespace, name, "postgres")
        server = await connections.postgres(namespace, name)
        async with server.session(_STATEMENT_SECONDS, connect_seconds=_CONNECT_SECONDS, tries=1) as session:
            return await _right_problem(session, name, server.server)
    except (Refused, Terminal, LoginWrong) as error:
        return error
    except Retry:
        return None


async def _right_problem(session: Session, name: str, server: PostgresServer) -> Refused | None:
    try:
        may = (await session.rows(_MAY_WRITE))[0]["may"]
    except ParamedicError:
        return None
    grant = f'GRANT TEMPORARY ON DATABASE "{server.database}" TO "{server.username}"'
    return None if may else Refused(Reason.FORBIDDEN, f"{name}: {server.username} lacks a right: {grant}")


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
