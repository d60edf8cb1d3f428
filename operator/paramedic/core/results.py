"""Parameters that a later part of a procedure takes from what an earlier one has come to.

Only ``expand`` makes such references; the schemas of policies do not admit them.
"""

from collections.abc import Sequence
from typing import Any

from paramedic.api.incident import StepStatus

Json = dict[str, Any]
_STEP, _FIELD = "fromStep", "field"


def from_step(step: str, field: str) -> Json:
    """A reference: ``result.endpoint`` or ``after.writer`` of the step of that name."""
    return {_STEP: step, _FIELD: field}


def filled(params: Any, steps: Sequence[StepStatus]) -> Any:
    """The parameters with each reference replaced. Raises LookupError with what is not there."""
    if isinstance(params, list):
        return [filled(inner, steps) for inner in params]
    if not isinstance(params, dict):
        return params
    if set(params) == {_STEP, _FIELD}:
        return _value(str(params[_STEP]), str(params[_FIELD]), steps)
    return {key: filled(inner, steps) for key, inner in params.items()}


def _value(name: str, field: str, steps: Sequence[StepStatus]) -> Any:
    step = next((one for one in steps if one.name == name), None)
    where, _, key = field.partition(".")
    held: Json = {} if step is None else {"result": step.result, "after": step.after}.get(where) or {}
    if not held.get(key):
        raise LookupError(f"step {name} has come to no {key}")
    return held[key]
