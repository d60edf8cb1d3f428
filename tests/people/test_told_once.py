"""A running operator and what it tells the public and others: all of it, once, whatever fails on the way."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from e2e.world import INCIDENTS, World, condition, incident
from people.statuspage_vendor import API_KEY, PAGE_ID, FakeStatuspage
from people.test_webhook_channel import Receiver
from people.vendors import Fault
from testbed.access import Access
from testbed.api import Api, eventually
from testbed.operator_process import Operator

Json = dict[str, Any]
API = "ftgks51sfs2d"
STATUSES = ("investigating", "identified", "monitoring", "resolved")
RESOLUTION = {"spec": {"resolution": {"resolvedBy": "admin", "rootCause": "INTERNAL"}}}


@pytest.fixture
def page() -> Iterator[FakeStatuspage]:
    with FakeStatuspage(API) as started:
        yield started


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with Receiver() as started:
        yield started


@pytest.fixture
def operator(installed: Access, page: FakeStatuspage, receiver: Receiver, tmp_path: Path) -> Iterator[Operator]:
    settings = configured(tmp_path, page, receiver)
    env = {"PARAMEDIC_CONFIG": str(settings), "PARAMEDIC_DIAGNOSE": "false"}
    with Operator(installed, tmp_path / "operator", env=env, identity="teller") as running:
        running.wait_leading()
        yield running


@pytest.fixture
def world(admin: Api, namespace: str, operator: Operator) -> World:
    return World(admin, namespace, operator)


def configured(folder: Path, page: FakeStatuspage, receiver: Receiver) -> Path:
    (folder / "api-key").write_text(API_KEY)
    statuspage = {"pageId": PAGE_ID, "apiKeyFile": str(folder / "api-key"), "apiUrl": page.api_url}
    components = [{"id": API, "target": "app"}]
    settings = {
        "channels": [
            {"name": "page", "perMinute": 6000, "timeout": "5s", "statuspage": statuspage | {"components": components}},
            {"name": "hook", "perMinute": 6000, "timeout": "5s", "webhook": {"url": f"{receiver.url}/incidents"}},
        ],
        "notify": ["page", "hook"],
    }
    path = folder / "settings.yaml"
    path.write_text(json.dumps(settings))
    return path


async def test_from_the_alert_to_the_all_clear(world: World, page: FakeStatuspage, receiver: Receiver) -> None:
    await world.workload()
    await world.policy(
        incident={"severity": "P0", "title": "INTERNAL {{ annotations.summary }}"},
        messages={"service": "API service"},
    )
    assert await world.alert() == 200
    await world.says("Verified")
    assert await world.alert(state="resolved") == 200
    await world.reaches("Resolved")
    found = await told_all(world)
    # It acts at once: what the page was not told in time has been merged into what came after.
    assert page.statuses() == sorted({*page.statuses(), "resolved"}, key=STATUSES.index)
    assert page.components == {API: "operational"}
    assert "INTERNAL" not in json.dumps(page.only)
    assert "our API service" in json.dumps(page.only)
    assert found["status"]["external"]["page"] == page.only["id"]
    assert notices_of(found) == told(receiver)


async def test_what_is_down_holds_up_nothing_and_is_told_later(
    world: World, page: FakeStatuspage, receiver: Receiver
) -> None:
    for vendor in (page, receiver):
        await asyncio.to_thread(vendor.stop)
    await world.workload()
    await world.policy()
    assert await world.alert() == 200
    await world.says("Verified")
    assert await world.alert(state="resolved") == 200
    await world.reaches("Resolved")
    assert await world.generation() == 2, "it was restarted"
    await eventually(lambda: is_down(world), what="Notified is False")
    for vendor in (page, receiver):
        await asyncio.to_thread(vendor.start)
    found = await told_all(world, timeout=90)
    assert condition(found, "Notified")["status"] == "True"
    assert page.incidents == {}, "the public is not told of what is over"
    told_of = told(receiver)
    assert set(told_of.values()) == {1}
    assert notices_of(found) == told_of


async def test_a_shutdown_is_told_once_it_has_begun(world: World, page: FakeStatuspage, receiver: Receiver) -> None:
    """Step 3 and 4 of the runbook's procedure: the public and the stakeholders, and neither before a person agrees."""
    for name in ("app", "worker"):
        await world.workload(name)
    named = [{"name": name} for name in ("app", "worker")]
    shutdown = {"name": "stop", "shutdown": {"workloads": named}, "approval": "Required"}
    await world.policy(shutdown, guards={"cooldown": "0s"}, target=None, match={"incidents": {}})
    await world.incident("stop", type="EmergencyShutdown", severity="P0")
    await world.reaches("AwaitingApproval")
    await told_all(world)
    assert page.incidents == {}
    await world.edit("stop", {"approvals": [{"step": "stop", "approvedBy": "admin"}]})
    await world.reaches("Resolved", timeout=40)
    await told_all(world)
    kinds = [one["kind"] for body in receiver.taken.values() for one in body["notices"]]
    assert kinds.count("Shutdown") == 1
    assert await world.replicas("app") == 0
    assert page.only["name"] == "Emergency Maintenance"
    assert page.statuses() == ["investigating"], "the service is down"
    assert page.components == {API: "major_outage"}


@pytest.mark.parametrize("taken", [False, True], ids=["before", "after"])
@pytest.mark.parametrize("what", ["create", "resolve"])
async def test_killed_while_it_tells_nothing_is_lost_or_told_twice(
    world: World, page: FakeStatuspage, receiver: Receiver, what: str, taken: bool
) -> None:
    """-9 before the page has taken the request, or after that and before it is written down."""
    if what == "create":
        page.fail_next(Fault.none(), Fault.hang(taken=taken))
    await world.admin.create(incident("down"), world.namespace)
    if what == "resolve":
        await told_all(world)
        page.fail_next(Fault.none(), Fault.hang(taken=taken))
        await world.admin.patch(INCIDENTS, "down", RESOLUTION, world.namespace)
    await asyncio.to_thread(page.wait_hanging)
    await asyncio.to_thread(world.operator.kill)
    page.release()
    await asyncio.to_thread(world.operator.start)
    await asyncio.to_thread(world.operator.wait_leading)
    if what == "create":
        await told_all(world)
        await world.admin.patch(INCIDENTS, "down", RESOLUTION, world.namespace)
        await world.reaches("Resolved")
    found = await told_all(world)
    assert page.statuses() == ["investigating", "resolved"]
    assert found["status"]["external"]["page"] == page.only["id"]
    assert notices_of(found).keys() == told(receiver).keys()


async def told_all(world: World, timeout: float = 40) -> Json:
    """The incident, once nothing is still to be told."""

    async def probe() -> Json | None:
        found = await world.the_incident()
        notices = (found.get("status") or {}).get("notices") or []
        return found if notices and not any(one.get("pending") for one in notices) else None

    return await eventually(probe, timeout=timeout, what="everything is told")


async def is_down(world: World) -> bool:
    conditions = (await world.the_incident())["status"]["conditions"]
    return any(one["type"] == "Notified" and one["status"] == "False" for one in conditions)


def notices_of(found: Json) -> Counter[str]:
    """The keys of all notices, none of which may be undelivered."""
    assert not any(one.get("undelivered") for one in found["status"]["notices"]), found["status"]["notices"]
    return Counter(one["key"] for one in found["status"]["notices"])


def told(receiver: Receiver) -> Counter[str]:
    """The keys of what came, without the repetitions that an Idempotency-Key shows."""
    return Counter(one["key"] for body in receiver.taken.values() for one in body["notices"])
