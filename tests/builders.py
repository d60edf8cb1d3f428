"""Objects for tests, each with defaults that work: a test says only what it is about."""

from __future__ import annotations

import functools
import subprocess
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from paramedic.actions.base import Observed
from paramedic.api import ANNOTATION_OPERATION
from paramedic.api.checks import Verify
from paramedic.api.incident import Incident, PinnedPolicy, StepStatus
from paramedic.api.policy import Guards, RemediationPolicy, Window
from paramedic.core.alert import Alert, fingerprint
from paramedic.core.guard import ActionRecord, Situation, TargetKey
from testbed import toolchain

Json = dict[str, Any]
NOW = datetime(2026, 3, 2, 12, 0, tzinfo=UTC)
TARGET: TargetKey = ("covet", "Deployment", "covet-app")
OPERATION = "019cbe40-1c00-7000-8000-000000000001"


def minutes(count: float) -> timedelta:
    return timedelta(minutes=count)


def ago(count: float) -> datetime:
    """So many minutes before NOW."""
    return NOW - minutes(count)


def later(count: float) -> datetime:
    """So many minutes after NOW."""
    return NOW + minutes(count)


# -- alerts, policies, incidents ---------------------------------------------------------------------------------------


def alert(
    state: str = "firing",
    *,
    starts_at: datetime = NOW,
    ends_at: datetime | None = None,
    annotations: Mapping[str, str] | None = None,
    mark: str | None = None,
    **labels: str,
) -> Alert:
    """An alert; without labels, CovetApiErrors."""
    found = labels or {"alertname": "CovetApiErrors", "severity": "critical"}
    return Alert(state, found, annotations or {}, starts_at, ends_at, "", mark or fingerprint(found))  # type: ignore[arg-type]


def policy(name: str = "api-outage", namespace: str = "covet", created: datetime | None = NOW, **spec: Any) -> Any:
    """A policy that answers to CovetApiErrors with a rollback of covet-app; ``spec`` in the manifest's own words."""
    return RemediationPolicy.model_validate(policy_manifest(name, namespace, created, **spec))


def policy_manifest(
    name: str = "api-outage", namespace: str = "covet", created: datetime | None = NOW, **spec: Any
) -> Json:
    """The same as a manifest."""
    whole = {
        "mode": "Auto",
        "match": {"alerts": [{"matchers": ['alertname="CovetApiErrors"']}]},
        "target": {"name": "covet-app"},
        "steps": [{"name": "undo", "rollback": {}}],
    } | spec
    metadata = {"name": name, "namespace": namespace, "uid": f"uid-{name}", "generation": 1}
    return {"metadata": metadata | ({"creationTimestamp": created.isoformat()} if created else {}), "spec": whole}


def window(schedule: str = "0 18 * * FRI", duration: str = "60h", zone: str = "UTC") -> Window:
    return Window.model_validate({"schedule": schedule, "duration": duration, "timeZone": zone})


def guards(**spec: Any) -> Guards:
    """Guards in the manifest's own words."""
    return Guards.model_validate(spec)


def step(name: str = "undo", state: str = "Pending", **fields: Any) -> StepStatus:
    """A step of an incident; one that has acted has its operation, attempt and start."""
    acted = state in ("Executing", "Verifying", "Succeeded", "Failed", "Unknown", "Reverted")
    begun: Json = {"operation": OPERATION, "attempts": 1, "started_at": ago(5)} if acted else {}
    target = {"namespace": "covet", "name": "covet-app"}
    return StepStatus.model_validate(
        {"name": name, "action": "scale", "state": state, "target": target} | begun | fields
    )


def held(name: str = "more-room", state: str = "Succeeded", **fields: Any) -> StepStatus:
    """A leased step whose change is in place."""
    lease: Json = {"ttl": minutes(60), "after": {"replicas": 10}, "before": {"replicas": 3}}
    return step(name, state, **(lease | {"revert_at": later(55)} | fields))


def incident(
    *steps: StepStatus,
    phase: str = "Open",
    alert_state: str | None = "firing",
    strategy: str = "UntilRecovered",
    mode: str = "Auto",
    status: Json | None = None,
    metadata: Json | None = None,
    **spec: Any,
) -> Incident:
    """An incident under a pinned policy; ``alert_state=None`` is one that a person applied."""
    meta: Json = {"name": "api-down", "namespace": "covet", "uid": "uid-1", "resourceVersion": "1"}
    body: Json = {"title": "API returns 5xx", "type": "APIOutage", "severity": "P0"}
    state: Json = {
        "phase": phase,
        "policy": PinnedPolicy(name="api-outage", namespace="covet", mode=mode, strategy=strategy),  # type: ignore[arg-type]
        "steps": list(steps),
    }
    if alert_state:
        source = {"fingerprint": "f1", "labels": {"alertname": "CovetApiErrors"}, "startsAt": ago(10).isoformat()}
        body["alert"] = source
        state["alert"] = {"state": alert_state, "firing": ["f1"] if alert_state == "firing" else []}
    return Incident.model_validate(
        {
            "metadata": meta | {"creationTimestamp": ago(10).isoformat()} | (metadata or {}),
            "spec": body | spec,
            "status": state | (status or {}),
        }
    )


def verify(**spec: Any) -> Verify:
    """Checks in the manifest's own words."""
    return Verify.model_validate(spec)


# -- guards ------------------------------------------------------------------------------------------------------------


def action(
    at: datetime, who: str = "covet/other", target: TargetKey | None = TARGET, under: str = "covet/api-outage"
) -> ActionRecord:
    """An action of the past, by another incident unless said otherwise."""
    return ActionRecord(under, target, at, who, f"{who}@{at.isoformat()}")


def situation(**facts: Any) -> Situation:
    """A situation in which nothing stands in the way."""
    usual: Json = {
        "now": NOW,
        "incident": "covet/api-down",
        "opened_at": ago(1),
        "acted_before": False,
        "policy": "covet/api-outage",
        "policy_paused": False,
        "target": TARGET,
    }
    return Situation(**(usual | facts))


# -- workloads ---------------------------------------------------------------------------------------------------------


def workload(kind: str = "Deployment", name: str = "covet-app", image: str = "covet:1", **spec: Any) -> Json:
    """A manifest that the API server takes."""
    labels = {"app": name}
    template = {
        "metadata": {"labels": labels},
        "spec": {"containers": [{"name": "main", "image": image}], "terminationGracePeriodSeconds": 0},
    }
    scaled: Json = {} if kind == "DaemonSet" else {"replicas": 2}
    extra: Json = {"serviceName": name} if kind == "StatefulSet" else {}
    body = {"selector": {"matchLabels": labels}, "template": template} | scaled | extra | spec
    return {"apiVersion": "apps/v1", "kind": kind, "metadata": {"name": name}, "spec": body}


def stored(manifest: Json, *, uid: str = "uid-w", version: str = "7", namespace: str = "covet") -> Json:
    """A manifest as it comes back from the API server."""
    meta = {"uid": uid, "resourceVersion": version, "namespace": namespace, "generation": 1}
    return {"status": {"observedGeneration": 1}} | manifest | {"metadata": meta | manifest["metadata"]}


def observed(manifest: Json | None = None, left: tuple[Json, ...] = (), **related: list[Json]) -> Observed:
    """What an action sees."""
    return Observed(stored(manifest or workload()), related, left)


def hpa(name: str = "covet-app", least: int | None = 2, most: int = 5, stamp: str = "") -> Json:
    """An HPA of covet-app; without ``least``, its minReplicas is not written down."""
    bounds: Json = {"maxReplicas": most} | ({"minReplicas": least} if least is not None else {})
    ref = {"apiVersion": "apps/v1", "kind": "Deployment", "name": "covet-app"}
    annotations = {ANNOTATION_OPERATION: stamp} if stamp else {}
    return {
        "apiVersion": "autoscaling/v2",
        "kind": "HorizontalPodAutoscaler",
        "metadata": {"name": name, "uid": f"uid-{name}", "resourceVersion": "3", "annotations": annotations},
        "spec": {"scaleTargetRef": ref} | bounds,
    }


def scaled_object(name: str = "workers", **spec: Any) -> Json:
    """KEDA's ScaledObject of covet-app."""
    meta = {"name": name, "namespace": "covet", "uid": f"uid-{name}", "resourceVersion": "9"}
    return {"metadata": meta, "spec": {"scaleTargetRef": {"name": "covet-app"}} | spec}


def replica_set(number: int, image: str, *, cause: str = "", annotations: Mapping[str, str] | None = None) -> Json:
    """One entry of covet-app's rollout history, ``number`` hours before NOW plus a day."""
    template = workload(image=image)["spec"]["template"]
    labels = template["metadata"]["labels"] | {"pod-template-hash": f"hash{number}"}
    notes = {"deployment.kubernetes.io/revision": str(number)} | (
        {"kubernetes.io/change-cause": cause} if cause else {}
    )
    return {
        "metadata": {
            "name": f"covet-app-{number}",
            "creationTimestamp": (NOW - timedelta(hours=24 - number)).isoformat(),
            "annotations": notes,
            "ownerReferences": [{"uid": "uid-w", "controller": True}],
        },
        "spec": {"template": template | {"metadata": _meta(labels, annotations)}},
    }


def _meta(labels: Mapping[str, str], annotations: Mapping[str, str] | None) -> Json:
    return {"labels": dict(labels)} | ({"annotations": dict(annotations)} if annotations else {})


# -- an oracle ---------------------------------------------------------------------------------------------------------


@functools.cache
def amtool() -> Path:
    """Alertmanager's own tool."""
    toolchain.ensure("alertmanager")
    return toolchain.binary("amtool")


def run_amtool(*args: str) -> subprocess.CompletedProcess[str]:
    """Runs it, offline; the caller looks at the exit code."""
    return subprocess.run([str(amtool()), *args], capture_output=True, text=True, timeout=30, check=False)
