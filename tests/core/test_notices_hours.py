"""Who is paged by a beginning waits for the hours in which people are called, as calls do; everybody else is told."""

from __future__ import annotations

import json
from datetime import datetime, timedelta
from functools import partial
from typing import Any

import pytest

from builders import NOW, incident, later
from paramedic.api.incident import Acknowledgement, Incident
from paramedic.api.people import PeopleSettings
from paramedic.api.reasons import Reason
from paramedic.notifier import Notifier
from paramedic.record import Draft, acknowledge, raise_severity

Json = dict[str, Any]
# NOW is a Monday, 12:00 UTC.
MORNINGS = {"schedule": "0 9 * * MON-FRI", "duration": "2h", "timeZone": "UTC"}
TOMORROW = NOW + timedelta(hours=21)
SETTINGS = PeopleSettings.model_validate(
    {
        "responses": [{"severity": "P2", "respondWithin": "1h", "callDuring": [MORNINGS]}],
        "teams": [{"name": "ops", "levels": [{"name": "on call", "contacts": [{"channel": "managers"}]}] * 2}],
    }
)
CHANNELS = ("pager", "desk", "managers")


class Desk:
    """One incident through several writes, each by another process; ``woken`` are the channels of the last one."""

    def __init__(self, **fields: Any) -> None:
        self.incident = incident(**({"severity": "P2"} | fields))
        self.woken: set[str] = set()

    def write(self, now: datetime, *said: Reason, **changes: Any) -> None:
        notifier = Notifier(
            CHANNELS, ["pager", "desk"], {"managers": ("paramedic-system",)}, paging=["pager"], people=SETTINGS
        )
        notifier.wake = lambda _, names: self.woken.update(names)
        self.woken = set()
        draft = Draft(self.incident, {}, now)
        if "raised" in changes:
            raise_severity(draft, self.incident.spec.severity, changes["raised"], "by a test")
        if "acknowledged" in changes:
            acknowledge(draft, Acknowledgement(by="alice", at=now), "alice")
        for reason in said:
            draft.say(reason, "it hurts")
        notifier.attend(draft)
        for effect in draft.effects:
            effect()
        self.look = partial(notifier.next_look, draft.incident)
        self.next_look = self.look(now)
        self.incident = Incident.model_validate(json.loads(draft.incident.model_dump_json(by_alias=True)))

    def waits(self, reason: Reason) -> list[str]:
        """The channels that have still to be told of a fact, and may be by now."""
        return [name for one in self.incident.status.notices if one.reason == reason for name in one.pending]


def test_a_beginning_at_night_pages_in_the_morning() -> None:
    desk = Desk()
    desk.write(NOW, Reason.ALERT_RECEIVED)
    assert desk.waits(Reason.ALERT_RECEIVED) == ["desk"]
    assert desk.woken == {"desk"}
    assert desk.next_look == TOMORROW
    assert desk.look(TOMORROW + timedelta(seconds=1)) == TOMORROW + timedelta(seconds=1), "they began meanwhile"
    desk.write(later(5), Reason.APPLIED)
    assert desk.waits(Reason.ALERT_RECEIVED) == ["desk"]
    assert desk.next_look == TOMORROW
    desk.write(TOMORROW)
    assert desk.waits(Reason.ALERT_RECEIVED) == ["desk", "pager"]
    assert "pager" in desk.woken
    assert desk.next_look is None


def test_in_the_hours_it_pages_at_once() -> None:
    desk = Desk()
    desk.write(TOMORROW, Reason.ALERT_RECEIVED)
    assert desk.waits(Reason.ALERT_RECEIVED) == ["pager", "desk"]


def test_a_severity_without_hours_pages_at_once() -> None:
    desk = Desk(severity="P1")
    desk.write(NOW, Reason.ALERT_RECEIVED)
    assert desk.waits(Reason.ALERT_RECEIVED) == ["pager", "desk"]


def test_what_turns_out_to_be_grave_waits_no_longer() -> None:
    desk = Desk()
    desk.write(NOW, Reason.ALERT_RECEIVED)
    desk.write(later(5), raised="P1")
    assert desk.waits(Reason.ALERT_RECEIVED) == ["desk", "pager"]
    assert desk.waits(Reason.SEVERITY_RAISED) == ["pager", "desk"]


@pytest.mark.parametrize(
    "answered",
    [
        {"acknowledgement": {"by": "alice", "at": NOW.isoformat()}},
        {"closure": {"by": "alice", "at": NOW.isoformat()}},
        {"resolvedAt": NOW.isoformat()},
        {"parent": "several-services-1"},
    ],
)
def test_who_was_not_paged_before_somebody_worked_on_it_or_spoke_for_it_is_not_paged_afterwards(answered: Json) -> None:
    desk = Desk()
    desk.write(NOW, Reason.ALERT_RECEIVED)
    raw = desk.incident.model_dump(mode="json", by_alias=True)
    desk.incident = Incident.model_validate(raw | {"status": raw["status"] | answered})
    desk.write(later(5))
    assert desk.next_look is None
    desk.write(TOMORROW)
    assert desk.waits(Reason.ALERT_RECEIVED) == ["desk"]


def test_somebody_works_on_it_from_the_beginning() -> None:
    desk = Desk()
    desk.write(NOW, Reason.ALERT_RECEIVED, acknowledged=True)
    assert desk.waits(Reason.ALERT_RECEIVED) == ["desk"]
    assert desk.waits(Reason.ACKNOWLEDGED) == ["pager", "desk"]
    assert desk.next_look is None


@pytest.mark.parametrize("level", [0, 1])
def test_who_was_called_is_told_of_what_follows_also_where_not_everybody_may_name_the_channel(level: int) -> None:
    called = {"level": level, "since": NOW.isoformat(), "team": "ops"}
    desk = Desk(status={"notify": ["managers"]} | ({"escalation": called} if level else {}))
    desk.write(later(5), Reason.ACKNOWLEDGED)
    assert ("managers" in desk.waits(Reason.ACKNOWLEDGED)) is bool(level)
