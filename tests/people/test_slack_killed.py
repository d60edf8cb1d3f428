"""An operator that is killed while it tells Slack."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from e2e.world import World, incident
from people.slack_settings import configured
from people.slack_vendor import BOT_TOKEN, SIGNING_SECRET, FakeSlack
from people.vendors import Fault
from testbed.access import Access
from testbed.api import Api, eventually
from testbed.operator_process import Operator

Json = dict[str, Any]


@pytest.mark.parametrize(
    ("number", "taken"),
    [(0, True), (1, False), (1, True), (2, True), (4, True)],
    ids=["channel made", "message not posted", "message posted", "details posted", "line posted"],
)
async def test_killed_while_it_tells_nothing_is_lost_or_told_twice(
    installed: Access, admin: Api, namespace: str, tmp_path: Path, number: int, taken: bool
) -> None:
    """-9 before Slack has taken the request, or after that and before it is written down."""
    with FakeSlack() as slack:
        slack.add_channel("incident-response")
        path = configured(tmp_path, slack, namespace, appTokenFile=None)
        env = {"PARAMEDIC_CONFIG": str(path)}
        with Operator(installed, tmp_path, env=env, identity="killed") as operator:
            operator.wait_leading()
            world = World(admin, namespace, operator)
            slack.fail_next(*[Fault("pass", taken=True)] * number, Fault.hang(taken=taken))
            await admin.create(incident("down"), namespace)
            await asyncio.to_thread(slack.wait_hanging)
            await asyncio.to_thread(operator.kill)
            slack.release()
            await asyncio.to_thread(operator.start)
            await asyncio.to_thread(operator.wait_leading)
            found = await told_all(world)
        shared, channel = slack.channel("incident-response"), slack.channel("incident-down")
        assert found["status"]["external"]["chat/channel"] == channel.id
        assert [len(slack.channels), len(channel.top), len(shared.messages)] == [2, 1, 1]
        assert channel.topic.startswith("P1 · open")
        facts = [line for m in channel.thread for line in m.words.splitlines()]
        assert len(set(facts)) == len(facts), "no fact twice"
        text = operator.log.read_text()
        assert not any(secret in text for secret in (BOT_TOKEN, SIGNING_SECRET))


@pytest.mark.parametrize("taken", [False, True], ids=["line not posted", "line posted"])
async def test_killed_while_it_tells_the_shared_channel_instead_of_one_that_is_gone(
    installed: Access, admin: Api, namespace: str, tmp_path: Path, taken: bool
) -> None:
    """-9 between the incident's own channel, which a person has archived, and what is written down."""
    with FakeSlack() as slack:
        shared = slack.add_channel("incident-response")
        env = {"PARAMEDIC_CONFIG": str(configured(tmp_path, slack, namespace, appTokenFile=None))}
        with Operator(installed, tmp_path, env=env, identity="archived") as operator:
            operator.wait_leading()
            world = World(admin, namespace, operator)
            await admin.create(incident("down"), namespace)
            await told_all(world)
            slack.channel("incident-down").archived = True
            slack.fail_next(Fault.none(), Fault.hang(taken=taken))
            await world.edit("down", {"resolution": {"resolvedBy": "admin"}})
            await asyncio.to_thread(slack.wait_hanging)
            await asyncio.to_thread(operator.kill)
            slack.release()
            await asyncio.to_thread(operator.start)
            await asyncio.to_thread(operator.wait_leading)
            found = await told_all(world, "Resolved")
        assert [n for n in found["status"]["notices"] if n.get("undelivered")] == []
        assert [sum("closed by admin" in m.words for m in shared.messages), len(slack.channels)] == [1, 2]


async def told_all(world: World, kind: str = "Opened") -> Json:
    """The incident, once it has something of this kind to tell, and nothing that is still to be told."""

    async def probe() -> Json | None:
        found = await world.the_incident()
        notices = (found.get("status") or {}).get("notices") or []
        has_it = any(n["kind"] == kind for n in notices)
        return found if has_it and not any(n.get("pending") for n in notices) else None

    return await eventually(probe, timeout=40, what="everything is told")
