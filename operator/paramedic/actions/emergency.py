"""What the emergency procedures ``shutdown`` and ``recover`` share: the objects they name, and the state that is saved
on them.

What a shutdown changes is written on the changed object itself, in the annotation ``paramedic.dev/before-shutdown``. So
recovery needs neither the Incident of the shutdown nor a store, and who could forge it could change the object anyway.
"""

import hashlib
import json
import math
import re
from collections.abc import Iterator, Sequence
from typing import Any, Literal

from pydantic import ConfigDict, Field

from paramedic.actions.base import Clients, Json, Observed, annotation, read_target
from paramedic.actions.scaling import read_hpas
from paramedic.api import ANNOTATION_BEFORE_SHUTDOWN
from paramedic.api.base import Model, ObjectName, rule
from paramedic.api.policy import Step
from paramedic.api.reasons import Reason
from paramedic.api.workload import BoundTarget, TargetSelector
from paramedic.core.redact import clean
from paramedic.errors import Refused

KINDS = ("Service", "Deployment", "StatefulSet")
EMERGENCY_SELECTOR = {"app": "emergency-shutdown"}
Saved = dict[str, Any]
_LONGEST_NAME = 63
_NOTHING_NAMED = "name at least one object in services or workloads"
SOMETHING_NAMED = rule(
    "(has(self.services) && size(self.services) > 0) || (has(self.workloads) && size(self.workloads) > 0)",
    _NOTHING_NAMED,
)


class ScaledWorkload(Model):
    """A workload that has replicas. A DaemonSet has none: one pod runs on each node."""

    kind: Literal["Deployment", "StatefulSet"] = Field(
        "Deployment", description="Deployment or StatefulSet; a DaemonSet has no replicas to be scaled."
    )
    name: ObjectName = Field(description="Its name.")


class EmergencyObjects(Model):
    """What a procedure acts on."""

    model_config = ConfigDict(json_schema_extra={"x-kubernetes-validations": [SOMETHING_NAMED]})

    services: list[ObjectName] = Field(default_factory=list, max_length=8, description="Services, in order.")
    workloads: list[ScaledWorkload] = Field(default_factory=list, max_length=8, description="Workloads, in order.")

    def objects(self) -> list[tuple[str, str]]:
        """Kind and name of each, Services first. Raises ValueError when one is named twice or there is none."""
        named = [("Service", name) for name in self.services] + self.scaled()
        twice = next((one for one in named if named.count(one) > 1), None)
        if twice:
            raise ValueError(f"{twice[0]}/{twice[1]} is named twice")
        if not named:
            raise ValueError(_NOTHING_NAMED)
        return named

    def scaled(self) -> list[tuple[str, str]]:
        """Kind and name of the workloads."""
        return [(w.kind, w.name) for w in self.workloads]


def part(step: Step, suffix: str, target: tuple[str, str], action: str, params: Json, **changes: Any) -> Step:
    """One step of the procedure that ``step`` stands for: on an object of its own, and only with a person's consent."""
    kind, name = target
    plain: dict[str, Any] = {
        "name": part_name(step.name, suffix),
        "target": TargetSelector.model_validate({"kind": kind, "name": name}),
        "approval": "Required",
        "timeout": step.timeout,
        "ttl": step.ttl,
        "revert_when": step.revert_when,
        "verify": step.verify,
        "on_failure": step.on_failure,
    }
    return Step(**(plain | changes), **{action: params})


def part_name(step: str, suffix: str) -> str:
    """A step's name; one that is too long ends in a hash of the whole."""
    name = re.sub(r"[^-a-z0-9]", "-", f"{step}-{suffix}")
    if len(name) <= _LONGEST_NAME and name == f"{step}-{suffix}":
        return name
    mark = hashlib.sha256(f"{step}-{suffix}".encode()).hexdigest()[:8]
    return f"{name[: _LONGEST_NAME - 9].rstrip('-')}-{mark}"


def with_condition(parts: list[Step], when: str | None) -> list[Step]:
    """The parts, of which the first says whether any of them is done."""
    return [parts[0].model_copy(update={"when": when}), *parts[1:]]


async def read_scaled(target: BoundTarget, clients: Clients) -> Observed:
    """The object and, of a workload, the HPA that owns it."""
    if target.kind == "Service":
        return Observed(await read_target(target, clients.kube))
    return Observed(await read_target(target, clients.kube), {"hpa": await read_hpas(target, clients)})


def hpa_of(observed: Observed) -> Json | None:
    """The HPA that scales the workload."""
    return next(iter(observed.related.get("hpa", [])), None)


def bounds_of(hpa: Json) -> Json:
    """The HPA's bounds as written down in a saved state."""
    spec = hpa["spec"]
    return {"minReplicas": spec.get("minReplicas", 1), "maxReplicas": spec["maxReplicas"]}


def present_of(observed: Observed) -> Saved:
    """What a shutdown saves of the object: its selector, or its replicas and what the HPA allows."""
    spec, hpa = observed.target["spec"], hpa_of(observed)
    if observed.kind == "Service":
        return {"selector": dict(spec.get("selector") or {})}
    saved: Saved = {"replicas": int(spec.get("replicas", 1))}
    return saved | ({"hpa": {"name": hpa["metadata"]["name"]} | bounds_of(hpa)} if hpa else {})


def saved_of(obj: Json) -> Saved | None:
    """The state that is saved on an object; None where there is none. Raises Refused when it makes no sense."""
    text = annotation(obj, ANNOTATION_BEFORE_SHUTDOWN)
    if not text:
        return None
    try:
        found = json.loads(text)
        checked = _checked(found)
    except (ValueError, KeyError, TypeError, RecursionError, AttributeError) as error:
        name = f"{obj.get('kind', 'object')}/{obj['metadata']['name']}"
        raise Refused(
            Reason.INVALID_PARAMETERS,
            f"the annotation {ANNOTATION_BEFORE_SHUTDOWN} of {name} cannot be read ({clean(error, 100)}): mend it, or "
            "remove it",
        ) from error
    return checked


def as_annotation(saved: Saved | None) -> Json:
    """The annotation that saves a state, for a merge patch; None removes it."""
    text = None if saved is None else json.dumps(saved, sort_keys=True, separators=(",", ":"))
    return {ANNOTATION_BEFORE_SHUTDOWN: text}


def replicas_at(stages: Sequence[int | str], saved: int) -> int:
    """The replicas of the last of the stages: a number or a share of the saved ones, rounded up, never more than these
    and never fewer than in a stage before."""
    return max((min(saved, _share(stage, saved)) for stage in stages), default=0)


def _share(stage: int | str, saved: int) -> int:
    return math.ceil(int(stage.rstrip("%")) * saved / 100) if isinstance(stage, str) else stage


def _checked(found: Any) -> Saved:
    """The known fields, each of its type."""
    return dict(_fields(found))


def _fields(found: Json) -> Iterator[tuple[str, Any]]:
    if "selector" in found:
        yield "selector", {str(k): str(v) for k, v in found["selector"].items()}
    if "replicas" in found:
        yield "replicas", _count(found["replicas"])
    if found.get("hpa"):
        hpa = found["hpa"]
        bounds = {k: _count(hpa[k]) for k in ("minReplicas", "maxReplicas")}
        yield "hpa", {"name": str(hpa["name"])} | bounds
    if found.get("manifest"):
        yield "manifest", str(found["manifest"])
    if not {"selector", "replicas"} & set(found):
        raise ValueError("neither selector nor replicas")


def _count(value: Any) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value <= 10_000_000:
        raise ValueError(f"{value!r} is no number of replicas")
    return value
