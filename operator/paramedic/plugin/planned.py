"""What a step changes, and for how long, in lines. Pure."""

import json
from collections.abc import Mapping
from typing import Any

from paramedic.api.base import format_duration
from paramedic.api.incident import StepStatus
from paramedic.core.changes import field_changes
from paramedic.plugin.texts import clock

_ABSENT = "–"


def change_lines(before: Mapping[str, Any] | None, after: Mapping[str, Any] | None) -> list[str]:
    """``replicas: 2 → 5`` for each field that is to be another."""
    return [f"{one.path}: {_told(one.before)} → {_told(one.after)}" for one in field_changes(before, after)]


def _told(value: str | None) -> str:
    """A string without its quotes."""
    if value is None:
        return _ABSENT
    read = json.loads(value)
    return read if isinstance(read, str) else value


def lease_line(step: StepStatus) -> str:
    """When what the step does is put back; empty for what stays."""
    if step.revert_at and step.holds_mitigation:
        return f"put back at {clock(step.revert_at)}{_or_earlier(step)}"
    if step.ttl:
        return f"for {format_duration(step.ttl)}, then put back{_or_earlier(step)}"
    return f"put back{_or_earlier(step).removeprefix(', or')}" if step.revert_when else ""


def _or_earlier(step: StepStatus) -> str:
    when = step.revert_when
    if when is None:
        return ""
    conditions = [
        *(["the alert has ended"] if when.alert_resolved else []),
        *([f"{when.prometheus.query} gives {when.prometheus.condition}"] if when.prometheus else []),
    ]
    return f", or when {' and '.join(conditions)}"
