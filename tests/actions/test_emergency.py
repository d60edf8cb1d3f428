"""What the emergency procedures stand for, and what each part plans: pure tables."""

from __future__ import annotations

import json
from typing import Any

import pytest
from pydantic import ValidationError

from builders import NOW, OPERATION, Json, hpa, observed, scaled_object, stored, workload
from paramedic.actions import ACTIONS
from paramedic.actions.base import Apply, Change, Observed, Outcome, Patch
from paramedic.actions.emergency import part_name, replicas_at, require_not_down, saved_of
from paramedic.api import ANNOTATION_BEFORE_SHUTDOWN, ANNOTATION_INCIDENT, ANNOTATION_OPERATION
from paramedic.api.policy import Step
from paramedic.api.reasons import Reason
from paramedic.core.operation import new_operation
from paramedic.core.saved_manifests import digest_of
from paramedic.errors import Refused

SHUTDOWN, RECOVER = ACTIONS["shutdown"], ACTIONS["recover"]
OBJECTS: Json = {"services": ["web"], "workloads": [{"name": "app"}, {"kind": "StatefulSet", "name": "queue"}]}
JOB: Json = {"template": {"spec": {"containers": [{"name": "check", "image": "covet/app:1"}]}}}
SAVED = {"replicas": 8}
BOUNDS = {"name": "covet-app", "minReplicas": 4, "maxReplicas": 10}


def step(action: str, params: Json, **fields: Any) -> Step:
    return Step.model_validate({"name": "go", action: params} | fields)


def expanded(action: str, params: Json, **fields: Any) -> list[Step]:
    return ACTIONS[action].expand(step(action, params, **fields))


def short(parts: list[Step]) -> list[str]:
    """``kind/name action`` of each part."""
    return [f"{p.target.kind}/{p.target.name} {p.action}" for p in parts if p.target]


def annotated(manifest: Json, saved: Any) -> Json:
    text = saved if isinstance(saved, str) else json.dumps(saved)
    manifest["metadata"] |= {"annotations": {ANNOTATION_BEFORE_SHUTDOWN: text}}
    return manifest


def app(replicas: int, saved: Any = None, **related: list[Json]) -> Observed:
    manifest = workload(replicas=replicas)
    return observed(annotated(manifest, saved) if saved is not None else manifest, **related)


def service(selector: Json | None, saved: Any = None) -> Observed:
    spec = {"selector": selector, "ports": [{"port": 80}]} if selector is not None else {"ports": [{"port": 80}]}
    manifest: Json = {"apiVersion": "v1", "kind": "Service", "metadata": {"name": "web"}, "spec": spec}
    return Observed(stored(annotated(manifest, saved) if saved is not None else manifest))


def plan(action: str, seen: Observed, **params: Any) -> Change:
    chosen = ACTIONS[action]
    assert chosen.part_params
    change: Change = chosen.plan(seen, chosen.part_params.model_validate(params), OPERATION)
    return change


def scale(seen: Observed, *stages: int | str, last: bool = False) -> Change:
    return plan("recover", seen, do="Scale", stages=list(stages), last=last)


def body_of(change: Change) -> Json:
    (write,) = change.forward
    assert isinstance(write, Patch)
    return write.body


def note(change: Change) -> Any:
    return body_of(change)["metadata"]["annotations"].get(ANNOTATION_BEFORE_SHUTDOWN, "untouched")


# -- what they stand for -----------------------------------------------------------------------------------------------


def test_a_shutdown_cuts_the_traffic_first_then_the_workloads_in_order() -> None:
    parts = expanded("shutdown", OBJECTS, ttl="1h", onFailure="Stop", when="true")
    assert short(parts) == ["Service/web shutdown", "Deployment/app shutdown", "StatefulSet/queue shutdown"]
    assert [p.name for p in parts] == ["go-service-web", "go-deployment-app", "go-statefulset-queue"]
    assert {p.approval for p in parts} == {"Required"}
    assert {p.on_failure for p in parts} == {"Stop"}
    assert [p.when for p in parts] == ["true", None, None]
    assert all(p.ttl for p in parts)
    assert [p.params for p in parts] == [{"selector": {"app": "emergency-shutdown"}}, {}, {}]


def test_consent_is_required_whatever_the_step_says() -> None:
    for action in ("shutdown", "recover"):
        assert {p.approval for p in expanded(action, OBJECTS, approval="NotRequired")} == {"Required"}


def test_a_recovery_looks_checks_and_goes_up_stage_by_stage() -> None:
    parts = expanded("recover", OBJECTS | {"databaseCheck": JOB, "stages": [1, "50%", "100%"]})
    assert [p.name.removeprefix("go-") for p in parts] == [
        "check",
        "database",
        "deployment-app-to-1",
        "statefulset-queue-to-1",
        "service-web",
        "deployment-app-to-50pct",
        "statefulset-queue-to-50pct",
        "deployment-app-to-100pct",
        "statefulset-queue-to-100pct",
    ]
    assert short(parts)[:2] == ["Deployment/app recover", "Deployment/app runJob"]
    assert [p.params.get("last") for p in parts[-2:]] == [True, True]
    assert parts[5].params["stages"] == [1, "50%"]
    assert parts[1].verify is not None
    assert parts[1].verify.is_empty(), "a database check is its own judge"
    assert parts[2].verify is None, "the policy's own"


def test_a_recovery_from_manifests_applies_them_before_anything_runs() -> None:
    source = {"configMap": "backup", "sha256": "a" * 64}
    parts = expanded("recover", OBJECTS | {"databaseCheck": JOB, "from": source})
    assert [p.params.get("do") for p in parts][:5] == ["Check", "Apply", "Apply", "Apply", None]
    assert parts[1].params["from"] == source


@pytest.mark.parametrize("name", ["n" * 253, "a.b", "x", "a" * 40, "b" * 41])
def test_every_part_has_a_name_of_its_own_that_fits(name: str) -> None:
    workloads = [{"name": name}, {"kind": "StatefulSet", "name": name}, {"name": f"{name}2"[-253:]}]
    long = Step.model_validate({"name": "s" * 63, "recover": {"services": [name], "workloads": workloads}})
    names = [p.name for p in RECOVER.expand(long)]
    assert len(set(names)) == len(names)
    assert all(len(n) <= 63 for n in names)


def test_what_looks_the_same_after_cleaning_is_told_apart() -> None:
    assert part_name("go", "service-a.b") != part_name("go", "service-a-b")
    assert part_name("go", "service-a-b") == "go-service-a-b"


@pytest.mark.parametrize(
    ("action", "params", "words"),
    [
        ("shutdown", {}, "name at least one object"),
        ("shutdown", {"services": ["a", "a"]}, "Service/a is named twice"),
        ("shutdown", {"workloads": [{"kind": "DaemonSet", "name": "d"}]}, "Deployment"),
        ("recover", {"workloads": [{"name": "a"}], "stages": ["50%"]}, "the last stage must be 100%"),
        (
            "recover",
            {"workloads": [{"name": "a"}], "stages": ["1", "100%"]},
            "neither a number of replicas nor a share",
        ),
        ("recover", {"workloads": [{"name": "a"}], "stages": [0, "100%"]}, "at least 1 replica"),
        ("recover", {"services": ["a"], "databaseCheck": JOB}, "databaseCheck comes before workloads"),
    ],
)
def test_what_makes_no_sense_is_refused(action: str, params: Json, words: str) -> None:
    with pytest.raises(ValidationError) as refusal:
        ACTIONS[action].params.model_validate(params)
    assert words in str(refusal.value)


# -- shutdown ----------------------------------------------------------------------------------------------------------


def test_shutdown_of_a_workload_saves_its_replicas() -> None:
    change = plan("shutdown", app(3))
    assert (change.before, change.after) == ({"replicas": 3}, {"replicas": 0})
    assert body_of(change)["spec"] == {"replicas": 0}
    assert json.loads(note(change)) == {"replicas": 3}
    assert change.message == "covet-app: 3 replicas → 0 replicas"


def test_shutdown_leaves_the_hpa_and_writes_its_bounds_down() -> None:
    change = plan("shutdown", app(3, hpa=[hpa(least=2, most=5)]))
    assert json.loads(note(change)) == {
        "replicas": 3,
        "hpa": {"name": "covet-app", "minReplicas": 2, "maxReplicas": 5},
    }
    assert len(change.forward) == 1


def test_shutdown_swaps_the_whole_selector() -> None:
    change = plan("shutdown", service({"app": "covet", "tier": "web"}), selector={"app": "nobody"})
    assert body_of(change)["spec"] == {"selector": {"app": "nobody", "tier": None}}
    assert json.loads(note(change)) == {"selector": {"app": "covet", "tier": "web"}, "meanwhile": {"app": "nobody"}}
    assert change.message == "web: selector app=covet,tier=web → selector app=nobody"


def test_what_is_shut_down_already_keeps_what_was_saved() -> None:
    assert plan("shutdown", app(0, SAVED)).is_empty
    assert plan("shutdown", service({"app": "nobody"}), selector={"app": "nobody"}).is_empty


def test_a_workload_at_zero_is_noted_so_that_it_stays_there() -> None:
    change = plan("shutdown", app(0))
    assert not change.is_empty
    assert json.loads(note(change)) == {"replicas": 0}


@pytest.mark.parametrize("saved", [SAVED, SAVED | {"stage": 2}, "{"])
def test_what_was_saved_long_ago_gives_way_to_what_is(saved: Any) -> None:
    assert json.loads(note(plan("shutdown", app(5, saved)))) == {"replicas": 5}
    free = {"replicas": 5, "hpa": {"name": "covet-app", "minReplicas": 3, "maxReplicas": 9}}
    assert json.loads(note(plan("shutdown", app(5, HELD, hpa=[hpa(least=3, most=9)])))) == free


def test_a_shutdown_in_an_unfinished_recovery_keeps_what_the_first_has_saved() -> None:
    """Back to a quarter, down again, and all the way back."""
    stage = scale(app(1, HELD | {"stage": 1}, hpa=[hpa(least=1, most=1)]), 1, "25%")
    left = json.loads(stage.forward[1].body["metadata"]["annotations"][ANNOTATION_BEFORE_SHUTDOWN])  # type: ignore[union-attr]
    assert left == HELD | {"stage": 2}
    down = plan("shutdown", app(2, left, hpa=[hpa(least=2, most=2)]))
    assert json.loads(note(down)) == HELD
    assert down.message == "covet-app: 2 replicas → 0 replicas, what is saved stays"
    last = scale(app(4, json.loads(note(down)), hpa=[hpa(least=4, most=4)]), "50%", "100%", last=True)
    assert [w.body["spec"] for w in last.forward if isinstance(w, Patch)] == [
        {"minReplicas": 4, "maxReplicas": 10},
        {"replicas": 8},
    ]
    back = SHUTDOWN.restore(app(0, HELD), down.before, OPERATION)
    assert json.loads(note(back)) == left, "the recovery goes on from there"


def test_an_hpa_that_a_stage_still_holds_tells_an_unfinished_recovery_too() -> None:
    down = plan("shutdown", app(2, HELD, hpa=[hpa(least=2, most=2)]))
    assert json.loads(note(down)) == HELD


def test_a_stage_that_others_have_reached_before_is_the_recoverys() -> None:
    change = scale(app(1, SAVED), 1)
    assert json.loads(note(change)) == SAVED | {"stage": 1}
    assert change.message == "covet-app: stays at 1 replicas"


@pytest.mark.parametrize("first", [{"app": "emergency-shutdown"}, {"app": "first"}])
def test_a_second_shutdown_with_another_selector_keeps_the_services_own(first: Json) -> None:
    saved = json.loads(note(plan("shutdown", service({"app": "covet"}), selector=first)))
    second = plan("shutdown", service(first, saved), selector={"app": "second"})
    assert body_of(second)["spec"] == {"selector": {"app": "second"}}
    kept = json.loads(note(second))
    assert kept == {"selector": {"app": "covet"}, "meanwhile": {"app": "second"}}
    traffic = plan("recover", service({"app": "second"}, kept), do="Traffic")
    assert body_of(traffic)["spec"] == {"selector": {"app": "covet"}}
    assert json.loads(note(SHUTDOWN.restore(service({"app": "second"}, kept), second.before, OPERATION))) == saved


def test_a_selector_that_others_have_chosen_since_is_what_is_saved() -> None:
    saved = {"selector": {"app": "covet"}, "meanwhile": {"app": "emergency-shutdown"}}
    second = plan("shutdown", service({"app": "green"}, saved), selector={"app": "nobody"})
    assert json.loads(note(second)) == {"selector": {"app": "green"}, "meanwhile": {"app": "nobody"}}


def test_what_an_older_paramedic_has_saved_of_a_service_is_known() -> None:
    old = service({"app": "emergency-shutdown"}, {"selector": {"app": "covet"}})
    assert json.loads(note(plan("shutdown", old, selector={"app": "nobody"})))["selector"] == {"app": "covet"}


# -- what a shutdown has taken down is left to the recovery ------------------------------------------------------------


@pytest.mark.parametrize(
    ("seen", "words"),
    [
        (app(0, SAVED), "Deployment/covet-app is shut down: recover it first, or remove its annotation"),
        (app(2, SAVED | {"stage": 2}), "the recovery of Deployment/covet-app is not finished"),
        (app(2, SAVED | {"hpa": BOUNDS}, hpa=[hpa(least=2, most=2)]), "is shut down"),
        (service({"app": "emergency-shutdown"}, {"selector": {"app": "covet"}}), "Service/web is shut down"),
    ],
)
def test_what_is_shut_down_nothing_else_is_done_to(seen: Observed, words: str) -> None:
    with pytest.raises(Refused, match=words) as refusal:
        require_not_down(seen)
    assert refusal.value.reason is Reason.SHUT_DOWN


def test_since_when_and_by_which_incident_it_is_down_is_told() -> None:
    seen = app(0, SAVED)
    stamped = {ANNOTATION_OPERATION: new_operation(NOW), ANNOTATION_INCIDENT: "emergency"}
    seen.target["metadata"]["annotations"] |= stamped
    with pytest.raises(Refused, match=rf"is shut down since {NOW:%Y-%m-%d %H:%M} UTC \(incident emergency\)"):
        require_not_down(seen)


@pytest.mark.parametrize(
    "seen",
    [
        app(0),
        app(5, SAVED),
        app(0, "{"),
        service({"app": "green"}, {"selector": {"app": "covet"}}),
        Observed(stored({"kind": "ConfigMap", "metadata": {"name": "c"}})),
    ],
)
def test_what_is_not_shut_down_or_was_brought_back_otherwise_may_be_acted_on(seen: Observed) -> None:
    require_not_down(seen)


def test_only_what_brings_nothing_back_is_done_while_shut_down() -> None:
    assert {name for name, one in ACTIONS.items() if one.while_shut_down} == {"shutdown", "recover", "runJob"}


# -- where KEDA scales -------------------------------------------------------------------------------------------------

KEDA: Json = {"replicas": 8, "scaledObject": {"name": "workers"}}


def by_keda(replicas: int, saved: Any = None, *, stamp: str = "", own_stamp: str = "", **notes: str) -> Observed:
    """The workload and its ScaledObject, with KEDA's annotations of these names."""
    scaled = scaled_object(minReplicaCount=2, maxReplicaCount=20)
    scaled["metadata"]["annotations"] = {f"autoscaling.keda.sh/{k.replace('_', '-')}": v for k, v in notes.items()}
    scaled["metadata"]["annotations"] |= {ANNOTATION_OPERATION: stamp} if stamp else {}
    seen = app(replicas, saved, scaledObject=[scaled])
    if own_stamp:
        seen.target["metadata"].setdefault("annotations", {})[ANNOTATION_OPERATION] = own_stamp
    return seen


def pauses(change: Change) -> list[Any]:
    """The writes: the workload's replicas, the ScaledObject's pause."""
    writes = [w for w in change.forward if isinstance(w, Patch)]
    key = "autoscaling.keda.sh/paused-replicas"
    return [w.body["spec"]["replicas"] if "spec" in w.body else w.body["metadata"]["annotations"][key] for w in writes]


def own_note(change: Change) -> Any:
    own = change.forward[0]
    assert isinstance(own, Patch)
    text = own.body["metadata"]["annotations"][ANNOTATION_BEFORE_SHUTDOWN]
    return json.loads(text) if text else None


def test_a_shutdown_saves_first_and_then_pauses_keda() -> None:
    change = plan("shutdown", by_keda(8), scaledObject="Patch")
    assert pauses(change) == [0, "0"]
    assert own_note(change) == KEDA
    assert change.forward[1].path == "/apis/keda.sh/v1alpha1/namespaces/covet/scaledobjects/workers"
    assert change.message == "covet-app: 8 replicas → 0 replicas, KEDA paused at 0"
    back = SHUTDOWN.restore(by_keda(0, KEDA, paused_replicas="0"), change.before, "another")
    assert pauses(back) == [8, None]


def test_a_shutdown_that_keda_would_undo_is_refused() -> None:
    with pytest.raises(Refused) as refusal:
        plan("shutdown", by_keda(8))
    assert "KEDA's ScaledObject/workers scales covet-app: write scaledObject: Patch" in str(refusal.value)
    assert 'paused-replicas set to "0", or do that by hand' in str(refusal.value)


@pytest.mark.parametrize("notes", [{"paused_replicas": "0"}, {"paused": "true"}])
def test_where_a_person_has_paused_keda_nothing_is_to_be_allowed(notes: dict[str, str]) -> None:
    assert pauses(plan("shutdown", by_keda(8, **notes))) == [0]


@pytest.mark.parametrize(
    ("seen", "outcome"),
    [
        (by_keda(8), Outcome.NOT_APPLIED),
        (by_keda(7), Outcome.UNKNOWN),
        (by_keda(0, KEDA, own_stamp=OPERATION), Outcome.NOT_APPLIED),
        (by_keda(2, KEDA, own_stamp=OPERATION), Outcome.NOT_APPLIED),  # KEDA has been quicker
        (by_keda(0, KEDA, own_stamp=OPERATION, paused_replicas="5"), Outcome.UNKNOWN),
        (by_keda(0, KEDA, own_stamp=OPERATION, stamp=OPERATION, paused_replicas="0"), Outcome.APPLIED),
    ],
)
def test_a_look_after_a_crash_between_the_two_writes(seen: Observed, outcome: Outcome) -> None:
    change = plan("shutdown", by_keda(8), scaledObject="Patch")
    assert SHUTDOWN.settled(seen, change.before, change.after, OPERATION) is outcome
    if outcome is Outcome.NOT_APPLIED:
        params = SHUTDOWN.part_params.model_validate({"scaledObject": "Patch"})  # type: ignore[union-attr]
        again = SHUTDOWN.plan_again(seen, params, OPERATION, change.before, change.after)
        assert pauses(again)[-1] == "0"
        assert len(again.forward) == 1 or own_note(again) == KEDA, "what is saved is not written over"


def keda_stage(seen: Observed, *stages: int | str, last: bool = False) -> Change:
    return plan("recover", seen, do="Scale", stages=list(stages), last=last, scaledObject="Patch")


def test_keda_is_held_at_each_stage_and_freed_in_the_last() -> None:
    first = keda_stage(by_keda(0, KEDA, paused_replicas="0"), 1)
    assert (pauses(first), own_note(first)) == ([1, "1"], KEDA | {"stage": 1})
    down = plan("shutdown", by_keda(1, KEDA | {"stage": 1}, paused_replicas="1"), scaledObject="Patch")
    assert (pauses(down), own_note(down)) == ([0, "0"], KEDA)
    last = keda_stage(by_keda(4, KEDA | {"stage": 4}, paused_replicas="4"), "50%", "100%", last=True)
    assert (pauses(last), own_note(last)) == ([8, None], None)
    free = by_keda(11)
    RECOVER.require_unchanged(free, last.before, last.after)
    back = RECOVER.restore(free, last.before, "another")
    assert (pauses(back), own_note(back)) == ([4, "4"], KEDA | {"stage": 4})


def test_a_look_after_a_crash_before_keda_was_freed() -> None:
    last = keda_stage(by_keda(4, KEDA | {"stage": 4}, paused_replicas="4"), "50%", "100%", last=True)
    half = by_keda(8, own_stamp=OPERATION, paused_replicas="4")
    assert RECOVER.settled(half, last.before, last.after, OPERATION) is Outcome.NOT_APPLIED
    params = RECOVER.part_params.model_validate({"do": "Scale", "stages": ["50%", "100%"], "last": True})  # type: ignore[union-attr]
    assert pauses(RECOVER.plan_again(half, params, OPERATION, last.before, last.after)) == [None]


@pytest.mark.parametrize(
    ("saved", "pause"),
    [({"replicas": 8, "pause": 8}, "8"), ({"replicas": 8, "pause": 0}, None), ({"replicas": 8}, None)],
)
def test_a_pause_from_before_the_shutdown_comes_back_unless_it_was_made_for_it(saved: Json, pause: str | None) -> None:
    before = {"name": "workers"} | ({"pausedReplicas": saved["pause"]} if "pause" in saved else {})
    seen = by_keda(4, {"replicas": 8, "scaledObject": before}, paused_replicas="4")
    assert pauses(keda_stage(seen, "100%", last=True)) == [8, pause]


def test_what_was_at_zero_is_freed_in_the_last_stage() -> None:
    idle = {"replicas": 0, "scaledObject": {"name": "workers"}}
    assert keda_stage(by_keda(0, idle, paused_replicas="0"), 1).is_empty
    assert pauses(keda_stage(by_keda(0, idle, paused_replicas="0"), 1, "100%", last=True)) == [0, None]


def test_a_scaled_object_that_no_shutdown_has_seen_is_as_before_in_the_end() -> None:
    first = keda_stage(by_keda(0, SAVED), 1)
    assert (pauses(first), own_note(first)) == ([1, "1"], KEDA | {"stage": 1})


def test_a_recovery_that_may_not_touch_keda_does_not_begin() -> None:
    with pytest.raises(Refused) as refusal:
        check(app(0, KEDA).target)
    assert "write scaledObject: Patch in recover" in str(refusal.value)
    assert check(app(0, KEDA).target, scaledObject="Patch").is_empty
    with pytest.raises(Refused):
        scale(by_keda(0, SAVED, paused_replicas="0"), 1)


def test_the_parts_know_whether_keda_may_be_paused() -> None:
    parts = expanded("shutdown", OBJECTS | {"scaledObject": "Patch"})
    assert [p.params.get("scaledObject") for p in parts] == [None, "Patch", "Patch"]
    parts = expanded("recover", OBJECTS | {"scaledObject": "Patch"})
    assert {p.params.get("do"): p.params.get("scaledObject") for p in parts} == {
        "Check": "Patch",
        "Scale": "Patch",
        "Traffic": None,
    }


# -- whether it is down ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("wanted", "status", "state"),
    [
        (0, {"observedGeneration": 1}, "Passed"),
        (0, {"observedGeneration": 0}, "Waiting"),
        (0, {"observedGeneration": 1, "replicas": 3, "updatedReplicas": 3, "availableReplicas": 3}, "Inconclusive"),
        (2, {"observedGeneration": 1, "replicas": 2, "updatedReplicas": 2, "availableReplicas": 2}, "Waiting"),
    ],
)
def test_down_is_when_none_is_wanted_and_none_left(wanted: int, status: Json, state: str) -> None:
    seen = app(wanted).target | {"status": status}
    assert SHUTDOWN.rollout(seen, {"replicas": 0}, None).state == state


def test_a_service_that_is_shut_down_asks_nothing_of_that_kind() -> None:
    running = app(2).target | {"status": {"observedGeneration": 1, "replicas": 2, "updatedReplicas": 2}}
    running["status"]["availableReplicas"] = 2
    assert SHUTDOWN.rollout(running, {"selector": {"app": "nobody"}}, None).state == "Passed"


@pytest.mark.parametrize("selector", [None, {}])
def test_a_service_without_a_selector_cannot_be_cut_this_way(selector: Json | None) -> None:
    with pytest.raises(Refused) as refusal:
        plan("shutdown", service(selector), selector={"app": "nobody"})
    assert refusal.value.reason is Reason.INVALID_PARAMETERS


def test_the_inverse_of_a_shutdown_forgets_what_was_saved() -> None:
    back = SHUTDOWN.restore(app(0, SAVED), {"replicas": 8}, OPERATION)
    assert body_of(back)["spec"] == {"replicas": 8}
    assert note(back) is None


# -- recover -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("stages", "saved", "replicas"),
    [
        ([1], 8, 1),
        ([1, "25%"], 8, 2),
        ([1, "25%", "50%"], 8, 4),
        ([1, "100%"], 8, 8),
        # rounded up, never more than was saved, never fewer than in a stage before
        ([1, "25%"], 3, 1),
        ([1, "50%"], 3, 2),
        ([1, "1%"], 1000, 10),
        ([5], 3, 3),
        ([4, "25%"], 8, 4),
        ([1], 0, 0),
        (["100%"], 0, 0),
        ([], 8, 0),
    ],
)
def test_replicas_of_a_stage(stages: list[int | str], saved: int, replicas: int) -> None:
    assert replicas_at(stages, saved) == replicas


def test_a_stage_goes_up_and_keeps_what_is_saved() -> None:
    change = scale(app(1, SAVED), 1, "25%")
    assert body_of(change)["spec"] == {"replicas": 2}
    assert json.loads(note(change)) == SAVED | {"stage": 2}
    assert change.message == "covet-app: replicas 1 → 2 of 8"


def test_the_last_stage_forgets_what_was_saved_and_its_inverse_knows_it_again() -> None:
    change = scale(app(4, SAVED), 1, "50%", "100%", last=True)
    assert body_of(change)["spec"] == {"replicas": 8}
    assert note(change) is None
    back = RECOVER.restore(app(8), change.before, OPERATION)
    assert body_of(back)["spec"] == {"replicas": 4}
    assert json.loads(note(back)) == SAVED


def test_what_was_at_zero_stays_there() -> None:
    assert scale(app(0, {"replicas": 0}), 1).is_empty
    last = scale(app(0, {"replicas": 0}), 1, "100%", last=True)
    assert body_of(last)["spec"] == {"replicas": 0}
    assert note(last) is None


def test_what_others_have_scaled_up_stays() -> None:
    assert scale(app(3, SAVED), 1).message == "covet-app: others have scaled it to 3, it stays"
    assert scale(app(3, SAVED), 1).is_empty
    assert body_of(scale(app(12, SAVED), 1, "100%", last=True))["spec"] == {"replicas": 12}


def test_what_others_have_scaled_down_in_between_is_left_to_them() -> None:
    with pytest.raises(Refused) as refusal:
        scale(app(1, SAVED), 1, "25%", "50%")
    assert refusal.value.reason is Reason.TARGET_CHANGED
    assert "has 1 replicas instead of the 2 of the stage before" in str(refusal.value)


def test_nothing_saved_is_nothing_done() -> None:
    assert scale(app(0), 1).is_empty
    assert plan("recover", service({"app": "nobody"}), do="Traffic").is_empty


@pytest.mark.parametrize(
    "saved",
    [
        "",
        "{",
        "[]",
        "null",
        "{}",
        '{"replicas": "8"}',
        '{"replicas": -1}',
        '{"replicas": true}',
        '{"replicas": 99999999999}',
        '{"replicas": 1, "hpa": {"name": "a"}}',
        '{"replicas": 1, "hpa": [1]}',
        '{"selector": ["app"]}',
        "[" * 100_000,
    ],
)
def test_a_saved_state_that_somebody_has_spoilt_is_never_used(saved: str) -> None:
    if saved == "":
        assert saved_of(app(0, saved).target) is None
        return
    with pytest.raises(Refused) as refusal:
        scale(app(0, saved), 1)
    assert refusal.value.reason is Reason.INVALID_PARAMETERS
    assert len(str(refusal.value)) < 400


def test_a_spoilt_state_lets_nothing_else_in() -> None:
    sneaky = SAVED | {"template": {"spec": {}}, "paused": True}
    assert body_of(scale(app(0, sneaky), 1))["spec"] == {"replicas": 1}


def test_traffic_comes_back_whole() -> None:
    change = plan("recover", service({"app": "nobody", "x": "y"}, {"selector": {"app": "covet"}}), do="Traffic")
    assert body_of(change)["spec"] == {"selector": {"app": "covet", "x": None}}
    assert note(change) is None


HELD = SAVED | {"hpa": BOUNDS}


def test_an_hpa_is_held_at_each_stage_and_freed_in_the_last() -> None:
    change = scale(app(0, HELD, hpa=[hpa(least=4, most=10)]), 1)
    bounds, replicas = change.forward
    assert isinstance(bounds, Patch)
    assert isinstance(replicas, Patch)
    assert bounds.body["spec"] == {"minReplicas": 1, "maxReplicas": 1}
    assert replicas.body["spec"] == {"replicas": 1}
    last = scale(app(4, HELD, hpa=[hpa(least=4, most=4)]), "50%", "100%", last=True)
    bounds, replicas = last.forward
    assert isinstance(bounds, Patch)
    assert isinstance(replicas, Patch)
    assert bounds.body["spec"] == {"minReplicas": 4, "maxReplicas": 10}
    assert replicas.body["spec"] == {"replicas": 8}


def test_the_inverse_takes_the_replicas_back_before_the_bounds() -> None:
    change = scale(app(1, HELD, hpa=[hpa(least=1, most=1)]), 1, "25%")
    back = RECOVER.restore(app(2, HELD, hpa=[hpa(least=2, most=2)]), change.before, OPERATION)
    assert [list(w.body["spec"]) for w in back.forward if isinstance(w, Patch)] == [
        ["replicas"],
        ["minReplicas", "maxReplicas"],
    ]


def test_an_hpa_that_was_not_there_is_left_alone() -> None:
    change = scale(app(0, SAVED, hpa=[hpa()]), 1)
    assert len(change.forward) == 1


def stamped(
    replicas: int, saved: Any, bounds: tuple[int, int], *, on_app: bool = False, on_hpa: bool = True
) -> Observed:
    seen = app(replicas, saved, hpa=[hpa(least=bounds[0], most=bounds[1], stamp=OPERATION if on_hpa else "")])
    if on_app:
        seen.target["metadata"].setdefault("annotations", {})[ANNOTATION_OPERATION] = OPERATION
    return seen


@pytest.mark.parametrize(
    ("seen", "outcome"),
    [
        (stamped(2, HELD, (2, 2), on_hpa=False), Outcome.NOT_APPLIED),
        (stamped(2, HELD, (4, 4)), Outcome.NOT_APPLIED),
        # the HPA has been quicker than the second write, which is to write the stage down
        (stamped(4, HELD, (4, 4)), Outcome.NOT_APPLIED),
        (stamped(4, HELD, (4, 4), on_app=True), Outcome.APPLIED),
        # others
        (stamped(3, HELD, (2, 2), on_hpa=False), Outcome.UNKNOWN),
        (stamped(4, {"replicas": 5}, (4, 4)), Outcome.UNKNOWN),
    ],
)
def test_a_look_after_a_crash_sees_what_the_hpa_has_done(seen: Observed, outcome: Outcome) -> None:
    change = scale(app(2, HELD, hpa=[hpa(least=2, most=2)]), "25%", "50%")
    assert RECOVER.settled(seen, change.before, change.after, OPERATION) is outcome


def test_a_look_after_a_crash_in_the_last_stage() -> None:
    change = scale(app(4, HELD, hpa=[hpa(least=4, most=4)]), "50%", "100%", last=True)
    half = stamped(4, HELD, (4, 10))
    assert RECOVER.settled(half, change.before, change.after, OPERATION) is Outcome.NOT_APPLIED
    again = scale(half, "50%", "100%", last=True)
    assert again.after == change.after
    assert [list(w.body["spec"]) for w in again.forward if isinstance(w, Patch)] == [["replicas"]]


# -- looking first -----------------------------------------------------------------------------------------------------


def check(*objects: Json, **params: Any) -> Change:
    return plan("recover", Observed(stored(workload()), {"objects": list(objects)}), do="Check", **params)


def test_a_look_that_finds_all_changes_nothing() -> None:
    found = check(app(0, SAVED).target, service({"app": "emergency-shutdown"}, {"selector": {"app": "a"}}).target)
    assert found.is_empty
    assert found.message == "the saved state is there"
    assert check(app(2).target, service({"app": "covet"}).target).is_empty, "what runs needs no saved state"


@pytest.mark.parametrize("lost", [app(0).target, service({"app": "emergency-shutdown"}).target])
def test_a_look_refuses_when_something_is_down_and_nothing_is_saved(lost: Json) -> None:
    with pytest.raises(Refused) as refusal:
        check(app(0, SAVED).target, lost)
    assert refusal.value.reason is Reason.NOTHING_SAVED
    assert f"{lost['kind']}/{lost['metadata']['name']}" in str(refusal.value)


# -- from manifests ----------------------------------------------------------------------------------------------------


def from_manifests(seen: Observed, manifest: str, **changes: Any) -> Change:
    source = {"metadata": {"name": "backup"}, "data": {"app.yaml": manifest}}
    chosen = {"configMap": "backup", "sha256": digest_of(source["data"])} | changes
    known = Observed(seen.target, dict(seen.related) | {"source": [source]})
    objects = [["Deployment", "covet-app"]]
    return plan("recover", known, do="Apply", objects=objects, **{"from": chosen})


MANIFEST = json.dumps(workload(image="covet:good", replicas=5) | {"status": {"replicas": 5}})


def test_a_manifest_is_applied_without_its_replicas_and_saved() -> None:
    change = from_manifests(app(0), MANIFEST)
    (write,) = change.forward
    assert isinstance(write, Apply)
    assert "replicas" not in write.body["spec"]
    assert "status" not in write.body
    assert write.body["metadata"]["uid"] == "uid-w"
    assert write.body["metadata"]["resourceVersion"] == "7"
    saved = json.loads(write.body["metadata"]["annotations"][ANNOTATION_BEFORE_SHUTDOWN])
    assert saved["replicas"] == 5
    assert saved["manifest"].startswith("backup ")
    assert write.body["metadata"]["annotations"][ANNOTATION_OPERATION] == OPERATION


def test_bounds_that_a_shutdown_saved_outlive_the_manifest() -> None:
    held = from_manifests(app(0, HELD, hpa=[hpa(least=1, most=1)]), MANIFEST)
    fresh = from_manifests(app(0, hpa=[hpa(least=3, most=9)]), MANIFEST)
    for change, bounds in ((held, (4, 10)), (fresh, (3, 9))):
        (write,) = change.forward
        assert isinstance(write, Apply)
        saved = json.loads(write.body["metadata"]["annotations"][ANNOTATION_BEFORE_SHUTDOWN])
        assert (saved["hpa"]["minReplicas"], saved["hpa"]["maxReplicas"]) == bounds


def test_applied_once_is_applied() -> None:
    change = from_manifests(app(0), MANIFEST)
    (write,) = change.forward
    assert isinstance(write, Apply)
    done = app(0, write.body["metadata"]["annotations"][ANNOTATION_BEFORE_SHUTDOWN])
    assert from_manifests(done, MANIFEST).is_empty
    assert RECOVER.settled(done, change.before, change.after, "another") is not Outcome.NOT_APPLIED


def test_what_the_author_did_not_vouch_for_is_not_applied() -> None:
    with pytest.raises(Refused) as refusal:
        from_manifests(app(0), MANIFEST, sha256="0" * 64)
    assert refusal.value.reason is Reason.NOTHING_SAVED
