"""Which policies an alert is held against; and whatever tenants write as matchers, it takes little memory and time."""

from __future__ import annotations

import os
import random
import subprocess
import sys
import time
from collections.abc import Callable
from datetime import timedelta
from itertools import permutations
from typing import Any

import pytest
from test_matchers import resident_bytes

from builders import NOW, alert, policy, policy_manifest
from paramedic.core import match
from paramedic.core.policy_index import PolicyIndex
from paramedic.policies import read_policy
from paramedic.store import Store


def wanting(*matchers: str, name: str = "p", age: int = 0, namespace: str = "covet") -> Any:
    entries = [{"matchers": [text]} for text in matchers]
    return policy(name, namespace, NOW - timedelta(days=age), match={"alerts": entries})


def names(index: PolicyIndex, **labels: str) -> set[str]:
    fired = alert(**labels)
    return {found.metadata.name for found, _ in match.policies_for_alert(index.candidates(fired), fired)}


def test_an_alert_is_held_against_those_that_may_mean_it() -> None:
    index = PolicyIndex()
    for number in range(100):
        index.put(wanting(f'alertname="A{number}"', name=f"p{number}"))
    index.put(wanting('alertname="A1"', 'severity="page"', name="any"))
    candidates = {one.policy.metadata.name for one in index.candidates(alert(alertname="A7"))}
    assert candidates == {"p7", "any"}
    assert names(index, alertname="A7") == {"p7"}
    index.put(wanting('alertname="B"', name="p7"))
    assert names(index, alertname="A7") == set()
    assert names(index, alertname="B") == {"p7"}
    index.remove("covet/p7")
    index.remove("covet/never-there")
    assert names(index, alertname="B") == set()


def room_for(*policies: Any) -> int:
    return sum(match.compile_policy(one).bytes for one in policies)


def test_the_oldest_have_room_first_in_whatever_order_they_come() -> None:
    old, middle, young = (wanting(f'a=~"x{age}|y"', name=f"p{age}", age=age) for age in (3, 2, 1))
    large = wanting(*(f'a=~"z{n}|y"' for n in range(9)), name="p4", age=4)
    for order in permutations((old, middle, young, large)):
        index = PolicyIndex(room_for(old, middle))
        for one in order:
            index.put(one)
        assert [index.has_room(f"covet/p{age}") for age in (4, 3, 2, 1)] == [False, True, True, False]
        assert names(index, a="y") == {"p3"}


def test_who_finds_room_later_answers_then() -> None:
    old, young = wanting('a=~"x|y"', name="old", age=2), wanting('a=~"z|y"', name="young", age=1)
    index = PolicyIndex(room_for(old))
    index.put(old)
    index.put(young)
    assert names(index, a="z") == set()
    index.remove("covet/old")
    assert index.has_room("covet/young")
    assert names(index, a="z") == {"young"}
    index.put(old)
    assert not index.has_room("covet/young"), "it was there first"
    index.put(wanting('a="x"', name="old", age=2))
    index.put(wanting('a="z"', name="young", age=1))
    assert names(index, a="z") == {"young"}


def test_no_namespace_takes_room_from_another() -> None:
    index = PolicyIndex(room_for(wanting('a=~"x|y"')))
    for namespace in ("covet", "other"):
        index.put(wanting('a=~"x|y"', namespace=namespace))
    assert index.has_room("covet/p")
    assert index.has_room("other/p")


def test_no_alert_compiles_anything(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ten thousand entries are more than any cache should hold, and an alert is held against all of them at once."""
    index = PolicyIndex()
    for number in range(320):
        entries = [{"matchers": [f'alertname=~"X{number}|A{one}"']} for one in range(32)]
        index.put(policy(f"p{number}", f"team-{number}", match={"alerts": entries}))
    monkeypatch.setattr("paramedic.core.matchers._compile", _never)
    began = time.process_time()
    fired = alert(alertname="A31", namespace="team-7")
    found = match.policies_for_alert(index.candidates(fired), fired)
    assert time.process_time() - began < 1
    assert [(one.metadata.name, namespace) for one, namespace in found] == [("p7", "team-7")]


def _never(pattern: str) -> Any:
    raise AssertionError(f"{pattern} is compiled anew")


def test_a_change_of_the_status_compiles_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    index = PolicyIndex()
    index.put(wanting('a=~"x|y"'))
    monkeypatch.setattr("paramedic.core.matchers._compile", _never)
    index.put(wanting('a=~"x|y"'))
    assert names(index, a="x") == {"p"}


# -- what tenants may write --------------------------------------------------------------------------------------------

HOSTILE: dict[str, Callable[[int], str]] = {
    "a large program": lambda n: f"x{n}|\\pL{{12}}",
    "the largest program": lambda n: f"x{n}|(?:a{{30}}){{{30 + n % 7}}}",
    "classes of Unicode, used": lambda n: f"x{n}|\\pL",
    "classes of Unicode, never come to": lambda n: f"x{n}" + "\\pL{0}" * 70,
    "fewer of those": lambda n: f"x{n}" + "\\PL{0}" * 9,
    "many states": lambda n: f"[abc]*a[ab]{{{40 + n % 20}}}[abc]*x{n}?",
    "a long list": lambda n: "|".join(f"Alert{n}Something{i}" for i in range(20)),
    "many of them in one text": lambda n: ",".join(f"a=~b{n}.{i}" for i in range(40)),
}


SHAPES = ((32, 16), (8, 16), (1, 12), (1, 1))
"""Entries and matchers in each: as many as the schema has ever allowed, as it allows now, and few large ones."""


@pytest.mark.parametrize("kind", HOSTILE)
def test_hostile_policies_take_little_memory_and_time(kind: str) -> None:
    """In a process of its own, as a replica that has just begun; it is allowed 512 MiB in all."""
    argv = [sys.executable, "-c", f"import test_policy_index as t; t.load_hostile({kind!r})"]
    found = {"PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run(argv, env=found, capture_output=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr.decode()
    grown, seconds = done.stdout.split()
    assert int(grown) < 32 * 2**20, f"{int(grown) >> 20} MiB"
    assert float(seconds) < 20, f"{float(seconds):.1f} s"


def load_hostile(kind: str) -> None:
    """Reads 200 policies of a namespace as the operator does, sends an alert; prints grown bytes and CPU seconds."""
    store = Store()
    manifests = [_hostile(HOSTILE[kind], number, *SHAPES[number % len(SHAPES)]) for number in range(200)]
    before, began = resident_bytes(), time.process_time()
    for raw in manifests:
        store.put_policy(raw, *read_policy(raw, "paramedic-system"))
    for seed in range(10):
        fired = alert(a="".join(random.Random(seed).choices("ab", k=1000)))
        match.policies_for_alert(store.policies_that_may_mean(fired), fired)
    print(resident_bytes() - before, time.process_time() - began)


def _hostile(write: Callable[[int], str], number: int, entries: int, each: int) -> dict[str, Any]:
    texts = [write(1000 * number + one) for one in range(entries * each)]
    matchers = [text if "=~" in text else 'a=~"' + text.replace("\\", "\\\\") + '"' for text in texts]
    alerts = [{"matchers": matchers[each * one : each * (one + 1)]} for one in range(entries)]
    raw = policy_manifest(f"p{number}", created=NOW + timedelta(seconds=number), match={"alerts": alerts})
    return {"metadata": raw["metadata"] | {"resourceVersion": "1"}, "spec": raw["spec"]}
