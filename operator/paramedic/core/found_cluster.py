"""Findings about what the pods stand on and what leads to them: nodes, autoscalers, Services, URLs, Envoy."""

from collections import defaultdict
from collections.abc import Iterator
from typing import Any

from paramedic.api.incident import Finding
from paramedic.api.reasons import FindingReason as R
from paramedic.core.picture import Answer, Picture, about, conditions_of, finding, name_of, some
from paramedic.core.pods import is_counted
from paramedic.core.redact import clean

Json = dict[str, Any]
_PRESSURES = ("MemoryPressure", "DiskPressure", "PIDPressure", "NetworkUnavailable")
_SHOWN = 2
SERVICE_NAME = "kubernetes.io/service-name"


def node_findings(picture: Picture) -> Iterator[Finding]:
    """Nodes that are not ready, and those of the target's that are short of something."""
    nodes = picture.nodes or []
    hosts = _pods_by_node(picture)
    down = [n for n in nodes if conditions_of(n).get("Ready", {}).get("status") != "True"]
    if down:
        names = [name_of(node) for node in down]
        pods = sum(len(hosts[name]) for name in names)
        there = f"{pods} of the target's pods are there" if pods else "none of the target's pods is there"
        text = f"{len(down)} of {len(nodes)} nodes NotReady ({some(names)}); {there}"
        yield finding(R.NODE_NOT_READY, text, about(picture, "Node", names))
    for pressure in _PRESSURES:
        names = [name_of(n) for n in nodes if conditions_of(n).get(pressure, {}).get("status") == "True"]
        pods = sum(len(hosts[name]) for name in names)
        if pods:
            text = f"{pressure} on {len(names)} of {len(nodes)} nodes ({some(names)}), with {pods} of the target's pods"
            yield finding(R.NODE_PRESSURE, text, about(picture, "Node", names))


def autoscaler_findings(picture: Picture) -> Iterator[Finding]:
    """HorizontalPodAutoscalers that want more than they may give, or cannot tell what to want."""
    for hpa in picture.autoscalers or []:
        name, conditions = f"HorizontalPodAutoscaler/{name_of(hpa)}", conditions_of(hpa)
        most, present = hpa["spec"].get("maxReplicas"), (hpa.get("status") or {}).get("currentReplicas") or 0
        limited = conditions.get("ScalingLimited", {})
        if limited.get("status") == "True" and limited.get("reason") == "TooManyReplicas":
            text = f"{name} is at its limit: {present} of at most {most} replicas{_metrics_of(hpa)}"
            yield finding(R.AUTOSCALER_AT_LIMIT, text, name)
        for kind in ("AbleToScale", "ScalingActive"):
            condition = conditions.get(kind, {})
            if condition.get("status") == "False" and condition.get("reason") != "ScalingDisabled":
                why = f"{clean(condition.get('reason'), 63)}: {clean(condition.get('message') or '', 160)}"
                yield finding(R.AUTOSCALER_FAILING, f"{name} does not work ({why})", name)


def _metrics_of(hpa: Json) -> str:
    """``; cpu at 95 % of 70 %``, for the utilisation metrics."""
    wanted = {
        (m.get("resource") or {}).get("name"): ((m["resource"].get("target") or {}).get("averageUtilization"))
        for m in hpa["spec"].get("metrics") or []
        if m.get("type") == "Resource" and m.get("resource")
    }
    parts = []
    for metric in (hpa.get("status") or {}).get("currentMetrics") or []:
        resource = metric.get("resource") or {}
        used, most = (resource.get("current") or {}).get("averageUtilization"), wanted.get(resource.get("name"))
        if used is not None and most:
            parts.append(f"{clean(resource.get('name'), 63)} at {used} % where {most} % is wanted")
    return f"; {', '.join(parts)}" if parts else ""


def service_findings(picture: Picture) -> Iterator[Finding]:
    """What is named and not there, Services that select nothing, and those without a ready endpoint."""
    for missing in picture.missing:
        yield finding(R.OBJECT_MISSING, f"{missing} does not exist", missing)
    for service in picture.stray_services:
        name, selector = f"Service/{name_of(service)}", service["spec"].get("selector") or {}
        pods = _labels({key: value for key, value in picture.labels.items() if key in selector})
        text = f"{name} selects none of the target's pods: it looks for {_labels(selector)}, they have {pods}"
        yield finding(R.SERVICE_SELECTS_NOTHING, text, name)
    if picture.endpoint_slices is not None:
        for service in picture.services or []:
            yield from _endpoints(picture, service, picture.endpoint_slices)


def _endpoints(picture: Picture, service: Json, slices: list[Json]) -> Iterator[Finding]:
    name = name_of(service)
    if service["spec"].get("type") == "ExternalName":
        return
    ready, total = endpoints_of(name, slices)
    if ready == 0:
        detail = f"{total} not ready" if total else "it has none at all"
        yield finding(R.NO_READY_ENDPOINTS, f"Service/{name} has no ready endpoint ({detail})", f"Service/{name}")


def endpoints_of(service: str, slices: list[Json]) -> tuple[int, int]:
    """Ready and all endpoints. A pod in slices of two address families counts once."""
    mine = [s for s in slices if (s["metadata"].get("labels") or {}).get(SERVICE_NAME) == service]
    states: dict[str, bool] = {}
    for endpoint in (e for one in mine for e in one.get("endpoints") or []):
        key = str((endpoint.get("targetRef") or {}).get("name") or endpoint.get("addresses"))
        # Unknown means ready (discovery/v1).
        states[key] = states.get(key, False) or (endpoint.get("conditions") or {}).get("ready") is not False
    return sum(states.values()), len(states)


def name_findings(picture: Picture) -> Iterator[Finding]:
    """DNS names that do not resolve."""
    for name, error in picture.names.items():
        if error is not None:
            service = f"Service/{name.partition('.')[0]}"
            yield finding(R.DNS_FAILED, f"{clean(name)} does not resolve: {clean(error, 120)}", service)


def answer_findings(picture: Picture) -> Iterator[Finding]:
    """URLs that do not answer as they should."""
    for answer in picture.answers:
        url = clean(answer.url, 160)
        if answer.tls_error:
            text = f"the certificate of {url} is not valid: {clean(answer.tls_error, 120)}"
            yield finding(R.CERTIFICATE_PROBLEM, text, None)
        reason = _wrong(answer)
        if reason:
            yield finding(reason, f"{url} {_said(answer)}", None)


def _wrong(answer: Answer) -> R | None:
    status = answer.status
    if answer.purpose == "dependency":
        return R.DEPENDENCY_UNREACHABLE if status is None or status >= 500 else None
    if answer.purpose == "metrics":
        return R.METRICS_UNAVAILABLE if status is None or not 200 <= status < 300 else None
    return R.HEALTH_CHECK_FAILED if status is None or status >= 400 else None


def _said(answer: Answer) -> str:
    if answer.status is None:
        return f"does not answer: {clean(answer.error, 160)}"
    return f"answered {answer.status} in {answer.milliseconds} ms"


def breaker_findings(picture: Picture) -> Iterator[Finding]:
    """Open circuit breakers, by Envoy's cluster."""
    pods: dict[tuple[str, str], list[str]] = defaultdict(list)
    for breaker in picture.breakers:
        pods[breaker.cluster, breaker.name].append(breaker.pod)
    for (cluster, name), names in sorted(pods.items(), key=lambda item: len(item[1]), reverse=True)[:_SHOWN]:
        text = (
            f"Envoy's circuit breaker {clean(name, 63)} for {clean(cluster, 120)} is open in "
            f"{len(names)} {'pod' if len(names) == 1 else 'pods'} ({some(names)})"
        )
        yield finding(R.CIRCUIT_BREAKER_OPEN, text, about(picture, "Pod", names))


def _pods_by_node(picture: Picture) -> dict[str, list[str]]:
    hosts: dict[str, list[str]] = defaultdict(list)
    for pod in picture.pods or []:
        if is_counted(pod) and (node := (pod.get("spec") or {}).get("nodeName")):
            hosts[node].append(name_of(pod))
    return hosts


def _labels(labels: Json) -> str:
    return clean(",".join(f"{key}={value}" for key, value in sorted(labels.items())) or "none", 120)
