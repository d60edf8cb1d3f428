"""May this step act now? Gathers what the guards ask for, and records a refusal as visibly as an action."""

import asyncio
from datetime import datetime

from paramedic.actions.base import Observed, annotation
from paramedic.api import ANNOTATION_OPERATION
from paramedic.api import conditions as c
from paramedic.api.incident import StepStatus
from paramedic.api.policy import READING, Guards, only_reads
from paramedic.api.reasons import Reason
from paramedic.api.workload import WORKLOADS, collection_path
from paramedic.clients.kube import Kube
from paramedic.core.guard import Refusal, Situation, first_refusal
from paramedic.core.operation import operation_time
from paramedic.core.plan import Wait
from paramedic.core.rollout import is_healthy
from paramedic.core.situation import has_acted, is_begun, is_remediating, no_longer_wanted
from paramedic.metrics import Metrics
from paramedic.record import Draft, escalate
from paramedic.store import Store


class Permits:
    """Asks the guards, with the mirror as their memory."""

    def __init__(self, kube: Kube, store: Store, metrics: Metrics) -> None:
        self._kube = kube
        self._store = store
        self._metrics = metrics

    def refusal(
        self, draft: Draft, step: StepStatus, observed: Observed, healthy: tuple[int, int] | None
    ) -> Refusal | None:
        """The first guard that refuses, by what is known at this very moment; nothing is awaited."""
        return first_refusal(_guards(draft), self._situation(draft, step, observed, healthy))

    async def namespace_health(self, draft: Draft) -> tuple[int, int] | None:
        """Healthy and all workloads of the namespace; None when the guard does not ask."""
        if _guards(draft).min_healthy_fraction == 0:
            return None
        namespace = draft.incident.metadata.namespace
        paths = [(kind, collection_path(kind, namespace)) for kind in WORKLOADS]
        found = await asyncio.gather(*(self._kube.list(path) for _, path in paths))
        workloads = [{"kind": kind} | item for (kind, _), items in zip(paths, found, strict=True) for item in items]
        return sum(is_healthy(w) for w in workloads), len(workloads)

    def hold_back(self, draft: Draft, step: StepStatus, refusal: Refusal) -> Wait | None:
        """A refusal is as visible as an action; one without an end is for a person."""
        step.state, step.reason, step.message = "Blocked", str(refusal.reason), refusal.message
        text = f"step {step.name} held back: {refusal.message}"
        if draft.say(refusal.reason, text, condition=(c.REMEDIATION_ALLOWED, "False"), event=True):
            draft.afterwards(lambda: self._metrics.refusals.labels(str(refusal.reason)).inc())
        if refusal.ask_again_at is None:
            escalate(draft, refusal.reason, text)
            return None
        return Wait(text, refusal.ask_again_at, refusal.reason)

    def drops(self, draft: Draft, step: StepStatus) -> bool:
        """Whether an intent of which nothing has been carried out may not be carried out any more: then the step is as
        if there had been none.
        """
        held = self._store.policy_holds(draft.incident.status.policy) and not only_reads(step.action, step.params)
        if not held and not no_longer_wanted(draft.incident):
            return False
        step.state, step.reason, step.message = "Pending", str(Reason.NOT_NEEDED), "nothing was changed"
        step.attempts, step.started_at = 0, None
        return True

    def _situation(
        self, draft: Draft, step: StepStatus, observed: Observed, healthy: tuple[int, int] | None
    ) -> Situation:
        pinned = draft.incident.status.policy
        assert pinned is not None
        assert step.target is not None
        target = step.target.key
        return Situation(
            now=draft.now,
            incident=draft.key,
            opened_at=draft.incident.metadata.creation_timestamp or draft.now,
            acted_before=has_acted(draft.incident),
            policy=pinned.key,
            policy_paused=self._store.policy_is_paused(pinned.key),
            target=target,
            on_target=self._store.actions_on(target),
            under_policy=self._store.actions_under(pinned.key),
            busy_with=self._store.busy_with(target, draft.key),
            open_remediations=self._store.open_remediations(pinned.key, draft.key),
            is_open_remediation=is_remediating(draft.incident),
            target_acted_at=_stamped_at(observed),
            healthy=healthy,
            procedure_begun=is_begun(draft.incident.status.steps, step),
            for_evidence=step.action in READING,
        )


def _guards(draft: Draft) -> Guards:
    assert draft.incident.status.policy is not None
    return draft.incident.status.policy.guards


def _stamped_at(observed: Observed) -> datetime | None:
    """When Paramedic last acted on the target, by the stamp that it left there."""
    holders = [o for kind in ("hpa", "scaledObject") for o in observed.related.get(kind, [])]
    stamps = (annotation(o, ANNOTATION_OPERATION) for o in (observed.target, *holders))
    return max((at for at in (observed.acted_at, *map(operation_time, stamps)) if at), default=None)
