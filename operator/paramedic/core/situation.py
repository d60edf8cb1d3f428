"""What an incident has come to: questions about its status and its steps. Pure."""

from datetime import datetime, timedelta

from paramedic.api.incident import Incident, StepStatus
from paramedic.api.policy import READING
from paramedic.api.reasons import Reason
from paramedic.core.alert import UNKNOWN_START
from paramedic.core.people import resolution

ACTED_STATES = ("Executing", "Verifying", "Succeeded", "Failed", "Unknown", "Reverted")
WAITING_STATES = ("Pending", "Blocked", "AwaitingApproval")


def goes_on(steps: list[StepStatus], index: int) -> bool:
    """Whether steps of the same procedure follow, which are done even when the earlier ones have helped."""
    group = steps[index].part_of
    return group is not None and any(s.part_of == group for s in steps[index + 1 :])


def is_begun(steps: list[StepStatus], step: StepStatus) -> bool:
    """Whether other parts of the step's procedure have been done: half of one is worse than none."""
    return step.part_of is not None and any(
        s.part_of == step.part_of and s.attempts > 0 for s in steps if s is not step
    )


def planned_before(steps: list[StepStatus], step: StepStatus) -> StepStatus | None:
    """In mode Observe: the part before it that would have been done, on which the plan of this one depends."""
    earlier = [s for s in steps[: steps.index(step)] if s.part_of and s.part_of == step.part_of]
    return next((s for s in reversed(earlier) if s.reason == Reason.OBSERVE_MODE), None)


def verification_deadline(step: StepStatus) -> datetime | None:
    """When an unfulfilled check counts as failed."""
    if step.verification is None:
        return None
    limit = step.verify.timeout if step.verify else timedelta(minutes=5)
    return step.verification.started_at + limit


def current_step(incident: Incident) -> StepStatus | None:
    """The step that is under way, else the last that did something, else the first."""
    steps = incident.status.steps
    busy = next((s for s in steps if s.state in ("Executing", "Verifying", "AwaitingApproval", "Blocked")), None)
    if busy:
        return busy
    acted = [s for s in steps if s.state in ACTED_STATES]
    return acted[-1] if acted else (steps[0] if steps else None)


def helped(step: StepStatus) -> bool:
    """Whether the step did what it should, also if its lease has ended since."""
    if step.action in READING:
        return False
    return step.state == "Succeeded" or (step.state == "Reverted" and step.reason == Reason.LEASE_ENDED)


def failed(step: StepStatus) -> bool:
    """Whether the step was tried and did not help."""
    return step.state == "Failed" or (step.state == "Reverted" and step.reason != Reason.LEASE_ENDED)


def has_acted(incident: Incident) -> bool:
    """Whether any step's intent was ever stored."""
    return any(s.operation and s.attempts > 0 and s.action not in READING for s in incident.status.steps)


def is_handed_over(incident: Incident) -> bool:
    """Whether Paramedic has left the incident to people, and only puts back what is leased."""
    return incident.status.escalation is not None and incident.status.escalation.handed_over


def is_remediating(incident: Incident) -> bool:
    """Whether it counts against ``maxConcurrent``: it has acted and is not over, or left to people (a person who has
    paused it works on it); also while it waits for a consent or a guard.
    """
    phase = incident.status.phase
    stopped = incident.spec.paused or any(map(stops_here, incident.status.steps))
    under_way = phase in ("Remediating", "Verifying")
    return has_acted(incident) and (under_way or (phase not in ("Resolved", "Escalated") and not stopped))


def stops_here(step: StepStatus) -> bool:
    """Whether nothing is done after the step."""
    return step.state == "Unknown" or (failed(step) and step.on_failure != "Continue")


def began_at(incident: Incident) -> datetime | None:
    """When the trouble began: with the alert, else (also where that is not known or cannot be) when the incident was
    opened.
    """
    started = incident.spec.alert.starts_at if incident.spec.alert else None
    opened = incident.metadata.creation_timestamp
    return opened if started is None or started <= UNKNOWN_START else min(started, opened or started)


def is_firing(incident: Incident) -> bool | None:
    """Whether the alert fires; None when the incident has none."""
    if incident.spec.alert is None:
        return None
    return incident.status.alert is None or incident.status.alert.state == "firing"


def no_longer_wanted(incident: Incident) -> bool:
    """Whether an intent that was not carried out is to be dropped: a person has stepped in, or the alert has ended."""
    stepped_in = incident.spec.paused or resolution(incident) or incident.metadata.deletion_timestamp
    return bool(stepped_in) or is_firing(incident) is False


def holds_mitigation(incident: Incident) -> bool:
    """Whether anything temporary is in place."""
    return any(s.holds_mitigation for s in incident.status.steps)
