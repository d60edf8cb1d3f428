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

from paramedic.actions.base import Clients, Json, Observed, Patch, annotation, patch_of, read_target
from paramedic.actions.scaling import (
    ScaledObjectChoice,
    hpa_of,
    read_with_autoscalers,
    scaled_object_of,
    scaled_object_path,
)
from paramedic.api import ANNOTATION_BEFORE_SHUTDOWN, ANNOTATION_INCIDENT, ANNOTATION_OPERATION
from paramedic.api.base import Model, ObjectName, rule
from paramedic.api.policy import Step
from paramedic.api.reasons import Reason
from paramedic.api.workload import BoundTarget, TargetSelector
from paramedic.core.operation import operation_time
from paramedic.core.redact import clean
from paramedic.errors import Refused

KINDS = ("Service", "Deployment", "StatefulSet")
EMERGENCY_SELECTOR = {"app": "emergency-shutdown"}
# KEDA takes the workload to that number and does no more until the annotation is gone (KEDA, "Pausing autoscaling").
PAUSED_REPLICAS = "autoscaling.keda.sh/paused-replicas"
_PAUSED = "autoscaling.keda.sh/paused"
NOT_PAUSED = "none"
Pause = int | str
"""The number of replicas at which KEDA's scaling is paused, or NOT_PAUSED."""
SCALED_OBJECT = (
    "Where KEDA scales a workload: refuse, or pause its ScaledObject by the annotation "
    "autoscaling.keda.sh/paused-replicas (for which the policy's author needs the right)."
)
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
    scaled_object: ScaledObjectChoice = Field("Refuse", description=SCALED_OBJECT)

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
    """The object and, of a workload, the HPA or the ScaledObject that owns it."""
    if target.kind == "Service":
        return Observed(await read_target(target, clients.kube))
    return await read_with_autoscalers(target, clients)


def pause_of(scaled: Json) -> Pause:
    """Where KEDA's scaling is paused. What is no number does not pause it at one."""
    text = annotation(scaled, PAUSED_REPLICAS)
    return int(text) if text.isascii() and text.isdigit() and len(text) <= 7 else NOT_PAUSED


def keeps_off(scaled: Json, pause: Pause) -> bool:
    """Whether KEDA, with that pause, leaves the workload alone once it is there."""
    return pause != NOT_PAUSED or annotation(scaled, _PAUSED) == "true"


def pause_for(observed: Observed, choice: ScaledObjectChoice, wanted: Pause) -> Pause | None:
    """Where KEDA's scaling is to be paused; None where KEDA does not scale the workload. Raises Refused when KEDA would
    do something else and the policy does not allow to change its ScaledObject.
    """
    scaled = scaled_object_of(observed)
    if scaled is None or choice == "Patch" or pause_of(scaled) == wanted:
        return wanted if scaled else None
    if pause_of(scaled) == NOT_PAUSED and keeps_off(scaled, NOT_PAUSED):
        return NOT_PAUSED  # paused wherever it is
    named = f"ScaledObject/{scaled['metadata']['name']}"
    what = "removed" if wanted == NOT_PAUSED else f'set to "{wanted}"'
    raise Refused(
        Reason.INVALID_PARAMETERS,
        f"KEDA's {named} scales {observed.name}: write scaledObject: Patch to have its annotation {PAUSED_REPLICAS} "
        f"{what}, or do that by hand",
    )


def write_pause(observed: Observed, pause: Pause, operation: str) -> Patch | None:
    """The patch of the ScaledObject; None where it is gone."""
    scaled = scaled_object_of(observed)
    if scaled is None:
        return None
    path = scaled_object_path(scaled, observed.target["metadata"]["namespace"])
    patch = patch_of(scaled, path, {}, operation, observed.incident)
    patch.body["metadata"]["annotations"][PAUSED_REPLICAS] = None if pause == NOT_PAUSED else str(pause)
    return patch


def pause_before(saved: Saved) -> Pause:
    """The pause from before the shutdown. One that the workload had not followed was made for the shutdown itself."""
    pause: Pause = saved.get("scaledObject", {}).get("pausedReplicas", NOT_PAUSED)
    return pause if pause == saved["replicas"] else NOT_PAUSED


def scaled_object_saved(scaled: Json) -> Json:
    """What is saved of a ScaledObject."""
    pause = pause_of(scaled)
    return {"name": scaled["metadata"]["name"]} | ({"pausedReplicas": pause} if pause != NOT_PAUSED else {})


def bounds_of(hpa: Json) -> Json:
    """The HPA's bounds as written down in a saved state."""
    spec = hpa["spec"]
    return {"minReplicas": spec.get("minReplicas", 1), "maxReplicas": spec["maxReplicas"]}


def present_of(observed: Observed) -> Saved:
    """What a shutdown saves of the object: its selector, or its replicas and what the HPA allows or KEDA pauses."""
    spec, hpa, scaled = observed.target["spec"], hpa_of(observed), scaled_object_of(observed)
    if observed.kind == "Service":
        return {"selector": dict(spec.get("selector") or {})}
    saved: Saved = {"replicas": int(spec.get("replicas", 1))}
    if scaled:
        return saved | {"scaledObject": scaled_object_saved(scaled)}
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


def still_saved(observed: Observed) -> Saved | None:
    """What an earlier shutdown has saved, while the object is still down or where an unfinished recovery has left it.
    None when it gives way to what is: others have gone on from there, or nobody can read it.
    """
    try:
        saved = saved_of(observed.target)
    except Refused:
        return None
    present = observed.target["spec"]
    if saved is None or ("selector" if observed.kind == "Service" else "replicas") not in saved:
        return None
    if observed.kind == "Service":
        down = (present.get("selector") or {}) == saved.get("meanwhile", EMERGENCY_SELECTOR)
    else:
        down = int(present.get("replicas", 1)) in (0, saved.get("stage")) or _is_held(observed, saved)
    return saved if down else None


def require_not_down(observed: Observed) -> None:
    """Raises Refused when a shutdown is in force on the target: what a person has taken down nothing but a recovery
    brings back.
    """
    saved = still_saved(observed) if observed.kind in KINDS else None
    if saved is None:
        return
    name = f"{observed.kind}/{observed.name}"
    incident, at = (annotation(observed.target, key) for key in (ANNOTATION_INCIDENT, ANNOTATION_OPERATION))
    since = f" since {known:%Y-%m-%d %H:%M} UTC" if (known := operation_time(at)) else ""
    by = f" (incident {clean(incident, 63)})" if incident else ""
    what = f"the recovery of {name} is not finished" if "stage" in saved else f"{name} is shut down{since}{by}"
    raise Refused(Reason.SHUT_DOWN, f"{what}: recover it first, or remove its annotation {ANNOTATION_BEFORE_SHUTDOWN}")


def _is_held(observed: Observed, saved: Saved) -> bool:
    """Whether what scales the workload is still held as a stage of a recovery holds it."""
    hpa, scaled = hpa_of(observed), scaled_object_of(observed)
    if hpa and saved.get("hpa", {}).get("name") == hpa["metadata"]["name"]:
        least, most = bounds_of(hpa).values()
        return bool(least == most and saved["hpa"]["minReplicas"] != saved["hpa"]["maxReplicas"])
    if scaled and saved.get("scaledObject", {}).get("name") == scaled["metadata"]["name"]:
        return pause_of(scaled) not in (NOT_PAUSED, saved["scaledObject"].get("pausedReplicas"))
    return False


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
    if found.get("scaledObject"):
        scaled = found["scaledObject"]
        paused = {"pausedReplicas": _count(scaled["pausedReplicas"])} if "pausedReplicas" in scaled else {}
        yield "scaledObject", {"name": str(scaled["name"])} | paused
    if "stage" in found:
        yield "stage", _count(found["stage"])
    if "meanwhile" in found:
        yield "meanwhile", {str(k): str(v) for k, v in found["meanwhile"].items()}
    if found.get("manifest"):
        yield "manifest", str(found["manifest"])
    if not {"selector", "replicas"} & set(found):
        raise ValueError("neither selector nor replicas")


def _count(value: Any) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value <= 10_000_000:
        raise ValueError(f"{value!r} is no number of replicas")
    return value
