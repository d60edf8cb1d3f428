"""What is wrong with a pod, told from its status alone."""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from paramedic.api.reasons import FindingReason
from paramedic.core.picture import conditions_of, time_of
from paramedic.core.redact import clean

Json = dict[str, Any]
MANY_RESTARTS = 5
_FEW_RESTARTS = 2
_STUCK_AFTER = timedelta(minutes=5)
_CANNOT_PULL = frozenset(
    {
        "ImagePullBackOff",
        "ErrImagePull",
        "InvalidImageName",
        "ErrImageNeverPull",
        "ImageInspectError",
        "RegistryUnavailable",
        "SignatureValidationFailed",
    }
)
_STARTING = frozenset({"", "ContainerCreating", "PodInitializing", "CrashLoopBackOff"})
_STATUS_LISTS = ("initContainerStatuses", "containerStatuses")


@dataclass(frozen=True, slots=True)
class Trouble:
    """One thing that is wrong with one pod. Pods with the same ``text`` have the same trouble."""

    reason: FindingReason
    text: str
    at: datetime | None = None
    restarts: int = 0


def is_counted(pod: Json) -> bool:
    """Whether the pod is one of those that should serve: neither ended nor about to."""
    ended = (pod.get("status") or {}).get("phase") in ("Succeeded", "Failed")
    return not ended and not pod["metadata"].get("deletionTimestamp")


def is_ready(pod: Json) -> bool:
    """The pod's Ready condition."""
    return bool(conditions_of(pod).get("Ready", {}).get("status") == "True")


def restarts_of(pod: Json) -> int:
    """Restarts of all its containers together."""
    return sum(int(c.get("restartCount") or 0) for c in container_statuses(pod))


def container_statuses(pod: Json) -> list[Json]:
    """The statuses of init containers and containers."""
    status = pod.get("status") or {}
    return [c for field in _STATUS_LISTS for c in status.get(field) or []]


def last_end(container: Json) -> Json:
    """How the container ended most recently: ``{exitCode, reason, finishedAt}``, or nothing."""
    ended = (container.get("state") or {}).get("terminated") or (container.get("lastState") or {}).get("terminated")
    return ended or {}


def troubles(pod: Json, now: datetime, since: datetime) -> list[Trouble]:
    """What is wrong with the pod; what happened before ``since`` does not count."""
    if pod["metadata"].get("deletionTimestamp"):
        return list(_stuck_terminating(pod, now))
    status = pod.get("status") or {}
    if status.get("phase") == "Failed":
        return list(_evicted(status, pod, since))
    found = [*_unschedulable(pod)]
    for container in container_statuses(pod):
        found += _of_container(pod, container, since)
    return found


def _of_container(pod: Json, container: Json, since: datetime) -> Iterator[Trouble]:
    name = clean(container.get("name"), 63)
    waiting = (container.get("state") or {}).get("waiting") or {}
    why = str(waiting.get("reason") or "")
    told = _told(why, waiting.get("message"))
    if why in _CANNOT_PULL:
        image = clean(container.get("image"), 120)
        # The message alternates between two texts from try to try; the image is what pods have in common.
        yield Trouble(FindingReason.IMAGE_PULL_FAILED, f"image {image} of container {name} cannot be pulled")
    elif why not in _STARTING:
        yield Trouble(FindingReason.CONTAINER_CANNOT_START, f"container {name} cannot start ({told})")
    yield from _restarted(pod, container, name, why, since)


def _restarted(pod: Json, container: Json, name: str, why: str, since: datetime) -> Iterator[Trouble]:
    ended, restarts = last_end(container), int(container.get("restartCount") or 0)
    at = time_of(ended.get("finishedAt"))
    recent = at is not None and at >= since
    if ended.get("reason") == "OOMKilled" and recent:
        text = f"container {name} was killed for want of memory (limit {_memory_limit(pod, container)})"
        yield Trouble(FindingReason.OOM_KILLED, text, at, restarts)
    # Between two tries it is not waiting: it runs for a moment, or has just ended.
    fails = restarts >= _FEW_RESTARTS and recent and bool(ended.get("exitCode")) and not container.get("ready")
    if why == "CrashLoopBackOff" or fails:
        text = f"container {name} crashes again and again (exit code {ended.get('exitCode', 'unknown')})"
        yield Trouble(FindingReason.CRASH_LOOPING, text, at, restarts)
    elif restarts >= MANY_RESTARTS and recent:
        text = f"container {name} was restarted {MANY_RESTARTS} times or more"
        yield Trouble(FindingReason.HIGH_RESTARTS, text, at, restarts)


def _memory_limit(pod: Json, container: Json) -> str:
    spec = pod.get("spec") or {}
    for declared in [*(spec.get("containers") or []), *(spec.get("initContainers") or [])]:
        if declared.get("name") == container.get("name"):
            return clean(((declared.get("resources") or {}).get("limits") or {}).get("memory", "none"), 30)
    return "unknown"


def _unschedulable(pod: Json) -> Iterator[Trouble]:
    scheduled = conditions_of(pod).get("PodScheduled", {})
    if scheduled.get("status") == "False":
        why = _told(str(scheduled.get("reason") or ""), scheduled.get("message"))
        at = time_of(scheduled.get("lastTransitionTime"))
        yield Trouble(FindingReason.UNSCHEDULABLE, f"no node takes it ({why})", at)


def _evicted(status: Json, pod: Json, since: datetime) -> Iterator[Trouble]:
    disrupted = conditions_of(pod).get("DisruptionTarget", {})
    at = time_of(disrupted.get("lastTransitionTime")) or time_of(status.get("startTime"))
    if status.get("reason") == "Evicted" and at is not None and at >= since:
        # The message goes on with the containers' exact usage, which differs from pod to pod.
        why = clean(str(status.get("message") or "").split(". ")[0], 120)
        yield Trouble(FindingReason.EVICTED, f"evicted ({why})" if why else "evicted", at)


def _stuck_terminating(pod: Json, now: datetime) -> Iterator[Trouble]:
    # deletionTimestamp is the end of the grace period, not its beginning.
    at = time_of(pod["metadata"]["deletionTimestamp"])
    if at is not None and now - at > _STUCK_AFTER:
        yield Trouble(FindingReason.STUCK_TERMINATING, "should have ended long ago and is still there", at)


def _told(reason: str, message: object) -> str:
    text = clean(message or "", 160)
    return f"{clean(reason, 63)}: {text}" if text else clean(reason, 63)
