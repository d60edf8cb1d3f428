"""Blocking at the Service itself: its type, or its selector."""

from typing import Any

from paramedic.actions.base import Change, Json, Observed, Outcome, State, annotation, patch_of, same_state
from paramedic.actions.block_traffic.params import BlockTrafficParams
from paramedic.api import ANNOTATION_OPERATION
from paramedic.api.reasons import Reason
from paramedic.api.workload import target_path
from paramedic.core.merge import merge_difference
from paramedic.errors import Refused

SHUT_DOWN = {"app": "emergency-shutdown"}
"""The runbook's selector that no pod has."""
_OUTSIDE = ("LoadBalancer", "NodePort")
_NOTHING = ""
_FIELDS = (
    "type",
    "externalIPs",
    "loadBalancerClass",
    "loadBalancerIP",
    "loadBalancerSourceRanges",
    "externalTrafficPolicy",
    "healthCheckNodePort",
    "allocateLoadBalancerNodePorts",
)
"""What exists for a Service that is reached from outside only; the API server drops some of it with the type, and
refuses the type while the rest is there."""


class Exposure:
    """``type: ClusterIP``. Undo brings back all that the change dropped, the node ports on the ports that are there
    then.
    """

    def state(self, observed: Observed) -> State:
        """How the Service is reached from outside; what it lacks is the empty string, which a status keeps."""
        spec = observed.target["spec"]
        ports = {_port(p): p["nodePort"] for p in spec.get("ports") or [] if p.get("nodePort")}
        return {name: _kept(spec.get(name)) for name in _FIELDS} | {"nodePorts": ports or _NOTHING}

    def plan(self, observed: Observed, params: BlockTrafficParams, operation: str) -> Change:
        """Nothing from outside. Raises Refused for a Service that is only a name."""
        _require_pods_behind(observed)
        before = self.state(observed)
        after: State = dict.fromkeys(before, _NOTHING) | {"type": "ClusterIP"}
        if before["type"] == "ClusterIP" and before["externalIPs"] == _NOTHING:
            return Change(
                before, before, (), None, f"{observed.name}: is a ClusterIP Service, not reached from outside"
            )
        changes: Json = {"spec": dict.fromkeys(_FIELDS) | {"type": "ClusterIP"}}
        return Change(before, after, (_patch(observed, changes, operation),), before, _told(observed, before))

    def restore(self, observed: Observed, before: State, operation: str) -> Change:
        """As it was reached before."""
        present = self.state(observed)
        if present == before:
            return Change(present, before, (), None, f"{observed.name}: as before already")
        spec: Json = {name: None if before[name] == _NOTHING else before[name] for name in _FIELDS}
        numbers = before["nodePorts"] or {}
        if numbers:
            ports = observed.target["spec"].get("ports") or []
            spec["ports"] = [p | ({"nodePort": numbers[_port(p)]} if _port(p) in numbers else {}) for p in ports]
        patch = _patch(observed, {"spec": spec}, operation)
        return Change(present, before, (patch,), None, f"{observed.name}: {before['type']} again, as before")


class SelectorSwap:
    """A selector that selects nothing. Undo brings back exactly the earlier one."""

    def state(self, observed: Observed) -> State:
        """The selector."""
        return {"selector": observed.target["spec"].get("selector") or _NOTHING}

    def plan(self, observed: Observed, params: BlockTrafficParams, operation: str) -> Change:
        """The swap. Raises Refused for a Service whose endpoints are somebody's own."""
        _require_pods_behind(observed)
        before, after = self.state(observed), {"selector": dict(SHUT_DOWN)}
        if before["selector"] == _NOTHING:
            raise Refused(
                Reason.INVALID_PARAMETERS,
                f"Service/{observed.name} has no selector: its EndpointSlices are written by somebody else, and go on "
                "being so; remove those",
            )
        message = f"{observed.name}: selector {_labels(before['selector'])} → {_labels(SHUT_DOWN)}, which no pod has"
        return _swap(observed, before, after, operation, message)

    def restore(self, observed: Observed, before: State, operation: str) -> Change:
        """The earlier selector."""
        message = f"{observed.name}: selector {_labels(before['selector'])} again"
        return _swap(observed, self.state(observed), before, operation, message)


def settled_by_stamp(present: State, observed: Observed, before: State, operation: str) -> Outcome:
    """Whether the Service was changed by the operation."""
    if annotation(observed.target, ANNOTATION_OPERATION) == operation:
        return Outcome.APPLIED
    return Outcome.NOT_APPLIED if same_state(present, before) else Outcome.UNKNOWN


def _swap(observed: Observed, present: State, wanted: State, operation: str, message: str) -> Change:
    if present == wanted:
        return Change(present, wanted, (), None, f"{observed.name}: selector is {_labels(wanted['selector'])} already")
    changes: Json = {"spec": {"selector": merge_difference(present["selector"] or {}, wanted["selector"])}}
    return Change(present, wanted, (_patch(observed, changes, operation),), present, message)


def _patch(observed: Observed, changes: Json, operation: str) -> Any:
    path = target_path("Service", observed.target["metadata"]["namespace"], observed.name)
    return patch_of(observed.target, path, changes, operation, observed.incident)


def _require_pods_behind(observed: Observed) -> None:
    spec = observed.target["spec"]
    if spec.get("type") == "ExternalName":
        raise Refused(
            Reason.UNSUPPORTED_KIND,
            f"Service/{observed.name} is of type ExternalName, only another name of {spec.get('externalName')}: there "
            "is no traffic to block",
        )


def _told(observed: Observed, before: State) -> str:
    ways = [f"{before['type']} → ClusterIP"] if before["type"] in _OUTSIDE else []
    ways += [f"external IPs {', '.join(before['externalIPs'])} removed"] if before["externalIPs"] else []
    address = "; put back, its address outside may be another" if before["type"] == "LoadBalancer" else ""
    return f"{observed.name}: {', '.join(ways)} (an Ingress to it, and the cluster itself, still reach it{address})"


def _port(port: Json) -> str:
    return f"{port['port']}/{port.get('protocol', 'TCP')}"


def _kept(value: Any) -> Any:
    return _NOTHING if value is None or value == [] else value


def _labels(selector: Any) -> str:
    return ",".join(f"{key}={value}" for key, value in sorted(selector.items())) if selector else "nothing"
