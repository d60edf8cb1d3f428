"""What the mirror counts while an intent is being written, and while nobody knows whether it was."""

from __future__ import annotations

from typing import Any

import pytest

from builders import NOW, OPERATION, TARGET, incident, step
from paramedic.core.guard import ActionRecord
from paramedic.errors import Retry
from paramedic.store import Store

Json = dict[str, Any]
POLICY, MINE, OTHER = "covet/api-outage", "covet/api-down", "covet/other"
INTENT = ActionRecord(POLICY, TARGET, NOW, MINE, OPERATION)


def raw(version: int, *steps: Any, phase: str = "Open") -> Json:
    """The incident ``api-down`` as the API server shows it."""
    found = incident(*steps, phase=phase)
    meta = {"name": "api-down", "namespace": "covet", "uid": "uid-1", "resourceVersion": str(version)}
    return {"metadata": meta, "spec": found.spec.to_wire(), "status": found.status.to_wire()}


def counted(store: Store) -> tuple[str | None, int, int, int]:
    """What another incident's guards are told: who acts on the target, actions on it and under the policy, and how
    many of the policy's incidents have acted."""
    return (
        store.busy_with(TARGET, OTHER),
        len(store.actions_on(TARGET)),
        len(store.actions_under(POLICY)),
        store.open_remediations(POLICY, OTHER),
    )


def write_intent(store: Store, error: Exception) -> None:
    """One whose write fails like this."""
    with pytest.raises(type(error)), store.reserve(INTENT):
        assert counted(store) == (MINE, 1, 1, 1)
        raise error


@pytest.fixture
def store() -> Store:
    """It knows the incident, which has not acted."""
    found = Store()
    found.put_incident(raw(5, step(state="Pending")))
    return found


LOST = Retry("the answer is lost", uncertain=True)
NOTHING = (None, 0, 0, 0)


def test_an_intent_whose_answer_is_lost_counts_until_the_incident_has_been_read_anew(store: Store) -> None:
    write_intent(store, LOST)
    assert counted(store) == (MINE, 1, 1, 1)
    assert store.busy_with(TARGET, MINE) is None, "it does not stand in its own way"
    assert store.is_in_doubt(MINE)
    store.settle(MINE)
    assert counted(store) == NOTHING
    assert not store.is_in_doubt(MINE)


@pytest.mark.parametrize("stored", [False, True])
def test_a_newer_copy_says_whether_it_was_stored(store: Store, stored: bool) -> None:
    write_intent(store, LOST)
    intent = raw(6, step(state="Executing", started_at=NOW), phase="Remediating")
    store.put_incident(intent if stored else raw(6, step(state="Pending")))
    assert counted(store) == ((MINE, 1, 1, 1) if stored else NOTHING)


def test_an_older_copy_says_nothing(store: Store) -> None:
    write_intent(store, LOST)
    store.put_incident(raw(4, step(state="Pending")))
    assert counted(store) == (MINE, 1, 1, 1)


def test_one_that_was_surely_not_stored_does_not_count(store: Store) -> None:
    write_intent(store, Retry("the API server cannot be reached"))
    assert counted(store) == NOTHING


def test_a_deleted_incident_is_no_longer_in_doubt(store: Store) -> None:
    write_intent(store, LOST)
    store.drop_incident(MINE)
    assert counted(store) == NOTHING


def test_what_is_not_known_is_over_once_everything_has_been_read(store: Store) -> None:
    gone = "covet/gone"
    assert not store.is_over(gone), "it may be read in a moment"
    store.loaded = True
    assert store.is_over(gone)
    assert not store.is_over(MINE)
    store.put_incident(raw(6, phase="Resolved"))
    assert store.is_over(MINE)
