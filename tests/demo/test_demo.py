"""The demo as a user runs it: it tells the whole story, and whatever ends it, nothing is left."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from leftovers import commands_about
from testbed import toolchain

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(sys.platform != "linux", reason="needs /proc and PR_SET_PDEATHSIG"),
]

CHAPTERS = ("The scene", "A bad release", "An incident declared by hand", "A policy on trial", "refused")


@pytest.fixture(autouse=True, scope="module")
def _built() -> None:
    """A first build takes longer than any demo."""
    toolchain.ensure(*toolchain.CLUSTER, *toolchain.MONITORING)


def test_it_tells_the_whole_story(tmp_path: Path) -> None:
    with demo(tmp_path) as process:
        output, _ = process.communicate(timeout=240)
    assert process.returncode == 0, output
    assert [one for one in CHAPTERS if one not in output] == []
    assert "\033" not in output
    assert "\r" not in output
    assert re.search(r"bad release → alert [\d.]+ s → rolled back [\d.]+ s → recovered [\d.]+ s", output), output
    assert left_behind(tmp_path) == []


@pytest.mark.parametrize(
    ("number", "code", "cue"),
    [
        (signal.SIGINT, 130, "a real control plane"),
        (signal.SIGINT, 130, "kubectl set image"),
        (signal.SIGKILL, -9, "Paramedic itself"),
    ],
    ids=["Ctrl-C at the start", "Ctrl-C in the middle", "kill -9"],
)
def test_it_leaves_nothing_when_it_is_cut_short(tmp_path: Path, number: signal.Signals, code: int, cue: str) -> None:
    with demo(tmp_path) as process:
        assert process.stdout is not None
        seen = next((line for line in process.stdout if cue in line), "")
        assert seen, "the demo ended too early"
        process.send_signal(number)
        assert process.wait(30) == code
    deadline = time.monotonic() + 10
    while left_behind(tmp_path) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert left_behind(tmp_path) == []


@contextmanager
def demo(folder: Path) -> Iterator[subprocess.Popen[str]]:
    """The demo in a pipe, with its temporary files in `folder`."""
    environment = {**os.environ, "TMPDIR": str(folder)}
    argv = [sys.executable, str(toolchain.HACK / "demo")]
    with subprocess.Popen(
        argv, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as process:
        try:
            yield process
        finally:
            process.kill()


def left_behind(folder: Path) -> list[str]:
    """Processes that mention the folder, and what the demo has put there."""
    return [*map(str, folder.glob("paramedic-demo-*")), *commands_about(folder)]
