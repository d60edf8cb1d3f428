"""What PagerDuty is told of an incident, in the shape and within the limits of its Events API v2. Pure."""

from collections.abc import Iterable, Sequence
from typing import Any, Literal

from paramedic.api.base import format_time
from paramedic.api.incident import Incident, Notice
from paramedic.core import people
from paramedic.core.templates import one_line

Json = dict[str, Any]
Action = Literal["trigger", "acknowledge", "resolve"]
SEVERITIES = {"P0": "critical", "P1": "error", "P2": "warning", "P3": "info"}
_SUMMARY, _FIELD, _LINKS, _NOTE = 1024, 255, 16, 20_000
_KEY = "paramedic-"
_ACTIONS: dict[str, Action] = {
    "Opened": "trigger",
    "Reopened": "trigger",
    "Call": "trigger",
    "Acknowledged": "acknowledge",
    "Resolved": "resolve",
}


def dedup_key(incident: Incident) -> str:
    """By what PagerDuty tells incidents apart: the UID, so that a later incident of the same name is another."""
    return f"{_KEY}{incident.metadata.uid}"


def uid_of(key: str) -> str | None:
    """The UID of the Incident that a dedup key stands for; None for a key that is not ours."""
    return key.removeprefix(_KEY) if key.startswith(_KEY) else None


def actions(notices: Iterable[Notice]) -> list[Action]:
    """The events that the notices, oldest first, come to: each at most once, and of what is over only its end."""
    wanted: list[Action] = []
    for action in (_ACTIONS.get(notice.kind) for notice in notices):
        if action == "resolve" or (action == "trigger" and "resolve" in wanted):
            wanted = [action]
        elif action and action not in wanted and "resolve" not in wanted:
            wanted.append(action)
    return wanted


def event(incident: Incident, dashboards: Sequence[str]) -> Json:
    """The properties of a ``trigger`` besides its key."""
    target = incident.status.target or _target(incident)
    namespace = incident.metadata.namespace
    severity = people.severity(incident)
    payload = {
        "summary": one_line(f"[{severity}] {incident.spec.title}")[:_SUMMARY],
        "source": f"{namespace}/{target}" if target else namespace,
        "severity": SEVERITIES[severity],
        "group": namespace,
        "class": one_line(incident.spec.type)[:_FIELD],
        "custom_details": _details(incident),
    }
    if target:
        payload["component"] = target[:_FIELD]
    if incident.metadata.creation_timestamp:
        payload["timestamp"] = format_time(incident.metadata.creation_timestamp)
    return {"payload": payload, "client": "Paramedic", "links": _links(incident, dashboards)}


def note_line(notice: Notice) -> str:
    """One line of a note: always the same for the same notice, so that it is found again."""
    return one_line(f"[{format_time(notice.at)}] {notice.message}")


def untold(notices: Iterable[Notice], notes: Iterable[str]) -> list[str]:
    """The lines of the notices that no note has yet. How an incident began stands in the event itself."""
    told = {line.strip() for note in notes for line in note.splitlines()}
    lines = (note_line(notice) for notice in notices if notice.kind != "Opened")
    return [line for line in dict.fromkeys(lines) if line not in told]


def notes(lines: Iterable[str]) -> list[str]:
    """The lines as few notes, none of them too long."""
    texts: list[str] = []
    for line in lines:
        if texts and len(texts[-1]) + len(line) < _NOTE:
            texts[-1] += f"\n{line}"
        else:
            texts.append(line)
    return texts


def _target(incident: Incident) -> str:
    target = incident.spec.target
    return f"{target.kind}/{target.name}" if target else ""


def _details(incident: Incident) -> Json:
    meta, status = incident.metadata, incident.status
    details = {
        "incident": f"{meta.namespace}/{meta.name}",
        "state": status.message,
        "commander": people.commander(incident),
        "findings": [one_line(finding.message)[:_FIELD] for finding in status.findings[:3]],
        "escalation": status.escalation.message if status.escalation else None,
        "look": f"kubectl describe incident {meta.name} -n {meta.namespace}",
    }
    return {name: one_line(value)[:_SUMMARY] if isinstance(value, str) else value for name, value in details.items()}


def _links(incident: Incident, dashboards: Sequence[str]) -> list[Json]:
    links = [{"href": url, "text": f"Dashboard {number}"} for number, url in enumerate(dashboards, 1)]
    source = incident.spec.alert.generator_url if incident.spec.alert else None
    if source and source.startswith(("http://", "https://")):
        links.insert(0, {"href": source, "text": "The alert"})
    return links[:_LINKS]
