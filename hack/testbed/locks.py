"""Locks between processes: files, released by the kernel when their holder dies."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TextIO

from testbed.progress import say


def shared_folder(name: str) -> Path:
    """One folder for all of this user's processes on the machine, whatever TMPDIR says: a lock that two look for in
    different places holds nobody back.
    """
    folder = Path("/tmp", f"{name}-{os.getuid()}")  # noqa: S108  # its owner is looked at, and nothing is kept in it
    folder.mkdir(mode=0o700, exist_ok=True)
    if folder.lstat().st_uid != os.getuid():
        raise OSError(f"{folder} belongs to somebody else, so no locks can be kept there: have it removed")
    return folder


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
