"""What captures of a namespace may take of the store: turns, and bytes in a day, counted in the store itself."""

from __future__ import annotations

import asyncio
import os
import secrets
import time
from collections.abc import AsyncGenerator
from datetime import UTC, datetime
from pathlib import Path

import pytest

from evidence.places import Directory, Place, opened
from paramedic.api.reasons import Reason
from paramedic.clients.evidence import EvidenceStore, Limits
from paramedic.errors import Terminal
from testbed.api import eventually

TEXT = "text/plain"
MIB = 1 << 20
LIMITS = Limits(item_bytes=8 * MIB, total_bytes=100 * MIB, day_bytes=10 * MIB)


async def chunks(size: int) -> AsyncGenerator[bytes, None]:
    yield secrets.token_bytes(size)


def soon(seconds: float = 10) -> float:
    return asyncio.get_running_loop().time() + seconds


def ignore() -> None:
    pass


async def capture(store: EvidenceStore, operation: str, *sizes: int, namespace: str = "covet") -> list[str]:
    """The notes of items of such sizes, the index left out."""
    async with (
        store.shares.turn(namespace, soon(), ignore) as share,
        store.collection(namespace, "breach", operation, share=share) as kept,
    ):
        for number, size in enumerate(sizes):
            await kept.keep(f"item-{number}", TEXT, chunks(size))
    return [item.note or "" for item in kept.items if item.name != "index.json"]


async def test_a_namespace_stores_only_so_much_within_a_day_whoever_asks(place: Place) -> None:
    with opened(place, LIMITS) as store:
        assert await capture(store, "first", 6 * MIB) == [""]
    with opened(place, LIMITS) as store:  # after a restart, or by another leader
        whole, cut = await capture(store, "second", 2 * MIB, 6 * MIB)
        assert whole == ""
        assert cut.startswith("cut at ")
        assert cut.endswith("the most for a namespace and day (evidence.maxBytesPerDay)")
        assert await capture(store, "elsewhere", 6 * MIB, namespace="other") == [""]
        with pytest.raises(Terminal, match=r"covet has stored 10(\.\d+)? MiB .*evidence\.maxBytesPerDay") as refusal:
            await capture(store, "third", 1)
    assert refusal.value.reason is Reason.EVIDENCE_LIMIT
    assert not [name for name in place.names() if "third" in name]


async def test_what_is_older_than_a_day_counts_no_more(directory: Directory) -> None:
    with opened(directory, LIMITS) as store:
        await capture(store, "first", 6 * MIB, 3 * MIB)
        for file in directory.root.rglob("item-*"):
            os.utime(file, (0, time.time() - 86_500))
        assert await capture(store, "second", 6 * MIB, 3 * MIB) == ["", ""]


async def test_captures_at_the_same_time_share_what_is_left(directory: Directory) -> None:
    with opened(directory, LIMITS) as store:
        await asyncio.gather(*(capture(store, f"op-{n}", 4 * MIB) for n in range(3)))
    files = [file for file in directory.root.rglob("item-*") if file.is_file()]
    assert sum(file.stat().st_size for file in files) <= 10 * MIB


async def test_without_a_limit_nothing_is_counted(directory: Directory) -> None:
    limits = Limits(item_bytes=8 * MIB, total_bytes=100 * MIB, day_bytes=None)
    with opened(directory, limits) as store:
        assert await capture(store, "first", *[6 * MIB] * 3) == [""] * 3


async def test_what_cannot_be_counted_is_said_and_holds_nothing_up(place: Place) -> None:
    with opened(place, LIMITS) as store:

        def fail(*_: object) -> int:
            raise OSError("not allowed to list")

        store.backend.stored_bytes = fail  # type: ignore[method-assign]
        async with store.shares.turn("covet", soon(), ignore) as share:
            assert "not allowed to list" in share.problem
            assert share.room_bytes == 10 * MIB


async def test_what_is_aborted_does_not_count(directory: Directory) -> None:
    with opened(directory, LIMITS) as store:
        async with store.shares.turn("covet", soon(), ignore) as share:
            kept = store.collection("covet", "breach", "op", share=share)
            with pytest.raises(ZeroDivisionError):
                async with kept.open("one", TEXT) as item:
                    await item.write(b"x" * MIB)
                    raise ZeroDivisionError
            assert share.used_bytes == 0


class Turns:
    """Captures that last until they are told to end."""

    def __init__(self, store: EvidenceStore) -> None:
        self._store = store
        self.running: list[str] = []
        self.waiting: list[str] = []
        self.tasks: dict[str, asyncio.Task[None]] = {}

    def begin(self, namespace: str, number: int) -> str:
        name = f"{namespace}-{number}"
        self.tasks[name] = asyncio.create_task(self._one(namespace, name))
        return name

    async def _one(self, namespace: str, name: str) -> None:
        async with self._store.shares.turn(namespace, soon(60), lambda: self.waiting.append(name)):
            self.running.append(name)
            try:
                await asyncio.sleep(60)
            finally:
                self.running.remove(name)

    async def end(self, name: str) -> None:
        self.tasks[name].cancel()
        await asyncio.wait([self.tasks[name]])

    async def are(self, *names: str) -> None:
        await eventually(lambda: sorted(self.running) == sorted(names), what=f"{names} run, not {self.running}")


async def test_two_of_a_namespace_and_four_of_all_at_once_in_their_order(directory: Directory) -> None:
    with opened(directory, LIMITS) as store:
        turns = Turns(store)
        storm = [turns.begin("storm", number) for number in range(5)]
        await turns.are(*storm[:2])
        other, third = [turns.begin(namespace, 0) for namespace in ("other", "third")]
        await turns.are(*storm[:2], other, third)  # a storm in one namespace does not keep others waiting
        fourth = turns.begin("fourth", 0)
        await asyncio.sleep(0)
        assert turns.waiting == [*storm[2:], fourth]
        await turns.end(other)
        await turns.are(*storm[:2], third, fourth)
        await turns.end(storm[0])
        await turns.are(*storm[1:3], third, fourth)
        for name in turns.tasks:
            await turns.end(name)
        assert turns.running == []


async def test_a_turn_that_does_not_come_in_time_ends_the_step(directory: Directory) -> None:
    with opened(directory, LIMITS) as store:
        turns = Turns(store)
        for number in range(2):
            turns.begin("covet", number)
        await turns.are("covet-0", "covet-1")
        with pytest.raises(Terminal) as refusal:
            async with store.shares.turn("covet", soon(0.1), ignore):
                pytest.fail("it is nobody's turn")
        assert refusal.value.reason is Reason.TIMED_OUT
        for name in turns.tasks:
            await turns.end(name)
        async with store.shares.turn("covet", soon(0.1), ignore):
            pass


def test_a_folder_that_is_not_there_holds_nothing(tmp_path: Path) -> None:
    backend = Directory(tmp_path / "missing").backend
    assert backend.stored_bytes("covet", datetime(2000, 1, 1, tzinfo=UTC)) == 0
