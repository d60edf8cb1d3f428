"""What the public is told, and when: of a beginning, of progress, of the end, and of nothing between. Pure."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from paramedic.api.incident import Incident, Notice, StepStatus
from paramedic.api.people import StatuspageComponent
from paramedic.api.policy import READING, Severity
from paramedic.api.reasons import Reason
from paramedic.core import people
from paramedic.core.messages import is_maintenance, status_word

PageStatus = Literal["investigating", "identified", "monitoring", "resolved"]
Impact = Literal["none", "minor", "major", "critical"]
ComponentStatus = Literal["operational", "degraded_performance", "partial_outage", "major_outage"]
_SHUTDOWN, _RECOVERY = "EmergencyShutdown", "EmergencyRecovery"
_RANKS: Mapping[str, int] = {"investigating": 0, "identified": 1, "monitoring": 2, "resolved": 3}
_IMPACTS: Mapping[Severity, Impact] = {"P0": "critical", "P1": "major", "P2": "minor", "P3": "none"}
_COMPONENTS: Mapping[Severity, ComponentStatus] = {"P0": "major_outage", "P1": "partial_outage"}
_WORDS: Mapping[str, PageStatus] = {
    "INVESTIGATING": "investigating",
    "IDENTIFIED": "identified",
    "MONITORING": "monitoring",
    "RESOLVED": "resolved",
}
# From good to bad, as Statuspage names them; what a team has put under maintenance stays so.
_GRAVITY = ("operational", "degraded_performance", "partial_outage", "major_outage", "under_maintenance")


@dataclass(frozen=True, slots=True)
class Posting:
    """What the page should say of an incident."""

    status: PageStatus
    impact: Impact
    component: ComponentStatus
    mark: str
    """The same for the same news: kept with the posting, so that it is not posted twice."""


def posting(incident: Incident, notices: Sequence[Notice], said: str | None) -> Posting | None:
    """What is to be posted; None when there is no news. ``said`` is the mark of the last posting.

    A status never goes back, but from ``resolved``.
    """
    if not _is_public(incident):
        return None
    last, _, last_due = (said or "//").split("/", 2)
    status = _status(incident, last)
    severity = people.severity(incident)
    due = next((notice.key for notice in reversed(notices) if notice.reason == Reason.UPDATE_DUE), last_due)
    mark = f"{status}/{severity}/{due}"
    impact = "major" if is_maintenance(incident) else _IMPACTS[severity]
    component = "operational" if status == "resolved" else _COMPONENTS.get(severity, "degraded_performance")
    return None if mark == said else Posting(status, impact, component, mark)


def concerned(incident: Incident, components: Sequence[StatuspageComponent]) -> list[str]:
    """The ids of the page's components that the incident is about: of a shutdown, what was shut down."""
    targets = {None, (incident.status.target or "").rpartition("/")[2]}
    if is_maintenance(incident):
        targets |= {step.target.name for step in _acted(incident) if step.target}
    return [
        component.id
        for component in components
        if component.namespace in (None, incident.metadata.namespace) and component.target in targets
    ]


def leaves_down(incident: Incident) -> bool:
    """Whether its end is not the outage's: after a shutdown the service is down until it is recovered."""
    return incident.spec.type == _SHUTDOWN


def brings_back(incident: Incident) -> bool:
    """Whether its end is that of the namespace's shutdowns."""
    return incident.spec.type == _RECOVERY


def component_statuses(
    ids: Sequence[str], wanted: ComponentStatus, others: Sequence[Mapping[str, Any]]
) -> dict[str, str]:
    """What the components should show: no better than ``others``, the page's unresolved incidents, say of them."""
    worst = dict.fromkeys(ids, str(wanted))
    for other in others:
        for component in other.get("components") or []:
            known, status = component.get("id"), component.get("status")
            if known in worst and status in _GRAVITY:
                worst[known] = max(worst[known], status, key=_GRAVITY.index)
    return worst


def _is_public(incident: Incident) -> bool:
    """A breach or a shutdown is told of once something was really done: until then there is nothing to see. Of a
    recovery only the end is.
    """
    if brings_back(incident):
        return status_word(incident) == "RESOLVED"
    return not is_maintenance(incident) or bool(_acted(incident))


def _acted(incident: Incident) -> list[StepStatus]:
    return [step for step in incident.status.steps if step.started_at and step.action not in READING]


def _status(incident: Incident, last: str) -> PageStatus:
    now: PageStatus = _WORDS[status_word(incident)]
    if is_maintenance(incident) and not brings_back(incident):
        # What was contained or shut down is not back because that has succeeded; a person says when it is.
        now = "resolved" if now == "resolved" and people.resolution(incident) else "investigating"
    if last in _RANKS and last != "resolved" and _RANKS[last] > _RANKS[now]:
        return _WORDS[last.upper()]
    return now
