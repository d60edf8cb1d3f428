"""The variables of a step's ``when``: alert, incident and target as plain values for CEL."""

from datetime import datetime, timedelta
from typing import Any

from paramedic.api.incident import Finding, Incident, StepStatus
from paramedic.core.people import severity
from paramedic.core.situation import began_at, is_firing

Json = dict[str, Any]
NAMES = frozenset({"alert", "incident", "target", "findings", "steps"})
# Without a known rollout the age is endless, so that "younger than 30m" is false: nothing is rolled back on a guess.
_NEVER = timedelta(days=36500)


def when_values(incident: Incident, target: Json, release_started_at: datetime | None, now: datetime) -> Json:
    """``alert.labels``, ``incident.severity``, ``target.replicas``, ``target.lastRolloutAge`` and so on."""
    return {
        "alert": _alert(incident, now),
        "incident": {
            "name": incident.metadata.name,
            "namespace": incident.metadata.namespace,
            "title": incident.spec.title,
            "type": incident.spec.type,
            "severity": severity(incident),
            "age": now - (incident.metadata.creation_timestamp or now),
        },
        "target": _target(target, release_started_at, now),
        "findings": [_finding(f) for f in incident.status.findings],
        "steps": {step.name: _step(step) for step in incident.status.steps},
    }


def _finding(finding: Finding) -> Json:
    return {"reason": finding.reason, "message": finding.message, "object": finding.object or ""}


def _step(step: StepStatus) -> Json:
    return {"state": step.state, "reason": step.reason, "message": step.message, "result": dict(step.result or {})}


def _alert(incident: Incident, now: datetime) -> Json:
    source = incident.spec.alert
    if source is None:
        return {"labels": {}, "annotations": {}, "firing": False, "age": timedelta(0)}
    return {
        "labels": dict(source.labels),
        "annotations": dict(source.annotations),
        "firing": bool(is_firing(incident)),
        "age": now - (began_at(incident) or now),
    }


def _target(target: Json, release_started_at: datetime | None, now: datetime) -> Json:
    spec, status = target.get("spec") or {}, target.get("status") or {}
    return {
        "kind": target.get("kind", ""),
        "name": target["metadata"]["name"],
        "labels": dict(target["metadata"].get("labels") or {}),
        "replicas": int(spec.get("replicas", status.get("desiredNumberScheduled", 1)) or 0),
        "readyReplicas": int(status.get("readyReplicas", status.get("numberReady", 0)) or 0),
        "availableReplicas": int(status.get("availableReplicas", status.get("numberAvailable", 0)) or 0),
        "updatedReplicas": int(status.get("updatedReplicas", status.get("updatedNumberScheduled", 0)) or 0),
        "lastRolloutAge": now - release_started_at if release_started_at else _NEVER,
    }
