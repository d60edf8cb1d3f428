"""A way to a PostgreSQL server on which only so much comes back.

libpq reads its socket itself, and keeps in memory what a server sends, however much that is. So it is led to a port of
this machine, from where each byte is carried on as it is: TLS is between libpq and the server, and verified by libpq.
"""

import asyncio
import os
import socket
from collections.abc import Coroutine, Iterable, Sequence
from contextlib import closing, suppress
from functools import partial
from types import TracebackType
from typing import Any, Self

_LOOPBACK = "127.0.0.1"
_CHUNK_BYTES = 64 * 1024
_LAST_WORDS_SECONDS = 0.5


class Relay:
    """Ports of this machine that lead to the addresses of one server. ``allow`` says how much may come from there."""

    def __init__(self, addresses: Sequence[str], port: int, silence_seconds: float) -> None:
        self._addresses = addresses
        self._port = port
        self._silence_milliseconds = int(silence_seconds * 1000)
        self._servers: list[asyncio.Server] = []
        self._carrying: set[asyncio.Task[None]] = set()
        self._unreached: dict[str, str] = {}
        self._left = 0

    async def __aenter__(self) -> Self:
        for address in self._addresses:
            self._servers.append(
                await asyncio.start_server(partial(self._begin, address), _LOOPBACK, 0, limit=_CHUNK_BYTES)
            )
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for server in self._servers:
            server.close()
        try:
            if self._carrying:
                await asyncio.wait(self._carrying, timeout=_LAST_WORDS_SECONDS)
        finally:
            for task in self._carrying:
                task.cancel()

    @property
    def exceeded(self) -> bool:
        """Whether more has come than was allowed: then the connection is closed."""
        return self._left < 0

    def allow(self, count: int) -> None:
        """So many bytes may come from now on."""
        self._left = count

    def where(self, host: str) -> dict[str, str]:
        """What libpq is told in place of the server's addresses and port; certificates are compared with ``host``."""
        many = len(self._servers)
        ports = ",".join(map(str, self._ports()))
        return {"host": ",".join([host] * many), "hostaddr": ",".join([_LOOPBACK] * many), "port": ports}

    def told(self, text: str) -> str:
        """What libpq says of a failure, as if it had gone there itself."""
        if len(self._unreached) == len(self._addresses):
            failed = f"port {self._port} failed"
            return "; ".join(f'connection to server at "{at}", {failed}: {why}' for at, why in self._unreached.items())
        for address, port in zip(self._addresses, self._ports(), strict=True):
            for form in ("({}), port {}", '"{}", port {}'):
                text = text.replace(form.format(_LOOPBACK, port), form.format(address, self._port))
            listed = "port: '{}', hostaddr: '{}'"
            text = text.replace(listed.format(port, _LOOPBACK), listed.format(self._port, address))
        return text

    def _ports(self) -> list[int]:
        return [server.sockets[0].getsockname()[1] for server in self._servers]

    def _begin(self, address: str, ours: asyncio.StreamReader, to_us: asyncio.StreamWriter) -> None:
        task = asyncio.create_task(self._carry(address, ours, to_us))
        self._carrying.add(task)
        task.add_done_callback(self._carrying.discard)

    async def _carry(self, address: str, ours: asyncio.StreamReader, to_us: asyncio.StreamWriter) -> None:
        """One connection, until either side ends it."""
        with closing(to_us):
            try:
                theirs, to_them = await self._connect(address)
            except OSError as error:
                self._unreached[address] = os.strerror(error.errno) if error.errno else str(error)
                return
            self._unreached.pop(address, None)
            with closing(to_them):
                await _first([self._forth(ours, to_them), self._back(theirs, to_us)])

    async def _connect(self, address: str) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """Raises OSError."""
        reader, writer = await asyncio.open_connection(address, self._port, limit=_CHUNK_BYTES)
        connected: socket.socket = writer.get_extra_info("socket")
        connected.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        connected.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, self._silence_milliseconds)
        return reader, writer

    async def _forth(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(OSError):
            while data := await reader.read(_CHUNK_BYTES):
                writer.write(data)
                await writer.drain()

    async def _back(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(OSError):
            while data := await reader.read(_CHUNK_BYTES):
                self._left -= len(data)
                if self._left < 0:
                    return
                writer.write(data)
                await writer.drain()


async def _first(works: Iterable[Coroutine[Any, Any, None]]) -> None:
    """Waits until one of them ends, and ends the others."""
    tasks = [asyncio.create_task(work) for work in works]
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in tasks:
            task.cancel()
