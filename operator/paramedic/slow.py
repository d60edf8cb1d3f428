"""Slow actions: begun in the background in one round, asked for in later ones, and begun again under the same operation
id when this process knows nothing of them.
"""

from collections.abc import Callable
from dataclasses import replace
from datetime import datetime, timedelta

from paramedic.acting import Acting, parameters_of
from paramedic.actions import ACTIONS
from paramedic.actions.base import Change, State
from paramedic.api.base import format_duration
from paramedic.api.incident import StepStatus
from paramedic.api.reasons import Reason
from paramedic.background import Background
from paramedic.core.plan import Wait
from paramedic.core.summary import progress
from paramedic.errors import AlreadyExists, Conflict, NotFound, PartlyDone, Refused, Retry, Terminal
from paramedic.outcomes import Outcomes
from paramedic.permit import Permits
from paramedic.record import Draft

_FOLLOW_EVERY = timedelta(seconds=5)
_NO_TIMEOUT = timedelta(minutes=5)
_TO_SEE_ITS_END = timedelta(seconds=15)
"""For what was begun and is looked at again when its time is almost or altogether over."""
_FIRST_PAUSE, _LONGEST_PAUSE = timedelta(milliseconds=200), timedelta(seconds=30)


class SlowActions:
    """A Wait ends the round; without one the step has come to an end."""

    def __init__(self, acting: Acting, background: Background, permits: Permits, outcomes: Outcomes) -> None:
        self._acting = acting
        self._background = background
        self._permits = permits
        self._outcomes = outcomes
        self.when_done: Callable[[str], None] = lambda _: None
        """Told the incident whose slow action has ended."""

    def stop(self) -> None:
        """Gives up what runs: another process goes on with it."""
        self._background.stop()

    async def follow(self, draft: Draft, step: StepStatus) -> Wait | None:
        """Waits for it, takes its result, or begins it again when this process knows nothing of it."""
        operation = step.operation or ""
        if not self._background.knows(operation):
            return await self._begin_again(draft, step)
        if noted := self._background.noted(operation):
            step.after = (step.after or {}) | noted
        ended = self._background.end_of(operation)
        if ended is None:
            step.message = self._background.said(operation) or step.message
            return Wait(progress(step), draft.now + _FOLLOW_EVERY)
        try:
            self._outcomes.take_report(draft, step, ended.result())
        except (Conflict, AlreadyExists):
            self._background.forget(operation)
            return await self._begin_again(draft, step)
        except Retry as error:
            until = self._background.rest(operation, draft.now + _pause(step, error))
            if draft.now < until:
                return Wait(f"{progress(step)}; tried again at {until:%H:%M:%S} UTC: {error}", until)
            self._background.forget(operation)
            return await self._begin_again(draft, step)
        except PartlyDone as error:
            self._outcomes.unknown(draft, step, Reason.PARTLY_DONE, str(error))
        except NotFound as error:
            self._outcomes.fail(draft, step, Reason.TARGET_NOT_FOUND, str(error))
        except (Refused, Terminal) as error:
            self._outcomes.end_badly(draft, step, error)
        draft.afterwards(lambda: self._background.forget(operation))
        return None

    def begin(self, draft: Draft, step: StepStatus, change: Change, least: timedelta = timedelta(0)) -> Wait:
        """Starts it; it has the rest of the step's time, and ``least`` in any case."""
        seconds = max(_ends_at(step) - draft.now, least).total_seconds()
        operation = step.operation or ""
        key = draft.key

        def note(facts: State) -> None:
            self._background.note(operation, facts)
            self.when_done(key)

        told = replace(
            change,
            seconds=seconds,
            attempt=step.attempts,
            tell=lambda text: self._background.say(operation, text),
            note=note,
        )
        work = self._acting.apply(ACTIONS[step.action], told)
        self._background.begin(operation, work, seconds, lambda: self.when_done(key))
        return Wait(progress(step), draft.now + _FOLLOW_EVERY)

    async def _begin_again(self, draft: Draft, step: StepStatus) -> Wait | None:
        """Under the same operation, unless what it would do has changed since, or nothing was begun and its time is
        over or it is not wanted any more. What was begun is seen to its end, however late.
        """
        action = ACTIONS[step.action]
        late = draft.now >= _ends_at(step)
        if late and action.reads_only:  # it leaves nothing that would have to be looked at
            self._time_out(draft, step)
            return None
        try:
            observed = await self._acting.observe(draft, step)
            change = action.plan(observed, parameters_of(action, step), step.operation or "")
            begun = await action.is_begun(change, step.after or {}, self._acting.clients)
        except (Refused, Terminal) as error:
            self._outcomes.end_badly(draft, step, error)
            return None
        if not begun and self._permits.drops(draft, step):
            return None
        if not begun and late:
            self._time_out(draft, step)
            return None
        step.attempts += 1
        await self._acting.commit(draft)
        return self.begin(draft, step, change, _TO_SEE_ITS_END if begun else timedelta(0))

    def _time_out(self, draft: Draft, step: StepStatus) -> None:
        self._outcomes.fail(
            draft, step, Reason.TIMED_OUT, f"not done within {format_duration(step.timeout or _NO_TIMEOUT)}"
        )


def _ends_at(step: StepStatus) -> datetime:
    """When a slow action's time is over."""
    assert step.started_at is not None
    return step.started_at + (step.timeout or _NO_TIMEOUT)


def _pause(step: StepStatus, error: Retry) -> timedelta:
    """Before a slow action is begun again: as long as is asked for, and longer with each attempt."""
    doublings = min(max(step.attempts - 1, 0), 10)
    grown = min(_FIRST_PAUSE * (1 << doublings), _LONGEST_PAUSE)
    return max(grown, error.after or grown)
