"""Logs of pods: of every container, init and ephemeral ones too, and of what ran in it before its last restart."""

from collections.abc import AsyncIterator, Iterator
from functools import partial
from typing import Any

from paramedic.clients.kube import Kube
from paramedic.evidence.source import TEXT, Source

Json = dict[str, Any]
_PODS_AT_ONCE = "100"
_KINDS = ("initContainers", "containers", "ephemeralContainers")


async def log_sources(
    kube: Kube, namespace: str, selector: str, since_seconds: int, *, previous: bool
) -> AsyncIterator[Source]:
    """The logs of the pods that match. Lines are as they were written, each behind the time at which the node took it.

    Raises Refused, Retry, Terminal when the pods cannot be listed.
    """
    collection = f"/api/v1/namespaces/{namespace}/pods"
    async for page in kube.pages(collection, labelSelector=selector, limit=_PODS_AT_ONCE):
        for pod in page:
            path = f"{collection}/{pod['metadata']['name']}/log"
            for name, query in _logs_of(pod, since_seconds, previous=previous):
                yield Source(name, TEXT, partial(kube.stream, path, query))


def _logs_of(pod: Json, since_seconds: int, *, previous: bool) -> Iterator[tuple[str, dict[str, str]]]:
    """Item names with the parameters of the request."""
    statuses = {s["name"]: s for key in _KINDS for s in (pod.get("status") or {}).get(f"{key[:-1]}Statuses") or []}
    for key in _KINDS:
        for container in pod["spec"].get(key) or []:
            name = container["name"]
            query = {"container": name, "sinceSeconds": str(since_seconds), "timestamps": "true"}
            yield f"logs/{pod['metadata']['name']}/{name}.log", query
            if previous and _ran_before(statuses.get(name) or {}):
                yield f"logs/{pod['metadata']['name']}/{name}.previous.log", query | {"previous": "true"}


def _ran_before(status: Json) -> bool:
    return bool(status.get("restartCount") or (status.get("lastState") or {}).get("terminated"))
