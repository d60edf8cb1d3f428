"""What counts of an Incident that this version cannot read, as far as that can be made out: whatever it may be doing,
others keep away from it. Pure.
"""

from collections.abc import Iterator
from datetime import datetime
from typing import Any

from pydantic import ValidationError

from paramedic.api.base import parse_time
from paramedic.api.policy import READING
from paramedic.core.guard import ActionRecord, TargetKey

Json = dict[str, Any]
_AT_REST = frozenset(
    {"Pending", "Skipped", "Blocked", "AwaitingApproval", "Succeeded", "Failed", "Unknown", "Reverted"}
)


def tell(error: ValidationError) -> str:
    """Where it cannot be read, in one line and without what stands there."""
    first = error.errors(include_input=False, include_url=False)[0]
    return f"{'.'.join(map(str, first['loc']))}: {first['msg']}"[:500]


def policy_key(raw: Json) -> str | None:
    """``namespace/name`` of the policy that was pinned."""
    pinned = _status(raw).get("policy") or {}
    return f"{pinned['namespace']}/{pinned['name']}" if {"namespace", "name"} <= set(pinned) else None


def busy_targets(raw: Json) -> tuple[TargetKey, ...]:
    """The targets that are being acted on: in a state that only a newer version knows, too."""
    targets = (_target(step) for step in _steps(raw) if step.get("action") not in READING and not _is_at_rest(step))
    return tuple({target for target in targets if target})


def actions(raw: Json, incident: str) -> Iterator[ActionRecord]:
    """What was done and put back, for cooldowns and limits."""
    policy = policy_key(raw) or ""
    for step in _steps(raw):
        target = None if step.get("action") in READING else _target(step)
        for under, one in ((policy, step), ("", step.get("revert") or {})):
            at = _time(one.get("startedAt"))
            if at and one.get("operation"):
                yield ActionRecord(under, target, at, incident, one["operation"])


def _status(raw: Json) -> Json:
    return raw.get("status") or {}


def _steps(raw: Json) -> list[Json]:
    return _status(raw).get("steps") or []


def _is_at_rest(step: Json) -> bool:
    reverting = (step.get("revert") or {}).get("state") == "Executing"
    return step.get("state", "Pending") in _AT_REST and not reverting


def _target(step: Json) -> TargetKey | None:
    found = step.get("target")
    return (found["namespace"], found.get("kind", "Deployment"), found["name"]) if found else None


def _time(value: Any) -> datetime | None:
    try:
        return parse_time(value) if value else None
    except ValueError:
        return None
