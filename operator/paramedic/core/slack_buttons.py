"""What Paramedic's buttons in Slack carry, and what a press of one says: pure.

A button's value is no secret and gives no right: it only says what was shown to whoever pressed it.
"""

from dataclasses import dataclass
from typing import Annotated, Literal, get_args

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from paramedic.api.incident import Incident, StepStatus

ButtonAction = Literal["acknowledge", "pause", "resume", "approve", "reject"]
_PREFIX = "paramedic."
_Short = Annotated[str, Field(max_length=320)]


class Shown(BaseModel):
    """The incident that a button was shown for, and for an approval the step with the operation id of its plan."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    incident: _Short
    uid: _Short
    step: _Short = ""
    operation: _Short = ""


@dataclass(frozen=True, slots=True)
class Press:
    """A button that was pressed."""

    action: ButtonAction
    shown: Shown


def shown(incident: Incident, step: StepStatus | None = None) -> Shown:
    """What a button of this incident carries."""
    if step is None:
        return Shown(incident=incident.key, uid=incident.metadata.uid)
    return Shown(incident=incident.key, uid=incident.metadata.uid, step=step.name, operation=step.operation or "")


def action_id(action: ButtonAction) -> str:
    """Slack's ``action_id`` of a button."""
    return f"{_PREFIX}{action}"


def read_press(identifier: str, value: str) -> Press | None:
    """A press from ``action_id`` and ``value``; None for what is no button of ours."""
    action = identifier.removeprefix(_PREFIX)
    if action == identifier or action not in get_args(ButtonAction):
        return None
    try:
        return Press(action, Shown.model_validate_json(value))  # type: ignore[arg-type]
    except ValidationError:
        return None


def awaiting(incident: Incident) -> StepStatus | None:
    """The step that waits for a person's consent."""
    if incident.status.phase == "Resolved":
        return None
    return next((s for s in incident.status.steps if s.state == "AwaitingApproval" and s.operation), None)
