"""Windows, against a simulation that looks at every minute's wall clock."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from builders import window
from paramedic.api.policy import Window
from paramedic.core import schedule

MINUTE = timedelta(minutes=1)


def at(text: str) -> datetime:
    return datetime.fromisoformat(text).replace(tzinfo=UTC)


@pytest.mark.parametrize(
    ("chosen", "now", "opened", "closes"),
    [
        # The freeze of the design: Friday 18:00 until Monday 06:00
        (window(), "2026-03-06T17:59:59", None, None),
        (window(), "2026-03-06T18:00:00", "2026-03-06T18:00", "2026-03-09T06:00"),
        (window(), "2026-03-09T05:59:59", "2026-03-06T18:00", "2026-03-09T06:00"),
        (window(), "2026-03-09T06:00:00", None, None),
        # month ends
        (window("0 0 31 * *", "1h"), "2026-04-30T00:30", None, None),
        (window("0 0 31 * *", "1h"), "2026-05-31T00:30", "2026-05-31T00:00", "2026-05-31T01:00"),
        (window("0 23 28 2 *", "2h"), "2026-03-01T00:30", "2026-02-28T23:00", "2026-03-01T01:00"),
        (window("0 0 29 2 *", "1d"), "2028-02-29T12:00", "2028-02-29T00:00", "2028-03-01T00:00"),
        (window("0 0 L * *", "1h"), "2026-02-28T00:10", "2026-02-28T00:00", "2026-02-28T01:00"),
        # overlapping: the latest opening counts
        (window("0 * * * *", "90m"), "2026-03-02T12:10", "2026-03-02T12:00", "2026-03-02T13:30"),
        (window("* * * * *", "365d"), "2026-03-02T12:10:30", "2026-03-02T12:10", "2027-03-02T12:10"),
        (window("0 0 1 1 *", "400d"), "2026-12-31T12:00", "2026-01-01T00:00", "2027-02-05T00:00"),
        # time zones
        (window("0 18 * * *", "1h", "Europe/Berlin"), "2026-01-15T17:30", "2026-01-15T17:00", "2026-01-15T18:00"),
        (window("0 18 * * *", "1h", "Europe/Berlin"), "2026-07-15T16:30", "2026-07-15T16:00", "2026-07-15T17:00"),
        (window("0 18 * * *", "1h", "Asia/Kolkata"), "2026-07-15T12:30", "2026-07-15T12:30", "2026-07-15T13:30"),
        # spring forward: what falls into the gap opens when the gap ends
        (window("30 2 * * *", "1h", "Europe/Berlin"), "2026-03-29T01:05", "2026-03-29T01:00", "2026-03-29T02:00"),
        # fall back: a daily window opens once, an hourly one in both hours, and its length is real time
        (window("30 2 * * *", "20m", "Europe/Berlin"), "2026-10-25T00:35", "2026-10-25T00:30", "2026-10-25T00:50"),
        (window("30 2 * * *", "20m", "Europe/Berlin"), "2026-10-25T01:35", None, None),
        (window("30 * * * *", "20m", "Europe/Berlin"), "2026-10-25T01:35", "2026-10-25T01:30", "2026-10-25T01:50"),
        (window("0 2 * * *", "3h", "America/New_York"), "2026-11-01T09:30", "2026-11-01T07:00", "2026-11-01T10:00"),
    ],
)
def test_open_windows(chosen: Window, now: str, opened: str | None, closes: str | None) -> None:
    assert schedule.opened_at(chosen, at(now)) == (at(opened) if opened else None)
    assert schedule.closes_at(chosen, at(now)) == (at(closes) if closes else None)


def test_next_opening() -> None:
    assert schedule.next_opening(window(), at("2026-03-06T18:00")) == at("2026-03-13T18:00")
    assert schedule.next_opening(window(zone="Europe/Berlin"), at("2026-03-28T12:00")) == at("2026-04-03T16:00")


@pytest.mark.parametrize(
    ("chosen", "said"),
    [
        (window("60 * * * *"), "'60 * * * *' is not a schedule: Bad minute"),
        (window("* * * * FOO"), "Bad day-of-week"),
        (window("0 0 30 2 *"), "not a schedule"),
        (window("* * * * *", zone="Mars/Olympus"), "'Mars/Olympus' is not an IANA time zone"),
        (window("* * * * *", zone="../../etc/passwd"), "is not an IANA time zone"),
        (window("* * * * *", zone="/etc/passwd"), "is not an IANA time zone"),
        (window("* * * * *", zone=""), "is not an IANA time zone"),
        (window("0 0 29 2 */7", "367d"), "a window stays open for 366d at most"),
    ],
)
def test_mistakes_are_explained(chosen: Window, said: str) -> None:
    with pytest.raises(ValueError) as failure:
        schedule.check(chosen)
    assert said in str(failure.value)


# -- against every minute ----------------------------------------------------------------------------------------------


def _field(low: int, high: int) -> st.SearchStrategy[tuple[str, frozenset[int]]]:
    numbers = st.sets(st.integers(low, high), min_size=1, max_size=4)
    return st.one_of(
        st.just(("*", frozenset(range(low, high + 1)))),
        st.integers(2, 20).map(lambda n: (f"*/{n}", frozenset(range(low, high + 1, n)))),
        numbers.map(lambda s: (",".join(map(str, sorted(s))), frozenset(s))),
    )


fields = st.tuples(_field(0, 59), _field(0, 23), _field(1, 31), _field(1, 12), _field(0, 6))
Fields = tuple[tuple[str, frozenset[int]], ...]


def openings(spec: Fields, zone: ZoneInfo, first: datetime, last: datetime) -> Iterator[datetime]:
    """Every minute of the span whose wall clock the five fields name; cron's rule joins two given days by `or`."""
    (_, minute), (_, hour), (day_text, day), (_, month), (weekday_text, weekday) = spec
    either = not day_text.startswith("*") and not weekday_text.startswith("*")
    now = first.replace(second=0, microsecond=0)
    while now <= last:
        local = now.astimezone(zone)
        days = local.day in day, (local.weekday() + 1) % 7 in weekday
        if local.minute in minute and local.hour in hour and local.month in month and (any if either else all)(days):
            yield now
        now += MINUTE


@settings(max_examples=60, deadline=None)
@given(
    fields,
    st.sampled_from(["UTC", "Europe/Berlin", "America/New_York", "Asia/Kolkata", "Pacific/Auckland"]),
    st.integers(1, 2000),
    st.integers(0, 364 * 24 * 60),
)
def test_agrees_with_the_wall_clock(spec: Fields, zone: str, duration: int, minute: int) -> None:
    asked, zone_ = at("2026-01-01") + minute * MINUTE, ZoneInfo(zone)
    first = asked - timedelta(minutes=duration)
    if (
        len({zone_.utcoffset((first + timedelta(hours=h)).astimezone(zone_)) for h in range(-3, duration // 60 + 5)})
        > 1
    ):
        return  # days on which the clocks change follow Debian's cron; they have their own table
    chosen = window(" ".join(text for text, _ in spec), f"{duration}m", zone)
    try:
        schedule.check(chosen)
    except ValueError:
        return
    opened = [o for o in openings(spec, zone_, first, asked) if o + timedelta(minutes=duration) > asked]
    assert schedule.opened_at(chosen, asked) == (opened[-1] if opened else None)


@pytest.mark.parametrize(
    ("zone", "change"),
    [
        ("Europe/Berlin", "2026-03-29T01:00"),
        ("Europe/Berlin", "2026-10-25T01:00"),
        ("America/New_York", "2026-03-08T07:00"),
        ("America/New_York", "2026-11-01T06:00"),
        ("Pacific/Auckland", "2026-04-04T14:00"),
    ],
)
@pytest.mark.parametrize("spec", ["30 2 * * *", "*/15 * * * *", "0 * * * *", "15 2,3 * * *", "30 1 * * *"])
def test_when_the_clocks_change_looking_back_and_forward_agree(zone: str, change: str, spec: str) -> None:
    chosen = window(spec, "20m", zone)
    now, end = at(change) - timedelta(hours=4), at(change) + timedelta(hours=4)
    last: datetime | None = None
    following = schedule.next_opening(chosen, now - timedelta(days=2))
    while now <= end:
        while following and following <= now:
            last, following = following, schedule.next_opening(chosen, following)
        wanted = last if last and now < last + chosen.duration else None
        assert schedule.opened_at(chosen, now) == wanted, now
        now += 3 * MINUTE
