"""A running operator, its PagerDuty, and the people there: from the page to the end."""

from __future__ import annotations

import asyncio
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from e2e.world import World, condition, incident, reasons
from people.pagerduty_vendor import (
    EMAIL,
    INTEGRATION,
    JANE,
    ROUTING_KEY,
    SECRET,
    TOKEN,
    Alert,
    FakePagerDuty,
    signature,
    webhook,
)
from testbed.access import Access
from testbed.api import Api, eventually
from testbed.operator_process import Operator

Json = dict[str, Any]
FOREIGN = "secret-of-somebody-else"
CONTACTS = [{"channel": "pager"}]
NEVER_OPEN = {"schedule": "0 0 29 2 *", "duration": "1m"}


@pytest.fixture(scope="module")
def pager() -> Iterator[FakePagerDuty]:
    with FakePagerDuty() as vendor:
        yield vendor


@pytest.fixture(scope="module")
def operator(installed: Access, pager: FakePagerDuty, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Operator]:
    folder = tmp_path_factory.mktemp("pagerduty")
    with Operator(installed, folder, env={"PARAMEDIC_CONFIG": str(configured(folder, pager))}) as running:
        running.wait_leading()
        yield running


def configured(folder: Path, pager: FakePagerDuty) -> Path:
    """The settings, with a second PagerDuty of another team."""
    for name, text in {"key": ROUTING_KEY, "token": TOKEN, "secret": SECRET, "other": "secret-of-the-others"}.items():
        (folder / name).write_text(text)
    common = {"routingKeyFile": str(folder / "key"), "eventsUrl": pager.url, "apiUrl": pager.url}
    rest = {"apiTokenFile": str(folder / "token"), "fromEmail": EMAIL, "webhookSecretFile": str(folder / "secret")}
    users = [{"pagerduty": "PVIEWER", "kubernetes": "a-viewer"}]
    settings = {
        "channels": [
            {"name": "pager", "perMinute": 6000, "pagerduty": common | rest | {"users": users}},
            {"name": "others", "pagerduty": common | {"webhookSecretFile": str(folder / "other")}},
        ],
        "notify": ["pager"],
        "people": {
            "responses": [{"severity": "P3", "respondWithin": "4h", "callDuring": [NEVER_OPEN]}],
            "teams": [{"name": "security", "levels": [{"name": n, "contacts": CONTACTS} for n in ("one", "two")]}],
            "securityTeam": "security",
        },
        "dashboards": ["https://grafana.example.com/d/service-overview"],
    }
    (folder / "settings.yaml").write_text(yaml.safe_dump(settings))
    return folder / "settings.yaml"


@pytest.fixture
def world(admin: Api, namespace: str, operator: Operator) -> World:
    return World(admin, namespace, operator)


async def call_back(
    operator: Operator, body: bytes, *secrets: str, header: str | None = None, path: str = "/webhook/pagerduty"
) -> tuple[int, str]:
    """What PagerDuty's webhook is answered."""
    headers = {"Content-Type": "application/json"}
    signed = signature(body, *(secrets or (SECRET,))) if header is None else header
    if signed:
        headers["X-PagerDuty-Signature"] = signed
    request = urllib.request.Request(operator.url + path, body, headers, method="POST")

    def send() -> tuple[int, str]:
        try:
            with urllib.request.urlopen(request, timeout=20) as answer:
                return answer.status, answer.read().decode()
        except urllib.error.HTTPError as error:
            return error.code, error.read().decode()

    return await asyncio.to_thread(send)


async def paged(world: World, pager: FakePagerDuty, name: str = "down", **spec: Any) -> Alert:
    """The alert in PagerDuty of an Incident that somebody has applied."""
    made = await world.admin.create(incident(name, **spec), world.namespace)
    key = f"paramedic-{made['metadata']['uid']}"
    return await alert_of(pager, key)


async def alert_of(pager: FakePagerDuty, key: str) -> Alert:
    async def probe() -> Alert | None:
        return next((alert for alert in pager.alerts if alert.key == key), None)

    return await eventually(probe, what=f"an alert {key} at PagerDuty")


async def is_there(probe: Any, what: str) -> None:
    async def asked() -> bool:
        return bool(probe())

    await eventually(asked, what=what)


async def test_an_alert_pages_and_its_remedy_resolves_the_page(world: World, pager: FakePagerDuty) -> None:
    await world.workload()
    await world.policy({"name": "again", "restart": {}}, verify={"rollout": True, "timeout": "20s"})
    assert await world.alert() == 200
    await world.says("Verified")
    assert await world.alert(state="resolved") == 200
    found = await world.reaches("Resolved")
    alert = await alert_of(pager, f"paramedic-{found['metadata']['uid']}")
    await is_there(lambda: alert.status == "resolved", "resolved at PagerDuty")
    assert alert.actions == ["trigger", "resolve"]
    event = alert.events[0]
    assert event["payload"]["summary"].endswith("policy is on fire")
    assert event["links"][-1]["href"] == "https://grafana.example.com/d/service-overview"
    found = await world.the_incident()
    assert found["status"]["external"]["pager"] == alert.key
    assert len([a for a in pager.alerts if a.key == alert.key]) == 1


async def test_who_acknowledges_there_has_acknowledged_here(world: World, pager: FakePagerDuty) -> None:
    alert = await paged(world, pager)
    body = webhook("incident.acknowledged", alert.key)
    status, text = await call_back(world.operator, body)
    assert status == 200, text
    found = (await world.the_incident())["status"]
    assert condition({"status": found}, "Acknowledged")["status"] == "True"
    assert found["acknowledgement"]["by"] == "Jane Doe (PagerDuty PLH1HKV)"
    assert found["acknowledgement"]["via"] == "pagerduty"
    assert found["phase"] != "Resolved"
    for _ in range(3):  # a webhook comes at least once
        assert (await call_back(world.operator, body))[0] == 200
    found = await world.the_incident()
    assert reasons(found).count("Acknowledged") == 1
    note = "acknowledged by Jane Doe (PagerDuty PLH1HKV)"
    await is_there(lambda: note in alert.lines, "a note")
    assert alert.lines.count(note) == 1


async def test_who_resolves_there_has_resolved_here(world: World, pager: FakePagerDuty) -> None:
    alert = await paged(world, pager)
    body = webhook("incident.resolved", alert.key)
    alert.status = "resolved"  # as PagerDuty had it before it told us
    assert (await call_back(world.operator, body))[0] == 200
    found = await world.reaches("Resolved")
    assert "closed by Jane Doe (PagerDuty PLH1HKV)" in found["status"]["message"]
    for _ in range(2):
        status, text = await call_back(world.operator, body)
        assert (status, "no incident that is open" in text or "over or gone" in text) == (200, True), text
    assert [a.key for a in pager.alerts].count(alert.key) == 1, "no new alert by our own resolve"


async def test_a_resolve_of_an_earlier_incident_leaves_its_namesake_open(world: World, pager: FakePagerDuty) -> None:
    first = await paged(world, pager, "again")
    await world.admin.delete("paramedic.dev/v1alpha1/incidents", "again", world.namespace)
    second = await paged(world, pager, "again")
    assert first.key != second.key
    assert (await call_back(world.operator, webhook("incident.resolved", first.key)))[0] == 200
    assert (await world.stays("Open", 0.5))["status"].get("closure") is None


@pytest.mark.parametrize("agent", [INTEGRATION, None, {"id": "PSVC", "type": "service_reference", "summary": "S"}])
async def test_what_no_person_has_said_is_nobodys_word(world: World, pager: FakePagerDuty, agent: Json | None) -> None:
    """Our own resolve comes back as a webhook, too."""
    alert = await paged(world, pager)
    for kind in ("incident.acknowledged", "incident.resolved"):
        assert (await call_back(world.operator, webhook(kind, alert.key, agent)))[0] == 200
    found = (await world.stays("Open", 0.5))["status"]
    assert not {"acknowledgement", "closure"} & set(found)


@pytest.mark.parametrize(
    "kind", ["pagey.ping", "incident.unacknowledged", "incident.priority_updated", "incident.triggered", "x" * 5000]
)
async def test_other_events_change_nothing(world: World, pager: FakePagerDuty, kind: str) -> None:
    alert = await paged(world, pager)
    before = (await world.the_incident())["status"]["timeline"]
    assert (await call_back(world.operator, webhook(kind, alert.key)))[0] == 200
    assert (await world.the_incident())["status"]["timeline"][: len(before)] == before
    assert "acknowledgement" not in (await world.the_incident())["status"]


async def test_what_is_not_signed_is_refused(world: World, pager: FakePagerDuty) -> None:
    alert = await paged(world, pager)
    body = webhook("incident.resolved", alert.key)
    right = signature(body, SECRET)
    for header in (
        "",
        "v1=",
        "v1=" + "0" * 64,
        right.replace("v1=", "v0="),
        right.removeprefix("v1="),
        signature(body, FOREIGN),
        signature(body + b" ", SECRET),
        signature(body, ""),
        "v1=\u00fc\u00fc".encode().decode("latin-1"),
        ",".join(["v1=" + "0" * 64] * 20 + [right]),
    ):
        status, text = await call_back(world.operator, body, header=header)
        assert status == 401, (header, text)
        assert SECRET not in text
    status, _ = await call_back(world.operator, body, header=",".join(["v1=" + "0" * 64] * 100 + [right]))
    assert status == 400, "no header is that long"
    assert (await world.stays("Open", 0.3))["status"].get("closure") is None
    assert world.operator.metric("paramedic_inbound_requests_total", edge="pagerduty", code="401") >= 10


async def test_while_a_secret_is_rotated_one_of_the_signatures_counts(world: World, pager: FakePagerDuty) -> None:
    alert = await paged(world, pager)
    body = webhook("incident.acknowledged", alert.key)
    assert (await call_back(world.operator, body, "the-new-secret", SECRET))[0] == 200
    assert "acknowledgement" in (await world.the_incident())["status"]
    (world.operator.folder / "secret").write_text("the-new-secret\n")
    try:
        assert (await call_back(world.operator, body, SECRET))[0] == 401
        assert (await call_back(world.operator, body, "the-new-secret"))[0] == 200
        (world.operator.folder / "secret").unlink()
        assert (await call_back(world.operator, body, "the-new-secret"))[0] == 503, "it may be there again soon"
    finally:
        (world.operator.folder / "secret").write_text(SECRET)


@pytest.mark.parametrize(
    "body", [b"", b"{", b"[]", b'{"event": 1}', b'{"event": {"event_type": null}}', b"[" * 100_000]
)
async def test_a_signed_body_that_is_not_understood_does_no_harm(world: World, body: bytes) -> None:
    """4xx would have PagerDuty drop it, and after three of them switch the subscription off."""
    assert (await call_back(world.operator, body))[0] == 200


async def test_a_body_that_is_too_large_is_not_read(world: World) -> None:
    assert (await call_back(world.operator, b"x" * 600_000))[0] == 413


async def test_a_subscription_speaks_for_what_its_channel_tells_only(world: World, pager: FakePagerDuty) -> None:
    alert = await paged(world, pager)
    for event in ("incident.acknowledged", "incident.resolved"):
        status, text = await call_back(world.operator, webhook(event, alert.key), "secret-of-the-others")
        assert (status, text.strip()) == (200, "of no incident that is open here")
    found = (await world.the_incident())["status"]
    assert "acknowledgement" not in found
    assert "closure" not in found


async def test_who_is_mapped_needs_the_right_in_kubernetes(world: World, pager: FakePagerDuty) -> None:
    alert = await paged(world, pager)
    viewer = JANE | {"id": "PVIEWER", "summary": "Vic"}
    status, text = await call_back(world.operator, webhook("incident.acknowledged", alert.key, viewer))
    assert status == 200
    assert "a-viewer may not acknowledge: lacks update incidents.paramedic.dev/down" in text
    assert (await call_back(world.operator, webhook("incident.acknowledged", alert.key, viewer)))[0] == 200
    found = await world.the_incident()
    assert "acknowledgement" not in found["status"]
    assert reasons(found).count("PersonNotAllowed") == 1
    await is_there(lambda: any("a-viewer may not" in line for line in alert.lines), "the answer, as a note there")
    await _let(world, "a-viewer", "paramedic-edit")

    async def acknowledged() -> bool:
        await call_back(world.operator, webhook("incident.acknowledged", alert.key, viewer))
        return "acknowledgement" in (await world.the_incident())["status"]

    await eventually(acknowledged, what="the binding counts")
    assert (await world.the_incident())["status"]["acknowledgement"]["by"] == "a-viewer"


async def _let(world: World, user: str, role: str) -> None:
    binding = {
        "apiVersion": "rbac.authorization.k8s.io/v1",
        "kind": "RoleBinding",
        "metadata": {"name": user},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": role},
        "subjects": [{"apiGroup": "rbac.authorization.k8s.io", "kind": "User", "name": user}],
    }
    await world.admin.create(binding, world.namespace)


async def test_each_call_rings_and_any_of_its_alerts_speaks_for_the_incident(
    world: World, pager: FakePagerDuty
) -> None:
    alert = await paged(world, pager, "breach", type="SecurityBreach")

    def alerts() -> list[Alert]:
        return [one for one in pager.alerts if one.key.startswith(alert.key)]

    await world.says("SecurityBreach")
    await world.edit("breach", {"escalation": {"requestedBy": "admin", "message": "more people"}})
    await is_there(lambda: len(alerts()) >= 2, "an alert of its own, which rings")
    call = alerts()[-1]
    assert (await call_back(world.operator, webhook("incident.acknowledged", call.key)))[0] == 200
    assert "acknowledgement" in (await world.the_incident())["status"]
    await is_there(lambda: {a.status for a in alerts()} == {"acknowledged"}, "all are acknowledged with it")
    count = len(alerts())
    await world.edit("breach", {"escalation": {"requestedBy": "admin", "message": "even more"}})
    await is_there(lambda: len(alerts()) == count + 1, "who works on it is no reason not to call others")
    assert alerts()[-1].status == "triggered"
    assert (await call_back(world.operator, webhook("incident.resolved", alert.key)))[0] == 200
    await world.reaches("Resolved")
    await is_there(lambda: {a.status for a in alerts()} == {"resolved"}, "all are resolved with it")


async def test_who_resolves_the_page_of_one_call_has_answered_it_and_the_outage_goes_on(
    world: World, pager: FakePagerDuty
) -> None:
    alert = await paged(world, pager, "breach", type="SecurityBreach")
    await world.says("SecurityBreach")
    await world.edit("breach", {"escalation": {"requestedBy": "admin", "message": "more people"}})
    await is_there(lambda: any(one.key.startswith(f"{alert.key}/") for one in pager.alerts), "a page of its own")
    call = next(one for one in pager.alerts if one.key.startswith(f"{alert.key}/"))
    call.status = "resolved"  # as PagerDuty had it before it told us
    assert (await call_back(world.operator, webhook("incident.resolved", call.key, incident=call.id)))[0] == 200
    found = (await world.stays("Open", 0.5))["status"]
    assert "closure" not in found
    assert found["acknowledgement"]["by"] == "Jane Doe (PagerDuty PLH1HKV)"
    await is_there(lambda: alert.status == "acknowledged", "the page of the whole incident stays open")
    assert (await call_back(world.operator, webhook("incident.resolved", alert.key, incident=alert.id)))[0] == 200
    await world.reaches("Resolved")


async def test_who_merges_a_page_into_another_has_closed_nothing(world: World, pager: FakePagerDuty) -> None:
    """PagerDuty resolves what was merged, and names the person as who did it; the outage goes on."""
    alert = await paged(world, pager)
    theirs = Alert(f"Q{len(pager.alerts):03}", "of-another-tool")
    pager.alerts.append(theirs)
    status, text = await call_back(world.operator, pager.merge(alert, theirs))
    assert (status, text.strip()) == (200, "merged into another incident, which goes on: nothing follows from it")
    found = (await world.stays("Open", 0.5))["status"]
    assert not {"acknowledgement", "closure"} & set(found)
    for kind, wanted in (("incident.acknowledged", "acknowledgement"), ("incident.resolved", "closure")):
        assert (await call_back(world.operator, webhook(kind, theirs.key, incident=theirs.id)))[0] == 200
        assert wanted in (await world.the_incident())["status"], "its alert is that incident's now"
    await world.reaches("Resolved")


async def test_a_key_that_is_known_counts_while_the_alerts_cannot_be_asked_for(
    world: World, pager: FakePagerDuty
) -> None:
    alert = await paged(world, pager)
    (world.operator.folder / "token").write_text("a-wrong-one")
    try:
        body = webhook("incident.acknowledged", alert.key, incident=alert.id)
        assert (await call_back(world.operator, body))[0] == 200
        assert "acknowledgement" in (await world.the_incident())["status"]
        assert (await call_back(world.operator, webhook("incident.resolved", None, incident=alert.id)))[0] == 503
    finally:
        (world.operator.folder / "token").write_text(TOKEN)


async def test_outside_of_the_hours_nobody_is_paged_unless_it_turns_out_to_be_grave(
    world: World, pager: FakePagerDuty
) -> None:
    made = await world.admin.create(incident("down", severity="P3"), world.namespace)
    key = f"paramedic-{made['metadata']['uid']}"

    async def held() -> Json | None:
        found = await world.the_incident()
        return found if any(n.get("held") == ["pager"] for n in found["status"].get("notices", [])) else None

    await eventually(held, what="a page that waits")
    assert not [alert for alert in pager.alerts if alert.key == key]
    await world.edit("down", {"severity": "P1"})
    alert = await alert_of(pager, key)
    assert alert.events[0]["payload"]["severity"] == "error"


async def test_a_wrong_token_of_the_rest_api_pages_once(world: World, pager: FakePagerDuty) -> None:
    (world.operator.folder / "token").write_text("a-wrong-one")
    try:
        alert = await paged(world, pager, "breach", type="SecurityBreach")
        await world.says("ChannelDown")
        alert.status = "resolved"  # by a person, and the webhook was lost
        before = world.operator.metric("paramedic_notices_total", channel="pager", result="Retried")

        async def tried() -> bool:
            now = await asyncio.to_thread(
                world.operator.metric, "paramedic_notices_total", channel="pager", result="Retried"
            )
            return now >= before + 2

        await eventually(tried, timeout=30, what="two more tries")
    finally:
        (world.operator.folder / "token").write_text(TOKEN)
    await eventually(lambda: alert.lines, timeout=60, what="the note")  # the next try
    assert len([one for one in pager.alerts if one.key.startswith(alert.key)]) == 1


async def test_an_incident_without_a_key_is_known_by_its_alerts(world: World, pager: FakePagerDuty) -> None:
    """PagerDuty's incidents with several alerts have none of their own."""
    alert = await paged(world, pager)
    assert (await call_back(world.operator, webhook("incident.acknowledged", None, incident=alert.id)))[0] == 200
    assert "acknowledgement" in (await world.the_incident())["status"]
    body = webhook("incident.acknowledged", None, incident="../users")
    assert "not understood" in (await call_back(world.operator, body))[1]


async def test_a_hostile_name_is_only_a_name(world: World, pager: FakePagerDuty) -> None:
    alert = await paged(world, pager)
    agent = JANE | {"summary": "alice\n\u202e<!channel> {{ 7*7 }}" + "x" * 5000}
    assert (await call_back(world.operator, webhook("incident.acknowledged", alert.key, agent)))[0] == 200
    who = (await world.the_incident())["status"]["acknowledgement"]["by"]
    assert who.startswith("alice <!channel> {{ 7*7 }}x")
    assert who.endswith("(PagerDuty PLH1HKV)")
    assert who.isprintable()
    assert len(who) < 150


async def test_each_step_is_a_note(world: World, pager: FakePagerDuty) -> None:
    await world.workload()
    await world.policy({"name": "more", "scale": {"replicas": 3}}, verify={"rollout": True, "timeout": "20s"})
    alert = await paged(world, pager, "noted")
    await world.reaches("Resolved", timeout=40)
    await is_there(lambda: alert.status == "resolved", "resolved at PagerDuty")
    await is_there(lambda: any("step more helped" in line for line in alert.lines), "a note of the step")
    assert len(set(alert.lines)) == len(alert.lines)
