"""A limit that is an object of its own beside the target: made by one operation, and deleted as it was made."""

from typing import TYPE_CHECKING

from paramedic.actions.base import Change, Create, Delete, Json, Observed, Outcome, State, annotation, read_target
from paramedic.actions.compound import ABSENT
from paramedic.actions.rate_limit.manifests import LimitApi, describe_limit, limit_name, limit_object
from paramedic.actions.rate_limit.params import RateLimitParams
from paramedic.api import ANNOTATION_INCIDENT, ANNOTATION_OPERATION
from paramedic.api.reasons import Reason
from paramedic.api.workload import BoundTarget
from paramedic.errors import NotFound, Refused

if TYPE_CHECKING:
    from paramedic.clients.kube import Kube

_AS_CREATED = "as created"
_ENVOY_GATEWAY = "gateway.envoyproxy.io/"


class SeparateLimit:
    """Limits by an EnvoyFilter or a BackendTrafficPolicy. ``related["limits"]`` holds all of the namespace; it is
    missing where the API is not installed.
    """

    def __init__(self, api: LimitApi) -> None:
        self._api = api

    async def observe(self, target: BoundTarget, kube: "Kube") -> Observed:
        """Reads the target and the limits beside it. Raises NotFound, Refused, Retry, Terminal."""
        found = await _read(target, kube)
        try:
            return Observed(found, {"limits": await kube.list(self._api.path(target.namespace))})
        except NotFound:
            return Observed(found)

    def state(self, observed: Observed) -> State:
        """The limits that this incident has put on the target, and whether they are still as created."""
        limits = observed.related.get("limits", [])
        return {self._key(o["metadata"]["name"]): _state_of(o, observed) for o in limits if _is_made_for(o, observed)}

    def plan(self, observed: Observed, params: RateLimitParams, operation: str) -> Change:
        """The object to create. Raises Refused where the API is missing, or another limit is in the way."""
        self._require_api(observed)
        _require_envoy_gateway(observed)
        name = limit_name(observed)
        self._require_no_other(observed, name)
        body = limit_object(self._api, observed, params, operation)
        message = f"{observed.name}: {describe_limit(params)}, counted {self._api.counted} ({self._api.kind} {name})"
        before, after = {self._key(name): ABSENT}, {self._key(name): _AS_CREATED}
        return Change(before, after, (Create(self._path(observed), body),), before, message)

    def restore(self, observed: Observed, before: State, operation: str) -> Change:
        """The object's deletion; nothing to do when it is gone."""
        key = self._recorded(before)
        found, after = self._find(observed, key), {key: ABSENT}
        if found is None:
            return Change(after, after, (), None, f"{observed.name}: {key} is gone already")
        meta = found["metadata"]
        delete = Delete(f"{self._path(observed)}/{meta['name']}", meta["uid"], meta["resourceVersion"])
        message = f"{observed.name}: limit removed ({key})"
        return Change({key: _state_of(found, observed)}, after, (delete,), None, message)

    def require_unchanged(self, observed: Observed, before: State, after: State) -> None:
        """Raises Refused unless the object is as created, or gone."""
        key = self._recorded(after)
        found = self._find(observed, key)
        if found is not None and _state_of(found, observed) != after[key]:
            raise Refused(
                Reason.TARGET_CHANGED,
                f"the limit on {observed.kind}/{observed.name} was changed by others since ({key} is "
                f"{_state_of(found, observed)} instead of {after[key]}): hands off",
            )

    def settled(self, observed: Observed, before: State, after: State, operation: str) -> Outcome:
        """Whether the object of that name is there, and whose it is."""
        key = self._recorded(after)
        found = self._find(observed, key)
        if after[key] == ABSENT:
            if found is None:
                return Outcome.APPLIED
            return Outcome.NOT_APPLIED if _state_of(found, observed) == before.get(key) else Outcome.UNKNOWN
        if found is None:
            return Outcome.NOT_APPLIED
        return Outcome.APPLIED if annotation(found, ANNOTATION_OPERATION) == operation else Outcome.UNKNOWN

    def _require_api(self, observed: Observed) -> None:
        if "limits" not in observed.related:
            raise Refused(
                Reason.API_NOT_INSTALLED,
                f"the cluster has no {self._api.definition}, so {self._api.product} is not installed: use "
                f"{self._api.instead}",
            )

    def _require_no_other(self, observed: Observed, name: str) -> None:
        """Of the policies of a route Envoy Gateway heeds only the oldest."""
        others = (o for o in observed.related["limits"] if o["metadata"]["name"] != name)
        for other in (o for o in others if _refers_to(o, observed)):
            incident = annotation(other, ANNOTATION_INCIDENT)
            whose = f" (of incident {incident})" if incident else ""
            raise Refused(
                Reason.ALREADY_LIMITED,
                f"{self._api.kind} {other['metadata']['name']}{whose} is for {observed.kind}/{observed.name} already, "
                "and a second would not be heeded: put the limit there, or take that one away",
            )

    def _key(self, name: str) -> str:
        return f"{self._api.kind}/{name}"

    def _path(self, observed: Observed) -> str:
        return self._api.path(observed.target["metadata"]["namespace"])

    def _recorded(self, state: State) -> str:
        return next(key for key in state if key.startswith(f"{self._api.kind}/"))

    def _find(self, observed: Observed, key: str) -> Json | None:
        return next((o for o in observed.related.get("limits", []) if self._key(o["metadata"]["name"]) == key), None)


async def _read(target: BoundTarget, kube: "Kube") -> Json:
    """The target; tells one that is missing from one whose API is."""
    try:
        return await read_target(target, kube)
    except NotFound:
        try:
            await kube.get(f"/apis/{target.api_version}" if "/" in target.api_version else f"/api/{target.api_version}")
        except NotFound as error:
            raise Refused(
                Reason.API_NOT_INSTALLED,
                f"the cluster has no {target.api_version}, so there is no {target.kind}: the Gateway API is not "
                "installed; use method EnvoyFilter on a workload in an Istio mesh, or method Ingress",
            ) from error
        raise


def _is_made_for(limit: Json, observed: Observed) -> bool:
    """Whether this incident has made the limit for this target."""
    stamped = annotation(limit, ANNOTATION_OPERATION) and annotation(limit, ANNOTATION_INCIDENT) == observed.incident
    owners = limit["metadata"].get("ownerReferences") or []
    return bool(stamped) and any(owner.get("uid") == observed.uid for owner in owners)


def _state_of(limit: Json, observed: Observed) -> str:
    """The API server counts every change of a spec, so that nothing of it need be compared or kept."""
    if not _is_made_for(limit, observed):
        return "not marked as Paramedic's"
    generation = limit["metadata"].get("generation")
    return _AS_CREATED if generation == 1 else f"edited (generation {generation})"


def _refers_to(limit: Json, observed: Observed) -> bool:
    """Whether a BackendTrafficPolicy is for the whole of this route; those for one rule of it do not conflict."""
    if observed.kind != "HTTPRoute":
        return False
    spec = limit.get("spec") or {}
    refs = [ref for ref in [spec.get("targetRef"), *(spec.get("targetRefs") or [])] if ref]
    named = any(
        ref.get("kind") == observed.kind and ref.get("name") == observed.name and not ref.get("sectionName")
        for ref in refs
    )
    return named or any(_selects(selector, observed) for selector in spec.get("targetSelectors") or [])


def _selects(selector: Json, observed: Observed) -> bool:
    """Of selectors by expressions it is assumed that they do: better to ask a person than to be ignored."""
    labels = observed.target["metadata"].get("labels") or {}
    wanted = selector.get("matchLabels") or {}
    return selector.get("kind") == observed.kind and all(labels.get(k) == v for k, v in wanted.items())


def _require_envoy_gateway(observed: Observed) -> None:
    """Other products' Gateways do not look at a BackendTrafficPolicy."""
    parents = (observed.target.get("status") or {}).get("parents") or []
    serving = sorted({str(parent.get("controllerName", "")) for parent in parents})
    if observed.kind == "HTTPRoute" and serving and not any(one.startswith(_ENVOY_GATEWAY) for one in serving):
        raise Refused(
            Reason.INVALID_PARAMETERS,
            f"HTTPRoute/{observed.name} is served by {', '.join(serving)[:200]} and not by Envoy Gateway, so a "
            "BackendTrafficPolicy would change nothing",
        )
