"""How a manifest names the object to act on."""

from typing import Literal

from pydantic import ConfigDict, Field

from paramedic.api.base import Model, ObjectName, StatusModel, rule

WorkloadKind = Literal["Deployment", "StatefulSet", "DaemonSet"]


class TargetRef(Model):
    """An object in the Incident's own namespace."""

    api_version: Literal["apps/v1"] = Field("apps/v1", description="API group and version of the target.")
    kind: WorkloadKind = Field("Deployment", description="Kind of the target.")
    name: ObjectName = Field(description="Name of the target, in the same namespace.")


class TargetSelector(Model):
    """The target of a policy: named, or named by a label of the alert."""

    model_config = ConfigDict(
        json_schema_extra={
            "x-kubernetes-validations": [
                rule(
                    "has(self.name) != has(self.nameFromLabel)",
                    "set exactly one of target.name and target.nameFromLabel",
                )
            ]
        }
    )

    api_version: Literal["apps/v1"] = Field("apps/v1", description="API group and version of the target.")
    kind: WorkloadKind = Field("Deployment", description="Kind of the target.")
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
