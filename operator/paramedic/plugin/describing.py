"""One incident as a person on call reads it. Pure: the incident and the time in, lines out."""

from collections.abc import Iterable, Iterator, Sequence
from datetime import datetime

from paramedic.api.base import format_duration
from paramedic.api.incident import Incident, IncidentStatus, StepStatus, TimelineEntry
from paramedic.core import people
from paramedic.plugin.next_steps import commands
from paramedic.plugin.planned import change_lines, lease_line
from paramedic.plugin.screen import Line, Span
from paramedic.plugin.styles import COMMAND, FAINT, HEADING, LABEL, PHASE_STYLES, SEVERITY_STYLES, STEP_SIGNS
from paramedic.plugin.texts import age, clock

_LABEL_WIDTH = 14
_INDENT = "  "


def describe(incident: Incident, now: datetime) -> list[Line]:
    """The whole of it: what, who, when, what was found and done, the record, and what the reader can do next."""
    sections = [
        _head(incident, now),
        _section("Findings", _findings(incident.status)),
        _section("Steps", _steps(incident.status, now)),
        _section("Channels", _external(incident.status)),
        _section("Evidence", _evidence(incident.status)),
        _section("Resolution", _resolution(incident)),
        _section("Checklist", _checklist(incident.status)),
        _section("Timeline", (timeline_line(entry) for entry in incident.status.timeline)),
        _section("What you can do", ([_INDENT, Span(command, COMMAND)] for command in commands(incident))),
    ]
    lines: list[Line] = []
    for section in sections:
        found = list(section)
        lines += ([[""]] if lines and found else []) + found
    return lines


def timeline_line(entry: TimelineEntry) -> Line:
    """One line of the record."""
    return [
        _INDENT,
        Span(clock(entry.at), FAINT),
        f"  {entry.reason}  ",
        entry.message,
        Span(f"  ({entry.actor})", FAINT),
    ]


def phase_line(incident: Incident) -> Line:
    """Where it stands now."""
    phase = incident.status.phase
    return [_INDENT, Span(phase, PHASE_STYLES.get(phase, "")), f": {incident.status.message or ''}"]


def _section(title: str, lines: Iterable[Line]) -> Iterator[Line]:
    """The lines under their title; nothing where there are none."""
    for number, line in enumerate(lines):
        if number == 0:
            yield [Span(title, HEADING)]
        yield line


def _head(incident: Incident, now: datetime) -> Iterator[Line]:
    severity, phase = people.severity(incident), incident.status.phase
    yield [
        Span(incident.metadata.name, HEADING),
        "  ",
        Span(severity, SEVERITY_STYLES.get(severity, "")),
        "  ",
        Span(phase, PHASE_STYLES.get(phase, "")),
        "  (paused)" if incident.spec.paused and phase != "Resolved" else "",
    ]
    yield [incident.spec.title]
    yield [""]
    for label, value in (*_what(incident), *_who(incident), *_when(incident, now)):
        if value:
            yield [Span(label.ljust(_LABEL_WIDTH), LABEL), value]


def _what(incident: Incident) -> list[tuple[str, str]]:
    spec, status = incident.spec, incident.status
    target = status.target or (f"{spec.target.kind}/{spec.target.name}" if spec.target else "")
    policy = f"{status.policy.key}, mode {status.policy.mode}" if status.policy else "none: people only"
    alert = f"{status.alert.state}, received {status.alert.count} times" if status.alert else ""
    return [
        ("Message", status.message or ""),
        ("Namespace", incident.metadata.namespace),
        ("Type", spec.type),
        ("Target", target),
        ("Sources", ", ".join(spec.source_addresses)),
        ("Policy", policy),
        ("Alert", alert),
        ("Part of", status.parent or ""),
        ("Parts", ", ".join(status.children)),
    ]


def _who(incident: Incident) -> list[tuple[str, str]]:
    status = incident.status
    taken, call = status.acknowledgement, status.escalation
    acknowledged = f"by {taken.by} at {clock(taken.at)}, {taken.via}" if taken else ""
    escalated = f"level {call.level}{f' of {call.team}' if call.team else ''} since {clock(call.since)}" if call else ""
    return [
        ("Commander", people.commander(incident)),
        ("Acknowledged", acknowledged or (incident.spec.acknowledged_by or "by nobody")),
        ("Escalated", f"{escalated}: {call.message}" if call else ""),
    ]


def _when(incident: Incident, now: datetime) -> list[tuple[str, str]]:
    status, created = incident.status, incident.metadata.creation_timestamp
    times = status.times
    until = {"acknowledge": "acknowledged", "mitigate": "mitigated", "resolve": "resolved"}
    spans = [(word, getattr(times, name)) for name, word in until.items()] if times else []
    return [
        ("Opened", f"{clock(created)}, {age(created, now)} ago" if created else ""),
        ("Ended", clock(status.resolved_at) if status.resolved_at else ""),
        ("Times", ", ".join(f"{word} after {format_duration(span)}" for word, span in spans if span is not None)),
    ]


def _findings(status: IncidentStatus) -> Iterator[Line]:
    for finding in status.findings:
        about = f"{finding.object}: " if finding.object else ""
        yield [_INDENT, Span(finding.reason, "bold"), f"  {about}{finding.message}"]


def _steps(status: IncidentStatus, now: datetime) -> Iterator[Line]:
    for step in status.steps:
        sign, style = STEP_SIGNS.get(step.state, ("·", ""))
        yield [
            _INDENT,
            Span(f"{sign} {step.name}", style),
            f"  {step.action}  ",
            Span(step.state, style),
            f"  {step.message or step.reason}",
        ]
        yield from ([_INDENT * 3, detail] for detail in _details(step, now))


def _details(step: StepStatus, now: datetime) -> Sequence[str]:
    done = f"{clock(step.started_at)}, took {age(step.started_at, step.finished_at or now)}" if step.started_at else ""
    verification = step.verification.message if step.state == "Verifying" and step.verification else ""
    waits = step.state in ("Pending", "AwaitingApproval", "Blocked") and step.approval_required
    approval = f"approved by {step.approved_by}" if step.approved_by else ("needs approval" if waits else "")
    kept = f"left in place by {step.kept_by}" if step.kept_by else ""
    back = f"put back: {step.revert.state}, {step.revert.message}" if step.revert else lease_line(step)
    return [
        line for line in (*change_lines(step.before, step.after), done, verification, approval, kept or back) if line
    ]


def _external(status: IncidentStatus) -> Iterator[Line]:
    for where, identifier in sorted((status.external or {}).items()):
        yield [_INDENT, f"{where}  {identifier}"]


def _evidence(status: IncidentStatus) -> Iterator[Line]:
    for one in status.evidence:
        checksum = f"  sha256:{one.sha256}" if one.sha256 else ""
        yield [_INDENT, f"{one.name}  {one.uri or 'not kept'}{checksum}{f'  ({one.note})' if one.note else ''}"]


def _resolution(incident: Incident) -> Iterator[Line]:
    said = people.resolution(incident)
    if said is None:
        return
    yield [_INDENT, f"by {said.resolved_by}"]
    for number, line in enumerate((said.root_cause or "").splitlines()):
        yield [_INDENT, "root cause: " if number == 0 else _INDENT, line]
    yield from ([_INDENT, f"follow-up: {item}"] for item in said.follow_ups)


def _checklist(status: IncidentStatus) -> Iterator[Line]:
    for number, item in enumerate(status.checklist, 1):
        mark, style = ("[x]", FAINT) if item.done else ("[ ]", "")
        by = f"  ({item.done_by})" if item.done_by else ""
        yield [_INDENT, Span(f"{number:>2} {mark} within {format_duration(item.due)}: {item.item}{by}", style)]
