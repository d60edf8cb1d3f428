"""What an incident takes over from its policy when it is matched: a later edit does not change one under way."""

from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from typing import Any

from paramedic.api.checks import Verify
from paramedic.api.incident import Incident, PinnedPolicy, StepStatus
from paramedic.api.policy import READING, SHOWING, PolicySpec, RemediationPolicy, Step, only_reads
from paramedic.api.workload import WITH_PODS, WORKLOADS, BoundTarget, TargetRef, TargetSelector, bound
from paramedic.core.alert import Alert
from paramedic.core.match import target_for_alert

_BREACH = "SecurityBreach"
_CAPTURE = Step(name="capture-evidence", on_failure="Continue", captureEvidence={})
Expand = Callable[[Step], list[Step]]
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
    policy: RemediationPolicy, incident: Incident, expand: Expand = lambda step: [step]
) -> list[StepStatus]:
    """The policy's steps, resolved for this incident; a procedure becomes the steps that it stands for.

    Of a security breach evidence is captured before anything is changed, whatever the policy's order (runbook 4).
    """
    pinned = []
    for step in _evidence_first(policy, incident, expand) if incident.spec.type == _BREACH else policy.spec.steps:
        parts = expand(step)
        group = None if parts == [step] else step.name
        pinned += [_pinned_step(policy, part, incident, group) for part in parts]
    return pinned


def lacks_evidence(spec: PolicySpec, parts: Sequence[Step]) -> bool:
    """Whether the policy answers to security breaches by changing something, and neither it nor its steps' ``parts``
    name anything of which evidence could be captured before. What an Incident has to name itself is not known yet.
    """
    by_alert = bool(spec.match.alerts) and spec.incident.type == _BREACH
    by_person = spec.match.incidents is not None and _BREACH in spec.match.incidents.types
    if not (by_alert or by_person) or all(part.action in READING for part in parts):
        return False
    named = [part.target or spec.target for part in parts]
    return None not in named and not any(one and one.kind in WITH_PODS for one in [*named, spec.target])


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
        verify=_verify(policy, step, from_alert),
    )


def _verify(policy: RemediationPolicy, step: Step, from_alert: bool) -> Verify:
    """The step's own checks, else the policy's, else the default ones."""
    if step.action in SHOWING:
        return step.verify or default_verify(from_alert=False)
    return step.verify or policy.spec.verify or default_verify(from_alert)


def _kind_of(policy: RemediationPolicy, step: Step, target: BoundTarget | None) -> str:
    """Of what it is meant for, also where the alert does not say which one."""
    meant = target or step.target or policy.spec.target
    return meant.kind if meant else ""


def _without_secret_values(params: dict[str, Any], kind: str) -> dict[str, Any]:
    """Values for a Secret are no values for a status, also of a step that will be refused because of them."""
    if kind != "Secret" or not params.get("data"):
        return params
    return params | {"data": dict.fromkeys(params["data"], "")}


def _evidence_first(policy: RemediationPolicy, incident: Incident, expand: Expand) -> list[Step]:
    """The steps with those that change nothing in front, and with one among them that captures evidence in any case.
    What only reads comes before all, for it waits for nobody.
    """
    steps = policy.spec.steps
    reading = [step for step in steps if step.action in READING]
    if not any(_surely_captures(policy, step, incident) for step in reading):
        reading.append(_capture(policy, incident, [part for step in steps for part in expand(step)]))
    reading.sort(key=lambda step: not only_reads(step.action, step.params))
    return reading + [step for step in steps if step.action not in READING]


def _surely_captures(policy: RemediationPolicy, step: Step, incident: Incident) -> bool:
    target, named = _target_of(policy, step, incident), _only_target(incident)
    if step.action != _CAPTURE.action or step.when is not None or target is None:
        return False
    return target.kind in WITH_PODS and (named is None or (named.kind, named.name) == (target.kind, target.name))


def _capture(policy: RemediationPolicy, incident: Incident, parts: Sequence[Step]) -> Step:
    """A capture of the first target with pods: a workload, which has a history too, before a Service."""
    names = {part.name for part in parts} | {step.name for step in policy.spec.steps}
    name = next(name for number in range(len(names) + 1) if (name := _numbered(number)) not in names)
    if _only_target(incident):
        return _CAPTURE.model_copy(update={"name": name})
    found = [_target_of(policy, part, incident) for part in (*parts, _CAPTURE)]
    fit = sorted((one for one in found if one and one.kind in WITH_PODS), key=lambda one: one.kind not in WORKLOADS)
    about = TargetSelector.model_validate({"kind": fit[0].kind, "name": fit[0].name}) if fit else None
    return _CAPTURE.model_copy(update={"name": name, "target": about})


def _only_target(incident: Incident) -> TargetRef | None:
    """Where an applied Incident names its target, its author may change that one, and nothing else is looked into."""
    return incident.spec.target if incident.spec.alert is None else None


def _numbered(number: int) -> str:
    return f"{_CAPTURE.name}-{number + 1}" if number else _CAPTURE.name


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
