"""What the mirror counts while an intent is being written, and while nobody knows whether it was."""

from __future__ import annotations

from typing import Any

import pytest

from builders import NOW, OPERATION, TARGET, ago, alert, held, incident, later, minutes, policy, step
from paramedic.api.base import format_time
from paramedic.api.incident import MAX_STARTS, StepStatus
from paramedic.core.guard import ActionRecord
from paramedic.core.match import incident_manifest
from paramedic.errors import Retry
from paramedic.store import Entry, Store, key_of

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


@pytest.mark.parametrize(("params", "count"), [({}, 0), ({"snapshots": {"connection": "account"}}, 1)])
def test_evidence_that_costs_something_counts_under_its_policy_but_acts_on_no_target(params: Json, count: int) -> None:
    store = Store()
    store.put_incident(raw(5, step(state="Executing", action="captureEvidence", params=params), phase="Remediating"))
    assert counted(store) == (None, 0, count, 0)


def test_the_end_of_a_lease_takes_no_action_away_from_its_policy() -> None:
    store = Store()
    over = {"state": "Succeeded", "operation": "put-back", "startedAt": format_time(NOW)}
    store.put_incident(raw(5, held(state="Reverted", reason="LeaseEnded", revert=over)))
    assert [a.operation for a in store.actions_on(TARGET)] == [OPERATION, "put-back"], "for the cooldown it counts"
    assert [a.operation for a in store.actions_under(POLICY)] == [OPERATION]


# -- changes that stand on one another ---------------------------------------------------------------------------------


def scaled(before: int, after: int, minutes_ago: int, state: str = "Succeeded", **fields: Any) -> StepStatus:
    """A leased change of the replicas."""
    name = f"to-{after}"
    found = {"before": {"replicas": before}, "after": {"replicas": after}, "started_at": ago(minutes_ago)}
    return held(name, state, **(found | fields))


def beside(*steps: StepStatus, phase: str = "Remediating") -> Store:
    """What is known of another incident with these steps."""
    found = raw(5, *steps, phase=phase)
    found["metadata"] |= {"name": "other", "uid": "uid-2"}
    return with_incident(found)[0]


FAILED = {"state": "Failed", "operation": "put-back", "failure": "Forbidden"}
DONE = FAILED | {"state": "Succeeded"}
UNLEASED = {"ttl": None, "revert_at": None}


@pytest.mark.parametrize(
    ("later_one", "stands"),
    [
        (scaled(10, 20, 3), True),
        (scaled(10, 20, 3, "Executing"), True),
        (scaled(10, 20, 3, "Verifying", **UNLEASED), True),  # it may turn out not to help
        (scaled(10, 20, 3, revert=FAILED), True),
        (scaled(10, 20, 3, revert=FAILED | {"state": "Executing"}), True),
        (scaled(10, 20, 3, **UNLEASED), False),  # it stays
        (scaled(10, 20, 3, kept_by="alice"), False),
        (scaled(10, 20, 3, "Reverted", revert=DONE), False),
        (scaled(12, 20, 3), False),  # others have changed it in between
        (scaled(10, 20, 9), False),  # it came before
        (scaled(10, 20, 3, target={"namespace": "covet", "name": "covet-worker"}), False),
        (held("limit", started_at=ago(3), before={"limit": "absent"}, after={"limit": "as created"}), False),
    ],
)
def test_a_change_that_may_yet_be_put_back_stands_on_what_it_found(later_one: StepStatus, stands: bool) -> None:
    first = scaled(3, 10, 5)
    assert beside(later_one).covered(MINE, [first]) == ({0: "incident covet/other"} if stands else {})
    assert Store().covered(MINE, [first, later_one]).get(0) == (f"step {later_one.name}" if stands else None)


def test_what_has_been_put_back_and_what_is_over_is_no_matter() -> None:
    done = scaled(3, 10, 5, "Reverted", revert=DONE)
    assert beside(scaled(10, 20, 3)).covered(MINE, [done]) == {}
    assert beside(scaled(10, 20, 3), phase="Resolved").covered(MINE, [scaled(3, 10, 5)]) == {}


# -- what this version cannot read -------------------------------------------------------------------------------------


def of_a_newer_version(version: int, step_: Json, phase: str = "Remediating") -> Json:
    """The same incident with this as its step, in a field that a newer version has made something else."""
    found = raw(version, phase=phase)
    found["status"] |= {"steps": [step("undo").to_wire() | step_], "message": {"text": "of a newer version"}}
    return found


@pytest.mark.parametrize("state", ["Executing", "Verifying", "AStateOfANewerVersion"])
def test_what_an_incident_that_cannot_be_read_may_be_acting_on_is_busy(state: str) -> None:
    begun = {"state": state, "operation": OPERATION, "attempts": 1, "startedAt": format_time(NOW)}
    store, entry = with_incident(of_a_newer_version(5, begun))
    assert counted(store) == (MINE, 1, 1, 1)
    assert (entry.problem, store.open_incident(MINE)) == ("status.message: Input should be a valid string", None)
    assert (store.count_unreadable(), store.count_by_phase()["Remediating"]) == (1, 1)


def test_so_is_what_it_is_putting_back() -> None:
    begun = {"operation": OPERATION, "startedAt": format_time(ago(60))}
    revert = {"state": "Executing", "operation": "put-back", "startedAt": format_time(NOW)}
    store, _ = with_incident(of_a_newer_version(5, begun | {"state": "Succeeded", "revert": revert}))
    assert counted(store) == (MINE, 2, 1, 1)


def test_one_that_is_at_rest_or_over_holds_nobody_up() -> None:
    store, _ = with_incident(of_a_newer_version(5, {"state": "Pending"}, phase="Open"))
    assert counted(store) == NOTHING
    undated = {"state": "Verifying", "operation": OPERATION, "startedAt": "0000-01-01T00:00:00Z"}
    store, entry = with_incident(of_a_newer_version(5, undated, phase="Resolved"))
    assert counted(store) == NOTHING
    assert (entry.open, store.count_unreadable()) == (False, 0)


def test_a_copy_that_can_be_read_takes_the_place_of_one_that_could_not() -> None:
    store, _ = with_incident(of_a_newer_version(5, {"state": "Executing"}))
    store.put_incident(raw(6, step(state="Pending")))
    assert counted(store) == NOTHING
    assert (store.count_unreadable(), store.open_incident(MINE) is not None) == (0, True)


@pytest.mark.parametrize(
    "newer",
    [
        {"policy": {"name": "api-outage", "namespace": "covet", "guards": {"cooldown": "3m", "windows": {"x": []}}}},
        {"steps": [{"name": "undo", "action": "scale", "verify": {"rollout": True, "newCheck": {"a": 1}}}]},
        {"steps": [{"name": "undo", "action": "scale", "revertWhen": {"alertResolved": True, "newCheck": 1}}]},
    ],
)
def test_what_a_newer_version_has_added_to_what_was_pinned_is_left_out(newer: Json) -> None:
    store, entry = with_incident(raw(5) | {"status": newer})
    assert entry.problem is None
    found = store.open_incident(MINE)
    assert found is not None
    status = found[0].status
    assert status.policy is None or status.policy.guards.cooldown == minutes(3)
    assert all(
        (s.verify and s.verify.rollout) or (s.revert_when and s.revert_when.alert_resolved) for s in status.steps
    )


def grouped(state: Json | None = None, **labels: str) -> Json:
    """An incident by a policy that groups by ``alertname``; ``state`` is what was heard since."""
    first = alert(alertname="A", **labels)
    made = incident_manifest(policy(incident={"groupBy": ["alertname"]}), "covet", first)
    made["metadata"] |= {"uid": "uid-g", "resourceVersion": "5"}
    return made | ({"status": {"phase": "Open", "alert": state}} if state else {})


def with_incident(found: Json) -> tuple[Store, Entry]:
    store = Store()
    store.put_incident(found)
    return store, store.entries[key_of(found)]


def test_of_an_alert_that_a_group_has_not_heard_nothing_is_known() -> None:
    mark = alert(alertname="A", pod="1").fingerprint
    entry = with_incident(grouped(pod="1"))[1]
    assert (entry.heard_until(mark), entry.heard_until("another")) == (NOW, None)


def test_of_one_that_is_not_remembered_any_more_the_oldest_start_that_is_counts() -> None:
    starts = {f"f{n}": format_time(later(n)) for n in range(MAX_STARTS)}
    entry = with_incident(grouped({"state": "resolved", "starts": starts}))[1]
    assert entry.heard_until("f7") == later(7)
    assert entry.heard_until("forgotten") == later(0)


def test_an_alert_is_known_by_its_labels_too_for_fingerprints_are_the_sender_s() -> None:
    store, _ = with_incident(grouped(pod="1"))
    mark = alert(alertname="A", pod="1").fingerprint
    assert store.open_with(alert(alertname="A", pod="1"))
    assert store.open_with(alert(alertname="A", pod="2", mark=mark)), "of the same group"
    assert not store.open_with(alert(alertname="B", pod="1", mark=mark))
    alone = incident_manifest(policy(), "covet", alert(alertname="A", note="x" * 9000))
    alone["metadata"] |= {"uid": "uid-a", "resourceVersion": "5"}
    store.put_incident(alone)
    assert store.open_with(alert(alertname="A", note="x" * 9000)), "though it is too long to be stored"
    assert not store.open_with(alert(alertname="A", mark=alert(alertname="A", note="x" * 9000).fingerprint))
