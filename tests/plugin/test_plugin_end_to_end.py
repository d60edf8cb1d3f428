"""One incident from its report to its end, by the command line and a real operator."""

import asyncio
from dataclasses import replace

from access.people import POLICIES
from e2e.world import World, policy
from paramedic.plugin.apiserver import ApiServer
from paramedic.plugin.kubeconfig import Chosen, load_login
from plugin.team import Team
from testbed.access import Access
from testbed.api import eventually
from testbed.operator_process import Operator


async def test_reported_approved_and_seen_to_its_end(team: Team, installed: Access) -> None:
    with Operator(installed, installed.folder / "plugin-operator") as operator:
        operator.wait_leading()
        world = World(team.admin, team.namespace, operator)
        await world.workload()
        steps = [{"name": "restart", "restart": {}}]
        await team.admin.create(policy("by-hand", *steps, mode="Approve"), team.namespace)
        await eventually(lambda: _ready(team), timeout=30, what="the policy is ready")
        approver = team.cli("approver")
        words = ("create", "deploy/app", "it hurts", "--type", "APIOutage", "--name", "hurt", "--watch")
        process = await approver.start(*words, "-n", team.namespace)
        assert process.stdout is not None
        told = await asyncio.wait_for(process.stdout.readuntil(b"AwaitingApproval: "), 30)
        assert b"the policy by-hand answers, in mode Approve: it asks before each step" in told
        said = await approver("approve", "hurt", "--yes")
        assert said.code == 0, said.err
        rest = (await asyncio.wait_for(process.stdout.read(), 60)).decode()
        assert await process.wait() == 0
        assert f"step restart approved  ({team.user('approver')})" in rest
        assert "Resolved: " in rest.splitlines()[-1]
        stamp = await world.stamp()
        step = (await team.get("hurt"))["status"]["steps"][0]
        assert (step["operation"], step["approvedBy"]) == (stamp, team.user("approver"))
        shown = (await team.cli("viewer")("show", "hurt")).out
        assert "✓ restart  restart  Succeeded" in shown


async def _ready(team: Team) -> bool:
    conditions = (await team.admin.get(POLICIES, "by-hand", team.namespace)).get("status", {}).get("conditions", [])
    return any(c["type"] == "Ready" and c["status"] == "True" for c in conditions)


async def test_the_api_server_knows_as_whom_somebody_asks(installed: Access) -> None:
    login = load_login(Chosen(str(installed.kubeconfig)))
    extra = {"acme.com/project": ("a", "b"), "50%": ("c",)}
    server = ApiServer(replace(login, impersonate="alice", uid="u-1", groups=("ops",), extra=extra))
    review = {"apiVersion": "authentication.k8s.io/v1", "kind": "SelfSubjectReview"}
    url = "/apis/authentication.k8s.io/v1/selfsubjectreviews"
    who = (await asyncio.to_thread(server.request, "POST", url, body=review))["status"]["userInfo"]
    assert (who["username"], who["uid"]) == ("alice", "u-1")
    assert "ops" in who["groups"]
    assert who["extra"] == {"acme.com/project": ["a", "b"], "50%": ["c"]}
