"""The public page: what its readers see of an incident's life, and that it is told once whatever fails."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from paramedic.api.incident import Incident
from paramedic.api.people import ChannelSettings
from paramedic.channels.base import Told
from paramedic.channels.statuspage import StatuspageIncidents
from paramedic.errors import Retry, Terminal, Unreachable
from people.statuspage_vendor import API_KEY, PAGE_ID, FakeStatuspage
from people.tellers import NOW, incident, messages, notice, to_tell
from people.vendors import Fault

Json = dict[str, Any]
API, WORKER = "ftgks51sfs2d", "8kbf7d35c070"
DEPLOYMENT = {"apiVersion": "apps/v1", "kind": "Deployment", "namespace": "covet"}
APPLIED = {"name": "more-room", "action": "scale", "state": "Verifying", "startedAt": NOW.isoformat(), "message": "x"}


@pytest.fixture
def page() -> Iterator[FakeStatuspage]:
    with FakeStatuspage(API, WORKER) as started:
        yield started


@pytest.fixture
async def channel(page: FakeStatuspage, tmp_path: Path) -> AsyncIterator[StatuspageIncidents]:
    made = make(page, tmp_path)
    yield made
    await made.close()


def make(page: FakeStatuspage, folder: Path, **texts: Any) -> StatuspageIncidents:
    (folder / "api-key").write_text(f"{API_KEY}\n")
    settings = ChannelSettings.model_validate(
        {
            "name": "statuspage",
            "timeout": "1s",
            "statuspage": {
                "pageId": PAGE_ID,
                "apiKeyFile": folder / "api-key",
                "apiUrl": page.api_url,
                "components": [
                    {"id": API, "namespace": "covet", "target": "covet-app"},
                    {"id": WORKER, "namespace": "covet", "target": "covet-worker"},
                ],
            },
        }
    )
    return StatuspageIncidents(settings, messages(**texts))


def resolved(**more: Any) -> Incident:
    return incident(phase="Resolved", resolvedAt=NOW.isoformat(), **more)


async def open_one(channel: StatuspageIncidents, **status: Any) -> Told:
    return await channel.tell(to_tell(incident(**status)))


# -- a life ------------------------------------------------------------------------------------------------------------


async def test_from_its_beginning_to_its_end(channel: StatuspageIncidents, page: FakeStatuspage) -> None:
    told = await open_one(channel)
    assert page.only["name"] == "Elevated response times"
    assert page.only["impact_override"] == "major"
    assert page.components == {API: "partial_outage", WORKER: "operational"}
    told |= await channel.tell(to_tell(incident(told, steps=[APPLIED]), notice()))
    told |= await channel.tell(to_tell(incident(told, steps=[APPLIED], mitigatedAt=NOW.isoformat()), notice()))
    assert page.components[API] == "partial_outage"
    told |= await channel.tell(to_tell(resolved(external=told), notice("Resolved", "RemediationSucceeded")))
    assert page.statuses() == ["investigating", "identified", "monitoring", "resolved"]
    assert page.components[API] == "operational"
    bodies = [update["body"] for update in page.only["incident_updates"]]
    assert bodies[0].startswith("We're currently experiencing elevated response times with our service.")
    assert "has identified the issue" in bodies[1]
    assert "has applied a fix" in bodies[2]
    assert bodies[3].startswith("The issue with our service has been resolved.")
    assert "Thank you for your patience." in bodies[3]
    assert told["statuspage"] == page.only["id"]


async def test_nothing_internal(page: FakeStatuspage, tmp_path: Path) -> None:
    secret = {"title": "INTERNAL <script>", "resolution": {"resolvedBy": "INTERNAL", "rootCause": "INTERNAL"}}
    internal = APPLIED | {"message": "INTERNAL", "name": "internal"}
    channel = make(page, tmp_path)
    told = await channel.tell(
        to_tell(incident(spec=secret, message="INTERNAL", commander="INTERNAL"), notice(message="INTERNAL"))
    )
    told |= await channel.tell(to_tell(incident(told, spec=secret, steps=[internal]), notice(message="INTERNAL")))
    await channel.tell(to_tell(resolved(external=told, spec=secret), notice("Resolved", message="INTERNAL")))
    await channel.close()
    assert len(page.only["incident_updates"]) == 3
    assert not any("internal" in request.body.decode().lower() for request in page.requests)


async def test_a_teams_own_words_with_hostile_facts(page: FakeStatuspage, tmp_path: Path) -> None:
    channel = make(page, tmp_path, customerTitle="{{ service }} & more", customerMessage="{{ title }}", service="Shop")
    await channel.tell(to_tell(incident(spec={"title": "<img src=x onerror=alert(1)>\nsecond"})))
    await channel.close()
    assert page.only["name"] == "Shop & more"
    assert page.only["incident_updates"][0]["body"] == "&lt;img src=x onerror=alert(1)&gt; second"


@pytest.mark.parametrize(
    ("severity", "impact", "component"),
    [
        ("P0", "critical", "major_outage"),
        ("P1", "major", "partial_outage"),
        ("P2", "minor", "degraded_performance"),
        ("P3", "none", "degraded_performance"),
    ],
)
async def test_impact(
    channel: StatuspageIncidents, page: FakeStatuspage, severity: str, impact: str, component: str
) -> None:
    await open_one(channel, spec={"severity": severity})
    assert page.only["impact_override"] == impact
    assert page.components[API] == component


async def test_a_graver_severity_is_told(channel: StatuspageIncidents, page: FakeStatuspage) -> None:
    told = await open_one(channel)
    await channel.tell(to_tell(incident(told, severity="P0"), notice("Update", "SeverityRaised")))
    assert page.statuses() == ["investigating", "investigating"]
    assert page.only["impact_override"] == "critical"
    assert page.components[API] == "major_outage"


async def test_steps_are_no_news_for_the_public(channel: StatuspageIncidents, page: FakeStatuspage) -> None:
    told = await open_one(channel)
    count = len(page.requests)
    assert await channel.tell(to_tell(incident(told), notice(), notice("ApprovalNeeded"))) == {}
    assert len(page.requests) == count


async def test_a_promised_update_is_made(channel: StatuspageIncidents, page: FakeStatuspage) -> None:
    told = await open_one(channel)
    for minute in (30, 60):
        told |= await channel.tell(to_tell(incident(told), notice("Update", "UpdateDue", minute)))
    assert page.statuses() == ["investigating"] * 3


async def test_a_failed_remedy_does_not_take_the_status_back(
    channel: StatuspageIncidents, page: FakeStatuspage
) -> None:
    told = await open_one(channel)
    told |= await channel.tell(to_tell(incident(told, steps=[APPLIED]), notice()))
    told |= await channel.tell(to_tell(incident(told, steps=[APPLIED | {"state": "Failed"}]), notice()))
    assert page.statuses() == ["investigating", "identified"]


async def test_what_was_over_before_it_could_be_told_is_not_told(
    channel: StatuspageIncidents, page: FakeStatuspage
) -> None:
    assert await channel.tell(to_tell(resolved(), notice("Opened"), notice("Resolved"))) == {}
    assert page.incidents == {}


async def test_what_is_being_deleted_is_not_begun_there(channel: StatuspageIncidents, page: FakeStatuspage) -> None:
    """Nobody would ever end it."""
    going = incident(steps=[APPLIED])
    going.metadata.deletion_timestamp = NOW
    assert await channel.tell(to_tell(going, notice("Opened"), notice("Update", "Deleted"))) == {}
    assert page.incidents == {}


@pytest.mark.parametrize("kind", ["EmergencyShutdown", "SecurityBreach"])
async def test_a_shutdown_is_told_once_it_happens(
    channel: StatuspageIncidents, page: FakeStatuspage, kind: str
) -> None:
    """And not while it waits for approval, perhaps for ever."""
    spec = {"type": kind, "severity": "P0"}
    assert await open_one(channel, spec=spec, phase="AwaitingApproval") == {}
    assert page.incidents == {}
    step = APPLIED | {"action": "shutdown", "state": "Executing"}
    await channel.tell(to_tell(incident(spec=spec, steps=[step]), notice()))
    assert page.only["name"] == "Emergency Maintenance"
    assert page.only["impact_override"] == "major"
    assert page.only["incident_updates"][0]["body"] == ("Service temporarily unavailable due to emergency maintenance")


def shutdown(**more: Any) -> Incident:
    spec = {"type": "EmergencyShutdown", "severity": "P0"} | more.pop("spec", {})
    steps = [
        APPLIED | {"name": name, "action": "shutdown", "state": "Succeeded", "target": DEPLOYMENT | named}
        for name, named in (("one", {"name": "covet-app"}), ("two", {"name": "covet-worker"}))
    ]
    return incident(spec=spec, target=None, steps=steps, phase="Resolved", resolvedAt=NOW.isoformat(), **more)


async def test_a_shutdown_is_over_when_it_is_recovered(channel: StatuspageIncidents, page: FakeStatuspage) -> None:
    """Its own end is that the service is down."""
    told = await channel.tell(to_tell(shutdown(), notice("Shutdown"), notice("Resolved")))
    assert page.statuses() == ["investigating"]
    assert page.components == {API: "major_outage", WORKER: "major_outage"}
    page.add("of another namespace", metadata={"paramedic": {"incident": "x", "told": "y", "down": "other"}})
    recovery = {"spec": {"type": "EmergencyRecovery", "severity": "P0"}, "steps": [APPLIED]}
    back = incident(**recovery)
    back.metadata.uid = "uid-of-the-recovery"
    assert await channel.tell(to_tell(back)) == {}
    back = resolved(**recovery)
    back.metadata.uid = "uid-of-the-recovery"
    again = await channel.tell(to_tell(back, notice("Resolved")))
    assert again["statuspage"] == told["statuspage"]
    ours, other = page.incidents.values()
    assert [update["status"] for update in ours["incident_updates"]] == ["investigating", "resolved"]
    assert page.components == {API: "operational", WORKER: "operational"}
    assert other["status"] == "investigating"


async def test_a_shutdown_is_over_when_a_person_says_so(channel: StatuspageIncidents, page: FakeStatuspage) -> None:
    told = await channel.tell(to_tell(shutdown(), notice("Shutdown")))
    over = shutdown(spec={"resolution": {"resolvedBy": "alice"}}, external=told)
    await channel.tell(to_tell(over, notice("Resolved")))
    assert page.statuses() == ["investigating", "resolved"]


async def test_a_contained_breach_is_not_over_by_itself(channel: StatuspageIncidents, page: FakeStatuspage) -> None:
    spec = {"type": "SecurityBreach", "severity": "P1"}
    told = await channel.tell(to_tell(incident(spec=spec, steps=[APPLIED]), notice()))
    told |= await channel.tell(to_tell(resolved(spec=spec, steps=[APPLIED], external=told), notice("Resolved")))
    assert page.statuses() == ["investigating"]
    spec |= {"resolution": {"resolvedBy": "alice"}}
    await channel.tell(to_tell(resolved(spec=spec, steps=[APPLIED], external=told), notice("Resolved")))
    assert page.statuses() == ["investigating", "resolved"]


async def test_components_that_others_hold_down_stay_down(channel: StatuspageIncidents, page: FakeStatuspage) -> None:
    page.add("by hand", components={API: "major_outage"})
    told = await open_one(channel)
    assert page.components[API] == "major_outage"
    await channel.tell(to_tell(resolved(external=told), notice("Resolved")))
    assert page.components[API] == "major_outage"


async def test_no_component_is_concerned(page: FakeStatuspage, channel: StatuspageIncidents) -> None:
    await open_one(channel, target="Deployment/other")
    assert set(page.components.values()) == {"operational"}


# -- told once ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("fault", [Fault.reset(taken=True), Fault.hang(taken=True), Fault.garbled()])
async def test_a_lost_answer_makes_no_second_incident(
    channel: StatuspageIncidents, page: FakeStatuspage, fault: Fault
) -> None:
    page.fail_next(Fault.none(), fault)
    with pytest.raises(Retry) as caught:
        await open_one(channel)
    assert caught.value.uncertain
    told = await channel.tell(to_tell(incident(), again=True))
    assert told["statuspage"] == page.only["id"]
    assert page.statuses() == ["investigating"]


async def test_a_lost_answer_makes_no_second_update(channel: StatuspageIncidents, page: FakeStatuspage) -> None:
    told = await open_one(channel)
    page.fail_next(Fault.none(), Fault.reset(taken=True))
    over = to_tell(resolved(external=told), notice("Resolved"))
    with pytest.raises(Retry) as caught:
        await channel.tell(over)
    assert caught.value.uncertain
    told |= await channel.tell(to_tell(over.incident, *over.notices, again=True))
    assert page.statuses() == ["investigating", "resolved"]
    assert told["statuspage/told"].startswith("resolved/")


async def test_made_but_not_known_and_over_meanwhile(channel: StatuspageIncidents, page: FakeStatuspage) -> None:
    page.fail_next(Fault.none(), Fault.reset(taken=True))
    with pytest.raises(Retry):
        await open_one(channel)
    await channel.tell(to_tell(resolved(), notice("Opened"), notice("Resolved"), again=True))
    assert page.statuses() == ["investigating", "resolved"]


async def test_it_was_not_taken(channel: StatuspageIncidents, page: FakeStatuspage) -> None:
    page.fail_next(Fault.none(), Fault.reset(taken=False))
    with pytest.raises(Retry):
        await open_one(channel)
    await channel.tell(to_tell(incident(), again=True))
    assert page.statuses() == ["investigating"]


async def test_ours_is_found_among_many(channel: StatuspageIncidents, page: FakeStatuspage) -> None:
    for number in range(150):
        page.add(f"other {number}", metadata={"paramedic": {"incident": f"uid-{number}"}} if number % 2 else {})
    told = await open_one(channel)
    assert (await channel.tell(to_tell(incident(), again=True)))["statuspage"] == told["statuspage"]
    assert len(page.incidents) == 151


# -- refusals ----------------------------------------------------------------------------------------------------------


async def test_patience(channel: StatuspageIncidents, page: FakeStatuspage) -> None:
    for status in (420, 429):
        page.fail_next(Fault.status(status, retry_after=60))
        with pytest.raises(Retry) as caught:
            await open_one(channel)
        assert caught.value.after == timedelta(seconds=60)
    assert page.incidents == {}


async def test_a_wrong_key_can_be_put_right(channel: StatuspageIncidents, page: FakeStatuspage, tmp_path: Path) -> None:
    (tmp_path / "api-key").write_text("wrong-key-0123456789")
    with pytest.raises(Unreachable) as caught:
        await open_one(channel)
    assert "wrong-key" not in str(caught.value)
    (tmp_path / "api-key").unlink()
    with pytest.raises(Unreachable, match="apiKeyFile"):
        await open_one(channel)
    (tmp_path / "api-key").write_text(API_KEY)
    await open_one(channel)
    assert page.statuses() == ["investigating"]


@pytest.mark.parametrize("again", [False, True])
async def test_what_a_person_has_deleted_there_is_told_anew(
    channel: StatuspageIncidents, page: FakeStatuspage, again: bool
) -> None:
    told = await open_one(channel)
    page.incidents.clear()
    told |= await channel.tell(to_tell(incident(told, steps=[APPLIED]), notice(), again=again))
    assert page.statuses() == ["identified"]
    assert told["statuspage"] == page.only["id"]
    await channel.tell(to_tell(resolved(external=told), notice("Resolved", "RemediationSucceeded")))
    assert page.statuses() == ["identified", "resolved"]
    assert page.components[API] == "operational"


async def test_of_what_is_over_and_deleted_there_the_components_are_put_right(
    channel: StatuspageIncidents, page: FakeStatuspage
) -> None:
    told = await open_one(channel)
    page.incidents.clear()
    assert page.components[API] == "partial_outage"
    over = notice("Resolved", "RemediationSucceeded")
    told |= await channel.tell(to_tell(resolved(external=told), over))
    assert page.incidents == {}
    assert page.components == {API: "operational", WORKER: "operational"}
    assert await channel.tell(to_tell(resolved(external=told), over)) == {}


async def test_a_component_that_another_incident_holds_down_stays_down_when_ours_was_deleted(
    channel: StatuspageIncidents, page: FakeStatuspage
) -> None:
    told = await open_one(channel)
    page.incidents.clear()
    page.add("another", components={API: "major_outage"})
    await channel.tell(to_tell(resolved(external=told), notice("Resolved", "RemediationSucceeded")))
    assert page.components[API] == "major_outage"


async def test_an_unknown_component_is_for_good(channel: StatuspageIncidents, page: FakeStatuspage) -> None:
    page.components.pop(API)
    with pytest.raises(Terminal, match="unknown components"):
        await open_one(channel)
