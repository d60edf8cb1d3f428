"""When did a target change? Seen the same way for both sides: by a watch on the Deployments, for their stamp."""

from __future__ import annotations

import asyncio
import json
import re
import time
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager

import aiohttp

from bench.bed import NAMESPACE, STAMP, Bare

_PATH = f"/apis/apps/v1/namespaces/{NAMESPACE}/deployments"
_VERSION = re.compile(rb'"resourceVersion":"(\d+)"')


class Changes:
    """The time (monotonic) at which each Deployment was first seen with a stamp."""

    def __init__(self, version: str) -> None:
        self.at: dict[str, float] = {}
        self.version = version
        self.established = asyncio.Event()
        self._arrived = asyncio.Event()

    def saw(self, line: bytes) -> None:
        """One line of the watch."""
        now = time.monotonic()
        if line.startswith(b'{"type":"ERROR"'):
            raise LookupError(f"the watch was refused: {line.decode(errors='replace')}")
        if found := _VERSION.search(line):
            self.version = found[1].decode()
        if STAMP.encode() not in line:
            return
        metadata = json.loads(line)["object"]["metadata"]
        if STAMP in metadata.get("annotations", {}):
            self.at.setdefault(metadata["name"], now)
            self._arrived.set()

    async def of(self, names: Iterable[str], timeout: float = 120) -> float:
        """When the last of them changed. TimeoutError, naming some, when not all do."""
        wanted = set(names)
        try:
            async with asyncio.timeout(timeout):
                while wanted - self.at.keys():
                    self._arrived.clear()
                    await self._arrived.wait()
        except TimeoutError:
            missing = sorted(wanted - self.at.keys())
            raise TimeoutError(f"{len(missing)} targets have not changed in {timeout:g} s: {missing[:5]} …") from None
        return max(self.at[name] for name in wanted)


@asynccontextmanager
async def changes(bare: Bare) -> AsyncIterator[Changes]:
    """Watches the bench's Deployments meanwhile. Should the watch fail for good, so does what runs inside."""
    listing = json.loads(await bare.send("GET", f"{_PATH}?limit=1"))
    seen = Changes(listing["metadata"]["resourceVersion"])
    async with asyncio.TaskGroup() as group:
        reader = group.create_task(_follow(bare, seen))
        await seen.established.wait()
        try:
            yield seen
        finally:
            reader.cancel()


async def _follow(bare: Bare, seen: Changes) -> None:
    """Reads, and goes on where it was when the server (which closes slow watches) or the connection has ended it."""
    while True:
        path = f"{bare.url}{_PATH}?watch=1&resourceVersion={seen.version}"
        try:
            async with bare.session.get(path, read_bufsize=2**22) as answer:
                answer.raise_for_status()
                seen.established.set()
                async for line in answer.content:
                    seen.saw(line)
        except (
            aiohttp.ClientConnectionError,
            aiohttp.ClientPayloadError,
            RuntimeError,
            OSError,
        ):  # "Connection closed."
            continue
