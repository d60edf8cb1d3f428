"""What a diagnosis has seen, as raw objects. None everywhere means: not looked at, or it could not be."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any, Literal

from paramedic.api.base import parse_time
from paramedic.api.incident import Finding
from paramedic.api.reasons import FindingReason
from paramedic.core.outside import Outside
from paramedic.core.release import Release

Json = dict[str, Any]
RECENT = timedelta(hours=1)
"""What happened longer than this before the alert is not held to be its cause."""
NAMED = 3
_MOST_MESSAGE = 500
_STEPS = ((90, 1, "s"), (90 * 60, 60, "min"), (48 * 3600, 3600, "h"))


@dataclass(frozen=True, slots=True)
class Answer:
    """What came of one HTTP request. ``url`` is without query and user; no body is kept."""

    purpose: Literal["health", "metrics", "dependency"]
    url: str
    status: int | None = None
    milliseconds: int = 0
    error: str = ""
    tls_error: str = ""


@dataclass(frozen=True, slots=True)
class Breaker:
    """An open circuit breaker of Envoy in one pod."""

    pod: str
    cluster: str
    name: str


@dataclass(frozen=True, slots=True)
class Picture:
    """Everything that the findings are drawn from.

    ``services``, ``ingresses`` and ``autoscalers`` are those that belong to the target; ``stray_services`` those of the
    namespace that look as if they should. ``missing`` are objects that somebody names and that do not exist.
    ``names`` maps a DNS name to an error, or to None when it resolves.
    """

    target: str
    namespace: str
    now: datetime
    alert_started_at: datetime | None = None
    workload: Json | None = None
    labels: Mapping[str, str] = field(default_factory=dict)
    pods: list[Json] | None = None
    release: Release | None = None
    events: list[Json] | None = None
    services: list[Json] | None = None
    stray_services: list[Json] = field(default_factory=list)
    endpoint_slices: list[Json] | None = None
    ingresses: list[Json] | None = None
    nodes: list[Json] | None = None
    autoscalers: list[Json] | None = None
    quotas: list[Json] | None = None
    pod_usage: list[Json] | None = None
    answers: tuple[Answer, ...] = ()
    names: Mapping[str, str | None] = field(default_factory=dict)
    breakers: tuple[Breaker, ...] = ()
    missing: tuple[str, ...] = ()
    outside: tuple[Outside, ...] = ()

    @property
    def since(self) -> datetime:
        """What is older than this is not held to be a cause."""
        return (self.alert_started_at or self.now) - RECENT

    def when(self, at: datetime) -> str:
        """A time for people: ``2 min before the alert``, ``30 s after the alert``; without an alert ``5 min ago``."""
        if self.alert_started_at is None:
            return f"{span(self.now - at)} ago"
        before = self.alert_started_at - at
        if abs(before) < timedelta(seconds=1):
            return "as the alert began"
        return f"{span(before)} before the alert" if before > timedelta(0) else f"{span(-before)} after the alert"


def finding(reason: FindingReason, message: str, obj: str | None) -> Finding:
    """A finding, its message bounded: it goes on the status."""
    text = message if len(message) <= _MOST_MESSAGE else message[: _MOST_MESSAGE - 1] + "…"
    return Finding(reason=str(reason), message=text, object=obj)


def about(picture: Picture, kind: str, names: list[str]) -> str:
    """What a finding about these objects speaks of: the only one, else the target."""
    return f"{kind}/{names[0]}" if len(names) == 1 else picture.target


def span(length: timedelta) -> str:
    """A length of time in one unit, rounded: ``45 s``, ``12 min``, ``5 h``, ``3 d``."""
    seconds = max(0.0, length.total_seconds())
    size, unit = next(((size, unit) for most, size, unit in _STEPS if seconds < most), (86400, "d"))
    return f"{round(seconds / size)} {unit}"


def some(names: list[str]) -> str:
    """At most three names: ``a, b, c and 197 more``."""
    shown = ", ".join(sorted(names)[:NAMED])
    return f"{shown} and {len(names) - NAMED} more" if len(names) > NAMED else shown


def time_of(value: object) -> datetime | None:
    """A time as the API server writes it; None for what is none."""
    try:
        return parse_time(value) if isinstance(value, str) else None
    except ValueError:
        return None


def name_of(obj: Json) -> str:
    """metadata.name."""
    return str(obj["metadata"]["name"])


def conditions_of(obj: Json) -> dict[str, Json]:
    """status.conditions by type."""
    return {str(c.get("type")): c for c in (obj.get("status") or {}).get("conditions") or []}
