"""`python -m covet.worker`: ships orders, one after the other. GET /metrics and /health as the app."""

from __future__ import annotations

import asyncio
import os
import signal
import sys

import psycopg
import redis
from aiohttp import web
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest

from covet import metrics
from covet.config import Config, config_from
from covet.database import Database, PoolExhausted
from covet.queue import Queue

RETRY_SECONDS = 1.0


async def work(config: Config, stop: asyncio.Event) -> None:
    """Takes orders until `stop`; the one under way is finished. What cannot be shipped goes back to the queue."""
    database, queue = Database(config), Queue(config)
    try:
        while not stop.is_set():
            try:
                await _ship_next(config, database, queue)
            except (PoolExhausted, psycopg.Error, redis.RedisError) as error:
                print(f"{type(error).__name__}: {error}", file=sys.stderr, flush=True)
                await asyncio.sleep(RETRY_SECONDS)
    finally:
        await database.close()
        await queue.close()


async def _ship_next(config: Config, database: Database, queue: Queue) -> None:
    order = await queue.take()
    if order is None:
        return
    await asyncio.sleep(config.task_seconds)
    try:
        async with database.connection() as connection:
            await connection.execute("UPDATE orders SET shipped_at = now() WHERE id = %s", [order])
    except (PoolExhausted, psycopg.Error):
        await queue.put(order)
        raise
    metrics.TASKS.inc()


async def _metrics(_: web.Request) -> web.Response:
    return web.Response(body=generate_latest(metrics.REGISTRY), headers={"Content-Type": CONTENT_TYPE_LATEST})


async def _health(_: web.Request) -> web.Response:
    return web.Response(text="ok\n")


async def run(config: Config) -> None:
    """Works until TERM."""
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    application = web.Application()
    application.add_routes([web.get("/metrics", _metrics), web.get("/health", _health)])
    runner = web.AppRunner(application)
    await runner.setup()
    await web.TCPSite(runner, config.listen_host, config.listen_port).start()
    try:
        await work(config, stop)
    finally:
        await runner.cleanup()


if __name__ == "__main__":
    asyncio.run(run(config_from(os.environ)))
