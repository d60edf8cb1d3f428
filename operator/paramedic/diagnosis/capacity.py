"""Room: nodes, autoscalers, usage."""

from typing import Any

from paramedic.api.workload import BoundTarget
from paramedic.clients.kube import Kube
from paramedic.diagnosis.looking import recent
from paramedic.errors import NotFound

Json = dict[str, Any]
_NODE_STATUS = ("conditions", "allocatable")
_METRICS = "/apis/metrics.k8s.io/v1beta1"


async def read_nodes(kube: Kube) -> list[Json]:
    """All nodes, with what is needed of them only. Page by page: from the cache they would come all at once, and a
    large cluster's nodes are tens of megabytes.
    """
    return [_slim(node) async for page in kube.pages("/api/v1/nodes") for node in page]


def _slim(node: Json) -> Json:
    spec, status = node.get("spec") or {}, node.get("status") or {}
    return {
        "metadata": {"name": node["metadata"]["name"]},
        "spec": {key: spec[key] for key in ("taints", "unschedulable") if spec.get(key)},
        "status": {key: status[key] for key in _NODE_STATUS if status.get(key)},
    }


async def read_autoscalers(kube: Kube, target: BoundTarget) -> list[Json]:
    """The HorizontalPodAutoscalers of the target."""
    path = f"/apis/autoscaling/v2/namespaces/{target.namespace}/horizontalpodautoscalers"
    return [hpa for hpa in await recent(kube, path) if _scales(hpa, target)]


def _scales(hpa: Json, target: BoundTarget) -> bool:
    ref = hpa["spec"].get("scaleTargetRef") or {}
    return ref.get("kind") == target.kind and ref.get("name") == target.name


async def read_pod_usage(kube: Kube, namespace: str, selector: str) -> list[Json] | None:
    """PodMetrics; None where no metrics server is installed."""
    try:
        return await kube.list(f"{_METRICS}/namespaces/{namespace}/pods", selector)
    except NotFound:
        return None


async def read_node_usage(kube: Kube) -> list[Json] | None:
    """NodeMetrics; None where no metrics server is installed."""
    try:
        return [item async for page in kube.pages(f"{_METRICS}/nodes") for item in page]
    except NotFound:
        return None
