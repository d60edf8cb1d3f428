"""How long things took, and when the next status update is due."""

from __future__ import annotations

from typing import Any

import pytest

from builders import NOW, ago, incident, later, minutes, step
from paramedic.api.base import parse_time
from paramedic.api.incident import Incident, Notice
from paramedic.core.clocks import mitigated_at, next_update_at, times

OPENED = {"creationTimestamp": NOW.isoformat()}


def test_times_count_from_the_beginning_of_the_trouble() -> None:
    status = {
        "acknowledgement": {"by": "alice", "at": ago(7).isoformat()},
        "mitigatedAt": ago(4).isoformat(),
        "resolvedAt": ago(1).isoformat(),
    }
    found = times(incident(status=status))
    assert found is not None
    assert (found.acknowledge, found.mitigate, found.resolve) == (minutes(3), minutes(6), minutes(9))


def test_nothing_has_taken_any_time_yet() -> None:
    assert times(incident()) is None


def test_a_figure_stays_once_it_is_there() -> None:
    status = {"resolvedAt": NOW.isoformat(), "times": {"resolve": "1m"}}
    found = times(incident(status=status))
    assert found is not None
    assert found.resolve == minutes(1)


@pytest.mark.parametrize("starts_at", ["0001-01-01T00:00:00Z", "9999-12-31T00:00:00Z"])
def test_of_an_alert_that_lies_about_its_start_times_count_from_the_opening(starts_at: str) -> None:
    found = incident(status={"resolvedAt": NOW.isoformat()})
    assert found.spec.alert is not None
    found.spec.alert.starts_at = parse_time(starts_at)
    found.status.times = times(found)
    read = Incident.model_validate(
        {"metadata": OPENED | {"name": "a", "namespace": "b"}}
        | {"spec": found.spec.to_wire(), "status": found.status.to_wire()}
    )
    assert read.status.times is not None
    assert read.status.times.resolve == minutes(10)


@pytest.mark.parametrize(
    ("steps", "expected"),
    [
        ([], None),
        ([step(state="Verifying")], None),
        ([step(state="Succeeded", finished_at=ago(2))], ago(2)),
        ([step("a", "Succeeded", finished_at=ago(2)), step("b", "Succeeded", finished_at=ago(3))], ago(3)),
        ([step(state="Succeeded", action="diagnose", finished_at=ago(2))], None),
        ([step(state="Reverted", reason="LeaseEnded", finished_at=ago(2))], ago(2)),
        ([step(state="Reverted", reason="VerificationFailed", finished_at=ago(2))], None),
    ],
)
def test_the_first_verified_remedy_mitigates(steps: list[Any], expected: Any) -> None:
    assert mitigated_at(incident(*steps)) == expected


def update(minute: float, reason: str = "UpdateDue") -> Notice:
    return Notice(key=f"{reason}.{minute}", kind="Update", reason=reason, at=later(minute), message="m")


@pytest.mark.parametrize(
    ("notices", "expected"),
    [
        ([], 30),
        ([update(30)], 60),
        ([update(30.1), update(31, "Applied")], 60),
        ([update(95)], 120),
        ([update(30)] + [update(31 + n / 10, "Applied") for n in range(49)], 60),
        ([update(31 + n / 10, "Applied") for n in range(50)], 60),
    ],
)
def test_updates_come_at_whole_intervals_and_missed_ones_are_one(notices: list[Notice], expected: float) -> None:
    found = incident(metadata=OPENED)
    found.status.notices = notices
    assert next_update_at(found, minutes(30)) == later(expected)
