"""Which facts people are told, and of which they have been told: pure.

A notice is made from an entry of the timeline and stored with it in one write. What a channel has answered is stored
later: until then the notice is pending there, for this process and for the next one.
"""

from collections.abc import Collection, Iterable, Sequence
from datetime import datetime

from paramedic.api.base import format_time
from paramedic.api.incident import Incident, Notice, NoticeKind, TimelineEntry
from paramedic.api.policy import Severity
from paramedic.api.reasons import Reason
from paramedic.core import people

NEWEST = 50
MOST = 300
"""Of one incident, which has to fit into an object of the API server whatever channel is down for however long."""
URGENT: frozenset[Severity] = frozenset({"P0", "P1"})
"""The severities that page people again when an incident turns out to be that grave."""
_FIRST = frozenset({"Call", "ApprovalNeeded"})
_KINDS: dict[str, NoticeKind] = {
    Reason.ALERT_RECEIVED: "Opened",
    Reason.INCIDENT_OPENED: "Opened",
    Reason.AWAITING_APPROVAL: "ApprovalNeeded",
    Reason.PLAN_CHANGED: "ApprovalNeeded",
    Reason.ACKNOWLEDGED: "Acknowledged",
    Reason.SHUTDOWN_INITIATED: "Shutdown",
    Reason.REMEDIATION_SUCCEEDED: "Resolved",
    Reason.RESOLVED_WITHOUT_ACTION: "Resolved",
    Reason.RESOLVED_BY_PERSON: "Resolved",
    Reason.PARTS_RESOLVED: "Resolved",
}
# Beginnings whose end is told in a moment, what is told of the telling itself, and what has a notice of its own.
_UNTOLD = frozenset(
    {
        Reason.POLICY_MATCHED,
        Reason.EXECUTING,
        Reason.PUTTING_BACK,
        Reason.CHANNEL_DOWN,
        Reason.NOTICE_UNDELIVERED,
        Reason.CHECKLIST_OVERDUE,
    }
)


def notice_of(entry: TimelineEntry, channels: Sequence[str]) -> Notice | None:
    """What people are told of a fact; None where they are not, or there is nobody to tell."""
    if not channels or entry.reason in _UNTOLD:
        return None
    kind = _KINDS.get(entry.reason, "Update")
    key = f"{entry.reason}.{format_time(entry.at)}"
    return Notice(
        key=key,
        kind=kind,
        reason=entry.reason,
        at=entry.at,
        message=entry.message,
        pending=list(dict.fromkeys(channels)),
    )


def is_told_otherwise(incident: Incident, notice: Notice) -> bool:
    """Whether the parent speaks for the incident."""
    begun = bool(incident.status.notices) and notice.kind not in ("Opened", "Update")  # who knows of it hears its end
    return incident.status.parent is not None and not (begun or notice.kind in _FIRST)


def besides_calls(new: Sequence[Notice], known: Iterable[Notice], now: datetime) -> list[Notice]:
    """The new notices, without the channels to which a call that is made at this moment says the same."""
    calls = [one for one in known if one.kind == "Call" and one.at == now]
    for notice in new:
        called = {channel for call in calls if call.reason == notice.reason for channel in call.pending}
        notice.pending = [channel for channel in notice.pending if channel not in called]
    return [notice for notice in new if notice.pending]


def hold(incident: Incident, new: Iterable[Notice], paging: Collection[str]) -> None:
    """Keeps in place what would page people from the channels that do that, until ``release``."""
    grave = people.severity(incident) in URGENT
    for notice in new:
        if notice.kind == "Opened" or (notice.reason == Reason.SEVERITY_RAISED and grave):
            notice.held = [channel for channel in notice.pending if channel in paging]
            notice.pending = [channel for channel in notice.pending if channel not in paging]


def release(notices: Iterable[Notice]) -> None:
    """What was held is to be told now."""
    for notice in notices:
        notice.pending, notice.held = [*notice.pending, *notice.held], []


def drop_held(notices: Iterable[Notice]) -> None:
    """What was held need not be told any more."""
    for notice in notices:
        notice.held = []


def is_held(incident: Incident) -> bool:
    """Whether something waits for the hours in which people are called."""
    return any(notice.held for notice in incident.status.notices)


def with_notices(known: list[Notice], new: Iterable[Notice]) -> list[Notice]:
    """The notices with the new ones, each key once, bounded: the newest 50 and what is still to be told; of more than
    300 of these the oldest updates go first.
    """
    keys = {notice.key for notice in known}
    joined = known + [notice for notice in new if notice.key not in keys]
    kept = [n for number, n in enumerate(reversed(joined)) if number < NEWEST or n.pending or n.held][::-1]
    surplus = sorted(kept, key=lambda notice: notice.kind != "Update")[: max(0, len(kept) - MOST)]
    gone = {notice.key for notice in surplus}
    return [notice for notice in kept if notice.key not in gone]


def pending(incident: Incident, channel: str) -> list[Notice]:
    """What a channel has still to be told, oldest first."""
    return [notice for notice in incident.status.notices if channel in notice.pending]


def waiting_channels(incident: Incident) -> frozenset[str]:
    """The channels that have still to be told something."""
    return frozenset(channel for notice in incident.status.notices for channel in notice.pending)


def without_channel(incident: Incident, channels: Collection[str]) -> list[str]:
    """The names that something waits for, now or until its hours, and that are none of the channels."""
    names = (name for notice in incident.status.notices for name in (*notice.pending, *notice.held))
    return list(dict.fromkeys(name for name in names if name not in channels))


def give_up(notices: Iterable[Notice], channel: str) -> None:
    """Takes note in place that a channel will not be told what waits for it."""
    for notice in notices:
        if channel in (*notice.pending, *notice.held):
            notice.pending = [name for name in notice.pending if name != channel]
            notice.held = [name for name in notice.held if name != channel]
            notice.undelivered.append(channel)


def urgent_channels(incident: Incident) -> frozenset[str]:
    """Those of them that have to tell somebody who is waited for: of a P0, or that a person is called or asked."""
    grave = people.severity(incident) == "P0"
    urgent = (notice for notice in incident.status.notices if grave or notice.kind in _FIRST)
    return frozenset(channel for notice in urgent for channel in notice.pending)


def told(notices: Iterable[Notice], channel: str, keys: Iterable[str], *, delivered: bool) -> None:
    """Takes note in place that a channel was told, or never will be."""
    wanted = set(keys)
    for notice in notices:
        if notice.key in wanted and channel in notice.pending:
            notice.pending.remove(channel)
            if not delivered:
                notice.undelivered.append(channel)
