"""Nobody can see, for a while, whether a change was made: it is neither denied, nor made again, nor left."""

import asyncio
import threading
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import pytest

from e2e.world import hpa
from faults.drill import (
    Ground,
    Scene,
    effects,
    knows_policies,
    new_namespace,
    open_scene,
    operation,
    phase,
    rolled_out,
    send,
    steps,
    tell,
)
from faults.shapes import DEPLOYMENTS, INCIDENTS, NO_GUARDS, POLICIES, TARGET, deployment, incident, label
from testbed.api import eventually
from testbed.faultproxy import CUT, Answer, Fault, FaultProxy, Seen
from testbed.operator_process import alert, payload

Json = dict[str, Any]
WITH_SHORT_LEASE = True
ALWAYS = 1_000_000
INTENT, CHANGE = "status room=Executing", "patch deployment replicas="


@pytest.fixture
async def scene(ground: Ground) -> AsyncIterator[Scene]:
    ground.proxy.forget()
    if not ground.operator.alive:
        await asyncio.to_thread(ground.operator.start)
    await asyncio.to_thread(ground.operator.wait_leading)
    async with open_scene(ground) as opened:
        yield opened
    ground.proxy.forget()
    ground.proxy.speak("incidents")
    ground.proxy.cut_watches("incidents")


@dataclass
class Stage:
    """A namespace with a target, a policy for it, and what is asked of them."""

    scene: Scene
    namespace: str

    @classmethod
    async def set_up(cls, scene: Scene, namespace: str, step: Json, **guards: Any) -> "Stage":
        await new_namespace(scene.admin, namespace)
        await scene.admin.create(_policy(step, guards), namespace)
        created = time.time()
        await scene.admin.create(deployment(), namespace)
        await rolled_out(scene.admin, namespace)
        await eventually(lambda: knows_policies(scene.ground.proxy, created), timeout=30)
        stage = cls(scene, namespace)
        assert await scene.witness.sees(lambda: stage.replicas() == [1], 10)
        return stage

    def writes(self, what: str) -> Any:
        return lambda seen: seen.namespace == self.namespace and seen.is_write and label(seen).startswith(what)

    def replicas(self) -> list[int]:
        """Of the target, as they changed."""
        return [count for count, _ in self.scene.witness.states(self.namespace)]

    def find(self, name: str = "applied") -> Json:
        found = self.scene.witness.incidents(self.namespace)
        return next((one for one in found if one["metadata"]["name"] == name), {})

    def step(self, name: str = "applied") -> Json:
        return next(iter(steps(self.find(name))), {})

    def changes(self) -> list[str]:
        return effects(self.scene.ground.writes.of(self.namespace))

    async def sees(self, question: Any, what: str, timeout: float = 60) -> None:
        assert await self.scene.witness.sees(question, timeout), f"{what}: not within {timeout:g} s\n{self.story()}"

    def story(self) -> str:
        found = self.scene.witness.incidents(self.namespace)
        return "\n".join([f"replicas {self.replicas()}", *(line for one in found for line in tell(one))])


def _policy(step: Json, guards: Json) -> Json:
    return {
        "apiVersion": "paramedic.dev/v1alpha1",
        "kind": "RemediationPolicy",
        "metadata": {"name": "small"},
        "spec": {
            "mode": "Auto",
            "match": {"alerts": [{"matchers": ['alertname="Small"']}], "incidents": {"types": ["HighLoad"]}},
            "incident": {"type": "HighLoad", "severity": "P1"},
            "target": {"apiVersion": "apps/v1", "kind": "Deployment", "name": TARGET},
            "guards": NO_GUARDS | guards,
            "steps": [{"name": "room", "verify": {"rollout": True, "timeout": "90s"}} | step],
        },
    }


@contextmanager
def _refused(proxy: FaultProxy, namespace: str) -> Iterator[threading.Event]:
    """While the event is set, whatever is asked of the namespace's Deployments is forbidden."""
    refusing = threading.Event()

    def matches(seen: Seen) -> bool:
        return refusing.is_set() and seen.namespace == namespace and seen.resource == "deployments"

    rule = proxy.on(matches, Fault(forward=False, answer=Answer(403)), times=ALWAYS)
    try:
        yield refusing
    finally:
        proxy.forget(rule)


# -- the target cannot be seen -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["its answer is lost", "the operator is killed"])
async def test_a_change_that_cannot_be_looked_at_is_unknown_and_put_back_when_it_can(
    scene: Scene, fresh_name: str, how: str
) -> None:
    """The right to the target is taken away in the moment of the change, and comes back before its lease ends."""
    stage = await Stage.set_up(scene, fresh_name, {"scale": {"replicas": 3}, "ttl": "25s"})
    operator = scene.ground.operator
    with _refused(scene.ground.proxy, fresh_name) as refusing:

        def changed(_: Seen) -> None:
            refusing.set()
            if how == "the operator is killed":
                operator.kill()

        scene.ground.proxy.on(stage.writes(f"{CHANGE}3"), Fault(after=changed, answer=CUT))
        await scene.admin.create(incident(), fresh_name)
        await stage.sees(lambda: stage.replicas() == [1, 3], "the change")
        if how == "the operator is killed":
            await eventually(lambda: not operator.alive, what="it is killed")
            await asyncio.to_thread(operator.start)
        await stage.sees(lambda: phase(stage.find()) == "Escalated", "it is left to people")
        step, escalated = stage.step(), stage.find()
        assert (step["state"], step["reason"]) == ("Unknown", "OutcomeUnknown"), stage.story()
        assert "cannot be seen" in step["message"]
        assert step["after"], "what has to be put back is no longer known"
        assert escalated["status"]["escalation"]["reason"] == "OutcomeUnknown"
        assert len(stage.changes()) == 1, "it was acted on again"
    await stage.sees(lambda: stage.step()["state"] == "Reverted", "it is put back at the end of its lease")
    assert stage.replicas() == [1, 3, 1]
    assert len(stage.changes()) == 2
    stamps = [operation(escalated, 0), operation(stage.find(), 0, back=True)]
    assert scene.witness.stamps(fresh_name) == stamps


async def test_a_change_whose_target_is_gone_has_failed(scene: Scene, fresh_name: str) -> None:
    """Nothing is held that could be put back."""
    stage = await Stage.set_up(scene, fresh_name, {"scale": {"replicas": 3}, "ttl": "10m"})
    operator = scene.ground.operator
    scene.ground.proxy.on(stage.writes(f"{CHANGE}3"), Fault(after=lambda _: operator.kill(), answer=CUT))
    await scene.admin.create(incident(), fresh_name)
    await stage.sees(lambda: stage.replicas() == [1, 3], "the change")
    await eventually(lambda: not operator.alive, what="it is killed")
    await scene.admin.delete(DEPLOYMENTS, TARGET, fresh_name)
    await eventually(lambda: _is_gone(scene, fresh_name), timeout=30, what="the target is gone")
    await asyncio.to_thread(operator.start)
    await stage.sees(lambda: stage.step().get("state") == "Failed", "the step has failed")
    assert stage.step()["reason"] == "TargetNotFound"
    assert not stage.step().get("after")
    await scene.admin.delete(INCIDENTS, "applied", fresh_name)
    await stage.sees(lambda: not stage.find(), "nothing is held that would keep it from being deleted")


async def test_bounds_that_were_moved_are_not_taken_for_gone_with_the_target(scene: Scene, fresh_name: str) -> None:
    """The autoscaler outlives the target, and nobody but a person could put it back."""
    stage = await Stage.set_up(scene, fresh_name, {"scale": {"replicas": 3}, "ttl": "10m"})
    await scene.admin.create(hpa("auto", TARGET, 1, 4), fresh_name)
    operator = scene.ground.operator
    rule = Fault(after=lambda _: operator.kill(), answer=CUT)
    scene.ground.proxy.on(lambda seen: seen.is_write and seen.resource == "horizontalpodautoscalers", rule)
    await scene.admin.create(incident(), fresh_name)
    await eventually(lambda: not operator.alive, timeout=30, what="it is killed")
    await scene.admin.delete(DEPLOYMENTS, TARGET, fresh_name)
    await eventually(lambda: _is_gone(scene, fresh_name), timeout=30, what="the target is gone")
    await asyncio.to_thread(operator.start)
    await stage.sees(lambda: stage.step().get("state") == "Unknown", "it is left to people")
    assert "HorizontalPodAutoscaler/auto still has minReplicas 3 (before: minReplicas 1)" in stage.step()["message"]
    assert stage.step()["after"], "what has to be put back is no longer known"


async def _is_gone(scene: Scene, namespace: str) -> bool:
    return await scene.admin.find(DEPLOYMENTS, TARGET, namespace) is None


# -- killed before anything was done, and not wanted any more ----------------------------------------------------------


async def _killed_after_the_intent(stage: Stage) -> None:
    """The intent is stored, and the operator dead before it has done anything."""
    operator = stage.scene.ground.operator
    stage.scene.ground.proxy.on(stage.writes(INTENT), Fault(after=lambda _: operator.kill(), answer=CUT))
    await stage.scene.admin.create(incident(), stage.namespace)
    await stage.sees(lambda: stage.step().get("state") == "Executing", "the intent is stored")
    await eventually(lambda: not operator.alive, what="it is killed")


@pytest.mark.parametrize("what", ["paused", "deleted"])
async def test_an_intent_is_dropped_when_its_policy_holds(scene: Scene, fresh_name: str, what: str) -> None:
    stage = await Stage.set_up(scene, fresh_name, {"scale": {"replicas": 3}})
    await _killed_after_the_intent(stage)
    if what == "paused":
        await scene.admin.patch(POLICIES, "small", {"spec": {"paused": True}}, fresh_name)
    else:
        await scene.admin.delete(POLICIES, "small", fresh_name)
    await asyncio.to_thread(scene.ground.operator.start)
    wanted = {"paused": ("Blocked", "PolicyPaused"), "deleted": ("Escalated", "NotNeeded")}[what]
    await stage.sees(lambda: (phase(stage.find()), stage.step().get("reason")) == wanted, "it is held")
    assert stage.replicas() == [1]
    assert not stage.step().get("attempts")
    if what == "paused":
        await scene.admin.patch(POLICIES, "small", {"spec": {"paused": False}}, fresh_name)
        await stage.sees(lambda: phase(stage.find()) == "Resolved", "it goes on")
        assert stage.replicas() == [1, 3]
    assert len(stage.changes()) == (1 if what == "paused" else 0)


LEASED: Json = {"scale": {"replicas": 3}, "ttl": "3s", "verify": {}}
DOES_NOT_HELP: Json = {"scale": {"replicas": 3}, "verify": {"rollout": True, "timeout": "2s"}}


@pytest.mark.parametrize("step", [LEASED, DOES_NOT_HELP], ids=["its lease is over", "it did not help"])
@pytest.mark.parametrize("who", ["the incident", "the policy"])
async def test_what_was_to_be_put_back_waits_for_the_end_of_a_pause(
    scene: Scene, fresh_name: str, who: str, step: Json
) -> None:
    """Killed when only the intent to put it back is stored."""
    stage = await Stage.set_up(scene, fresh_name, step)
    await scene.admin.patch(DEPLOYMENTS, TARGET, {"spec": {"minReadySeconds": 300}}, fresh_name)
    operator = scene.ground.operator

    def puts_back(seen: Seen) -> bool:
        return seen.namespace == fresh_name and seen.is_write and "(back Executing)" in label(seen)

    scene.ground.proxy.on(puts_back, Fault(after=lambda _: operator.kill(), answer=CUT))
    await scene.admin.create(incident(), fresh_name)
    await stage.sees(lambda: "revert" in stage.step(), "the intent is stored")
    await eventually(lambda: not operator.alive, what="it is killed")
    held = (INCIDENTS, "applied") if who == "the incident" else (POLICIES, "small")
    await scene.admin.patch(*held, {"spec": {"paused": True}}, fresh_name)
    await asyncio.to_thread(operator.start)
    await stage.sees(lambda: "revert" not in stage.step(), "the intent is dropped")
    assert stage.replicas() == [1, 3]
    await scene.admin.patch(*held, {"spec": {"paused": False}}, fresh_name)
    await stage.sees(lambda: stage.step()["state"] == "Reverted", "it is put back")
    assert stage.replicas() == [1, 3, 1]
    assert len(stage.changes()) == 2


@pytest.mark.parametrize("who", ["the incident", "the policy"])
async def test_a_job_that_was_not_made_waits_for_the_end_of_a_pause(scene: Scene, fresh_name: str, who: str) -> None:
    container = {"name": "check", "image": "check:1", "command": ["check"]}
    run = {"runJob": {"template": {"spec": {"containers": [container]}}}, "verify": {}}
    stage = await Stage.set_up(scene, fresh_name, run)
    await _killed_after_the_intent(stage)
    held = (INCIDENTS, "applied") if who == "the incident" else (POLICIES, "small")
    await scene.admin.patch(*held, {"spec": {"paused": True}}, fresh_name)
    await asyncio.to_thread(scene.ground.operator.start)
    await stage.sees(lambda: phase(stage.find()) == "Blocked", "it waits")
    assert await scene.admin.list("batch/v1/jobs", fresh_name) == []
    await scene.admin.patch(*held, {"spec": {"paused": False}}, fresh_name)
    await stage.sees(lambda: phase(stage.find()) == "Resolved", "it goes on")
    assert len(await scene.admin.list("batch/v1/jobs", fresh_name)) == 1
    assert len(stage.changes()) == 1


async def test_a_job_that_was_made_is_seen_to_its_end_though_paused(scene: Scene, fresh_name: str) -> None:
    container = {"name": "check", "image": "check:1", "command": ["check"]}
    run = {"runJob": {"template": {"spec": {"containers": [container]}}}, "verify": {}}
    stage = await Stage.set_up(scene, fresh_name, run)
    operator = scene.ground.operator
    scene.ground.proxy.on(stage.writes("POST jobs"), Fault(after=lambda _: operator.kill(), answer=CUT))
    await scene.admin.create(incident(), fresh_name)
    await eventually(lambda: not operator.alive, timeout=30, what="it is killed")
    await scene.admin.patch(POLICIES, "small", {"spec": {"paused": True}}, fresh_name)
    await asyncio.to_thread(operator.start)
    await stage.sees(lambda: phase(stage.find()) == "Resolved", "its end is told")
    assert len(stage.changes()) == 1


async def test_a_job_that_the_api_server_does_not_take_is_asked_for_ever_more_seldom(
    scene: Scene, fresh_name: str
) -> None:
    """Without a pause between the attempts there would be hundreds, and as many writes of the status."""
    container = {"name": "check", "image": "check:1", "command": ["check"]}
    run = {"runJob": {"template": {"spec": {"containers": [container]}}}, "verify": {}}
    stage = await Stage.set_up(scene, fresh_name, run)
    asked: list[Seen] = []
    refused = Fault(before=asked.append, forward=False, answer=Answer(500))
    rule = scene.ground.proxy.on(stage.writes("POST jobs"), refused, times=ALWAYS)
    await scene.admin.create(incident(), fresh_name)
    await eventually(lambda: len(asked) >= 4, timeout=30, what="four attempts")
    took = asked[3].at - asked[0].at
    assert took >= 0.2 + 0.4 + 0.8, f"four attempts in {took:.1f} s"
    scene.ground.proxy.forget(rule)
    await stage.sees(lambda: phase(stage.find()) == "Resolved", "it goes on")
    assert len(stage.changes()) == 1


# -- the intent cannot be seen -----------------------------------------------------------------------------------------


@contextmanager
def _unreadable(proxy: FaultProxy, namespace: str, *, held: bool) -> Iterator[None]:
    """Nobody reads the incident ``applied``, nor hears of it; reads are held back, or fail at once."""
    free = threading.Event()

    def matches(seen: Seen) -> bool:
        is_read = seen.resource == "incidents" and seen.method == "GET" and not seen.is_watch
        return is_read and not free.is_set() and (seen.namespace, seen.name) == (namespace, "applied")

    fault = Fault(before=lambda _: free.wait(60)) if held else Fault(forward=False, answer=CUT)
    rule = proxy.on(matches, fault, times=ALWAYS)
    try:
        yield
    finally:
        free.set()
        proxy.forget(rule)
        proxy.speak("incidents")
        proxy.cut_watches("incidents")


@pytest.mark.parametrize("held", [True, False], ids=["reads are held back", "reads fail"])
async def test_an_intent_that_may_be_stored_holds_back_others_on_the_target(
    scene: Scene, fresh_name: str, held: bool
) -> None:
    """Its answer is lost, and it cannot be read: another incident's step on the same target waits until it is known."""
    stage = await Stage.set_up(scene, fresh_name, {"scale": {"replicas": "+1"}})
    proxy = scene.ground.proxy
    with _unreadable(proxy, fresh_name, held=held):
        lost = Fault(before=lambda _: proxy.silence("incidents"), answer=CUT)
        rule = proxy.on(stage.writes(INTENT), lost)
        await scene.admin.create(incident(), fresh_name)
        await stage.sees(lambda: stage.step().get("state") == "Executing", "the intent is stored")
        if not held:  # it has tried to read it, and gone on
            await eventually(lambda: _reads(proxy, fresh_name) > 4, timeout=20, what="reads that fail")
        assert rule.fired.is_set()
        await send(scene, payload(alert("Small", namespace=fresh_name)))
        await stage.sees(lambda: _other(stage) in ("Blocked", "Verifying", "Succeeded"), "the other has come to it")
        assert stage.replicas() == [1], f"both act on one target\n{stage.story()}"
        assert _other(stage) == "Blocked"
        assert steps(_the_other(stage))[0]["reason"] == "TargetBusy"
    await stage.sees(lambda: stage.step()["state"] == _other(stage) == "Succeeded", "one after the other")
    assert stage.replicas() == [1, 2, 3]
    assert len(stage.changes()) == 2
    order = [operation(stage.find(), 0), operation(_the_other(stage), 0)]
    assert scene.witness.stamps(fresh_name) == order


async def test_an_intent_that_was_not_stored_does_not_use_up_what_its_policy_allows(
    scene: Scene, fresh_name: str
) -> None:
    """The policy allows one action in an hour. Neither the write nor the first reads after it come through."""
    one_an_hour = {"actions": 1, "period": "1h"}
    stage = await Stage.set_up(scene, fresh_name, {"scale": {"replicas": "+1"}}, rateLimit=one_an_hour)
    proxy = scene.ground.proxy
    with _unreadable(proxy, fresh_name, held=False):
        lost = Fault(before=lambda _: proxy.silence("incidents"), forward=False, answer=CUT)
        proxy.on(stage.writes(INTENT), lost)
        await scene.admin.create(incident(), fresh_name)
        await stage.sees(lambda: _reads(proxy, fresh_name) > 4 or phase(stage.find()) == "Blocked", "it goes on", 20)
    await stage.sees(lambda: phase(stage.find()) == "Resolved", "it is remedied")
    told = [entry["reason"] for entry in stage.find()["status"]["timeline"]]
    assert "RateLimited" not in told, stage.story()
    assert stage.replicas() == [1, 2]
    assert len(stage.changes()) == 1


def _reads(proxy: FaultProxy, namespace: str) -> int:
    """How often the incident was to be read."""
    return sum(
        (one.resource, one.method, one.namespace, one.name) == ("incidents", "GET", namespace, "applied")
        for one in list(proxy.seen)
    )


def _the_other(stage: Stage) -> Json:
    found = stage.scene.witness.incidents(stage.namespace)
    return next((one for one in found if one["metadata"]["name"] != "applied"), {})


def _other(stage: Stage) -> str:
    return str(next(iter(steps(_the_other(stage))), {}).get("state", ""))
