"""Liveness fails when a watch is dead, not merely when the process is."""

from datetime import timedelta
from typing import Any

import pytest

from paramedic import resync as module
from paramedic.metrics import Metrics
from paramedic.resync import Resync
from paramedic.store import Store, WatchProgress

Json = dict[str, Any]


class Lists:
    """Answers lists as the API server would, and knows no watch."""

    def __init__(self, version: int) -> None:
        self.version = version

    async def pages(self, path: str, **_: object) -> Any:
        yield [self._object()] if path.endswith("/incidents") else []

    async def newest_version(self, _: str) -> str:
        return str(self.version)

    async def changed_since(self, *_: object, **__: object) -> Any:
        return
        yield

    async def get(self, _: str) -> Json:
        return self._object()

    def _object(self) -> Json:
        metadata = {"name": "a", "namespace": "b", "uid": "u", "resourceVersion": str(self.version)}
        return {"metadata": metadata, "spec": {"title": "t", "type": "APIOutage"}}


class Queue:
    """Remembers what it was asked to look at."""

    def __init__(self) -> None:
        self.keys: list[str] = []
        self.queue = self

    def add(self, key: str) -> None:
        self.keys.append(key)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    now = [1000.0]
    monkeypatch.setattr(module.time, "monotonic", lambda: now[0])
    return now


def looking(lists: Lists, progress: WatchProgress, woken: Queue) -> Resync:
    every = timedelta(seconds=10)
    return Resync(lists, Store(), woken, Metrics(), progress, namespace="p", every=every)  # type: ignore[arg-type]


async def test_watch_that_shows_nothing_though_there_are_changes(clock: list[float]) -> None:
    lists, progress, woken = Lists(version=7), WatchProgress(), Queue()
    resync = looking(lists, progress, woken)
    await resync.look()
    assert set(woken.keys) == {"b/a"}, "what the watch has missed is taken in all the same"
    assert resync.problem() is None
    clock[0] += 91
    await resync.look()
    assert "watch of incidents" in (resync.problem() or "")
    progress.saw("incidents", {"metadata": {"resourceVersion": "7"}})
    await resync.look()
    assert resync.problem() is None


async def test_watch_of_a_quiet_cluster_is_alive(clock: list[float]) -> None:
    progress, woken = WatchProgress(), Queue()
    progress.saw("incidents", {"metadata": {"resourceVersion": "7"}})
    resync = looking(Lists(version=7), progress, woken)
    await resync.look()
    clock[0] += 100_000
    await resync.look()
    assert resync.problem() is None
