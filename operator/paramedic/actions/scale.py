"""``scale``: replicas, or the bounds of what owns them (runbook 1 and 3, ``kubectl scale``)."""

import math
import re
from typing import Annotated

from pydantic import ConfigDict, Field

from paramedic.actions.base import Change, Observed
from paramedic.actions.scaling import (
    SCALED_OBJECT,
    ScaledObjectChoice,
    Scaling,
    hpa_of,
    least_replicas,
    require_leave,
    state_with,
)
from paramedic.api.base import Model, rule
from paramedic.api.reasons import Reason
from paramedic.errors import Refused

_RELATIVE = re.compile(r"([+-][0-9]+)(%?)")
_REPLICAS_SCHEMA = {
    "anyOf": [{"type": "integer"}, {"type": "string"}],
    "x-kubernetes-int-or-string": True,
    # A CEL rule with a message of its own would exceed the API server's cost budget here.
    "pattern": "^[+-][0-9]{1,4}%?$",
    "x-kubernetes-validations": [
        rule("type(self) != int || self >= 0", 'replicas cannot be negative; write "-2" (in quotes) to take two away')
    ],
}


_WITHIN_MAXIMUM = rule(
    "type(self.replicas) != int || !has(self.maxReplicas) || self.replicas <= self.maxReplicas",
    "replicas must not be more than maxReplicas",
)


class ScaleParams(Model):
    """How many replicas."""

    model_config = ConfigDict(json_schema_extra={"x-kubernetes-validations": [_WITHIN_MAXIMUM]})

    replicas: Annotated[int | str, Field(json_schema_extra=_REPLICAS_SCHEMA)] = Field(
        description='Absolute (10), or relative to the present: "+3", "-2", "+50%", "-25%". '
        "Where an HPA or KEDA owns the workload, its lower bound.",
    )
    max_replicas: int | None = Field(
        None,
        ge=1,
        le=10000,
        description="Never more than this. Where an HPA or KEDA owns the workload, its upper bound; a step that asks "
        "for more than now, or raises the lower bound, only raises it.",
    )
    scaled_object: ScaledObjectChoice = Field("Refuse", description=SCALED_OBJECT)


class Scale(Scaling):
    """Patches ``spec.replicas``, or the bounds of the HPA or the ScaledObject that owns the workload."""

    name = "scale"
    summary = "Changes replicas; where an HPA or KEDA owns the workload, moves its bounds."
    params = ScaleParams

    def plan(self, observed: Observed, params: ScaleParams, operation: str) -> Change:
        """The patch to the wanted number. Raises Refused for a DaemonSet, or a number that makes no sense or would not
        be acted on."""
        if observed.kind == "DaemonSet":
            raise Refused(Reason.UNSUPPORTED_KIND, "a DaemonSet has no replicas: one pod runs on each node")
        require_leave(observed, params.scaled_object)
        # Under an autoscaler, what runs now counts: "+3" means three more than there are.
        present = max(least_replicas(observed), observed.target["spec"].get("replicas", 1))
        asked = wanted = _wanted(params.replicas, present)
        if params.max_replicas is not None:
            wanted = min(asked, max(params.max_replicas, present) if asked > present else params.max_replicas)
        if wanted == 0:
            _require_no_hpa(observed)
        after = state_with(observed, self.state(observed), wanted, params.max_replicas, grows=asked > present)
        return self.change_to(observed, after, operation)


def _require_no_hpa(observed: Observed) -> None:
    """An HPA's lower bound is 1 at least, so that all of its pods would go on."""
    if hpa_of(observed):
        raise Refused(
            Reason.INVALID_PARAMETERS,
            f"an HPA scales {observed.name} and keeps at least one: to have none, use shutdown",
        )


def _wanted(replicas: int | str, present: int) -> int:
    if isinstance(replicas, int):
        return replicas
    found = _RELATIVE.fullmatch(replicas)
    if not found:
        raise Refused(Reason.INVALID_PARAMETERS, f"replicas: {replicas!r} is neither a number nor like +3 or +50%")
    amount, percent = int(found[1]), bool(found[2])
    if not percent:
        return max(0, present + amount)
    step = math.ceil(abs(amount) * present / 100)
    # Less of one is one: only who takes all of it means none.
    fewest = min(1, present) if amount > -100 else 0
    return max(fewest, present + (step if amount > 0 else -step))
