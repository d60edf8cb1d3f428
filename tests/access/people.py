"""Two teams and the people in them, as ServiceAccounts with real tokens and real RoleBindings."""

import uuid
from dataclasses import dataclass
from typing import Any

import pytest
import yaml

from testbed.access import Access
from testbed.api import Api, ApiError

Json = dict[str, Any]
INCIDENTS = "paramedic.dev/v1alpha1/incidents"
POLICIES = "paramedic.dev/v1alpha1/remediationpolicies"
PEOPLE = {
    "dev": ["edit"],  # the built-in role, into which paramedic-edit is aggregated
    "viewer": ["view"],
    "clerk": ["paramedic-edit"],  # writes incidents and policies, has no right on any workload
    "desk": ["paramedic-trigger"],
    "approver": ["edit", "paramedic-approve"],
    "second": ["edit", "paramedic-approve"],
    "guest-approver": ["paramedic-approve"],
    "owner": ["everything-of-paramedic"],  # verbs * on paramedic.dev/*, but no workload
    "boss": ["cluster-admin"],
    "narrow": ["only-covet-app", "paramedic-edit"],
    "runner": ["only-covet-app", "only-jobs", "paramedic-edit"],  # may create Jobs besides, under no other's name
    "keeper": ["only-covet-app", "only-config", "paramedic-edit"],  # may patch ConfigMaps and Services besides
    "worker": ["all-that-runs"],  # writes incidents and changes all that runs here, but nothing outside: no connection
}
"""Who has which role in team a; nobody has any in team b, besides the neighbour."""


@dataclass(frozen=True)
class Teams:
    """Namespace `a`, whose people they are, and namespace `b`, which is none of their business."""

    a: str
    b: str
    people: str
    tokens: dict[str, str]

    def user(self, who: str) -> str:
        """The user name that the API server knows a person by."""
        return f"system:serviceaccount:{self.people}:{who}"


def settle(cluster: Access) -> Teams:
    """Creates the namespaces, accounts, roles and bindings, all of fresh names."""
    tail = uuid.uuid4().hex[:8]
    names = {key: f"{key}-{tail}" for key in ("team-a", "team-b", "people")}
    objects = [_object("v1", "Namespace", name) for name in names.values()]
    objects += [_object("v1", "ServiceAccount", who, names["people"]) for who in (*PEOPLE, "neighbour")]
    objects += _own_roles(names["team-a"])
    for who, roles in PEOPLE.items():
        objects += [_binding(who, role, names["team-a"], names["people"]) for role in roles]
    objects.append(_binding("neighbour", "edit", names["team-b"], names["people"]))
    cluster.kubectl("apply", "-f", "-", input=yaml.safe_dump_all(objects))
    tokens = {who: cluster.service_account_token(names["people"], who) for who in (*PEOPLE, "neighbour")}
    return Teams(names["team-a"], names["team-b"], names["people"], tokens)


def policy(name: str = "p", **spec: Any) -> Json:
    """A policy that restarts covet-app when an APIOutage is reported; `spec` replaces what it says."""
    base = {
        "match": {"incidents": {"types": ["APIOutage"]}},
        "target": {"kind": "Deployment", "name": "covet-app"},
        "steps": [{"name": "restart", "restart": {}}],
    }
    return _custom("RemediationPolicy", name, {k: v for k, v in (base | spec).items() if v is not None})


def incident(name: str = "i", **spec: Any) -> Json:
    """An incident of covet-app; `spec` replaces what it says, None leaves out."""
    base = {"title": "down", "type": "APIOutage", "target": {"kind": "Deployment", "name": "covet-app"}}
    return _custom("Incident", name, {k: v for k, v in (base | spec).items() if v is not None})


async def refused(request: Any, *words: str, status: int = 403) -> str:
    """Awaits a request that the API server must refuse with these words; returns the whole message."""
    with pytest.raises(ApiError) as refusal:
        await request
    text = str(refusal.value)
    assert refusal.value.status == status, text
    missing = [word for word in words if word not in text]
    assert not missing, f"{missing} not in: {text}"
    return text


async def allowed(api: Api, manifest: Json, namespace: str) -> Json:
    """Creates in dry-run."""
    return await api.create(manifest, namespace, dryRun="All")


def _custom(kind: str, name: str, spec: Json) -> Json:
    return {"apiVersion": "paramedic.dev/v1alpha1", "kind": kind, "metadata": {"name": name}, "spec": spec}


def _object(version: str, kind: str, name: str, namespace: str | None = None, **rest: Any) -> Json:
    metadata = {"name": name} | ({"namespace": namespace} if namespace else {})
    return {"apiVersion": version, "kind": kind, "metadata": metadata, **rest}


def _own_roles(namespace: str) -> list[Json]:
    patch = {"apiGroups": ["apps"], "resources": ["deployments"], "resourceNames": ["covet-app"], "verbs": ["patch"]}
    config = {"apiGroups": [""], "resources": ["configmaps", "services"], "verbs": ["patch"]}
    jobs = {"apiGroups": ["batch"], "resources": ["jobs"], "verbs": ["create"]}
    everything = {"apiGroups": ["paramedic.dev"], "resources": ["*"], "verbs": ["*"]}
    groups = ["", "apps", "autoscaling", "batch", "networking.k8s.io"]
    runs = [
        {"apiGroups": groups, "resources": ["*"], "verbs": ["*"]},
        {"apiGroups": ["paramedic.dev"], "resources": ["incidents"], "verbs": ["*"]},
    ]
    rbac = "rbac.authorization.k8s.io/v1"
    return [
        _object(rbac, "Role", "only-covet-app", namespace, rules=[patch]),
        _object(rbac, "Role", "only-config", namespace, rules=[config]),
        _object(rbac, "Role", "only-jobs", namespace, rules=[jobs]),
        _object(rbac, "Role", "everything-of-paramedic", namespace, rules=[everything]),
        _object(rbac, "Role", "all-that-runs", namespace, rules=runs),
    ]


def _binding(who: str, role: str, namespace: str, people: str) -> Json:
    own = role in ("only-covet-app", "only-config", "only-jobs", "everything-of-paramedic", "all-that-runs")
    kind = "Role" if own else "ClusterRole"
    return _object(
        "rbac.authorization.k8s.io/v1",
        "RoleBinding",
        f"{who}-{role}",
        namespace,
        roleRef={"apiGroup": "rbac.authorization.k8s.io", "kind": kind, "name": role},
        subjects=[{"kind": "ServiceAccount", "name": who, "namespace": people}],
    )
