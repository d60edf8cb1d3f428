"""What ``kubectl get incidents`` shows: phase, step, target and one line that tells what is going on."""

from dataclasses import dataclass

from paramedic.api.incident import Incident, Phase, StepStatus
from paramedic.api.reasons import Reason
from paramedic.core.plan import Resolve, Wait
from paramedic.core.situation import current_step, holds_mitigation, is_firing, is_handed_over

_BLOCKING = frozenset({Reason.PAUSED, Reason.POLICY_PAUSED, Reason.STEP_FAILED})


@dataclass(frozen=True, slots=True)
class Summary:
    """The fields at the head of the status."""

    phase: Phase
    message: str
    step: str | None
    target: str | None

    @property
    def stalled(self) -> bool:
        """kstatus: nothing happens without somebody's doing."""
        return self.phase in ("Blocked", "AwaitingApproval", "Escalated")

    @property
    def reconciling(self) -> bool:
        """kstatus: work is under way."""
        return self.phase in ("Remediating", "Verifying")


def summarize(incident: Incident, end: Wait | Resolve | None) -> Summary:
    """The summary of the status as it stands; ``end`` is what the reconciler stopped at, None in the middle of work."""
    step = current_step(incident)
    target = step.target if step and step.target else None
    named = str(target) if target else _spec_target(incident)
    message = end.message if end else (progress(step) if step else "")
    return Summary(_phase(incident, end), message[:1024], step.name if step else None, named)


def progress(step: StepStatus) -> str:
    """One line on a step that is under way."""
    if step.state != "Verifying":
        return f"{step.name}: {step.message}"
    awaited = step.verification.message if step.verification else ""
    return f"{step.name}: {step.message}; verifying" + (f": {awaited}" if awaited else "")


def _phase(incident: Incident, end: Wait | Resolve | None) -> Phase:
    if isinstance(end, Resolve) or incident.status.phase == "Resolved":
        return "Resolved"
    states = {s.state for s in incident.status.steps}
    if any(s.revert and s.revert.state == "Executing" for s in incident.status.steps) or "Executing" in states:
        return "Remediating"
    if is_handed_over(incident):
        return "Escalated"
    if "Verifying" in states:
        return "Verifying"
    if isinstance(end, Wait) and end.reason in _BLOCKING:
        return "Blocked"
    if "AwaitingApproval" in states:
        return "AwaitingApproval"
    if "Blocked" in states:
        return "Blocked"
    return _phase_at_rest(incident)


def _phase_at_rest(incident: Incident) -> Phase:
    if holds_mitigation(incident):
        return "Remediating"
    if any(s.state in ("Succeeded", "Reverted") for s in incident.status.steps) and is_firing(incident):
        return "Verifying"
    return "Open"


def _spec_target(incident: Incident) -> str | None:
    target = incident.spec.target
    return f"{target.kind}/{target.name}" if target else None
