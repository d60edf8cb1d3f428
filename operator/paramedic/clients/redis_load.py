"""How full a Redis server is, and how much waits in its queues."""

import asyncio
from collections.abc import Callable, Sequence
from typing import Any

from paramedic.api.diagnosis import QueueCheck
from paramedic.clients.redis import Redis, Session
from paramedic.clients.redis_queue import depth_within
from paramedic.core.outside import CacheLoad, QueueDepth
from paramedic.errors import Refused, Terminal

_SECONDS = 2.5
_BETWEEN_SECONDS = 0.5
"""Between two looks at counters that only grow."""
Numbers = dict[str, Any]


async def read_load(cache: Redis, queues: Sequence[QueueCheck], missed: Callable[[str], None]) -> CacheLoad:
    """Memory, connections and queues; ``missed`` is told of each queue whose depth cannot be had. Raises Refused (a
    missing right), Terminal, Unreachable (LoginRefused, NoConnectionLeft).
    """
    async with cache.session(_SECONDS, tries=1) as session:
        before = await _info(session)
        _, *depths = await asyncio.gather(asyncio.sleep(_BETWEEN_SECONDS), _depths(session, cache.name, queues, missed))
        after = await _info(session)
    return CacheLoad(
        connection=cache.name,
        used_bytes=_number(after, "used_memory"),
        max_bytes=_number(after, "maxmemory"),
        policy=str(after.get("maxmemory_policy", "")),
        clients=_number(after, "connected_clients"),
        max_clients=_number(after, "maxclients"),
        evicted=_number(after, "evicted_keys"),
        evicting=_number(after, "evicted_keys") - _number(before, "evicted_keys"),
        rejected=_number(after, "rejected_connections"),
        rejecting=_number(after, "rejected_connections") - _number(before, "rejected_connections"),
        queues=depths[0],
    )


async def _depths(
    session: Session, name: str, queues: Sequence[QueueCheck], missed: Callable[[str], None]
) -> tuple[QueueDepth, ...]:
    found = []
    for queue in queues:
        try:
            entries = await depth_within(session, name, queue.key, queue.type, queue.group, queue.max_depth + 1)
        except (Refused, Terminal) as error:
            missed(str(error))
        else:
            found.append(QueueDepth(queue.key, entries, queue.max_depth))
    return tuple(found)


async def _info(session: Session) -> Numbers:
    found = await session.call("INFO")
    return found if isinstance(found, dict) else {}


def _number(numbers: Numbers, name: str) -> int:
    """What this version of Redis does not tell is 0."""
    value = numbers.get(name, 0)
    return int(value) if isinstance(value, int | float) else 0
