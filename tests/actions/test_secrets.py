"""Secrets on a real API server, with the rights of the smallest Role: changed unseen, nothing of them told."""

from __future__ import annotations

import base64
import json
from collections.abc import AsyncIterator
from dataclasses import replace

import pytest

from builders import NOW, Json
from paramedic.actions import ACTIONS
from paramedic.actions.base import Change, Clients, Observed, Outcome
from paramedic.actions.patch_config.secret import Kept, key_owners
from paramedic.api import ANNOTATION_OPERATION, ANNOTATION_WRITTEN_KEYS
from paramedic.api.reasons import Reason
from paramedic.api.workload import bound
from paramedic.clients.kube import Kube, load_configuration
from paramedic.core.operation import new_operation
from paramedic.errors import Conflict, ParamedicError, Refused, Terminal
from testbed.access import Access
from testbed.api import Api, eventually

ACTION = ACTIONS["patchConfig"]
SECRETS = "v1/secrets"
VALUES = {"OLD": "0ld-va1ue", "USER": "c0vet-user"}
NEW = "n3w-va1ue"
OTHER = "other"
SOURCE = {"new": NEW, "other": OTHER, "same": VALUES["OLD"]}


def copied(key: str, source_key: str) -> Json:
    """A change of the key to what the other Secret holds."""
    return {"valueFrom": [{"key": key, "secretName": "source", "secretKey": source_key}], "restart": "None"}


CHANGE = copied("OLD", "new")


@pytest.fixture
async def secret(admin: Api, namespace: str) -> Json:
    body: Json = {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "s"}, "stringData": VALUES}
    await admin.create(body | {"metadata": {"name": "source"}, "stringData": SOURCE}, namespace)
    return await admin.create(body, namespace, fieldManager="kubectl")


@pytest.fixture
async def kube(cluster: Access, namespace: str, secret: Json) -> AsyncIterator[Kube]:
    """Someone with the right to patch this one Secret, to get what it is copied from, and to list the workloads."""
    cluster.kubectl("create", "serviceaccount", "op", "-n", namespace)
    _allow(cluster, namespace, "patch", "s")
    _allow(cluster, namespace, "get", "source")
    workloads = "deployments.apps,statefulsets.apps,daemonsets.apps"
    cluster.kubectl("create", "role", "w", "-n", namespace, "--verb=list", f"--resource={workloads}")
    cluster.kubectl("create", "rolebinding", "w", "-n", namespace, "--role=w", f"--serviceaccount={namespace}:op")
    file = cluster.kubeconfig_for(cluster.service_account_token(namespace, "op"))
    async with Kube(await load_configuration(file)) as opened:
        await eventually(lambda: _observed(opened, namespace), what="the rights are known")
        yield opened


def _allow(cluster: Access, namespace: str, verbs: str, name: str) -> None:
    named = ("-n", namespace, f"--verb={verbs}", "--resource=secrets", f"--resource-name={name}")
    role = f"{verbs.replace(',', '-')}-{name}"
    cluster.kubectl("create", "role", role, *named)
    subject = f"--serviceaccount={namespace}:op"
    cluster.kubectl("create", "rolebinding", role, "-n", namespace, f"--role={role}", subject)


async def _observed(kube: Kube, namespace: str, params: Json = CHANGE, step: str = "one") -> Observed:
    seen = await ACTION.observe_for(bound("Secret", namespace, "s"), params, Clients(kube))
    return replace(seen, incident_uid="4a5b", step=step)


async def _planned(kube: Kube, namespace: str, params: Json = CHANGE, step: str = "one") -> tuple[Change, str]:
    operation = new_operation(NOW)
    seen = await _observed(kube, namespace, params, step)
    return ACTION.plan(seen, ACTION.params.model_validate(params), operation), operation


async def _held(admin: Api, namespace: str, name: str = "s") -> dict[str, str]:
    data = (await admin.get(SECRETS, name, namespace)).get("data") or {}
    return {key: base64.b64decode(value).decode() for key, value in data.items()}


def _texts(*parts: object) -> str:
    told = "".join(map(str, parts))
    return told + "".join(map(repr, parts))


def _assert_unseen(text: str) -> None:
    forms = [form for value in (*VALUES.values(), NEW) for form in (value, base64.b64encode(value.encode()).decode())]
    assert not [form for form in forms if form in text], text


async def test_the_right_to_patch_is_enough_and_nothing_is_seen(admin: Api, kube: Kube, namespace: str) -> None:
    change, operation = await _planned(kube, namespace)
    seen = await _observed(kube, namespace)
    assert "data" not in seen.target
    _assert_unseen(_texts(seen, change.before, change.after, change.message, change.forward))
    answer = await kube.patch_unseen(f"/api/v1/namespaces/{namespace}/secrets/s", {})
    assert answer["kind"] == "PartialObjectMetadata"
    assert "data" not in answer
    change, operation = await _planned(kube, namespace)
    await ACTION.apply(change, Clients(kube))
    assert await _held(admin, namespace) == VALUES | {"OLD": NEW}
    after = await _observed(kube, namespace)
    assert ACTION.settled(after, change.before, change.after, operation) is Outcome.APPLIED
    assert ACTION.state(after) == {"Secret/s": operation}
    ACTION.require_unchanged(after, change.before, change.after)


async def test_planning_changes_nothing_though_it_patches(admin: Api, kube: Kube, namespace: str) -> None:
    before = await admin.get(SECRETS, "s", namespace)
    await _planned(kube, namespace)
    assert await admin.get(SECRETS, "s", namespace) == before


async def test_without_the_right_to_get_a_change_is_for_good(kube: Kube, namespace: str) -> None:
    change, _ = await _planned(kube, namespace)
    assert change.inverse is None
    assert "Secret/s-before, which must exist" in change.no_undo
    with pytest.raises(Refused) as refusal:
        ACTION.restore(await _observed(kube, namespace), change.before, new_operation(NOW))
    assert refusal.value.reason is Reason.NOT_PUT_BACK


async def test_the_commands_that_it_names_give_the_right(
    admin: Api, cluster: Access, kube: Kube, namespace: str
) -> None:
    change, _ = await _planned(kube, namespace)
    commands = change.no_undo.partition("to allow it: ")[2].replace("paramedic-system:paramedic", f"{namespace}:op")
    for command in commands.split("; "):
        program, *arguments = command.split()
        assert program == "kubectl"
        cluster.kubectl(*arguments)
    change, operation = await eventually(lambda: _undoable(kube, namespace), what="the right is known")
    await ACTION.apply(change, Clients(kube))
    (kept,) = (await _held(admin, namespace, "s-before")).values()
    values = {"OLD": base64.b64encode(VALUES["OLD"].encode()).decode()}
    assert json.loads(kept) == {"operation": operation, "values": values}
    seen = await _observed(kube, namespace)
    await ACTION.apply(ACTION.restore(seen, change.before, new_operation(NOW)), Clients(kube))
    assert await _held(admin, namespace) == VALUES
    assert await _held(admin, namespace, "s-before") == {}


async def _undoable(kube: Kube, namespace: str) -> tuple[Change, str] | None:
    change, operation = await _planned(kube, namespace)
    return (change, operation) if not change.no_undo else None


async def _keeping(admin: Api, cluster: Access, kube: Kube, namespace: str) -> None:
    body = {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "s-before"}}
    await admin.create(body, namespace)
    _allow(cluster, namespace, "get,patch", "s-before")
    _allow(cluster, namespace, "get", "s")
    await eventually(lambda: _undoable(kube, namespace), what="the right is known")


async def test_what_is_kept_is_bounded_and_taken_once(admin: Api, cluster: Access, kube: Kube, namespace: str) -> None:
    await _keeping(admin, cluster, kube, namespace)
    path = f"/api/v1/namespaces/{namespace}/secrets/s"
    await kube.patch_unseen(f"{path}-before", {"data": {"theirs": base64.b64encode(b"[1]").decode()}})
    operations = [new_operation(NOW.replace(minute=minute)) for minute in range(25)]
    for number, operation in enumerate(operations):
        await Kept(f"{path}-before", f"kept.{number}", operation).keep(kube, path, None, ["OLD", "GONE"])
    names = {f"kept.{number}" for number in range(5, 25)}
    assert set(await _held(admin, namespace, "s-before")) == names | {"theirs"}
    newest = Kept(f"{path}-before", "kept.24", operations[-1])
    assert (await newest.take(kube))["GONE"] is None
    await newest.forget(kube)
    for gone in (newest, Kept(f"{path}-before", "theirs", "")):
        with pytest.raises(Refused, match="does not keep the values from before any more"):
            await gone.take(kube)
    with pytest.raises(Conflict):
        await Kept(f"{path}-before", "kept.0", operations[0]).keep(kube, path, "1", ["OLD"])


async def test_what_is_kept_fits_into_a_secret(admin: Api, cluster: Access, kube: Kube, namespace: str) -> None:
    await _keeping(admin, cluster, kube, namespace)
    large = base64.b64encode(b"x" * 100_000).decode()
    path = f"/api/v1/namespaces/{namespace}/secrets/s"
    await admin.patch(SECRETS, "s", {"data": {"OLD": large}}, namespace)
    operations = [new_operation(NOW.replace(minute=minute)) for minute in range(12)]
    for number, operation in enumerate(operations):
        await Kept(f"{path}-before", f"kept.{number}", operation).keep(kube, path, None, ["OLD"])
    names = set(await _held(admin, namespace, "s-before"))
    assert names == {f"kept.{number}" for number in range(5, 12)}, "the oldest make room"
    for key in VALUES:
        await admin.patch(SECRETS, "s", {"data": {key: base64.b64encode(b"x" * 450_000).decode()}}, namespace)
    with pytest.raises(Refused, match="has no room for the earlier values"):
        await Kept(f"{path}-before", "kept.12", new_operation(NOW)).keep(kube, path, None, list(VALUES))
    assert set(await _held(admin, namespace, "s-before")) == names


async def test_what_may_still_have_to_be_put_back_makes_no_room(
    admin: Api, cluster: Access, kube: Kube, installed: Access, namespace: str
) -> None:
    await _keeping(admin, cluster, kube, namespace)
    _let(cluster, namespace, "get", "incidents.paramedic.dev")
    path = f"/api/v1/namespaces/{namespace}/secrets/s"
    large = base64.b64encode(b"x" * 200_000).decode()
    await admin.patch(SECRETS, "s", {"data": {"OLD": large}}, namespace)
    operations = [new_operation(NOW.replace(minute=minute)) for minute in range(5)]
    for number, operation in enumerate(operations[:3]):
        held = {"after": {"a": "b"}, "ttl": "1h"} if number != 1 else {}
        await _incident(admin, namespace, f"i{number}", {"operation": operation, "state": "Succeeded"} | held)
    await eventually(lambda: _readable(kube, namespace), what="the right is known")
    for number, operation in enumerate(operations[:4]):
        await Kept(f"{path}-before", f"kept.{number}", operation, f"i{number}").keep(kube, path, None, ["OLD"])
    assert set(await _held(admin, namespace, "s-before")) == {"kept.0", "kept.2", "kept.3"}
    await _incident(admin, namespace, "i3", {"operation": operations[3], "state": "Verifying"})
    with pytest.raises(Refused, match="may still be put back"):
        await Kept(f"{path}-before", "kept.4", operations[4], "i4").keep(kube, path, None, ["OLD"])


def _let(cluster: Access, namespace: str, verb: str, resource: str) -> None:
    cluster.kubectl("create", "role", "more", "-n", namespace, f"--verb={verb}", f"--resource={resource}")
    subject = f"--serviceaccount={namespace}:op"
    cluster.kubectl("create", "rolebinding", "more", "-n", namespace, "--role=more", subject)


async def _readable(kube: Kube, namespace: str) -> Json | None:
    try:
        return await kube.get(f"/apis/paramedic.dev/v1alpha1/namespaces/{namespace}/incidents/i0")
    except Refused:
        return None


async def _incident(admin: Api, namespace: str, name: str, step: Json) -> None:
    """An Incident with one step that stands like that."""
    incidents = "paramedic.dev/v1alpha1/incidents"
    spec = {"title": "t", "type": "APIOutage", "severity": "P1"}
    body = {"apiVersion": "paramedic.dev/v1alpha1", "kind": "Incident", "metadata": {"name": name}, "spec": spec}
    await admin.create(body, namespace)
    full = {"name": "one", "action": "patchConfig", "approvalRequired": False, "onFailure": "Escalate", "attempts": 1}
    await admin.patch(incidents, f"{name}", {"status": {"steps": [full | step]}}, namespace, subresource="status")


async def test_values_that_are_not_kept_any_more_are_no_target_that_is_gone(
    admin: Api, cluster: Access, kube: Kube, namespace: str
) -> None:
    await _keeping(admin, cluster, kube, namespace)
    change, _ = await _planned(kube, namespace)
    await ACTION.apply(change, Clients(kube))
    seen = await _observed(kube, namespace)
    later, _ = await _planned(kube, namespace, copied("USER", "other"), "two")
    await admin.delete(SECRETS, "s-before", namespace)
    for lost in (ACTION.restore(seen, change.before, new_operation(NOW)), later):
        with pytest.raises(Refused, match="Secret/s-before, which keeps the values from before, was deleted"):
            await ACTION.apply(lost, Clients(kube))
    assert await _held(admin, namespace) == VALUES | {"OLD": NEW}


async def test_what_cannot_be_forgotten_is_put_back_all_the_same(
    admin: Api, cluster: Access, kube: Kube, namespace: str
) -> None:
    await _keeping(admin, cluster, kube, namespace)
    change, _ = await _planned(kube, namespace)
    await ACTION.apply(change, Clients(kube))
    back = ACTION.restore(await _observed(kube, namespace), change.before, new_operation(NOW))
    await admin.patch(SECRETS, "s-before", {"immutable": True}, namespace)
    await ACTION.apply(back, Clients(kube))
    assert await _held(admin, namespace) == VALUES
    assert await _held(admin, namespace, "s-before") != {}


async def test_two_leases_on_one_secret_end_in_either_order(
    admin: Api, cluster: Access, kube: Kube, namespace: str
) -> None:
    await _keeping(admin, cluster, kube, namespace)
    other = copied("USER", "other")
    done = []
    for step, params in (("one", CHANGE), ("two", other)):
        change, _ = await _planned(kube, namespace, params, step)
        await ACTION.apply(change, Clients(kube))
        done.append((step, params, change))
    assert await _held(admin, namespace) == {"OLD": NEW, "USER": OTHER}
    for step, params, change in done:
        seen = await _observed(kube, namespace, params, step)
        ACTION.require_unchanged(seen, change.before, change.after)
        await ACTION.apply(ACTION.restore(seen, change.before, new_operation(NOW)), Clients(kube))
    assert await _held(admin, namespace) == VALUES


async def test_a_value_that_was_there_already_is_nobody_elses_change(
    admin: Api, cluster: Access, kube: Kube, namespace: str
) -> None:
    """The API server moves no key whose value stays the same."""
    await _keeping(admin, cluster, kube, namespace)
    same = copied("OLD", "same")
    change, operation = await _planned(kube, namespace, same)
    await ACTION.apply(change, Clients(kube))
    seen = await _observed(kube, namespace, same)
    assert ACTION.settled(seen, change.before, change.after, operation) is Outcome.APPLIED
    ACTION.require_unchanged(seen, change.before, change.after)
    assert ACTION.restore(seen, change.before, new_operation(NOW)).is_empty
    assert await _held(admin, namespace) == VALUES


@pytest.mark.parametrize("how", ["update", "apply", "apply stringData", "stringData of before applied anew", "delete"])
async def test_whoever_changes_the_value_is_noticed(admin: Api, kube: Kube, namespace: str, how: str) -> None:
    theirs = base64.b64encode(b"theirs").decode()
    applied: Json = {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "s"}}
    if how.endswith("anew"):
        await admin.apply(applied | {"stringData": {"OLD": "theirs before"}}, namespace)
    change, _ = await _planned(kube, namespace)
    await ACTION.apply(change, Clients(kube))
    ACTION.require_unchanged(await _observed(kube, namespace), change.before, change.after)
    if how == "update":
        await admin.patch(SECRETS, "s", {"data": {"OLD": theirs}}, namespace)
    elif how == "delete":
        await admin.patch(SECRETS, "s", {"data": {"OLD": None}}, namespace)
    elif how == "apply":
        await admin.apply(applied | {"data": {"OLD": theirs}}, namespace)
    else:
        await eventually(lambda: _later(admin, namespace), timeout=3, what="a second has passed")
        await admin.apply(applied | {"stringData": {"OLD": "theirs"}}, namespace)
    assert (await _held(admin, namespace)).get("OLD") == (None if how == "delete" else "theirs")
    with pytest.raises(Refused, match="Secret/s was changed by others since \\(OLD\\): hands off"):
        ACTION.require_unchanged(await _observed(kube, namespace), change.before, change.after)


async def _later(admin: Api, namespace: str) -> bool:
    """managedFields count in seconds."""
    answer = await admin.create(
        {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "clock"}}, namespace, dryRun="All"
    )
    written = (await admin.get(SECRETS, "s", namespace))["metadata"]["managedFields"]
    return bool(answer["metadata"]["creationTimestamp"] > max(entry["time"] for entry in written))


async def test_a_lie_in_the_annotation_tells_nothing(admin: Api, kube: Kube, namespace: str) -> None:
    lie = {"metadata": {"annotations": {ANNOTATION_WRITTEN_KEYS: json.dumps({"OLD": "op"})}}}
    await admin.patch(SECRETS, "s", lie, namespace)
    assert key_owners(await admin.get(SECRETS, "s", namespace), "OLD")[0].startswith("kubectl Update ")
    for text in ("[]", "{", '"x"', '{"OLD": 1}'):
        await admin.patch(SECRETS, "s", {"metadata": {"annotations": {ANNOTATION_WRITTEN_KEYS: text}}}, namespace)
        change, operation = await _planned(kube, namespace)
        assert change.after == {"Secret/s": operation}


async def test_an_immutable_secret_is_refused_when_planned(admin: Api, kube: Kube, namespace: str) -> None:
    await admin.patch(SECRETS, "s", {"immutable": True}, namespace)
    with pytest.raises(Refused) as refusal:
        await _planned(kube, namespace)
    assert refusal.value.reason is Reason.IMMUTABLE
    assert "create one of another name" in str(refusal.value)


async def test_what_the_api_server_says_is_told_without_values(kube: Kube, namespace: str) -> None:
    """A value that is no base64 has it print the whole Secret."""
    path = f"/api/v1/namespaces/{namespace}/secrets/s"
    with pytest.raises(Terminal) as refusal:
        await kube.patch_unseen(path, {"data": {"OLD": NEW + "!"}})
    _assert_unseen(str(refusal.value))
    assert "422" in str(refusal.value)
    large = base64.b64encode(b"x" * 600_000).decode()
    await kube.patch_unseen(path, {"data": {"USER": large}})
    with pytest.raises(Terminal, match="may not be more than 1048576 bytes"):
        await kube.patch_unseen(path, {"data": {"OLD": large}})


async def test_what_an_admission_policy_says_is_told_without_values(admin: Api, kube: Kube, namespace: str) -> None:
    version, name = "admissionregistration.k8s.io/v1", f"quotes-{namespace}"
    rules = [{"apiGroups": [""], "apiVersions": ["*"], "resources": ["secrets"], "operations": ["UPDATE"]}]
    spec: Json = {
        "matchConstraints": {
            "resourceRules": rules,
            "namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": namespace}},
        },
        "validations": [{"expression": "false", "messageExpression": "'no: ' + string(object.data['OLD'])"}],
    }
    meta = {"metadata": {"name": name}}
    await admin.create({"apiVersion": version, "kind": "ValidatingAdmissionPolicy", "spec": spec} | meta)
    bound_spec = {"policyName": name, "validationActions": ["Deny"]}
    await admin.create({"apiVersion": version, "kind": "ValidatingAdmissionPolicyBinding", "spec": bound_spec} | meta)

    path = f"/api/v1/namespaces/{namespace}/secrets/s"
    change = {"data": {"OLD": base64.b64encode(NEW.encode()).decode()}}

    async def denied() -> str:
        try:
            await kube.patch_unseen(path, change, dry_run=True)
        except ParamedicError as error:
            return str(error)
        return ""

    text = await eventually(denied, what="the policy is in force")
    _assert_unseen(text)
    assert f"ValidatingAdmissionPolicy '{name}' with binding '{name}' denied request" in text
    for kind in ("validatingadmissionpolicybindings", "validatingadmissionpolicies"):
        await admin.delete(f"{version}/{kind}", name)


async def test_another_secret_of_the_name_is_never_written(admin: Api, kube: Kube, namespace: str) -> None:
    change, _ = await _planned(kube, namespace)
    await admin.delete(SECRETS, "s", namespace)
    body = {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "s"}, "stringData": VALUES}
    await admin.create(body, namespace)
    with pytest.raises(Conflict):
        await ACTION.apply(change, Clients(kube))
    stored = await admin.get(SECRETS, "s", namespace)
    assert await _held(admin, namespace) == VALUES
    assert ANNOTATION_OPERATION not in (stored["metadata"].get("annotations") or {})
