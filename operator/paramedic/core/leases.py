"""Changes that may yet be put back: when, and which of them stands on which. Pure."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from paramedic.api.incident import Incident, StepStatus
from paramedic.core.guard import TargetKey
from paramedic.core.people import resolution
from paramedic.core.situation import is_firing

LEASE_POLL = timedelta(seconds=15)
"""So often it is asked whether `revertWhen` holds, and whether a later change has been put back."""


@dataclass(frozen=True, slots=True)
class Temporary:
    """A change of a step that may yet be put back."""

    step: str
    target: TargetKey
    since: datetime
    before: Mapping[str, Any]
    after: Mapping[str, Any]

    def stands_on(self, step: StepStatus) -> bool:
        """Whether it has changed what the step had left there: then that cannot be put back before it."""
        if step.target is None or step.started_at is None or step.target.key != self.target:
            return False
        shared = self.before.keys() & (step.after or {}).keys()
        found_there = all(self.before[key] == (step.after or {})[key] for key in shared)
        return self.since > step.started_at and found_there and any(self.before[k] != self.after.get(k) for k in shared)


def temporary(steps: Iterable[StepStatus]) -> Iterator[Temporary]:
    """What of these steps may yet be put back: leased, left in place, or not known yet to have helped."""
    for step in steps:
        under_way = step.state in ("Executing", "Verifying") or (step.revert and step.revert.state == "Executing")
        if step.target and step.started_at and (under_way or step.holds_mitigation or step.is_left_in_place):
            yield Temporary(step.name, step.target.key, step.started_at, step.before or {}, step.after or {})


def next_lease_look(incident: Incident, now: datetime) -> datetime | None:
    """When a mitigation that is still in place is to be looked at next, whatever else the incident waits for."""
    end = next_lease_end(incident)
    polled = any(step.holds_mitigation and step.revert_when for step in incident.status.steps)
    looks = (end if end and end > now else None, now + LEASE_POLL if polled else None)
    return min(filter(None, looks), default=None)


def due(incident: Incident, now: datetime, leases_over: frozenset[int]) -> set[int]:
    """The steps whose lease is over."""
    return {
        index
        for index, step in enumerate(incident.status.steps)
        if step.holds_mitigation
        and step.state != "Verifying"
        and (index in leases_over or _lease_is_over(step, now) or _is_left_over(incident, step))
    }


def next_lease_end(incident: Incident) -> datetime | None:
    """When the next of the incident's changes is put back; None where there is none, or only one that is watched."""
    steps = incident.status.steps
    ends = (group_lease_end(steps, i) for i, s in enumerate(steps) if s.holds_mitigation)
    return min((end for end in ends if end), default=None)


def group_lease_end(steps: list[StepStatus], index: int) -> datetime | None:
    """When the step is put back: of a procedure, not before its later parts."""
    ends = [_lease_end(steps[i]) for i in (index, *held_after(steps, index))]
    known = [end for end in ends if end]
    return max(known) if len(known) == len(ends) else None


def held_after(steps: list[StepStatus], index: int) -> list[int]:
    """Later parts of the same procedure that hold something: they are put back first."""
    group = steps[index].part_of
    later = enumerate(steps[index + 1 :], index + 1)
    return [i for i, s in later if group is not None and s.part_of == group and s.holds_mitigation]


def _lease_is_over(step: StepStatus, now: datetime) -> bool:
    end = _lease_end(step)
    return end is not None and end <= now


def _is_left_over(incident: Incident, step: StepStatus) -> bool:
    """A change of which it is not known whether it was made, on a lease whose end nobody watches: with the incident."""
    over = resolution(incident) is not None or is_firing(incident) is False
    return over and step.state in ("Failed", "Unknown") and _lease_end(step) is None


def _lease_end(step: StepStatus) -> datetime | None:
    """When the ttl ends. Where it is not known whether the change was made, it counts from the intent."""
    if step.revert_at or not (step.ttl and step.started_at):
        return step.revert_at
    return step.started_at + step.ttl
