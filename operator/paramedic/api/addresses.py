"""Source addresses as a person writes them in a resource."""

from typing import Annotated

from pydantic import Field

from paramedic.api.base import rule

MOST_ADDRESSES = 100
"""How many are taken from one place."""
SHORTEST_PREFIX_IPV4 = 8
SHORTEST_PREFIX_IPV6 = 16
"""No action touches a larger network, whatever its policy says; most policies draw the line much earlier."""

_READABLE = rule(
    "isIP(self) || (isCIDR(self) && cidr(self) == cidr(self).masked())",
    "a source address is an IP address (203.0.113.7, 2001:db8::7) or a network without bits of a host set "
    "(203.0.113.0/24, 2001:db8::/48)",
)
_NOT_TOO_LARGE = rule(
    f"!isCIDR(self) || cidr(self).prefixLength() >= "
    f"(cidr(self).ip().family() == 4 ? {SHORTEST_PREFIX_IPV4} : {SHORTEST_PREFIX_IPV6})",
    f"the network is too large to be kept out: write a prefix of at least /{SHORTEST_PREFIX_IPV4} (IPv4) or "
    f"/{SHORTEST_PREFIX_IPV6} (IPv6)",
)

SourceAddress = Annotated[
    str, Field(max_length=49, json_schema_extra={"x-kubernetes-validations": [_READABLE, _NOT_TOO_LARGE]})
]
"""An IP address or a CIDR of either family. The API server checks it; who acts on it reads it strictly once more."""
