"""A channel that is renamed or removed in the settings is not waited for any more."""

from __future__ import annotations

from typing import Any

from builders import NOW, incident, later
from paramedic.api import conditions as c
from paramedic.api.incident import Incident, Notice
from paramedic.api.reasons import Reason
from paramedic.notifier import Notifier
from paramedic.record import Draft
from paramedic.store import Store

ENDED: dict[str, Any] = {"phase": "Resolved", "resolvedAt": NOW.isoformat()}


def told_of(*notices: Notice, **status: Any) -> Incident:
    """An incident with these notices."""
    return incident(status=status | {"notices": [one.to_wire() for one in notices]})


def notice(key: str, **channels: list[str]) -> Notice:
    return Notice(key=key, kind="Update", at=NOW, message="it hurts", **channels)


def attend(found: Incident) -> Draft:
    draft = Draft(found, {}, later(1))
    Notifier(["desk"], ["desk"]).attend(draft)
    return draft


def is_kept_whole(found: Incident) -> bool:
    store = Store()
    store.put_incident(found.model_dump(mode="json", by_alias=True))
    return store.entries[found.key].raw is not None


def test_what_waits_for_one_that_is_not_there_any_more_is_given_up_and_said_once() -> None:
    waiting = notice("a", pending=["chat", "desk"]), notice("b", pending=["chat"]), notice("c", held=["pager"])
    found = told_of(*waiting)
    draft = attend(found)
    left = [(one.pending, one.held, one.undelivered) for one in found.status.notices]
    assert left == [(["desk"], [], ["chat"]), ([], [], ["chat"]), ([], [], ["pager"])]
    text = "was not told: the settings have no channel of this name any more"
    assert [(e.reason, e.message) for e in draft.said] == [
        (Reason.NOTICE_UNDELIVERED, f"{name} {text}") for name in ("chat", "pager")
    ]
    known = c.find(found.status.conditions, c.NOTIFIED)
    assert known
    assert (known.status, known.reason) == ("False", Reason.NOTICE_UNDELIVERED)
    assert attend(found).said == []


def test_one_that_has_ended_is_not_kept_for_it() -> None:
    found = told_of(notice("a", pending=["chat"]), **ENDED)
    assert is_kept_whole(found)
    attend(found)
    assert not is_kept_whole(found)


def test_one_that_is_there_is_waited_for() -> None:
    found = told_of(notice("a", pending=["desk"]), **ENDED)
    assert attend(found).said == []
    assert is_kept_whole(found)
