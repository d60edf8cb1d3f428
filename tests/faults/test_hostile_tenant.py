"""Whoever may write an Incident cannot make Paramedic act once more by it, or forget that it has acted."""

import asyncio
import time
import uuid
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from typing import Any

import pytest

from faults.drill import (
    Ground,
    Scene,
    effects,
    gather_limited,
    knows_policies,
    new_namespace,
    observed,
    open_scene,
    phase,
    rolled_out,
    send,
    steps,
    tell,
)
from faults.shapes import API, BAD, DEPLOYMENTS, GOOD, INCIDENTS, NO_GUARDS, TARGET, deployment
from testbed.api import eventually
from testbed.operator_process import alert, payload

Json = dict[str, Any]
FINALIZER = "paramedic.dev/put-back"
# Acting once more shows as one replica more.
STEP: Json = {"name": "room", "scale": {"replicas": "+1"}}
HOUR = {"ttl": "1h"}


@dataclass(frozen=True)
class Situation:
    """A phase, and the policy that leads to it."""

    name: str
    phases: tuple[str, ...]
    effects: int
    policy: Json = field(default_factory=dict)
    step: Json = field(default_factory=dict)


SITUATIONS = (
    Situation("Verifying", ("Verifying",), 1, {"verify": {"alertResolved": True, "timeout": "10m"}}),
    Situation("Resolved", ("Resolved",), 1, {"verify": {"rollout": True, "timeout": "90s"}}),
    Situation("holding a lease", ("Remediating",), 1, {"verify": {"rollout": True, "timeout": "90s"}}, HOUR),
    Situation(
        "Blocked",
        ("Blocked",),
        0,
        {"guards": NO_GUARDS | {"windows": {"deny": [{"schedule": "* * * * *", "duration": "24h"}]}}},
    ),
    Situation("AwaitingApproval", ("AwaitingApproval",), 0, {"mode": "Approve"}),
    Situation(
        "Escalated",
        ("Escalated",),
        1,
        {"verify": {"prometheus": {"query": "up", "condition": "value > 0"}, "timeout": "1s"}},
    ),
)


def _without(*fields: str) -> Callable[[Json], Json]:
    return lambda found: {"metadata": {name: dict.fromkeys(found["metadata"].get(name) or {}) for name in fields}}


MEDDLINGS: dict[str, Callable[[Json], Json]] = {
    "all annotations and labels deleted": _without("annotations", "labels"),
    "annotations written": lambda _: {
        "metadata": {
            "annotations": {
                "kopf.paramedic.dev/last-handled-configuration": "{}",
                "kopf.zalando.org/progress": "{}",
                "paramedic.dev/operation": str(uuid.uuid4()),
                "paramedic.dev/incident": "another",
            }
        }
    },
    "labels written": lambda _: {"metadata": {"labels": {"app.kubernetes.io/managed-by": "somebody", "x": "y"}}},
    "all finalizers removed": lambda _: {"metadata": {"finalizers": None}},
    "a finalizer of others added": lambda found: {
        "metadata": {"finalizers": [*(found["metadata"].get("finalizers") or []), "example.com/mine"]}
    },
    "our finalizer added": lambda found: {
        "metadata": {"finalizers": sorted({*(found["metadata"].get("finalizers") or []), FINALIZER})}
    },
    "paused and released": lambda _: {"spec": {"paused": True}},
    "title and severity edited": lambda _: {"spec": {"title": "changed", "severity": "P0"}},
}


@dataclass
class Case:
    situation: Situation
    meddling: str
    namespace: str = field(default_factory=lambda: f"hostile-{uuid.uuid4().hex[:10]}")
    problems: list[str] = field(default_factory=list)

    async def reach(self, scene: Scene) -> None:
        await _prepare(scene, self.namespace, _policy(self.situation))
        body = alert("Hostile", namespace=self.namespace)
        await send(scene, payload(body))
        if self.situation.name in ("Resolved", "holding a lease"):
            await self._is(scene, lambda one: any(s["state"] == "Succeeded" for s in steps(one)), "helped")
            if self.situation.name == "Resolved":
                await send(scene, payload(body | {"status": "resolved", "endsAt": body["startsAt"]}))
        await self._is(scene, lambda one: phase(one) in self.situation.phases, self.situation.name)

    async def meddle(self, scene: Scene) -> None:
        """Three times, as each time the operator may have put something back."""
        for _ in range(3):
            found = (await scene.admin.list(INCIDENTS, self.namespace))[0]
            name = found["metadata"]["name"]
            await scene.admin.patch(INCIDENTS, name, MEDDLINGS[self.meddling](found), self.namespace)
            if self.meddling.startswith("paused"):
                await asyncio.sleep(0.3)
                await scene.admin.patch(INCIDENTS, name, {"spec": {"paused": False}}, self.namespace)
            await asyncio.sleep(0.3)

    async def judge(self, scene: Scene) -> None:
        found = await scene.admin.list(INCIDENTS, self.namespace)
        done = effects(scene.ground.writes.of(self.namespace))
        replicas = (await scene.admin.get(DEPLOYMENTS, TARGET, self.namespace))["spec"]["replicas"]
        if len(done) != self.situation.effects or replicas != 1 + self.situation.effects:
            self.problems.append(
                f"{len(done)} effects instead of {self.situation.effects}, {replicas} replicas: {done}"
            )
        self.problems += [f"is {phase(one)} now" for one in found if phase(one) not in self.situation.phases]
        if len(found) != 1:
            self.problems.append(f"{len(found)} incidents")
        if self.problems:
            self.problems += [line for one in found for line in tell(one)]

    async def _is(self, scene: Scene, question: Callable[[Json], bool], what: str) -> None:
        witness = scene.witness
        reached = await witness.sees(lambda: any(question(one) for one in witness.incidents(self.namespace)), 30)
        story = "\n".join(line for one in witness.incidents(self.namespace) for line in tell(one))
        assert reached, f"not {what}:\n{story}"


def _policy(situation: Situation) -> Json:
    return {
        "apiVersion": API,
        "kind": "RemediationPolicy",
        "metadata": {"name": "hostile"},
        "spec": {
            "mode": "Auto",
            "match": {"alerts": [{"matchers": ['alertname="Hostile"']}]},
            "target": {"apiVersion": "apps/v1", "kind": "Deployment", "name": TARGET},
            "guards": NO_GUARDS,
            "steps": [STEP | situation.step],
        }
        | situation.policy,
    }


async def _prepare(scene: Scene, namespace: str, policy: Json) -> None:
    await new_namespace(scene.admin, namespace)
    await scene.admin.create(policy, namespace)
    created = time.time()
    await scene.admin.create(deployment(), namespace)
    await rolled_out(scene.admin, namespace)
    await eventually(lambda: knows_policies(scene.ground.proxy, created), timeout=30)


@pytest.fixture(scope="module")
def cases(ground: Ground) -> dict[tuple[str, str], Case]:
    """All of them at once: meddled with, judged, and meddled with once more after a restart."""
    found = {(s.name, m): Case(s, m) for s in SITUATIONS for m in MEDDLINGS}

    async def run() -> None:
        async with open_scene(ground) as scene:
            await gather_limited(12, *(case.reach(scene) for case in found.values()))
            await asyncio.gather(*(case.meddle(scene) for case in found.values()))
            await asyncio.to_thread(ground.operator.kill)
            await asyncio.to_thread(ground.operator.start)
            await asyncio.to_thread(ground.operator.wait_leading)
            await asyncio.gather(*(case.meddle(scene) for case in found.values()))
            await asyncio.sleep(2)
            await asyncio.gather(*(case.judge(scene) for case in found.values()))

    asyncio.run(run())
    return found


@pytest.mark.parametrize("meddling", MEDDLINGS)
@pytest.mark.parametrize("situation", [one.name for one in SITUATIONS])
def test_nothing_is_done_again(cases: dict[tuple[str, str], Case], situation: str, meddling: str) -> None:
    case = cases[situation, meddling]
    assert not case.problems, "\n".join([case.namespace, *case.problems])


@pytest.fixture
async def scene(ground: Ground) -> AsyncIterator[Scene]:
    async with open_scene(ground) as opened:
        yield opened


@pytest.mark.parametrize("restarted", [False, True], ids=["at once", "after a restart"])
async def test_a_deleted_incident_does_not_shorten_the_cooldown(scene: Scene, restarted: bool) -> None:
    """All that is left then is the stamp on the target."""
    situation = Situation("Verifying", ("Verifying",), 1, {"guards": NO_GUARDS | {"cooldown": "10m"}})
    case = Case(situation, "deleted")
    await case.reach(scene)
    await _delete_the_incident(scene, case.namespace)
    if restarted:
        await asyncio.to_thread(scene.ground.operator.kill)
        await asyncio.to_thread(scene.ground.operator.start)
        await asyncio.to_thread(scene.ground.operator.wait_leading)
    await send(scene, payload(alert("Hostile", namespace=case.namespace)))
    await case._is(scene, lambda one: phase(one) == "Blocked" and steps(one)[0]["reason"] == "Cooldown", "held back")
    await asyncio.sleep(1)
    case.situation = Situation("Blocked", ("Blocked",), 1)
    await case.judge(scene)
    assert not case.problems, "\n".join(case.problems)


async def test_a_lease_whose_finalizer_was_removed_is_put_back_once(scene: Scene) -> None:
    situation = Situation("holding a lease", ("Remediating", "Verifying"), 1, {"verify": {}}, {"ttl": "4s"})
    case = Case(situation, "finalizer removed")
    await case.reach(scene)
    found = (await scene.admin.list(INCIDENTS, case.namespace))[0]
    await scene.admin.patch(INCIDENTS, found["metadata"]["name"], {"metadata": {"finalizers": None}}, case.namespace)
    put_back = [1, 2, 1]
    assert await scene.witness.sees(lambda: _replicas(scene, case.namespace) == put_back, 15), tell(found)
    await asyncio.sleep(2)
    assert _replicas(scene, case.namespace) == put_back
    assert len(effects(scene.ground.writes.of(case.namespace))) == 2


async def test_a_held_incident_that_is_deleted_while_others_hold_it_too_is_put_back_once(scene: Scene) -> None:
    situation = Situation("holding a lease", ("Remediating",), 1, {"verify": {"rollout": True}}, HOUR)
    case = Case(situation, "deleted")
    await case.reach(scene)
    found = (await scene.admin.list(INCIDENTS, case.namespace))[0]
    name, others = found["metadata"]["name"], "example.com/mine"
    finalizers = {"metadata": {"finalizers": [*found["metadata"].get("finalizers", []), others]}}
    await scene.admin.patch(INCIDENTS, name, finalizers, case.namespace)
    await scene.admin.delete(INCIDENTS, name, case.namespace)
    assert await scene.witness.sees(lambda: _replicas(scene, case.namespace) == [1, 2, 1], 10), tell(found)
    await asyncio.sleep(1)
    left = await scene.admin.get(INCIDENTS, name, case.namespace)
    assert left["metadata"]["finalizers"] == [others], "ours is gone, theirs is untouched"
    for _ in range(3):
        await scene.admin.patch(INCIDENTS, name, {"metadata": {"labels": {"x": uuid.uuid4().hex}}}, case.namespace)
        await asyncio.sleep(0.3)
    await scene.admin.patch(INCIDENTS, name, {"metadata": {"finalizers": None}}, case.namespace)
    assert len(effects(scene.ground.writes.of(case.namespace))) == 2, tell(left)


async def test_a_deleted_incident_does_not_make_the_bad_release_the_last_good_one(scene: Scene) -> None:
    """After a rollback the bad revision is the one before the present: `kubectl rollout undo` would go back to it."""
    namespace = f"hostile-{uuid.uuid4().hex[:10]}"
    situation = Situation("Verifying", ("Verifying",), 1, {"steps": [{"name": "undo", "rollback": {}}]})
    case = Case(situation, "deleted", namespace)
    await _prepare(scene, namespace, _policy(situation))
    await scene.admin.patch(DEPLOYMENTS, TARGET, deployment(BAD), namespace)
    await observed(scene.admin, namespace)
    await send(scene, payload(alert("Hostile", namespace=namespace)))
    await case._is(scene, lambda one: phase(one) == "Verifying", "rolled back")
    await _delete_the_incident(scene, namespace)
    await send(scene, payload(alert("Hostile", namespace=namespace)))
    await case._is(scene, lambda one: phase(one) in ("Verifying", "Escalated", "Resolved"), "decided")
    await asyncio.sleep(0.5)
    images = [image for _, image in scene.witness.states(namespace)]
    assert images == [GOOD, BAD, GOOD], f"it went {images}: back to the release that it had rolled back from"


def _replicas(scene: Scene, namespace: str) -> list[int]:
    return [replicas for replicas, _ in scene.witness.states(namespace)]


async def _delete_the_incident(scene: Scene, namespace: str) -> None:
    found = (await scene.admin.list(INCIDENTS, namespace))[0]
    await scene.admin.delete(INCIDENTS, found["metadata"]["name"], namespace)
    assert await scene.witness.sees(lambda: not scene.witness.incidents(namespace), 10), "the incident is still there"
    await asyncio.sleep(0.5)  # for the operator's own watch
