"""The queue of keys: what one worker meets must not cost the worker."""

import asyncio
from typing import Any

from paramedic import workqueue
from paramedic.workqueue import WorkQueue
from testbed.api import eventually


async def test_a_cancellation_that_is_not_its_own_ends_no_worker(monkeypatch: Any) -> None:
    """Something that the handler waits for is cancelled, as a queued call of a library may be: it is tried again."""
    monkeypatch.setattr(workqueue, "_AFTER_CUT_SHORT", workqueue.timedelta(milliseconds=20))
    told: list[dict[str, Any]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: told.append(context))
    tries: list[str] = []

    async def handler(key: str) -> None:
        tries.append(key)
        if tries.count(key) == 1:
            foreign = asyncio.get_running_loop().create_future()
            foreign.cancel()
            await foreign

    queue = WorkQueue(handler, workers=1)
    running = asyncio.create_task(queue.run())
    queue.add("a")
    queue.add("b")
    await eventually(lambda: tries.count("a") == 2 and tries.count("b") == 2, timeout=5, what="both are tried again")
    assert [one["message"] for one in told] == [f"work on {key} was cut short; it is looked at anew" for key in "ab"]
    assert queue.idle
    running.cancel()
    assert isinstance((await asyncio.gather(running, return_exceptions=True))[0], asyncio.CancelledError)


async def test_who_is_cancelled_ends() -> None:
    begun = asyncio.Event()

    async def handler(_: str) -> None:
        begun.set()
        await asyncio.sleep(60)

    queue = WorkQueue(handler, workers=2)
    running = asyncio.create_task(queue.run())
    queue.add("a")
    await begun.wait()
    running.cancel()
    async with asyncio.timeout(5):
        await asyncio.gather(running, return_exceptions=True)
    assert running.cancelled()
