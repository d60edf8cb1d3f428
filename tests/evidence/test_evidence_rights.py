"""What the components for evidence give, and to whom: rendered by kustomize, and asked of the API server."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from evidence.places import policy
from installed import ROOT
from paramedic.evidence.objects import KINDS
from testbed.access import Access
from testbed.api import Api, ApiError, eventually

Json = dict[str, Any]
COMPONENTS = ROOT / "manifests" / "components"
RBAC = "rbac.authorization.k8s.io/v1"


def rules_of(file: Path) -> list[Json]:
    return [
        rule for one in yaml.safe_load_all(file.read_text()) if one["kind"] == "ClusterRole" for rule in one["rules"]
    ]


def test_every_kind_that_is_read_may_be_listed_and_no_more_of_it() -> None:
    listed = {
        (group, resource)
        for rule in rules_of(COMPONENTS / "evidence" / "rbac.yaml")
        if "list" in rule["verbs"]
        for group in rule["apiGroups"]
        for resource in rule["resources"]
    }
    read = {(version.rpartition("/")[0], plural) for version, _, plural in KINDS}
    assert listed == read | {("", "events")}


def test_the_components_read_no_secret_and_write_only_ephemeral_containers() -> None:
    for name, writes in (("evidence", set()), ("evidence-network-capture", {"pods/ephemeralcontainers"})):
        for rule in rules_of(COMPONENTS / name / "rbac.yaml"):
            assert "secrets" not in rule["resources"]
            if set(rule["verbs"]) - {"get", "list"}:
                assert (set(rule["resources"]), rule["verbs"]) == (writes, ["patch"])


def test_the_volume_is_where_the_settings_say(cluster: Access, tmp_path: Path) -> None:
    folder = tmp_path / "overlay"
    folder.mkdir()
    up = "../" * (len(folder.resolve().parts) - 1) + str(ROOT / "manifests").lstrip("/")
    components = [f"{up}/components/{name}" for name in ("evidence", "evidence-volume", "evidence-network-capture")]
    overlay = {
        "apiVersion": "kustomize.config.k8s.io/v1beta1", "kind": "Kustomization", "resources": [f"{up}/base"],
        "components": components,
    }  # fmt: skip
    (folder / "kustomization.yaml").write_text(yaml.safe_dump(overlay))
    rendered = list(yaml.safe_load_all(cluster.kubectl("kustomize", folder)))
    pod = next(one for one in rendered if one["kind"] == "Deployment")["spec"]["template"]["spec"]
    container = pod["containers"][0]
    variables = {one["name"]: one.get("value") for one in container["env"]}
    mounts = {one["name"]: one for one in container["volumeMounts"]}
    claims = {
        one["name"]: one["persistentVolumeClaim"]["claimName"]
        for one in pod["volumes"]
        if "persistentVolumeClaim" in one
    }
    assert mounts["evidence"] == {"name": "evidence", "mountPath": variables["PARAMEDIC_EVIDENCE__DIRECTORY"]}
    claim = next(one for one in rendered if one["kind"] == "PersistentVolumeClaim")
    assert claims["evidence"] == claim["metadata"]["name"]
    assert claim["spec"]["accessModes"] == ["ReadWriteMany"], "there are two replicas"
    assert {"settings", "scratch"} <= mounts.keys(), "what was there stays"


async def test_who_captures_packets_must_be_allowed_to_start_such_containers(
    installed: Access, admin: Api, namespace: str
) -> None:
    installed.kubectl("apply", "-f", COMPONENTS / "evidence-network-capture" / "admission.yaml")
    await _grant(admin, namespace, "author", [("apps", "deployments", "patch")])
    await _bind(admin, namespace, "author", "ClusterRole", "paramedic-edit")
    token = installed.service_account_token(namespace, "default")
    packets = policy(networkCapture={"image": "netshoot:1"})
    async with admin.with_token(token) as author:

        async def refusal() -> str | None:
            try:
                await author.create(packets, namespace, dryRun="All")
            except ApiError as refused:
                return str(refused)
            return None

        said = await eventually(refusal, what="the admission policy is in force")
        assert f"may not patch pods/ephemeralcontainers in {namespace}" in said
        await author.create(policy(), namespace, dryRun="All")
        await _grant(admin, namespace, "starter", [("", "pods/ephemeralcontainers", "patch")])
        await eventually(lambda: author.create(packets, namespace, dryRun="All"), what="it is allowed")


async def _grant(admin: Api, namespace: str, name: str, rules: list[tuple[str, str, str]]) -> None:
    written = [{"apiGroups": [group], "resources": [resource], "verbs": [verb]} for group, resource, verb in rules]
    await admin.create({"apiVersion": RBAC, "kind": "Role", "metadata": {"name": name}, "rules": written}, namespace)
    await _bind(admin, namespace, name, "Role", name)


async def _bind(admin: Api, namespace: str, name: str, kind: str, role: str) -> None:
    binding = {
        "apiVersion": RBAC,
        "kind": "RoleBinding",
        "metadata": {"name": f"{name}-{role}"},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": kind, "name": role},
        "subjects": [{"kind": "ServiceAccount", "name": "default", "namespace": namespace}],
    }
    await admin.create(binding, namespace)
