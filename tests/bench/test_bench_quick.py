"""The bench runs, and what it counts is right. How fast it is depends on the machine and is not judged here."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from bench.figures import Figure, against_floor, at_most, exactly, percentile, table
from testbed import toolchain


@pytest.mark.slow
def test_every_count_is_right(tmp_path: Path) -> None:
    toolchain.ensure(*toolchain.CLUSTER)  # a first build takes longer than any run
    results = tmp_path / "results.json"
    argv = [sys.executable, str(toolchain.HACK / "bench"), "--quick", "--output", str(results)]
    ended = subprocess.run(argv, capture_output=True, text=True, timeout=300, check=False)
    assert results.exists(), ended.stderr
    assert " failed: " not in ended.stdout, ended.stderr
    figures = json.loads(results.read_text())["figures"]
    counts = [one for one in figures if one["exact"]]
    assert [one for one in counts if not one["reached"]] == []
    assert len(counts) == 17
    assert ended.returncode == 0, ended.stdout


def test_a_figure_against_its_floor() -> None:
    assert against_floor("x", 3, 2, "ms", 1.5).reached
    assert not against_floor("x", 3.1, 2, "ms", 1.5).reached
    assert against_floor("x", 3, 2, "ms", 1.5).ratio == 1.5
    assert at_most("x", 2, "%", 2).reached
    assert not exactly("x", 99, 100).reached


def test_percentiles_are_by_nearest_rank() -> None:
    values = [float(value) for value in range(1, 201)]
    assert [percentile(values, percent) for percent in (50, 99, 100)] == [100, 198, 200]
    assert percentile([7], 99) == 7


def test_the_table_says_what_was_not_reached() -> None:
    text = table([Figure("slow", 5, "ms", "≤ 2×", reached=False, floor=1), Figure("few", 1, "", "= 1", reached=True)])
    assert [line.split()[0] for line in text.splitlines()[2:]] == ["slow", "few"]
    assert "5.00×" in text
    assert "NO" in text
