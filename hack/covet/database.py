"""A few connections to PostgreSQL that all requests of one process share, as any service has."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Any

import psycopg

from covet.config import Config

Connection = psycopg.AsyncConnection[tuple[Any, ...]]

SIZE = 5
ACQUIRE_SECONDS = 1.0
STATEMENT_SECONDS = 2.0


class PoolExhausted(RuntimeError):
    """All connections are in use, and none was given back in time."""


class Database:
    """A pool of `SIZE` connections, made when first needed and anew after they broke."""

    def __init__(self, config: Config) -> None:
        self._conninfo = config.database
        self._password = config.database_password
        self._slots: asyncio.LifoQueue[Connection | None] = asyncio.LifoQueue()
        for _ in range(SIZE):
            self._slots.put_nowait(None)

    @contextlib.asynccontextmanager
    async def connection(self) -> AsyncIterator[Connection]:
        """One connection, in a transaction. PoolExhausted when there is none for so long; psycopg.Error."""
        try:
            async with asyncio.timeout(ACQUIRE_SECONDS):
                held = await self._slots.get()
        except TimeoutError as error:
            raise PoolExhausted(f"no database connection for {ACQUIRE_SECONDS:g} s") from error
        try:
            if held is None or held.closed:
                held = await self._connect()
            async with held.transaction():
                yield held
        finally:
            self._slots.put_nowait(held)

    async def close(self) -> None:
        """Closes those that are not in use."""
        while not self._slots.empty():
            held = self._slots.get_nowait()
            if held is not None:
                await held.close()

    async def _connect(self) -> Connection:
        options = f"-c statement_timeout={round(STATEMENT_SECONDS * 1000)}"
        return await psycopg.AsyncConnection.connect(self._conninfo, password=self._password, options=options)
