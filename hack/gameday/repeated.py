"""Something that is done again and again beside the rest."""

from __future__ import annotations

import threading
from collections.abc import Callable
from types import TracebackType
from typing import Self


class Repeated:
    """A thread that does one thing `every_seconds`, until the block ends. What `once` raises ends the thread, and is
    raised when the block ends.
    """

    def __init__(self, name: str, every_seconds: float, once: Callable[[], None]) -> None:
        self._every_seconds = every_seconds
        self._once = once
        self._stop = threading.Event()
        self._error: Exception | None = None
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()
        self._thread.join()
        if self._error and error is None:
            raise self._error

    def _run(self) -> None:
        try:
            while not self._stop.wait(self._every_seconds):
                self._once()
        except Exception as error:  # whatever it is: what was measured beside it cannot be believed
            self._error = error
