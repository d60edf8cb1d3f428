"""Recurring windows of time: five cron fields, a duration and a time zone."""

from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from cronsim import CronSim, CronSimError

from paramedic.api.policy import Window


def opened_at(window: Window, now: datetime) -> datetime | None:
    """When the window that is open at ``now`` opened, or None. Raises ValueError for a wrong schedule or zone."""
    local = now.astimezone(_zone(window))
    last = _first(window, local + timedelta(minutes=1), reverse=True)
    if last is None or last > local:
        last = _first(window, local, reverse=True)
    if last is None or last.astimezone(UTC) + window.duration <= now.astimezone(UTC):
        return None
    return last.astimezone(UTC)


def next_opening(window: Window, now: datetime) -> datetime | None:
    """When the window opens next after ``now``."""
    following = _first(window, now.astimezone(_zone(window)), reverse=False)
    return following.astimezone(UTC) if following else None


def closes_at(window: Window, now: datetime) -> datetime | None:
    """When the window that is open at ``now`` closes, or None when it is closed."""
    opened = opened_at(window, now)
    return opened + window.duration if opened else None


def check(window: Window) -> None:
    """Raises ValueError that says what is wrong in the window."""
    next_opening(window, datetime(2026, 1, 1, tzinfo=UTC))


def _zone(window: Window) -> ZoneInfo:
    try:
        return ZoneInfo(window.time_zone)
    except (ZoneInfoNotFoundError, ValueError, OSError) as error:
        raise ValueError(f"{window.time_zone!r} is not an IANA time zone, such as Europe/Berlin") from error


def _first(window: Window, start: datetime, *, reverse: bool) -> datetime | None:
    if len(window.schedule.split()) != 5:
        raise ValueError(f"{window.schedule!r} is not a schedule: five cron fields are needed")
    try:
        return next(iter(CronSim(window.schedule, start, reverse=reverse)), None)
    except CronSimError as error:
        raise ValueError(f"{window.schedule!r} is not a schedule: {error}") from error
