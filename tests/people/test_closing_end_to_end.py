"""A running operator and incidents that are over: the checklist, the report, what a person keeps, restarts."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlparse

import pytest

from e2e.world import INCIDENTS, World, reasons, step
from people.test_webhook_channel import Receiver
from testbed.access import Access
from testbed.api import Api, eventually
from testbed.monitoring import Prometheus
from testbed.operator_process import Operator

Json = dict[str, Any]
STABLE, REPORT = "Verify all systems are stable", "Create initial incident report"
ALL_CLEAR, TIMELINE = "Send all-clear communication", "Document timeline in incident tracker"
LESSONS = "Document lessons learned"


@pytest.fixture(scope="module")
def hook() -> Iterator[Receiver]:
    with Receiver() as started:
        yield started


@pytest.fixture(scope="module")
def prometheus(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Prometheus]:
    with Prometheus(tmp_path_factory.mktemp("prometheus")) as running:
        yield running


@pytest.fixture
def operator(installed: Access, hook: Receiver, prometheus: Prometheus, tmp_path: Path) -> Iterator[Operator]:
    """All is stable when it has held for three seconds."""
    (tmp_path / "evidence").mkdir()
    settings = {
        "channels": [{"name": "hook", "perMinute": 6000, "webhook": {"url": f"{hook.url}/incidents"}}],
        "notify": ["hook"],
        "closing": {"stableFor": "3s"},
        "evidence": {"directory": str(tmp_path / "evidence")},
        "prometheus": {"url": prometheus.url},
        "resyncInterval": "2s",
        "diagnose": False,
    }
    path = tmp_path / "settings.yaml"
    path.write_text(json.dumps(settings))
    folder = tmp_path / "operator"
    with Operator(installed, folder, env={"PARAMEDIC_CONFIG": str(path)}, identity="closer") as running:
        running.wait_leading()
        yield running


@pytest.fixture
def world(admin: Api, namespace: str, operator: Operator) -> World:
    return World(admin, namespace, operator)


async def once(world: World, holds: Callable[[Json], Any], what: str, name: str = "incident") -> Json:
    """The incident as soon as that holds."""

    async def probe() -> Json | None:
        found = await world.admin.find(INCIDENTS, name, world.namespace)
        return found if found and "status" in found and holds(found) else None

    return await eventually(probe, timeout=30, what=what)  # type: ignore[no-any-return]


def ticked(found: Json) -> dict[str, str]:
    """Who has ticked what."""
    return {item["item"]: item["doneBy"] for item in found["status"].get("checklist", []) if item.get("done")}


def due(found: Json, after: timedelta) -> str:
    """So long after the resolution, as the status writes it."""
    at = datetime.fromisoformat(found["status"]["resolvedAt"]) + after
    return at.astimezone(UTC).replace(tzinfo=None).isoformat(timespec="microseconds") + "Z"


async def test_from_the_resolution_to_the_report(world: World, operator: Operator) -> None:
    await world.workload()
    await world.policy()
    await world.incident()
    found = await once(world, lambda f: REPORT in ticked(f) and STABLE in ticked(f), "Paramedic's own items")
    assert ticked(found) == dict.fromkeys([STABLE, ALL_CLEAR, TIMELINE, REPORT], "paramedic")
    assert found["status"]["attendAt"] == due(found, timedelta(hours=1)), "next, people are reminded"
    kept = {item["name"]: item for item in found["status"]["evidence"]}
    assert set(kept) == {"report.html", "report.json"}
    for item in kept.values():
        content = Path(unquote(urlparse(item["uri"]).path)).read_bytes()
        assert sha256(content).hexdigest() == item["sha256"]
    assert json.loads(content)["name"] == "incident"
    # A person ticks; after a kill too.
    await asyncio.to_thread(operator.kill)
    await world.edit("incident", {"checklist": [{"item": LESSONS, "doneBy": "admin"}]})
    await asyncio.to_thread(operator.start)
    found = await once(world, lambda f: LESSONS in ticked(f), "the tick")
    assert ticked(found)[LESSONS] == "admin"
    version = found["metadata"]["resourceVersion"]
    await world.edit("incident", {"checklist": []})
    found = await once(world, lambda f: LESSONS not in ticked(f), "the tick is taken back, while it runs")
    assert int(found["metadata"]["resourceVersion"]) > int(version)
    assert "ChecklistOverdue" not in reasons(found)


async def test_what_breaks_again_is_not_called_stable(world: World, operator: Operator) -> None:
    await world.workload()
    await world.policy()
    await world.incident()
    await world.reaches("Resolved", name="incident")
    await asyncio.to_thread(operator.kill)  # so that it cannot be quicker
    await world.release("app:bad")
    await asyncio.to_thread(operator.start)
    found = await once(world, lambda f: REPORT in ticked(f), "the report, which does not wait for it")
    assert STABLE not in ticked(found)
    await world.release("app:2")
    await once(world, lambda f: STABLE in ticked(f), "it has held since it was mended")


async def test_while_a_figure_is_bad_or_it_strikes_again_it_is_not_called_stable(
    world: World, operator: Operator, prometheus: Prometheus
) -> None:
    await world.workload()
    figure = f"errors_{world.namespace.replace('-', '_')}"
    await measure(prometheus, figure, 0)
    check = {"query": figure, "condition": "value < 0.5"}
    await world.policy(verify={"prometheus": check, "timeout": "20s"}, match={"incidents": {"types": ["APIOutage"]}})
    await world.incident(target={"kind": "Deployment", "name": "app"})
    await world.reaches("Resolved", name="incident")
    await asyncio.to_thread(operator.kill)  # so that it cannot be quicker
    await measure(prometheus, figure, 1)
    await asyncio.to_thread(operator.start)
    found = await once(world, lambda f: REPORT in ticked(f), "the report, which does not wait for it")
    assert STABLE not in ticked(found)
    await world.incident("again", type="Other", target={"kind": "Deployment", "name": "app"})
    await world.says("NoPolicy", name="again")
    await measure(prometheus, figure, 0)
    await asyncio.sleep(5)  # longer than it has to hold
    found = await world.admin.get(INCIDENTS, "incident", world.namespace)
    assert STABLE not in ticked(found), "another incident of the same target is open"
    await world.edit("again", {"resolution": {"resolvedBy": "admin"}})
    await once(world, lambda f: STABLE in ticked(f), "it has held since both were over")


async def measure(prometheus: Prometheus, figure: str, value: int) -> None:
    """The figure has this value from now on."""
    rule = {"record": figure, "expr": f"vector({value})"}
    await asyncio.to_thread(prometheus.set_rules, [{"name": figure, "interval": "1s", "rules": [rule]}])
    await eventually(lambda: asyncio.to_thread(prometheus.query, f"{figure} == {value}"), timeout=20, what="the figure")


async def test_an_alert_that_ends_by_itself_leaves_no_checklist(world: World) -> None:
    await world.workload()
    await world.policy(mode="Approve")
    assert await world.alert() == 200
    await world.reaches("AwaitingApproval")
    assert await world.alert(state="resolved") == 200
    found = await world.reaches("Resolved")
    assert "checklist" not in found["status"]
    assert "attendAt" not in found["status"]


async def test_people_are_reminded_once_also_by_the_next_process(
    world: World, operator: Operator, hook: Receiver
) -> None:
    """Two days have gone by since the resolution; the process ends right after it has told them."""
    await world.workload()
    await world.policy()
    await world.incident()
    found = await once(world, lambda f: {STABLE, REPORT} <= set(ticked(f)), "its own items")
    await asyncio.to_thread(operator.kill)
    long_ago = (datetime.now(UTC) - timedelta(days=2)).isoformat()
    found = await world.admin.get(INCIDENTS, "incident", world.namespace)
    found["status"] |= {"resolvedAt": long_ago, "attendAt": long_ago}
    await world.admin.replace(found, world.namespace, subresource="status")
    for _ in range(2):
        await asyncio.to_thread(operator.start)
        await asyncio.to_thread(operator.wait_leading)
        found = await once(world, lambda f: reasons(f).count("ChecklistOverdue") == 2, "two horizons")
        found = await once(
            world, lambda f: not any(n.get("pending") for n in f["status"]["notices"]), "all have been told"
        )
        assert found["status"]["attendAt"] == due(found, timedelta(days=7))
        await asyncio.to_thread(operator.kill)
    uid = found["metadata"]["uid"]
    told = [n for body in hook.taken.values() if body["id"] == uid for n in body["notices"] if n["kind"] == "Reminder"]
    assert sorted(n["key"] for n in told) == ["overdue.1h", "overdue.24h"]
    assert LESSONS not in told[1]["message"]
    assert "Identify immediate action items" in told[1]["message"]


async def test_what_a_person_keeps_stays(world: World) -> None:
    await world.workload()
    room = {"name": "more-room", "scale": {"replicas": 4}, "ttl": "1h"}
    await world.policy(room)
    await world.incident()
    await eventually(lambda: scaled(world, 4), what="four replicas")
    await world.says("Verified", name="incident")
    await world.edit("incident", {"resolution": {"resolvedBy": "admin"}})
    found = await once(world, lambda f: "closed by admin" in f["status"].get("message", ""), "it waits for the lease")
    assert found["status"]["message"].startswith("closed by admin; more-room is put back at ")
    await world.edit("incident", {"resolution": {"resolvedBy": "admin", "keep": ["more-room"]}})
    found = await world.reaches("Resolved", name="incident")
    assert step(found)["keptBy"] == "admin"
    assert "revertAt" not in step(found)
    assert "revert" not in step(found)
    assert "KeptByPerson" in reasons(found)
    await world.admin.delete(INCIDENTS, "incident", world.namespace)
    await eventually(lambda: gone(world), what="nothing holds it")
    assert await world.replicas() == 4


async def scaled(world: World, count: int) -> bool:
    return await world.replicas() == count


async def gone(world: World) -> bool:
    return await world.admin.find(INCIDENTS, "incident", world.namespace) is None


async def test_the_end_of_an_alert_is_put_on_record_though_its_incident_was_closed(world: World) -> None:
    await world.workload()
    await world.policy()
    assert await world.alert() == 200
    await world.says("Verified")
    name = (await world.the_incident())["metadata"]["name"]
    await world.edit(name, {"resolution": {"resolvedBy": "admin"}})
    found = await world.reaches("Resolved")
    assert found["status"]["alert"]["state"] == "firing"
    assert await world.alert(state="resolved") == 200
    found = await once(world, lambda f: f["status"]["alert"]["state"] == "resolved", "the alert's end", name)
    assert found["status"]["phase"] == "Resolved"
    assert len(await world.all_incidents()) == 1


async def test_the_report_by_ones_own_rights(world: World, installed: Access, admin: Api) -> None:
    await world.workload()
    await world.policy()
    await world.incident(title="covet & <b>friends</b>")
    await world.reaches("Resolved", name="incident")
    for who, role in (("reader", "paramedic-view"), ("stranger", "")):
        account = {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": who}}
        await admin.create(account, world.namespace)
        if role:
            ref = {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": role}
            subject = {"kind": "ServiceAccount", "name": who, "namespace": world.namespace}
            binding = {"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "RoleBinding", "metadata": {"name": who}}
            await admin.create(binding | {"roleRef": ref, "subjects": [subject]}, world.namespace)
    reader, stranger = (
        installed.kubeconfig_for(installed.service_account_token(world.namespace, who))
        for who in ("reader", "stranger")
    )
    made = await asyncio.to_thread(report, reader, "incident", "-n", world.namespace, "-o", "json")
    assert made.returncode == 0, made.stderr
    assert json.loads(made.stdout)["title"] == "covet & <b>friends</b>"
    assert json.loads(made.stdout)["actions"][0]["step"] == "restart"
    page = await asyncio.to_thread(report, reader, "incident", "-n", world.namespace, "-o", "html")
    assert "covet &amp; &lt;b&gt;friends" in page.stdout
    missing = await asyncio.to_thread(report, reader, "nothing", "-n", world.namespace)
    assert (missing.returncode, missing.stdout) == (1, "")
    assert f"there is no incident nothing in namespace {world.namespace}" in missing.stderr
    refused = await asyncio.to_thread(report, stranger, "incident", "-n", world.namespace)
    assert (refused.returncode, refused.stdout) == (1, "")
    assert "forbidden" in refused.stderr
    assert "Traceback" not in refused.stderr


def report(kubeconfig: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "paramedic", "report", *arguments, "--kubeconfig", str(kubeconfig)]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
