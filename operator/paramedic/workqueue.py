"""A queue of keys, each worked on by one worker at a time, with one heap of timers for all."""

import asyncio
import contextlib
import heapq
from collections.abc import Awaitable, Callable
from datetime import timedelta
from itertools import count

Handler = Callable[[str], Awaitable[None]]
_AFTER_CUT_SHORT = timedelta(seconds=1)


class WorkQueue:
    """Keys are worked on in the order of their coming, those that are ``urgent`` when they come before all others. A
    key that is added while it is waiting is worked on once; one that is added while it is worked on is worked on once
    more afterwards.
    """

    def __init__(self, handler: Handler, workers: int, urgent: Callable[[str], bool] = lambda key: False) -> None:
        self._handler = handler
        self._workers = workers
        self._urgent = urgent
        self._ready: asyncio.PriorityQueue[tuple[int, int, str]] = asyncio.PriorityQueue()
        self._turns = count()
        self._waiting: dict[str, int] = {}
        self._active: set[str] = set()
        self._again: set[str] = set()
        self._timers: list[tuple[float, str]] = []
        self._due: dict[str, float] = {}
        self._wake = asyncio.Event()
        self._closed = False

    def __len__(self) -> int:
        return len(self._waiting)

    @property
    def idle(self) -> bool:
        """Whether nothing is waiting or being worked on (timers aside)."""
        return not self._waiting and not self._active

    def add(self, key: str) -> None:
        """Works on the key as soon as a worker is free."""
        if self._closed:
            return
        if key in self._active:
            self._again.add(key)
            return
        lane = 0 if self._urgent(key) else 1
        if self._waiting.get(key, 2) > lane:  # one that has become urgent leaves its place in the other lane
            self._waiting[key] = lane
            self._ready.put_nowait((lane, next(self._turns), key))

    def add_after(self, key: str, delay: timedelta) -> None:
        """Works on the key after the delay, or earlier if it was to be earlier already."""
        at = asyncio.get_running_loop().time() + max(0.0, delay.total_seconds())
        if self._due.get(key, float("inf")) <= at:
            return
        self._due[key] = at
        heapq.heappush(self._timers, (at, key))
        self._wake.set()

    def clear(self) -> None:
        """Forgets all that waits; what is being worked on ends by itself."""
        while not self._ready.empty():
            self._ready.get_nowait()
        self._waiting.clear()
        self._again.clear()
        self._timers.clear()
        self._due.clear()

    def close(self) -> None:
        """Takes nothing more; what is being worked on may end."""
        self._closed = True
        self.clear()

    async def run(self) -> None:
        """Works until cancelled."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._run_timers(), name="work queue: timers")
            for number in range(self._workers):
                group.create_task(self._work(), name=f"work queue: worker {number}")

    async def _work(self) -> None:
        while True:
            lane, _, key = await self._ready.get()
            if self._waiting.get(key) != lane:
                continue
            del self._waiting[key]
            self._active.add(key)
            self._due.pop(key, None)
            try:
                await self._handler(key)
            except asyncio.CancelledError as error:
                if _is_cancelled():
                    raise
                self._cut_short(key, error)
            finally:
                self._active.discard(key)
                if key in self._again:
                    self._again.discard(key)
                    self.add(key)

    def _cut_short(self, key: str, error: asyncio.CancelledError) -> None:
        """What the handler waited for was cancelled, not the worker: that goes on, and with the key later."""
        told = {"message": f"work on {key} was cut short; it is looked at anew", "exception": error}
        asyncio.get_running_loop().call_exception_handler(told)
        self.add_after(key, _AFTER_CUT_SHORT)

    async def _run_timers(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            self._wake.clear()
            while self._timers and self._timers[0][0] <= loop.time():
                at, key = heapq.heappop(self._timers)
                if self._due.get(key) == at:
                    del self._due[key]
                    self.add(key)
            wait = self._timers[0][0] - loop.time() if self._timers else None
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(wait):
                    await self._wake.wait()


def _is_cancelled() -> bool:
    """Whether somebody wants the present task to end."""
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0
