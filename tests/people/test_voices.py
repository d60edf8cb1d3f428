"""What people say elsewhere than in Kubernetes, on a real API server: who may not do it there may not do it here."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from access.people import INCIDENTS, PEOPLE, Teams, incident, policy, settle
from builders import workload
from paramedic.api.incident import Via
from paramedic.app import App
from paramedic.clients.kube import Kube, load_configuration
from paramedic.core import rights
from paramedic.errors import NotFound, Refused
from paramedic.metrics import Metrics
from paramedic.record import reread
from paramedic.settings import Settings
from paramedic.voices import Speaker, Voices
from testbed.access import Access
from testbed.api import Api, ApiError, eventually

Json = dict[str, Any]


@pytest.fixture(scope="module")
def teams(installed: Access) -> Teams:
    return settle(installed)


class Desk:
    """A running operator's insides, without its edges, and with the operator's own rights."""

    def __init__(self, app: App, kube: Kube, admin: Api, teams: Teams) -> None:
        self.app = app
        self.voices: Voices = app.voices
        self._kube = kube
        self.admin = admin
        self.teams = teams

    def person(self, who: str, via: Via = "slack") -> Speaker:
        return Speaker(f"{who} (U012AB3CD)", via, self.teams.user(who))

    async def opened(self, name: str, **spec: Any) -> str:
        """An Incident, known and worked on."""
        await self.admin.create(incident(name, **spec), self.teams.a)
        key = f"{self.teams.a}/{name}"
        await reread(self._kube, self.app.store, key)
        self.app.reconciler.queue.add(key)
        await eventually(lambda: self.status(key), what=f"{name} is worked on")
        return key

    async def get(self, key: str) -> Json:
        return await self.admin.get(INCIDENTS, key.partition("/")[2], self.teams.a)

    async def status(self, key: str) -> Json:
        return (await self.get(key)).get("status") or {}

    async def step(self, key: str, state: str) -> Json:
        """The step, once it is in this state."""

        async def probe() -> Json | None:
            steps = (await self.status(key)).get("steps") or [{}]
            return steps[0] if steps[0].get("state") == state else None

        return await eventually(probe, what=f"the step is {state}")


@pytest.fixture
async def desk(installed: Access, admin: Api, teams: Teams, tmp_path: Path) -> AsyncIterator[Desk]:
    token = installed.service_account_token("paramedic-system", "paramedic")
    async with Kube(await load_configuration(installed.kubeconfig_for(token))) as kube:
        app = App(Settings(leader_election=False), kube, Metrics(), None)
        await app.resync.load_everything()
        async with running(app.reconciler.queue.run(), app.recorder.run()):
            yield Desk(app, kube, admin, teams)
    for one in await admin.list(INCIDENTS, teams.a):
        await admin.delete(INCIDENTS, one["metadata"]["name"], teams.a)


@contextlib.asynccontextmanager
async def running(*jobs: Any) -> AsyncIterator[None]:
    tasks = [asyncio.create_task(job) for job in jobs]
    try:
        yield
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


@pytest.fixture
async def waiting(desk: Desk) -> AsyncIterator[tuple[str, Json]]:
    """An incident whose step waits for approval, and the step."""
    namespace = desk.teams.a
    await desk.admin.create(workload(), namespace)
    steps = [{"name": "more", "scale": {"replicas": 3}}]
    await desk.admin.create(policy("asks", mode="Approve", steps=steps), namespace)
    await desk.app.resync.load_everything()
    key = await desk.opened("shown")
    yield key, await desk.step(key, "AwaitingApproval")
    await desk.admin.delete("paramedic.dev/v1alpha1/remediationpolicies", "asks", namespace)
    await desk.admin.delete("apps/v1/deployments", "covet-app", namespace)


async def replicas(desk: Desk) -> int:
    return int((await desk.admin.get("apps/v1/deployments", "covet-app", desk.teams.a))["spec"]["replicas"])


# -- what is stored ----------------------------------------------------------------------------------------------------


async def test_an_acknowledgement_is_stored_once(desk: Desk) -> None:
    key = await desk.opened("taken")
    await desk.voices.acknowledge(key, desk.person("dev"))
    first = (await desk.status(key))["acknowledgement"]
    assert (first["by"], first["via"]) == (desk.teams.user("dev"), "slack")
    await desk.voices.acknowledge(key, desk.person("boss"))
    found = await desk.status(key)
    assert found["acknowledgement"] == first
    assert [t["actor"] for t in found["timeline"] if t["reason"] == "Acknowledged"] == [desk.teams.user("dev")]
    assert [c["status"] for c in found["conditions"] if c["type"] == "Acknowledged"] == ["True"]


async def test_pagerdutys_word_for_a_person_is_enough_to_acknowledge_and_to_close(desk: Desk) -> None:
    key = await desk.opened("paged")
    jane = Speaker("Jane Doe (PagerDuty PABC123)", "pagerduty")
    await desk.voices.acknowledge(key, jane)
    assert (await desk.status(key))["acknowledgement"]["by"] == "Jane Doe (PagerDuty PABC123)"
    await desk.voices.close(key, jane)
    found = await desk.status(key)
    assert found["closure"]["via"] == "pagerduty"
    assert found["phase"] == "Resolved"
    assert "closed by Jane Doe (PagerDuty PABC123)" in found["message"]


async def test_who_is_not_known_in_kubernetes_is_told_what_to_configure(desk: Desk, waiting: Any) -> None:
    key, step = waiting
    somebody = Speaker("Bob (U0BOB)", "slack")
    jane = Speaker("Jane Doe (PagerDuty PABC123)", "pagerduty")
    for asked in (
        desk.voices.acknowledge(key, somebody),
        desk.voices.close(key, somebody),
        desk.voices.pause(key, somebody),
        desk.voices.approve(key, "more", step["operation"], somebody),
    ):
        with pytest.raises(Refused, match=r"Bob \(U0BOB\) may not .*channels\[\].slack.users"):
            await asked
    with pytest.raises(Refused, match=r"channels\[\].pagerduty.users"):
        await desk.voices.approve(key, "more", step["operation"], jane)
    found = await desk.get(key)
    assert not {"acknowledgement", "closure", "approvals"} & set(found["status"])
    assert not found["spec"].get("paused")
    assert await replicas(desk) == 2


async def test_a_pause_and_its_end(desk: Desk) -> None:
    key = await desk.opened("held")
    await desk.voices.pause(key, desk.person("clerk"))
    assert (await desk.get(key))["spec"]["paused"] is True
    await desk.voices.pause(key, desk.person("dev"))  # it is already
    found = await desk.status(key)
    assert [t["actor"] for t in found["timeline"] if "paused by" in t["message"]] == [desk.teams.user("clerk")]
    with pytest.raises(Refused, match=r"patch deployments\.apps/covet-app"):
        await desk.voices.pause(key, desk.person("clerk"), paused=False)
    await desk.voices.pause(key, desk.person("dev"), paused=False)
    found = await desk.get(key)
    assert found["spec"]["paused"] is False
    assert "Resumed" in [t["reason"] for t in found["status"]["timeline"]]


async def test_what_is_over_or_gone_is_told_so(desk: Desk) -> None:
    key = await desk.opened("over")
    await desk.voices.close(key, desk.person("dev"))
    for gone in (key, f"{desk.teams.a}/never"):
        with pytest.raises(NotFound):
            await desk.voices.acknowledge(gone, desk.person("dev"))


async def test_without_the_lead_it_is_stored_all_the_same(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    key = await desk.opened("elsewhere")
    monkeypatch.setattr(desk.app.reconciler, "_may_act", lambda: False)
    await desk.admin.patch(INCIDENTS, "elsewhere", {"metadata": {"labels": {"a": "b"}}}, desk.teams.a)  # a newer one
    await desk.voices.acknowledge(key, desk.person("dev"))
    assert (await desk.status(key))["acknowledgement"]["by"] == desk.teams.user("dev")


# -- consent -----------------------------------------------------------------------------------------------------------


async def test_consent_lets_the_step_be_done(desk: Desk, waiting: Any) -> None:
    key, step = waiting
    await desk.voices.approve(key, "more", step["operation"], desk.person("approver"))
    await desk.voices.approve(key, "more", step["operation"], desk.person("approver"))  # pressed twice
    await eventually(lambda: _is(desk, 3), what="three replicas")
    found = await desk.status(key)
    assert [a["approvedBy"] for a in found["approvals"]] == [desk.teams.user("approver")]
    assert found["steps"][0]["approvedBy"] == desk.teams.user("approver")
    assert [t["actor"] for t in found["timeline"] if t["reason"] == "Approved"] == [desk.teams.user("approver")]


async def _is(desk: Desk, wanted: int) -> bool:
    return await replicas(desk) == wanted


@pytest.mark.parametrize(
    ("who", "lacks"),
    [("dev", "approve incidents"), ("guest-approver", "patch deployments.apps/covet-app"), ("neighbour", "approve")],
)
async def test_who_may_not_approve(desk: Desk, waiting: Any, who: str, lacks: str) -> None:
    key, step = waiting
    with pytest.raises(Refused, match=lacks):
        await desk.voices.approve(key, "more", step["operation"], desk.person(who))
    assert await replicas(desk) == 2
    assert "approvals" not in await desk.status(key)


async def test_consent_is_to_the_plan_that_was_shown(desk: Desk, waiting: Any) -> None:
    key, step = waiting
    approver = desk.person("approver")
    with pytest.raises(Refused, match="has changed since it was shown"):
        await desk.voices.approve(key, "more", "019cbe40-1c00-7000-8000-000000000001", approver)
    with pytest.raises(Refused, match="no step other"):
        await desk.voices.approve(key, "other", step["operation"], approver)
    scaled = {"spec": {"replicas": 1}}
    await desk.admin.patch("apps/v1/deployments", "covet-app", scaled, desk.teams.a)  # another plan: 1 → 3
    await desk.voices.approve(key, "more", step["operation"], approver)
    again = await eventually(lambda: _changed(desk, key), what="it is asked for again")
    assert await replicas(desk) == 1
    with pytest.raises(Refused, match="has changed"):
        await desk.voices.approve(key, "more", "019cbe40-1c00-7000-8000-000000000001", approver)
    await desk.voices.approve(key, "more", again["operation"], approver)
    await eventually(lambda: _is(desk, 3), what="three replicas")


async def _changed(desk: Desk, key: str) -> Json | None:
    step = (await desk.status(key))["steps"][0]
    return step if step["reason"] == "PlanChanged" else None


async def test_a_right_of_a_group_counts(desk: Desk, waiting: Any) -> None:
    key, step = waiting
    group = f"on-call-{desk.teams.a}"
    for role in ("paramedic-approve", "edit"):
        binding = {
            "apiVersion": "rbac.authorization.k8s.io/v1",
            "kind": "RoleBinding",
            "metadata": {"name": f"group-{role}"},
            "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": role},
            "subjects": [{"apiGroup": "rbac.authorization.k8s.io", "kind": "Group", "name": group}],
        }
        await desk.admin.create(binding, desk.teams.a)
    with pytest.raises(Refused):
        await desk.voices.approve(key, "more", step["operation"], Speaker("Eve", "slack", "eve@example.com"))
    eve = Speaker("Eve", "slack", "eve@example.com", (group,))

    async def taken() -> bool:
        """A new binding counts a moment after it was stored."""
        with contextlib.suppress(Refused):
            await desk.voices.approve(key, "more", step["operation"], eve)
            return True
        return False

    await eventually(taken, what="the binding counts")
    await eventually(lambda: _is(desk, 3), what="three replicas")


# -- the same rights as in Kubernetes ----------------------------------------------------------------------------------

TARGET = {"kind": "Deployment", "name": "covet-app"}
ACTS = {
    "acknowledge": (rights.to_acknowledge, lambda me: {"acknowledgedBy": me}),
    "pause": (rights.to_pause, lambda me: {"paused": True}),
    "resume": (rights.to_resume, lambda me: {"paused": False}),
    "close": (rights.to_close, lambda me: {"resolution": {"resolvedBy": me}}),
    "approve": (rights.to_approve, lambda me: {"approvals": [{"step": "restart", "approvedBy": me}]}),
}


@pytest.mark.parametrize("target", [TARGET, None], ids=["target", "no-target"])
@pytest.mark.parametrize("act", ACTS)
async def test_the_verdict_is_that_of_the_api_server(desk: Desk, act: str, target: Json | None) -> None:
    """Each of the people tries with kubectl (a dry run, with their own token) and elsewhere."""
    wanted, said = ACTS[act]
    key = await desk.opened(f"{act}-{'with' if target else 'without'}", target=target, paused=act == "resume")
    found = desk.app.store.open_incident(key)
    assert found
    verdicts = {}
    for who in (*PEOPLE, "neighbour"):
        user = desk.teams.user(who)
        here = await _passes(desk.voices.check(desk.person(who), act, wanted(found[0])))
        async with desk.admin.with_token(desk.teams.tokens[who]) as api:
            path = f"/apis/{INCIDENTS.rpartition('/')[0]}/namespaces/{desk.teams.a}/incidents/{key.partition('/')[2]}"
            body = {"spec": said(user)}
            there = await _passes(api.request("PATCH", path, body, {"dryRun": "All"}, "application/merge-patch+json"))
        verdicts[who] = (here, there)
    differing = {who: pair for who, pair in verdicts.items() if pair[0] != pair[1]}
    assert not differing, "(here, in Kubernetes)"
    assert {here for here, _ in verdicts.values()} == {True, False}, "the test tells people apart"


async def _passes(asked: Any) -> bool:
    try:
        await asked
    except Refused:
        return False
    except ApiError as error:
        if error.status != 403:
            raise
        return False
    return True


@pytest.mark.parametrize("who", ["owner", "approver", "dev"])
async def test_nobody_can_put_words_into_anothers_mouth(desk: Desk, who: str) -> None:
    """What was said elsewhere stands on the status, which Paramedic alone writes: also for who holds every verb."""
    key = await desk.opened(f"forged-by-{who}")
    at = "2026-03-02T12:00:00Z"
    forged = {
        "approvals": [{"step": "restart", "approvedBy": "boss", "at": at, "via": "slack"}],
        "acknowledgement": {"by": "boss", "at": at, "via": "slack"},
        "closure": {"by": "boss", "at": at, "via": "pagerduty"},
    }
    async with desk.admin.with_token(desk.teams.tokens[who]) as api:
        for field, value in forged.items():
            with pytest.raises(ApiError) as refusal:
                await api.patch(
                    INCIDENTS, key.partition("/")[2], {"status": {field: value}}, desk.teams.a, subresource="status"
                )
            assert refusal.value.status == 403
    assert not set(forged) & set(await desk.status(key))
