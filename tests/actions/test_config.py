"""What patchConfig plans: pure tables."""

from __future__ import annotations

import copy
from functools import partial
from typing import Any

import pytest
from pydantic import ValidationError

from builders import OPERATION, Json, stored, workload
from paramedic.actions import ACTIONS
from paramedic.actions.base import Change, Observed, Outcome
from paramedic.actions.patch_config.params import PatchConfigParams
from paramedic.actions.patch_config.secret import key_owners, noted_keys
from paramedic.api import ANNOTATION_OPERATION, ANNOTATION_WRITTEN_KEYS
from paramedic.api.reasons import Reason
from paramedic.core.configusers import uses
from paramedic.core.discreet import harmless_part
from paramedic.errors import Refused

ACTION = ACTIONS["patchConfig"]
AFTER = "019cbe40-1c00-7000-8000-000000000002"


NOTE = f'{{"A": "{OPERATION}"}}'


def user(name: str, kind: str = "Deployment", stamp: str = "", **spec: Any) -> Json:
    """A workload that is to be restarted; ``stamp`` is of its last restart."""
    found = stored(workload(kind, name, **spec), uid=f"uid-{name}")
    if stamp:
        found["spec"]["template"]["metadata"]["annotations"] = {ANNOTATION_OPERATION: stamp}
    return found


def config(
    *workloads: Json,
    data: Json | None = None,
    keys: list[str] | None = None,
    paused: Any = (),
    on_delete: Any = (),
    **rest: Any,
) -> Observed:
    """A ConfigMap as observed for these keys."""
    manifest = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "config"}}
    found = stored(manifest) | {"data": {"DB_HOST": "old", "KEEP": "1"} if data is None else data} | rest
    related = {"workloads": list(workloads), "paused": list(paused), "onDelete": list(on_delete), "missing": []}
    return Observed(found | {"keys": keys or ["DB_HOST"]}, related, incident="api-down")


def secret(*entries: Json, readable: bool = True, kept: bool = True, note: str = "", **rest: Any) -> Observed:
    """A Secret's metadata with these managedFields."""
    manifest: Json = {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "s", "managedFields": list(entries)}}
    if note:
        manifest["metadata"]["annotations"] = {ANNOTATION_WRITTEN_KEYS: note}
    found = stored(manifest) | {"keys": ["A"], "readable": readable, "immutable": False} | rest
    related: Json = {"workloads": [], "paused": [], "onDelete": [], "missing": [], "problems": []}
    return Observed(found, related | {"kept": [{"metadata": {"name": "s-before"}}] if kept else []})


def entry(manager: str, field: str = "data", time: str = "T1") -> Json:
    return {"manager": manager, "operation": "Update", "time": time, "fieldsV1": {f"f:{field}": {"f:A": {}}}}


def plan(seen: Observed, operation: str = OPERATION, **params: Any) -> Change:
    return ACTION.plan(seen, PatchConfigParams.model_validate(params or {"data": {"DB_HOST": "new"}}), operation)


def refusal(seen: Observed, **params: Any) -> tuple[Reason, str]:
    with pytest.raises(Refused) as refused:
        plan(seen, **params)
    return refused.value.reason, str(refused.value)


@pytest.mark.parametrize(
    ("left", "told"),
    [
        ({"paused": [user("app")]}, "; paused, not restarted: Deployment/app"),
        (
            {"on_delete": [user("db", "StatefulSet"), user("agent", "DaemonSet")]},
            "; OnDelete, not restarted until somebody deletes their pods: StatefulSet/db, DaemonSet/agent",
        ),
    ],
)
def test_what_would_not_roll_out_is_told_and_left_alone(left: Json, told: str) -> None:
    change = plan(config(user("search"), **left))
    assert change.message == f"config: DB_HOST old → new; then restarted: Deployment/search{told}"
    assert len(change.forward) == 2


# -- ConfigMaps --------------------------------------------------------------------------------------------------------


def test_the_object_comes_first_and_then_its_users() -> None:
    change = plan(config(user("app"), user("db", "StatefulSet", stamp="earlier")))
    assert [write.path.rpartition("/")[2] for write in change.forward] == ["config", "app", "db"]
    assert change.before == {
        "ConfigMap/config": {"data": {"DB_HOST": "old"}},
        "Deployment/app": "",
        "StatefulSet/db": "earlier",
    }
    assert change.after == {
        "ConfigMap/config": {"data": {"DB_HOST": "new"}},
        "Deployment/app": OPERATION,
        "StatefulSet/db": OPERATION,
    }
    metadata = {"uid": "uid-w", "resourceVersion": "7"}
    stamps = {ANNOTATION_OPERATION: OPERATION, "paramedic.dev/incident": "api-down"}
    assert change.forward[0].body == {"data": {"DB_HOST": "new"}, "metadata": metadata | {"annotations": stamps}}
    template = {"metadata": {"annotations": {ANNOTATION_OPERATION: OPERATION}}}
    assert change.forward[1].body["spec"] == {"template": template}


def test_a_key_that_was_not_there_is_remembered_as_absent_and_taken_away_again() -> None:
    seen = config(keys=["DB_HOST", "NEW"])
    change = plan(seen, data={"DB_HOST": "", "NEW": "absent"})
    assert change.before == {"ConfigMap/config": {"data": {"DB_HOST": "old"}, "absent": ["NEW"]}}
    done = config(data={"DB_HOST": "", "NEW": "absent", "KEEP": "2"}, keys=["DB_HOST", "NEW"])
    (write,) = ACTION.restore(done, change.before, AFTER).forward
    assert write.body["data"] == {"DB_HOST": "old", "NEW": None}


def test_half_done_it_goes_on_with_what_is_left() -> None:
    whole = plan(config(user("app"), user("worker")))
    first = user("app", stamp=OPERATION)
    first["metadata"]["annotations"] = {ANNOTATION_OPERATION: OPERATION}
    seen = config(first, user("worker"), data={"DB_HOST": "new", "KEEP": "1"})
    seen.target["metadata"]["annotations"] = {ANNOTATION_OPERATION: OPERATION}
    assert ACTION.settled(seen, whole.before, whole.after, OPERATION) is Outcome.NOT_APPLIED
    rest = plan(seen)
    assert rest.after == whole.after
    assert [write.path.rpartition("/")[2] for write in rest.forward] == ["worker"]


def test_what_is_in_place_is_not_restarted() -> None:
    change = plan(config(user("app"), data={"DB_HOST": "new"}))
    assert change.is_empty
    assert change.message == "config: DB_HOST already as wanted"


def test_undo_restarts_once_more() -> None:
    """With the stamp from before, so that the template is as it was; a new one where that is there already."""
    before = {
        "ConfigMap/config": {"data": {"DB_HOST": "old"}},
        "Deployment/app": "",
        "Deployment/b": "",
        "Deployment/c": "",
    }
    seen = config(user("app", stamp=OPERATION), user("b"), data={"DB_HOST": "new"})
    back = ACTION.restore(seen, before, AFTER)
    assert back.after == {"ConfigMap/config": {"data": {"DB_HOST": "old"}}, "Deployment/app": "", "Deployment/b": AFTER}
    assert [write.path.rpartition("/")[2] for write in back.forward] == ["config", "app", "b"]
    as_before = config(user("app", stamp=OPERATION), data={"DB_HOST": "old"})
    assert ACTION.restore(as_before, before, AFTER).is_empty


@pytest.mark.parametrize(
    ("present", "changed"),
    [
        ({"DB_HOST": "new", "KEEP": "theirs"}, ""),
        ({"DB_HOST": "old"}, ""),
        ({"DB_HOST": "theirs"}, "DB_HOST"),
        ({}, "DB_HOST"),
    ],
)
def test_others_own_what_they_have_changed(present: Json, changed: str) -> None:
    change = plan(config(user("app")))
    seen = config(user("app", stamp="restarted since by another"), data=present)
    if not changed:
        ACTION.require_unchanged(seen, change.before, change.after)
        return
    with pytest.raises(Refused) as refused:
        ACTION.require_unchanged(seen, change.before, change.after)
    assert refused.value.reason is Reason.TARGET_CHANGED
    assert f"was changed by others since ({changed})" in str(refused.value)


def test_what_is_told_hides_what_looks_like_a_secret_and_stays_short() -> None:
    data = {"DB_PASSWORD": "hunter2hunter2", "TEXT": "x" * 500, "LINE": "a\nb\x1b[31m"}
    seen = config(data={"DB_PASSWORD": "before-it-was"}, keys=sorted(data))
    message = plan(seen, data=data).message
    assert "hunter2" not in message
    assert "before-it-was" not in message
    assert "\n" not in message
    assert "\x1b" not in message
    assert len(message) < 400
    many = {f"K{n}": "x" for n in range(30)}
    assert "and 25 more" in plan(config(keys=sorted(many)), data=many).message


def test_who_else_writes_it_is_told() -> None:
    seen = config(user("app"))
    seen.target["metadata"]["ownerReferences"] = [{"kind": "ExternalConfig", "name": "vault", "controller": True}]
    assert "ExternalConfig/vault, which made it, may put it back" in plan(seen).message


def test_refusals() -> None:
    reason, text = refusal(config(immutable=True))
    assert (reason, "of another name" in text) == (Reason.IMMUTABLE, True)
    reason, text = refusal(config(binaryData={"DB_HOST": "AA=="}))
    assert (reason, "binaryData" in text) == (Reason.INVALID_PARAMETERS, True)
    reason, text = refusal(config(*(user(f"app-{n}") for n in range(21))))
    assert (reason, "21 workloads use ConfigMap/config" in text) == (Reason.INVALID_PARAMETERS, True)
    assert not plan(config(*(user(f"app-{n}") for n in range(20)))).is_empty
    reason, text = refusal(config(data={"DB_HOST": "x" * 100_000}), data={"DB_HOST": "y" * 40_000})
    assert (reason, "for the undo at most" in text) == (Reason.INVALID_PARAMETERS, True)
    value = {"key": "DB_HOST", "secretName": "s", "secretKey": "k"}
    reason, text = refusal(config(), valueFrom=[value])
    assert (reason, "valueFrom is for a Secret" in text) == (Reason.INVALID_PARAMETERS, True)


def test_planning_changes_nothing_that_it_was_given() -> None:
    seen = config(user("app"))
    copied = copy.deepcopy(seen)
    change = plan(seen)
    ACTION.restore(seen, change.before, AFTER)
    assert seen == copied


@pytest.mark.parametrize(
    ("params", "beyond"),
    [({"data": {}}, True), ({"restart": "Users"}, True), ({"restart": "Named"}, True), ({"restart": "None"}, False)],
)
def test_restarts_reach_beyond_the_target(params: Json, beyond: bool) -> None:
    assert ACTION.reaches_beyond(params) is beyond


# -- parameters --------------------------------------------------------------------------------------------------------

VALUE = {"key": "A", "secretName": "s", "secretKey": "k"}


@pytest.mark.parametrize(
    "params",
    [
        {},
        {"data": {}},
        {"data": {"A B": "x"}},
        {"data": {"": "x"}},
        {"data": {"..": "x"}},
        {"data": {"..a": "x"}},
        {"data": {"A\n": "x"}},
        {"data": {"A" * 254: "x"}},
        {"data": {"A": 1}},
        {"data": {"A": "x"}, "valueFrom": [VALUE]},
        {"valueFrom": [VALUE, VALUE]},
        {"valueFrom": [VALUE | {"secretName": "../x"}]},
        {"data": {"A": "x"}, "restart": "All"},
        {"data": {"A": "x"}, "restart": "Named"},
        {"data": {"A": "x"}, "workloads": [{"name": "app"}]},
        {"data": {"A": "x"}, "restart": "Named", "workloads": [{"kind": "Pod", "name": "app"}]},
        {"data": {"A": "x"}, "restart": "Named", "workloads": [{"name": f"w{n}"} for n in range(21)]},
    ],
)
def test_parameters_that_cannot_be_used(params: Json) -> None:
    with pytest.raises(ValidationError):
        PatchConfigParams.model_validate(params)


# -- Secrets -----------------------------------------------------------------------------------------------------------


def test_who_has_set_a_key() -> None:
    def owners(*entries: Json, note: str = "") -> list[str]:
        return key_owners(secret(*entries, note=note).target, "A")

    assert owners() == ["nobody"]
    assert owners(entry("kubectl")) == ["kubectl Update T1"]
    assert owners(entry("b"), entry("a")) == ["a Update T1", "b Update T1"]
    assert owners(entry("paramedic"), note=NOTE) == [OPERATION]
    assert owners(entry("paramedic")) == ["paramedic Update T1"]
    assert owners(entry("kubectl"), note=NOTE) == ["kubectl Update T1"]
    both = owners(entry("paramedic"), entry("argocd", "stringData"), note=NOTE)
    assert both == [OPERATION, "stringData of argocd Update T1"]


def test_keys_that_one_operation_has_set_are_told_by_it() -> None:
    assert ACTION.state(secret(entry("paramedic"), note=NOTE)) == {"Secret/s": OPERATION}
    mixed = secret(entry("paramedic"), note=NOTE, keys=["A", "B"])
    assert ACTION.state(mixed) == {"Secret/s": {"A": [OPERATION], "B": ["nobody"]}}
    claimed = secret(entry("paramedic"), entry("argocd", "stringData"), note=NOTE)
    assert ACTION.state(claimed) == {"Secret/s": {"A": [OPERATION, "stringData of argocd Update T1"]}}


@pytest.mark.parametrize(
    ("entries", "changed"),
    [
        ([entry("paramedic")], False),
        ([entry("kubectl")], False),  # as before: the value was there already
        ([entry("kubectl", time="T2")], True),
        ([entry("paramedic"), entry("argocd", "stringData", "T0")], False),
        ([entry("paramedic"), entry("argocd", "stringData", "T2")], True),
        ([], True),
    ],
)
def test_others_own_the_keys_that_they_have_set(entries: list[Json], changed: bool) -> None:
    before = {"Secret/s": {"A": ["kubectl Update T1"]}}
    if any("argocd" in str(one) for one in entries):
        before["Secret/s"]["A"].append("stringData of argocd Update T0")
    check = partial(ACTION.require_unchanged, secret(*entries, note=NOTE), before, {"Secret/s": OPERATION})
    if changed:
        with pytest.raises(Refused, match="changed by others since \\(A\\)"):
            check()
    else:
        check()


def test_a_secrets_values_are_only_in_what_is_written() -> None:
    change = plan(secret(entry("kubectl")), valueFrom=[VALUE])
    assert change.before == {"Secret/s": {"A": ["kubectl Update T1"]}, "kept": "s-before"}
    assert change.after == {"Secret/s": OPERATION}
    (write,) = change.forward
    note = {ANNOTATION_OPERATION: OPERATION, ANNOTATION_WRITTEN_KEYS: f'{{"A": "{OPERATION}"}}'}
    assert write.body == {"metadata": {"uid": "uid-w", "resourceVersion": "7", "annotations": note}}


@pytest.mark.parametrize(
    ("seen", "params", "words"),
    [
        (config(), {"valueFrom": [VALUE]}, "ConfigMap/config: valueFrom is for a Secret"),
        (secret(), {"data": {"A": "s3cr3t"}}, "Secret/s: values for a Secret are not written into a policy"),
    ],
)
def test_values_are_for_a_config_map_and_copies_for_a_secret(seen: Observed, params: Json, words: str) -> None:
    reason, text = refusal(seen, **params)
    assert reason is Reason.INVALID_PARAMETERS
    assert text.startswith(words)
    assert ACTION.problem_for(params, seen.kind) in text
    assert "s3cr3t" not in text


@pytest.mark.parametrize(("readable", "kept"), [(False, True), (True, False), (False, False)])
def test_a_secret_is_put_back_only_where_its_values_can_be_kept(readable: bool, kept: bool) -> None:
    change = plan(secret(readable=readable, kept=kept), valueFrom=[VALUE])
    assert change.inverse is None
    assert "kept" not in change.before
    assert "--resource-name=s --resource-name=s-before" in change.no_undo


def test_the_note_of_written_keys_forgets_what_others_have_taken_over() -> None:
    seen = secret(entry("paramedic"), note='{"A": "op", "GONE": "op"}').target
    assert noted_keys(seen, ["B"], "new") == '{"A": "op", "B": "new"}'


@pytest.mark.parametrize(
    ("message", "told"),
    [
        (
            'secrets "s" is forbidden: User "system:serviceaccount:a:b" cannot patch resource "secrets" '
            'in API group "" in the namespace "covet"',
            "cannot patch",
        ),
        ('Secret "s" is invalid: data: Forbidden: field is immutable when `immutable` is set', "field is immutable"),
        ('admission webhook "w.example.com" denied the request: s3cr3t is weak', 'webhook "w.example.com" denied'),
        ("s3cr3t", "left out"),
        (
            'secrets "s" is forbidden: User "x" cannot patch resource "secrets" in API group "" '
            'in the namespace "a" s3cr3t',
            "left out",
        ),
    ],
)
def test_of_a_refusal_only_the_harmless_is_told(message: str, told: str) -> None:
    assert told in harmless_part(message)
    assert "s3cr3t" not in harmless_part(message)


# -- users -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "pod"),
    [
        ("ConfigMap", {"containers": [{"envFrom": [{"secretRef": {"name": "x"}}, {"configMapRef": {"name": "c"}}]}]}),
        ("ConfigMap", {"containers": [{"env": [{"valueFrom": {"configMapKeyRef": {"name": "c", "key": "k"}}}]}]}),
        ("ConfigMap", {"initContainers": [{"envFrom": [{"configMapRef": {"name": "c"}}]}]}),
        ("ConfigMap", {"volumes": [{"emptyDir": {}}, {"configMap": {"name": "c"}}]}),
        ("ConfigMap", {"volumes": [{"projected": {"sources": [{"configMap": {"name": "c"}}]}}]}),
        ("Secret", {"containers": [{"envFrom": [{"secretRef": {"name": "c"}}]}]}),
        ("Secret", {"containers": [{"env": [{"valueFrom": {"secretKeyRef": {"name": "c", "key": "k"}}}]}]}),
        ("Secret", {"initContainers": [{"env": [{"valueFrom": {"secretKeyRef": {"name": "c", "key": "k"}}}]}]}),
        ("Secret", {"volumes": [{"secret": {"secretName": "c"}}]}),
        ("Secret", {"volumes": [{"projected": {"sources": [{"downwardAPI": {}}, {"secret": {"name": "c"}}]}}]}),
    ],
)
def test_who_uses_it(kind: str, pod: Json) -> None:
    found = {"spec": {"template": {"spec": pod}}}
    assert uses(found, kind, "c")
    assert not uses(found, kind, "other")
    assert not uses(found, "Secret" if kind == "ConfigMap" else "ConfigMap", "c")


def test_who_does_not() -> None:
    for pod in ({}, {"containers": [{"env": [{"name": "c", "value": "c"}]}]}, {"imagePullSecrets": [{"name": "c"}]}):
        assert not uses({"spec": {"template": {"spec": pod}}}, "Secret", "c")
