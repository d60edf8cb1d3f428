"""The whole operator with a place for evidence: it is on the Incident's status before anything is changed."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlparse

import pytest

from e2e.world import World
from testbed.access import Access
from testbed.api import Api, eventually
from testbed.cluster import CONTAINER_LOG, Cluster
from testbed.operator_process import Operator

Json = dict[str, Any]
CONTAINMENT = [
    {"name": "keep", "captureEvidence": {"since": "3650d"}},
    {"name": "kick", "restart": {}},
]
SPEC: Json = {"strategy": "Sequence", "target": {"name": "app"}, "match": {"incidents": {"types": ["SecurityBreach"]}}}


@pytest.fixture(scope="module")
def operator(installed: Access, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Operator]:
    folder = tmp_path_factory.mktemp("operator")
    (folder / "evidence").mkdir()
    env = {"PARAMEDIC_EVIDENCE__DIRECTORY": str(folder / "evidence"), "PARAMEDIC_RESYNC_INTERVAL": "5s"}
    with Operator(installed, folder, env=env) as running:
        running.wait_leading()
        yield running


@pytest.fixture
def world(admin: Api, namespace: str, operator: Operator) -> World:
    return World(admin, namespace, operator)


def step(incident: Json, name: str) -> Json:
    found: Json = next(s for s in incident["status"]["steps"] if s["name"] == name)
    return found


def sizes(incident: Json) -> dict[str, int]:
    """The size of every item of the status, each there with the checksum that the status says."""
    for item in incident["status"]["evidence"]:
        path = Path(urlparse(item["uri"]).path)
        with path.open("rb") as file:
            assert hashlib.file_digest(file, "sha256").hexdigest() == item["sha256"]
        assert path.stat().st_size == item["sizeBytes"]
    return {item["name"]: item["sizeBytes"] for item in incident["status"]["evidence"]}


async def test_evidence_comes_before_what_destroys_it(world: World) -> None:
    await world.workload()
    pods = {pod["metadata"]["name"] for pod in await world.admin.list("v1/pods", world.namespace)}
    await world.policy(*CONTAINMENT, verify={"rollout": True, "timeout": "20s"}, **SPEC)
    await world.incident(type="SecurityBreach")
    incident = await eventually(lambda: _ended(world), 40, what="both steps have ended")
    kept = sizes(incident)
    assert {name.split("/")[1] for name in kept if name.startswith("logs/")} == pods
    assert step(incident, "keep")["state"] == "Succeeded"
    assert step(incident, "keep")["result"]["lacking"] == 0
    assert step(incident, "keep")["finishedAt"] <= step(incident, "kick")["startedAt"]
    assert await world.stamp() == step(incident, "kick")["operation"]


async def _ended(world: World) -> Json | None:
    incident = await world.the_incident()
    steps = (incident.get("status") or {}).get("steps") or []
    ended = steps and all(s["state"] in ("Succeeded", "Failed", "Unknown", "Skipped") for s in steps)
    return incident if ended else None


async def test_killed_in_the_middle_it_begins_again_and_what_is_kept_is_whole(
    world: World, own_cluster: Cluster
) -> None:
    log = own_cluster.folder / "kwok" / "container.log"
    log.write_text(("2026-01-01T00:00:00.000000000Z stdout F " + "x" * 8000 + "\n") * 20_000)
    try:
        await world.workload(replicas=3)
        await world.policy(CONTAINMENT[0], **SPEC)
        await world.incident(type="SecurityBreach")
        folder = world.operator.folder / "evidence" / world.namespace
        await eventually(lambda: list(folder.rglob("*.partial")), 20, interval=0.01, what="it is writing")
        world.operator.kill()
        assert [path for path in folder.rglob("*.log") if path.stat().st_size not in (0, 20_000 * 8032)] == []
        world.operator.start()
        incident = await eventually(lambda: _ended(world), 60, what="the step has ended")
    finally:
        log.write_text(CONTAINER_LOG)
    assert step(incident, "keep")["state"] == "Succeeded"
    assert step(incident, "keep")["attempts"] >= 2
    logs = {name: size for name, size in sizes(incident).items() if name.startswith("logs/")}
    assert len(logs) == 3
    assert set(logs.values()) == {20_000 * 8032}
    assert list(folder.rglob("*.partial")) == []
    assert world.operator.rss_bytes() < 250 * 1024 * 1024


async def test_what_costs_something_waits_for_consent_and_for_its_policy(world: World) -> None:
    """Logs are kept at once; packets, and what would destroy evidence, wait."""
    await world.workload()
    packets = {"name": "packets", "captureEvidence": {"networkCapture": {"image": "netshoot:1", "duration": "1s"}}}
    await world.policy(packets, *reversed(CONTAINMENT), mode="Approve", **SPEC)
    await world.incident(type="SecurityBreach")
    found = await world.reaches("AwaitingApproval")
    assert [s["state"] for s in found["status"]["steps"]] == ["Succeeded", "AwaitingApproval", "Pending"]
    assert sizes(found)
    assert "network packets (1s)" in step(found, "packets")["message"]
    await world.edit_policy({"paused": True})
    consent = {"step": "packets", "approvedBy": "admin", "operation": step(found, "packets")["operation"]}
    await world.edit("incident", {"approvals": [consent]})
    found = await world.reaches("Blocked")
    assert step(found, "packets")["reason"] == "PolicyPaused"
    assert not step(found, "packets").get("startedAt")
    pods = await world.admin.list("v1/pods", world.namespace)
    assert not [pod for pod in pods if "ephemeralContainers" in pod["spec"]]
