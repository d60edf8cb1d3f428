"""Which ended incidents may be deleted, and that no other is; and that none goes before its report is kept."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from builders import NOW, ago, guards, policy_manifest
from e2e.world import INCIDENTS
from installed import ROOT
from paramedic.api.incident import Evidence, Incident
from paramedic.api.policy import RemediationPolicy
from paramedic.clients.evidence import EvidenceStore
from paramedic.clients.evidence_directory import DirectoryBackend
from paramedic.clients.kube import Kube, load_configuration
from paramedic.core.retention import Ended, expired, reach
from paramedic.errors import Refused
from paramedic.metrics import Metrics
from paramedic.report.keeping import ReportKeeper
from paramedic.retention import Retention
from paramedic.settings import RetentionSettings, Settings, SettingsError, load_settings
from paramedic.store import Store
from testbed.access import Access
from testbed.api import Api, eventually

Json = dict[str, Any]
RIGHTS = ROOT / "manifests/components/retention/rbac.yaml"
DAY = timedelta(days=1)
MONTH = 30 * DAY


def ended(key: str = "covet/old", **facts: Any) -> Ended:
    """One that may be deleted: it ended 31 days ago, and nothing needs it."""
    usual: Json = {
        "ended_at": NOW - 31 * DAY,
        "attend_at": None,
        "in_use": False,
        "fires": False,
        "last_acted_at": NOW - 31 * DAY,
    }
    return Ended(key, **(usual | facts))


@pytest.mark.parametrize(
    ("facts", "goes"),
    [
        ({}, True),
        ({"last_acted_at": None}, True),
        ({"ended_at": NOW - 30 * DAY}, True),
        ({"ended_at": NOW - 30 * DAY + timedelta(seconds=1)}, False),
        ({"in_use": True}, False),
        ({"fires": True}, False),
        ({"attend_at": NOW - 31 * DAY + timedelta(hours=1)}, False),
        ({"attend_at": NOW - 31 * DAY + 7 * DAY}, False),
        ({"attend_at": NOW - 31 * DAY + 28 * DAY}, True),
        ({"last_acted_at": NOW - 2 * DAY}, False),
    ],
    ids=[
        "long ago",
        "nothing was done",
        "just now",
        "a second too early",
        "a finalizer or a pending notice",
        "its alert still fires",
        "its report is to be written",
        "a reminder is still to come",
        "all reminders were sent",
        "a guard still counts its action",
    ],
)
def test_only_what_nothing_needs_goes(facts: Json, goes: bool) -> None:
    assert bool(expired([ended(**facts)], NOW, MONTH, 3 * DAY)) is goes


def test_the_oldest_goes_first() -> None:
    found = [ended("b", ended_at=NOW - 40 * DAY), ended("a", ended_at=NOW - 31 * DAY), ended("c", ended_at=ago(1))]
    assert expired(found, NOW, MONTH, DAY) == ["b", "a"]


def test_guards_look_back_as_far_as_the_longest_of_them() -> None:
    assert reach(guards(cooldown="2h", rateLimit={"actions": 1, "period": "1h"})) == timedelta(hours=2)
    assert reach(guards(cooldown="10m", rateLimit={"actions": 1, "period": "7d"})) == timedelta(days=7)


def test_the_settings_say_where_reports_are_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "settings.yaml"
    monkeypatch.setenv("PARAMEDIC_CONFIG", str(file))
    file.write_text("retention: {resolvedFor: 30d}")
    with pytest.raises(SettingsError, match=r"evidence\.directory or evidence\.s3, or export: false"):
        load_settings()
    file.write_text("retention: {resolvedFor: 30d, export: false}")
    assert load_settings().retention == RetentionSettings(resolved_for=30 * DAY, export=False)
    file.write_text(f"retention: {{resolvedFor: 30d}}\nevidence: {{directory: {tmp_path}}}")
    assert load_settings().retention.export is True
    monkeypatch.delenv("PARAMEDIC_CONFIG")
    assert Settings().retention.resolved_for is None, "nothing is deleted by default"


# -- on a real API server ----------------------------------------------------------------------------------------------


class Deleter:
    """A Retention over incidents that the API server has, all of which ended before ``NOW``."""

    def __init__(self, kube: Kube, folder: Path | None) -> None:
        self.store = Store(loaded=True)
        self.metrics = Metrics()
        self._kube = kube
        self.evidence = EvidenceStore(DirectoryBackend(folder)) if folder else None
        keeper = ReportKeeper(self.evidence, None, self.store, lambda: NOW) if self.evidence else None
        self.retention = Retention(
            kube,
            self.store,
            keeper.keep if keeper else None,
            MONTH,
            self.metrics,
            leads=lambda: True,
            clock=lambda: NOW,
        )

    async def look(self, namespace: str) -> None:
        for raw in await self._kube.list(f"/apis/paramedic.dev/v1alpha1/namespaces/{namespace}/incidents"):
            self.store.put_incident(raw)


async def over(admin: Api, namespace: str, name: str, **status: Any) -> None:
    body = {"title": "it was down", "type": "APIOutage"}
    made = {"apiVersion": "paramedic.dev/v1alpha1", "kind": "Incident", "metadata": {"name": name}, "spec": body}
    stored = await admin.create(made, namespace)
    stored["status"] = {"phase": "Resolved", "resolvedAt": (NOW - 40 * DAY).isoformat()} | status
    await admin.replace(stored, namespace, subresource="status")


async def names(admin: Api, namespace: str) -> set[str]:
    return {found["metadata"]["name"] for found in await admin.list(INCIDENTS, namespace)}


async def test_they_go_once_their_reports_are_kept(
    admin: Api, installed: Access, kube: Kube, namespace: str, tmp_path: Path
) -> None:
    pending = {"key": "k", "kind": "Update", "at": NOW.isoformat(), "message": "m", "pending": ["chat"]}
    step = {"name": "s", "action": "restart", "operation": "o", "attempts": 1, "startedAt": (NOW - 3 * DAY).isoformat()}
    target = {"target": {"namespace": namespace, "name": "app"}}
    await over(admin, namespace, "old")
    await over(admin, namespace, "young", resolvedAt=(NOW - 2 * DAY).isoformat())
    await over(admin, namespace, "untold", notices=[pending])
    await over(admin, namespace, "counted", steps=[step | target])
    await over(admin, namespace, "open", phase="Open")
    deleter = Deleter(kube, tmp_path)
    raw = policy_manifest(guards={"rateLimit": {"actions": 3, "period": "4d"}})
    raw["metadata"]["resourceVersion"] = "1"
    deleter.store.put_policy(raw, RemediationPolicy.model_validate(raw), None)
    await deleter.look(namespace)
    assert await deleter.retention.prune() == 1
    assert await names(admin, namespace) == {"young", "untold", "counted", "open"}
    kept = {path.name: path.read_text() for path in tmp_path.glob(f"{namespace}/old/report-*/report.*")}
    assert set(kept) == {"report.html", "report.json"}
    assert all("it was down" in text for text in kept.values())
    assert f"{namespace}/old" not in deleter.store.entries
    assert await deleter.retention.prune() == 0


async def test_none_goes_whose_report_cannot_be_kept(
    admin: Api, installed: Access, kube: Kube, namespace: str, tmp_path: Path
) -> None:
    await over(admin, namespace, "old")
    deleter = Deleter(kube, tmp_path / "not there")
    await deleter.look(namespace)
    assert await deleter.retention.prune() == 0
    assert await names(admin, namespace) == {"old"}


async def test_one_that_cannot_be_deleted_holds_up_no_other(
    admin: Api, installed: Access, kube: Kube, namespace: str
) -> None:
    for name in ("first", "second", "third"):
        await over(admin, namespace, name)
    deleter = Deleter(kube, None)
    await deleter.look(namespace)

    async def keep(incident: Incident) -> list[Evidence]:
        if incident.metadata.name != "third":
            raise OverflowError("a graph that nobody can draw")
        return []

    deleter.retention._keep_report = keep
    assert await deleter.retention.prune() == 1
    assert await names(admin, namespace) == {"first", "second"}


async def test_one_that_was_changed_meanwhile_stays(admin: Api, installed: Access, kube: Kube, namespace: str) -> None:
    await over(admin, namespace, "old")
    deleter = Deleter(kube, None)
    await deleter.look(namespace)
    await admin.patch(INCIDENTS, "old", {"metadata": {"finalizers": ["example.com/hold"]}}, namespace)
    assert await deleter.retention.prune() == 0
    assert await names(admin, namespace) == {"old"}
    await admin.patch(INCIDENTS, "old", {"metadata": {"finalizers": None}}, namespace)


async def test_without_the_lead_nothing_goes(admin: Api, installed: Access, kube: Kube, namespace: str) -> None:
    await over(admin, namespace, "old")
    deleter = Deleter(kube, None)
    await deleter.look(namespace)
    deleter.retention._leads = lambda: False
    assert await deleter.retention.prune() == 0
    assert await names(admin, namespace) == {"old"}


async def test_the_component_gives_the_right_that_it_needs(admin: Api, installed: Access, namespace: str) -> None:
    """The operator's own ServiceAccount may delete incidents by manifests/components/retention only."""
    await over(admin, namespace, "old")
    token = installed.service_account_token("paramedic-system", "paramedic")
    async with Kube(await load_configuration(installed.kubeconfig_for(token))) as own:
        deleter = Deleter(own, None)
        await deleter.look(namespace)
        with pytest.raises(Refused):
            await deleter.retention.prune()
        installed.kubectl("apply", "-f", str(RIGHTS))
        try:
            assert await eventually(lambda: _pruned(deleter), what="it may delete") == 1
        finally:
            installed.kubectl("delete", "-f", str(RIGHTS))
    assert await names(admin, namespace) == set()


async def _pruned(deleter: Deleter) -> int:
    try:
        return await deleter.retention.prune()
    except Refused:
        return 0
