"""The whole of a diagnosis as a document for the evidence: what matters of each object, nothing that may be a secret.

Objects are never copied whole: a pod's environment, an annotation, a message may hold a password.
"""

from collections import Counter
from collections.abc import Iterable, Mapping
from datetime import datetime
from typing import Any

from paramedic.api.incident import Finding
from paramedic.core.found_cluster import endpoints_of
from paramedic.core.found_pods import event_count, event_object, event_time
from paramedic.core.outside import row_of
from paramedic.core.picture import Answer, Picture, conditions_of, name_of
from paramedic.core.pods import container_statuses, is_ready, last_end, restarts_of, troubles
from paramedic.core.quantity import parse_quantity
from paramedic.core.redact import clean
from paramedic.core.release import Release
from paramedic.diagnosis.outside import PodStats
from paramedic.diagnosis.traffic import backends

Json = dict[str, Any]
_MOST_ROWS = 500
_MOST_EVENTS = 100
_MOST_STATS = 50
_GIVEN_STATUS = (
    "replicas",
    "readyReplicas",
    "availableReplicas",
    "updatedReplicas",
    "unavailableReplicas",
    "desiredNumberScheduled",
    "numberReady",
    "numberAvailable",
    "updatedNumberScheduled",
)


def document(
    picture: Picture,
    findings: Iterable[Finding],
    failed: Iterable[str],
    *,
    revisions: list[Json],
    logs: list[Json],
    node_usage: list[Json] | None,
    envoys: list[PodStats],
) -> Json:
    """Everything that was seen, family by family; what could not be looked at is under ``couldNotLook``."""
    return {
        "target": picture.target,
        "namespace": picture.namespace,
        "at": picture.now.isoformat(),
        "alertStartedAt": picture.alert_started_at.isoformat() if picture.alert_started_at else None,
        "findings": [finding.to_wire() for finding in findings],
        "couldNotLook": list(failed),
        "workload": _workload(picture.workload),
        "rollout": _rollout(picture.release, revisions),
        "pods": _rows(picture.pods, lambda pod: _pod(pod, picture)),
        "logs": logs,
        "events": _events(picture.events),
        "services": _rows(picture.services, lambda one: _service(one, picture.endpoint_slices)),
        "ingresses": _rows(picture.ingresses, _ingress),
        "dns": {name: clean(error) if error else "resolves" for name, error in picture.names.items()},
        "nodes": _nodes(picture, node_usage),
        "autoscalers": _rows(picture.autoscalers, _autoscaler),
        "quotas": _rows(picture.quotas, _quota),
        "usage": _usage(picture.pod_usage),
        "urls": [_answer(answer) for answer in picture.answers],
        "connections": [row_of(one) for one in picture.outside],
        "envoy": [_envoy(one) for one in envoys],
    }


def _rows(objects: list[Json] | None, row: Any) -> list[Json] | None:
    return None if objects is None else [row(one) for one in objects[:_MOST_ROWS]]


def _workload(workload: Json | None) -> Json | None:
    if workload is None:
        return None
    spec, status = workload.get("spec") or {}, workload.get("status") or {}
    return {
        "generation": workload["metadata"].get("generation"),
        "paused": bool(spec.get("paused")),
        "wanted": spec.get("replicas"),
        "status": {key: status[key] for key in _GIVEN_STATUS if key in status},
        "conditions": _conditions(workload),
    }


def _rollout(release: Release | None, revisions: list[Json]) -> Json:
    told = None
    if release:
        told = {
            "revision": release.revision,
            "startedAt": release.started_at.isoformat(),
            "restartedAt": release.restarted_at.isoformat() if release.restarted_at else None,
            "previous": release.previous,
            "changed": list(release.changes.words()),
        }
    history = [one | {"changeCause": clean(one.get("changeCause") or "")} for one in revisions]
    return {"release": told, "history": history}


def _pod(pod: Json, picture: Picture) -> Json:
    status = pod.get("status") or {}
    found = troubles(pod, picture.now, picture.since)
    return {
        "name": name_of(pod),
        "node": (pod.get("spec") or {}).get("nodeName"),
        "phase": status.get("phase"),
        "ready": is_ready(pod),
        "restarts": restarts_of(pod),
        "startedAt": status.get("startTime"),
        "terminating": bool(pod["metadata"].get("deletionTimestamp")),
        "troubles": [f"{t.reason}: {t.text}" for t in found],
        "containers": [_container(c) for c in container_statuses(pod) if found or not c.get("ready")],
    }


def _container(container: Json) -> Json:
    states: Json = container.get("state") or {"unknown": {}}
    state, detail = next(iter(states.items()))
    ended = last_end(container)
    return {
        "name": container.get("name"),
        "image": clean(container.get("image"), 200),
        "ready": bool(container.get("ready")),
        "restarts": int(container.get("restartCount") or 0),
        "state": state,
        "why": clean((detail or {}).get("reason") or "", 63),
        "message": clean((detail or {}).get("message") or "", 300),
        "lastEnd": {key: ended.get(key) for key in ("exitCode", "reason", "finishedAt")} if ended else None,
    }


def _events(events: list[Json] | None) -> list[Json] | None:
    """The newest hundred; the same message about many objects of a kind is one line."""
    if events is None:
        return None
    groups: dict[tuple[str, str, str], list[Json]] = {}
    for event in events:
        key = (event_object(event)[0], clean(event.get("reason"), 63), clean(event.get("message") or "", 300))
        groups.setdefault(key, []).append(event)
    rows = [_event_row(key, group) for key, group in groups.items()]
    return sorted(rows, key=lambda row: str(row["lastAt"] or ""), reverse=True)[:_MOST_EVENTS]


def _event_row(key: tuple[str, str, str], group: list[Json]) -> Json:
    kind, reason, message = key
    objects = sorted({event_object(event)[1] for event in group})
    last = max((at for event in group if (at := event_time(event))), default=None)
    return {
        "kind": kind,
        "objects": objects[:3],
        "objectCount": len(objects),
        "reason": reason,
        "message": message,
        "count": sum(event_count(event) for event in group),
        "lastAt": _iso(last),
    }


def _service(service: Json, slices: list[Json] | None) -> Json:
    spec = service["spec"]
    ready, total = endpoints_of(name_of(service), slices or [])
    return {
        "name": name_of(service),
        "type": spec.get("type"),
        "selector": _cleaned(spec.get("selector")),
        "ports": [
            {key: p.get(key) for key in ("name", "port", "targetPort", "nodePort")} for p in spec.get("ports") or []
        ],
        "loadBalancer": _addresses(service),
        "endpoints": {"ready": ready, "all": total} if slices is not None else None,
    }


def _ingress(ingress: Json) -> Json:
    spec = ingress.get("spec") or {}
    return {
        "name": name_of(ingress),
        "class": spec.get("ingressClassName"),
        "hosts": [clean(rule.get("host") or "*", 253) for rule in spec.get("rules") or []],
        "tlsHosts": [clean(host, 253) for tls in spec.get("tls") or [] for host in tls.get("hosts") or []],
        "backends": sorted(set(backends(ingress))),
        "loadBalancer": _addresses(ingress),
    }


def _addresses(obj: Json) -> list[str]:
    entries = ((obj.get("status") or {}).get("loadBalancer") or {}).get("ingress") or []
    return [clean(entry.get("hostname") or entry.get("ip") or "", 253) for entry in entries]


def _nodes(picture: Picture, usage: list[Json] | None) -> Json | None:
    """The target's nodes and those with anything unusual, and how many there are."""
    if picture.nodes is None:
        return None
    hosts = Counter((pod.get("spec") or {}).get("nodeName") for pod in picture.pods or [])
    used = {name_of(one): one.get("usage") or {} for one in usage or []}
    rows = [_node(node, hosts[name_of(node)], used.get(name_of(node))) for node in picture.nodes]
    worth = [row for row in rows if row["pods"] or row["unusual"] or row["taints"]]
    return {"all": len(rows), "notReady": sum(not row["ready"] for row in rows), "shown": worth[:_MOST_ROWS]}


def _node(node: Json, pods: int, usage: Json | None) -> Json:
    conditions, spec = conditions_of(node), node.get("spec") or {}
    taints = [
        f"{clean(t.get('key'), 253)}={clean(t.get('value') or '', 63)}:{t.get('effect')}"
        for t in spec.get("taints") or []
    ]
    unusual = [
        f"{kind}={c.get('status')}"
        for kind, c in conditions.items()
        if (kind == "Ready") != (c.get("status") == "True")
    ]
    return {
        "name": name_of(node),
        "ready": conditions.get("Ready", {}).get("status") == "True",
        "pods": pods,
        "unusual": unusual,
        "taints": taints,
        "cordoned": bool(spec.get("unschedulable")),
        "usage": _share(usage, (node.get("status") or {}).get("allocatable") or {}) if usage else None,
    }


def _share(usage: Json, allocatable: Json) -> Json:
    """Percent of what is allocatable."""
    shares = {}
    for resource in ("cpu", "memory"):
        used, most = parse_quantity(usage.get(resource)), parse_quantity(allocatable.get(resource))
        if used is not None and most:
            shares[f"{resource}Percent"] = round(100 * used / most)
    return shares


def _autoscaler(hpa: Json) -> Json:
    status = hpa.get("status") or {}
    return {
        "name": name_of(hpa),
        "minReplicas": hpa["spec"].get("minReplicas"),
        "maxReplicas": hpa["spec"].get("maxReplicas"),
        "currentReplicas": status.get("currentReplicas"),
        "desiredReplicas": status.get("desiredReplicas"),
        "conditions": _conditions(hpa),
    }


def _quota(quota: Json) -> Json:
    status = quota.get("status") or {}
    return {"name": name_of(quota), "hard": _cleaned(status.get("hard")), "used": _cleaned(status.get("used"))}


def _usage(usage: list[Json] | None) -> list[Json] | None:
    if usage is None:
        return None
    rows = [
        {"pod": name_of(one), "container": c.get("name")} | _cleaned(c.get("usage"))
        for one in usage
        for c in one.get("containers") or []
    ]
    return sorted(rows, key=lambda row: parse_quantity(row.get("memory")) or 0.0, reverse=True)[:_MOST_ROWS]


def _answer(answer: Answer) -> Json:
    return {
        "purpose": answer.purpose,
        "url": clean(answer.url, 2048),
        "status": answer.status,
        "milliseconds": answer.milliseconds if answer.status is not None else None,
        "error": clean(answer.error, 300) or None,
        "tlsError": clean(answer.tls_error, 300) or None,
    }


def _envoy(one: PodStats) -> Json:
    stats = sorted(one.stats, key=lambda s: (not s.is_open, -s.value))[:_MOST_STATS]
    return {
        "pod": one.pod,
        "openBreakers": [{"cluster": clean(s.cluster), "name": s.name} for s in stats if s.is_open],
        "overflows": [{"cluster": clean(s.cluster), "name": s.name, "count": s.value} for s in stats if not s.is_open],
    }


def _conditions(obj: Json) -> list[Json]:
    return [
        {
            "type": kind,
            "status": c.get("status"),
            "reason": clean(c.get("reason") or "", 63),
            "message": clean(c.get("message") or "", 300),
            "since": c.get("lastTransitionTime"),
        }
        for kind, c in conditions_of(obj).items()
    ]


def _cleaned(values: Mapping[str, Any] | None) -> Json:
    return {clean(key, 253): clean(value, 100) for key, value in (values or {}).items()}


def _iso(at: datetime | None) -> str | None:
    return at.isoformat() if at else None
