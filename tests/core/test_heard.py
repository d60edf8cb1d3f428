"""What is heard of alerts, added up; what Prometheus' own list says; the small pure helpers."""

from __future__ import annotations

import uuid
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from builders import NOW, ago, alert, held, incident, later, step
from paramedic.api.incident import MAX_STARTS, AlertState, Incident
from paramedic.api.reasons import Reason
from paramedic.core.heard import MAX_FIRING, OTHERS, Heard, absorb
from paramedic.core.merge import merge_difference
from paramedic.core.operation import new_operation, operation_time
from paramedic.core.plan import Resolve, Wait
from paramedic.core.polled import Known, KnownAlerts, ToldEnds, by_name, has_ended
from paramedic.core.summary import summarize


def heard(state: str, mark: str = "f1", at: datetime = NOW, **facts: Any) -> Heard:
    return Heard(alert(state, mark=mark, **({"starts_at": ago(10)} | facts)), at)


def fresh(**source: Any) -> Incident:
    """An Incident as the receiver has created it: no status yet."""
    whole = incident(alert={"fingerprint": "f1", "startsAt": ago(10).isoformat()} | source)
    whole.status.alert = None
    return whole


def after(*news: Heard, at_first: Incident | None = None) -> AlertState:
    state = absorb(at_first or fresh(), news)
    assert state
    return state


def test_the_first_and_its_resends() -> None:
    assert after() == AlertState(state="firing", count=1, firing=["f1"], last_starts_at=ago(10))
    state = after(heard("firing"), heard("firing", at=later(1)))
    assert (state.state, state.count, state.last_received_at) == ("firing", 2, later(1))


def test_an_end_and_another_beginning() -> None:
    state = after(heard("firing"), heard("resolved", ends_at=NOW))
    assert (state.state, state.firing, state.ends_at, state.count) == ("resolved", [], NOW, 2)
    again = fresh()
    again.status.alert = state
    assert after(heard("firing", starts_at=later(1)), at_first=again).state == "firing"


def test_a_group_ends_with_its_last_alert() -> None:
    whole = fresh(groupKey="g")
    news = [
        heard("firing"),
        heard("firing", "f2"),
        heard("resolved", ends_at=NOW),
        heard("resolved", "f2", ends_at=NOW),
    ]
    states = [after(*news[:count], at_first=whole).state for count in range(1, 5)]
    assert states == ["firing", "firing", "firing", "resolved"]


def test_an_end_of_what_is_not_known_changes_nobody() -> None:
    assert after(heard("resolved", "f9"), at_first=fresh(groupKey="g")).state == "firing"


def test_a_late_end_of_an_earlier_firing_does_not_end_the_new_one() -> None:
    """Two Alertmanagers, or a retried webhook: the end of the firing before arrives after the new beginning."""
    state = after(heard("firing"), heard("firing", starts_at=ago(1)), heard("resolved", ends_at=ago(5), at=later(1)))
    assert state.state == "firing"
    assert after(heard("resolved", ends_at=later(1)), at_first=fresh()).state == "resolved"


def test_a_group_remembers_a_bounded_number() -> None:
    state = after(*(heard("firing", f"f{n}") for n in range(MAX_FIRING + 50)), at_first=fresh(groupKey="g"))
    assert (len(state.firing), state.count) == (MAX_FIRING, MAX_FIRING + 50)


def test_a_group_of_more_than_it_remembers_ends_only_when_all_of_it_is_known_to_have_ended() -> None:
    group, marks = fresh(groupKey="g", fingerprint="f0"), [f"f{n}" for n in range(MAX_FIRING + 500)]

    def hears(state: str, *which: str) -> AlertState:
        group.status.alert = after(*(heard(state, mark, ends_at=NOW) for mark in which), at_first=group)
        return group.status.alert

    hears("firing", *marks)
    hears("firing", *marks)
    assert hears("resolved", *marks[:MAX_FIRING]).state == "firing", "500 were not listed, and go on"
    assert hears("firing", *marks[-3:]).firing == [OTHERS, *marks[-3:]]
    assert hears("resolved", *marks[-3:]).state == "firing"
    assert hears("resolved", OTHERS).state == "resolved"


def test_an_incident_without_an_alert_hears_nothing() -> None:
    assert absorb(incident(alert_state=None), [heard("firing")]) is None


def test_of_each_alert_of_a_group_the_latest_start_is_remembered() -> None:
    group = fresh(groupKey="g")
    state = after(heard("firing", "f2", starts_at=ago(20)), heard("firing", starts_at=ago(1)), at_first=group)
    assert state.starts == {"f1": ago(1), "f2": ago(20)}
    assert after(heard("resolved", "f9"), at_first=group).starts == {"f1": ago(10)}, "its firing was never heard"
    assert after(heard("firing", starts_at=ago(1))).starts == {}, "of one that stands alone lastStartsAt tells it"


def test_a_group_remembers_the_newest_starts() -> None:
    news = [heard("firing", f"f{n}", starts_at=later(n)) for n in range(MAX_STARTS + 5)]
    state = after(*news, at_first=fresh(groupKey="g"))
    assert set(state.starts) == {f"f{n}" for n in range(5, MAX_STARTS + 5)}


def test_in_a_group_a_late_end_is_told_from_the_alert_s_own_start() -> None:
    group = fresh(groupKey="g")
    late = heard("resolved", ends_at=ago(5), at=later(1))
    assert after(heard("firing", starts_at=ago(1)), late, at_first=group).state == "firing"
    others = (heard("firing", "f2", starts_at=ago(1)), late, heard("resolved", "f2", ends_at=NOW, at=later(1)))
    assert after(*others, at_first=group).state == "resolved"


def test_an_end_counts_whatever_a_clock_that_is_ahead_has_called_the_start() -> None:
    ahead = fresh(startsAt=later(60).isoformat())
    assert after(heard("resolved", ends_at=NOW), at_first=ahead).state == "resolved"


@given(st.permutations([heard("firing", f"f{n}", at=later(n), starts_at=ago(n)) for n in range(5)]))
def test_the_order_of_beginnings_does_not_matter(news: list[Heard]) -> None:
    state = after(*news, at_first=fresh(groupKey="g"))
    assert set(state.firing) == {"f0", "f1", "f2", "f3", "f4"}
    assert (state.last_received_at, state.last_starts_at) == (later(4), NOW)


def test_absorbing_changes_nothing_but_its_answer() -> None:
    whole = incident()
    before = whole.model_copy(deep=True)
    after(heard("resolved", ends_at=NOW), at_first=whole)
    assert whole == before


# -- polled ------------------------------------------------------------------------------------------------------------


def known(*labels: dict[str, str], namespace: str = "covet", closed_at: datetime | None = None) -> KnownAlerts:
    return KnownAlerts(Known(namespace, one, closed_at) for one in labels)


def test_an_alert_is_known_when_an_incident_may_be_about_it() -> None:
    one, two, other = alert(alertname="A", pod="1"), alert(alertname="A", pod="2"), alert(alertname="B")

    def of(found: KnownAlerts) -> list[bool]:
        return [found.include(firing, "covet") for firing in (one, two, other)]

    assert of(known()) == [False, False, False]
    assert of(known({"alertname": "A", "pod": "1"})) == [True, False, False]
    assert of(known({"alertname": "A", "cluster": "eu"})) == [True, True, False]
    assert of(known({"alertname": "C"})) == [False, False, False]


def test_what_one_namespace_knows_is_news_to_another() -> None:
    assert not known({"alertname": "A"}, namespace="other").include(alert(alertname="A"), "covet")


def test_what_began_after_its_incident_was_closed_is_another_firing() -> None:
    closed = known({"alertname": "A"}, closed_at=NOW)
    assert closed.include(alert(alertname="A", starts_at=NOW), "covet")
    assert not closed.include(alert(alertname="A", starts_at=later(1)), "covet")


def test_what_is_shown_again_after_its_end_was_told_begins_anew() -> None:
    told, pod = ToldEnds(), {"alertname": "A", "pod": "1"}
    told.add("covet/one", pod, NOW)

    def begun(at: datetime, seen: datetime, **labels: str) -> datetime:
        return told.begun_anew(alert(starts_at=at, **(pod | labels)), seen).starts_at

    assert begun(ago(10), later(5)) == later(5), "with the beginning of what has ended"
    assert begun(ago(10), later(9)) == later(5), "it is one firing, however often it is looked at"
    assert begun(later(1), later(9)) == later(1), "it has begun since"
    assert begun(ago(10), later(9), pod="2") == begun(ago(10), later(9), alertname="B") == ago(10)
    told.keep({"covet/other"})
    assert begun(ago(10), later(9)) == ago(10)


@pytest.mark.parametrize(
    ("firing", "rules", "ended"),
    [
        ([], {"A"}, True),
        ([], {"B"}, False),
        ([alert(alertname="A", pod="1")], {"A"}, False),
        ([alert(alertname="A", pod="2")], {"A"}, True),
        ([alert(alertname="A")], {"A"}, False),
        ([alert(alertname="B", pod="1")], {"A"}, True),
    ],
)
def test_ended_alerts_are_those_of_a_known_rule_that_fire_no_more(
    firing: list[Any], rules: set[str], ended: bool
) -> None:
    assert has_ended({"alertname": "A", "pod": "1"}, by_name(firing), rules) is ended


# -- operation ids -----------------------------------------------------------------------------------------------------


@given(st.lists(st.datetimes(datetime(1970, 1, 2), datetime(5000, 1, 1)), min_size=2, max_size=20))  # noqa: DTZ001
def test_operation_ids_are_ordered_in_time_and_tell_it(times: list[datetime]) -> None:
    zoned = sorted({t.replace(microsecond=t.microsecond // 1000 * 1000, tzinfo=UTC) for t in times})
    made = [new_operation(t) for t in zoned]
    assert made == sorted(made)
    assert all(uuid.UUID(one).version == 7 and uuid.UUID(one).variant == uuid.RFC_4122 for one in made)
    assert [operation_time(one) for one in made] == zoned


def test_operation_ids_are_unique() -> None:
    assert len({new_operation(NOW) for _ in range(1000)}) == 1000


@pytest.mark.parametrize(
    "text",
    [
        "",
        "x",
        str(uuid.UUID(int=0)),
        "6bdbb658-98de-4d0d-83d0-a4900ed958b0",
        "ffffffff-ffff-7fff-bfff-ffffffffffff",
        "2026-03-02T12:00:00Z",
        "{" * 40,
    ],
)
def test_a_text_that_is_no_operation_id_tells_no_time(text: str) -> None:
    assert operation_time(text) is None


# -- merge patches -----------------------------------------------------------------------------------------------------

json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=3),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from("abcd"), inner, max_size=4),
    max_leaves=12,
)


def merged(target: Any, patch: Any) -> Any:
    """RFC 7396, section 2, word for word."""
    if not isinstance(patch, dict):
        return patch
    result = dict(target) if isinstance(target, dict) else {}
    for name, value in patch.items():
        if value is None:
            result.pop(name, None)
        else:
            result[name] = merged(result.get(name), value)
    return result


def without_nulls(value: Any) -> Any:
    """A merge patch cannot say null; nor does Kubernetes store it."""
    return {k: without_nulls(v) for k, v in value.items() if v is not None} if isinstance(value, dict) else value


@given(st.dictionaries(st.sampled_from("abcd"), json_values), st.dictionaries(st.sampled_from("abcd"), json_values))
def test_the_difference_gives_the_wanted_object(present: dict[str, Any], wanted: dict[str, Any]) -> None:
    goal = without_nulls(wanted)
    patch = merge_difference(present, goal)
    assert merged(present, patch) == goal
    assert merge_difference(goal, goal) == {}


def test_only_what_differs_is_in_the_patch() -> None:
    assert merge_difference({"a": 1, "b": {"c": 2, "d": 3}}, {"a": 1, "b": {"c": 2}}) == {"b": {"d": None}}


# -- the summary -------------------------------------------------------------------------------------------------------

ESCALATED = {"escalation": {"since": ago(1), "message": "look"}}


@pytest.mark.parametrize(
    ("whole", "end", "phase"),
    [
        (incident(step()), None, "Open"),
        (incident(step(state="Executing")), None, "Remediating"),
        (incident(step(state="Executing"), status=ESCALATED), None, "Remediating"),
        (incident(held(revert={"state": "Executing", "operation": "x"})), None, "Remediating"),
        (incident(step(state="Verifying")), Wait("…"), "Verifying"),
        (incident(step(state="Verifying"), status=ESCALATED), Wait("…"), "Escalated"),
        (incident(step(state="Blocked")), Wait("…", NOW, Reason.COOLDOWN), "Blocked"),
        (incident(step(state="AwaitingApproval")), Wait("…"), "AwaitingApproval"),
        (incident(step(state="AwaitingApproval")), Wait("…", None, Reason.PAUSED), "Blocked"),
        (incident(step(state="Failed", on_failure="Stop")), Wait("…", None, Reason.STEP_FAILED), "Blocked"),
        (incident(step(state="Failed"), status=ESCALATED), Wait("…"), "Escalated"),
        (incident(held()), Wait("…"), "Remediating"),
        (incident(step(state="Succeeded")), Wait("…"), "Verifying"),
        (incident(step(state="Succeeded"), alert_state=None), Wait("…"), "Open"),
        (incident(step(state="Succeeded")), Resolve(Reason.REMEDIATION_SUCCEEDED, "done"), "Resolved"),
        (incident(phase="Resolved"), None, "Resolved"),
    ],
)
def test_phases(whole: Incident, end: Any, phase: str) -> None:
    assert summarize(whole, end).phase == phase


def test_the_line_that_people_read() -> None:
    whole = incident(step("a", "Skipped"), step("b", "Verifying", message="3 → 5"), step("c"))
    found = summarize(whole, None)
    assert (found.message, found.step, found.target) == ("b: 3 → 5; verifying", "b", "Deployment/covet-app")
    assert (found.stalled, found.reconciling) == (False, True)
    assert summarize(whole, Wait("x" * 5000)).message == "x" * 1024
    nothing = summarize(incident(target={"kind": "DaemonSet", "name": "agent"}), Wait("no policy"))
    assert (nothing.message, nothing.step, nothing.target) == ("no policy", None, "DaemonSet/agent")


def test_stalled_and_reconciling_exclude_each_other() -> None:
    seen: list[Callable[[], Any]] = [
        lambda s=state: summarize(incident(step(state=s)), None)  # type: ignore[misc]
        for state in (
            "Pending",
            "Blocked",
            "AwaitingApproval",
            "Executing",
            "Verifying",
            "Succeeded",
            "Failed",
            "Unknown",
        )
    ]
    assert not any(one().stalled and one().reconciling for one in seen)


def test_times_of_ids_are_strictly_ordered_over_milliseconds() -> None:
    made = [new_operation(NOW + timedelta(milliseconds=n)) for n in range(50)]
    assert all(a < b for a, b in pairwise(made))
