"""What the network and a busy API server do to a command in the middle of it."""

import asyncio
import json
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from plugin.team import SCRIPT, Cli, Said, Team, waiting
from testbed.access import Access
from testbed.api import eventually
from testbed.faultproxy import CUT, Answer, Fault, FaultProxy, Seen


@pytest.fixture
def proxy(installed: Access) -> Iterator[FaultProxy]:
    with FaultProxy(installed.credentials()) as running:
        yield running


@pytest.fixture
async def dev(team: Team, proxy: FaultProxy, tmp_path: Path) -> Cli:
    """Whose requests go through the proxy."""
    return Cli(proxy.kubeconfig(team.teams.tokens["dev"], tmp_path), team.namespace)


def patches(seen: Seen) -> bool:
    return seen.method == "PATCH"


async def test_following_goes_on_after_the_connection_was_lost(team: Team, dev: Cli, proxy: FaultProxy) -> None:
    await team.incident("down", status={"phase": "Open"})
    process = await dev.start("show", "down", "--watch", "-n", team.namespace)
    assert process.stdout is not None
    await eventually(lambda: proxy.watching("incidents"), timeout=30, what="the watch")
    proxy.cut_watches()
    entry = {"at": "2026-03-02T12:00:00Z", "actor": "paramedic", "reason": "Matched", "message": "said meanwhile"}
    await team.say("down", {"timeline": [entry]})
    await asyncio.wait_for(process.stdout.readuntil(b"said meanwhile"), 30)
    await team.say("down", {"phase": "Resolved", "message": "over"})
    assert await asyncio.wait_for(process.wait(), 30) == 0


@pytest.mark.parametrize("how", ["cut", "too-old"])
async def test_a_list_goes_on_and_misses_nothing(team: Team, dev: Cli, proxy: FaultProxy, how: str) -> None:
    await team.incident("down", status={"phase": "Open"})
    process = await dev.start("list", "-w", "-n", team.namespace)
    assert process.stdout is not None
    await eventually(lambda: proxy.watching("incidents"), timeout=30, what="the watch")
    if how == "cut":
        proxy.cut_watches()
    else:
        proxy.end_watches()
    await team.say("down", {"message": "said meanwhile"})
    await asyncio.wait_for(process.stdout.readuntil(b"said meanwhile"), 30)
    process.terminate()
    await process.wait()


async def test_a_change_of_which_the_answer_is_lost_is_not_repeated(team: Team, dev: Cli, proxy: FaultProxy) -> None:
    await team.incident("down")
    rule = proxy.on(patches, Fault(answer=CUT))
    said = await dev("pause", "down")
    assert said.code == 6
    assert "look whether it was done before you do it again" in said.err
    assert len(rule.struck) == 1
    assert (await team.spec("down"))["paused"] is True


async def test_a_server_that_is_too_busy_is_asked_again(team: Team, dev: Cli, proxy: FaultProxy) -> None:
    await team.incident("down")
    proxy.on(patches, Fault(forward=False, answer=Answer(429, {"Retry-After": "1"})), times=2)
    assert (await dev("pause", "down")).code == 0
    assert (await team.spec("down"))["paused"] is True


async def test_two_people_who_approve_at_once_lose_nothing(team: Team, proxy: FaultProxy, tmp_path: Path) -> None:
    """The second's consent is stored between what the first has read and what the first writes."""
    steps = [waiting("one", "op-1"), waiting("two", "op-2")]
    await team.incident("down", status={"phase": "AwaitingApproval", "steps": steps})
    second = team.cli("second")

    def meanwhile(_: Seen) -> None:
        words = [str(SCRIPT), "approve", "down", "two", "--yes", "-n", team.namespace]
        subprocess.run(words, env=second.environment, check=True, capture_output=True, timeout=60)

    rule = proxy.on(patches, Fault(before=meanwhile))
    approver = Cli(proxy.kubeconfig(team.teams.tokens["approver"], tmp_path), team.namespace)
    said = await approver("approve", "down", "one", "--yes")
    assert said.code == 0, said.err
    assert [one.upstream for one in rule.struck] == [409]
    given = {(a["step"], a["approvedBy"], a["operation"]) for a in (await team.spec("down"))["approvals"]}
    assert given == {("one", team.user("approver"), "op-1"), ("two", team.user("second"), "op-2")}


async def test_a_plan_that_changes_before_the_write_is_not_approved(
    team: Team, proxy: FaultProxy, tmp_path: Path
) -> None:
    await team.incident("down", status={"phase": "AwaitingApproval", "steps": [waiting()]})
    loop = asyncio.get_running_loop()

    def meanwhile(_: Seen) -> None:
        writing = team.say("down", {"steps": [waiting(operation="another")]})
        asyncio.run_coroutine_threadsafe(writing, loop).result(30)

    proxy.on(patches, Fault(before=meanwhile))
    approver = Cli(proxy.kubeconfig(team.teams.tokens["approver"], tmp_path), team.namespace)
    said = await approver("approve", "down", "--yes")
    assert (said.code, "has changed since it was shown" in said.err) == (5, True)
    assert "approvals" not in await team.spec("down")


async def test_who_is_always_too_late_gives_up(team: Team, dev: Cli, proxy: FaultProxy) -> None:
    await team.incident("down")
    proxy.on(patches, Fault(forward=False, answer=Answer(409)), times=1000)
    said = await dev("pause", "down")
    assert (said.code, said.err) == (5, "error: down was changed by others at each of 10 tries: try again\n")
    assert not (await team.spec("down")).get("paused")


async def test_the_server_must_be_who_it_is_said_to_be(team: Team, tmp_path: Path) -> None:
    await team.incident("down")
    config = yaml.safe_load(team.cli("dev").kubeconfig.read_text())

    async def list_as(**cluster: Any) -> Said:
        found = config["clusters"][0]["cluster"] | cluster
        kubeconfig = tmp_path / "kubeconfig"
        kubeconfig.write_text(yaml.safe_dump(config | {"clusters": [{**config["clusters"][0], "cluster": found}]}))
        return await Cli(kubeconfig, team.namespace)("list", "-o", "name")

    other = await list_as(**{"tls-server-name": "other.example.com"})
    assert (other.code, "cannot be reached" in other.err, other.out) == (6, True, "")
    unknown = await list_as(**{"certificate-authority-data": None})
    assert (unknown.code, unknown.out) == (6, "")
    unverified = {"certificate-authority-data": None, "insecure-skip-tls-verify": True}
    assert (await list_as(**unverified)).code == 0


async def test_a_login_that_has_run_out_is_renewed_once(team: Team, proxy: FaultProxy, tmp_path: Path) -> None:
    """The kubeconfig's plugin gives another token each time: the first is not accepted."""
    await team.incident("down")
    script, tokens = tmp_path / "login", tmp_path / "tokens"
    tokens.write_text(f"expired\n{team.teams.tokens['dev']}\n")
    answer = '{"apiVersion":"client.authentication.k8s.io/v1","kind":"ExecCredential","status":{"token":"%s"}}'
    script.write_text(f"#!/bin/sh\nprintf '{answer}' $(head -n1 {tokens})\nsed -i 1d {tokens}\n")
    script.chmod(0o755)
    config = json.loads(proxy.kubeconfig("unused", tmp_path).read_text())
    plugin = {"apiVersion": "client.authentication.k8s.io/v1", "command": str(script), "interactiveMode": "Never"}
    config["users"][0]["user"] = {"exec": plugin}
    kubeconfig = tmp_path / "kubeconfig"
    kubeconfig.write_text(yaml.safe_dump(config))
    said = await Cli(kubeconfig, team.namespace)("list", "-o", "name")
    assert (said.code, said.out) == (0, "incident.paramedic.dev/down\n"), said.err
    assert tokens.read_text() == ""
