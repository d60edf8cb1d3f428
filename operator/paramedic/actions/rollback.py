"""``rollback``: back to the last good revision, as ``kubectl rollout undo`` does (runbook 1, "Quick Fixes").

Better than ``undo`` in two points: a revision that differs from the present one only by a restart does not count as an
earlier one, and a revision that Paramedic has left before is not taken for good again.
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from pydantic import Field

from paramedic.actions.base import (
    Action,
    Change,
    Clients,
    Json,
    Observed,
    State,
    annotation,
    patch_of,
    read_target,
    require_rollout,
)
from paramedic.api import ANNOTATION_LEFT_REVISIONS, ANNOTATION_OPERATION
from paramedic.api.base import Model, parse_time
from paramedic.api.reasons import Reason
from paramedic.api.workload import BoundTarget, target_path
from paramedic.core.merge import merge_difference
from paramedic.core.rollout import NOT_REPLACED, is_observed, waits_for_readiness
from paramedic.errors import Refused, Retry

_REVISION_ANNOTATION = "deployment.kubernetes.io/revision"
_EARLIER_REVISIONS = "deployment.kubernetes.io/revision-history"
_CHANGE_CAUSE = "kubernetes.io/change-cause"
_LEFT_KEPT = 10
_HASH_LABEL = "pod-template-hash"
_RESTART_ANNOTATIONS = ("kubectl.kubernetes.io/restartedAt", ANNOTATION_OPERATION)


class RollbackParams(Model):
    """Where to."""

    to_revision: int | None = Field(
        None, ge=1, description="Revision to go back to, as kubectl rollout history shows it; default: the last good."
    )


@dataclass(frozen=True, slots=True)
class Revision:
    """One entry of the rollout history. One that is rolled out again is ``reused`` under a new number; its controller
    last wrote to it at ``written_at``, where that is known: not before it gave it that number.
    """

    name: str
    number: int
    template: Json
    created_at: datetime
    change_cause: str
    reused: bool
    written_at: datetime | None


class Rollback(Action):
    """Patches ``spec.template`` to that of the earlier ReplicaSet or ControllerRevision. A StatefulSet's pod that is
    not ready keeps the template it has until somebody deletes it (podManagementPolicy OrderedReady).
    """

    name = "rollback"
    summary = "Goes back to the last good or a named revision of a Deployment, StatefulSet or DaemonSet."
    params = RollbackParams

    async def observe(self, target: BoundTarget, clients: Clients) -> Observed:
        """Reads the workload and its rollout history."""
        workload = await read_target(target, clients.kube)
        labels = workload["spec"]["selector"].get("matchLabels") or {}
        kind = "replicasets" if target.kind == "Deployment" else "controllerrevisions"
        path = f"/apis/apps/v1/namespaces/{target.namespace}/{kind}"
        found = await clients.kube.list(path, ",".join(f"{k}={v}" for k, v in sorted(labels.items())))
        uid = workload["metadata"]["uid"]
        return Observed(workload, {kind: [o for o in found if _owned_by(o, uid)]})

    def state(self, observed: Observed) -> State:
        """The name of the history's entry that the template is."""
        current = current_revision(observed)
        return {"revisionName": current.name if current else ""}

    def plan(self, observed: Observed, params: RollbackParams, operation: str) -> Change:
        """The patch to the earlier template. Raises Refused when there is none or it would not roll out, Retry while
        the newest rollout has not been recorded by its controller.
        """
        require_rollout(observed)
        current = current_revision(observed)
        # An old template that was applied again still has its old number then.
        if current is None or not is_observed(observed.target):
            raise Retry(f"the newest revision of {observed.name} is not in its history yet", timedelta(seconds=1))
        wanted = _named(observed, params.to_revision) if params.to_revision else _last_good(observed, current)
        return self._change_to(observed, current, wanted, operation)

    def restore(self, observed: Observed, before: State, operation: str) -> Change:
        """Back to the revision that was left."""
        wanted = next((r for r in revisions(observed) if r.name == before["revisionName"]), None)
        current = current_revision(observed)
        if wanted is None or current is None:
            raise Refused(Reason.REVISION_NOT_FOUND, f"revision {before.get('revision')} is no longer in the history")
        return self._change_to(observed, current, wanted, operation)

    def _change_to(self, observed: Observed, current: Revision, wanted: Revision, operation: str) -> Change:
        before, after = _state_of(current), _state_of(wanted)
        message = f"{observed.name}: revision {current.number} → {wanted.number}{_stuck_pods(observed)}"
        if current.name == wanted.name:
            return Change(before, after, (), None, f"{observed.name}: already at revision {wanted.number}")
        body = {"spec": {"template": merge_difference(observed.target["spec"]["template"], wanted.template)}}
        path = target_path(observed.kind, observed.target["metadata"]["namespace"], observed.name)
        patch = patch_of(observed.target, path, body, operation, observed.incident)
        patch.body["metadata"]["annotations"][ANNOTATION_LEFT_REVISIONS] = ",".join(
            [*_marks(observed), _mark(current)][-_LEFT_KEPT:]
        )
        if wanted.change_cause:
            patch.body["metadata"]["annotations"][_CHANGE_CAUSE] = wanted.change_cause
        return Change(before, after, (patch,), before, message)


def revisions(observed: Observed) -> list[Revision]:
    """The rollout history, newest first."""
    found = [_from_replica_set(o) for o in observed.related.get("replicasets", [])]
    found += [_from_controller_revision(o) for o in observed.related.get("controllerrevisions", [])]
    return sorted(found, key=lambda r: r.number, reverse=True)


def current_revision(observed: Observed) -> Revision | None:
    """The entry whose template is the workload's; None before its controller has recorded it."""
    template = _canonical(observed.target["spec"]["template"])
    return next((r for r in revisions(observed) if _canonical(r.template) == template), None)


def release_started_at(observed: Observed) -> datetime | None:
    """Since when the present release (whatever its restarts) is there; None where that is not known.

    One that was rolled out before counts from when it was rolled out again, except by Paramedic; but going back to what
    is older than the release before it makes no new release: that is a remedy.
    """
    current = current_revision(observed)
    if current is None:
        return None
    history = revisions(observed)
    born = _born(current, history)
    earlier = [r for r in history if r.number < current.number]
    previous = next((r for r in earlier if _material(r.template) != _material(current.template)), None)
    if previous is None or born <= _born(previous, history) or _was_brought_by_us(current, observed):
        return born
    first = min((r for r in [current, *earlier] if r.number > previous.number), key=lambda r: r.number)
    return max(born, _rolled_out_at(first, previous, observed) or born)


def _born(revision: Revision, history: list[Revision]) -> datetime:
    """When its release was first there."""
    material = _material(revision.template)
    return min(r.created_at for r in history if _material(r.template) == material)


def _rolled_out_at(revision: Revision, previous: Revision, observed: Observed) -> datetime | None:
    """When it was last rolled out, as seen in what cannot have been written before. A ReplicaSet is written to at each
    scaling, too, but the one before it only until it is at 0; the template's owner may have changed something else. So
    the earliest counts: too old an age leaves a rollback to a person, too young a one takes a good release away.
    """
    if not revision.reused:
        return revision.created_at
    seen = [revision.written_at, _written_at(observed.target, "f:spec", "f:template")]
    if observed.kind == "Deployment":
        seen.append(previous.written_at)
    return min((at for at in seen if at), default=None)


def _was_brought_by_us(revision: Revision, observed: Observed) -> bool:
    """Whether it has its number from Paramedic's own leaving of the one before."""
    return str(revision.number - 1) in {mark.rpartition("=")[2] for mark in _marks(observed)}


def _written_at(obj: Json, *path: str) -> datetime | None:
    """When an owner of this field last wrote to the object, by its ``managedFields`` (names as in ``fieldsV1``)."""
    return max(_times(obj, path), default=None)


def _times(obj: Json, path: tuple[str, ...]) -> Iterator[datetime]:
    for entry in obj["metadata"].get("managedFields") or []:
        fields = entry.get("fieldsV1")
        for name in path:
            fields = (fields or {}).get(name)
        if fields is not None and entry.get("time"):
            yield parse_time(entry["time"])


def _stuck_pods(observed: Observed) -> str:
    """What a person has to do beside the rollback, where Kubernetes stops at a pod that is not ready."""
    spec, status = observed.target["spec"], observed.target.get("status") or {}
    missing = spec.get("replicas", 1) - int(status.get("readyReplicas") or 0)
    if observed.kind != "StatefulSet" or missing <= 0 or not waits_for_readiness(spec):
        return ""
    return f"; {missing} of its pods not ready: {NOT_REPLACED}"


def _last_good(observed: Observed, current: Revision) -> Revision:
    material = _material(current.template)
    earlier = [r for r in revisions(observed) if r.number < current.number and _material(r.template) != material]
    good = [r for r in earlier if not _was_left(r, observed)]
    if good:
        return good[0]
    why = "all earlier ones were rolled back from before" if earlier else "its history holds no other release"
    raise Refused(Reason.NO_EARLIER_REVISION, f"{observed.name} has no revision to go back to: {why}")


def _was_left(revision: Revision, observed: Observed) -> bool:
    """Whether Paramedic has moved the workload away from it, and nobody has rolled it out again since, which would have
    given it a new number."""
    told = {(state.get("revisionName"), state.get("revision")) for state in observed.left}
    return (revision.name, revision.number) in told or _mark(revision) in _marks(observed)


def _mark(revision: Revision) -> str:
    return f"{revision.name}={revision.number}"


def _marks(observed: Observed) -> list[str]:
    """The revisions that were left, as noted on the workload, which outlives its Incidents."""
    return [mark for mark in annotation(observed.target, ANNOTATION_LEFT_REVISIONS).split(",") if mark]


def _named(observed: Observed, number: int) -> Revision:
    history = revisions(observed)
    found = next((r for r in history if r.number == number), None)
    if found is None:
        known = ", ".join(str(r.number) for r in history)
        raise Refused(Reason.REVISION_NOT_FOUND, f"{observed.name} has no revision {number}; its history has {known}")
    return found


def _state_of(revision: Revision) -> State:
    containers = revision.template["spec"].get("containers", [])
    return {
        "revisionName": revision.name,
        "revision": revision.number,
        "images": ", ".join(c.get("image", "") for c in containers),
    }


def _from_replica_set(obj: Json) -> Revision:
    template = json.loads(json.dumps(obj["spec"]["template"]))
    (template.get("metadata", {}).get("labels") or {}).pop(_HASH_LABEL, None)
    number = int(annotation(obj, _REVISION_ANNOTATION) or 0)
    written_at = _written_at(obj, "f:metadata", "f:annotations", f"f:{_REVISION_ANNOTATION}")
    return _revision(obj, number, template, written_at, reused=bool(annotation(obj, _EARLIER_REVISIONS)))


def _from_controller_revision(obj: Json) -> Revision:
    template = dict(obj["data"]["spec"]["template"])
    template.pop("$patch", None)
    # Nothing but its number is ever changed.
    written_at = _written_at(obj, "f:revision")
    reused = written_at is not None and written_at > parse_time(obj["metadata"]["creationTimestamp"])
    return _revision(obj, int(obj["revision"]), template, written_at, reused=reused)


def _revision(obj: Json, number: int, template: Json, written_at: datetime | None, *, reused: bool) -> Revision:
    meta = obj["metadata"]
    created_at = parse_time(meta["creationTimestamp"])
    return Revision(
        meta["name"], number, template, created_at, annotation(obj, _CHANGE_CAUSE), reused=reused, written_at=written_at
    )


def _canonical(template: Json) -> str:
    return json.dumps(_without_nulls(template), sort_keys=True)


def _material(template: Json) -> str:
    """The template without what only a restart changes."""
    copy = _without_nulls(template)
    annotations = copy.get("metadata", {}).get("annotations", {})
    for name in _RESTART_ANNOTATIONS:
        annotations.pop(name, None)
    if not annotations:
        copy.get("metadata", {}).pop("annotations", None)
    return json.dumps(copy, sort_keys=True)


def _without_nulls(value: Any) -> Any:
    if isinstance(value, dict):
        return {k: _without_nulls(v) for k, v in value.items() if v is not None}
    if isinstance(value, list):
        return [_without_nulls(v) for v in value]
    return value


def _owned_by(obj: Json, uid: str) -> bool:
    return any(o.get("uid") == uid and o.get("controller") for o in obj["metadata"].get("ownerReferences") or [])
