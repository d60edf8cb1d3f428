"""Actions on every kind, verification, undo, leases, approvals, modes and strategies."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from e2e.world import INCIDENTS, POLICIES, World, condition, hpa, reasons, step, story, workload
from testbed.api import ApiError, eventually

ADMISSION = "admissionregistration.k8s.io/v1"

ROLLBACK = {"name": "undo", "rollback": {}}
RESTART = {"name": "restart", "restart": {}}


@pytest.mark.parametrize("kind", ["Deployment", "StatefulSet", "DaemonSet"])
async def test_rollback_and_restart_of_each_kind(world: World, kind: str) -> None:
    await world.workload(kind=kind)
    await world.release("app:2", kind=kind)
    await world.rolled_out(kind=kind)
    await world.policy(ROLLBACK, RESTART, kind=kind, strategy="Sequence")
    await world.incident()
    found = await world.reaches("Resolved")
    assert [s["state"] for s in found["status"]["steps"]] == ["Succeeded", "Succeeded"], story(found)
    assert await world.image(kind=kind) == "app:1"
    assert await world.stamp(kind=kind) == step(found, 1)["operation"]
    template = (await world.get(kind=kind))["spec"]["template"]["metadata"]["annotations"]
    assert template["paramedic.dev/operation"] == step(found, 1)["operation"]


async def test_scale_absolute_relative_and_capped(world: World) -> None:
    await world.workload()
    steps = [
        {"name": "more", "scale": {"replicas": "+1"}},
        {"name": "half-again", "scale": {"replicas": "+50%"}},
        {"name": "capped", "scale": {"replicas": "+100%", "maxReplicas": 6}},
        {"name": "fewer", "scale": {"replicas": 1}},
    ]
    guards = {"rateLimit": {"actions": 10, "period": "1h"}}
    await world.policy(*steps, strategy="Sequence", guards=guards)
    await world.incident()
    found = await world.reaches("Resolved", timeout=40)
    assert [s["after"]["replicas"] for s in found["status"]["steps"]] == [3, 5, 6, 1]
    assert await world.replicas() == 1


async def test_scale_moves_the_bounds_of_the_hpa_and_puts_them_back(world: World) -> None:
    await world.workload()
    await world.admin.create(hpa("auto", "app", 2, 4), world.namespace)
    await world.policy({"name": "room", "scale": {"replicas": 6, "maxReplicas": 12}, "ttl": "2s"})
    await world.incident()
    await world.says("Applied")
    auto = await world.admin.get("autoscaling/v2/horizontalpodautoscalers", "auto", world.namespace)
    assert (auto["spec"]["minReplicas"], auto["spec"]["maxReplicas"]) == (6, 12)
    generated = (await world.get())["metadata"].get("annotations") or {}
    assert "paramedic.dev/operation" not in generated, "the HPA owns the replicas: the workload is left alone"
    found = await world.reaches("Resolved")
    auto = await world.admin.get("autoscaling/v2/horizontalpodautoscalers", "auto", world.namespace)
    assert (auto["spec"]["minReplicas"], auto["spec"]["maxReplicas"]) == (2, 4)
    assert step(found)["state"] == "Reverted"


async def test_until_recovered_goes_on_to_the_remedy_that_helps(world: World) -> None:
    await world.workload(image="app:1")
    await world.release("app:bad")
    restart = RESTART | {"onFailure": "Continue", "verify": {"rollout": True, "timeout": "2s"}}
    more = {"name": "more", "scale": {"replicas": 9}}
    await world.policy(restart, ROLLBACK, more)
    await world.incident()
    found = await world.reaches("Resolved")
    assert [s["state"] for s in found["status"]["steps"]] == ["Failed", "Succeeded", "Skipped"], story(found)
    assert step(found)["reason"] == "VerificationFailed"
    assert step(found, 2)["reason"] == "Recovered"
    assert await world.replicas() == 2


async def test_failed_step_is_undone_once_and_escalated(world: World) -> None:
    await world.admin.create(workload("app", image="app:bad"), world.namespace)
    await world.policy({"name": "more", "scale": {"replicas": 5}}, verify={"rollout": True, "timeout": "2s"})
    await world.incident()
    found = await world.reaches("Escalated")
    assert step(found)["state"] == "Reverted", story(found)
    assert step(found)["revert"]["state"] == "Succeeded"
    assert await world.replicas() == 2
    assert condition(found, "Escalated")["status"] == "True"
    assert condition(found, "Verified")["status"] == "False"


async def test_undo_keeps_its_hands_off_what_others_have_changed(world: World) -> None:
    await world.admin.create(workload("app", image="app:bad"), world.namespace)
    await world.policy({"name": "more", "scale": {"replicas": 5}}, verify={"rollout": True, "timeout": "3s"})
    await world.incident()
    await world.reaches("Verifying")
    await world.scale(7)
    found = await world.reaches("Escalated")
    assert step(found)["revert"]["state"] == "Failed"
    assert "hands off" in step(found)["revert"]["message"]
    assert await world.replicas() == 7


async def test_inconclusive_verification_is_neither_failure_nor_success(world: World) -> None:
    await world.workload()
    check = {"query": "no_such_metric", "condition": "value < 2"}
    verify = {"prometheus": check, "timeout": "2s"}
    await world.policy({"name": "more", "scale": {"replicas": 4}}, RESTART, verify=verify)
    await world.incident()
    found = await world.reaches("Escalated")
    assert (step(found)["state"], step(found)["reason"]) == ("Unknown", "VerificationInconclusive")
    assert condition(found, "Verified")["status"] == "Unknown"
    assert await world.replicas() == 4, "not undone"
    assert step(found, 1)["state"] == "Pending", "and nothing more is tried blindly"


async def test_a_stateful_sets_good_template_stays_though_its_bad_pod_does(world: World) -> None:
    await world.workload(kind="StatefulSet", podManagementPolicy="OrderedReady")
    await world.release("app:bad", kind="StatefulSet")
    await eventually(lambda: unready(world), what="its first pod is not ready")
    await world.policy(ROLLBACK, kind="StatefulSet", verify={"rollout": True, "alertResolved": True, "timeout": "3s"})
    await world.alert()
    found = await world.reaches("Escalated")
    assert (step(found)["state"], step(found)["reason"]) == ("Unknown", "VerificationInconclusive"), story(found)
    assert "1 of its pods not ready: Kubernetes does not replace" in step(found)["message"] + story(found)
    assert await world.image(kind="StatefulSet") == "app:1", "not undone"
    assert await bad_pod(world), "Kubernetes waits for it"
    await world.admin.delete("v1/pods", "app-1", world.namespace)
    await world.rolled_out(kind="StatefulSet")


async def unready(world: World) -> bool:
    status = (await world.get(kind="StatefulSet"))["status"]
    return await bad_pod(world) and status.get("readyReplicas") == 1 == status.get("updatedReplicas")


async def bad_pod(world: World) -> bool:
    pods = await world.admin.list("v1/pods", world.namespace)
    return any(pod["spec"]["containers"][0]["image"] == "app:bad" for pod in pods)


@pytest.mark.parametrize(
    ("on_failure", "phase", "second"), [("Continue", "Resolved", "Succeeded"), ("Stop", "Blocked", "Pending")]
)
async def test_on_failure(world: World, on_failure: str, phase: str, second: str) -> None:
    await world.workload()
    missing = {"name": "other", "restart": {}, "target": {"name": "not-there"}, "onFailure": on_failure}
    await world.policy(missing, RESTART)
    await world.incident(policyRef={"name": "policy"})
    found = await world.reaches(phase)
    assert step(found)["reason"] == "TargetNotFound"
    assert step(found, 1)["state"] == second


async def test_lease_is_put_back_after_a_restart_of_the_operator(world: World) -> None:
    await world.workload()
    await world.policy({"name": "more", "scale": {"replicas": 4}, "ttl": "5s"})
    await world.incident()
    found = await world.says("Verified")
    assert found["metadata"]["finalizers"] == ["paramedic.dev/put-back"]
    await asyncio.to_thread(world.operator.kill)
    await asyncio.to_thread(world.operator.restart)
    found = await world.reaches("Resolved")
    assert await world.replicas() == 2
    assert "finalizers" not in found["metadata"]
    assert reasons(found).count("PutBack") == 1


async def test_what_helped_is_not_undone_because_nobody_looked_in_time(world: World) -> None:
    await world.workload()
    checks = {"rollout": True, "for": "3s", "timeout": "4s"}
    await world.policy({"name": "more", "scale": {"replicas": 4}, "verify": checks})
    await world.incident()
    await world.reaches("Verifying")
    await asyncio.to_thread(world.operator.kill)
    await asyncio.sleep(8)  # past the deadline, and past a hold that began at it
    await asyncio.to_thread(world.operator.restart)
    found = await world.reaches("Resolved")
    assert step(found)["state"] == "Succeeded", story(found)
    assert await world.replicas() == 4


@pytest.mark.parametrize("later", ["AwaitingApproval", "Blocked", "Failed"])
async def test_a_lease_ends_in_time_whatever_a_later_step_waits_for(world: World, later: str) -> None:
    """Of a P3: nobody's clock wakes anything within these seconds."""
    await world.workload()
    more = {"name": "more", "scale": {"replicas": 4}, "ttl": "4s"}
    waits = {
        "AwaitingApproval": {"name": "next", "restart": {}, "approval": "Required"},
        "Blocked": {"name": "next", "restart": {}},
        "Failed": {"name": "next", "restart": {}, "target": {"name": "missing"}},
    }
    guards = {"cooldown": "0s", "rateLimit": {"actions": 1 if later == "Blocked" else 9, "period": "1h"}}
    await world.policy(more, waits[later], strategy="Sequence", guards=guards)
    await world.incident(severity="P3")
    await eventually(lambda: at_step(world, 1, later), what=f"the second step is {later}")
    assert await world.replicas() == 4
    found = await world.says("PutBack")
    assert await world.replicas() == 2
    assert (step(found)["state"], step(found)["reason"]) == ("Reverted", "LeaseEnded"), story(found)


async def at_step(world: World, index: int, state: str) -> bool:
    return bool(step(await world.the_incident(), index)["state"] == state)


async def test_deleting_an_incident_puts_its_mitigation_back_first(world: World) -> None:
    await world.workload()
    await world.policy({"name": "more", "scale": {"replicas": 4}, "ttl": "1h"})
    await world.incident()
    await world.says("Verified")
    assert await world.replicas() == 4
    await world.admin.delete(INCIDENTS, "incident", world.namespace)
    await _gone(world, "incident")
    assert await world.replicas() == 2


@asynccontextmanager
async def two_replicas_denied(world: World) -> AsyncIterator[None]:
    """The API server refuses to have the workload scaled to 2, as somebody's admission webhook may."""
    rules = [{"apiGroups": ["apps"], "apiVersions": ["*"], "resources": ["deployments"], "operations": ["UPDATE"]}]
    here = {"matchLabels": {"kubernetes.io/metadata.name": world.namespace}}
    spec = {
        "matchConstraints": {"resourceRules": rules, "namespaceSelector": here},
        "validations": [{"expression": "object.spec.replicas != 2", "message": "two are not enough"}],
    }
    bound = {"policyName": world.namespace, "validationActions": ["Deny"]}
    for kind, body in (("ValidatingAdmissionPolicy", spec), ("ValidatingAdmissionPolicyBinding", bound)):
        manifest = {"apiVersion": ADMISSION, "kind": kind, "metadata": {"name": world.namespace}, "spec": body}
        await world.admin.create(manifest)

    async def in_force() -> bool:
        two = {"spec": {"replicas": 2}}
        try:
            await world.admin.patch("apps/v1/deployments", "app", two, world.namespace, dryRun="All")
        except ApiError:
            return True
        return False

    await eventually(in_force, what="the policy is in force")
    try:
        yield
    finally:
        for plural in ("validatingadmissionpolicybindings", "validatingadmissionpolicies"):
            await world.admin.delete(f"{ADMISSION}/{plural}", world.namespace)


async def delete_what_cannot_be_put_back(world: World) -> None:
    """Deletes an incident that holds two more replicas, and sees that it stays and says so."""
    await world.admin.delete(INCIDENTS, "incident", world.namespace)
    found = await world.says("NotPutBack")
    told = (await world.events("NotPutBack"))[0]["note"]
    assert "step more could not be put back" in told
    assert "two are not enough" in told
    found = await world.stays("Escalated", 1)
    assert "to be deleted, but more could not be put back (tried again at " in found["status"]["message"]
    assert "name it in spec.resolution.keep" in found["status"]["message"]
    assert await world.replicas() == 4


async def test_deleting_an_incident_whose_mitigation_cannot_be_put_back_says_so_until_it_can(world: World) -> None:
    await world.workload()
    await world.policy({"name": "more", "scale": {"replicas": 4}, "ttl": "1h"})
    await world.incident()
    await world.says("Verified")
    async with two_replicas_denied(world):
        await delete_what_cannot_be_put_back(world)
    await _gone(world, "incident", timeout=40)
    assert await world.replicas() == 2
    assert await world.events("PutBack"), "also this, though the incident is gone with it"


async def test_deleting_an_incident_whose_mitigation_cannot_be_put_back_ends_by_a_person_s_word(world: World) -> None:
    await world.workload()
    await world.policy({"name": "more", "scale": {"replicas": 4}, "ttl": "1h"})
    await world.incident()
    await world.says("Verified")
    async with two_replicas_denied(world):
        await delete_what_cannot_be_put_back(world)
        await world.edit("incident", {"resolution": {"resolvedBy": "admin", "keep": ["more"]}})
        await _gone(world, "incident")
    assert await world.replicas() == 4
    assert await world.events("KeptByPerson")


async def test_of_two_leases_on_one_target_the_last_is_put_back_first(world: World) -> None:
    await world.workload()
    brief, long = {"name": "more", "ttl": "4s"}, {"name": "most", "ttl": "12s"}
    await world.policy(brief | {"scale": {"replicas": 4}}, name="brief")
    await world.policy(long | {"scale": {"replicas": 6}}, name="long", guards={"cooldown": "0s"})
    await world.incident("first", policyRef={"name": "brief"})
    await world.says("Verified", name="first")
    await world.incident("second", policyRef={"name": "long"})
    await world.says("Verified", name="second")

    async def waits() -> bool:
        found = await world.reaches("Remediating", name="first")
        told = f"more waits: what incident {world.namespace}/second has changed since is put back first"
        return told in found["status"]["message"]

    await eventually(waits, what="the first says whose change it waits for")
    assert await world.replicas() == 6
    await world.reaches("Resolved", name="second", timeout=40)
    await world.reaches("Resolved", name="first", timeout=40)
    assert await world.replicas() == 2


async def test_of_two_leased_steps_on_one_target_the_last_is_put_back_first(world: World) -> None:
    await world.workload()
    steps = [{"name": "more", "scale": {"replicas": 4}, "ttl": "3s"}, {"name": "most", "scale": {"replicas": 6}}]
    await world.policy(steps[0], steps[1] | {"ttl": "8s"}, strategy="Sequence", guards={"cooldown": "0s"})
    await world.incident()
    found = await world.reaches("Resolved", timeout=40)
    assert await world.replicas() == 2, story(found)
    assert [s["state"] for s in found["status"]["steps"]] == ["Reverted", "Reverted"]


async def test_revert_when_the_alert_has_ended(world: World) -> None:
    await world.workload()
    more = {"name": "more", "scale": {"replicas": 4}, "revertWhen": {"alertResolved": True}}
    await world.policy(more)
    await world.alert()
    await world.says("Verified")
    assert await world.replicas() == 4
    await world.alert(state="resolved")
    found = await world.reaches("Resolved")
    assert await world.replicas() == 2
    assert step(found)["reason"] == "LeaseEnded"


async def test_approval_is_awaited_and_bound_to_the_plan(world: World) -> None:
    await world.workload()
    await world.policy({"name": "more", "scale": {"replicas": "+2"}}, mode="Approve")
    await world.incident()
    found = await world.stays("AwaitingApproval", 1)
    assert "replicas 2 → 4" in step(found)["message"]
    assert await world.replicas() == 2
    await world.scale(3)
    await world.edit("incident", {"approvals": [{"step": "more", "approvedBy": "admin"}]})
    found = await world.says("PlanChanged")
    assert await world.replicas() == 3, "what was approved is not what would be done now"
    bound = {"step": "more", "approvedBy": "admin", "operation": step(found)["operation"]}
    await world.edit("incident", {"approvals": [{"step": "more", "approvedBy": "admin"}, bound]})
    found = await world.reaches("Resolved")
    assert await world.replicas() == 5
    assert step(found)["approvedBy"] == "admin"


async def test_approval_of_one_step_is_none_of_another(world: World) -> None:
    await world.workload()
    required = RESTART | {"approval": "Required"}
    await world.policy({"name": "more", "scale": {"replicas": 3}}, required, strategy="Sequence")
    await world.incident(approvals=[{"step": "more", "approvedBy": "admin"}])
    found = await world.stays("AwaitingApproval", 1)
    assert [s["state"] for s in found["status"]["steps"]] == ["Succeeded", "AwaitingApproval"]


async def test_observe_records_the_plan_and_does_nothing(world: World) -> None:
    await world.workload()
    await world.release("app:bad")
    before = await world.generation()
    await world.policy(ROLLBACK, {"name": "more", "scale": {"replicas": 4}}, mode="Observe")
    await world.alert()
    found = await world.says("ObserveMode")
    assert found["status"]["phase"] == "Open"
    assert "would: app: revision 2 → 1" in step(found)["message"]
    assert "would: app: replicas 2 → 4" in step(found, 1)["message"]
    assert await world.generation() == before
    await world.alert(state="resolved")
    await world.reaches("Resolved")


async def test_when_decides_on_the_alert_and_the_target(world: World) -> None:
    await world.workload()
    steps: list[dict[str, Any]] = [
        {"name": "not-this", "when": "alert.labels.team == 'b'", "scale": {"replicas": 9}},
        {"name": "old-release", "when": "target.lastRolloutAge > duration('1h')", "scale": {"replicas": 9}},
        {"name": "this", "when": "target.replicas == 2 && incident.severity == 'P0'", "scale": {"replicas": 3}},
    ]
    await world.policy(*steps, incident={"type": "APIOutage", "severity": "P0"})
    await world.alert(team="a")
    found = await world.reaches("Verifying", "Resolved")
    assert [s["state"] for s in found["status"]["steps"]][:2] == ["Skipped", "Skipped"]
    assert await world.replicas() == 3


async def test_when_that_cannot_be_evaluated_does_not_act(world: World) -> None:
    await world.workload()
    await world.policy(RESTART | {"when": "alert.labels.nothing == 'x'"})
    await world.alert()
    found = await world.reaches("Escalated")
    assert step(found)["reason"] == "ConditionError"
    assert "nothing" in step(found)["message"]


async def test_policy_edited_during_an_incident_does_not_change_it(world: World) -> None:
    await world.workload()
    await world.policy({"name": "more", "scale": {"replicas": 4}}, mode="Approve")
    await world.incident()
    await world.reaches("AwaitingApproval")
    await world.edit_policy({"steps": [{"name": "more", "scale": {"replicas": 9}}], "mode": "Auto"})
    await world.stays("AwaitingApproval", 1)
    await world.edit("incident", {"approvals": [{"step": "more", "approvedBy": "admin"}]})
    found = await world.reaches("Resolved")
    assert await world.replicas() == 4
    assert found["status"]["policy"]["generation"] == 1


async def test_policy_deleted_during_an_incident_ends_its_authority(world: World) -> None:
    await world.workload()
    await world.policy(mode="Approve")
    await world.incident()
    await world.reaches("AwaitingApproval")
    await world.admin.delete(POLICIES, "policy", world.namespace)
    found = await world.reaches("Escalated")
    assert found["status"]["escalation"]["reason"] == "PolicyGone"
    await world.edit("incident", {"approvals": [{"step": "restart", "approvedBy": "admin"}]})
    await world.stays("Escalated", 1)
    assert await world.generation() == 1


async def test_target_missing_and_target_recreated_under_its_name(world: World) -> None:
    await world.policy({"name": "more", "scale": {"replicas": 4}, "ttl": "3s"})
    await world.incident("missing")
    found = await world.reaches("Escalated", name="missing")
    assert step(found)["reason"] == "TargetNotFound"
    await world.workload()
    await world.incident("second")
    await world.says("Verified", name="second")
    await world.admin.delete("apps/v1/deployments", "app", world.namespace)
    await world.workload(replicas=4)
    found = await world.reaches("Resolved", name="second")
    assert await world.replicas() == 4, "the namesake is not the one that was scaled"
    assert "nothing to put back" in step(found)["revert"]["message"]


async def test_bounds_are_put_back_though_the_workload_was_made_anew(world: World) -> None:
    await leased_room(world)
    await world.admin.delete("apps/v1/deployments", "app", world.namespace)
    await world.workload(replicas=6)
    found = await world.reaches("Resolved")
    assert await bounds(world) == (2, 4)
    assert step(found)["revert"]["message"] == "app: maxReplicas 12 → 4, minReplicas 6 → 2"


async def test_bounds_that_outlive_the_workload_are_for_a_person(world: World) -> None:
    await leased_room(world)
    await world.admin.delete("apps/v1/deployments", "app", world.namespace)
    found = await world.reaches("Escalated")
    assert step(found)["revert"]["state"] == "Failed", story(found)
    held = "HorizontalPodAutoscaler/auto still has minReplicas 6, maxReplicas 12 (before: minReplicas 2, maxReplicas 4)"
    assert held in step(found)["revert"]["message"]
    assert found["status"]["escalation"]["reason"] == "NotPutBack"
    await world.stays("Escalated", 1)


async def leased_room(world: World) -> None:
    """An HPA's bounds are moved for a few seconds."""
    await world.workload()
    await world.admin.create(hpa("auto", "app", 2, 4), world.namespace)
    await world.policy({"name": "room", "scale": {"replicas": 6, "maxReplicas": 12}, "ttl": "4s", "verify": {}})
    await world.incident()
    await world.says("Applied")
    assert await bounds(world) == (6, 12)


async def bounds(world: World) -> tuple[int, int]:
    auto = await world.admin.get("autoscaling/v2/horizontalpodautoscalers", "auto", world.namespace)
    return auto["spec"]["minReplicas"], auto["spec"]["maxReplicas"]


async def test_incident_that_names_a_target_acts_on_no_other(world: World) -> None:
    for name in ("app", "other"):
        await world.workload(name)
    elsewhere = {"name": "elsewhere", "restart": {}, "target": {"name": "other"}}
    await world.policy(elsewhere)
    await world.incident(target={"name": "app"}, policyRef={"name": "policy"})
    found = await world.reaches("Escalated")
    assert step(found)["reason"] == "TargetNotNamed"
    assert await world.generation("other") == 1


async def test_namespace_that_is_being_deleted(world: World) -> None:
    await world.workload()
    await world.policy({"name": "more", "scale": {"replicas": 4}, "ttl": "1h"})
    await world.incident()
    await world.says("Verified")
    async with two_replicas_denied(world):  # nor is it held up by what cannot be put back
        await world.admin.delete("v1/namespaces", world.namespace)
        await _gone(world, "incident", timeout=60)


async def test_person_closes_the_incident(world: World) -> None:
    await world.workload()
    await world.policy(mode="Approve")
    await world.incident()
    await world.reaches("AwaitingApproval")
    await world.edit("incident", {"resolution": {"resolvedBy": "admin", "rootCause": "a bad cable"}})
    found = await world.reaches("Resolved")
    assert step(found)["state"] == "Skipped"
    assert "a bad cable" in found["status"]["message"]
    assert found["status"]["timeline"][-1]["actor"] == "admin"


async def test_acknowledgement_is_recorded_with_its_person(world: World) -> None:
    await world.workload()
    await world.policy(mode="Approve")
    await world.incident()
    await world.edit("incident", {"acknowledgedBy": "admin"})
    found = await world.says("Acknowledged")
    assert condition(found, "Acknowledged")["status"] == "True"


async def test_incident_without_a_policy_waits_for_one(world: World) -> None:
    await world.workload()
    await world.incident()
    found = await world.says("NoPolicy")
    assert found["status"]["phase"] == "Open"
    await world.policy()
    await world.reaches("Resolved")


async def test_policy_with_a_mistake_says_so_and_is_not_used(world: World) -> None:
    await world.policy(RESTART | {"when": "foo.bar"}, ready=False)
    found = await world.admin.get(POLICIES, "policy", world.namespace)
    message = found["status"]["conditions"][0]["message"]
    assert "steps.restart.when" in message
    assert "unknown foo" in message
    await world.incident()
    found = await world.says("NoPolicy")


async def test_policy_counts(world: World) -> None:
    await world.workload()
    await world.policy()
    await world.incident()
    await world.reaches("Resolved")
    await asyncio.to_thread(world.operator.restart)

    found = await world.admin.get(POLICIES, "policy", world.namespace)
    for _ in range(50):
        found = await world.admin.get(POLICIES, "policy", world.namespace)
        if found["status"].get("matched") == 1:
            break
        await asyncio.sleep(0.2)
    assert found["status"]["matched"] == 1
    assert found["status"]["actionsInPeriod"] == 1
    await world.admin.delete(INCIDENTS, "incident", world.namespace)
    await _gone(world, "incident")
    await asyncio.to_thread(world.operator.restart)
    last = found["status"]["lastMatchedAt"]
    await eventually(lambda: _counts(world, 0), timeout=20, what="only stored incidents are counted")
    found = await world.admin.get(POLICIES, "policy", world.namespace)
    assert found["status"]["lastMatchedAt"] == last


async def _counts(world: World, matched: int) -> bool:
    found = await world.admin.get(POLICIES, "policy", world.namespace)
    return bool(found["status"].get("matched") == matched)


async def _gone(world: World, name: str, timeout: float = 20) -> None:
    from testbed.api import eventually

    async def probe() -> bool:
        return await world.admin.find(INCIDENTS, name, world.namespace) is None

    await eventually(probe, timeout=timeout, what=f"{name} gone")


async def test_a_step_whose_plan_names_its_operation_can_be_approved(world: World) -> None:
    """A restart's plan holds the operation id, which must not look like another plan with each look."""
    await world.workload()
    await world.policy(RESTART, mode="Approve")
    await world.incident()
    await world.reaches("AwaitingApproval")
    await world.stays("AwaitingApproval", 1)
    await world.edit("incident", {"approvals": [{"step": "restart", "approvedBy": "admin"}]})
    found = await world.reaches("Resolved")
    assert step(found)["approvedBy"] == "admin"
    assert await world.stamp() == step(found)["operation"]


# -- what cannot be decided for now ------------------------------------------------------------------------------------


async def test_what_stands_in_the_way_is_told_and_holds_up_nobody(world: World) -> None:
    """A quota keeps the controller from recording the newest release, so that nobody can tell what to go back from."""
    await world.workload()
    quota = {"apiVersion": "v1", "kind": "ResourceQuota", "metadata": {"name": "q"}}
    await world.admin.create(quota | {"spec": {"hard": {"count/replicasets.apps": "1"}}}, world.namespace)
    await eventually(lambda: counted(world, "q"), what="the quota counts")
    body = {"spec": {"template": {"spec": {"containers": [{"name": "app", "image": "app:2"}]}}}}
    await world.admin.patch("apps/v1/deployments", "app", body, world.namespace, kind="strategic")
    await world.policy(ROLLBACK, incident={"groupBy": ["alertname"]})
    assert await world.alert() == 200
    found = await world.says("Hindered")
    assert "not in its history yet" in found["status"]["message"]
    assert await world.alert(pod="other") == 200, "the sender does not wait for what the incident waits for"
    await world.stays("Open")
    assert reasons(await world.the_incident()).count("Hindered") == 1
    await world.admin.delete("v1/resourcequotas", "q", world.namespace)
    await world.says("Applied", timeout=60)
    assert await world.image() == "app:1"


async def counted(world: World, name: str) -> bool:
    found = await world.admin.get("v1/resourcequotas", name, world.namespace)
    return (found.get("status") or {}).get("used") == {"count/replicasets.apps": "1"}
