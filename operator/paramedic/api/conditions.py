"""``metav1.Condition`` and the ways to read and set one in a list that is keyed by type."""

from collections.abc import Iterable
from datetime import datetime
from typing import Literal

from pydantic import Field

from paramedic.api.base import StatusModel, Time

READY = "Ready"
RECONCILING = "Reconciling"
STALLED = "Stalled"
ACKNOWLEDGED = "Acknowledged"
REMEDIATION_ALLOWED = "RemediationAllowed"
REMEDIATED = "Remediated"
VERIFIED = "Verified"
ESCALATED = "Escalated"
NOTIFIED = "Notified"

ConditionStatus = Literal["True", "False", "Unknown"]


class Condition(StatusModel):
    """One aspect of the state, as Kubernetes' API conventions have it."""

    type: str = Field(description="Which aspect.")
    status: ConditionStatus = Field(description="True, False or Unknown.")
    reason: str = Field(max_length=128, description="CamelCase constant, documented in docs/reasons.md.")
    message: str = Field("", max_length=4096, description="For a person.")
    last_transition_time: Time = Field(description="When the status last changed.")
    observed_generation: int | None = Field(None, description="Generation of the spec that it speaks of.")


def find(conditions: Iterable[Condition], kind: str) -> Condition | None:
    """The condition of that type, if there is one."""
    return next((c for c in conditions if c.type == kind), None)


def with_condition(
    conditions: list[Condition],
    kind: str,
    status: ConditionStatus,
    reason: str,
    message: str,
    now: datetime,
    generation: int | None = None,
) -> list[Condition]:
    """A new list with that condition set; its transition time moves only when its status does."""
    old = find(conditions, kind)
    since = old.last_transition_time if old and old.status == status else now
    new = Condition(
        type=kind,
        status=status,
        reason=reason,
        message=message[:4096],
        last_transition_time=since,
        observed_generation=generation,
    )
    return [new if c.type == kind else c for c in conditions] if old else [*conditions, new]


def without(conditions: list[Condition], kind: str) -> list[Condition]:
    """A new list without that condition (kstatus: Reconciling and Stalled exist only while True)."""
    return [c for c in conditions if c.type != kind]
