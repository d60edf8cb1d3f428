"""A PostgreSQL database through psycopg (the extra ``paramedic[postgres]``).

Sessions are short: one for each look or act, two at once at the most, for a database in trouble has none to spare. Each
has a time limit for every statement, and sees nothing but the catalogue unless it says so.
"""

import asyncio
import hashlib
import os
import ssl
import time
from collections.abc import AsyncIterator, Generator, Mapping
from contextlib import aclosing, asynccontextmanager, suppress
from dataclasses import dataclass, field
from functools import cache
from typing import TYPE_CHECKING, Any, LiteralString

import certifi

from paramedic.api.connection import PostgresServer
from paramedic.api.reasons import Reason
from paramedic.clients.answers import sensible
from paramedic.clients.credentials import LoginRefused, LoginWrong, NoConnectionLeft, Way
from paramedic.clients.extras import require
from paramedic.clients.postgres_relay import Relay
from paramedic.clients.rds_token import rds_token
from paramedic.errors import ParamedicError, Refused, Terminal, Unreachable

if TYPE_CHECKING:
    from psycopg.sql import Composable

APPLICATION_NAME = "paramedic"
Row = dict[str, Any]
Parameters = Mapping[str, Any]
_CONNECT_SECONDS = 5
_STATEMENT_SECONDS = 10.0
_ANSWER_GRACE_SECONDS = 2.0
_TRIES, _PAUSE_SECONDS = 3, 1.0
# Of what a server sends: a tenant may have named it, and it may be none. Nothing that is asked for is longer than the
# list of a server's sessions.
_MOST_TO_CONNECT_BYTES = 64 * 1024
_MOST_BYTES = 8 * 1024 * 1024
_MOST_OF_A_CHANGE_BYTES = 256 * 1024
_MOST_VALUES = 250_000
_MOST_WORK_SECONDS = 0.25
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

    def __init__(self, name: str, connection: Any, relay: Relay, seconds: float) -> None:
        self._name = name
        self._connection = connection
        self._relay = relay
        self._seconds = seconds

    @property
    def version(self) -> int:
        """The server's, for example 150004."""
        return int(self._connection.info.server_version)

    @property
    def pid(self) -> int:
        """Of the session's own backend."""
        return int(self._connection.info.backend_pid)

    async def rows(self, query: "LiteralString | Composable", parameters: Parameters | None = None) -> list[Row]:
        """What a query returns, rows as dictionaries; as much as is bearable, else Terminal is raised."""
        async with self._asked(_MOST_BYTES, uncertain=False):
            return await self._stream(query, parameters)

    async def change(self, query: "LiteralString | Composable", parameters: Parameters | None = None) -> list[Row]:
        """As ``rows``, for a statement that changes something: Unreachable is uncertain when it may have been done."""
        async with self._asked(_MOST_OF_A_CHANGE_BYTES, uncertain=True):
            return await self._execute(query, parameters)

    async def _execute(self, query: Any, parameters: Parameters | None) -> list[Row]:
        cursor = await self._connection.execute(query, parameters)
        rows: list[Row] = await cursor.fetchall() if cursor.description else []
        return rows

    async def _stream(self, query: Any, parameters: Parameters | None) -> list[Row]:
        """One row after the other: a result that is nothing but many small ones takes many times the memory."""
        rows: list[Row] = []
        values = 0
        stream: Any = self._connection.cursor().stream(query, parameters)
        async with aclosing(stream):
            async for row in stream:
                rows.append(row)
                values += max(1, len(row))
                if values > _MOST_VALUES:
                    await self._connection.close()
                    raise self._too_much(uncertain=False)
        return rows

    @asynccontextmanager
    async def _asked(self, most_bytes: int, *, uncertain: bool) -> AsyncIterator[None]:
        """One statement, whose answer is of so many bytes at the most."""
        import psycopg

        self._relay.allow(most_bytes)
        self._connection.work_seconds = 0.0
        try:
            async with asyncio.timeout(self._seconds + _ANSWER_GRACE_SECONDS):
                yield
        except psycopg.Error as error:
            if self._relay.exceeded or self._connection.is_overworked:
                raise self._too_much(uncertain=uncertain) from error
            raise _translated(self._name, error, self._seconds, uncertain=uncertain) from error
        except TimeoutError as error:
            raise Unreachable(
                f"{self._name}: no answer within {self._seconds + _ANSWER_GRACE_SECONDS:g} s", uncertain=uncertain
            ) from error

    def _too_much(self, *, uncertain: bool) -> ParamedicError:
        told = f"{self._name}: the server answers more than can be read"
        return Unreachable(told, uncertain=True) if uncertain else Terminal(Reason.REJECTED, told)


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
        async with self._way.turn, await self._led(statement_seconds) as relay:
            connection = await self._connect(relay, statement_seconds, connect_seconds, tries)
            try:
                with sensible(self.name, "PostgreSQL"):
                    yield Session(self.name, connection, relay, statement_seconds)
            finally:
                with suppress(Exception, asyncio.CancelledError):
                    await asyncio.shield(connection.close())

    async def login(self) -> Login:
        """For another program than this one, as of now. Raises Unreachable, Terminal."""
        found = await self._way.addresses(self.server.host, self.server.port)
        where = {"host": ",".join([self.server.host] * len(found)), "hostaddr": ",".join(found)}
        return Login(where, await self._password(), self._way.credentials.ca())

    async def identity(self, session: Session) -> str:
        """What tells this server (and its standbys) from one that takes its place: PostgreSQL's system identifier, or
        its address where that may not be read. Raises Unreachable.
        """
        try:
            return str((await session.rows("SELECT system_identifier AS id FROM pg_control_system()"))[0]["id"])
        except (Refused, Terminal):
            return hashlib.sha256(f"{self.server.host}:{self.server.port}".encode()).hexdigest()[:32]

    async def _led(self, statement_seconds: float) -> Relay:
        found = await self._way.addresses(self.server.host, self.server.port)
        return Relay(found, self.server.port, statement_seconds)

    async def _connect(self, relay: Relay, statement_seconds: float, connect_seconds: float, tries: int) -> Any:
        import psycopg

        for attempt in range(1, tries + 1):
            relay.allow(_MOST_TO_CONNECT_BYTES)
            with self._way.credentials.ca_path() as ca:
                options = _options(self.server, await self._password(), ca, statement_seconds) | relay.where(
                    self.server.host
                )
                try:
                    async with asyncio.timeout(connect_seconds):
                        return await _connected(options)
                except (psycopg.Error, TimeoutError) as error:
                    text = relay.told(" ".join(str(error).split()))
                    failure = _connect_failure(self.name, text, options.get("password"), connect_seconds)
            if attempt == tries or "FATAL" in str(failure):
                break
            await asyncio.sleep(_PAUSE_SECONDS)
        raise failure

    async def _password(self) -> str | None:
        region = self._way.credentials.iam_region
        return self._way.credentials.password() if region is None else await rds_token(region, self.server)


@cache
def _connection_class() -> Any:
    """A connection that is closed when it takes libpq too long to read what a server sends: each setting that a server
    reports is compared with all that it has reported before.
    """
    from psycopg import AsyncConnection, OperationalError

    class Metered(AsyncConnection[Row]):
        work_seconds = 0.0

        @property
        def is_overworked(self) -> bool:
            return self.work_seconds > _MOST_WORK_SECONDS

        async def wait(self, gen: Any, *args: Any, **options: Any) -> Any:
            return await super().wait(self._metered(gen), *args, **options)

        def _metered(self, work: Any) -> Generator[Any, Any, Any]:
            ready = None
            while True:
                began = time.thread_time()
                try:
                    state = work.send(ready)
                except StopIteration as end:
                    return end.value
                finally:
                    self.work_seconds += time.thread_time() - began
                if self.is_overworked:
                    self.pgconn.finish()
                    raise OperationalError("what the server sends takes too long to read")
                ready = yield state

    return Metered


async def _connected(options: dict[str, Any]) -> Any:
    """Raises psycopg.Error."""
    from psycopg.rows import dict_row

    connection = await _connection_class().connect(**options, autocommit=True, row_factory=dict_row)
    connection.add_notify_handler(lambda _: None)  # else psycopg keeps all that a server sends unasked
    return connection


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
        "client_encoding": "UTF8",
        "options": f"-c statement_timeout={milliseconds} -c lock_timeout={milliseconds} "
        f"-c idle_in_transaction_session_timeout={milliseconds} -c search_path=pg_catalog",
    }


def _connect_failure(name: str, said: str, password: str | None, seconds: float) -> Unreachable:
    """By the server's words: libpq does not tell the SQLSTATE of a failed connection."""
    text = said or f"no answer within {seconds:g} s"
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
