"""The rate limits as their vendors' resources, pure.

Istio: an EnvoyFilter that puts Envoy's local rate limit before the router of an HTTP connection manager
(istio.io/latest/docs/tasks/policy-enforcement/rate-limit). Envoy Gateway: a BackendTrafficPolicy
(gateway.envoyproxy.io/docs/tasks/traffic/local-rate-limit).
"""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from paramedic.actions.base import Json, Observed
from paramedic.actions.rate_limit.params import RateLimitParams
from paramedic.api import ANNOTATION_INCIDENT, ANNOTATION_OPERATION, FIELD_MANAGER, LABEL_MANAGED_BY
from paramedic.api.base import format_duration
from paramedic.api.reasons import Reason
from paramedic.errors import Refused

LIMITED_BY = "x-rate-limited-by"
"""Response header that tells whoever gets a 429 that it was not the service's own."""
_UNITS = {
    timedelta(seconds=1): "Second",
    timedelta(minutes=1): "Minute",
    timedelta(hours=1): "Hour",
    timedelta(days=1): "Day",
}
_INJECT = "sidecar.istio.io/inject"
_ALL = {"numerator": 100, "denominator": "HUNDRED"}


@dataclass(frozen=True, slots=True)
class LimitApi:
    """A kind of resource that limits what it refers to, and how to write its spec."""

    kind: str
    version: str
    plural: str
    product: str
    instead: str
    """What else can be used where the product is not installed."""
    counted: str
    spec: Callable[[Observed, RateLimitParams], Json]

    @property
    def definition(self) -> str:
        """Name of the CustomResourceDefinition."""
        return f"{self.plural}.{self.version.partition('/')[0]}"

    def path(self, namespace: str) -> str:
        """The API path of all such objects of a namespace."""
        return f"/apis/{self.version}/namespaces/{namespace}/{self.plural}"


def limit_object(api: LimitApi, observed: Observed, params: RateLimitParams, operation: str) -> Json:
    """The whole object. The target owns it, so that no limit outlives what it was made for."""
    target = observed.target
    owner = {key: target[key] for key in ("apiVersion", "kind")} | {"name": observed.name, "uid": observed.uid}
    incident = {ANNOTATION_INCIDENT: observed.incident} if observed.incident else {}
    metadata = {
        "name": limit_name(observed),
        "namespace": target["metadata"]["namespace"],
        "labels": {LABEL_MANAGED_BY: FIELD_MANAGER},
        "annotations": {ANNOTATION_OPERATION: operation} | incident,
        "ownerReferences": [owner],
    }
    return {"apiVersion": api.version, "kind": api.kind, "metadata": metadata, "spec": api.spec(observed, params)}


def limit_name(observed: Observed) -> str:
    """One for each step of an incident, of at most 63 characters."""
    return f"{observed.name[:40].rstrip('-.')}-limit-{observed.mark}"


def describe_limit(params: RateLimitParams) -> str:
    """``at most 100 requests per 1m``."""
    return f"at most {params.requests} requests per {format_duration(params.per)}"


def _envoy_filter(observed: Observed, params: RateLimitParams) -> Json:
    _require_proxies(observed, params)
    router = {
        "name": "envoy.filters.network.http_connection_manager",
        "subFilter": {"name": "envoy.filters.http.router"},
    }
    port = {"portNumber": params.port} if params.port else {}
    match = {"context": params.context or "SIDECAR_INBOUND", "listener": {"filterChain": {"filter": router}} | port}
    patch = {"operation": "INSERT_BEFORE", "value": _local_rate_limit(params)}
    return {
        "workloadSelector": {"labels": pod_labels(observed)},
        "configPatches": [{"applyTo": "HTTP_FILTER", "match": match, "patch": patch}],
    }


def _require_proxies(observed: Observed, params: RateLimitParams) -> None:
    """Pods that ask for no sidecar have no filters to change."""
    template = (observed.target["spec"].get("template") or {}).get("metadata") or {}
    marks = (template.get("annotations") or {}) | (template.get("labels") or {})
    if params.context != "GATEWAY" and marks.get(_INJECT) == "false":
        raise Refused(
            Reason.INVALID_PARAMETERS,
            f"the pods of {observed.kind}/{observed.name} have no sidecar ({_INJECT} is false), so an EnvoyFilter "
            "would change nothing: limit at the gateway's own workload (context GATEWAY), or by another method",
        )


def _local_rate_limit(params: RateLimitParams) -> Json:
    """Envoy's filter. By default it is neither enabled nor enforced: that is what the two fractions are for."""
    bucket = {"max_tokens": params.requests, "tokens_per_fill": params.requests, "fill_interval": _seconds(params.per)}
    header = {"header": {"key": LIMITED_BY, "value": "paramedic"}, "append_action": "OVERWRITE_IF_EXISTS_OR_ADD"}
    return {
        # A name of its own, so that a team's limits per route, which go by the usual name, stay what they are.
        "name": "paramedic.local_ratelimit",
        "typed_config": {
            "@type": "type.googleapis.com/envoy.extensions.filters.http.local_ratelimit.v3.LocalRateLimit",
            "stat_prefix": "paramedic_rate_limit",
            "status": {"code": "TooManyRequests"},
            "token_bucket": bucket,
            "filter_enabled": {"runtime_key": "paramedic_rate_limit_enabled", "default_value": _ALL},
            "filter_enforced": {"runtime_key": "paramedic_rate_limit_enforced", "default_value": _ALL},
            "response_headers_to_add": [header],
        },
    }


def _seconds(value: timedelta) -> str:
    """A duration as protobuf's JSON has it."""
    whole, rest = divmod(round(value.total_seconds() * 1000), 1000)
    return f"{whole}.{rest:03d}s" if rest else f"{whole}s"


def pod_labels(observed: Observed) -> dict[str, str]:
    """Labels that the target's pods have. Raises Refused when it selects none: a filter without labels would hold for
    all pods of the namespace.
    """
    spec = observed.target["spec"]
    selector: dict[str, Any] = spec.get("selector") or {}
    if observed.kind == "Service":
        labels = selector
    elif selector.get("matchExpressions"):
        labels = spec["template"]["metadata"].get("labels") or {}
    else:
        labels = selector.get("matchLabels") or {}
    if not labels:
        raise Refused(
            Reason.INVALID_PARAMETERS,
            f"{observed.kind}/{observed.name} selects no pods by labels, so a limit on it would hold for the whole "
            "namespace: name the workload itself as the step's target",
        )
    return dict(labels)


def _backend_traffic_policy(observed: Observed, params: RateLimitParams) -> Json:
    unit = _UNITS.get(params.per)
    if unit is None:
        raise Refused(
            Reason.INVALID_PARAMETERS,
            f"a BackendTrafficPolicy cannot count per {format_duration(params.per)}: write per as 1s, 1m, 1h or 1d",
        )
    return {
        "targetRefs": [{"group": "gateway.networking.k8s.io", "kind": "HTTPRoute", "name": observed.name}],
        # Without it the Gateway's own policy (its timeouts, its circuit breakers) would no longer hold for the route.
        "mergeType": "StrategicMerge",
        # Older versions insist on the type; newer ones still take it.
        "rateLimit": {"type": "Local", "local": {"rules": [{"limit": {"requests": params.requests, "unit": unit}}]}},
    }


ENVOY_FILTER = LimitApi(
    kind="EnvoyFilter",
    version="networking.istio.io/v1alpha3",
    plural="envoyfilters",
    product="Istio",
    instead="method BackendTrafficPolicy on an HTTPRoute of Envoy Gateway, or method Ingress on one of ingress-nginx",
    counted="by each pod",
    spec=_envoy_filter,
)
BACKEND_TRAFFIC_POLICY = LimitApi(
    kind="BackendTrafficPolicy",
    version="gateway.envoyproxy.io/v1alpha1",
    plural="backendtrafficpolicies",
    product="Envoy Gateway",
    instead="method EnvoyFilter on a workload in an Istio mesh, or method Ingress on an Ingress of ingress-nginx",
    counted="by each proxy of the Gateway",
    spec=_backend_traffic_policy,
)
