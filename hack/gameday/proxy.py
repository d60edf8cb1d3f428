"""A real Envoy in front of covet's Service; and as Istio does, EnvoyFilters become its filters.

It stands for the sidecars of all pods with `LABELS` together: what an EnvoyFilter for their inbound traffic does to
each of them is done to this one. So it counts once what they would each count by themselves.
"""

from __future__ import annotations

import contextlib
import copy
import socket
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import yaml

from gameday.envoy import MANAGER, ROUTER, TO_UPSTREAM, chain, command, write_listener
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
        port = self._ports.reserve()
        self.url = f"http://127.0.0.1:{port}"
        self._port = port
        self._write_listener([])
        self._child = spawn("envoy", command(self._folder, self._upstream), self._folder / "envoy.log")
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
        filters = [ROUTER]
        for spec in specs:
            filters = patched(spec, filters, self._labels)
        write_listener(self._folder, "127.0.0.1", self._port, {"filter_chains": [chain(TO_UPSTREAM, filters)]})


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
    if manager["name"] != MANAGER:
        raise FilterError(f"an EnvoyFilter is for the filter {manager['name']}, which is not known here")
    return str(manager["subFilter"]["name"])


def _known(part: Json, *names: str) -> None:
    if unknown := part.keys() - set(names):
        raise FilterError(f"an EnvoyFilter has {', '.join(sorted(unknown))}, which is not known here")


def _listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0
