"""PostgreSQL's slow-query log, and its statistics of statements (the extension pg_stat_statements)."""

import asyncio
from dataclasses import dataclass
from typing import Any, LiteralString

from paramedic.api.reasons import Reason
from paramedic.clients.postgres import Postgres, Session
from paramedic.core.slowlog import NOT_SET, Setting, Statement
from paramedic.core.sqltext import normalized
from paramedic.errors import Refused, Terminal

PARAMETER = "log_min_duration_statement"
_LOAD_SECONDS = 5.0
_POLL_SECONDS = 0.1
_QUERY_CHARACTERS = 8192
_SETTING: LiteralString = """
SELECT s.setting, s.source, s.sourcefile, session_user AS "user", current_database() AS database,
       me.rolsuper OR pg_has_role(session_user, 'pg_read_all_settings', 'USAGE') AS sees_sources,
       has_table_privilege('pg_file_settings', 'SELECT')
         AND has_function_privilege('pg_show_all_file_settings()', 'EXECUTE') AS sees_files,
       me.rolsuper OR has_function_privilege('pg_reload_conf()', 'EXECUTE') AS reloads
FROM pg_settings s, pg_roles me
WHERE s.name = 'log_min_duration_statement' AND me.rolname = session_user"""
_MAY_ALTER: LiteralString = "SELECT has_parameter_privilege('log_min_duration_statement', 'ALTER SYSTEM') AS may"
_IN_FILE: LiteralString = """
SELECT setting FROM pg_file_settings
WHERE name = 'log_min_duration_statement' AND sourcefile LIKE '%/postgresql.auto.conf' ORDER BY seqno DESC LIMIT 1"""
_EXTENSION: LiteralString = """
SELECT n.nspname AS schema, array_agg(a.attname::text) AS columns
FROM pg_extension e JOIN pg_namespace n ON n.oid = e.extnamespace
  JOIN pg_class c ON c.relnamespace = n.oid AND c.relname = 'pg_stat_statements'
  JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum > 0
WHERE e.extname = 'pg_stat_statements' GROUP BY n.nspname"""
_MAY_RESET: LiteralString = """
SELECT n.nspname AS schema, session_user AS "user", has_function_privilege(p.oid, 'EXECUTE') AS may
FROM pg_extension e JOIN pg_namespace n ON n.oid = e.extnamespace
  JOIN pg_proc p ON p.pronamespace = n.oid AND p.proname = 'pg_stat_statements_reset'
WHERE e.extname = 'pg_stat_statements'"""
_TOP: LiteralString = """
SELECT left(query, {characters}) AS query, calls::int8 AS calls, rows::int8 AS rows,
       {total}::float8 AS total, {mean}::float8 AS mean
FROM {view} WHERE dbid = (SELECT oid FROM pg_database WHERE datname = current_database())
ORDER BY {mean} DESC LIMIT {top}"""


@dataclass(frozen=True, slots=True)
class Statistics:
    """The slowest statements; ``lacking`` says why there are none to be had."""

    statements: tuple[Statement, ...] = ()
    lacking: str = ""


async def read_setting(database: Postgres) -> Setting:
    """The present setting. Raises Refused with the missing right, Terminal, Unreachable."""
    async with database.session() as session:
        row = (await session.rows(_SETTING))[0]
        _require_rights(database.name, row, await _may_alter(session))
        loaded = str(row["setting"]) if str(row["sourcefile"] or "").endswith("/postgresql.auto.conf") else NOT_SET
        in_file = await session.rows(_IN_FILE) if row["sees_files"] else None
        written = loaded if in_file is None else next((str(r["setting"]) for r in in_file), NOT_SET)
        return Setting(
            server=await database.identity(session),
            milliseconds=int(row["setting"]),
            source=str(row["source"]),
            written=written,
            loaded=loaded,
        )


async def write_setting(database: Postgres, value: str) -> None:
    """Writes postgresql.auto.conf (NOT_SET takes the line away) and has the server load it. Harmless to repeat.

    Raises Refused, Terminal, Unreachable (uncertain).
    """
    from psycopg import sql

    parameter = sql.Identifier(PARAMETER)
    statement = sql.SQL("ALTER SYSTEM RESET {}").format(parameter)
    if value != NOT_SET:
        statement = sql.SQL("ALTER SYSTEM SET {} = {}").format(parameter, sql.Literal(value))
    async with database.session() as session:
        await session.change(statement)
        await session.change("SELECT pg_reload_conf()")
    await _loaded(database, value)


async def slowest(database: Postgres, top: int) -> Statistics:
    """The ``top`` statements of this database by their mean time. Raises Unreachable."""
    from psycopg import sql

    async with database.session() as session:
        try:
            found = await session.rows(_EXTENSION)
            if not found:
                return Statistics(
                    lacking=f"the extension pg_stat_statements is not created in {database.server.database}"
                )
            suffix = "exec_time" if "mean_exec_time" in found[0]["columns"] else "time"  # before PostgreSQL 13
            query = sql.SQL(_TOP).format(
                total=sql.Identifier(f"total_{suffix}"),
                mean=sql.Identifier(f"mean_{suffix}"),
                view=sql.Identifier(found[0]["schema"], "pg_stat_statements"),
                top=sql.Literal(top),
                characters=sql.Literal(_QUERY_CHARACTERS),
            )
            return Statistics(tuple(map(_statement, await session.rows(query))))
        except (Refused, Terminal) as error:
            return Statistics(lacking=str(error))


async def require_reset(database: Postgres) -> None:
    """Raises Refused with the right that lacks to forget all statistics of statements, Terminal, Unreachable."""
    async with database.session() as session:
        row = next(iter(await session.rows(_MAY_RESET)), None)
    if row is not None and not row["may"]:
        grant = f'GRANT EXECUTE ON FUNCTION {row["schema"]}.pg_stat_statements_reset TO "{row["user"]}"'
        raise Refused(Reason.FORBIDDEN, f"{database.name}: {row['user']} lacks a right for resetStatistics: {grant}")


async def reset_statistics(database: Postgres) -> None:
    """Forgets all statistics of statements. Raises Refused with the missing right, Terminal, Unreachable."""
    from psycopg import sql

    async with database.session() as session:
        found = await session.rows(_EXTENSION)
        if not found:
            raise Terminal(
                Reason.INVALID_PARAMETERS,
                f"{database.name}: resetStatistics needs the extension pg_stat_statements, which is not there",
            )
        function = sql.Identifier(found[0]["schema"], "pg_stat_statements_reset")
        await session.change(sql.SQL("SELECT {}()").format(function))


async def _may_alter(session: Session) -> bool:
    if session.version >= 150000:
        return bool((await session.rows(_MAY_ALTER))[0]["may"])
    found = await session.rows("SELECT rolsuper AS may FROM pg_roles WHERE rolname = session_user")
    return bool(found[0]["may"])


def _require_rights(name: str, row: dict[str, Any], may_alter: bool) -> None:
    """Raises Refused with all that is missing."""
    user = row["user"]
    wanted = (
        (row["sees_sources"], f'GRANT pg_read_all_settings TO "{user}" (or pg_monitor)'),
        (may_alter, f'GRANT ALTER SYSTEM ON PARAMETER {PARAMETER} TO "{user}" (before PostgreSQL 15: a superuser)'),
        (row["reloads"], f'GRANT EXECUTE ON FUNCTION pg_reload_conf() TO "{user}" (in database {row["database"]})'),
    )
    missing = [grant for there, grant in wanted if not there]
    if missing:
        raise Refused(Reason.FORBIDDEN, f"{name}: {user} lacks rights: {'; '.join(missing)}")


async def _loaded(database: Postgres, value: str) -> None:
    """Waits until the server has loaded its files, which it does a moment after it was told."""
    deadline = asyncio.get_running_loop().time() + _LOAD_SECONDS
    while asyncio.get_running_loop().time() < deadline:
        if (await read_setting(database)).has_loaded(value):
            return
        await asyncio.sleep(_POLL_SECONDS)
    raise Terminal(
        Reason.WORK_FAILED,
        f"{database.name}: {PARAMETER} was written, but the server does not take it; its log says why",
    )


def _statement(row: dict[str, Any]) -> Statement:
    return Statement(
        query=normalized((row["query"] or "")[:_QUERY_CHARACTERS]),
        calls=row["calls"],
        rows=row["rows"],
        total_milliseconds=round(row["total"], 3),
        mean_milliseconds=round(row["mean"], 3),
    )
