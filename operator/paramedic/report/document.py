"""The report as data, and how it is made from an Incident. Pure. Its JSON form is ``paramedic report -o json``."""

from collections.abc import Iterable, Sequence
from datetime import datetime

from pydantic import Field

from paramedic.api.base import StatusModel, Time
from paramedic.api.incident import (
    Acknowledgement,
    ChecklistItem,
    EscalationStatus,
    Evidence,
    Finding,
    Incident,
    StepStatus,
    TimelineEntry,
    Times,
)
from paramedic.api.policy import Severity
from paramedic.core import people
from paramedic.core.changes import field_changes
from paramedic.core.situation import began_at


class Mark(StatusModel):
    """A moment in a graph: when something was done."""

    at: Time = Field(description="When.")
    label: str = Field(description="What.")


class Point(StatusModel):
    """One value of a graph."""

    at: Time = Field(description="When.")
    value: float = Field(description="How much, in the graph's unit.")


class Graph(StatusModel):
    """A figure before, during and after the incident."""

    title: str = Field(description="What is shown.")
    query: str = Field(description="PromQL.")
    unit: str = Field("", description="Of the values; empty where the query does not tell.")
    threshold: float | None = Field(None, description="What verification compared it with.")
    points: list[Point] = Field(default_factory=list, description="Oldest first; of several series the greatest.")
    problem: str | None = Field(None, description="Why there are no points.")
    minimum: float | None = Field(None, description="Least value.")
    maximum: float | None = Field(None, description="Greatest value.")
    at_action: float | None = Field(None, description="Value when the first action began.")


class ChangedField(StatusModel):
    """One field of a target, before and after."""

    field: str = Field(description="Path of the field.")
    before: str = Field(description="As JSON; empty where there was none.")
    after: str = Field(description="As JSON; empty where there is none.")


class Action(StatusModel):
    """One step, what it changed, and what became of that."""

    step: str = Field(description="Name of the step.")
    action: str = Field(description="Action.")
    target: str = Field("", description="Kind/name.")
    state: str = Field(description="State of the step.")
    message: str = Field("", description="For a person.")
    approved_by: str | None = Field(None, description="Who approved it.")
    started_at: Time | None = Field(None, description="When it began.")
    finished_at: Time | None = Field(None, description="When it ended.")
    changes: list[ChangedField] = Field(default_factory=list, description="What was changed.")
    put_back_at: Time | None = Field(None, description="When it was put back.")
    put_back: str | None = Field(None, description="How it was put back.")
    kept_by: str | None = Field(None, description="Who made its temporary change permanent.")
    in_place_until: Time | None = Field(None, description="When it is put back, where that is still to come.")


class Telling(StatusModel):
    """What one channel was told."""

    kind: str = Field(description="Kind of notice.")
    at: Time = Field(description="When it became true.")
    message: str = Field(description="What.")
    untold: list[str] = Field(default_factory=list, description="Channels that could not be told, or not yet.")


class Report(StatusModel):
    """All that a review needs."""

    name: str = Field(description="Name of the Incident.")
    namespace: str = Field(description="Its namespace.")
    uid: str = Field("", description="Its UID.")
    made_at: Time = Field(description="When this report was made.")
    title: str = Field(description="One line.")
    type: str = Field(description="Type of incident.")
    severity: Severity = Field(description="The gravest that was said.")
    phase: str = Field(description="Where it stands.")
    message: str | None = Field(None, description="The last line of its status.")
    target: str | None = Field(None, description="What was affected.")
    policy: str | None = Field(None, description="namespace/name, generation and mode of the policy.")
    parent: str | None = Field(None, description="Incident that it was a part of.")
    children: list[str] = Field(default_factory=list, description="Incidents that were parts of it.")
    began_at: Time | None = Field(None, description="When the trouble began.")
    mitigated_at: Time | None = Field(None, description="When a remedy was verified.")
    resolved_at: Time | None = Field(None, description="When it was over.")
    times: Times | None = Field(None, description="How long things took.")
    acknowledgement: Acknowledgement | None = Field(None, description="Who took it on.")
    commander: str | None = Field(None, description="Who led.")
    resolved_by: str | None = Field(None, description="Who closed it, where a person did.")
    root_cause: str | None = Field(None, description="What it was, by a person's word.")
    impact: list[str] = Field(default_factory=list, description="The worst of the impact on users.")
    findings: list[Finding] = Field(default_factory=list, description="What the diagnosis found.")
    actions: list[Action] = Field(default_factory=list, description="What was done, in order.")
    skipped: list[Action] = Field(default_factory=list, description="Steps that were not taken, and why.")
    graphs: list[Graph] = Field(default_factory=list, description="Figures around it.")
    marks: list[Mark] = Field(default_factory=list, description="The moments that the graphs show.")
    timeline: list[TimelineEntry] = Field(default_factory=list, description="The record.")
    escalation: EscalationStatus | None = Field(None, description="How far it was escalated.")
    notices: list[Telling] = Field(default_factory=list, description="What people were told.")
    external: dict[str, str] = Field(default_factory=dict, description="Ids in other systems.")
    evidence: list[Evidence] = Field(default_factory=list, description="What was kept, with checksums.")
    checklist: list[ChecklistItem] = Field(default_factory=list, description="The post-incident checklist.")
    follow_ups: list[str] = Field(default_factory=list, description="What remains to be done, by a person's word.")


def build(incident: Incident, graphs: Sequence[Graph], impact: Sequence[str], now: datetime) -> Report:
    """The report of an incident, over or not."""
    meta, spec, status = incident.metadata, incident.spec, incident.status
    said = people.resolution(incident)
    return Report(
        name=meta.name,
        namespace=meta.namespace,
        uid=meta.uid,
        made_at=now,
        title=spec.title,
        type=spec.type,
        severity=people.severity(incident),
        phase=status.phase,
        message=status.message,
        target=status.target or (f"{spec.target.kind}/{spec.target.name}" if spec.target else None),
        policy=_policy(incident),
        parent=status.parent,
        children=status.children,
        began_at=began_at(incident),
        mitigated_at=status.mitigated_at,
        resolved_at=status.resolved_at,
        times=status.times,
        acknowledgement=status.acknowledgement,
        commander=spec.commander or status.commander,
        resolved_by=said.resolved_by if said else None,
        root_cause=said.root_cause if said else None,
        impact=list(impact),
        findings=status.findings,
        actions=[_action(step) for step in status.steps if step.started_at],
        skipped=[_action(step) for step in status.steps if not step.started_at],
        graphs=list(graphs),
        marks=marks(incident),
        timeline=status.timeline,
        escalation=status.escalation,
        notices=[_telling(incident, number) for number in range(len(status.notices))],
        external=status.external or {},
        evidence=status.evidence,
        checklist=status.checklist,
        follow_ups=said.follow_ups if said else [],
    )


def marks(incident: Incident) -> list[Mark]:
    """When something was done or put back, oldest first."""
    found = [Mark(at=step.started_at, label=step.name) for step in incident.status.steps if step.started_at]
    found += [
        Mark(at=step.revert.started_at, label=f"{step.name} put back")
        for step in incident.status.steps
        if step.revert and step.revert.started_at
    ]
    return sorted(found, key=lambda mark: mark.at)


def _policy(incident: Incident) -> str | None:
    pinned = incident.status.policy
    return f"{pinned.key}, generation {pinned.generation}, mode {pinned.mode}" if pinned else None


def _action(step: StepStatus) -> Action:
    revert = step.revert
    return Action(
        step=step.name,
        action=step.action,
        target=str(step.target) if step.target else "",
        state=step.state,
        message=step.message,
        approved_by=step.approved_by,
        started_at=step.started_at,
        finished_at=step.finished_at,
        changes=[
            ChangedField(field=one.path, before=one.before or "", after=one.after or "")
            for one in field_changes(step.before, step.after)
        ],
        put_back_at=revert.finished_at if revert else None,
        put_back=f"{revert.state}: {revert.message}" if revert else None,
        kept_by=step.kept_by,
        in_place_until=step.revert_at if step.holds_mitigation else None,
    )


def _telling(incident: Incident, number: int) -> Telling:
    notice = incident.status.notices[number]
    untold = [*notice.undelivered, *notice.pending]
    return Telling(kind=notice.kind, at=notice.at, message=notice.message, untold=untold)


def figures(points: Sequence[Point], at: Iterable[Mark]) -> dict[str, float | None]:
    """Least and greatest value, and the last one before the first of the moments."""
    values = [point.value for point in points]
    first = next(iter(at), None)
    before = [point.value for point in points if first and point.at <= first.at]
    return {
        "minimum": min(values, default=None),
        "maximum": max(values, default=None),
        "at_action": before[-1] if before else None,
    }
