"""``shutdown``: the runbook's "Complete Service Shutdown". Services select nothing any more, then workloads go to 0.

Always with a person's consent. Where an HPA owns a workload its bounds stay: it does not scale up from 0. KEDA does, so
its ScaledObject is paused at 0.
"""

import asyncio
import json
from collections.abc import AsyncGenerator
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from typing import Annotated

from pydantic import Field, model_validator

from paramedic.actions.base import (
    Action,
    Change,
    Clients,
    Json,
    Observed,
    Outcome,
    Patch,
    Report,
    State,
    annotation,
    patch_of,
    same_state,
)
from paramedic.actions.emergency import (
    EMERGENCY_SELECTOR,
    KINDS,
    NOT_PAUSED,
    SCALED_OBJECT,
    EmergencyObjects,
    Saved,
    as_annotation,
    part,
    pause_for,
    pause_of,
    present_of,
    read_scaled,
    saved_of,
    still_saved,
    with_condition,
    write_pause,
)
from paramedic.actions.scaling import ScaledObjectChoice, scaled_object_of
from paramedic.api import ANNOTATION_OPERATION
from paramedic.api.base import Model
from paramedic.api.checks import Verify
from paramedic.api.policy import Step
from paramedic.api.reasons import Reason
from paramedic.api.workload import BoundTarget, target_path
from paramedic.clients.evidence import EvidenceStore
from paramedic.core.manifests import without_secrets
from paramedic.core.merge import merge_difference
from paramedic.core.rollout import none_left
from paramedic.core.verify import Result
from paramedic.errors import Refused

_MOST_FOR_EVIDENCE_SECONDS = 5.0
Label = Annotated[str, Field(max_length=317)]


def _emergency_selector() -> dict[str, str]:
    return dict(EMERGENCY_SELECTOR)


class ShutdownParams(EmergencyObjects):
    """What is shut down: the services' traffic first, then the workloads, in order."""

    selector: dict[Label, Annotated[str, Field(max_length=63)]] = Field(
        default_factory=_emergency_selector,
        min_length=1,
        max_length=16,
        description="What the services select meanwhile, labels that no pod has; default: app: emergency-shutdown.",
    )

    @model_validator(mode="after")
    def _each_once(self) -> "ShutdownParams":
        self.objects()
        return self


class ShutdownPart(Model):
    """One object's share."""

    selector: dict[str, str] = Field(default_factory=dict, description="What a Service selects meanwhile.")
    scaled_object: ScaledObjectChoice = Field("Refuse", description=SCALED_OBJECT)


class Shutdown(Action):
    """Each object is a step of its own, with what it was before written on it."""

    name = "shutdown"
    summary = "Emergency: cuts the services' traffic, then scales the workloads to 0, in order; always after approval."
    params = ShutdownParams
    part_params = ShutdownPart
    kinds = KINDS
    beyond_target = True
    needs_approval = True
    while_shut_down = True

    def expand(self, step: Step) -> list[Step]:
        """One step for each object. A service that is shut down is not asked whether its errors have gone."""
        params = ShutdownParams.model_validate(step.params)
        verify = step.verify or Verify(rollout=True)
        pause = {"scaledObject": "Patch"} if params.scaled_object == "Patch" else {}
        parts = [
            part(
                step,
                f"{kind.lower()}-{name}",
                (kind, name),
                self.name,
                {"selector": params.selector} if kind == "Service" else pause,
                verify=verify,
            )
            for kind, name in params.objects()
        ]
        return with_condition(parts, step.when)

    async def observe(self, target: BoundTarget, clients: Clients) -> Observed:
        """Reads the object and what scales it."""
        return await read_scaled(target, clients)

    def state(self, observed: Observed) -> State:
        """The selector, or the replicas and where KEDA is paused."""
        scaled = scaled_object_of(observed)
        present = {k: v for k, v in present_of(observed).items() if k in ("selector", "replicas")}
        return present | ({"pausedReplicas": pause_of(scaled)} if scaled else {})

    def plan(self, observed: Observed, params: ShutdownPart, operation: str) -> Change:
        """The swap, with the present state saved. Raises Refused for a Service that selects nothing, and for a workload
        that KEDA would bring back.
        """
        before, after = self.state(observed), _after(observed, params)
        if observed.kind == "Service" and not before["selector"]:
            raise Refused(
                Reason.INVALID_PARAMETERS,
                f"Service/{observed.name} has no selector, its endpoints are made otherwise: cut its traffic by hand",
            )
        if before == after and (observed.kind == "Service" or saved_of(observed.target) is not None):
            return Change(before, after, (), None, f"{observed.name}: already {_told(after)}")
        earlier = still_saved(observed)
        message = f"{observed.name}: {_told(before)} → {_told(after)}{', what is saved stays' if earlier else ''}"
        if before == after:
            message = f"{observed.name}: already {_told(after)}, noted for the recovery"
        meta = observed.target["metadata"]
        manifest = without_secrets(observed.target)
        kept = _Manifest(f"{observed.kind}-{observed.name}", meta["namespace"], observed.incident, operation, manifest)
        saved = {k: v for k, v in (earlier or present_of(observed)).items() if k != "stage"}
        saved |= {"meanwhile": params.selector} if observed.kind == "Service" else {}
        change = self._change_to(observed, after, saved, operation, message)
        before |= {"saved": earlier} if earlier else {}
        return Change(before, after, change.forward, before, message, work=kept)

    def restore(self, observed: Observed, before: State, operation: str) -> Change:
        """Back to the earlier selector or replicas; saved is what was so before, if anything."""
        earlier = {k: v for k, v in before.items() if k != "saved"}
        message = f"{observed.name}: back to {_told(earlier)}"
        return self._change_to(observed, earlier, before.get("saved"), operation, message)

    def settled(self, observed: Observed, before: State, after: State, operation: str) -> Outcome:
        """The object's own stamp tells; then only KEDA's pause may be left to do."""
        if annotation(observed.target, ANNOTATION_OPERATION) != operation:
            return Outcome.NOT_APPLIED if same_state(self.state(observed), before) else Outcome.UNKNOWN
        scaled = scaled_object_of(observed)
        if scaled is None or annotation(scaled, ANNOTATION_OPERATION) == operation:
            return Outcome.APPLIED
        pause = pause_of(scaled)
        if pause == after.get("pausedReplicas"):
            return Outcome.APPLIED
        return Outcome.NOT_APPLIED if pause == before.get("pausedReplicas") else Outcome.UNKNOWN

    def rollout(self, workload: Json, after: State, since: datetime | None) -> Result:
        """A workload is shut down when nothing is wanted of it and nothing left, whatever its rollout was about."""
        return none_left(workload) if "replicas" in after else super().rollout(workload, after, since)

    async def apply(self, change: Change, clients: Clients) -> Report | None:
        """Keeps the manifest as evidence where there is a store, for a moment at most; then writes."""
        report = await _keep(change.work, clients.evidence) if change.work and clients.evidence else None
        await super().apply(change, clients)
        return report

    def _change_to(self, observed: Observed, after: State, saved: Saved | None, operation: str, message: str) -> Change:
        """The object first, so that what was is saved before KEDA acts on its pause; each unless it is done already."""
        before = self.state(observed)
        done = annotation(observed.target, ANNOTATION_OPERATION) == operation
        own = None if done else _own_patch(observed, before, after, saved, operation)
        pause = after.get("pausedReplicas")
        same = before.get("pausedReplicas") == pause
        keda = None if pause is None or same else write_pause(observed, pause, operation)
        return Change(before, after, tuple(write for write in (own, keda) if write), before, message)


def _after(observed: Observed, params: ShutdownPart) -> State:
    """What the object is to be. Raises Refused when KEDA would bring it back."""
    if observed.kind == "Service":
        return {"selector": params.selector}
    pause = pause_for(observed, params.scaled_object, 0)
    return {"replicas": 0} | ({} if pause is None else {"pausedReplicas": pause})


def _own_patch(observed: Observed, before: State, after: State, saved: Saved | None, operation: str) -> Patch:
    """The patch of the object itself: what it selects or how many, and what is saved on it."""
    governed = [k for k in after if k in ("selector", "replicas")]
    changes: Json = {"spec": {k: merge_difference(before.get(k), after[k]) for k in governed}}
    path = target_path(observed.kind, observed.target["metadata"]["namespace"], observed.name)
    patch = patch_of(observed.target, path, changes, operation, observed.incident)
    patch.body["metadata"]["annotations"] |= as_annotation(saved)
    return patch


@dataclass(frozen=True, slots=True)
class _Manifest:
    """An object as it was, without its secrets."""

    name: str
    namespace: str
    incident: str
    operation: str
    content: Json


async def _keep(manifest: _Manifest, store: EvidenceStore) -> Report | None:
    """The object as it was, in the store. One that fails or hangs holds nothing up: the annotation is what counts."""
    whose = manifest.namespace, manifest.incident, manifest.operation

    async def content() -> AsyncGenerator[bytes, None]:
        yield json.dumps(manifest.content, indent=1, ensure_ascii=False).encode()

    with suppress(TimeoutError):
        async with asyncio.timeout(_MOST_FOR_EVIDENCE_SECONDS), store.collection(*whose) as kept:
            await kept.keep(f"before-shutdown/{manifest.name}.json", "application/json", content())
        return Report("", evidence=tuple(kept.items))
    return None


def _told(state: State) -> str:
    """``app=covet``, ``3 replicas``."""
    if "selector" in state:
        return "selector " + ",".join(f"{k}={v}" for k, v in state["selector"].items())
    paused = state.get("pausedReplicas", NOT_PAUSED) != NOT_PAUSED
    told = f"{state['replicas']} replica{'' if state['replicas'] == 1 else 's'}"
    return f"{told}, KEDA paused at {state['pausedReplicas']}" if paused else told
