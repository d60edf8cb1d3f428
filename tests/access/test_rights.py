"""What Paramedic itself may do: exactly what its code uses, written down in golden/.

`PARAMEDIC_WRITE_GOLDEN=1 pytest tests/access/test_rights.py` writes the files anew; look at the difference.
"""

import os
from pathlib import Path
from typing import Any

import pytest
import yaml

from installed import OPERATOR, ROOT
from testbed.access import Access, KubectlError

GOLDEN = Path(__file__).parent / "golden"
FORBIDDEN_VERBS = {"*", "escalate", "bind", "impersonate", "deletecollection", "delete"}
OURS = {
    "paramedic",
    *(
        f"paramedic-{name}"
        for name in (
            "leader",
            "actions-workloads",
            "actions-config",
            "actions-queues",
            "diagnose",
            "nodes",
            "evidence",
            "voices",
        )
    ),
}
COMPONENTS = sorted(folder.parent.name for folder in (ROOT / "manifests" / "components").glob("*/rbac.yaml"))
"""Those that give Paramedic rights."""
CLUSTER_SCOPED = {"/nodes", "metrics.k8s.io/nodes", "/persistentvolumes", "networking.k8s.io/ingressclasses"}
CLUSTER_WIDE = CLUSTER_SCOPED | {"paramedic.dev/incidents", "authorization.k8s.io/subjectaccessreviews"}
ACTS = {"get", "list", "watch", "create", "update", "patch"}


@pytest.fixture(scope="module")
def kubeconfig(installed: Access) -> Path:
    """The operator's own, with a real token."""
    return installed.kubeconfig_for(installed.service_account_token("paramedic-system", "paramedic"))


@pytest.mark.parametrize("namespace", ["paramedic-system", "default"])
def test_the_rights_are_those_of_the_golden_file(installed: Access, kubeconfig: Path, namespace: str) -> None:
    found = _rights(installed, kubeconfig, namespace)
    file = GOLDEN / f"can-i-{'own' if namespace == 'paramedic-system' else 'other'}-namespace.txt"
    if os.environ.get("PARAMEDIC_WRITE_GOLDEN"):
        file.write_text(found)
    assert found == file.read_text(), f"the rights have changed: see {file.relative_to(ROOT)}"


@pytest.mark.parametrize(
    ("verb", "resource"),
    [
        ("get", "secrets"),
        ("list", "secrets"),
        ("watch", "secrets"),
        ("patch", "secrets"),
        ("update", "configmaps"),
        ("delete", "configmaps"),
        ("delete", "services"),
        ("patch", "networkpolicies"),
        ("create", "pods"),
        ("create", "pods/exec"),
        ("create", "pods/attach"),
        ("patch", "pods/ephemeralcontainers"),
        ("create", "serviceaccounts/token"),
        ("patch", "clusterroles"),
        ("escalate", "clusterroles"),
        ("bind", "clusterroles"),
        ("create", "rolebindings"),
        ("impersonate", "users"),
        ("patch", "validatingadmissionpolicies"),
        ("patch", "customresourcedefinitions"),
        ("patch", "jobs"),
        ("impersonate", "serviceaccounts"),
        ("create", "services"),
        ("delete", "deployments"),
        ("create", "deployments"),
        ("update", "deployments"),
        ("patch", "deployments/scale"),
        ("delete", "pods"),
        ("patch", "pods"),
        ("patch", "nodes"),
        ("get", "nodes/proxy"),
        ("delete", "incidents"),
        ("approve", "incidents"),
        ("patch", "remediationpolicies"),
        ("create", "remediationpolicies"),
        ("update", "leases"),
        ("delete", "ingresses"),
        ("patch", "ingressclasses"),
    ],
)
def test_it_may_not(installed: Access, kubeconfig: Path, verb: str, resource: str) -> None:
    with pytest.raises(KubectlError):
        installed.kubectl("--kubeconfig", kubeconfig, "auth", "can-i", verb, *_with_subresource(resource), "-A")


@pytest.mark.parametrize("name", ["paramedic", "kube-scheduler"])
def test_of_leases_it_may_update_its_own_only(installed: Access, kubeconfig: Path, name: str) -> None:
    asked = ("auth", "can-i", "update", f"leases/{name}", "-n", "paramedic-system")
    if name == "paramedic":
        assert "yes" in installed.kubectl("--kubeconfig", kubeconfig, *asked)
    else:
        with pytest.raises(KubectlError):
            installed.kubectl("--kubeconfig", kubeconfig, *asked)


def test_no_role_of_ours_has_a_wildcard_or_secrets(installed: Access) -> None:
    rendered = yaml.safe_load_all(installed.kubectl("kustomize", ROOT / "manifests"))
    roles = [one for one in rendered if one["kind"] in ("ClusterRole", "Role")]
    assert {one["metadata"]["name"] for one in roles} >= OURS
    for role in roles:
        for rule in role["rules"]:
            text = f"{role['metadata']['name']}: {rule}"
            assert "*" not in [*rule["apiGroups"], *rule["resources"], *rule["verbs"]], text
            assert not {"secrets", "pods/exec"} & set(rule["resources"]), text
            assert "nodes" not in rule["resources"] or rule["verbs"] == ["list"], text
            assert role["metadata"]["name"] not in OURS or not FORBIDDEN_VERBS & set(rule["verbs"]), text


def test_people_get_approve_and_trigger_by_hand_only(installed: Access) -> None:
    for role in ("view", "edit", "admin"):
        rules = yaml.safe_load(installed.kubectl("get", "clusterrole", role, "-o", "yaml"))["rules"]
        ours = [rule for rule in rules if "paramedic.dev" in rule.get("apiGroups", [])]
        verbs = {verb for rule in ours for verb in rule["verbs"]}
        assert ours
        assert verbs <= ACTS | {"delete"}
        assert verbs <= {"get", "list", "watch"} or role != "view"
        assert not any("/status" in resource for rule in ours for resource in rule["resources"])


@pytest.fixture(scope="module")
def everything_per_namespace(installed: Access, tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """Base and all components that give rights, for a team-a with rights."""
    folder = tmp_path_factory.mktemp("everything")
    manifests = os.path.relpath(ROOT / "manifests", folder)
    (folder / "team-a").mkdir()
    team = {"namespace": "team-a", "resources": [f"../{manifests}/namespace-rights"]}
    (folder / "team-a" / "kustomization.yaml").write_text(yaml.safe_dump(team))
    components = [f"{manifests}/components/{name}" for name in (*COMPONENTS, "namespaced")]
    whole = {"resources": [f"{manifests}/base", "team-a"], "components": components}
    (folder / "kustomization.yaml").write_text(yaml.safe_dump(whole))
    return [one for one in yaml.safe_load_all(installed.kubectl("kustomize", folder)) if "roleRef" in one]


@pytest.mark.parametrize("component", COMPONENTS)
def test_without_the_cluster_wide_binding_it_acts_only_where_it_is_bound(
    everything_per_namespace: list[dict[str, Any]], component: str
) -> None:
    """Each role is bound once: in team-a, or for the whole cluster where what it is about has no namespace."""
    for role, rules in _roles_of(component).items():
        bound = [one for one in everything_per_namespace if one["roleRef"]["name"] == role]
        assert len(bound) == 1, f"{role} is bound {len(bound)} times: see manifests/namespace-rights"
        everywhere = {f"{group}/{one}" for rule in rules for group in rule["apiGroups"] for one in rule["resources"]}
        if bound[0]["kind"] == "ClusterRoleBinding":
            assert everywhere <= CLUSTER_WIDE, role
        else:
            assert bound[0]["metadata"]["namespace"] in ("team-a", "paramedic-system"), role
            assert not everywhere & CLUSTER_SCOPED, f"{role}: a RoleBinding gives no right on what has no namespace"


def test_the_sample_of_two_teams_gives_both_the_same(installed: Access) -> None:
    rendered = list(yaml.safe_load_all(installed.kubectl("kustomize", ROOT / "manifests" / "samples" / "namespaced")))
    bindings = [one for one in rendered if one["kind"] in ("ClusterRoleBinding", "RoleBinding")]
    assert {subject["namespace"] for one in bindings for subject in one["subjects"]} == {"paramedic-system"}
    given = {
        team: {one["roleRef"]["name"] for one in bindings if one["metadata"].get("namespace") == team}
        for team in ("team-a", "team-b")
    }
    assert given["team-a"] == given["team-b"] >= {"paramedic-actions-workloads"}
    assert not given["team-a"] & {one["roleRef"]["name"] for one in bindings if one["kind"] == "ClusterRoleBinding"}


def _roles_of(component: str) -> dict[str, list[dict[str, Any]]]:
    """The ClusterRoles of a component and their rules."""
    files = (ROOT / "manifests" / "components" / component).glob("*.yaml")
    found = [one for file in files for one in yaml.safe_load_all(file.read_text())]
    return {one["metadata"]["name"]: one["rules"] for one in found if one and one["kind"] == "ClusterRole"}


def _with_subresource(resource: str) -> list[str]:
    """pods/exec → pods --subresource=exec; to kubectl, a slash stands before a name."""
    plural, _, sub = resource.partition("/")
    return [plural, f"--subresource={sub}"] if sub else [plural]


def _rights(cluster: Access, kubeconfig: Path, namespace: str) -> str:
    """The resources' part of `kubectl auth can-i --list`, lines and verbs in a fixed order."""
    listed = cluster.kubectl("--kubeconfig", kubeconfig, "auth", "can-i", "--list", "-n", namespace)
    lines = [_in_order(line) for line in listed.splitlines()[1:] if line and not line.startswith(" ")]
    return f"# {OPERATOR}, kubectl auth can-i --list\n" + "".join(f"{line}\n" for line in sorted(lines))


def _in_order(line: str) -> str:
    """Where several roles give rights on one resource, the order of the verbs differs from run to run."""
    head, _, verbs = " ".join(line.split()).rpartition("[")
    return f"{head}[{' '.join(sorted(verbs.rstrip(']').split()))}]"
