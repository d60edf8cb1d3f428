"""What an action is. A new one is one file with one class, and one line in ``ACTIONS``.

An action governs a few fields of its target, its *state*: ``{"replicas": 3}``, ``{"revision": "7"}``. ``before`` and
``after`` on the Incident's status are two values of that state. From them alone follow whether a change has been
applied, whether somebody else has changed it since, and how to put it back; so an action writes little more than how
to read its state and how to patch it.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import Any, ClassVar, Protocol

from paramedic.api import ANNOTATION_INCIDENT, ANNOTATION_OPERATION
from paramedic.api.base import Model
from paramedic.api.incident import StepStatus
from paramedic.api.reasons import Reason
from paramedic.api.workload import BoundTarget
from paramedic.errors import Refused

State = dict[str, Any]
Json = dict[str, Any]
_PLURALS = {"Deployment": "deployments", "StatefulSet": "statefulsets", "DaemonSet": "daemonsets"}


class Clients(Protocol):
    """What an action may use of the outside world."""

    async def get(self, path: str) -> Json:
        """Reads one object. Raises NotFound, Retry, Terminal."""

    async def list(self, path: str, label_selector: str = "") -> list[Json]:
        """Reads all objects of a collection. Raises Retry, Terminal."""

    async def merge_patch(self, path: str, body: Json) -> Json:
        """Writes one merge patch. Raises Conflict, NotFound, Retry, Terminal."""


class Outcome(Enum):
    """What a look at the target tells about an intent without a result."""

    APPLIED = "Applied"
    NOT_APPLIED = "NotApplied"
    UNKNOWN = "Unknown"


@dataclass(frozen=True, slots=True)
class Observed:
    """A target as read from the API server, with what belongs to it.

    ``related`` holds lists of further objects by kind (an HPA, ReplicaSets); ``left`` the states that Paramedic has
    moved this target away from in earlier incidents, so that it does not go back to what was bad; ``incident`` the
    name that is stamped beside the operation.
    """

    target: Json
    related: Mapping[str, list[Json]] = field(default_factory=dict)
    left: tuple[State, ...] = ()
    incident: str = ""

    @property
    def kind(self) -> str:
        """Kind of the target."""
        return str(self.target.get("kind", ""))

    @property
    def name(self) -> str:
        """Name of the target."""
        return str(self.target["metadata"]["name"])

    @property
    def uid(self) -> str:
        """UID of the target."""
        return str(self.target["metadata"]["uid"])


@dataclass(frozen=True, slots=True)
class Patch:
    """One merge patch of one object, bound to that object's UID and resourceVersion as they were read."""

    path: str
    body: Json


@dataclass(frozen=True, slots=True)
class Change:
    """A planned change. ``forward`` makes it and ``inverse`` undoes it; ``before`` and ``after`` go on the status."""

    before: State
    after: State
    forward: tuple[Patch, ...]
    inverse: State | None
    message: str

    @property
    def is_empty(self) -> bool:
        """Whether the target is already as wanted."""
        return not self.forward


class Action:
    """Base of all actions. ``plan``, ``restore``, ``state`` and ``settled`` are pure."""

    name: ClassVar[str]
    summary: ClassVar[str]
    params: ClassVar[type[Model]]
    undoable: ClassVar[bool] = True

    async def observe(self, target: BoundTarget, clients: Clients) -> Observed:
        """Reads the target and what the action needs beside it. Raises NotFound, Retry, Terminal."""
        return Observed(await read_target(target, clients))

    def state(self, observed: Observed) -> State:
        """The present values of the fields that this action governs."""
        raise NotImplementedError

    def plan(self, observed: Observed, params: Any, operation: str) -> Change:
        """What to change for these parameters. Raises Refused when it cannot be done; an empty change when it is
        done already.
        """
        raise NotImplementedError

    def restore(self, observed: Observed, before: State, operation: str) -> Change:
        """The change that brings the state back to ``before``."""
        raise NotImplementedError

    async def apply(self, change: Change, clients: Clients) -> None:
        """Makes the change. Applying the same change twice fails the second time on the resourceVersion."""
        for patch in change.forward:
            await clients.merge_patch(patch.path, patch.body)

    def settled(self, observed: Observed, before: State, operation: str) -> Outcome:
        """What the target tells about the operation: its stamp, else its state."""
        if operation in stamps(observed):
            return Outcome.APPLIED
        return Outcome.NOT_APPLIED if same_state(self.state(observed), before) else Outcome.UNKNOWN


@dataclass(frozen=True, slots=True)
class Prepared:
    """A step ready to be done."""

    action: Action
    observed: Observed
    change: Change


def may_put_back(action: Action, observed: Observed, step: StepStatus) -> None:
    """Raises Refused unless the fields are still as the step left them and the object is the same."""
    if step.target and step.target.uid and step.target.uid != observed.uid:
        raise Refused(Reason.TARGET_REPLACED, f"{observed.kind}/{observed.name} was made anew since: hands off")
    present = action.state(observed)
    if not same_state(present, step.after or {}):
        raise Refused(
            Reason.TARGET_CHANGED,
            f"{observed.kind}/{observed.name} was changed by others since ({describe(present)} instead of "
            f"{describe({k: (step.after or {}).get(k) for k in present})}): hands off",
        )


async def read_target(target: BoundTarget, clients: Clients) -> Json:
    """A live read of the target. Raises NotFound, Retry, Terminal."""
    found = await clients.get(target_path(target.kind, target.namespace, target.name))
    return {"apiVersion": target.api_version, "kind": target.kind} | found


def target_path(kind: str, namespace: str, name: str) -> str:
    """The API path of a workload."""
    return f"{collection_path(kind, namespace)}/{name}"


def collection_path(kind: str, namespace: str) -> str:
    """The API path of all workloads of a kind."""
    return f"/apis/apps/v1/namespaces/{namespace}/{_PLURALS[kind]}"


def patch_of(obj: Json, path: str, changes: Json, operation: str, incident: str = "") -> Patch:
    """A merge patch of ``obj`` with ``changes``, its preconditions and the operation's stamp."""
    metadata = {
        "uid": obj["metadata"]["uid"],
        "resourceVersion": obj["metadata"]["resourceVersion"],
        "annotations": {ANNOTATION_OPERATION: operation} | ({ANNOTATION_INCIDENT: incident} if incident else {}),
    }
    return Patch(path, changes | {"metadata": metadata})


def stamps(observed: Observed) -> set[str]:
    """The operation ids on the target and what belongs to it."""
    objects = [observed.target, *(o for group in observed.related.values() for o in group)]
    return {stamp for o in objects if (stamp := annotation(o, ANNOTATION_OPERATION))}


def annotation(obj: Json, name: str) -> str:
    """An annotation's value, or the empty string."""
    return str((obj["metadata"].get("annotations") or {}).get(name, ""))


def same_state(present: State, recorded: State) -> bool:
    """Whether the governed fields are as recorded; a record may hold more than that, for people."""
    return all(recorded.get(key) == value for key, value in present.items())


def describe(state: State) -> str:
    """A state for people: ``replicas 3, maxReplicas 10``."""
    return ", ".join(f"{k} {v}" for k, v in state.items() if v is not None) or "nothing"
