"""Locks between processes: files, released by the kernel when their holder dies."""

from __future__ import annotations

import fcntl
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TextIO

from testbed.progress import say


def try_lock(path: Path) -> TextIO | None:
    """The lock, held until the returned file is closed; None when somebody else holds it."""
    lock = path.open("a")
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        lock.close()
        return None
    return lock


@contextmanager
def locked(path: Path, busy: str) -> Iterator[None]:
    """Holds the lock meanwhile; says `busy` once when it has to wait for it."""
    lock = try_lock(path)
    if lock is None:
        say(busy)
        lock = path.open("a")
        fcntl.flock(lock, fcntl.LOCK_EX)
    with lock:
        yield
