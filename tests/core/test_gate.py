"""The gate before the API server: what goes first, what cannot starve, what gives its slot back."""

import asyncio
from collections.abc import Callable

from paramedic.gate import Gate, Urgency

PLENTY = 3600.0


class Writes:
    """Writes that go on until they are told to end; ``begun`` is the order in which they were admitted."""

    def __init__(self, gate: Gate) -> None:
        self._gate = gate
        self.begun: list[str] = []
        self._ends: dict[str, asyncio.Event] = {}
        self._tasks: dict[str, asyncio.Task[None]] = {}

    async def begin(self, name: str, urgency: Urgency) -> None:
        self._ends[name] = asyncio.Event()
        self._tasks[name] = asyncio.create_task(self._write(name, urgency))
        await settle()

    async def end(self, name: str) -> None:
        self._ends[name].set()
        await self._tasks[name]
        await settle()

    async def cancel(self, name: str) -> None:
        self._tasks[name].cancel()
        await asyncio.wait([self._tasks[name]])
        await settle()

    async def _write(self, name: str, urgency: Urgency) -> None:
        async with self._gate.admitted(urgency):
            self.begun.append(name)
            await self._ends[name].wait()


async def settle() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


async def eventually(true: Callable[[], bool]) -> None:
    async with asyncio.timeout(5):
        while not true():  # noqa: ASYNC110
            await asyncio.sleep(0.01)


async def test_the_more_urgent_goes_first_and_among_equals_the_first_come() -> None:
    writes = Writes(Gate(1, 1, patience=PLENTY, stuck_after=PLENTY))
    await writes.begin("holder", Urgency.ACT)
    for name, urgency in (
        ("record", Urgency.RECORD),
        ("open", Urgency.OPEN),
        ("intent", Urgency.INTENT),
        ("act 1", Urgency.ACT),
        ("act 2", Urgency.ACT),
    ):
        await writes.begin(name, urgency)
    in_order = ["holder", "act 1", "act 2", "intent", "open", "record"]
    for name in in_order:
        await writes.end(name)
    assert writes.begun == in_order


async def test_no_more_at_once_than_slots_and_none_stays_empty() -> None:
    writes = Writes(Gate(2, 2, patience=PLENTY, stuck_after=PLENTY))
    for name in ("a", "b", "c"):
        await writes.begin(name, Urgency.RECORD)
    assert writes.begun == ["a", "b"]
    await writes.end("b")
    assert writes.begun == ["a", "b", "c"]


async def test_records_leave_room_for_what_is_urgent() -> None:
    writes = Writes(Gate(2, 1, patience=PLENTY, stuck_after=PLENTY))
    await writes.begin("first act", Urgency.ACT)
    await writes.end("first act")
    for name in ("record 1", "record 2"):
        await writes.begin(name, Urgency.RECORD)
    await writes.begin("act", Urgency.ACT)
    assert writes.begun == ["first act", "record 1", "act"]
    await writes.end("record 1")
    assert writes.begun == ["first act", "record 1", "act", "record 2"]


async def test_records_have_all_the_room_when_nothing_is_urgent() -> None:
    writes = Writes(Gate(2, 1, patience=PLENTY, stuck_after=PLENTY))
    for name in ("record 1", "record 2", "record 3"):
        await writes.begin(name, Urgency.RECORD)
    assert writes.begun == ["record 1", "record 2"]


async def test_what_has_waited_too_long_is_the_most_urgent() -> None:
    writes = Writes(Gate(1, 1, patience=0.05, stuck_after=PLENTY))
    await writes.begin("holder", Urgency.ACT)
    await writes.begin("record", Urgency.RECORD)
    await asyncio.sleep(0.06)
    await writes.begin("act", Urgency.ACT)
    await writes.end("holder")
    assert writes.begun == ["holder", "record"]


async def test_one_that_is_cancelled_gives_its_slot_or_its_place_back() -> None:
    writes = Writes(Gate(1, 1, patience=PLENTY, stuck_after=PLENTY))
    for name in ("holder", "given up", "next"):
        await writes.begin(name, Urgency.ACT)
    await writes.cancel("given up")
    await writes.cancel("holder")
    assert writes.begun == ["holder", "next"]


async def test_one_that_is_cancelled_in_the_moment_of_its_admission_gives_its_slot_back() -> None:
    gate = Gate(1, 1, patience=PLENTY, stuck_after=PLENTY)
    writes = Writes(gate)
    await writes.begin("holder", Urgency.ACT)
    await writes.begin("given up", Urgency.ACT)
    writes._ends["holder"].set()
    await writes._tasks["holder"]  # its slot belongs to the other now, which has not run since
    await writes.cancel("given up")
    await writes.begin("next", Urgency.ACT)
    assert writes.begun[-1] == "next"


async def test_one_that_is_cancelled_when_its_turn_comes_passes_it_on() -> None:
    writes = Writes(Gate(1, 1, patience=PLENTY, stuck_after=PLENTY))
    for name in ("holder", "given up", "next"):
        await writes.begin(name, Urgency.ACT)
    writes._tasks["holder"].cancel()  # both in the same turn of the loop, the holder first
    writes._tasks["given up"].cancel()
    await asyncio.wait([writes._tasks["holder"], writes._tasks["given up"]])
    await settle()
    assert writes.begun == ["holder", "next"]


async def test_one_that_hangs_holds_up_nobody_and_its_end_frees_nothing_twice() -> None:
    writes = Writes(Gate(1, 1, patience=PLENTY, stuck_after=0.05))
    await writes.begin("hangs", Urgency.ACT)
    await writes.begin("next", Urgency.ACT)
    await eventually(lambda: writes.begun == ["hangs", "next"])
    await writes.end("hangs")
    await writes.begin("third", Urgency.ACT)
    assert writes.begun == ["hangs", "next"]
    await writes.end("next")
    assert writes.begun == ["hangs", "next", "third"]


async def test_one_that_fails_gives_its_slot_back() -> None:
    gate = Gate(1, 1, patience=PLENTY, stuck_after=PLENTY)
    try:
        async with gate.admitted(Urgency.RECORD):
            raise ValueError
    except ValueError:
        pass
    async with asyncio.timeout(1), gate.admitted(Urgency.RECORD):
        pass


async def test_who_may_not_act_any_more_when_his_turn_comes_does_not() -> None:
    gate = Gate(slots=1)
    writes = Writes(gate)
    await writes.begin("first", Urgency.ACT)

    def refuse() -> None:
        raise RuntimeError("another process has taken over")

    gate.before_acting = refuse
    waiting = asyncio.create_task(writes._write("second", Urgency.ACT))
    await settle()
    await writes.end("first")
    await asyncio.wait([waiting])
    assert isinstance(waiting.exception(), RuntimeError)
    await writes.begin("record", Urgency.RECORD)
    assert writes.begun == ["first", "record"], "it has left its slot"
