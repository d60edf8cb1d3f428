"""What an edge answers when it cannot take a request: so that the sender tries again, or does not."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import aiohttp
import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from paramedic.errors import Retry
from paramedic.inbound import edge
from paramedic.inbound.edge import Answer, Edge, text
from paramedic.metrics import Metrics


@asynccontextmanager
async def served(
    answer: Answer, *, ready: bool = True, at_once: int = 64
) -> AsyncIterator[tuple[aiohttp.ClientSession, Metrics]]:
    """A client of an edge that takes at most 100 bytes."""
    metrics = Metrics()
    app = web.Application()
    edge = Edge("test", answer, metrics.inbound_requests, ready=lambda: ready, max_bytes=100, max_in_flight=at_once)
    app.router.add_post("/", edge.handle)
    async with TestServer(app) as server, aiohttp.ClientSession(server.make_url("/")) as client:
        yield client, metrics


async def echo(_: web.Request, body: bytes) -> web.Response:
    return text(200, body.decode())


async def test_it_counts_what_it_answers() -> None:
    async with served(echo) as (client, metrics):
        async with client.post("", data=b"hello") as answer:
            assert (answer.status, await answer.text()) == (200, "hello\n")
        assert (
            metrics.registry.get_sample_value("paramedic_inbound_requests_total", {"edge": "test", "code": "200"}) == 1
        )


@pytest.mark.parametrize(("error", "status"), [(Retry("no"), 503), (ValueError("no"), 500), (TimeoutError(), 500)])
async def test_what_fails_is_to_be_sent_again(error: Exception, status: int) -> None:
    async def fail(*_: object) -> web.Response:
        raise error

    async with served(fail) as (client, _), client.post("", data=b"x") as answer:
        assert answer.status == status
        assert "again" in await answer.text()


async def test_nothing_is_taken_before_everything_is_known() -> None:
    async with served(echo, ready=False) as (client, _), client.post("", data=b"x") as answer:
        assert answer.status == 503


async def test_a_body_that_is_too_large_whether_it_says_so_or_not() -> None:
    async def chunks() -> AsyncIterator[bytes]:
        for _ in range(20):
            yield b"x" * 10

    for data in (b"x" * 101, chunks()):
        async with served(echo) as (client, _), client.post("", data=data) as answer:
            assert answer.status == 413
    async with served(echo) as (client, _), client.post("", data=b"x" * 100) as answer:
        assert answer.status == 200


async def test_a_sender_that_is_stuck_loses_its_place(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(edge, "_READ_SECONDS", 0.2)
    never = asyncio.Event()

    async def stuck() -> AsyncIterator[bytes]:
        yield b"x"
        await never.wait()

    async with served(echo) as (client, _), client.post("", data=stuck()) as answer:
        assert answer.status == 503
    never.set()


async def test_only_so_many_at_once() -> None:
    entered, leave = asyncio.Event(), asyncio.Event()

    async def wait(_: web.Request, body: bytes) -> web.Response:
        entered.set()
        await leave.wait()
        return text(200, "done")

    async def status(client: aiohttp.ClientSession) -> int:
        async with client.post("", data=b"x") as answer:
            return answer.status

    async with served(wait, at_once=1) as (client, _):
        first = asyncio.create_task(status(client))
        await entered.wait()
        assert await status(client) == 503
        leave.set()
        assert await first == 200
        assert await status(client) == 200
