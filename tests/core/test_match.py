"""Which policy answers, and what the alert becomes."""

from __future__ import annotations

import json
import random
import re
import time
from collections.abc import Iterable
from datetime import timedelta
from itertools import permutations
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from builders import NOW, ago, alert, incident, later, policy
from paramedic.api import FINALIZER
from paramedic.api.incident import IncidentSpec
from paramedic.api.policy import RemediationPolicy
from paramedic.core import match
from paramedic.core.alert import Alert, fingerprint, quick_fingerprint

SYSTEM = "paramedic-system"
OLD, YOUNG = NOW - timedelta(days=1), NOW
ANY = {"match": {"alerts": [{"matchers": ['alertname=~".+"']}]}}


def answering(
    policies: Iterable[RemediationPolicy], fired: Alert, system: str = SYSTEM
) -> list[tuple[RemediationPolicy, str]]:
    return match.policies_for_alert(map(match.compile_policy, policies), fired, system)


def by_namespace(text: str) -> dict[str, Any]:
    return {"match": {"alerts": [{"matchers": ['alertname="A"', text]}]}}


@pytest.mark.parametrize(
    ("policies", "winner"),
    [
        ([policy("low", priority=1), policy("high", priority=2)], "high"),
        ([policy("negative", priority=-1), policy("none")], "none"),
        ([policy("young", created=YOUNG), policy("old", created=OLD)], "old"),
        ([policy("b", created=OLD), policy("a", created=OLD)], "a"),
        ([policy("unborn", created=None), policy("young", created=YOUNG)], "young"),
        ([policy("young", created=YOUNG, priority=1), policy("old", created=OLD)], "young"),
    ],
)
def test_priority_then_age_then_name(policies: list[RemediationPolicy], winner: str) -> None:
    for order in permutations(policies):
        assert [p.metadata.name for p, _ in answering(order, alert())] == [winner]


@pytest.mark.parametrize(
    ("chosen", "labels", "namespace"),
    [
        (policy(**ANY), {"alertname": "A"}, "covet"),
        (policy(**ANY), {"alertname": "A", "namespace": "covet"}, "covet"),
        (policy(**ANY), {"alertname": "A", "namespace": "other"}, None),
        (policy(**by_namespace('namespace="other"')), {"alertname": "A", "namespace": "other"}, "covet"),
        (policy(**ANY), {"severity": "page"}, None),
        # a policy of Paramedic's own namespace may serve others, but only those that it lists
        (policy(namespace=SYSTEM, namespaces=["covet"], **ANY), {"alertname": "A", "namespace": "covet"}, "covet"),
        (policy(namespace=SYSTEM, namespaces=["covet"], **ANY), {"alertname": "A", "namespace": "other"}, None),
        (policy(namespace=SYSTEM, namespaces=["covet"], **ANY), {"alertname": "A"}, None),
        (policy(namespace=SYSTEM, **ANY), {"alertname": "A"}, SYSTEM),
        # a tenant's list counts for nothing
        (policy(namespaces=["kube-system"], **ANY), {"alertname": "A", "namespace": "kube-system"}, None),
    ],
)
def test_a_policy_answers_only_in_its_own_namespace(
    chosen: RemediationPolicy, labels: dict[str, str], namespace: str | None
) -> None:
    found = answering([chosen], alert(**labels), SYSTEM)
    assert [where for _, where in found] == ([namespace] if namespace else [])


def test_nobodys_priority_keeps_an_alert_from_another_namespace() -> None:
    both = {"match": {"alerts": [{"matchers": ['namespace=~"covet|other"']}]}}
    policies = [policy("a", priority=9, **both), policy("b", "other", **both), policy("c", "other", priority=1, **both)]
    found = answering(policies, alert(alertname="A", namespace="other"))
    assert sorted((p.metadata.name, where) for p, where in found) == [("a", "covet"), ("c", "other")]


def test_any_entry_and_every_matcher() -> None:
    entries = [{"matchers": ['alertname="A"', 'severity="page"']}, {"matchers": ['alertname="B"']}]
    chosen = policy(match={"alerts": entries})
    answers = [
        bool(answering([chosen], alert(**labels)))
        for labels in (
            {"alertname": "A", "severity": "page"},
            {"alertname": "A", "severity": "info"},
            {"alertname": "B", "severity": "info"},
            {"alertname": "C", "severity": "page"},
        )
    ]
    assert answers == [True, False, True, False]


INCIDENTS: dict[str, Any] = {"match": {"incidents": {"types": ["APIOutage"], "severities": ["P0", "P1"]}}}


@pytest.mark.parametrize(
    ("said", "answers"),
    [
        ({}, True),
        ({"severity": "P1"}, True),
        ({"severity": "P2"}, False),
        ({"type": "HighLoad"}, False),
        ({"target": {"name": "covet-app"}}, True),
        ({"target": {"name": "another"}}, False),
    ],
)
def test_incidents_by_type_severity_and_target(said: dict[str, Any], answers: bool) -> None:
    found = match.policy_for_incident([policy(**INCIDENTS)], incident(alert_state=None, **said))
    assert bool(found) is answers


def test_a_named_policy_is_taken_from_the_own_namespace_only() -> None:
    named = incident(alert_state=None, policyRef={"name": "api-outage"})
    own, foreign = policy(), policy(namespace="other")
    assert match.policy_for_incident([foreign, own], named) == own
    assert match.policy_for_incident([foreign], named) is None
    serving = policy(namespace="paramedic-system", namespaces=["covet"])
    assert match.policy_for_incident([serving], named) is None, "its namesake of the own namespace was meant"
    there = incident(alert_state=None, policyRef={"name": "api-outage", "namespace": "paramedic-system"})
    assert match.policy_for_incident([own, serving], there) == serving
    assert match.policy_for_incident([own], incident(alert_state=None, policyRef={"name": "gone"})) is None


def test_an_empty_selection_means_any() -> None:
    assert match.policy_for_incident([policy(match={"incidents": {}})], incident(alert_state=None, severity="P3"))


# -- what the alert becomes --------------------------------------------------------------------------------------------

RFC_1123 = re.compile(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?")
texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=80) | st.text("-A9é ", max_size=200)
labels_ = st.dictionaries(st.sampled_from(["alertname", "severity", "deployment", "x"]) | texts, texts, max_size=6)


@settings(max_examples=200, deadline=None)
@given(labels_, labels_)
def test_any_alert_becomes_an_incident_that_can_be_stored(labels: dict[str, str], annotations: dict[str, str]) -> None:
    chosen = policy(
        target={"nameFromLabel": "deployment"},
        incident={"severityFromLabel": "severity", "groupBy": ["alertname"]},
        steps=[{"name": "room", "scale": {"replicas": 3}, "ttl": "1h"}],
    )
    fired = alert(annotations=annotations, **({"alertname": ""} | labels))
    made = match.incident_manifest(chosen, "covet", fired)
    assert RFC_1123.fullmatch(made["metadata"]["name"])
    assert len(made["metadata"]["name"]) <= 63
    assert made["metadata"]["finalizers"] == [FINALIZER]
    spec = IncidentSpec.model_validate(made["spec"])
    assert spec.title.isprintable()
    assert json.loads(json.dumps(made)) == made
    assert match.incident_manifest(chosen, "covet", fired) == made


def test_the_name_is_the_same_for_a_resend_and_another_for_anything_else() -> None:
    one = alert()
    resent = alert(annotations={"summary": "still"})
    names = [
        match.incident_name(chosen, key, fired)
        for chosen, key, fired in [
            (policy(), "g", one),
            (policy(), "g", resent),
            (policy(), "h", one),
            (policy("other"), "g", one),
            (policy(namespace="other"), "g", one),
            (policy(), "g", alert(starts_at=NOW + timedelta(microseconds=1))),
        ]
    ]
    assert names[0] == names[1]
    assert len(set(names)) == 5
    assert names[0].startswith("covet-api-errors-")


@pytest.mark.parametrize("size", [70, 5_000, 1_000_000])
@pytest.mark.parametrize("char", ["x", "\U0001f642", "\x01", '"'])
def test_texts_are_bounded(size: int, char: str) -> None:
    """An Incident must always fit into etcd (1.5 MiB), or the alert could never be stored."""
    many = {f"label{n:04}{char}": char * (size // 300) for n in range(300)}
    fired = alert(annotations={"summary": char * size} | many, **{"alertname": char * size} | many)
    made = match.incident_manifest(policy(), "covet", fired)
    assert len(json.dumps(made, ensure_ascii=False).encode()) < 1_000_000
    assert len(made["spec"]["title"]) <= 1024


@pytest.mark.parametrize(
    ("value", "mapping", "severity"),
    [
        ("critical", {"critical": "P0"}, "P0"),
        ("warning", {"critical": "P0"}, "P2"),
        ("p1", None, "P1"),
        ("P9", None, "P2"),
        ("", {"": "P3"}, "P3"),
        (None, None, "P2"),
    ],
)
def test_severity(value: str | None, mapping: dict[str, str] | None, severity: str) -> None:
    template = {"severityFromLabel": "level"} | ({"severityMap": mapping} if mapping else {})
    labels = {"alertname": "A"} | ({"level": value} if value is not None else {})
    assert match.severity_of(policy(incident=template), alert(**labels)) == severity


@pytest.mark.parametrize(
    ("title", "annotations", "shown"),
    [
        (None, {"summary": "Errors on api"}, "Errors on api"),
        (None, {}, "A"),
        ("{{ labels.alertname }} on {{ labels.pod | default('?') }}", {}, "A on ?"),
        ("{{ annotations.summary }}", {}, "A"),
        ("{{ annotations.summary }}", {"summary": "two\nlines\x1b[31m\u2028\x00"}, "two lines [31m"),
        ("{{ annotations.summary }}", {"summary": "{{ labels.alertname }}"}, "{{ labels.alertname }}"),
        ("{{ 1 // 0 }}", {}, "A"),
    ],
)
def test_titles(title: str | None, annotations: dict[str, str], shown: str) -> None:
    chosen = policy(incident={"title": title} if title else {})
    made = match.incident_manifest(chosen, "covet", alert(annotations=annotations, alertname="A"))
    assert made["spec"]["title"] == shown


def test_groups() -> None:
    one, two = alert(alertname="A", pod="1"), alert(alertname="A", pod="2")
    assert one.group_key(["alertname"]) == two.group_key(["alertname"])
    assert one.group_key([]) != two.group_key([])
    assert alert(a="b,c=d").group_key(["a", "c"]) != alert(a="b", c="d").group_key(["a", "c"])
    assert alert(a="x=1", b="").group_key(["a", "b"]) != alert(a="x", b="1").group_key(["a", "b"])


def test_fingerprints_are_alertmanagers() -> None:
    """A pair that prometheus/common itself tests with (model/signature_test.go)."""
    assert alert(name="garland, briggs", fear="love is not enough").fingerprint == f"{5799056148416392346:016x}"


def test_the_fingerprint_of_a_very_large_label_set_is_quickly_made() -> None:
    labels = {"alertname": "A", "note": "x" * 4_000_000}
    began = time.process_time()
    assert fingerprint(labels) == quick_fingerprint(dict(reversed(labels.items())))
    assert time.process_time() - began < 0.2
    assert fingerprint(labels) != fingerprint(labels | {"alertname": "B"})


def test_which_firing_is_new() -> None:
    assert match.is_new_firing(alert(), None, NOW)
    assert match.is_new_firing(alert(), NOW - timedelta(microseconds=1), NOW)
    assert not match.is_new_firing(alert(), NOW, NOW)
    assert not match.is_new_firing(alert(starts_at=ago(5)), NOW, NOW)


def test_a_clock_that_was_ahead_hides_no_later_firing() -> None:
    assert match.is_new_firing(alert(starts_at=ago(1)), later(60), NOW)
    assert not match.is_new_firing(alert(starts_at=later(60)), later(60), NOW)


def test_alerts_of_a_group_that_began_at_once_have_names_of_their_own_where_one_is_taken() -> None:
    grouping = policy(incident={"groupBy": ["alertname"]})
    one, two = alert(alertname="A", pod="1"), alert(alertname="A", pod="2")

    def name(found: Alert, *, own_name: bool = False) -> str:
        return str(match.incident_manifest(grouping, "covet", found, own_name=own_name)["metadata"]["name"])

    assert name(one) == name(two)
    assert len({name(one), name(one, own_name=True), name(two, own_name=True)}) == 3


def test_precedence_does_not_depend_on_the_order_of_reading() -> None:
    policies = [
        policy(f"p{n}", priority=n % 3, created=NOW + timedelta(days=n % 2) if n % 5 else None) for n in range(20)
    ]
    names = [p.metadata.name for p in match.by_precedence(policies)]
    random.Random(1).shuffle(policies)
    assert [p.metadata.name for p in match.by_precedence(policies)] == names
