"""What a part of several services says itself, and what its parent says in its place."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from builders import NOW, ago, incident
from paramedic.api.incident import Notice, NoticeKind
from paramedic.core.notices import besides_calls, is_told_otherwise

PART = {"parent": "several-services-1"}


def notice(kind: NoticeKind, reason: str = "Applied", minutes_ago: float = 0, pending: Sequence[str] = ()) -> Notice:
    at = ago(minutes_ago)
    return Notice(key=f"{kind}.{reason}", kind=kind, reason=reason, at=at, message="m", pending=list(pending))


@pytest.mark.parametrize("kind", ["Opened", "Update", "Acknowledged", "Resolved"])
def test_a_part_that_nobody_was_told_of_is_its_parents_to_tell(kind: NoticeKind) -> None:
    assert is_told_otherwise(incident(status=PART), notice(kind))
    assert not is_told_otherwise(incident(), notice(kind))


@pytest.mark.parametrize("kind", ["Call", "ApprovalNeeded"])
def test_a_part_calls_and_asks_for_itself(kind: NoticeKind) -> None:
    assert not is_told_otherwise(incident(status=PART), notice(kind))


@pytest.mark.parametrize(("kind", "silent"), [("Resolved", False), ("Acknowledged", False), ("Update", True)])
def test_who_was_told_of_its_beginning_is_told_of_its_end(kind: NoticeKind, silent: bool) -> None:
    found = incident(status=PART)
    found.status.notices = [notice("Opened", "AlertReceived", 5)]
    assert is_told_otherwise(found, notice(kind)) is silent


def test_a_call_of_the_same_moment_says_what_it_calls_for() -> None:
    def left(call: Notice, fact: Notice) -> list[list[str]]:
        return [one.pending for one in besides_calls([fact], [call], NOW)]

    def fact(reason: str) -> Notice:
        return notice("Update", reason, pending=["desk", "first"])

    assert left(notice("Call", "NotAcknowledged", pending=["desk", "first"]), fact("NotAcknowledged")) == []
    assert left(notice("Call", "NotAcknowledged", pending=["desk"]), fact("NotAcknowledged")) == [["first"]]
    assert left(notice("Call", "NotAcknowledged", pending=["desk"]), fact("Applied")) == [["desk", "first"]]
    assert left(notice("Call", "NotAcknowledged", 5, pending=["desk"]), fact("NotAcknowledged")) == [["desk", "first"]]
