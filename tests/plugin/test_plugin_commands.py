"""kubectl incident on a real API server, with people's own tokens: what it says, and what is stored then."""

import asyncio
import json
import os
import subprocess
import sys
from datetime import UTC, datetime, timedelta

import yaml

from access.people import policy
from plugin.team import BIN, COMPLETE, OPERATION, Cli, Team, waiting
from testbed.access import Access, kubeconfig_text

HOSTILE = "down \x1b]0;owned\x07 \u202e\u2066\u200b[bold red]now[/]"
AWAITING = {"phase": "AwaitingApproval", "message": "waits", "steps": [waiting()]}


def in_an_hour() -> str:
    return (datetime.now(UTC) + timedelta(hours=1)).isoformat()


# -- reading ----------------------------------------------------------------------------------------------------------


async def test_list_shows_the_open_ones_the_gravest_first(team: Team) -> None:
    viewer = team.cli("viewer")
    empty = await viewer("list")
    assert (empty.code, empty.out, empty.err) == (0, "", f"No open incidents in {team.namespace}.\n")
    await team.incident("slow", severity="P2", commander="bob")
    await team.incident("down", severity="P0", status=AWAITING | {"step": "more-room"})
    await team.incident("over", status={"phase": "Resolved", "message": "closed"})
    lines = (await viewer("list")).out.splitlines()
    assert lines[0].split() == ["NAME", "SEVERITY", "PHASE", "TARGET", "STEP", "WHO", "AGE", "MESSAGE"]
    down = ["down", "P0", "AwaitingApproval", "Deployment/covet-app", "more-room", "<none>"]
    assert [line.split()[:6] for line in lines[1:]] == [
        down,
        ["slow", "P2", "Open", "Deployment/covet-app", "<none>", "bob"],
    ]
    assert (await viewer("list", "-o", "name", "--all")).out.splitlines() == [
        f"incident.paramedic.dev/{name}" for name in ("down", "slow", "over")
    ]
    wide = (await viewer("list", "-o", "wide")).out.splitlines()
    assert wide[0].endswith("POLICY   TITLE")
    assert wide[1].endswith("API returns 5xx")


async def test_the_namespace_is_the_context_s_and_all_are_for_who_may_see_them(team: Team) -> None:
    await team.incident("down")
    refused = await team.cli("viewer")("list", here=False)
    assert refused.code == 4
    who = team.user("viewer")
    text = f"error: {who} may not list incidents in default: ask for the ClusterRole paramedic-view there\n"
    assert refused.err == text
    admin = Cli(team.admins_kubeconfig, team.namespace)
    everywhere = (await admin("list", "-A", "-o", "name", here=False)).out
    assert "incident.paramedic.dev/down\n" in everywhere
    as_viewer = ("--as", team.user("viewer"), "--as-group", "system:authenticated")
    assert (await admin("list", "-o", "name", *as_viewer)).out == "incident.paramedic.dev/down\n"
    assert (await admin("list", *as_viewer, here=False)).code == 4


async def test_json_and_yaml_are_what_is_stored(team: Team) -> None:
    stored = await team.incident("down", title=HOSTILE, status=AWAITING)
    del stored["metadata"]["managedFields"]
    viewer = team.cli("viewer")
    shown = (await viewer("show", "down", "-o", "json")).out
    assert json.loads(shown) == stored
    assert yaml.safe_load((await viewer("show", "down", "-o", "yaml")).out) == stored
    assert json.loads((await viewer("list", "-o", "json")).out)["items"] == [stored]


async def test_a_hostile_title_cannot_steer_a_terminal(team: Team) -> None:
    await team.incident("down", title=HOSTILE, status=AWAITING | {"message": HOSTILE})
    viewer = team.cli("viewer")
    for words in (["list", "-o", "wide"], ["show", "down"], ["show", "down", "-o", "json"], ["list", "-o", "yaml"]):
        out = (await viewer(*words)).out
        assert all(c.isprintable() or c == "\n" for c in out), words
        assert "[bold red]now[/]" in out
    _, shown = await viewer.in_a_terminal("show", "down", answers={})
    assert "[bold red]now[/]" in shown
    assert "\x1b]" not in shown
    assert "\x07" not in shown
    assert "\x1b[" in shown, "our own colours are there"


async def test_show_follows_until_it_is_over(team: Team) -> None:
    await team.incident("down", status=AWAITING)
    process = await team.cli("viewer").start("show", "down", "--watch", "-n", team.namespace)
    assert process.stdout is not None
    head = await asyncio.wait_for(process.stdout.readuntil(b"--root-cause"), 30)
    assert head.startswith(b"down  P1  AwaitingApproval\nAPI returns 5xx\n")
    entry = {"at": in_an_hour(), "actor": "paramedic", "reason": "Resolved", "message": "the alert has ended"}
    await team.say("down", {"phase": "Resolved", "message": "the alert has ended", "timeline": [entry]})
    rest = await asyncio.wait_for(process.stdout.read(), 30)
    assert await process.wait() == 0
    assert b"Resolved  the alert has ended  (paramedic)\n  Resolved: the alert has ended\n" in rest


async def test_list_goes_on_with_what_changes(team: Team) -> None:
    await team.incident("down")
    process = await team.cli("viewer").start("list", "-w", "-n", team.namespace)
    assert process.stdout is not None
    await asyncio.wait_for(process.stdout.readuntil(b"down"), 30)
    await team.say("down", {"phase": "Verifying", "message": "looking"})
    line = await asyncio.wait_for(process.stdout.readuntil(b"looking\n"), 30)
    assert b"Verifying" in line
    process.terminate()
    await process.wait()


# -- a word -----------------------------------------------------------------------------------------------------------


async def test_who_may_only_look_is_told_what_is_lacking(team: Team) -> None:
    before = await team.incident("down", status=AWAITING)
    for words in (["ack", "down"], ["pause", "down"], ["approve", "down", "--yes"], ["escalate", "down", "-m", "x"]):
        said = await team.cli("viewer")(*words)
        assert said.code == 4
        who = team.user("viewer")
        text = (
            f"error: {who} may not patch incidents in {team.namespace}: ask for the ClusterRole paramedic-edit there\n"
        )
        assert said.err == text
    assert await team.get("down") == before


async def test_ack_is_signed_and_not_taken_from_others_by_accident(team: Team) -> None:
    await team.incident("down")
    said = await team.cli("dev")("ack", "down")
    assert (said.code, said.out) == (0, f"down acknowledged by {team.user('dev')}\n")
    assert (await team.spec("down"))["acknowledgedBy"] == team.user("dev")
    second = await team.cli("second")("ack", "down")
    assert second.code == 5
    assert f"error: {team.user('dev')} works on down already" in second.err
    assert (await team.spec("down"))["acknowledgedBy"] == team.user("dev")
    taken = await team.cli("second")("ack", "down", "--take-over", "-o", "json")
    assert json.loads(taken.out)["spec"]["acknowledgedBy"] == team.user("second")


async def test_pause_resume_and_reject(team: Team) -> None:
    await team.incident("down", status=AWAITING)
    dev = team.cli("dev")
    assert (await dev("reject", "down")).out.startswith("down rejected, and so paused: nothing further is done.")
    assert (await team.spec("down"))["paused"] is True
    version = (await team.get("down"))["metadata"]["resourceVersion"]
    assert (await dev("pause", "down")).code == 0
    assert (await team.get("down"))["metadata"]["resourceVersion"] == version, "nothing is written twice"
    assert (await dev("resume", "down")).code == 0
    assert not (await team.spec("down")).get("paused")
    await team.incident("quiet")
    nothing = await dev("reject", "quiet")
    assert (nothing.code, "no step of quiet waits for approval" in nothing.err) == (5, True)


async def test_escalate(team: Team) -> None:
    await team.incident("down")
    dev = team.cli("dev")
    assert (await dev("escalate", "down")).code == 2
    assert (await dev("escalate", "down", "-m", "the database too")).code == 0
    assert (await team.spec("down"))["escalation"] == {"requestedBy": team.user("dev"), "message": "the database too"}
    again = await dev("escalate", "down", "-m", "the database too")
    assert (again.code, "another call says more" in again.err) == (5, True)


async def test_what_is_over_is_left_alone(team: Team) -> None:
    await team.incident("over", status={"phase": "Resolved", "message": "closed by bob"})
    for words in (["ack"], ["pause"], ["escalate", "-m", "x"]):
        said = await team.cli("dev")(words[0], "over", *words[1:])
        assert (said.code, said.err) == (5, "error: over is over: closed by bob\n")


# -- approving --------------------------------------------------------------------------------------------------------


async def test_approve_shows_the_plan_and_binds_the_consent_to_it(team: Team) -> None:
    others = {"step": "earlier", "approvedBy": "admin"}
    await team.incident("down", approvals=[others], status=AWAITING)
    unasked = await team.cli("approver")("approve", "down")
    assert (unasked.code, "--yes" in unasked.err) == (2, True)
    said = await team.cli("approver")("approve", "down", "--yes")
    assert said.code == 0, said.err
    assert said.out.splitlines() == [
        "more-room of down: scale of Deployment/covet-app in covet",
        "  would: covet-app: replicas 2 → 5",
        "  replicas: 2 → 5",
        "  for 1h, then put back",
        f"step more-room of down approved by {team.user('approver')}",
    ]
    consent = {"step": "more-room", "approvedBy": team.user("approver"), "operation": OPERATION}
    assert (await team.spec("down"))["approvals"] == [others, consent]


async def test_a_form_leaves_standard_output_to_the_result_and_hides_nothing(team: Team) -> None:
    plan = "more-room of down: scale of Deployment/covet-app in covet\n  would: covet-app: replicas 2 → 5\n"
    await team.incident("down", status=AWAITING)
    approver, dev = team.cli("approver"), team.cli("dev")
    unasked = await approver("approve", "down", "-o", "name")
    assert (unasked.code, unasked.out, unasked.err.startswith(plan)) == (2, "", True)
    code, shown = await approver.in_a_terminal("approve", "down", "-o", "name", answers={"[y/N]": lambda: "n\n"})
    assert (code, "replicas 2 → 5" in shown, "not approved" in shown) == (0, True, True)
    assert "approvals" not in await team.spec("down")
    said = await approver("approve", "down", "--yes", "-o", "json")
    assert said.err.startswith(plan)
    assert json.loads(said.out)["spec"]["approvals"][0]["operation"] == OPERATION
    held = waiting(state="Succeeded", message="covet-app: replicas 2 → 5", revertAt="2026-03-02T12:00:00Z")
    await team.incident("holds", status={"phase": "Remediating", "steps": [held]})
    code, shown = await dev.in_a_terminal("resolve", "holds", "-o", "name", answers={"[y/N]": lambda: "n\n"})
    assert (code, "Still in place" in shown, "not closed" in shown) == (0, True, True)
    assert "resolution" not in await team.spec("holds")
    said = await dev("resolve", "holds", "--yes", "-o", "name")
    assert (said.out, "Still in place" in said.err) == ("incident.paramedic.dev/holds\n", True)


async def test_who_may_not_approve_is_told_so_in_one_line(team: Team) -> None:
    await team.incident("down", status=AWAITING)
    said = await team.cli("dev")("approve", "down", "--yes")
    assert said.code == 4
    assert said.err == (
        f"error: {team.user('dev')} may not approve: ask for the verb approve on incidents/down in {team.namespace} "
        "(ClusterRole paramedic-approve)\n"
    )
    assert "approvals" not in await team.spec("down")


async def test_which_step(team: Team) -> None:
    parts = [waiting("stop-1", "op-1", partOf="stop"), waiting("other", "op-2")]
    await team.incident("down", status={"phase": "AwaitingApproval", "steps": parts})
    approver = team.cli("approver")
    several = await approver("approve", "down", "--yes")
    assert (several.code, "name one: stop-1, other" in several.err) == (2, True)
    none = await approver("approve", "down", "nope", "--yes")
    assert (none.code, "step nope of down does not wait for approval" in none.err) == (5, True)
    assert (await approver("approve", "down", "stop-1", "--yes")).code == 0
    assert [a["step"] for a in (await team.spec("down"))["approvals"]] == ["stop"], "a procedure is approved whole"


async def test_on_a_terminal_it_asks_and_no_is_no(team: Team) -> None:
    await team.incident("down", status=AWAITING)
    code, shown = await team.cli("approver").in_a_terminal("approve", "down", answers={"[y/N]": lambda: "n\n"})
    assert code == 0
    assert "replicas: 2 → 5" in shown
    assert "not approved" in shown
    assert "approvals" not in await team.spec("down")


async def test_a_plan_that_changes_while_it_is_read_is_not_approved(team: Team) -> None:
    await team.incident("down", status=AWAITING)

    async def meanwhile() -> str:
        await team.say("down", {"steps": [waiting(operation="another", message="would: covet-app: replicas 2 → 50")]})
        return "y\n"

    code, shown = await team.cli("approver").in_a_terminal("approve", "down", answers={"[y/N]": meanwhile})
    assert code == 5
    assert "has changed since it was shown; now it would: covet-app: replicas 2 → 50" in shown
    assert "approvals" not in await team.spec("down")


# -- closing ----------------------------------------------------------------------------------------------------------


async def test_resolve_says_what_is_still_in_place_and_adds_to_what_was_said(team: Team) -> None:
    held = waiting(state="Succeeded", message="covet-app: replicas 2 → 5", revertAt="2026-03-02T12:00:00Z")
    await team.incident("down", status={"phase": "Remediating", "steps": [held]})
    dev = team.cli("dev")
    said = await dev("resolve", "down", "--root-cause", "a bad release", "--follow-up", "test it")
    assert said.code == 0, said.err
    assert said.out.splitlines()[:2] == [
        "Still in place, and put back before the incident ends:",
        "  more-room: covet-app: replicas 2 → 5; put back at 2026-03-02 12:00:00 UTC",
    ]
    assert (await team.spec("down"))["resolution"] == {
        "resolvedBy": team.user("dev"),
        "rootCause": "a bad release",
        "followUps": ["test it"],
    }
    assert (await dev("resolve", "down")).code == 5
    assert (await dev("resolve", "down", "--keep", "nope")).code == 2
    kept = await team.cli("second")("resolve", "down", "--follow-up", "alert earlier", "--keep", "more-room")
    assert (kept.code, "Still in place" in kept.out) == (0, False)
    assert (await team.spec("down"))["resolution"] == {
        "resolvedBy": team.user("second"),
        "rootCause": "a bad release",
        "followUps": ["test it", "alert earlier"],
        "keep": ["more-room"],
    }


async def test_tick(team: Team) -> None:
    items = ["Send all-clear communication", "Document lessons learned"]
    await team.incident("down", status={"phase": "Resolved", "checklist": [{"due": "1h", "item": i} for i in items]})
    dev, second = team.cli("dev"), team.cli("second")
    assert (await dev("tick", "down", "2")).code == 0
    assert (await second("tick", "down", "all-clear")).code == 0
    mine = {"item": items[1], "doneBy": team.user("dev")}
    theirs = {"item": items[0], "doneBy": team.user("second")}
    assert (await team.spec("down"))["checklist"] == [mine, theirs]
    assert (await dev("tick", "down", "2", "--undo")).code == 0
    assert (await team.spec("down"))["checklist"] == [theirs]
    unclear = await dev("tick", "down", "e")
    assert unclear.code == 2
    assert unclear.err.splitlines()[1:] == [f"   {n}  {item}" for n, item in enumerate(items, 1)]
    await team.incident("open")
    assert (await dev("tick", "open", "1")).code == 5


async def test_report(team: Team) -> None:
    await team.incident("down", status={"phase": "Resolved", "message": "the alert has ended"})
    viewer = team.cli("viewer")
    assert "API returns 5xx" in (await viewer("report", "down")).out
    assert "API returns 5xx" in json.loads((await viewer("report", "down", "-o", "json")).out)["title"]


# -- creating ---------------------------------------------------------------------------------------------------------


async def test_create_finds_out_what_it_can(team: Team) -> None:
    await team.admin.create(policy("api-outage", mode="Auto"), team.namespace)
    dev = team.cli("dev")
    tried = await dev("create", "API returns 5xx", "--name", "down", "--dry-run")
    assert tried.out.splitlines() == [
        f"down would be opened (dry run) in {team.namespace}: P1 APIOutage of Deployment/covet-app",
        "the policy api-outage answers, in mode Auto: it acts",
        "  restart (restart)",
    ]
    assert await team.names() == set()
    said = await dev("create", "deploy/covet-app", "API", "returns", "5xx", "--name", "down", "--severity", "P0")
    assert said.code == 0, said.err
    assert said.out.splitlines()[-1] == f"to see it: kubectl incident show down -n {team.namespace} --watch"
    spec = await team.spec("down")
    assert {key: spec[key] for key in ("title", "type", "severity", "commander", "policyRef")} == {
        "title": "API returns 5xx",
        "type": "APIOutage",
        "severity": "P0",
        "commander": team.user("dev"),
        "policyRef": {"name": "api-outage"},
    }
    assert (spec["target"]["kind"], spec["target"]["name"]) == ("Deployment", "covet-app")
    twice = await dev("create", "API returns 5xx", "--name", "down")
    assert (twice.code, "already exists" in twice.err) == (5, True)


async def test_who_may_only_trigger_leaves_the_target_to_the_policy(team: Team) -> None:
    await team.admin.create(policy("api-outage"), team.namespace)
    said = await team.cli("desk")("create", "API returns 5xx", "--name", "down")
    assert said.code == 0, said.err
    assert "target" not in await team.spec("down")


async def test_create_says_what_is_possible(team: Team) -> None:
    dev = team.cli("dev")
    people_only = await dev("create", "strange", "-o", "json", "--dry-run")
    assert json.loads(people_only.out)["spec"]["type"] == "Reported"
    for name, kind in (("app", "APIOutage"), ("load", "HighLoad")):
        await team.admin.create(policy(name, match={"incidents": {"types": [kind]}}), team.namespace)
    unclear = await dev("create", "strange")
    assert unclear.code == 2
    assert "  --type HighLoad   load (Approve) acts on Deployment/covet-app: restart" in unclear.err.splitlines()
    assert (await dev("create", "strange", "--type", "HighLoad", "--name", "down")).code == 0
    assert (await team.spec("down"))["policyRef"] == {"name": "load"}


async def test_source_addresses_are_named_when_it_is_created(team: Team) -> None:
    block = {"name": "block", "target": {"kind": "Connection", "name": "alb"}, "ttl": "1h"}
    steps = [block | {"blockAddresses": {"addressesFromIncident": True}}]
    match = {"incidents": {"types": ["DDoS"]}}
    await team.admin.create(policy("ddos", steps=steps, match=match), team.namespace)
    desk = team.cli("desk")
    sources = ("--source-address", "203.0.113.7", "--source-address", "2001:db8::/48")
    said = await desk("create", "Flood", "--name", "flood", *sources)
    assert (said.code, said.err) == (0, "")
    assert (await team.spec("flood"))["sourceAddresses"] == ["203.0.113.7", "2001:db8::/48"]
    shown = (await desk("show", "flood")).out.splitlines()
    assert "Sources       203.0.113.7, 2001:db8::/48" in shown

    world = await desk("create", "Flood", "--name", "all", "--source-address", "0.0.0.0/0")
    assert (world.code, "spec.sourceAddresses[0]: " in world.err, "too large" in world.err) == (1, True, True)
    assert await team.names() == {"flood"}


async def test_create_says_when_nothing_looks_at_the_source_addresses(team: Team) -> None:
    await team.admin.create(policy("api-outage"), team.namespace)
    told = "the source addresses are kept on the incident for people: no step that answers blocks them"
    named = await team.cli("dev")("create", "Strange", "--name", "strange", "--source-address", "203.0.113.7")
    assert (named.code, told in named.err) == (0, True)
    assert (await team.spec("strange"))["sourceAddresses"] == ["203.0.113.7"]


async def test_what_the_api_server_does_not_take_is_told_readably(team: Team) -> None:
    dev = team.cli("dev")
    long = await dev("create", "x" * 2000, "--type", "APIOutage")
    assert (long.code, long.err) == (1, "error: spec.title: Too long: may not be more than 1024 bytes\n")
    word = await dev("create", "x", "--type", "not-a-type")
    assert (word.code, "an incident type is one CamelCase word" in word.err) == (2, True)
    viewer = await team.cli("viewer")("create", "x", "--type", "APIOutage")
    assert (viewer.code, "may not create incidents" in viewer.err) == (4, True)
    assert await team.names() == set()


# -- what goes wrong --------------------------------------------------------------------------------------------------


async def test_exit_codes(team: Team, installed: Access) -> None:
    dev = team.cli("dev")
    missing = await dev("show", "nope")
    assert (missing.code, missing.err) == (3, 'error: incidents.paramedic.dev "nope" not found\n')
    assert (await dev("show", "../../api/v1/secrets")).code == 2
    assert (await dev("nonsense")).code == 2
    stranger = Cli(installed.kubeconfig_for("no-such-token"), team.namespace)
    assert ((await stranger("list")).code, "log in again" in (await stranger("list")).err) == (4, True)


async def test_no_cluster(team: Team, installed: Access) -> None:
    credentials = installed.credentials()
    assert credentials.ca is not None
    nowhere = installed.folder / "kubeconfig-nowhere"
    nowhere.write_text(kubeconfig_text("https://127.0.0.1:1", credentials.ca, "t"))
    said = await Cli(nowhere, "covet")("list")
    assert said.code == 6
    assert said.err.startswith("error: the API server https://127.0.0.1:1 cannot be reached: ")
    none = await Cli(installed.folder / "not-there", "covet")("list")
    assert none.code == 6
    assert f"there is no file {installed.folder / 'not-there'}; name a kubeconfig by KUBECONFIG" in none.err


# -- kubectl ----------------------------------------------------------------------------------------------------------


async def test_completion(team: Team) -> None:
    await team.incident("down", title=HOSTILE, status=AWAITING)
    await team.incident("over", status={"phase": "Resolved"})
    dev = team.cli("dev")
    where = ("-n", team.namespace)
    ask = await dev(*where, "ack", "", program=COMPLETE, here=False)
    shown, end = ask.out.splitlines()
    assert (shown.split(), end) == (["down", "AwaitingApproval:", "down", "]0;owned", "[bold", "red]now[/]"], ":4")
    assert shown.replace("\t", "").isprintable()
    every = (await dev("show", *where, "", program=COMPLETE, here=False)).out.splitlines()
    assert [line.split("\t")[0] for line in every] == ["down", "over", ":4"]
    steps = await dev("approve", *where, "down", "m", program=COMPLETE, here=False)
    assert steps.out.splitlines() == ["more-room\twould: covet-app: replicas 2 → 5", ":4"]
    nobody = await dev("show", "--kubeconfig", "/nonexistent", "", program=COMPLETE, here=False)
    assert (nobody.code, nobody.out, nobody.err) == (0, ":4\n", "")


async def test_kubectl_finds_the_plugin_and_its_completion(team: Team, installed: Access) -> None:
    await team.incident("down")
    kubectl = installed._kubectl_path()
    dev = team.cli("dev")
    environment = dev.environment | {"PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}"}

    def run(*words: str) -> str:
        return subprocess.run(
            [str(kubectl), *words], env=environment, capture_output=True, text=True, timeout=60, check=True
        ).stdout

    listed = await asyncio.to_thread(run, "incident", "list", "-n", team.namespace, "-o", "name")
    assert listed == "incident.paramedic.dev/down\n"
    completed = await asyncio.to_thread(run, "__complete", "incident", "-n", team.namespace, "show", "")
    assert completed.splitlines()[0].startswith("down\t")


async def test_without_its_libraries_it_says_what_to_install() -> None:
    code = "import sys; sys.modules['click'] = None; from paramedic.plugin.main import main; sys.exit(main())"
    process = await asyncio.create_subprocess_exec(sys.executable, "-c", code, stderr=subprocess.PIPE)
    _, said = await process.communicate()
    assert process.returncode == 2
    assert said.decode().endswith("pip install 'paramedic[cli]'\n")


async def test_it_starts_without_what_is_slow() -> None:
    code = (
        "import sys; from paramedic.plugin import cli, listing; cli.cli.main(['--help'], standalone_mode=False);"
        "slow = {'kopf', 'kubernetes', 'aiohttp', 'pydantic', 'jinja2', 'requests', 'rich'} & set(sys.modules);"
        "sys.exit(str(slow) if slow else 0)"
    )
    process = await asyncio.create_subprocess_exec(sys.executable, "-c", code, stdout=asyncio.subprocess.DEVNULL)
    assert await process.wait() == 0
