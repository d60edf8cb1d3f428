"""The sessions of a PostgreSQL server, 10 and later: seen through pg_stat_activity, ended by their identity."""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, LiteralString

from paramedic.api.reasons import Reason
from paramedic.clients.postgres import APPLICATION_NAME, Postgres
from paramedic.clients.postgres import Session as Connected
from paramedic.core.sessions import IDLE, Identity, Session
from paramedic.errors import Refused

_POLL_SECONDS = 0.2
_END_SECONDS = 5.0
_QUERY_CHARACTERS = 8192
Row = dict[str, Any]

# A statement is the same one as long as this stays the same.
_SINCE: LiteralString = "CASE WHEN a.state LIKE 'idle%%' THEN a.state_change ELSE a.query_start END"
# Locks that no query or change of rows takes, but DDL and maintenance do. Those on temporary tables do not count, where
# they can be told apart: not in other databases, nor before their creation is committed.
_DDL_LOCKS: LiteralString = """EXISTS (
    SELECT FROM pg_locks l LEFT JOIN pg_class c
      ON c.oid = l.relation AND l.database = (SELECT oid FROM pg_database WHERE datname = current_database())
    WHERE l.pid = a.pid AND l.locktype = 'relation' AND c.relpersistence IS DISTINCT FROM 't'
      AND l.mode IN ('ShareUpdateExclusiveLock', 'ShareLock', 'ShareRowExclusiveLock', 'AccessExclusiveLock'))"""
_SESSIONS: LiteralString = f"""
SELECT a.pid, a.backend_start, {_SINCE} AS since, clock_timestamp() - {_SINCE} AS age,
       a.backend_type, a.usename AS "user", a.datname AS database, a.application_name AS application, a.state,
       a.wait_event_type, a.wait_event,
       CASE WHEN a.state <> 'idle' THEN left(a.query, %(characters)s) END AS query,
       a.pid = pg_backend_pid() OR (a.application_name = %(own)s AND a.usename = session_user) AS own,
       {_DDL_LOCKS} AS holds_ddl_locks,
       NOT me.rolsuper AND coalesce(r.rolsuper, false) AS out_of_reach,
       NOT (me.rolsuper OR pg_has_role(session_user, 'pg_signal_backend', 'USAGE')
         OR coalesce(pg_has_role(session_user, a.usesysid, 'USAGE'), false)) AS needs_right
FROM pg_stat_activity a
  LEFT JOIN pg_roles r ON r.oid = a.usesysid
  JOIN pg_roles me ON me.rolname = session_user
WHERE a.backend_start IS NOT NULL AND a.state IS NOT NULL AND {_SINCE} IS NOT NULL"""  # noqa: S608 (made of constants)
_SERVER: LiteralString = """
SELECT (SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'client backend') AS connections,
       current_setting('max_connections')::int AS max_connections,
       current_database() AS database, session_user AS "user",
       me.rolsuper OR pg_has_role(session_user, 'pg_read_all_stats', 'USAGE') AS sees_all
FROM pg_roles me WHERE me.rolname = session_user"""
# Identity and signal in one statement: what is signalled is what was meant, or nothing.
_SAME: LiteralString = f"""
FROM unnest(%(pids)s::int4[], %(starts)s::timestamptz[], %(since)s::timestamptz[]) AS v(pid, backend_start, since)
  JOIN pg_stat_activity a ON a.pid = v.pid AND a.backend_start = v.backend_start AND {_SINCE} = v.since
WHERE a.backend_type = 'client backend' AND a.pid <> pg_backend_pid()"""
_SIGNALS: dict[str, LiteralString] = {
    "cancel": f"SELECT a.pid, pg_cancel_backend(a.pid) {_SAME} AND (%(ddl)s OR NOT {_DDL_LOCKS})",
    "terminate": f"SELECT a.pid, pg_terminate_backend(a.pid) {_SAME} AND (%(ddl)s OR NOT {_DDL_LOCKS})",
}
_LEFT: LiteralString = f"SELECT a.pid {_SAME}"


@dataclass(frozen=True, slots=True)
class Activity:
    """What a server is busy with. ``server`` identifies it, and its standbys."""

    server: str
    database: str
    user: str
    connections: int
    max_connections: int
    sessions: tuple[Session, ...]


@dataclass(frozen=True, slots=True)
class Ended:
    """How many were cancelled and how many had to be terminated; the pids that are still there."""

    cancelled: int
    terminated: int
    left: tuple[int, ...]


async def look(database: Postgres) -> Activity:
    """All sessions. Raises Refused when the role may not see them, Terminal, Unreachable."""
    async with database.session() as session:
        server = (await session.rows(_SERVER))[0]
        if not server["sees_all"]:
            user = server["user"]
            raise Refused(
                Reason.FORBIDDEN,
                f'{database.name}: {user} may not see what other sessions do: GRANT pg_read_all_stats TO "{user}" '
                "(or pg_monitor, which holds it)",
            )
        found = await session.rows(_SESSIONS, {"characters": _QUERY_CHARACTERS, "own": APPLICATION_NAME})
        return Activity(
            server=await database.identity(session),
            database=server["database"],
            user=server["user"],
            connections=server["connections"],
            max_connections=server["max_connections"],
            sessions=tuple(map(_session, found)),
        )


async def end(database: Postgres, victims: Sequence[Identity], grace: timedelta, *, include_ddl: bool) -> Ended:
    """Cancels the statements, and terminates the sessions in which they go on after ``grace``. One that is idle has no
    statement to cancel. Raises Refused, Terminal, Unreachable (uncertain: look which are left).
    """
    active = [v for v in victims if v.state not in IDLE]
    idle = [v for v in victims if v.state in IDLE]
    async with database.session() as session:
        cancelled = await _signal(session, "cancel", active, include_ddl=include_ddl) if active else set()
        terminated = await _signal(session, "terminate", idle, include_ddl=include_ddl) if idle else set()
        stubborn = await _left_after(session, active, grace.total_seconds()) if active else set()
        if stubborn:
            terminated |= await _signal(
                session, "terminate", [v for v in active if v.pid in stubborn], include_ddl=include_ddl
            )
        left = await _left_after(session, victims, _END_SECONDS)
    return Ended(len(cancelled - terminated), len(terminated), tuple(sorted(left)))


async def _signal(session: Connected, how: str, victims: Sequence[Identity], *, include_ddl: bool) -> set[int]:
    rows = await session.change(_SIGNALS[how], _arrays(victims) | {"ddl": include_ddl})
    return {row["pid"] for row in rows}


async def _left_after(session: Connected, victims: Sequence[Identity], seconds: float) -> set[int]:
    """Which are still at it, after so long at most."""
    deadline = asyncio.get_running_loop().time() + seconds
    while True:
        left = {row["pid"] for row in await session.rows(_LEFT, _arrays(victims))}
        if not left or asyncio.get_running_loop().time() >= deadline:
            return left
        await asyncio.sleep(_POLL_SECONDS)


def _arrays(victims: Sequence[Identity]) -> Row:
    return {
        "pids": [v.pid for v in victims],
        "starts": [v.backend_start for v in victims],
        "since": [v.since for v in victims],
    }


def _session(row: Row) -> Session:
    """What the role may not read, and what background processes have not, is null."""
    filled: dict[str, Any] = {name: "" if value is None else value for name, value in row.items()}
    return Session(**filled | {"query": filled["query"][:_QUERY_CHARACTERS]})
