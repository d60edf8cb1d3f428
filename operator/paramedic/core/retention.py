"""Which incidents may be deleted: those that are over, long ago, and that nothing needs any more. Pure."""

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta

from paramedic.api.policy import Guards
from paramedic.core.checklist import reminders_are_over


@dataclass(frozen=True, slots=True)
class Ended:
    """What of an incident that is over counts here."""

    key: str
    ended_at: datetime
    attend_at: datetime | None
    in_use: bool
    """Whether it holds a finalizer, or somebody has still to be told of it."""
    fires: bool
    """Whether its alert is not known to have ended: without the incident, a resend of it would open a new one."""
    last_acted_at: datetime | None


def reach(guards: Guards) -> timedelta:
    """How far back these guards look at what was done."""
    return max(guards.cooldown, guards.rate_limit.period)


def expired(ended: Iterable[Ended], now: datetime, resolved_for: timedelta, guards_reach: timedelta) -> list[str]:
    """Keys of those that may be deleted, the longest ended first. ``guards_reach`` is how far back any guard looks."""
    due = [
        one
        for one in ended
        if not (one.in_use or one.fires)
        and one.ended_at + resolved_for <= now
        and reminders_are_over(one.ended_at, one.attend_at)
        and (one.last_acted_at is None or one.last_acted_at + guards_reach < now)
    ]
    return [one.key for one in sorted(due, key=lambda one: (one.ended_at, one.key))]
