"""When an incident is diagnosed, and what becomes of the findings."""

import asyncio
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

import pytest

from builders import NOW, incident
from paramedic.api.diagnosis import DiagnoseParams
from paramedic.api.incident import Evidence, Finding, Incident, StepStatus
from paramedic.api.workload import BoundTarget
from paramedic.diagnostician import Diagnostician, target_of
from paramedic.record import Draft

FOUND = Finding(reason="RecentRollout", message="revision 7 came 2 min before the alert", object="Deployment/web")
KEPT = Evidence(name="diagnosis.json", uri="file:///x", sha256="0" * 64)
WEB: dict[str, Any] = {"kind": "Deployment", "name": "web"}


@dataclass
class Examination:
    """Looks when it is let, and remembers for whom."""

    may_look: asyncio.Event = field(default_factory=asyncio.Event)
    looked_at: list[str] = field(default_factory=list)
    woken: dict[str, timedelta] = field(default_factory=dict)
    told: asyncio.Event = field(default_factory=asyncio.Event)
    quiet_seconds: float = 60

    async def __call__(
        self, target: BoundTarget, params: DiagnoseParams, name: str, since: datetime | None
    ) -> tuple[tuple[Finding, ...], tuple[Evidence, ...]]:
        self.looked_at.append(str(target))
        await self.may_look.wait()
        return (FOUND,), (KEPT,)

    def wake(self, key: str, within: timedelta) -> None:
        self.woken[key] = within
        self.told.set()


@pytest.fixture
def examination(monkeypatch: pytest.MonkeyPatch) -> Examination:
    monkeypatch.setattr("paramedic.diagnostician._PAUSE_SECONDS", 0.001)
    return Examination()


def attended(examination: Examination, enabled: bool = True) -> Diagnostician:
    made = Diagnostician(examination, lambda: NOW, lambda: examination.quiet_seconds, enabled=enabled)
    made.wake = examination.wake
    return made


def fresh(**spec: Any) -> Incident:
    return incident(alert_state=None, target=WEB, metadata={"creationTimestamp": NOW.isoformat()}, **spec)


def draft(of: Incident) -> Draft:
    return Draft(of, of.status.to_wire(), NOW)


def asking(when: str | None) -> StepStatus:
    return StepStatus(name="undo", action="rollback", when=when)


@pytest.mark.parametrize(
    ("phase", "within"),
    [("Verifying", 30), ("Remediating", 30), ("AwaitingApproval", 0), ("Escalated", 0), ("Open", 0)],
)
async def test_the_findings_go_along_with_a_write_that_will_come(
    examination: Examination, phase: str, within: int
) -> None:
    diagnostician, one = attended(examination), fresh()
    one.status.phase = phase  # type: ignore[assignment]
    diagnostician.attend(one)
    examination.may_look.set()
    await asyncio.wait_for(examination.told.wait(), 5)
    assert examination.woken == {one.key: timedelta(seconds=within)}
    diagnostician.take(written := draft(one))
    assert bool(written.changes()) is (within == 0), "a write of its own only where a person waits"
    written.incident.status.message = "there is more to write"
    diagnostician.take(written)
    status = written.incident.status
    assert (status.findings, status.evidence, status.diagnosed_at) == ([FOUND], [KEPT], NOW)
    assert [e.message for e in status.timeline] == ["found: revision 7 came 2 min before the alert"]


async def test_each_incident_is_looked_into_once(examination: Examination) -> None:
    diagnostician, one = attended(examination), fresh()
    for _ in range(3):
        diagnostician.attend(one)
    examination.may_look.set()
    await asyncio.wait_for(examination.told.wait(), 5)
    diagnostician.attend(one)  # found, and not written down yet
    diagnostician.take(written := draft(one))
    assert written.incident.status.diagnosed_at
    diagnostician.attend(written.incident)
    await asyncio.sleep(0.01)
    assert examination.looked_at == ["Deployment/web"]


async def test_it_gives_way_to_the_work_on_targets_but_not_for_ever(
    examination: Examination, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("paramedic.diagnostician._PATIENCE", 20)
    examination.quiet_seconds = 0
    diagnostician = attended(examination)
    diagnostician.attend(fresh())
    await asyncio.sleep(0.005)
    assert examination.looked_at == []
    examination.may_look.set()
    await asyncio.wait_for(examination.told.wait(), 5)
    assert examination.looked_at == ["Deployment/web"]


async def test_a_step_that_asks_for_findings_waits_for_them(examination: Examination) -> None:
    diagnostician, written = attended(examination), draft(fresh())
    step = asking("findings.exists(f, f.reason == 'RecentRollout')")
    assert diagnostician.wait_for_findings(written, step)
    examination.may_look.set()
    await asyncio.wait_for(examination.told.wait(), 5)
    assert examination.woken == {written.key: timedelta(0)}
    diagnostician.take(written)
    assert diagnostician.wait_for_findings(written, step) is None


@pytest.mark.parametrize("when", [None, "target.replicas > 3"])
async def test_other_steps_do_not_wait(examination: Examination, when: str | None) -> None:
    assert attended(examination).wait_for_findings(draft(fresh()), asking(when)) is None


async def test_who_is_not_looked_into(examination: Examination) -> None:
    old, over, asked = fresh(), fresh(), fresh()
    old.metadata.creation_timestamp = NOW - timedelta(minutes=11)
    over.status.phase = "Resolved"
    asked.status.steps = [StepStatus(name="look", action="diagnose")]
    nameless = incident(alert_state=None, target=None)
    diagnostician = attended(examination)
    for one in (old, over, asked, nameless):
        diagnostician.attend(one)
    attended(examination, enabled=False).attend(fresh())
    await asyncio.sleep(0.02)
    assert examination.looked_at == []


async def test_in_observe_mode_a_step_only_would_look(examination: Examination) -> None:
    one = incident(alert_state=None, target=WEB, mode="Observe", metadata={"creationTimestamp": NOW.isoformat()})
    one.status.steps = [StepStatus(name="look", action="diagnose")]
    examination.may_look.set()
    attended(examination).attend(one)
    await asyncio.wait_for(examination.told.wait(), 5)
    assert examination.looked_at == ["Deployment/web"]


async def test_a_lost_lead_forgets_it_all(examination: Examination) -> None:
    diagnostician, one = attended(examination), fresh()
    diagnostician.attend(one)
    diagnostician.stop()
    examination.may_look.set()
    await asyncio.sleep(0.02)
    diagnostician.take(written := draft(one))
    assert written.incident.status.diagnosed_at is None
    assert examination.woken == {}


async def test_what_was_found_for_a_namesake_is_dropped(examination: Examination) -> None:
    diagnostician, one = attended(examination), fresh()
    diagnostician.attend(one)
    examination.may_look.set()
    await asyncio.wait_for(examination.told.wait(), 5)
    one.metadata.uid = "another"
    diagnostician.take(written := draft(one))
    assert written.incident.status.findings == []


def test_the_workload_is_found_among_the_steps_where_the_incident_names_none() -> None:
    one = incident(alert_state=None, target=None)
    service = BoundTarget(kind="Service", namespace="covet", name="web")
    worker = BoundTarget(kind="Deployment", namespace="covet", name="worker")
    one.status.steps = [
        StepStatus(name="block", action="blockTraffic", target=service),
        StepStatus(name="kick", action="restart", target=worker),
    ]
    assert str(target_of(one)) == "Deployment/worker"
