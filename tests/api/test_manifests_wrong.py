"""Wrong manifests are refused at `kubectl apply`, with words that help the person who wrote them."""

import copy
from typing import Any

import pytest
import yaml

from paramedic.core.addresses import is_address
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


def group_case(spec: Json) -> Any:
    """A policy whose groups of alerts are not all about the same."""
    whole = yaml.safe_load(POLICY)["spec"] | {"incident": {"groupBy": ["alertname", "namespace"]}} | spec
    words = "only the first says what is acted on", "to incident.groupBy"
    return pytest.param("spec", whole, words, id=f"groupBy and {spec}"[:70])


def config_case(params: Json, *words: str) -> Any:
    """A step that changes configuration with these parameters."""
    step = {"name": "config", "patchConfig": params, "target": {"kind": "ConfigMap", "name": "covet-config"}}
    return pytest.param("spec.steps.0", step, words, id=f"patchConfig={params}"[:70])


def block_case(params: Json, *words: str) -> Any:
    """A step that blocks traffic with these parameters."""
    step = {"name": "block", "blockTraffic": params, "target": {"kind": "Service", "name": "covet-service"}}
    return pytest.param("spec.steps.0", step, words, id=f"blockTraffic={params}"[:70])


def limit_case(params: Json, *words: str) -> Any:
    """A step that limits requests with these parameters."""
    return pytest.param("spec.steps.0", {"name": "limit", "rateLimit": params}, words, id=f"rateLimit={params}"[:70])


def job_case(pod: Json, *words: str, **container: Any) -> Any:
    """A Job whose pod, or whose container, says something more."""
    spec = {"containers": [{"name": "c", "image": "i:1"} | container]} | pod
    whole = {"name": "j", "runJob": {"template": {"spec": spec}}}
    return pytest.param("spec.steps.1", whole, words, id=f"runJob={pod or container}"[:70])


def aws_case(action: str, params: Json, *words: str, **step: Any) -> Any:
    """A step of an action on a connection, or that uses one, with these parameters."""
    wrong = {"name": "aws", "target": {"kind": "Connection", "name": "covet-db"}, action: params} | step
    return pytest.param("spec.steps.0", wrong, words, id=f"{action}={params}{step or ''}"[:70])


def database_case(action: str, params: Json, *words: str, **step: Any) -> Any:
    """A step on a database, or by a queue, with these parameters."""
    wrong = {"name": "db", "target": {"kind": "Connection", "name": "covet-db"}, action: params} | step
    return pytest.param("spec.steps.0", wrong, words, id=f"{action}={params}{step or ''}"[:70])


def shutdown_case(params: Json, *words: str, **step: Any) -> Any:
    whole = {"name": "s", "approval": "Required", "shutdown": {"services": ["s"]} | params} | step
    return pytest.param("spec.steps.1", whole, words, id=f"shutdown={params or step}"[:70])


def recover_case(params: Json, *words: str, **step: Any) -> Any:
    whole = {"name": "r", "approval": "Required", "recover": {"workloads": [{"name": "w"}]} | params} | step
    return pytest.param("spec.steps.1", whole, words, id=f"recover={params or step}"[:70])


_JOB = {"template": {"spec": {"containers": [{"name": "c", "image": "i:1"}]}}}
JOB_CASES = [
    job_case({"hostNetwork": True}, "hostNetwork must be false", "no rights on the node"),
    job_case({"hostPID": True}, "hostPID must be false", "no rights on the node"),
    job_case({"hostIPC": True}, "hostIPC must be false", "no rights on the node"),
    job_case({}, "privileged must be false", securityContext={"privileged": True}),
    job_case({}, 'supported values: "NET_BIND_SERVICE"', securityContext={"capabilities": {"add": ["SYS_ADMIN"]}}),
    job_case({"volumes": [{"name": "v", "hostPath": {"path": "/"}}]}, "hostPath must be left out"),
    job_case({"volumes": [{"name": "v"}]}, "set exactly one of configMap, secret, emptyDir, persistentVolumeClaim"),
    job_case({"volumes": [{"name": "v", "projected": {}}]}, "unknown field", "projected"),
    job_case({"automountServiceAccountToken": True}, "only under a serviceAccountName that the policy names"),
    job_case({"serviceAccountName": "Root"}, "serviceAccountName", "Root"),
    job_case({"nodeName": "n"}, "unknown field", "nodeName"),
    job_case({"initContainers": [{"name": "i", "image": "a b"}]}, "initContainers[0].image", "a b"),
    job_case({"containers": []}, "containers", "at least 1"),
    job_case({}, "command", "must be of type array", command="rm -rf /"),
    job_case(
        {},
        "set value or valueFrom, not both",
        env=[{"name": "A", "value": "1", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}}],
    ),
    job_case({}, "set exactly one of secretKeyRef, configMapKeyRef, fieldRef", env=[{"name": "A", "valueFrom": {}}]),
    job_case({}, "set exactly one of configMapRef, secretRef", envFrom=[{"prefix": "A_"}]),
    case("spec.steps.1", {"name": "j", "runJob": {}}, "runJob.template", "Required value"),
    case("spec.steps.1", {"name": "j", "runJob": _JOB | {"backoffLimit": 99}}, "less than or equal to 10"),
    case("spec.steps.1", {"name": "j", "runJob": _JOB, "ttl": "1h"}, "runJob cannot be put back, so ttl"),
]
_QUEUE = {"connection": "covet-queue", "key": "jobs", "perReplica": 10, "max": 5}
DATABASE_CASES = [
    database_case("terminateQueries", {}, "terminateQueries.olderThan", "Required value"),
    database_case("terminateQueries", {"olderThan": "ages"}, "a duration is a number with a unit"),
    database_case("terminateQueries", {"olderThan": "1m", "states": ["idle"]}, "states", '"idle in transaction"'),
    database_case("terminateQueries", {"olderThan": "1m", "atMost": 1000}, "less than or equal to 100"),
    database_case("terminateQueries", {"olderThan": "1m", "includeDdl": True}, "unknown field", "includeDdl"),
    database_case("terminateQueries", {"olderThan": "1m"}, "terminateQueries cannot be put back, so ttl", ttl="1h"),
    database_case("slowQueryLog", {}, "slowQueryLog is for a while only: set ttl"),
    database_case("slowQueryLog", {"top": 0}, "greater than or equal to 1", ttl="1h"),
    database_case("scaleByQueue", {"connection": "q", "key": "k", "max": 3}, "perReplica", "Required value"),
    database_case("scaleByQueue", _QUEUE | {"min": 6}, "min must not be more than max"),
    database_case("scaleByQueue", _QUEUE | {"type": "Stream"}, "type Stream needs group"),
    database_case("scaleByQueue", _QUEUE | {"type": "List", "group": "g"}, "only a Stream has a group"),
    database_case("scaleByQueue", _QUEUE | {"type": "Hash"}, '"List", "Stream", "SortedSet"'),
]
EMERGENCY_CASES = [
    shutdown_case({"services": []}, "name at least one object in services or workloads"),
    shutdown_case({"workloads": [{"kind": "DaemonSet", "name": "d"}]}, "DaemonSet", '"Deployment", "StatefulSet"'),
    shutdown_case({"workloads": [{"name": "A B"}]}, "workloads[0].name", "A B"),
    shutdown_case({"selector": {}}, "selector", "at least 1"),
    shutdown_case({}, "shutdown always waits for a person", approval="NotRequired"),
    case(
        "spec",
        {"mode": "Auto", "match": {"incidents": {}}, "steps": [{"name": "s", "shutdown": {"services": ["s"]}}]},
        "shutdown always waits for a person: write approval: Required on the step",
    ),
    case(
        "spec",
        {"mode": "Auto", "match": {"incidents": {}}, "steps": [{"name": "r", "recover": {"services": ["s"]}}]},
        "recover always waits for a person: write approval: Required on the step",
    ),
    recover_case({"workloads": []}, "name at least one object in services or workloads"),
    recover_case({"stages": [1, "50%"]}, "the last stage must be 100%"),
    recover_case({"stages": [0, "100%"]}, "stages[0]", "greater than or equal to 1"),
    recover_case({"stages": ["half", "100%"]}, "stages[0]", "half"),
    recover_case({"stages": []}, "stages", "at least 1"),
    recover_case({"from": {"configMap": "b"}}, "from.sha256", "Required value"),
    recover_case({"from": {"configMap": "b", "sha256": "abc"}}, "from.sha256", "abc"),
    recover_case(
        {"databaseCheck": {"template": {"spec": {"hostNetwork": True, "containers": [{"name": "c", "image": "i"}]}}}},
        "hostNetwork must be false",
    ),
    recover_case({"services": ["s"], "workloads": [], "databaseCheck": _JOB}, "databaseCheck comes before workloads"),
    recover_case({}, "recover cannot be put back, so ttl", ttl="1h"),
    recover_case({}, "recover always waits for a person", approval="NotRequired"),
]
AWS_CASES = [
    aws_case("blockAddresses", {}, "needs addresses, addressesFromLabel, addressesFromAnnotation or addressesFromInc"),
    aws_case("blockAddresses", {"addressesFromIncident": False}, "as it stands nothing is blocked"),
    aws_case("blockAddresses", {"addressesFromIncident": "yes"}, "addressesFromIncident", "must be of type boolean"),
    aws_case("blockAddresses", {"addresses": []}, "as it stands nothing is blocked"),
    aws_case("blockAddresses", {"addresses": ["example.com"]}, "addresses[0]", "example.com"),
    aws_case("blockAddresses", {"addresses": ["203.0.113.7"], "neverBlock": ["us"]}, "neverBlock[0]", "us"),
    aws_case("blockAddresses", {"addresses": ["203.0.113.7"], "statusCode": 200}, "greater than or equal to 400"),
    aws_case("blockAddresses", {"addresses": ["203.0.113.7"], "shortestPrefixIPv4": 0}, "greater than or equal to 8"),
    aws_case("blockAddresses", {"addressesFromLabel": "a b"}, "addressesFromLabel", "a b"),
    aws_case("databaseFailover", {"targetInstance": "Covet 2"}, "targetInstance", "Covet 2"),
    aws_case("databaseFailover", {"unknownLag": "Ignore"}, "unknownLag", '"Refuse", "Accept"'),
    aws_case("databaseFailover", {"maxReplicaLag": "soon"}, "a duration is a number with a unit"),
    aws_case("databaseFailover", {"configMap": {"key": "DB_HOST"}}, "configMap.name", "Required value"),
    aws_case("databaseFailover", {}, "databaseFailover cannot be put back, so ttl", ttl="1h"),
    aws_case("awaitDatabase", {}, "awaitDatabase cannot be put back, so ttl", ttl="1h"),
    aws_case("captureEvidence", {"snapshots": {"volumes": ["vol-0123456789abcdef0"]}}, "snapshots.connection"),
    aws_case("captureEvidence", {"snapshots": {"connection": "a", "volumes": ["snap-1"]}}, "volumes[0]", "snap-1"),
]
WRONG_POLICIES = [
    *AWS_CASES,
    case("spec", GONE, "spec: Required value"),
    case("spec.match", GONE, "spec.match: Required value"),
    case("spec.match", {}, "match needs alerts, incidents, or both"),
    case("spec.match", {"alerts": []}, "match needs alerts, incidents, or both"),
    case("spec.match.alerts.0", {}, "matchers", "Required value"),
    case("spec.match.alerts.0.matchers", [], "matchers", "at least 1"),
    case(
        "spec.match.alerts", [{"matchers": ["a=b"] * 16}] * 8 + [{"matchers": ["a=b"]}], "may have 128 matchers in all"
    ),
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
    case("spec.target.kind", "Pod", "spec.target.kind", '"Deployment", "StatefulSet", "DaemonSet"'),
    case("spec.target.apiVersion", "v1", "spec.target", "leave apiVersion out"),
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
    case("spec.steps.0", {"name": "nothing"}, "a step needs exactly one action of", "restart, rollback, "),
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
    config_case({}, "patchConfig needs data or valueFrom"),
    config_case({"data": {}, "valueFrom": []}, "patchConfig needs data or valueFrom"),
    config_case({"data": {"DB HOST": "x"}}, "a key of a ConfigMap or Secret consists of letters", "DB_HOST"),
    config_case({"data": {"": "x"}}, "a key of a ConfigMap or Secret consists of letters"),
    case(
        "spec.steps.0",
        {"name": "config", "patchConfig": {"data": {"A": "x"}}, "target": {"kind": "Secret", "name": "covet-secrets"}},
        "values for a Secret are not written into a policy",
        "patchConfig.valueFrom",
    ),
    config_case({"data": {"PORT": 5432}}, "data.PORT", "must be of type string"),
    config_case({"data": {"A": "x"}, "restart": "All"}, "restart", "All", '"Users", "None", "Named"'),
    config_case({"data": {"A": "x"}, "restart": "Named"}, "workloads belongs to restart: Named, which needs it"),
    config_case({"data": {"A": "x"}, "workloads": [{"name": "a"}]}, "workloads belongs to restart: Named"),
    config_case({"data": {"A": "x"}, "restart": "Named", "workloads": []}, "workloads", "at least 1"),
    config_case(
        {"data": {"A": "x"}, "restart": "Named", "workloads": [{"kind": "Pod", "name": "a"}]},
        "workloads[0].kind",
        '"Deployment", "StatefulSet", "DaemonSet"',
    ),
    config_case({"valueFrom": [{"key": "A"}]}, "valueFrom[0].secretName", "Required value"),
    config_case({"valueFrom": [{"key": "A", "secretName": "s", "secretKey": "a/b"}]}, "valueFrom[0].secretKey", "a/b"),
    block_case({"method": "Firewall"}, "method", "Firewall", '"Service", "NetworkPolicy", "Selector"'),
    block_case({"direction": "Both"}, "direction, allow and dns belong to method NetworkPolicy"),
    block_case({"method": "Selector", "allow": [{"cidr": "10.0.0.0/8"}]}, "belong to method NetworkPolicy"),
    block_case({"method": "NetworkPolicy", "direction": "Egress"}, "direction", '"Ingress", "Both"'),
    block_case({"method": "NetworkPolicy", "dns": False}, "only direction: Both blocks"),
    block_case({"method": "NetworkPolicy", "allow": [{}]}, "an exception needs namespace, podLabels, cidr or ports"),
    block_case({"method": "NetworkPolicy", "allow": [{"podLabels": {}}]}, "podLabels", "at least 1"),
    block_case(
        {"method": "NetworkPolicy", "allow": [{"cidr": "10.0.0.0/8", "namespace": "a"}]},
        "an exception is for pods (namespace, podLabels) or for addresses (cidr)",
    ),
    block_case({"method": "NetworkPolicy", "allow": [{"cidr": "10.0.0.1"}]}, "allow[0].cidr", "10.0.0.1"),
    block_case({"method": "NetworkPolicy", "allow": [{"ports": [{"port": 70000}]}]}, "ports[0].port", "65535"),
    block_case({"method": "NetworkPolicy", "allow": [{"ports": []}]}, "allow[0].ports", "at least 1"),
    limit_case({}, "rateLimit.method", "Required value"),
    limit_case({"method": "Istio"}, "method", "Istio", '"EnvoyFilter", "BackendTrafficPolicy", "Ingress"'),
    limit_case({"method": "EnvoyFilter", "requests": 0}, "requests", "greater than or equal to 1"),
    limit_case({"method": "EnvoyFilter", "per": "10ms"}, "per must be from 50ms", "24h"),
    limit_case({"method": "EnvoyFilter", "per": "2d"}, "per must be from 50ms", "24h"),
    limit_case({"method": "EnvoyFilter", "per": "a minute"}, "a duration is a number with a unit"),
    limit_case({"method": "EnvoyFilter", "context": "ANY"}, "context", '"SIDECAR_INBOUND", "GATEWAY"'),
    limit_case({"method": "EnvoyFilter", "port": 0}, "port", "greater than or equal to 1"),
    limit_case({"method": "EnvoyFilter", "connections": 9}, "burstMultiplier and connections belong to method Ingress"),
    limit_case({"method": "Ingress", "context": "GATEWAY"}, "context and port belong to method EnvoyFilter"),
    limit_case({"method": "BackendTrafficPolicy", "port": 80}, "context and port belong to method EnvoyFilter"),
    limit_case({"method": "BackendTrafficPolicy", "per": "90s"}, "counts per second, minute, hour or day", "1m"),
    limit_case({"method": "Ingress", "per": "1h"}, "ingress-nginx counts per second or per minute"),
    limit_case({"method": "Ingress", "per": "1d"}, "ingress-nginx counts per second or per minute"),
    *JOB_CASES,
    *EMERGENCY_CASES,
    *DATABASE_CASES,
    case("spec.steps.1.ttl", "soon", "spec.steps[1].ttl", "soon", "for example"),
    case("spec.steps.1.revertWhen", {}, "revertWhen needs alertResolved: true or a prometheus query"),
    case("spec.verify", {"prometheus": {"query": "up"}}, "prometheus.condition", "Required value"),
    case("spec.verify", {"prometheus": {"query": "up", "condition": "value > 0.0", "noData": "Ok"}}, "noData", "Ok"),
    case("spec.incident", {"severityMap": {"critical": "P0"}}, "severityMap is used with severityFromLabel"),
    group_case({"target": {"nameFromLabel": "deployment"}}),
    group_case({"steps": [{"name": "undo", "rollback": {}, "target": {"nameFromLabel": "deployment"}}]}),
    group_case({"steps": [{"name": "block", "blockAddresses": {"addressesFromLabel": "sources"}}]}),
    case("spec.incident", {"severity": "critical"}, "incident.severity", "critical", '"P0"'),
    case("spec.incident", {"type": "apiOutage"}, "incident.type", "apiOutage", "CamelCase"),
    case("spec.incident", {"groupBy": ["pod-name"]}, "groupBy[0]", "pod-name"),
    case("spec.escalation", "engineering", "spec.escalation", "must be of type object"),
    case("spec.notify", "slack", "spec.notify", "must be of type array"),
]
_NO_ADDRESS = "a source address is an IP address (203.0.113.7, 2001:db8::7) or a network without bits of a host set"
_TOO_LARGE = "the network is too large to be kept out: write a prefix of at least /8 (IPv4) or /16 (IPv6)"
WRONG_ADDRESSES: list[tuple[Any, ...]] = [
    ("", _NO_ADDRESS),
    ("example.com", _NO_ADDRESS, "example.com"),
    ("203.0.113.7 203.0.113.8", _NO_ADDRESS),
    ("203.0.113.256", _NO_ADDRESS),
    ("0313.0.113.7", _NO_ADDRESS),
    ("203.0.113.0/33", _NO_ADDRESS),
    ("203.0.113.0/", _NO_ADDRESS),
    ("203.0.113.7/24", _NO_ADDRESS),
    ("2001:db8::7/48", _NO_ADDRESS),
    ("2001:db8::/129", _NO_ADDRESS),
    ("fe80::1%eth0", _NO_ADDRESS),
    ("::ffff:203.0.113.7", _NO_ADDRESS),
    ("203.0.113.0/255.255.255.0", _NO_ADDRESS),
    ("٢٠٣.0.113.7", _NO_ADDRESS),
    ("2" * 50, "may not be more than 49"),
    (7, "must be of type string"),
    ("0.0.0.0/0", _TOO_LARGE),
    ("128.0.0.0/7", _TOO_LARGE),
    ("::/0", _TOO_LARGE),
    ("2000::/15", _TOO_LARGE),
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
    case("spec.sourceAddresses", "203.0.113.7", "spec.sourceAddresses", "must be of type array"),
    case("spec.sourceAddresses", [f"203.0.113.{n}" for n in range(101)], "spec.sourceAddresses", "at most 100"),
    *(
        case("spec.sourceAddresses", ["203.0.113.9", wrong], "spec.sourceAddresses[1]", *words)
        for wrong, *words in WRONG_ADDRESSES
    ),
]
RIGHT_ADDRESSES = [
    "203.0.113.7",
    "203.0.113.7/32",
    "203.0.113.0/24",
    "11.0.0.0/8",
    "2001:db8::7",
    "2001:DB8:0:0:0:0:0:7",
    "2001:db8::/48",
    "2400::/16",
    "2001:0db8:0000:0000:0000:0000:0000:0007/128",
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


async def test_source_addresses_of_both_families_are_taken(admin: Api, installed: Access) -> None:
    """What is taken here, the action can read: it says so of each before it acts."""
    stored = await _dry_run(admin, _changed(INCIDENT, "spec.sourceAddresses", RIGHT_ADDRESSES))
    assert stored["spec"]["sourceAddresses"] == RIGHT_ADDRESSES
    assert all(map(is_address, RIGHT_ADDRESSES))


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
