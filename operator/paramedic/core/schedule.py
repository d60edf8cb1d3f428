"""Recurring windows of time: five cron fields, a duration and a time zone."""

from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from cronsim import CronSim, CronSimError

from paramedic.api.policy import Window

_MINUTE = timedelta(minutes=1)
_LONGEST = timedelta(days=366)
"""What is longer is no recurring window, and to find out when it opened takes long."""


def opened_at(window: Window, now: datetime) -> datetime | None:
    """When the window that is open at ``now`` opened, or None. Raises ValueError for a wrong schedule or zone."""
    now = now.astimezone(UTC)
    minute = now.replace(second=0, microsecond=0)
    if not _opens_between(window, now - window.duration, now):
        return None
    # The last opening by bisection: looking forward is right on the days when the clocks change, backward is not.
    closed, opened = 0, 1 + int(window.duration / _MINUTE)
    while opened - closed > 1:
        middle = (closed + opened) // 2
        if _opens_between(window, minute - middle * _MINUTE, now):
            opened = middle
        else:
            closed = middle
    return next_opening(window, max(minute - opened * _MINUTE, now - window.duration))


def next_opening(window: Window, now: datetime) -> datetime | None:
    """When the window opens next after ``now``."""
    if len(window.schedule.split()) != 5:
        raise ValueError(f"{window.schedule!r} is not a schedule: five cron fields are needed")
    now = now.astimezone(UTC)
    try:
        openings = (at.astimezone(UTC) for at in CronSim(window.schedule, now.astimezone(_zone(window))))
        # In the hour that the clocks repeat, a daily time comes once; CronSim then names the past one first.
        return next((at for at in openings if at > now), None)
    except CronSimError as error:
        raise ValueError(f"{window.schedule!r} is not a schedule: {error}") from error


def closes_at(window: Window, now: datetime) -> datetime | None:
    """When the window that is open at ``now`` closes, or None when it is closed."""
    opened = opened_at(window, now)
    return opened + window.duration if opened else None


def check(window: Window) -> None:
    """Raises ValueError that says what is wrong in the window."""
    if window.duration > _LONGEST:
        raise ValueError(f"a window stays open for {_LONGEST.days}d at most")
    if next_opening(window, datetime(2026, 1, 1, tzinfo=UTC)) is None:
        raise ValueError(f"{window.schedule!r} never opens")


def _opens_between(window: Window, after: datetime, until: datetime) -> bool:
    """Whether the window opens after ``after`` and not later than ``until``."""
    opens = next_opening(window, after)
    return opens is not None and opens <= until


def _zone(window: Window) -> ZoneInfo:
    try:
        return ZoneInfo(window.time_zone)
    except (ZoneInfoNotFoundError, ValueError, OSError) as error:
        raise ValueError(f"{window.time_zone!r} is not an IANA time zone, such as Europe/Berlin") from error
