"""A running operator with short clocks: severity, acknowledgement, escalation, several services at once, restarts."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from e2e.world import INCIDENTS, World, condition, reasons, step
from people.vendors import FakeVendor, Reply, Request, Route
from testbed.access import Access
from testbed.api import Api, eventually
from testbed.operator_process import Operator

Json = dict[str, Any]
HOSTILE = 'x"},{"<!channel> @everyone {{ 7*7 }}\n\u202ekcatta'
NEVER_OPEN = {"schedule": "0 0 29 2 *", "duration": "1m"}


class Desk(FakeVendor):
    """Somebody who is told by a webhook, and one path for each team's level."""

    def routes(self) -> list[Route]:
        return [Route("POST", "/(?P<who>[a-z0-9-]+)", dict[str, Any], self.take)]

    def take(self, request: Request) -> Reply:
        return Reply(200, {})

    def told(self, uid: str, who: str) -> list[Json]:
        """The notices of an incident that somebody was told, each once: a repetition has the same Idempotency-Key."""
        heard = {r.headers["idempotency-key"]: r.json for r in list(self.requests) if r.path == f"/{who}"}
        return [notice for body in heard.values() if body["id"] == uid for notice in body["notices"]]

    def calls(self, uid: str, who: str) -> list[str]:
        return [notice["key"] for notice in self.told(uid, who) if notice["kind"] == "Call"]


@pytest.fixture(scope="module")
def desk() -> Iterator[Desk]:
    with Desk() as vendor:
        yield vendor


def configured(folder: Path, desk: Desk) -> Path:
    names = ("desk", "first", "guard", "parts")
    level = {"nextAfter": "2s"}
    theirs = {"name": "theirs", "namespaces": ["team-b"], "webhook": {"url": f"{desk.url}/theirs"}}
    lead = {"name": "second", "namespaces": ["team-b"], "perMinute": 6000, "webhook": {"url": f"{desk.url}/second"}}
    settings = {
        "channels": [
            *({"name": n, "perMinute": 6000, "webhook": {"url": f"{desk.url}/{n}"}} for n in names),
            theirs,
            lead,
        ],
        "notify": ["desk"],
        "people": {
            "responses": [
                {"severity": "P0", "respondWithin": "0s", "acknowledgeWithin": "2s", "resolveWithin": "1h"},
                {"severity": "P1", "respondWithin": "1m", "blockedWithin": "1s", "approveWithin": "1s"},
                {"severity": "P2", "respondWithin": "1m", "resolveWithin": "1s", "callDuring": [NEVER_OPEN]},
                {"severity": "P3", "respondWithin": "1m", "updateEvery": "1s"},
            ],
            "teams": [
                {
                    "name": "ops",
                    "levels": [
                        {"name": "on call", "contacts": [{"channel": "first", "mention": "UFIRST"}]} | level,
                        {"name": "lead", "contacts": [{"channel": "second"}]} | level,
                    ],
                },
                {"name": "security", "levels": [{"name": "guard", "contacts": [{"channel": "guard"}]}]},
            ],
            "defaultTeam": "ops",
            "securityTeam": "security",
            "severalServices": {"targets": 3, "window": "2m"},
        },
    }
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "settings.yaml").write_text(yaml.safe_dump(settings))
    return folder / "settings.yaml"


@pytest.fixture(scope="module")
def operator(installed: Access, desk: Desk, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Operator]:
    folder = tmp_path_factory.mktemp("clocks")
    env = {"PARAMEDIC_CONFIG": str(configured(folder, desk)), "PARAMEDIC_DIAGNOSE": "false"}
    with Operator(installed, folder, env=env) as running:
        running.wait_leading()
        yield running


@pytest.fixture
def world(admin: Api, namespace: str, operator: Operator) -> World:
    return World(admin, namespace, operator)


async def once(world: World, question: Callable[[Json], Any], name: str = "incident", what: str = "") -> Json:
    """The incident, once the question's answer is yes."""

    async def probe() -> Json | None:
        found = await world.admin.get(INCIDENTS, name, world.namespace)
        return found if "status" in found and question(found) else None

    return await eventually(probe, timeout=20, what=what)


def escalation(found: Json) -> Json:
    return found["status"].get("escalation") or {}  # type: ignore[no-any-return]


# -- clocks and severity -----------------------------------------------------------------------------------------------


async def test_an_alerts_times_are_kept_and_measured(world: World, operator: Operator) -> None:
    await world.workload()
    await world.policy(incident={"type": "APIOutage", "severity": "P3"}, verify={"rollout": True, "timeout": "20s"})

    def measured(what: str) -> float:
        return operator.metric(f"paramedic_time_to_{what}_seconds_count", severity="P3")

    before = await asyncio.to_thread(measured, "resolve")
    await world.alert()
    await world.says("Verified")
    name = (await world.the_incident())["metadata"]["name"]
    await world.edit(name, {"acknowledgedBy": "admin"})
    await world.says("Acknowledged")
    await world.alert(state="resolved")
    status = (await world.reaches("Resolved"))["status"]
    assert status["severity"] == "P3"
    assert status["acknowledgement"]["by"] == status["commander"] == "admin"
    assert status["acknowledgement"]["via"] == "kubernetes"
    assert status["mitigatedAt"] == step({"status": status})["finishedAt"]
    assert set(status["times"]) == {"acknowledge", "mitigate", "resolve"}
    assert await asyncio.to_thread(measured, "resolve") == before + 1
    assert await asyncio.to_thread(measured, "mitigate") >= 1


async def test_a_graver_alert_raises_the_severity_and_none_lowers_it(world: World, desk: Desk) -> None:
    await world.workload()
    await world.policy(
        mode="Approve",
        incident={"type": "APIOutage", "severity": "P3", "severityFromLabel": "grade", "groupBy": ["alertname"]},
    )
    await world.alert(pod="a", grade="P3")
    await world.reaches("AwaitingApproval")
    await world.alert(pod=HOSTILE, grade="p0")
    found = await world.says("SeverityRaised")
    assert (found["status"]["severity"], found["spec"]["severity"]) == ("P0", "P3")
    await world.alert(pod="c", grade="P2")
    await world.alert(pod=HOSTILE, grade="p0", state="resolved")
    found = await once(world, lambda f: len(f["status"]["alert"]["firing"]) == 2, found["metadata"]["name"])
    assert found["status"]["severity"] == "P0"
    assert reasons(found).count("SeverityRaised") == 1
    # The clocks of the graver severity count from then on.
    await once(world, lambda f: escalation(f).get("triggers") == ["NotAcknowledged"], found["metadata"]["name"])
    table = await world.admin.request(
        "GET", f"/apis/paramedic.dev/v1alpha1/namespaces/{world.namespace}/incidents", content_type="application/json"
    )
    assert table["items"][0]["status"]["severity"] == "P0"


async def test_a_person_raises_the_severity(world: World) -> None:
    await world.incident(severity="P3", title=HOSTILE.replace("\n", " "))
    await once(world, lambda f: f["status"].get("severity") == "P3")
    await world.edit("incident", {"severity": "P1"})
    found = await once(world, lambda f: f["status"]["severity"] == "P1")
    assert "severity raised from P3 to P1" in found["status"]["timeline"][-1]["message"]


# -- escalation --------------------------------------------------------------------------------------------------------


async def test_who_does_not_acknowledge_is_followed_by_the_next_level(world: World, desk: Desk) -> None:
    made = await world.incident(severity="P0")
    uid = made["metadata"]["uid"]
    found = await once(world, lambda f: escalation(f).get("level") == 2, what="level 2")
    assert escalation(found)["team"] == "ops"
    assert escalation(found)["handedOver"] is False
    assert escalation(found)["triggers"] == ["NotAcknowledged"]
    assert condition(found, "Escalated")["status"] == "True"
    assert found["status"]["phase"] == "Open", "people are called beside Paramedic's work, not instead of it"
    await eventually(lambda: desk.calls(uid, "second") == ["call.ops.2.Unanswered"], what="the lead is called")
    assert desk.calls(uid, "first") == ["call.ops.1.NotAcknowledged"]
    assert sorted(desk.calls(uid, "desk")) == ["call.ops.1.NotAcknowledged", "call.ops.2.Unanswered"]
    told = [notice["reason"] for notice in desk.told(uid, "desk")]
    assert told.count("NotAcknowledged") == 1, "the call says it, no update beside it"
    assert [n["mentions"] for n in desk.told(uid, "first") if n["kind"] == "Call"] == [["UFIRST"]]
    assert len(await world.events("NotAcknowledged")) == 1


async def test_an_acknowledgement_in_time_calls_nobody(world: World, desk: Desk) -> None:
    made = await world.incident(severity="P0", acknowledgedBy="admin")
    uid = made["metadata"]["uid"]
    await world.incident("late", severity="P0")
    await once(world, lambda f: escalation(f).get("level") == 2, "late")
    found = await once(world, lambda f: f["status"].get("times", {}).get("acknowledge"))
    assert escalation(found) == {}
    assert desk.calls(uid, "first") == []


@pytest.mark.parametrize(
    ("policy", "phase", "trigger"),
    [
        ({"guards": {"windows": {"allow": [NEVER_OPEN]}}}, "Blocked", "BlockedTooLong"),
        ({"mode": "Approve"}, "AwaitingApproval", "ApprovalOverdue"),
    ],
)
async def test_what_is_held_back_for_too_long(world: World, desk: Desk, policy: Json, phase: str, trigger: str) -> None:
    await world.workload()
    await world.policy(**policy)
    made = await world.incident(severity="P1")
    found = await once(world, lambda f: escalation(f).get("triggers") == [trigger], what=trigger)
    assert found["status"]["phase"] == phase
    await eventually(lambda: desk.calls(made["metadata"]["uid"], "first") == [f"call.ops.1.{trigger}"], what="the call")


async def test_a_security_breach_calls_its_team_at_once(world: World, desk: Desk) -> None:
    made = await world.incident(type="SecurityBreach", severity="P3")
    await once(world, lambda f: escalation(f).get("team") == "security")
    await eventually(lambda: desk.calls(made["metadata"]["uid"], "guard") == ["call.security.1.SecurityBreach"])


async def test_handing_over_calls_and_stops_as_before(world: World, desk: Desk) -> None:
    await world.policy()  # its target does not exist
    made = await world.incident(severity="P1")
    found = await world.reaches("Escalated")
    await eventually(lambda: desk.calls(made["metadata"]["uid"], "first") == ["call.ops.1.HandedOver"], what="the call")
    assert escalation(found)["handedOver"] is True
    assert escalation(found)["level"] == 1


async def test_outside_of_the_hours_nobody_is_called_but_it_is_escalated(world: World, desk: Desk) -> None:
    made = await world.incident(severity="P2")
    found = await once(world, lambda f: escalation(f).get("waiting"), what="a call that waits")
    assert escalation(found)["waiting"] == ["1.NotResolved"]
    uid = made["metadata"]["uid"]
    await eventually(lambda: "NotResolved" in [n["reason"] for n in desk.told(uid, "desk")], what="the update")
    assert desk.told(uid, "first") == []


async def test_status_updates_come_at_their_interval_until_it_is_over(world: World, desk: Desk) -> None:
    made = await world.incident(severity="P3", paused=True)
    uid = made["metadata"]["uid"]

    def updates() -> int:
        return sum(notice["reason"] == "UpdateDue" for notice in desk.told(uid, "desk"))

    await eventually(lambda: updates() >= 3, timeout=15, what="three updates")
    await world.edit("incident", {"resolution": {"resolvedBy": "admin"}})
    found = await world.reaches("Resolved")
    assert "UpdateDue" not in reasons(found)
    last = max(n["at"] for n in found["status"]["notices"] if n["reason"] == "UpdateDue")
    assert last <= found["status"]["resolvedAt"]


# -- several services --------------------------------------------------------------------------------------------------


async def test_a_channel_that_is_reserved_for_others_is_not_told(world: World, desk: Desk) -> None:
    await world.policy(notify=["theirs", "parts"], match={"incidents": {"types": ["APIOutage"]}})
    made = await world.incident(target={"kind": "Deployment", "name": "app"})
    uid = made["metadata"]["uid"]
    await eventually(lambda: desk.told(uid, "parts"), what="the channel that it may name")
    found = await once(world, lambda f: condition(f, "Notified"), "incident")
    assert condition(found, "Notified")["reason"] == "ChannelUnknown"
    assert condition(found, "Notified")["message"].endswith("nobody is told there: theirs")
    assert desk.told(uid, "theirs") == []


async def test_several_services_at_once_are_one_parent(world: World, desk: Desk, admin: Api) -> None:
    guards = {"maxConcurrent": 5, "rateLimit": {"actions": 5, "period": "1h"}}
    await world.policy(name="any", notify=["parts"], guards=guards, verify={"rollout": True, "for": "6s"})
    for name in ("one", "two", "three"):
        await world.workload(name)
    for name in ("one", "two", "three"):
        target = {"kind": "Deployment", "name": name}
        await world.incident(name, severity="P1", target=target, policyRef={"name": "any"})
    parent = await the_parent(world)
    name = parent["metadata"]["name"]
    parent = await once(world, lambda f: len(f["status"].get("children", [])) == 3 and escalation(f), name)
    assert parent["status"]["children"] == ["one", "three", "two"]
    assert escalation(parent)["triggers"] == ["SeveralServices"]
    assert parent["status"]["severity"] == "P1"
    assert "NoPolicy" not in reasons(parent)
    assert "policy" not in parent["status"]
    for target in ("one", "two", "three"):
        assert target in parent["spec"]["title"]
        await eventually(lambda target=target: acted(world, target), timeout=20, what="its own remedy is not held up")
    uid = parent["metadata"]["uid"]
    await eventually(lambda: desk.calls(uid, "first") == ["call.ops.1.SeveralServices"], what="the parent's call")
    await eventually(lambda: "Opened" in [n["kind"] for n in desk.told(uid, "parts")], what="the parts' channel")
    children = await eventually(lambda: linked(world, 3), timeout=30, what="three children")
    assert [c["status"]["parent"] for c in children] == [name] * 3
    await once(world, lambda f: f["status"]["phase"] == "Resolved", name, "it ends when all are remedied")
    await eventually(lambda: "Resolved" in [n["kind"] for n in desk.told(uid, "parts")], what="they hear of its end")


async def test_later_ones_join_and_the_parent_ends_with_the_last(world: World, desk: Desk) -> None:
    names = ["a", "b", "c", "late"]
    for name in names[:3]:
        await world.incident(name, severity="P3", target={"kind": "Deployment", "name": name})
    name = (await the_parent(world))["metadata"]["name"]
    await once(world, lambda f: len(f["status"].get("children", [])) == 3, name)
    made = await world.incident("late", severity="P0", target={"kind": "Deployment", "name": "late"})
    parent = await once(world, lambda f: "late" in f["status"].get("children", []), name, "the late one joins")
    assert parent["status"]["severity"] == "P0"
    assert "PartJoined" in reasons(parent)
    await world.edit(name, {"acknowledgedBy": "admin"})
    for child in names:
        found = await once(world, lambda f: "acknowledgement" in f["status"], child, "taken on with the whole")
        assert found["status"]["acknowledgement"]["by"] == "admin"
    for child in names[:3]:
        await world.edit(child, {"resolution": {"resolvedBy": "admin"}})
    await once(world, lambda f: f["status"].get("message", "").startswith("1 part is not over: late"), name)
    await world.admin.delete(INCIDENTS, "late", world.namespace)
    parent = await once(world, lambda f: f["status"]["phase"] == "Resolved", name, "the parent is over")
    assert "PartsResolved" in reasons(parent)
    updates = [n for n in desk.told(made["metadata"]["uid"], "desk") if n["kind"] == "Update"]
    assert updates == [], "the parent tells in its place"
    # The next outage has a parent of its own.
    for child in ("x", "y", "z"):
        await world.incident(child, severity="P3", target={"kind": "Deployment", "name": child})
    await eventually(lambda: parents(world, 2), timeout=20, what="a second parent")


async def test_what_is_graver_than_what_was_taken_on_calls_and_the_end_of_the_parent_calls_nobody_again(
    world: World, desk: Desk
) -> None:
    names = ("a", "b", "c")
    for name in names:
        await world.incident(name, severity="P3", target={"kind": "Deployment", "name": name})
    parent = (await the_parent(world))["metadata"]["name"]
    await once(world, lambda f: len(f["status"].get("children", [])) == 3, parent)
    await world.edit(parent, {"acknowledgedBy": "admin"})
    for name in names:
        await once(world, lambda f: "acknowledgement" in f["status"], name, "taken on with the whole")
    made = await world.incident("total", severity="P0", target={"kind": "Deployment", "name": "total"})
    uid = made["metadata"]["uid"]
    await eventually(lambda: "call.ops.1.NotAcknowledged" in desk.calls(uid, "first"), what="a call of its own")
    found = await world.admin.get(INCIDENTS, "total", world.namespace)
    assert {"parent", "acknowledgement"}.isdisjoint(found["status"])
    await world.edit(parent, {"resolution": {"resolvedBy": "admin"}})
    for name in names:
        await once(world, lambda f: "parent" not in f["status"], name, "it speaks for itself again")
    await asyncio.sleep(3)
    assert await parents(world, 1), "the same parts are no other outage"


@pytest.mark.parametrize("how", ["closed", "deleted"])
async def test_when_nobody_speaks_for_it_any_more_a_part_that_still_burns_has_its_own_clocks_again(
    world: World, desk: Desk, how: str
) -> None:
    """A person is done with the parent, though one of its parts is not over."""
    names = ("a", "b", "c")
    for name in names:
        await world.incident(name, severity="P3", target={"kind": "Deployment", "name": name})
    parent = (await the_parent(world))["metadata"]["name"]
    made = await world.incident("burns", severity="P0", target={"kind": "Deployment", "name": "burns"})
    await once(world, lambda f: "burns" in f["status"].get("children", []), parent, "it joins")
    for name in names:
        await world.edit(name, {"resolution": {"resolvedBy": "admin"}})
        await once(world, lambda f: f["status"]["phase"] == "Resolved", name)
    part = await once(world, lambda f: f["status"].get("parent") == parent, "burns")
    assert escalation(part) == {}, "the parent is called for in its place"
    if how == "closed":
        await world.edit(parent, {"resolution": {"resolvedBy": "admin"}})
    else:
        await world.admin.delete(INCIDENTS, parent, world.namespace)
    part = await once(world, lambda f: escalation(f).get("triggers") == ["NotAcknowledged"], "burns", "a call")
    assert "parent" not in part["status"]
    uid = made["metadata"]["uid"]
    await eventually(lambda: "call.ops.1.NotAcknowledged" in desk.calls(uid, "first"), what="the call")
    left = [i["metadata"]["name"] for i in await world.all_incidents() if i["spec"]["type"] == "SeveralServices"]
    assert left == ([parent] if how == "closed" else []), "what burns alone is no outage of several services"


async def acted(world: World, name: str) -> bool:
    return await world.generation(name) >= 2


async def parents(world: World, count: int) -> list[Json]:
    found = [i for i in await world.all_incidents() if i["spec"]["type"] == "SeveralServices"]
    return found if len(found) == count else []


async def the_parent(world: World) -> Json:
    (found,) = await eventually(lambda: parents(world, 1), timeout=20, what="the parent")
    return found  # type: ignore[no-any-return]


async def linked(world: World, count: int) -> list[Json]:
    found = [i for i in await world.all_incidents() if i.get("status", {}).get("parent")]
    return found if len(found) == count else []


# -- restarts ----------------------------------------------------------------------------------------------------------


async def test_killed_before_and_after_each_call_nobody_is_forgotten_or_called_twice(
    world: World, desk: Desk, operator: Operator
) -> None:
    """And who was called is told of what follows, though no policy of the namespace may name the lead's channel."""
    made = await world.incident(severity="P0")
    uid = made["metadata"]["uid"]
    await once(world, lambda f: f["status"].get("severity"))
    for level in (1, 2):
        await asyncio.to_thread(operator.kill)
        await asyncio.sleep(2.5 if level == 1 else 0)  # what was due meanwhile is not forgotten
        await asyncio.to_thread(operator.start)
        await asyncio.to_thread(operator.wait_leading)
        await once(world, lambda f, level=level: escalation(f).get("level", 0) >= level, what=f"level {level}")
    await asyncio.to_thread(operator.kill)
    await asyncio.to_thread(operator.start)
    await asyncio.to_thread(operator.wait_leading)
    await eventually(lambda: desk.calls(uid, "second"), what="the second level is called")
    found = await once(world, lambda f: all(not n.get("pending") for n in f["status"]["notices"]))
    calls = [n["key"] for n in found["status"]["notices"] if n["kind"] == "Call"]
    assert calls == ["call.ops.1.NotAcknowledged", "call.ops.2.Unanswered"]
    assert desk.calls(uid, "first") == calls[:1]
    assert desk.calls(uid, "second") == calls[1:]
    assert reasons(found).count("NotAcknowledged") == reasons(found).count("Unanswered") == 1
    await world.edit("incident", {"acknowledgedBy": "admin"})
    await world.says("Acknowledged")
    await world.edit("incident", {"resolution": {"resolvedBy": "admin"}})
    for who in ("first", "second"):
        wanted = {"Acknowledged", "Resolved"}
        await eventually(lambda who=who, w=wanted: w <= {n["kind"] for n in desk.told(uid, who)}, what=f"{who} hears")
        assert len(desk.calls(uid, who)) == 1
    assert "Unanswered" in [n["reason"] for n in desk.told(uid, "first")], "that the lead is called"
    found = await world.reaches("Resolved")
    assert condition(found, "Notified").get("reason") != "ChannelUnknown"
