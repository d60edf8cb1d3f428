"""The HTTP service, its traffic and its metrics."""

from __future__ import annotations

import contextlib
import http.client
import itertools
import threading
import time
import urllib.parse
from collections import Counter
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from testbed.rest import ApiError, Rest

Json = dict[str, Any]

BAD_SUFFIX = "-bad"
POLL_SECONDS = 0.2
CODES = (200, 500, 503)


class Backends:
    """The images of the pods that are Ready, as the API server last told; one request goes to each in turn."""

    def __init__(self, api: Rest, namespace: str, selector: str) -> None:
        self._api = api
        self._path = f"/api/v1/namespaces/{namespace}/pods?labelSelector={urllib.parse.quote(selector)}"
        self._images: list[str] = []
        self._turn = itertools.count()

    def answer(self) -> int:
        """The status with which the next pod answers; 503 when there is none."""
        images = self._images
        if not images:
            return 503
        return 500 if images[next(self._turn) % len(images)].endswith(BAD_SUFFIX) else 200

    def follow(self) -> None:
        """Asks again and again, for ever; an API server that is away leaves things as they were."""
        while True:
            with contextlib.suppress(OSError, ApiError):
                pods = self._api.request("GET", self._path)["items"]
                self._images = [_image(pod) for pod in pods if _serves(pod)]
            time.sleep(POLL_SECONDS)


def serve(port: int, backends: Backends, requests_per_second: float) -> None:
    """Serves `/` and `/metrics` and sends itself traffic; does not return."""
    counts: Counter[int] = Counter()
    server = ThreadingHTTPServer(("127.0.0.1", port), _handler(backends, counts))
    for job in (backends.follow, lambda: _send_traffic(port, requests_per_second)):
        threading.Thread(target=job, daemon=True).start()
    server.serve_forever()


def _handler(backends: Backends, counts: Counter[int]) -> type[BaseHTTPRequestHandler]:
    lock = threading.Lock()

    class Handler(BaseHTTPRequestHandler):
        """Answers for the pods."""

        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            if self.path == "/metrics":
                with lock:
                    text = _exposition(counts)
                self._answer(200, text, "text/plain; version=0.0.4")
                return
            code = backends.answer()
            with lock:
                counts[code] += 1
            self._answer(code, "ok\n" if code == 200 else "error\n", "text/plain")

        def _answer(self, code: int, text: str, kind: str) -> None:
            body = text.encode()
            self.send_response(code)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: Any) -> None:
            """Its metrics tell enough."""

    return Handler


def _exposition(counts: Counter[int]) -> str:
    """Every code is there from the start: a rate needs two samples of a series."""
    lines = [f'http_requests_total{{code="{code}"}} {counts[code]}' for code in CODES]
    return "\n".join(["# HELP http_requests_total Requests served.", "# TYPE http_requests_total counter", *lines, ""])


def _send_traffic(port: int, per_second: float) -> None:
    """A steady stream over one connection, for ever."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
    due = time.monotonic()
    while True:
        try:
            connection.request("GET", "/")
            connection.getresponse().read()
        except (OSError, http.client.HTTPException):
            connection.close()
        due = max(due + 1 / per_second, time.monotonic() - 1)
        time.sleep(max(0.0, due - time.monotonic()))


def _image(pod: Json) -> str:
    return str(pod["spec"]["containers"][0]["image"])


def _serves(pod: Json) -> bool:
    """Ready and not on its way out: what a Service sends traffic to."""
    conditions = {one["type"]: one["status"] for one in pod.get("status", {}).get("conditions", [])}
    return conditions.get("Ready") == "True" and "deletionTimestamp" not in pod["metadata"]
