"""Is a workload's rollout complete? The same rules as ``kubectl rollout status`` (kubectl, polymorphichelpers)."""

from datetime import datetime, timedelta
from typing import Any

from paramedic.api.base import parse_time
from paramedic.core.verify import Result

Json = dict[str, Any]
NOT_REPLACED = "Kubernetes does not replace a pod that is not ready: delete it yourself if it stays"
_PROGRESS_DEADLINE_SECONDS = 600  # where a Deployment does not say


def rollout_result(workload: Json, since: datetime | None = None) -> Result:
    """Passed when complete, Failed when it cannot complete any more, else Waiting. ``since`` is when the rollout began:
    the controller keeps what it has said of the last one until it sees a pod of this one.
    """
    status = workload.get("status") or {}
    if not is_observed(workload):
        return Result("Waiting", "the rollout has not been observed yet")
    if rolls_out_on_delete(workload):
        what = f"a {workload.get('kind')} with updateStrategy OnDelete"
        return Result("Inconclusive", f"{what} rolls out only as its pods are deleted")
    match workload.get("kind"):
        case "Deployment":
            return _deployment(workload["spec"], status, since)
        case "StatefulSet":
            return _stateful_set(workload["spec"], status)
        case "DaemonSet":
            return _daemon_set(status)
        case kind:
            return Result("Inconclusive", f"{kind} has no rollout")


def none_left(workload: Json) -> Result:
    """Passed when no replica is wanted and none is left. Pods that take their time to end are no reason to bring the
    others back: after the deadline that is Inconclusive, not Failed.
    """
    if not is_observed(workload):
        return Result("Waiting", "that none is wanted has not been observed yet")
    wanted = int(workload["spec"].get("replicas", 1))
    if wanted:
        return Result("Waiting", f"{wanted} replicas are wanted again: somebody or something scales it")
    left = int((workload.get("status") or {}).get("replicas") or 0)
    return Result("Inconclusive", f"{left} replicas still to end") if left else Result("Passed", "no replicas are left")


def is_observed(workload: Json) -> bool:
    """Whether its controller has seen the present spec."""
    seen = int((workload.get("status") or {}).get("observedGeneration") or 0)
    return seen >= int(workload["metadata"].get("generation") or 0)


def rolls_out_on_delete(workload: Json) -> bool:
    """Whether its controller leaves the pods of an earlier template alone until somebody deletes them."""
    return bool((workload["spec"].get("updateStrategy") or {}).get("type") == "OnDelete")


def waits_for_readiness(spec: Json) -> bool:
    """Whether a StatefulSet's controller waits for each pod to get ready, even for one of a bad template that never
    will ("Forced rollback", kubernetes/kubernetes#67250).
    """
    replaces_all = (spec.get("updateStrategy") or {}).get("type") == "Recreate"
    return bool(spec.get("podManagementPolicy", "OrderedReady") == "OrderedReady" and not replaces_all)


def is_healthy(workload: Json) -> bool:
    """Whether at least one pod is wanted and all that are wanted are available, or none is wanted."""
    status, spec = workload.get("status") or {}, workload["spec"]
    if workload.get("kind") == "DaemonSet":
        return int(status.get("numberAvailable") or 0) >= int(status.get("desiredNumberScheduled") or 0)
    return int(status.get("availableReplicas") or 0) >= int(spec.get("replicas", 1))


def _deployment(spec: Json, status: Json, since: datetime | None) -> Result:
    if _has_given_up(spec, status, since):
        return Result("Failed", "the rollout has exceeded its progress deadline")
    wanted = int(spec.get("replicas", 1))
    updated, total = int(status.get("updatedReplicas") or 0), int(status.get("replicas") or 0)
    available = int(status.get("availableReplicas") or 0)
    if updated < wanted:
        return Result("Waiting", f"{updated} of {wanted} replicas updated")
    if total > updated:
        return Result("Waiting", f"{total - updated} old replicas still to end")
    if available < updated:
        return Result("Waiting", f"{available} of {updated} updated replicas available")
    return Result("Passed", f"rollout complete, {available} of {wanted} replicas available")


def _has_given_up(spec: Json, status: Json, since: datetime | None) -> bool:
    said: Json = next((c for c in status.get("conditions") or [] if c["type"] == "Progressing"), {})
    if said.get("reason") != "ProgressDeadlineExceeded":
        return False
    at = said.get("lastUpdateTime")
    return since is None or at is None or parse_time(at) >= since + _least_patience(spec)


def _least_patience(spec: Json) -> timedelta:
    """A rollout cannot exceed its deadline before that has passed. Half of it is left to clocks that differ: what is
    said is told by the controller's clock, when the rollout began by ours.
    """
    return timedelta(seconds=int(spec.get("progressDeadlineSeconds") or _PROGRESS_DEADLINE_SECONDS) / 2)


def _stateful_set(spec: Json, status: Json) -> Result:
    strategy = spec.get("updateStrategy") or {}
    wanted = int(spec.get("replicas", 1))
    ready, updated = int(status.get("readyReplicas") or 0), int(status.get("updatedReplicas") or 0)
    partition = int((strategy.get("rollingUpdate") or {}).get("partition") or 0)
    if ready < wanted and _is_held_up(spec, status):
        text = f"{ready} of {wanted} replicas ready; {NOT_REPLACED}"
        return Result("Inconclusive", text, held_up=True)
    if ready < wanted:
        return Result("Waiting", f"{ready} of {wanted} replicas ready")
    if updated < wanted - partition:
        return Result("Waiting", f"{updated} of {wanted - partition} replicas updated")
    if not partition and status.get("updateRevision") != status.get("currentRevision"):
        return Result("Waiting", "the last replicas are being updated")
    return Result("Passed", f"rollout complete, {ready} of {wanted} replicas ready")


def _is_held_up(spec: Json, status: Json) -> bool:
    """Whether the pods of another template are in the way of this one: it has reached none yet, or it is the one that
    was good before. (A new template whose first pod does not get ready has reached that one.)
    """
    total, updated = int(status.get("replicas") or 0), int(status.get("updatedReplicas") or 0)
    goes_back = status.get("updateRevision") == status.get("currentRevision")
    return waits_for_readiness(spec) and updated < total and (goes_back or not updated)


def _daemon_set(status: Json) -> Result:
    wanted, updated = int(status.get("desiredNumberScheduled") or 0), int(status.get("updatedNumberScheduled") or 0)
    available = int(status.get("numberAvailable") or 0)
    if updated < wanted:
        return Result("Waiting", f"{updated} of {wanted} pods updated")
    if available < wanted:
        return Result("Waiting", f"{available} of {wanted} pods available")
    return Result("Passed", f"rollout complete, {available} of {wanted} pods available")
