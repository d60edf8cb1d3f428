"""Which facts people are told, and of which they have been told: pure.

A notice is made from an entry of the timeline and stored with it in one write. What a channel has answered is stored
later: until then the notice is pending there, for this process and for the next one.
"""

from collections.abc import Iterable, Sequence
from datetime import datetime

from paramedic.api.base import format_time
from paramedic.api.incident import Incident, Notice, NoticeKind, TimelineEntry
from paramedic.api.reasons import Reason

NEWEST = 50
MOST = 300
"""Of one incident, which has to fit into an object of the API server whatever channel is down for however long."""
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


def is_told_otherwise(incident: Incident, notice: Notice, now: datetime) -> bool:
    """Whether a call that is made at this moment says the same, or the parent speaks for the incident."""
    known = incident.status.notices
    begun = bool(known) and notice.kind not in ("Opened", "Update")  # who was told of its beginning is told of its end
    by_parent = incident.status.parent is not None and not (begun or notice.kind in ("Call", "ApprovalNeeded"))
    calls = (one for one in known if one.kind == "Call" and one.at == now)
    return by_parent or any(call.reason == notice.reason for call in calls)


def with_notices(known: list[Notice], new: Iterable[Notice]) -> list[Notice]:
    """The notices with the new ones, each key once, bounded: the newest 50 and what is still to be told; of more than
    300 of these the oldest updates go first.
    """
    keys = {notice.key for notice in known}
    joined = known + [notice for notice in new if notice.key not in keys]
    kept = [notice for number, notice in enumerate(reversed(joined)) if number < NEWEST or notice.pending][::-1]
    surplus = sorted(kept, key=lambda notice: notice.kind != "Update")[: max(0, len(kept) - MOST)]
    gone = {notice.key for notice in surplus}
    return [notice for notice in kept if notice.key not in gone]


def pending(incident: Incident, channel: str) -> list[Notice]:
    """What a channel has still to be told, oldest first."""
    return [notice for notice in incident.status.notices if channel in notice.pending]


def waiting_channels(incident: Incident) -> frozenset[str]:
    """The channels that have still to be told something."""
    return frozenset(channel for notice in incident.status.notices for channel in notice.pending)


def told(notices: Iterable[Notice], channel: str, keys: Iterable[str], *, delivered: bool) -> None:
    """Takes note in place that a channel was told, or never will be."""
    wanted = set(keys)
    for notice in notices:
        if notice.key in wanted and channel in notice.pending:
            notice.pending.remove(channel)
            if not delivered:
                notice.undelivered.append(channel)
