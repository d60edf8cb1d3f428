"""A Redis database through redis-py (the extra ``paramedic[redis]``): short sessions, two at once at the most."""

import asyncio
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Any

import certifi

from paramedic.api.connection import RedisServer
from paramedic.api.reasons import Reason
from paramedic.clients.credentials import LoginRefused, NoConnectionLeft, Way
from paramedic.clients.extras import require
from paramedic.errors import ParamedicError, Refused, Terminal, Unreachable

_ANSWER_SECONDS = 5
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
        """The answer to one command that only reads; text as str."""
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


def _connection_class() -> Any:
    """A connection to the first that answers of addresses that have been looked up and checked, while the certificate
    is that of the name.
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
                    return

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
