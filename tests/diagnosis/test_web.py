"""What a URL in a policy can make the operator do, and what it cannot."""

from __future__ import annotations

import asyncio
import time

import pytest
from aiohttp import web as server

from diagnosis.servers import answering, endless, serving
from paramedic.clients.web import Web
from paramedic.errors import Refused, Retry
from testbed.silent import silent


@pytest.mark.parametrize(
    "url",
    [
        "http://169.254.169.254/latest/meta-data/",
        "http://[fe80::1]/",
        "http://[fe80::1%25eth0]/",
        "http://127.0.0.1:6443/",
        "http://127.8.9.10/",
        "http://localhost/",
        "http://[::1]/",
        "http://[::]/",
        "http://0.0.0.0/",
        "http://0.1.2.3/",
        "http://224.0.0.1/",
        "http://[ff02::1]/",
        "http://255.255.255.255/",
        "http://[::ffff:127.0.0.1]/",
        "http://[::ffff:169.254.169.254]/",
        "http://[::7f00:1]/",
        "http://[64:ff9b::a9fe:a9fe]/",
        "http://[2002:a9fe:a9fe::1]/",
        "http://100.100.100.200/",
        "http://168.63.129.16/",
        "http://[fd00:ec2::254]/",
        "file:///etc/passwd",
        "ftp://example.com/",
    ],
)
async def test_such_addresses_are_refused(url: str) -> None:
    async with Web() as client:
        with pytest.raises(Refused):
            await client.check(url)


@pytest.mark.parametrize("url", ["http://2130706433/", "http://0x7f.1/", "http://127.1/", "http://0177.0.0.1/"])
async def test_disguised_loopback_is_not_reached(url: str) -> None:
    async with Web() as client:
        with pytest.raises((Refused, Retry)):
            await client.check(url)


async def test_without_leave_a_server_on_this_machine_sees_nothing() -> None:
    seen = []

    async def note(request: server.Request) -> server.StreamResponse:
        seen.append(request.path)
        return server.Response()

    async with serving(note) as url, Web() as client:
        for host in ("127.0.0.1", "localhost"):
            with pytest.raises(Refused, match="loopback"):
                await client.check(url.replace("127.0.0.1", host))
    assert seen == []


async def test_redirects_are_told_and_not_followed(web: Web) -> None:
    seen = []

    async def move(request: server.Request) -> server.StreamResponse:
        seen.append(request.path)
        raise server.HTTPFound("/elsewhere")

    async with serving(move) as url:
        assert (await web.check(f"{url}/here")).status == 302
    assert seen == ["/here"]


async def test_an_endless_body_is_left_early(web: Web) -> None:
    async with serving(endless) as url:
        began = time.monotonic()
        assert (await web.check(url)).status == 200
        assert time.monotonic() - began < 2
        body, whole = await web.read(url, 100_000)
    assert (len(body), whole) == (100_000, False)


async def test_a_short_body_is_read_whole(web: Web) -> None:
    async with serving(answering(200, "hello")) as url:
        assert await web.read(url, 100) == (b"hello", True)
    async with serving(answering(500, "hello")) as url:
        with pytest.raises(Retry, match="answered 500"):
            await web.read(url, 100)


async def test_no_answer_is_a_retry_that_says_why(web: Web) -> None:
    async with serving(answering()) as url:
        pass
    with pytest.raises(Retry, match="no connection"):
        await web.check(url)
    with pytest.raises(Retry, match="does not resolve"):
        await web.check("http://no-such-host.invalid/")


async def test_no_credentials_and_no_cookies_are_sent(web: Web) -> None:
    seen = []

    async def note(request: server.Request) -> server.StreamResponse:
        seen.append({name.lower() for name in request.headers})
        return server.Response(headers={"Set-Cookie": "a=b"})

    async with serving(note) as url:
        await web.check(url)
        await web.check(url)
    assert seen == [{"host", "user-agent", "accept", "accept-encoding", "connection"}] * 2


async def test_a_server_that_is_silent_can_be_left(web: Web) -> None:
    async with silent() as url:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.2):
                await web.check(url)
