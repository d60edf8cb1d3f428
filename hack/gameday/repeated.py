"""Something that is done again and again beside the rest."""

from __future__ import annotations

import threading
from collections.abc import Callable
from types import TracebackType
from typing import Self


class Repeated:
    """A thread that does one thing `every_seconds`, until the block ends; what `once` raises ends the thread."""

    def __init__(self, name: str, every_seconds: float, once: Callable[[], None]) -> None:
        self._every_seconds = every_seconds
        self._once = once
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._stop.wait(self._every_seconds):
            self._once()
