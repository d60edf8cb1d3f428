"""The table, and whether what it says is good. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from gameday.days import GameDay
from gameday.run import Run

Json = dict[str, Any]

HEAD = (
    "runbook",
    "fault",
    "alert after",
    "acted after",
    "recovered after",
    "without Paramedic",
    "requests failed",
    "without",
    "Paramedic changed, by the audit log",
)


@dataclass(frozen=True)
class Row:
    """One fault: with Paramedic, and with nobody acting (None: not tried)."""

    day: GameDay
    helped: Run
    alone: Run | None

    def problems(self) -> list[str]:
        """What is not as it should be; nothing, when all is well."""
        found = []
        incidents = len(self.helped.phases)
        rounds, rest = divmod(incidents, self.day.incidents)
        wanted = {what: times * rounds for what, times in self.day.acts.items()}
        if rest or self.helped.phases != [self.day.ends] * max(incidents, 1):
            found.append(f"incidents ended as {self.helped.phases or 'none'}")
        if self.helped.hurt is not None and self.helped.recovered is None:
            found.append(f"not recovered within {self.helped.watched:.0f} s")
        if dict(self.helped.acts) != wanted:
            found.append(f"{incidents} incidents changed {dict(self.helped.acts)}, where {wanted} was due")
        return [f"{self.day.name}: {one}" for one in found]

    def as_json(self) -> Json:
        """All figures."""
        return {
            "name": self.day.name,
            "section": self.day.section,
            "fault": self.day.fault,
            "with": vars(self.helped),
            "without": vars(self.alone) if self.alone else None,
            "problems": self.problems(),
        }

    def cells(self) -> list[str]:
        """As the table shows them; in the order of `HEAD`."""
        return [
            self.day.section,
            self.day.fault,
            seconds(self.helped.detected),
            seconds(self.helped.acted),
            _recovery(self.helped),
            _recovery(self.alone) if self.alone else "–",
            _failures(self.helped),
            _failures(self.alone) if self.alone else "–",
            ", ".join(f"{times} × {what}" for what, times in self.helped.acts.items()) or "nothing",
        ]


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """In Markdown."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def seconds(value: float | None) -> str:
    """A time as the tables show it."""
    return "–" if value is None else f"{value:.1f} s"


def _recovery(run: Run) -> str:
    if run.hurt is None:
        return "nobody was hurt"
    return f"not within {run.watched:.0f} s" if run.recovered is None else seconds(run.recovered)


def _failures(run: Run) -> str:
    kinds = ", ".join(f"{kind}: {count}" for kind, count in run.failed.most_common())
    return f"{run.failed.total()} of {run.sent}" + (f" ({kinds})" if kinds else "")
