"""The post-incident report: what it says, in three formats; hostile text stays text; graphs of a real Prometheus."""

from __future__ import annotations

import asyncio
import itertools
import json
import os
import re
import xml.etree.ElementTree as ET
from collections.abc import AsyncIterator, Iterator
from datetime import UTC, datetime, timedelta
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from builders import NOW, ago, incident, later, step, verify
from paramedic.api.incident import Incident
from paramedic.api.policy import MessageTemplates
from paramedic.clients.prometheus import Prometheus as Client
from paramedic.report import FORMATS, make_report, render
from paramedic.report.document import Graph, Mark, Point
from paramedic.report.gather import plots, span, unit
from paramedic.report.markdown import sparkline
from paramedic.report.svg import draw, time_ticks, value_ticks
from testbed.api import eventually
from testbed.monitoring import Prometheus

Json = dict[str, Any]
GOLDEN = Path(__file__).parent / "golden"
HOSTILE = (
    "</title><script>alert(1)</script><img src=x onerror=alert(2)> [click](javascript:alert(3)) **b** `c` | cell | "
    "\x1b[31m @channel <!channel> \" ' {{ 7 * 7 }} \u202egnp password=hunter2hunter2\nsecond line"
)
QUERY = 'sum(rate(http_requests_total{code=~"5.."}[1m])) / sum(rate(http_requests_total[1m]))'
IMPACT = MessageTemplates.model_validate(
    {"impact": [{"name": "failing", "query": "failing", "text": "{{ value | percent }} of requests failing"}]}
)


class Remembered(Client):
    """Answers from a table instead of a server."""

    def __init__(self) -> None:
        super().__init__("http://127.0.0.1:9")

    async def query_range(self, promql: str, start: datetime, end: datetime, step_seconds: int) -> list[Any]:
        if promql != "failing":
            return []
        times = [ago(10) + timedelta(minutes=2 * n) for n in range(10)]
        return [[(at, 0.0 if n < 2 or n > 6 else n / 10) for n, at in enumerate(times)]]


def story() -> Incident:
    """An incident with something in every field."""
    checks = verify(prometheus={"query": QUERY, "condition": "value < 0.01"})
    undo = step(
        "undo",
        "Failed",
        action="rollback",
        message="covet-app: revision 7 → 6; did not help: not yet",
        before={"revision": 7, "image": "covet:7"},
        after={"revision": 6, "image": "covet:6"},
        started_at=ago(8),
        finished_at=ago(6),
        verify=checks,
        revert={
            "state": "Succeeded",
            "message": "covet-app: revision 6 → 7",
            "operation": "o",
            "started_at": ago(6),
            "finished_at": ago(5),
        },
    )
    room = step(
        "more-room",
        "Succeeded",
        message="covet-app: 3 → 10 replicas",
        approved_by="alice",
        before={"replicas": 3},
        after={"replicas": 10},
        started_at=ago(4),
        finished_at=ago(2),
        ttl=timedelta(hours=1),
        kept_by="alice",
        verify=checks,
    )
    status: Json = {
        "message": "closed by alice: a memory leak",
        "target": "Deployment/covet-app",
        "severity": "P0",
        "acknowledgement": {"by": "alice", "at": ago(7), "via": "slack"},
        "commander": "alice",
        "mitigatedAt": ago(2),
        "resolvedAt": NOW,
        "times": {"acknowledge": "3m", "mitigate": "8m", "resolve": "10m"},
        "escalation": {"level": 2, "since": ago(5), "team": "ops", "reason": "Unanswered", "message": "nobody came"},
        "external": {"slack/channel": "C1", "pagerduty": "key"},
        "notices": [
            {"key": "k", "kind": "Opened", "at": ago(9), "message": "API returns 5xx", "undelivered": ["page"]},
        ],
        "evidence": [{"name": "events.jsonl", "uri": "s3://b/events.jsonl", "sha256": "ab" * 32, "sizeBytes": 12}],
        "findings": [{"reason": "RecentRollout", "message": "revision 7 was rolled out 3 minutes before"}],
        "checklist": [
            {"due": "1h", "item": "Verify all systems are stable", "done": True, "doneBy": "paramedic", "doneAt": NOW},
            {"due": "24h", "item": "Identify immediate action items"},
            {"due": "7d", "item": "Document lessons learned"},
        ],
        "timeline": [
            {"at": ago(10), "actor": "paramedic", "reason": "AlertReceived", "message": "alert CovetApiErrors"},
            {"at": NOW, "actor": "alice", "reason": "ResolvedByPerson", "message": "closed by alice"},
        ],
    }
    resolution = {"resolvedBy": "alice", "rootCause": "a memory leak\nin the cache", "followUps": ["add a limit"]}
    skipped = step("restart", "Skipped", action="restart", message="step more-room helped")
    return incident(undo, room, skipped, phase="Resolved", status=status, resolution=resolution)


def hostile() -> Incident:
    """The same text wherever a text can stand."""
    raw = story().model_dump(by_alias=True, mode="json", exclude_none=True)
    spoiled: Json = json.loads(json.dumps(raw), object_hook=_spoil)
    return Incident.model_validate(spoiled)


def _spoil(found: Json) -> Json:
    free = {"title", "message", "rootCause", "name", "by", "uri", "note", "commander", "image", "query", "actor"}
    return {key: HOSTILE if key in free and isinstance(value, str) else value for key, value in found.items()}


@pytest.mark.parametrize("form", FORMATS)
async def test_what_it_says(form: str) -> None:
    report = await make_report(story(), IMPACT, Remembered(), later(1))
    file, found = GOLDEN / f"report.{form}", render(report, form)
    if os.environ.get("PARAMEDIC_WRITE_GOLDEN"):
        file.write_text(found)
    assert found == file.read_text()


async def test_nothing_of_it_is_lost_in_any_format() -> None:
    """What a review needs, whatever it is shown in."""
    report = await make_report(story(), IMPACT, Remembered(), later(1))
    for form in FORMATS:
        text = _text_of(render(report, form), form)
        for fact in (
            "API returns 5xx",
            "P0",
            "60% of requests failing",
            "covet:7",
            "covet:6",
            "alice",
            "RecentRollout",
            "ab" * 32,
            "add a limit",
            "Document lessons learned",
            "a memory leak",
            "nobody came",
            "C1",
        ):
            assert fact in text, (form, fact)


def _text_of(document: str, form: str) -> str:
    """As it is read: without the format's own escapes."""
    if form == "html":
        reader = Reader()
        reader.feed(document)
        return "\n".join(reader.texts)
    if form == "md":
        return re.sub(r"\\([\\`*_~\[\]<>#|!])", r"\1", document)
    # JSON has the impact and all the rest as data.
    return json.dumps(json.loads(document), ensure_ascii=False)


class Reader(HTMLParser):
    """What a browser makes of a page: elements, attributes, texts."""

    def __init__(self) -> None:
        super().__init__()
        self.elements: list[str] = []
        self.attributes: list[tuple[str, str | None]] = []
        self.texts: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append(tag)
        self.attributes += attrs

    def handle_data(self, data: str) -> None:
        self.texts.append(data)


async def test_hostile_text_is_text_in_html() -> None:
    calm = render(await make_report(story(), IMPACT, Remembered(), later(1)), "html")
    spoiled = render(await make_report(hostile(), IMPACT, Remembered(), later(1)), "html")
    readers = []
    for page in (calm, spoiled):
        reader = Reader()
        reader.feed(page)
        readers.append(reader)
    assert "script" not in readers[1].elements
    assert set(readers[1].elements) <= set(readers[0].elements) | {"p"}
    assert {name for name, _ in readers[1].attributes} == {name for name, _ in readers[0].attributes}
    assert not any(name.startswith("on") or name in ("href", "src", "style") for name, _ in readers[1].attributes)
    assert any("<script>alert(1)</script>" in text for text in readers[1].texts), "it is shown as what it is"
    assert "hunter2" not in spoiled
    assert "\x1b" not in spoiled


async def test_a_browser_is_told_to_load_and_run_nothing() -> None:
    page = render(await make_report(story(), None, None, later(1)), "html")
    policy = re.search(r'Content-Security-Policy" content="([^"]+)"', page)
    assert policy
    assert policy[1].startswith("default-src 'none'; style-src 'sha256-")
    assert "unsafe" not in policy[1]


async def test_hostile_text_is_text_in_markdown() -> None:
    found = render(await make_report(hostile(), IMPACT, Remembered(), later(1)), "md")
    assert "<script" not in found.replace("\\<script", "")
    assert "](javascript" not in found.replace("\\](javascript", "")
    assert "@channel" not in found
    assert "hunter2" not in found
    assert "\x1b" not in found
    rows = [line for line in found.splitlines() if line.startswith("|")]
    for head, row in itertools.pairwise(rows):
        if set(row) == set("| -"):
            assert _cells(head) == _cells(row)
    assert len({_cells(line) for line in rows if "AlertReceived" in line or "ResolvedByPerson" in line}) == 1


def _cells(row: str) -> int:
    return len(re.findall(r"(?<!\\)\|", row))


async def test_hostile_text_stays_out_of_a_terminal_in_json() -> None:
    found = render(await make_report(hostile(), IMPACT, Remembered(), later(1)), "json")
    assert found.isascii()
    assert "\x1b" not in found
    assert json.loads(found)["title"] == HOSTILE


# -- its parts ---------------------------------------------------------------------------------------------------------


def test_each_figure_once_the_impact_first() -> None:
    impact = MessageTemplates.model_validate({"impact": [{"name": "q", "query": QUERY, "text": "{{ value }}"}]}).impact
    assert [plot.title for plot in plots(story(), impact)] == ["q"]
    (plot,) = plots(story(), [])
    assert (plot.title, plot.threshold, plot.unit) == ("verification: value < 0.01", 0.01, "ratio")


@pytest.mark.parametrize(
    ("query", "text", "told"),
    [
        (QUERY, "", "ratio"),
        ("failing", "{{ value | percent }}", "ratio"),
        ("histogram_quantile(0.99, sum by (le) (rate(http_seconds_bucket[5m])))", "", "seconds"),
        ("max(container_memory_bytes)", "", "bytes"),
        ("queue_length", "", ""),
    ],
)
def test_units_by_the_names_of_metrics(query: str, text: str, told: str) -> None:
    assert unit(query, text) == told


def test_from_before_it_began_until_after_its_end() -> None:
    assert span(story(), later(60)) == (ago(15), later(5))
    assert span(story(), later(1)) == (ago(15), later(1)), "not beyond now"


def graph(*values: float, **more: Any) -> Graph:
    return Graph(title="t", query="q", points=[Point(at=later(n), value=v) for n, v in enumerate(values)], **more)


@pytest.mark.parametrize(
    "of",
    [
        graph(1.0),
        graph(0, 0, 0),
        graph(-1, 1e12),
        graph(5e-9, 6e-9),
        graph(0.5, threshold=0.01),
        graph(3, 3),
        graph(-1e300, -1e300),
        graph(-5e299, 5e299),
        graph(0, 1e-300),
    ],
    ids=["one", "zero", "huge", "tiny", "threshold", "flat", "least", "widest", "narrowest"],
)
def test_every_picture_is_whole_and_within_its_frame(of: Graph) -> None:
    root = ET.fromstring(draw(of, [Mark(at=later(0), label="undo"), Mark(at=ago(60), label="before it all")]))
    width, height = (float(root.get(name, "")) for name in ("width", "height"))
    for element in root.iter():
        for name, most in (("x", width), ("x1", width), ("x2", width), ("cx", width), ("y", height), ("cy", height)):
            assert 0 <= float(element.get(name, "0")) <= most, ET.tostring(element)
        for pair in element.get("points", "").split():
            x, y = map(float, pair.split(","))
            assert 0 <= x <= width
            assert 0 <= y <= height
    texts = [element.text for element in root.iter() if element.text]
    assert "undo" in texts
    assert "before it all" not in texts
    assert any("UTC" in text for text in texts)


def test_a_gap_is_shown_as_a_gap() -> None:
    points = [Point(at=later(n), value=1.0) for n in (0, 1, 2, 9, 10)]
    root = ET.fromstring(draw(Graph(title="t", query="q", points=points), []))
    assert len(root.findall("{http://www.w3.org/2000/svg}polyline")) == 2


def test_hostile_text_is_text_in_a_picture() -> None:
    root = ET.fromstring(draw(graph(1, 2, unit=HOSTILE), [Mark(at=later(0), label=HOSTILE)]))
    assert {element.tag.rpartition("}")[2] for element in root.iter()} == {
        "svg",
        "title",
        "rect",
        "line",
        "text",
        "polyline",
    }


def test_ticks_are_round_and_few() -> None:
    assert value_ticks(0, 0.15) == pytest.approx([0, 0.05, 0.1, 0.15])
    assert value_ticks(0, 7) == [0, 2, 4, 6, 8]
    assert value_ticks(0, 0) == pytest.approx([0, 0.2, 0.4, 0.6, 0.8, 1.0])
    start = NOW.timestamp()
    assert time_ticks(start + 10, start + 30 * 60) == [start + 300 * n for n in range(1, 7)]
    assert len(time_ticks(start, start + 400 * 86_400)) <= 64


def test_a_line_of_blocks() -> None:
    assert sparkline([0, 1, 2, 3, 4, 5, 6, 7]) == "▁▂▃▄▅▆▇█"
    assert sparkline([5, 5]) == "▁▁"
    spike = [0.0] * 500
    spike[250] = 1.0
    assert "█" in sparkline(spike), "no spike gets lost"


# -- a real Prometheus -------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def prometheus(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Prometheus]:
    with Prometheus(tmp_path_factory.mktemp("prometheus")) as running:
        running.set_targets("self", [running.url.removeprefix("http://")])
        yield running


@pytest.fixture
async def client(prometheus: Prometheus) -> AsyncIterator[Client]:
    made = Client(prometheus.url)
    yield made
    made.close()


async def test_graphs_of_what_prometheus_knows(prometheus: Prometheus, client: Client) -> None:
    await eventually(
        lambda: asyncio.to_thread(prometheus.query, "count_over_time(up[1m]) > 3"), timeout=30, what="some samples"
    )
    now = datetime.now(UTC)
    checks = [
        verify(prometheus={"query": query, "condition": "value > 0.5"})
        for query in ("up", "vector(3)", "sum(", "nothing")
    ]
    steps = [step(f"s{n}", "Succeeded", started_at=now, verify=check) for n, check in enumerate(checks)]
    of = incident(*steps, alert_state=None, metadata={"creationTimestamp": (now - timedelta(seconds=30)).isoformat()})
    report = await make_report(of, None, client, now)
    up, three, broken, nothing = report.graphs
    assert up.maximum == 1.0
    assert up.threshold == 0.5
    assert all(point.at.tzinfo for point in up.points)
    assert (three.minimum, three.at_action) == (3.0, 3.0)
    assert len(three.points) > 100
    assert broken.problem
    assert broken.points == []
    assert nothing.problem == "Prometheus has no data of that time"
    page = render(report, "html")
    assert page.count("<svg") == 2
    assert "Prometheus has no data of that time" in page


@pytest.mark.parametrize(
    ("query", "condition"),
    [
        ("1e308 * (-1) ^ (floor(vector(time()) / 60) % 2)", "value > 0"),
        ("5e-324 * (floor(vector(time()) / 60) % 2)", "value > 0"),
        ("vector(-1e308)", "value > 0"),
        ("vector(1)", f"value > {'9' * 400}"),
    ],
    ids=["wide", "narrow", "flat", "limit"],
)
async def test_values_out_of_range_are_not_shown(client: Client, query: str, condition: str) -> None:
    now = datetime.now(UTC)
    check = verify(prometheus={"query": query, "condition": condition})
    since = (now - timedelta(seconds=30)).isoformat()
    of = incident(step("s", "Succeeded", verify=check), alert_state=None, metadata={"creationTimestamp": since})
    report = await make_report(of, None, client, now)
    assert [(graph.problem, graph.points) for graph in report.graphs] == [("its values are out of range", [])]
    assert all("its values are out of range" in render(report, form) for form in FORMATS)


async def test_what_is_no_finite_number_is_left_out(client: Client) -> None:
    now = datetime.now(UTC)
    checks = [
        verify(prometheus={"query": f"vector({value})", "condition": "value > 0"}) for value in ("NaN", "Inf", "-1e17")
    ]
    of = incident(*(step(f"s{n}", "Succeeded", started_at=now, verify=check) for n, check in enumerate(checks)))
    report = await make_report(of, None, client, now)
    assert [graph.problem for graph in report.graphs] == ["Prometheus has no data of that time"] * 2 + [None]
    assert render(report, "html").count("<svg") == 1


async def test_without_prometheus_the_report_says_so() -> None:
    report = await make_report(story(), IMPACT, None, later(1))
    assert {graph.problem for graph in report.graphs} == {"no Prometheus is named"}
    assert report.impact == ["unknown of requests failing"]
