"""The load generator: bounded, and honest about what it saw."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import AsyncIterator

import pytest
from aiohttp import web

from gameday.load import MAX_RATE, Call, Load, Sample
from gameday.outage import bad_seconds, outage_of
from testbed.api import eventually


def seconds_of(pattern: str, rate: int = 10) -> list[Sample]:
    """A second of samples for each letter: . all fine, x all fail, s one stray failure of twenty-five."""
    samples = []
    for second, letter in enumerate(pattern):
        count = 25 if letter == "s" else rate
        for number in range(count):
            fails = letter == "x" or (letter == "s" and number == 3)
            samples.append(Sample(1000 + second + number / count, 0.25, "HTTP 500" if fails else ""))
    return samples


def test_an_outage_begins_with_the_first_failure_and_ends_with_the_first_answer() -> None:
    found = outage_of(seconds_of("...xxx......"), since=1000)
    assert (found.began, found.ended) == (1003, 1006.25)
    assert (found.sent, found.failures, found.over) == (120, 30, True)


def test_it_is_not_over_before_it_has_been_quiet_for_long_enough() -> None:
    found = outage_of(seconds_of("...xxx..."), since=1000)
    assert (found.began, found.ended, found.over) == (1003, None, False)


def test_a_relapse_belongs_to_it() -> None:
    found = outage_of(seconds_of(".x......x......."), since=1000)
    assert (found.began, found.ended, found.failures) == (1001, 1009.25, 20)


def test_it_is_not_over_while_those_who_came_before_still_wait() -> None:
    waits = [Sample(1005.5, 2.5, ""), Sample(1005.6, 0.9, "")]
    assert outage_of(seconds_of("...xxx......") + waits, since=1000).ended == 1008
    later = Sample(1007.0, 1.5, "")
    assert outage_of([*seconds_of("...xxx......"), later], since=1000).ended == 1006.25


def test_a_stray_failure_is_counted_and_is_no_outage() -> None:
    found = outage_of(seconds_of(".s........"), since=1000)
    assert (found.began, found.ended, found.failures, found.over) == (None, None, 1, False)


def test_what_failed_before_does_not_count() -> None:
    found = outage_of(seconds_of("xxx......."), since=1003)
    assert (found.began, found.sent, found.failures) == (None, 70, 0)


def test_any_pattern_of_bad_seconds_is_found() -> None:
    for seed in range(50):
        pattern = "".join(random.Random(seed).choices(".x", k=20))
        assert bad_seconds(seconds_of(pattern)) == [1000 + at for at, letter in enumerate(pattern) if letter == "x"]


@pytest.mark.parametrize(("rate", "seconds"), [(0, 10), (MAX_RATE + 1, 10), (10, 0), (10, 1e9)])
def test_traffic_is_bounded(rate: float, seconds: float) -> None:
    with pytest.raises(ValueError, match="bounded"):
        Load("http://127.0.0.1:1", rate=rate, seconds=seconds)


@pytest.fixture
async def server() -> AsyncIterator[tuple[str, Counter[str]]]:
    """A service that answers as its path says; and what it was asked for."""
    asked: Counter[str] = Counter()

    async def answer(request: web.Request) -> web.Response:
        asked[request.path] += 1
        if request.path == "/gone":
            assert request.transport is not None
            request.transport.abort()
        if request.path == "/slow":
            await eventually(lambda: asked["/enough"], 10)
        return web.Response(status=int(request.path.strip("/")) if request.path[1:].isdigit() else 200)

    application = web.Application()
    application.router.add_route("*", "/{path:.*}", answer)
    runner = web.AppRunner(application, shutdown_timeout=0.1)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    assert site._server is not None
    port = site._server.sockets[0].getsockname()[1]  # type: ignore[attr-defined]
    yield f"http://127.0.0.1:{port}", asked
    asked["/enough"] += 1
    await runner.cleanup()


async def test_each_kind_of_failure_is_told_apart(server: tuple[str, Counter[str]]) -> None:
    url, asked = server
    calls = [Call("GET", path) for path in ("/200", "/500", "/503", "/401", "/gone", "/slow")]
    with Load(url, rate=100, calls=calls, timeout=0.3) as load:
        await eventually(lambda: len(load.samples) >= 60, 20)
        await asyncio.to_thread(load.stop)
    kinds = Counter(one.failure for one in load.samples)
    assert set(kinds) == {"", "HTTP 500", "HTTP 503", "HTTP 401", "cut off", "timeout"}
    assert kinds["HTTP 500"] == asked["/500"]
    assert kinds[""] == asked["/200"]
    assert sum(kinds.values()) == sum(asked.values())


async def test_nobody_listening_is_a_refusal() -> None:
    with Load("http://127.0.0.1:9", rate=50) as load:
        await eventually(lambda: len(load.samples) >= 5, 10)
    assert {one.failure for one in load.samples} == {"refused"}


async def test_it_ends_by_itself(server: tuple[str, Counter[str]]) -> None:
    url, _ = server
    load = Load(url, rate=50, seconds=0.5, calls=[Call("GET", "/200")])
    with load:
        await eventually(lambda: not load._thread.is_alive(), 10)
    assert 0 < len(load.samples) <= 60
