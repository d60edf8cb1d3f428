"""When people are called, who, and when to look next: pure, from what is stored and the time.

A trigger counts once. The first one escalates to level 1; each calls the level that the incident is at. The next level
is called when nobody has acknowledged within the level's time, or when the incident was not over in its own. All of it
is stored in one write with the calls themselves, so a restart neither forgets nor repeats one.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from paramedic.api.base import format_duration
from paramedic.api.incident import EscalationRequest, EscalationStatus, Incident, IncidentStatus, StepStatus
from paramedic.api.people import Level, PeopleSettings, Response, Team
from paramedic.api.policy import Window
from paramedic.api.reasons import Reason
from paramedic.core import people as said
from paramedic.core import schedule
from paramedic.core.alert import short_hash
from paramedic.core.several import is_parent

SECURITY_BREACH = "SecurityBreach"
_RAISING = frozenset({Reason.NOT_RESOLVED, Reason.REQUESTED})
"""What calls the next level, where the present one has been called already."""
_SETTLED_BY_ACKNOWLEDGEMENT = frozenset({Reason.NOT_ACKNOWLEDGED, Reason.UNANSWERED})
_SAID_BEFORE = frozenset({Reason.HANDED_OVER, Reason.NOT_PUT_BACK})
"""What stands on the timeline already, by who has handed over."""


@dataclass(frozen=True, slots=True)
class Trigger:
    """Something that calls for people, from ``at`` on."""

    at: datetime
    reason: Reason
    message: str
    mark: str = ""
    """Tells one from another of the same reason, where there can be several."""

    @property
    def key(self) -> str:
        """What counts once."""
        return f"{self.reason}.{self.mark}" if self.mark else str(self.reason)


@dataclass(frozen=True, slots=True)
class Call:
    """One level of a team is called, for one trigger."""

    team: str
    level: int
    trigger: str
    message: str
    fact: str
    """What the timeline says of it in the same write."""
    channels: tuple[str, ...]
    mentions: tuple[str, ...]

    @property
    def key(self) -> str:
        """Unique in the incident."""
        return f"call.{self.team}.{self.level}.{self.trigger}"


@dataclass(slots=True)
class Decision:
    """What is due: the escalation as it is to be stored, what is said of it, and who is called."""

    status: EscalationStatus
    facts: list[tuple[Reason, str]] = field(default_factory=list)
    calls: list[Call] = field(default_factory=list)


def decide(
    incident: Incident, settings: PeopleSettings, now: datetime, team_of_parts: str | None = None
) -> Decision | None:
    """What is due at ``now``; None when nothing is. ``team_of_parts`` is called for a parent."""
    if _is_over(incident):
        return None
    response = settings.response(said.severity(incident))
    known = incident.status.escalation
    # Most of the time nothing is due, and this is asked before each write.
    due = [trigger for trigger in _open_triggers(incident, response) if trigger.at <= now]
    if not due and (known is None or not (known.waiting or _is_unanswered(incident, known, settings, now))):
        return None
    current = _Round(incident, settings, response, now, team_of_parts)
    for trigger in sorted(due, key=lambda t: t.at):
        current.take(trigger)
    current.call_next_level()
    current.call_those_who_wait()
    return current.decision if current.changed else None


def next_look(incident: Incident, settings: PeopleSettings, now: datetime) -> datetime | None:
    """When something may be due next (which may be past); None when only a change of the incident brings that about."""
    if _is_over(incident):
        return None
    response, known = settings.response(said.severity(incident)), incident.status.escalation
    times = [trigger.at for trigger in _open_triggers(incident, response)]
    if known and (at := _next_level_at(incident, known, settings)):
        times.append(at)
    if known and known.waiting and (at := next_hours(incident, settings, now)):
        times.append(at)
    return min(times, default=None)


def may_call(incident: Incident, settings: PeopleSettings, now: datetime) -> bool:
    """Whether these are hours in which people are called for an incident of this severity."""
    return _is_open(settings.response(said.severity(incident)).call_during, now)


def next_hours(incident: Incident, settings: PeopleSettings, now: datetime) -> datetime | None:
    """When people may be called next: ``now`` in such hours, also where they have begun since the last look; None when
    they never begin again.
    """
    if may_call(incident, settings, now):
        return now
    windows = settings.response(said.severity(incident)).call_during
    return min(filter(None, (schedule.next_opening(window, now) for window in windows)), default=None)


def not_put_back(step: StepStatus, problem: str) -> str:
    """How people are told that a step's change is still there."""
    return f"step {step.name} could not be put back: {problem}"


def called_channels(incident: Incident, settings: PeopleSettings) -> frozenset[str]:
    """The channels of the levels that the incident has come to, by which people were called or are about to be."""
    known = incident.status.escalation
    team = settings.team(known.team) if known else None
    if known is None or team is None:
        return frozenset()
    return frozenset(contact.channel for level in team.levels[: known.level] for contact in level.contacts)


class _Round:
    """One decision in the making."""

    def __init__(
        self,
        incident: Incident,
        settings: PeopleSettings,
        response: Response,
        now: datetime,
        team_of_parts: str | None,
    ) -> None:
        known = incident.status.escalation
        self.changed = False
        self.decision = Decision(
            known.model_copy(deep=True) if known else EscalationStatus(since=now, handed_over=False)
        )
        self._incident, self._settings, self._now = incident, settings, now
        self._fresh = known is None
        self._hours = response.call_during
        if self.decision.status.team is None:
            self.decision.status.team = _team_name(incident, settings, team_of_parts)
        self._team = settings.team(self.decision.status.team)

    def take(self, trigger: Trigger) -> None:
        """One more trigger: the present level is called, or the next where it had its time."""
        status = self.decision.status
        if trigger.reason in _RAISING and not self._fresh:
            self._raise_level()
        self._fresh = False
        status.triggers.append(trigger.key)
        self._call(trigger.key, trigger.reason, trigger.message)

    def call_next_level(self) -> None:
        """Nobody has acknowledged in the level's time."""
        status = self.decision.status
        if not self._fresh and _is_unanswered(self._incident, status, self._settings, self._now):
            self._raise_level()
            self._call(str(Reason.UNANSWERED), Reason.UNANSWERED, f"nobody has acknowledged; {status.message}")

    def call_those_who_wait(self) -> None:
        """The calls that waited for the hours in which people are called."""
        status = self.decision.status
        if not status.waiting:
            return
        wanted = [
            w for w in status.waiting if not (self._is_acknowledged and _reason_of(w) in _SETTLED_BY_ACKNOWLEDGEMENT)
        ]
        if not _is_open(self._hours, self._now):
            self.changed |= wanted != status.waiting
            status.waiting = wanted
            return
        self.changed, status.waiting, status.since = True, [], self._now
        own_words = {trigger.key: trigger.message for trigger in _left_in_place(self._incident.status)}
        for waiting in wanted:
            level, _, trigger = waiting.partition(".")
            if self._team:
                text = own_words.get(trigger, status.message)
                self._make_call(self._team, int(level), trigger, Reason.CALLED, text)
        if wanted:
            self.decision.facts.append((Reason.CALLED, f"{self._who()} is called now: {status.message}"))

    @property
    def _is_acknowledged(self) -> bool:
        return self._incident.status.acknowledgement is not None

    def _raise_level(self) -> None:
        status = self.decision.status
        if self._team and status.level < len(self._team.levels):
            status.level, status.since = status.level + 1, self._now

    def _call(self, trigger: str, reason: Reason, message: str) -> None:
        status = self.decision.status
        self.changed = True
        if not status.handed_over and reason is not Reason.UNANSWERED:
            status.reason, status.message = str(reason), message
        later = bool(self._hours) and not _is_open(self._hours, self._now)
        if reason not in _SAID_BEFORE:
            self.decision.facts.append((reason, f"escalated to {self._who()}: {message}" + _LATER[later]))
        if self._team is None:
            return
        if later:
            status.waiting.append(f"{status.level}.{trigger}")
        else:
            fact = status.reason if reason is Reason.HANDED_OVER else reason
            self._make_call(self._team, status.level, trigger, fact, message)

    def _make_call(self, team: Team, number: int, trigger: str, fact: str, message: str) -> None:
        level = team.levels[min(number, len(team.levels)) - 1]
        channels = tuple(dict.fromkeys(contact.channel for contact in level.contacts))
        mentions = tuple(dict.fromkeys(contact.mention for contact in level.contacts if contact.mention))
        text = f"{_title(team, number, level)}: {message}"
        self.decision.calls.append(Call(team.name, number, trigger, text, str(fact), channels, mentions))

    def _who(self) -> str:
        level = self.decision.status.level
        if self._team is None:
            return f"level {level}, and no team is configured that could be called"
        return _title(self._team, level, self._team.levels[min(level, len(self._team.levels)) - 1])


_LATER = {False: "", True: "; people are called at their hours only"}


def _open_triggers(incident: Incident, response: Response) -> Iterator[Trigger]:
    """The triggers that have not counted yet, due or not."""
    known = incident.status.escalation
    counted = known.triggers if known else ()
    return (trigger for trigger in _triggers(incident, response) if trigger.key not in counted)


def _triggers(incident: Incident, response: Response) -> Iterator[Trigger]:
    opened, status = incident.metadata.creation_timestamp, incident.status
    if opened is None:
        return
    if incident.spec.type == SECURITY_BREACH:
        yield Trigger(opened, Reason.SECURITY_BREACH, "a security incident")
    if is_parent(incident):
        yield Trigger(opened, Reason.SEVERAL_SERVICES, incident.spec.title)
    if status.escalation and status.escalation.handed_over:
        yield Trigger(status.escalation.since, Reason.HANDED_OVER, status.escalation.message)
        yield from _left_in_place(status)
    if asked := incident.spec.escalation:
        text = f"{asked.requested_by} asks for more people: {asked.message}"
        yield Trigger(opened, Reason.REQUESTED, text, _request_mark(asked, status.escalation))
    # A part's are its parent's. What a person has closed or deleted is answered, though it may stay for a while.
    deleted = incident.metadata.deletion_timestamp is not None
    if status.parent is None and said.resolution(incident) is None and not deleted:
        yield from _clocks(incident, response, opened)
    yield from _waits(incident, response)


def _request_mark(asked: EscalationRequest, known: EscalationStatus | None) -> str:
    """That of the last request, where it is the same; one that comes back after another is numbered."""
    words, requests = short_hash(asked.requested_by, asked.message), f"{Reason.REQUESTED}."
    marks = [key.removeprefix(requests) for key in (known.triggers if known else ()) if key.startswith(requests)]
    times = sum(mark.partition(".")[0] == words for mark in marks)
    if marks and marks[-1].partition(".")[0] == words:
        return marks[-1]
    return f"{words}.{times + 1}" if times else words


def _left_in_place(status: IncidentStatus) -> Iterator[Trigger]:
    """Changes that could not be put back after people had been called for something else: one for each step."""
    handed_over = status.escalation.message if status.escalation else ""
    for step in status.steps:
        if step.revert and step.revert.state == "Failed" and step.revert.finished_at:
            text = not_put_back(step, step.revert.message)
            if text != handed_over:  # else that was the call
                yield Trigger(step.revert.finished_at, Reason.NOT_PUT_BACK, text, step.name)


def _clocks(incident: Incident, response: Response, opened: datetime) -> Iterator[Trigger]:
    if response.acknowledge_within is not None and incident.status.acknowledgement is None:
        text = f"nobody has acknowledged within {format_duration(response.acknowledge_within)}"
        yield Trigger(_after(opened, response.acknowledge_within), Reason.NOT_ACKNOWLEDGED, text)
    if response.resolve_within is not None:
        text = f"not resolved within {format_duration(response.resolve_within)}"
        yield Trigger(_after(opened, response.resolve_within), Reason.NOT_RESOLVED, text)


def _waits(incident: Incident, response: Response) -> Iterator[Trigger]:
    status = incident.status
    if status.phase_since is None:
        return
    if status.phase == "Blocked" and response.blocked_within is not None and not incident.spec.paused:
        text = f"held back for {format_duration(response.blocked_within)}: {status.message}"
        yield Trigger(_after(status.phase_since, response.blocked_within), Reason.BLOCKED_TOO_LONG, text)
    if status.phase == "AwaitingApproval" and response.approve_within is not None:
        text = f"not approved within {format_duration(response.approve_within)}: {status.message}"
        yield Trigger(_after(status.phase_since, response.approve_within), Reason.APPROVAL_OVERDUE, text)


def _is_unanswered(incident: Incident, known: EscalationStatus, settings: PeopleSettings, now: datetime) -> bool:
    at = _next_level_at(incident, known, settings)
    return at is not None and at <= now


def _next_level_at(incident: Incident, known: EscalationStatus, settings: PeopleSettings) -> datetime | None:
    """When the level after the present one is called; None when it is not, or people have not been called yet."""
    if known.waiting or incident.status.acknowledgement is not None:
        return None
    if said.resolution(incident) is not None and not known.handed_over:
        return None
    team = settings.team(known.team)
    if team is None or known.level >= len(team.levels):
        return None
    return _after(known.since, team.levels[known.level - 1].next_after)


def _team_name(incident: Incident, settings: PeopleSettings, of_parts: str | None) -> str | None:
    """The policy's team; else the security team for its incidents; else the default. One that there is not is none."""
    policy = incident.status.policy
    security = settings.security_team if incident.spec.type == SECURITY_BREACH else None
    wanted = (policy.team if policy else None, security, of_parts, settings.default_team)
    return next((name for name in wanted if settings.team(name)), None)


def _is_over(incident: Incident) -> bool:
    status = incident.status
    ended = status.phase == "Resolved" or status.resolved_at is not None
    left = any(step.is_left_in_place for step in status.steps)
    return ended or (incident.metadata.deletion_timestamp is not None and not left)


def _is_open(hours: list[Window], now: datetime) -> bool:
    return not hours or any(schedule.opened_at(window, now) for window in hours)


def _reason_of(waiting: str) -> Reason | None:
    name = waiting.split(".")[1]
    return next((reason for reason in Reason if reason.value == name), None)


def _title(team: Team, number: int, level: Level) -> str:
    return f"level {number} of {team.name} ({level.name})"


def _after(since: datetime, delay: timedelta) -> datetime:
    """Never beyond the calendar."""
    try:
        return since + delay
    except OverflowError:
        return datetime.max.replace(tzinfo=since.tzinfo)
