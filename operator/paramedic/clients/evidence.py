"""Where evidence is kept: streamed, hashed on the way, never whole in memory.

``EvidenceStore`` has the rules (names, limits, checksums, partial results) and a ``Backend`` the place: a directory
(``evidence_directory``) or S3 (``evidence_s3``). One operation's items are a ``Collection``:

    async with store.collection("covet", "api-down", operation) as kept:
        await kept.keep("events.jsonl", "application/x-ndjson", chunks)
        ...
    kept.items

Everything is private to the store: logs are kept as they are, whatever they say.
"""

import asyncio
import hashlib
import json
import re
import threading
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import aclosing, asynccontextmanager, suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Any, Protocol, TypeVar

from paramedic.api.base import format_time
from paramedic.api.incident import Evidence
from paramedic.clients.evidence_shares import Share, Shares
from paramedic.core.evidence import INDEX
from paramedic.errors import ParamedicError

T = TypeVar("T")
Chunks = AsyncGenerator[bytes, None]
_THREADS = 8
_AT_ONCE, _LONG_AT_ONCE = 8, 4
_GIVE_UP_AFTER = 3
_A_DAY = timedelta(days=1)
_NOTE_LENGTH = 300
_LONGEST_SEGMENT = 200


class StoreFailed(ParamedicError):
    """The store did not take something; the message says which store and why."""


class LimitReached(ParamedicError):
    """No more may be written; what fitted has been taken. The message names the limit."""


class Sink(Protocol):
    """Where the bytes of one item go. The methods block, are called one at a time, and raise StoreFailed or OSError."""

    uri: str
    block_bytes: int
    """Size of the blocks that ``write`` is given."""

    def write(self, block: bytes) -> None:
        """Takes a block of exactly ``block_bytes``."""

    def commit(self, rest: bytes) -> None:
        """Takes what is left, at most ``block_bytes``, and makes the item appear, whole and lasting."""

    def abort(self) -> None:
        """Leaves nothing behind."""


class Backend(Protocol):
    """A place to keep evidence."""

    def open(self, path: tuple[str, ...], media_type: str) -> Sink:
        """Begins an item at a path of safe names; it appears when it is committed, in place of an older one. Blocks.
        Raises StoreFailed or OSError.
        """

    def stored_bytes(self, folder: str, since: datetime) -> int:
        """How many bytes lie in the folder of this safe name that were stored since then. Blocks. Raises StoreFailed
        or OSError.
        """


@dataclass(frozen=True, slots=True)
class Limits:
    """Most bytes of one item, of all items of one operation, of a dump of a database, and of what captures of one
    namespace store within a day (None: any number).
    """

    item_bytes: int = 256 * 1024 * 1024
    total_bytes: int = 4 * 1024 * 1024 * 1024
    dump_bytes: int = 2 * 1024 * 1024 * 1024
    day_bytes: int | None = 10 * 1024 * 1024 * 1024


class EvidenceStore:
    """A place with its limits."""

    def __init__(self, backend: Backend, limits: Limits | None = None) -> None:
        self.limits = limits or Limits()
        self.backend = backend
        self.threads = ThreadPoolExecutor(_THREADS, thread_name_prefix="evidence")
        # Every open item holds a block or two in memory, whichever incident it is for.
        self.slots = asyncio.Semaphore(_AT_ONCE)
        self.slots_for_long = asyncio.Semaphore(_LONG_AT_ONCE)
        self.shares = Shares(self.limits.day_bytes, self._stored_today)

    def collection(
        self,
        namespace: str,
        incident: str,
        operation: str,
        *,
        about: Mapping[str, Any] | None = None,
        total_bytes: int | None = None,
        seconds: float | None = None,
        share: Share | None = None,
    ) -> "Collection":
        """The items of one operation, in a folder of their own. ``about`` goes into its index; ``total_bytes`` can only
        lower the limit; reading ends after ``seconds``, and what was read by then is kept; no more is taken than a
        ``share`` has room for.
        """
        whose = {"namespace": namespace, "incident": incident, "operation": operation}
        most = min(self.limits.total_bytes, total_bytes or self.limits.total_bytes)
        limits = replace(self.limits, item_bytes=min(self.limits.item_bytes, most), total_bytes=most)
        return Collection(self, whose | dict(about or {}), tuple(whose.values()), limits, seconds, share)

    def close(self) -> None:
        """Ends the threads."""
        self.threads.shutdown(wait=False, cancel_futures=True)

    async def run(self, function: Callable[..., T], *args: Any) -> T:
        """Calls what blocks in a thread. Raises StoreFailed."""
        try:
            return await asyncio.get_running_loop().run_in_executor(self.threads, function, *args)
        except OSError as error:
            raise StoreFailed(_short(error)) from error

    async def _stored_today(self, namespace: str) -> int:
        return await self.run(self.backend.stored_bytes, safe_name(namespace), datetime.now(UTC) - _A_DAY)


class Collection:
    """The items of one operation. As a context manager it writes the index at its end."""

    def __init__(
        self,
        store: EvidenceStore,
        about: Mapping[str, Any],
        folder: tuple[str, ...],
        limits: Limits,
        seconds: float | None,
        share: Share | None,
    ) -> None:
        self.items: list[Evidence] = []
        self.limits = limits
        self.used_bytes = 0
        self._store = store
        self._about = {"startedAt": format_time(datetime.now(UTC))} | dict(about)
        self._folder = folder
        self._share = share
        self._deadline = None if seconds is None else asyncio.get_running_loop().time() + seconds
        self._failures: list[str] = []

    @property
    def seconds_left(self) -> float | None:
        """Until reading ends; None when it may take as long as it takes."""
        return None if self._deadline is None else max(0.0, self._deadline - asyncio.get_running_loop().time())

    @property
    def room_bytes(self) -> tuple[int, str]:
        """How many bytes all of its items may still take, and which limit says so."""
        own = self.limits.total_bytes - self.used_bytes
        if self._share and self._share.room_bytes < own:
            return self._share.room_bytes, "the most for a namespace and day (evidence.maxBytesPerDay)"
        return max(0, own), f"the most for all items of an operation ({_mebibytes(self.limits.total_bytes)})"

    def count(self, size: int) -> None:
        """So many bytes more (or fewer) are used."""
        self.used_bytes += size
        if self._share:
            self._share.used_bytes += size

    async def __aenter__(self) -> "Collection":
        return self

    async def __aexit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is None:
            await self._write_index()

    @asynccontextmanager
    async def open(
        self, name: str, media_type: str, *, limited: bool = True, most_bytes: int | None = None
    ) -> AsyncIterator["Item"]:
        """One item, which appears with its end; an exception leaves nothing of it. ``most_bytes`` instead of the limit
        for one item. Raises StoreFailed.
        """
        if len(self._failures) >= _GIVE_UP_AFTER:
            raise StoreFailed(f"not tried any more after {_GIVE_UP_AFTER} failures in a row: {self._failures[-1]}")
        path = (*map(safe_name, self._folder), *(safe_name(part) for part in name.split("/") if part))
        sink = await self._run(self._store.backend.open, path, media_type)
        item = Item(name, sink, self, (most_bytes or self.limits.item_bytes) if limited else None)
        try:
            yield item
            await item.finish()
        except BaseException:
            self.count(-item.size_bytes)
            with suppress(StoreFailed):
                await asyncio.shield(self._run(item.abort))
            raise
        self._failures.clear()

    async def keep(
        self, name: str, media_type: str, chunks: Chunks, *, long: bool = False, most_bytes: int | None = None
    ) -> Evidence:
        """Stores a stream. Whatever goes wrong is said in the item's note, and what was read before it is kept.

        ``long`` is for what takes its time by itself and must not have others wait; ``most_bytes`` is as for ``open``.
        Raises nothing but what cancels it.
        """
        try:
            async with self._slot(long=long), self.open(name, media_type, most_bytes=most_bytes) as item:
                item.note = await self._fill(item, chunks)
            kept = item.evidence
        except (StoreFailed, _NothingRead) as error:
            kept = Evidence(name=name, note=f"not captured: {_short(error)}")
        self.items.append(kept)
        return kept

    def miss(self, name: str, why: str) -> None:
        """Notes what could not be captured."""
        self.items.append(Evidence(name=name, note=f"not captured: {_short(why)}"))

    @asynccontextmanager
    async def _slot(self, *, long: bool) -> AsyncIterator[None]:
        """One of the items that may be open at once. Raises _NothingRead when there is none in time."""
        slots = self._store.slots_for_long if long else self._store.slots
        try:
            async with asyncio.timeout_at(self._deadline):
                await slots.acquire()
        except TimeoutError as error:
            raise _NothingRead("the time for this step was over before its turn came") from error
        try:
            yield
        finally:
            slots.release()

    async def _fill(self, item: "Item", chunks: Chunks) -> str:
        """Writes all there is; returns what is to be said of it. Raises StoreFailed, and _NothingRead when reading
        failed before its first byte.
        """
        try:
            async with asyncio.timeout_at(self._deadline), aclosing(chunks):
                async for chunk in chunks:
                    await item.write(chunk)
        except StoreFailed:
            raise
        except LimitReached as limit:
            return str(limit)
        except TimeoutError:
            return self._incomplete(item, "the time for this step was over")
        except (ParamedicError, OSError, ValueError, KeyError, TypeError) as error:
            return self._incomplete(item, _short(error))
        return ""

    def _incomplete(self, item: "Item", why: str) -> str:
        if not item.size_bytes:
            raise _NothingRead(why)
        return f"incomplete: {why}"

    async def _write_index(self) -> None:
        self._deadline = None
        self.items.sort(key=lambda item: item.name)
        try:
            async with self.open(INDEX, "application/json", limited=False) as item:
                for line in _index(self._about, self.items):
                    await item.write(line.encode(errors="replace"))
            self.items.insert(0, item.evidence)
        except StoreFailed as error:
            self.items.insert(0, Evidence(name=INDEX, note=f"not captured: {_short(error)}"))

    async def _run(self, function: Callable[..., T], *args: Any) -> T:
        """Calls what blocks in a thread; failures are counted. Raises StoreFailed."""
        try:
            return await self._store.run(function, *args)
        except StoreFailed as error:
            self._failures.append(_short(error))
            raise


class _NothingRead(ParamedicError):
    """Reading failed before there was anything to keep."""


class Item:
    """One item while it is written; ``note`` says what is missing or was cut."""

    def __init__(self, name: str, sink: Sink, collection: Collection, most_bytes: int | None) -> None:
        self.note = ""
        self.size_bytes = 0
        self._name = name
        self._sink = sink
        self._collection = collection
        self._most_bytes = most_bytes
        self._buffer = bytearray()
        self._sha256 = hashlib.sha256()
        # A cancelled wait leaves its thread at work: what follows comes after it, and knows if it failed.
        self._one_at_a_time = threading.Lock()
        self._broken: Exception | None = None

    async def write(self, chunk: bytes) -> None:
        """Takes a chunk of any size. Raises LimitReached after taking what fits, StoreFailed."""
        room, which = self._room()
        taken = chunk if len(chunk) <= room else chunk[:room]
        self.size_bytes += len(taken)
        self._collection.count(len(taken))
        self._buffer += taken
        while len(self._buffer) > self._sink.block_bytes:
            block = bytes(self._buffer[: self._sink.block_bytes])
            del self._buffer[: self._sink.block_bytes]
            await self._collection._run(self._put, block, self._sink.write)
        if len(taken) < len(chunk):
            raise LimitReached(f"cut at {_mebibytes(self.size_bytes)}, {which}")

    async def finish(self) -> None:
        """Makes the item appear. Raises StoreFailed."""
        await self._collection._run(self._put, bytes(self._buffer), self._sink.commit)
        self._buffer.clear()

    def abort(self) -> None:
        """Leaves nothing behind. Blocks."""
        with self._one_at_a_time:
            self._sink.abort()

    @property
    def evidence(self) -> Evidence:
        """What the status says of it."""
        return Evidence(
            name=self._name,
            uri=self._sink.uri,
            sha256=self._sha256.hexdigest(),
            size_bytes=self.size_bytes,
            note=self.note or None,
        )

    def _room(self) -> tuple[int, str]:
        """How many bytes may follow, and which limit says so."""
        if self._most_bytes is None:
            return 1 << 62, ""
        own, (shared, which) = max(0, self._most_bytes - self.size_bytes), self._collection.room_bytes
        return (own, f"the most for one item ({_mebibytes(self._most_bytes)})") if own <= shared else (shared, which)

    def _put(self, block: bytes, take: Callable[[bytes], None]) -> None:
        with self._one_at_a_time:
            if self._broken:
                raise self._broken
            try:
                take(block)
            except Exception as error:
                self._broken = error
                raise
            self._sha256.update(block)


def safe_name(text: str) -> str:
    """A name for a file or a part of a key: ASCII letters, digits, ``.``, ``_`` and ``-``, 200 at most, not hidden.

    What has to be changed gets a hash of the original, so that two texts never become one name.
    """
    clean = re.sub(r"[^A-Za-z0-9._-]", "_", text).lstrip(".")[:_LONGEST_SEGMENT]
    if clean and clean == text:
        return text
    mark = hashlib.sha256(text.encode(errors="surrogatepass")).hexdigest()[:12]
    stem, dot, suffix = clean.rpartition(".")
    return f"{stem or suffix}-{mark}{dot}{suffix if stem else ''}"


def _index(about: Mapping[str, Any], items: list[Evidence]) -> Iterator[str]:
    """The index as JSON, piece by piece."""
    head = json.dumps(dict(about) | {"finishedAt": format_time(datetime.now(UTC))}, ensure_ascii=False)
    yield f'{head[:-1]}, "items": ['
    for number, item in enumerate(items):
        yield f"{',' if number else ''}\n{json.dumps(item.to_wire(), ensure_ascii=False)}"
    yield "\n]}\n"


def _short(error: object) -> str:
    text = " ".join(str(error).split()) or type(error).__name__
    return text if len(text) <= _NOTE_LENGTH else f"{text[: _NOTE_LENGTH - 1]}…"


def _mebibytes(size: int) -> str:
    return f"{size / (1 << 20):.4g} MiB"
