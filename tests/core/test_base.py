"""Durations and times, as people, Kubernetes and Go write them."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from paramedic.api.base import MAX_DURATION, format_duration, format_time, parse_duration, parse_time
from paramedic.api.policy import Guards


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("30s", 30),
        ("10m", 600),
        ("1h30m", 5400),
        ("2d", 172_800),
        ("250ms", 0.25),
        ("0s", 0),
        ("1m1m", 120),
        (90, 90),
        (0.5, 0.5),
        ("36500d", 36_500 * 86_400),
    ],
)
def test_reads_durations(text: Any, seconds: float) -> None:
    assert parse_duration(text) == timedelta(seconds=seconds)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "10",
        "1.5h",
        "-5m",
        "5 m",
        "m",
        "1h ",
        "1s\n",
        "١s",
        "1w",
        "1e3s",
        "NaN",
        "36501d",
        "99999999999999d",
        "9" * 400 + "s",
        -1,
        float("nan"),
        float("inf"),
        10**400,
        None,
        [],
        {},
        True,
    ],
)
def test_refuses_what_is_no_duration(text: Any) -> None:
    """Also what would overflow a date later on: after an action is no time to find that out."""
    with pytest.raises(ValueError):
        parse_duration(text)


def test_a_wrong_duration_in_a_resource_is_a_validation_error() -> None:
    for wrong in ("999999999999d", None, [1], "soon"):
        with pytest.raises(ValidationError):
            Guards.model_validate({"cooldown": wrong})


@given(st.timedeltas(timedelta(0), MAX_DURATION))
def test_durations_come_back_to_the_millisecond(value: timedelta) -> None:
    again = parse_duration(format_duration(value))
    assert abs(again - value) <= timedelta(microseconds=500)
    assert parse_duration(format_duration(again)) == again


@given(st.integers(0, 40_000), st.sampled_from(["ms", "s", "m", "h"]))
def test_the_written_form_is_what_the_schema_takes(count: int, unit: str) -> None:
    text = format_duration(parse_duration(f"{count}{unit}"))
    assert Guards.model_validate({"cooldown": text}).cooldown == parse_duration(text)
    assert len(text) <= 32


@pytest.mark.parametrize(
    ("text", "when"),
    [
        ("2026-03-02T12:00:00Z", datetime(2026, 3, 2, 12, tzinfo=UTC)),
        ("2026-03-02T12:00:00.123456789Z", datetime(2026, 3, 2, 12, 0, 0, 123456, tzinfo=UTC)),
        ("2026-03-02T12:00:00.5+02:00", datetime(2026, 3, 2, 10, 0, 0, 500000, tzinfo=UTC)),
        ("2026-03-02T12:00:00.1234567891234-05:30", datetime(2026, 3, 2, 17, 30, 0, 123456, tzinfo=UTC)),
        ("0001-01-01T00:00:00Z", datetime(1, 1, 1, tzinfo=UTC)),
        ("9999-12-31T23:59:59.999999Z", datetime(9999, 12, 31, 23, 59, 59, 999999, tzinfo=UTC)),
        ("2026-03-02T12:00:00", datetime(2026, 3, 2, 12, tzinfo=UTC)),
    ],
)
def test_reads_times(text: str, when: datetime) -> None:
    assert parse_time(text) == when


@pytest.mark.parametrize(
    "text",
    [
        "",
        "soon",
        "2026-13-01T00:00:00Z",
        "2026-03-02T25:00:00Z",
        "10000-01-01T00:00:00Z",
        "0000-01-01T00:00:00Z",
        "0001-01-01T00:00:00+01:00",
        "9999-12-31T23:59:59-01:00",
        "2026-03-02T12:00:60Z",
        5,
        1e300,
        None,
        [],
        True,
        "\x00",
        "2026-03-02T12:00:00Z\n'; DROP TABLE",
    ],
)
def test_refuses_what_is_no_time(text: Any) -> None:
    with pytest.raises(ValueError):
        parse_time(text)


@given(st.datetimes(), st.integers(-23 * 60, 23 * 60))
def test_times_come_back(when: datetime, offset: int) -> None:
    zoned = when.replace(tzinfo=timezone(timedelta(minutes=offset)))
    try:
        text = format_time(zoned)
    except OverflowError:
        return
    assert parse_time(text) == zoned
    assert len(text) == len("2026-03-02T12:00:00.000000Z")
    assert text.endswith("Z")
