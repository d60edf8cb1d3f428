"""Findings about the target's pods, its rollout and its room: pods with the same trouble are one finding."""

from collections import defaultdict
from collections.abc import Iterable, Iterator
from datetime import datetime
from typing import Any

from paramedic.api.incident import Finding
from paramedic.api.reasons import FindingReason as R
from paramedic.core.picture import Picture, about, conditions_of, finding, name_of, some, time_of
from paramedic.core.pods import Trouble, is_counted, is_ready, troubles
from paramedic.core.quantity import parse_quantity
from paramedic.core.redact import clean
from paramedic.core.release import Release, env_names
from paramedic.core.rollout import rollout_result

Json = dict[str, Any]
_NEAR = 0.9
_CHANGES_SHOWN = 4
_GROUPS_OF_A_REASON = 2
_PROBES = ("Readiness", "Liveness", "Startup")
_VOLUME_EVENTS = ("FailedMount", "FailedAttachVolume", "FailedMapVolume")
_BESIDE_READINESS = frozenset({R.EVICTED, R.STUCK_TERMINATING})


def pod_findings(picture: Picture) -> Iterator[Finding]:
    """Troubles that the pods' status tells, grouped, and how many are not ready."""
    pods = picture.pods or []
    groups: dict[tuple[R, str], list[tuple[Json, Trouble]]] = defaultdict(list)
    for pod in pods:
        for trouble in troubles(pod, picture.now, picture.since):
            groups[trouble.reason, trouble.text].append((pod, trouble))
    for reason in dict.fromkeys(reason for reason, _ in groups):
        members = sorted((group for (of, _), group in groups.items() if of == reason), key=len, reverse=True)
        yield from (_grouped(picture, reason, group) for group in members[:_GROUPS_OF_A_REASON])
    yield from _not_ready(picture)


def _grouped(picture: Picture, reason: R, group: list[tuple[Json, Trouble]]) -> Finding:
    names = [name_of(pod) for pod, _ in group]
    trouble = group[0][1]
    count = f"{len(group)}" if reason in _BESIDE_READINESS else f"{len(group)} of {_total(picture)}"
    restarts = max(t.restarts for _, t in group)
    last = max((t.at for _, t in group if t.at), default=None)
    parts = [f"{count} {_pods(count)}: {trouble.text}"]
    parts += [f"up to {restarts} restarts"] if restarts > 1 else []
    parts += [f"last {picture.when(last)}"] if last else []
    return finding(reason, f"{', '.join(parts)} ({some(names)})", about(picture, "Pod", names))


def _not_ready(picture: Picture) -> Iterator[Finding]:
    waiting = [pod for pod in picture.pods or [] if is_counted(pod) and not is_ready(pod)]
    if not waiting:
        return
    names = [name_of(pod) for pod in waiting]
    first = min((at for pod in waiting if (at := _unready_since(pod))), default=None)
    since = f", the first since {picture.when(first)}" if first else ""
    text = f"{len(waiting)} of {_total(picture)} pods NotReady{since} ({some(names)})"
    yield finding(R.PODS_NOT_READY, text, about(picture, "Pod", names))


def rollout_findings(picture: Picture) -> Iterator[Finding]:
    """A recent release or restart, what it changed, and whether the rollout hangs."""
    yield from _workload_findings(picture)
    release = picture.release
    if release is None:
        return
    if picture.since <= release.started_at <= picture.now:
        yield finding(R.RECENT_ROLLOUT, _recent_rollout(picture, release), picture.target)
        if release.changes.env:
            text = f"revision {release.revision} changed {env_names(release.changes)} (values are not told)"
            yield finding(R.CONFIG_CHANGED, text, picture.target)
    elif release.restarted_at and picture.since <= release.restarted_at <= picture.now:
        text = f"the pods were restarted as revision {release.revision}, {picture.when(release.restarted_at)}"
        yield finding(R.RECENT_RESTART, text, picture.target)


def coincides(picture: Picture) -> bool:
    """Whether pods of the present release are in trouble."""
    return bool(picture.release and _affected(picture, picture.release))


def _recent_rollout(picture: Picture, release: Release) -> str:
    affected, when = _affected(picture, release), picture.when(release.started_at)
    what = _what_changed(release)
    if not affected:
        return f"rollout to revision {release.revision}, {when}{what}"
    unready = [pod for pod in affected if not is_ready(pod)]
    state = "NotReady" if unready else "in trouble"
    count = f"{len(unready or affected)} of {_total(picture)} pods {state}"
    return f"{count} since the rollout to revision {release.revision}, {when}{what}"


def _what_changed(release: Release) -> str:
    changed = release.changes.words()
    more = [f"{len(changed) - _CHANGES_SHOWN} more"] if len(changed) > _CHANGES_SHOWN else []
    words = "; ".join([*changed[:_CHANGES_SHOWN], *more])
    return f"; changed since revision {release.previous}: {words}" if words else ""


def _affected(picture: Picture, release: Release) -> list[Json]:
    mine = [pod for pod in picture.pods or [] if is_counted(pod) and belongs_to(pod, release.entries)]
    return [pod for pod in mine if not is_ready(pod) or troubles(pod, picture.now, picture.since)]


def belongs_to(pod: Json, entries: frozenset[str]) -> bool:
    """Whether the pod is of one of these ReplicaSets or ControllerRevisions."""
    owners = {str(o.get("name")) for o in pod["metadata"].get("ownerReferences") or []}
    # A StatefulSet's pods carry the revision's name, a DaemonSet's only the hash at its end.
    mark = (pod["metadata"].get("labels") or {}).get("controller-revision-hash")
    return bool(owners & entries) or bool(mark and any(e == mark or e.endswith(f"-{mark}") for e in entries))


def _workload_findings(picture: Picture) -> Iterator[Finding]:
    workload = picture.workload
    if workload is None or "kind" not in workload:
        return
    if (workload.get("spec") or {}).get("replicas") == 0:
        yield finding(R.SCALED_TO_ZERO, f"{picture.target} is scaled to 0: it wants no pods", picture.target)
    failure = conditions_of(workload).get("ReplicaFailure", {})
    if failure.get("status") == "True":
        text = clean(failure.get("message") or failure.get("reason"), 240)
        reason = R.QUOTA_EXCEEDED if "exceeded quota" in text else R.PODS_NOT_CREATED
        yield finding(reason, f"pods are refused: {text}", picture.target)
    result = rollout_result(workload)
    if result.state == "Failed":
        yield finding(R.ROLLOUT_STUCK, result.message, picture.target)


def event_findings(picture: Picture) -> Iterator[Finding]:
    """What only Events tell: probes that fail, volumes that cannot be mounted, pods that are refused."""
    about = [event for event in picture.events or [] if _is_recent(picture, event)]
    for probe in _PROBES:
        failed = [e for e in about if e.get("reason") == "Unhealthy" and _text(e).startswith(f"{probe} probe")]
        yield from _event_finding(picture, R.PROBE_FAILING, f"{probe.lower()} probe fails", failed, kind="Pod")
    volumes = [e for e in about if e.get("reason") in _VOLUME_EVENTS]
    yield from _event_finding(picture, R.VOLUME_FAILED, "a volume cannot be mounted", volumes, kind="Pod")
    refused = [e for e in about if e.get("reason") == "FailedCreate"]
    if refused and _lacks_pods(picture) and "ReplicaFailure" not in conditions_of(picture.workload or {}):
        quota = any("exceeded quota" in _text(e) for e in refused)
        reason = R.QUOTA_EXCEEDED if quota else R.PODS_NOT_CREATED
        yield from _event_finding(picture, reason, "pods are refused", refused, kind="")


def _event_finding(picture: Picture, reason: R, what: str, events: list[Json], kind: str) -> Iterator[Finding]:
    alive = {name_of(pod) for pod in picture.pods or []}
    events = [e for e in events if not kind or event_object(e)[1] in alive]
    if not events:
        return
    names = sorted({event_object(e)[1] for e in events})
    newest = max(events, key=lambda e: event_time(e) or picture.since)
    at = event_time(newest)
    times = sum(event_count(e) for e in events)
    where = f"{len(names)} of {_total(picture)} pods: " if kind else ""
    last = f", {times} times, last {picture.when(at)}" if at else ""
    told = _text(newest).removeprefix(f"{_text(newest).split(' ')[0]} probe failed: ")
    text = f"{where}{what}{last}: {told} ({some(names)})"
    yield finding(reason, text, about(picture, "Pod", names) if kind else picture.target)


def usage_findings(picture: Picture) -> Iterator[Finding]:
    """Containers that use nearly all that they may."""
    limits = {
        (name_of(pod), c.get("name")): (c.get("resources") or {}).get("limits") or {}
        for pod in picture.pods or []
        for c in (pod.get("spec") or {}).get("containers") or []
    }
    for reason, resource in ((R.MEMORY_NEAR_LIMIT, "memory"), (R.CPU_NEAR_LIMIT, "cpu")):
        shares: dict[str, dict[str, float]] = defaultdict(dict)
        for pod, container, used in _used(picture.pod_usage or [], resource):
            most = parse_quantity((limits.get((pod, container)) or {}).get(resource))
            if most and used / most >= _NEAR:
                shares[container][pod] = used / most
        for container, by_pod in list(shares.items())[:_GROUPS_OF_A_REASON]:
            text = (
                f"{len(by_pod)} of {_total(picture)} pods: container {clean(container, 63)} uses "
                f"{max(by_pod.values()):.0%} of its {resource} limit ({some(list(by_pod))})"
            )
            yield finding(reason, text, about(picture, "Pod", list(by_pod)))


def _used(usage: list[Json], resource: str) -> Iterable[tuple[str, str, float]]:
    for metrics in usage:
        for container in metrics.get("containers") or []:
            amount = parse_quantity((container.get("usage") or {}).get(resource))
            if amount is not None:
                yield name_of(metrics), str(container.get("name")), amount


def quota_findings(picture: Picture) -> Iterator[Finding]:
    """Quotas that are used up while the workload lacks pods."""
    for quota in (picture.quotas or []) if _lacks_pods(picture) else []:
        used_up = sorted(_used_up(quota.get("status") or {}))
        if used_up:
            name = f"ResourceQuota/{name_of(quota)}"
            yield finding(R.QUOTA_EXCEEDED, f"{name} is used up: {', '.join(used_up)}", name)


def _lacks_pods(picture: Picture) -> bool:
    status, spec = ((picture.workload or {}).get(part) or {} for part in ("status", "spec"))
    wanted = int(spec.get("replicas", status.get("desiredNumberScheduled", 0)) or 0)
    return picture.pods is not None and _total(picture) < wanted


def _used_up(status: Json) -> Iterator[str]:
    for resource, hard in (status.get("hard") or {}).items():
        used = (status.get("used") or {}).get(resource)
        most, amount = parse_quantity(hard), parse_quantity(used)
        if most is not None and amount is not None and amount >= most > 0:
            yield f"{clean(resource, 80)} {clean(used, 30)} of {clean(hard, 30)}"


# -- events ------------------------------------------------------------------------------------------------------------


def event_object(event: Json) -> tuple[str, str]:
    """Kind and name of what a core/v1 Event is about."""
    about = event.get("involvedObject") or {}
    return str(about.get("kind") or ""), str(about.get("name") or "")


def event_time(event: Json) -> datetime | None:
    """When it was last seen; each of the API's generations has a field of its own for that."""
    series = event.get("series") or {}
    stamps = (series.get("lastObservedTime"), event.get("lastTimestamp"), event.get("eventTime"))
    return next((at for stamp in stamps if (at := time_of(stamp))), time_of(event["metadata"].get("creationTimestamp")))


def event_count(event: Json) -> int:
    """How often it was seen."""
    return int((event.get("series") or {}).get("count") or event.get("count") or 1)


def _is_recent(picture: Picture, event: Json) -> bool:
    at = event_time(event)
    return at is not None and at >= picture.since


def _text(event: Json) -> str:
    return clean(event.get("message") or "", 200)


# -- small parts -------------------------------------------------------------------------------------------------------


def _total(picture: Picture) -> int:
    return sum(1 for pod in picture.pods or [] if is_counted(pod))


def _pods(count: str) -> str:
    return "pod" if count == "1" else "pods"


def _unready_since(pod: Json) -> datetime | None:
    ready = conditions_of(pod).get("Ready", {})
    return time_of(ready.get("lastTransitionTime")) or time_of(pod["metadata"].get("creationTimestamp"))
