"""What the demo prints: colours on a terminal, plain lines in a pipe."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

BOLD, DIM, RED, GREEN, YELLOW, CYAN = "1", "2", "31", "32", "33", "36"
COLOURS = sys.stdout.isatty() and "NO_COLOR" not in os.environ and os.environ.get("TERM") != "dumb"


def paint(text: str, *codes: str) -> str:
    """The text in colours, where there are any."""
    return f"\033[{';'.join(codes)}m{text}\033[0m" if COLOURS and codes else text


def line(text: str = "") -> None:
    """One line."""
    print(text, flush=True)


def title(text: str) -> None:
    """The first line of all."""
    line(f"\n{paint(text, BOLD)}")


def chapter(number: int, text: str) -> None:
    """A new part of the story."""
    line(f"\n{paint(str(number), BOLD, CYAN)}  {paint(text, BOLD)}")


def remark(text: str) -> None:
    """What a narrator says."""
    line(f"   {paint(text, DIM)}")


def command(text: str) -> None:
    """What is typed."""
    line(f"   {paint('$', DIM)} {paint(text, BOLD)}")


def output(text: str) -> None:
    """What a program answers, as it is."""
    for one in text.rstrip().splitlines():
        line(f"   {one}")


def moment(seconds: float, actor: str, text: str, colour: str = "") -> None:
    """One thing that happened, with its time since the beginning of the outage."""
    codes = [colour] if colour else []
    line(f"   {paint(f'{seconds:6.2f} s', DIM)}  {paint(f'{actor:<12}', DIM)}  {paint(text, *codes)}")


def passed(text: str) -> None:
    """Something that was checked."""
    line(f"   {paint('✓', GREEN)} {text}")


def failed(text: str) -> None:
    """What did not happen."""
    line(f"\n   {paint('✗', RED, BOLD)} {paint(text, RED)}")


@contextmanager
def task(text: str) -> Iterator[None]:
    """Something that takes a while: announced on a terminal, and one line with its seconds when it is done."""
    began = time.monotonic()
    if COLOURS:
        print(f"   {paint('…', DIM)} {text}", end="", flush=True)
    try:
        yield
    except BaseException:
        if COLOURS:
            line()
        raise
    if COLOURS:
        print("\r\033[K", end="")
    passed(f"{text} {paint(f'({time.monotonic() - began:.1f} s)', DIM)}")
