"""What users saw of an outage, from the requests of a load generator. Pure.

A second in which more than `BAD_SHARE` of the requests fail is a bad one: an outage begins with the first of them and
is over after the last. A stray request that fails is counted, and is no outage.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from gameday.load import Sample

BAD_SHARE = 0.05
QUIET_SECONDS = 5
"""So many good seconds in a row before users would say that it works again."""
HANGS_SECONDS = 1.0
"""Who waits for longer sees that something is wrong, even where an answer comes in the end."""


@dataclass(frozen=True)
class Outage:
    """Times as `time.time` tells them. `began` is None when there was none, `ended` is None while it lasts."""

    began: float | None
    ended: float | None
    sent: int
    failed: Counter[str]
    """How many requests failed, by the kind of failure."""

    @property
    def failures(self) -> int:
        """All of them."""
        return self.failed.total()

    @property
    def over(self) -> bool:
        """Whether there was one, and it has ended."""
        return self.began is not None and self.ended is not None


def outage_of(samples: Sequence[Sample], since: float) -> Outage:
    """What happened to the requests that were due at `since` or later."""
    seen = [one for one in samples if one.at >= since]
    kinds = Counter(one.failure for one in seen if one.failure)
    bad = bad_seconds(seen)
    if not bad:
        return Outage(None, None, len(seen), kinds)
    began = min(one.at for one in seen if one.failure and math.floor(one.at) >= bad[0])
    return Outage(began, _ended(seen, bad[-1] + 1), len(seen), kinds)


def bad_seconds(samples: Sequence[Sample]) -> list[int]:
    """The seconds (of the epoch) in which users were hurt, in order."""
    sent = Counter(math.floor(one.at) for one in samples)
    failed = Counter(math.floor(one.at) for one in samples if one.failure)
    return sorted(second for second, count in failed.items() if count > BAD_SHARE * sent[second])


def _ended(seen: Sequence[Sample], quiet_from: int) -> float | None:
    """When the first request after the last bad second was answered, and whoever had waited before had an answer or
    gave up; None when that is too short ago to be sure.
    """
    if max(one.at for one in seen) < quiet_from + QUIET_SECONDS:
        return None
    well = min(one.at + one.seconds for one in seen if one.at >= quiet_from and not one.failure)
    hung = [one.at + one.seconds for one in seen if one.at < well and (one.failure or one.seconds > HANGS_SECONDS)]
    return max(well, *hung)
