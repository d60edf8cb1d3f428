"""The runbook's service, broken as its sections describe, and the sample policies that bring it back.

The containment, flood, emergency and configuration sections are in test_blocking, test_rate_limit, test_emergency and
test_config; databases and queues in tests/databases, AWS in tests/aws.
"""

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import yaml

from e2e.world import Json, World
from testbed.api import eventually
from testbed.operator_process import ROOT

COVET: Path = ROOT / "manifests" / "samples" / "covet"
SOON = {"rollout": True, "timeout": "20s"}
"""Instead of the samples' half minute of calm and of queries to a Prometheus that knows no such service here."""


def documents(file: str) -> list[Json]:
    return [found for found in yaml.safe_load_all((COVET / file).read_text()) if found]


def sample(name: str) -> Json:
    (found,) = [one for one in documents("policies.yaml") if one["metadata"]["name"] == name]
    return found


@pytest.fixture
async def covet(world: World) -> World:
    """The runbook's objects, rolled out."""
    for manifest in documents("service.yaml"):
        await world.admin.create(manifest, world.namespace)
    for name in ("covet-app", "covet-worker"):
        await world.rolled_out(name)
    return world


async def under(world: World, name: str) -> None:
    """The sample policy in force, with checks that a test can wait for."""
    policy = sample(name)
    policy["spec"]["verify"] = SOON | {"alertResolved": policy["spec"]["verify"].get("alertResolved", False)}
    await world.admin.create(policy, world.namespace)
    await eventually(lambda: world._judged(name, True), what=f"{name} is Ready")


async def alert(world: World, name: str, state: str = "firing", **labels: str) -> str:
    """As Alertmanager sends it; the start is a moment ago, so that a release before it counts as fresh."""
    began = (datetime.now(UTC) - timedelta(seconds=1)).strftime("%Y-%m-%dT%H:%M:%SZ")
    assert await world.send(world.alert_body(name, state, began, **labels)) == 200
    return began


async def release(world: World, name: str, container: str, image: str) -> None:
    patch = {"spec": {"template": {"spec": {"containers": [{"name": container, "image": image}]}}}}
    await world.admin.patch("apps/v1/deployments", name, patch, world.namespace, kind="strategic")


async def test_1_api_outage_a_bad_release_is_undone(covet: World) -> None:
    await under(covet, "api-outage")
    await release(covet, "covet-app", "app", "covet/app:bad")
    began = await alert(covet, "CovetApiErrors", severity="critical")
    found = await covet.reaches("Verifying")
    assert await covet.image("covet-app") == "covet/app:1.0.0"
    await covet.rolled_out("covet-app")
    ended = covet.alert_body("CovetApiErrors", "resolved", began, severity="critical")
    assert await covet.send(ended) == 200
    found = await covet.reaches("Resolved")
    undo, *others = found["status"]["steps"]
    assert (undo["name"], undo["state"]) == ("undo-bad-deploy", "Succeeded")
    assert {step["state"] for step in others} == {"Skipped"}
    assert found["spec"]["severity"] == "P0"


async def test_1_api_outage_without_a_fresh_release_the_pods_are_restarted(covet: World) -> None:
    policy = sample("api-outage")
    policy["spec"]["steps"][0]["when"] = "target.lastRolloutAge < duration('1ms')"  # no release of the last half hour
    policy["spec"]["verify"] = SOON
    await covet.admin.create(policy, covet.namespace)
    await eventually(lambda: covet._judged("api-outage", True), what="api-outage is Ready")
    await alert(covet, "CovetApiErrors", severity="page")
    found = await covet.reaches("Verifying")
    undo, restart, _ = found["status"]["steps"]
    assert (undo["state"], undo["reason"]) == ("Skipped", "ConditionFalse")
    assert await covet.stamp("covet-app") == restart["operation"]


async def test_3_high_load_gets_room_until_the_load_is_gone(covet: World) -> None:
    await under(covet, "high-load")
    began = await alert(covet, "CovetHighLoad")
    await covet.reaches("Remediating", "Verifying")
    await eventually(lambda: _has(covet, "covet-app", 6), what="twice the replicas")
    assert await bounds(covet) == (6, 20)
    await covet.send(covet.alert_body("CovetHighLoad", "resolved", began))
    (held,) = (await covet.the_incident())["status"]["steps"]
    assert held["revertAt"], "it is leased, for two hours at the most"
    incident = (await covet.the_incident())["metadata"]["name"]
    await covet.admin.delete("paramedic.dev/v1alpha1/incidents", incident, covet.namespace)
    await eventually(lambda: _bounds_are(covet, (3, 10)), what="the autoscaler's bounds as before")


async def test_3_network_trouble_is_looked_into_and_left_to_people(covet: World) -> None:
    await under(covet, "network-degraded")
    await covet.incident("net", title="Calls time out", type="NetworkDegraded", severity="P1")
    found = await covet.reaches("Escalated", "Verifying", "Resolved", timeout=40)
    look, _ = found["status"]["steps"]
    assert (look["action"], look["state"]) == ("diagnose", "Succeeded")
    reasons = {finding["reason"] for finding in found["status"]["findings"]}
    assert "DependencyUnreachable" in reasons


async def test_3_a_queue_backlog_gets_workers(covet: World) -> None:
    await under(covet, "queue-backlog")
    await alert(covet, "CovetQueueBacklog")
    await eventually(lambda: _has(covet, "covet-worker", 7), what="five workers more")
    found = await covet.the_incident()
    kick, more = found["status"]["steps"]
    assert (kick["state"], kick["reason"]) == ("Skipped", "ConditionFalse"), "no worker hangs"
    assert more["before"] == {"replicas": 2}


async def bounds(world: World) -> tuple[int, int]:
    """Of the autoscaler that owns covet-app."""
    spec = (await world.admin.get("autoscaling/v2/horizontalpodautoscalers", "covet-hpa", world.namespace))["spec"]
    return spec["minReplicas"], spec["maxReplicas"]


async def _bounds_are(world: World, wanted: tuple[int, int]) -> bool:
    return await bounds(world) == wanted


async def _has(world: World, name: str, replicas: int) -> bool:
    return await world.replicas(name) == replicas
