"""The Job of ``runJob``: what a policy may say of it, and the manifest that comes of it.

A subset of Kubernetes' own pod template, in its own words. What would give a Job the node's rights is not in it, and is
refused with a message where people are used to writing it. The namespace's Pod Security applies besides.
"""

from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, ConfigDict, Field, model_validator
from pydantic.config import JsonDict

from paramedic.api import ANNOTATION_INCIDENT, ANNOTATION_OPERATION, API_VERSION, FIELD_MANAGER, LABEL_MANAGED_BY
from paramedic.api.base import NAME_PATTERN, Model, ObjectName, rule
from paramedic.core.redact import HIDDEN, redacted

Json = dict[str, Any]
_OPAQUE: JsonDict = {"x-kubernetes-preserve-unknown-fields": True}
_QUANTITY_SCHEMA: JsonDict = {
    "anyOf": [{"type": "integer"}, {"type": "string"}],
    "x-kubernetes-int-or-string": True,
    "maxLength": 32,
}
_ENV_NAME = r"^[-._a-zA-Z][-._a-zA-Z0-9]*$"
_KEY = r"^[-._a-zA-Z0-9]+$"
_PATH = r"^[^\x00]+$"
_IMAGE = r"^[a-zA-Z0-9][-a-zA-Z0-9._/:@]*$"
_FIELD_PATH = (
    r"^(metadata\.(name|namespace|uid)|metadata\.(labels|annotations)\['[^']{1,317}'\]|spec\.(nodeName|serviceAccountName)"
    r"|status\.(podIP|podIPs|hostIP|hostIPs))$"
)
_NODES_RIGHTS = "a Job of a policy gets no rights on the node"


def _must_be_false(value: bool | None) -> bool | None:
    if value:
        raise ValueError(f"must be false: {_NODES_RIGHTS}")
    return value


def _must_be_absent(value: Json | None) -> Json | None:
    if value is not None:
        raise ValueError(f"must be left out: {_NODES_RIGHTS}")
    return value


def _exactly_one(*names: str) -> JsonDict:
    given = ", ".join(f"has(self.{name})" for name in names)
    return rule(f"[{given}].filter(x, x).size() == 1", f"set exactly one of {', '.join(names)}")


def _with_rules(*rules: JsonDict) -> ConfigDict:
    return ConfigDict(json_schema_extra={"x-kubernetes-validations": list(rules)})


def _never(name: str) -> JsonDict:
    return {"x-kubernetes-validations": [rule("!self", f"{name} must be false: {_NODES_RIGHTS}")]}


Flag = Annotated[bool | None, AfterValidator(_must_be_false)]
Quantity = Annotated[int | str, Field(json_schema_extra=_QUANTITY_SCHEMA)]
Argument = Annotated[str, Field(max_length=4096)]
Key = Annotated[str, Field(pattern=_KEY, max_length=253)]
Label = Annotated[str, Field(max_length=317)]
PartName = Annotated[str, Field(pattern=NAME_PATTERN, max_length=63)]


class KeyRef(Model):
    """One key of a ConfigMap or Secret of the namespace."""

    name: ObjectName = Field(description="Its name.")
    key: Key = Field(description="The key.")
    optional: bool | None = Field(None, description="Whether it may be missing.")


class FieldRef(Model):
    """A field of the pod itself."""

    field_path: str = Field(pattern=_FIELD_PATH, max_length=400, description="For example metadata.name.")


class EnvSource(Model):
    """Where a value comes from."""

    model_config = _with_rules(_exactly_one("secretKeyRef", "configMapKeyRef", "fieldRef"))

    secret_key_ref: KeyRef | None = Field(None, description="A key of a Secret.")
    config_map_key_ref: KeyRef | None = Field(None, description="A key of a ConfigMap.")
    field_ref: FieldRef | None = Field(None, description="A field of the pod.")


class EnvVar(Model):
    """One environment variable."""

    model_config = _with_rules(rule("!(has(self.value) && has(self.valueFrom))", "set value or valueFrom, not both"))

    name: str = Field(pattern=_ENV_NAME, max_length=253, description="Its name.")
    value: Argument | None = Field(None, description="Its value. A secret belongs into valueFrom.secretKeyRef.")
    value_from: EnvSource | None = Field(None, description="Where its value comes from.")

    @model_validator(mode="after")
    def _no_secret(self) -> Self:
        """A policy is read by many, and its steps' parameters are copied to every Incident's status."""
        if self.value and HIDDEN in redacted(f"{self.name}={self.value}"):
            raise ValueError(f"{self.name} looks like a secret: take it from valueFrom.secretKeyRef instead of value")
        return self


class ObjectRef(Model):
    """A ConfigMap or Secret of the namespace, all of its keys."""

    name: ObjectName = Field(description="Its name.")
    optional: bool | None = Field(None, description="Whether it may be missing.")


class EnvFrom(Model):
    """All keys of a ConfigMap or Secret as environment variables."""

    model_config = _with_rules(_exactly_one("configMapRef", "secretRef"))

    prefix: str | None = Field(None, max_length=253, description="Before each name.")
    config_map_ref: ObjectRef | None = Field(None, description="A ConfigMap.")
    secret_ref: ObjectRef | None = Field(None, description="A Secret.")


class Item(Model):
    """A key as a file."""

    key: Key = Field(description="The key.")
    path: str = Field(min_length=1, max_length=1024, description="The file, relative to the mount.")
    mode: int | None = Field(None, ge=0, le=0o777, description="Its permissions, as a decimal number.")


class ConfigMapVolume(ObjectRef):
    """The keys of a ConfigMap as files."""

    items: list[Item] | None = Field(None, max_length=32, description="Only these keys.")
    default_mode: int | None = Field(None, ge=0, le=0o777, description="Permissions, as a decimal number.")


class SecretVolume(Model):
    """The keys of a Secret as files."""

    secret_name: ObjectName = Field(description="Its name.")
    optional: bool | None = Field(None, description="Whether it may be missing.")
    items: list[Item] | None = Field(None, max_length=32, description="Only these keys.")
    default_mode: int | None = Field(None, ge=0, le=0o777, description="Permissions, as a decimal number.")


class EmptyDir(Model):
    """A folder for the Job's time."""

    medium: Literal["", "Memory"] | None = Field(None, description="Memory: in RAM.")
    size_limit: Quantity | None = Field(None, description="At most so much.")


class ClaimVolume(Model):
    """A PersistentVolumeClaim of the namespace."""

    claim_name: ObjectName = Field(description="Its name.")
    read_only: bool | None = Field(None, description="Mounted read-only.")


class Volume(Model):
    """One volume."""

    model_config = _with_rules(
        rule("!has(self.hostPath)", f"hostPath must be left out: {_NODES_RIGHTS}"),
        _exactly_one("configMap", "secret", "emptyDir", "persistentVolumeClaim"),
    )

    name: PartName = Field(description="Its name.")
    config_map: ConfigMapVolume | None = Field(None, description="A ConfigMap.")
    secret: SecretVolume | None = Field(None, description="A Secret.")
    empty_dir: EmptyDir | None = Field(None, description="A folder for the Job's time.")
    persistent_volume_claim: ClaimVolume | None = Field(None, description="A PersistentVolumeClaim.")
    host_path: Annotated[Json | None, AfterValidator(_must_be_absent)] = Field(
        None, description="Refused.", json_schema_extra=_OPAQUE
    )


class VolumeMount(Model):
    """Where a volume is mounted."""

    name: PartName = Field(description="The volume.")
    mount_path: str = Field(pattern=_PATH, max_length=1024, description="The path in the container.")
    sub_path: str | None = Field(None, max_length=1024, description="Only this path of the volume.")
    read_only: bool | None = Field(None, description="Mounted read-only.")


class Resources(Model):
    """What a container asks for and may use."""

    requests: dict[str, Quantity] | None = Field(None, max_length=16, description="What it asks for.")
    limits: dict[str, Quantity] | None = Field(None, max_length=16, description="What it may use.")


class SeccompProfile(Model):
    """System calls that are allowed."""

    type: Literal["RuntimeDefault", "Localhost"] = Field(description="Which profile.")
    localhost_profile: str | None = Field(None, max_length=1024, description="File on the node, for Localhost.")


class Capabilities(Model):
    """Linux capabilities, as the Pod Security standard `restricted` knows them."""

    add: list[Literal["NET_BIND_SERVICE"]] | None = Field(None, max_length=1, description="Only NET_BIND_SERVICE.")
    drop: list[Annotated[str, Field(max_length=64)]] | None = Field(None, max_length=64, description="For example ALL.")


class SecurityContext(Model):
    """Of a container."""

    privileged: Flag = Field(None, description="Must be false.", json_schema_extra=_never("privileged"))
    allow_privilege_escalation: bool | None = Field(None, description="Default: false.")
    capabilities: Capabilities | None = Field(None, description="Capabilities.")
    read_only_root_filesystem: bool | None = Field(None, description="No writing to the image.")
    run_as_user: int | None = Field(None, ge=0, description="User id.")
    run_as_group: int | None = Field(None, ge=0, description="Group id.")
    run_as_non_root: bool | None = Field(None, description="Refuse to run as root.")
    seccomp_profile: SeccompProfile | None = Field(None, description="Seccomp profile.")


class PodSecurityContext(Model):
    """Of all containers."""

    fs_group: int | None = Field(None, ge=0, description="Group id of volumes.")
    run_as_user: int | None = Field(None, ge=0, description="User id.")
    run_as_group: int | None = Field(None, ge=0, description="Group id.")
    run_as_non_root: bool | None = Field(None, description="Refuse to run as root.")
    supplemental_groups: list[Annotated[int, Field(ge=0)]] | None = Field(None, max_length=16, description="Group ids.")
    seccomp_profile: SeccompProfile | None = Field(None, description="Seccomp profile.")


class Container(Model):
    """One container."""

    name: PartName = Field(description="Its name.")
    image: str = Field(min_length=1, max_length=512, pattern=_IMAGE, description="Its image.")
    image_pull_policy: Literal["Always", "IfNotPresent", "Never"] | None = Field(None, description="When to pull.")
    command: list[Argument] | None = Field(None, max_length=64, description="The program and its arguments; no shell.")
    args: list[Argument] | None = Field(None, max_length=64, description="Arguments.")
    working_dir: str | None = Field(None, max_length=1024, description="Working directory.")
    env: list[EnvVar] | None = Field(None, max_length=64, description="Environment variables.")
    env_from: list[EnvFrom] | None = Field(None, max_length=16, description="Variables from ConfigMaps and Secrets.")
    volume_mounts: list[VolumeMount] | None = Field(None, max_length=16, description="Volumes.")
    resources: Resources | None = Field(None, description="Resources.")
    security_context: SecurityContext | None = Field(None, description="Rights of the container.")


class Toleration(Model):
    """A taint that the pod may run on."""

    key: str | None = Field(None, max_length=317, description="Taint.")
    operator: Literal["Exists", "Equal"] | None = Field(None, description="How it is compared.")
    value: str | None = Field(None, max_length=63, description="Its value.")
    effect: Literal["NoSchedule", "PreferNoSchedule", "NoExecute"] | None = Field(None, description="Its effect.")


class PullSecret(Model):
    """A Secret to pull images with."""

    name: ObjectName = Field(description="Its name.")


_TOKEN_OF_WHOM = rule(
    "!has(self.automountServiceAccountToken) || !self.automountServiceAccountToken || has(self.serviceAccountName)",
    "a token is given to a Job only under a serviceAccountName that the policy names",
)


class PodSpec(Model):
    """The pod, in Kubernetes' own words."""

    model_config = _with_rules(_TOKEN_OF_WHOM)

    service_account_name: ObjectName | None = Field(
        None,
        description="ServiceAccount of the namespace that the policy's author may impersonate (checked when the policy "
        "is written; the built-in roles edit and admin may). Without one, the Job has no token at all.",
    )
    automount_service_account_token: bool | None = Field(
        None, description="Whether the Job gets that ServiceAccount's token; only with serviceAccountName."
    )
    containers: list[Container] = Field(
        min_length=1, max_length=4, description="Containers; the first one's log counts."
    )
    init_containers: list[Container] | None = Field(None, max_length=4, description="Run before, in order.")
    volumes: list[Volume] | None = Field(None, max_length=16, description="Volumes.")
    security_context: PodSecurityContext | None = Field(None, description="Rights of all containers.")
    image_pull_secrets: list[PullSecret] | None = Field(None, max_length=8, description="Secrets to pull images with.")
    node_selector: dict[Label, Label] | None = Field(None, max_length=16, description="Labels of the node.")
    tolerations: list[Toleration] | None = Field(None, max_length=16, description="Taints that it may run on.")
    host_network: Flag = Field(None, description="Must be false.", json_schema_extra=_never("hostNetwork"))
    host_pid: Flag = Field(None, alias="hostPID", description="Must be false.", json_schema_extra=_never("hostPID"))
    host_ipc: Flag = Field(None, alias="hostIPC", description="Must be false.", json_schema_extra=_never("hostIPC"))

    @model_validator(mode="after")
    def _token_of_whom(self) -> Self:
        if self.automount_service_account_token and not self.service_account_name:
            raise ValueError(str(_TOKEN_OF_WHOM["message"]))
        return self


class PodMeta(Model):
    """Labels and annotations of the pod, for example for a service mesh."""

    labels: dict[Label, Label] | None = Field(None, max_length=32, description="Labels.")
    annotations: dict[Label, Argument] | None = Field(None, max_length=32, description="Annotations.")


class PodTemplate(Model):
    """The Job's pod."""

    metadata: PodMeta | None = Field(None, description="Labels and annotations.")
    spec: PodSpec = Field(description="The pod.")


class RunJobParams(Model):
    """A Job and what is kept of it."""

    template: PodTemplate = Field(
        description="The Job's pod template. Secrets that it names are read by the pod, never by Paramedic."
    )
    active_deadline_seconds: int | None = Field(
        None, ge=1, le=86400, description="Kubernetes ends the Job after this; default: the step's timeout."
    )
    backoff_limit: int = Field(0, ge=0, le=10, description="How often a failed pod is tried again.")
    ttl_seconds_after_finished: int = Field(
        86400,
        ge=60,
        le=2_592_000,
        description="Kubernetes deletes the Job so long after its end, but not "
        "before the step's timeout and 15 minutes more are over.",
    )
    log_lines: int = Field(20, ge=0, le=200, description="Last lines of the log to keep on the status, 4 KiB at most.")


def job_name(step: str, operation: str) -> str:
    """Fit for a pod's label: 63 characters at most. The end of an operation id is chance."""
    return f"{(step or 'job')[:54]}-{operation[-8:]}"


def job_manifest(params: RunJobParams, name: str, operation: str, incident: str, incident_uid: str) -> Json:
    """The Job, stamped. It is deleted with its Incident, and by itself some time after its end."""
    stamps = {ANNOTATION_OPERATION: operation} | ({ANNOTATION_INCIDENT: incident} if incident else {})
    metadata: Json = {"name": name, "labels": {LABEL_MANAGED_BY: FIELD_MANAGER}, "annotations": stamps}
    if incident_uid:
        metadata["ownerReferences"] = [_owner(incident, incident_uid)]
    spec: Json = {
        "backoffLimit": params.backoff_limit,
        "ttlSecondsAfterFinished": params.ttl_seconds_after_finished,
        "template": _template(params.template),
    }
    if params.active_deadline_seconds:
        spec["activeDeadlineSeconds"] = params.active_deadline_seconds
    return {"apiVersion": "batch/v1", "kind": "Job", "metadata": metadata, "spec": spec}


def _template(template: PodTemplate) -> Json:
    pod = template.to_wire()
    metadata: Json = pod.setdefault("metadata", {})
    metadata["labels"] = {LABEL_MANAGED_BY: FIELD_MANAGER} | (metadata.get("labels") or {})
    spec: Json = pod["spec"]
    spec["restartPolicy"] = "Never"
    if "serviceAccountName" not in spec:
        spec["automountServiceAccountToken"] = False
    for container in [*spec["containers"], *spec.get("initContainers", [])]:
        container.setdefault("securityContext", {}).setdefault("allowPrivilegeEscalation", False)
    return pod


def _owner(incident: str, uid: str) -> Json:
    return {
        "apiVersion": API_VERSION,
        "kind": "Incident",
        "name": incident,
        "uid": uid,
        "controller": False,
        "blockOwnerDeletion": False,
    }
