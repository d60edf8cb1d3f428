"""A proxy between the operator and the API server that records every request and breaks the ones it is told to.

    with FaultProxy(cluster.credentials()) as proxy:
        write = proxy.on(lambda seen: seen.is_write and seen.resource == "deployments", Fault(answer=CUT))
        ...                                       # an operator whose kubeconfig is proxy.kubeconfig(token, folder)
        assert write.fired.wait(10)

Towards the operator it speaks plain HTTP on loopback; upstream it verifies the API server. A `Fault` says what happens
to one request, in order: `before` is called, it is forwarded (or not), `after` is called, it is answered (as the server
did, otherwise, or not at all). Hooks are plain functions that may block: each runs in a thread of its own, and holds up
nothing but its request. Watches are forwarded line by line as they come, and can be silenced, ended and cut.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import json
import re
import ssl
import threading
import time
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any

import aiohttp
from aiohttp import web
from yarl import URL

from testbed.access import Credentials, write_private

Json = dict[str, Any]
_PATH = re.compile(
    r"^/(?:api/v1|apis/[^/]+/[^/]+)(?:/namespaces/(?P<namespace>[^/]+)(?=/))?"
    r"/(?P<resource>[^/]+)(?:/(?P<name>[^/]+))?(?:/(?P<subresource>[^/]+))?$"
)
_HOP_BY_HOP = frozenset(
    {"connection", "host", "content-length", "transfer-encoding", "keep-alive", "te", "trailer", "upgrade"}
)
_MAX_BODY = 32 * 1024 * 1024
_HOOKS_AT_ONCE = 256
_START_SECONDS = 10.0


@dataclass
class Seen:
    """One request as it came, and what became of it."""

    number: int
    at: float
    method: str
    path: str
    query: str
    user_agent: str
    body: bytes
    namespace: str
    resource: str
    """Plural, with the subresource if any: "deployments", "incidents/status"."""
    name: str
    is_watch: bool
    upstream: int | None = None
    """The server's status; None when it was not asked or has not answered yet."""
    answered: int | None = None
    """The status that the client got; None while it waits, 0 when the connection was cut."""

    @property
    def is_write(self) -> bool:
        return self.method not in ("GET", "HEAD", "OPTIONS")

    @property
    def digest(self) -> str:
        """Tells whether two bodies are the same."""
        return hashlib.sha256(self.body).hexdigest()[:12]

    @property
    def json(self) -> Json:
        """The decoded body; empty when it is no JSON object."""
        try:
            decoded = json.loads(self.body)
        except ValueError:
            return {}
        return decoded if isinstance(decoded, dict) else {}

    def __str__(self) -> str:
        what = f"#{self.number} {self.method} {self.path} [{self.digest if self.body else '-'}]"
        return f"{what} server={self.upstream or '-'} client={'cut' if self.answered == 0 else self.answered or '-'}"


@dataclass(frozen=True)
class Answer:
    """What the client gets instead of the server's answer."""

    status: int
    headers: dict[str, str] = field(default_factory=dict)
    body: Json | None = None
    """Default: a metav1.Status such as the API server would send."""


class _Cut:
    """The connection is closed without an answer."""


CUT = _Cut()
Hook = Callable[[Seen], None]


@dataclass(frozen=True)
class Fault:
    """What happens to a request; by default nothing out of the ordinary."""

    before: Hook | None = None
    forward: bool = True
    after: Hook | None = None
    answer: Answer | _Cut | None = None
    delay: float = 0.0


@dataclass(eq=False)
class Rule:
    """The requests from the `nth` on that `matches` accepts suffer the fault, `times` of them."""

    matches: Callable[[Seen], bool]
    fault: Fault
    nth: int = 1
    times: int = 1
    fired: threading.Event = field(default_factory=threading.Event)
    """Set when the fault has struck for the first time, before its hooks are called."""
    struck: list[Seen] = field(default_factory=list)
    matched: int = 0

    def take(self, seen: Seen) -> Fault | None:
        """The fault, if this request is to suffer it. Counts the request."""
        if not self.matches(seen):
            return None
        self.matched += 1
        if not self.nth <= self.matched < self.nth + self.times:
            return None
        self.struck.append(seen)
        self.fired.set()
        return self.fault


@dataclass(eq=False)
class _Stream:
    """One open watch."""

    seen: Seen
    transport: asyncio.Transport | None
    goodbye: asyncio.Future[int]
    """The code of the ERROR event to end it with."""

    def end(self, code: int) -> None:
        if not self.goodbye.done():
            self.goodbye.set_result(code)


class FaultProxy:
    """Runs in a thread of its own; all methods may be called from any other thread."""

    def __init__(self, credentials: Credentials) -> None:
        self.url = ""
        self.seen: list[Seen] = []
        self._upstream = credentials
        self._rules: list[Rule] = []
        self._streams: set[_Stream] = set()
        self._silent: set[str] = set()
        self._gone = 0
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="fault proxy", daemon=True)
        self._hooks = ThreadPoolExecutor(_HOOKS_AT_ONCE, "fault hook")
        self._session: aiohttp.ClientSession | None = None
        self._runner: web.AppRunner | None = None

    def __enter__(self) -> FaultProxy:
        self._thread.start()
        self._call(self._start())
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._call(self._stop())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(_START_SECONDS)
        self._loop.close()
        self._hooks.shutdown(wait=False, cancel_futures=True)

    def kubeconfig(self, token: str, folder: Path) -> Path:
        """A kubeconfig whose server is this proxy."""
        config = {
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [{"name": "proxy", "cluster": {"server": self.url}}],
            "users": [{"name": "proxy", "user": {"token": token}}],
            "contexts": [{"name": "proxy", "context": {"cluster": "proxy", "user": "proxy"}}],
            "current-context": "proxy",
        }
        port = self.url.rpartition(":")[2]
        return write_private(folder / f"kubeconfig-proxy-{port}", json.dumps(config, indent=1))

    # -- what to break ------------------------------------------------------------------------------------------------

    def on(self, matches: Callable[[Seen], bool], fault: Fault, *, nth: int = 1, times: int = 1) -> Rule:
        """Breaks requests that match, beginning with the `nth` from now. Where several rules match, the oldest wins."""
        rule = Rule(matches, fault, nth, times)
        self._rules.append(rule)
        return rule

    def forget(self, *rules: Rule) -> None:
        """Withdraws rules; without arguments all of them."""
        self._rules = [one for one in self._rules if rules and one not in rules]

    def silence(self, resource: str) -> None:
        """Watches of the resource, also later ones, stay open and say nothing more."""
        self._silent.add(resource)

    def speak(self, resource: str) -> None:
        """Ends the silence. What was held back is lost: cut the watches if their clients are to notice."""
        self._silent.discard(resource)

    def end_watches(self, resource: str = "", code: int = 410) -> int:
        """Ends open watches (of one resource) with an ERROR event; how many there were. 410: the version is too old."""
        streams = self._streams_of(resource)
        for stream in streams:
            self._loop.call_soon_threadsafe(stream.end, code)
        return len(streams)

    def cut_watches(self, resource: str = "") -> int:
        """Cuts the connections of open watches; how many there were."""
        streams = self._streams_of(resource)
        for stream in streams:
            if stream.transport:
                self._loop.call_soon_threadsafe(stream.transport.abort)
        return len(streams)

    def refuse_watches(self, times: int) -> None:
        """Answers the next watch requests with HTTP 410."""
        self._gone = times

    # -- what was seen ------------------------------------------------------------------------------------------------

    def writes(self, namespace: str = "", since: int = 0) -> list[Seen]:
        """The writes seen so far (to one namespace), oldest first, without Leases; `since` is an index of `seen`."""
        return [
            one
            for one in self.seen[since:]
            if one.is_write and one.resource != "leases" and namespace in ("", one.namespace)
        ]

    def watching(self, resource: str) -> bool:
        """Whether a watch of the resource is open."""
        return bool(self._streams_of(resource))

    def _streams_of(self, resource: str) -> list[_Stream]:
        return [stream for stream in list(self._streams) if resource in ("", stream.seen.resource)]

    # -- its own loop -------------------------------------------------------------------------------------------------

    def _call(self, work: Any) -> None:
        asyncio.run_coroutine_threadsafe(work, self._loop).result(_START_SECONDS)

    async def _start(self) -> None:
        context = ssl.create_default_context(cafile=str(self._upstream.ca) if self._upstream.ca else None)
        if self._upstream.certificate:
            context.load_cert_chain(self._upstream.certificate, self._upstream.key)
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=0, ssl=context),
            timeout=aiohttp.ClientTimeout(total=None, connect=5),
            auto_decompress=False,
        )
        application = web.Application(client_max_size=_MAX_BODY)
        application.router.add_route("*", "/{path:.*}", self._handle)
        self._runner = web.AppRunner(application, access_log=None, shutdown_timeout=0.1)
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", 0).start()
        self.url = f"http://127.0.0.1:{self._runner.addresses[0][1]}"

    async def _stop(self) -> None:
        for stream in list(self._streams):
            if stream.transport:
                stream.transport.abort()
        if self._runner:
            await self._runner.cleanup()
        left = asyncio.all_tasks() - {asyncio.current_task()}
        for task in left:
            task.cancel()
        await asyncio.gather(*left, return_exceptions=True)
        if self._session:
            await self._session.close()

    async def _handle(self, request: web.Request) -> web.StreamResponse:
        seen = self._note(request, await request.read())
        fault = next((one for rule in self._rules if (one := rule.take(seen))), Fault())
        if seen.is_watch:
            return await self._watch(request, seen)
        await self._call_hook(fault.before, seen)
        await asyncio.sleep(fault.delay)
        answer = await self._forward(request, seen) if fault.forward else CUT
        await self._call_hook(fault.after, seen)
        return self._reply(request, seen, fault.answer or answer)

    def _note(self, request: web.Request, body: bytes) -> Seen:
        found = _PATH.match(request.path)
        parts = found.groupdict() if found else {}
        resource = "/".join(part for part in (parts.get("resource"), parts.get("subresource")) if part)
        seen = Seen(
            number=len(self.seen),
            at=time.time(),
            method=request.method,
            path=request.path,
            query=request.query_string,
            user_agent=request.headers.get("User-Agent", ""),
            body=body,
            namespace=parts.get("namespace") or "",
            resource=resource,
            name=parts.get("name") or "",
            is_watch=request.query.get("watch", "") in ("true", "1"),
        )
        self.seen.append(seen)
        return seen

    async def _call_hook(self, hook: Hook | None, seen: Seen) -> None:
        if hook:
            await self._loop.run_in_executor(self._hooks, hook, seen)

    @contextlib.asynccontextmanager
    async def _asked(self, request: web.Request, body: bytes) -> AsyncIterator[aiohttp.ClientResponse]:
        assert self._session is not None
        headers = {name: value for name, value in request.headers.items() if name.lower() not in _HOP_BY_HOP}
        url = self._upstream.url + request.raw_path
        async with self._session.request(
            request.method, URL(url, encoded=True), data=body or None, headers=headers
        ) as answer:
            yield answer

    async def _forward(self, request: web.Request, seen: Seen) -> web.Response | _Cut:
        try:
            async with self._asked(request, seen.body) as answer:
                body = await answer.read()
        except (aiohttp.ClientError, OSError, TimeoutError):
            return CUT
        seen.upstream = answer.status
        return web.Response(status=answer.status, body=body, headers=_end_to_end(answer))

    def _reply(self, request: web.Request, seen: Seen, answer: web.Response | Answer | _Cut) -> web.StreamResponse:
        if isinstance(answer, _Cut):
            seen.answered = 0
            _cut(request)
            return web.Response()
        if isinstance(answer, Answer):
            answer = web.json_response(
                answer.body or _status(answer.status), status=answer.status, headers=answer.headers
            )
        seen.answered = answer.status
        return answer

    async def _watch(self, request: web.Request, seen: Seen) -> web.StreamResponse:
        if self._gone > 0:
            self._gone -= 1
            return self._reply(request, seen, Answer(410))
        try:
            async with self._asked(request, seen.body) as answer:
                seen.upstream = seen.answered = answer.status
                response = web.StreamResponse(status=answer.status, headers=_end_to_end(answer))
                await response.prepare(request)
                await self._stream(request, seen, answer, response)
                return response
        except (aiohttp.ClientError, OSError, TimeoutError):
            _cut(request)
            return web.Response()

    async def _stream(
        self, request: web.Request, seen: Seen, answer: aiohttp.ClientResponse, response: web.StreamResponse
    ) -> None:
        stream = _Stream(seen, request.transport, self._loop.create_future())
        self._streams.add(stream)
        goodbye, rest = stream.goodbye, b""
        chunk: asyncio.Task[bytes] | None = None
        try:
            while True:
                chunk = asyncio.create_task(answer.content.readany())
                waited: tuple[asyncio.Future[Any], ...] = (chunk, goodbye)
                await asyncio.wait(waited, return_when=asyncio.FIRST_COMPLETED)
                if goodbye.done():
                    error = {"type": "ERROR", "object": _status(goodbye.result())}
                    await response.write(json.dumps(error).encode() + b"\n")
                    return
                data = chunk.result()
                if not data:
                    return
                lines, newline, rest = (rest + data).rpartition(b"\n")
                if lines and seen.resource not in self._silent:
                    await response.write(lines + newline)
        finally:
            if chunk:
                chunk.cancel()
            self._streams.discard(stream)


def _cut(request: web.Request) -> None:
    if isinstance(request.transport, asyncio.Transport):
        request.transport.abort()


def _end_to_end(answer: aiohttp.ClientResponse) -> dict[str, str]:
    return {name: value for name, value in answer.headers.items() if name.lower() not in _HOP_BY_HOP}


_REASONS = {409: "Conflict", 410: "Expired", 429: "TooManyRequests", 500: "InternalError", 504: "Timeout"}


def _status(code: int) -> Json:
    return {
        "kind": "Status",
        "apiVersion": "v1",
        "status": "Failure",
        "message": f"made up by the fault proxy: {code}",
        "reason": _REASONS.get(code, "ServiceUnavailable"),
        "code": code,
    }
