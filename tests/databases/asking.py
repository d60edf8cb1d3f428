"""Asks a server as the operator does, in a process of its own: ``python asking.py redis|postgres|change|dump PORT CA``.

Prints, as JSON, what came of it, how much memory that took at the most, and how long it worked without a pause.
"""

from __future__ import annotations

import asyncio
import json
import resource
import sys
import time
from pathlib import Path
from typing import Any

from paramedic.api.connection import PostgresServer, RedisServer
from paramedic.clients.credentials import Credentials, Way
from paramedic.clients.pg_dump import Selection, dump, require_pg_dump
from paramedic.clients.postgres import Postgres
from paramedic.clients.redis import Redis
from paramedic.clients.redis_queue import depth
from paramedic.errors import ParamedicError


def most_mebibytes() -> float:
    """The most memory that the process, or one that it has started, has ever had."""
    status = Path("/proc/self/status").read_text()
    own = int(status.partition("VmHWM:")[2].split()[0])
    return max(own, resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss) / 1024


async def ask(kind: str, port: int, ca: str | None = None) -> Any:
    way = Way(Credentials(ca_file=Path(ca) if ca else None), asyncio.Semaphore(2))
    if kind == "redis":
        queue = Redis("covet-queue", RedisServer(host="127.0.0.1", port=port, tls=False), way)
        return await depth(queue, "jobs", None, "workers", 1_000_000)
    secured: Any = {"host": "localhost"} if ca else {"host": "127.0.0.1", "sslmode": "disable"}
    database = Postgres("covet-db", PostgresServer(port=port, database="d", username="u", **secured), way)
    if kind == "dump":
        return [len(part) async for part in dump(await require_pg_dump(database), database, Selection())]
    async with database.session(tries=1) as session:
        asked = session.change if kind == "change" else session.rows
        return await asked("SELECT 1 AS one")


async def watched(asked: Any) -> dict[str, Any]:
    pauses = [0.0]

    async def tick() -> None:
        while True:
            began = time.thread_time()
            await asyncio.sleep(0.005)
            pauses.append(time.thread_time() - began)

    ticking = asyncio.create_task(tick())
    try:
        found, message = "answer", str(await asked)
    except ParamedicError as error:
        found, message = type(error).__name__, str(error)
    except Exception as error:
        found, message = f"mistake: {type(error).__name__}", str(error)
    ticking.cancel()
    return {"found": found, "message": message[:300], "longest": max(pauses)}


async def main(kind: str, port: int, ca: str | None) -> None:
    import psycopg  # noqa: F401 - what the libraries take is not what an answer takes
    import redis.asyncio  # noqa: F401

    before = most_mebibytes()
    result = await watched(ask(kind, port, ca))
    print(json.dumps(result | {"mebibytes": most_mebibytes() - before}))


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], int(sys.argv[2]), sys.argv[3] if len(sys.argv) > 3 else None))
