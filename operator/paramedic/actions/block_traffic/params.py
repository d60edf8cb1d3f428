"""What a policy says of blocking traffic."""

import ipaddress
from typing import Annotated, Literal, Self

from pydantic import AfterValidator, ConfigDict, Field, model_validator

from paramedic.api.base import NAME_PATTERN, Model, rule

Method = Literal["Service", "NetworkPolicy", "Selector"]
Direction = Literal["Ingress", "Both"]
_LABEL_VALUE = r"^([A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?)?$"

_WHOM = rule(
    "has(self.namespace) || has(self.podLabels) || has(self.cidr) || has(self.ports)",
    "an exception needs namespace, podLabels, cidr or ports: an empty one would let everything through",
)
_ONE_WAY_TO_SAY = rule(
    "!has(self.cidr) || !(has(self.namespace) || has(self.podLabels))",
    "an exception is for pods (namespace, podLabels) or for addresses (cidr): write two",
)
_POLICY_FIELDS = rule(
    "self.method == 'NetworkPolicy' || !(has(self.direction) || has(self.allow) || has(self.dns))",
    "direction, allow and dns belong to method NetworkPolicy: leave them out",
)
_DNS_OUTWARD = rule(
    "!has(self.dns) || (has(self.direction) && self.direction == 'Both')",
    "dns speaks of traffic from the pods, which only direction: Both blocks: leave it out",
)


def _cidr(value: str) -> str:
    try:
        ipaddress.ip_network(value)
    except ValueError as error:
        raise ValueError(f"{value[:60]!r} is no range of addresses, such as 10.1.0.0/16 or 2001:db8::/32") from error
    return value


class AllowedPort(Model):
    """A port that stays open."""

    port: int = Field(ge=1, le=65535, description="Number: of the pods inwards, of the other side outwards.")
    protocol: Literal["TCP", "UDP", "SCTP"] = Field("TCP", description="Protocol.")


class Exempt(Model):
    """Traffic that is not blocked."""

    model_config = ConfigDict(json_schema_extra={"x-kubernetes-validations": [_WHOM, _ONE_WAY_TO_SAY]})

    namespace: str | None = Field(
        None, pattern=NAME_PATTERN, max_length=63, description="Pods of this namespace; left out: of the target's own."
    )
    pod_labels: dict[str, Annotated[str, Field(pattern=_LABEL_VALUE, max_length=63)]] | None = Field(
        None, min_length=1, max_length=16, description="Pods with all of these labels; left out: any."
    )
    cidr: Annotated[str, Field(pattern=r"^[0-9a-fA-F:.]+/[0-9]{1,3}$"), AfterValidator(_cidr)] | None = Field(
        None, max_length=64, description="Addresses, for example 10.1.0.0/16."
    )
    ports: list[AllowedPort] | None = Field(
        None, min_length=1, max_length=16, description="Only these ports; left out: all."
    )

    @model_validator(mode="after")
    def _not_everything(self) -> Self:
        if not (self.namespace or self.pod_labels or self.cidr or self.ports):
            raise ValueError("an exception needs namespace, podLabels, cidr or ports")
        if self.cidr and (self.namespace or self.pod_labels):
            raise ValueError("an exception is for pods (namespace, podLabels) or for addresses (cidr)")
        return self


class BlockTrafficParams(Model):
    """How to block, and what not to."""

    model_config = ConfigDict(json_schema_extra={"x-kubernetes-validations": [_POLICY_FIELDS, _DNS_OUTWARD]})

    method: Method = Field(
        "Service",
        description="Service: a LoadBalancer or NodePort Service becomes a ClusterIP one, and its external IPs are "
        "taken away; what comes through an Ingress or from inside of the cluster still reaches it. NetworkPolicy: no "
        "traffic to the pods of the Service or workload but the exceptions; needs a network plugin that enforces it, "
        "and what another NetworkPolicy allows stays allowed. Selector: the Service selects nothing any more, so that "
        "nobody reaches it (the emergency swap).",
    )
    direction: Direction | None = Field(
        None,
        description="NetworkPolicy only. Ingress (taken when left out): traffic to the pods. Both: from them too.",
    )
    allow: list[Exempt] | None = Field(
        None, max_length=16, description="NetworkPolicy only. What stays allowed, in each direction that is blocked."
    )
    dns: bool | None = Field(
        None,
        description="With direction: Both, whether port 53 stays open outwards; without names little works. True when "
        "left out.",
    )
