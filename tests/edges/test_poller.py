"""The look at Prometheus' alerts goes on, whatever something that calls itself Prometheus answers."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator, Sequence
from datetime import timedelta
from typing import Any

import pytest

from paramedic.clients.prometheus import Prometheus
from paramedic.core.alert import Alert
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
        return [Route("GET", "/api/v1/alerts", None, self.alerts)]

    def alerts(self, _: Request) -> Reply:
        return Reply(200, {"status": "success", "data": self.odd.pop(0) if self.odd else {"alerts": [FIRING]}})


class Taken:
    """The intake, as far as the poller knows it."""

    def __init__(self) -> None:
        self.names: list[str] = []

    async def take(self, alerts: Sequence[Alert], source: str, *, but: Any) -> None:
        self.names += [alert.labels["alertname"] for alert in alerts]


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
