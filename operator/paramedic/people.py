"""What an incident means for people, added to each write of its status: severity, clocks, escalation, its place among
others. The decisions are made in ``core``; all of them derive from what is stored, so none is lost or taken twice.
"""

from collections.abc import Callable, Sequence
from datetime import datetime

from paramedic.api import conditions as c
from paramedic.api.base import format_time
from paramedic.api.incident import Acknowledgement, Incident, Notice, Times
from paramedic.api.people import PeopleSettings, SeveralServices
from paramedic.api.reasons import Reason
from paramedic.core import clocks, escalation, several
from paramedic.core import people as said
from paramedic.core.notices import with_notices
from paramedic.metrics import Metrics
from paramedic.notifier import Notifier
from paramedic.record import Draft, acknowledge, raise_severity
from paramedic.store import Store


class People:
    """``attend`` is asked before each write of a status."""

    def __init__(self, settings: PeopleSettings, store: Store, notifier: Notifier, metrics: Metrics) -> None:
        self._settings = settings
        self._store = store
        self._notifier = notifier
        self._metrics = metrics
        self._joining = settings.several_services or SeveralServices()
        self.after_round: Callable[[Incident], None] = lambda incident: None
        """Told of each incident that was worked on."""

    def attend(self, draft: Draft) -> None:
        """Adds what has become due or true since the last write, and the notices of all that was said."""
        _keep_severity(draft)
        if several.is_parent(draft.incident):
            # First, for whoever acknowledges has not heard yet of what would join with this very write.
            _keep_acknowledgement(draft, None)
            self._keep_children(draft)
        else:
            self._find_parent(draft)
            _keep_acknowledgement(draft, self._acknowledged_with_parent(draft.incident))
        self._keep_times(draft)
        self._escalate(draft)
        self._update(draft)
        self._notifier.attend(draft)

    def next_look(self, incident: Incident, now: datetime) -> datetime | None:
        """When something may be due next; None when only a change of the incident can bring that about."""
        looks = (
            escalation.next_look(incident, self._settings, now),
            self._next_update(incident),
            self._notifier.next_look(incident, now),
        )
        return min(filter(None, looks), default=None)

    def open_parts(self, incident: Incident) -> list[str]:
        """Names of the parts of a parent that are not over."""
        return sorted(part.name for part in self._parts(incident))

    # -- clocks -------------------------------------------------------------------------------------------------------

    def _keep_times(self, draft: Draft) -> None:
        status = draft.incident.status
        status.mitigated_at = clocks.mitigated_at(draft.incident)
        before = status.times or Times()
        status.times = clocks.times(draft.incident)
        if status.times is None:
            return
        grade = said.severity(draft.incident)
        for name, histogram in self._metrics.times.items():
            taken = getattr(status.times, name)
            if taken is not None and getattr(before, name) is None:
                observe, seconds = histogram.labels(grade).observe, taken.total_seconds()
                draft.afterwards(lambda observe=observe, seconds=seconds: observe(seconds))  # type: ignore[misc]

    # -- escalation ---------------------------------------------------------------------------------------------------

    def _escalate(self, draft: Draft) -> None:
        decision = escalation.decide(draft.incident, self._settings, draft.now, self._team_of_parts(draft.incident))
        if decision is None:
            return
        draft.incident.status.escalation = decision.status
        for reason, message in decision.facts:
            draft.set_condition(c.ESCALATED, "True", reason, message)
            draft.say(reason, message, event=True)
        self._call(draft, decision.calls)

    def _call(self, draft: Draft, calls: Sequence[escalation.Call]) -> None:
        """Who is called is told of what follows, too."""
        status, everybody = draft.incident.status, self._notifier.told_of_calls(draft.incident)
        made = [
            Notice(
                key=call.key,
                kind="Call",
                reason=str(call.fact),
                at=draft.now,
                message=call.message,
                mentions=list(call.mentions),
                pending=list(dict.fromkeys((*call.channels, *everybody))),
            )
            for call in calls
        ]
        status.notices = with_notices(status.notices, [notice for notice in made if notice.pending])
        status.notify = list(dict.fromkeys((*status.notify, *(name for call in calls for name in call.channels))))

    # -- status updates -----------------------------------------------------------------------------------------------

    def _update(self, draft: Draft) -> None:
        at = self._next_update(draft.incident)
        if at is None or at > draft.now:
            return
        notice = Notice(
            key=f"{Reason.UPDATE_DUE}.{format_time(draft.now)}",
            kind="Update",
            reason=str(Reason.UPDATE_DUE),
            at=draft.now,
            message=draft.incident.status.message or draft.incident.spec.title,
            pending=self._notifier.channels_of(draft.incident),
        )
        draft.incident.status.notices = with_notices(draft.incident.status.notices, [notice])

    def _next_update(self, incident: Incident) -> datetime | None:
        """None for one that is over or closed, whose parent is told of, or where there is nobody to tell."""
        status = incident.status
        every = self._settings.response(said.severity(incident)).update_every
        closed = status.resolved_at is not None or said.resolution(incident) is not None
        over = closed or status.phase == "Resolved" or incident.metadata.deletion_timestamp is not None
        if every is None or over or status.parent or not self._notifier.channels_of(incident):
            return None
        return clocks.next_update_at(incident, every)

    # -- several services ---------------------------------------------------------------------------------------------

    def _find_parent(self, draft: Draft) -> None:
        status, meta = draft.incident.status, draft.incident.metadata
        was_over = draft.base.get("phase") == "Resolved"
        if status.parent and not was_over and self._store.is_over(f"{meta.namespace}/{status.parent}"):
            status.parent = None  # nobody speaks for it any more: its own clocks count again
        if status.parent is not None or was_over or self._settings.several_services is None:
            return
        me = several.member(draft.incident) if self._store.open_parents(meta.namespace) else None
        if me is None or not (me.at_rest or draft.said):
            return  # with the next fact there is a write anyway
        members = list(self._store.members(meta.namespace))
        if parent := several.parent_of(me, several.open_parents(members, self._joining)):
            status.parent = parent.name

    def _acknowledged_with_parent(self, part: Incident) -> Acknowledgement | None:
        """That of the whole outage that the incident is a part of."""
        parents = self._store.open_parents(part.metadata.namespace) if part.status.parent else []
        return next((one.acknowledgement for one in parents if one.name == part.status.parent), None)

    def _keep_children(self, draft: Draft) -> None:
        status = draft.incident.status
        parts = self._parts(draft.incident) if status.resolved_at is None else []
        new = sorted({part.name for part in parts} - set(status.children))
        new = new[: several.MOST_CHILDREN - len(status.children)]
        if new and status.children:
            draft.say(Reason.PART_JOINED, f"also a part of it: {several.tell_names(new)}")
        status.children = [*status.children, *new]
        status.notify = list(dict.fromkeys((*status.notify, *(name for part in parts for name in part.notify))))
        worst = several.gravest(parts)
        if worst < said.severity(draft.incident):
            raise_severity(draft, status.severity, worst, "by one of its parts")

    def _parts(self, parent: Incident) -> list[several.Member]:
        me = several.member(parent)
        if me is None:
            return []
        members = [me, *(one for one in self._store.members(parent.metadata.namespace) if one.name != me.name)]
        return several.by_parent(members, several.open_parents(members, self._joining))[me.name]

    def _team_of_parts(self, incident: Incident) -> str | None:
        """The team that all parts of a parent have; where they have several, the default one, else any."""
        if not several.is_parent(incident):
            return None
        teams = {part.team for part in self._parts(incident) if self._settings.team(part.team)}
        if len(teams) > 1 and self._settings.default_team:
            return self._settings.default_team
        return min(filter(None, teams), default=None)


def _keep_acknowledgement(draft: Draft, of_parent: Acknowledgement | None) -> None:
    """Who has taken it on first, by itself or with the whole outage, and who leads."""
    spec, status = draft.incident.spec, draft.incident.status
    if status.acknowledgement is None and status.resolved_at is None:
        if spec.acknowledged_by:
            acknowledge(draft, Acknowledgement(by=spec.acknowledged_by, at=draft.now), spec.acknowledged_by)
        elif of_parent:
            given = of_parent.model_copy(update={"at": draft.now})
            acknowledge(draft, given, f"{given.by} with {status.parent}")
    first = status.acknowledgement.by if status.acknowledgement else None
    status.commander = spec.commander or status.commander or first


def _keep_severity(draft: Draft) -> None:
    """The status names the gravest that was said."""
    spec, status = draft.incident.spec, draft.incident.status
    if status.severity is None:
        status.severity = spec.severity
    elif spec.severity < status.severity and status.resolved_at is None:
        raise_severity(draft, status.severity, spec.severity, "in the incident's spec")
