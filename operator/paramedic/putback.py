"""Puts a step back: intent, act, result, once, and never over somebody else's change (design: "Act once")."""

from paramedic.acting import GONE, Acting
from paramedic.actions import ACTIONS
from paramedic.actions.base import Action, Change, Outcome, may_put_back
from paramedic.api.incident import Revert, StepStatus
from paramedic.api.reasons import Reason
from paramedic.core.escalation import not_put_back
from paramedic.core.operation import new_operation
from paramedic.errors import AlreadyExists, Conflict, NotFound, PartlyDone, Refused, Terminal
from paramedic.record import Draft, escalate, keep_evidence

DID_NOT_HELP = "; did not help: "


class PutBack:
    """Undoes steps for the reconciler. Its methods leave the draft as it should be stored."""

    def __init__(self, acting: Acting) -> None:
        self._acting = acting

    async def put_back(self, draft: Draft, index: int, why: Reason) -> None:
        """Undoes a step, also after an earlier try has failed. Hands off when others have changed the same fields
        since.
        """
        step = draft.incident.status.steps[index]
        action = ACTIONS[step.action]
        operation, tried = new_operation(draft.now), step.revert
        if not action.undoable:
            step.revert = Revert(state="Succeeded", reason=str(why), message="needs no undo", operation=operation)
            return
        begun = Revert(state="Executing", reason=str(why), operation=operation)
        if tried:
            begun.attempts, begun.failure, begun.message = tried.attempts + 1, tried.failure, tried.message
        try:
            observed = await self._acting.observe(draft, step)
            may_put_back(action, observed, step)
            change = action.restore(observed, step.before or {}, operation)
        except (Refused, Terminal) as error:
            self._close(draft, step, begun, await self._still_held(step, error))
            return
        begun.before, begun.after, begun.message = change.before, change.after, change.message
        begun.started_at, step.revert = draft.now, begun
        if not tried:
            draft.say(Reason.PUTTING_BACK, f"step {step.name}: {change.message} ({why.meaning})")
        await self._acting.commit(draft)
        await self._act(draft, step, action, change)

    async def look(self, draft: Draft, index: int, *, held: bool) -> None:
        """A putting back without a result: claimed, looked at, and done under the same id only if nothing was done.
        When it is ``held`` (paused meanwhile), one of which nothing was done is as if it had not been begun.
        """
        step = draft.incident.status.steps[index]
        revert, action = step.revert, ACTIONS[step.action]
        assert revert is not None
        revert.attempts += 1
        await self._acting.commit(draft)
        try:
            observed = await self._acting.observe(draft, step)
            outcome = action.settled(observed, revert.before or {}, revert.after or {}, revert.operation)
            if outcome is Outcome.APPLIED:
                self._close(draft, step, revert, None)
            elif outcome is Outcome.UNKNOWN:
                raise Refused(Reason.TARGET_CHANGED, f"{step.target} is neither as before nor as after: hands off")
            elif held:
                _as_before(step)
            else:
                await self._act(draft, step, action, action.restore(observed, step.before or {}, revert.operation))
        except (Refused, Terminal) as error:
            self._close(draft, step, revert, await self._still_held(step, error))

    async def _act(self, draft: Draft, step: StepStatus, action: Action, change: Change) -> None:
        assert step.revert is not None
        try:
            report = await self._acting.apply(action, change)
        except (Conflict, AlreadyExists):
            return
        except NotFound as error:
            self._close(draft, step, step.revert, await self._what_is_gone(draft, step, error))
        except (PartlyDone, Refused, Terminal) as error:
            self._close(draft, step, step.revert, error)
        else:
            draft.now = self._acting.clock()
            keep_evidence(draft, report.evidence if report else ())
            self._close(draft, step, step.revert, None)

    async def _what_is_gone(self, draft: Draft, step: StepStatus, error: NotFound) -> Refused | Terminal:
        """The target, or only something else that the putting back needed."""
        try:
            await self._acting.observe(draft, step)
        except (Refused, Terminal) as found:
            return await self._still_held(step, found)
        return Refused(Reason.NOT_PUT_BACK, f"{step.target} is there, but something that this needs is not: {error}")

    async def _still_held(self, step: StepStatus, error: Refused | Terminal) -> Refused | Terminal:
        """Of a target that is gone: what else still holds the change, which is then for a person. Else the error."""
        held = await self._acting.held_elsewhere(step) if error.reason in GONE else ""
        return Refused(Reason.NOT_PUT_BACK, f"{error}, but {held}") if held else error

    def _close(
        self, draft: Draft, step: StepStatus, revert: Revert, error: PartlyDone | Refused | Terminal | None
    ) -> None:
        """Records how the putting back ended. With a target that is gone the change went, too."""
        step.revert, revert.finished_at = revert, draft.now
        if error is not None and not holds_nothing(error):
            note_failure(revert, error)
            self._acting.count(draft, step, "NotPutBack")
            escalate(draft, Reason.NOT_PUT_BACK, not_put_back(step, revert.message))
            return
        revert.state, revert.failure = "Succeeded", ""
        revert.message = f"nothing to put back: {error}" if error else revert.message
        self._acting.count(draft, step, "PutBack")
        leased = revert.reason != Reason.VERIFICATION_FAILED
        step.state = "Reverted"
        step.reason = str(Reason.LEASE_ENDED) if leased else str(Reason.VERIFICATION_FAILED)
        draft.say(Reason.PUT_BACK, f"step {step.name}: {revert.message}", event=True)


def _as_before(step: StepStatus) -> None:
    """Of the putting back nothing was done yet. What did not help is judged once more when the pause is over."""
    assert step.revert is not None
    if step.revert.reason == Reason.VERIFICATION_FAILED:
        step.state, step.reason, step.finished_at = "Verifying", str(Reason.VERIFYING), None
        step.message = step.message.partition(DID_NOT_HELP)[0]
    step.revert = None


def holds_nothing(error: PartlyDone | Refused | Terminal) -> bool:
    """Whether there is nothing to put back any more: the target is gone, or goes with its namespace."""
    return not isinstance(error, PartlyDone) and error.reason in (*GONE, Reason.NAMESPACE_TERMINATING)


def note_failure(revert: Revert, error: PartlyDone | Refused | Terminal) -> None:
    """Why it could not be done. What a try has left half done, the next one does not take for others' doing."""
    revert.state, half = "Failed", revert.failure == Reason.PARTLY_DONE
    if half and error.reason is Reason.TARGET_CHANGED:
        return
    revert.failure = str(Reason.PARTLY_DONE if half or isinstance(error, PartlyDone) else error.reason)
    revert.message = str(error)
