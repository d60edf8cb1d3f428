"""Gathers the report: the Incident says what was done, Prometheus how the figures went meanwhile."""

import asyncio
import math
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from paramedic.api.incident import Incident
from paramedic.api.policy import ImpactFigure, MessageTemplates
from paramedic.clients.prometheus import Prometheus, Sample
from paramedic.core.messages import impact_line
from paramedic.core.situation import began_at
from paramedic.errors import Retry
from paramedic.report.document import Graph, Mark, Point, Report, build, figures, marks
from paramedic.report.svg import is_drawable

_MOST_GRAPHS, _POINTS, _AT_ONCE = 12, 180, 2
_LEAST_MARGIN, _MOST_MARGIN = timedelta(minutes=5), timedelta(minutes=30)
_COMPARISON = re.compile(r"\s*value\s*(?:<=?|>=?)\s*(-?[0-9]+(?:\.[0-9]+)?)\s*")


@dataclass(frozen=True, slots=True)
class Plot:
    """A figure that is to be shown."""

    title: str
    query: str
    unit: str = ""
    threshold: float | None = None


async def make_report(
    incident: Incident, wording: MessageTemplates | None, prometheus: Prometheus | None, now: datetime
) -> Report:
    """The report. ``wording`` is the policy's ``spec.messages``, whose figures of the impact are shown; without
    Prometheus, or where it does not answer, the graphs say so.
    """
    impact = wording.impact if wording else []
    wanted = plots(incident, impact)
    slots = asyncio.Semaphore(_AT_ONCE)
    window = span(incident, now)

    async def draw(plot: Plot) -> Graph:
        async with slots:
            return await _graph(plot, window, marks(incident), prometheus)

    graphs = await asyncio.gather(*(draw(plot) for plot in wanted))
    worst = {graph.query: graph.maximum for graph in graphs}
    lines = [impact_line(figure, worst.get(figure.query)) for figure in impact]
    return build(incident, graphs, lines, now)


def plots(incident: Incident, impact: Iterable[ImpactFigure]) -> list[Plot]:
    """The figures of the impact, then those that verification asked for; each query once."""
    found = [Plot(figure.name, figure.query, unit(figure.query, figure.text)) for figure in impact]
    for step in incident.status.steps:
        if step.verify and (check := step.verify.prometheus):
            limit = _COMPARISON.fullmatch(check.condition)
            title = f"verification: {check.condition}"
            found.append(Plot(title, check.query, unit(check.query), float(limit[1]) if limit else None))
    by_query = {plot.query: plot for plot in reversed(found)}
    return list(dict.fromkeys(by_query[plot.query] for plot in found))[:_MOST_GRAPHS]


def unit(query: str, text: str = "") -> str:
    """By Prometheus' conventions: base units end a metric's name. Empty where that does not tell."""
    if "percent" in text:
        return "ratio"
    if re.search(r"_seconds(?:_bucket)?\b", query) and "/" not in query:
        return "seconds"
    if re.search(r"_bytes\b", query) and "/" not in query:
        return "bytes"
    return "ratio" if re.search(r"\)\s*/\s*", query) else ""


def span(incident: Incident, now: datetime) -> tuple[datetime, datetime]:
    """From before the trouble began until after its end."""
    began = began_at(incident) or now
    ended = incident.status.resolved_at or now
    margin = min(max((ended - began) / 4, _LEAST_MARGIN), _MOST_MARGIN)
    return began - margin, min(ended + margin, now)


async def _graph(
    plot: Plot, window: tuple[datetime, datetime], moments: Sequence[Mark], prometheus: Prometheus | None
) -> Graph:
    graph = Graph(title=plot.title, query=plot.query, unit=plot.unit, threshold=plot.threshold)
    if prometheus is None:
        return graph.model_copy(update={"problem": "no Prometheus is named"})
    start, end = window
    step = max(1, math.ceil((end - start).total_seconds() / _POINTS))
    try:
        points = _points(await prometheus.query_range(plot.query, start, end, step))
    except Retry as error:
        return graph.model_copy(update={"problem": str(error)})
    problem = _problem(points, plot.threshold)
    shown = {"points": [] if problem else points, "problem": problem}
    return graph.model_copy(update=shown | figures(points, moments))


def _problem(points: Sequence[Point], threshold: float | None) -> str | None:
    """Why there is nothing to be drawn, if so."""
    if not points:
        return "Prometheus has no data of that time"
    return None if is_drawable(points, threshold) else "its values are out of range"


def _points(series: Iterable[Sequence[Sample]]) -> list[Point]:
    """One line: at each moment the greatest value of all series."""
    values: dict[datetime, float] = {}
    for at, value in (sample for one in series for sample in one):
        if math.isfinite(value):
            values[at] = max(value, values.get(at, value))
    return [Point(at=at, value=value) for at, value in sorted(values.items())]
