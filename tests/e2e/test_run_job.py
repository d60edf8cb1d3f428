"""``runJob``: one Job for a step, whatever happens to the operator, and what is told of it."""

import asyncio
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from e2e.world import World, step, story
from testbed.api import eventually
from testbed.nodes import NODE_NAME

Json = dict[str, Any]
JOBS = "batch/v1/jobs"
CHECK = {"name": "check", "image": "covet/app:1", "command": ["python", "manage.py", "check", "--database=default"]}


def job(*containers: Json, **pod: Any) -> Json:
    return {"template": {"spec": {"containers": list(containers) or [CHECK]} | pod}}


def check(run: Json | None = None, **fields: Any) -> Json:
    return {"name": "db-check", "runJob": run or job(), "timeout": "30s", "verify": {}} | fields


async def the_job(world: World) -> Json:
    (found,) = await eventually(lambda: world.admin.list(JOBS, world.namespace), what="there is a Job")
    return dict(found)


async def test_its_result_decides_on_the_next_step(world: World) -> None:
    await world.workload()
    ok = "steps['db-check'].result.succeeded && steps['db-check'].result.exitCode == 0"
    more = {"name": "more", "scale": {"replicas": 3}}
    await world.policy(check(), more | {"when": ok}, more | {"name": "not", "when": f"!({ok})"}, strategy="Sequence")
    await world.incident()
    found = await world.reaches("Resolved")
    assert [s["state"] for s in found["status"]["steps"]] == ["Succeeded", "Succeeded", "Skipped"], story(found)
    assert await world.replicas() == 3
    made = await the_job(world)
    assert step(found)["result"]["job"] == made["metadata"]["name"]
    assert step(found)["message"].startswith(f"Job {made['metadata']['name']} succeeded in ")
    assert step(found)["result"]["log"], "the log's last lines"


async def test_the_job_is_bound_to_its_incident_and_has_no_rights_of_its_own(world: World) -> None:
    await world.workload()
    await world.policy(check())
    incident = await world.incident()
    found = await world.reaches("Resolved")
    made = await the_job(world)
    assert made["metadata"]["name"].startswith("db-check-")
    assert made["metadata"]["labels"]["app.kubernetes.io/managed-by"] == "paramedic"
    assert made["metadata"]["annotations"]["paramedic.dev/operation"] == step(found)["operation"]
    assert [o["uid"] for o in made["metadata"]["ownerReferences"]] == [incident["metadata"]["uid"]]
    spec, pod = made["spec"], made["spec"]["template"]["spec"]
    assert (spec["backoffLimit"], spec["ttlSecondsAfterFinished"], pod["restartPolicy"]) == (0, 86400, "Never")
    assert pod["automountServiceAccountToken"] is False
    assert pod["containers"][0]["securityContext"]["allowPrivilegeEscalation"] is False
    assert spec["activeDeadlineSeconds"] <= 31


@pytest.mark.parametrize(("on_failure", "phase"), [("Continue", "Resolved"), ("Escalate", "Escalated")])
async def test_one_that_fails_fails_the_step(world: World, on_failure: str, phase: str) -> None:
    await world.workload()
    bad = job(CHECK | {"image": "covet/app:bad"})
    await world.policy(check(bad, onFailure=on_failure), {"name": "restart", "restart": {}})
    await world.incident()
    found = await world.reaches(phase)
    assert (step(found)["state"], step(found)["reason"]) == ("Failed", "WorkFailed"), story(found)
    assert "exit code 1 (Error)" in step(found)["message"]
    assert step(found)["result"]["exitCode"] == 1
    assert step(found)["result"]["succeeded"] is False


async def test_one_that_hangs_is_deleted_and_says_why(world: World) -> None:
    await world.workload()
    await world.policy(check(job(nodeSelector={"room": "nowhere"}), timeout="4s"))
    await world.incident()
    found = await world.reaches("Escalated")
    assert "no node takes it" in step(found)["message"], story(found)
    assert "was not over within" in step(found)["message"]
    assert "it was deleted" in step(found)["message"]
    await eventually(lambda: gone(world), what="the Job is gone")


async def gone(world: World) -> bool:
    return await world.admin.list(JOBS, world.namespace) == []


async def test_an_operator_that_comes_back_finds_its_job(world: World) -> None:
    await world.workload()
    room = f"room-{world.namespace}"
    await world.policy(check(job(nodeSelector={room: "yes"})))
    await world.incident()
    made = await the_job(world)
    world.operator.kill()
    world.operator.start()
    await eventually(lambda: claimed_again(world), timeout=30, what="it is followed again")
    await world.admin.patch("v1/nodes", NODE_NAME, {"metadata": {"labels": {room: "yes"}}})
    found = await world.reaches("Resolved", timeout=40)
    assert (await the_job(world))["metadata"]["uid"] == made["metadata"]["uid"], story(found)
    await world.admin.patch("v1/nodes", NODE_NAME, {"metadata": {"labels": {room: None}}})


@pytest.mark.parametrize("succeeds", [True, False])
async def test_one_that_is_found_after_its_time_is_looked_at(world: World, succeeds: bool) -> None:
    await world.workload()
    room = f"room-{world.namespace}"
    await world.policy(check(job(nodeSelector={room: "yes"}) | {"activeDeadlineSeconds": 3600}, timeout="6s"))
    await world.incident()
    made = await the_job(world)
    await eventually(lambda: noted(world), what="the incident tells of its Job")
    world.operator.kill()
    if succeeds:
        await world.admin.patch("v1/nodes", NODE_NAME, {"metadata": {"labels": {room: "yes"}}})
        await eventually(lambda: succeeded(world), timeout=30, what="the Job has succeeded")
    ends = datetime.fromisoformat(step(await world.the_incident())["startedAt"]) + timedelta(seconds=7)
    await asyncio.sleep(max(0.0, (ends - datetime.now(UTC)).total_seconds()))
    world.operator.start()
    found = await world.reaches("Resolved" if succeeds else "Escalated", timeout=40)
    assert step(found)["state"] == ("Succeeded" if succeeds else "Failed"), story(found)
    assert f"Job {made['metadata']['name']} " in step(found)["message"]
    if succeeds:
        await world.admin.patch("v1/nodes", NODE_NAME, {"metadata": {"labels": {room: None}}})
    else:
        assert "it was deleted" in step(found)["message"]
        await eventually(lambda: gone(world), what="the Job is gone")


async def succeeded(world: World) -> bool:
    return bool((await the_job(world)).get("status", {}).get("succeeded"))


async def claimed_again(world: World) -> bool:
    return bool(step(await world.the_incident())["attempts"] == 2)


async def test_one_that_others_delete_is_not_made_again(world: World) -> None:
    await world.workload()
    await world.policy(check(job(nodeSelector={"room": "nowhere"})))
    await world.incident()
    made = await the_job(world)
    await world.admin.delete(JOBS, made["metadata"]["name"], world.namespace, {"propagationPolicy": "Background"})
    found = await world.reaches("Escalated")
    assert "was deleted by others while it ran" in step(found)["message"], story(found)
    assert step(found)["state"] == "Unknown", "what it has done is not known"
    assert await gone(world)


async def noted(world: World) -> bool:
    return bool((step(await world.the_incident()).get("after") or {}).get("uid"))


async def test_one_that_is_gone_when_the_operator_comes_back_is_not_made_again(world: World) -> None:
    await world.workload()
    await world.policy(check(job(nodeSelector={"room": "nowhere"}), timeout="5m"))
    await world.incident()
    made = await the_job(world)
    assert made["spec"]["ttlSecondsAfterFinished"] == 86400
    await eventually(lambda: noted(world), what="the incident tells of its Job")
    world.operator.kill()
    await world.admin.delete(JOBS, made["metadata"]["name"], world.namespace, {"propagationPolicy": "Background"})
    await eventually(lambda: gone(world), what="the Job is gone")
    world.operator.start()
    found = await world.reaches("Escalated", timeout=40)
    assert (step(found)["state"], step(found)["reason"]) == ("Unknown", "OutcomeUnknown"), story(found)
    assert "was deleted by others while it ran" in step(found)["message"]
    assert await gone(world)


async def test_a_short_lived_one_stays_for_as_long_as_it_may_be_looked_for(world: World) -> None:
    await world.workload()
    await world.policy(check(job() | {"ttlSecondsAfterFinished": 60}, timeout="1h"))
    await world.incident()
    await world.reaches("Resolved")
    assert (await the_job(world))["spec"]["ttlSecondsAfterFinished"] >= 3600


async def test_one_that_may_not_be_created_is_refused(world: World) -> None:
    await world.workload()
    spec = {"hard": {"count/jobs.batch": "0"}}
    quota = {"apiVersion": "v1", "kind": "ResourceQuota", "metadata": {"name": "none"}, "spec": spec}
    await world.admin.create(quota, world.namespace)
    await eventually(lambda: counted(world), what="the quota is in force")
    await world.policy(check())
    await world.incident()
    found = await world.reaches("Escalated")
    assert step(found)["reason"] == "Forbidden", story(found)
    assert "exceeded quota" in step(found)["message"]


async def counted(world: World) -> bool:
    found = await world.admin.get("v1/resourcequotas", "none", world.namespace)
    return "used" in found.get("status", {})


async def test_a_shown_job_can_be_approved(world: World) -> None:
    await world.workload()
    await world.policy(check(approval="Required"))
    await world.incident()
    found = await world.reaches("AwaitingApproval")
    assert "python manage.py check --database=default" in step(found)["message"]
    assert await gone(world)
    await world.edit("incident", {"approvals": [{"step": "db-check", "approvedBy": "admin"}]})
    found = await world.reaches("Resolved")
    assert step(found)["result"]["succeeded"] is True


async def test_an_incident_that_names_a_target_gets_no_job(world: World) -> None:
    await world.workload()
    await world.policy(check())
    await world.incident(target={"kind": "Deployment", "name": "app"})
    found = await world.reaches("Escalated")
    assert step(found)["reason"] == "TargetNotNamed"
    assert await gone(world)


async def test_a_secret_in_a_policy_makes_it_invalid(world: World) -> None:
    leaked = CHECK | {"env": [{"name": "DB_PASSWORD", "value": "hunter2"}]}
    await world.policy(check(job(leaked)), ready=False)
    found = await world.admin.get("paramedic.dev/v1alpha1/remediationpolicies", "policy", world.namespace)
    message = found["status"]["conditions"][0]["message"]
    assert "DB_PASSWORD looks like a secret" in message
    assert "hunter2" not in str(found["status"])
