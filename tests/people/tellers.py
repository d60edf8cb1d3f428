"""Messages and channels for tests, without an operator around them."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

from builders import policy_manifest
from paramedic.api.incident import Incident, Notice
from paramedic.api.policy import RemediationPolicy
from paramedic.channels.base import Message
from paramedic.clients.prometheus import Prometheus
from paramedic.messages import Messages
from paramedic.settings import Settings
from paramedic.store import Store

NOW = datetime(2024, 1, 15, 14, 30, tzinfo=UTC)
UID = "0e1c2d3e-aaaa-bbbb-cccc-123456789abc"


def messages(
    settings: Settings | None = None,
    prometheus: Prometheus | None = None,
    clock: Callable[[], datetime] = lambda: NOW,
    **texts: Any,
) -> Messages:
    """As an operator has them that knows one policy, with these ``spec.messages``."""
    store = Store()
    raw = policy_manifest("slow", "covet", None, **({"messages": texts} if texts else {}))
    raw["metadata"]["resourceVersion"] = "1"
    store.put_policy(raw, RemediationPolicy.model_validate(raw), None)
    return Messages(settings or Settings(), prometheus, store, clock)


def incident(external: dict[str, str] | None = None, **status: Any) -> Incident:
    """Of the policy ``slow``, for 25 minutes."""
    spec = {"title": "API is slow", "type": "HighLoad", "severity": "P1"} | status.pop("spec", {})
    pinned = {"name": "slow", "namespace": "covet", "uid": "uid-p"}
    return Incident.model_validate(
        {
            "metadata": {
                "name": "api-slow",
                "namespace": "covet",
                "uid": UID,
                "creationTimestamp": (NOW - timedelta(minutes=25)).isoformat(),
            },
            "spec": spec,
            "status": {"policy": pinned, "target": "Deployment/covet-app", "external": external} | status,
        }
    )


def notice(kind: str = "Update", reason: str = "Applied", minute: int = 0, message: str = "a fact") -> Notice:
    at = NOW + timedelta(minutes=minute)
    return Notice(key=f"{reason}.{at:%H%M}", kind=kind, reason=reason, at=at, message=message)  # type: ignore[arg-type]


def to_tell(of: Incident, *notices: Notice, again: bool = False) -> Message:
    return Message(of, notices or [notice("Opened", "AlertReceived")], again)
