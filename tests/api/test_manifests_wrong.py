"""Wrong manifests are refused at `kubectl apply`, with words that help the person who wrote them."""

import copy
from typing import Any

import pytest
import yaml

from testbed.access import Access
from testbed.api import Api, ApiError

Json = dict[str, Any]
POLICY = """
apiVersion: paramedic.dev/v1alpha1
kind: RemediationPolicy
metadata: {name: api-outage}
spec:
  match:
    alerts: [{matchers: ['alertname="CovetApiErrors"']}]
    incidents: {types: [APIOutage]}
  target: {kind: Deployment, name: covet-app}
  guards: {cooldown: 10m, windows: {deny: [{schedule: "0 18 * * FRI", duration: 60h}]}}
  steps:
  - {name: undo, rollback: {}}
  - {name: more-room, scale: {replicas: 10}, ttl: 1h}
"""
INCIDENT = """
apiVersion: paramedic.dev/v1alpha1
kind: Incident
metadata: {name: api-down}
spec: {title: API returns 5xx, type: APIOutage, severity: P0, target: {kind: Deployment, name: covet-app}}
"""
GONE = object()


def case(path: str, value: Any, *words: str) -> Any:
    """`path` set to `value` (or removed), and the words that the refusal must contain."""
    shown = "removed" if value is GONE else repr(value)
    return pytest.param(path, value, words, id=f"{path}={shown}"[:70])


WRONG_POLICIES = [
    case("spec", GONE, "spec: Required value"),
    case("spec.match", GONE, "spec.match: Required value"),
    case("spec.match", {}, "match needs alerts, incidents, or both"),
    case("spec.match", {"alerts": []}, "match needs alerts, incidents, or both"),
    case("spec.match.alerts.0", {}, "matchers", "Required value"),
    case("spec.match.alerts.0.matchers", [], "matchers", "at least 1"),
    case("spec.match.alerts.0.matchers", "a=b", "matchers", "must be of type array"),
    case("spec.match.alerts.0.matchers.0", "severity", "each matcher is label, one of = != =~ !~"),
    case("spec.match.alerts.0.matchers.0", 'severity == "page"', "each matcher is label"),
    case("spec.match.alerts.0.matchers.0", "0severity=page", "each matcher is label"),
    case("spec.match.alerts.0.matchers.0", 'severity in ("page")', "each matcher is label"),
    case("spec.match.incidents.severities", ["P5"], "severities[0]", "P5", '"P0"', '"P3"'),
    case("spec.match.incidents.types", ["api outage"], "types[0]", "api outage", "CamelCase"),
    case("spec.mode", "auto", "spec.mode", "auto", '"Observe", "Approve", "Auto"'),
    case("spec.mode", "Dry-Run", "spec.mode", '"Observe"'),
    case("spec.strategy", "Parallel", "spec.strategy", '"UntilRecovered", "Sequence"'),
    case("spec.priority", "high", "spec.priority", "must be of type integer"),
    case("spec.priority", 10_000_000, "spec.priority", "less than or equal to 1000000"),
    case("spec.paused", "yes", "spec.paused", "must be of type boolean"),
    case("spec.namespaces", ["team-b"], "spec.namespaces", "only for policies in paramedic-system"),
    case("spec.namespaces", ["team-*"], "spec.namespaces[0]", "team-*"),
    case("spec.target", GONE, "an alert names no target by itself: set spec.target, or a target on every step"),
    case("spec.target", {"kind": "Deployment"}, "exactly one of target.name and target.nameFromLabel"),
    case("spec.target.nameFromLabel", "deployment", "exactly one of target.name and target.nameFromLabel"),
    case("spec.target", {"nameFromLabel": "my-label"}, "nameFromLabel", "my-label"),
    case("spec.target.kind", "Service", "spec.target.kind", '"Deployment", "StatefulSet", "DaemonSet"'),
    case("spec.target.apiVersion", "apps/v1beta1", "spec.target.apiVersion", '"apps/v1"'),
    case("spec.target.name", "Covet_App", "spec.target.name", "Covet_App"),
    case("spec.target.namespace", "team-b", "unknown field", "spec.target.namespace"),
    case("spec.guards.cooldown", "10 minutes", "spec.guards.cooldown", "10 minutes", "for example"),
    case("spec.guards.cooldown", 600, "spec.guards.cooldown", "must be of type string"),
    case("spec.guards.minHealthy", "150%", "spec.guards.minHealthy", "150%"),
    case("spec.guards.minHealthy", "half", "spec.guards.minHealthy", "half"),
    case("spec.guards.rateLimit", {"actions": 0}, "rateLimit.actions", "greater than or equal to 1"),
    case("spec.guards.maxConcurrent", 0, "maxConcurrent", "greater than or equal to 1"),
    case("spec.guards.windows.deny.0.schedule", "friday evening", "deny[0].schedule", "friday evening", "five"),
    case("spec.guards.windows.deny.0.duration", GONE, "deny[0].duration", "Required value"),
    case("spec.guards.coolDown", "10m", "unknown field", "coolDown"),
    case("spec.steps", [], "spec.steps", "at least 1"),
    case("spec.steps.0", {"name": "nothing"}, "a step needs exactly one action of", "restart, rollback, scale"),
    case("spec.steps.0.restart", {}, "a step needs exactly one action of"),
    case("spec.steps.0.reboot", {}, "unknown field", "reboot"),
    case("spec.steps.0.name", GONE, "spec.steps[0].name", "Required value"),
    case("spec.steps.0.name", "Undo It", "spec.steps[0].name", "Undo It"),
    case("spec.steps.0.name", "more-room", "Duplicate value", "more-room"),
    case("spec.steps.0", {"name": "r", "restart": {}, "ttl": "1h"}, "restart cannot be put back, so ttl"),
    case("spec.steps.0.when", "", "spec.steps[0].when"),
    case("spec.steps.0.approval", "Yes", "approval", '"Required", "NotRequired"'),
    case("spec.steps.0.onFailure", "Retry", "onFailure", '"Continue", "Stop", "Escalate"'),
    case("spec.steps.0.rollback.toRevision", 0, "toRevision", "greater than or equal to 1"),
    case("spec.steps.1.scale", {}, "scale.replicas", "Required value"),
    case("spec.steps.1.scale.replicas", -1, "replicas cannot be negative", "in quotes"),
    case("spec.steps.1.scale.replicas", "ten", "scale.replicas", "ten"),
    case("spec.steps.1.scale.replicas", "50%", "scale.replicas", "50%"),
    case("spec.steps.1.scale", {"replicas": 10, "maxReplicas": 5}, "replicas must not be more than maxReplicas"),
    case("spec.steps.1.ttl", "soon", "spec.steps[1].ttl", "soon", "for example"),
    case("spec.steps.1.revertWhen", {}, "revertWhen needs alertResolved: true or a prometheus query"),
    case("spec.verify", {"prometheus": {"query": "up"}}, "prometheus.condition", "Required value"),
    case("spec.verify", {"prometheus": {"query": "up", "condition": "value > 0.0", "noData": "Ok"}}, "noData", "Ok"),
    case("spec.incident", {"severityMap": {"critical": "P0"}}, "severityMap is used with severityFromLabel"),
    case("spec.incident", {"severity": "critical"}, "incident.severity", "critical", '"P0"'),
    case("spec.incident", {"type": "apiOutage"}, "incident.type", "apiOutage", "CamelCase"),
    case("spec.incident", {"groupBy": ["pod-name"]}, "groupBy[0]", "pod-name"),
    case("spec.escalation", "engineering", "spec.escalation", "must be of type object"),
    case("spec.notify", "slack", "spec.notify", "must be of type array"),
]
WRONG_INCIDENTS = [
    case("spec", GONE, "spec: Required value"),
    case("spec.title", GONE, "spec.title: Required value"),
    case("spec.title", "", "spec.title"),
    case("spec.type", GONE, "spec.type: Required value"),
    case("spec.type", "api-outage", "spec.type", "api-outage", "CamelCase"),
    case("spec.severity", "critical", "spec.severity", "critical", '"P0", "P1", "P2", "P3"'),
    case("spec.severity", 0, "spec.severity", "must be of type string"),
    case("spec.target.kind", "Pod", "spec.target.kind", '"Deployment", "StatefulSet", "DaemonSet"'),
    case("spec.target.name", GONE, "spec.target.name: Required value"),
    case("spec.target.name", "covet app", "spec.target.name", "covet app"),
    case("spec.target.namespace", "team-b", "unknown field", "spec.target.namespace"),
    case("spec.policyRef", "api-outage", "spec.policyRef", "must be of type object"),
    case("spec.policyRef", {"name": "a/b"}, "spec.policyRef.name", "a/b"),
    case("spec.acknowledgedBy", "somebody", "acknowledgedBy must be your own user name, admin, not somebody"),
    case("spec.resolution", {}, "spec.resolution.resolvedBy: Required value"),
    case("spec.resolution", {"resolvedBy": "somebody"}, "resolvedBy must be your own user name"),
    case("spec.approvals", [{"step": "undo"}], "spec.approvals[0].approvedBy: Required value"),
    case("spec.approvals", [{"step": "undo", "approvedBy": "somebody"}], "approvedBy must be your own user name"),
    case("spec.approvals", [{"step": "Undo!", "approvedBy": "admin"}], "spec.approvals[0].step", "Undo!"),
    case("spec.paused", "true", "spec.paused", "must be of type boolean"),
    case("spec.ackBy", "admin", "unknown field", "spec.ackBy"),
]


@pytest.mark.parametrize("base", [POLICY, INCIDENT], ids=["policy", "incident"])
async def test_the_bases_are_right(admin: Api, installed: Access, base: str) -> None:
    await _dry_run(admin, yaml.safe_load(base))


@pytest.mark.parametrize(("path", "value", "words"), WRONG_POLICIES)
async def test_a_wrong_policy_is_refused(
    admin: Api, installed: Access, path: str, value: Any, words: tuple[str, ...]
) -> None:
    await _refused(admin, _changed(POLICY, path, value), words)


@pytest.mark.parametrize(("path", "value", "words"), WRONG_INCIDENTS)
async def test_a_wrong_incident_is_refused(
    admin: Api, installed: Access, path: str, value: Any, words: tuple[str, ...]
) -> None:
    await _refused(admin, _changed(INCIDENT, path, value), words)


async def _refused(admin: Api, manifest: Json, words: tuple[str, ...]) -> None:
    with pytest.raises(ApiError) as refusal:
        await _dry_run(admin, manifest)
    assert refusal.value.status in (400, 403, 422)
    message = str(refusal.value.body["message"])
    missing = [word for word in words if word not in message]
    assert not missing, f"{missing} not in: {message}"


async def _dry_run(admin: Api, manifest: Json) -> Json:
    """As `kubectl apply --dry-run=server --validate=strict` does."""
    plural = {"Incident": "incidents", "RemediationPolicy": "remediationpolicies"}[manifest["kind"]]
    path = f"/apis/paramedic.dev/v1alpha1/namespaces/default/{plural}"
    return await admin.request("POST", path, manifest, {"dryRun": "All", "fieldValidation": "Strict"})


def _changed(base: str, path: str, value: Any) -> Json:
    manifest: Json = copy.deepcopy(yaml.safe_load(base))
    *way, last = [int(part) if part.isdigit() else part for part in path.split(".")]
    node: Any = manifest
    for part in way:
        node = node[part]
    if value is GONE:
        del node[last]
    else:
        node[last] = value
    return manifest
