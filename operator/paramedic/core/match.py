"""Which policy answers to an alert or an Incident, and what the alert becomes (design: receive → match)."""

import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from paramedic.api import API_VERSION, FINALIZER, LABEL_MANAGED_BY, SYSTEM_NAMESPACE
from paramedic.api.base import OBJECT_NAME_PATTERN, format_time
from paramedic.api.incident import Incident, PolicyRef
from paramedic.api.policy import RemediationPolicy, Severity
from paramedic.api.workload import RESOURCES, TargetSelector
from paramedic.core.alert import Alert, common_labels, short_hash
from paramedic.core.matchers import Matcher, all_match, parse_matchers
from paramedic.core.templates import one_line, render

_MAX_LABEL_VALUE = 4096
_MAX_LABELS_SIZE = 32 * 1024
_SEVERITIES: tuple[Severity, ...] = ("P0", "P1", "P2", "P3")
_LAST_ORDER = datetime.max.replace(tzinfo=UTC)


@dataclass(frozen=True, slots=True)
class CompiledPolicy:
    """A policy with its matchers, entry by entry, as they are held against alerts."""

    policy: RemediationPolicy
    entries: tuple[tuple[Matcher, ...], ...]

    @property
    def bytes(self) -> int:
        """How much memory the matchers take at most."""
        return sum(matcher.bytes for entry in self.entries for matcher in entry)

    def matching(self, alert: Alert) -> list[tuple[Matcher, ...]]:
        """The entries that the alert passes."""
        return [entry for entry in self.entries if all_match(entry, alert.labels)]


def compile_policy(policy: RemediationPolicy) -> CompiledPolicy:
    """Raises ValueError when a matcher cannot be read."""
    entries = (
        tuple(matcher for text in entry.matchers for matcher in parse_matchers(text))
        for entry in policy.spec.match.alerts
    )
    return CompiledPolicy(policy, tuple(entries))


def by_precedence(policies: Iterable[RemediationPolicy]) -> list[RemediationPolicy]:
    """Highest priority first, then the oldest, then by name."""
    return sorted(
        policies, key=lambda p: (-p.spec.priority, p.metadata.creation_timestamp or _LAST_ORDER, p.metadata.name)
    )


def policies_for_alert(
    policies: Iterable[CompiledPolicy], alert: Alert, system_namespace: str = SYSTEM_NAMESPACE
) -> list[tuple[RemediationPolicy, str]]:
    """The policy that answers to the alert in each namespace that it concerns, with that namespace.

    One policy per namespace, by precedence. Precedence does not count across namespaces: nobody's priority keeps an
    alert from others.
    """
    chosen: dict[str, RemediationPolicy] = {}
    matching = {p.policy.key: (p.policy, entries) for p in policies if (entries := p.matching(alert))}
    for policy in by_precedence(policy for policy, _ in matching.values()):
        namespace = _namespace_for(policy, matching[policy.key][1], alert, system_namespace)
        if namespace:
            chosen.setdefault(namespace, policy)
    return [(policy, namespace) for namespace, policy in chosen.items()]


def policy_for_incident(
    policies: Iterable[RemediationPolicy], incident: Incident, system_namespace: str = SYSTEM_NAMESPACE
) -> RemediationPolicy | None:
    """The policy named by the Incident, or the first by precedence that matches its type, severity and target."""
    serving = [p for p in policies if serves(p, incident.metadata.namespace, system_namespace)]
    if incident.spec.policy_ref:
        return _named(serving, incident.spec.policy_ref, incident.metadata.namespace)
    return next((p for p in by_precedence(serving) if _answers(p, incident)), None)


def serves(policy: RemediationPolicy, namespace: str, system_namespace: str = SYSTEM_NAMESPACE) -> bool:
    """Whether the policy may act in the namespace: its own, or one that a policy of Paramedic's own namespace lists."""
    if policy.metadata.namespace == system_namespace and policy.spec.namespaces:
        return namespace in policy.spec.namespaces
    return policy.metadata.namespace == namespace


def incident_name(policy: RemediationPolicy, group_key: str, alert: Alert, *, own: bool = False) -> str:
    """The same for every resend of one firing, so that a second creation is refused by the API server; and the same for
    all alerts of a group that began at once, unless ``own``.
    """
    marks = (alert.fingerprint,) if own else ()
    stem = re.sub(r"[^a-z0-9]+", "-", _words(alert.labels.get("alertname", "alert"))).strip("-")[:40].strip("-")
    return f"{stem or 'alert'}-{short_hash(policy.key, group_key, format_time(alert.starts_at), *marks)[:10]}"


def incident_manifest(
    policy: RemediationPolicy, namespace: str, alert: Alert, *, own_name: bool = False
) -> dict[str, Any]:
    """The Incident that the alert becomes under the policy. Every text in it is bounded. With ``own_name`` no other
    alert of its group becomes one of the same name.
    """
    group_key = alert.group_key(policy.spec.incident.group_by)
    spec: dict[str, Any] = {
        "title": _title(policy, alert),
        "type": policy.spec.incident.type,
        "severity": severity_of(policy, alert),
        "policyRef": _reference(policy, namespace),
        "alert": {
            "fingerprint": alert.fingerprint,
            "labels": _bounded(alert.labels),
            "annotations": _bounded(alert.annotations),
            "startsAt": format_time(alert.starts_at),
            "generatorURL": alert.generator_url[:2048],
            "groupKey": group_key,
        },
    }
    if common := common_labels(alert.labels, policy.spec.incident.group_by):
        spec["alert"]["groupLabels"] = _bounded(common)
    target = target_for_alert(policy.spec.target, alert)
    if target:
        spec["target"] = target
    metadata: dict[str, Any] = {
        "name": incident_name(policy, group_key, alert, own=own_name),
        "namespace": namespace,
        "labels": {LABEL_MANAGED_BY: "paramedic"},
    }
    if any(step.ttl or step.revert_when for step in policy.spec.steps):
        metadata["finalizers"] = [FINALIZER]
    return {"apiVersion": API_VERSION, "kind": "Incident", "metadata": metadata, "spec": spec}


def target_for_alert(selector: TargetSelector | None, alert: Alert) -> dict[str, str] | None:
    """The target that the selector means for this alert, or None when the label is missing or not a name."""
    if selector is None:
        return None
    name = selector.name or alert.labels.get(selector.name_from_label or "", "")
    if not re.fullmatch(OBJECT_NAME_PATTERN, name) or len(name) > 253:
        return None
    return {"apiVersion": RESOURCES[selector.kind][0], "kind": selector.kind, "name": name}


def severity_of(policy: RemediationPolicy, alert: Alert) -> Severity:
    """By the label that the policy names, through its map; else the policy's severity."""
    template = policy.spec.incident
    value = alert.labels.get(template.severity_from_label or "", "")
    mapped = (template.severity_map or {}).get(value)
    if mapped:
        return mapped
    return next((s for s in _SEVERITIES if s == value.upper()), template.severity)


def is_same(alert: Alert, labels: Mapping[str, str], group: Mapping[str, str]) -> bool:
    """Whether the alert is the one with these ``labels``, or one of its ``group`` if it has one: fingerprints come from
    the sender, and two alerts may have the same. Both are as an Incident keeps them.
    """
    if group:
        return _bounded(common_labels(alert.labels, group)) == group
    return alert.labels == labels or _bounded(alert.labels) == labels


def is_new_firing(alert: Alert, heard_until: datetime | None, now: datetime) -> bool:
    """Whether the alert began after all that an ended incident has heard of it; else it is a resend. Of a sender whose
    clock was ahead only the same start is a resend: a clock that was put right tells earlier ones.
    """
    if heard_until is None:
        return True
    return alert.starts_at != heard_until if heard_until > now else alert.starts_at > heard_until


def _named(policies: list[RemediationPolicy], ref: PolicyRef, namespace: str) -> RemediationPolicy | None:
    """By name, in the Incident's own namespace unless another is given: whoever named it was asked for rights there."""
    meant = f"{ref.namespace or namespace}/{ref.name}"
    return next((p for p in policies if p.key == meant), None)


def _reference(policy: RemediationPolicy, namespace: str) -> dict[str, str]:
    own = policy.metadata.namespace
    return {"name": policy.metadata.name} | ({} if own == namespace else {"namespace": own})


def _namespace_for(
    policy: RemediationPolicy, matching: Iterable[tuple[Matcher, ...]], alert: Alert, system_namespace: str
) -> str | None:
    """An alert about another namespace is not this policy's, unless the matchers speak of the namespace themselves."""
    said = alert.labels.get("namespace", "")
    own = policy.metadata.namespace
    if own == system_namespace and policy.spec.namespaces:
        return said if said in policy.spec.namespaces else None
    meant = any(m.label == "namespace" for entry in matching for m in entry)
    return own if said in ("", own) or meant else None


def _answers(policy: RemediationPolicy, incident: Incident) -> bool:
    wanted = policy.spec.match.incidents
    if wanted is None or incident.spec.alert is not None:
        return False
    if wanted.types and incident.spec.type not in wanted.types:
        return False
    if wanted.severities and incident.spec.severity not in wanted.severities:
        return False
    fixed = policy.spec.target.name if policy.spec.target else None
    return not (fixed and incident.spec.target and incident.spec.target.name != fixed)


def _title(policy: RemediationPolicy, alert: Alert) -> str:
    try:
        title = render(policy.spec.incident.title, {"labels": alert.labels, "annotations": alert.annotations})
    except ValueError:
        title = ""
    return title or one_line(alert.labels.get("alertname", ""))[:200] or "Alert"


def _bounded(texts: Any) -> dict[str, str]:
    """The first of the labels that fit: an Incident must never be too large to be stored."""
    kept: dict[str, str] = {}
    size = 0
    for name, value in list(texts.items())[:128]:
        size += len(json.dumps(name)) + len(json.dumps(value[:_MAX_LABEL_VALUE]))
        if size > _MAX_LABELS_SIZE:
            break
        kept[name[:256]] = value[:_MAX_LABEL_VALUE]
    return kept


def _words(name: str) -> str:
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "-", name).lower()
