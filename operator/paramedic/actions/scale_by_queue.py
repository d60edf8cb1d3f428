"""``scaleByQueue``: as many workers as a queue in Redis needs (runbook 3, "Queue Backlog")."""

from dataclasses import dataclass, replace
from typing import Literal

from pydantic import ConfigDict, Field

from paramedic.actions.base import Change, Clients, Json, Observed, Patch, State, annotation, patch_of
from paramedic.actions.outside import connections_of
from paramedic.actions.scale import Scaling
from paramedic.api.base import Model, ObjectName, rule
from paramedic.api.reasons import Reason
from paramedic.api.workload import BoundTarget
from paramedic.clients.redis_queue import depth
from paramedic.core.queues import QueueType, Sizing, wanted_replicas
from paramedic.errors import NotFound, Refused, Retry, Terminal

_KEDA = "/apis/keda.sh/v1alpha1/namespaces/{}/scaledobjects"
_PAUSED = ("autoscaling.keda.sh/paused", "autoscaling.keda.sh/paused-replicas")
_DEFAULT = "default"
_LEAST, _MOST = "minReplicaCount", "maxReplicaCount"
_KEDA_MOST = 100  # where a ScaledObject does not say


class ScaleByQueueParams(Model):
    """Which queue, and how many workers for it."""

    model_config = ConfigDict(
        json_schema_extra={
            "x-kubernetes-validations": [
                rule("!has(self.min) || self.min <= self.max", "min must not be more than max"),
                rule(
                    "!has(self.type) || self.type != 'Stream' || has(self.group)",
                    "type Stream needs group, the name of the consumers' group",
                ),
                rule("!has(self.group) || !has(self.type) || self.type == 'Stream'", "only a Stream has a group"),
            ]
        }
    )

    connection: ObjectName = Field(description="The connection of type redis.")
    key: str = Field(min_length=1, max_length=512, description="Key of the queue.")
    type: QueueType | None = Field(None, description="What is at the key; default: what Redis says.")
    group: str | None = Field(
        None, min_length=1, max_length=512, description="Of a stream: the consumer group whose work is counted."
    )
    per_replica: int = Field(ge=1, le=1_000_000_000, description="So many entries for each replica.")
    least: int = Field(1, alias="min", ge=0, le=10_000, description="Never fewer replicas.")
    most: int = Field(alias="max", ge=1, le=10_000, description="Never more replicas.")
    shrink_by: int = Field(1, ge=1, le=10_000, description="Most replicas that one step takes away.")
    scaled_object: Literal["Refuse", "Patch"] = Field(
        "Refuse",
        description="Where KEDA scales the workload: refuse, or move the bounds of its ScaledObject (for which the "
        "policy's author needs the right).",
    )


@dataclass(frozen=True, slots=True)
class _Depth:
    """What waits in the queue, or why that is not known."""

    entries: int = 0
    problem: str = ""
    reason: Reason = Reason.CONNECTION_FAILED


class ScaleByQueue(Scaling):
    """As ``scale``; where KEDA scales the workload, its ScaledObject's bounds are moved."""

    name = "scaleByQueue"
    summary = "Sets replicas by the depth of a queue in Redis: grows at once, shrinks by steps."
    params = ScaleByQueueParams
    kinds = ("Deployment", "StatefulSet")
    extra = "redis"
    connection_types = ("redis",)

    def connection_named(self, params: Json, target: str | None) -> str | None:
        """The queue's connection."""
        return str(params.get("connection", ""))

    async def observe_for(self, target: BoundTarget, params: Json, clients: Clients) -> Observed:
        """Reads the workload, what scales it, and the queue, which is not needed to put something back."""
        observed = await self.observe(target, clients)
        scaled = [s for s in await _scaled_objects(target, clients) if _scales(s, target)]
        related = dict(observed.related) | ({"hpa": [], "scaledObject": scaled} if scaled else {})
        return replace(observed, related=related, seen=await _read_depth(target, params, clients))

    def state(self, observed: Observed) -> State:
        """Replicas, or the bounds of what scales the workload."""
        scaled = _scaled_object(observed)
        if scaled is None:
            return super().state(observed)
        return {name: scaled["spec"].get(name, _DEFAULT) for name in (_LEAST, _MOST)}

    def plan(self, observed: Observed, params: ScaleByQueueParams, operation: str) -> Change:
        """The patch to as many as the queue needs. Raises Refused; Terminal when the queue's depth is not known."""
        queue = observed.seen
        assert isinstance(queue, _Depth)
        if queue.problem:
            raise Terminal(queue.reason, queue.problem)
        scaled = _scaled_object(observed)
        if scaled is not None and params.scaled_object == "Refuse":
            raise Refused(
                Reason.INVALID_PARAMETERS,
                f"KEDA's ScaledObject/{scaled['metadata']['name']} scales {observed.name}: write scaledObject: Patch "
                "to have its bounds moved",
            )
        sizing = Sizing(params.per_replica, params.least, params.most, params.shrink_by)
        after = _bounds(observed, self.state(observed), queue.entries, sizing)
        change = self.change_to(observed, after, operation)
        return replace(change, message=f"{change.message} ({queue.entries} in {params.key})")

    def write(self, observed: Observed, after: State, operation: str) -> Patch:
        """The patch of the ScaledObject, where there is one."""
        scaled = _scaled_object(observed)
        if scaled is None:
            return super().write(observed, after, operation)
        meta = scaled["metadata"]
        spec = {name: None if value == _DEFAULT else value for name, value in after.items()}
        path = f"{_KEDA.format(meta['namespace'])}/{meta['name']}"
        return patch_of(scaled, path, {"spec": spec}, operation, observed.incident)


async def _scaled_objects(target: BoundTarget, clients: Clients) -> list[Json]:
    """KEDA's objects of the namespace; none where it is not installed."""
    try:
        return await clients.kube.list(_KEDA.format(target.namespace))
    except NotFound:
        return []


def _scales(scaled: Json, target: BoundTarget) -> bool:
    ref = scaled["spec"]["scaleTargetRef"]
    return bool(ref.get("kind", "Deployment") == target.kind and ref["name"] == target.name)


async def _read_depth(target: BoundTarget, params: Json, clients: Clients) -> _Depth:
    """The depth, or why it cannot be had: to put something back it is not needed."""
    try:
        given = ScaleByQueueParams.model_validate(params)
        queue = await connections_of(clients).redis(target.namespace, given.connection)
        enough = given.per_replica * given.most
        return _Depth(await depth(queue, given.key, given.type, given.group, enough))
    except (Refused, Terminal) as error:
        return _Depth(problem=str(error), reason=error.reason)
    except Retry as error:
        return _Depth(problem=str(error))


def _scaled_object(observed: Observed) -> Json | None:
    """The one that scales the target. Raises Refused when there are several, or when it is paused."""
    found = observed.related.get("scaledObject", [])
    if len(found) > 1:
        names = ", ".join(s["metadata"]["name"] for s in found)
        raise Refused(Reason.INVALID_PARAMETERS, f"several ScaledObjects scale {observed.name}: {names}")
    return found[0] if found else None


def _bounds(observed: Observed, before: State, entries: int, sizing: Sizing) -> State:
    """Where something else scales the workload, its lower bound is moved, and its upper one no lower than that."""
    if "replicas" in before:
        return {"replicas": wanted_replicas(entries, before["replicas"], sizing)}
    scaled = _scaled_object(observed)
    if scaled is None:
        floor = max(1, wanted_replicas(entries, before["minReplicas"], sizing))
        return {"minReplicas": floor, "maxReplicas": max(before["maxReplicas"], floor)}
    if any(annotation(scaled, name) for name in _PAUSED):
        raise Refused(
            Reason.INVALID_PARAMETERS, f"ScaledObject/{scaled['metadata']['name']} is paused: its bounds have no effect"
        )
    present = scaled["spec"].get(_LEAST, 0)
    floor = max(wanted_replicas(entries, present, sizing), scaled["spec"].get("idleReplicaCount", -1) + 1)
    if floor == present:
        return before
    most = scaled["spec"].get(_MOST, _KEDA_MOST)
    return {_LEAST: floor, _MOST: floor if floor > most else before[_MOST]}
