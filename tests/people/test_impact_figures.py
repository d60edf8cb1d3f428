"""Figures of the impact, asked from a real Prometheus."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Iterator
from datetime import datetime, timedelta
from typing import Any

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from builders import incident as built
from builders import later, step, verify
from paramedic.clients.prometheus import Prometheus as Client
from paramedic.errors import Retry
from paramedic.verification import Verifier
from people.tellers import NOW, incident, messages
from testbed.monitoring import Prometheus
from testbed.ports import Ports


@pytest.fixture(scope="module")
def prometheus(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Prometheus]:
    with Prometheus(tmp_path_factory.mktemp("prometheus")) as running:
        yield running


@pytest.fixture
async def client(prometheus: Prometheus) -> AsyncIterator[Client]:
    made = Client(prometheus.url)
    yield made
    made.close()


def figures(*queries: str) -> list[dict[str, Any]]:
    return [{"name": f"f{n}", "query": query, "text": "{{ value | percent }}"} for n, query in enumerate(queries)]


async def lines(client: Client | None, *queries: str) -> list[str]:
    found: list[str] = (await messages(prometheus=client, impact=figures(*queries)).facts(incident()))["impact"]
    return found


@pytest.mark.parametrize(
    ("query", "line"),
    [
        ("vector(0.153)", "15%"),
        ("0.5", "50%"),
        ('label_replace(vector(0.2), "a", "b", "", "") or vector(0.4)', "40%"),
        ("vector(0) / 0", "unknown"),
        ("vector(1) / 0", "unknown"),
        ("nothing_of_the_kind", "unknown"),
        ("sum(", "unknown"),
        ('"hello"', "unknown"),
    ],
)
async def test_what_is_told(client: Client, query: str, line: str) -> None:
    assert await lines(client, query) == [line]


@pytest.mark.parametrize(("query", "found"), [('"hello"', "a string"), ('"0.5"', "a string"), ("up[5m]", "a matrix")])
async def test_a_query_that_gives_no_number_is_said(client: Client, query: str, found: str) -> None:
    with pytest.raises(Retry, match=f"the query gives {found}: write one that gives a scalar, or a vector of numbers"):
        await client.query(query)


async def test_a_verification_of_no_number_is_inconclusive(client: Client) -> None:
    """Its time limit counts all the same."""
    checks = verify(prometheus={"query": '"hello"', "condition": "value < 1"}, timeout="1s")
    helped = step("more", "Verifying", verify=checks, verification={"startedAt": later(0)})
    verifier = Verifier(None, client)  # type: ignore[arg-type]
    assert (await verifier.judge_step(built(helped), helped, later(0))).state == "Waiting"
    verdict = await verifier.judge_step(built(helped), helped, later(0.5))
    assert verdict.state == "Inconclusive"
    assert "the query gives a string" in verdict.message


@pytest.mark.parametrize(
    "data",
    [
        [],
        {"resultType": "scalar", "result": []},
        {"resultType": "scalar", "result": None},
        {"resultType": "scalar", "result": [1, {}]},
        {"resultType": "vector", "result": [{"metric": {}, "value": None}]},
        {"resultType": "vector", "result": [{"metric": {}, "histogram": [1, {"count": "1"}]}]},
        {"resultType": "vector", "result": [{"metric": {}, "value": [1, 10**400]}]},
        {"resultType": 7, "result": []},
    ],
)
async def test_an_answer_that_makes_no_sense_is_unknown(data: Any) -> None:
    body = json.dumps({"status": "success", "data": data})

    async def answer(request: web.Request) -> web.Response:
        return web.Response(text=body, content_type="application/json")

    app = web.Application()
    app.router.add_post("/api/v1/query", answer)
    async with TestServer(app) as server:
        odd = Client(str(server.make_url("")))
        assert await lines(odd, "vector(0.1)") == ["unknown"]
        odd.close()


async def test_one_that_fails_does_not_spoil_the_others(client: Client) -> None:
    assert await lines(client, "sum(", "vector(0.1)") == ["unknown", "10%"]


async def test_without_prometheus() -> None:
    assert await lines(None, "vector(0.1)") == ["unknown"]


async def test_prometheus_is_down() -> None:
    ports = Ports()
    gone = Client(f"http://127.0.0.1:{ports.reserve()}")
    assert await lines(gone, "vector(0.1)") == ["unknown"]
    gone.close()
    ports.release()


async def test_a_prometheus_that_hangs_holds_nothing_up() -> None:
    """It takes connections and never answers: several figures wait together, not one after the other."""
    async with await asyncio.start_server(lambda reader, writer: asyncio.sleep(3600), "127.0.0.1") as silent:
        slow = Client(f"http://127.0.0.1:{silent.sockets[0].getsockname()[1]}", timeout_seconds=30)
        async with asyncio.timeout(20):
            assert await lines(slow, *(f"vector({n})" for n in range(8))) == ["unknown"] * 8
        slow.close()


async def test_remembered_for_a_moment(client: Client) -> None:
    """Channels that tell the same ask once; later it is asked anew."""
    now = [NOW]

    def clock() -> datetime:
        return now[0]

    teller = messages(prometheus=client, clock=clock, impact=[{"name": "t", "query": "time()", "text": "{{ value }}"}])
    first = (await teller.facts(incident()))["impact"]
    assert (await teller.facts(incident()))["impact"] == first
    now[0] += timedelta(seconds=11)
    assert (await teller.facts(incident()))["impact"] != first
