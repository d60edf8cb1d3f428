"""What PagerDuty is told of an incident, in the shape and within the limits of its Events API v2. Pure."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from paramedic.api.base import format_time
from paramedic.api.incident import Incident, Notice
from paramedic.api.reasons import Reason
from paramedic.core import people
from paramedic.core.alert import short_hash
from paramedic.core.notices import URGENT
from paramedic.core.templates import one_line

Json = dict[str, Any]
Action = Literal["trigger", "acknowledge", "resolve"]
SEVERITIES = {"P0": "critical", "P1": "error", "P2": "warning", "P3": "info"}
_SUMMARY, _FIELD, _LINKS, _NOTE = 1024, 255, 16, 20_000
_KEY, _MOST_PAGES = "paramedic-", 32
_ACTIONS: dict[str, Action] = {
    "Opened": "trigger",
    "Call": "trigger",
    "Acknowledged": "acknowledge",
    "Resolved": "resolve",
}


@dataclass(frozen=True, slots=True)
class Paged:
    """What PagerDuty has got of an incident: one alert for each time that people were paged."""

    keys: tuple[str, ...] = ()
    """The alerts' dedup keys; the first is the incident's own."""
    severity: str = ""
    """With which people were paged last."""
    sent: str = ""
    """Key of the newest notice whose events PagerDuty has accepted."""

    @classmethod
    def read(cls, incident: Incident, channel: str) -> "Paged":
        """As the channel of this name has kept it on ``status.external``."""
        known, own = incident.status.external or {}, dedup_key(incident)
        more = tuple(f"{own}/{mark}" for mark in known.get(f"{channel}/pages", "").split())
        keys = (own, *more) if channel in known else ()
        return cls(keys, known.get(f"{channel}/severity", ""), known.get(f"{channel}/sent", ""))

    def to_external(self, channel: str) -> dict[str, str]:
        """As it is kept there."""
        own, more = self.keys[:1], " ".join(key.rpartition("/")[2] for key in self.keys[1:])
        whole = {"": "".join(own), "/pages": more, "/severity": self.severity, "/sent": self.sent}
        return {f"{channel}{part}": value for part, value in whole.items() if value}


@dataclass(frozen=True, slots=True)
class Event:
    """One event to be sent, and what PagerDuty has got once it has accepted it."""

    action: Action
    key: str
    then: Paged


def dedup_key(incident: Incident) -> str:
    """By what PagerDuty tells incidents apart: the UID, so that a later incident of the same name is another."""
    return f"{_KEY}{incident.metadata.uid}"


def uid_of(key: str) -> str | None:
    """The UID of the Incident that a dedup key stands for; None for a key that is not ours."""
    return key.removeprefix(_KEY).partition("/")[0] if key.startswith(_KEY) else None


def is_whole(key: str) -> bool:
    """Whether it is the key of the page that stands for the whole incident; the others stand for one call each."""
    return key.startswith(_KEY) and "/" not in key


def events(incident: Incident, notices: Sequence[Notice], paged: Paged, *, again: bool) -> list[Event]:
    """The events that the notices, oldest first, come to, without those that were accepted before; of what is over only
    its end. Several of them page people once, unless one may have been told already (``again``): then what has come
    since must not be lost in an alert that is open.
    """
    keys = [notice.key for notice in notices]
    plan = _Plan(incident, paged, again=again)
    for notice in notices[keys.index(paged.sent) + 1 if paged.sent in keys else 0 :]:
        plan.take(notice)
    return plan.events


class _Plan:
    """The events in the making."""

    def __init__(self, incident: Incident, paged: Paged, *, again: bool) -> None:
        self.events: list[Event] = []
        self._again = again
        self._own, self._severity = dedup_key(incident), people.severity(incident)
        self._known = self._paged = paged

    def take(self, notice: Notice) -> None:
        """One more notice."""
        action, last = self._action(notice), self.events[-1].action if self.events else None
        folded = action == last and not (action == "trigger" and self._again)
        if action is None or last == "resolve" or folded:
            self._paged = replace(self._paged, sent=notice.key)
            self.events[-1:] = [replace(event, then=self._paged) for event in self.events[-1:]]
        elif action == "trigger":
            self._page(notice)
        else:
            self._tell_all(action, notice)

    def _action(self, notice: Notice) -> Action | None:
        if notice.reason == Reason.SEVERITY_RAISED:
            return "trigger" if self._severity in URGENT and self._paged.severity not in URGENT else None
        return _ACTIONS.get(notice.kind)

    def _page(self, notice: Notice) -> None:
        """By an alert of its own: a trigger of one that is open or acknowledged there pages nobody."""
        keys = self._paged.keys
        first = not keys or notice.kind == "Opened"
        key = self._own if first else f"{self._own}/{short_hash(notice.key)}"
        if key not in keys and len(keys) == _MOST_PAGES:
            keys = (keys[0], *keys[2:])
            self._add("resolve", self._paged.keys[1], replace(self._paged, keys=keys))
        new = keys if key in keys else (*keys, key)
        has_paged = key != self._own or not self._again  # else it may have been told when it was less grave
        severity = self._severity if has_paged else self._paged.severity
        self._add("trigger", key, Paged(new, severity, notice.key))

    def _tell_all(self, action: Action, notice: Notice) -> None:
        """Every alert is acknowledged with the incident, and resolved with it: then nobody is paged any more."""
        keys = self._paged.keys or (self._own,)
        if action == "resolve":
            keys = keys if self._again else self._known.keys or (self._own,)
            self.events, self._paged = [], self._known
        for key in keys[:-1]:
            self._add(action, key, self._paged)
        self._add(action, keys[-1], replace(self._paged, sent=notice.key))

    def _add(self, action: Action, key: str, then: Paged) -> None:
        self.events.append(Event(action, key, then))
        self._paged = then


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
