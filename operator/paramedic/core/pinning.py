"""What an incident takes over from its policy when it is matched: a later edit does not change one under way."""

from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

from paramedic.api.checks import Verify
from paramedic.api.incident import Incident, PinnedPolicy, StepStatus
from paramedic.api.policy import READING, RemediationPolicy, Step, only_reads
from paramedic.api.workload import WORKLOADS, BoundTarget, TargetSelector, bound
from paramedic.core.alert import Alert
from paramedic.core.match import target_for_alert

_BREACH = "SecurityBreach"
_CAPTURE = Step(name="capture-evidence", on_failure="Continue", captureEvidence={})
_LONG_AGO = datetime(1970, 1, 1, tzinfo=UTC)


def pin(policy: RemediationPolicy) -> PinnedPolicy:
    """The policy's settings as they stay for the incident."""
    return PinnedPolicy(
        name=policy.metadata.name,
        namespace=policy.metadata.namespace,
        uid=policy.metadata.uid,
        generation=policy.metadata.generation,
        mode=policy.spec.mode,
        strategy=policy.spec.strategy,
        guards=policy.spec.guards,
        team=policy.spec.escalation.team if policy.spec.escalation else None,
        notify=policy.spec.notify,
    )


def pinned_steps(
    policy: RemediationPolicy, incident: Incident, expand: Callable[[Step], list[Step]] = lambda step: [step]
) -> list[StepStatus]:
    """The policy's steps, resolved for this incident; a procedure becomes the steps that it stands for.

    Of a security breach evidence is captured before anything is changed, whatever the policy's order (runbook 4).
    """
    pinned = []
    for step in _evidence_first(policy.spec.steps) if incident.spec.type == _BREACH else policy.spec.steps:
        parts = expand(step)
        group = None if parts == [step] else step.name
        pinned += [_pinned_step(policy, part, incident, group) for part in parts]
    return pinned


def default_verify(from_alert: bool) -> Verify:
    """When the policy says nothing: the rollout is complete and, for an alert's incident, the alert has ended."""
    return Verify(rollout=True, alert_resolved=from_alert or None)


def _pinned_step(policy: RemediationPolicy, step: Step, incident: Incident, group: str | None) -> StepStatus:
    from_alert = incident.spec.alert is not None
    reads = only_reads(step.action, step.params)
    by_mode = policy.spec.mode == "Approve" and step.approval != "NotRequired" and not reads
    approval = step.approval == "Required" or by_mode
    target = _target_of(policy, step, incident)
    return StepStatus(
        name=step.name,
        part_of=group,
        action=step.action,
        params=_without_secret_values(step.params, _kind_of(policy, step, target)),
        target=target,
        when=step.when,
        approval_required=approval,
        on_failure=step.on_failure,
        timeout=step.timeout,
        ttl=step.ttl,
        revert_when=step.revert_when,
        verify=step.verify or policy.spec.verify or default_verify(from_alert),
    )


def _kind_of(policy: RemediationPolicy, step: Step, target: BoundTarget | None) -> str:
    """Of what it is meant for, also where the alert does not say which one."""
    meant = target or step.target or policy.spec.target
    return meant.kind if meant else ""


def _without_secret_values(params: dict[str, Any], kind: str) -> dict[str, Any]:
    """Values for a Secret are no values for a status, also of a step that will be refused because of them."""
    if kind != "Secret" or not params.get("data"):
        return params
    return params | {"data": dict.fromkeys(params["data"], "")}


def _evidence_first(steps: list[Step]) -> list[Step]:
    """The steps with those that change nothing in front, and with one that captures evidence among them. What only
    reads comes before all, for it waits for nobody.
    """
    reading = [step for step in steps if step.action in READING]
    if not any(step.action == _CAPTURE.action for step in reading):
        about = next((s.target for s in steps if s.target and s.target.kind in WORKLOADS), None)
        reading.append(_CAPTURE.model_copy(update={"target": about}))
    reading.sort(key=lambda step: not only_reads(step.action, step.params))
    return reading + [step for step in steps if step.action not in READING]


def _target_of(policy: RemediationPolicy, step: Step, incident: Incident) -> BoundTarget | None:
    """The step's own target, else the Incident's, else the policy's."""
    namespace = incident.metadata.namespace
    own = _selected(step.target, incident)
    if step.target is None and incident.spec.target:
        return bound(incident.spec.target.kind, namespace, incident.spec.target.name)
    if step.target is None:
        own = _selected(policy.spec.target, incident)
    return bound(own["kind"], namespace, own["name"]) if own else None


def _selected(selector: TargetSelector | None, incident: Incident) -> dict[str, str] | None:
    source = incident.spec.alert
    if selector is None:
        return None
    labels = source.labels if source else {}
    alert = Alert("firing", labels, {}, incident.metadata.creation_timestamp or _LONG_AGO, None, "", "")
    return target_for_alert(selector, alert)
