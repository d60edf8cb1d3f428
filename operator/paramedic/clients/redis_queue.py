"""How much waits in a queue in Redis: a list, a sorted set, or a stream as one of its consumer groups sees it."""

from typing import Any

from paramedic.api.diagnosis import QueueType
from paramedic.api.reasons import Reason
from paramedic.clients.redis import Redis, Session
from paramedic.core.queues import REDIS_TYPES
from paramedic.errors import Refused

_PAGE = 100
"""Entries come with all that is in them."""
_LENGTHS = {"List": "LLEN", "SortedSet": "ZCARD"}


async def depth(queue: Redis, key: str, kind: QueueType | None, group: str | None, enough: int) -> int:
    """The number of entries that wait, those that are being worked on included; a key that is not there has none.

    Where Redis cannot tell it for a stream, entries are counted up to ``enough``. Raises Refused when the key is no
    such queue, or a right is missing; Terminal, Unreachable.
    """
    async with queue.session() as session:
        return await depth_within(session, queue.name, key, kind, group, enough)


async def depth_within(
    session: Session, name: str, key: str, kind: QueueType | None, group: str | None, enough: int
) -> int:
    """The same in a session that is open; ``name`` is the connection's."""
    found = str(await session.call("TYPE", key))
    if found == "none":
        return 0
    present = REDIS_TYPES.get(found)
    if present is None or (kind and kind != present):
        raise Refused(
            Reason.INVALID_PARAMETERS, f"{name}: {key} is a {found[:20]}, not a {kind or ', '.join(REDIS_TYPES)}"
        )
    if present == "Stream":
        return await _waiting(session, name, key, group, enough)
    return _count(await session.call(_LENGTHS[present], key))


async def _waiting(session: Session, name: str, key: str, group: str | None, enough: int) -> int:
    """What the group has not been given yet (lag), and what it has not acknowledged (pending)."""
    if group is None:
        raise Refused(Reason.INVALID_PARAMETERS, f"{name}: {key} is a stream: set group, the consumers' group")
    groups = [_pairs(entry) for entry in await session.call("XINFO", "GROUPS", key)]
    found = next((entry for entry in groups if entry.get("name") == group), None)
    if found is None:
        raise Refused(Reason.INVALID_PARAMETERS, f"{name}: the stream {key} has no consumer group {group}")
    lag = found.get("lag")  # none before Redis 7, and after entries in the middle were deleted
    if lag is None:
        lag = await _count_after(session, key, str(found["last-delivered-id"]), enough)
    return _count(found["pending"]) + _count(lag)


async def _count_after(session: Session, key: str, last: str, enough: int) -> int:
    count = 0
    while count < enough:
        page = await session.call("XRANGE", key, f"({last}", "+", "COUNT", _PAGE)
        count += len(page)
        if len(page) < _PAGE:
            break
        last = page[-1][0]
    return count


def _count(answer: Any) -> int:
    """Raises ValueError, TypeError for what is no number that Redis has, which are of 64 bits."""
    number = int(answer)
    if not 0 <= number < 1 << 63:
        raise ValueError("not a number of entries")
    return number


def _pairs(entry: Any) -> dict[str, Any]:
    """One entry of XINFO: a map, or the flat list that the wire has."""
    return dict(entry) if isinstance(entry, dict) else dict(zip(entry[::2], entry[1::2], strict=True))
