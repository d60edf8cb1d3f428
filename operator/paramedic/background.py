"""Work that takes minutes, apart from the incidents' rounds: a round starts it, later ones ask what came of it.

Nothing here matters after a restart. The step is stored as Running, and whoever finds it so without knowing of the work
begins it again under the same operation id.
"""

import asyncio
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from paramedic.actions.base import Report
from paramedic.api.reasons import Reason
from paramedic.errors import ParamedicError, Terminal

_GRACE_SECONDS = 5.0
_MOST_ENDED = 100


@dataclass(slots=True)
class Background:
    """The slow actions of this process whose end is not stored yet, by operation id."""

    _tasks: dict[str, "asyncio.Task[Report | None]"] = field(default_factory=dict)
    _said: dict[str, str] = field(default_factory=dict)
    _noted: dict[str, dict[str, Any]] = field(default_factory=dict)
    _rests: dict[str, datetime] = field(default_factory=dict)

    def knows(self, operation: str) -> bool:
        """Whether the work was begun here and its end has not been taken yet."""
        return operation in self._tasks

    def begin(
        self,
        operation: str,
        work: Coroutine[Any, Any, Report | None],
        seconds: float,
        when_done: Callable[[], None],
    ) -> None:
        """Starts the work. ``when_done`` is called at its end; it is given up a little after ``seconds``."""
        task = asyncio.create_task(_limited(work, seconds), name=f"operation {operation}")
        task.add_done_callback(lambda _: when_done())
        self._make_room()
        self._tasks[operation] = task

    def say(self, operation: str, text: str) -> None:
        """How the work gets on."""
        self._said[operation] = text

    def said(self, operation: str) -> str:
        """What was said of it last."""
        return self._said.get(operation, "")

    def note(self, operation: str, facts: dict[str, Any]) -> None:
        """What the status must tell of the work, for whoever looks at it after a restart."""
        self._noted[operation] = facts

    def noted(self, operation: str) -> dict[str, Any]:
        """What was noted of it last."""
        return self._noted.get(operation, {})

    def end_of(self, operation: str) -> "asyncio.Task[Report | None] | None":
        """The ended work; None while it goes on. It stays known until ``forget``: while the write that tells of it has
        no answer, it must not be done anew.
        """
        task = self._tasks[operation]
        return task if task.done() else None

    def rest(self, operation: str, until: datetime) -> datetime:
        """Ended work is not begun again before: what was said first counts, until ``forget``."""
        return self._rests.setdefault(operation, until)

    def forget(self, operation: str) -> None:
        """What came of the work is stored, or it is to be begun again."""
        self._rests.pop(operation, None)
        self._said.pop(operation, None)
        self._noted.pop(operation, None)
        self._tasks.pop(operation, None)

    def _make_room(self) -> None:
        """Of ended work whose report nobody has fetched, because the status had it all the same, the newest stays."""
        ended = [operation for operation, task in self._tasks.items() if task.done()]
        for operation in ended[:-_MOST_ENDED]:
            self.forget(operation)

    def stop(self) -> None:
        """Gives all of it up: another process goes on."""
        for task in self._tasks.values():
            task.cancel()
        self._tasks.clear()
        self._said.clear()
        self._noted.clear()
        self._rests.clear()


async def _limited(work: Coroutine[Any, Any, Report | None], seconds: float) -> Report | None:
    try:
        async with asyncio.timeout(seconds + _GRACE_SECONDS):
            return await work
    except TimeoutError as error:
        raise Terminal(Reason.TIMED_OUT, f"not done within {seconds:.0f} s") from error
    except ParamedicError:
        raise
    except Exception as error:
        raise Terminal(Reason.INTERNAL_ERROR, f"a mistake in Paramedic itself: {error!r}") from error
