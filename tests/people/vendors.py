"""A vendor's HTTP API, played: each request is checked against the schema that the vendor documents, and it can fail in
the ways that a network and a vendor fail.

A fake of one vendor is a subclass with its ``routes``; it keeps the vendor's state, so that a test can assert what the
vendor's users would see. It runs in a thread of its own, so that it also answers operators that run as processes.

    class Pager(FakeVendor):
        def routes(self):
            return [Route("POST", "/v2/enqueue", Event, self.enqueue)]

        def enqueue(self, request: Request) -> Reply: ...

    with Pager() as pager:
        pager.fail_next(Fault.status(429, retry_after=1))
        ...
        pager.check()      # also at the end of the with: no request was against the schema
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
import socket
import struct
import threading
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Self

from aiohttp import web
from pydantic import BaseModel, ConfigDict, TypeAdapter, ValidationError

Json = dict[str, Any]


class Schema(BaseModel):
    """Base of the vendors' schemas: what the vendor does not document is refused, and nothing is coerced."""

    model_config = ConfigDict(extra="forbid", strict=True)


@dataclass(frozen=True)
class Request:
    """A request as it came. ``json`` is its body, None where there is none or it is no JSON."""

    method: str
    path: str
    query: Mapping[str, str]
    headers: Mapping[str, str]
    """Names in lower case."""
    body: bytes
    json: Any
    match: Mapping[str, str]
    """The named groups of the route's path."""


@dataclass(frozen=True)
class Reply:
    """What is answered; ``body`` as JSON, text as it is, None as nothing."""

    status: int = 200
    body: Any = None
    headers: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Route:
    """One documented request: a pattern of the whole path, the schema of its body (None: it has none), what it does."""

    method: str
    path: str
    schema: Any
    handle: Callable[[Request], Reply]


@dataclass(frozen=True)
class Fault:
    """What goes wrong with one request. ``taken``: the vendor has carried it out before."""

    kind: str
    taken: bool = False
    reply: Reply = field(default_factory=Reply)

    @classmethod
    def status(cls, status: int, retry_after: str | int | None = None, body: Any = None) -> Fault:
        """An error is answered, and nothing was done."""
        headers = {} if retry_after is None else {"Retry-After": str(retry_after)}
        return cls("reply", reply=Reply(status, body, headers))

    @classmethod
    def none(cls) -> Fault:
        """This request goes well; for the one after it."""
        return cls("none", taken=True)

    @classmethod
    def garbled(cls) -> Fault:
        """It is carried out, and what comes back is 200 and no JSON."""
        return cls("garbled", taken=True)

    @classmethod
    def reset(cls, *, taken: bool) -> Fault:
        """The connection is reset (RST) instead of an answer."""
        return cls("reset", taken)

    @classmethod
    def hang(cls, *, taken: bool) -> Fault:
        """No answer, until the other side gives up, or the test calls ``release``."""
        return cls("hang", taken)


class FakeVendor:
    """A server at ``url`` while it is entered; ``requests`` are all that came, ``violations`` what was wrong."""

    def __init__(self) -> None:
        self.requests: list[Request] = []
        self.violations: list[str] = []
        self.url = ""
        self._faults: deque[Fault] = deque()
        self._released = threading.Event()
        self._hanging = threading.Event()
        self._port: int = 0
        self._thread: threading.Thread | None = None
        self._stop: Callable[[], object] = lambda: None
        self._up = threading.Event()

    # -- what a vendor says ---------------------------------------------------------------------------------------

    def routes(self) -> list[Route]:
        """The documented requests."""
        raise NotImplementedError

    def authorized(self, request: Request) -> str | None:
        """What is wrong with the request's credentials; None when they are right. By default nothing is asked for."""
        return None

    def refuse(self, status: int, problem: str) -> Reply:
        """How the vendor words an error."""
        return Reply(status, {"error": problem})

    def add_routes(self, app: web.Application) -> None:
        """What is no request and answer: web sockets."""

    # -- what a test says -----------------------------------------------------------------------------------------

    def fail_next(self, *faults: Fault) -> None:
        """The next requests fail like this, one each; those after them do not."""
        self._faults.extend(faults)

    def wait_hanging(self, timeout: float = 30) -> None:
        """Waits until a request hangs (and, where the fault says so, has been carried out)."""
        assert self._hanging.wait(timeout), f"no request hangs at {type(self).__name__} after {timeout} s"

    def release(self) -> None:
        """What hangs is answered."""
        self._released.set()

    def check(self) -> None:
        """Raises AssertionError when a request was against the vendor's documentation."""
        assert not self.violations, "\n".join(self.violations)

    def stop(self) -> None:
        """Goes down: connections are refused. ``start`` comes up again at the same port."""
        self._released.set()
        self._stop()
        if self._thread:
            self._thread.join(10)

    def start(self) -> None:
        """Comes up."""
        self._released.clear()
        self._hanging.clear()
        self._up.clear()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._serve()), daemon=True)
        self._thread.start()
        assert self._up.wait(10), "the fake vendor has not come up"

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        self.stop()
        if kind is None:
            self.check()

    # -- how it works ---------------------------------------------------------------------------------------------

    async def _serve(self) -> None:
        loop, stopped = asyncio.get_running_loop(), asyncio.Event()
        app = web.Application(client_max_size=8 * 1024 * 1024)
        self.add_routes(app)
        app.router.add_route("*", "/{path:.*}", self._serve_one)
        runner = web.AppRunner(app, shutdown_timeout=0.1)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", self._port, reuse_address=True)
        await site.start()
        self._port = runner.addresses[0][1]
        self.url = f"http://127.0.0.1:{self._port}"

        def stop() -> None:
            with contextlib.suppress(RuntimeError):  # stopped before
                loop.call_soon_threadsafe(stopped.set)

        self._stop = stop
        self._up.set()
        await stopped.wait()
        await runner.cleanup()

    async def _serve_one(self, raw: web.Request) -> web.StreamResponse:
        body = await raw.read()
        request = Request(
            raw.method,
            raw.path,
            dict(raw.query),
            {name.lower(): value for name, value in raw.headers.items()},
            body,
            _json(body),
            {},
        )
        self.requests.append(request)
        fault = self._faults.popleft() if self._faults else None
        reply = self._answer(request) if fault is None or fault.taken else fault.reply
        if fault and fault.kind == "reset":
            _reset(raw)
        if fault and fault.kind == "garbled":
            return web.Response(text="<html>")
        if fault and fault.kind == "hang":
            self._hanging.set()
            await self._until_released()
        return _response(reply)

    async def _until_released(self) -> None:
        while not self._released.is_set():  # noqa: ASYNC110 - it is set from another thread
            await asyncio.sleep(0.02)
        self._released.clear()
        self._hanging.clear()

    def _answer(self, request: Request) -> Reply:
        for route in self.routes():
            match = re.fullmatch(route.path, request.path)
            if match and route.method == request.method:
                return self._checked(route, Request(**{**request.__dict__, "match": match.groupdict()}))
        return self._violated(request, 404, "there is no such request")

    def _checked(self, route: Route, request: Request) -> Reply:
        if problem := self.authorized(request):
            return self.refuse(401, problem)
        if route.schema is None and request.body:
            return self._violated(request, 400, "this request has no body")
        if route.schema is not None:
            if request.headers.get("content-type", "").partition(";")[0] != "application/json":
                return self._violated(request, 415, "Content-Type must be application/json")
            try:
                TypeAdapter(route.schema).validate_json(request.body)
            except ValidationError as error:
                return self._violated(request, 400, str(error.errors(include_url=False)))
        return route.handle(request)

    def _violated(self, request: Request, status: int, problem: str) -> Reply:
        self.violations.append(f"{request.method} {request.path}: {problem}; body: {request.body[:2000]!r}")
        return self.refuse(status, problem)


def _json(body: bytes) -> Any:
    try:
        return json.loads(body)
    except ValueError:
        return None


def _response(reply: Reply) -> web.Response:
    if reply.body is None or isinstance(reply.body, str):
        return web.Response(status=reply.status, text=reply.body, headers=dict(reply.headers))
    return web.json_response(reply.body, status=reply.status, headers=dict(reply.headers))


def _reset(raw: web.Request) -> None:
    """RST instead of an orderly end."""
    transport = raw.transport
    assert transport is not None
    transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    transport.abort()
