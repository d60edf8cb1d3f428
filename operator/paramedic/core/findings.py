"""From what was seen to a short ranked list of findings: a cause before its symptoms. Pure."""

from collections.abc import Callable, Iterator, Sequence

from paramedic.api.incident import Finding
from paramedic.api.reasons import FindingReason as R
from paramedic.core.found_cluster import (
    answer_findings,
    autoscaler_findings,
    breaker_findings,
    name_findings,
    node_findings,
    service_findings,
)
from paramedic.core.found_outside import outside_findings
from paramedic.core.found_pods import (
    coincides,
    event_findings,
    pod_findings,
    quota_findings,
    rollout_findings,
    usage_findings,
)
from paramedic.core.picture import Picture

MOST = 10
_FINDERS: tuple[Callable[[Picture], Iterator[Finding]], ...] = (
    rollout_findings,
    pod_findings,
    event_findings,
    quota_findings,
    node_findings,
    autoscaler_findings,
    service_findings,
    name_findings,
    answer_findings,
    outside_findings,
    breaker_findings,
    usage_findings,
)
_CHANGE = (R.RECENT_ROLLOUT, R.CONFIG_CHANGED)
_RANKS = (
    # What keeps pods from being there at all
    R.SCALED_TO_ZERO,
    R.OBJECT_MISSING,
    R.QUOTA_EXCEEDED,
    R.PODS_NOT_CREATED,
    R.IMAGE_PULL_FAILED,
    R.CONTAINER_CANNOT_START,
    R.VOLUME_FAILED,
    R.NODE_NOT_READY,
    R.UNSCHEDULABLE,
    # What makes them fail
    R.NODE_PRESSURE,
    R.OOM_KILLED,
    R.EVICTED,
    R.DATABASE_CLUSTER_NOT_AVAILABLE,
    R.DATABASE_UNREACHABLE,
    R.CACHE_NOT_AVAILABLE,
    R.CACHE_UNREACHABLE,
    R.DEPENDENCY_UNREACHABLE,
    R.DNS_FAILED,
    *_CHANGE,
    R.RECENT_RESTART,
    R.DATABASE_LOCKS_WAITING,
    R.LONG_RUNNING_QUERIES,
    R.DATABASE_CONNECTIONS_EXHAUSTED,
    R.CACHE_MEMORY_FULL,
    R.CACHE_EVICTING,
    R.CACHE_CONNECTIONS_EXHAUSTED,
    R.SERVICE_SELECTS_NOTHING,
    R.AUTOSCALER_AT_LIMIT,
    R.AUTOSCALER_FAILING,
    R.MEMORY_NEAR_LIMIT,
    R.CPU_NEAR_LIMIT,
    # How it shows
    R.QUEUE_DEEP,
    R.CRASH_LOOPING,
    R.PROBE_FAILING,
    R.HIGH_RESTARTS,
    R.STUCK_TERMINATING,
    R.ROLLOUT_STUCK,
    R.PODS_NOT_READY,
    R.NO_READY_ENDPOINTS,
    R.CIRCUIT_BREAKER_OPEN,
    R.CERTIFICATE_PROBLEM,
    R.HEALTH_CHECK_FAILED,
    R.METRICS_UNAVAILABLE,
)


def findings_of(picture: Picture) -> tuple[Finding, ...]:
    """At most ten findings, causes first. A release whose own pods are in trouble stands before everything else."""
    found = [finding for finder in _FINDERS for finding in finder(picture)]
    first = _CHANGE if coincides(picture) else ()
    # Two finders may see the same thing (a refused pod, in a condition and in an Event).
    distinct = {(f.reason, f.object, f.message): f for f in found}.values()
    return tuple(sorted(distinct, key=lambda f: _rank(f.reason, first))[:MOST])


def told(findings: Sequence[Finding]) -> str:
    """One line for people: the gravest three."""
    return f"found: {'; '.join(finding.message for finding in findings[:3]) or 'nothing conspicuous'}"


def _rank(reason: str, first: tuple[str, ...]) -> int:
    ranks = [str(one) for one in (*first, *_RANKS)]
    return ranks.index(reason)
