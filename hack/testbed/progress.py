"""Tells a person that something long is under way: one ticking line on a terminal, plain lines elsewhere."""

from __future__ import annotations

import sys
import time
from types import TracebackType

PLAIN_INTERVAL = 15.0


def say(text: str) -> None:
    """One line to standard error: standard output is kept for what other programs read."""
    print(text, file=sys.stderr, flush=True)


class Progress:
    """`with Progress("building x") as progress: …; progress.tick()`; ends with one line and its seconds."""

    def __init__(self, title: str) -> None:
        self._title = title
        self._terminal = sys.stderr.isatty()
        self._started = self._told = time.monotonic()

    def __enter__(self) -> Progress:
        self._show(" …")
        return self

    def tick(self) -> None:
        """Call it often; it shows the seconds at once on a terminal and every 15 s elsewhere."""
        now = time.monotonic()
        if self._terminal or now - self._told >= PLAIN_INTERVAL:
            self._told = now
            self._show(f" … {now - self._started:.0f} s")

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        seconds = time.monotonic() - self._started
        self._show(f" failed after {seconds:.1f} s" if kind else f" done in {seconds:.1f} s", last=True)

    def _show(self, text: str, *, last: bool = False) -> None:
        if self._terminal:
            print(f"\r\033[K{self._title}{text}", end="\n" if last else "", file=sys.stderr, flush=True)
        else:
            say(f"{self._title}{text}")
