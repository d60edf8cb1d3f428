"""What a policy says of a rate limit."""

from datetime import timedelta
from typing import Literal

from pydantic import ConfigDict, Field

from paramedic.api.base import Duration, Model, rule

Method = Literal["EnvoyFilter", "BackendTrafficPolicy", "Ingress"]
ProxyContext = Literal["SIDECAR_INBOUND", "GATEWAY"]
# Envoy refuses a token bucket that is filled more often; a day is the longest that any of the methods counts.
LEAST, MOST = timedelta(milliseconds=50), timedelta(days=1)

# CEL's duration() knows no days.
_WITHIN_BOUNDS = rule(
    "self.per.contains('d') ? self.per == '1d' "
    ": duration(self.per) >= duration('50ms') && duration(self.per) <= duration('24h')",
    "per must be from 50ms (Envoy fills its token bucket no more often) to 24h",
)
_UNITS = rule(
    "self.method != 'BackendTrafficPolicy' || (self.per.contains('d') ? self.per == '1d' "
    ": duration(self.per) in [duration('1s'), duration('1m'), duration('1h'), duration('24h')])",
    "a BackendTrafficPolicy counts per second, minute, hour or day: write per as 1s, 1m, 1h or 1d, "
    "and requests to go with it",
)
_NGINX_UNITS = rule(
    "self.method != 'Ingress' || (!self.per.contains('d') && duration(self.per) in [duration('1s'), duration('1m')])",
    "ingress-nginx counts per second or per minute: write per as 1s or 1m, and requests to go with it",
)
_ENVOY_FIELDS = rule(
    "self.method == 'EnvoyFilter' || !(has(self.context) || has(self.port))",
    "context and port belong to method EnvoyFilter: leave them out",
)
_NGINX_FIELDS = rule(
    "self.method == 'Ingress' || !(has(self.burstMultiplier) || has(self.connections))",
    "burstMultiplier and connections belong to method Ingress: leave them out",
)


class RateLimitParams(Model):
    """How many requests in which time, and what is to enforce it."""

    model_config = ConfigDict(
        json_schema_extra={
            "x-kubernetes-validations": [_WITHIN_BOUNDS, _UNITS, _NGINX_UNITS, _ENVOY_FIELDS, _NGINX_FIELDS]
        }
    )

    method: Method = Field(
        description="EnvoyFilter: Istio's proxies in front of the pods of a Deployment, StatefulSet, DaemonSet or "
        "Service, each counting by itself. BackendTrafficPolicy: Envoy Gateway, for an HTTPRoute, each of its proxies "
        "counting by itself. Ingress: ingress-nginx, for an Ingress, for each client address.",
    )
    requests: int = Field(
        100,
        ge=1,
        le=1_000_000,
        description="How many requests. More are answered 429, by ingress-nginx 503 unless it is set up otherwise.",
    )
    per: Duration = Field(
        timedelta(minutes=1),
        ge=LEAST,
        le=MOST,
        description="In which time. A BackendTrafficPolicy takes 1s, 1m, 1h or 1d, an Ingress 1s or 1m.",
    )
    context: ProxyContext | None = Field(
        None,
        description="EnvoyFilter only. SIDECAR_INBOUND (taken when left out): the pods' sidecars, which they must "
        "have. GATEWAY: the target is an Istio gateway itself.",
    )
    port: int | None = Field(
        None,
        ge=1,
        le=65535,
        description="EnvoyFilter only. Limit this port alone: the one that the pods listen on, not the Service's.",
    )
    burst_multiplier: int | None = Field(
        None,
        ge=1,
        le=100,
        description="Ingress only. How many times the limit may come at once; ingress-nginx takes 5 when left out.",
    )
    connections: int | None = Field(
        None, ge=1, le=65535, description="Ingress only. Connections at once for each client address."
    )
