"""A running operator and its Slack: from the alert to the button to the action; who may not; what was never Slack."""

from __future__ import annotations

import asyncio
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator
from hashlib import sha256
from typing import Any

import pytest

from e2e.world import INCIDENTS, World, incident, reasons, step
from people.slack_settings import ALICE, BOB, configured
from people.slack_vendor import Channel, FakeSlack, Posted, form_of, marked_up, sign
from testbed.access import Access
from testbed.api import Api, eventually
from testbed.operator_process import Operator

Json = dict[str, Any]
NOBODY = "U0NOBODY"


@pytest.fixture(scope="module")
def slack() -> Iterator[FakeSlack]:
    with FakeSlack() as vendor:
        vendor.add_channel("incident-response")
        yield vendor


@pytest.fixture(scope="module")
def reported() -> str:
    """The namespace of ``/incident create``."""
    return "slack-reported"


@pytest.fixture(scope="module")
def operator(
    installed: Access, slack: FakeSlack, reported: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Operator]:
    folder = tmp_path_factory.mktemp("slack")
    installed.kubectl("create", "namespace", reported)
    with Operator(installed, folder, env={"PARAMEDIC_CONFIG": str(configured(folder, slack, reported))}) as running:
        running.wait_leading()
        yield running
    installed.kubectl("delete", "namespace", reported, "--wait=false")


@pytest.fixture
async def world(admin: Api, namespace: str, operator: Operator) -> World:
    for role in ("paramedic-edit", "paramedic-approve", "edit"):
        await let(admin, "alice", role, namespace)
    return World(admin, namespace, operator)


async def let(admin: Api, user: str, role: str, namespace: str) -> None:
    binding = {
        "apiVersion": "rbac.authorization.k8s.io/v1",
        "kind": "RoleBinding",
        "metadata": {"name": f"{user}-{role}"},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": role},
        "subjects": [{"apiGroup": "rbac.authorization.k8s.io", "kind": "User", "name": user}],
    }
    await admin.create(binding, namespace)


async def post(operator: Operator, body: bytes, headers: dict[str, str] | None = None) -> int:
    """The status with which a request of Slack's is answered."""
    url = f"{operator.url}/webhook/slack"
    request = urllib.request.Request(url, body, sign(body) if headers is None else headers, method="POST")

    def send() -> int:
        try:
            with urllib.request.urlopen(request, timeout=20) as answer:
                assert answer.read() == b"", "Slack would show it to everybody"
                return int(answer.status)
        except urllib.error.HTTPError as error:
            return error.code

    return await asyncio.to_thread(send)


async def pressed(operator: Operator, slack: FakeSlack, payload: Json) -> str:
    """What the person who has pressed is told."""
    before = len(slack.answers)
    assert await post(operator, form_of(payload)) == 200
    return await answer_after(slack, before)


async def commanded(operator: Operator, slack: FakeSlack, text: str, user: str, **fields: str) -> str:
    """What the person who has written ``/incident …`` is told."""
    before = len(slack.answers)
    assert await post(operator, urllib.parse.urlencode(slack.command(text, user, **fields)).encode()) == 200
    return await answer_after(slack, before)


async def answer_after(slack: FakeSlack, before: int) -> str:
    async def probe() -> str | None:
        return slack.answers[before] if len(slack.answers) > before else None

    return await eventually(probe, timeout=30, what="an answer for the person")


async def told_in(slack: FakeSlack, world: World, name: str | None = None) -> Channel:
    """The channel of the incident, once it has its message."""

    async def probe() -> Channel | None:
        found = await world.admin.get(INCIDENTS, name, world.namespace) if name else await world.the_incident()
        external = (found.get("status") or {}).get("external") or {}
        return slack.channels.get(external.get("chat/channel", ""))

    return await eventually(probe, what="a channel of the incident's")


async def shows(message: Posted, *labels: str) -> None:
    async def probe() -> bool:
        return set(labels) == set(message.buttons)

    await eventually(probe, what=f"the buttons {labels}")


async def asking(world: World, slack: FakeSlack, **spec: Any) -> Channel:
    """An incident whose step waits for approval, as it stands in Slack."""
    await world.workload()
    await world.policy({"name": "more", "scale": {"replicas": 3}}, mode="Approve", **spec)
    assert await world.alert() == 200
    await world.reaches("AwaitingApproval")
    channel = await told_in(slack, world)
    await shows(channel.main, "Approve", "Reject", "Acknowledge", "Pause")
    return channel


async def test_from_the_alert_to_the_button_to_the_action(world: World, slack: FakeSlack) -> None:
    channel = await asking(world, slack)
    found = await world.the_incident()
    assert channel.name == f"incident-{found['metadata']['name']}".replace(".", "-")
    assert "policy is on fire" in channel.topic
    assert "2 → 3" in channel.main.words
    answer = await pressed(world.operator, slack, slack.press(channel, "Acknowledge", ALICE))
    assert answer.endswith("is acknowledged by alice.")
    await shows(channel.main, "Approve", "Reject", "Pause")
    question = next(m for m in channel.thread if m.buttons)
    assert await world.replicas() == 2
    answer = await pressed(world.operator, slack, slack.press(channel, "Approve", ALICE, question))
    assert answer.startswith("Step more of ")
    await world.says("Verified")
    await world.alert(state="resolved")
    found = await world.reaches("Resolved", timeout=40)
    assert await world.replicas() == 3
    assert step(found)["approvedBy"] == "alice"
    assert found["status"]["approvals"][0]["via"] == "slack"
    assert found["status"]["acknowledgement"] | {"at": ""} == {"by": "alice", "via": "slack", "at": ""}
    await shows(channel.main)
    await shows(question)

    async def over() -> bool:
        return (
            channel.topic.startswith("P2 · resolved · IC alice") and "INCIDENT RESOLVED" in channel.messages[-1].words
        )

    await eventually(over, what="the all-clear and the topic")
    assert len(channel.top) == 1, "one message, kept up to date"
    shared = [m for m in slack.channel("incident-response").messages if f"<#{channel.id}>" in m.words]
    assert len(shared) == 2, "the beginning and the end"


async def test_who_may_not_is_told_why_and_nothing_happens(world: World, slack: FakeSlack) -> None:
    channel = await asking(world, slack)
    for label in ("Approve", "Reject", "Acknowledge", "Pause"):
        unmapped = await pressed(world.operator, slack, slack.press(channel, label, NOBODY))
        assert "channels[].slack.users" in unmapped
        mapped = await pressed(world.operator, slack, slack.press(channel, label, BOB))
        assert mapped.startswith("No: bob may not"), mapped
    foreign = slack.press(channel, "Approve", ALICE) | {"team": {"id": "T0OTHER"}}
    foreign["user"]["team_id"] = "T0OTHER"
    assert "not of the workspace" in await pressed(world.operator, slack, foreign)
    found = await world.stays("AwaitingApproval", 0.5)
    assert not {"approvals", "acknowledgement"} & set(found["status"])
    assert not found["spec"].get("paused")
    assert await world.replicas() == 2


async def test_a_button_counts_only_where_it_was_shown_and_for_what_it_showed(world: World, slack: FakeSlack) -> None:
    channel = await asking(world, slack)
    approve = channel.main.buttons["Approve"]
    elsewhere = slack.add_channel("elsewhere")
    assert "told elsewhere" in await pressed(world.operator, slack, slack.pressed(elsewhere.id, approve, ALICE))
    old = approve | {"value": approve["value"].replace(step(await world.the_incident())["operation"], "0" * 36)}
    assert "has changed since" in await pressed(world.operator, slack, slack.pressed(channel.id, old, ALICE))
    unknown = approve | {"action_id": "paramedic.drop_tables"}
    assert "not known" in await pressed(world.operator, slack, slack.pressed(channel.id, unknown, ALICE))
    await world.stays("AwaitingApproval", 0.5)


async def test_rejecting_pauses_and_says_who(world: World, slack: FakeSlack) -> None:
    channel = await asking(world, slack)
    answer = await pressed(world.operator, slack, slack.press(channel, "Reject", ALICE))
    assert answer.startswith("Step more is rejected by alice")
    found = await world.says("Paused")
    assert found["spec"]["paused"] is True
    assert any("alice" in t["message"] for t in found["status"]["timeline"] if t["reason"] == "Paused")

    async def resumable() -> bool:
        return "Resume" in channel.main.buttons

    await eventually(resumable, what="a button to resume")
    await pressed(world.operator, slack, slack.press(channel, "Resume", ALICE))
    assert not (await world.the_incident())["spec"].get("paused")


async def test_what_slack_has_not_signed_just_now_is_refused(world: World, slack: FakeSlack) -> None:
    channel = await asking(world, slack)
    body = form_of(slack.press(channel, "Approve", ALICE))
    right = sign(body)
    before = len(slack.answers)
    signature, timestamp = right["X-Slack-Signature"], right["X-Slack-Request-Timestamp"]
    for headers in (
        {},
        right | {"X-Slack-Signature": ""},
        right | {"X-Slack-Signature": "v0=" + "0" * 64},
        right | {"X-Slack-Signature": signature.removeprefix("v0=")},
        right | {"X-Slack-Signature": signature.replace("v0=", "v1=")},
        right | {"X-Slack-Signature": "v0=ü".encode().decode("latin-1")},
        right | {"X-Slack-Request-Timestamp": str(int(timestamp) + 1)},
        right | {"X-Slack-Request-Timestamp": "9" * 400},
        right | {"X-Slack-Request-Timestamp": "-1"},
        sign(body, at=int(timestamp) - 301),
        sign(body, at=int(timestamp) + 400),
        sign(body, secret="somebody else's"),
        sign(body + b" "),
    ):
        assert await post(world.operator, body, headers) == 401, headers
    assert (await world.stays("AwaitingApproval", 0.5))["status"].get("approvals") is None
    assert len(slack.answers) == before
    assert world.operator.metric("paramedic_inbound_requests_total", edge="slack", code="401") >= 13


@pytest.mark.parametrize(
    ("body", "status"),
    [
        (b"", 200),
        (b"ssl_check=1&token=x", 200),
        (b"payload=", 400),
        (b"payload=%5B%5D", 400),
        (b"payload=" + b"[" * 100_000, 400),
        (b"payload=%7B%22type%22%3A%22block_actions%22%7D", 400),
        (b"payload=%7B%22type%22%3A%22view_submission%22%7D", 200),
        (b"\xff\xfe", 400),
        (b"&".join([b"a=b"] * 1000), 400),
        (b"command=/incident&user_id=lower&trigger_id=1", 400),
        (b"x" * 300_000, 413),
    ],
)
async def test_a_signed_body_that_is_no_payload_does_no_harm(operator: Operator, body: bytes, status: int) -> None:
    assert await post(operator, body) == status


async def test_an_answer_goes_to_slack_only(world: World, slack: FakeSlack) -> None:
    channel = await asking(world, slack)
    before = len(slack.requests)
    payload = slack.press(channel, "Acknowledge", ALICE) | {"response_url": f"{slack.url}@example.com/hooks/ab"}
    assert await post(world.operator, form_of(payload)) == 200
    found = await world.says("Acknowledged")
    assert found["status"]["acknowledgement"]["by"] == "alice"
    await shows(channel.main, "Approve", "Reject", "Pause")
    assert not [r for r in slack.requests[before:] if r.path.startswith("/hooks")]


async def test_who_is_on_call_is_invited_and_mentioned(world: World, slack: FakeSlack) -> None:
    await world.admin.create(incident("breach", type="SecurityBreach"), world.namespace)
    channel = await told_in(slack, world, "breach")

    shared = slack.channel("incident-response").messages

    async def called() -> bool:
        return any(f"<@{ALICE}>" in m.words and f"<#{channel.id}>" in m.words for m in shared)

    await eventually(called, what="a call in the shared channel")
    assert channel.members == {ALICE}
    calls = [m for m in channel.thread if f"<@{ALICE}>" in m.words]
    assert [m.broadcast for m in calls] == [True]


async def test_hostile_words_stay_words(world: World, slack: FakeSlack) -> None:
    title = "<!channel> <@U0ALICE> <https://evil.example|click> {{ 7*7 }} & @here *ALL CLEAR* `x` ~y~ :tada: ```"
    await world.admin.create(incident("hostile", title=title), world.namespace)
    channel = await told_in(slack, world, "hostile")
    assert title in channel.main.words
    assert [mark for m in channel.messages for mark in marked_up(m.blocks)] == []
    assert marked_up([{"type": "mrkdwn", "text": channel.topic}]) == []
    shared = [m for m in slack.channel("incident-response").messages if f"<#{channel.id}>" in m.words]
    assert {mark for m in shared for mark in marked_up(m.blocks)} == {f"<#{channel.id}>"}
    press = slack.press(channel, "Acknowledge", NOBODY)
    press["user"]["username"] = "<!channel>\nalice"
    answer = await pressed(world.operator, slack, press)
    assert "<!channel> alice (Slack U0NOBODY) may not" in answer
    sent = [r.json["text"] for r in slack.requests if r.path.startswith("/hooks")]
    assert [mark for text in sent for mark in marked_up([{"text": text}])] == []
    assert [mark for r in slack.requests if r.path.startswith("/hooks") for mark in marked_up(r.json["blocks"])] == []


# -- /incident ---------------------------------------------------------------------------------------------------------


async def test_an_incident_is_opened_listed_and_taken_by_command(
    admin: Api, operator: Operator, slack: FakeSlack, reported: str
) -> None:
    refused = await commanded(operator, slack, "create P1 it burns", ALICE)
    assert refused.startswith("No: alice may not create an incident: lacks create incidents"), refused
    for role in ("paramedic-edit", "paramedic-trigger"):
        await let(admin, "alice", role, reported)

    async def opened() -> str | None:
        answer = await commanded(operator, slack, 'create p1 "It burns: <!channel>!"', ALICE, trigger="7.8.9")
        return answer if "is open" in answer else None

    answer = await eventually(opened, timeout=40, what="the binding counts")
    found = (await admin.list(INCIDENTS, reported))[0]
    name = found["metadata"]["name"]
    assert name == f"it-burns-channel-{sha256(b'7.8.9').hexdigest()[:10]}", "the same for whoever handles it, whenever"
    assert found["spec"]["severity"] == "P1"
    assert found["spec"]["title"] == "It burns: <!channel>!"
    assert found["spec"]["commander"] == "alice"
    channel = next(c for c in slack.channels.values() if c.name == f"incident-{name}")
    assert answer == f"{reported}/{name} is open, and you lead it. <#{channel.id}>"
    # Sent twice, made once.
    assert "is open" in await commanded(operator, slack, 'create p1 "It burns: <!channel>!"', ALICE, trigger="7.8.9")
    assert len(await admin.list(INCIDENTS, reported)) == 1
    listed = await commanded(operator, slack, "list", ALICE)
    assert listed.startswith(f"P1 {name}: Open, It burns: <!channel>! (IC alice)")
    assert "acknowledged by alice" in await commanded(operator, slack, f"ack {name}", ALICE)
    stored = await admin.get(INCIDENTS, name, reported)
    assert stored["status"]["acknowledgement"]["by"] == "alice"
    assert "Acknowledged" in reasons(stored)


@pytest.mark.parametrize(
    ("text", "user", "answer"),
    [
        ("list", NOBODY, "channels[].slack.users"),
        ("create it burns", NOBODY, "channels[].slack.users"),
        ("list", BOB, "No: bob may not list incidents"),
        ("create it burns", BOB, "No: bob may not create an incident"),
        ("", ALICE, "/incident create"),
        ("drop tables", ALICE, "/incident create"),
        ("create", ALICE, "/incident create"),
        ("create P0", ALICE, "/incident create"),
        ("ack ../../secrets/x", ALICE, "over or gone"),
        ("ack", ALICE, "over or gone"),
    ],
)
async def test_other_commands_change_nothing(
    admin: Api, operator: Operator, slack: FakeSlack, reported: str, text: str, user: str, answer: str
) -> None:
    before = len(await admin.list(INCIDENTS, reported))
    assert answer in await commanded(operator, slack, text, user)
    assert len(await admin.list(INCIDENTS, reported)) == before


# -- Socket Mode -------------------------------------------------------------------------------------------------------


async def test_buttons_and_commands_come_by_socket_mode_too(world: World, slack: FakeSlack) -> None:
    channel = await asking(world, slack)
    before = len(slack.answers)
    envelope = await asyncio.to_thread(slack.send_by_socket, "interactive", slack.press(channel, "Acknowledge", ALICE))
    assert (await answer_after(slack, before)).endswith("is acknowledged by alice.")
    assert envelope in slack.acknowledged
    command = await asyncio.to_thread(slack.send_by_socket, "slash_commands", slack.command("help", ALICE))
    assert "/incident create" in await answer_after(slack, before + 1)
    for payload in ({}, {"type": "block_actions"}, {"command": 1}):
        await asyncio.to_thread(slack.send_by_socket, "interactive", payload)
    assert command in slack.acknowledged
    connections = slack.connections
    await asyncio.to_thread(slack.drop_socket)
    await asyncio.to_thread(slack.wait_connected)
    assert slack.connections > connections
    unmapped = slack.press(channel, "Approve", NOBODY)
    await asyncio.to_thread(slack.send_by_socket, "interactive", unmapped)
    assert "channels[].slack.users" in await answer_after(slack, before + 2)
