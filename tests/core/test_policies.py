"""What is wrong in a policy is said when it is read, and names the field."""

from __future__ import annotations

from typing import Any

import pytest

from builders import policy, policy_manifest
from paramedic.policies import find_problems, read_policy

SYSTEM = "paramedic-system"
WINDOW = {"schedule": "0 18 * * FRI", "duration": "60h"}
CHECK = {"query": "up", "condition": "value > 0"}


def one(**fields: Any) -> dict[str, Any]:
    return {"steps": [{"name": "undo"} | ({} if set(fields) & {"restart", "scale"} else {"rollback": {}}) | fields]}


CONFIG = {"kind": "ConfigMap", "name": "c"}
COPIED = {"key": "A", "secretName": "s", "secretKey": "a"}
STOP = {"name": "stop", "approval": "Required", "shutdown": {"services": ["web"]}}
BACK = {"name": "back", "approval": "Required", "recover": {"workloads": [{"name": "app"}]}}


@pytest.mark.parametrize(
    ("spec", "problem"),
    [
        (
            {"match": {"alerts": [{"matchers": ['alertname="A"']}, {"matchers": ["severity"]}]}},
            "match.alerts[1]: 'severity' is not a matcher",
        ),
        ({"match": {"alerts": [{"matchers": ['a=~"("']}]}}, "match.alerts[0]: '(' is not an RE2 regular expression"),
        (
            {"match": {"alerts": [{"matchers": ['a=~"\\\\pL{12}"']}]}},
            "match.alerts[0]: '\\\\pL{12}' takes more than 64 KiB of memory: write it with fewer",
        ),
        (
            {"match": {"alerts": [{"matchers": ["a=b"] * 16}] * 8 + [{"matchers": ["a=b,c=d"]}]}},
            "match.alerts: a policy may have 128 matchers in all: join values in one regular expression",
        ),
        (
            {"match": {"alerts": [{"matchers": ['a=~"\\\\pL"'] * 16}]}},
            "match.alerts: the matchers take more than 512 KiB of memory: write = instead of =~, or shorter",
        ),
        ({"incident": {"title": "{{ labels.pod"}}, "incident.title: '{{ labels.pod': "),
        ({"incident": {"title": "{{ labels.get('x') }}"}}, "Call is not allowed here"),
        ({"incident": {"title": "{{ alert.labels.x }}"}}, "unknown alert; known are annotations, labels"),
        ({"guards": {"windows": {"deny": [WINDOW | {"schedule": "61 * * * *"}]}}}, "guards.windows.deny: '61 * * * *'"),
        ({"guards": {"windows": {"allow": [WINDOW | {"timeZone": "Mars"}]}}}, "guards.windows.allow: 'Mars' is not an"),
        ({"namespaces": ["other"]}, "namespaces: only a policy in paramedic-system may serve other namespaces"),
        (
            {"verify": {"prometheus": CHECK | {"condition": "v > 0"}}},
            "verify.prometheus: 'v > 0': unknown v; known are",
        ),
        (one(verify={"prometheus": CHECK | {"condition": "value >"}}), "steps.undo.verify.prometheus: 'value >': "),
        (
            one(ttl="1h", revertWhen={"prometheus": CHECK | {"condition": "x"}}),
            "steps.undo.revertWhen.prometheus: 'x': ",
        ),
        (one(when="target.replicas >"), "steps.undo.when: 'target.replicas >': "),
        (one(when="policy.name == 'a'"), "steps.undo.when: \"policy.name == 'a'\": unknown policy"),
        ({"steps": [{"name": "undo", "reboot": {}}]}, "steps.undo: there is no action reboot; there are "),
        (one(restart={}, ttl="1h"), "steps.undo: restart cannot be put back, so ttl and revertWhen make no sense"),
        (one(restart={}, revertWhen={"alertResolved": True}), "steps.undo: restart cannot be put back"),
        (
            {"target": {"nameFromLabel": "deployment"}, "incident": {"groupBy": ["alertname", "namespace"]}},
            "target.nameFromLabel: alerts with different values of deployment would be one incident, and only the "
            "first one's is acted on: write incident.groupBy: [alertname, namespace, deployment]",
        ),
        (
            one(restart={}, target={"nameFromLabel": "worker"}) | {"incident": {"groupBy": ["alertname"]}},
            "steps.undo.target.nameFromLabel: alerts with different values of worker would be one incident",
        ),
        (
            {
                "target": {"kind": "Connection", "name": "alb"},
                "steps": [{"name": "block", "blockAddresses": {"addressesFromLabel": "sources"}}],
                "incident": {"groupBy": ["alertname"]},
            },
            "steps.block.blockAddresses.addressesFromLabel: alerts with different values of sources would be one",
        ),
        (one(restart={"hard": True}), "steps.undo.restart.hard: Extra inputs are not permitted"),
        (one(scale={}), "steps.undo.scale.replicas: Field required"),
        (one(scale={"replicas": 2, "maxReplicas": 0}), "steps.undo.scale.maxReplicas: Input should be greater"),
        (one(rollback={"toRevision": "last"}), "steps.undo.rollback.toRevision: "),
        (
            {
                "steps": [
                    {"name": "fix", "target": {"kind": "Secret", "name": "s"}, "patchConfig": {"data": {"A": "x"}}}
                ]
            },
            "steps.fix.patchConfig: values for a Secret are not written into a policy",
        ),
        (
            {
                "target": {"kind": "Secret", "name": "s"},
                "steps": [{"name": "fix", "patchConfig": {"data": {"A": "x"}}}],
            },
            "steps.fix.patchConfig: values for a Secret are not written into a policy",
        ),
        (
            {"steps": [{"name": "fix", "target": CONFIG, "patchConfig": {"valueFrom": [COPIED]}}]},
            "steps.fix.patchConfig: valueFrom is for a Secret",
        ),
        (
            {
                "steps": [
                    {"name": name, "target": CONFIG, "patchConfig": {"data": {"A": "x" * 60_000}}} for name in "abcde"
                ]
            },
            "steps: their parameters take 293 KiB, where an Incident's status has room for 256 KiB; divide the policy",
        ),
        ({"steps": [{"name": "a", "restart": {}}] * 2}, "steps: the name a is used twice"),
        (
            {"steps": [STOP, {"name": "stop-service-web", "restart": {}}]},
            "steps: the name stop-service-web is used twice",
        ),
        ({"steps": [STOP | {"approval": "NotRequired"}]}, "steps.stop: shutdown always waits for a person"),
        ({"steps": [{"name": "stop", "shutdown": {"services": ["web"]}}]}, "steps.stop: shutdown always waits"),
        ({"steps": [STOP | {"target": {"name": "x"}}]}, "steps.stop: shutdown names its objects itself"),
        ({"steps": [STOP | {"shutdown": {"services": ["a", "a"]}}]}, "steps.stop.shutdown.: Value error, Service/a"),
        ({"steps": [BACK | {"ttl": "1h"}]}, "steps.back: recover cannot be put back"),
        (
            {"steps": [BACK | {"recover": {"workloads": [{"name": "a"}], "stages": ["half"]}}]},
            "steps.back.recover.stages.0",
        ),
    ],
)
def test_each_mistake_is_named(spec: dict[str, Any], problem: str) -> None:
    found = list(find_problems(policy(**spec), SYSTEM))
    assert len(found) == 1, found
    assert problem in found[0]


BREACH = {"match": {"incidents": {"types": ["SecurityBreach"]}}}
SET = {"name": "set", "patchConfig": {"data": {"A": "1"}}, "target": CONFIG}
KEEP = {"name": "keep", "captureEvidence": {}, "target": {"kind": "Service", "name": "web"}}


@pytest.mark.parametrize(
    ("spec", "lacking"),
    [
        (BREACH | {"target": None, "steps": [SET]}, True),
        (BREACH | {"target": CONFIG, "steps": [SET]}, True),
        ({"incident": {"type": "SecurityBreach"}, "target": None, "steps": [SET]}, True),
        ({"match": {"incidents": {}}, "target": None, "steps": [SET]}, False),
        (BREACH | {"steps": [SET]}, False),
        (BREACH | {"target": None, "steps": [SET, KEEP]}, False),
        (BREACH | {"target": None, "steps": [SET, STOP]}, False),
        # the Incident has to name it
        (BREACH | {"target": None, "steps": [SET, {"name": "kick", "restart": {}}]}, False),
        (BREACH | {"target": CONFIG, "steps": [{"name": "look", "diagnose": {}, "target": {"name": "app"}}]}, False),
    ],
)
def test_a_breach_needs_something_whose_evidence_can_be_captured(spec: dict[str, Any], lacking: bool) -> None:
    found = list(find_problems(policy(**spec), SYSTEM))
    assert ["add a step with captureEvidence" in problem for problem in found] == ([True] if lacking else [])


def test_a_procedure_needs_no_target_and_no_particular_one_of_the_policy() -> None:
    agent = {"kind": "DaemonSet", "name": "agent"}
    assert list(find_problems(policy(target=agent, steps=[STOP, BACK]), SYSTEM)) == []
    assert list(find_problems(policy(mode="Approve", steps=[{"name": "s", **_without(STOP)}]), SYSTEM)) == []


def _without(step: dict[str, Any]) -> dict[str, Any]:
    return {k: v for k, v in step.items() if k not in ("name", "approval")}


def test_a_good_policy_has_no_problem() -> None:
    chosen = policy(
        match={"alerts": [{"matchers": ['alertname="A"', 'severity=~"critical|page"']}]},
        guards={"windows": {"deny": [WINDOW | {"timeZone": "Europe/Berlin"}]}},
        verify={"rollout": True, "prometheus": CHECK, "for": "30s"},
        steps=[
            {
                "name": "undo",
                "rollback": {},
                "when": "target.lastRolloutAge < duration('30m')",
                "onFailure": "Continue",
            },
            {"name": "room", "scale": {"replicas": "+50%"}, "ttl": "1h", "revertWhen": {"alertResolved": True}},
            {"name": "kick", "restart": {}, "approval": "Required"},
        ],
    )
    assert list(find_problems(chosen, SYSTEM)) == []


def test_a_policy_of_the_own_namespace_may_serve_others() -> None:
    assert list(find_problems(policy(namespace=SYSTEM, namespaces=["covet"]), SYSTEM)) == []


def test_all_mistakes_are_told_at_once() -> None:
    wrong = {"namespaces": ["other"], "incident": {"title": "{{"}, **one(when="x", restart={"hard": 1}, ttl="1h")}
    assert len(list(find_problems(policy(**wrong), SYSTEM))) == 5


@pytest.mark.parametrize(
    ("spec", "field"),
    [
        ({"mode": "Often"}, "spec.mode"),
        ({"guards": {"cooldown": "soon"}}, "spec.guards.cooldown"),
        ({"guards": {"cooldown": "99999999999999d"}}, "spec.guards.cooldown"),
        ({"guards": {"minHealthy": "150%"}}, "spec.guards.minHealthy"),
        ({"guards": {"rateLimit": {"actions": 0}}}, "spec.guards.rateLimit.actions"),
        ({"steps": []}, "spec.steps"),
        ({"steps": [{"name": "Undo", "rollback": {}}]}, "spec.steps.0.name"),
        ({"steps": [{"name": "undo", "rollback": {}, "timeout": None}]}, "spec.steps.0.timeout"),
        ({"stepz": []}, "spec.stepz"),
        ({"steps": [{"name": "undo"}]}, "exactly one action is needed, got []"),
        ({"steps": [{"name": "undo", "rollback": {}, "restart": {}}]}, "got ['restart', 'rollback']"),
        ({"priority": "high"}, "spec.priority"),
        ({"target": {"kind": "Pod", "name": "x"}}, "spec.target.kind"),
    ],
)
def test_what_cannot_be_read_is_no_policy(spec: dict[str, Any], field: str) -> None:
    found, problem = read_policy(policy_manifest(**spec), SYSTEM)
    assert found is None
    assert problem
    assert field in problem
    assert len(problem) <= 2000


def test_a_policy_with_a_mistake_can_still_be_read() -> None:
    found, problem = read_policy(policy_manifest(paused=True, **one(when="x")), SYSTEM)
    assert found
    assert found.spec.paused
    assert problem == "steps.undo.when: 'x': unknown x; known are alert, findings, incident, steps, target"


@pytest.mark.parametrize("group_by", [[], ["deployment"], ["alertname", "deployment", "namespace"]])
def test_a_group_may_be_of_alerts_that_are_about_the_same_target(group_by: list[str]) -> None:
    chosen = policy(target={"nameFromLabel": "deployment"}, incident={"groupBy": group_by})
    assert list(find_problems(chosen, SYSTEM)) == []
