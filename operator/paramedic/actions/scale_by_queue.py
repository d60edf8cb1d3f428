"""``scaleByQueue``: as many workers as a queue in Redis needs (runbook 3, "Queue Backlog")."""

from contextlib import suppress
from dataclasses import dataclass, replace

from pydantic import ConfigDict, Field

from paramedic.actions.base import Change, Clients, Json, Observed, State, describe, same_state
from paramedic.actions.outside import connections_of
from paramedic.actions.scaling import (
    SCALED_OBJECT,
    ScaledObjectChoice,
    Scaling,
    least_in,
    least_replicas,
    require_leave,
    state_with,
)
from paramedic.api.base import Model, ObjectName, rule
from paramedic.api.diagnosis import ConnectionCheck, QueueCheck, QueueType
from paramedic.api.reasons import Reason
from paramedic.api.workload import BoundTarget
from paramedic.clients.redis_queue import depth
from paramedic.core.queues import Sizing, wanted_replicas
from paramedic.errors import Refused, Retry, Terminal

_MOST_DEPTH = 1_000_000_000  # that a diagnosis takes


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
    scaled_object: ScaledObjectChoice = Field("Refuse", description=SCALED_OBJECT)


@dataclass(frozen=True, slots=True)
class _Depth:
    """What waits in the queue, or why that is not known."""

    entries: int = 0
    problem: str = ""
    reason: Reason = Reason.CONNECTION_FAILED


class ScaleByQueue(Scaling):
    """As ``scale``, with a number that follows from a queue."""

    name = "scaleByQueue"
    summary = "Sets replicas by the depth of a queue in Redis: grows at once, shrinks by steps."
    params = ScaleByQueueParams
    kinds = ("Deployment", "StatefulSet")
    extra = "redis"
    connection_types = ("redis",)

    def connections_named(self, params: Json, target: str | None) -> tuple[str, ...]:
        """The queue's connection."""
        name = params.get("connection")
        return (str(name),) if name else ()

    def connection_checks(self, params: Json, target: str | None) -> tuple[ConnectionCheck, ...]:
        """The queue: more in it than the fewest workers are meant for is worth to be told."""
        given = ScaleByQueueParams.model_validate(params)
        most = min(given.per_replica * max(given.least, 1), _MOST_DEPTH)
        queue = QueueCheck(key=given.key, type=given.type, group=given.group, max_depth=most)
        return (ConnectionCheck(name=given.connection, queues=[queue]),)

    async def observe_for(self, target: BoundTarget, params: Json, clients: Clients) -> Observed:
        """Reads the workload, what scales it, and the queue, which is not needed to put something back."""
        observed = await self.observe(target, clients)
        return replace(observed, seen=await _read_depth(target, params, clients))

    def plan(self, observed: Observed, params: ScaleByQueueParams, operation: str) -> Change:
        """The patch to as many as the queue needs. Raises Refused; Terminal when the queue's depth is not known."""
        require_leave(observed, params.scaled_object)
        wanted = _wanted(observed, params)
        change = self.change_to(observed, state_with(observed, self.state(observed), wanted), operation)
        return replace(change, message=f"{change.message} ({observed.seen.entries} in {params.key})")

    def plan_again(
        self, observed: Observed, params: ScaleByQueueParams, operation: str, before: State, after: State
    ) -> Change:
        """To as many as were planned, though the queue goes on moving. Raises as ``plan``; Refused, too, when that
        would take workers away that the queue needs by now.
        """
        require_leave(observed, params.scaled_object)
        if least_in(after) < least_replicas(observed) and _wanted(observed, params) > least_in(after):
            message = f"{observed.name}: {params.key} needs more by now than {describe(after)}, as was planned"
            raise Refused(Reason.TARGET_CHANGED, message)
        return self.change_to(observed, after, operation)

    def plan_as_shown(
        self, observed: Observed, params: ScaleByQueueParams, operation: str, before: State, after: State
    ) -> Change:
        """To as many as a person was shown, as long as the workload is as it was then; else planned anew."""
        if after and same_state(self.state(observed), before):
            with suppress(Refused):
                return self.plan_again(observed, params, operation, before, after)
        return self.plan(observed, params, operation)


def _wanted(observed: Observed, params: ScaleByQueueParams) -> int:
    """As many as the queue needs. Raises Terminal when its depth is not known."""
    queue = observed.seen
    assert isinstance(queue, _Depth)
    if queue.problem:
        raise Terminal(queue.reason, queue.problem)
    sizing = Sizing(params.per_replica, params.least, params.most, params.shrink_by)
    return wanted_replicas(queue.entries, least_replicas(observed), sizing)


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
