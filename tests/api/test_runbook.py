"""tests/runbook.md names what is there."""

import re
from pathlib import Path

import pytest

from paramedic.actions import ACTIONS

TESTS = Path(__file__).resolve().parents[1]
TEXT = (TESTS / "runbook.md").read_text()
ROWS = [line for line in TEXT.splitlines() if line.startswith("| ") and not line.startswith("| runbook")]
CELLS = [[cell.strip() for cell in row.strip("|").split(" | ")] for row in ROWS]


def named(text: str, pattern: str) -> list[str]:
    return re.findall(rf"`({pattern})`", text)


@pytest.mark.parametrize("path", sorted(set(named(TEXT, r"(?!tests/)[a-z0-9_]+/(?:test_[a-z0-9_]+\.py)?"))))
def test_a_test_is_there(path: str) -> None:
    assert (TESTS / path).exists()


@pytest.mark.parametrize("file", sorted(set(named(TEXT, r"[a-z-]+\.yaml"))))
def test_a_sample_is_there(file: str) -> None:
    assert (TESTS.parent / "manifests" / "samples" / "covet" / file).exists()


def test_every_action_does_something_of_it() -> None:
    said = " ".join(cells[1] for cells in CELLS)
    assert {name for name in ACTIONS if not re.search(rf"`{name}\b", said)} == set()
