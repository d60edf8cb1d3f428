"""Objects of a namespace as JSON that ``kubectl apply -f`` reads: a List for each kind, streamed page by page.

Secrets are not read at all: the right to list them, even only their names, is the right to read their values. What
other objects say of them, names and keys, is kept in ``manifests/secrets.json``.
"""

import asyncio
import json
from collections.abc import AsyncGenerator, Callable, Iterator
from functools import partial
from typing import Any

from paramedic.clients.evidence import Chunks
from paramedic.clients.kube import Kube
from paramedic.core.manifests import secret_references, without_secrets
from paramedic.evidence.source import JSON, Source

Json = dict[str, Any]
_AT_ONCE = "25"
"""Objects of one page. One can have more than a megabyte (a ConfigMap)."""
KINDS = (
    ("v1", "Pod", "pods"),
    ("v1", "Service", "services"),
    ("v1", "ConfigMap", "configmaps"),
    ("v1", "PersistentVolumeClaim", "persistentvolumeclaims"),
    ("v1", "ServiceAccount", "serviceaccounts"),
    ("v1", "ResourceQuota", "resourcequotas"),
    ("v1", "LimitRange", "limitranges"),
    ("apps/v1", "Deployment", "deployments"),
    ("apps/v1", "StatefulSet", "statefulsets"),
    ("apps/v1", "DaemonSet", "daemonsets"),
    ("apps/v1", "ReplicaSet", "replicasets"),
    ("apps/v1", "ControllerRevision", "controllerrevisions"),
    ("batch/v1", "Job", "jobs"),
    ("batch/v1", "CronJob", "cronjobs"),
    ("autoscaling/v2", "HorizontalPodAutoscaler", "horizontalpodautoscalers"),
    ("policy/v1", "PodDisruptionBudget", "poddisruptionbudgets"),
    ("networking.k8s.io/v1", "Ingress", "ingresses"),
    ("networking.k8s.io/v1", "NetworkPolicy", "networkpolicies"),
    ("discovery.k8s.io/v1", "EndpointSlice", "endpointslices"),
    ("rbac.authorization.k8s.io/v1", "Role", "roles"),
    ("rbac.authorization.k8s.io/v1", "RoleBinding", "rolebindings"),
)
"""API version, kind and plural of what is read; manifests/components/evidence gives the rights for it."""
_HISTORIES = {"Deployment": "replicasets", "StatefulSet": "controllerrevisions", "DaemonSet": "controllerrevisions"}
_REVISION = "deployment.kubernetes.io/revision"
_CHANGE_CAUSE = "kubernetes.io/change-cause"


def event_sources(kube: Kube, namespace: str) -> Iterator[Source]:
    """The namespace's Events."""
    path = _path("v1", namespace, "events")
    yield Source("events.json", JSON, partial(_list, kube, path, "", partial(_typed, "v1", "Event")))


def manifest_sources(kube: Kube, namespace: str, references: dict[str, set[str]]) -> Iterator[Source]:
    """Every kind's manifests. What they say of Secrets is added to ``references``: keys by name."""
    for version, kind, plural in KINDS:
        make = partial(_manifest, version, kind, references)
        path = _path(version, namespace, plural)
        yield Source(f"manifests/{plural}.json", JSON, partial(_list, kube, path, "", make))


def reference_source(references: dict[str, set[str]]) -> Source:
    """The Secrets that the manifests refer to; to be read after them."""

    async def read() -> Chunks:
        named = {name: sorted(filter(None, keys)) for name, keys in sorted(references.items())}
        remark = "names and keys by which other objects refer to Secrets; the Secrets themselves are never read"
        yield json.dumps({"remark": remark, "secrets": named}, indent=1).encode()

    return Source("manifests/secrets.json", JSON, read)


def history_sources(kube: Kube, namespace: str, kind: str, uid: str, selector: str) -> Iterator[Source]:
    """The rollout history of a workload; nothing for what has none."""
    if kind in _HISTORIES:
        path = _path("apps/v1", namespace, _HISTORIES[kind])
        yield Source("history.json", JSON, partial(_list, kube, path, selector, partial(_revision, uid)))


async def _list(
    kube: Kube, path: str, selector: str, make: Callable[[Json], Json | None]
) -> AsyncGenerator[bytes, None]:
    """A List of what ``make`` leaves of each object, None being left out."""
    begun = False
    async for page in kube.pages(path, labelSelector=selector, limit=_AT_ONCE):
        # Patterns over a page of objects take longer than the loop may be held up.
        for text in await asyncio.to_thread(_texts, page, make):
            yield (b",\n" if begun else b'{"apiVersion": "v1", "kind": "List", "items": [\n') + text
            begun = True
    yield b"\n]}\n" if begun else b'{"apiVersion": "v1", "kind": "List", "items": []}\n'


def _texts(page: list[Json], make: Callable[[Json], Json | None]) -> list[bytes]:
    made = (make(obj) for obj in page)
    return [json.dumps(obj, ensure_ascii=False).encode(errors="replace") for obj in made if obj is not None]


def _path(version: str, namespace: str, plural: str) -> str:
    return f"/{'apis' if '/' in version else 'api'}/{version}/namespaces/{namespace}/{plural}"


def _typed(version: str, kind: str, obj: Json) -> Json:
    """Lists leave out of their items what kind they are."""
    return {"apiVersion": version, "kind": kind} | obj


def _manifest(version: str, kind: str, references: dict[str, set[str]], obj: Json) -> Json:
    for name, key in secret_references(obj):
        references.setdefault(name, set()).add(key)
    return without_secrets(_typed(version, kind, obj))


def _revision(uid: str, obj: Json) -> Json | None:
    metadata = obj["metadata"]
    if not any(owner.get("uid") == uid for owner in metadata.get("ownerReferences") or []):
        return None
    annotations = metadata.get("annotations") or {}
    template = obj["spec"]["template"] if "spec" in obj else obj["data"]["spec"]["template"]
    entry = {
        "revision": int(obj.get("revision") or annotations.get(_REVISION) or 0),
        "name": metadata["name"],
        "createdAt": metadata["creationTimestamp"],
        "changeCause": annotations.get(_CHANGE_CAUSE),
        "template": template,
    }
    return without_secrets(entry)
