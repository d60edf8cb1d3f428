"""What a policy says of a change of configuration."""

import re
from typing import Annotated, Literal, Self

from pydantic import AfterValidator, ConfigDict, Field, model_validator

from paramedic.api.base import Model, ObjectName, rule

MOST_BYTES = 1_048_576
"""What the API server takes in all of one ConfigMap or Secret."""
_KEY_PATTERN = r"^[-._a-zA-Z0-9]{1,253}$"
_KEYS = rule(
    f"!has(self.data) || self.data.all(k, k.matches('{_KEY_PATTERN}'))",
    "a key of a ConfigMap or Secret consists of letters, digits, '-', '_' and '.', for example DB_HOST",
)
_SOMETHING = rule(
    "(has(self.data) && size(self.data) > 0) || (has(self.valueFrom) && size(self.valueFrom) > 0)",
    "patchConfig needs data or valueFrom: as it stands nothing would be changed",
)
_NAMED = rule(
    "(self.restart == 'Named') == has(self.workloads)",
    "workloads belongs to restart: Named, which needs it; leave both out to restart all that use the object",
)


NO_VALUES_OF_SECRETS = (
    "values for a Secret are not written into a policy, where many can read them: put them into another Secret and "
    "name that with valueFrom"
)
"""Why ``data`` is refused for a Secret."""


def _key(value: str) -> str:
    if not re.fullmatch(_KEY_PATTERN, value) or value == "." or value.startswith(".."):
        raise ValueError(
            f"{value[:60]!r} is no key of a ConfigMap or Secret: at most 253 letters, digits, '-', '_' and '.', and "
            "neither '.' nor with '..' at its beginning"
        )
    return value


Key = Annotated[str, Field(pattern=_KEY_PATTERN, max_length=253), AfterValidator(_key)]


class SecretValue(Model):
    """A key and where its value comes from."""

    key: Key = Field(description="Key of the target.")
    secret_name: ObjectName = Field(
        description="Secret in the same namespace that holds the value; Paramedic needs the right to get it."
    )
    secret_key: Key = Field(description="Key in that Secret.")


class WorkloadName(Model):
    """A workload in the same namespace."""

    kind: Literal["Deployment", "StatefulSet", "DaemonSet"] = Field("Deployment", description="Kind.")
    name: ObjectName = Field(description="Name.")


class PatchConfigParams(Model):
    """Which keys get which values, and what is restarted then."""

    model_config = ConfigDict(json_schema_extra={"x-kubernetes-validations": [_SOMETHING, _KEYS, _NAMED]})

    data: dict[str, Annotated[str, Field(max_length=65536)]] = Field(
        default_factory=dict,
        max_length=64,
        description="Only for a ConfigMap: keys and their new values, which whoever may read the policy or its "
        "Incidents can read. A Secret's come with valueFrom.",
    )
    value_from: list[SecretValue] = Field(
        default_factory=list,
        max_length=16,
        description="Only for a Secret: keys whose new values are copied from other Secrets when the step is done.",
    )
    restart: Literal["Users", "None", "Named"] = Field(
        "Users",
        description="What is restarted after the change, so that it is read. Users: the Deployments, StatefulSets and "
        "DaemonSets of the namespace whose pods refer to the object. Named: those in workloads. None: nothing. "
        "At most 20; a paused Deployment is left alone.",
    )
    workloads: list[WorkloadName] | None = Field(
        None, min_length=1, max_length=20, description="With restart: Named, the workloads to restart."
    )

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        for key in self.data:
            _key(key)
        names = [*self.data, *(source.key for source in self.value_from)]
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise ValueError(f"{', '.join(twice)}: one value for a key, from data or from valueFrom")
        if not names:
            raise ValueError("patchConfig needs data or valueFrom: as it stands nothing would be changed")
        if (self.restart == "Named") is not bool(self.workloads):
            raise ValueError("workloads belongs to restart: Named, which needs it")
        return self

    @property
    def keys(self) -> list[str]:
        """The keys that are changed, in a fixed order."""
        return sorted([*self.data, *(source.key for source in self.value_from)])
