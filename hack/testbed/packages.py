"""Programs that are no Go module and no Python package: the system's own, installed from Debian where we may."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

from testbed.golang import ToolchainError
from testbed.locks import locked, shared_folder
from testbed.progress import say

_APT = Path("/usr/bin/apt-get")


def program(name: str, package: str, find: Callable[[], Path | None] | None = None) -> Path:
    """The program, from Debian's `package` if need be; ToolchainError with what to install when it cannot be had."""
    look = find or (lambda: _on_path(name))
    found = look()
    if found is None and os.geteuid() == 0 and _APT.exists():
        lock = shared_folder("paramedic-locks") / "apt.lock"
        with locked(lock, f"waiting for another installation, to install {package} …"):
            found = look() or _install(package, look)
    if found is None:
        raise ToolchainError(f"{name} is not installed: the tests need it (Debian: apt-get install {package})")
    return found


def _on_path(name: str) -> Path | None:
    found = shutil.which(name)
    return Path(found) if found else None


def _install(package: str, look: Callable[[], Path | None]) -> Path | None:
    say(f"installing {package} …")
    environment = os.environ | {"DEBIAN_FRONTEND": "noninteractive", "RUNLEVEL": "1"}
    command = [str(_APT), "install", "-y", "-qq", "--no-install-recommends", package]
    for attempt in (command, [str(_APT), "update", "-qq"], command):
        done = subprocess.run(attempt, env=environment, check=False, capture_output=True, text=True)
        found = look()
        if found:
            return found
    raise ToolchainError(f"{' '.join(command)} failed:\n{done.stderr.strip()[-800:]}")
