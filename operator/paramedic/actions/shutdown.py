"""``shutdown``: the runbook's "Complete Service Shutdown". Services select nothing any more, then workloads go to 0.

Always with a person's consent. Where an HPA owns a workload its bounds stay: it does not scale up from 0.
"""

import asyncio
import json
from collections.abc import AsyncGenerator
from contextlib import suppress
from dataclasses import dataclass
from typing import Annotated

from pydantic import Field, model_validator

from paramedic.actions.base import Action, Change, Clients, Json, Observed, Report, State, patch_of
from paramedic.actions.emergency import (
    EMERGENCY_SELECTOR,
    KINDS,
    EmergencyObjects,
    as_annotation,
    part,
    present_of,
    read_scaled,
    saved_of,
    with_condition,
)
from paramedic.api.base import Model
from paramedic.api.checks import Verify
from paramedic.api.policy import Step
from paramedic.api.reasons import Reason
from paramedic.api.workload import BoundTarget, target_path
from paramedic.clients.evidence import EvidenceStore
from paramedic.core.manifests import without_secrets
from paramedic.core.merge import merge_difference
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


class Shutdown(Action):
    """Each object is a step of its own, with what it was before written on it."""

    name = "shutdown"
    summary = "Emergency: cuts the services' traffic, then scales the workloads to 0, in order; always after approval."
    params = ShutdownParams
    part_params = ShutdownPart
    kinds = KINDS
    beyond_target = True
    needs_approval = True

    def expand(self, step: Step) -> list[Step]:
        """One step for each object. A service that is shut down is not asked whether its errors have gone."""
        params = ShutdownParams.model_validate(step.params)
        verify = step.verify or Verify(rollout=True)
        parts = [
            part(
                step,
                f"{kind.lower()}-{name}",
                (kind, name),
                self.name,
                {"selector": params.selector} if kind == "Service" else {},
                verify=verify,
            )
            for kind, name in params.objects()
        ]
        return with_condition(parts, step.when)

    async def observe(self, target: BoundTarget, clients: Clients) -> Observed:
        """Reads the object and the HPA that owns it."""
        return await read_scaled(target, clients)

    def state(self, observed: Observed) -> State:
        """The selector, or the replicas."""
        return {k: v for k, v in present_of(observed).items() if k != "hpa"}

    def plan(self, observed: Observed, params: ShutdownPart, operation: str) -> Change:
        """The swap, with the present state saved. Raises Refused for a Service that selects nothing."""
        before = self.state(observed)
        after: State = {"selector": params.selector} if observed.kind == "Service" else {"replicas": 0}
        if observed.kind == "Service" and not before["selector"]:
            raise Refused(
                Reason.INVALID_PARAMETERS,
                f"Service/{observed.name} has no selector, its endpoints are made otherwise: cut its traffic by hand",
            )
        if before == after and (observed.kind == "Service" or saved_of(observed.target) is not None):
            return Change(before, after, (), None, f"{observed.name}: already {_told(after)}")
        message = f"{observed.name}: {_told(before)} → {_told(after)}"
        if before == after:
            message = f"{observed.name}: already {_told(after)}, noted for the recovery"
        meta = observed.target["metadata"]
        manifest = without_secrets(observed.target)
        kept = _Manifest(f"{observed.kind}-{observed.name}", meta["namespace"], observed.incident, operation, manifest)
        change = self._change_to(observed, after, present_of(observed), operation, message)
        return Change(before, after, change.forward, before, message, work=kept)

    def restore(self, observed: Observed, before: State, operation: str) -> Change:
        """Back to the earlier selector or replicas; nothing is saved any more."""
        return self._change_to(observed, before, None, operation, f"{observed.name}: back to {_told(before)}")

    async def apply(self, change: Change, clients: Clients) -> Report | None:
        """Keeps the manifest as evidence where there is a store, for a moment at most; then writes."""
        report = await _keep(change.work, clients.evidence) if change.work and clients.evidence else None
        await super().apply(change, clients)
        return report

    def _change_to(self, observed: Observed, after: State, saved: State | None, operation: str, message: str) -> Change:
        before = self.state(observed)
        changes: Json = {"spec": merge_difference(before, after)}
        path = target_path(observed.kind, observed.target["metadata"]["namespace"], observed.name)
        patch = patch_of(observed.target, path, changes, operation, observed.incident)
        patch.body["metadata"]["annotations"] |= as_annotation(saved)
        return Change(before, after, (patch,), before, message)


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
    return f"{state['replicas']} replica{'' if state['replicas'] == 1 else 's'}"
