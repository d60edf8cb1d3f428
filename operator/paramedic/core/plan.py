"""What comes next for an incident: a pure function of its status, its spec and the time.

The reconciler performs the move, records it and asks again. Because everything that the answer depends on is stored,
a restart goes on where the last process stopped.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from types import MappingProxyType

from paramedic.api import FINALIZER
from paramedic.api.incident import Incident, StepStatus
from paramedic.api.policy import SHOWING
from paramedic.api.reasons import Reason
from paramedic.core.leases import LEASE_POLL, due, group_lease_end, held_after, next_lease_end
from paramedic.core.people import resolution
from paramedic.core.situation import (
    ACTED_STATES,
    WAITING_STATES,
    failed,
    has_acted,
    helped,
    holds_mitigation,
    is_begun,
    is_firing,
    is_handed_over,
    stops_here,
)

_FIRST_PAUSE, _LONGEST_PAUSE = timedelta(seconds=15), timedelta(minutes=5)
_NONE: Mapping[int, str] = MappingProxyType({})


@dataclass(frozen=True, slots=True)
class Look:
    """A step's intent is stored without a result: look at the target, never just repeat."""

    step: int


@dataclass(frozen=True, slots=True)
class Follow:
    """A slow action is under way, or was when the last process ended."""

    step: int


@dataclass(frozen=True, slots=True)
class LookAtRevert:
    """The same for a putting back."""

    step: int


@dataclass(frozen=True, slots=True)
class RunStep:
    """Evaluate, plan, guard and, if allowed, act."""

    step: int


@dataclass(frozen=True, slots=True)
class ObservePlan:
    """Mode Observe: record what would be done."""


@dataclass(frozen=True, slots=True)
class VerifyStep:
    """Look whether the step helped."""

    step: int


@dataclass(frozen=True, slots=True)
class PutBack:
    """Undo a leased mitigation."""

    step: int
    reason: Reason


@dataclass(frozen=True, slots=True)
class Keep:
    """Leave a leased mitigation in place for good, as a person has said."""

    step: int


@dataclass(frozen=True, slots=True)
class Release:
    """Nothing is held any more: let the object be deleted."""


@dataclass(frozen=True, slots=True)
class Resolve:
    """The incident is over."""

    reason: Reason
    message: str


@dataclass(frozen=True, slots=True)
class Escalate:
    """A person is needed."""

    reason: Reason
    message: str


@dataclass(frozen=True, slots=True)
class Wait:
    """Nothing to do until something changes, or until ``until``."""

    message: str
    until: datetime | None = None
    reason: Reason | None = None


Move = (
    Look
    | Follow
    | LookAtRevert
    | RunStep
    | ObservePlan
    | VerifyStep
    | PutBack
    | Keep
    | Release
    | Resolve
    | Escalate
    | Wait
)


def next_move(
    incident: Incident,
    now: datetime,
    leases_over: frozenset[int] = frozenset(),
    covered: Mapping[int, str] = _NONE,
    *,
    policy_paused: bool = False,
) -> Move:
    """The one thing to do next. Order matters: what was begun is finished first, then people's word, then the plan.

    ``leases_over`` are the steps whose ``revertWhen`` was seen to hold; ``covered`` those on whose change a later one
    stands, and whose that is: the later one is put back first. While the policy is paused nothing is put back by
    itself; that no step is done then is the guards' business.
    """
    over = due(incident, now, leases_over)
    free = over - covered.keys()
    move = (
        _finish_what_was_begun(incident)
        or _obey_deletion(incident, now, covered)
        or _stay_ended(incident)
        or _obey_resolution(incident, free)
        or _obey_pause(incident)
        or _put_back_unless(policy_paused, incident, free)
        or _verify_what_was_done(incident)
        or _end_with_the_alert(incident)
        or _wait_for_a_person(incident)
        or _only_observe(incident)
        or _go_on(incident)
        or _conclude(incident, now)
    )
    waiting = covered if incident.metadata.deletion_timestamp else {i: w for i, w in covered.items() if i in over}
    return _with_what_is_covered(move, incident, now, waiting) if waiting else move


def _finish_what_was_begun(incident: Incident) -> Move | None:
    for index, step in enumerate(incident.status.steps):
        if step.revert and step.revert.state == "Executing":
            return LookAtRevert(index)
        if step.state == "Executing":
            return Follow(index) if step.reason == Reason.RUNNING else Look(index)
    return None


def _obey_deletion(incident: Incident, now: datetime, covered: Mapping[int, str]) -> Move | None:
    """What is held is put back first, again and again where that fails, unless a person says to keep it."""
    if incident.metadata.deletion_timestamp is None:
        return None
    said = resolution(incident)
    if said and (kept := _to_keep(incident, said.keep)) is not None:
        return Keep(kept)
    steps = incident.status.steps
    free = [i for i, s in enumerate(steps) if i not in covered and _may_be_tried(s, now)]
    if free:
        return PutBack(max(free), Reason.DELETED)
    return _wait_with_deletion(incident, covered) if covered or _left_in_place(incident) else Release()


def _may_be_tried(step: StepStatus, now: datetime) -> bool:
    again = _next_try(step)
    return step.holds_mitigation or (again is not None and again <= now)


def _next_try(step: StepStatus) -> datetime | None:
    """When a putting back that has failed is tried again: later and later."""
    tried = step.revert
    if tried is None or tried.finished_at is None or not step.is_left_in_place:
        return None
    pause: timedelta = min(_FIRST_PAUSE * 2 ** min(tried.attempts - 1, 10), _LONGEST_PAUSE)
    return tried.finished_at + pause


def _wait_with_deletion(incident: Incident, covered: Mapping[int, str]) -> Wait:
    left = [s for i, s in enumerate(incident.status.steps) if s.is_left_in_place and i not in covered]
    if not left:
        return Wait("to be deleted")
    until = min((at for step in left if (at := _next_try(step))), default=None)
    again = f" (tried again at {until:%H:%M:%S} UTC)" if until else ""
    return Wait(
        f"to be deleted, but {', '.join(step.name for step in left)} could not be put back{again}: do that by hand, or "
        "leave it in place, and name it in spec.resolution.keep",
        until,
    )


def _with_what_is_covered(move: Move, incident: Incident, now: datetime, waiting: Mapping[int, str]) -> Move:
    """A wait tells what would be put back but for a later change, and is over soon: nobody tells of the end of that."""
    if not isinstance(move, Wait) or move.reason in (Reason.PAUSED, Reason.POLICY_PAUSED):
        return move
    steps, soon = incident.status.steps, now + LEASE_POLL
    told = [f"{steps[i].name} waits: what {whose} has changed since is put back first" for i, whose in waiting.items()]
    until = min(soon, move.until) if move.until and move.until > now else soon
    return Wait("; ".join([move.message, *told]), until, move.reason)


def _stay_ended(incident: Incident) -> Move | None:
    if incident.status.phase != "Resolved":
        return None
    return Release() if FINALIZER in incident.metadata.finalizers else Wait(incident.status.message or "resolved")


def _obey_resolution(incident: Incident, free: set[int]) -> Move | None:
    said = resolution(incident)
    if said is None:
        return None
    if (kept := _to_keep(incident, said.keep)) is not None:
        return Keep(kept)
    due = _put_back_what_is_due(incident, free)
    if due is None and (left := _left_in_place(incident)):
        return Wait(
            f"closed by {said.resolved_by}, but {left} could not be put back: do that by hand, then name it in "
            "spec.resolution.keep"
        )
    if due or not holds_mitigation(incident):
        cause = f": {said.root_cause}" if said.root_cause else ""
        return due or Resolve(Reason.RESOLVED_BY_PERSON, f"closed by {said.resolved_by}{cause}")
    return _verify_what_is_held(incident) or _wait_for_leases(incident, f"closed by {said.resolved_by}")


def _to_keep(incident: Incident, names: list[str]) -> int | None:
    """The next step that a person has made permanent, by its own name or that of its procedure."""
    steps = enumerate(incident.status.steps)
    there = ((i, s) for i, s in steps if s.holds_mitigation or s.is_left_in_place)
    return next((i for i, s in there if s.name in names or s.part_of in names), None)


def _left_in_place(incident: Incident) -> str:
    """The names of steps whose temporary change could not be put back, and is nobody's yet."""
    return ", ".join(step.name for step in incident.status.steps if step.is_left_in_place)


def _obey_pause(incident: Incident) -> Move | None:
    if not incident.spec.paused:
        return None
    return Wait("paused: a person has taken over", reason=Reason.PAUSED)


def _put_back_unless(policy_paused: bool, incident: Incident, free: set[int]) -> Move | None:
    due = _put_back_what_is_due(incident, free)
    if due is None or not policy_paused:
        return due
    name = incident.status.steps[due.step].name
    return Wait(f"the policy is paused: step {name} is put back when it goes on", reason=Reason.POLICY_PAUSED)


def _put_back_what_is_due(incident: Incident, free: set[int]) -> PutBack | None:
    """The last of what is ``free`` to be put back; of a procedure, not before its later parts."""
    first = [index for index in free if free.issuperset(held_after(incident.status.steps, index))]
    return PutBack(max(first), Reason.LEASE_ENDED) if first else None


def _verify_what_was_done(incident: Incident) -> Move | None:
    return next((VerifyStep(i) for i, s in enumerate(incident.status.steps) if s.state == "Verifying"), None)


def _verify_what_is_held(incident: Incident) -> Move | None:
    steps = enumerate(incident.status.steps)
    return next((VerifyStep(i) for i, s in steps if s.state == "Verifying" and s.holds_mitigation), None)


def _end_with_the_alert(incident: Incident) -> Move | None:
    if is_firing(incident) is not False:
        return None
    if not has_acted(incident):
        return Resolve(Reason.RESOLVED_WITHOUT_ACTION, "the alert ended before anything was done")
    if holds_mitigation(incident):
        return _wait_for_leases(incident, "the alert has ended")
    if (_is_procedure(incident) and _unfinished(incident)) or _left_in_place(incident):
        return None
    return Resolve(Reason.REMEDIATION_SUCCEEDED, f"the alert has ended; {_summary(incident)}")


def _is_procedure(incident: Incident) -> bool:
    """Whether what is begun is done to its end: the policy's strategy, or a step that stands for several."""
    policy, steps = incident.status.policy, incident.status.steps
    sequence = policy is not None and policy.strategy == "Sequence"
    return sequence or any(
        s.state in WAITING_STATES and is_begun(steps, s) and not _given_up(steps, i) for i, s in enumerate(steps)
    )


def _wait_for_a_person(incident: Incident) -> Move | None:
    if not is_handed_over(incident):
        return None
    assert incident.status.escalation is not None
    return Wait(f"a person is needed: {incident.status.escalation.message}", until=next_lease_end(incident))


def _only_observe(incident: Incident) -> Move | None:
    if incident.status.policy is None or incident.status.policy.mode != "Observe":
        return None
    if any(s.state == "Pending" for s in incident.status.steps):
        return ObservePlan()
    return Wait(f"observed only: {_first_plan(incident)}", reason=Reason.OBSERVE_MODE)


def _first_plan(incident: Incident) -> str:
    """What the first step that applies would have done."""
    planned = [s for s in incident.status.steps if s.reason == Reason.OBSERVE_MODE]
    return f"{planned[0].name} {planned[0].message}" if planned else "no step would have applied"


def _go_on(incident: Incident) -> Move | None:
    """The next step, unless an earlier one ended the sequence."""
    steps = incident.status.steps
    until_recovered = incident.status.policy is None or incident.status.policy.strategy == "UntilRecovered"
    for index, step in enumerate(steps):
        if step.state in WAITING_STATES and not _given_up(steps, index):
            return RunStep(index)
        if until_recovered and step.action not in SHOWING and _has_helped(steps, index):
            return None
        if stops_here(step):
            return _stopped(step)
    return None


def _has_helped(steps: list[StepStatus], index: int) -> bool:
    """Whether a step, or a procedure that ends with it, did what it should."""
    group = _procedure(steps, steps[index])
    return steps[index] is group[-1] and any(map(helped, group)) and not any(map(failed, group))


def _procedure(steps: list[StepStatus], step: StepStatus) -> list[StepStatus]:
    """The parts of the step's procedure; of any other step, itself."""
    return [s for s in steps if s.part_of and s.part_of == step.part_of] or [step]


def _given_up(steps: list[StepStatus], index: int) -> bool:
    """Whether an earlier part of the same procedure was not to be done, has failed or was put back: the rest of it is
    left out."""
    group = steps[index].part_of
    return group is not None and any(s.part_of == group and _ends_its_procedure(s) for s in steps[:index])


def _ends_its_procedure(step: StepStatus) -> bool:
    return failed(step) or step.state == "Reverted" or step.reason == Reason.CONDITION_FALSE


def _stopped(step: StepStatus) -> Move:
    message = f"step {step.name}: {step.message}"
    if step.on_failure == "Stop" and step.state != "Unknown":
        return Wait(f"stopped after {message}", reason=Reason.STEP_FAILED)
    reason = Reason.of(step.reason) if step.state == "Unknown" else Reason.STEP_FAILED
    return Escalate(reason, message)


def _conclude(incident: Incident, now: datetime) -> Move:
    steps = incident.status.steps
    succeeded = [s for s in steps if helped(s) and not any(map(failed, _procedure(steps, s)))]
    if not succeeded:
        return _nothing_helped(incident)
    if holds_mitigation(incident):
        return _wait_for_leases(incident, "recovered")
    if is_firing(incident) is None:
        return Resolve(Reason.REMEDIATION_SUCCEEDED, _summary(incident))
    finished = succeeded[-1].finished_at or succeeded[-1].started_at or now
    patience = succeeded[-1].verify.timeout if succeeded[-1].verify else timedelta(minutes=5)
    if now >= finished + patience:
        return Escalate(Reason.ALERT_STILL_FIRING, f"the alert still fires though {_summary(incident)}")
    return Wait(f"{_summary(incident)}; waiting for the alert to end", until=finished + patience)


def _nothing_helped(incident: Incident) -> Move:
    if any(failed(s) for s in incident.status.steps):
        return Escalate(Reason.REMEDIES_EXHAUSTED, "no step of the policy helped")
    return Escalate(Reason.NO_STEP_APPLIED, "no step of the policy applied; nothing was done")


def _unfinished(incident: Incident) -> bool:
    steps = incident.status.steps
    left = any(s.state in WAITING_STATES and not _given_up(steps, i) for i, s in enumerate(steps))
    return left and not any(map(stops_here, steps))


def _wait_for_leases(incident: Incident, said: str) -> Wait:
    steps = incident.status.steps
    held = [(s.name, group_lease_end(steps, i)) for i, s in enumerate(steps) if s.holds_mitigation]
    ends = dict.fromkeys(end for _, end in held)  # those that end together are named together
    parts = [f"{_put_back([name for name, at in held if at == end])} {_at(end)}" for end in ends]
    return Wait(f"{said}; {'; '.join(parts)}", until=next_lease_end(incident))


def _put_back(names: list[str]) -> str:
    return f"{', '.join(names)} {'is' if len(names) == 1 else 'are'} put back"


def _at(end: datetime | None) -> str:
    return f"at {end:%Y-%m-%d %H:%M:%S} UTC" if end else "when revertWhen holds"


def _summary(incident: Incident) -> str:
    done = [s for s in incident.status.steps if helped(s)] or [
        s for s in incident.status.steps if s.state in ACTED_STATES
    ]
    return f"{done[-1].name}: {done[-1].message}" if done else "nothing was done"
