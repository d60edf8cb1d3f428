"""What comes out: figures with their floor and bar, as a table and as JSON."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

MILLI = 1000.0


@dataclass(frozen=True)
class Figure:
    """One line of the table. `exact`: a count that holds on every machine, however slow; the others are times."""

    name: str
    ours: float
    unit: str
    bar: str
    reached: bool
    floor: float | None = None
    exact: bool = False
    note: str = ""

    @property
    def ratio(self) -> float | None:
        """How many times the floor."""
        return self.ours / self.floor if self.floor else None


def against_floor(name: str, ours: float, floor: float, unit: str, most: float, note: str = "") -> Figure:
    """A figure that may be at most `most` times its floor."""
    return Figure(name, ours, unit, f"≤ {most:g}×", ours <= most * floor, floor, note=note)


def at_most(name: str, ours: float, unit: str, most: float, note: str = "") -> Figure:
    """A figure with a bar of its own."""
    return Figure(name, ours, unit, f"≤ {most:g} {unit}".rstrip(), ours <= most, note=note)


def exactly(name: str, ours: float, wanted: float, note: str = "") -> Figure:
    """A count."""
    return Figure(name, ours, "", f"= {wanted:g}", ours == wanted, exact=True, note=note)


def no_more_than(name: str, ours: float, most: float, note: str = "") -> Figure:
    """A count with an upper limit."""
    return Figure(name, ours, "", f"≤ {most:g}", ours <= most, exact=True, note=note)


def percentile(values: Sequence[float], percent: float) -> float:
    """By the nearest rank."""
    ordered = sorted(values)
    return ordered[max(0, math.ceil(percent / 100 * len(ordered)) - 1)]


def median(values: Sequence[float]) -> float:
    """The middle one."""
    return percentile(values, 50)


def table(figures: Sequence[Figure]) -> str:
    """For people."""
    head = ("figure", "ours", "floor", "ratio", "bar", "reached", "")
    rows = [head, *(_row(one) for one in figures)]
    widths = [max(len(row[column]) for row in rows) for column in range(len(head))]
    numeric = (1, 2, 3)
    lines = [
        "  ".join(
            cell.rjust(width) if column in numeric else cell.ljust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]
    return "\n".join([lines[0], "─" * max(map(len, lines)), *lines[1:]])


def save(figures: Sequence[Figure], path: Path, *, quick: bool) -> None:
    """For programs."""
    rows = [asdict(one) | {"ratio": one.ratio} for one in figures]
    path.write_text(json.dumps({"quick": quick, "figures": rows}, indent=1, ensure_ascii=False) + "\n")


def _row(one: Figure) -> tuple[str, ...]:
    ratio = f"{one.ratio:.2f}×" if one.ratio is not None else "–"
    floor = _number(one.floor, one.unit) if one.floor is not None else "–"
    return one.name, _number(one.ours, one.unit), floor, ratio, one.bar, "yes" if one.reached else "NO", one.note


def _number(value: float, unit: str) -> str:
    digits = 0 if value == int(value) or abs(value) >= 1000 else 1 if abs(value) >= 100 else 2
    return f"{value:.{digits}f} {unit}".rstrip()
