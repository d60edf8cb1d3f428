"""Bounded traffic at a steady rate, and what became of each request.

    with Load("http://10.96.0.7", rate=40, seconds=600) as load:
        ...
    load.samples

Requests are sent when they are due, however long earlier ones take, as users do; each over a connection of its own, so
that a Service hands it to any of its pods.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import random
import threading
import time
import urllib.parse
from collections.abc import Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Self

TIMEOUT = 2.0
"""Seconds after which a user has given up."""
MAX_RATE = 500.0
MAX_SECONDS = 1800.0


@dataclass(frozen=True)
class Sample:
    """One request: when it was due (`time.time`), how long it took, and "" or why it failed: HTTP 500, timeout, …"""

    at: float
    seconds: float
    failure: str


@dataclass(frozen=True)
class Call:
    """One kind of request. Statuses in `fine` are no failures."""

    method: str
    path: str
    fine: frozenset[int] = frozenset({200, 201})


SHOPPING = (*[Call("GET", f"/items/{number}") for number in range(1, 5)], Call("POST", "/items/7/orders"))
"""Four look for each one that buys."""


class Load:
    """A thread that sends `rate` requests a second for at most `seconds`; every request is one of `calls`, in turn.

    `source` is the address that they come from, where the machine has several. `timeout` is in seconds.
    """

    def __init__(
        self,
        url: str,
        *,
        rate: float,
        seconds: float = MAX_SECONDS,
        calls: Sequence[Call] = SHOPPING,
        source: str = "",
        timeout: float = TIMEOUT,
    ) -> None:
        if not 0 < rate <= MAX_RATE or not 0 < seconds <= MAX_SECONDS:
            raise ValueError(f"traffic is bounded: at most {MAX_RATE:g} requests/s for {MAX_SECONDS:g} s")
        self.url = url
        address = urllib.parse.urlsplit(url)
        self._host, self._port = address.hostname or "", address.port or 80
        self.rate = rate
        """May be changed while it runs."""
        self._until = seconds
        self._calls = itertools.cycle(calls)
        self._source = (source, 0) if source else None
        self._timeout = timeout
        self._samples: list[Sample] = []
        self._stop = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._run()), name="load", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def stop(self) -> None:
        """Sends no more, and waits for the last answers."""
        self._stop.set()
        self._thread.join()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    @property
    def samples(self) -> list[Sample]:
        """The requests answered or given up until now, by the time they were due."""
        return sorted(self._samples, key=lambda one: one.at)

    async def _run(self) -> None:
        under_way: set[asyncio.Task[None]] = set()
        begun = due = time.monotonic()
        while not self._stop.is_set() and due - begun < self._until:
            task = asyncio.create_task(self._send(next(self._calls)))
            under_way.add(task)
            task.add_done_callback(under_way.discard)
            due = max(due + random.uniform(0.5, 1.5) / self.rate, time.monotonic() - 1)  # noqa: S311  # no secret
            await asyncio.sleep(max(0.0, due - time.monotonic()))
        await asyncio.gather(*under_way)

    async def _send(self, call: Call) -> None:
        at, began = time.time(), time.perf_counter()
        failure = await self._failure(call)
        self._samples.append(Sample(at, time.perf_counter() - began, failure))

    async def _failure(self, call: Call) -> str:
        """Why one request failed; "" when it did not."""
        stage = "refused"
        try:
            async with asyncio.timeout(self._timeout):
                reader, writer = await asyncio.open_connection(self._host, self._port, local_addr=self._source)
                with contextlib.closing(writer):
                    stage = "cut off"
                    status = await _status(reader, writer, call, self._host)
        except TimeoutError:
            return "timeout"
        except (OSError, EOFError, ValueError):
            return stage
        return "" if status in call.fine else f"HTTP {status}"


async def _status(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, call: Call, host: str) -> int:
    """One exchange, read to its end. By hand: HTTP libraries repeat by themselves what has failed."""
    length = "" if call.method == "GET" else "Content-Length: 0\r\n"
    head = f"{call.method} {call.path} HTTP/1.1\r\nHost: {host}\r\n{length}Connection: close\r\n\r\n"
    writer.write(head.encode())
    line = await reader.readuntil(b"\r\n")
    await reader.read()
    return int(line.split()[1])
