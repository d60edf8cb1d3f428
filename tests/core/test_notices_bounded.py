"""What is to be told never grows beyond what an Incident can hold, and what matters is the last to go."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from paramedic.api.incident import Notice, NoticeKind
from paramedic.core.notices import MOST, NEWEST, with_notices

BEGAN = datetime(2026, 3, 2, tzinfo=UTC)


def notices(count: int, kind: NoticeKind = "Update", *pending: str, start: int = 0) -> list[Notice]:
    return [
        Notice(
            key=f"{kind}.{n}",
            kind=kind,
            reason="Applied",
            at=BEGAN + timedelta(minutes=n),
            message="m",
            pending=[*pending],
        )
        for n in range(start, start + count)
    ]


def test_what_was_told_is_kept_for_a_while() -> None:
    kept = with_notices(notices(NEWEST), notices(3, start=NEWEST))
    assert [one.key for one in kept] == [f"Update.{n}" for n in range(3, NEWEST + 3)]


def test_what_is_still_to_be_told_stays() -> None:
    assert with_notices(notices(200, "Update", "hook"), notices(1, "Call", "hook")) == [
        *notices(200, "Update", "hook"),
        *notices(1, "Call", "hook"),
    ]


def test_of_too_many_the_oldest_updates_go_first() -> None:
    known = [*notices(1, "Opened", "hook"), *notices(MOST - 1, "Update", "hook")]
    kept = with_notices(known, notices(2, "Call", "hook"))
    assert len(kept) == MOST
    assert kept == [
        *notices(1, "Opened", "hook"),
        *notices(MOST - 3, "Update", "hook", start=2),
        *notices(2, "Call", "hook"),
    ]


def test_a_channel_that_is_never_there_again_does_not_fill_the_incident() -> None:
    kept: list[Notice] = []
    for number in range(MOST + 50):
        kept = with_notices(kept, notices(1, "Call", "hook", start=number))
    assert [one.key for one in kept] == [f"Call.{n}" for n in range(50, MOST + 50)]
