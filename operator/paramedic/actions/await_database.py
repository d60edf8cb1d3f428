"""``awaitDatabase``: waits until a database cluster has its writer, and the writer takes writes.

The part of a failover that takes long. It only reads (but for a table that is gone with its session), so that it may be
begun again at any time.
"""

import asyncio
from dataclasses import dataclass
from typing import ClassVar

from pydantic import Field

from paramedic.actions.base import Action, Change, Clients, Json, Observed, Outcome, Report, State
from paramedic.actions.databases import TYPES, Seen, provider, verifying
from paramedic.actions.outside import CONNECTION, as_target, connections_of
from paramedic.api.base import Model, ObjectName
from paramedic.api.diagnosis import ConnectionCheck
from paramedic.api.reasons import Reason
from paramedic.api.workload import BoundTarget
from paramedic.core.failover import Database, Phase
from paramedic.errors import Refused, Retry, Terminal

_MARGIN_SECONDS = 2.0


class AwaitDatabaseParams(Model):
    """What is waited for."""

    writer: str | None = Field(
        None,
        max_length=63,
        pattern=r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?$",
        description="Instance that is to be the writer; default: whoever writes.",
    )
    verify_connection: ObjectName | None = Field(
        None, description="Connection of type postgres, through which a temporary table must be writable."
    )


@dataclass(frozen=True, slots=True)
class _Work:
    namespace: str
    connection: str
    params: AwaitDatabaseParams


class AwaitDatabase(Action):
    """Looks again and again, and says what is lacking."""

    name = "awaitDatabase"
    summary = "Waits until a database cluster has its writer and, through a connection, until that takes writes."
    params = AwaitDatabaseParams
    kinds = CONNECTION
    connection_types = TYPES
    undoable = False
    slow = True
    every_seconds: ClassVar[float] = 2.0

    def connections_used(self, params: Json, target: str | None) -> tuple[tuple[str, tuple[str, ...]], ...]:
        """The cluster's, and the one through which the writer is tried."""
        return *super().connections_used(params, target), *verifying(params)

    def connection_checks(self, params: Json, target: str | None) -> tuple[ConnectionCheck, ...]:
        """The cluster, and the database through which the writer is tried."""
        given = AwaitDatabaseParams.model_validate(params)
        named = (target, given.verify_connection)
        return tuple(ConnectionCheck(name=name) for name in named if name)

    async def observe(self, target: BoundTarget, clients: Clients) -> Observed:
        """Reads the cluster."""
        database = await (await provider(clients, target.namespace, target.name)).look(briefly=True)
        return Observed(as_target(target, database.identity), seen=Seen(database))

    def state(self, observed: Observed) -> State:
        """Nothing is changed."""
        return {}

    def plan(self, observed: Observed, params: AwaitDatabaseParams, operation: str) -> Change:
        """What is waited for."""
        namespace = str(observed.target["metadata"]["namespace"])
        who = params.writer or "a writer"
        through = f" that takes writes through {params.verify_connection}" if params.verify_connection else ""
        message = f"{observed.name}: waiting for {who}{through}"
        return Change({}, {}, (), None, message, work=_Work(namespace, observed.name, params))

    def restore(self, observed: Observed, before: State, operation: str) -> Change:
        """There is nothing to undo."""
        raise Refused(Reason.NOT_PUT_BACK, "waiting needs no undo")

    async def apply(self, change: Change, clients: Clients) -> Report:
        """Looks until all is there. Raises Terminal (TimedOut) with what was lacking last."""
        work: _Work = change.work
        end = asyncio.get_running_loop().time() + max(0.0, change.seconds - _MARGIN_SECONDS)
        while True:
            lacking, database = await self._look(work, clients)
            if not lacking and database:
                return _report(work, database)
            if asyncio.get_running_loop().time() >= end:
                raise Terminal(Reason.TIMED_OUT, f"{work.connection}: not within {change.seconds:.0f} s: {lacking}")
            change.tell(f"{work.connection}: {lacking}")
            await asyncio.sleep(self.every_seconds)

    def settled(self, observed: Observed, before: State, after: State, operation: str) -> Outcome:
        """It leaves no trace, and may always be done again."""
        return Outcome.NOT_APPLIED

    async def _look(self, work: _Work, clients: Clients) -> tuple[str, Database | None]:
        """What is lacking, and the cluster as it was seen."""
        try:
            database = await (await provider(clients, work.namespace, work.connection)).look(briefly=True)
        except Retry as error:
            return f"cannot be looked at: {error}", None
        lacking = _lacking(database, work.params.writer)
        if not lacking and work.params.verify_connection:
            lacking = await _not_writable(clients, work.namespace, work.params.verify_connection)
        return lacking, database


def _lacking(database: Database, wanted: str | None) -> str:
    """What the cluster lacks; the empty string when it has its writer."""
    if wanted and database.writer != wanted:
        return f"{database.status}, the writer is {database.writer or 'nobody'}, not yet {wanted}"
    if database.phase is not Phase.AVAILABLE or not database.writer:
        return f"{database.status}, the writer is {database.writer or 'nobody'}"
    return ""


async def _not_writable(clients: Clients, namespace: str, connection: str) -> str:
    """Why the server behind the connection takes no writes; the empty string when it does. Raises Terminal."""
    server = await connections_of(clients).postgres(namespace, connection)
    try:
        async with server.session() as session:
            if (await session.rows("SELECT pg_is_in_recovery() AS waiting"))[0]["waiting"]:
                return f"{connection} still leads to a server that is in recovery"
            await session.change("CREATE TEMPORARY TABLE paramedic_takes_writes (at timestamptz)")
            await session.change("INSERT INTO pg_temp.paramedic_takes_writes VALUES (now())")
    except (Retry, Refused) as error:
        return f"{connection} takes no writes: {error}"
    return ""


def _report(work: _Work, database: Database) -> Report:
    member = database.member(database.writer)
    endpoint = (member.endpoint if member else "") or database.endpoint
    through = f", and {work.params.verify_connection} takes writes" if work.params.verify_connection else ""
    result = {
        "writer": database.writer,
        "endpoint": endpoint,
        "clusterEndpoint": database.endpoint,
        "port": database.port,
    }
    return Report(f"{work.connection}: {database.writer} writes at {endpoint}{through}", result)
