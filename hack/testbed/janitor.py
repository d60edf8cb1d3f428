"""Removes a folder when this process has ended, however it ended.

A `finally` does not run after kill -9. So a small child holds the reading end of a pipe: when we are gone, for
whatever reason, the kernel closes the other end and the child removes the folder.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_SCRIPT = """
import shutil, sys, time
sys.stdin.buffer.read()
for _ in range(50):  # what the kernel is just killing may still write
    shutil.rmtree(sys.argv[1], ignore_errors=True)
    time.sleep(0.1)
    try:
        open(sys.argv[1]).close()
    except IsADirectoryError:
        continue
    except FileNotFoundError:
        break
"""


@contextmanager
def temporary_folder(prefix: str) -> Iterator[Path]:
    """A fresh folder that is gone in the end."""
    folder = Path(tempfile.gettempdir()) / f"{prefix}{uuid.uuid4().hex[:8]}"
    argv = [sys.executable, "-I", "-S", "-c", _SCRIPT, str(folder)]
    janitor = subprocess.Popen(argv, stdin=subprocess.PIPE, start_new_session=True)
    try:
        folder.mkdir(mode=0o700)
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        assert janitor.stdin is not None
        janitor.stdin.close()
        janitor.wait(10)
