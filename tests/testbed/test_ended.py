"""Whoever ends a test run, or CI's, by a signal ends all of it, and fixtures clear up."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from leftovers import commands_about
from testbed import toolchain
from testbed.api import eventually

ROOT = toolchain.HACK.parent
HANGS = """
import pathlib, time, pytest
FOLDER = pathlib.Path(__file__).parent
@pytest.fixture
def held():
    yield
    (FOLDER / "ended").touch()
def test_hangs(held):
    (FOLDER / "began").touch()
    time.sleep(600)
"""


@contextmanager
def running(*argv: str | Path, **environment: str) -> Iterator[subprocess.Popen[str]]:
    with subprocess.Popen(
        list(map(str, argv)),
        env={**os.environ, **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    ) as process:
        try:
            yield process
        finally:
            process.kill()


async def began(folder: Path) -> None:
    await eventually((folder / "began").exists, timeout=60, what="the run has begun")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
async def test_fixtures_end_when_the_tests_are_told_to(tmp_path: Path, number: signal.Signals) -> None:
    (tmp_path / "test_it.py").write_text(HANGS)
    folders = os.pathsep.join(str(ROOT / name) for name in ("operator", "hack", "tests"))
    argv = [sys.executable, "-m", "pytest", "-c", ROOT / "pyproject.toml", "-p", "conftest", tmp_path / "test_it.py"]
    with running(*argv, PYTHONPATH=folders) as process:
        await began(tmp_path)
        process.send_signal(number)
        process.send_signal(signal.SIGTERM)  # as when make and a process group both hand it on
        output, _ = process.communicate(timeout=60)
    assert process.returncode == pytest.ExitCode.INTERRUPTED, output
    assert (tmp_path / "ended").exists()


@pytest.mark.skipif(not shutil.which("make"), reason="needs make")
async def test_ending_ci_ends_what_it_runs(tmp_path: Path) -> None:
    (tmp_path / ".ci").mkdir()
    script = shutil.copy(ROOT / ".ci" / "run", tmp_path / ".ci" / "run")
    (tmp_path / "hangs.sh").write_text(f"touch {tmp_path}/began; sleep 600; echo {tmp_path}")
    (tmp_path / "Makefile").write_text(f"check:\n\t@bash {tmp_path}/hangs.sh\ntest:\n\t@touch tested\n")
    with running(script) as process:
        await began(tmp_path)
        process.send_signal(signal.SIGTERM)
        assert process.wait(30) == 143
    await eventually(lambda: commands_about(tmp_path) == [], timeout=10)
    assert not (tmp_path / "tested").exists()


def test_ci_s_verdict_is_that_of_its_steps(tmp_path: Path) -> None:
    (tmp_path / ".ci").mkdir()
    script = shutil.copy(ROOT / ".ci" / "run", tmp_path / ".ci" / "run")
    (tmp_path / "Makefile").write_text("check:\n\t@true\ntest:\n\t@false\n")
    assert subprocess.run([script], capture_output=True, check=False).returncode == 2
    (tmp_path / "Makefile").write_text("check:\n\t@true\ntest:\n\t@true\n")
    assert subprocess.run([script], capture_output=True, check=False).returncode == 0


def test_a_run_says_why_it_skipped(tmp_path: Path) -> None:
    (tmp_path / "test_it.py").write_text("import pytest\ndef test_it(): pytest.skip('a real node needs root')\n")
    argv = [sys.executable, "-m", "pytest", "-c", ROOT / "pyproject.toml", tmp_path]
    told = subprocess.run(list(map(str, argv)), capture_output=True, text=True, check=False).stdout
    assert "a real node needs root" in told
