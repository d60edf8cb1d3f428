"""Everything that `manifests/` and `crds/` hold is taken by a real API server, and explains itself."""

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from installed import DEFINITIONS, ROOT
from paramedic.actions import ACTIONS
from paramedic.core.expressions import compile_expression
from paramedic.core.facts import NAMES
from paramedic.policies import read_policy
from paramedic.settings import load_settings
from testbed.access import Access
from testbed.api import Api, ApiError, eventually

Json = dict[str, Any]
MANIFESTS = ROOT / "manifests"
COVET = MANIFESTS / "samples" / "covet"
KUSTOMIZATIONS = ["", "samples/covet", "samples/monitored", "namespace-rights"]


def _documents(text: str) -> list[Json]:
    return [one for one in yaml.safe_load_all(text) if one]


POLICIES = [
    one
    for file in sorted(COVET.glob("*.yaml"))
    for one in _documents(file.read_text())
    if one["kind"] == "RemediationPolicy"
]


@pytest.fixture(scope="module")
def covet(installed: Access) -> str:
    """The samples' namespace."""
    text = '{"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "covet"}}'
    installed.kubectl("apply", "-f", "-", input=text)
    return "covet"


@pytest.mark.parametrize("folder", KUSTOMIZATIONS)
def test_a_kustomization_is_taken(installed: Access, covet: str, folder: str) -> None:
    rendered = installed.kubectl("kustomize", MANIFESTS / folder)
    namespace = ("-n", covet) if folder == "namespace-rights" else ()
    installed.kubectl(
        "apply", "--dry-run=server", "--validate=strict", "--force-conflicts", "--server-side", *namespace, "-f", "-",
        input=rendered,
    )  # fmt: skip


def test_the_sample_incidents_are_taken(installed: Access, covet: str) -> None:
    told = installed.kubectl(
        "apply", "--dry-run=server", "--validate=strict", "-n", covet, "-f", COVET / "incidents.yaml"
    )
    assert told.count("created (server dry run)") == 6


@pytest.mark.parametrize("policy", POLICIES, ids=lambda one: one["metadata"]["name"])
def test_a_sample_policy_is_ready_for_use(policy: Json) -> None:
    raw = {**policy, "metadata": {"namespace": "covet", **policy["metadata"]}}
    assert read_policy(raw, "paramedic-system")[1] is None
    for step in policy["spec"]["steps"]:
        if "when" in step:
            compile_expression(step["when"], NAMES)


def test_the_samples_use_every_action_there_is() -> None:
    """Those that change workloads: what else comes with a component of its own."""
    used = {key for policy in POLICIES for step in policy["spec"]["steps"] for key in step} & set(ACTIONS)
    assert used >= {"restart", "scale", "rollback"}


def test_the_settings_in_the_config_map_can_be_read(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    config = _documents((MANIFESTS / "base" / "settings.yaml").read_text())[0]
    file = tmp_path / "paramedic.yaml"
    file.write_text(config["data"]["paramedic.yaml"])
    monkeypatch.setenv("PARAMEDIC_CONFIG", str(file))
    assert load_settings().log_level == "INFO"


def _deployment() -> Json:
    return next(
        one for one in _documents((MANIFESTS / "base" / "deployment.yaml").read_text()) if one["kind"] == "Deployment"
    )


async def test_the_pods_are_admitted_where_only_restricted_pods_are(admin: Api, installed: Access) -> None:
    template = _deployment()["spec"]["template"]
    pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "trial", **template["metadata"]}} | {
        "spec": template["spec"]
    }
    await admin.create(pod, "paramedic-system", dryRun="All")
    pod["spec"]["containers"][0]["securityContext"]["allowPrivilegeEscalation"] = True
    with pytest.raises(ApiError, match="restricted"):
        await admin.create(pod, "paramedic-system", dryRun="All")


def test_the_deployment_is_hardened_beyond_restricted() -> None:
    spec = _deployment()["spec"]["template"]["spec"]
    container = spec["containers"][0]
    assert container["securityContext"]["readOnlyRootFilesystem"] is True
    assert spec["securityContext"]["runAsUser"] == 65532
    assert container["resources"]["limits"]["memory"]
    assert {"livenessProbe", "readinessProbe"} <= set(container)
    assert not {"hostNetwork", "hostPID", "hostIPC"} & set(spec)
    assert not [v for v in spec["volumes"] if "hostPath" in v]


async def test_the_admission_policies_are_well_typed(admin: Api, installed: Access) -> None:
    async def checked() -> list[Json]:
        found = await admin.list("admissionregistration.k8s.io/v1/validatingadmissionpolicies")
        return found if all("typeChecking" in one.get("status", {}) for one in found) else []

    policies = await eventually(checked)
    assert len(policies) == 4
    for one in policies:
        assert one["spec"]["failurePolicy"] == "Fail"
        assert not one["status"]["typeChecking"].get("expressionWarnings"), one["metadata"]["name"]


def test_the_questions_of_the_authors_policy_are_numbered_without_a_gap() -> None:
    """CEL has no loop that stays within its budget, so that each question is written out."""
    policy = _documents((MANIFESTS / "base" / "admission-policy-author.yaml").read_text())[0]
    asked = [one["expression"] for one in policy["spec"]["validations"] if "variables.settled" in one["expression"]]
    assert len(asked) == 20
    for number, expression in enumerate(asked):
        assert f"size(variables.asked) <= {number} ||" in expression
        assert f"[variables.asked[{number}].split" in expression


def test_all_components_fit_together(installed: Access, tmp_path: Path) -> None:
    def path(folder: str) -> str:
        return os.path.relpath(MANIFESTS / folder, tmp_path)

    components = sorted(one.name for one in (MANIFESTS / "components").iterdir())
    kustomization = {
        "resources": [path("base")],
        "components": [path(f"components/{name}") for name in components],
        "images": [{"name": "paramedic", "newName": "registry.example/paramedic", "newTag": "1.2.3"}],
    }
    (tmp_path / "kustomization.yaml").write_text(yaml.safe_dump(kustomization))
    rendered = _documents(installed.kubectl("kustomize", tmp_path))
    assert {"ServiceMonitor", "PrometheusRule", "ValidatingAdmissionPolicy"} <= {one["kind"] for one in rendered}
    deployment = next(one for one in rendered if one["kind"] == "Deployment")
    image = deployment["spec"]["template"]["spec"]["containers"][0]["image"]
    assert image == "registry.example/paramedic:1.2.3"
    owned = [one for one in rendered if one["kind"] != "Namespace" and "namespace" in one["metadata"]]
    assert {one["metadata"]["namespace"] for one in owned} == {"paramedic-system"}


@pytest.mark.parametrize("name", DEFINITIONS)
async def test_every_field_is_explained(admin: Api, installed: Access, name: str) -> None:
    found = await admin.get("apiextensions.k8s.io/v1/customresourcedefinitions", name)
    schema = found["spec"]["versions"][0]["schema"]["openAPIV3Schema"]
    bare = [path for path, field in _fields(schema, "") if not field.get("description")]
    assert bare == []


def _fields(schema: Json, path: str) -> Iterator[tuple[str, Json]]:
    """Every property at every depth, but for what Kubernetes itself explains."""
    for key, field in (schema.get("properties") or {}).items():
        here = f"{path}.{key}"
        if here not in (".apiVersion", ".kind", ".metadata"):
            yield here, field
        yield from _fields(field, here)
    if "items" in schema:
        yield from _fields(schema["items"], f"{path}[]")


@pytest.mark.parametrize(
    ("field", "words"),
    [
        ("inc.spec.target", ["What is affected", "name", "-required-"]),
        ("inc.spec.sourceAddresses", ["CIDRs, IPv4 and IPv6", "cannot be changed after creation"]),
        ("inc.spec.approvals", ["approvedBy", "own Kubernetes user name"]),
        ("inc.status.steps", ["Every step"]),
        ("rpol.spec.steps.scale", ["HPA", "maxReplicas"]),
        ("rpol.spec.guards", ["cooldown", "rateLimit", "windows"]),
    ],
)
def test_kubectl_explain_helps(installed: Access, field: str, words: list[str]) -> None:
    told = " ".join(installed.kubectl("explain", field).split())
    assert not [word for word in words if word not in told], told


def test_the_dashboard_is_what_the_config_map_holds(installed: Access) -> None:
    rendered = _documents(installed.kubectl("kustomize", MANIFESTS / "samples" / "monitored"))
    maps = {one["metadata"]["name"]: one for one in rendered if one["kind"] == "ConfigMap"}
    dashboard = maps["paramedic-dashboard"]
    assert dashboard["metadata"]["labels"]["grafana_dashboard"] == "1"
    assert json.loads(dashboard["data"]["paramedic-dashboard.json"])["uid"] == "paramedic"
    assert yaml.safe_load(maps["paramedic-rules"]["data"]["paramedic.rules.yaml"])["groups"]
