"""What an Incident that a person opens is to say: found out from the namespace's policies as far as it can be. Pure.

Which policy answers is asked of the operator's own ``policy_for_incident``, so that what is said here is what happens.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import get_args

from pydantic import TypeAdapter, ValidationError

from paramedic.api.incident import Incident, IncidentMeta, IncidentSpec, PolicyRef
from paramedic.api.policy import IncidentType, RemediationPolicy, Severity
from paramedic.api.workload import TargetKind, TargetRef
from paramedic.core.match import by_precedence, policy_for_incident, serves
from paramedic.plugin.failures import Exit, Failure

REPORTED = "Reported"
"""The type of what no policy has a word for; as for ``/incident create`` in Slack."""
SEVERITIES: tuple[Severity, ...] = get_args(Severity)
_TYPE = TypeAdapter(IncidentType)
_SHORT = {"deploy": "Deployment", "sts": "StatefulSet", "ds": "DaemonSet", "svc": "Service", "ing": "Ingress"}
_KINDS = {kind.lower(): kind for kind in get_args(TargetKind)}


@dataclass(frozen=True, slots=True)
class Wish:
    """What the person has said; None is to be found out."""

    severity: Severity
    type: str | None = None
    target: TargetRef | None = None
    policy: str | None = None


@dataclass(frozen=True, slots=True)
class Choice:
    """What the Incident becomes, and which policy answers: none when nothing is done by itself."""

    type: str
    severity: Severity
    target: TargetRef | None = None
    policy: RemediationPolicy | None = None


def read_target(text: str) -> TargetRef | None:
    """``deployment/covet-app``, also with kubectl's short names and plurals; None for what is no such thing."""
    kind, slash, name = text.partition("/")
    known = _kind(kind.lower())
    if not slash or known is None:
        return None
    try:
        return TargetRef.model_validate({"kind": known, "name": name})
    except ValidationError:
        return None


def choose(policies: Sequence[RemediationPolicy], wish: Wish, namespace: str) -> Choice:
    """The one possibility. Raises Failure that lists them when there are several, or none though there are policies."""
    _check_type(wish.type)
    serving = [p for p in by_precedence(policies) if serves(p, namespace)]
    if wish.policy and not any(p.metadata.name == wish.policy for p in serving):
        names = ", ".join(p.metadata.name for p in serving) or "there is none"
        raise Failure(Exit.NOT_FOUND, f"there is no policy {wish.policy} for {namespace}: {names}")
    found = _choices(serving, wish, namespace)
    if len(found) > 1:
        raise Failure(Exit.USAGE, _several(found, wish, namespace))
    if found:
        return found[0]
    if wish.type or not any(p.spec.match.incidents for p in serving):
        return Choice(wish.type or REPORTED, wish.severity, wish.target)
    raise Failure(Exit.USAGE, _none(serving, wish, namespace))


def fixed_target(policy: RemediationPolicy) -> TargetRef | None:
    """The object that the policy names; None where an alert's label says it, or each step."""
    selector = policy.spec.target
    return TargetRef(kind=selector.kind, name=selector.name) if selector and selector.name else None


def describe_policy(policy: RemediationPolicy) -> str:
    """``api-outage (Approve) acts on Deployment/covet-app: undo-bad-deploy, more-room``."""
    target = fixed_target(policy)
    on = f" acts on {target.kind}/{target.name}" if target else ""
    steps = ", ".join(step.name for step in policy.spec.steps)
    return f"{policy.metadata.name} ({'paused' if policy.spec.paused else policy.spec.mode}){on}: {steps}"


def _check_type(word: str | None) -> None:
    try:
        _TYPE.validate_python(word or REPORTED)
    except ValidationError as error:
        text = f"--type {word}: an incident type is one CamelCase word, for example APIOutage"
        raise Failure(Exit.USAGE, text) from error


def _choices(serving: Sequence[RemediationPolicy], wish: Wish, namespace: str) -> list[Choice]:
    """One for each type that a policy answers to; where the person has named a target, those that are for it first."""
    found = []
    for kind in _types(serving, wish):
        policy = _answering(serving, wish, kind, namespace)
        if policy:
            target = wish.target or fixed_target(policy)
            found.append(Choice(kind, wish.severity, target, policy))
    meant = [one for one in found if wish.target and one.policy and fixed_target(one.policy) is not None]
    return meant or found


def _types(serving: Iterable[RemediationPolicy], wish: Wish) -> list[str]:
    if wish.type:
        return [wish.type]
    types: list[str] = []
    for policy in serving:
        if wish.policy in (None, policy.metadata.name) and (policy.spec.match.incidents or wish.policy):
            wanted = policy.spec.match.incidents.types if policy.spec.match.incidents else []
            types += wanted or [policy.spec.incident.type]
    return list(dict.fromkeys(types))


def _reference(serving: Iterable[RemediationPolicy], name: str | None, namespace: str) -> PolicyRef | None:
    """The namespace's own policy of the name, else one of that name that serves it."""
    if name is None:
        return None
    found = [p.metadata.namespace for p in serving if p.metadata.name == name]
    return PolicyRef(name=name, namespace=namespace if namespace in found else next(iter(found), None))


def _answering(serving: Sequence[RemediationPolicy], wish: Wish, kind: str, namespace: str) -> RemediationPolicy | None:
    spec = IncidentSpec(
        title="?",
        type=kind,
        severity=wish.severity,
        target=wish.target,
        policy_ref=_reference(serving, wish.policy, namespace),
    )
    return policy_for_incident(serving, Incident(metadata=IncidentMeta(name="?", namespace=namespace), spec=spec))


def _several(found: Sequence[Choice], wish: Wish, namespace: str) -> str:
    lines = [f"  --type {one.type}   {describe_policy(one.policy)}" for one in found if one.policy]
    about = f" for {wish.target.kind}/{wish.target.name}" if wish.target else ""
    return "\n".join([f"{namespace} has policies for several types of incident{about}; say which it is:", *lines])


def _none(serving: Sequence[RemediationPolicy], wish: Wish, namespace: str) -> str:
    about = f" of {wish.target.kind}/{wish.target.name}" if wish.target else ""
    head = f"no policy of {namespace} answers to a {wish.severity}{about}. Possible are:"
    others = [
        f"  --severity {severity} --type {one.type}   {describe_policy(one.policy)}"
        for severity in SEVERITIES
        if severity != wish.severity
        for one in _choices(serving, Wish(severity, wish.type, wish.target, wish.policy), namespace)
        if one.policy
    ]
    named = [f"  --policy {p.metadata.name}   {describe_policy(p)}" for p in serving]
    return "\n".join([head, *(others or named), f"  --type {REPORTED}   people only: nothing is done by itself"])


def _kind(word: str) -> str | None:
    singulars = (word, word.removesuffix("s"), word.removesuffix("es"))
    return _SHORT.get(word) or next((_KINDS[one] for one in singulars if one in _KINDS), None)
