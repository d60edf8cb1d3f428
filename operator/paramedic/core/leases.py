"""Changes that may yet be put back, and which of them stands on which: the last one is put back first. Pure."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from paramedic.api.incident import StepStatus
from paramedic.core.guard import TargetKey


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
