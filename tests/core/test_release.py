"""What a release changed, quantities, selectors, Envoy's statistics."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

import pytest

from builders import ago
from paramedic.core.envoy import Stat, breaker_stats
from paramedic.core.quantity import parse_quantity
from paramedic.core.release import changes_between, release_of
from paramedic.core.selectors import as_query, matches

Json = dict[str, Any]


def template(image: str = "covet:1", *, meta: Json | None = None, pod: Json | None = None, **container: Any) -> Json:
    return {
        "metadata": meta or {},
        "spec": {"containers": [{"name": "main", "image": image} | container]} | (pod or {}),
    }


@dataclass
class Entry:
    number: int
    template: Json
    created_at: datetime
    name: str = field(default="")

    def __post_init__(self) -> None:
        self.name = f"app-{self.number}"


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ({}, {"image": "covet:2"}, ["image of main: covet:1 → covet:2"]),
        (
            {"env": [{"name": "A", "value": "hunter1"}, {"name": "GONE", "value": "x"}]},
            {"env": [{"name": "A", "value": "hunter2"}, {"name": "NEW", "valueFrom": {"secretKeyRef": {"name": "s"}}}]},
            ["env of main: A, GONE, NEW"],
        ),
        ({}, {"envFrom": [{"configMapRef": {"name": "c"}}]}, ["env of main: envFrom"]),
        (
            {"resources": {"limits": {"memory": "256Mi"}}},
            {"resources": {"limits": {"memory": "128Mi", "cpu": "1"}}},
            ["resources of main: limits.memory 256Mi → 128Mi, limits.cpu none → 1"],
        ),
        ({"command": ["run", "--password=hunter1"]}, {"command": ["run", "--password=hunter2"]}, ["command of main"]),
        ({}, {"pod": {"serviceAccountName": "b"}}, ["serviceAccountName"]),
        (
            {},
            {"meta": {"labels": {"v": "2"}, "annotations": {"checksum/config": "x"}}},
            ["labels: v", "annotations: checksum/config"],
        ),
        ({}, {"meta": {"annotations": {"kubectl.kubernetes.io/restartedAt": "x"}}}, []),
        ({"ports": []}, {"ports": None}, []),
        (
            {},
            {"env": [{"name": f"N{n}"} for n in range(12)]},
            ["env of main: N0, N1, N2, N3, N4, N5, N6, N7, N8, N9, 2 more"],
        ),
        ({}, {"pod": {"initContainers": [{"name": "init", "image": "x"}]}}, ["container init added"]),
    ],
)
def test_changes_are_told_without_values_that_may_be_secrets(old: Json, new: Json, words: list[str]) -> None:
    found = changes_between(template(**old), template(**new)).words()
    assert list(found) == words
    assert "hunter" not in str(found)


def test_a_release_is_all_entries_that_differ_by_restarts_only() -> None:
    restarted = template("b", meta={"annotations": {"kubectl.kubernetes.io/restartedAt": "x"}})
    history = [Entry(3, restarted, ago(5)), Entry(2, template("b"), ago(50)), Entry(1, template("a"), ago(500))]
    release = release_of(history[0], history)
    assert (release.revision, release.previous, release.started_at, release.restarted_at) == (3, 1, ago(50), ago(5))
    assert release.entries == {"app-3", "app-2"}
    assert release.changes.images == ("image of main: a → b",)


def test_a_release_that_was_rolled_out_again_counts_from_then_and_is_no_restart() -> None:
    history = [Entry(4, template("b"), ago(500)), Entry(3, template("a"), ago(900))]
    release = release_of(history[0], history, ago(2))
    assert (release.started_at, release.restarted_at, release.previous) == (ago(2), None, 3)


def test_the_first_release_has_changed_nothing() -> None:
    only = Entry(1, template(), ago(5))
    release = release_of(only, [only])
    assert (release.previous, release.changes.words(), release.restarted_at) == (None, (), None)


@pytest.mark.parametrize(
    ("text", "value"),
    [("250m", 0.25), ("128Mi", 128 * 2**20), ("1e3", 1000), ("2k", 2000), ("0.5", 0.5), (4, 4), ("150n", 1.5e-7)]
    + [(bad, None) for bad in ("", "x", "1Kb", None, "1 Gi", "9" * 99)],
)
def test_quantities(text: object, value: float | None) -> None:
    assert parse_quantity(text) == (pytest.approx(value) if value is not None else None)


def test_selectors() -> None:
    expressions = [
        {"key": "tier", "operator": "In", "values": ["a", "b"]},
        {"key": "env", "operator": "NotIn", "values": ["dev"]},
        {"key": "x", "operator": "Exists"},
        {"key": "y", "operator": "DoesNotExist"},
    ]
    query = as_query({"matchLabels": {"app": "covet"}, "matchExpressions": expressions})
    assert query == "app=covet,tier in (a,b),env notin (dev),x,!y"
    assert as_query({}) == ""
    assert matches({"app": "covet"}, {"app": "covet", "v": "1"})
    assert not matches({}, {"app": "covet"})
    assert not matches({"app": "covet", "v": "2"}, {"app": "covet", "v": "1"})


STATS = r"""
# TYPE envoy_cluster_circuit_breakers_default_rq_pending_open gauge
envoy_cluster_circuit_breakers_default_rq_pending_open{envoy_cluster_name="outbound|80||db"} 1
envoy_cluster_circuit_breakers_default_cx_open{envoy_cluster_name="outbound|80||db"} 0
envoy_cluster_circuit_breakers_high_rq_open{envoy_cluster_name="a\"b}"} 1
envoy_cluster_upstream_rq_pending_overflow{envoy_cluster_name="outbound|80||db"} 42
envoy_cluster_upstream_rq_total{envoy_cluster_name="outbound|80||db"} 9000
envoy_cluster_circuit_breakers_default_rq_open{} 1
garbage
"""


def test_envoys_statistics() -> None:
    assert breaker_stats(STATS) == [
        Stat("outbound|80||db", "default_rq_pending", 1, True),
        Stat(r"a\"b}", "high_rq", 1, True),
        Stat("outbound|80||db", "upstream_rq_pending_overflow", 42, False),
    ]
