"""The queue between app and worker: a list in Redis."""

from __future__ import annotations

import json

import redis.asyncio
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff

from covet.config import Config

QUEUE = "task_queue"
_TIMEOUT = 5.0


class Queue:
    """Raises redis.RedisError when Redis does not answer."""

    def __init__(self, config: Config) -> None:
        self._redis = redis.asyncio.Redis(
            host=config.redis_host,
            port=config.redis_port,
            password=config.redis_password or None,
            socket_timeout=_TIMEOUT,
            socket_connect_timeout=_TIMEOUT,
            retry=Retry(NoBackoff(), 0),
            decode_responses=True,
        )

    async def put(self, order: int) -> None:
        """An order that is to be shipped."""
        await self._redis.rpush(QUEUE, json.dumps({"order": order}))

    async def take(self) -> int | None:
        """The oldest order; None when there was none for a second."""
        found = await self._redis.blpop([QUEUE], timeout=1)
        return int(json.loads(found[1])["order"]) if found else None

    async def depth(self) -> int:
        """How many wait."""
        return int(await self._redis.llen(QUEUE))

    async def close(self) -> None:
        await self._redis.aclose()
