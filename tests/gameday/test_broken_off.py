"""A run of game days that ends too early: what was measured until then is told and kept."""

from __future__ import annotations

import http.client
import json
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from test_report import GOOD

from gameday import cli
from gameday.cli import Results, main
from gameday.days import DAYS
from gameday.repeated import Repeated
from gameday.report import Row
from images.python import ImageError
from testbed.rest import ApiError


@pytest.fixture
def play(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[[BaseException], Any]:
    """Plays one day and then ends by this; returns the exit code and the figures that were written."""
    output = tmp_path / "results.json"

    def played(end: BaseException) -> Any:
        def broken_off(folder: Path, given: object, results: Results) -> None:
            results.rows.append(Row(DAYS[0], GOOD, None))
            raise end

        monkeypatch.setattr(cli, "why_not", lambda: None)
        monkeypatch.setattr(cli, "_play", broken_off)
        try:
            code: int | None = main(["--output", str(output)])
        except AssertionError:
            code = None
        return code, [one["name"] for one in json.loads(output.read_text())["days"]]

    return played


@pytest.mark.parametrize(
    ("end", "code"),
    [
        (KeyboardInterrupt(), 130),
        (ApiError(500, {}), 1),
        (ImageError("no package"), 1),
        (OSError("no disk"), 1),
        (subprocess.CalledProcessError(1, "ip"), 1),
        (subprocess.TimeoutExpired("ctr", 60), 1),
        (AssertionError("a defect"), None),
    ],
)
def test_the_figures_are_kept(
    play: Callable[[BaseException], Any], end: BaseException, code: int | None, capsys: pytest.CaptureFixture[str]
) -> None:
    assert play(end) == (code, [DAYS[0].name])
    assert f"| {DAYS[0].fault} |" in capsys.readouterr().out


def test_what_ends_a_thread_beside_it_is_not_passed_over() -> None:
    def fail() -> None:
        raise http.client.IncompleteRead(b"")

    with pytest.raises(http.client.IncompleteRead), Repeated("failing", 0.01, fail):
        time.sleep(0.1)
    with pytest.raises(KeyError), Repeated("failing", 0.01, fail):
        time.sleep(0.1)
        raise KeyError("this is what happened first")
