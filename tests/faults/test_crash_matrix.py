"""Every write of a remediation, broken in every way: one effect, one end, no incident lost.

The writes stand in `shapes`; the first test holds them against a clean run. The drills of one wave run at the same
time, each in a namespace of its own, and each test then judges one of them. In the waves that kill the operator every
drill is held at its own write, and when all of them are held it is killed once for all.

Four remediations are broken in every way, the others, whose writes go the same way, in those that differ in what they
leave behind. With EVERY_WAY=1 in the environment all are broken in every way.
"""

import asyncio
import functools
import os
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import pytest

from faults.drill import Drill, Ground, Scene, gather_limited, is_aside, open_scene, touch
from faults.shapes import SHAPES, label, labels, leased_for
from testbed.faultproxy import CUT, Answer, Fault, FaultProxy, Hook, Rule, Seen

CLEAN = "clean"
EVENTS = {
    "rollback": "event Applied",
    "lease": "event PutBack",
    "undo": "event VerificationFailed",
    "limit": "event PutBack",
    "config": "event PutBack",
    "secret": "event PutBack",
    "procedures": "event Applied",
    "block": "event PutBack",
    "close": "event PutBack",
    "job": "event Applied",
    "evidence": "event Applied",
}
KILLS = ("killed before", "killed after", "killed twice")
HELD_TOGETHER = 90.0
"""Seconds in which all drills of a wave come to be held."""
HELD_AGAIN = 13.0
GIVEN_UP_AFTER, NOT_GIVEN_UP = "15s", "5m"
"""The operator's requests: what it gives up while it is held, it could not be killed at."""
PREPARED_AT_ONCE = 12
AT_ONCE, HELD_AT_ONCE = 90, 45
"""Drills of one wave: what two cores can carry without delays that would look like faults; and of those that are held
half of the operator's connections.
"""

FAULTS: dict[str, Fault] = {
    "cut after": Fault(answer=CUT),
    "cut before": Fault(forward=False, answer=CUT),
    "answered 409": Fault(forward=False, answer=Answer(409)),
    "answered 429": Fault(forward=False, answer=Answer(429, {"Retry-After": "1"})),
    "answered 500": Fault(forward=False, answer=Answer(500)),
    "applied but answered 500": Fault(answer=Answer(500)),
    "applied but answered 504": Fault(answer=Answer(504)),
    "applied when given up": Fault(delay=16),
}
TIMES = {"answered 429": 2, "answered 500": 3}
CONFLICT = "in conflict"
"""Another writer changes the object while the operator's write is on its way."""
EVERY_WAY = (*KILLS, *FAULTS, CONFLICT)
DISTINCT_WAYS = ("killed before", "killed after", "cut after", "answered 500", CONFLICT)
IN_EVERY_WAY = frozenset(SHAPES if os.environ.get("EVERY_WAY") == "1" else ("rollback", "lease", "undo", "config"))


@dataclass(frozen=True)
class Point:
    """One test: this write of this remediation breaks in this way."""

    way: str
    shape: str
    write: str

    def __str__(self) -> str:
        return f"{self.shape}: {self.write}: {self.way}"


def points() -> Iterator[Point]:
    for shape in SHAPES.values():
        yield Point(CLEAN, shape.name, "nothing")
        ways = EVERY_WAY if shape.name in IN_EVERY_WAY else DISTINCT_WAYS
        for write in shape.writes:
            yield from (Point(way, shape.name, write) for way in ways)
        yield from (Point(way, shape.name, EVENTS[shape.name]) for way in ways if way in FAULTS)
    # The Events have one sender: a wave can hold only one of them.
    yield from (Point(way, "rollback", EVENTS["rollback"]) for way in KILLS)


@pytest.mark.parametrize("point", list(points()), ids=str)
def test_one_effect_and_one_end(point: Point, waves: "Waves") -> None:
    drill = waves.drill(point)
    assert not drill.problems, drill.story


def test_the_writes_are_those_of_a_clean_run(waves: "Waves") -> None:
    for shape in SHAPES.values():
        drill = waves.drill(Point(CLEAN, shape.name, "nothing"))
        writes = tuple(name for name in labels(waves.writes(drill)) if not is_aside(name))
        assert writes == shape.writes, f"the writes of {shape.name} have changed; they are now\n{writes}\n{drill.story}"


# -- the waves --------------------------------------------------------------------------------------------------------


@dataclass
class Waves:
    """Runs a wave when a test first asks for one of its drills, with all the drills that any test will ask for."""

    ground: Ground
    wanted: list[Point]
    done: dict[Point, Drill] = field(default_factory=dict)

    def drill(self, point: Point) -> Drill:
        if point not in self.done:
            alike = [one for one in self.wanted if _wave(one) == _wave(point)] or [point]
            size = HELD_AT_ONCE if point.way in KILLS else AT_ONCE
            first = alike.index(point) // size * size
            together = alike[first : first + size]
            self.done |= asyncio.run(_run_wave(self.ground, together))
        return self.done[point]

    def writes(self, drill: Drill) -> list[Seen]:
        return self.ground.proxy.writes(drill.namespace)


@pytest.fixture(scope="module")
def waves(ground: Ground, request: pytest.FixtureRequest) -> Waves:
    chosen = [getattr(item, "callspec", None) for item in request.session.items]
    wanted = [spec.params["point"] for spec in chosen if spec and isinstance(spec.params.get("point"), Point)]
    return Waves(ground, wanted)


def _wave(point: Point) -> str:
    """What may run together: an operator dies in one way at a time."""
    if point.way in KILLS or point.way == "applied when given up":
        return point.way
    if point.way.startswith("answered"):
        return "answered"
    return "applied" if point.way.startswith("applied") else "clean"


async def _run_wave(ground: Ground, together: list[Point]) -> dict[Point, Drill]:
    drills = {point: Drill(leased_for(SHAPES[point.shape], "20s"), str(point)) for point in together}
    async with open_scene(ground) as scene:
        await gather_limited(PREPARED_AT_ONCE, *(drill.prepare(scene) for drill in drills.values()))
        break_them = _kill if together[0].way in KILLS else _spoil
        running = await break_them(scene, drills)
        await running
        await gather_limited(PREPARED_AT_ONCE, *(drill.clear(scene) for drill in drills.values()))
    ground.proxy.forget()
    return drills


def _running(scene: Scene, drills: dict[Point, Drill]) -> "asyncio.Future[list[None]]":
    return asyncio.gather(*(drill.run(scene) for drill in drills.values()))


def _is(namespace: str, write: str) -> Callable[[Seen], bool]:
    return lambda seen: seen.namespace == namespace and seen.is_write and label(seen) == write


async def _spoil(scene: Scene, drills: dict[Point, Drill]) -> "asyncio.Future[list[None]]":
    loop = asyncio.get_running_loop()

    def conflict(seen: Seen) -> None:
        asyncio.run_coroutine_threadsafe(touch(scene.admin, seen), loop).result(10)

    await _let_requests_take(scene, GIVEN_UP_AFTER)
    faults = {**FAULTS, CONFLICT: Fault(before=conflict)}
    for point, drill in drills.items():
        if point.way != CLEAN:
            matches = _is(drill.namespace, point.write)
            drill.rule = scene.ground.proxy.on(matches, faults[point.way], times=TIMES.get(point.way, 1))
    return _running(scene, drills)


# -- killing ----------------------------------------------------------------------------------------------------------


class Gate:
    """Holds requests until it is opened; knows whose."""

    def __init__(self) -> None:
        self.held: set[str] = set()
        self._opened = threading.Event()

    def hold(self, seen: Seen) -> None:
        self.held.add(seen.namespace)
        self._opened.wait(120)

    def open(self) -> None:
        self._opened.set()


async def _kill(scene: Scene, drills: dict[Point, Drill]) -> "asyncio.Future[list[None]]":
    way = next(iter(drills)).way
    await _let_requests_take(scene, NOT_GIVEN_UP)
    gate = Gate()
    for point, drill in drills.items():
        drill.rule = scene.ground.proxy.on(_is(drill.namespace, point.write), _held(gate.hold, way))
    running = _running(scene, drills)
    await _kill_when_held(scene, gate, drills, running)
    if way == "killed twice":
        again = Gate()
        rules = [_hold_next_write(scene.ground.proxy, drill.namespace, again) for drill in drills.values()]
        await _start(scene)
        await _kill_when_held(scene, again, {}, running, {drill.namespace for drill in drills.values()})
        scene.ground.proxy.forget(*rules)
    await _start(scene)
    return running


def _held(hold: Hook, way: str) -> Fault:
    """After the kill a request that was not forwarded never is."""
    if way == "killed before":
        return Fault(before=hold, forward=False, answer=CUT)
    return Fault(after=hold, answer=CUT)


def _hold_next_write(proxy: FaultProxy, namespace: str, gate: Gate) -> Rule:
    """The first thing that a restarted operator writes is applied, and it is killed again before it hears of it."""
    mine = functools.partial(_is_own_write, namespace)
    return proxy.on(mine, Fault(after=gate.hold, answer=CUT))


def _is_own_write(namespace: str, seen: Seen) -> bool:
    return seen.is_write and seen.namespace == namespace and seen.resource not in ("events", "leases")


async def _kill_when_held(
    scene: Scene,
    gate: Gate,
    drills: dict[Point, Drill],
    running: "asyncio.Future[list[None]]",
    namespaces: set[str] | None = None,
) -> None:
    """Kills when every drill is held. Where drills may be over without a further write, whoever is held is enough."""
    wanted = namespaces or {drill.namespace for drill in drills.values()}
    seconds = HELD_AGAIN if namespaces else HELD_TOGETHER
    await scene.witness.sees(lambda: gate.held >= wanted or running.done(), seconds)
    for drill in drills.values():
        if drill.namespace not in gate.held:
            drill.problems.append(f"was not held at its write within {seconds:g} s, and so was not killed there")
    await asyncio.to_thread(scene.ground.operator.kill)
    gate.open()


async def _let_requests_take(scene: Scene, timeout: str) -> None:
    operator = scene.ground.operator
    if operator.env.get("PARAMEDIC_REQUEST_TIMEOUT") != timeout:
        operator.env["PARAMEDIC_REQUEST_TIMEOUT"] = timeout
        await asyncio.to_thread(operator.kill)
        await _start(scene)


async def _start(scene: Scene) -> None:
    await asyncio.to_thread(scene.ground.operator.start)
    await asyncio.to_thread(scene.ground.operator.wait_ready)
