"""A limit by ingress-nginx, which reads it from annotations of the Ingress
(kubernetes.github.io/ingress-nginx/user-guide/nginx-configuration/annotations, "Rate Limiting").
"""

from datetime import timedelta
from typing import TYPE_CHECKING

from paramedic.actions.base import (
    Change,
    Json,
    Observed,
    Outcome,
    Patch,
    State,
    annotation,
    patch_of,
    read_target,
    same_state,
    stamps,
)
from paramedic.actions.rate_limit.manifests import describe_limit
from paramedic.actions.rate_limit.params import RateLimitParams
from paramedic.api.base import format_duration
from paramedic.api.reasons import Reason
from paramedic.api.workload import BoundTarget, target_path
from paramedic.errors import NotFound, Refused

if TYPE_CHECKING:
    from paramedic.clients.kube import Kube

_PREFIX = "nginx.ingress.kubernetes.io/"
_GOVERNED = ("limit-rps", "limit-rpm", "limit-connections", "limit-burst-multiplier")
_PER = {timedelta(seconds=1): "limit-rps", timedelta(minutes=1): "limit-rpm"}
_NOT_SET = "not set"
_LONGEST = 16
_LEGACY_CLASS = "kubernetes.io/ingress.class"


class IngressLimit:
    """Limits by annotations. ``related["ingressclasses"]`` holds the Ingress's class, if it is there."""

    async def observe(self, target: BoundTarget, kube: "Kube") -> Observed:
        """Reads the Ingress and its class. Raises NotFound, Retry, Terminal."""
        ingress = await read_target(target, kube)
        name = _class_name(ingress)
        try:
            found = [await kube.get(f"/apis/networking.k8s.io/v1/ingressclasses/{name}")] if name else []
        except NotFound:
            found = []
        return Observed(ingress, {"ingressclasses": found})

    def state(self, observed: Observed) -> State:
        """The annotations that hold limits."""
        return {key: annotation(observed.target, _PREFIX + key) or _NOT_SET for key in _GOVERNED}

    def plan(self, observed: Observed, params: RateLimitParams, operation: str) -> Change:
        """The patch. Raises Refused for an Ingress of another controller, and for times it does not count in."""
        _require_nginx(observed)
        before = self.state(observed)
        for key, value in before.items():
            if len(value) > _LONGEST:
                raise Refused(
                    Reason.INVALID_PARAMETERS, f"annotation {_PREFIX}{key} is not a number: put it right first"
                )
        wanted = {key: _stricter(before[key], value) for key, value in _limits(params).items()}
        message = f"{observed.name}: {describe_limit(params)} for each client address (ingress-nginx)"
        return _change_to(observed, before, before | wanted, operation, message)

    def restore(self, observed: Observed, before: State, operation: str) -> Change:
        """Back to the earlier annotations."""
        return _change_to(observed, self.state(observed), before, operation, f"{observed.name}: limits as before")

    def settled(self, observed: Observed, before: State, after: State, operation: str) -> Outcome:
        """By the stamp on the Ingress, else by the annotations."""
        if operation in stamps(observed):
            return Outcome.APPLIED
        return Outcome.NOT_APPLIED if same_state(self.state(observed), before) else Outcome.UNKNOWN


def _change_to(observed: Observed, before: State, after: State, operation: str, message: str) -> Change:
    changed = {key: value for key, value in after.items() if before.get(key) != value}
    if not changed:
        return Change(before, after, (), None, f"{observed.name}: limits as wanted already")
    return Change(before, after, (_patch(observed, changed, operation),), before, message)


def _patch(observed: Observed, changed: State, operation: str) -> Patch:
    path = target_path(observed.kind, observed.target["metadata"]["namespace"], observed.name)
    patch = patch_of(observed.target, path, {}, operation, observed.incident)
    patch.body["metadata"]["annotations"] |= {
        _PREFIX + key: None if value == _NOT_SET else value for key, value in changed.items()
    }
    return patch


def _limits(params: RateLimitParams) -> dict[str, int]:
    key = _PER.get(params.per)
    if key is None:
        raise Refused(
            Reason.INVALID_PARAMETERS,
            f"ingress-nginx cannot count per {format_duration(params.per)}: write per as 1s or 1m",
        )
    others = {"limit-connections": params.connections, "limit-burst-multiplier": params.burst_multiplier}
    return {key: params.requests} | {name: value for name, value in others.items() if value is not None}


def _stricter(present: str, wanted: int) -> str:
    """The lower of the two: a mitigation lifts no limit. To ingress-nginx, zero is none."""
    kept = present.isascii() and present.isdigit() and 0 < int(present) < wanted
    return present if kept else str(wanted)


def _class_name(ingress: Json) -> str:
    return str((ingress.get("spec") or {}).get("ingressClassName") or annotation(ingress, _LEGACY_CLASS))


def _require_nginx(observed: Observed) -> None:
    """Its class must be one of ingress-nginx; the annotation's plain ``nginx`` needs no IngressClass."""
    name, found = _class_name(observed.target), observed.related.get("ingressclasses", [])
    if not name:
        raise Refused(
            Reason.INVALID_PARAMETERS,
            f"Ingress/{observed.name} names no class, so it cannot be told who serves it: set spec.ingressClassName",
        )
    controller = str((found[0].get("spec") or {}).get("controller", "")) if found else ""
    by_annotation = not found and annotation(observed.target, _LEGACY_CLASS) == name == "nginx"
    # Several installations in one cluster tell themselves apart by names such as k8s.io/internal-ingress-nginx.
    if not by_annotation and not (controller.startswith("k8s.io/") and "ingress-nginx" in controller):
        served = f"served by {controller[:100]}" if controller else "not there"
        raise Refused(
            Reason.INVALID_PARAMETERS,
            f"Ingress/{observed.name} has the class {name[:100]}, which is {served}: only ingress-nginx "
            "(k8s.io/ingress-nginx) heeds these annotations",
        )
