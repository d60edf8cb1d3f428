"""Two operators on one cluster: one acts, the other is ready to; whatever happens to them, each effect happens once."""

import asyncio
import threading
import time
from collections.abc import AsyncIterator, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from faults.drill import Ground, Scene, effects, knows_policies, new_namespace, open_scene, phase, send, steps, tell
from faults.shapes import DEPLOYMENTS, INCIDENTS, NO_GUARDS, deployment, incident, label
from testbed.api import eventually
from testbed.faultproxy import Answer, Fault, FaultProxy, Rule, Seen
from testbed.operator_process import alert, payload, resolved

Json = dict[str, Any]
LEASE = "/apis/coordination.k8s.io/v1/namespaces/paramedic-system/leases/paramedic"
LEAD_PASSES_IN = 15.0
FRESH_READING_SECONDS = 6.0
ALWAYS = 1_000_000
# Relative: acting twice would show as two more.
ONE_MORE = [{"name": "room", "scale": {"replicas": "+1"}, "verify": {"rollout": True, "timeout": "90s"}}]


@dataclass
class Pair:
    """Who leads and who follows, now."""

    leader: Ground
    follower: Ground


@dataclass
class Burst:
    """Targets in one namespace, and an incident for each: most by alerts, the last ones applied by hand."""

    scene: Scene
    namespace: str
    names: list[str]
    by_hand: int
    firing: list[Json]

    async def begin(self, *grounds: Ground) -> None:
        """Every alert goes to every webhook, as from Alertmanagers that do not know of each other."""
        by_hand = [
            incident(name=f"hand-{name}", target={"apiVersion": "apps/v1", "kind": "Deployment", "name": name})
            for name in self.names[: self.by_hand]
        ]
        await asyncio.gather(
            *(send(self.scene, payload(one), ground.operator) for one in self.firing for ground in grounds),
            *(self.scene.admin.create(one, self.namespace) for one in by_hand),
        )

    async def end(self, *grounds: Ground) -> None:
        """Waits until all have helped, says that the alerts have ended, waits until all is over, judges."""
        await self._reaches(lambda one: any(step["state"] == "Succeeded" for step in steps(one)), "helped")
        await asyncio.gather(
            *(send(self.scene, payload(resolved(one)), ground.operator) for one in self.firing for ground in grounds)
        )
        await self._reaches(lambda one: phase(one) == "Resolved", "Resolved")
        await self.judge()

    async def _reaches(self, question: Any, what: str) -> None:
        witness = self.scene.witness

        def all_of_them() -> bool:
            found = self._found()
            return len(found) == len(self.names) and all(question(one) for one in found)

        assert await witness.sees(all_of_them, 60), f"not all {what} within 60 s:\n{self.story()}"

    async def judge(self) -> None:
        for name in self.names:
            found = await self.scene.admin.get(DEPLOYMENTS, name, self.namespace)
            assert found["spec"]["replicas"] == 2, f"{name}: {found['spec']['replicas']} replicas\n{self.story()}"
            states = [replicas for replicas, _ in self.scene.witness.states(self.namespace, name)]
            assert states == [1, 2], f"{name} went {states}\n{self.story()}"
            stamps = self.scene.witness.stamps(self.namespace, name)
            assert len(stamps) == 1, f"{name} was stamped by {stamps}\n{self.story()}"
        parents = [one for one in self.scene.witness.incidents(self.namespace) if _is_parent(one)]
        assert len(parents) <= 1, f"{len(parents)} parents of one outage\n{self.story()}"
        done = effects(self.scene.ground.writes.of(self.namespace))
        assert len(done) == len(self.names), f"{len(done)} patches for {len(self.names)} targets:\n{done}"

    def _found(self) -> list[Json]:
        """Those of the targets: so many at once also have a parent."""
        return [one for one in self.scene.witness.incidents(self.namespace) if not _is_parent(one)]

    def story(self) -> str:
        found = self._found()
        unlike = [one for one in found if phase(one) != "Resolved"] or found
        return "\n".join([f"{len(found)} incidents", *(line for one in unlike[:5] for line in tell(one))])


def _is_parent(one: Json) -> bool:
    return bool(one["spec"]["type"] == "SeveralServices")


@pytest.fixture
async def both(pair: tuple[Ground, Ground]) -> Pair:
    """Both alive, and one of them leads."""
    for one in pair:
        one.proxy.forget()
        if not one.operator.alive:
            await asyncio.to_thread(one.operator.start)
        one.operator.thaw()
        await asyncio.to_thread(one.operator.wait_ready)
    leader = await _whoever_leads(pair)
    return Pair(leader, next(one for one in pair if one is not leader))


@pytest.fixture
async def scene(pair: tuple[Ground, Ground]) -> AsyncIterator[Scene]:
    async with open_scene(pair[0]) as opened:
        yield opened


async def _whoever_leads(among: Iterable[Ground]) -> Ground:
    deadline = time.monotonic() + LEAD_PASSES_IN
    candidates = list(among)
    while time.monotonic() < deadline:
        for one in candidates:
            if await asyncio.to_thread(_leads, one):
                return one
        await asyncio.sleep(0.1)
    raise AssertionError(f"nobody leads within {LEAD_PASSES_IN:g} s")


def _leads(one: Ground) -> bool:
    """Whether the Lease names it and it says so itself: one that has just lost the lead may not know yet."""
    lease = one.cluster.api().request("GET", LEASE)
    return str(lease["spec"].get("holderIdentity", "")).startswith(one.operator.identity) and one.operator.leads()


async def _burst(scene: Scene, both: Pair, namespace: str, targets: int = 30, by_hand: int = 10) -> Burst:
    names = [f"app-{number}" for number in range(targets)]
    await new_namespace(scene.admin, namespace)
    await scene.admin.create(_policy(), namespace)
    created = time.time()
    await asyncio.gather(*(scene.admin.create(deployment(name=name), namespace) for name in names))

    def ready() -> bool:
        known = all(knows_policies(one.proxy, created) for one in (both.leader, both.follower))
        return known and all(scene.witness.states(namespace, name) for name in names)

    assert await scene.witness.sees(ready, 30), "the policy is not known to both operators"
    firing = [alert("Small", namespace=namespace, deployment=name) for name in names[by_hand:]]
    return Burst(scene, namespace, names, by_hand, firing)


def _policy() -> Json:
    return {
        "apiVersion": "paramedic.dev/v1alpha1",
        "kind": "RemediationPolicy",
        "metadata": {"name": "small"},
        "spec": {
            "mode": "Auto",
            "match": {"alerts": [{"matchers": ['alertname="Small"']}], "incidents": {"types": ["HighLoad"]}},
            "incident": {"type": "HighLoad", "severity": "P1", "groupBy": ["deployment"]},
            "target": {"apiVersion": "apps/v1", "kind": "Deployment", "nameFromLabel": "deployment"},
            "guards": NO_GUARDS,
            "steps": ONE_MORE,
        },
    }


def _touches(namespace: str, what: str) -> Any:
    return lambda seen: seen.namespace == namespace and seen.is_write and label(seen).startswith(what)


async def test_only_one_acts(scene: Scene, both: Pair, fresh_name: str) -> None:
    burst = await _burst(scene, both, fresh_name)
    await burst.begin(both.leader, both.follower)
    await burst.end(both.leader, both.follower)
    by_the_follower = [one for one in both.follower.proxy.writes(fresh_name) if one.resource == "deployments"]
    assert not by_the_follower, f"the follower wrote to targets: {by_the_follower}"


async def test_the_leader_is_killed(scene: Scene, both: Pair, fresh_name: str) -> None:
    burst = await _burst(scene, both, fresh_name)
    begun = asyncio.create_task(burst.begin(both.leader, both.follower))
    await _some_effects(burst)
    await asyncio.to_thread(both.leader.operator.kill)
    assert await _whoever_leads([both.follower]) is both.follower
    await asyncio.to_thread(both.leader.operator.start)
    await begun
    await burst.end(both.follower, both.leader)


async def test_the_leader_stands_still_past_its_lease(scene: Scene, both: Pair, fresh_name: str) -> None:
    burst = await _burst(scene, both, fresh_name)
    begun = asyncio.create_task(burst.begin(both.follower))
    await _some_effects(burst)
    both.leader.operator.freeze()
    assert await _whoever_leads([both.follower]) is both.follower
    await begun
    await asyncio.sleep(1)
    both.leader.operator.thaw()
    await burst.end(both.follower)
    await eventually(lambda: not both.leader.operator.leads(), what="it no longer holds itself for the leader")


async def _some_effects(burst: Burst) -> None:
    """Until the work is under way, but not done."""

    def begun() -> bool:
        return any(len(burst.scene.witness.states(burst.namespace, name)) > 1 for name in burst.names)

    assert await burst.scene.witness.sees(begun, 20), burst.story()


async def test_what_a_follower_stores_while_it_becomes_the_leader_is_worked_on(
    scene: Scene, both: Pair, fresh_name: str
) -> None:
    """Its look at everything, as the new leader, comes before the answer to its POST; and no watch tells of that."""
    burst = await _burst(scene, both, fresh_name, targets=1, by_hand=0)
    leads = threading.Event()
    both.follower.proxy.silence("incidents")
    held = both.follower.proxy.on(_touches(fresh_name, "create incident"), Fault(before=lambda _: leads.wait(60)))
    begun = asyncio.create_task(burst.begin(both.follower))
    assert await scene.witness.sees(held.fired.is_set, 20)
    await asyncio.to_thread(both.leader.operator.kill)
    assert await _whoever_leads([both.follower]) is both.follower
    leads.set()
    await begun
    await burst.end(both.follower)
    both.follower.proxy.speak("incidents")


@pytest.mark.parametrize("write", ["status room=Executing", "patch deployment", "status room=Verifying"])
@pytest.mark.parametrize("applied", [False, True], ids=["before it is sent", "before its answer"])
async def test_the_leader_stands_still_at_a_write(
    scene: Scene, both: Pair, fresh_name: str, write: str, applied: bool
) -> None:
    """The other takes over and goes on; then the old write arrives, or the old leader learns that it had arrived."""
    burst = await _burst(scene, both, fresh_name, targets=3, by_hand=1)
    thawed = threading.Event()
    old = both.leader.operator

    def stand_still(_: Seen) -> None:
        old.freeze()
        thawed.wait(60)

    fault = Fault(after=stand_still) if applied else Fault(before=stand_still)
    rule = both.leader.proxy.on(_touches(fresh_name, write), fault)
    begun = asyncio.create_task(burst.begin(both.follower))
    assert await scene.witness.sees(rule.fired.is_set, 20), burst.story()
    assert await _whoever_leads([both.follower]) is both.follower
    await begun
    await asyncio.sleep(1)
    thawed.set()
    old.thaw()
    await burst.end(both.follower)


async def test_both_send_the_same_change_at_the_same_time(scene: Scene, both: Pair, fresh_name: str) -> None:
    """The old leader's change arrives when the new one has looked, found it undone, and is about to make it."""
    burst = await _burst(scene, both, fresh_name, targets=1, by_hand=0)
    first, second = threading.Event(), threading.Event()
    old = both.leader.operator

    def stand_still(_: Seen) -> None:
        old.freeze()
        first.wait(60)

    def wait_for_the_other(_: Seen) -> None:
        first.set()
        second.wait(10)

    one = Fault(before=stand_still, after=lambda _: second.set())
    both.leader.proxy.on(_touches(fresh_name, "patch deployment"), one)
    theirs = both.follower.proxy.on(_touches(fresh_name, "patch deployment"), Fault(before=wait_for_the_other))
    begun = asyncio.create_task(burst.begin(both.follower))
    assert await scene.witness.sees(theirs.fired.is_set, 30), burst.story()
    await begun
    old.thaw()
    await burst.end(both.follower)
    assert theirs.struck[0].upstream == 409, f"the second change was not refused: {theirs.struck[0]}"


async def test_an_incident_has_one_owner_however_often_the_lead_changes(
    scene: Scene, both: Pair, fresh_name: str
) -> None:
    burst = await _burst(scene, both, fresh_name)
    begun = asyncio.create_task(burst.begin(both.leader, both.follower))
    now, then = both.leader, both.follower
    for _ in range(3):
        now.operator.freeze()
        assert await _whoever_leads([then]) is then
        now.operator.thaw()
        now, then = then, now
    await begun
    await burst.end(both.leader, both.follower)
    stored = [one for one in await scene.admin.list(INCIDENTS, fresh_name) if not _is_parent(one)]
    assert len(stored) == len(burst.names)


async def test_a_follower_knows_what_has_ended(scene: Scene, both: Pair, fresh_name: str) -> None:
    """A person closes an incident whose alerts still fire: a resend, of the one that joined later, to the follower
    makes no second one."""
    created, now = time.time(), datetime.now(UTC)
    await new_namespace(scene.admin, fresh_name)
    policy = _policy()
    policy["spec"]["mode"] = "Observe"
    await scene.admin.create(policy, fresh_name)
    grounds = (both.leader, both.follower)
    assert await scene.witness.sees(lambda: all(knows_policies(one.proxy, created) for one in grounds), 30)
    first = alert("Small", namespace=fresh_name, deployment="app", starts_at=now - timedelta(minutes=5))
    later = alert("Small", namespace=fresh_name, deployment="app", pod="b", starts_at=now - timedelta(minutes=2))
    for one in (first, later):
        await send(scene, payload(one), both.leader.operator)
    assert await scene.witness.sees(lambda: bool(scene.witness.incidents(fresh_name)), 20)
    name = scene.witness.incidents(fresh_name)[0]["metadata"]["name"]
    resolution = {"spec": {"resolution": {"resolvedBy": "admin"}}}
    await scene.admin.patch(INCIDENTS, name, resolution, fresh_name)
    assert await scene.witness.sees(lambda: phase(scene.witness.incidents(fresh_name)[0]) == "Resolved", 20)
    marker = incident(name="marker", target={"apiVersion": "apps/v1", "kind": "Deployment", "name": "app"})
    await scene.admin.create(marker, fresh_name)  # what the follower's watch shows after it
    await asyncio.sleep(1)
    await send(scene, payload(later), both.follower.operator)
    found = [one["metadata"]["name"] for one in await scene.admin.list(INCIDENTS, fresh_name)]
    assert sorted(found) == sorted([name, "marker"])


# -- a new leader knows what the last one has done ---------------------------------------------------------------------


def _lists_incidents(seen: Seen) -> bool:
    """Not when it only asks for the version that they have now."""
    is_list = seen.resource == "incidents" and seen.method == "GET" and not seen.name and not seen.is_watch
    return is_list and seen.query != "limit=1"


def _reads_everything(seen: Seen) -> bool:
    """Whether it asks for all incidents, ended ones too, as a process does that begins or takes over."""
    return _lists_incidents(seen) and not seen.namespace and "fieldSelector" not in seen.query


async def _until_its_reading_is_old(one: Ground) -> None:
    """A leader reads everything anew only when it has not just done so."""

    def is_old() -> bool:
        last = max((seen.at for seen in list(one.proxy.seen) if _reads_everything(seen)), default=0.0)
        return time.time() - last > FRESH_READING_SECONDS

    await eventually(is_old, timeout=30, what="its reading is old")


@contextmanager
def _hears_nothing_of_incidents(proxy: FaultProxy) -> Iterator[Rule]:
    """Its watch is silent and its lists are held back; the rule is that of lists of everything."""
    free = threading.Event()

    def other_lists(seen: Seen) -> bool:
        return _lists_incidents(seen) and not _reads_everything(seen)

    proxy.silence("incidents")
    held = Fault(before=lambda _: free.wait(120))
    rules = [proxy.on(matches, held, times=ALWAYS) for matches in (_reads_everything, other_lists)]
    try:
        yield rules[0]
    finally:
        free.set()
        proxy.forget(*rules)
        proxy.speak("incidents")
        proxy.cut_watches("incidents")


async def test_a_new_leader_acts_only_when_it_has_read_what_the_last_one_left(
    scene: Scene, both: Pair, fresh_name: str
) -> None:
    """The policy's one action in an hour was the dead leader's, for an incident that is over; its follower has heard
    nothing of it, and an alert for another target comes to it while it takes over."""
    witness, follower = scene.witness, both.follower
    policy, created = _policy(), time.time()
    policy["spec"]["guards"] = NO_GUARDS | {"rateLimit": {"actions": 1, "period": "1h"}}
    await new_namespace(scene.admin, fresh_name)
    await scene.admin.create(policy, fresh_name)
    for name in ("first", "second"):
        await scene.admin.create(deployment(name=name), fresh_name)
    assert await witness.sees(lambda: all(knows_policies(g.proxy, created) for g in (both.leader, follower)), 30)
    first, second = (alert("Small", namespace=fresh_name, deployment=name) for name in ("first", "second"))
    await _until_its_reading_is_old(follower)

    def incident_of(name: str) -> Json:
        found = witness.incidents(fresh_name)
        return next((one for one in found if one["spec"]["alert"]["labels"]["deployment"] == name), {})

    with _hears_nothing_of_incidents(follower.proxy) as reading:
        await send(scene, payload(first), both.leader.operator)
        assert await witness.sees(lambda: [s["state"] for s in steps(incident_of("first"))] == ["Succeeded"], 60)
        await send(scene, payload(resolved(first)), both.leader.operator)
        assert await witness.sees(lambda: phase(incident_of("first")) == "Resolved", 20)
        await asyncio.to_thread(both.leader.operator.kill)
        assert await _whoever_leads([follower]) is follower
        await eventually(reading.fired.is_set, timeout=20, what="it begins to read")
        await send(scene, payload(second), follower.operator)
        assert await witness.sees(lambda: bool(incident_of("second")), 20)
        acted = await witness.sees(lambda: len(witness.states(fresh_name, "second")) > 1, 2)
        assert not acted, "it has acted before it knew what the last leader had done"
    assert await witness.sees(lambda: phase(incident_of("second")) == "Blocked", 40), tell(incident_of("second"))
    assert steps(incident_of("second"))[0]["reason"] == "RateLimited"
    assert [count for count, _ in witness.states(fresh_name, "second")] == [1]
    assert len(effects(scene.ground.writes.of(fresh_name))) == 1


async def test_a_new_leader_that_cannot_take_over_ends_and_says_why(scene: Scene, both: Pair) -> None:
    """Else it would hold the lead for good, and nobody would act."""
    await _until_its_reading_is_old(both.follower)
    odd: Json = {"kind": "IncidentList", "metadata": {}, "items": [{"spec": {}}]}
    both.follower.proxy.on(_reads_everything, Fault(answer=Answer(200, body=odd)), times=ALWAYS)
    await asyncio.to_thread(both.leader.operator.kill)
    await eventually(lambda: not both.follower.operator.alive, timeout=40, what="it has ended")
    assert "taking over: KeyError('metadata')" in both.follower.operator.log.read_text()
