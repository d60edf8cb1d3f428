"""Alerts of one group in one payload: the first status that is written tells of all of them."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

from e2e.world import INCIDENTS, World

Json = dict[str, Any]
PODS = 10


async def test_a_batch_is_stored_by_the_write_that_holds_the_intent(world: World) -> None:
    await world.workload()
    await world.policy(incident={"type": "APIOutage", "severity": "P1", "groupBy": ["alertname"]})
    begun = asyncio.create_task(_first_status(world.admin.watch(INCIDENTS, world.namespace)))
    assert await world.send(*(world.alert_body(pod=f"app-{number}") for number in range(PODS))) == 200
    answered = await world.the_incident()
    assert len(answered["status"]["alert"]["firing"]) == PODS, "answered before all was stored"
    first = (await asyncio.wait_for(begun, 10))["status"]
    assert first["steps"][0]["state"] == "Executing"
    assert len(first["alert"]["firing"]) == first["alert"]["count"] == PODS


async def test_an_alert_is_counted_once_however_early_the_watch_shows_its_incident(world: World) -> None:
    await world.policy(mode="Observe", incident={"type": "APIOutage", "severity": "P1", "groupBy": ["pod"]})
    bodies = [world.alert_body(pod=f"app-{number}") for number in range(40)]
    assert set(await asyncio.gather(*(world.send(body) for body in bodies))) == {200}
    found = await world.reaches_all(len(bodies), "Open", "Blocked", "Escalated")
    assert [one["status"]["alert"]["count"] for one in found] == [1] * len(bodies)


async def test_the_end_of_an_alert_in_the_payload_that_opens_its_incident_is_heard(world: World) -> None:
    await world.workload()
    await world.policy(mode="Approve", incident={"type": "APIOutage", "severity": "P1", "groupBy": ["alertname"]})
    over = world.alert_body(pod="app-0", state="resolved")
    assert await world.send(world.alert_body(pod="app-1"), over, world.alert_body(pod="app-2")) == 200
    found = await world.the_incident()
    assert len(found["status"]["alert"]["firing"]) == 2
    assert found["status"]["alert"]["state"] == "firing"


async def _first_status(events: AsyncIterator[Json]) -> Json:
    async for event in events:
        seen: Json = event["object"]
        if seen.get("status"):
            return seen
    raise AssertionError("the watch ended without a status")
