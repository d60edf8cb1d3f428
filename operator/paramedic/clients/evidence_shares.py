"""What captures of a namespace may take of the store, so that a storm of incidents fills neither it nor the operator.

Two captures of one namespace at once and four of all, in the order in which they came; and so many bytes within 24
hours (``evidence.maxBytesPerDay``). The bytes are not remembered but counted in the store itself, when the first of a
namespace's captures comes, and from then on as they are written: so neither a restart, another leader nor the deletion
of Incidents makes room.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

from paramedic.api.reasons import Reason
from paramedic.errors import ParamedicError, Terminal

_AT_ONCE, _AT_ONCE_OF_NAMESPACE = 4, 2
_MEBIBYTE = 1 << 20
Count = Callable[[str], Awaitable[int]]
"""How many bytes a namespace has stored within a day. Raises ParamedicError."""


class Share:
    """One namespace's, while captures of it wait or are under way. ``problem`` says why nothing could be counted."""

    def __init__(self, namespace: str, day_bytes: int | None) -> None:
        self.day_bytes = day_bytes
        self.used_bytes = 0
        self.problem = ""
        self.users = 0
        self.turns = asyncio.Semaphore(_AT_ONCE_OF_NAMESPACE)
        self._namespace = namespace
        self._counting = asyncio.Lock()
        self._counted = False

    @property
    def room_bytes(self) -> int:
        """How many may still be written today."""
        return 1 << 62 if self.day_bytes is None else max(0, self.day_bytes - self.used_bytes)

    async def require_room(self, count: Count) -> None:
        """Raises Terminal when there is none. What cannot be counted holds nothing up: evidence is worth more."""
        async with self._counting:
            if not self._counted and self.day_bytes is not None:
                await self._count(count)
        if not self.room_bytes:
            raise Terminal(
                Reason.EVIDENCE_LIMIT,
                f"{self._namespace} has stored {self.used_bytes / _MEBIBYTE:.4g} MiB of evidence within a day, and "
                f"{(self.day_bytes or 0) / _MEBIBYTE:.4g} MiB is the most (evidence.maxBytesPerDay in Paramedic's "
                "settings): nothing more was captured",
            )

    async def _count(self, count: Count) -> None:
        try:
            self.used_bytes += await count(self._namespace)
            self._counted, self.problem = True, ""
        except ParamedicError as error:
            self.problem = str(error)


class Shares:
    """All namespaces'."""

    def __init__(self, day_bytes: int | None, count: Count) -> None:
        self._day_bytes = day_bytes
        self._count = count
        self._turns = asyncio.Semaphore(_AT_ONCE)
        self._open: dict[str, Share] = {}

    @asynccontextmanager
    async def turn(self, namespace: str, deadline: float, wait: Callable[[], None]) -> AsyncIterator[Share]:
        """A capture's turn, with its namespace's share. ``wait`` is called when it has not come yet. Raises Terminal
        when it does not come before ``deadline`` (of the loop's clock), or when nothing more may be stored today.
        """
        share = self._open.setdefault(namespace, Share(namespace, self._day_bytes))
        share.users += 1
        try:
            if share.turns.locked() or self._turns.locked():
                wait()
            async with _in_time(share.turns, deadline), _in_time(self._turns, deadline):
                await share.require_room(self._count)
                yield share
        finally:
            share.users -= 1
            if not share.users:
                self._open.pop(namespace, None)


@asynccontextmanager
async def _in_time(turns: asyncio.Semaphore, deadline: float) -> AsyncIterator[None]:
    try:
        async with asyncio.timeout_at(deadline):
            await turns.acquire()
    except TimeoutError as error:
        raise Terminal(
            Reason.TIMED_OUT, "the turn of this capture did not come within the step's time: others were under way"
        ) from error
    try:
        yield
    finally:
        turns.release()
