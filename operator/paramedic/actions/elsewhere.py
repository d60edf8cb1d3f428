"""What holds a change when its target does not: an autoscaler, an object that was made for it, a server outside of the
cluster. That may still be there when the target is gone, or was made anew.
"""

from collections.abc import AsyncIterator, Awaitable

from paramedic.actions.base import HPA_BOUNDS, SCALED_OBJECT_BOUNDS, Clients, Json, State, describe
from paramedic.actions.block_traffic.networkpolicy import policies_path
from paramedic.actions.emergency import bounds_of, pause_of
from paramedic.actions.rate_limit.manifests import BACKEND_TRAFFIC_POLICY, ENVOY_FILTER
from paramedic.actions.scaling import read_hpas, read_scaled_objects
from paramedic.api.workload import BoundTarget
from paramedic.errors import NotFound

_AUTOSCALERS = {"HorizontalPodAutoscaler": read_hpas, "ScaledObject": read_scaled_objects}
_FIELDS = {"HorizontalPodAutoscaler": {*HPA_BOUNDS}, "ScaledObject": {*SCALED_OBJECT_BOUNDS, "pausedReplicas"}}
_OWNED = {
    "NetworkPolicy": policies_path,
    ENVOY_FILTER.kind: ENVOY_FILTER.path,
    BACKEND_TRAFFIC_POLICY.kind: BACKEND_TRAFFIC_POLICY.path,
}


async def held_elsewhere(target: BoundTarget, before: State, after: State, clients: Clients) -> str:
    """What still holds a step's change though the target is gone or another, and what was so before, for people;
    empty when the change went with the target. Raises Refused, Retry, Terminal.
    """
    if target.kind == "Connection":
        return f"{target.uid}, where it led to, may still have {describe(after)} (before: {describe(before)})"
    held = [text async for text in _by_autoscalers(target, before, after, clients)]
    held += [text async for text in _by_what_it_owned(target, after, clients)]
    return "; ".join(held)


async def _by_autoscalers(target: BoundTarget, before: State, after: State, clients: Clients) -> AsyncIterator[str]:
    for kind, read in _AUTOSCALERS.items():
        # Only what the step was about: for others there may be no right to look.
        if not _FIELDS[kind].intersection(after) and not any(key.startswith(f"{kind}/") for key in after):
            continue
        for one in await _if_served(read(target, clients)):
            key = f"{kind}/{one['metadata']['name']}"
            wanted, earlier = after.get(key, after), before.get(key, before)
            kept = {k: v for k, v in _set_on(kind, one).items() if v == wanted.get(k) != earlier.get(k)}
            was = {k: earlier.get(k) for k in kept}
            if kept:
                yield f"{key} still has {describe(kept)} (before: {describe(was)})"


async def _by_what_it_owned(target: BoundTarget, after: State, clients: Clients) -> AsyncIterator[str]:
    """What the target owns goes with it, unless it was deleted with ``--cascade=orphan``."""
    for key in after:
        kind, _, name = key.partition("/")
        for one in await _if_served(clients.kube.list(_OWNED[kind](target.namespace))) if kind in _OWNED else ():
            owners = one["metadata"].get("ownerReferences") or []
            if one["metadata"]["name"] == name and target.uid not in [owner["uid"] for owner in owners]:
                yield f"{key} is still there (before: it was not)"


def _set_on(kind: str, autoscaler: Json) -> State:
    """All that a step may have set on it."""
    if kind == "HorizontalPodAutoscaler":
        return bounds_of(autoscaler)
    spec = autoscaler["spec"]
    return {name: spec[name] for name in _FIELDS[kind] if name in spec} | {"pausedReplicas": pause_of(autoscaler)}


async def _if_served(found: Awaitable[list[Json]]) -> list[Json]:
    """None where the API is not installed."""
    try:
        return await found
    except NotFound:
        return []
