"""The post-incident checklist: who ticks what, who is reminded of what and when; and what a person makes permanent."""

from __future__ import annotations

import random
from datetime import datetime, timedelta
from typing import Any

import pytest

from builders import NOW, TARGET, held, incident, later, step, verify
from paramedic.api.checklist import CHECKLIST, IMMEDIATE, LONG_TERM, SHORT_TERM
from paramedic.api.incident import ChecklistItem, Incident, Notice, Tick
from paramedic.api.people import ChannelSettings
from paramedic.checklists import Checklists
from paramedic.core import checklist, plan, situation
from paramedic.core.checklist import ALL_CLEAR, EVIDENCE, REPORT, STABLE, STATUS_PAGE, TIMELINE
from paramedic.notifier import Notifier
from paramedic.record import Draft
from paramedic.store import Store

Json = dict[str, Any]
MINE = {TIMELINE}
HOUR, DAY = timedelta(hours=1), timedelta(days=1)
CHANNELS = ("chat", "page")
SETTINGS = [
    ChannelSettings.model_validate({"name": "chat", "webhook": {"url": "http://chat.example"}}),
    ChannelSettings.model_validate({"name": "page", "statuspage": {"pageId": "abcd", "apiKeyFile": "key"}}),
]
PROMQL = {"prometheus": {"query": "up", "condition": "value == 1.0"}}


def over(*steps: Any, resolved: datetime = NOW, **status: Any) -> Incident:
    """Just resolved, with a remedy that was verified."""
    done = steps or (step(state="Succeeded", verify=verify(**PROMQL)),)
    about: Json = {
        "resolvedAt": resolved.isoformat(),
        "policy": {"name": "p", "namespace": "covet", "notify": CHANNELS},
    }
    spec = status.pop("spec", {})
    return incident(*done, phase="Resolved", alert_state=None, status=about | status, **spec)


def keeper(*, has_store: bool = True) -> Checklists:
    return Checklists(Notifier(CHANNELS, []), SETTINGS, timedelta(minutes=15), has_store=has_store)


def write(
    of: Incident, now: datetime, *, first: bool = False, by: Checklists | None = None
) -> tuple[Incident, list[str]]:
    """One write of the status, as it is stored; with what it put on the timeline."""
    base: Json = {} if first else of.status.to_wire()
    draft = Draft(of, base, now)
    (by or keeper()).attend(draft)
    stored = of.model_dump(by_alias=True, mode="json", exclude_none=True) | {"status": of.status.to_wire()}
    return Incident.model_validate(stored), [entry.reason for entry in draft.said]


def done(of: Incident) -> dict[str, str | None]:
    return {item.item: item.done_by for item in of.status.checklist if item.done}


def tick(*items: str, by: str = "alice") -> list[Tick]:
    return [Tick(item=item, done_by=by) for item in items]  # type: ignore[arg-type]


# -- which there are ---------------------------------------------------------------------------------------------------


def test_it_has_the_runbooks_three_horizons() -> None:
    found, _ = write(over(), NOW, first=True)
    told = [(item.due, item.item) for item in found.status.checklist]
    assert told == [(due, text) for due, texts in CHECKLIST for text in texts]
    assert [due for due, _ in CHECKLIST] == [IMMEDIATE, SHORT_TERM, LONG_TERM] == [HOUR, DAY, 7 * DAY]


@pytest.mark.parametrize(
    ("found", "wanted"),
    [
        (over(step(state="Skipped")), False),
        (over(step(action="diagnose", state="Succeeded")), False),
        (over(step(state="Failed")), True),
        (over(step(state="Skipped"), escalation={"since": NOW.isoformat(), "handedOver": False}), True),
    ],
    ids=["nothing was done", "only looked", "acted in vain", "people were called"],
)
def test_only_what_there_is_to_look_back_at_has_one(found: Incident, wanted: bool) -> None:
    stored, _ = write(found, NOW, first=True)
    assert bool(stored.status.checklist) is wanted
    assert (stored.status.attend_at is not None) is wanted


def test_an_incident_that_was_over_before_gets_none_afterwards() -> None:
    stored, _ = write(over(), later(60))
    assert stored.status.checklist == []
    assert stored.status.attend_at is None


# -- who ticks what ----------------------------------------------------------------------------------------------------


def notice(pending: list[str], undelivered: list[str] | None = None) -> Json:
    told = Notice(key="k", kind="Resolved", at=NOW, message="over", pending=pending, undelivered=undelivered or [])
    return {"notices": [told.to_wire()]}


@pytest.mark.parametrize(
    ("status", "ticked"),
    [
        ({}, set()),
        (notice(["chat", "page"]), set()),
        (notice(["page"]), {ALL_CLEAR}),
        (notice([], ["page"]), {ALL_CLEAR}),
        (notice([]), {ALL_CLEAR, STATUS_PAGE}),
        (notice([], ["chat", "page"]), set()),
        ({"timeline": [{"at": NOW.isoformat(), "actor": "a", "reason": "r", "message": "m"}]}, {TIMELINE}),
        ({"evidence": [{"name": "events", "uri": "s3://b/k"}]}, {EVIDENCE}),
        ({"evidence": [{"name": "events", "note": "not captured"}]}, set()),
        ({"evidence": [{"name": "report.html", "uri": "s3://b/k"}]}, set()),
        ({"evidence": [{"name": f"report.{form}", "uri": "s3://b/k"} for form in ("html", "json")]}, {REPORT}),
    ],
)
def test_paramedic_ticks_what_the_status_shows(status: Json, ticked: set[str]) -> None:
    found, _ = write(over(**status), NOW, first=True)
    assert done(found) == dict.fromkeys(ticked, "paramedic")


def test_nobody_is_configured_to_be_told() -> None:
    nobody = Checklists(Notifier([], []), [], timedelta(minutes=15), has_store=False)
    found, _ = write(over(**notice([])), NOW, first=True, by=nobody)
    assert not {ALL_CLEAR, STATUS_PAGE} & set(done(found))


def test_a_person_ticks_and_takes_it_back() -> None:
    items = checklist.fresh()
    first = checklist.ticked(items, MINE, tick("Document lessons learned"), NOW)
    assert {i.item: (i.done_by, i.done_at) for i in first if i.done} == {
        TIMELINE: ("paramedic", NOW),
        "Document lessons learned": ("alice", NOW),
    }
    assert checklist.ticked(first, MINE, tick("Document lessons learned"), later(5)) == first, "nothing is written"
    back = checklist.ticked(first, set(), [], later(5))
    assert {i.item for i in back if i.done} == {TIMELINE}, "what Paramedic has ticked stays"


def test_what_a_person_ticked_stays_the_persons() -> None:
    by_alice = checklist.ticked(checklist.fresh(), set(), tick(ALL_CLEAR), NOW)
    both = checklist.ticked(by_alice, {ALL_CLEAR}, tick(ALL_CLEAR) + tick(ALL_CLEAR, by="bob"), later(5))
    assert both == by_alice
    assert checklist.ticked(checklist.fresh(), {ALL_CLEAR}, tick(ALL_CLEAR), NOW)[2].done_by == "paramedic"
    only_bob = checklist.ticked(by_alice, set(), tick(ALL_CLEAR, by="bob"), later(5))
    assert (only_bob[2].done_by, only_bob[2].done_at) == ("bob", later(5))


# -- when it is looked at, and who is reminded -------------------------------------------------------------------------


def test_it_is_looked_at_when_something_is_due() -> None:
    found, _ = write(over(), NOW, first=True)
    assert found.status.attend_at == later(15), "whether all is stable, and the report"
    plain, _ = write(over(step(state="Failed")), NOW, first=True, by=keeper(has_store=False))
    assert plain.status.attend_at == NOW + HOUR, "nothing of its own: the first reminder"
    for after in (HOUR, DAY, 7 * DAY):
        plain, said = write(plain, NOW + after, by=keeper(has_store=False))
        assert said == ["ChecklistOverdue"]
        assert write(plain, NOW + after, by=keeper(has_store=False))[1] == [], "once"
    assert plain.status.attend_at == NOW + checklist.CLOSED_AFTER, "until then ticks are taken in"
    closed, said = write(plain, NOW + checklist.CLOSED_AFTER, by=keeper(has_store=False))
    assert (closed.status.attend_at, said) == (None, [])


def test_a_reminder_names_what_is_undone_and_is_told_once() -> None:
    found, _ = write(over(), NOW, first=True)
    found.spec.checklist = tick(STABLE)
    found, _ = write(found, NOW + 2 * DAY)
    told = {one.key: one for one in found.status.notices if one.kind == "Reminder"}
    assert list(told) == ["overdue.1h", "overdue.24h"], "what came due while nobody looked comes at once"
    assert told["overdue.1h"].pending == list(CHANNELS)
    assert STABLE not in told["overdue.1h"].message
    assert "Schedule post-incident review meeting" in told["overdue.1h"].message
    assert "kubectl edit incident api-down -n covet" in told["overdue.1h"].message
    again, said = write(found, NOW + 3 * DAY)
    assert (len(again.status.notices), said) == (2, [])


def test_parts_of_an_outage_remind_nobody() -> None:
    """People hear it of the parent."""
    found, _ = write(over(parent="several-services-1"), NOW, first=True)
    found, said = write(found, NOW + 2 * HOUR)
    assert said == ["ChecklistOverdue"]
    assert found.status.notices == []


def test_when_all_is_done_nothing_further_happens() -> None:
    found, _ = write(over(), NOW, first=True)
    found.spec.checklist = tick(*(text for _, texts in CHECKLIST for text in texts))
    found, said = write(found, later(20))
    assert (found.status.attend_at, said) == (None, [])
    wire = found.status.to_wire()
    found, said = write(found, NOW + 10 * DAY)
    assert (found.status.to_wire(), said) == (wire, [])


@pytest.mark.parametrize("seed", range(30))
def test_whenever_it_is_looked_at_each_horizon_is_reminded_of_once(seed: int) -> None:
    """However late or often a process looks, and whatever it has forgotten: exactly what is undone, exactly once."""
    dice = random.Random(seed)
    texts = [text for _, all_of in CHECKLIST for text in all_of]
    found, _ = write(over(resolved=NOW), NOW, first=True)
    now, told, ticks = NOW, list[str](), list[Tick]()
    for _ in range(60):
        at = found.status.attend_at
        late = timedelta(minutes=dice.choice([0, 1, 30, 3000]))
        now = max(now, at) + late if at and dice.random() < 0.8 else now + late
        if dice.random() < 0.2:
            ticks += tick(dice.choice(texts))
        found.spec.checklist = list(ticks)
        before = {item.due for item in found.status.checklist if not item.done and not item.reminded}
        found, said = write(found, now)
        told += said
        assert len(said) <= len(before)
        if at is None:
            break
    keys = [one.key for one in found.status.notices]
    assert len(keys) == len(set(keys)) == len(told) <= 3
    late = [i for i in found.status.checklist if not i.done and now >= NOW + i.due]
    assert all(item.reminded for item in late), "none is lost"
    assert found.status.attend_at is None or found.status.attend_at > now


def test_it_is_left_to_people_when_the_time_for_it_is_over() -> None:
    found, _ = write(over(), NOW, first=True)
    assert checklist.awaits_stability(found, later(59))
    assert not checklist.awaits_stability(found, later(60))
    assert checklist.awaits_report(found, later(60))
    assert not checklist.awaits_report(found, NOW + DAY)
    found, _ = write(found, NOW + 2 * DAY)
    assert keeper().own_work_at(found, NOW + 2 * DAY) is None
    assert found.status.attend_at == NOW + 7 * DAY


def test_a_lease_that_has_ended_is_stable_with_what_was_before() -> None:
    """Else its autoscaler's bounds of then would be waited for."""
    bounds: Json = {"before": {"minReplicas": 2}, "after": {"minReplicas": 9}, "verify": verify(rollout=True)}
    found = over(held("room", "Reverted", reason="LeaseEnded", **bounds), held("more", **bounds))
    assert [one.after for one in checklist.verified_steps(found)] == [{"minReplicas": 2}, {"minReplicas": 9}]
    assert found.status.steps[0].after == {"minReplicas": 9}, "the record stays"


def test_without_a_check_nobody_can_tell_whether_all_is_stable() -> None:
    found, _ = write(over(step(state="Succeeded")), NOW, first=True)
    assert not checklist.awaits_stability(found, later(15))


def test_no_write_when_nothing_has_changed() -> None:
    found, _ = write(over(**notice([])), NOW, first=True)
    wire = found.status.to_wire()
    for minute in (1, 15, 40):
        found, _ = write(found, later(minute))
        assert found.status.to_wire() == wire


# -- what a person makes permanent -------------------------------------------------------------------------------------


def closed(*steps: Any, keep: list[str]) -> Incident:
    return incident(*steps, alert_state=None, resolution={"resolvedBy": "alice", "keep": keep})


def test_what_a_person_keeps_is_not_put_back() -> None:
    found = closed(held("a"), held("b"), keep=["b"])
    assert plan.next_move(found, NOW) == plan.Keep(1)
    found.status.steps[1].kept_by = "alice"
    waiting = plan.next_move(found, NOW)
    assert isinstance(waiting, plan.Wait)
    assert "a is put back at" in waiting.message
    assert "b" not in waiting.message.partition("alice; ")[2].partition(" is")[0]
    found.status.steps[0].kept_by = "alice"
    assert isinstance(plan.next_move(found, NOW), plan.Resolve)
    assert not situation.holds_mitigation(found)


def test_a_procedure_is_kept_by_its_name() -> None:
    found = closed(held("p-1", part_of="p"), held("p-2", part_of="p"), keep=["p"])
    assert plan.next_move(found, NOW) == plan.Keep(0)


def test_what_is_put_back_already_cannot_be_kept() -> None:
    gone = held("a", "Reverted", revert={"state": "Succeeded", "operation": "o"})
    assert isinstance(plan.next_move(closed(gone, keep=["a", "unknown"]), NOW), plan.Resolve)


def test_each_mitigation_is_named_with_its_end() -> None:
    waiting = plan.next_move(
        closed(held("a"), held("b", revert_at=later(5)), held("c", revert_at=later(5)), keep=[]), NOW
    )
    assert waiting.message == (  # type: ignore[union-attr]
        "closed by alice; a is put back at 2026-03-02 12:55:00 UTC; b, c are put back at 2026-03-02 12:05:00 UTC"
    )


def test_what_was_kept_stays_when_the_incident_is_deleted() -> None:
    found = closed(held("a", kept_by="alice"), keep=["a"])
    found.metadata.deletion_timestamp = NOW
    assert plan.next_move(found, NOW) == plan.Release()


def test_what_is_over_keeps_no_target_from_others() -> None:
    """A person may close an incident while a step is still being verified."""
    store = Store()
    for phase, busy in (("Verifying", True), ("Resolved", False)):
        found = incident(step(state="Verifying"), phase=phase, alert_state=None)
        raw = found.model_dump(by_alias=True, mode="json", exclude_none=True) | {"status": found.status.to_wire()}
        raw["metadata"]["resourceVersion"] = "1" if busy else "2"
        assert store.put_incident(raw)
        assert bool(store.busy_with(TARGET, "covet/other")) is busy


def test_items_are_told_apart_by_their_words() -> None:
    assert len({item.item for item in checklist.fresh()}) == len(checklist.fresh()) == 15
    assert all(isinstance(item, ChecklistItem) for item in checklist.fresh())
