"""The target itself: its pods, its rollout history, its Events, the quotas over it."""

from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any

from paramedic.actions.base import Observed, annotation
from paramedic.actions.rollback import Revision, current_revision, release_started_at, revisions
from paramedic.api import ANNOTATION_LEFT_REVISIONS, ANNOTATION_OPERATION
from paramedic.api.workload import WORKLOADS, BoundTarget
from paramedic.clients.kube import Kube
from paramedic.core.found_pods import event_object
from paramedic.core.operation import operation_time
from paramedic.core.picture import name_of
from paramedic.core.release import Release, release_of
from paramedic.core.selectors import as_query
from paramedic.diagnosis.looking import recent

Json = dict[str, Any]
MOST_EVENTS = 2000
_KINDS_BESIDE = ("ReplicaSet", "Pod")


@dataclass(frozen=True, slots=True)
class History:
    """The rollout history: the present release, all revisions for the record, and who owns the pods (UIDs)."""

    release: Release | None
    revisions: list[Json]
    owners: frozenset[str]


def selector_of(workload: Json) -> str:
    """The label selector of a workload's or a Service's pods, as a query; empty when it selects none."""
    selector = (workload.get("spec") or {}).get("selector") or {}
    return as_query({"matchLabels": selector} if workload.get("kind") == "Service" else selector)


def labels_of(workload: Json) -> dict[str, str]:
    """The labels of the pods that it makes (a Service: that it selects)."""
    spec = workload.get("spec") or {}
    if workload.get("kind") == "Service":
        return dict(spec.get("selector") or {})
    return dict(((spec.get("template") or {}).get("metadata") or {}).get("labels") or {})


async def read_pods(kube: Kube, namespace: str, selector: str) -> list[Json]:
    """The pods that the selector matches."""
    return await recent(kube, f"/api/v1/namespaces/{namespace}/pods", selector=selector)


def own_pods(pods: list[Json], history: History | None) -> list[Json]:
    """Those that the target itself has made, where its history tells."""
    if history is None:
        return pods
    return [p for p in pods if {o.get("uid") for o in p["metadata"].get("ownerReferences") or []} & history.owners]


async def read_history(kube: Kube, target: BoundTarget, workload: Json, began: datetime | None) -> History:
    """ReplicaSets or ControllerRevisions of the target. Not from the cache: a rollout of a second ago counts.

    What Paramedic has rolled back since the trouble ``began`` is shown as it was: the cause is looked for, and not the
    remedy.
    """
    kind = "replicasets" if target.kind == "Deployment" else "controllerrevisions"
    path = f"/apis/apps/v1/namespaces/{target.namespace}/{kind}"
    uid = workload["metadata"]["uid"]
    found = [o for o in await kube.list(path, selector_of(workload)) if _is_owned_by(o, uid)]
    observed = Observed(workload, {kind: found})
    known, current = revisions(observed), current_revision(observed)
    suspect, others = _before_the_remedy(workload, current, known, began)
    owners = {str(o["metadata"]["uid"]) for o in found} if kind == "replicasets" else {str(uid)}
    return History(
        release_of(suspect, others, release_started_at(observed) if suspect is current else None) if suspect else None,
        [
            {"revision": r.number, "name": r.name, "at": r.created_at.isoformat(), "changeCause": r.change_cause}
            for r in known
        ],
        frozenset(owners),
    )


def _before_the_remedy(
    workload: Json, current: Revision | None, known: list[Revision], began: datetime | None
) -> tuple[Revision | None, list[Revision]]:
    """The present revision and the history; after a rollback of this incident's those that it found."""
    mark = annotation(workload, ANNOTATION_LEFT_REVISIONS).rpartition(",")[2]
    acted_at = operation_time(annotation(workload, ANNOTATION_OPERATION))
    left = next((r for r in known if f"{r.name}={r.number}" == mark), None)
    if current is None or left is None or began is None or acted_at is None or acted_at < began:
        return current, known
    return left, [replace(current, number=left.number - 1), *(r for r in known if r is not current)]


async def read_events(kube: Kube, namespace: str) -> list[Json]:
    """The namespace's Warnings; the first 2,000, as Events cannot be asked for by time."""
    found: list[Json] = []
    async for page in kube.pages(f"/api/v1/namespaces/{namespace}/events", fieldSelector="type=Warning"):
        found += page
        if len(found) >= MOST_EVENTS:
            break
    return found


def own_events(events: list[Json], target: BoundTarget, pods: list[Json] | None, related: set[str]) -> list[Json]:
    """Those about the target, its pods and ReplicaSets, and ``related`` objects (``Service/x``)."""
    names = {f"Pod/{name_of(pod)}" for pod in pods or []} | related | {str(target)}
    names |= {
        f"{o.get('kind')}/{o.get('name')}" for pod in pods or [] for o in pod["metadata"].get("ownerReferences") or []
    }
    prefix = f"{target.name}-"
    return [e for e in events if _concerns(e, names, prefix)]


def _concerns(event: Json, names: set[str], prefix: str) -> bool:
    kind, name = event_object(event)
    # A ReplicaSet whose pods are refused has none that would lead to it; a pod may be gone already.
    return f"{kind}/{name}" in names or (kind in _KINDS_BESIDE and name.startswith(prefix))


async def read_quotas(kube: Kube, namespace: str) -> list[Json]:
    """The namespace's ResourceQuotas."""
    return await recent(kube, f"/api/v1/namespaces/{namespace}/resourcequotas")


def has_history(target: BoundTarget) -> bool:
    """Whether it is a workload with rollouts."""
    return target.kind in WORKLOADS


def _is_owned_by(obj: Json, uid: str) -> bool:
    return any(o.get("uid") == uid and o.get("controller") for o in obj["metadata"].get("ownerReferences") or [])
