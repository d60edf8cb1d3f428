"""The remediations that the matrix breaks at every write: what is set up, what is written, how it must end."""

import base64
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any

from products import ENVOY_FILTERS
from testbed.faultproxy import Seen
from testbed.operator_process import NAMESPACE, SERVICE_ACCOUNT

Json = dict[str, Any]
API = "paramedic.dev/v1alpha1"
INCIDENTS = f"{API}/incidents"
POLICIES = f"{API}/remediationpolicies"
DEPLOYMENTS = "apps/v1/deployments"
OPERATION = "paramedic.dev/operation"
TARGET = "app"
GOOD, BAD = "app:1", "app:bad"
# Guards that hold nothing back: what keeps Paramedic from acting twice must not be a cooldown.
NO_GUARDS = {"cooldown": "0s", "maxConcurrent": 100, "rateLimit": {"actions": 1000, "period": "1h"}}
# Held for a second, so that no first look passes: each remediation then stores that it verifies, as its writes say.
SOON = {"rollout": True, "for": "1s", "timeout": "90s"}


@dataclass(frozen=True)
class Beside:
    """What the operations change besides the target, or instead of it: it must be in the end as it was before."""

    resource: str
    existing: Json | None = None
    """As it is before the incident; None: the operations create it."""
    left: int = 0
    """How many objects that the operations created are there in the end."""
    needs: tuple[Json, ...] = ()
    """What else the operations need of the namespace."""


@dataclass(frozen=True)
class Shape:
    """One kind of remediation."""

    name: str
    policy: Json
    by_alert: bool
    released: bool
    """Whether a second, bad release is there before the incident."""
    writes: tuple[str, ...]
    """Every write of a clean run, in order, as `label` names it; those that happen aside are in `ASIDE`."""
    changes: tuple[tuple[int, str], ...]
    """(replicas, image) of the target, from before the incident to its end, each value once."""
    operations: tuple[tuple[int, bool], ...]
    """Which operations stamp the target, in order: (index of the step, whether it is its putting back)."""
    beside: Beside | None = None
    stamps_target: bool = True
    """Whether the operations leave their stamp on the target."""
    reads: int = 0
    """Steps that change nothing and are told of as the others are."""
    effects: int = 1
    """Changes that one operation makes."""
    approved: tuple[str, ...] = ()
    """The steps that the applied Incident says yes to."""


def _policy(name: str, match: Json, steps: list[Json], **spec: Any) -> Json:
    return {
        "apiVersion": API,
        "kind": "RemediationPolicy",
        "metadata": {"name": name},
        "spec": {
            "mode": "Auto",
            "match": match,
            "incident": {"type": "APIOutage", "severity": "P1"},
            "target": {"apiVersion": "apps/v1", "kind": "Deployment", "name": TARGET},
            "guards": NO_GUARDS,
            "steps": steps,
            "verify": SOON,
        }
        | spec,
    }


_CONFIG: Json = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "config"}, "data": {"DB": "old"}}
KEPT = "credentials-before"
"""The Secret that keeps earlier values: written as often as it takes, as that changes nothing of the target."""
_RBAC = "rbac.authorization.k8s.io/v1"


def _secret(name: str, **values: str) -> Json:
    data = {key: base64.b64encode(value.encode()).decode() for key, value in values.items()}
    return {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": name}, "data": data}


def _right_to_secrets(*names: str) -> tuple[Json, Json]:
    rule = {"apiGroups": [""], "resources": ["secrets"], "resourceNames": list(names), "verbs": ["get", "patch"]}
    meta: Json = {"apiVersion": _RBAC, "metadata": {"name": "secrets"}}
    ref = {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": "secrets"}
    subject = {"kind": "ServiceAccount", "name": SERVICE_ACCOUNT, "namespace": NAMESPACE}
    role = meta | {"kind": "Role", "rules": [rule]}
    return role, meta | {"kind": "RoleBinding", "roleRef": ref, "subjects": [subject]}


_FRONT: Json = {
    "apiVersion": "v1",
    "kind": "Service",
    "metadata": {"name": "front"},
    "spec": {"type": "NodePort", "selector": {"app": TARGET}, "ports": [{"name": "http", "port": 80}]},
}
_ALERT = {"alerts": [{"matchers": ['alertname="Broken"']}]}

ROLLBACK = Shape(
    name="rollback",
    policy=_policy("rollback", _ALERT, [{"name": "undo", "rollback": {}}]),
    by_alert=True,
    released=True,
    writes=(
        "create incident",
        "status undo=Executing",
        "patch deployment image=app:1",
        "status undo=Verifying",
        "status undo=Succeeded",
        "status Resolved",
    ),
    changes=((1, BAD), (1, GOOD)),
    operations=((0, False),),
)

LEASE = Shape(
    name="lease",
    policy=_policy(
        "lease", {"incidents": {"types": ["HighLoad"]}}, [{"name": "room", "scale": {"replicas": 3}, "ttl": "20s"}]
    ),
    by_alert=False,
    released=False,
    writes=(
        "add finalizer",
        "status room=Executing",
        "patch deployment replicas=3",
        "status room=Verifying",
        "status room=Succeeded",
        "status room=Succeeded (back Executing)",
        "patch deployment replicas=1",
        "remove finalizer",
        "status room=Reverted (back Succeeded), Resolved",
    ),
    changes=((1, GOOD), (3, GOOD), (1, GOOD)),
    operations=((0, False), (0, True)),
)

UNDO = Shape(
    name="undo",
    policy=_policy(
        "undo",
        _ALERT,
        [
            {
                "name": "room",
                "scale": {"replicas": 2},
                "verify": {"rollout": True, "timeout": "1s"},
                "onFailure": "Continue",
            },
            {"name": "older", "rollback": {}},
        ],
    ),
    by_alert=True,
    released=True,
    writes=(
        "create incident",
        "status room=Executing",
        "patch deployment replicas=2",
        "status room=Verifying",
        "status room=Failed (back Executing)",
        "patch deployment replicas=1",
        "status room=Reverted (back Succeeded), older=Executing",
        "patch deployment image=app:1",
        "status room=Reverted (back Succeeded), older=Verifying",
        "status room=Reverted (back Succeeded), older=Succeeded",
        "status Resolved",
    ),
    changes=((1, BAD), (2, BAD), (1, BAD), (1, GOOD)),
    operations=((0, False), (0, True), (1, False)),
)

LIMIT = Shape(
    name="limit",
    policy=_policy(
        "limit",
        {"incidents": {"types": ["HighLoad"]}},
        [{"name": "limit", "rateLimit": {"method": "EnvoyFilter"}, "ttl": "6s"}],
    ),
    by_alert=False,
    released=False,
    writes=(
        "add finalizer",
        "status limit=Executing",
        "POST envoyfilters",
        "status limit=Verifying",
        "status limit=Succeeded",
        "status limit=Succeeded (back Executing)",
        "DELETE envoyfilters",
        "remove finalizer",
        "status limit=Reverted (back Succeeded), Resolved",
    ),
    changes=((1, GOOD),),
    operations=((0, False), (0, True)),
    beside=Beside(ENVOY_FILTERS),
    stamps_target=False,
)

CONFIG = Shape(
    name="config",
    policy=_policy(
        "config",
        {"incidents": {"types": ["HighLoad"]}},
        [
            {
                "name": "config",
                "target": {"kind": "ConfigMap", "name": "config"},
                "patchConfig": {"data": {"DB": "new"}, "restart": "Named", "workloads": [{"name": TARGET}]},
                "ttl": "6s",
            }
        ],
    ),
    by_alert=False,
    released=False,
    writes=(
        "add finalizer",
        "status config=Executing",
        "try deployment stamped",
        "patch configmap DB=new",
        "patch deployment stamped",
        "status config=Verifying",
        "status config=Succeeded",
        "status config=Succeeded (back Executing)",
        "try deployment unstamped",
        "patch configmap DB=old",
        "patch deployment unstamped",
        "remove finalizer",
        "status config=Reverted (back Succeeded), Resolved",
    ),
    changes=((1, GOOD),),
    operations=((0, False), (0, True)),
    beside=Beside("v1/configmaps", _CONFIG),
    effects=2,
)

SECRET = Shape(
    name="secret",
    policy=_policy(
        "secret",
        {"incidents": {"types": ["HighLoad"]}},
        [
            {
                "name": "secret",
                "target": {"kind": "Secret", "name": "credentials"},
                "patchConfig": {
                    "valueFrom": [{"key": "DB", "secretName": "source", "secretKey": "DB"}],
                    "restart": "Named",
                    "workloads": [{"name": TARGET}],
                },
                "ttl": "6s",
            }
        ],
    ),
    by_alert=False,
    released=False,
    writes=(
        "add finalizer",
        "status secret=Executing",
        "try deployment stamped",
        "keep the earlier values",
        "patch secret DB=new",
        "patch deployment stamped",
        "status secret=Verifying",
        "status secret=Succeeded",
        "status secret=Succeeded (back Executing)",
        "try deployment unstamped",
        "patch secret DB=old",
        "forget the earlier values",
        "patch deployment unstamped",
        "remove finalizer",
        "status secret=Reverted (back Succeeded), Resolved",
    ),
    changes=((1, GOOD),),
    operations=((0, False), (0, True)),
    beside=Beside(
        "v1/secrets",
        _secret("credentials", DB="old"),
        needs=(_secret("source", DB="new"), _secret(KEPT), *_right_to_secrets("credentials", KEPT, "source")),
    ),
    effects=2,
)

PROCEDURES = Shape(
    name="procedures",
    policy=_policy(
        "procedures",
        {"incidents": {"types": ["HighLoad"]}},
        [
            {"name": "stop", "approval": "Required", "shutdown": {"workloads": [{"name": TARGET}]}},
            {
                "name": "back",
                "approval": "Required",
                "recover": {"workloads": [{"name": TARGET}], "stages": ["100%"]},
            },
        ],
        strategy="Sequence",
    ),
    by_alert=False,
    released=False,
    writes=(
        "status stop-deployment-app=Executing",
        "patch deployment replicas=0",
        "status stop-deployment-app=Verifying",
        "status stop-deployment-app=Succeeded, back-deployment-app-to-100pct=Executing",
        "patch deployment replicas=1",
        "status stop-deployment-app=Succeeded, back-deployment-app-to-100pct=Verifying",
        "status stop-deployment-app=Succeeded, back-deployment-app-to-100pct=Succeeded, Resolved",
    ),
    changes=((1, GOOD), (0, GOOD), (1, GOOD)),
    operations=((0, False), (2, False)),
    approved=("stop", "back"),
)

BLOCK = Shape(
    name="block",
    policy=_policy(
        "block",
        {"incidents": {"types": ["HighLoad"]}},
        [
            {
                "name": "block",
                "target": {"kind": "Service", "name": "front"},
                "blockTraffic": {"method": "Service"},
                "verify": {"for": "1s", "timeout": "90s", "rollout": False},
                "ttl": "6s",
            }
        ],
    ),
    by_alert=False,
    released=False,
    writes=(
        "add finalizer",
        "status block=Executing",
        "patch service type=ClusterIP",
        "status block=Succeeded",
        "status block=Succeeded (back Executing)",
        "patch service type=NodePort",
        "remove finalizer",
        "status block=Reverted (back Succeeded), Resolved",
    ),
    changes=((1, GOOD),),
    operations=((0, False), (0, True)),
    beside=Beside("v1/services", _FRONT),
    stamps_target=False,
)

CLOSE = Shape(
    name="close",
    policy=_policy(
        "close",
        {"incidents": {"types": ["HighLoad"]}},
        [{"name": "close", "blockTraffic": {"method": "NetworkPolicy"}, "ttl": "6s"}],
    ),
    by_alert=False,
    released=False,
    writes=(
        "add finalizer",
        "status close=Executing",
        "POST networkpolicies",
        "status close=Verifying",
        "status close=Succeeded",
        "status close=Succeeded (back Executing)",
        "DELETE networkpolicies",
        "remove finalizer",
        "status close=Reverted (back Succeeded), Resolved",
    ),
    changes=((1, GOOD),),
    operations=((0, False), (0, True)),
    beside=Beside("networking.k8s.io/v1/networkpolicies"),
    stamps_target=False,
)

JOB = Shape(
    name="job",
    policy=_policy(
        "job",
        {"incidents": {"types": ["HighLoad"]}},
        [
            {
                "name": "job",
                "runJob": {
                    "template": {
                        "spec": {
                            "containers": [{"name": "check", "image": "check:1", "command": ["check"]}],
                        }
                    }
                },
            }
        ],
    ),
    by_alert=False,
    released=False,
    writes=(
        "status job=Executing",
        "POST jobs",
        "status job=Verifying",
        "status job=Succeeded, Resolved",
    ),
    changes=((1, GOOD),),
    operations=((0, False),),
    beside=Beside("batch/v1/jobs", left=1),
    stamps_target=False,
)

EVIDENCE = Shape(
    name="evidence",
    policy=_policy(
        "evidence",
        {"incidents": {"types": ["HighLoad"]}},
        [
            {"name": "keep", "captureEvidence": {"include": ["events", "manifests"]}},
            {"name": "room", "scale": {"replicas": 2}},
        ],
        strategy="Sequence",
    ),
    by_alert=False,
    released=False,
    writes=(
        "status keep=Executing",
        "status keep=Succeeded, room=Executing",
        "patch deployment replicas=2",
        "status keep=Succeeded, room=Verifying",
        "status keep=Succeeded, room=Succeeded, Resolved",
    ),
    changes=((1, GOOD), (2, GOOD)),
    operations=((1, False),),
    reads=1,
)

SHAPES = {
    shape.name: shape
    for shape in (ROLLBACK, LEASE, UNDO, LIMIT, CONFIG, SECRET, PROCEDURES, BLOCK, CLOSE, JOB, EVIDENCE)
}
ASIDE = ("event", "policy status", "status of", "look at secret")
"""Writes beside the remediation's own, at no fixed place among them."""


def leased_for(shape: Shape, ttl: str) -> Shape:
    """The same with another ttl: where much goes on at once, a rollout takes longer, and must be over before."""
    spec = shape.policy["spec"]
    longer = [step | {"ttl": ttl} if "ttl" in step else step for step in spec["steps"]]
    return replace(shape, policy=shape.policy | {"spec": spec | {"steps": longer}})


def deployment(image: str = GOOD, replicas: int = 1, name: str = TARGET) -> Json:
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": name},
        "spec": {
            "replicas": replicas,
            "selector": {"matchLabels": {"app": name}},
            "template": {
                "metadata": {"labels": {"app": name}},
                "spec": {
                    "terminationGracePeriodSeconds": 0,
                    "containers": [{"name": "app", "image": image}],
                },
            },
        },
    }


def incident(kind: str = "HighLoad", name: str = "applied", **spec: Any) -> Json:
    return {
        "apiVersion": API,
        "kind": "Incident",
        "metadata": {"name": name},
        "spec": {"title": "by hand", "type": kind, "severity": "P1", **spec},
    }


def labels(writes: Iterable[Seen]) -> list[str]:
    """A name for each write that tells what it says; the second of a name gets a (2)."""
    counts: dict[str, int] = {}
    named = []
    for one in writes:
        plain = label(one)
        counts[plain] = counts.get(plain, 0) + 1
        named.append(plain if counts[plain] == 1 else f"{plain} ({counts[plain]})")
    return named


def label(write: Seen) -> str:
    match write.resource, write.method:
        case "incidents", "POST":
            return "create incident"
        case "incidents", "PATCH":
            return "add finalizer" if write.json["metadata"].get("finalizers") else "remove finalizer"
        case "incidents/status", "PATCH":
            return f"status {_said(write.json['status'])}"
        case "remediationpolicies/status", "PATCH":
            return "policy status"
        case "events", "POST":
            return f"event {write.json['reason']}"
        case "configmaps", "PATCH":
            return f"patch configmap DB={write.json['data']['DB']}"
        case "secrets", "PATCH":
            return _change_of_secret(write)
        case resource, "PATCH":
            how = "try" if "dryRun" in write.query else "patch"
            return f"{how} {resource.removesuffix('s')} {_changed(write.json['spec'])}"
        case resource, method:
            return f"{method} {resource}"


def _change_of_secret(write: Seen) -> str:
    if "dryRun" in write.query:
        return "look at secret"
    (value,) = write.json["data"].values()
    if write.name == KEPT:
        return "keep the earlier values" if value else "forget the earlier values"
    return f"patch secret DB={base64.b64decode(value).decode()}"


def _said(status: Json) -> str:
    steps = [_step(step) for step in status.get("steps", []) if step.get("state") not in ("Pending", "Skipped", None)]
    ended = ["Resolved"] if status.get("phase") == "Resolved" else []
    return ", ".join([*steps, *ended]) or f"of {', '.join(sorted(status))}"


def _step(step: Json) -> str:
    claimed = f" attempt {step['attempts']}" if step["state"] == "Executing" and step.get("attempts", 1) > 1 else ""
    revert = step.get("revert")
    back = f" (back {revert['state']})" if revert else ""
    return f"{step['name']}={step['state']}{claimed}{back}"


def _changed(spec: Json) -> str:
    if "type" in spec:
        return f"type={spec['type']}"
    template = spec.get("template")
    if template and "spec" not in template:
        return "stamped" if template["metadata"]["annotations"][OPERATION] else "unstamped"
    if template:
        return f"image={template['spec']['containers'][0]['image']}"
    return ", ".join(f"{name}={value}" for name, value in spec.items())
