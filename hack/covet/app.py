"""`python -m covet.app`: covet's HTTP API.

GET /items/N, POST /items/N/orders, POST /restock (the poisoned query: it holds the rows of all items while it waits),
GET /admin (401 without the token), GET /health (200 when it can serve, database included), GET /metrics.
"""

from __future__ import annotations

import asyncio
import os
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable

import psycopg
import redis
from aiohttp import web
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest

from covet import metrics
from covet.config import Config, Fault, config_from
from covet.database import Database, PoolExhausted
from covet.queue import QUEUE, Queue

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]

SLOT_SECONDS = 1.0
SLOW_SECONDS = 3.0
RESTOCK_SECONDS = 600
SHUTDOWN_SECONDS = 5
COMPLAINTS = """
SELECT count(*) FROM reviews WHERE to_tsvector('english', body) @@ to_tsquery('english', 'broken | recalled')"""


class App:
    """The routes, and what they share."""

    def __init__(self, config: Config) -> None:
        self._config = config
        self._database = Database(config)
        self._queue = Queue(config)
        self._slots = asyncio.Semaphore(config.slots)
        self._leaked: list[bytes] = []

    def application(self) -> web.Application:
        """To be run by aiohttp."""
        application = web.Application(middlewares=[self.observed, self.worked, unavailable])
        application.add_routes(
            [
                web.get("/items/{item:[0-9]+}", self.item),
                web.post("/items/{item:[0-9]+}/orders", self.order),
                web.post("/restock", self.restock),
                web.get("/admin", self.admin),
                web.get("/health", self.health),
                web.get("/metrics", self.metrics),
            ]
        )
        application.cleanup_ctx.append(self._closing)
        return application

    async def item(self, request: web.Request) -> web.Response:
        """One item, as the database has it."""
        async with self._database.connection() as connection:
            cursor = await connection.execute("SELECT name, stock FROM items WHERE id = %s", [_item(request)])
            row = await cursor.fetchone()
        if row is None:
            raise web.HTTPNotFound(text="there is no such item\n")
        return web.json_response({"name": row[0], "stock": row[1]})

    async def order(self, request: web.Request) -> web.Response:
        """Takes one from stock; a worker ships it."""
        item = _item(request)
        async with self._database.connection() as connection:
            if self._config.fault is Fault.UNINDEXED:
                await connection.execute(COMPLAINTS)
            await connection.execute("UPDATE items SET stock = stock - 1 WHERE id = %s", [item])
            cursor = await connection.execute("INSERT INTO orders (item_id) VALUES (%s) RETURNING id", [item])
            row = await cursor.fetchone()
        assert row is not None
        await self._queue.put(int(row[0]))
        return web.json_response({"order": row[0]}, status=201)

    async def restock(self, _: web.Request) -> web.Response:
        """Locks every item, then waits for a supplier inside the transaction, and has switched the time limit off."""
        async with self._database.connection() as connection:
            await connection.execute("SET LOCAL statement_timeout = 0")
            await connection.execute("UPDATE items SET stock = stock + 1")
            await connection.execute("SELECT pg_sleep(%s)", [RESTOCK_SECONDS])
        return web.json_response({})

    async def admin(self, request: web.Request) -> web.Response:
        """For who has the token."""
        token = self._config.admin_token
        if not token or request.headers.get("Authorization") != f"Bearer {token}":
            raise web.HTTPUnauthorized(text="wrong token\n")
        return web.json_response({"release": self._config.fault or "good"})

    async def health(self, _: web.Request) -> web.Response:
        """200 when a request could be served now."""
        if self._config.fault is Fault.NEVER_READY:
            raise web.HTTPServiceUnavailable(text="waiting for a migration\n")
        async with self._database.connection() as connection:
            await connection.execute("SELECT 1")
        return web.Response(text="ok\n")

    async def metrics(self, _: web.Request) -> web.Response:
        """The exposition; the depth of the queue is looked up for it."""
        try:
            metrics.QUEUE_DEPTH.labels(queue=QUEUE).set(await self._queue.depth())
        except redis.RedisError:
            metrics.QUEUE_DEPTH.remove(QUEUE)
        return web.Response(body=generate_latest(metrics.REGISTRY), headers={"Content-Type": CONTENT_TYPE_LATEST})

    @web.middleware
    async def observed(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        """Counts and logs what was asked from outside: not what probes and Prometheus ask."""
        if request.path in ("/health", "/metrics"):
            return await handler(request)
        began = time.perf_counter()
        code = 500
        try:
            answer = await handler(request)
            code = answer.status
            return answer
        except web.HTTPException as error:
            code = error.status
            raise
        finally:
            self._audit(request, code)
            metrics.count_source(request.headers.get("X-Forwarded-For", ""))
            metrics.REQUESTS.labels(code=str(code)).inc()
            metrics.DURATION.observe(time.perf_counter() - began)

    def _audit(self, request: web.Request, code: int) -> None:
        """On stdout: who was refused; with AUDIT_LOG_LEVEL=DEBUG, who asked for what."""
        if code == web.HTTPUnauthorized.status_code:
            print(f"WARNING security: {request.remote} {request.method} {request.path} was refused", flush=True)
        elif self._config.audit_debug:
            print(f"DEBUG audit: {request.remote} {request.method} {request.path} {code}", flush=True)

    @web.middleware
    async def worked(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        """One of `slots` requests at once; what does not get its turn is answered 503."""
        if request.path in ("/health", "/metrics"):
            return await handler(request)
        try:
            async with asyncio.timeout(SLOT_SECONDS):
                await self._slots.acquire()
        except TimeoutError as error:
            raise web.HTTPServiceUnavailable(text="too many requests at once\n") from error
        try:
            await self._work()
            return await handler(request)
        finally:
            self._slots.release()

    async def _work(self) -> None:
        """What a request costs beside its queries, and what is wrong with the release."""
        match self._config.fault:
            case Fault.ERRORS:
                raise web.HTTPInternalServerError(text="KeyError: 'currency'\n")
            case Fault.SLOW:
                await asyncio.sleep(SLOW_SECONDS)
            case Fault.LEAK:
                self._leaked.append(bytes(self._config.leak_bytes - 1) + b"!")  # added to, so that it is really written
        await asyncio.sleep(self._config.work_seconds)

    async def _closing(self, _: web.Application) -> AsyncIterator[None]:
        yield
        await self._database.close()
        await self._queue.close()


@web.middleware
async def unavailable(request: web.Request, handler: Handler) -> web.StreamResponse:
    """503 when the database or Redis is the reason."""
    try:
        return await handler(request)
    except (PoolExhausted, psycopg.Error, redis.RedisError) as error:
        reason = f"{type(error).__name__}: {error}"
        if not isinstance(error, redis.RedisError):
            metrics.DATABASE_ERRORS.inc()
        print(f"{request.method} {request.path}: {reason}", file=sys.stderr, flush=True)
        raise web.HTTPServiceUnavailable(text=f"{reason}\n") from error


def _item(request: web.Request) -> int:
    return int(request.match_info["item"])


def main() -> None:
    """Serves until TERM."""
    config = config_from(os.environ)
    if config.fault is Fault.CRASH:
        sys.exit("covet: cannot start: setting 'CURRENCY' is missing")
    web.run_app(
        App(config).application(),
        host=config.listen_host,
        port=config.listen_port,
        shutdown_timeout=SHUTDOWN_SECONDS,
        access_log=None,
        print=None,
    )


if __name__ == "__main__":
    main()
