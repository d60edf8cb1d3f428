"""The table, and whether what it says is good. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from gameday.days import GameDay
from gameday.installation import POLL_GRACE_SECONDS
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
        found = [*self._of_incidents(), *self._of_the_alert(), *self._of_the_outage(), *self._of_nobody_acting()]
        return [f"{self.day.name}: {one}" for one in found]

    def _of_incidents(self) -> Iterator[str]:
        """One round of them, each ended well, and what is due in it was changed, once, and nothing anywhere else."""
        phases, acts = self.helped.phases, dict(self.helped.acts)
        rounds = max(len(phases) // self.day.incidents, 1) if self.day.repeats else 1
        wanted = {what: times * rounds for what, times in self.day.acts.items()}
        if phases != [self.day.ends] * self.day.incidents * rounds:
            yield f"incidents ended as {phases or 'none'}, where {self.day.incidents} × {self.day.ends} was due"
        if acts != wanted:
            yield f"{len(phases)} incidents changed {acts}, where {wanted} was due"
        if self.day.trace and not self.helped.traces:
            yield "what was done has had no effect: it left none of its traces"
        if self.helped.outside:
            yield f"changed what is none of its business: {dict(self.helped.outside)}"

    def _of_the_alert(self) -> Iterator[str]:
        """It came by the Alertmanager: who acts before the poller's grace is over had it from the webhook."""
        detected, acted = self.helped.detected, self.helped.acted
        if not self.day.by_alert:
            return
        if detected is None:
            yield "Alertmanager was told of no alert"
        elif acted is not None and acted - detected >= POLL_GRACE_SECONDS:
            yield f"acted {acted - detected:.0f} s after the alert: the poller found it, the webhook did not tell"

    def _of_the_outage(self) -> Iterator[str]:
        for run, how in ((self.helped, "with Paramedic"), (self.alone, "without Paramedic")):
            if run and run.hurt is None and self.day.hurts:
                yield f"{how}, the fault hurt nobody"
        if self.helped.hurt is not None and self.helped.recovered is None:
            yield f"not recovered within {self.helped.watched:.0f} s"

    def _of_nobody_acting(self) -> Iterator[str]:
        """Nobody does, and the fault is what it is said to be."""
        if self.alone is None:
            return
        changed = dict(self.alone.acts + self.alone.outside)
        if changed or self.alone.phases:
            yield f"without a policy, {len(self.alone.phases)} incidents changed {changed}, where nothing was due"
        if self.day.trace and self.alone.traces:
            yield f"nobody acted, and yet there is what only an action leaves behind, {self.alone.traces} times"
        if self.day.killed and not self.alone.killed[self.day.killed]:
            yield f"no container was {self.day.killed}, but {dict(self.alone.killed) or 'none was ended'}"

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
