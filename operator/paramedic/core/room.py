"""What has room on an Incident's status. The API server takes objects of 1.5 MiB: a status that no longer fits could
not be written at all, in the middle of what it is about.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from paramedic.api.incident import StepStatus
from paramedic.api.policy import Step

MOST_PARAMETERS_BYTES = 256 << 10
"""Of all steps of a policy, as they are pinned to the status."""
_MOST_STEPS_BYTES = 1 << 20
_State = Mapping[str, Any] | None


def parameters_bytes(steps: Iterable[Step]) -> int:
    """What the steps' parameters take on the status."""
    return sum(_bytes(step.params) for step in steps)


def has_room(steps: Sequence[StepStatus], step: StepStatus, before: _State, after: _State) -> bool:
    """Whether a step's change may be noted besides what stands there: each change twice, for it is put back as well."""
    others = sum(_bytes(one.params) + 2 * _bytes([one.before, one.after]) for one in steps if one is not step)
    return others + _bytes(step.params) + 2 * _bytes([before, after]) <= _MOST_STEPS_BYTES


def _bytes(value: Any) -> int:
    return len(json.dumps(value, default=str, ensure_ascii=False).encode(errors="replace"))
