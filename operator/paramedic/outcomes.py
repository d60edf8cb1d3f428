"""What came of a step: on its status, on the incident's conditions and timeline, in an Event and in the metrics."""

from paramedic.acting import Acting
from paramedic.actions import ACTIONS
from paramedic.actions.base import Report
from paramedic.api import conditions as c
from paramedic.api.incident import StepStatus, Verification
from paramedic.api.reasons import Reason
from paramedic.errors import Refused, Terminal
from paramedic.metrics import Metrics
from paramedic.record import Draft, keep_evidence, put_findings


class Outcomes:
    """Puts them on the draft, which somebody else stores."""

    def __init__(self, acting: Acting, metrics: Metrics) -> None:
        self._acting = acting
        self._metrics = metrics

    def take_report(self, draft: Draft, step: StepStatus, report: Report | None) -> None:
        """What a change that was made has come to; None: it was made, and there is no more to tell."""
        draft.now = self._acting.clock()
        if report is None:
            self.applied(draft, step, step.message)
            return
        step.result = dict(report.result) if report.result else None
        keep_evidence(draft, report.evidence)
        if report.findings is not None:
            put_findings(draft, report.findings)
        if report.failed:
            self.fail(draft, step, Reason.WORK_FAILED, report.message)
        else:
            self.applied(draft, step, report.message or step.message)

    def applied(self, draft: Draft, step: StepStatus, message: str) -> None:
        """It was done: what follows is to see whether it helped, where that is asked for."""
        first = not any(s.reason == Reason.APPLIED or s.verification for s in draft.incident.status.steps)
        self._acting.count(draft, step, "Applied")
        if first:
            self._measure_latency(draft)
        step.message = message
        step.revert_at = draft.now + step.ttl if step.ttl else None
        draft.say(Reason.APPLIED, f"step {step.name}: {message}", event=True)
        if step.verify is None or step.verify.is_empty() or ACTIONS[step.action].reads_only:
            step.state, step.reason, step.finished_at = "Succeeded", str(Reason.APPLIED), draft.now
            draft.set_condition(c.REMEDIATED, "True", Reason.APPLIED, message)
            return
        step.state, step.reason = "Verifying", str(Reason.VERIFYING)
        step.verification = Verification(started_at=draft.now)
        draft.set_condition(c.VERIFIED, "Unknown", Reason.VERIFYING, f"watching whether step {step.name} helped")

    def fail(self, draft: Draft, step: StepStatus, reason: Reason, message: str) -> None:
        """It was not done."""
        step.state, step.reason, step.message, step.finished_at = "Failed", str(reason), message, draft.now
        step.after = None  # nothing was changed, so that there is nothing to put back
        self._acting.count(draft, step, "Failed")
        draft.set_condition(c.REMEDIATED, "False", reason, message)
        draft.say(reason, f"step {step.name} failed: {message}", event=True)

    def cannot(self, draft: Draft, step: StepStatus, reason: Reason, message: str, untouched: bool) -> None:
        """A change that cannot be made; what was made of it before is still there, and a person must know."""
        if untouched:
            self.fail(draft, step, reason, f"{message}; nothing was changed")
        else:
            self.unknown(draft, step, Reason.PARTLY_DONE, message)

    def unknown(self, draft: Draft, step: StepStatus, reason: Reason, message: str) -> None:
        """Whether, or how much of it, was done cannot be told: a person is called, and it is not repeated."""
        step.state, step.reason, step.message = "Unknown", str(reason), message
        step.finished_at = draft.now
        self._acting.count(draft, step, "Unknown")
        draft.set_condition(c.REMEDIATED, "Unknown", reason, message)
        draft.say(reason, f"step {step.name}: {message}", event=True)

    def end_badly(self, draft: Draft, step: StepStatus, error: Refused | Terminal) -> None:
        """It ended with this error."""
        if error.reason is Reason.OUTCOME_UNKNOWN:
            self.unknown(draft, step, error.reason, str(error))
        else:
            self.fail(draft, step, error.reason, str(error))

    def _measure_latency(self, draft: Draft) -> None:
        heard = draft.incident.status.alert
        if heard and heard.last_received_at:
            seconds = (draft.now - heard.last_received_at).total_seconds()
            draft.afterwards(lambda: self._metrics.alert_to_action.observe(max(0.0, seconds)))
