"""A PostgreSQL database through psycopg (the extra ``paramedic[postgres]``).

Sessions are short: one for each look or act, two at once at the most, for a database in trouble has none to spare. Each
has a time limit for every statement, and sees nothing but the catalogue unless it says so.
"""

import asyncio
import hashlib
import os
import ssl
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, LiteralString

import certifi

from paramedic.api.connection import PostgresServer
from paramedic.api.reasons import Reason
from paramedic.clients.credentials import LoginRefused, LoginWrong, NoConnectionLeft, Way
from paramedic.clients.extras import require
from paramedic.clients.rds_token import rds_token
from paramedic.errors import ParamedicError, Refused, Terminal, Unreachable

if TYPE_CHECKING:
    from psycopg import AsyncConnection
    from psycopg.sql import Composable

APPLICATION_NAME = "paramedic"
Row = dict[str, Any]
Parameters = Mapping[str, Any]
_CONNECT_SECONDS = 5
_STATEMENT_SECONDS = 10.0
_ANSWER_GRACE_SECONDS = 2.0
_TRIES, _PAUSE_SECONDS = 3, 1.0
# The last one is PgBouncer's.
_NONE_LEFT = (
    "too many clients",
    "too many connections",
    "connection slots are reserved",
    "no more connections allowed",
)
_NOT_SERVING = ("the database system is", "not accepting connections")
# Not "authentication failed" alone: RDS says "PAM authentication failed" also when AWS IAM does not follow.
_WRONG_LOGIN = (
    "password authentication failed",
    "SASL authentication failed",
    "no pg_hba.conf entry",
    "not permitted to log in",
    "permission denied for database",
    '" does not exist',
)
_SQLSTATES_OF_LACKING_RIGHTS = ("42501", "25006")
_MOST_CHARACTERS = 400


class Session:
    """One session in autocommit mode. Its methods raise Refused (a missing right), Terminal, Unreachable."""

    def __init__(self, name: str, connection: "AsyncConnection[Row]", seconds: float) -> None:
        self._name = name
        self._connection = connection
        self._seconds = seconds

    @property
    def version(self) -> int:
        """The server's, for example 150004."""
        return self._connection.info.server_version

    @property
    def pid(self) -> int:
        """Of the session's own backend."""
        return self._connection.info.backend_pid

    async def rows(self, query: "LiteralString | Composable", parameters: Parameters | None = None) -> list[Row]:
        """What a query returns, rows as dictionaries."""
        return await self._run(query, parameters, uncertain=False)

    async def change(self, query: "LiteralString | Composable", parameters: Parameters | None = None) -> list[Row]:
        """As ``rows``, for a statement that changes something: Unreachable is uncertain when it may have been done."""
        return await self._run(query, parameters, uncertain=True)

    async def _run(self, query: Any, parameters: Parameters | None, *, uncertain: bool) -> list[Row]:
        import psycopg

        try:
            async with asyncio.timeout(self._seconds + _ANSWER_GRACE_SECONDS):
                cursor = await self._connection.execute(query, parameters)
                return await cursor.fetchall() if cursor.description else []
        except psycopg.Error as error:
            raise _translated(self._name, error, self._seconds, uncertain=uncertain) from error
        except TimeoutError as error:
            raise Unreachable(
                f"{self._name}: no answer within {self._seconds + _ANSWER_GRACE_SECONDS:g} s", uncertain=uncertain
            ) from error


@dataclass(frozen=True, slots=True)
class Login:
    """What one login takes besides the settings: where to, and what is shown and trusted there."""

    where: dict[str, str]
    password: str | None = field(repr=False)
    ca: str | None = field(repr=False)


class Postgres:
    """One database; ``name`` is the connection's."""

    def __init__(self, name: str, server: PostgresServer, way: Way) -> None:
        require("postgres")
        self.name = name
        self.server = server
        self._way = way

    @asynccontextmanager
    async def session(
        self,
        statement_seconds: float = _STATEMENT_SECONDS,
        *,
        connect_seconds: float = _CONNECT_SECONDS * 2,
        tries: int = _TRIES,
    ) -> AsyncIterator[Session]:
        """A session, closed at the end. Raises Unreachable when there is none to be had (LoginRefused or
        NoConnectionLeft when the server says so), Terminal. A server that is just starting, or a connection that is
        cut, is tried again.
        """
        async with self._way.turn:
            connection = await self._connect(statement_seconds, connect_seconds, tries)
            try:
                yield Session(self.name, connection, statement_seconds)
            finally:
                with suppress(Exception, asyncio.CancelledError):
                    await asyncio.shield(connection.close())

    async def login(self) -> Login:
        """For another program than this one, as of now. Raises Unreachable, Terminal."""
        return Login(await self._where(), await self._password(), self._way.credentials.ca())

    async def identity(self, session: Session) -> str:
        """What tells this server (and its standbys) from one that takes its place: PostgreSQL's system identifier, or
        its address where that may not be read. Raises Unreachable.
        """
        try:
            return str((await session.rows("SELECT system_identifier AS id FROM pg_control_system()"))[0]["id"])
        except (Refused, Terminal):
            return hashlib.sha256(f"{self.server.host}:{self.server.port}".encode()).hexdigest()[:32]

    async def _connect(self, statement_seconds: float, connect_seconds: float, tries: int) -> "AsyncConnection[Row]":
        import psycopg
        from psycopg.rows import dict_row

        where = await self._where()
        for attempt in range(1, tries + 1):
            with self._way.credentials.ca_path() as ca:
                options = _options(self.server, await self._password(), ca, statement_seconds) | where
                try:
                    async with asyncio.timeout(connect_seconds):
                        return await psycopg.AsyncConnection.connect(**options, autocommit=True, row_factory=dict_row)
                except (psycopg.Error, TimeoutError) as error:
                    failure = _connect_failure(self.name, error, options.get("password"), connect_seconds)
            if attempt == tries or "FATAL" in str(failure):
                break
            await asyncio.sleep(_PAUSE_SECONDS)
        raise failure

    async def _password(self) -> str | None:
        region = self._way.credentials.iam_region
        return self._way.credentials.password() if region is None else await rds_token(region, self.server)

    async def _where(self) -> dict[str, str]:
        found = await self._way.addresses(self.server.host, self.server.port)
        return {"host": ",".join([self.server.host] * len(found)), "hostaddr": ",".join(found)}


def libpq_options(server: PostgresServer, ca: str | None) -> dict[str, Any]:
    """What libpq is told about the server, whoever uses it; ``ca`` is a file's path. None: not set."""
    verified = server.sslmode in ("verify-ca", "verify-full")
    return {
        "port": server.port,
        "dbname": server.database,
        "user": server.username,
        "sslmode": server.sslmode,
        "sslrootcert": (ca or ssl.get_default_verify_paths().cafile or certifi.where()) if verified else os.devnull,
        "sslcertmode": "disable",
        "gssencmode": "disable",
        # In clear text only to a server that has shown who it is.
        "require_auth": None if verified else "scram-sha-256,md5,none",
        "connect_timeout": _CONNECT_SECONDS,
        "application_name": APPLICATION_NAME,
    }


def _options(server: PostgresServer, password: str | None, ca: str | None, statement_seconds: float) -> dict[str, Any]:
    """What libpq is told for a session; all that it would take from the environment or from files otherwise is set."""
    milliseconds = int(statement_seconds * 1000)
    return libpq_options(server, ca) | {
        "password": password,
        "passfile": os.devnull,
        "tcp_user_timeout": milliseconds,
        "client_encoding": "UTF8",
        "options": f"-c statement_timeout={milliseconds} -c lock_timeout={milliseconds} "
        f"-c idle_in_transaction_session_timeout={milliseconds} -c search_path=pg_catalog",
    }


def _connect_failure(name: str, error: Exception, password: str | None, seconds: float) -> Unreachable:
    """By the server's words: libpq does not tell the SQLSTATE of a failed connection."""
    text = " ".join(str(error).split()) or f"no answer within {seconds:g} s"
    told = f"{name}: {_without(text, password)[:_MOST_CHARACTERS]}"
    if any(words in text for words in _NONE_LEFT):
        return NoConnectionLeft(told)
    if "FATAL" in text and not any(words in text for words in _NOT_SERVING):
        return LoginWrong(told) if any(words in text for words in _WRONG_LOGIN) else LoginRefused(told)
    return Unreachable(told)


def _without(text: str, password: str | None) -> str:
    return text.replace(password, "***") if password else text


def _translated(name: str, error: Any, seconds: float, *, uncertain: bool) -> ParamedicError:
    """What a failed statement means. Only the primary message is told: others may quote data."""
    import psycopg

    state = error.sqlstate or ""
    told = (error.diag.message_primary or str(error).partition("\n")[0])[:_MOST_CHARACTERS]
    if state in _SQLSTATES_OF_LACKING_RIGHTS:
        return Refused(Reason.FORBIDDEN, f"{name}: {told}")
    if state == "57014":
        return Unreachable(f"{name}: a statement took longer than {seconds:g} s", uncertain=uncertain)
    if isinstance(error, psycopg.OperationalError):  # the session was ended, or the connection is lost
        return Unreachable(f"{name}: {told}", uncertain=uncertain)
    return Terminal(Reason.REJECTED, f"{name}: {told} ({state or 'no SQLSTATE'})")
