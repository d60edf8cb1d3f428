"""The look at Prometheus' alerts goes on, whatever something that calls itself Prometheus answers; and what it makes of
what is shown there. Intake and what is behind it are real, as in test_intake.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import suppress
from datetime import timedelta
from typing import Any

import pytest
from test_intake import BEGUN, GROUPING, ONE, World, observing

from builders import alert, policy
from paramedic.clients.prometheus import ActiveAlert, Prometheus
from paramedic.core.alert import Alert, fingerprint
from paramedic.core.heard import MAX_FIRING, Heard
from paramedic.core.match import incident_manifest
from paramedic.errors import Retry
from paramedic.metrics import Metrics
from paramedic.poller import Poller
from paramedic.settings import PrometheusSettings
from paramedic.store import Store
from people.vendors import FakeVendor, Reply, Request, Route
from testbed.api import eventually

Json = dict[str, Any]
FIRING: Json = {
    "labels": {"alertname": "Down"},
    "annotations": {},
    "state": "firing",
    "activeAt": "2026-03-02T12:00:00.5Z",
    "value": "1e+00",
}
ODD = {
    "no data": None,
    "data that is a list": [FIRING],
    "alerts that are null": {"alerts": None},
    "an alert that is null": {"alerts": [None]},
    "labels that are null": {"alerts": [FIRING | {"labels": None}]},
}


class OddPrometheus(FakeVendor):
    """Answers one thing after the other, and then as Prometheus does."""

    def __init__(self) -> None:
        super().__init__()
        self.odd: list[Any] = []

    def routes(self) -> list[Route]:
        return [Route("GET", "/api/v1/alerts", None, self.alerts), Route("GET", "/api/v1/rules", None, self.rules)]

    def alerts(self, _: Request) -> Reply:
        return Reply(200, {"status": "success", "data": self.odd.pop(0) if self.odd else {"alerts": [FIRING]}})

    def rules(self, _: Request) -> Reply:
        return Reply(200, {"status": "success", "data": {"groups": [{"rules": [{"name": "Up"}]}]}})


class Told:
    """The reconciler, as far as the poller knows it."""

    def __init__(self) -> None:
        self.ended: list[tuple[str, str]] = []

    async def tell(self, key: str, heard: Heard) -> None:
        self.ended.append((key, heard.alert.fingerprint))


class Taken:
    """The intake, as far as the poller knows it."""

    def __init__(self) -> None:
        self.names: list[str] = []
        self.marks: list[str] = []
        self.error: Exception | None = None

    async def take(self, alerts: Sequence[Alert], source: str, *, but: Any) -> None:
        if self.error:
            raise self.error
        self.names += [alert.labels["alertname"] for alert in alerts]
        self.marks += [alert.fingerprint for alert in alerts]


@pytest.fixture
def odd() -> Iterator[OddPrometheus]:
    with OddPrometheus() as vendor:
        yield vendor


@pytest.fixture
async def client(odd: OddPrometheus) -> AsyncIterator[Prometheus]:
    opened = Prometheus(odd.url, timeout_seconds=5)
    yield opened
    opened.close()


@pytest.mark.parametrize("active_at", ["", None, "soon", 1.5, [], "0001-01-01T00:00:00+14:00"])
async def test_an_alert_without_a_readable_beginning_spoils_nothing(
    odd: OddPrometheus, client: Prometheus, active_at: Any
) -> None:
    odd.odd = [{"alerts": [FIRING | {"labels": {"alertname": "Odd"}, "activeAt": active_at}, FIRING]}]
    taken, metrics = Taken(), Metrics()
    poller = Poller(client, taken, None, Store(), metrics, PrometheusSettings(), lambda: True)  # type: ignore[arg-type]
    await poller.look()
    assert taken.names == ["Down"]
    assert metrics.registry.get_sample_value("paramedic_poller_errors_total") == 0


@pytest.mark.parametrize("answer", ODD.values(), ids=ODD)
async def test_an_odd_answer_is_counted_and_the_next_look_finds_what_fires(
    odd: OddPrometheus, client: Prometheus, answer: Any
) -> None:
    odd.odd = [answer]
    settings = PrometheusSettings(poll_interval=timedelta(milliseconds=20), poll_grace=timedelta(0))
    taken, metrics = Taken(), Metrics()
    poller = Poller(client, taken, None, Store(), metrics, settings, lambda: True)  # type: ignore[arg-type]
    polling = asyncio.create_task(poller.run())
    try:
        await eventually(lambda: taken.names or polling.done(), what="the alert is taken")
        assert not polling.done(), polling.exception()
        assert set(taken.names) == {"Down"}
        assert metrics.registry.get_sample_value("paramedic_poller_errors_total") == 1
    finally:
        polling.cancel()
        await asyncio.wait([polling])


# -- what is made of it ------------------------------------------------------------------------------------------------


class Rule(FakeVendor):
    """A Prometheus with one rule, whose alerts are as they are set."""

    def __init__(self) -> None:
        super().__init__()
        self.health = "ok"
        self.shown: list[Json] = []

    def routes(self) -> list[Route]:
        return [Route("GET", "/api/v1/alerts", None, self.alerts), Route("GET", "/api/v1/rules", None, self.rules)]

    def shows(self, state: str | None) -> None:
        """The alert of test_intake, which has begun then; or none."""
        self.shown = [FIRING | {"labels": ONE, "state": state, "activeAt": BEGUN.isoformat()}] if state else []

    def alerts(self, _: Request) -> Reply:
        return Reply(200, {"status": "success", "data": {"alerts": self.shown}})

    def rules(self, _: Request) -> Reply:
        rule = {"name": ONE["alertname"], "type": "alerting", "health": self.health}
        return Reply(200, {"status": "success", "data": {"groups": [{"rules": [rule]}]}})


class Scene(World):
    """The operator of test_intake with its poller."""

    def __init__(self, prometheus: Prometheus, **settings: timedelta) -> None:
        super().__init__()
        chosen = PrometheusSettings(**({"poll_grace": timedelta(0), "end_grace": timedelta(0)} | settings))
        metrics = Metrics()
        self.poller = Poller(prometheus, self.intake, self.reconciler, self.store, metrics, chosen, lambda: True)

    async def looks(self, *phases: str) -> None:
        """Looks some times; then the incidents are in these phases."""
        for _ in range(3):
            await self.poller.look()
        await self.come_to(*phases)


@pytest.fixture
def rule() -> Iterator[Rule]:
    with Rule() as vendor:
        yield vendor


@pytest.fixture
async def shown(rule: Rule) -> AsyncIterator[Prometheus]:
    opened = Prometheus(rule.url, timeout_seconds=5)
    yield opened
    opened.close()


@pytest.fixture
async def scene(shown: Prometheus) -> AsyncIterator[Scene]:
    made = Scene(shown)
    made.has(observing())
    working = asyncio.create_task(made.reconciler.queue.run())
    yield made
    working.cancel()
    with suppress(asyncio.CancelledError):
        await working


async def test_what_is_pending_is_not_taken_in(scene: Scene, rule: Rule) -> None:
    rule.shows("pending")
    await scene.looks()
    rule.shows("firing")
    await scene.looks("Open")


async def test_what_is_pending_again_has_not_ended(scene: Scene, rule: Rule) -> None:
    """Prometheus was restarted in the middle of the outage: it begins the rule's ``for`` anew."""
    await scene.fires(**ONE)
    await scene.come_to("Open")
    rule.shows("pending")
    await scene.looks("Open")
    rule.shows(None)
    await scene.looks("Resolved")


@pytest.mark.parametrize("health", ["unknown", "err"])
async def test_a_rule_that_was_not_evaluated_proves_no_end(scene: Scene, rule: Rule, health: str) -> None:
    await scene.fires(**ONE)
    await scene.come_to("Open")
    rule.health = health
    await scene.looks("Open")
    rule.health = "ok"
    await scene.looks("Resolved")


@pytest.mark.parametrize("longer", ["poll_grace", "end_grace"])
async def test_an_end_is_told_after_the_longer_grace(shown: Prometheus, longer: str) -> None:
    scene = Scene(shown, **{longer: timedelta(seconds=0.5)})
    scene.has(observing())
    working = asyncio.create_task(scene.reconciler.queue.run())
    await scene.fires(**ONE)
    await scene.come_to("Open")
    await scene.looks("Open")
    await asyncio.sleep(0.6)
    await scene.looks("Resolved")
    working.cancel()


async def test_what_only_the_poller_has_ended_is_taken_in_when_it_is_shown_again(scene: Scene, rule: Rule) -> None:
    """Of several Prometheuses another has answered: the outage goes on, and nobody tells that it has begun."""
    await scene.fires(**ONE)
    await scene.come_to("Open")
    await scene.looks("Resolved")
    rule.shows("firing")
    await scene.looks("Resolved", "Open")
    await scene.fires(**ONE)
    await scene.come_to("Resolved", "Open")
    await scene.ends(**ONE)
    await scene.looks("Resolved", "Resolved")


async def test_what_alertmanager_has_ended_stays_ended(scene: Scene, rule: Rule) -> None:
    rule.shows("firing")
    await scene.fires(**ONE)
    await scene.come_to("Open")
    await scene.ends(**ONE)
    await scene.looks("Resolved")


async def test_a_group_of_more_than_is_remembered_ends_when_none_of_it_is_shown(scene: Scene, rule: Rule) -> None:
    scene.has(observing(incident=GROUPING))
    pods = [{"alertname": ONE["alertname"], "pod": f"p{n}"} for n in range(MAX_FIRING + 2)]
    await asyncio.gather(*(scene.fires(**pod) for pod in pods))
    await asyncio.gather(*(scene.ends(**pod) for pod in pods[:MAX_FIRING]))
    rule.shown = [FIRING | {"labels": pod, "activeAt": BEGUN.isoformat()} for pod in pods[MAX_FIRING:]]
    await scene.looks("Open")
    rule.shown = []
    await scene.looks("Resolved")


@pytest.mark.parametrize("error", [NameError("name 'inf' is not defined"), Retry("the API server does not answer")])
async def test_ends_are_told_also_when_an_alert_cannot_be_taken_in(client: Prometheus, error: Exception) -> None:
    store, told, taken, metrics = Store(loaded=True), Told(), Taken(), Metrics()
    up = alert(alertname="Up")
    made = incident_manifest(policy(), "covet", up)
    made["metadata"] |= {"uid": "uid-1", "resourceVersion": "5"}
    state = {"state": "firing", "firing": [up.fingerprint]}
    store.put_incident(made | {"status": {"phase": "Open", "alert": state}})
    taken.error = error
    settings = PrometheusSettings(poll_grace=timedelta(0), end_grace=timedelta(0))
    poller = Poller(client, taken, told, store, metrics, settings, lambda: True)  # type: ignore[arg-type]
    await poller.look()
    assert [mark for _, mark in told.ended] == [up.fingerprint]
    assert metrics.registry.get_sample_value("paramedic_poller_errors_total") == 1


async def test_fingerprints_are_alertmanager_s_and_the_same_at_each_look(client: Prometheus) -> None:
    taken = Taken()
    poller = Poller(client, taken, None, Store(), Metrics(), PrometheusSettings(), lambda: True)  # type: ignore[arg-type]
    await poller.look()
    await poller.look()
    assert taken.marks == [fingerprint({"alertname": "Down"})] * 2


class Crowded:
    """A Prometheus with many alerts."""

    async def active_alerts(self) -> list[ActiveAlert]:
        return [ActiveAlert({"alertname": "Down", "pod": str(n)}, {}, None, fires=True) for n in range(3_000)]


async def test_thousands_of_alerts_let_others_have_their_turn() -> None:
    """The lead is renewed by the same event loop."""
    turns = 0

    async def take_turns() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    settings, metrics = PrometheusSettings(), Metrics()
    poller = Poller(Crowded(), Taken(), None, Store(), metrics, settings, lambda: True)  # type: ignore[arg-type]
    others = asyncio.create_task(take_turns())
    await poller.look()
    others.cancel()
    assert turns >= 30
    assert metrics.registry.get_sample_value("paramedic_poller_errors_total") == 0
