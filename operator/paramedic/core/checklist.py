"""The post-incident checklist: which items there are, which are done, and who is reminded of what when. Pure.

Paramedic ticks what it can tell by itself; people tick the rest by ``spec.checklist``. Everything derives from what is
stored: after a restart no item is forgotten, and nobody is reminded twice.
"""

from collections.abc import Collection, Iterable
from datetime import datetime, timedelta

from paramedic.api.base import format_duration
from paramedic.api.checklist import CHECKLIST, IMMEDIATE, LONG_TERM, SHORT_TERM, ChecklistText
from paramedic.api.incident import ChecklistItem, Incident, Notice, StepStatus, Tick
from paramedic.core.situation import has_acted, helped

STABLE: ChecklistText = "Verify all systems are stable"
STATUS_PAGE: ChecklistText = 'Update status page to "All Systems Operational"'
ALL_CLEAR: ChecklistText = "Send all-clear communication"
TIMELINE: ChecklistText = "Document timeline in incident tracker"
EVIDENCE: ChecklistText = "Collect all relevant logs and metrics"
REPORT: ChecklistText = "Create initial incident report"
PARAMEDIC = "paramedic"
REPORT_NAMES = ("report.html", "report.json")
CLOSED_AFTER = timedelta(weeks=4)
"""After the resolution: ticks of people are taken in until then."""


def is_wanted(incident: Incident) -> bool:
    """Whether there is something to look back at: Paramedic has acted, or people were called."""
    return has_acted(incident) or incident.status.escalation is not None


def fresh() -> list[ChecklistItem]:
    """The checklist of an incident that has just ended."""
    return [ChecklistItem(due=due, item=item) for due, items in CHECKLIST for item in items]


def ticked(
    items: Iterable[ChecklistItem], own: Collection[str], ticks: Iterable[Tick], now: datetime
) -> list[ChecklistItem]:
    """The items with what Paramedic knows to be done and what people say is done; a person may take a tick back, and
    what Paramedic has ticked stays.
    """
    said: dict[str, list[str]] = {}
    for tick in ticks:
        said.setdefault(tick.item, []).append(tick.done_by)
    return [_ticked(item, [PARAMEDIC] if item.item in own else [], said.get(item.item, []), now) for item in items]


def _ticked(item: ChecklistItem, own: list[str], said: list[str], now: datetime) -> ChecklistItem:
    by = next(iter([*own, *said]), None)
    if item.done_by in (PARAMEDIC, by, *said) and (item.done_by or by is None):
        return item
    return item.model_copy(update={"done": by is not None, "done_by": by, "done_at": now if by else None})


def own_items(incident: Incident, status_pages: Collection[str], tellers: Collection[str]) -> set[str]:
    """What the incident itself shows to be done. ``tellers`` are the channels that are told of its end, and
    ``status_pages`` those that show it to the public.
    """
    evidence = [item.name for item in incident.status.evidence if item.uri]
    found = {
        TIMELINE: bool(incident.status.timeline),
        EVIDENCE: any(name not in REPORT_NAMES for name in evidence),
        REPORT: all(name in evidence for name in REPORT_NAMES),
        STATUS_PAGE: _was_told(incident.status.notices, status_pages),
        ALL_CLEAR: _was_told(incident.status.notices, tellers),
    }
    return {item for item, done in found.items() if done}


def _was_told(notices: Iterable[Notice], channels: Collection[str]) -> bool:
    """Whether one of the channels was told of the end."""
    ends = [notice for notice in notices if notice.kind == "Resolved"]
    return any(name not in (*end.pending, *end.undelivered) for end in ends for name in channels)


def open_items(incident: Incident) -> list[ChecklistItem]:
    """What is still to be done."""
    return [item for item in incident.status.checklist if not item.done]


def verified_steps(incident: Incident) -> list[StepStatus]:
    """The steps whose checks show whether all is stable: those that have helped, each with what it has left."""
    found = [step for step in incident.status.steps if helped(step) and step.verify and not step.verify.is_empty()]
    return [step.model_copy(update={"after": step.before}) if step.state == "Reverted" else step for step in found]


def awaits_stability(incident: Incident, now: datetime) -> bool:
    """Whether Paramedic is still to find out if all systems are stable; after an hour that is for people."""
    return _awaits(incident, STABLE, now) and bool(verified_steps(incident))


def awaits_report(incident: Incident, now: datetime) -> bool:
    """Whether Paramedic is still to write the report; after a day that is for people."""
    return _awaits(incident, REPORT, now)


def _awaits(incident: Incident, name: ChecklistText, now: datetime) -> bool:
    resolved = incident.status.resolved_at
    found = next((item for item in open_items(incident) if item.item == name), None)
    return found is not None and resolved is not None and not found.reminded and now < resolved + found.due


def overdue(incident: Incident, now: datetime) -> list[tuple[timedelta, list[ChecklistItem]]]:
    """By horizon, what people have to be reminded of now."""
    resolved = incident.status.resolved_at
    found: dict[timedelta, list[ChecklistItem]] = {}
    for item in open_items(incident):
        if resolved is not None and not item.reminded and now >= resolved + item.due:
            found.setdefault(item.due, []).append(item)
    return sorted(found.items())


def reminder(due: timedelta, items: Iterable[ChecklistItem], name: str, namespace: str) -> tuple[str, str]:
    """Key of the notice, unique for each horizon, and what it says."""
    within = {IMMEDIATE: "1 hour", SHORT_TERM: "24 hours", LONG_TERM: "1 week"}.get(due, format_duration(due))
    texts = "; ".join(item.item for item in items)
    text = f"post-incident checklist: not done within {within} of the resolution: {texts}"
    key = f"overdue.{round(due / timedelta(hours=1))}h"
    return key, f"{text} (tick them in spec.checklist: kubectl edit incident {name} -n {namespace})"


def attend_at(incident: Incident, now: datetime, own_work_at: datetime | None) -> datetime | None:
    """When the ended incident has to be looked at again; None when nothing is open or it is too late for it.

    ``own_work_at``: when Paramedic is to see by itself what is done, where it still has to.
    """
    resolved, left = incident.status.resolved_at, open_items(incident)
    if resolved is None or not left or now >= resolved + CLOSED_AFTER:
        return None
    reminders = [resolved + item.due for item in left if not item.reminded]
    return min(filter(None, [*reminders, own_work_at]), default=resolved + CLOSED_AFTER)


def reminders_are_over(resolved_at: datetime, attend_at: datetime | None) -> bool:
    """Whether people have been reminded of all that they ever will be, or nothing is open."""
    return attend_at is None or attend_at > resolved_at + LONG_TERM
