"""How a Job stands and what came of it, told from the Job, its pods and the end of its log."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from paramedic.api.base import parse_time
from paramedic.core.manifests import without_secret_values
from paramedic.core.pods import last_end, troubles
from paramedic.core.redact import clean, clean_lines

Json = dict[str, Any]
LOG_BYTES = 4096
_LONGEST_LINE = 1000
_ENDS = ("Complete", "Failed")
_DEEPEST = 32
_GREATEST = 1 << 63


@dataclass(frozen=True, slots=True)
class JobEnd:
    """How a Job ended: Kubernetes' reason and message when it failed, and how long it took."""

    succeeded: bool
    reason: str
    message: str
    seconds: float


def job_end(job: Json) -> JobEnd | None:
    """None while it is under way."""
    status = job.get("status") or {}
    conditions = [c for c in status.get("conditions") or [] if c["type"] in _ENDS and c["status"] == "True"]
    if not conditions:
        return None
    found = conditions[0]
    began = parse_time(status.get("startTime") or job["metadata"]["creationTimestamp"])
    ended = parse_time(status.get("completionTime") or found["lastTransitionTime"])
    return JobEnd(
        found["type"] == "Complete",
        clean(found.get("reason"), 63),
        clean(found.get("message") or "", 300),
        max(0.0, (ended - began).total_seconds()),
    )


def newest_pod(job: Json, pods: Sequence[Json]) -> Json | None:
    """The pod that was made last; those of a namesake of the Job do not count."""
    uid = job["metadata"]["uid"]
    own = [p for p in pods if any(o["uid"] == uid for o in p["metadata"].get("ownerReferences") or [])]
    return max(own, key=lambda p: (p["metadata"]["creationTimestamp"], p["metadata"]["name"]), default=None)


def exit_of(pod: Json | None) -> tuple[int | None, str]:
    """Exit code and reason of the first container that failed, else of the first; none while nothing has ended."""
    status = (pod or {}).get("status") or {}
    statuses = [*(status.get("initContainerStatuses") or []), *(status.get("containerStatuses") or [])]
    ends = [end for s in statuses if "exitCode" in (end := last_end(s))]
    if not ends:
        return None, ""
    chosen = next((end for end in ends if end["exitCode"] != 0), ends[-1])
    return int(chosen["exitCode"]), clean(chosen.get("reason") or "", 63)


def obstacle(pod: Json | None, now: datetime) -> str:
    """What keeps the Job's pod from running or ending, for people; empty when nothing is known."""
    if pod is None:
        return "no pod of it was made: kubectl describe job tells why (a quota, or the namespace's Pod Security)"
    found = troubles(pod, now, now - timedelta(hours=1))
    return f"pod {pod['metadata']['name']}: {found[0].text}" if found else ""


def last_lines(log: bytes, count: int) -> str:
    """The last lines of a log, without what looks like a secret, ``LOG_BYTES`` at most."""
    if count == 0:
        return ""
    lines = clean_lines(log.decode(errors="replace"), _LONGEST_LINE)[-count:]
    while lines and len("\n".join(lines).encode()) > LOG_BYTES:
        lines.pop(0)
    return "\n".join(lines)


def output_of(log: bytes) -> Json:
    """The last line's values when it is a JSON object, fit for a status; else nothing. What the API server would not
    take there (halves of characters, numbers beyond 64 bits, deep nesting) is no such object: nothing else of the
    Incident could be stored beside it.
    """
    lines = log.decode(errors="replace").strip().splitlines()
    if not lines or len(lines[-1]) > LOG_BYTES:
        return {}
    try:
        found = json.loads(lines[-1], parse_int=_whole_number, parse_constant=_no_number)
        json.dumps(found, ensure_ascii=False, allow_nan=False).encode()
    except (ValueError, RecursionError):
        return {}
    return without_secret_values(found) if isinstance(found, dict) and _depth(found) <= _DEEPEST else {}


def _whole_number(text: str) -> int:
    number = int(text)
    if not -_GREATEST <= number < _GREATEST:
        raise ValueError(f"{text[:20]} is beyond 64 bits")
    return number


def _no_number(name: str) -> float:
    raise ValueError(f"{name} is no JSON")


def _depth(value: Any) -> int:
    depth, level = 0, [value]
    while level := [v for one in level for v in _inside(one)]:
        depth += 1
    return depth


def _inside(value: Any) -> list[Any]:
    return list(value.values()) if isinstance(value, dict) else value if isinstance(value, list) else []


def result_of(
    job: str, end: JobEnd | None, pod: Json | None, seconds: float, log: str, output: Mapping[str, Any]
) -> Json:
    """The values for ``steps['name'].result``; without an end, the time was over."""
    code, why = exit_of(pod)
    return {
        "job": job,
        "succeeded": bool(end and end.succeeded),
        "exitCode": -1 if code is None else code,
        "reason": why or (end.reason if end else "TimedOut"),
        "seconds": round(end.seconds if end else seconds, 1),
        "log": log,
        "output": dict(output),
    }


def told(job: str, end: JobEnd | None, pod: Json | None, seconds: float, now: datetime) -> str:
    """One line for people on how it went."""
    if end and end.succeeded:
        return f"Job {job} succeeded in {end.seconds:.0f} s"
    code, why = exit_of(pod)
    said = f"exit code {code} ({why})" if code else ""
    if end:
        known = [
            said,
            f"{end.reason}: {end.message}" if end.message else end.reason,
            "" if said else obstacle(pod, now),
        ]
        return f"Job {job} failed after {end.seconds:.0f} s: {'; '.join(c for c in known if c)}"
    causes = "; ".join(c for c in (said, obstacle(pod, now)) if c)
    return f"Job {job} was not over within {seconds:.0f} s: {causes or 'it was still running'}"
