"""What has been heard of an incident's alert, added up: resends, further alerts of the group, ends."""

from collections.abc import Collection, Iterable
from dataclasses import dataclass
from datetime import datetime

from paramedic.api.incident import MAX_STARTS, AlertSource, AlertState, Incident
from paramedic.api.policy import Severity
from paramedic.core.alert import Alert

MAX_FIRING = 1000
OTHERS = "and others"
"""Stands among the fingerprints that fire for those that found no room there, lest the end of the others be the end of
all. Its own end is told by who sees the whole group.
"""


@dataclass(frozen=True, slots=True)
class Heard:
    """One alert as it was received. ``covers`` is the latest start that this news may be about, where the source does
    not tell the start exactly (Prometheus tells when the expression became true, which is earlier). ``severity`` is
    what the policy makes of the alert.
    """

    alert: Alert
    at: datetime
    covers: datetime | None = None
    severity: Severity | None = None


def absorb(incident: Incident, news: Iterable[Heard]) -> AlertState | None:
    """The alert's state after the news; None for an incident without an alert."""
    source = incident.spec.alert
    if source is None:
        return None
    old = incident.status.alert
    firing = dict.fromkeys(old.firing if old else [source.fingerprint or ""])
    state = old.model_copy() if old else AlertState(count=0, last_starts_at=source.starts_at)
    starts = _starts(source, old)
    for item in news:
        if not _is_overtaken(starts.get(item.alert.fingerprint), item):
            _take(state, firing, item)
            _keep_start(starts, item)
    state.firing = _bounded(firing)
    state.starts = {} if _is_alone(source) else _newest(starts)
    state.state = "firing" if firing else "resolved"
    state.count = max(state.count, 1)
    return state


def gravest(news: Iterable[Heard]) -> Heard | None:
    """The firing alert of the highest severity."""
    firing = [(item.severity, item) for item in news if item.severity and item.alert.state == "firing"]
    return min(firing, key=lambda found: found[0])[1] if firing else None


def _is_alone(source: AlertSource) -> bool:
    """Whether no other alert can join: then the state's ``last_starts_at`` is its own."""
    return source.group_key in (None, source.fingerprint)


def _starts(source: AlertSource, old: AlertState | None) -> dict[str, datetime]:
    if old and not _is_alone(source):
        return dict(old.starts)
    last = old.last_starts_at if old else source.starts_at
    return {source.fingerprint or "": last} if last else {}


def _keep_start(starts: dict[str, datetime], item: Heard) -> None:
    """Of an end only what it ends is known: an alert that was never heard firing may yet be."""
    alert = item.alert
    if alert.state == "firing" or alert.fingerprint in starts:
        starts[alert.fingerprint] = max(starts.get(alert.fingerprint, alert.starts_at), item.covers or alert.starts_at)


def _newest(starts: dict[str, datetime]) -> dict[str, datetime]:
    if len(starts) <= MAX_STARTS:
        return starts
    return dict(sorted(starts.items(), key=lambda start: start[1])[-MAX_STARTS:])


def _bounded(firing: Collection[str]) -> list[str]:
    if len(firing) <= MAX_FIRING:
        return list(firing)
    return [*[mark for mark in firing if mark != OTHERS][: MAX_FIRING - 1], OTHERS]


def _is_overtaken(began: datetime | None, item: Heard) -> bool:
    """An end that is told late, when the alert has begun to fire anew."""
    ended = item.alert.ends_at or item.at
    return item.alert.state == "resolved" and began is not None and ended < began <= item.at


def _take(state: AlertState, firing: dict[str, None], item: Heard) -> None:
    alert = item.alert
    if alert.state == "firing":
        firing[alert.fingerprint] = None
    else:
        firing.pop(alert.fingerprint, None)
        state.ends_at = max(filter(None, (state.ends_at, alert.ends_at or item.at)))
    state.count += 1
    state.last_received_at = max(filter(None, (state.last_received_at, item.at)))
    state.last_starts_at = max(filter(None, (state.last_starts_at, item.covers or alert.starts_at)))
