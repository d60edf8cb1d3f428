"""A layer in front of moto's server that notes every request to AWS and breaks the ones that it is told to.

    with Faults(moto) as faults:
        rule = faults.on("FailoverDBCluster", LOSE_ANSWER)
        ...                                       # a client whose endpoint is faults.url
        assert rule.struck == 1

What a fault answers instead of moto is AWS' own form of it: the query protocol's XML, which botocore parses by its
model of the service.
"""

from __future__ import annotations

import http.client
import re
import socket
import struct
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any
from urllib.parse import parse_qs

_SCOPE = re.compile(r"Credential=[^/]+/\d+/[^/]+/(?P<service>[^/]+)/aws4_request")


@dataclass
class Asked:
    """One request and what became of it."""

    service: str
    action: str
    arguments: dict[str, str]
    reached_aws: bool = False
    answered: int | None = None


@dataclass(frozen=True)
class Fault:
    """What happens to a request: whether it reaches AWS, and what is answered (None: AWS' answer; "": nothing)."""

    forward: bool = True
    status: int = 200
    answer: str | None = None
    rewrite: Callable[[str], str] | None = None
    hook: Callable[[], None] | None = None
    after: Callable[[], None] | None = None
    """Called when AWS has done it, before the answer."""


def error(code: str, message: str, status: int = 400) -> Fault:
    """AWS refuses the request."""
    body = (
        f"<ErrorResponse><Error><Type>Sender</Type><Code>{code}</Code><Message>{message}</Message></Error>"
        "<RequestId>r-1</RequestId></ErrorResponse>"
    )
    return Fault(forward=False, status=status, answer=body)


def ec2_error(code: str, message: str, status: int = 400) -> Fault:
    """The same in the form that EC2 has."""
    body = f"<Response><Errors><Error><Code>{code}</Code><Message>{message}</Message></Error></Errors></Response>"
    return Fault(forward=False, status=status, answer=body)


LOSE_ANSWER = Fault(answer="")
"""AWS has done it, and the connection is cut before it can say so."""
LOSE_REQUEST = Fault(forward=False, answer="")
"""The connection is cut before AWS sees the request."""
THROTTLED = error("Throttling", "Rate exceeded")
UNAVAILABLE = error("ServiceUnavailable", "try again", 503)
DONE_BUT_500 = Fault(status=500, answer="<ErrorResponse><Error><Code>InternalFailure</Code></Error></ErrorResponse>")
EXPIRED = error("ExpiredToken", "The security token included in the request is expired", 403)


def rewritten(pattern: str, replacement: str) -> Fault:
    """AWS' answer with something changed in it."""
    return Fault(rewrite=lambda text: re.sub(pattern, replacement, text))


@dataclass(eq=False)
class Rule:
    """The requests from the ``nth`` on to that action suffer the fault, ``times`` of them."""

    action: str
    fault: Fault
    nth: int
    times: int
    matched: int = 0
    struck: int = 0

    def take(self, action: str) -> Fault | None:
        if action != self.action:
            return None
        self.matched += 1
        if not self.nth <= self.matched < self.nth + self.times:
            return None
        self.struck += 1
        return self.fault


@dataclass
class Faults:
    """Runs in threads of its own, on loopback."""

    upstream: str
    asked: list[Asked] = field(default_factory=list)
    url: str = ""
    _rules: list[Rule] = field(default_factory=list)
    _server: ThreadingHTTPServer | None = None

    def __enter__(self) -> Faults:
        outer = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                outer._handle(self)

            def log_message(self, *_: Any) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"
        threading.Thread(target=self._server.serve_forever, name="faults", daemon=True).start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._server is not None
        self._server.shutdown()
        self._server.server_close()

    def on(self, action: str, fault: Fault, *, nth: int = 1, times: int = 1) -> Rule:
        """Breaks requests to that action, beginning with the ``nth`` from now; the oldest rule wins."""
        rule = Rule(action, fault, nth, times)
        self._rules.append(rule)
        return rule

    def forget(self) -> None:
        """Withdraws all rules and what was asked."""
        self._rules.clear()
        self.asked.clear()

    def count(self, action: str, *, reached: bool = False) -> int:
        """How often the action was asked for (and reached AWS)."""
        return sum(1 for one in self.asked if one.action == action and (one.reached_aws or not reached))

    def _handle(self, request: BaseHTTPRequestHandler) -> None:
        body = request.rfile.read(int(request.headers.get("Content-Length") or 0))
        seen = _asked(request, body)
        self.asked.append(seen)
        fault = next((one for rule in self._rules if (one := rule.take(seen.action))), Fault())
        if fault.hook:
            fault.hook()
        status, headers, answer = self._forward(request, body) if fault.forward else (200, {}, b"")
        seen.reached_aws = fault.forward
        if fault.after:
            fault.after()
        if fault.answer == "":
            _cut(request)
            return
        if fault.answer is not None:
            status, headers, answer = fault.status, {"Content-Type": "text/xml"}, fault.answer.encode()
        if fault.rewrite:
            answer = fault.rewrite(answer.decode()).encode()
        seen.answered = status
        request.send_response(status)
        for name, value in (headers | {"Content-Length": str(len(answer))}).items():
            request.send_header(name, value)
        request.end_headers()
        request.wfile.write(answer)

    def _forward(self, request: BaseHTTPRequestHandler, body: bytes) -> tuple[int, dict[str, str], bytes]:
        connection = http.client.HTTPConnection(self.upstream.removeprefix("http://"), timeout=30)
        try:
            connection.request(request.command, request.path, body, dict(request.headers.items()))
            answer = connection.getresponse()
            kept = {k: v for k, v in answer.getheaders() if k.lower() in ("content-type", "smithy-protocol")}
            return answer.status, kept, answer.read()
        finally:
            connection.close()


def _asked(request: BaseHTTPRequestHandler, body: bytes) -> Asked:
    scope = _SCOPE.search(request.headers.get("Authorization") or "")
    fields = {k: v[0] for k, v in parse_qs(body.decode(errors="replace")).items()}
    action = fields.get("Action") or (request.headers.get("X-Amz-Target") or request.path).rpartition("/")[2]
    return Asked(scope["service"] if scope else "", action.rpartition(".")[2], fields)


def _cut(request: BaseHTTPRequestHandler) -> None:
    """Closes with a reset, as a machine does that is gone."""
    request.close_connection = True
    request.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    request.connection.close()
