"""What the emergency procedures do beyond a patch: server-side apply, and evidence of what was there."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from builders import NOW, Json, workload
from paramedic.actions import ACTIONS
from paramedic.actions.base import Apply, Clients
from paramedic.api.workload import bound
from paramedic.clients.evidence import EvidenceStore
from paramedic.clients.evidence_directory import DirectoryBackend
from paramedic.clients.kube import Kube
from paramedic.core.operation import new_operation
from paramedic.core.saved_manifests import to_apply
from paramedic.errors import Conflict, NotFound, Terminal
from testbed.api import Api

DEPLOYMENTS = "apps/v1/deployments"


def write(namespace: str, seen: Json, image: str = "covet:2") -> Apply:
    meta = seen["metadata"]
    body = to_apply(workload(image=image), {}, {"uid": meta["uid"], "resourceVersion": meta["resourceVersion"]})
    return Apply(f"/apis/apps/v1/namespaces/{namespace}/deployments/covet-app", body)


async def image(admin: Api, namespace: str) -> str:
    found = await admin.get(DEPLOYMENTS, "covet-app", namespace)
    return str(found["spec"]["template"]["spec"]["containers"][0]["image"])


async def settled(admin: Api, namespace: str) -> Json:
    """A Deployment whose controller has nothing left to write."""
    await admin.create(workload(replicas=0), namespace)
    while True:
        found = await admin.get(DEPLOYMENTS, "covet-app", namespace)
        if found.get("status", {}).get("observedGeneration") == found["metadata"]["generation"]:
            return found


async def test_it_takes_over_what_others_have_set_and_leaves_the_rest(admin: Api, kube: Kube, namespace: str) -> None:
    seen = await settled(admin, namespace)
    await write(namespace, seen).write(kube)
    found = await admin.get(DEPLOYMENTS, "covet-app", namespace)
    assert found["spec"]["replicas"] == 0, "not in the manifest as applied"
    assert await image(admin, namespace) == "covet:2"


async def test_an_older_copy_or_a_namesake_is_a_conflict(admin: Api, kube: Kube, namespace: str) -> None:
    seen = await settled(admin, namespace)
    await admin.patch(DEPLOYMENTS, "covet-app", {"metadata": {"labels": {"touched": "yes"}}}, namespace)
    with pytest.raises(Conflict):
        await write(namespace, seen).write(kube)
    now = await admin.get(DEPLOYMENTS, "covet-app", namespace)
    now["metadata"]["uid"] = "00000000-0000-0000-0000-000000000000"
    with pytest.raises((Conflict, Terminal)):
        await write(namespace, now).write(kube)
    assert await image(admin, namespace) == "covet:1"


async def test_what_is_gone_is_not_made_anew(admin: Api, kube: Kube, namespace: str) -> None:
    seen = await settled(admin, namespace)
    await admin.delete(DEPLOYMENTS, "covet-app", namespace, {"propagationPolicy": "Background"})
    with pytest.raises((Conflict, NotFound, Terminal)):
        await write(namespace, seen).write(kube)
    assert await admin.find(DEPLOYMENTS, "covet-app", namespace) is None


async def test_a_shutdown_keeps_the_manifest_without_its_secrets(
    admin: Api, kube: Kube, namespace: str, tmp_path: Path
) -> None:
    manifest = workload(replicas=2)
    manifest["spec"]["template"]["spec"]["containers"][0]["env"] = [{"name": "DB_PASSWORD", "value": "hunter2"}]
    await admin.create(manifest, namespace)
    store, shutdown = EvidenceStore(DirectoryBackend(tmp_path)), ACTIONS["shutdown"]
    assert shutdown.part_params
    while True:
        seen = await shutdown.observe(bound("Deployment", namespace, "covet-app"), Clients(kube))
        change = shutdown.plan(seen, shutdown.part_params(), new_operation(NOW))
        try:
            report = await shutdown.apply(change, Clients(kube, store))
            break
        except Conflict:  # its controller has written its status in between
            continue
    store.close()
    assert report is not None
    assert "before-shutdown/Deployment-covet-app.json" in {item.name for item in report.evidence if item.sha256}
    kept = next(tmp_path.rglob("Deployment-covet-app.json")).read_text()
    assert json.loads(kept)["spec"]["replicas"] == 2
    assert "hunter2" not in kept
    assert (await admin.get(DEPLOYMENTS, "covet-app", namespace))["spec"]["replicas"] == 0


async def test_a_store_that_fails_holds_no_shutdown_up(admin: Api, kube: Kube, namespace: str, tmp_path: Path) -> None:
    await settled(admin, namespace)
    await admin.patch(DEPLOYMENTS, "covet-app", {"spec": {"replicas": 2}}, namespace)
    (tmp_path / "file").write_text("in the way")
    store, shutdown = EvidenceStore(DirectoryBackend(tmp_path / "file")), ACTIONS["shutdown"]
    assert shutdown.part_params
    while True:
        seen = await shutdown.observe(bound("Deployment", namespace, "covet-app"), Clients(kube))
        try:
            await shutdown.apply(shutdown.plan(seen, shutdown.part_params(), new_operation(NOW)), Clients(kube, store))
            break
        except Conflict:
            continue
    store.close()
    assert (await admin.get(DEPLOYMENTS, "covet-app", namespace))["spec"]["replicas"] == 0
