"""Where alerts go: the incident that knows them, or a new one; at whatever moment they come.

Intake, reconciler, recorder and mirror are the real ones; of the API server there is as much as they ask of it.
"""

from __future__ import annotations

import asyncio
import copy
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import suppress
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace
from typing import Any

import pytest

from builders import alert, policy
from paramedic.api.incident import Notice
from paramedic.api.policy import RemediationPolicy
from paramedic.core.alert import UNKNOWN_START
from paramedic.errors import Retry
from paramedic.intake import Intake
from paramedic.metrics import Metrics
from paramedic.reconcile import Reconciler
from paramedic.record import Draft, Recorder
from paramedic.store import Store
from testbed.api import eventually

Json = dict[str, Any]
NOW = datetime.now(UTC)
BEGUN = NOW - timedelta(minutes=5)
GROUPING = {"type": "APIOutage", "groupBy": ["alertname"]}
ONE, TWO = {"alertname": "CovetApiErrors", "pod": "a"}, {"alertname": "CovetApiErrors", "pod": "b"}


class Server:
    """Stores incidents; each write can be held up."""

    def __init__(self) -> None:
        self.incidents: dict[str, Json] = {}
        self.before_create: Callable[[Json], None] | None = None
        self.before_write: Callable[[Json], Awaitable[None]] | None = None
        self._version = 10

    async def create(self, path: str, body: Json, *_: Any) -> Json:
        if "/events" in path:
            return body
        if self.before_create:
            self.before_create(body)
        made = copy.deepcopy(body)
        made["metadata"] |= {"uid": f"uid-{self._version}", "generation": 1, "creationTimestamp": NOW.isoformat()}
        return self._store(made)

    async def merge_patch(self, path: str, body: Json, *_: Any) -> Json:
        name = path.removesuffix("/status").rpartition("/")[2]
        if self.before_write:
            await self.before_write(body)
        change = {kind: part for kind, part in body.items() if kind != "metadata"}
        return self._store(_merged(self.incidents[name], change))

    async def get(self, path: str) -> Json:
        return copy.deepcopy(self.incidents[path.rpartition("/")[2]])

    def phases(self) -> list[str]:
        """In the order of their creation."""
        return [(one.get("status") or {}).get("phase", "") for one in self.incidents.values()]

    def _store(self, found: Json) -> Json:
        self._version += 1
        found["metadata"]["resourceVersion"] = str(self._version)
        self.incidents[found["metadata"]["name"]] = found
        return copy.deepcopy(found)


def _merged(old: Json, change: Json) -> Json:
    new = dict(old)
    for key, value in change.items():
        if value is None:
            new.pop(key, None)
        else:
            new[key] = _merged(new.get(key) or {}, value) if isinstance(value, dict) else value
    return new


class World:
    """An operator without hands: it opens incidents, plans, and closes them when their alert has ended."""

    def __init__(self) -> None:
        self.server, self.store = Server(), Store(loaded=True)
        self.attend: Callable[[Draft], None] = lambda draft: None
        self.metrics = metrics = Metrics()
        recorder = Recorder(self.server, self.store, metrics, "test")  # type: ignore[arg-type]
        recorder.attend = lambda draft: self.attend(draft)
        idle: Any = SimpleNamespace(
            wake=None,
            when_done=None,
            take=lambda draft: None,
            attend=lambda incident: None,
            wait_for_findings=lambda draft, step: None,
            after_round=lambda incident: None,
            next_look=lambda incident, now: None,
            look_ahead=lambda *_: None,
            describe_plan=_skip,
            stop=lambda: None,
        )
        self.reconciler = Reconciler(
            self.server,  # type: ignore[arg-type]
            self.store,
            recorder,
            idle,
            idle,
            idle,
            idle,
            idle,
            idle,
            idle,
            metrics,
            namespace="paramedic-system",
            workers=2,
            may_act=lambda: True,
        )
        self.intake = Intake(
            self.server,  # type: ignore[arg-type]
            self.store,
            self.reconciler,
            metrics,
            namespace="paramedic-system",
            leads=lambda: True,
        )

    def has(self, *policies: RemediationPolicy) -> None:
        """Exactly these policies, all usable."""
        for entry in list(self.store.policies.values()):
            self.store.remove_policy(entry.raw)
        for number, one in enumerate(policies, start=1):
            meta = {"name": one.metadata.name, "namespace": "covet", "uid": one.metadata.uid, "resourceVersion": number}
            self.store.put_policy({"metadata": meta}, one, None)

    async def fires(self, begun: datetime = BEGUN, **labels: str) -> None:
        await self.intake.take([alert(starts_at=begun, **labels)], "webhook")

    async def ends(self, begun: datetime = BEGUN, **labels: str) -> None:
        await self.intake.take([alert("resolved", starts_at=begun, ends_at=datetime.now(UTC), **labels)], "webhook")

    async def come_to(self, *phases: str) -> None:
        await eventually(lambda: self.server.phases() == list(phases), timeout=5, what=f"incidents in {phases}")


async def _skip(draft: Draft, index: int) -> None:
    draft.incident.status.steps[index].state = "Skipped"


@pytest.fixture
async def world() -> AsyncIterator[World]:
    made = World()
    working = asyncio.create_task(made.reconciler.queue.run())
    yield made
    working.cancel()
    with suppress(asyncio.CancelledError):
        await working


def observing(name: str = "api-outage", **spec: Any) -> RemediationPolicy:
    found: RemediationPolicy = policy(name, mode="Observe", **spec)
    return found


@pytest.mark.parametrize("with_notice", [False, True])
async def test_what_fires_while_its_group_s_incident_is_being_closed_is_another_incident(
    world: World, *, with_notice: bool
) -> None:
    """The mirror keeps the whole of an ended incident as long as a channel has not been told of its end."""
    world.has(observing(incident=GROUPING))
    late: list[asyncio.Task[None]] = []

    async def fire_meanwhile(body: Json) -> None:
        if body.get("status", {}).get("phase") == "Resolved" and not late:
            late.append(asyncio.create_task(world.fires(NOW, **TWO)))
            await asyncio.sleep(0.05)

    def notify(draft: Draft) -> None:
        if with_notice and draft.is_over and not draft.incident.status.notices:
            told = {"key": "k", "kind": "Resolved", "at": draft.now, "actor": "paramedic", "reason": "AlertResolved"}
            draft.incident.status.notices = [Notice(**told, message="over", pending=["slack"])]

    world.attend, world.server.before_write = notify, fire_meanwhile
    await world.fires(**ONE)
    await world.come_to("Open")
    await world.ends(**ONE)
    await world.come_to("Resolved", "Open")
    await late[0]
    await world.fires(NOW, **TWO)
    await world.come_to("Resolved", "Open")


@pytest.mark.parametrize(
    "later",
    [
        [observing(match={"alerts": [{"matchers": ['alertname="Other"']}]})],
        [observing(incident=GROUPING)],
        [observing(), observing("other", priority=500)],
        [],
    ],
    ids=["matchers edited", "groupBy edited", "another policy of higher priority", "policy deleted"],
)
async def test_an_open_incident_hears_of_its_alert_whatever_became_of_the_policies(
    world: World, later: list[RemediationPolicy]
) -> None:
    world.has(observing())
    await world.fires(**ONE)
    await world.come_to("Open")
    world.has(*later)
    await world.fires(**ONE)
    await world.ends(**ONE)
    await world.come_to("Resolved")


async def test_the_policies_of_another_namespace_answer_to_an_alert_that_is_known_in_one(world: World) -> None:
    world.has(observing())
    await world.fires(**ONE)
    await world.come_to("Open")
    other: RemediationPolicy = policy("theirs", namespace="billing", mode="Observe")
    raw = {"metadata": {"name": "theirs", "namespace": "billing", "uid": "uid-t", "resourceVersion": "1"}}
    world.store.put_policy(raw, other, None)
    await world.fires(**ONE)
    await world.come_to("Open", "Open")
    assert {one["metadata"]["namespace"] for one in world.server.incidents.values()} == {"covet", "billing"}


async def test_a_firing_anew_of_which_no_end_was_told_is_stored_before_it_is_answered(world: World) -> None:
    world.has(observing())
    await world.fires(**ONE)
    await world.come_to("Open")
    await world.fires(NOW, **ONE)
    heard = next(iter(world.server.incidents.values()))["status"]["alert"]
    assert heard["lastStartsAt"].startswith(NOW.strftime("%Y-%m-%dT%H:%M:%S"))


async def test_without_a_start_an_alert_is_a_resend_until_its_end_is_told(world: World) -> None:
    world.has(observing())
    await world.fires(UNKNOWN_START, **ONE)
    await world.come_to("Open")
    (name,) = world.server.incidents
    world.server.incidents[name]["spec"]["resolution"] = {"resolvedBy": "alice"}
    world.store.put_incident(world.server._store(world.server.incidents[name]))
    world.reconciler.queue.add(f"covet/{name}")
    await world.come_to("Resolved")
    await world.fires(UNKNOWN_START, **ONE)
    await world.come_to("Resolved")
    await world.ends(UNKNOWN_START, **ONE)
    await eventually(lambda: world.server.incidents[name]["status"]["alert"]["state"] == "resolved", what="its end")
    await world.fires(UNKNOWN_START, **ONE)
    await world.come_to("Resolved", "Open")


async def test_thousands_of_alerts_let_others_have_their_turn(world: World) -> None:
    """The lead is renewed by the same event loop."""
    world.has(*(observing(f"p{n}", match={"alerts": [{"matchers": [f'alertname="A{n}"']}]}) for n in range(200)))
    turns = 0

    async def take_turns() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    others = asyncio.create_task(take_turns())
    await world.intake.take([alert(alertname="none", number=str(n)) for n in range(5_000)], "webhook")
    others.cancel()
    assert turns >= 40
    found = world.store.policies_that_may_mean(alert(alertname="A7"))
    assert [one.policy for one in found] == [world.store.policy("covet/p7")]


def failed(world: World) -> float | None:
    labels = {"source": "webhook", "outcome": "failed"}
    return world.metrics.registry.get_sample_value("paramedic_alerts_total", labels)


async def test_an_error_of_paramedic_s_own_keeps_no_other_alert_back(world: World) -> None:
    """Whatever it is, the sender must send it again."""
    world.has(observing())

    def break_for_one(body: Json) -> None:
        if body["spec"]["alert"]["labels"]["pod"] == "a":
            raise RuntimeError("odd")

    world.server.before_create = break_for_one
    with pytest.raises(Retry, match="RuntimeError"):
        await world.intake.take([alert(starts_at=BEGUN, **labels) for labels in (ONE, TWO)], "webhook")
    assert [one["spec"]["alert"]["labels"] for one in world.server.incidents.values()] == [TWO]
    assert failed(world) == 1
    world.server.before_create = None
    await world.intake.take([alert(starts_at=BEGUN, **labels) for labels in (ONE, TWO)], "webhook")
    assert [one["spec"]["alert"]["labels"] for one in world.server.incidents.values()] == [TWO, ONE]


async def test_an_odd_alert_keeps_no_other_back(world: World) -> None:
    world.has(observing(incident={"type": "APIOutage", "severityFromLabel": "level"}))
    odd = replace(alert(**ONE), labels=ONE | {"level": 5})
    with pytest.raises(Retry, match="AttributeError"):
        await world.intake.take([odd, alert(starts_at=BEGUN, **TWO)], "webhook")
    assert [one["spec"]["alert"]["labels"] for one in world.server.incidents.values()] == [TWO]
    assert failed(world) == 1


@pytest.mark.parametrize("title", ["{{ labels.x or 1e999 }}", "{{ labels.pod[labels.pod:] }}", "{{ -labels.pod }}"])
async def test_an_incident_whose_title_cannot_be_rendered_is_named_after_its_alert(world: World, title: str) -> None:
    """A policy that Paramedic took when it knew less is there still."""
    world.has(observing(incident={"title": title}))
    await world.fires(**ONE)
    assert [one["spec"]["title"] for one in world.server.incidents.values()] == ["CovetApiErrors"]
