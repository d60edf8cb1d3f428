"""Which incidents are one outage, and what their parent is called."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from builders import NOW, ago, incident, later
from paramedic.api.incident import Acknowledgement
from paramedic.api.people import SeveralServices
from paramedic.core import several
from paramedic.core.several import Member, open_parents, outage, parent_manifest, parent_name, parent_of

RULE = SeveralServices(targets=3, window=timedelta(minutes=5))


def one(name: str, minutes_ago: float = 1, target: str | None = "", **fields: Any) -> Member:
    """An open incident on a target of its own name."""
    return Member(name, f"Deployment/{name}" if target == "" else target, "P2", ago(minutes_ago), **fields)


def names(found: list[Member]) -> list[str]:
    return [member.name for member in found]


def test_enough_targets_within_the_window_are_one_outage() -> None:
    assert names(outage([one("c", 1), one("a", 3), one("b", 2)], RULE, NOW)) == ["a", "b", "c"]


@pytest.mark.parametrize(
    "members",
    [
        [],
        [one("a"), one("b")],
        [one("a"), one("b"), one("c", target="Deployment/a")],
        [one("a"), one("b"), one("c", target=None)],
        [one("a", 9), one("b", 6.1), one("c", 3)],
        [one("a"), one("b"), one("c", parent="several-services-x")],
        [one("a"), one("b"), one("c", is_parent=True)],
        [one("a", 63), one("b", 62), one("c", 61)],
    ],
)
def test_these_are_none(members: list[Member]) -> None:
    assert outage(members, RULE, NOW) == []


def test_the_latest_outage_counts_and_an_old_straggler_is_none_of_it() -> None:
    found = outage([one("old", 50), one("a", 4), one("b", 3), one("c", 2), one("d", 1)], RULE, NOW)
    assert names(found) == ["a", "b", "c", "d"]


def a_parent(name: str = "several-services-1", minutes_ago: float = 0, **fields: Any) -> Member:
    return one(name, minutes_ago, target=None, is_parent=True, **fields)


def joins(child: Member, *others: Member) -> str:
    """Name of the parent that it joins."""
    found = parent_of(child, open_parents([child, *others], RULE))
    return found.name if found else ""


def test_those_about_its_beginning_join_a_parent_but_what_was_there_long_before_does_not() -> None:
    parent = a_parent()
    assert joins(one("new", -5), parent) == parent.name
    assert joins(one("first", 6), parent) == parent.name
    assert joins(one("old", 30), parent) == ""
    assert joins(one("other", parent="several-services-0"), parent) == ""
    assert joins(one("mine", 100, parent="several-services-1"), parent) == parent.name
    assert joins(parent) == ""
    assert joins(one("without", target=None), parent) == ""


def test_later_ones_join_within_the_window_after_the_last_part_and_no_later() -> None:
    parent, last = a_parent(), one("last", -30, parent="several-services-1")
    assert joins(one("new", -35), parent, last) == parent.name
    assert joins(one("late", -35.1), parent, last) == ""
    assert joins(one("late", -180), parent, last) == "", "three hours later is another incident"


def test_what_is_graver_than_what_a_person_has_taken_on_does_not_join() -> None:
    taken_on = Acknowledgement(by="alice", at=NOW)
    for known in (None, taken_on):
        parent = a_parent(acknowledgement=known)
        assert joins(one("as grave", -1), parent) == parent.name
        assert joins(Member("graver", "Deployment/graver", "P0", later(1)), parent) == ("" if known else parent.name)
        part = Member("graver", "Deployment/graver", "P0", later(1), parent=parent.name)
        assert joins(part, parent) == parent.name, "who has taken it on has heard of it"


def test_of_two_parents_each_has_its_own_parts_and_a_new_one_joins_the_first_that_takes_it() -> None:
    lingering, other = a_parent("several-services-1", 180), a_parent("several-services-2", 1)
    assert joins(one("new"), lingering, other) == other.name
    assert joins(one("part", 190, parent=lingering.name), other, lingering) == lingering.name
    assert joins(one("new"), a_parent("several-services-3", 0), other) == other.name


def test_the_parts_of_a_parent_that_was_closed_are_no_outage_anew() -> None:
    parts = [one("a", 3), one("b", 3), one("c", 3)]
    assert outage([*parts, one("d", 1)], RULE, NOW, last_parent_at=ago(2)) == []
    later_ones = [one("d", 1), one("e", 1), one("f", 0)]
    assert names(outage([*parts, *later_ones], RULE, NOW, last_parent_at=ago(2))) == ["d", "e", "f"]


def test_the_parents_name_does_not_depend_on_who_knows_which_parts() -> None:
    assert parent_name("covet", "") == parent_name("covet", "")
    assert len({parent_name("covet", ""), parent_name("other", ""), parent_name("covet", "uid-1")}) == 3


def test_the_manifest_names_the_targets_within_bounds_and_is_as_grave_as_the_gravest() -> None:
    parts = [one(f"{'x' * 240}{number}") for number in range(30)] + [Member("grave", "Deployment/g", "P0", NOW)]
    spec = parent_manifest("covet", "several-services-1", parts)["spec"]
    assert spec["title"].startswith("31 services at once: Deployment/x")
    assert len(spec["title"]) <= 1024
    assert spec["severity"] == "P0"
    assert "target" not in spec
    assert "policyRef" not in spec


def test_only_what_paramedic_makes_is_a_parent() -> None:
    made = incident(metadata={"name": "several-services-1"}, alert_state=None, type="SeveralServices")
    assert several.is_parent(made)
    by_hand = incident(metadata={"name": "big-one"}, alert_state=None, type="SeveralServices")
    named = incident(
        metadata={"name": "several-services-1"}, alert_state=None, type="SeveralServices", policyRef={"name": "p"}
    )
    assert not several.is_parent(by_hand)
    assert not several.is_parent(named)


def brute_force(members: list[Member]) -> bool:
    """The definition: some incident with enough targets in the window that ends with it."""
    return any(
        len({m.target for m in members if last.created_at - RULE.window <= m.created_at <= last.created_at}) >= 3
        for last in members
    )


@settings(deadline=None)
@given(st.lists(st.tuples(st.floats(0, 9.9), st.sampled_from("abcde")), max_size=12))
def test_it_is_found_whenever_there_is_one(raw: list[tuple[float, str]]) -> None:
    members = [Member(f"i{n}", target, "P2", ago(when)) for n, (when, target) in enumerate(raw)]
    found = outage(members, RULE, NOW)
    assert bool(found) == brute_force(members)
    assert not found or len({m.target for m in found}) >= RULE.targets
    assert outage(members, RULE, later(200)) == []
