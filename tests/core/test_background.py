"""Work that goes on between an incident's rounds."""

import asyncio

import pytest

from paramedic.acting import patiently
from paramedic.actions.base import Report
from paramedic.api.reasons import Reason
from paramedic.background import Background
from paramedic.errors import Refused, Retry, Terminal


class Work:
    """Something that ends when it is told to."""

    def __init__(self) -> None:
        self.go_on = asyncio.Event()
        self.cancelled = False
        self.told: list[str] = []
        self.over = asyncio.Event()

    def tell(self) -> None:
        self.told.append("done")
        self.over.set()

    async def run(self, answer: Report | Exception) -> Report:
        try:
            await self.go_on.wait()
        except asyncio.CancelledError:
            self.cancelled = True
            raise
        if isinstance(answer, Exception):
            raise answer
        return answer


async def test_what_is_said_of_the_work_is_heard_until_its_end_is_taken() -> None:
    work = Work()
    background = await begun(work, Report("done"))
    assert background.said("op") == ""
    background.say("op", "half way")
    assert background.said("op") == "half way"
    assert background.end_of("op") is None
    work.go_on.set()
    await work.over.wait()
    assert background.end_of("op") is not None
    background.forget("op")
    assert background.said("op") == ""


async def begun(work: Work, answer: Report | Exception, seconds: float = 60) -> Background:
    background = Background()
    background.begin("op", work.run(answer), seconds, work.tell)
    await asyncio.sleep(0)
    return background


async def ended(background: Background, work: Work) -> "asyncio.Task[Report | None]":
    await work.over.wait()
    task = background.end_of("op")
    assert task
    return task


async def test_the_end_is_told_until_it_is_stored() -> None:
    background = await begun(work := Work(), Report("done"))
    assert background.knows("op")
    assert background.end_of("op") is None
    assert work.told == []
    work.go_on.set()
    task = await ended(background, work)
    assert task.result() == Report("done")
    assert work.told == ["done"]
    assert background.end_of("op") is task, "the write that tells of it may have to be tried again"
    background.forget("op")
    assert not background.knows("op")


async def test_ended_work_that_nobody_asks_for_makes_room() -> None:
    background = Background()
    for number in range(150):
        work = Work()
        work.go_on.set()
        background.begin(str(number), work.run(Report("done")), 60, work.tell)
        await work.over.wait()
    assert not background.knows("0")
    assert background.knows("149")


@pytest.mark.parametrize("error", [Retry("later"), Refused(Reason.FORBIDDEN, "no"), Terminal(Reason.REJECTED, "never")])
async def test_errors_keep_their_type(error: Exception) -> None:
    background = await begun(work := Work(), error)
    work.go_on.set()
    assert (await ended(background, work)).exception() is error


async def test_a_mistake_of_ours_is_that_steps_failure() -> None:
    background = await begun(work := Work(), KeyError("spec"))
    work.go_on.set()
    error = (await ended(background, work)).exception()
    assert isinstance(error, Terminal)
    assert error.reason is Reason.INTERNAL_ERROR
    assert "KeyError('spec')" in str(error)


async def test_what_takes_too_long_is_given_up() -> None:
    background = await begun(work := Work(), Report("never"), seconds=-5)
    error = (await ended(background, work)).exception()
    assert isinstance(error, Terminal)
    assert error.reason is Reason.TIMED_OUT
    assert work.cancelled


async def test_a_lost_lead_ends_all_of_it() -> None:
    background = await begun(work := Work(), Report("never"))
    background.stop()
    await work.over.wait()
    assert work.cancelled
    assert not background.knows("op")


@pytest.mark.parametrize("refusals", [0, 1, 3])
async def test_forbidden_is_believed_only_when_it_is_said_again(refusals: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("paramedic.acting._FORBIDDEN_PAUSE_SECONDS", 0)
    answers = [Refused(Reason.FORBIDDEN, "not yet")] * refusals

    async def call() -> str:
        if answers:
            raise answers.pop()
        return "allowed"

    assert await patiently(call) == "allowed"


@pytest.mark.parametrize("reason", [Reason.FORBIDDEN, Reason.NAMESPACE_TERMINATING])
async def test_a_refusal_that_stays_is_told(reason: Reason, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("paramedic.acting._FORBIDDEN_PAUSE_SECONDS", 0)
    calls: list[int] = []

    async def call() -> str:
        calls.append(1)
        raise Refused(reason, "no")

    with pytest.raises(Refused):
        await patiently(call)
    assert len(calls) == (4 if reason is Reason.FORBIDDEN else 1)
