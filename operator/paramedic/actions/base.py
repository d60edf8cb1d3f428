"""What an action is. A new one is one file with one class, and one line in ``ACTIONS``.

An action governs a few fields of its target, its *state*: ``{"replicas": 3}``, ``{"revision": "7"}``. ``before`` and
``after`` on the Incident's status are two values of that state. From them alone follow whether a change has been
applied, whether somebody else has changed it since, and how to put it back; so an action writes little more than how
to read its state and how to patch it.
"""

import hashlib
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import datetime
from enum import Enum
from typing import TYPE_CHECKING, Any, ClassVar

from paramedic.api import ANNOTATION_INCIDENT, ANNOTATION_OPERATION
from paramedic.api.base import Model
from paramedic.api.diagnosis import ConnectionCheck, DiagnoseParams
from paramedic.api.incident import AlertSource, Evidence, Finding, StepStatus
from paramedic.api.policy import READING, Step
from paramedic.api.reasons import Reason
from paramedic.api.workload import WORKLOADS, BoundTarget, target_path
from paramedic.core.rollout import rollout_result, rolls_out_on_delete
from paramedic.core.verify import Result
from paramedic.errors import NotFound, PartlyDone, Refused, Terminal

if TYPE_CHECKING:
    from paramedic.clients.connections import Connections
    from paramedic.clients.evidence import EvidenceStore
    from paramedic.clients.kube import Kube

State = dict[str, Any]
Json = dict[str, Any]


Examine = Callable[
    [BoundTarget, DiagnoseParams, str, datetime | None], Awaitable[tuple[tuple[Finding, ...], tuple[Evidence, ...]]]
]
"""Looks for the cause of an incident of this name since then. What cannot be looked at is left out, never raised."""


@dataclass(frozen=True, slots=True)
class Clients:
    """What an action may use of the outside world; what is not configured is None."""

    kube: "Kube"
    evidence: "EvidenceStore | None" = None
    examine: Examine | None = None
    connections: "Connections | None" = None


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
    name that is stamped beside the operation, ``incident_uid`` and ``step`` what else names what an action creates;
    ``since`` when the incident's trouble began; ``alert`` what opened it, which is anybody's text; ``source_addresses``
    whom the person who opened it has named; ``seen`` what was read of something outside of the cluster, in a form of
    the action's own; ``operation`` the one under which the step was done, if it was; ``acted_at`` when Paramedic
    acted on it last through whichever connection, where something outside of the cluster tells that.
    """

    target: Json
    related: Mapping[str, list[Json]] = field(default_factory=dict)
    left: tuple[State, ...] = ()
    incident: str = ""
    incident_uid: str = ""
    step: str = ""
    since: datetime | None = None
    alert: AlertSource | None = None
    source_addresses: tuple[str, ...] = ()
    seen: Any = None
    operation: str = ""
    acted_at: datetime | None = None

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

    @property
    def mark(self) -> str:
        """Ten characters for names of what is created: of this step of this incident, and the same whenever that is
        planned, as an approval is for one plan.
        """
        return hashlib.sha256(f"{self.incident_uid}/{self.step}".encode()).hexdigest()[:10]


@dataclass(frozen=True, slots=True)
class Patch:
    """One merge patch of one object, bound to that object's UID and resourceVersion as they were read."""

    path: str
    body: Json

    async def write(self, kube: "Kube") -> None:
        """Raises Conflict, NotFound, Refused, Retry, Terminal."""
        await kube.merge_patch(self.path, self.body)


@dataclass(frozen=True, slots=True)
class Create:
    """One new object in the collection at ``path``; its name, taken from the operation, makes a second one fail."""

    path: str
    body: Json

    async def write(self, kube: "Kube") -> None:
        """Raises Conflict when it is there already, Refused, Retry, Terminal."""
        await kube.create(self.path, self.body)


@dataclass(frozen=True, slots=True)
class Apply:
    """One server-side apply to an object that is there: its UID and resourceVersion in the body are preconditions."""

    path: str
    body: Json

    async def write(self, kube: "Kube") -> None:
        """Raises Conflict, NotFound, Refused, Retry, Terminal."""
        await kube.apply(self.path, self.body)


@dataclass(frozen=True, slots=True)
class Delete:
    """The end of one object, bound to its UID and resourceVersion as they were read."""

    path: str
    uid: str
    resource_version: str

    async def write(self, kube: "Kube") -> None:
        """One that is gone already is no error. Raises Conflict, Refused, Retry, Terminal."""
        with suppress(NotFound):
            await kube.delete(self.path, self.uid, self.resource_version)


Write = Patch | Create | Apply | Delete

HPA_BOUNDS = ("minReplicas", "maxReplicas")
SCALED_OBJECT_BOUNDS = ("minReplicaCount", "maxReplicaCount")

# Said by the API server at `kubectl apply`, and on the condition Ready of a policy that came past it; {} is the action.
NEEDS_APPROVAL = "{} always waits for a person: write approval: Required on the step"
NEEDS_TTL = "{} is for a while only: set ttl, for example 30m, after which it is put back"
NOT_UNDOABLE = "{} cannot be put back, so ttl and revertWhen make no sense on it"


def _tell_nobody(text: object) -> None:
    """Where nobody listens."""


@dataclass(frozen=True, slots=True)
class Change:
    """A planned change. ``forward`` makes it; ``inverse`` is the state that undoing it would go back to, None where
    there is none; ``before`` and ``after`` go on the status.

    ``work`` is what ``apply`` needs besides. A slow action has only that; the executor sets in how many ``seconds`` it
    is to be done at most, which ``attempt`` it is, ``tell`` for how it gets on, and ``note`` for what is to be added to
    ``after`` meanwhile.
    ``no_undo`` says why this one could not be put back; as a leased mitigation it is then refused.
    """

    before: State
    after: State
    forward: tuple[Write, ...]
    inverse: State | None
    message: str
    work: Any = None
    seconds: float = 0.0
    attempt: int = 1
    no_undo: str = ""
    tell: Callable[[str], None] = _tell_nobody
    note: Callable[[State], None] = _tell_nobody

    @property
    def is_empty(self) -> bool:
        """Whether the target is already as wanted."""
        return not self.forward and self.work is None


@dataclass(frozen=True, slots=True)
class Report:
    """What a slow action has to tell: in one line, as values for ``when`` (``steps['name'].result``), as evidence.

    ``failed`` is for work that ended badly; what was kept of it counts all the same.
    """

    message: str
    result: Mapping[str, Any] | None = None
    evidence: tuple[Evidence, ...] = ()
    findings: tuple[Finding, ...] | None = None
    failed: bool = False


class Action:
    """Base of all actions. ``plan``, ``restore``, ``state`` and ``settled`` are pure."""

    name: ClassVar[str]
    summary: ClassVar[str]
    params: ClassVar[type[Model]]
    kinds: ClassVar[tuple[str, ...]] = WORKLOADS
    """Kinds of target that it is for."""
    part_params: ClassVar[type[Model] | None] = None
    """Parameters of the steps that ``expand`` makes, where they differ."""
    undoable: ClassVar[bool] = True
    leasable: ClassVar[bool] = True
    """Whether ``ttl`` and ``revertWhen`` make sense: somebody may want it undone although all went well."""
    needs_approval: ClassVar[bool] = False
    """Always waits for a person, whatever the policy's mode; a policy that says otherwise is refused."""
    connection_types: ClassVar[tuple[str, ...]] = ()
    """Types of the connection that it uses: its target, or what ``connections_named`` says."""
    needs_ttl: ClassVar[bool] = False
    """Only for a while: a step without ``ttl`` is refused."""
    extra: ClassVar[str] = ""
    """The extra of Paramedic's package that it cannot do without."""
    slow: ClassVar[bool] = False
    """Takes longer than a few writes, so it runs in the background. It may be begun again under the same operation id
    after a crash, so it must find what it has done already, or be harmless to repeat."""
    beyond_target: ClassVar[bool] = False
    """Changes objects besides its target. Who may change an Incident's target need not be allowed to change those, so
    it is done only for alerts and for Incidents that leave the target to the policy."""
    while_shut_down: ClassVar[bool] = False
    """Whether it may also be done to what an emergency shutdown has taken down: nothing else is to bring that back."""

    @property
    def reads_only(self) -> bool:
        """Whether it changes nothing of what is in trouble: then there is nothing to verify, and no target that is
        acted on. What it may do unasked is told by ``only_reads``.
        """
        return self.name in READING

    def expand(self, step: Step) -> list[Step]:
        """The steps that a step of the policy stands for, in order; a procedure has several, each with the name of
        this one and a suffix. They are one group: approved together, and all of it done.
        """
        return [step]

    def connections_named(self, params: Json, target: str | None) -> tuple[str, ...]:
        """The names of the connections of ``connection_types`` that it uses with these parameters (as written) on this
        target.
        """
        return (target,) if self.connection_types and target else ()

    def connections_used(self, params: Json, target: str | None) -> tuple[tuple[str, tuple[str, ...]], ...]:
        """Every connection without which it cannot do its work with these parameters (as written), each with the types
        that will do.
        """
        return tuple((name, self.connection_types) for name in self.connections_named(params, target))

    def connection_checks(self, params: Json, target: str | None) -> tuple[ConnectionCheck, ...]:
        """What a diagnosis of the incident looks at for a step with these parameters (as written). Raises ValueError
        for parameters that are none.
        """
        return tuple(ConnectionCheck(name=name) for name in self.connections_named(params, target))

    async def observe(self, target: BoundTarget, clients: Clients) -> Observed:
        """Reads the target and what the action needs beside it. Raises NotFound, Retry, Terminal."""
        return Observed(await read_target(target, clients.kube))

    async def observe_for(self, target: BoundTarget, params: Json, clients: Clients) -> Observed:
        """The same, where what is to be read beside the target depends on the parameters (as written)."""
        return await self.observe(target, clients)

    def state(self, observed: Observed) -> State:
        """The present values of the fields that this action governs."""
        raise NotImplementedError

    def plan(self, observed: Observed, params: Any, operation: str) -> Change:
        """What to change for these parameters. Raises Refused when it cannot be done; an empty change when it is
        done already.
        """
        raise NotImplementedError

    def plan_again(self, observed: Observed, params: Any, operation: str, before: State, after: State) -> Change:
        """The change for an intent that was stored and has not been carried out, or not wholly. Raises Refused when it
        has become another one.
        """
        change = self.plan(observed, params, operation)
        if change.after != after:
            raise Refused(Reason.TARGET_CHANGED, "what the step would do has changed since it was planned")
        return change

    async def is_begun(self, change: Change, after: State, clients: Clients) -> bool:
        """Of a slow action that this process knows nothing of: whether it has left something that is to be seen to its
        end. ``after`` holds what it has noted. Raises Terminal with OUTCOME_UNKNOWN when that is not there any more.
        """
        return False

    def plan_as_shown(self, observed: Observed, params: Any, operation: str, before: State, after: State) -> Change:
        """The change for a plan that a person has been shown: planned anew, unless part of what was shown is enough."""
        return self.plan(observed, params, operation)

    def restore(self, observed: Observed, before: State, operation: str) -> Change:
        """The change that brings the state back to ``before``."""
        raise NotImplementedError

    async def apply(self, change: Change, clients: Clients) -> Report | None:
        """Makes the change. Applying the same change twice fails the second time on the resourceVersion. Raises
        PartlyDone when one of several writes cannot be made after others were.
        """
        for number, write in enumerate(change.forward):
            try:
                await write.write(clients.kube)
            except (NotFound, Refused, Terminal) as error:
                if number == 0:
                    raise
                reason = Reason.TARGET_NOT_FOUND if isinstance(error, NotFound) else error.reason
                raise PartlyDone(
                    reason, f"{number} of {len(change.forward)} changes were made, then: {error}"
                ) from error
        return None

    def problem_for(self, params: Json, kind: str) -> str:
        """What is wrong in these parameters (as written) for a target of that kind; empty when nothing is."""
        return ""

    def reaches_beyond(self, params: Json) -> bool:
        """Whether with these parameters (as written) it changes objects besides its target."""
        return self.beyond_target

    def require_unchanged(self, observed: Observed, before: State, after: State) -> None:
        """Raises Refused when others have changed what a step has made ``after`` of ``before``."""
        present = self.state(observed)
        if not same_state(present, after):
            raise Refused(
                Reason.TARGET_CHANGED,
                f"{observed.kind}/{observed.name} was changed by others since ({describe(present)} instead of "
                f"{describe({k: after.get(k) for k in present})}): hands off",
            )

    def rollout(self, workload: Json, after: State, since: datetime | None) -> Result:
        """How a workload is doing that the step has set off since then: what ``verify.rollout`` asks."""
        return rollout_result(workload, since)

    def settled(self, observed: Observed, before: State, after: State, operation: str) -> Outcome:
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
    if not is_pinned(observed, step):
        raise Refused(Reason.TARGET_REPLACED, f"{observed.kind}/{observed.name} was made anew since: hands off")
    action.require_unchanged(observed, step.before or {}, step.after or {})


def is_pinned(observed: Observed, step: StepStatus) -> bool:
    """Whether it is what the step has changed: the same object or, where the step has changed only what scales it,
    that one, by the step's stamp, whatever became of the target.
    """
    if not step.target or step.target.uid in (None, "", observed.uid):
        return True
    scalers = [one for kind in ("hpa", "scaledObject") for one in observed.related.get(kind, [])]
    stamped = any(annotation(one, ANNOTATION_OPERATION) == step.operation for one in scalers)
    after = step.after or {}
    return stamped and bool(after) and {*HPA_BOUNDS, *SCALED_OBJECT_BOUNDS}.issuperset(after)


async def read_target(target: BoundTarget, kube: "Kube") -> Json:
    """A live read of the target. Raises NotFound, Retry, Terminal."""
    found = await kube.get(target_path(target.kind, target.namespace, target.name))
    return {"apiVersion": target.api_version, "kind": target.kind} | found


def require_rollout(observed: Observed) -> None:
    """Raises Refused when a new template would not reach the workload's pods."""
    workload = f"{observed.kind}/{observed.name}"
    if observed.target["spec"].get("paused"):
        raise Refused(Reason.WORKLOAD_PAUSED, f"{workload} is paused and would not roll out")
    if rolls_out_on_delete(observed.target):
        raise Refused(
            Reason.ROLLS_OUT_ON_DELETE,
            f"{workload} has updateStrategy OnDelete and would not roll out: delete its pods yourself, or make it "
            "RollingUpdate",
        )


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
