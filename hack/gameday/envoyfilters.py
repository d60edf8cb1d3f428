"""What an EnvoyFilter does to the HTTP filters of a sidecar, as Istio has it. Pure, but for `install_definition`."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

import yaml

from gameday.envoy import MANAGER
from testbed import toolchain
from testbed.access import Access

Json = dict[str, Any]

DEFINITION = toolchain.HACK.parent / "tests" / "products" / "envoyfilters.yaml"
CONTEXT = "SIDECAR_INBOUND"
OTHER_CONTEXTS = ("SIDECAR_OUTBOUND", "GATEWAY")


class FilterError(RuntimeError):
    """An EnvoyFilter says what this mesh does not know, so it cannot tell what Istio would do."""


def install_definition(access: Access) -> None:
    """The CustomResourceDefinition of EnvoyFilters; served when it returns."""
    name = yaml.safe_load(DEFINITION.read_text())["metadata"]["name"]
    access.kubectl("apply", "-f", DEFINITION)
    access.kubectl("wait", "--for=condition=Established", "--timeout=30s", f"crd/{name}")


def patched(spec: Json, filters: list[Json], labels: Mapping[str, str]) -> list[Json]:
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
