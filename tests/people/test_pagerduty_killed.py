"""An operator that is killed while it tells PagerDuty: nothing is lost, and nothing is told twice."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from e2e.world import World, incident
from people.pagerduty_vendor import FakePagerDuty
from people.test_pagerduty_end_to_end import alert_of, configured, is_there
from people.vendors import Fault
from testbed.access import Access
from testbed.api import Api, eventually
from testbed.operator_process import Operator

Json = dict[str, Any]


@pytest.mark.parametrize("taken", [False, True], ids=["before", "after"])
@pytest.mark.parametrize("what", ["trigger", "note", "resolve"])
async def test_killed_while_it_tells_nothing_is_lost_or_told_twice(
    installed: Access, admin: Api, namespace: str, tmp_path: Path, what: str, taken: bool
) -> None:
    """-9 before PagerDuty has taken the request, or after that and before it is written down."""
    with FakePagerDuty() as pager:
        env = {"PARAMEDIC_CONFIG": str(configured(tmp_path, pager))}
        with Operator(installed, tmp_path, env=env, identity="killed") as operator:
            operator.wait_leading(90)
            world = World(admin, namespace, operator)
            if what == "trigger":
                pager.fail_next(Fault.hang(taken=taken))
            made = await admin.create(incident("down"), namespace)
            key = f"paramedic-{made['metadata']['uid']}"
            if what != "trigger":
                alert = await alert_of(pager, key)
                await told_all(world)
                pager.fail_next(Fault.hang(taken=taken))
                await _end(world) if what == "resolve" else await _acknowledge(world)
            await asyncio.to_thread(pager.wait_hanging)
            await asyncio.to_thread(operator.kill)
            pager.release()
            await asyncio.to_thread(operator.start)
            await asyncio.to_thread(operator.wait_leading, 90)
            alert = await alert_of(pager, key)
            if what == "trigger":
                await told_all(world)
            if what != "resolve":
                await _end(world)
            await is_there(lambda: alert.status == "resolved", "resolved at PagerDuty")
            found = await told_all(world)
        assert found["status"]["phase"] == "Resolved"
        assert [a.key for a in pager.alerts] == [key], "one alert for one incident"
        assert len(set(alert.lines)) == len(alert.lines), "no note twice"
        assert [line for line in alert.lines if "closed by" in line], "no note lost"


async def told_all(world: World) -> Json:
    """The incident, once nothing is still to be told."""

    async def probe() -> Json | None:
        found = await world.the_incident()
        notices = (found.get("status") or {}).get("notices") or []
        return found if notices and not any(n.get("pending") for n in notices) else None

    return await eventually(probe, timeout=40, what="everything is told")


async def _acknowledge(world: World) -> None:
    await world.admin.patch(
        "paramedic.dev/v1alpha1/incidents", "down", {"spec": {"acknowledgedBy": "admin"}}, world.namespace
    )


async def _end(world: World) -> None:
    resolution = {"spec": {"resolution": {"resolvedBy": "admin"}}}
    await world.admin.patch("paramedic.dev/v1alpha1/incidents", "down", resolution, world.namespace)
