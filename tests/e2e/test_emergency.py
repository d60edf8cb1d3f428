"""The emergency procedures as the runbook has them: shut down, and back in stages."""

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from e2e.world import INCIDENTS, World, condition, hpa, policy, step, story, workload
from paramedic.core.saved_manifests import digest_of
from testbed.api import ApiError, eventually

Json = dict[str, Any]
SAMPLE = Path(__file__).resolve().parents[2] / "manifests" / "samples" / "covet" / "emergency.yaml"
SAVED = "paramedic.dev/before-shutdown"
EMERGENCY = {"app": "emergency-shutdown"}
OBJECTS: Json = {"services": ["covet-service"], "workloads": [{"name": "covet-app"}, {"name": "covet-worker"}]}
QUICK = {"rollout": True, "timeout": "8s"}


async def covet(world: World, app: int = 8, worker: int = 3, **spec: Any) -> None:
    """The runbook's service, up and running."""
    await world.admin.create(service(), world.namespace)
    for name, replicas in (("covet-app", app), ("covet-worker", worker)):
        await world.admin.create(workload(name, replicas=replicas, **spec), world.namespace)
    for name in ("covet-app", "covet-worker"):
        await world.rolled_out(name)


def service() -> Json:
    spec = {"selector": {"app": "covet-app"}, "ports": [{"name": "http", "port": 80}]}
    return {"apiVersion": "v1", "kind": "Service", "metadata": {"name": "covet-service"}, "spec": spec}


async def sample_policies(world: World, **recover: Any) -> None:
    """The policies of the sample, with checks as quick as a test needs them."""
    for one in yaml.safe_load_all(SAMPLE.read_text()):
        one["spec"]["verify"] = QUICK
        if "recover" in one["spec"]["steps"][0]:
            one["spec"]["steps"][0]["recover"] |= recover
        await world.admin.create(one, world.namespace)
        await eventually(lambda name=one["metadata"]["name"]: world._judged(name, True), what="the policy is judged")


async def opened(world: World, kind: str, name: str) -> Json:
    """An Incident without a target, which waits for consent."""
    await world.incident(name, type=kind, severity="P0")
    return await world.reaches("AwaitingApproval", name=name)


async def approve(world: World, name: str, what: str) -> None:
    await world.edit(name, {"approvals": [{"step": what, "approvedBy": "admin"}]})


async def shut_down(world: World) -> Json:
    await opened(world, "EmergencyShutdown", "shut-down")
    await approve(world, "shut-down", "shutdown")
    return await world.reaches("Resolved", name="shut-down", timeout=40)


async def selector(world: World) -> Json:
    found = await world.admin.get("v1/services", "covet-service", world.namespace)
    return dict(found["spec"]["selector"])


async def saved(world: World, name: str = "covet-app") -> Json | None:
    text = ((await world.get(name))["metadata"].get("annotations") or {}).get(SAVED)
    return json.loads(text) if text else None


@contextlib.asynccontextmanager
async def replicas_watched(world: World) -> AsyncIterator[dict[str, list[int]]]:
    """The replicas that were wanted of each Deployment, in order, each change once, as a watch sees them."""
    seen: dict[str, list[int]] = {}

    async def follow() -> None:
        async for event in world.admin.watch("apps/v1/deployments", world.namespace):
            name, wanted = event["object"]["metadata"]["name"], event["object"]["spec"]["replicas"]
            values = seen.setdefault(name, [])
            if values[-1:] != [wanted]:
                values.append(wanted)

    task = asyncio.create_task(follow())
    await eventually(lambda: len(seen) >= 2, what="the watch has begun")
    yield seen
    task.cancel()


async def test_shutdown_waits_for_consent_and_goes_on_where_the_operator_died(world: World) -> None:
    await covet(world)
    await world.admin.create(hpa("covet-hpa", "covet-app", 4, 10), world.namespace)
    await sample_policies(world)
    found = await opened(world, "EmergencyShutdown", "shut-down")
    shown = step(found)["message"]
    assert "selector app=covet-app → selector app=emergency-shutdown" in shown
    assert "then shutdown-deployment-covet-app, shutdown-deployment-covet-worker" in shown
    await world.stays("AwaitingApproval", 1, name="shut-down")
    assert (await selector(world), await world.replicas("covet-app")) == ({"app": "covet-app"}, 8)

    await approve(world, "shut-down", "shutdown")
    await eventually(lambda: swapped(world), interval=0.02, what="the first part is done")
    world.operator.kill()
    world.operator.start()
    found = await world.reaches("Resolved", name="shut-down", timeout=60)
    assert [s["state"] for s in found["status"]["steps"]] == ["Succeeded"] * 3, story(found)
    assert {s["approvedBy"] for s in found["status"]["steps"]} == {"admin"}
    assert await selector(world) == EMERGENCY
    assert [await world.replicas(name) for name in ("covet-app", "covet-worker")] == [0, 0]
    assert await saved(world) == {
        "replicas": 8,
        "hpa": {"name": "covet-hpa", "minReplicas": 4, "maxReplicas": 10},
    }
    auto = await world.admin.get("autoscaling/v2/horizontalpodautoscalers", "covet-hpa", world.namespace)
    assert (auto["spec"]["minReplicas"], auto["spec"]["maxReplicas"]) == (4, 10)


async def swapped(world: World) -> bool:
    return await selector(world) == EMERGENCY


async def test_a_second_shutdown_keeps_what_the_first_has_saved(world: World) -> None:
    await covet(world, app=2, worker=1)
    await world.scale(0, "covet-worker")
    await sample_policies(world)
    await shut_down(world)
    assert (await saved(world), await saved(world, "covet-worker")) == ({"replicas": 2}, {"replicas": 0})
    await world.incident("again", type="EmergencyShutdown")
    found = await world.reaches("Escalated", name="again")
    assert [(s["state"], s["reason"]) for s in found["status"]["steps"]] == [("Skipped", "AlreadyInPlace")] * 3
    assert await saved(world) == {"replicas": 2}


async def test_no_policy_brings_back_what_is_shut_down(world: World) -> None:
    await covet(world, app=2, worker=3)
    await sample_policies(world)
    await shut_down(world)
    more = {"name": "more-workers", "scale": {"replicas": "+5"}, "onFailure": "Continue"}
    target = {"apiVersion": "apps/v1", "kind": "Deployment", "name": "covet-worker"}
    await world.policy(more, {"name": "again", "restart": {}}, name="backlog", guards={"cooldown": "0s"}, target=target)
    await world.alert("backlog")
    found = await eventually(lambda: of_policy(world, "backlog"), what="the steps have ended")
    assert {(s["state"], s["reason"]) for s in found["status"]["steps"]} == {("Failed", "ShutDown")}, story(found)
    assert "(incident shut-down): recover it first" in step(found)["message"]
    assert await world.replicas("covet-worker") == 0


async def of_policy(world: World, name: str) -> Json | None:
    """The policy's incident, once people are called to it."""
    found = [i for i in await world.all_incidents() if i.get("status", {}).get("policy", {}).get("name") == name]
    return found[0] if found and found[0]["status"].get("phase") == "Escalated" else None


async def test_recovery_in_stages_with_a_database_check(world: World) -> None:
    await covet(world)
    await world.admin.create(hpa("covet-hpa", "covet-app", 4, 10), world.namespace)
    await sample_policies(world)
    await shut_down(world)
    async with replicas_watched(world) as seen:
        found = await opened(world, "EmergencyRecovery", "back")
        assert step(found, 0)["message"] == "the saved state is there"
        assert step(found, 1)["name"] == "recover-database"
        assert await world.admin.list("batch/v1/jobs", world.namespace) == []
        await approve(world, "back", "recover")
        await eventually(lambda: is_at(world, "covet-app", 2), interval=0.02, timeout=30, what="the second stage")
        world.operator.kill()
        world.operator.start()
        found = await world.reaches("Resolved", name="back", timeout=90)
    assert seen == {"covet-app": [0, 1, 2, 4, 8], "covet-worker": [0, 1, 2, 3]}, story(found)
    states = {s["name"].removeprefix("recover-"): s["state"] for s in found["status"]["steps"]}
    assert [name for name, state in states.items() if state == "Succeeded"] == [
        "database",
        "deployment-covet-app-to-1",
        "deployment-covet-worker-to-1",
        "service-covet-service",
        "deployment-covet-app-to-25pct",
        "deployment-covet-app-to-50pct",
        "deployment-covet-worker-to-50pct",
        "deployment-covet-app-to-100pct",
        "deployment-covet-worker-to-100pct",
    ]
    (job,) = await world.admin.list("batch/v1/jobs", world.namespace)
    assert job["spec"]["template"]["spec"]["containers"][0]["command"][-1] == "--database=default"
    assert step(found, 1)["result"]["succeeded"] is True
    assert await selector(world) == {"app": "covet-app"}
    assert (await saved(world), await saved(world, "covet-worker")) == (None, None)
    auto = await world.admin.get("autoscaling/v2/horizontalpodautoscalers", "covet-hpa", world.namespace)
    assert (auto["spec"]["minReplicas"], auto["spec"]["maxReplicas"]) == (4, 10)


async def is_at(world: World, name: str, replicas: int) -> bool:
    return await world.replicas(name) >= replicas


async def test_a_stage_that_does_not_get_well_is_taken_back_and_a_person_called(world: World) -> None:
    await covet(world)
    await sample_policies(world)
    await shut_down(world)
    await eventually(lambda: no_pods(world), timeout=30, what="the pods are gone")
    room = {"apiVersion": "v1", "kind": "ResourceQuota", "metadata": {"name": "room"}, "spec": {"hard": {"pods": "3"}}}
    await world.admin.create(room, world.namespace)
    await eventually(lambda: counted(world), what="the quota is in force")
    async with replicas_watched(world) as seen:
        await opened(world, "EmergencyRecovery", "back")
        await approve(world, "back", "recover")
        found = await world.reaches("Escalated", name="back", timeout=60)
    assert seen == {"covet-app": [0, 1, 2, 4, 2], "covet-worker": [0, 1]}, story(found)
    steps = {s["name"]: s for s in found["status"]["steps"]}
    failed = steps["recover-deployment-covet-app-to-50pct"]
    assert (failed["state"], failed["revert"]["state"]) == ("Reverted", "Succeeded")
    assert steps["recover-deployment-covet-app-to-100pct"]["state"] == "Pending", "the rest is left out"
    assert await selector(world) == {"app": "covet-app"}
    assert await saved(world) == {"replicas": 8, "stage": 2}, "so that recovery can be begun again"
    assert "recover-deployment-covet-app-to-50pct" in condition(found, "Escalated")["message"]

    await world.admin.delete("v1/resourcequotas", "room", world.namespace)
    await world.edit("back", {"resolution": {"resolvedBy": "admin", "rootCause": "no room"}})
    await opened(world, "EmergencyShutdown", "down-again")
    await approve(world, "down-again", "shutdown")
    await world.reaches("Resolved", name="down-again", timeout=40)
    assert [await saved(world, name) for name in ("covet-app", "covet-worker")] == [{"replicas": 8}, {"replicas": 3}]
    await opened(world, "EmergencyRecovery", "again")
    await approve(world, "again", "recover")
    found = await world.reaches("Resolved", name="again", timeout=60)
    assert [await world.replicas(name) for name in ("covet-app", "covet-worker")] == [8, 3], story(found)


async def no_pods(world: World) -> bool:
    return await world.admin.list("v1/pods", world.namespace) == []


async def counted(world: World) -> bool:
    found = await world.admin.get("v1/resourcequotas", "room", world.namespace)
    return "used" in found.get("status", {})


async def test_nothing_comes_back_when_the_database_check_fails(world: World) -> None:
    await covet(world, app=2, worker=1)
    bad = {"template": {"spec": {"containers": [{"name": "check", "image": "covet/app:bad", "command": ["check"]}]}}}
    await sample_policies(world, databaseCheck=bad)
    await shut_down(world)
    await opened(world, "EmergencyRecovery", "back")
    await approve(world, "back", "recover")
    found = await world.reaches("Escalated", name="back", timeout=40)
    assert "exit code 1" in step(found, 1)["message"], story(found)
    assert step(found, 1)["result"]["exitCode"] == 1
    assert [await world.replicas(name) for name in ("covet-app", "covet-worker")] == [0, 0]
    assert await selector(world) == EMERGENCY


async def test_recovery_with_nothing_saved_does_not_begin(world: World) -> None:
    await covet(world, app=2, worker=1)
    await sample_policies(world)
    await shut_down(world)
    forgotten = {"metadata": {"annotations": {SAVED: None}}}
    await world.admin.patch("apps/v1/deployments", "covet-worker", forgotten, world.namespace)
    await world.incident("back", type="EmergencyRecovery")
    found = await world.reaches("Escalated", name="back")
    assert step(found)["reason"] == "NothingSaved"
    assert "Deployment/covet-worker" in step(found)["message"]
    assert await world.replicas("covet-app") == 0


async def test_what_others_have_scaled_up_stays(world: World) -> None:
    await covet(world, app=4, worker=1)
    await sample_policies(world, databaseCheck=None)
    await shut_down(world)
    await world.scale(3, "covet-app")
    async with replicas_watched(world) as seen:
        await opened(world, "EmergencyRecovery", "back")
        await approve(world, "back", "recover")
        found = await world.reaches("Resolved", name="back", timeout=60)
    assert seen["covet-app"] == [3, 4], story(found)
    assert "others have scaled it to 3" in " ".join(s.get("message", "") for s in found["status"]["steps"])


async def test_a_leased_shutdown_comes_back_by_itself_the_last_first(world: World) -> None:
    await covet(world, app=2, worker=1)
    shutdown = {"name": "stop", "shutdown": OBJECTS, "approval": "Required", "ttl": "6s"}
    await world.policy(shutdown, guards={"cooldown": "0s"}, target=None, match={"incidents": {}})
    await world.incident(type="EmergencyShutdown", approvals=[{"step": "stop", "approvedBy": "admin"}])
    found = await world.reaches("Resolved", timeout=40)
    assert await selector(world) == {"app": "covet-app"}
    assert [await world.replicas(name) for name in ("covet-app", "covet-worker")] == [2, 1], story(found)
    assert await saved(world) is None
    ends = [s["revert"]["finishedAt"] for s in found["status"]["steps"]]
    assert ends == sorted(ends, reverse=True)


async def test_undo_keeps_its_hands_off_what_others_have_changed(world: World) -> None:
    await covet(world, app=2, worker=1)
    shutdown = {"name": "stop", "shutdown": OBJECTS, "approval": "Required", "ttl": "5s"}
    await world.policy(shutdown, guards={"cooldown": "0s"}, target=None, match={"incidents": {}})
    await world.incident(type="EmergencyShutdown", approvals=[{"step": "stop", "approvedBy": "admin"}])
    await eventually(lambda: is_down(world, "covet-worker"), timeout=30, what="all is down")
    await world.scale(5, "covet-app")
    found = await world.says("NotPutBack")
    assert "hands off" in step(found, 1)["revert"]["message"]
    assert await world.replicas("covet-app") == 5
    await eventually(lambda: is_at(world, "covet-worker", 1), what="the others are put back")


async def is_down(world: World, name: str) -> bool:
    return await world.replicas(name) == 0


async def test_observed_only(world: World) -> None:
    await covet(world, app=2, worker=1)
    both = [{"name": "stop", "shutdown": OBJECTS}, {"name": "back", "recover": OBJECTS}]
    await world.policy(*both, mode="Observe", target=None, match={"incidents": {}})
    await world.incident(type="EmergencyShutdown")
    await world.says("ObserveMode")
    found = await world.the_incident()
    told = [s["message"] for s in found["status"]["steps"]]
    assert told[0].startswith("would: covet-service: selector app=covet-app → selector app=emergency-shutdown"), told
    assert told[2].startswith("would: covet-worker: 1 replica → 0 replicas"), told
    assert await selector(world) == {"app": "covet-app"}
    assert await world.replicas("covet-app") == 2


async def test_missing_objects_and_named_targets_are_refused(world: World) -> None:
    await covet(world, app=1, worker=1)
    await sample_policies(world)
    await world.incident("named", type="EmergencyShutdown", target={"kind": "Deployment", "name": "covet-app"})
    found = await world.reaches("Escalated", name="named")
    assert step(found)["reason"] == "TargetNotNamed", story(found)
    await world.admin.delete("v1/services", "covet-service", world.namespace)
    await world.incident("missing", type="EmergencyShutdown")
    found = await world.reaches("Escalated", name="missing")
    assert step(found)["reason"] == "TargetNotFound"
    assert await world.replicas("covet-app") == 1, "nothing after it was touched"


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"mode": "Auto"}, "shutdown always waits for a person: write approval: Required on the step"),
        ({"approval": "NotRequired"}, "shutdown always waits for a person: write approval: Required on the step"),
        ({"workloads": [{"kind": "DaemonSet", "name": "covet-logs"}]}, 'supported values: "Deployment", "StatefulSet"'),
        ({"services": [], "workloads": []}, "name at least one object in services or workloads"),
    ],
)
async def test_a_policy_that_would_not_ask_is_refused(world: World, change: Json, words: str) -> None:
    spec: Json = {"target": None, "match": {"incidents": {}}, "mode": change.pop("mode", "Approve")}
    asked = {"approval": change.pop("approval")} if "approval" in change else {}
    with pytest.raises(ApiError) as refusal:
        await world.admin.create(
            policy("p", {"name": "stop", "shutdown": OBJECTS | change} | asked, **spec), world.namespace
        )
    assert words in str(refusal.value)


# -- from manifests ----------------------------------------------------------------------------------------------------


def backup(image: str = "app:1", namespace: str | None = None) -> Json:
    """The last good state, as a ConfigMap's data."""
    deployment = workload("covet-app", image=image, replicas=2)
    deployment["metadata"] |= {"labels": {"from": "backup"}} | ({"namespace": namespace} if namespace else {})
    return {"service.yaml": json.dumps(service()), "app.yaml": json.dumps(deployment)}


async def recovery_from(world: World, data: Json, digest: str | None = None) -> None:
    """A policy that recovers covet-app and its Service from these manifests."""
    await world.admin.create(
        {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "emergency-backup"}, "data": data},
        world.namespace,
    )
    source = {"configMap": "emergency-backup", "sha256": digest or digest_of(data)}
    objects = {"services": ["covet-service"], "workloads": [{"name": "covet-app"}]}
    recover = {"name": "recover", "recover": objects | {"from": source}}
    await world.policy(recover, mode="Approve", guards={"cooldown": "0s"}, target=None, match={"incidents": {}})


async def test_recovery_from_manifests(world: World) -> None:
    await world.admin.create(service() | {"spec": service()["spec"] | {"selector": {"app": "nobody"}}}, world.namespace)
    await world.workload("covet-app", image="app:broken-by-hand", replicas=0)
    await recovery_from(world, backup())
    async with replicas_watched_one(world) as seen:
        await world.incident("back", type="EmergencyRecovery", approvals=[{"step": "recover", "approvedBy": "admin"}])
        found = await world.reaches("Resolved", name="back", timeout=60)
    assert seen == [0, 1, 2], story(found)
    restored = await world.get("covet-app")
    assert await world.image("covet-app") == "app:1"
    assert restored["metadata"]["labels"] == {"from": "backup"}
    assert ("paramedic", "Apply") in {(m["manager"], m["operation"]) for m in restored["metadata"]["managedFields"]}
    assert await selector(world) == {"app": "covet-app"}


@contextlib.asynccontextmanager
async def replicas_watched_one(world: World) -> AsyncIterator[list[int]]:
    seen: list[int] = []

    async def follow() -> None:
        async for event in world.admin.watch("apps/v1/deployments", world.namespace):
            if seen[-1:] != [event["object"]["spec"]["replicas"]]:
                seen.append(event["object"]["spec"]["replicas"])

    task = asyncio.create_task(follow())
    await eventually(lambda: bool(seen), what="the watch has begun")
    yield seen
    task.cancel()


SECRET = {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "s"}, "spec": {}}


@pytest.mark.parametrize(
    ("data", "digest", "words"),
    [
        (backup(namespace="other"), None, "is of namespace other; only objects of test-"),
        (backup() | {"secret.yaml": json.dumps(SECRET)}, None, "v1 Secret is not restored, only v1 Service"),
        (backup() | {"b.yaml": json.dumps(workload("covet-db"))}, None, "does not name: Deployment/covet-db"),
        ({"service.yaml": json.dumps(service())}, None, "has no manifest of Deployment/covet-app"),
        (backup("app:2"), digest_of(backup()), "is not the one of the policy: its data has SHA-256"),
    ],
)
async def test_manifests_that_nobody_vouched_for_are_not_applied(
    world: World, data: Json, digest: str | None, words: str
) -> None:
    await world.admin.create(service(), world.namespace)
    await world.workload("covet-app", image="app:0", replicas=0)
    await recovery_from(world, data, digest)
    await world.incident("back", type="EmergencyRecovery", approvals=[{"step": "recover", "approvedBy": "admin"}])
    found = await world.reaches("Escalated", name="back")
    assert words in step(found)["message"], story(found)
    assert (await world.image("covet-app"), await world.replicas("covet-app")) == ("app:0", 0)


async def test_an_incident_of_another_namespace_finds_no_policy(world: World) -> None:
    await covet(world, app=1, worker=1)
    await sample_policies(world)
    other = f"{world.namespace}-other"
    await world.admin.create({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": other}})
    spec = {"title": "t", "type": "EmergencyShutdown", "approvals": [{"step": "shutdown", "approvedBy": "admin"}]}
    body = {"apiVersion": "paramedic.dev/v1alpha1", "kind": "Incident", "metadata": {"name": "x"}, "spec": spec}
    await world.admin.create(body, other)

    async def told() -> bool:
        found = await world.admin.get(INCIDENTS, "x", other)
        return any(c["reason"] == "NoPolicy" for c in (found.get("status") or {}).get("conditions") or [])

    await eventually(told, what="no policy answers")
    assert await world.replicas("covet-app") == 1
    await world.admin.delete("v1/namespaces", other)
