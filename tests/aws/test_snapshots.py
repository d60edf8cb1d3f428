"""Snapshots as evidence against moto's ec2; claims, volumes and pods are on a real API server."""

from __future__ import annotations

import json
import time
from dataclasses import replace
from pathlib import Path

import pytest

from aws.faults import DONE_BUT_500, LOSE_ANSWER, LOSE_REQUEST, THROTTLED, Fault, ec2_error, rewritten
from aws.world import REGION, Cloud, Json
from builders import NOW, workload
from paramedic.actions.base import Clients, Report
from paramedic.actions.capture_evidence import CaptureEvidence, CaptureEvidenceParams
from paramedic.api.incident import Evidence
from paramedic.api.workload import BoundTarget, bound
from paramedic.clients.evidence import EvidenceStore
from paramedic.clients.evidence_directory import DirectoryBackend
from paramedic.clients.kube import Kube
from paramedic.core.operation import new_operation
from paramedic.evidence import snapshots
from testbed.api import Api

ACTION = CaptureEvidence()
ONE_GIB = {"requests": {"storage": "1Gi"}}


class Stage:
    """A Deployment, and a store for what is kept."""

    def __init__(self, cloud: Cloud, admin: Api, kube: Kube, namespace: str, root: Path) -> None:
        self.cloud = cloud
        self.admin = admin
        self.namespace = namespace
        self.root = root
        store = EvidenceStore(DirectoryBackend(root))
        self.clients = Clients(kube, store, connections=cloud.connections(kube, namespace))

    def volume(self) -> str:
        zone = f"{REGION}a"
        return str(self.cloud.client("ec2").create_volume(AvailabilityZone=zone, Size=8)["VolumeId"])

    def snapshots(self) -> list[Json]:
        found: list[Json] = self.cloud.client("ec2").describe_snapshots(OwnerIds=["self"])["Snapshots"]
        return [one for one in found if one["Description"].startswith("Incident evidence")]

    async def capture(
        self,
        operation: str,
        seconds: float = 30.0,
        target: BoundTarget | None = None,
        attempt: int = 1,
        **wanted: object,
    ) -> Report:
        target = target or bound("Deployment", self.namespace, "covet-app")
        seen = await ACTION.observe(target, self.clients)
        chosen = {"include": ["events"], "snapshots": {"connection": "covet-account"} | wanted}
        params = CaptureEvidenceParams.model_validate(chosen)
        change = ACTION.plan(replace(seen, incident="breach"), params, operation)
        assert "snapshots of volumes" in change.message
        return await ACTION.apply(replace(change, seconds=seconds, attempt=attempt), self.clients)


@pytest.fixture
async def stage(
    cloud: Cloud, admin: Api, kube: Kube, namespace: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Stage:
    monkeypatch.setattr(snapshots, "_LOOK_AGAIN_SECONDS", 0.05)
    monkeypatch.setattr(snapshots, "_POLL_SECONDS", 0.2)
    await admin.create(workload("Deployment"), namespace)
    return Stage(cloud, admin, kube, namespace, tmp_path)


def about(report: Report, volume: str) -> Evidence:
    found = [item for item in report.evidence if item.name == f"snapshots/{volume}"]
    assert len(found) == 1, report.evidence
    return found[0]


async def test_a_named_volume_is_kept_and_tagged(stage: Stage) -> None:
    volume = stage.volume()
    report = await stage.capture(operation := new_operation(NOW), volumes=[volume])
    assert not report.failed
    (snapshot,) = stage.snapshots()
    assert snapshot["VolumeId"] == volume
    assert snapshot["Description"] == f"Incident evidence: {stage.namespace}/breach"
    assert {tag["Key"]: tag["Value"] for tag in snapshot["Tags"]} == {
        "paramedic.dev/operation": operation,
        "paramedic.dev/incident": f"{stage.namespace}/breach",
    }
    item = about(report, volume)
    assert (item.uri, item.sha256, item.note) == (f"ec2://{REGION}/{snapshot['SnapshotId']}", None, None)
    index = json.loads(next(stage.root.rglob("index.json")).read_text())
    assert item.uri in [one.get("uri") for one in index["items"]]


async def test_done_again_after_a_crash_it_finds_what_it_has_made(stage: Stage) -> None:
    volume, operation = stage.volume(), new_operation(NOW)
    first = await stage.capture(operation, volumes=[volume])
    second = await stage.capture(operation, volumes=[volume])
    assert about(first, volume).uri == about(second, volume).uri
    assert len(stage.snapshots()) == 1
    await stage.capture(new_operation(NOW), volumes=[volume])
    assert len(stage.snapshots()) == 2, "another operation has its own"


NOT_LISTED_YET = rewritten(r"<snapshotSet>.*</snapshotSet>|<snapshotSet/>", "<snapshotSet/>")


async def test_done_again_it_waits_for_a_list_that_lags_before_it_makes_another(stage: Stage) -> None:
    """EC2 lists a snapshot some seconds after it was made: whoever was killed in between must not make a second one."""
    volume, operation = stage.volume(), new_operation(NOW)
    first = await stage.capture(operation, volumes=[volume])
    stage.cloud.faults.forget()
    stage.cloud.faults.on("DescribeSnapshots", NOT_LISTED_YET, times=4)
    second = await stage.capture(operation, volumes=[volume], attempt=2)
    assert about(first, volume).uri == about(second, volume).uri
    assert len(stage.snapshots()) == 1
    assert stage.cloud.faults.count("CreateSnapshot") == 0


async def test_what_was_cut_off_by_the_time_says_what_to_look_for(stage: Stage) -> None:
    volume, operation = stage.volume(), new_operation(NOW)
    stage.cloud.faults.on("CreateSnapshot", Fault(after=lambda: time.sleep(3)))
    report = await stage.capture(operation, seconds=1.5, volumes=[volume])
    note = about(report, volume).note or ""
    assert f"a snapshot may have been begun: look for the tag paramedic.dev/operation={operation}" in note


@pytest.mark.parametrize(
    ("fault", "made"),
    [
        pytest.param(LOSE_ANSWER, 1, id="done, and the answer is lost"),
        pytest.param(DONE_BUT_500, 1, id="done, and answered 500"),
        pytest.param(THROTTLED, 1, id="throttled"),
        pytest.param(LOSE_REQUEST, 0, id="the request is lost"),
    ],
)
async def test_one_whose_answer_is_lost_is_looked_for_and_not_made_twice(stage: Stage, fault: Fault, made: int) -> None:
    volume = stage.volume()
    stage.cloud.faults.on("CreateSnapshot", fault)
    report = await stage.capture(new_operation(NOW), volumes=[volume])
    assert len(stage.snapshots()) == made
    item = about(report, volume)
    assert (item.uri is not None) is bool(made)
    if not made:
        assert item.note is not None
        assert "look for the tag paramedic.dev/operation=" in item.note


async def test_volumes_behind_the_claims_of_the_pods(stage: Stage) -> None:
    """Through the claim and its PersistentVolume, of the CSI driver or of the kind before it; others are named."""
    csi, legacy = stage.volume(), stage.volume()
    sources: dict[str, Json] = {
        "csi": {"csi": {"driver": "ebs.csi.aws.com", "volumeHandle": csi}},
        "legacy": {"awsElasticBlockStore": {"volumeID": f"aws://{REGION}a/{legacy}"}},
        "nfs": {"nfs": {"server": "files", "path": "/"}},
    }
    for name, source in sources.items():
        await claim(stage, name, source)
    await claim(stage, "unused", {"csi": {"driver": "ebs.csi.aws.com", "volumeHandle": stage.volume()}})
    volumes = [{"name": name, "persistentVolumeClaim": {"claimName": name}} for name in sources]
    pod = {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": "covet-app-0", "labels": {"app": "covet-app"}},
        "spec": {
            "containers": [{"name": "main", "image": "covet:1"}],
            "nodeSelector": {"nowhere": "yes"},
            "volumes": volumes,
        },
    }
    await stage.admin.create(pod, stage.namespace)
    report = await stage.capture(new_operation(NOW))
    assert sorted(one["VolumeId"] for one in stage.snapshots()) == sorted([csi, legacy])
    assert about(report, "nfs").note == "not captured: the claim nfs is not bound to a volume in EBS"
    report = await stage.capture(new_operation(NOW), claims=False)
    assert len(stage.snapshots()) == 2


async def test_the_claims_of_a_target_without_pods_count_too(stage: Stage) -> None:
    """What its template names, and what a StatefulSet's templates have made; not what only begins like that."""
    kept = {name: stage.volume() for name in ("shared", "data-db-0", "data-db-11", "db-7f-scratch")}
    beside = ["data-db-x", "data-db-extra-0", "data-other-0"]
    for name, volume in (kept | {name: stage.volume() for name in beside}).items():
        await claim(stage, name, {"csi": {"driver": "ebs.csi.aws.com", "volumeHandle": volume}})
    template = {"metadata": {"name": "data"}, "spec": {"accessModes": ["ReadWriteOnce"], "resources": ONE_GIB}}
    body = workload("StatefulSet", "db", replicas=0, volumeClaimTemplates=[template])
    pod = body["spec"]["template"]["spec"]
    pod["volumes"] = [{"name": "shared", "persistentVolumeClaim": {"claimName": "shared"}}]
    await stage.admin.create(body, stage.namespace)
    await stage.capture(new_operation(NOW), target=bound("StatefulSet", stage.namespace, "db"))
    expected = [volume for name, volume in kept.items() if name != "db-7f-scratch"]
    assert sorted(one["VolumeId"] for one in stage.snapshots()) == sorted(expected)

    made_for = {"volumeClaimTemplate": {"spec": {"accessModes": ["ReadWriteOnce"], "resources": ONE_GIB}}}
    running = {
        "containers": [{"name": "main", "image": "covet:1"}],
        "nodeSelector": {"nowhere": "yes"},
        "volumes": [{"name": "scratch", "ephemeral": made_for}],
    }
    named = {"name": "db-7f", "labels": {"app": "covet-app"}}
    await stage.admin.create({"apiVersion": "v1", "kind": "Pod", "metadata": named, "spec": running}, stage.namespace)
    report = await stage.capture(new_operation(NOW))
    assert about(report, kept["db-7f-scratch"]).uri, "of a generic ephemeral volume"
    assert len(stage.snapshots()) == 4


async def test_that_there_was_nothing_to_take_is_said(stage: Stage) -> None:
    report = await stage.capture(new_operation(NOW))
    notes = [item.note for item in report.evidence if item.name == "snapshots"]
    assert notes == ["not captured: the target and its pods use no PersistentVolumeClaim that is there"]
    assert stage.snapshots() == []


async def claim(stage: Stage, name: str, source: Json) -> None:
    """A claim that is bound to a volume of that kind."""
    common: Json = {"accessModes": ["ReadWriteOnce"], "storageClassName": ""}
    reference = {"name": name, "namespace": stage.namespace}
    spec = common | source | {"capacity": {"storage": "1Gi"}, "claimRef": reference}
    volume = f"{stage.namespace}-{name}"
    await stage.admin.create(
        {"apiVersion": "v1", "kind": "PersistentVolume", "metadata": {"name": volume}, "spec": spec}
    )
    wanted = common | {"volumeName": volume, "resources": {"requests": {"storage": "1Gi"}}}
    await stage.admin.create(
        {"apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": {"name": name}, "spec": wanted},
        stage.namespace,
    )


async def test_what_is_not_complete_in_time_says_so(stage: Stage) -> None:
    volume = stage.volume()
    pending = rewritten("<status>completed</status>", "<status>pending</status>")
    stage.cloud.faults.on("DescribeSnapshots", pending, times=1000)
    stage.cloud.faults.on("CreateSnapshot", pending)
    report = await stage.capture(new_operation(NOW), seconds=3.0, volumes=[volume])
    item = about(report, volume)
    assert item.uri is not None
    assert item.note is not None
    assert item.note.startswith("the snapshot is still pending at ")
    assert not report.failed


async def test_what_fails_is_said_and_the_rest_is_kept(stage: Stage) -> None:
    volume = stage.volume()
    report = await stage.capture(new_operation(NOW), volumes=["vol-0123456789abcdef0", volume])
    assert about(report, volume).uri
    note = about(report, "vol-0123456789abcdef0").note
    assert note is not None
    assert "InvalidVolume.NotFound" in note
    stage.cloud.faults.on("CreateSnapshot", ec2_error("UnauthorizedOperation", "You are not authorized", 403))
    denied = await stage.capture(new_operation(NOW), volumes=[volume])
    assert "lacks ec2:CreateSnapshot" in (about(denied, volume).note or "")
    unknown = await stage.capture(new_operation(NOW), connection="nobody", volumes=[volume])
    assert any("there is no connection nobody" in (item.note or "") for item in unknown.evidence)
    assert len(stage.snapshots()) == 1
