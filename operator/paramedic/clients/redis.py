"""A Redis database through redis-py (the extra ``paramedic[redis]``): short sessions, two at once at the most."""

import asyncio
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Any

import certifi

from paramedic.api.connection import RedisServer
from paramedic.api.reasons import Reason
from paramedic.clients.credentials import Way
from paramedic.clients.extras import require
from paramedic.errors import ParamedicError, Refused, Terminal, Unreachable

_CONNECT_SECONDS = 5
_ANSWER_SECONDS = 5
_MOST_CHARACTERS = 400
_LACKING_RIGHTS = ("NOPERM",)
_NOT_NOW = ("LOADING", "BUSY", "MASTERDOWN", "CLUSTERDOWN", "TRYAGAIN", "NOAUTH", "WRONGPASS", "ERR max number")


class Session:
    """One session. Raises Refused (a missing right), Terminal, Unreachable."""

    def __init__(self, name: str, client: Any) -> None:
        self._name = name
        self._client = client

    async def call(self, *command: str | int) -> Any:
        """The answer to one command that only reads; text as str."""
        import redis

        try:
            async with asyncio.timeout(_ANSWER_SECONDS * 2):
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
    async def session(self) -> AsyncIterator[Session]:
        """A session, closed at the end; it connects with its first command."""
        async with self._way.turn:
            client = await self._client()
            try:
                yield Session(self.name, client)
            finally:
                with suppress(Exception, asyncio.CancelledError):
                    await asyncio.shield(client.aclose())

    async def _client(self) -> Any:
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
            socket_connect_timeout=_CONNECT_SECONDS,
            socket_timeout=_ANSWER_SECONDS,
            retry=Retries(NoBackoff(), 1),
        )
        return library.Redis.from_pool(pool)


def _connection_class() -> Any:
    """A connection to addresses that have been looked up and checked, while the certificate is that of the name."""
    from redis.asyncio.connection import Connection

    class Checked(Connection):
        def __init__(
            self, *, server_name: str, addresses: list[str], tls: ssl.SSLContext | None, **options: Any
        ) -> None:
            super().__init__(**options)
            self._server_name = server_name
            self._addresses = addresses
            self._tls = tls

        def _connection_arguments(self) -> dict[str, Any]:
            secured = {"ssl": self._tls, "server_hostname": self._server_name} if self._tls else {}
            return {"host": self._addresses[0], "port": self.port} | secured

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
    lost = isinstance(error, redis.ConnectionError | redis.TimeoutError | OSError)
    if lost or str(error).startswith(_NOT_NOW):
        return Unreachable(text)
    return Terminal(Reason.REJECTED, text)
