"""Which workloads use a ConfigMap or a Secret: by environment variables or volumes of any of their containers."""

from collections.abc import Iterator
from typing import Any

Json = dict[str, Any]
_ENV_FROM = {"ConfigMap": "configMapRef", "Secret": "secretRef"}
_ENV = {"ConfigMap": "configMapKeyRef", "Secret": "secretKeyRef"}
_VOLUME = {"ConfigMap": ("configMap", "name"), "Secret": ("secret", "secretName")}
_PROJECTED = {"ConfigMap": "configMap", "Secret": "secret"}


def uses(workload: Json, kind: str, name: str) -> bool:
    """Whether pods of the workload read the object when they start. (What only the kubelet reads, such as an
    imagePullSecret, does not count.)
    """
    pod = workload["spec"]["template"].get("spec") or {}
    return name in set(_by_environment(pod, kind)) | set(_by_volumes(pod, kind))


def _by_environment(pod: Json, kind: str) -> Iterator[str | None]:
    for container in [*(pod.get("initContainers") or []), *(pod.get("containers") or [])]:
        for source in container.get("envFrom") or []:
            yield (source.get(_ENV_FROM[kind]) or {}).get("name")
        for variable in container.get("env") or []:
            yield ((variable.get("valueFrom") or {}).get(_ENV[kind]) or {}).get("name")


def _by_volumes(pod: Json, kind: str) -> Iterator[str | None]:
    field, name = _VOLUME[kind]
    for volume in pod.get("volumes") or []:
        yield (volume.get(field) or {}).get(name)
        for source in (volume.get("projected") or {}).get("sources") or []:
            yield (source.get(_PROJECTED[kind]) or {}).get("name")
