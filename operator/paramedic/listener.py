"""Accepts connections, so that nobody who may connect can take the memory or the places of those who send alerts.

Anybody in the cluster may connect, and has shown no token yet. So there are at most so many connections, the TLS
handshake included. Where there is none left, the one that has been open longest without a request being worked on makes
room, of the address that has most of them: a good sender is always let in. Whoever does not read the answer is hung up
on, and is not read from meanwhile. What bounds a request's head, in size and in time, is with the HTTP server.
"""

import asyncio
import contextlib
import socket
import ssl
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any, cast

from paramedic.log import get_logger

_log = get_logger(__name__)
_MOST_CONNECTIONS = 256
_PIECE_BYTES = 16 * 1024
_HANDSHAKE_SECONDS = 10.0
_UNREAD_SECONDS = 10.0
_OUT_OF_FILES_SECONDS = 0.5


class _Connection(asyncio.BufferedProtocol):
    """One connection, from before its handshake on; all that arrives goes to the ``inner`` protocol, in small pieces:
    what a parser refuses it may keep for a while.
    """

    def __init__(self, inner: asyncio.Protocol, address: str, gone: Callable[[asyncio.Protocol], None]) -> None:
        self.inner = inner
        self.address = address
        self.opening: asyncio.Task[None] | None = None
        self._gone = gone
        self._transport: asyncio.Transport | None = None
        self._unread: asyncio.TimerHandle | None = None
        self._buffer = memoryview(bytearray())

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        self.inner.connection_made(transport)

    def get_buffer(self, sizehint: int) -> memoryview:
        self._buffer = memoryview(bytearray(_PIECE_BYTES))  # with TLS, asyncio fills slices of it
        return self._buffer

    def buffer_updated(self, nbytes: int) -> None:
        piece, self._buffer = bytes(self._buffer[:nbytes]), memoryview(bytearray())
        self.inner.data_received(piece)

    def eof_received(self) -> bool | None:
        return self.inner.eof_received()

    def pause_writing(self) -> None:
        """The peer does not read: further requests of its would only pile up."""
        if self._transport:
            self._transport.pause_reading()
        self._unread = asyncio.get_running_loop().call_later(_UNREAD_SECONDS, self.abort)
        self.inner.pause_writing()

    def resume_writing(self) -> None:
        self._stop_waiting()
        if self._transport:
            self._transport.resume_reading()
        self.inner.resume_writing()

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_waiting()
        self._gone(self.inner)
        self.inner.connection_lost(exc)

    def abort(self) -> None:
        """Hangs up at once, whatever is still to be written."""
        self._gone(self.inner)
        self.give_up()
        if self._transport:
            self._transport.abort()

    def give_up(self) -> None:
        """Hangs up unless the handshake is over."""
        if self.opening and not self._transport:
            self.opening.cancel()

    def _stop_waiting(self) -> None:
        if self._unread:
            self._unread.cancel()


class Listener:
    """All open connections, with TLS where there is a context for it."""

    def __init__(self, context: ssl.SSLContext | None) -> None:
        self._context = context
        self._open: dict[asyncio.Protocol, _Connection] = {}
        self._working: set[asyncio.Protocol] = set()

    @contextlib.contextmanager
    def working(self, inner: asyncio.Protocol) -> Iterator[None]:
        """While this lasts the connection makes room for no other: a request of its is worked on."""
        self._working.add(inner)
        try:
            yield
        finally:
            self._working.discard(inner)

    async def run(self, listening: socket.socket, make: Callable[[], asyncio.Protocol]) -> None:
        """Accepts until cancelled; ``make`` gives the protocol of one connection."""
        loop = asyncio.get_running_loop()
        try:
            while True:
                await self._accept(loop, listening, make)
        finally:
            for connection in list(self._open.values()):
                connection.give_up()

    async def _accept(
        self, loop: asyncio.AbstractEventLoop, listening: socket.socket, make: Callable[[], asyncio.Protocol]
    ) -> None:
        try:
            accepted, address = await loop.sock_accept(listening)
        except ConnectionError:
            return  # it was gone before it was accepted
        except OSError as error:
            _log.error("cannot accept connections", error=str(error))
            await asyncio.sleep(_OUT_OF_FILES_SECONDS)
            return
        if len(self._open) >= _MOST_CONNECTIONS and not self._make_room():
            accepted.close()
            return
        self._take(make(), accepted, str(address[0]))

    def _take(self, inner: asyncio.Protocol, accepted: socket.socket, address: str) -> None:
        self._open[inner] = connection = _Connection(inner, address, self._forget)
        connection.opening = asyncio.get_running_loop().create_task(self._connect(connection, accepted))
        connection.opening.add_done_callback(lambda task: self._opened(task, connection, accepted))

    async def _connect(self, connection: _Connection, accepted: socket.socket) -> None:
        """Ends when the connection is made. Raises OSError when its handshake fails, or takes too long."""
        timeout: dict[str, Any] = {"ssl_handshake_timeout": _HANDSHAKE_SECONDS} if self._context else {}
        await asyncio.get_running_loop().connect_accepted_socket(
            lambda: connection, accepted, ssl=self._context, **timeout
        )

    def _opened(self, task: "asyncio.Task[None]", connection: _Connection, accepted: socket.socket) -> None:
        """Also of a task that was cancelled before it began."""
        if task.cancelled() or task.exception():
            self._forget(connection.inner)
            accepted.close()

    def _make_room(self) -> bool:
        idle = [one for inner, one in self._open.items() if inner not in self._working]
        if not idle:
            return False
        (greediest, _), *_ = Counter(one.address for one in idle).most_common(1)
        next(one for one in idle if one.address == greediest).abort()
        return True

    def _forget(self, inner: asyncio.Protocol) -> None:
        self._open.pop(inner, None)
