"""Which incidents are one outage, and what their parent is called."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from builders import NOW, ago, incident, later
from paramedic.api.people import SeveralServices
from paramedic.core import several
from paramedic.core.several import Member, belongs_to, outage, parent_manifest, parent_name

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


def test_later_ones_join_while_the_parent_is_open_but_what_was_there_long_before_does_not() -> None:
    parent = one("several-services-1", 0, target=None, is_parent=True)
    assert belongs_to(one("new", -30), parent, RULE)
    assert belongs_to(one("first", 6), parent, RULE)
    assert not belongs_to(one("old", 30), parent, RULE)
    assert not belongs_to(one("other", parent="several-services-0"), parent, RULE)
    assert belongs_to(one("mine", 100, parent="several-services-1"), parent, RULE)
    assert not belongs_to(parent, parent, RULE)


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
