"""From an alert to its end: one incident, one action, whatever is sent how often."""

import asyncio
from datetime import UTC, datetime, timedelta

from e2e.world import World, condition, reasons, step
from testbed.api import Api


async def test_alert_is_remediated_and_resolved(world: World) -> None:
    await world.workload(image="app:1")
    await world.policy(
        {"name": "undo", "rollback": {}}, verify={"rollout": True, "alertResolved": True, "timeout": "20s"}
    )
    await world.release("app:bad")
    assert await world.alert() == 200
    found = await world.reaches("Verifying")
    assert step(found)["message"] == "app: revision 2 → 1"
    await world.rolled_out()
    assert await world.image() == "app:1"
    assert await world.alert(state="resolved") == 200
    found = await world.reaches("Resolved")
    assert step(found)["state"] == "Succeeded"
    assert condition(found, "Ready")["status"] == "True"
    assert condition(found, "Verified")["status"] == "True"
    assert await world.stamp() == step(found)["operation"]
    assert reasons(found)[0] == "AlertReceived"
    assert len(await world.events("Applied")) == 1


async def test_hundred_resends_are_one_incident_and_one_action(world: World) -> None:
    await world.workload()
    await world.policy(verify={"alertResolved": True})
    assert set(await asyncio.gather(*(world.alert() for _ in range(100)))) == {200}
    found = await world.reaches("Verifying")
    generation = await world.generation()
    assert await world.alert() == 200
    await world.alert(state="resolved")
    found = await world.reaches("Resolved")
    assert found["status"]["alert"]["count"] == 102
    assert await world.generation() == generation == 2
    assert step(found)["attempts"] == 1


async def test_alert_that_ends_before_the_action_needs_none(world: World) -> None:
    await world.workload()
    await world.policy(mode="Approve")
    await world.alert()
    await world.reaches("AwaitingApproval")
    await world.alert(state="resolved")
    found = await world.reaches("Resolved")
    assert "ResolvedWithoutAction" in reasons(found)
    assert await world.generation() == 1


async def test_resolved_alert_without_an_incident_makes_none(world: World) -> None:
    await world.policy()
    assert await world.alert(state="resolved") == 200
    assert await world.alert(name="somebody-elses") == 200
    assert await world.all_incidents() == []


async def test_flapping_alert_is_held_by_the_cooldown(world: World) -> None:
    await world.workload()
    await world.policy(verify={"alertResolved": True})
    start = datetime.now(UTC) - timedelta(minutes=5)
    for number in range(3):
        at = (start + timedelta(minutes=number)).strftime("%Y-%m-%dT%H:%M:%SZ")
        await world.alert(starts_at=at)
        await world.reaches_all(number + 1, "Verifying", "Blocked", "Resolved")
        await world.alert(state="resolved", starts_at=at)
        await world.reaches_all(number + 1, "Resolved")
    assert await world.generation() == 2, "one restart for three firings within the cooldown"
    acted = [i for i in await world.all_incidents() if step(i).get("attempts") == 1]
    assert len(acted) == 1


async def test_resend_after_the_end_is_no_new_incident_but_a_new_firing_is(world: World) -> None:
    await world.workload()
    await world.policy(guards={"cooldown": "0s"}, verify={"alertResolved": True})
    await world.alert(starts_at="2026-01-01T00:00:00Z")
    await world.reaches("Verifying")
    await world.alert(state="resolved", starts_at="2026-01-01T00:00:00Z")
    await world.reaches("Resolved")
    await world.alert(starts_at="2026-01-01T00:00:00Z")
    assert len(await world.all_incidents()) == 1
    await world.alert(starts_at="2026-01-01T00:05:00Z")
    await world.reaches_all(2, "Verifying", "Resolved")
    assert await world.generation() == 3


async def test_group_is_one_incident_until_its_last_alert_ends(world: World) -> None:
    await world.workload()
    await world.policy(incident={"type": "APIOutage", "groupBy": ["alertname"]}, verify={"alertResolved": True})
    first, second = world.alert_body(pod="a"), world.alert_body(pod="b")
    assert await world.send(first, second) == 200
    found = await world.reaches("Verifying")
    assert len(found["status"]["alert"]["firing"]) == 2
    await world.alert(state="resolved", pod="a")
    await world.stays("Verifying", 1)
    await world.alert(state="resolved", pod="b")
    await world.reaches("Resolved")


async def test_an_alert_that_an_ended_group_has_never_heard_of_is_a_new_incident(world: World) -> None:
    """Its webhook was late: it began before, or together with, the alert whose incident is over."""
    await world.workload()
    await world.policy(incident={"groupBy": ["alertname"]}, guards={"cooldown": "0s"}, verify={"alertResolved": True})
    begun = "2026-01-01T00:05:00Z"
    await world.alert(pod="a", starts_at=begun)
    await world.reaches("Verifying")
    await world.alert(state="resolved", pod="a", starts_at=begun)
    await world.reaches("Resolved")
    await world.alert(pod="a", starts_at=begun)
    await world.the_incident()
    for count, at in enumerate((begun, "2026-01-01T00:00:00Z"), start=2):
        pod = f"late-{count}"
        assert await world.alert(pod=pod, starts_at=at) == 200
        await world.reaches_all(count, "Verifying", "Resolved")
        assert await world.alert(state="resolved", pod=pod, starts_at=at) == 200
        await world.reaches_all(count, "Resolved")
    assert await world.generation() == 4


async def test_of_two_matching_policies_the_higher_priority_acts(world: World) -> None:
    await world.workload()
    matching = {"alerts": [{"matchers": ['alertname="both"']}]}
    await world.policy({"name": "more", "scale": {"replicas": "+1"}}, name="low", match=matching, priority=1)
    await world.policy({"name": "restart", "restart": {}}, name="high", match=matching, priority=2)
    await world.alert("both")
    found = await world.reaches("Verifying", "Resolved")
    assert found["status"]["policy"]["name"] == "high"
    assert await world.replicas() == 2


async def test_alert_of_another_namespace_is_not_ours(world: World) -> None:
    await world.workload()
    await world.policy()
    assert await world.alert(namespace="somewhere-else") == 200
    assert await world.all_incidents() == []


async def test_target_named_by_a_label_and_grouping(world: World) -> None:
    for name in ("one", "two"):
        await world.workload(name)
    await world.policy(
        target={"nameFromLabel": "deployment"},
        incident={"groupBy": ["deployment"]},
        guards={"maxConcurrent": 5, "rateLimit": {"actions": 10, "period": "1h"}},
        verify={"alertResolved": True},
    )
    alerts = [world.alert_body(deployment=d, pod=str(p)) for d in ("one", "two") for p in range(5)]
    assert await world.send(*alerts) == 200
    await world.reaches_all(2, "Verifying")
    assert [await world.generation(n) for n in ("one", "two")] == [2, 2]


async def test_label_that_is_no_name_targets_nothing(world: World) -> None:
    await world.policy(target={"nameFromLabel": "deployment"})
    await world.alert(deployment="../../secrets/x; rm -rf /")
    found = await world.reaches("Escalated")
    assert step(found)["reason"] == "TargetUnknown"


async def test_alert_without_a_namespace_is_everybodys(world: World, admin: Api) -> None:
    other = World(admin, f"{world.namespace}-other", world.operator)
    await admin.create({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": other.namespace}})
    matching = {"alerts": [{"matchers": ['alertname="everywhere"']}]}
    for place, priority in ((world, 1), (other, 1_000_000)):
        await place.workload()
        await place.policy(match=matching, priority=priority)
    assert await world.alert("everywhere", namespace="") == 200
    for place in (world, other):
        await place.reaches("Verifying", "Resolved")
        assert await place.generation() == 2
    await admin.delete("v1/namespaces", other.namespace)


async def test_an_open_incident_hears_of_its_alert_though_its_policy_was_edited(world: World) -> None:
    await world.workload()
    await world.policy(verify={"alertResolved": True, "timeout": "60s"})
    await world.alert()
    await world.reaches("Verifying")
    await world.edit_policy({"match": {"alerts": [{"matchers": ['alertname="another"']}]}})
    await world.policy(name="newer", priority=5, match={"alerts": [{"matchers": ['alertname="policy"']}]})
    await world.alert()
    await world.the_incident()
    await world.alert(state="resolved")
    await world.reaches("Resolved")
    assert await world.generation() == 2
