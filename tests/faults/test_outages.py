"""Watches that end, lie or fall silent, an API server that is away, a process that stood still: nothing is lost."""

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine
from typing import Any

import pytest

from faults.drill import Drill, Ground, Scene, new_namespace, open_scene, phase
from faults.shapes import (
    DEPLOYMENTS,
    INCIDENTS,
    LEASE,
    POLICIES,
    ROLLBACK,
    SHAPES,
    TARGET,
    UNDO,
    Shape,
    incident,
    label,
)
from testbed.api import eventually
from testbed.faultproxy import Answer, Fault, Seen

WITH_SHORT_LEASE = True
RESOURCES = ("incidents", "remediationpolicies")


@pytest.fixture
async def scene(ground: Ground) -> AsyncIterator[Scene]:
    async with open_scene(ground) as opened:
        yield opened
    for resource in RESOURCES:
        ground.proxy.speak(resource)
    ground.proxy.forget()


async def _through(scene: Scene, trouble: Callable[[], Coroutine[Any, Any, None]], copies: int = 2) -> None:
    """Two of each shape, begun one after the other, so that the trouble finds them at different points."""
    drills = [
        Drill(shape, f"{shape.name}, begun after {number} s") for number in range(copies) for shape in SHAPES.values()
    ]
    await asyncio.gather(*(drill.prepare(scene) for drill in drills))
    troubled = asyncio.create_task(trouble())
    await asyncio.gather(*(drill.run(scene, after=0.45 * number) for number, drill in enumerate(drills)))
    await troubled
    problems = [drill.story for drill in drills if drill.problems]
    assert not problems, "\n\n".join(problems)
    assert scene.ground.operator.alive, f"the operator has ended:\n{scene.ground.operator.log_tail()}"


async def test_watches_that_expire(scene: Scene) -> None:
    async def trouble() -> None:
        for _ in range(12):
            await asyncio.sleep(0.4)
            scene.ground.proxy.end_watches()

    await _through(scene, trouble)


async def test_watches_that_are_cut(scene: Scene) -> None:
    async def trouble() -> None:
        for _ in range(12):
            await asyncio.sleep(0.4)
            scene.ground.proxy.cut_watches()

    await _through(scene, trouble)


async def test_watches_whose_versions_are_refused(scene: Scene) -> None:
    """HTTP 410 instead of an ERROR event. Kopf may end over it; then the process must, and its successor goes on."""

    async def trouble() -> None:
        await asyncio.sleep(0.8)
        scene.ground.proxy.refuse_watches(2)
        scene.ground.proxy.cut_watches()
        await _be_the_kubelet(scene, 8)

    await _through(scene, trouble)


async def test_watches_that_fail_for_good(scene: Scene) -> None:
    """An ERROR event that Kopf does not forgive: the process ends with an error that says why, and is started anew."""

    async def trouble() -> None:
        await asyncio.sleep(0.8)
        scene.ground.proxy.end_watches(code=500)
        await _be_the_kubelet(scene, 10)
        assert "the watch has ended" in scene.ground.operator.log.read_text()

    await _through(scene, trouble)


async def _be_the_kubelet(scene: Scene, seconds: float) -> None:
    """Starts the operator again whenever it has ended."""
    operator = scene.ground.operator
    deadline = asyncio.get_running_loop().time() + seconds
    while asyncio.get_running_loop().time() < deadline:
        if not operator.alive:
            await asyncio.to_thread(operator.start)
        await asyncio.sleep(0.2)


async def test_watches_that_fall_silent(scene: Scene) -> None:
    """Everything is then seen by the resync: policies, incidents, ends."""
    for resource in RESOURCES:
        scene.ground.proxy.silence(resource)

    async def trouble() -> None:
        await asyncio.sleep(0)

    await _through(scene, trouble, copies=1)


async def test_a_deletion_is_noticed_though_the_watch_is_silent(scene: Scene) -> None:
    drill = Drill(LEASE, "deleted")
    await drill.prepare(scene)
    await scene.admin.create(incident(), drill.namespace)
    assert await scene.witness.sees(lambda: scene.witness.states(drill.namespace)[-1][0] == 3, 10)
    scene.ground.proxy.silence("incidents")
    await scene.admin.delete(INCIDENTS, "applied", drill.namespace)
    assert await scene.witness.sees(lambda: scene.witness.states(drill.namespace)[-1][0] == 1, 5), drill.story
    await eventually(lambda: _is_gone(scene, drill.namespace), what="the incident is gone")


async def _is_gone(scene: Scene, namespace: str) -> bool:
    return await scene.admin.find(INCIDENTS, "applied", namespace) is None


@pytest.mark.parametrize("seconds", [1.0, 5.0], ids=["for a second", "for longer than the lead lasts"])
async def test_an_api_server_that_is_away(scene: Scene, seconds: float) -> None:
    async def trouble() -> None:
        await asyncio.sleep(1.2)
        await asyncio.to_thread(scene.ground.cluster.restart_apiserver, seconds)

    await _through(scene, trouble)


@pytest.mark.parametrize("shape", [ROLLBACK, LEASE, UNDO], ids=lambda shape: shape.name)
async def test_a_process_that_stood_still_while_an_incident_came(scene: Scene, shape: Shape) -> None:
    """Its lead is in doubt when it wakes; what it then leaves undone must be done when the lead is sure again."""
    drill = Drill(shape, "stood still")
    await drill.prepare(scene)
    scene.ground.operator.freeze()
    running = asyncio.create_task(drill.run(scene))
    await asyncio.sleep(3.5)
    scene.ground.operator.thaw()
    await running
    assert not drill.problems, drill.story


@pytest.mark.parametrize("frozen_at", ["status undo=Executing", "patch deployment image=app:1"])
async def test_a_process_that_stood_still_in_the_middle(scene: Scene, frozen_at: str) -> None:
    drill = Drill(ROLLBACK, f"stood still at {frozen_at}")
    await drill.prepare(scene)
    operator = scene.ground.operator
    drill.rule = scene.ground.proxy.on(
        lambda seen: seen.is_write and seen.namespace == drill.namespace and label(seen) == frozen_at,
        Fault(after=lambda _: operator.freeze()),
    )
    running = asyncio.create_task(drill.run(scene))
    assert await scene.witness.sees(drill.rule.fired.is_set, 10)
    await asyncio.sleep(3.5)
    operator.thaw()
    await running
    assert not drill.problems, drill.story


async def test_the_target_is_looked_at_again_however_long_the_conflict_lasts(scene: Scene) -> None:
    """More refused writes than one round has moves."""
    drill = Drill(ROLLBACK, "80 conflicts")
    await drill.prepare(scene)
    drill.rule = scene.ground.proxy.on(
        lambda seen: seen.namespace == drill.namespace and seen.resource == "deployments" and seen.is_write,
        Fault(forward=False, answer=Answer(409)),
        times=80,
    )
    await drill.run(scene)
    found = await scene.admin.list(INCIDENTS, drill.namespace)
    assert [phase(one) for one in found] == ["Resolved"], drill.story
    target = await scene.admin.get(DEPLOYMENTS, TARGET, drill.namespace)
    assert target["spec"]["template"]["spec"]["containers"][0]["image"] == "app:1", drill.story


# -- odd answers -------------------------------------------------------------------------------------------------------


def _lists(resource: str) -> Callable[[Seen], bool]:
    return lambda seen: seen.resource == resource and seen.method == "GET" and not seen.name and not seen.is_watch


async def test_a_list_that_nobody_understands_ends_nothing(scene: Scene) -> None:
    """The resync goes on with the next one."""
    odd = Answer(200, body={"kind": "IncidentList", "metadata": {}, "items": [{"spec": {}}]})
    rule = scene.ground.proxy.on(_lists("incidents"), Fault(answer=odd), times=2)
    await eventually(lambda: len(rule.struck) == 2, timeout=20, what="two odd answers")
    scene.ground.proxy.silence("incidents")
    drill = Drill(ROLLBACK, "after odd answers")
    await drill.prepare(scene)
    await drill.run(scene)
    assert not drill.problems, drill.story
    assert scene.ground.operator.alive, scene.ground.operator.log_tail()


async def test_a_policy_whose_status_nobody_understands_is_alone_in_that(scene: Scene, fresh_name: str) -> None:
    await new_namespace(scene.admin, fresh_name)
    policy = ROLLBACK.policy
    meta = {"name": "odd", "namespace": fresh_name, "uid": "odd", "resourceVersion": "1", "generation": 1}
    odd = policy | {"metadata": meta, "status": {"conditions": "odd"}}
    answer = Answer(200, body={"kind": "RemediationPolicyList", "metadata": {}, "items": [odd]})
    rule = scene.ground.proxy.on(_lists("remediationpolicies"), Fault(answer=answer), times=1_000_000)
    await eventually(lambda: len(rule.struck) >= 2, timeout=20, what="the odd policy is known")
    await scene.admin.create(policy, fresh_name)

    async def is_ready() -> bool:
        found = await scene.admin.get(POLICIES, policy["metadata"]["name"], fresh_name)
        return any(c["type"] == "Ready" and c["status"] == "True" for c in found["status"]["conditions"])

    await eventually(is_ready, timeout=20, what="the next policy is judged")
    assert scene.ground.operator.alive, scene.ground.operator.log_tail()
