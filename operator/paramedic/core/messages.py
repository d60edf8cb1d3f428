"""What people are told in words: the facts of an incident, and the runbook's texts over them. Pure.

Every fact is one printable line without what looks like a secret, cut to a length that nobody regrets; what shows it
(Slack, HTML, Markdown) escapes it on top. Customers are told none of an incident's own words: no title, no object, no
step, and of a breach or a shutdown only that there is maintenance.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import lru_cache
from importlib.resources import files
from typing import Any, Literal

from paramedic.api.incident import Incident, StepStatus
from paramedic.api.people import Templates
from paramedic.api.policy import READING, SHUTDOWN, ImpactFigure, MessageTemplates
from paramedic.core import markup, people
from paramedic.core.clocks import next_update_at
from paramedic.core.redact import clean
from paramedic.core.situation import began_at
from paramedic.core.templates import one_line
from paramedic.core.texts import compile_text, render_text
from paramedic.core.work import TooMuchWorkError

TextName = Literal[
    "internal_update", "customer_message", "customer_title", "all_clear", "customer_all_clear", "shutdown_notice"
]
StatusWord = Literal["INVESTIGATING", "IDENTIFIED", "MONITORING", "RESOLVED"]
Escape = Callable[[str], str]
TEXTS: tuple[TextName, ...] = (
    "internal_update",
    "customer_message",
    "customer_title",
    "all_clear",
    "customer_all_clear",
    "shutdown_notice",
)
UNKNOWN = "unknown"
_LONGEST, _MOST_LINES, _MOST_ACTIONS = 1024, 20, 5
_UNDER_WAY = frozenset({"Executing", "Verifying", "Unknown"})
_MAINTENANCE = frozenset({"SecurityBreach", "EmergencyShutdown", "EmergencyRecovery"})
_EVERYBODY = frozenset({"all", "channel", "everyone", "here"})
_SLOW = ("elevated response times", "Some users may notice slower performance or occasional timeouts.")
_SYMPTOMS: Mapping[str, tuple[str, str]] = {
    "APIOutage": ("elevated error rates", "Some users may notice failed requests or be unable to use it."),
    "DatabaseDegraded": _SLOW,
    "HighLoad": _SLOW,
    "NetworkDegraded": _SLOW,
    "DDoS": _SLOW,
    "QueueBacklog": ("delays", "Some users may notice that their requests take longer to be processed."),
}
_ANY_SYMPTOM = ("a disruption", "Some users may notice slower performance or failed requests.")
_DEFAULTS: Mapping[TextName, str] = {
    name: files("paramedic.core").joinpath("message_templates", f"{name}.j2").read_text("utf-8") for name in TEXTS
}


@dataclass(frozen=True, slots=True)
class Circumstances:
    """What is not on the Incident: the time, figures that were looked up, and what the settings and the policy say."""

    now: datetime
    impact: Sequence[str] = ()
    update_every: timedelta | None = None
    service: str = "service"
    status_page: str = ""
    dashboards: Sequence[str] = ()


def facts(incident: Incident, around: Circumstances, escape: Escape = markup.plain) -> dict[str, Any]:
    """The variables of all texts, by name: lines of text, lists of lines, and maps of labels; ``escape`` is applied to
    each line.
    """
    symptom, effect = _SYMPTOMS.get(incident.spec.type, _ANY_SYMPTOM)
    ended = incident.status.resolved_at
    due = next_update_at(incident, around.update_every) if around.update_every else None
    values = {
        **_identity(incident),
        "status": status_word(incident),
        "time": _time(around.now),
        "resolved": _time(ended or around.now),
        "duration": in_words((ended or around.now) - (began_at(incident) or around.now)),
        "impact": list(around.impact) or [incident.spec.title],
        "actions": _actions(incident),
        "next_update": f"{due:%H:%M} UTC" if due else "",
        "update_every": in_words(around.update_every) if around.update_every else "",
        "commander": _commander(incident),
        "resolution": _resolution(incident),
        "root_cause": _root_cause(incident),
        "follow_ups": _follow_ups(incident),
        "findings": [finding.message for finding in incident.status.findings],
        "shutdown_date": _date(_shutdown_began(incident) or around.now),
        "maintenance": is_maintenance(incident),
        "symptom": symptom,
        "effect": effect,
        "service": around.service,
        "status_page": around.status_page,
        "dashboards": list(around.dashboards),
    }
    return {name: _told(value, escape) for name, value in values.items()}


def render(name: TextName, values: Mapping[str, Any], own: MessageTemplates | None, general: Templates) -> str:
    """One text: the policy's ``own`` template, else the settings' (``general``), else the runbook's. A template that
    cannot be rendered is passed over for the next one: people are told in any case.
    """
    for template in (getattr(own, name, None), getattr(general, name)):
        if template:
            try:
                return render_text(template, values)
            except ValueError:
                continue
    return render_text(_DEFAULTS[name], values)


def impact_line(figure: ImpactFigure, value: float | None) -> str:
    """One line about a figure; None is told as unknown."""
    try:
        shown: Any = UNKNOWN if value is None else value
        return one_line(render_text(figure.text, {"value": shown}, limit=_LONGEST))
    except ValueError:
        return f"{figure.name}: {UNKNOWN}"


def problems(templates: Templates | MessageTemplates) -> Iterable[str]:
    """What is wrong in the templates of the settings or a policy, each with the field that it is about."""
    for name in TEXTS:
        template = getattr(templates, name)
        if template:
            yield from _problem(_camel(name), template, NAMES)
    if isinstance(templates, MessageTemplates):
        for figure in templates.impact:
            yield from _problem(f"impact.{figure.name}.text", figure.text, frozenset({"value"}))


def status_word(incident: Incident) -> StatusWord:
    """Where it stands, in the words that status pages use: identified once a remedy has been applied, monitoring once
    one was verified.
    """
    if incident.status.phase == "Resolved":
        return "RESOLVED"
    if incident.status.mitigated_at:
        return "MONITORING"
    remedies = [step for step in incident.status.steps if step.action not in READING]
    if any(step.state in _UNDER_WAY or step.state == "Succeeded" for step in remedies):
        return "IDENTIFIED"
    return "INVESTIGATING"


def is_maintenance(incident: Incident) -> bool:
    """Whether the public is told of maintenance, whatever it really is."""
    return incident.spec.type in _MAINTENANCE


def in_words(span: timedelta) -> str:
    """``25 minutes``, ``1 hour 5 minutes``, ``2 days 3 hours``."""
    minutes = max(0, round(span.total_seconds() / 60))
    if minutes == 0:
        return "less than a minute"
    days, hours = minutes // 1440, minutes // 60 % 24
    parts = [(days, "day"), (hours, "hour"), (minutes % 60 if not days else 0, "minute")]
    return " ".join(f"{count} {unit}{'s' if count > 1 else ''}" for count, unit in parts if count)


def _identity(incident: Incident) -> dict[str, Any]:
    metadata, spec = incident.metadata, incident.spec
    alert = spec.alert
    return {
        "name": metadata.name,
        "namespace": metadata.namespace,
        "title": spec.title,
        "type": spec.type,
        "severity": people.severity(incident),
        "phase": incident.status.phase,
        "target": incident.status.target or (f"{spec.target.kind}/{spec.target.name}" if spec.target else ""),
        "message": incident.status.message or "",
        "labels": dict(alert.labels) if alert else {},
        "annotations": dict(alert.annotations) if alert else {},
        "kubectl": f"kubectl describe incident {metadata.name} -n {metadata.namespace}",
    }


def _commander(incident: Incident) -> str:
    """Empty where nobody leads, and for a word that would mention everybody."""
    name = incident.spec.commander or incident.status.commander or ""
    return "" if name.lower() in _EVERYBODY else name


def _actions(incident: Incident) -> list[str]:
    """What has been done and is being done, the newest last; then what happens next."""
    done = [step for step in incident.status.steps if step.started_at and step.message and step.action not in READING]
    lines = [_line(step) for step in done[-_MOST_ACTIONS:]]
    last = incident.status.message
    return [*lines, last] if last and all(last not in line for line in lines) else lines


def _line(step: StepStatus) -> str:
    put_back = " (put back)" if step.state == "Reverted" else ""
    failed = " (failed)" if step.state == "Failed" else ""
    return f"{step.message}{put_back}{failed}"


def _resolution(incident: Incident) -> list[str]:
    lines = [_line(step) for step in incident.status.steps if step.state == "Succeeded" and step.action not in READING]
    return [*lines, *([incident.status.message] if incident.status.message else [])]


def _root_cause(incident: Incident) -> list[str]:
    """A person's word; else what the diagnosis found, as what it is."""
    resolution = people.resolution(incident)
    if resolution and resolution.root_cause:
        return _lines(resolution.root_cause)
    return [f"Not confirmed by a person yet; found: {finding.message}" for finding in incident.status.findings[:1]]


def _follow_ups(incident: Incident) -> list[str]:
    resolution = people.resolution(incident)
    return list(resolution.follow_ups) if resolution else []


def _lines(text: str) -> list[str]:
    """The lines of what a person wrote, without the dashes of a list."""
    return [line for raw in text.splitlines() if (line := raw.strip().removeprefix("- ").strip())]


def _shutdown_began(incident: Incident) -> datetime | None:
    started = (step.started_at for step in incident.status.steps if step.action == SHUTDOWN)
    return min((at for at in started if at), default=None)


def _told(value: Any, escape: Escape) -> Any:
    if isinstance(value, str):
        return escape(clean(value, _LONGEST))
    if isinstance(value, list):
        return [_told(item, escape) for item in value[:_MOST_LINES]]
    if isinstance(value, dict):
        return {key: _told(inner, escape) for key, inner in value.items()}
    return value


def _time(moment: datetime) -> str:
    return f"{moment:%Y-%m-%d %H:%M} UTC"


def _date(moment: datetime) -> str:
    """As ``date`` writes it."""
    return f"{moment:%a %b} {moment.day:>2} {moment:%H:%M:%S UTC %Y}"


def _problem(where: str, template: str, names: frozenset[str]) -> Iterable[str]:
    problem = _wrong(template, names)
    if problem:
        yield f"{where}: {problem}"


@lru_cache(maxsize=256)
def _wrong(template: str, names: frozenset[str]) -> str | None:
    """What is wrong, be it that the template works on too much where the facts are long."""
    try:
        compile_text(template, names)
    except ValueError as error:
        return str(error)
    try:
        render_text(template, {name: _LONG.get(name, 1.0) for name in names})
    except TooMuchWorkError as error:
        return str(error)
    except ValueError:
        return None  # whether it can be rendered is up to what the facts are
    return None


def _camel(name: str) -> str:
    head, *rest = name.split("_")
    return head + "".join(word.capitalize() for word in rest)


NAMES = frozenset(
    {
        "actions",
        "annotations",
        "commander",
        "dashboards",
        "duration",
        "effect",
        "findings",
        "follow_ups",
        "impact",
        "kubectl",
        "labels",
        "maintenance",
        "message",
        "name",
        "namespace",
        "next_update",
        "phase",
        "resolution",
        "resolved",
        "root_cause",
        "service",
        "severity",
        "shutdown_date",
        "status",
        "status_page",
        "symptom",
        "target",
        "time",
        "title",
        "type",
        "update_every",
    }
)
"""The variables of a template; ``facts`` gives each of them."""
LISTS = frozenset({"actions", "dashboards", "findings", "follow_ups", "impact", "resolution", "root_cause"})
"""Those that are lists of lines."""
MAPS = frozenset({"labels", "annotations"})
_LONG: Mapping[str, Any] = (
    dict.fromkeys(NAMES, "x" * _LONGEST)
    | {name: ["x" * _LONGEST] * _MOST_LINES for name in LISTS}
    | {name: {"alertname": "x" * _LONGEST} for name in MAPS}
)
