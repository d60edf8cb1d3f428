"""What actions share that change how many replicas a workload has: ``spec.replicas``, the bounds of the HPA that owns
it, or those of KEDA's ScaledObject.
"""

import asyncio
from datetime import datetime
from typing import Literal

from paramedic.actions.base import (
    HPA_BOUNDS,
    SCALED_OBJECT_BOUNDS,
    Action,
    Change,
    Clients,
    Json,
    Observed,
    Patch,
    State,
    annotation,
    describe,
    patch_of,
    read_target,
)
from paramedic.api.reasons import Reason
from paramedic.api.workload import BoundTarget, target_path
from paramedic.core.verify import Result
from paramedic.errors import NotFound, Refused

_HPA = "/apis/autoscaling/v2/namespaces/{}/horizontalpodautoscalers"
_KEDA = "/apis/keda.sh/v1alpha1/namespaces/{}/scaledobjects"
_PAUSED = ("autoscaling.keda.sh/paused", "autoscaling.keda.sh/paused-replicas")
_DEFAULT = "default"
_LEAST, _MOST = SCALED_OBJECT_BOUNDS
_KEDA_MOST = 100  # where a ScaledObject does not say
_BOUNDS = (HPA_BOUNDS, SCALED_OBJECT_BOUNDS)

ScaledObjectChoice = Literal["Refuse", "Patch"]
SCALED_OBJECT = (
    "Where KEDA scales the workload: refuse, or move the bounds of its ScaledObject (for which the policy's author "
    "needs the right)."
)


class Scaling(Action):
    """Patches ``spec.replicas``, or the bounds of what scales the workload."""

    async def observe(self, target: BoundTarget, clients: Clients) -> Observed:
        """Reads the workload and what scales it."""
        return await read_with_autoscalers(target, clients)

    def state(self, observed: Observed) -> State:
        """Replicas, or the bounds of what scales the workload. Raises Refused when several ScaledObjects do."""
        scaled, hpa = scaled_object_of(observed), hpa_of(observed)
        if scaled:
            return {name: scaled["spec"].get(name, _DEFAULT) for name in (_LEAST, _MOST)}
        if hpa:
            return {"minReplicas": hpa["spec"].get("minReplicas", 1), "maxReplicas": hpa["spec"]["maxReplicas"]}
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
        return Change(before, after, (_write(observed, after, operation),), before, message)

    def rollout(self, workload: Json, after: State, since: datetime | None) -> Result:
        """Until the autoscaler has done its part, what the workload's rollout tells is about the replicas of before."""
        missing = _still_to_scale(int(workload["spec"].get("replicas", 1)), after)
        return Result("Waiting", missing) if missing else super().rollout(workload, after, since)


async def read_with_autoscalers(target: BoundTarget, clients: Clients) -> Observed:
    """The workload and what scales it. Raises NotFound, Refused, Retry, Terminal."""
    workload, hpas, scaled = await asyncio.gather(
        read_target(target, clients.kube), read_hpas(target, clients), read_scaled_objects(target, clients)
    )
    # KEDA has an HPA of its own do the work, and puts back what is changed there.
    return Observed(workload, {"hpa": [], "scaledObject": scaled} if scaled else {"hpa": hpas})


def hpa_of(observed: Observed) -> Json | None:
    """The HPA that scales the workload."""
    return next(iter(observed.related.get("hpa", [])), None)


def scaled_object_of(observed: Observed) -> Json | None:
    """The ScaledObject that scales the target. Raises Refused when there are several."""
    found = observed.related.get("scaledObject", [])
    if len(found) > 1:
        names = ", ".join(s["metadata"]["name"] for s in found)
        raise Refused(Reason.INVALID_PARAMETERS, f"several ScaledObjects scale {observed.name}: {names}")
    return found[0] if found else None


def scaled_object_path(scaled: Json, namespace: str) -> str:
    """Where the API server has it."""
    return f"{_KEDA.format(namespace)}/{scaled['metadata']['name']}"


async def read_hpas(target: BoundTarget, clients: Clients) -> list[Json]:
    """The HPAs that scale the target. Raises Refused, Retry, Terminal."""
    found = await clients.kube.list(_HPA.format(target.namespace))
    return [one for one in found if _scales(one, target)]


def least_replicas(observed: Observed) -> int:
    """The lower bound of what scales the workload, or its replicas where nothing does."""
    scaled, hpa = scaled_object_of(observed), hpa_of(observed)
    if scaled:
        return int(scaled["spec"].get(_LEAST, 0))
    return int(hpa["spec"].get("minReplicas", 1) if hpa else observed.target["spec"].get("replicas", 1))


def least_in(state: State) -> int:
    """The lower bound that a state holds, or its replicas."""
    value = next(state[name] for name in ("replicas", "minReplicas", _LEAST) if name in state)
    return 0 if value == _DEFAULT else int(value)


def require_leave(observed: Observed, choice: ScaledObjectChoice) -> None:
    """Raises Refused when KEDA scales the workload and the policy does not allow to change its ScaledObject, or when
    that is paused.
    """
    scaled = scaled_object_of(observed)
    if scaled is None:
        return
    named = f"ScaledObject/{scaled['metadata']['name']}"
    if choice == "Refuse":
        raise Refused(
            Reason.INVALID_PARAMETERS,
            f"KEDA's {named} scales {observed.name}: write scaledObject: Patch to have its bounds moved",
        )
    if any(annotation(scaled, name) for name in _PAUSED):
        raise Refused(Reason.INVALID_PARAMETERS, f"{named} is paused: its bounds have no effect")


def state_with(observed: Observed, before: State, wanted: int, cap: int | None = None, *, grows: bool = True) -> State:
    """The state with so many replicas. Where something else scales the workload, they are its lower bound, and ``cap``,
    if given, is its upper one; but a step that ``grows``, or raises the lower one, never takes room away from it.
    Raises Refused where the autoscaler would do nothing.
    """
    scaled = scaled_object_of(observed)
    if scaled:
        return _bounds_with(scaled["spec"], before, wanted, cap, grows=grows)
    if "replicas" in before:
        return {"replicas": wanted}
    _require_awake(observed)
    least, most, floor = before["minReplicas"], before["maxReplicas"], max(1, wanted)
    return {"minReplicas": floor, "maxReplicas": _ceiling(most, floor, cap, grows=grows or floor > least)}


def _require_awake(observed: Observed) -> None:
    """Kubernetes turns an HPA off while its workload is at 0 ("Implicit maintenance-mode deactivation")."""
    if observed.target["spec"].get("replicas", 1) == 0:
        raise Refused(
            Reason.INVALID_PARAMETERS,
            f"{observed.name} is at 0, where its HPA does nothing: recover it after a shutdown, else set its replicas "
            "to 1 by hand",
        )


def _bounds_with(spec: Json, before: State, wanted: int, cap: int | None, *, grows: bool) -> State:
    """What a ScaledObject does not say stays unsaid unless it has to change. KEDA has fewer when idle than at least."""
    least, most = spec.get(_LEAST, 0), spec.get(_MOST, _KEDA_MOST)
    floor = max(wanted, spec.get("idleReplicaCount", -1) + 1)
    ceiling = max(_ceiling(most, floor, cap, grows=grows or floor > least), 1)
    return {
        _LEAST: before[_LEAST] if floor == least else floor,
        _MOST: before[_MOST] if ceiling == most else ceiling,
    }


def _ceiling(most: int, floor: int, cap: int | None, *, grows: bool) -> int:
    """In the middle of high load a cap bounds what is wanted, and not what runs already."""
    return max(most if grows or cap is None else 0, cap or 0, floor)


def _write(observed: Observed, after: State, operation: str) -> Patch:
    """The patch of what holds the state: the workload, its HPA, or its ScaledObject."""
    scaled, hpa, namespace = scaled_object_of(observed), hpa_of(observed), observed.target["metadata"]["namespace"]
    if scaled:
        holder, path = scaled, scaled_object_path(scaled, namespace)
    elif hpa:
        holder, path = hpa, f"{_HPA.format(namespace)}/{hpa['metadata']['name']}"
    else:
        holder, path = observed.target, target_path(observed.kind, namespace, observed.name)
    spec = {name: None if value == _DEFAULT else value for name, value in after.items()}
    return patch_of(holder, path, {"spec": spec}, operation, observed.incident)


async def read_scaled_objects(target: BoundTarget, clients: Clients) -> list[Json]:
    """KEDA's objects that scale the target; none where it is not installed."""
    try:
        found = await clients.kube.list(_KEDA.format(target.namespace))
    except NotFound:
        return []
    return [one for one in found if _scales(one, target)]


def _scales(autoscaler: Json, target: BoundTarget) -> bool:
    ref = autoscaler["spec"]["scaleTargetRef"]
    return bool(ref.get("kind", "Deployment") == target.kind and ref["name"] == target.name)


def _still_to_scale(replicas: int, after: State) -> str:
    """What keeps the replicas from the bounds that a step has set; empty when nothing, or where it has set none."""
    for low, high in _BOUNDS:
        least, most = after.get(low), after.get(high)
        if isinstance(least, int) and replicas < least:
            return f"the autoscaler has not scaled it yet: {replicas} replicas are wanted, {low} is {least}"
        if isinstance(most, int) and replicas > most:
            return f"the autoscaler has not scaled it yet: {replicas} replicas are wanted, {high} is {most}"
    return ""


def _describe_change(before: State, after: State) -> str:
    changed = [k for k in after if before.get(k) != after[k]]
    if not changed:
        return f"already {describe(after)}"
    return ", ".join(f"{k} {before.get(k)} → {after[k]}" for k in changed)
