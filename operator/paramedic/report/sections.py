"""The report as sections of plain text, which every format shows in its own way. Pure; nothing here is escaped."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from paramedic.api.base import format_duration
from paramedic.api.incident import Times
from paramedic.core.messages import in_words
from paramedic.report.document import Action, Graph, Mark, Report


@dataclass(frozen=True, slots=True)
class Table:
    """Rows of cells; without a head, the first cell of a row says what the second is."""

    rows: Sequence[Sequence[str]]
    head: Sequence[str] = ()


@dataclass(frozen=True, slots=True)
class Items:
    """A list; ``done`` of each is None where it is not a checklist."""

    texts: Sequence[tuple[str, bool | None]]


@dataclass(frozen=True, slots=True)
class Paragraph:
    """One line that stands above what follows."""

    text: str


@dataclass(frozen=True, slots=True)
class Plotted:
    """A graph with the moments that it marks."""

    graph: Graph
    marks: Sequence[Mark]


Block = Table | Items | Paragraph | Plotted


@dataclass(frozen=True, slots=True)
class Section:
    """A heading and what is below it."""

    title: str
    blocks: Sequence[Block]


def heading(report: Report) -> str:
    """The report's own title."""
    return f"{report.severity} {report.title}"


def sections(report: Report) -> list[Section]:
    """All sections that have something to say, in order."""
    found = (
        Section("Summary", [_summary(report)]),
        Section("Root cause", _list((report.root_cause or "").splitlines())),
        Section("Impact", _list(report.impact)),
        Section("Times", _times(report)),
        Section("Findings", _list(f"{f.reason}: {f.message}" for f in report.findings)),
        Section("Actions", _actions(report)),
        Section("Metrics", [Plotted(graph, report.marks) for graph in report.graphs]),
        Section("Timeline", _timeline(report)),
        Section("Escalation", _escalation(report)),
        Section("Who was told", _told(report)),
        Section("Evidence", _evidence(report)),
        Section("Checklist", _checklist(report)),
        Section("Open follow-ups", _list(open_follow_ups(report))),
    )
    return [section for section in found if section.blocks]


def open_follow_ups(report: Report) -> list[str]:
    """What remains to be done: by people's word, by the checklist, and what is still to be put back."""
    undone = [f"{item.item} (within {_within(item.due)})" for item in report.checklist if not item.done]
    held = [
        f"{action.step}: a temporary change is in place, and is put back at {moment(action.in_place_until)}"
        for action in report.actions
        if action.in_place_until
    ]
    return [*report.follow_ups, *held, *undone]


def moment(at: datetime | None) -> str:
    """To the second, in UTC."""
    return f"{at:%Y-%m-%d %H:%M:%S} UTC" if at else ""


def number(value: float | None) -> str:
    """As short as it can be read."""
    return "" if value is None else f"{value:.4g}"


def _summary(report: Report) -> Table:
    rows = (
        ("Incident", f"{report.namespace}/{report.name}"),
        ("Type", report.type),
        ("Severity", report.severity),
        ("State", f"{report.phase}: {report.message}" if report.message else report.phase),
        ("Target", report.target),
        ("Policy", report.policy),
        ("Commander", report.commander),
        ("Closed by", report.resolved_by),
        ("Part of", report.parent),
        ("Parts", ", ".join(report.children)),
        ("Report made", moment(report.made_at)),
    )
    return Table([(label, value) for label, value in rows if value])


def _times(report: Report) -> list[Block]:
    times, by = report.times or Times(), report.acknowledgement
    rows = (
        ("Began", moment(report.began_at), ""),
        ("Acknowledged", f"{moment(by.at)} by {by.by} ({by.via})" if by else "", _took(times.acknowledge)),
        ("Mitigated", moment(report.mitigated_at), _took(times.mitigate)),
        ("Resolved", moment(report.resolved_at), _took(times.resolve)),
    )
    return [Table([row for row in rows if row[1]], ("What", "When", "After"))]


def _took(span: timedelta | None) -> str:
    return in_words(span) if span is not None else ""


def _actions(report: Report) -> list[Block]:
    blocks: list[Block] = []
    for action in report.actions:
        blocks.append(Paragraph(f"{action.step} ({action.action} {action.target}): {action.state}"))
        blocks.append(Table(list(_of_action(action))))
        if action.changes:
            rows = [(change.field, change.before, change.after) for change in action.changes]
            blocks.append(Table(rows, ("Field", "Before", "After")))
    if report.skipped:
        left = [(action.step, action.action, action.state, action.message) for action in report.skipped]
        blocks.append(Table(left, ("Not taken", "Action", "State", "Why")))
    return blocks


def _of_action(action: Action) -> Iterator[tuple[str, str]]:
    rows = (
        ("What", action.message),
        ("Approved by", action.approved_by),
        ("Began", moment(action.started_at)),
        ("Ended", moment(action.finished_at)),
        ("Put back", f"{action.put_back} {moment(action.put_back_at)}".strip() if action.put_back else ""),
        ("Made permanent by", action.kept_by),
        ("In place until", moment(action.in_place_until)),
    )
    return ((label, value) for label, value in rows if value)


def _timeline(report: Report) -> list[Block]:
    rows = [(moment(entry.at), entry.actor, entry.reason, entry.message) for entry in report.timeline]
    return [Table(rows, ("When", "Who", "What", "Message"))] if rows else []


def _escalation(report: Report) -> list[Block]:
    found = report.escalation
    if found is None:
        return []
    rows = (
        ("Level", f"{found.level} since {moment(found.since)}"),
        ("Team", found.team),
        ("Why", f"{found.reason}: {found.message}"),
        ("Called for", ", ".join(found.triggers)),
        ("Left to people", "yes" if found.handed_over else "no"),
    )
    return [Table([(label, value) for label, value in rows if value])]


def _told(report: Report) -> list[Block]:
    rows = [(moment(one.at), one.kind, one.message, ", ".join(one.untold)) for one in report.notices]
    ids = sorted(report.external.items())
    told: list[Block] = [Table(rows, ("When", "Kind", "What", "Not told"))] if rows else []
    return [*told, Table(ids, ("Channel", "Id there"))] if ids else told


def _evidence(report: Report) -> list[Block]:
    rows = [
        (
            one.name,
            one.uri or "",
            one.sha256 or "",
            "" if one.size_bytes is None else str(one.size_bytes),
            one.note or "",
        )
        for one in report.evidence
    ]
    return [Table(rows, ("Name", "Where", "SHA-256", "Bytes", "Note"))] if rows else []


def _checklist(report: Report) -> list[Block]:
    texts = [
        (f"{item.item} (within {_within(item.due)}){_by(item.done_by, item.done_at)}", item.done)
        for item in report.checklist
    ]
    return [Items(texts)] if texts else []


def _by(who: str | None, at: datetime | None) -> str:
    return f": {who}, {moment(at)}" if who else ""


def _within(due: timedelta) -> str:
    return {timedelta(hours=24): "24 hours"}.get(due) or in_words(due) or format_duration(due)


def _list(texts: Iterable[str]) -> list[Block]:
    found = [(text, None) for text in texts if text.strip()]
    return [Items(found)] if found else []
