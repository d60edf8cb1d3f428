"""Changes of configuration, as the runbook's "Configuration Fixes" and "Database Failover" make them."""

import asyncio
import base64
import json
from typing import Any

import pytest
import yaml

from e2e.world import INCIDENTS, World, reasons, step, story, workload
from installed import ROOT
from testbed.api import eventually

Json = dict[str, Any]
COVET = ROOT / "manifests" / "samples" / "covet"
CONFIG = {"kind": "ConfigMap", "name": "config"}
SECRET = {"kind": "Secret", "name": "credentials"}
OLD, NEW = "0ld-pa55word", "n3w-pa55word"
FROM_STANDBY = {"valueFrom": [{"key": "DB_PASSWORD", "secretName": "standby", "secretKey": "password"}]}
RBAC = "rbac.authorization.k8s.io/v1"
OPERATION = "paramedic.dev/operation"


def using(name: str, kind: str = "Deployment", **pod: Any) -> Json:
    manifest = workload(name, kind)
    manifest["spec"]["template"]["spec"] |= {k: v for k, v in pod.items() if k != "container"}
    manifest["spec"]["template"]["spec"]["containers"][0] |= pod.get("container", {})
    return manifest


async def config(world: World, **more: Any) -> None:
    """A ConfigMap, two workloads that use it, in two ways, and one that does not."""
    body = {"data": {"DB_HOST": "old-writer", "OTHER": "1"}} | more
    manifest = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "config"}} | body
    await world.admin.create(manifest, world.namespace)
    by_env = {"envFrom": [{"configMapRef": {"name": "config"}}]}
    by_volume = [{"name": "c", "projected": {"sources": [{"configMap": {"name": "config"}}]}}]
    await world.admin.create(using("app", container=by_env), world.namespace)
    await world.admin.create(using("search", "StatefulSet", volumes=by_volume), world.namespace)
    await world.admin.create(workload("bystander"), world.namespace)
    for name, kind in (("app", "Deployment"), ("search", "StatefulSet"), ("bystander", "Deployment")):
        await world.rolled_out(name, kind)


async def secrets(world: World, *, verbs: tuple[str, ...] = ("get", "patch"), source: bool = True) -> None:
    """A Secret with its user, one to copy from, one that keeps; and rights on the first by these verbs."""
    held = {
        "credentials": {"DB_PASSWORD": OLD, "USER": "covet"},
        "standby": {"password": NEW},
        "credentials-before": {},
    }
    for name, values in held.items():
        body = {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": name}, "stringData": values}
        await world.admin.create(body, world.namespace, fieldManager="kubectl")
    rules = [_rule(["credentials", "credentials-before"], verbs)] if verbs else []
    rules += [_rule(["standby"], ("get",))] if source else []
    subject = {"kind": "ServiceAccount", "name": "paramedic", "namespace": "paramedic-system"}
    ref = {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": "by-name"}
    meta = {"metadata": {"name": "by-name"}}
    await world.admin.create({"apiVersion": RBAC, "kind": "Role", "rules": rules} | meta, world.namespace)
    binding = {"apiVersion": RBAC, "kind": "RoleBinding", "roleRef": ref, "subjects": [subject]} | meta
    await world.admin.create(binding, world.namespace)
    by_env = {"env": [{"name": "P", "valueFrom": {"secretKeyRef": {"name": "credentials", "key": "DB_PASSWORD"}}}]}
    await world.admin.create(using("app", container=by_env), world.namespace)
    await world.rolled_out()


def _rule(names: list[str], verbs: tuple[str, ...]) -> Json:
    return {"apiGroups": [""], "resources": ["secrets"], "resourceNames": names, "verbs": list(verbs)}


async def values(world: World, name: str = "config", kind: str = "configmaps") -> Json:
    return (await world.admin.get(f"v1/{kind}", name, world.namespace)).get("data") or {}


async def restarts(world: World, name: str = "app", kind: str = "Deployment") -> str:
    """The stamp of the last restart."""
    template = (await world.get(name, kind))["spec"]["template"]["metadata"]
    return str((template.get("annotations") or {}).get(OPERATION, ""))


async def nothing_leaks(world: World, *texts: str) -> None:
    """No value stands in an Incident, an Event, a policy's status or the operator's log."""
    told = [*await world.all_incidents(), *await world.admin.list("events.k8s.io/v1/events", world.namespace)]
    told += await world.admin.list("paramedic.dev/v1alpha1/remediationpolicies", world.namespace)
    kept = json.dumps(told) + await asyncio.to_thread(world.operator.log.read_text)
    assert not [text for text in texts if text in kept]


def encoded(text: str) -> str:
    return base64.b64encode(text.encode()).decode()


async def test_a_config_map_is_changed_its_users_restarted_and_all_put_back(world: World) -> None:
    await config(world)
    values_wanted = {"DB_HOST": "new-writer", "ADDED": "yes"}
    await world.policy({"name": "fix", "target": CONFIG, "patchConfig": {"data": values_wanted}, "ttl": "6s"})
    await world.alert()
    found = await world.says("Verified")
    assert await values(world) == {"DB_HOST": "new-writer", "ADDED": "yes", "OTHER": "1"}
    operation = step(found)["operation"]
    assert [await restarts(world), await restarts(world, "search", "StatefulSet")] == [operation, operation]
    assert await restarts(world, "bystander") == ""
    assert step(found)["message"] == (
        "config: ADDED (not there) → yes, DB_HOST old-writer → new-writer; "
        "then restarted: Deployment/app, StatefulSet/search"
    )
    patch = {"data": {"OTHER": "theirs"}}
    await world.admin.patch("v1/configmaps", "config", patch, world.namespace)
    found = await world.reaches("Escalated", "Resolved")
    assert step(found)["state"] == "Reverted", story(found)
    assert await values(world) == {"DB_HOST": "old-writer", "OTHER": "theirs"}
    assert await restarts(world) == "", "the template is as it was"
    assert await restarts(world, "search", "StatefulSet") == ""


async def test_hands_off_a_key_that_others_have_changed_since(world: World) -> None:
    await config(world)
    params = {"data": {"DB_HOST": "new-writer", "ADDED": "yes"}, "restart": "None"}
    await world.policy({"name": "fix", "target": CONFIG, "patchConfig": params, "ttl": "3s"})
    await world.alert()
    await world.says("Verified")
    await world.admin.patch("v1/configmaps", "config", {"data": {"DB_HOST": "theirs"}}, world.namespace)
    found = await world.reaches("Escalated")
    assert step(found)["revert"]["message"] == "ConfigMap/config was changed by others since (DB_HOST): hands off"
    assert await values(world) == {"DB_HOST": "theirs", "ADDED": "yes", "OTHER": "1"}
    assert await restarts(world) == ""


async def test_what_has_no_room_on_the_status_any_more_is_refused(world: World) -> None:
    await config(world, data={f"K{number}": str(number) * 120_000 for number in range(6)})
    fixes = [
        {"name": f"fix-{number}", "target": CONFIG, "patchConfig": {"data": {f"K{number}": "x"}, "restart": "None"}}
        for number in range(6)
    ]
    often = {"rateLimit": {"actions": 9, "period": "1h"}}
    await world.policy(*fixes, strategy="Sequence", guards=often)
    await world.alert()
    found = await world.reaches("Escalated")
    refused = step(found, 4)
    assert refused["reason"] == "InvalidParameters", story(found)
    assert "too large to be noted" in refused["message"]
    assert {name: len(value) for name, value in (await values(world)).items() if len(value) > 1} == {
        "K4": 120_000,
        "K5": 120_000,
    }


async def test_a_secret_gets_its_value_from_another_and_its_own_back(world: World) -> None:
    await secrets(world)
    await world.policy({"name": "rotate", "target": SECRET, "patchConfig": FROM_STANDBY, "ttl": "5s"})
    await world.alert()
    found = await world.says("Verified", timeout=30)
    assert await values(world, "credentials", "secrets") == {"DB_PASSWORD": encoded(NEW), "USER": encoded("covet")}
    assert await restarts(world) == step(found)["operation"]
    assert step(found)["message"] == "credentials: DB_PASSWORD changed; then restarted: Deployment/app"
    found = await world.says("PutBack", timeout=30)
    assert step(found)["state"] == "Reverted", story(found)
    assert await values(world, "credentials", "secrets") == {"DB_PASSWORD": encoded(OLD), "USER": encoded("covet")}
    assert await values(world, "credentials-before", "secrets") == {}, "nothing of it is kept any longer"
    await nothing_leaks(world, OLD, NEW, encoded(OLD), encoded(NEW))


async def test_hands_off_a_secret_that_others_have_changed_since(world: World) -> None:
    await secrets(world)
    params = FROM_STANDBY | {"restart": "None"}
    await world.policy({"name": "rotate", "target": SECRET, "patchConfig": params, "ttl": "4s"})
    await world.alert()
    await world.says("Verified", timeout=30)
    theirs = {"stringData": {"DB_PASSWORD": "theirs"}}
    await world.admin.patch("v1/secrets", "credentials", theirs, world.namespace)
    found = await world.reaches("Escalated", timeout=30)
    assert "DB_PASSWORD" in step(found)["revert"]["message"]
    assert "hands off" in step(found)["revert"]["message"]
    assert (await values(world, "credentials", "secrets"))["DB_PASSWORD"] == encoded("theirs")
    await nothing_leaks(world, OLD, NEW, encoded(OLD), encoded(NEW))


async def test_a_person_is_called_where_the_values_from_before_are_gone(world: World) -> None:
    await secrets(world)
    await world.policy({"name": "rotate", "target": SECRET, "patchConfig": FROM_STANDBY, "ttl": "5s"})
    await world.alert()
    found = await world.says("Verified", timeout=30)
    await world.admin.delete("v1/secrets", "credentials-before", world.namespace)
    found = await world.reaches("Escalated", timeout=30)
    assert (step(found)["state"], step(found)["revert"]["state"]) == ("Succeeded", "Failed"), story(found)
    assert "Secret/credentials-before, which keeps the values from before" in step(found)["revert"]["message"]
    assert "PutBack" not in reasons(found)
    assert (await values(world, "credentials", "secrets"))["DB_PASSWORD"] == encoded(NEW)
    await nothing_leaks(world, OLD, NEW, encoded(OLD), encoded(NEW))


async def test_the_right_to_patch_alone_is_enough_but_not_for_a_lease(world: World) -> None:
    await secrets(world, verbs=("patch",))
    leased = {"name": "leased", "target": SECRET, "patchConfig": FROM_STANDBY, "ttl": "1h", "onFailure": "Continue"}
    await world.policy(leased, {"name": "for-good", "target": SECRET, "patchConfig": FROM_STANDBY})
    await world.incident()
    found = await world.reaches("Resolved", timeout=40)
    assert (step(found)["state"], step(found)["reason"]) == ("Failed", "Forbidden"), story(found)
    assert "kubectl create secret generic credentials-before" in step(found)["message"]
    assert "--verb=get,patch" in step(found)["message"]
    assert step(found, 1)["state"] == "Succeeded"
    assert (await values(world, "credentials", "secrets"))["DB_PASSWORD"] == encoded(NEW)
    await nothing_leaks(world, OLD, NEW, encoded(OLD), encoded(NEW))


@pytest.mark.parametrize(
    ("verbs", "source", "words"),
    [
        ((), True, ["secrets", "cannot patch", "--verb=patch", "--resource-name=credentials"]),
        (("patch",), False, ["may not get Secret/standby", "--verb=get", "--resource-name=standby"]),
    ],
)
async def test_a_missing_right_is_told_with_how_to_give_it(
    world: World, verbs: tuple[str, ...], source: bool, words: list[str]
) -> None:
    await secrets(world, verbs=verbs, source=source)
    rotate = {"name": "rotate", "target": SECRET, "patchConfig": FROM_STANDBY, "onFailure": "Continue"}
    await world.policy(rotate, {"name": "again", "restart": {}})
    await world.incident()
    found = await world.reaches("Resolved", timeout=40)
    assert (step(found)["state"], step(found)["reason"]) == ("Failed", "Forbidden"), story(found)
    assert not [word for word in words if word not in step(found)["message"]], step(found)["message"]
    assert step(found, 1)["state"] == "Succeeded"
    assert (await values(world, "credentials", "secrets"))["DB_PASSWORD"] == encoded(OLD)


@pytest.mark.parametrize(
    ("more", "params", "reason", "words"),
    [
        ({"immutable": True}, {"data": {"A": "x"}}, "Immutable", "create one of another name"),
        ({"binaryData": {"A": "AA=="}}, {"data": {"A": "x"}}, "InvalidParameters", "binaryData"),
        (
            {},
            {"data": {"A": "x"}, "restart": "Named", "workloads": [{"name": "gone"}]},
            "TargetNotFound",
            "Deployment/gone",
        ),
    ],
)
async def test_what_cannot_be_done_leaves_everything_as_it_is(
    world: World, more: Json, params: Json, reason: str, words: str
) -> None:
    await config(world, **more)
    await world.policy({"name": "fix", "target": CONFIG, "patchConfig": params})
    await world.incident()
    found = await world.reaches("Escalated")
    assert (step(found)["state"], step(found)["reason"]) == ("Failed", reason), story(found)
    assert words in step(found)["message"]
    assert await values(world) == {"DB_HOST": "old-writer", "OTHER": "1"}
    assert await restarts(world) == ""


async def test_values_for_a_secret_are_refused_and_never_told(world: World) -> None:
    """The policy is for ConfigMaps; it is the Incident that names a Secret."""
    await secrets(world)
    await world.policy(
        {"name": "set", "patchConfig": {"data": {"DB_PASSWORD": NEW}, "restart": "None"}},
        target={"kind": "ConfigMap", "nameFromLabel": "config"},
    )
    await world.incident(target=SECRET)
    found = await world.reaches("Escalated")
    assert (step(found)["state"], step(found)["reason"]) == ("Failed", "InvalidParameters"), story(found)
    assert "valueFrom" in step(found)["message"]
    assert NEW not in json.dumps(found)
    assert (await values(world, "credentials", "secrets"))["DB_PASSWORD"] == encoded(OLD)


async def test_a_missing_object_and_one_that_is_as_wanted(world: World) -> None:
    await config(world)
    missing = {"kind": "ConfigMap", "name": "not-there"}
    await world.policy(
        {"name": "gone", "target": missing, "patchConfig": {"data": {"A": "x"}}, "onFailure": "Continue"},
        {"name": "same", "target": CONFIG, "patchConfig": {"data": {"OTHER": "1"}}},
        {"name": "fix", "target": CONFIG, "patchConfig": {"data": {"OTHER": "2"}, "restart": "None"}},
    )
    await world.incident()
    found = await world.reaches("Resolved")
    told = [(s["state"], s["reason"]) for s in found["status"]["steps"][:2]]
    assert told == [("Failed", "TargetNotFound"), ("Skipped", "AlreadyInPlace")], story(found)
    assert (await values(world))["OTHER"] == "2"
    assert await restarts(world) == ""


async def test_what_would_not_roll_out_and_what_gitops_owns_are_told(world: World) -> None:
    await config(world)
    agent = using("agent", "DaemonSet", container={"envFrom": [{"configMapRef": {"name": "config"}}]})
    agent["spec"]["updateStrategy"] = {"type": "OnDelete"}
    await world.admin.create(agent, world.namespace)
    await world.admin.patch("apps/v1/deployments", "app", {"spec": {"paused": True}}, world.namespace)
    argo = {"metadata": {"annotations": {"argocd.argoproj.io/tracking-id": "covet:/ConfigMap:covet/config"}}}
    await world.admin.patch("v1/configmaps", "config", argo, world.namespace)
    await world.policy({"name": "fix", "target": CONFIG, "patchConfig": {"data": {"OTHER": "2"}}})
    await world.incident()
    found = await world.reaches("Resolved")
    assert "then restarted: StatefulSet/search; paused, not restarted: Deployment/app; " in step(found)["message"]
    assert "OnDelete, not restarted until somebody deletes their pods: DaemonSet/agent" in step(found)["message"]
    assert "managed by Argo CD (covet), which will put it back" in step(found)["message"]
    assert await restarts(world) == await restarts(world, "agent", "DaemonSet") == ""
    assert await restarts(world, "search", "StatefulSet") == step(found)["operation"]


async def test_who_may_change_the_config_map_only_cannot_have_workloads_restarted(world: World) -> None:
    await config(world)
    await world.policy(
        {"name": "wide", "patchConfig": {"data": {"OTHER": "2"}}, "onFailure": "Continue"},
        {"name": "narrow", "patchConfig": {"data": {"OTHER": "3"}, "restart": "None"}},
        target=CONFIG,
    )
    await world.incident(target=CONFIG)
    found = await world.reaches("Resolved")
    assert step(found)["reason"] == "TargetNotNamed", story(found)
    assert step(found, 1)["state"] == "Succeeded"
    assert (await values(world))["OTHER"] == "3"
    assert await restarts(world) == ""


async def test_a_change_that_did_not_help_is_undone_before_a_person_is_called(world: World) -> None:
    await config(world)
    never = {"prometheus": {"query": "vector(1)", "condition": "value < 1.0"}, "timeout": "2s"}
    await world.policy({"name": "fix", "target": CONFIG, "patchConfig": {"data": {"DB_HOST": "x"}}, "verify": never})
    await world.incident()
    found = await world.reaches("Escalated", timeout=30)
    assert step(found)["state"] == "Reverted", story(found)
    assert "PutBack" in reasons(found)
    assert (await values(world))["DB_HOST"] == "old-writer"
    await eventually(lambda: world.rolled_out(), what="the pods run with it again")


# -- the samples -------------------------------------------------------------------------------------------------------


async def covet(world: World) -> None:
    """The runbook's service with the policies of config.yaml."""
    for file in ("secrets-access.yaml", "service.yaml", "config.yaml"):
        for manifest in yaml.safe_load_all((COVET / file).read_text()):
            await world.admin.create(manifest, world.namespace)
    for name in ("covet-app", "covet-worker"):
        await world.rolled_out(name)


async def approve(world: World, name: str) -> Json:
    """A person looks at what would be done, and consents."""
    found = await world.reaches("AwaitingApproval")
    consent = {"approvals": [{"step": name, "approvedBy": "admin"}]}
    await world.edit(found["metadata"]["name"], consent)
    return found


async def test_the_sample_for_a_broken_cache(world: World) -> None:
    await covet(world)
    await world.alert("CovetCacheErrors")
    found = await world.says("Applied", timeout=30)
    assert (await values(world, "covet-config"))["CACHE_ENABLED"] == "false"
    assert {await restarts(world, name) for name in ("covet-app", "covet-worker")} == {step(found)["operation"]}
    await world.admin.delete(INCIDENTS, found["metadata"]["name"], world.namespace)
    await eventually(lambda: _gone(world), timeout=30, what="the incident has let go")
    assert "CACHE_ENABLED" not in await values(world, "covet-config")


async def test_the_sample_for_the_database_s_other_endpoint(world: World) -> None:
    """Runbook 2: DB_HOST, then a restart; not without a person."""
    await covet(world)
    before = (await values(world, "covet-config"))["DB_HOST"]
    await world.alert("CovetDatabaseWriterUnreachable")
    found = await approve(world, "other-writer")
    assert "DB_HOST covet-aurora" in step(found)["message"]
    assert (await values(world, "covet-config"))["DB_HOST"] == before
    found = await world.says("Applied", timeout=30)
    assert (await values(world, "covet-config"))["DB_HOST"].startswith("covet-aurora-replica-1.")
    assert {await restarts(world, name) for name in ("covet-app", "covet-worker")} == {step(found)["operation"]}
    assert await restarts(world, "redis") == ""


async def test_the_sample_for_rejected_credentials(world: World) -> None:
    await covet(world)
    before = await values(world, "covet-secrets", "secrets")
    await world.alert("CovetDatabaseAuthErrors")
    await approve(world, "standby-credentials")
    found = await world.says("Applied", timeout=30)
    standby = await values(world, "covet-standby", "secrets")
    assert await values(world, "covet-secrets", "secrets") == {"DB_PASSWORD": standby["password"]}
    await nothing_leaks(world, *before.values(), *standby.values(), "not-a-real-password")
    await world.admin.delete(INCIDENTS, found["metadata"]["name"], world.namespace)
    await eventually(lambda: _gone(world), timeout=30, what="the incident has let go")
    assert await values(world, "covet-secrets", "secrets") == before


async def _gone(world: World) -> bool:
    return not await world.all_incidents()
