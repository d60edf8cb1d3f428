"""What people have said about an incident, on its spec or elsewhere (Slack, PagerDuty: then it is on its status)."""

from paramedic.api.incident import Acknowledgement, Approval, Incident, Resolution
from paramedic.api.policy import Severity

NOT_ADDRESSED = "unassigned"


def severity(incident: Incident) -> Severity:
    """The gravest that was said: P0 before P3."""
    return min(incident.spec.severity, incident.status.severity or incident.spec.severity)


def acknowledgement(incident: Incident) -> Acknowledgement | None:
    """Who has taken the incident on first, once that is stored."""
    return incident.status.acknowledgement


def commander(incident: Incident) -> str:
    """Who leads the response; ``unassigned`` when nobody does."""
    return incident.spec.commander or incident.status.commander or NOT_ADDRESSED


def approvals(incident: Incident) -> list[Approval]:
    """All consents: those of the spec, which the API server has checked, and those that Paramedic has checked."""
    elsewhere = [
        Approval(step=c.step, approved_by=c.approved_by, operation=c.operation) for c in incident.status.approvals
    ]
    return [*incident.spec.approvals, *elsewhere]


def resolution(incident: Incident) -> Resolution | None:
    """A person's word that the incident is over."""
    if incident.spec.resolution or incident.status.closure is None:
        return incident.spec.resolution
    return Resolution(resolved_by=incident.status.closure.by)
