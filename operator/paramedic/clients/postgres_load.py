"""How busy a PostgreSQL server is, 10 and later: few and light questions, for a server in trouble has no time."""

from datetime import timedelta
from typing import Any, LiteralString

from paramedic.api.reasons import Reason
from paramedic.clients.postgres import APPLICATION_NAME, Postgres, Session
from paramedic.core.outside import DatabaseLoad, Running
from paramedic.core.sqltext import normalized
from paramedic.errors import Refused

_CONNECT_SECONDS = 2.5
_STATEMENT_SECONDS = 1.5
_QUERY_CHARACTERS = 8192
_SHOWN = 5
_WAITING_AFTER = timedelta(seconds=2)
_MOST_WAITING = 20
Row = dict[str, Any]

_USE: LiteralString = """
SELECT count(*) AS connections,
       count(*) FILTER (WHERE state = 'active' AND pid <> pg_backend_pid()) AS active,
       count(*) FILTER (WHERE state LIKE 'idle in transaction%%') AS idle_in_transaction,
       current_setting('max_connections')::int - current_setting('superuser_reserved_connections')::int
         - coalesce(nullif(current_setting('reserved_connections', true), '')::int, 0) AS most,
       session_user AS "user",
       (SELECT rolsuper OR pg_has_role(session_user, 'pg_read_all_stats', 'USAGE') FROM pg_roles
         WHERE rolname = session_user) AS sees_all
FROM pg_stat_activity WHERE backend_type = 'client backend'"""
_SINCE: LiteralString = "CASE WHEN state LIKE 'idle%%' THEN state_change ELSE query_start END"
_RUNNING: LiteralString = f"""pid, coalesce(usename, '') AS "user", coalesce(state, '') AS state,
       clock_timestamp() - {_SINCE} AS age, coalesce(left(query, %(characters)s), '') AS query"""
_THEIRS: LiteralString = """
FROM pg_stat_activity WHERE backend_type = 'client backend' AND datname = current_database()
  AND NOT (application_name = %(own)s AND usename = session_user)"""
_LONGEST: LiteralString = f"""
SELECT {_RUNNING}, count(*) OVER () AS "all" {_THEIRS}
  AND state IN ('active', 'idle in transaction', 'idle in transaction (aborted)', 'fastpath function call')
  AND {_SINCE} < clock_timestamp() - %(after)s
ORDER BY {_SINCE} LIMIT %(shown)s"""
_WAITING: LiteralString = f"""
SELECT clock_timestamp() - query_start AS age, pg_blocking_pids(pid) AS blockers, "all" FROM (
  SELECT pid, query_start, count(*) OVER () AS "all" {_THEIRS}
    AND wait_event_type = 'Lock' AND query_start < clock_timestamp() - %(after)s
  ORDER BY query_start LIMIT %(shown)s) w"""  # noqa: S608 (made of constants)
_BLOCKERS: LiteralString = f"""
SELECT {_RUNNING} {_THEIRS} AND pid = ANY(%(pids)s) AND wait_event_type IS DISTINCT FROM 'Lock'
ORDER BY {_SINCE}"""  # noqa: S608


async def read_load(database: Postgres, long_after: timedelta) -> DatabaseLoad:
    """Connections, long statements and who waits for locks. Raises Refused when the role may not see that, Terminal,
    Unreachable (LoginRefused, NoConnectionLeft).
    """
    async with database.session(_STATEMENT_SECONDS, connect_seconds=_CONNECT_SECONDS, tries=1) as session:
        use = (await session.rows(_USE, {}))[0]
        if not use["sees_all"]:
            user = use["user"]
            raise Refused(
                Reason.FORBIDDEN,
                f'{database.name}: {user} may not see what other sessions do: GRANT pg_read_all_stats TO "{user}"',
            )
        longest = await session.rows(_LONGEST, _parameters(after=long_after, shown=_SHOWN))
        waiting = await session.rows(_WAITING, _parameters(after=_WAITING_AFTER, shown=_MOST_WAITING))
        blockers = await _blockers(session, waiting)
        return DatabaseLoad(
            connection=database.name,
            connections=use["connections"],
            most=use["most"],
            active=use["active"],
            idle_in_transaction=use["idle_in_transaction"],
            long_after=long_after,
            long_running=longest[0]["all"] if longest else 0,
            longest=tuple(map(_running, longest)),
            waiting=waiting[0]["all"] if waiting else 0,
            waited=waiting[0]["age"] if waiting else timedelta(0),
            blockers=blockers,
        )


async def _blockers(session: Session, waiting: list[Row]) -> tuple[Running, ...]:
    """At the root: sessions that others wait for, and that wait for no lock themselves."""
    pids = sorted({pid for row in waiting for pid in row["blockers"]})
    found = await session.rows(_BLOCKERS, _parameters(pids=pids)) if pids else []
    return tuple(map(_running, found[:_SHOWN]))


def _parameters(**more: Any) -> Row:
    return {"characters": _QUERY_CHARACTERS, "own": APPLICATION_NAME} | more


def _running(row: Row) -> Running:
    return Running(row["pid"], row["user"], row["state"], row["age"], normalized(row["query"][:_QUERY_CHARACTERS]))
