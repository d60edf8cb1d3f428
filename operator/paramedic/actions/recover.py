"""``recover``: the runbook's "Emergency Recovery". Back from a shutdown in stages, each looked at before the next.

The saved state is looked at first; then manifests are applied where the policy names some, the database is checked by a
Job, every workload comes back to the first stage, the services get their traffic, and then the workloads grow. A stage
that does not get well is taken back, the rest is left out, and a person is called.
"""

import re
from collections.abc import Iterator
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, ConfigDict, Field, model_validator

from paramedic.actions.base import (
    Apply,
    Change,
    Clients,
    Json,
    Observed,
    Outcome,
    State,
    Write,
    annotation,
    patch_of,
    read_target,
)
from paramedic.actions.compound import CompoundAction, Parts
from paramedic.actions.emergency import (
    EMERGENCY_SELECTOR,
    KINDS,
    PAUSED_REPLICAS,
    SCALED_OBJECT,
    SOMETHING_NAMED,
    EmergencyObjects,
    Pause,
    Saved,
    as_annotation,
    bounds_of,
    keeps_off,
    part,
    pause_before,
    pause_for,
    pause_of,
    read_scaled,
    replicas_at,
    saved_of,
    scaled_object_saved,
    with_condition,
    write_pause,
)
from paramedic.actions.job_template import RunJobParams
from paramedic.actions.scaling import ScaledObjectChoice, hpa_of, scaled_object_of
from paramedic.api import ANNOTATION_BEFORE_SHUTDOWN, ANNOTATION_INCIDENT, ANNOTATION_OPERATION
from paramedic.api.base import Model, ObjectName, rule
from paramedic.api.checks import Verify
from paramedic.api.policy import Step
from paramedic.api.reasons import Reason
from paramedic.api.workload import BoundTarget, bound, target_path
from paramedic.core.merge import merge_difference
from paramedic.core.saved_manifests import digest_of, manifests_of, saved_by, to_apply
from paramedic.errors import NotFound, Refused

HPA = "HorizontalPodAutoscaler"
SCALED = "ScaledObject"
AUTOSCALED = "autoscaled"
_STAGE = r"^(100|[1-9]?[0-9])%$"
_STAGE_SCHEMA = {
    "anyOf": [{"type": "integer"}, {"type": "string"}],
    "x-kubernetes-int-or-string": True,
    "pattern": _STAGE,
    "minimum": 1,
}
_LAST_IS_ALL = "the last stage must be 100%: what is not brought back is not recovered"


def _check_stage(value: int | str) -> int | str:
    if isinstance(value, str) and not re.fullmatch(_STAGE, value):
        raise ValueError(f"{value!r} is neither a number of replicas nor a share such as 25%")
    if isinstance(value, int) and value < 1:
        raise ValueError("a stage has at least 1 replica")
    return value


Stage = Annotated[int | str, AfterValidator(_check_stage), Field(json_schema_extra=_STAGE_SCHEMA)]
_CHECK_OF_WHAT = "databaseCheck comes before workloads: name at least one"
_NO_CHECK = Verify()


def _default_stages() -> list[int | str]:
    return [1, "25%", "50%", "100%"]


class ManifestSource(Model):
    """Manifests of the named objects as the keys of a ConfigMap (runbook: ``kubectl apply -f emergency-backup/``)."""

    config_map: ObjectName = Field(
        description="A ConfigMap of the namespace. Each key is the manifest of one of the named services and "
        "workloads; there must be one of each, and nothing else."
    )
    sha256: str = Field(
        pattern=r"^[0-9a-f]{64}$",
        description="Of its data, so that the policy's author vouches for it, and not everybody who may write "
        "ConfigMaps: kubectl get configmap NAME -o json | jq -cSj .data | sha256sum",
    )


class RecoverParams(EmergencyObjects):
    """What is brought back, and how."""

    model_config = ConfigDict(
        json_schema_extra={
            "x-kubernetes-validations": [
                SOMETHING_NAMED,
                rule("!has(self.databaseCheck) || (has(self.workloads) && size(self.workloads) > 0)", _CHECK_OF_WHAT),
                rule("!has(self.stages) || self.stages[size(self.stages) - 1] == '100%'", _LAST_IS_ALL),
            ]
        }
    )

    from_: ManifestSource | None = Field(
        None,
        alias="from",
        description="Where the last good state is; default: what the shutdown has saved on each object.",
    )
    database_check: RunJobParams | None = Field(None, description="A Job that must succeed before anything comes back.")
    stages: list[Stage] = Field(
        default_factory=_default_stages,
        min_length=1,
        max_length=6,
        description='Replicas, or shares of the saved ones, rounded up; default: [1, "25%", "50%", "100%"].',
    )

    @model_validator(mode="after")
    def _sound(self) -> "RecoverParams":
        self.objects()
        if self.stages[-1] != "100%":
            raise ValueError(_LAST_IS_ALL)
        if self.database_check and not self.workloads:
            raise ValueError(_CHECK_OF_WHAT)
        return self


class RecoverPart(Model):
    """One part of the procedure."""

    do: Literal["Check", "Apply", "Scale", "Traffic"] = Field(description="What is done with the target.")
    objects: list[tuple[str, str]] = Field(default_factory=list, description="All that is brought back.")
    stages: list[int | str] = Field(default_factory=list, description="The stages up to this one.")
    last: bool = Field(False, description="Whether it is the last stage.")
    from_: ManifestSource | None = Field(None, alias="from", description="Where the manifests are.")
    scaled_object: ScaledObjectChoice = Field("Refuse", description=SCALED_OBJECT)


class Recover(CompoundAction):
    """A workload goes up together with the bounds of its HPA, or the pause of KEDA, which would otherwise leave no
    stages.
    """

    name = "recover"
    summary = (
        "Emergency: brings back what a shutdown took away, in stages, after a database check; always after approval."
    )
    params = RecoverParams
    part_params = RecoverPart
    kinds = KINDS
    beyond_target = True
    needs_approval = True
    while_shut_down = True
    leasable = False

    def expand(self, step: Step) -> list[Step]:
        """The parts in the runbook's order."""
        params = RecoverParams.model_validate(step.params)
        return with_condition([*_preparations(step, params), *_stages(step, params)], step.when)

    async def observe(self, target: BoundTarget, clients: Clients) -> Observed:
        """Reads the object and what scales it."""
        return await read_scaled(target, clients)

    async def observe_for(self, target: BoundTarget, params: Json, clients: Clients) -> Observed:
        """And the ConfigMap, or all objects, for the parts that need them."""
        observed = await self.observe(target, clients)
        related = dict(observed.related)
        chosen = RecoverPart.model_validate(params)
        if chosen.from_:
            related["source"] = [await _config_map(chosen.from_, target.namespace, clients)]
        if chosen.do == "Check":
            named = [bound(kind, target.namespace, name) for kind, name in chosen.objects]
            related["objects"] = [await _existing(one, clients) for one in named]
        return Observed(observed.target, related)

    def parts(self, observed: Observed) -> Parts:
        """The HPA first: it must not act on replicas that its bounds do not allow yet. KEDA's pause last: KEDA acts on
        it at once.
        """
        hpa, scaled = hpa_of(observed), scaled_object_of(observed)
        own = {f"{observed.kind}/{observed.name}": observed.target}
        bounds = {f"{HPA}/{hpa['metadata']['name']}": hpa} if hpa else {}
        return bounds | own | ({f"{SCALED}/{scaled['metadata']['name']}": scaled} if scaled else {})

    def state(self, observed: Observed) -> State:
        """Bounds, replicas or selector, what is saved, and KEDA's pause; nothing empty, as a status keeps none.

        Replicas that an HPA or KEDA is free to change are not ours.
        """
        hpa, spec = hpa_of(observed), observed.target["spec"]
        present = dict(spec.get("selector") or {}) if observed.kind == "Service" else _replicas(observed)
        own = _own(observed, present, saved_of(observed.target))
        bounds = {f"{HPA}/{hpa['metadata']['name']}": bounds_of(hpa)} if hpa else {}
        scaled = scaled_object_of(observed)
        pause = _paused(observed, pause_of(scaled)) if scaled else {}
        return bounds | {f"{observed.kind}/{observed.name}": own} | pause

    def plan(self, observed: Observed, params: RecoverPart, operation: str) -> Change:
        """The part's change. Raises Refused when there is nothing to go back to, or others have come in between."""
        match params.do:
            case "Check":
                return self._check(observed, params)
            case "Apply":
                return self._apply_manifest(observed, params, operation)
            case "Traffic":
                return self._traffic(observed, operation)
            case "Scale":
                return self._scale(observed, params, operation)

    def plan_again(
        self, observed: Observed, params: RecoverPart, operation: str, before: State, after: State
    ) -> Change:
        """Once the object itself is done its saved state tells nothing any more: the rest follows from the intent."""
        if annotation(observed.target, ANNOTATION_OPERATION) == operation:
            return self.change_to(observed, after, operation, f"{observed.name}: the rest of it")
        return super().plan_again(observed, params, operation, before, after)

    def restore(self, observed: Observed, before: State, operation: str) -> Change:
        """Back to the earlier states, in the opposite order, but for KEDA's pause."""
        pauses = [part for part in before if part.startswith(f"{SCALED}/")]
        backwards = [part for part in reversed(before) if part not in pauses] + pauses
        return self.change_to(observed, {p: before[p] for p in backwards}, operation, f"{observed.name}: as before")

    def settled(self, observed: Observed, before: State, after: State, operation: str) -> Outcome:
        """Once its bounds are moved, an HPA may have brought the replicas there before us: then what is saved tells."""
        own, hpa = f"{observed.kind}/{observed.name}", hpa_of(observed)
        if annotation(observed.target, ANNOTATION_OPERATION) == operation or not hpa:
            return super().settled(observed, before, after, operation)
        present = self.state(observed)[own]
        if annotation(hpa, ANNOTATION_OPERATION) != operation or present.get("saved") != before[own].get("saved"):
            return super().settled(observed, before, after, operation)
        return Outcome.APPLIED if present == after[own] else Outcome.NOT_APPLIED

    def write_part(
        self, observed: Observed, part: str, obj: Json | None, wanted: Any, operation: str
    ) -> Iterator[Write]:
        """One patch of the HPA, of the ScaledObject or of the object itself; none of what is gone meanwhile."""
        if obj is None:
            return
        if part.startswith(f"{SCALED}/"):
            pause = write_pause(observed, wanted["pausedReplicas"], operation)
            yield from [pause] if pause else []
            return
        namespace = observed.target["metadata"]["namespace"]
        if part.startswith(f"{HPA}/"):
            path = f"/apis/autoscaling/v2/namespaces/{namespace}/horizontalpodautoscalers/{obj['metadata']['name']}"
            yield patch_of(obj, path, {"spec": dict(wanted)}, operation, observed.incident)
            return
        spec = {k: v for k, v in wanted.items() if k != "saved" and v != AUTOSCALED}
        if observed.kind == "Service":
            spec["selector"] = merge_difference(dict(obj["spec"].get("selector") or {}), wanted.get("selector") or {})
        if wanted.get("replicas") == AUTOSCALED:
            saved = saved_of(obj)
            spec["replicas"] = max(saved["replicas"] if saved else 0, int(obj["spec"].get("replicas", 1)))
        path = target_path(observed.kind, namespace, observed.name)
        patch = patch_of(obj, path, {"spec": spec}, operation, observed.incident)
        patch.body["metadata"]["annotations"] |= as_annotation(wanted.get("saved"))
        yield patch

    # -- the parts ----------------------------------------------------------------------------------------------------

    def _check(self, observed: Observed, params: RecoverPart) -> Change:
        """Changes nothing: raises Refused when the procedure could not go through."""
        namespace = observed.target["metadata"]["namespace"]
        if params.from_:
            manifests = _manifests(observed, params.from_, namespace, params.objects)
            told = f"ConfigMap/{params.from_.config_map} has the manifests of all {len(manifests)} objects"
        else:
            lost = [o for o in observed.related["objects"] if _is_down(o) and saved_of(o) is None]
            if lost:
                names = ", ".join(f"{o['kind']}/{o['metadata']['name']}" for o in lost)
                raise Refused(
                    Reason.NOTHING_SAVED,
                    f"nothing is saved on {names} (annotation {ANNOTATION_BEFORE_SHUTDOWN}): bring it back by hand, or "
                    "from manifests (recover.from)",
                )
            _require_leave(observed.related["objects"], params.scaled_object)
            told = "the saved state is there"
        state = self.state(observed)
        return Change(state, state, (), None, told)

    def _apply_manifest(self, observed: Observed, params: RecoverPart, operation: str) -> Change:
        """Server-side apply of the manifest, with what it says of replicas or selector as the saved state."""
        assert params.from_ is not None
        meta, hpa = observed.target["metadata"], hpa_of(observed)
        manifest = _manifests(observed, params.from_, meta["namespace"], params.objects)[observed.kind, observed.name]
        earlier = saved_of(observed.target) or {}
        bounds = earlier.get("hpa") or ({"name": hpa["metadata"]["name"]} | bounds_of(hpa) if hpa else None)
        mark = f"{params.from_.config_map} {params.from_.sha256[:12]}"
        kept = {"scaledObject": earlier["scaledObject"]} if "scaledObject" in earlier else {}
        saved: Saved = saved_by(manifest) | ({"hpa": bounds} if bounds else {}) | kept | {"manifest": mark}
        before, own = self.state(observed), f"{observed.kind}/{observed.name}"
        after = before | {own: before[own] | {"saved": saved}}
        message = f"{observed.name}: manifest of ConfigMap/{params.from_.config_map} applied"
        if after == before:
            return Change(before, after, (), None, f"{observed.name}: the manifest is applied already")
        stamps = {ANNOTATION_OPERATION: operation} | (
            {ANNOTATION_INCIDENT: observed.incident} if observed.incident else {}
        )
        preconditions = {"uid": meta["uid"], "resourceVersion": meta["resourceVersion"]}
        body = to_apply(manifest, stamps | as_annotation(saved), preconditions)
        path = target_path(observed.kind, meta["namespace"], observed.name)
        return Change(before, after, (Apply(path, body),), before, message)

    def _traffic(self, observed: Observed, operation: str) -> Change:
        """The saved selector."""
        before, own = self.state(observed), f"{observed.kind}/{observed.name}"
        saved = saved_of(observed.target)
        if saved is None or "selector" not in saved:
            return Change(before, before, (), None, f"{observed.name}: nothing is saved, its selector stays")
        after = {own: _own(observed, saved["selector"], None)}
        shown = ",".join(f"{k}={v}" for k, v in saved["selector"].items())
        return self.change_to(observed, after, operation, f"{observed.name}: traffic back to {shown}")

    def _scale(self, observed: Observed, params: RecoverPart, operation: str) -> Change:
        """One stage up. What others have scaled up stays."""
        before, saved = self.state(observed), saved_of(observed.target)
        if saved is None or "replicas" not in saved:
            return Change(before, before, (), None, f"{observed.name}: nothing is saved, its replicas stay")
        present, wanted = int(observed.target["spec"].get("replicas", 1)), replicas_at(params.stages, saved["replicas"])
        _stands_where_it_was_left(observed, present, replicas_at(params.stages[:-1], saved["replicas"]))
        if present > wanted and not params.last:
            return Change(before, before, (), None, f"{observed.name}: others have scaled it to {present}, it stays")
        after = _after(observed, before, saved, max(present, wanted), params)
        if after == before:
            return Change(before, before, (), None, f"{observed.name}: stays at {present} replicas")
        change = f"replicas {present} → {wanted} of {saved['replicas']}"
        already = f"recovered, with {present} replicas already" if params.last else f"stays at {present} replicas"
        return self.change_to(observed, after, operation, f"{observed.name}: {change if present < wanted else already}")


def _preparations(step: Step, params: RecoverParams) -> Iterator[Step]:
    """Looking at what there is, applying manifests, checking the database: nothing of it can tell whether it helped."""
    source = {"from": params.from_.to_wire()} if params.from_ else {}
    pause = {"scaledObject": "Patch"} if params.scaled_object == "Patch" else {}
    named = {"objects": [list(one) for one in params.objects()]} | source | pause
    first = (*params.scaled(), *params.objects())[0]
    yield part(step, "check", first, "recover", {"do": "Check"} | named, verify=_NO_CHECK)
    for kind, name in params.objects() if params.from_ else ():
        suffix = f"apply-{kind.lower()}-{name}"
        yield part(step, suffix, (kind, name), "recover", {"do": "Apply"} | named, verify=_NO_CHECK)
    if params.database_check and params.workloads:
        job = params.database_check.to_wire()
        yield part(step, "database", first, "runJob", job, verify=_NO_CHECK, ttl=None, revert_when=None)


def _stages(step: Step, params: RecoverParams) -> Iterator[Step]:
    """Every workload to the first stage, then the traffic, then the other stages."""
    pause = {"scaledObject": "Patch"} if params.scaled_object == "Patch" else {}
    for number in range(1, len(params.stages) + 1):
        upto, last = params.stages[:number], number == len(params.stages)
        for kind, name in params.scaled():
            suffix = f"{kind.lower()}-{name}-to-{str(upto[-1]).replace('%', 'pct')}"
            scale = {"do": "Scale", "stages": upto, "last": last} | pause
            yield part(step, suffix, (kind, name), "recover", scale)
        for name in params.services if number == 1 else ():
            yield part(step, f"service-{name}", ("Service", name), "recover", {"do": "Traffic"})


async def _config_map(source: ManifestSource, namespace: str, clients: Clients) -> Json:
    path = target_path("ConfigMap", namespace, source.config_map)
    try:
        return await clients.kube.get(path)
    except NotFound as error:
        raise Refused(Reason.NOTHING_SAVED, f"there is no ConfigMap/{source.config_map} in {namespace}") from error


async def _existing(target: BoundTarget, clients: Clients) -> Json:
    try:
        return await read_target(target, clients.kube)
    except NotFound as error:
        raise Refused(
            Reason.TARGET_NOT_FOUND, f"{target} does not exist in {target.namespace}: create it, then recover"
        ) from error


def _manifests(
    observed: Observed, source: ManifestSource, namespace: str, objects: list[tuple[str, str]]
) -> dict[tuple[str, str], Json]:
    """The manifests, if they are those that the policy's author vouched for."""
    (config_map,) = observed.related["source"]
    found = digest_of(config_map.get("data") or {})
    if found != source.sha256:
        raise Refused(
            Reason.NOTHING_SAVED,
            f"ConfigMap/{source.config_map} is not the one of the policy: its data has SHA-256 {found}, the policy "
            f"says {source.sha256}; look at it, and have somebody who may write the policy put the new one there",
        )
    return manifests_of(config_map, namespace, objects)


def _is_down(obj: Json) -> bool:
    """Whether it is as a shutdown leaves it."""
    spec = obj["spec"]
    if obj["kind"] == "Service":
        return bool(spec.get("selector") == EMERGENCY_SELECTOR)
    return bool(spec.get("replicas", 1) == 0)


def _replicas(observed: Observed) -> int | str:
    replicas, hpa = int(observed.target["spec"].get("replicas", 1)), hpa_of(observed)
    if scaled := scaled_object_of(observed):
        free = not keeps_off(scaled, pause_of(scaled))
    else:
        free = hpa is not None and _is_free(bounds_of(hpa), replicas)
    return AUTOSCALED if free and replicas else replicas


def _paused(observed: Observed, pause: Pause) -> State:
    """The part of a state that is about KEDA."""
    scaled = scaled_object_of(observed)
    return {f"{SCALED}/{scaled['metadata']['name']}": {"pausedReplicas": pause}} if scaled else {}


def _require_leave(objects: list[Json], choice: ScaledObjectChoice) -> None:
    """Raises Refused when a shutdown has paused KEDA and the policy does not allow to change its ScaledObject."""
    paused = [o for o in objects if "scaledObject" in (saved_of(o) or {})]
    if paused and choice == "Refuse":
        names = ", ".join(f"{o['kind']}/{o['metadata']['name']}" for o in paused)
        raise Refused(
            Reason.INVALID_PARAMETERS,
            f"KEDA scales {names} and is paused: write scaledObject: Patch in recover to have its annotation "
            f"{PAUSED_REPLICAS} raised with each stage and removed in the last",
        )


def _stands_where_it_was_left(observed: Observed, present: int, left: int) -> None:
    if present < left:
        raise Refused(
            Reason.TARGET_CHANGED,
            f"{observed.kind}/{observed.name} has {present} replicas instead of the {left} of the stage before: "
            "somebody scales it, hands off",
        )


def _after(observed: Observed, before: State, saved: Saved, wanted: int, params: RecoverPart) -> State:
    """Bounds first, then the replicas: in every stage but the last an HPA or KEDA may choose nothing. The stage is
    written down with what is saved, so that a shutdown knows an unfinished recovery.
    """
    own, hpa, last = f"{observed.kind}/{observed.name}", hpa_of(observed), params.last
    if scaled := scaled_object_of(observed):
        return _after_with_keda(observed, before, _with_scaled_object(saved, scaled), wanted, params)
    bounds: State = {}
    if hpa and saved.get("hpa", {}).get("name") == hpa["metadata"]["name"] and saved["replicas"]:
        allowed = {k: saved["hpa"][k] for k in ("minReplicas", "maxReplicas")}
        bounds = {f"{HPA}/{hpa['metadata']['name']}": allowed if last else {k: max(1, wanted) for k in allowed}}
    free = bool(bounds) and last and _is_free(saved["hpa"], wanted)
    replicas = AUTOSCALED if free else wanted
    return before | bounds | {own: _own(observed, replicas, None if last else _at_stage(saved, wanted))}


def _after_with_keda(observed: Observed, before: State, saved: Saved, wanted: int, params: RecoverPart) -> State:
    """Held by its pause at each stage; in the last it is as before the shutdown. Raises Refused when it may not be."""
    scaled, last = scaled_object_of(observed), params.last
    pause = pause_for(observed, params.scaled_object, pause_before(saved) if last else wanted)
    assert scaled is not None
    assert pause is not None
    free = wanted and not keeps_off(scaled, pause)
    own = _own(observed, AUTOSCALED if free else wanted, None if last else _at_stage(saved, wanted))
    return before | {f"{observed.kind}/{observed.name}": own} | _paused(observed, pause)


def _with_scaled_object(saved: Saved, scaled: Json) -> Saved:
    """What is saved, with how a ScaledObject was before the first stage that no shutdown has seen."""
    known = saved.get("scaledObject", {}).get("name") == scaled["metadata"]["name"]
    return saved if known else saved | {"scaledObject": scaled_object_saved(scaled)}


def _at_stage(saved: Saved, wanted: int) -> Saved:
    """What is saved, with the stage that is reached; none when nothing comes back."""
    return saved | ({"stage": wanted} if wanted else {})


def _own(observed: Observed, present: Any, saved: Saved | None) -> Json:
    governed = "selector" if observed.kind == "Service" else "replicas"
    fields = {governed: present, "saved": saved}
    return {k: v for k, v in fields.items() if v not in (None, {})}


def _is_free(bounds: Json, replicas: int) -> bool:
    return bool(bounds["minReplicas"] <= replicas <= bounds["maxReplicas"] != bounds["minReplicas"])
