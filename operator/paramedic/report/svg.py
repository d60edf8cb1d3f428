"""A graph as SVG: one line over time, axes with units, and the moments at which something was done. Pure.

No scripts, no style attributes, nothing loaded from elsewhere; every text in it is escaped.
"""

import itertools
import math
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime

from paramedic.core.markup import html
from paramedic.core.redact import clean
from paramedic.report.document import Graph, Mark, Point

_WIDTH, _HEIGHT = 760, 260
_LEFT, _RIGHT, _TOP, _BOTTOM = 70, 16, 40, 44
_TICKS = 5
_LEAST_SPREAD, _MOST_SPREAD = 1e-300, 1e300
_STEPS_SECONDS = (1, 5, 15, 30, 60, 300, 600, 900, 1800, 3600, 7200, 21_600, 43_200, 86_400, 604_800)
_MOST_LABEL = 24


class _Scale:
    """From values and times to the picture's coordinates."""

    def __init__(self, points: Sequence[Point], threshold: float | None) -> None:
        values = [point.value for point in points] + ([threshold] if threshold is not None else [])
        self.start, self.end = points[0].at.timestamp(), points[-1].at.timestamp()
        self.ticks = value_ticks(min(0.0, *values), max(values))
        self.low, self.high = self.ticks[0], self.ticks[-1]

    def x(self, seconds: float) -> float:
        share = (seconds - self.start) / ((self.end - self.start) or 1)
        return _LEFT + share * (_WIDTH - _LEFT - _RIGHT)

    def y(self, value: float) -> float:
        share = (value - self.low) / ((self.high - self.low) or 1)
        return _HEIGHT - _BOTTOM - share * (_HEIGHT - _TOP - _BOTTOM)

    def shows(self, seconds: float) -> bool:
        return self.start <= seconds <= self.end


def draw(graph: Graph, marks: Sequence[Mark]) -> str:
    """The picture of a graph that has points; empty for one that has none."""
    if not graph.points:
        return ""
    scale = _Scale(graph.points, graph.threshold)
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {_HEIGHT}" width="{_WIDTH}" '
        f'height="{_HEIGHT}" role="img" font-family="sans-serif" font-size="11">',
        f"<title>{_text(graph.title)}</title>",
        f'<rect width="{_WIDTH}" height="{_HEIGHT}" fill="#ffffff"/>',
        *_value_axis(scale, graph.unit),
        *_time_axis(scale),
        *_threshold(scale, graph.threshold),
        *_lines(scale, graph.points),
        *_moments(scale, marks),
        "</svg>",
    ]
    return "\n".join(parts)


def is_drawable(points: Sequence[Point], threshold: float | None) -> bool:
    """Whether the values lie within what can be divided into parts: neither infinite nor next to nothing apart."""
    values = [0.0, *(point.value for point in points), *([] if threshold is None else [threshold])]
    if not all(map(math.isfinite, values)):
        return False
    spread = max(values) - min(values)
    return spread == 0 or _LEAST_SPREAD <= spread <= _MOST_SPREAD


def value_ticks(low: float, high: float) -> list[float]:
    """Round values that enclose all of them."""
    if high <= low:
        high = low + (abs(low) or 1.0)
    rough = (high - low) / _TICKS
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(factor * power for factor in (1, 2, 5, 10) if factor * power >= rough)
    first, last = math.floor(low / step), math.ceil(high / step)
    return [number * step for number in range(first, last + 1)]


def time_ticks(start: float, end: float) -> list[float]:
    """Round times (seconds since 1970) within them, eight at most."""
    step = next((s for s in _STEPS_SECONDS if (end - start) / s <= 8), _STEPS_SECONDS[-1])
    first = math.ceil(start / step) * step
    return [float(at) for at in range(first, math.floor(end) + 1, step)][:64]


def _value_axis(scale: _Scale, unit: str) -> Iterator[str]:
    for value in scale.ticks:
        y = scale.y(value)
        yield f'<line x1="{_LEFT}" y1="{y:.1f}" x2="{_WIDTH - _RIGHT}" y2="{y:.1f}" stroke="#dddddd"/>'
        yield f'<text x="{_LEFT - 6}" y="{y + 4:.1f}" text-anchor="end">{value:.4g}</text>'
    middle = (_TOP + _HEIGHT - _BOTTOM) / 2
    yield f'<text x="14" y="{middle:.1f}" text-anchor="middle" transform="rotate(-90 14 {middle:.1f})">' + (
        f"{_text(unit or 'value')}</text>"
    )


def _time_axis(scale: _Scale) -> Iterator[str]:
    bottom = _HEIGHT - _BOTTOM
    yield f'<line x1="{_LEFT}" y1="{bottom}" x2="{_WIDTH - _RIGHT}" y2="{bottom}" stroke="#333333"/>'
    ticks = time_ticks(scale.start, scale.end)
    for seconds in ticks:
        x = scale.x(seconds)
        yield f'<line x1="{x:.1f}" y1="{bottom}" x2="{x:.1f}" y2="{bottom + 4}" stroke="#333333"/>'
        yield f'<text x="{x:.1f}" y="{bottom + 16}" text-anchor="middle">{_clock(seconds, scale)}</text>'
    day = datetime.fromtimestamp(scale.start, UTC)
    yield f'<text x="{_WIDTH - _RIGHT}" y="{_HEIGHT - 8}" text-anchor="end">time (UTC), from {day:%Y-%m-%d}</text>'


def _clock(seconds: float, scale: _Scale) -> str:
    at, span = datetime.fromtimestamp(seconds, UTC), scale.end - scale.start
    if span > 3 * 86_400:
        return f"{at:%m-%d}"
    return f"{at:%H:%M}" if span > 600 else f"{at:%H:%M:%S}"


def _threshold(scale: _Scale, value: float | None) -> Iterator[str]:
    if value is not None:
        y = scale.y(value)
        yield (
            f'<line x1="{_LEFT}" y1="{y:.1f}" x2="{_WIDTH - _RIGHT}" y2="{y:.1f}" stroke="#2a7d2a" '
            f'stroke-dasharray="6 4"/>'
        )


def _lines(scale: _Scale, points: Sequence[Point]) -> Iterator[str]:
    """One line for each run of points without a gap."""
    for run in _runs(points):
        if len(run) == 1:
            yield f'<circle cx="{scale.x(run[0].at.timestamp()):.1f}" cy="{scale.y(run[0].value):.1f}" r="2"/>'
            continue
        path = " ".join(f"{scale.x(point.at.timestamp()):.1f},{scale.y(point.value):.1f}" for point in run)
        yield f'<polyline points="{path}" fill="none" stroke="#1f5fa8" stroke-width="1.5"/>'


def _runs(points: Sequence[Point]) -> list[list[Point]]:
    gaps = [(after.at - before.at).total_seconds() for before, after in itertools.pairwise(points)]
    usual = min(gaps, default=0.0)
    runs = [[points[0]]]
    for gap, point in zip(gaps, points[1:], strict=True):
        if gap > 1.5 * usual:
            runs.append([])
        runs[-1].append(point)
    return runs


def _moments(scale: _Scale, marks: Sequence[Mark]) -> Iterator[str]:
    shown = [mark for mark in marks if scale.shows(mark.at.timestamp())]
    for number, mark in enumerate(shown):
        x, label = scale.x(mark.at.timestamp()), clean(mark.label, _MOST_LABEL)
        anchor = "end" if x > _WIDTH / 2 else "start"
        yield f'<line x1="{x:.1f}" y1="{_TOP - 6}" x2="{x:.1f}" y2="{_HEIGHT - _BOTTOM}" stroke="#b3261e"/>'
        yield (
            f'<text x="{x:.1f}" y="{12 + 11 * (number % 3)}" text-anchor="{anchor}" fill="#b3261e">'
            f"{_text(label)}</text>"
        )


def _text(text: str) -> str:
    return html(clean(text, 200))
