"""A policy without room for its matchers says so, and reading many policies holds nobody up."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from types import SimpleNamespace
from typing import Any

from builders import NOW, policy_manifest
from paramedic.core.match import compile_policy
from paramedic.core.policy_index import PolicyIndex
from paramedic.metrics import Metrics
from paramedic.policies import PolicyReporter, read_policy
from paramedic.resync import Resync
from paramedic.store import Store, WatchProgress
from testbed.api import eventually

Json = dict[str, Any]


class Server:
    """Lists these policies, and keeps the statuses that are written."""

    def __init__(self, policies: list[Json]) -> None:
        self.policies = {one["metadata"]["name"]: one for one in policies}

    async def pages(self, path: str, **_: object) -> Any:
        yield list(self.policies.values()) if path.endswith("/remediationpolicies") else []

    async def newest_version(self, _: str) -> str:
        return "1"

    async def merge_patch(self, path: str, body: Json, *_: Any) -> Json:
        found = self.policies[path.split("/")[-2]]
        found["status"] = (found.get("status") or {}) | body["status"]
        found["metadata"]["resourceVersion"] = str(int(found["metadata"]["resourceVersion"]) + 1000)
        return found

    def ready(self, name: str) -> tuple[str, str]:
        conditions = (self.policies[name].get("status") or {}).get("conditions") or [{"status": "", "reason": ""}]
        return conditions[0]["status"], conditions[0]["reason"]


def manifest(number: int) -> Json:
    raw = policy_manifest(f"p{number}", created=NOW + timedelta(seconds=number))
    raw["metadata"]["resourceVersion"] = str(number + 1)
    return raw


async def test_ready_says_that_there_is_no_room_and_when_there_is_again() -> None:
    server = Server([manifest(0), manifest(1)])
    (first, _), (second, _) = (read_policy(raw, "paramedic-system") for raw in server.policies.values())
    assert first
    assert second
    store = Store(_policy_index=PolicyIndex(compile_policy(first).bytes))
    for raw, read in zip(server.policies.values(), (first, second), strict=True):
        store.put_policy(raw, read, None)
    reachable: Any = SimpleNamespace(problem=_nothing_wrong)
    every = timedelta(seconds=60)
    reporter = PolicyReporter(server, store, lambda: True, every, reachable, has_prometheus=True)  # type: ignore[arg-type]
    running = asyncio.create_task(reporter.run())
    try:
        await eventually(lambda: server.ready("p1") == ("False", "PolicyWithoutRoom"), timeout=5)
        assert server.ready("p0") == ("True", "PolicyValid")
        assert [one.metadata.name for one in store.usable_policies()] == ["p0"]
        store.remove_policy(server.policies["p0"])
        reporter.wake()
        await eventually(lambda: server.ready("p1") == ("True", "PolicyValid"), timeout=5)
    finally:
        running.cancel()


async def _nothing_wrong(_: Any) -> None:
    return None


async def test_reading_many_policies_lets_others_have_their_turn() -> None:
    server, store, turns = Server([manifest(number) for number in range(50)]), Store(), 0
    unused: Any = None
    resync = Resync(
        server,  # type: ignore[arg-type]
        store,
        unused,
        Metrics(),
        WatchProgress(),
        namespace="paramedic-system",
        every=timedelta(seconds=60),
    )

    async def take_turns() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    others = asyncio.create_task(take_turns())
    await resync.load_everything()
    others.cancel()
    assert len(store.policies) == 50
    assert turns >= 50
