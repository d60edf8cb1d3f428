"""A Redis database through redis-py (the extra ``paramedic[redis]``): short sessions, two at once at the most."""

import asyncio
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Any

import certifi

from paramedic.api.connection import RedisServer
from paramedic.api.reasons import Reason
from paramedic.clients.answers import sensible
from paramedic.clients.credentials import LoginRefused, NoConnectionLeft, Way
from paramedic.clients.extras import require
from paramedic.errors import ParamedicError, Refused, Terminal, Unreachable

_ANSWER_SECONDS = 5
_MOST_BYTES = 4 * 1024 * 1024
"""Of one answer: a tenant may have named the server, and it may not be one."""
_PIECE_BYTES = 128
"""What a line or a value takes in memory besides its text."""
_LINES_AT_A_TIME = 500
_MOST_CHARACTERS = 400
_LACKING_RIGHTS = ("NOPERM",)
_NOT_NOW = ("LOADING", "BUSY", "MASTERDOWN", "CLUSTERDOWN", "TRYAGAIN")
_NO_LOGIN = ("NOAUTH", "WRONGPASS")
_NONE_LEFT = ("ERR max number", "max number of clients")


class Session:
    """One session. Raises Refused (a missing right), Terminal, Unreachable."""

    def __init__(self, name: str, client: Any, seconds: float) -> None:
        self._name = name
        self._client = client
        self._seconds = seconds

    async def call(self, *command: str | int) -> Any:
        """The answer to one command that only reads; text as str. Terminal when there is more than is bearable."""
        import redis

        try:
            async with asyncio.timeout(self._seconds * 2):
                return await self._client.execute_command(*command)
        except (redis.RedisError, OSError) as error:
            raise _translated(self._name, error) from error


class Redis:
    """One database; ``name`` is the connection's."""

    def __init__(self, name: str, server: RedisServer, way: Way) -> None:
        require("redis")
        self.name = name
        self.server = server
        self._way = way

    @asynccontextmanager
    async def session(self, seconds: float = _ANSWER_SECONDS, *, tries: int = 2) -> AsyncIterator[Session]:
        """A session, closed at the end; it connects with its first command. ``seconds``: for connecting, and for each
        answer.
        """
        async with self._way.turn:
            client = await self._client(seconds, tries)
            try:
                with sensible(self.name, "Redis"):
                    yield Session(self.name, client, seconds)
            finally:
                with suppress(Exception, asyncio.CancelledError):
                    await asyncio.shield(client.aclose())

    async def _client(self, seconds: float, tries: int) -> Any:
        import redis.asyncio as library
        from redis.asyncio.retry import Retry as Retries
        from redis.backoff import NoBackoff

        server = self.server
        found = await self._way.addresses(server.host, server.port)
        pool = library.ConnectionPool(
            connection_class=_connection_class(),
            max_connections=1,
            server_name=server.host,
            addresses=found,
            tls=_context(self._way.credentials.ca()) if server.tls else None,
            host=server.host,
            port=server.port,
            db=server.database,
            username=server.username,
            password=self._way.credentials.password(),
            client_name="paramedic",
            decode_responses=True,
            encoding_errors="replace",
            protocol=2,
            socket_connect_timeout=min(seconds, 2 * seconds / len(found)),  # all of them within a command's time
            socket_timeout=seconds,
            retry=Retries(NoBackoff(), tries - 1),
        )
        return library.Redis.from_pool(pool)


class _Measured:
    """A stream that gives only so much before it is refilled; then it raises redis.InvalidResponse."""

    def __init__(self, stream: asyncio.StreamReader) -> None:
        self._stream = stream
        self._lines = 0
        self.refill()

    def refill(self) -> None:
        """The next answer may begin."""
        self._left = _MOST_BYTES

    async def readline(self) -> bytes:
        """As a StreamReader does."""
        line = await self._stream.readline()
        self._take(len(line))
        self._lines += 1
        if self._lines % _LINES_AT_A_TIME == 0:
            await asyncio.sleep(0)  # what has come already is read without a pause, thousands of lines of it
        return line

    async def readexactly(self, count: int) -> bytes:
        """As a StreamReader does."""
        self._take(count)
        return await self._stream.readexactly(count)

    async def read(self, count: int) -> bytes:
        """As a StreamReader does."""
        data = await self._stream.read(count)
        self._take(len(data))
        return data

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def _take(self, count: int) -> None:
        import redis

        self._left -= count + _PIECE_BYTES
        if self._left < 0:
            raise redis.InvalidResponse("the server answers more than can be read")


def _refill(stream: _Measured | None) -> None:
    if stream is not None:
        stream.refill()


def _connection_class() -> Any:
    """A connection to the first that answers of addresses that have been looked up and checked, while the certificate
    is that of the name. No answer of it is larger than is bearable.
    """
    from redis.asyncio.connection import Connection

    class Checked(Connection):
        def __init__(
            self, *, server_name: str, addresses: list[str], tls: ssl.SSLContext | None, **options: Any
        ) -> None:
            super().__init__(**options)
            self._server_name = server_name
            self._addresses = addresses
            self._address = addresses[0]
            self._tls = tls

        async def _connect(self) -> None:
            for address in self._addresses:
                self._address = address
                try:
                    await super()._connect()  # type: ignore[no-untyped-call]
                except OSError:  # a timeout is one, too
                    if address == self._addresses[-1]:
                        raise
                else:
                    self._reader: Any = _Measured(self._reader)
                    return

        async def read_response(self, *args: Any, **options: Any) -> Any:
            _refill(self._reader)
            return await super().read_response(*args, **options)

        def _connection_arguments(self) -> dict[str, Any]:
            secured = {"ssl": self._tls, "server_hostname": self._server_name} if self._tls else {}
            return {"host": self._address, "port": self.port} | secured

    return Checked


def _context(ca: str | None) -> ssl.SSLContext:
    """TLS that is verified. Raises Terminal when the CA is none."""
    try:
        context = ssl.create_default_context(cadata=ca)
        if ca is None:
            context.load_verify_locations(certifi.where())
    except ssl.SSLError as error:
        raise Terminal(Reason.CONNECTION_FAILED, "the connection's CA (ca.crt, caFile) is not a certificate") from error
    context.verify_flags &= ~ssl.VERIFY_X509_STRICT  # clusters' own CAs often lack what the strict mode asks of a CA
    return context


def _translated(name: str, error: Exception) -> ParamedicError:
    import redis

    text = f"{name}: {' '.join(str(error).split()) or type(error).__name__}"[:_MOST_CHARACTERS]
    if str(error).startswith(_LACKING_RIGHTS) or isinstance(error, redis.exceptions.NoPermissionError):
        return Refused(Reason.FORBIDDEN, text)
    if str(error).startswith(_NO_LOGIN) or isinstance(error, redis.exceptions.AuthenticationError):
        return LoginRefused(text)
    if str(error).startswith(_NONE_LEFT):
        return NoConnectionLeft(text)
    lost = isinstance(error, redis.ConnectionError | redis.TimeoutError | OSError)
    if lost or str(error).startswith(_NOT_NOW):
        return Unreachable(text)
    return Terminal(Reason.REJECTED, text)
