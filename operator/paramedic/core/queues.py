"""How many workers a queue needs: pure."""

import math
from dataclasses import dataclass

from paramedic.api.diagnosis import QueueType

REDIS_TYPES: dict[str, QueueType] = {"list": "List", "stream": "Stream", "zset": "SortedSet"}


@dataclass(frozen=True, slots=True)
class Sizing:
    """``per_replica`` entries for each worker, between ``least`` and ``most``, and ``shrink_by`` fewer at a time."""

    per_replica: int
    least: int
    most: int
    shrink_by: int


def wanted_replicas(depth: int, present: int, sizing: Sizing) -> int:
    """As many as the queue needs, at once when that is more than there are, else step by step."""
    needed = min(max(math.ceil(depth / sizing.per_replica), sizing.least), sizing.most)
    return needed if needed >= present else max(needed, present - sizing.shrink_by)
