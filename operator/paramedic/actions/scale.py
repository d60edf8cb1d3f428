"""``scale``: replicas, or the bounds of the HPA that owns them (runbook 1 and 3, ``kubectl scale``)."""

import math
import re
from typing import Annotated

from pydantic import ConfigDict, Field

from paramedic.actions.base import (
    Action,
    Change,
    Clients,
    Json,
    Observed,
    Patch,
    State,
    describe,
    patch_of,
    read_target,
)
from paramedic.api.base import Model, rule
from paramedic.api.reasons import Reason
from paramedic.api.workload import BoundTarget, target_path
from paramedic.errors import Refused

_RELATIVE = re.compile(r"([+-][0-9]+)(%?)")
_REPLICAS_SCHEMA = {
    "anyOf": [{"type": "integer"}, {"type": "string"}],
    "x-kubernetes-int-or-string": True,
    # A CEL rule with a message of its own would exceed the API server's cost budget here.
    "pattern": "^[+-][0-9]{1,4}%?$",
    "x-kubernetes-validations": [
        rule("type(self) != int || self >= 0", 'replicas cannot be negative; write "-2" (in quotes) to take two away')
    ],
}


_WITHIN_MAXIMUM = rule(
    "type(self.replicas) != int || !has(self.maxReplicas) || self.replicas <= self.maxReplicas",
    "replicas must not be more than maxReplicas",
)


class ScaleParams(Model):
    """How many replicas."""

    model_config = ConfigDict(json_schema_extra={"x-kubernetes-validations": [_WITHIN_MAXIMUM]})

    replicas: Annotated[int | str, Field(json_schema_extra=_REPLICAS_SCHEMA)] = Field(
        description='Absolute (10), or relative to the present: "+3", "-2", "+50%", "-25%". '
        "Where an HPA owns the workload, its minReplicas.",
    )
    max_replicas: int | None = Field(
        None, ge=1, le=10000, description="Never more than this; where an HPA owns the workload, its maxReplicas too."
    )


class Scaling(Action):
    """What actions share that change how many replicas there are: ``spec.replicas``, or the owning HPA's bounds."""

    async def observe(self, target: BoundTarget, clients: Clients) -> Observed:
        """Reads the workload and the HPA that scales it."""
        workload = await read_target(target, clients.kube)
        hpas = await clients.kube.list(f"/apis/autoscaling/v2/namespaces/{target.namespace}/horizontalpodautoscalers")
        return Observed(workload, {"hpa": [h for h in hpas if _scales(h, target)]})

    def state(self, observed: Observed) -> State:
        """Replicas, or the HPA's bounds."""
        hpa = _hpa(observed)
        if hpa:
            spec = hpa["spec"]
            return {"minReplicas": spec.get("minReplicas", 1), "maxReplicas": spec["maxReplicas"]}
        return {"replicas": observed.target["spec"].get("replicas", 1)}

    def restore(self, observed: Observed, before: State, operation: str) -> Change:
        """Back to the earlier replicas or bounds."""
        return self.change_to(observed, before, operation)

    def change_to(self, observed: Observed, after: State, operation: str) -> Change:
        """The change to another state. Raises Refused when something else scales the workload by now."""
        before = self.state(observed)
        if set(before) != set(after):
            raise Refused(
                Reason.TARGET_CHANGED,
                f"an autoscaler was added to or removed from {observed.name} meanwhile: hands off",
            )
        message = f"{observed.name}: {_describe_change(before, after)}"
        if before == after:
            return Change(before, after, (), None, message)
        return Change(before, after, (self.write(observed, after, operation),), before, message)

    def write(self, observed: Observed, after: State, operation: str) -> Patch:
        """The patch of what holds the state: the workload, or its HPA."""
        hpa = _hpa(observed)
        namespace = observed.target["metadata"]["namespace"]
        if hpa:
            path = f"/apis/autoscaling/v2/namespaces/{namespace}/horizontalpodautoscalers/{hpa['metadata']['name']}"
            return patch_of(hpa, path, {"spec": dict(after)}, operation, observed.incident)
        path = target_path(observed.kind, namespace, observed.name)
        return patch_of(observed.target, path, {"spec": dict(after)}, operation, observed.incident)


class Scale(Scaling):
    """Patches ``spec.replicas``, or the owning HPA's ``minReplicas`` and ``maxReplicas``."""

    name = "scale"
    summary = "Changes replicas; where an HPA owns the workload, moves the HPA's bounds."
    params = ScaleParams

    def plan(self, observed: Observed, params: ScaleParams, operation: str) -> Change:
        """The patch to the wanted number. Raises Refused for a DaemonSet, or a number that makes no sense."""
        if observed.kind == "DaemonSet":
            raise Refused(Reason.UNSUPPORTED_KIND, "a DaemonSet has no replicas: one pod runs on each node")
        before = self.state(observed)
        # Under an HPA, what runs now counts: "+3" means three more than there are.
        present: int = max(before.get("minReplicas", 0), observed.target["spec"].get("replicas", 1))
        wanted = _wanted(params.replicas, present)
        if params.max_replicas is not None:
            wanted = min(wanted, max(params.max_replicas, present) if wanted > present else params.max_replicas)
        return self.change_to(observed, _state_for(before, wanted, params.max_replicas), operation)


def _scales(hpa: Json, target: BoundTarget) -> bool:
    ref = hpa["spec"]["scaleTargetRef"]
    return bool(ref["kind"] == target.kind and ref["name"] == target.name)


def _hpa(observed: Observed) -> Json | None:
    return next(iter(observed.related.get("hpa", [])), None)


def _wanted(replicas: int | str, present: int) -> int:
    if isinstance(replicas, int):
        return replicas
    found = _RELATIVE.fullmatch(replicas)
    if not found:
        raise Refused(Reason.INVALID_PARAMETERS, f"replicas: {replicas!r} is neither a number nor like +3 or +50%")
    amount, percent = int(found[1]), bool(found[2])
    if not percent:
        return max(0, present + amount)
    step = math.ceil(abs(amount) * present / 100)
    return max(0, present + (step if amount > 0 else -step))


def _state_for(before: State, wanted: int, cap: int | None) -> State:
    if "replicas" in before:
        return {"replicas": wanted}
    floor = max(1, wanted)
    return {"minReplicas": floor, "maxReplicas": max(cap or before["maxReplicas"], floor)}


def _describe_change(before: State, after: State) -> str:
    changed = [k for k in after if before.get(k) != after[k]]
    if not changed:
        return f"already {describe(after)}"
    return ", ".join(f"{k} {before.get(k)} → {after[k]}" for k in changed)
