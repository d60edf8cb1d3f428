"""Every guard, refusing and allowing, as people see it."""

import asyncio
from datetime import UTC, datetime
from typing import Any

import pytest

from e2e.world import INCIDENTS, World, condition, step, workload

OPEN_ALL_DAY = {"schedule": "0 0 * * *", "duration": "24h"}
CLOSED_NOW = {"schedule": f"0 {(datetime.now(UTC).hour + 12) % 24} * * *", "duration": "1h"}


async def refused(world: World, reason: str, name: str | None = None) -> dict[str, Any]:
    """The incident is Blocked by that guard; condition, Event and timeline say so; nothing was done."""
    found = await world.reaches("Blocked", "Escalated", name=name)
    allowed = condition(found, "RemediationAllowed")
    assert (allowed["status"], allowed["reason"]) == ("False", reason), allowed
    assert step(found)["reason"] == reason
    assert step(found)["attempts"] == 0
    assert await world.events(reason)
    assert reason in [t["reason"] for t in found["status"]["timeline"]]
    return found


@pytest.mark.parametrize(
    ("windows", "reason"),
    [
        ({"deny": [OPEN_ALL_DAY]}, "DeniedByWindow"),
        ({"allow": [CLOSED_NOW]}, "OutsideWindow"),
        ({"allow": [OPEN_ALL_DAY]}, None),
        ({"deny": [CLOSED_NOW]}, None),
    ],
)
async def test_windows(world: World, windows: dict[str, Any], reason: str | None) -> None:
    await world.workload()
    await world.policy(guards={"windows": windows})
    await world.incident()
    if reason:
        await refused(world, reason)
        assert await world.generation() == 1
    else:
        await world.reaches("Resolved")


async def test_cooldown_holds_the_second_incident_and_then_lets_it_go(world: World) -> None:
    await world.workload()
    await world.policy(guards={"cooldown": "4s"})
    await world.incident("first")
    await world.reaches("Resolved", name="first")
    await world.incident("second")
    await refused(world, "Cooldown", "second")
    assert await world.generation() == 2
    await world.reaches("Resolved", name="second")
    assert await world.generation() == 3


async def test_cooldown_survives_the_deletion_of_the_incident(world: World) -> None:
    await world.workload()
    await world.policy()
    await world.incident("first")
    await world.reaches("Resolved", name="first")
    await world.admin.delete(INCIDENTS, "first", world.namespace)
    await world.incident("second")
    await refused(world, "Cooldown", "second")


async def test_rate_limit(world: World) -> None:
    for name in ("one", "two"):
        await world.workload(name)
    await world.policy(guards={"rateLimit": {"actions": 1, "period": "1h"}})
    await world.incident("first", target={"name": "one"}, policyRef={"name": "policy"})
    await world.reaches("Resolved", name="first")
    await world.incident("second", target={"name": "two"}, policyRef={"name": "policy"})
    await refused(world, "RateLimited", "second")
    assert await world.generation("two") == 1


async def test_max_concurrent_and_target_busy(world: World) -> None:
    for name in ("one", "two"):
        await world.workload(name)
    await world.policy({"name": "undo", "rollback": {}}, verify={"rollout": True, "timeout": "60s"})
    for name in ("one", "two"):
        await world.release("app:2", name)
        await world.rolled_out(name)
        await world.release("app:bad", name)
    await world.admin.patch("apps/v1/deployments", "one", {"spec": {"minReadySeconds": 4}}, world.namespace)
    await world.incident("first", target={"name": "one"}, policyRef={"name": "policy"})
    await world.reaches("Verifying", name="first")
    await world.incident("other", target={"name": "two"}, policyRef={"name": "policy"})
    await refused(world, "MaxConcurrent", "other")
    await world.policy(name="second-policy", match={"alerts": [{"matchers": ['alertname="x"']}]})
    await world.incident("same", target={"name": "one"}, policyRef={"name": "second-policy"})
    await refused(world, "TargetBusy", "same")
    await world.reaches("Resolved", name="first", timeout=30)
    await world.reaches("Resolved", name="other", timeout=30)


async def test_an_incident_that_cannot_be_read_is_told_of_and_its_target_is_busy(world: World) -> None:
    await world.workload()
    await world.policy()
    await world.policy(name="by-hand", mode="Approve")
    await world.incident("first", policyRef={"name": "by-hand"})
    at_work = step(await world.reaches("AwaitingApproval", name="first")) | {"state": "Executing"}
    unreadable = {"status": {"steps": [at_work | {"startedAt": "0000-01-01T00:00:00Z"}]}}
    await world.admin.patch(INCIDENTS, "first", unreadable, world.namespace, subresource="status")
    told = await world.events("Unreadable")
    assert [event["regarding"]["name"] for event in told] == ["first"]
    assert "status.steps.0.startedAt" in told[0]["note"]
    assert world.operator.metric("paramedic_incidents_unreadable") == 1
    await world.incident("second", policyRef={"name": "policy"})
    found = await refused(world, "TargetBusy", "second")
    assert f"{world.namespace}/first" in step(found)["message"]
    assert await world.generation() == 1
    await asyncio.to_thread(world.operator.restart)
    await world.stays("Blocked", name="second")
    assert len(await world.events("Unreadable")) == 1, "the next process tells the same"


async def test_min_healthy_refuses_in_a_storm_and_acts_after_it(world: World) -> None:
    await world.workload("app")
    for name in ("b", "c"):
        await world.admin.create(workload(name, image=f"{name}:bad"), world.namespace)
    await world.policy(guards={"minHealthy": "50%"})
    await world.incident()
    found = await refused(world, "MinHealthy")
    assert "1 of 3 workloads" in condition(found, "RemediationAllowed")["message"]
    await world.release("b:good", "b")
    await world.rolled_out("b")
    await world.edit("incident", {"acknowledgedBy": "admin"})
    await world.reaches("Resolved")


async def test_too_old_an_incident_is_left_to_people(world: World) -> None:
    await world.workload()
    await world.policy(guards={"maxAge": "1s"}, paused=True)
    await world.incident()
    await refused(world, "PolicyPaused")
    await world.says("IncidentOpened")
    await asyncio.sleep(2.2)  # creation times are whole seconds
    await world.edit_policy({"paused": False})
    found = await world.reaches("Escalated")
    assert step(found)["reason"] == "MaxAge"
    assert await world.generation() == 1


async def test_paused_policy_and_paused_incident(world: World) -> None:
    await world.workload()
    await world.policy(paused=True)
    await world.incident()
    await refused(world, "PolicyPaused")
    await world.edit("incident", {"paused": True})
    await world.edit_policy({"paused": False})
    found = await world.stays("Blocked", 1.5)
    assert condition(found, "RemediationAllowed")["reason"] == "Paused"
    await world.edit("incident", {"paused": False})
    await world.reaches("Resolved")


async def test_a_paused_policy_puts_nothing_back_until_it_goes_on(world: World) -> None:
    await world.workload()
    await world.policy({"name": "room", "scale": {"replicas": 3}, "ttl": "2s"})
    await world.incident()
    await world.says("Applied")
    await world.edit_policy({"paused": True})
    found = await world.says("PolicyPaused")
    assert "room is put back when it goes on" in found["status"]["message"]
    assert (condition(found, "RemediationAllowed")["reason"], step(found)["state"]) == ("PolicyPaused", "Succeeded")
    assert await world.replicas() == 3
    await world.edit_policy({"paused": False})
    await world.reaches("Resolved")
    assert await world.replicas() == 2


async def test_a_paused_policy_does_not_undo_what_did_not_help(world: World) -> None:
    await world.workload()
    never_ready = {"spec": {"minReadySeconds": 300}}
    await world.admin.patch("apps/v1/deployments", "app", never_ready, world.namespace)
    await world.policy({"name": "room", "scale": {"replicas": 3}, "verify": {"rollout": True, "timeout": "2s"}})
    await world.incident()
    await world.reaches("Verifying")
    await world.edit_policy({"paused": True})
    await world.stays("Verifying", 4)
    assert await world.replicas() == 3
    await world.edit_policy({"paused": False})
    found = await world.reaches("Escalated")
    assert step(found)["state"] == "Reverted"
    assert await world.replicas() == 2


async def test_who_waits_for_consent_in_the_middle_counts_as_an_open_remediation(world: World) -> None:
    for name in ("one", "two"):
        await world.workload(name)
    ask = {"name": "ask", "restart": {}, "approval": "Required"}
    await world.policy({"name": "room", "scale": {"replicas": 3}}, ask, strategy="Sequence")
    for name in ("one", "two"):
        await world.incident(name, target={"name": name}, policyRef={"name": "policy"})
        if name == "one":
            await world.reaches("AwaitingApproval", name="one")
    await refused(world, "MaxConcurrent", "two")
    assert await world.replicas("two") == 2
    await world.edit("one", {"approvals": [{"step": "ask", "approvedBy": "admin"}]})
    await world.reaches("Resolved", name="one")
    await world.reaches("AwaitingApproval", name="two", timeout=30)
    assert await world.replicas("two") == 3
