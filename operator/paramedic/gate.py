"""Who may write to the API server now: a few at once, and first what brings a target nearer to its change.

In a storm the API server is what is slow. Then every incident's target is changed before what was done is told, and
nothing that only tells waits longer than ``patience`` for that.
"""

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from enum import IntEnum

_LATELY_SECONDS = 0.25


class Urgency(IntEnum):
    """What a write is for; the lower goes first."""

    ACT = 0
    """Changes a target."""
    INTENT = 1
    """Has to be stored before a target is changed."""
    OPEN = 2
    """Stores a new incident."""
    RECORD = 3
    """Tells what has happened."""


async def until_quiet(quiet_seconds: Callable[[], float], wanted: float, *, looks: int, pause: float) -> None:
    """Returns when nothing has been on its way to a change of a target for ``wanted`` seconds, or after so many looks
    with so many seconds after each.
    """
    for _ in range(looks):
        if quiet_seconds() >= wanted:
            return
        await asyncio.sleep(pause)


@dataclass(eq=False, slots=True)
class _Pass:
    """One write. ``counted`` while it holds a slot."""

    urgency: Urgency
    since: float
    admitted: asyncio.Future[None] = field(default_factory=lambda: asyncio.get_running_loop().create_future())
    counted: bool = False


class Gate:
    """Admits at most ``slots`` writes at once; while targets are being changed, only ``records`` of those that record.
    No slot stays empty while somebody may have it.

    ``patience`` seconds make a waiting write the most urgent of all. A write that has not ended after ``stuck_after``
    seconds no longer counts, so that a few that hang do not hold up all others.
    """

    def __init__(self, slots: int = 16, records: int = 4, *, patience: float = 5.0, stuck_after: float = 1.0) -> None:
        self._slots = slots
        self._records = records
        self._patience = patience
        self._stuck_after = stuck_after
        self._waiting: dict[Urgency, deque[_Pass]] = {urgency: deque() for urgency in Urgency}
        self._taken = 0
        self._recording = 0
        self._last_urgent = float("-inf")
        self.before_acting: Callable[[], None] = lambda: None
        """Called when a write that changes a target has its turn; it raises when that must not be done any more."""

    def quiet_seconds(self) -> float:
        """For how long nothing has been written that brings a target nearer to its change."""
        return asyncio.get_running_loop().time() - self._last_urgent

    @asynccontextmanager
    async def admitted(self, urgency: Urgency) -> AsyncIterator[None]:
        """Waits for its turn, and holds a slot meanwhile."""
        loop = asyncio.get_running_loop()
        one = _Pass(urgency, loop.time())
        if urgency is not Urgency.RECORD:
            self._last_urgent = one.since
        self._waiting[urgency].append(one)
        self._admit()
        try:
            await one.admitted
            if urgency is Urgency.ACT:
                self.before_acting()
            stuck = loop.call_later(self._stuck_after, self._release, one)
            try:
                yield
            finally:
                stuck.cancel()
        finally:
            self._leave(one)

    def _leave(self, one: _Pass) -> None:
        """Also for one that was cancelled while it waited."""
        if one.admitted.cancelled():
            with suppress(ValueError):
                self._waiting[one.urgency].remove(one)
        self._release(one)

    def _release(self, one: _Pass) -> None:
        if one.counted:
            one.counted = False
            self._taken -= 1
            self._recording -= one.urgency is Urgency.RECORD
        self._admit()

    def _admit(self) -> None:
        while one := self._next():
            self._waiting[one.urgency].popleft()
            if one.admitted.cancelled():
                continue
            one.counted = True
            self._taken += 1
            self._recording += one.urgency is Urgency.RECORD
            one.admitted.set_result(None)

    def _next(self) -> _Pass | None:
        """Whose turn it is: the one that has waited too long, else the most urgent."""
        if self._taken >= self._slots:
            return None
        records = self._records if self.quiet_seconds() < _LATELY_SECONDS else self._slots
        may = [u for u in Urgency if self._waiting[u] and (u is not Urgency.RECORD or self._recording < records)]
        first = [self._waiting[urgency][0] for urgency in may]
        if not first:
            return None
        oldest = min(first, key=lambda one: one.since)
        overdue = asyncio.get_running_loop().time() - oldest.since >= self._patience
        return oldest if overdue else first[0]
