"""How a manifest names the object to act on."""

from typing import Literal

from pydantic import ConfigDict, Field

from paramedic.api.base import Model, ObjectName, StatusModel, rule

WORKLOADS = ("Deployment", "StatefulSet", "DaemonSet")
WITH_PODS = (*WORKLOADS, "Service")
"""Kinds that say which pods are theirs."""
TargetKind = Literal[
    "Deployment", "StatefulSet", "DaemonSet", "Service", "Ingress", "HTTPRoute", "ConfigMap", "Secret", "Connection"
]
ApiVersion = Literal["apps/v1", "v1", "networking.k8s.io/v1", "gateway.networking.k8s.io/v1", "paramedic.dev/v1alpha1"]
RESOURCES: dict[str, tuple[ApiVersion, str]] = {
    "Deployment": ("apps/v1", "deployments"),
    "StatefulSet": ("apps/v1", "statefulsets"),
    "DaemonSet": ("apps/v1", "daemonsets"),
    "Service": ("v1", "services"),
    "Ingress": ("networking.k8s.io/v1", "ingresses"),
    "HTTPRoute": ("gateway.networking.k8s.io/v1", "httproutes"),
    "ConfigMap": ("v1", "configmaps"),
    "Secret": ("v1", "secrets"),
    "Connection": ("paramedic.dev/v1alpha1", "connections"),
}
"""Kinds that can be a target: API version and plural. The admission policies in manifests/base know the same.

A Connection is no object of the API server: it stands for something outside, such as a database, that the settings or a
Secret say how to reach. RBAC knows it all the same: who may ``patch`` connections may have Paramedic act through them.
"""

_FITTING = rule(
    "!has(self.apiVersion) || self.apiVersion == {"
    + ", ".join(f"'{kind}': '{version}'" for kind, (version, _) in RESOURCES.items())
    + "}[self.kind]",
    "apiVersion and kind do not belong together: leave apiVersion out, it follows from the kind",
)
_VERSION_FIELD = "API group and version of the target; follows from its kind."
_KIND_FIELD = "Kind of the target. Which kinds make sense depends on the action."


class TargetRef(Model):
    """An object in the Incident's own namespace."""

    model_config = ConfigDict(json_schema_extra={"x-kubernetes-validations": [_FITTING]})

    api_version: ApiVersion | None = Field(None, description=_VERSION_FIELD)
    kind: TargetKind = Field("Deployment", description=_KIND_FIELD)
    name: ObjectName = Field(description="Name of the target, in the same namespace.")


class TargetSelector(Model):
    """The target of a policy: named, or named by a label of the alert."""

    model_config = ConfigDict(
        json_schema_extra={
            "x-kubernetes-validations": [
                rule(
                    "has(self.name) != has(self.nameFromLabel)",
                    "set exactly one of target.name and target.nameFromLabel",
                ),
                _FITTING,
            ]
        }
    )

    api_version: ApiVersion | None = Field(None, description=_VERSION_FIELD)
    kind: TargetKind = Field("Deployment", description=_KIND_FIELD)
    name: ObjectName | None = Field(None, description="Name of the target, in the policy's namespace.")
    name_from_label: str | None = Field(
        None,
        pattern=r"^[a-zA-Z_][a-zA-Z0-9_]*$",
        max_length=128,
        description="Alert label that holds the target's name, for example deployment.",
    )


class BoundTarget(StatusModel):
    """A target as it was found: which object exactly, so that a namesake is never mistaken for it."""

    api_version: str = Field("apps/v1", description="API group and version.")
    kind: str = Field("Deployment", description="Kind.")
    namespace: str = Field(description="Namespace.")
    name: str = Field(description="Name.")
    uid: str | None = Field(None, description="UID of the object that was pinned before acting.")

    def __str__(self) -> str:
        return f"{self.kind}/{self.name}"

    @property
    def key(self) -> tuple[str, str, str]:
        """What identifies the target for locks and cooldowns: namespace, kind, name."""
        return self.namespace, self.kind, self.name


def collection_path(kind: str, namespace: str) -> str:
    """The API path of all objects of a kind that can be a target."""
    version, plural = RESOURCES[kind]
    return f"{'/api' if version == 'v1' else '/apis'}/{version}/namespaces/{namespace}/{plural}"


def target_path(kind: str, namespace: str, name: str) -> str:
    """The API path of one object of a kind that can be a target."""
    return f"{collection_path(kind, namespace)}/{name}"


def bound(kind: str, namespace: str, name: str) -> BoundTarget:
    """A target by kind and name, not looked at yet."""
    return BoundTarget(api_version=RESOURCES[kind][0], kind=kind, namespace=namespace, name=name)
