"""``rateLimit``: at most so many requests in a time (runbook 4, "DDoS Attack").

What limits follows from the kind of the target: Istio's proxies for a workload or a Service, Envoy Gateway for an
HTTPRoute, ingress-nginx for an Ingress.
"""

from typing import Any

from paramedic.actions.base import Action, Change, Clients, Json, Observed, Outcome, State
from paramedic.actions.rate_limit.ingress import IngressLimit
from paramedic.actions.rate_limit.manifests import BACKEND_TRAFFIC_POLICY, ENVOY_FILTER
from paramedic.actions.rate_limit.params import Method, RateLimitParams
from paramedic.actions.rate_limit.separate import SeparateLimit
from paramedic.api.reasons import Reason
from paramedic.api.workload import WORKLOADS, BoundTarget
from paramedic.errors import Refused

_KINDS: dict[Method, tuple[str, ...]] = {
    "EnvoyFilter": (*WORKLOADS, "Service"),
    "BackendTrafficPolicy": ("HTTPRoute",),
    "Ingress": ("Ingress",),
}
_METHODS: dict[str, Method] = {kind: method for method, kinds in _KINDS.items() for kind in kinds}
_WAYS: dict[Method, SeparateLimit | IngressLimit] = {
    "EnvoyFilter": SeparateLimit(ENVOY_FILTER),
    "BackendTrafficPolicy": SeparateLimit(BACKEND_TRAFFIC_POLICY),
    "Ingress": IngressLimit(),
}


class RateLimit(Action):
    """Creates an EnvoyFilter or a BackendTrafficPolicy, or annotates the Ingress."""

    name = "rateLimit"
    summary = (
        "Limits requests: by Istio (EnvoyFilter), Envoy Gateway (BackendTrafficPolicy) or ingress-nginx (Ingress)."
    )
    params = RateLimitParams
    kinds = tuple(_METHODS)
    beyond_target = True

    async def observe(self, target: BoundTarget, clients: Clients) -> Observed:
        """Reads the target and the limits that are there."""
        return await _WAYS[_METHODS[target.kind]].observe(target, clients.kube)

    def state(self, observed: Observed) -> State:
        """The limit that is in place."""
        return _way(observed).state(observed)

    def plan(self, observed: Observed, params: Any, operation: str) -> Change:
        """The limit to put in place. Raises Refused when the method is not for this kind, or what it needs is not
        there.
        """
        if params.method != _METHODS[observed.kind]:
            raise Refused(
                Reason.INVALID_PARAMETERS,
                f"method {params.method} is not for {observed.kind}/{observed.name}, but for "
                f"{' or '.join(_KINDS[params.method])}: write method {_METHODS[observed.kind]}, or give the step a "
                "target of its own",
            )
        return _way(observed).plan(observed, params, operation)

    def restore(self, observed: Observed, before: State, operation: str) -> Change:
        """Without the limit, as it was before."""
        return _way(observed).restore(observed, before, operation)

    def reaches_beyond(self, params: Json) -> bool:
        """An Ingress's limit is on the Ingress itself."""
        return params.get("method") != "Ingress"

    def require_unchanged(self, observed: Observed, before: State, after: State) -> None:
        """Raises Refused when others have changed the limit."""
        way = _way(observed)
        if isinstance(way, SeparateLimit):
            way.require_unchanged(observed, before, after)
        else:
            super().require_unchanged(observed, before, after)

    def settled(self, observed: Observed, before: State, after: State, operation: str) -> Outcome:
        """Whether the limit was put in place, or removed."""
        return _way(observed).settled(observed, before, after, operation)


def _way(observed: Observed) -> SeparateLimit | IngressLimit:
    return _WAYS[_METHODS[observed.kind]]
