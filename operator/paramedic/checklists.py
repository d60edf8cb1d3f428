"""Keeps the post-incident checklist of an incident that has ended, with each write of its status."""

from collections.abc import Callable, Iterable
from datetime import datetime, timedelta

from paramedic.api.incident import Incident, Notice
from paramedic.api.people import ChannelSettings
from paramedic.api.reasons import Reason
from paramedic.core import checklist
from paramedic.core.notices import with_notices
from paramedic.notifier import Notifier
from paramedic.record import Draft

Wake = Callable[[str, datetime], None]
_SOON = timedelta(seconds=10)  # in a storm, other incidents come first


class Checklists:
    """``attend`` is asked before each write, ahead of the notifier."""

    def __init__(
        self, notifier: Notifier, channels: Iterable[ChannelSettings], stable_for: timedelta, *, has_store: bool
    ) -> None:
        telling = [one for one in channels if not (one.webhook and _is_left_out(one.webhook.kinds))]
        self._tellers = frozenset(channel.name for channel in telling)
        self._status_pages = frozenset(channel.name for channel in telling if channel.statuspage)
        self._notifier = notifier
        self._stable_for = stable_for
        self._has_store = has_store
        self.wake: Wake = lambda key, at: None
        """Told, after each write, which ended incident is to be looked at when."""

    def attend(self, draft: Draft) -> None:
        """Begins the checklist with the resolution, ticks what is done, reminds of what is overdue."""
        status = draft.incident.status
        if status.phase != "Resolved" or status.resolved_at is None:
            return
        if draft.base.get("phase") != "Resolved" and checklist.is_wanted(draft.incident):
            status.checklist = status.checklist or checklist.fresh()
        if not status.checklist:
            return
        told = set(self._notifier.channels_of(draft.incident)) & self._tellers
        own = checklist.own_items(draft.incident, told & self._status_pages, told)
        status.checklist = checklist.ticked(status.checklist, own, draft.incident.spec.checklist, draft.now)
        self._remind(draft)
        status.attend_at = checklist.attend_at(draft.incident, draft.now, self.own_work_at(draft.incident, draft.now))
        self._wake(draft)

    def own_work_at(self, incident: Incident, now: datetime) -> datetime | None:
        """When Paramedic sees whether all is stable, and writes the report; None when it has not to."""
        resolved = incident.status.resolved_at
        reporting = self._has_store and checklist.awaits_report(incident, now)
        wanted = reporting or checklist.awaits_stability(incident, now)
        return resolved + self._stable_for if resolved and wanted else None

    def _remind(self, draft: Draft) -> None:
        meta, status = draft.incident.metadata, draft.incident.status
        for due, items in checklist.overdue(draft.incident, draft.now):
            key, text = checklist.reminder(due, items, meta.name, meta.namespace)
            for item in items:
                item.reminded = True
            draft.say(Reason.CHECKLIST_OVERDUE, text)
            # Of the parts of an outage people hear once, by their parent.
            pending = [] if status.parent else self._notifier.channels_of(draft.incident)
            if pending:
                reason = str(Reason.CHECKLIST_OVERDUE)
                notice = Notice(key=key, kind="Reminder", reason=reason, at=draft.now, message=text, pending=pending)
                status.notices = with_notices(status.notices, [notice])

    def _wake(self, draft: Draft) -> None:
        """What is due already is looked at by who is woken, again and again until it is done."""
        at, key, now = draft.incident.status.attend_at, draft.key, draft.now
        if draft.base.get("phase") != "Resolved":  # whether all stays stable is seen from the beginning
            soon = now + min(_SOON, self._stable_for / 5)
            draft.afterwards(lambda: self.wake(key, soon))
        elif at is not None and at > now:
            draft.afterwards(lambda: self.wake(key, at))


def _is_left_out(kinds: Iterable[str]) -> bool:
    wanted = list(kinds)
    return bool(wanted) and "Resolved" not in wanted
