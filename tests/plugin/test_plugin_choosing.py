"""What can be found out from a namespace's policies when somebody opens an incident."""

from typing import Any

import pytest

from paramedic.api.policy import RemediationPolicy
from paramedic.api.workload import TargetRef
from paramedic.plugin.choosing import Choice, Wish, choose, read_target
from paramedic.plugin.failures import Exit, Failure

APP = TargetRef(kind="Deployment", name="covet-app")
DATABASE = TargetRef(kind="StatefulSet", name="covet-db")
ALERTS_ONLY = {"alerts": [{"matchers": ["a=b"]}]}


def policy(
    name: str, *types: str, target: TargetRef | None = APP, namespace: str = "covet", **spec: Any
) -> RemediationPolicy:
    base: dict[str, Any] = {
        "match": {"incidents": {"types": list(types)}},
        "steps": [{"name": "again", "restart": {}}],
        "target": target.to_wire() if target else None,
    }
    metadata = {"name": name, "namespace": namespace}
    return RemediationPolicy.model_validate({"metadata": metadata, "spec": base | spec})


def refused(code: Exit, *policies: RemediationPolicy, **wish: Any) -> list[str]:
    with pytest.raises(Failure) as failure:
        choose(policies, Wish(**({"severity": "P1"} | wish)), "covet")
    assert failure.value.code is code
    return str(failure.value).splitlines()


def test_the_one_policy_says_type_and_target() -> None:
    only = policy("api-outage", "APIOutage")
    assert choose([only], Wish("P1"), "covet") == Choice("APIOutage", "P1", APP, only)


def test_the_target_says_which_of_several() -> None:
    app, database = policy("app", "APIOutage"), policy("db", "DatabaseDegraded", target=DATABASE)
    assert choose([app, database], Wish("P0", target=DATABASE), "covet").policy is database


def test_a_policy_for_this_very_target_comes_before_those_for_any() -> None:
    general, database = policy("any", "HighLoad", target=None), policy("db", "DatabaseDegraded", target=DATABASE)
    assert choose([general, database], Wish("P1", target=DATABASE), "covet").policy is database


def test_several_types_are_listed_with_what_each_would_do() -> None:
    lines = refused(Exit.USAGE, policy("app", "APIOutage"), policy("load", "HighLoad", mode="Auto", paused=True))
    assert lines == [
        "covet has policies for several types of incident; say which it is:",
        "  --type APIOutage   app (Approve) acts on Deployment/covet-app: again",
        "  --type HighLoad   load (paused) acts on Deployment/covet-app: again",
    ]


def test_of_one_type_the_operator_s_own_precedence_decides() -> None:
    low, high = policy("low", "APIOutage"), policy("high", "APIOutage", priority=9)
    assert choose([low, high], Wish("P1"), "covet").policy is high


def test_a_policy_for_other_severities_is_pointed_out() -> None:
    grave = policy("grave", match={"incidents": {"types": ["APIOutage"], "severities": ["P0"]}})
    assert refused(Exit.USAGE, grave) == [
        "no policy of covet answers to a P1. Possible are:",
        "  --severity P0 --type APIOutage   grave (Approve) acts on Deployment/covet-app: again",
        "  --type Reported   people only: nothing is done by itself",
    ]
    assert choose([grave], Wish("P0"), "covet").policy is grave


def test_no_policy_for_this_target() -> None:
    lines = refused(Exit.USAGE, policy("app", "APIOutage"), target=DATABASE)
    assert lines[0] == "no policy of covet answers to a P1 of StatefulSet/covet-db. Possible are:"
    assert lines[1].startswith("  --policy app   ")


def test_a_policy_by_name_is_the_own_one_before_one_that_serves_the_namespace() -> None:
    own = policy("api-outage", "APIOutage")
    serving = policy("api-outage", "APIOutage", namespace="paramedic-system", namespaces=["covet"], priority=9)
    assert choose([serving, own], Wish("P1", policy="api-outage"), "covet").policy is own
    assert choose([serving], Wish("P1", policy="api-outage"), "covet").policy is serving


def test_a_policy_by_name_answers_whatever_it_matches() -> None:
    alerts = policy("alerts", match=ALERTS_ONLY, incident={"type": "HighLoad"})
    assert choose([alerts], Wish("P1", policy="alerts"), "covet") == Choice("HighLoad", "P1", APP, alerts)
    assert "there is no policy nope for covet: alerts" in refused(Exit.NOT_FOUND, alerts, policy="nope")[0]


def test_without_policies_for_incidents_it_is_for_people() -> None:
    alerts = policy("alerts", match=ALERTS_ONLY)
    assert choose([alerts], Wish("P1", target=APP), "covet") == Choice("Reported", "P1", APP)
    assert choose([], Wish("P2", type="DDoS"), "covet") == Choice("DDoS", "P2")


def test_policies_of_paramedic_s_own_namespace_serve_those_that_they_list() -> None:
    shared = policy("shared", "APIOutage", namespace="paramedic-system", namespaces=["covet"])
    foreign = policy("foreign", "HighLoad", namespace="paramedic-system", namespaces=["other"])
    assert choose([shared, foreign], Wish("P1"), "covet").policy is shared


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("deployment/a", "Deployment"),
        ("Deployments/a", "Deployment"),
        ("deploy/a", "Deployment"),
        ("sts/a", "StatefulSet"),
        ("ingresses/a", "Ingress"),
        ("svc/a", "Service"),
        ("connection/a", "Connection"),
    ],
)
def test_targets_as_kubectl_names_them(text: str, kind: str) -> None:
    assert read_target(text) == TargetRef.model_validate({"kind": kind, "name": "a"})


@pytest.mark.parametrize("text", ["API returns 5xx", "pod/a", "deployment/", "deployment", "deploy/a b", "deploy/a/b"])
def test_what_is_no_target(text: str) -> None:
    assert read_target(text) is None
