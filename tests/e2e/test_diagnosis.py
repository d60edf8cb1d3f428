"""The diagnosis of an incident as people see it: on its status, and in what policies decide by it."""

from datetime import UTC, datetime, timedelta

from e2e.world import Json, World
from testbed.api import eventually

UNDO_A_FRESH_RELEASE = {
    "name": "undo",
    "rollback": {},
    "when": "findings.exists(f, f.reason == 'RecentRollout')",
    "onFailure": "Continue",
}
KICK = {"name": "kick", "restart": {}}


def just_now() -> str:
    return (datetime.now(UTC) - timedelta(seconds=1)).strftime("%Y-%m-%dT%H:%M:%SZ")


async def diagnosed(world: World) -> Json:
    """The incident, once it has been looked into."""

    async def probe() -> Json | None:
        found = await world.the_incident()
        return found if found["status"].get("diagnosedAt") else None

    return await eventually(probe, timeout=30, what="a diagnosis")


async def test_in_observe_mode_the_cause_is_found_and_nothing_is_done(world: World) -> None:
    await world.workload(replicas=3)
    await world.policy(KICK, mode="Observe")
    await world.release("app:bad")
    generation = await world.generation()
    assert await world.send(world.alert_body(starts_at=just_now())) == 200
    status = (await diagnosed(world))["status"]
    first = status["findings"][0]
    assert (first["reason"], first["object"]) == ("RecentRollout", "Deployment/app")
    assert any(f["reason"] == "PodsNotReady" for f in status["findings"])
    assert next(e["message"] for e in status["timeline"] if e["reason"] == "Diagnosed").startswith("found: ")
    assert await world.generation() == generation


async def test_a_step_that_asks_for_a_finding_waits_for_it(world: World) -> None:
    await world.workload()
    await world.policy(UNDO_A_FRESH_RELEASE, KICK)
    await world.release("app:bad")
    assert await world.send(world.alert_body(starts_at=just_now())) == 200
    await world.reaches("Verifying")
    assert await world.image() == "app:1"


async def test_without_the_finding_the_step_is_skipped(world: World) -> None:
    await world.workload()
    await world.policy(UNDO_A_FRESH_RELEASE | {"when": "findings.exists(f, f.reason == 'OOMKilled')"}, KICK)
    assert await world.send(world.alert_body(starts_at=just_now())) == 200
    incident = await world.reaches("Verifying")
    undo, kick = incident["status"]["steps"]
    assert (undo["state"], undo["reason"]) == ("Skipped", "ConditionFalse")
    assert kick["state"] in ("Verifying", "Succeeded")
    assert await world.image() == "app:1"


async def test_as_a_step_it_comes_in_its_turn_and_is_no_remedy(world: World) -> None:
    await world.workload()
    look = {"name": "look", "diagnose": {"healthURLs": ["http://health.example.invalid/health"]}}
    await world.policy(look, KICK | {"when": "steps['look'].result.findings >= 1"})
    assert await world.send(world.alert_body(starts_at=just_now())) == 200
    incident = await world.reaches("Verifying", timeout=30)
    steps = {s["name"]: s for s in incident["status"]["steps"]}
    assert steps["look"]["state"] == "Succeeded"
    assert any(f["reason"] == "HealthCheckFailed" for f in incident["status"]["findings"])
    assert await world.stamp() == steps["kick"]["operation"]


async def test_a_release_that_was_undone_at_once_is_still_told_as_the_cause(world: World) -> None:
    """The diagnosis gives way to the remedy, and then must not take the remedy for the cause."""
    await world.workload()
    await world.policy(UNDO_A_FRESH_RELEASE | {"when": "target.lastRolloutAge < duration('5m')"})
    await world.release("app:bad")
    await world.incident("api-down")
    status = (await diagnosed(world))["status"]
    assert status["steps"][0]["state"] in ("Verifying", "Succeeded")
    (rollout,) = [f for f in status["findings"] if f["reason"] == "RecentRollout"]
    assert "revision 2" in rollout["message"]
    assert "app:1 → app:bad" in rollout["message"]
