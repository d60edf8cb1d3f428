"""Blocking by a NetworkPolicy: an object of its own, made by one operation and deleted as it was made.

It belongs to the target (ownerReferences): with that it goes.
"""

from paramedic.actions.base import Change, Create, Delete, Json, Observed, Outcome, State, annotation
from paramedic.actions.block_traffic.params import BlockTrafficParams, Exempt
from paramedic.actions.compound import ABSENT
from paramedic.api import ANNOTATION_INCIDENT, ANNOTATION_OPERATION, LABEL_MANAGED_BY
from paramedic.api.reasons import Reason
from paramedic.core.networkpolicies import blocking_spec, peer, still_open
from paramedic.errors import Refused

_AS_CREATED = "as created"
_KIND = "NetworkPolicy"
_OTHERS_TOLD = 5


def policies_path(namespace: str) -> str:
    """The API path of a namespace's NetworkPolicies."""
    return f"/apis/networking.k8s.io/v1/namespaces/{namespace}/networkpolicies"


def policy_name(observed: Observed) -> str:
    """One for each step of an incident."""
    return f"block-{observed.name[:200].rstrip('-.')}-{observed.mark}"


class Closing:
    """``related["policies"]`` holds all NetworkPolicies of the namespace."""

    def state(self, observed: Observed) -> State:
        """The policies that this incident has put on the target, and whether they are still as created."""
        return {_key(one): _state_of(one) for one in observed.related["policies"] if _is_made_here(one, observed)}

    def plan(self, observed: Observed, params: BlockTrafficParams, operation: str) -> Change:
        """The policy to create. Raises Refused for a Service without a selector, which would close the namespace."""
        name = policy_name(observed)
        outwards, labels = params.direction == "Both", _known_labels(observed)
        body = _policy(observed, name, params, operation)
        before, after = {f"{_KIND}/{name}": ABSENT}, {f"{_KIND}/{name}": _AS_CREATED}
        others = [one for one in observed.related["policies"] if one["metadata"]["name"] != name]
        message = _told(observed, name, params, list(still_open(others, labels, outwards=outwards)))
        create = Create(policies_path(observed.target["metadata"]["namespace"]), body)
        return Change(before, after, (create,), before, message)

    def restore(self, observed: Observed, before: State, operation: str) -> Change:
        """The policy's deletion; nothing to do when it is gone."""
        key = _recorded(before)
        found = _find(observed, key)
        if found is None:
            return Change({key: ABSENT}, {key: ABSENT}, (), None, f"{observed.name}: {key} is gone already")
        meta = found["metadata"]
        path = f"{policies_path(meta['namespace'])}/{meta['name']}"
        delete = Delete(path, meta["uid"], meta["resourceVersion"])
        message = f"{observed.name}: open again ({key} deleted)"
        return Change({key: _state_of(found)}, {key: ABSENT}, (delete,), None, message)

    def settled(self, observed: Observed, before: State, after: State, operation: str) -> Outcome:
        """Whether the policy of that name is there, and whose it is."""
        key = _recorded(after)
        found = _find(observed, key)
        if after[key] == ABSENT:
            if found is None:
                return Outcome.APPLIED
            return Outcome.NOT_APPLIED if _state_of(found) == before.get(key) else Outcome.UNKNOWN
        if found is None:
            return Outcome.NOT_APPLIED
        return Outcome.APPLIED if annotation(found, ANNOTATION_OPERATION) == operation else Outcome.UNKNOWN

    def require_unchanged(self, observed: Observed, after: State) -> None:
        """Raises Refused when the policy has been edited, or is not what was created."""
        key = _recorded(after)
        found = _find(observed, key)
        if found and not (_is_made_here(found, observed) and _state_of(found) == _AS_CREATED):
            text = f"{key} of {observed.kind}/{observed.name} was changed by others since: hands off"
            raise Refused(Reason.TARGET_CHANGED, text)


def _policy(observed: Observed, name: str, params: BlockTrafficParams, operation: str) -> Json:
    target = observed.target
    owner = {"apiVersion": target["apiVersion"], "kind": observed.kind, "name": observed.name, "uid": observed.uid}
    incident = {ANNOTATION_INCIDENT: observed.incident} if observed.incident else {}
    allow = [_exempt(one) for one in params.allow or []]
    spec = blocking_spec(_selector(observed), allow, outwards=params.direction == "Both", dns=params.dns is not False)
    metadata = {
        "name": name,
        "labels": {LABEL_MANAGED_BY: "paramedic"},
        "annotations": {ANNOTATION_OPERATION: operation} | incident,
        "ownerReferences": [owner],
    }
    return {"apiVersion": "networking.k8s.io/v1", "kind": _KIND, "metadata": metadata, "spec": spec}


def _selector(observed: Observed) -> Json:
    selector = observed.target["spec"].get("selector") or {}
    if observed.kind != "Service":
        return dict(selector)
    if not selector:
        raise Refused(
            Reason.INVALID_PARAMETERS,
            f"Service/{observed.name} has no selector, so that its pods are not known: give the step the workload as "
            "its target",
        )
    return {"matchLabels": dict(selector)}


def _known_labels(observed: Observed) -> dict[str, str]:
    """What is known of the pods' labels; a workload's pods have no others."""
    spec = observed.target["spec"]
    if observed.kind == "Service":
        return dict(spec.get("selector") or {})
    return dict((spec["template"].get("metadata") or {}).get("labels") or {})


def _exempt(one: Exempt) -> Json:
    ports = [{"protocol": port.protocol, "port": port.port} for port in one.ports or []]
    return {"peer": peer(one.namespace, one.pod_labels, one.cidr), "ports": ports}


def _told(observed: Observed, name: str, params: BlockTrafficParams, others: list[str]) -> str:
    what = "no traffic to and from its pods" if params.direction == "Both" else "no traffic to its pods"
    but = f" but {len(params.allow)} exceptions" if params.allow else ""
    told = f"{observed.name}: {what}{but} ({_KIND} {name}; needs a network plugin that enforces it)"
    if others:
        more = f" and {len(others) - _OTHERS_TOLD} more" if len(others) > _OTHERS_TOLD else ""
        told += f"; what {_KIND} {', '.join(others[:_OTHERS_TOLD])}{more} may allow stays allowed"
    pod = (observed.target["spec"].get("template") or {}).get("spec") or {}
    return told + ("; its pods use the node's network, which it does not govern" if pod.get("hostNetwork") else "")


def _is_made_here(policy: Json, observed: Observed) -> bool:
    """Whether it carries this incident's stamp and belongs to this target."""
    owners = policy["metadata"].get("ownerReferences") or []
    return (
        bool(annotation(policy, ANNOTATION_OPERATION))
        and annotation(policy, ANNOTATION_INCIDENT) == observed.incident
        and any(owner.get("uid") == observed.uid for owner in owners)
    )


def _state_of(policy: Json) -> str:
    """The API server counts every change of a spec, so that nothing of it need be compared or kept."""
    generation = policy["metadata"].get("generation")
    return _AS_CREATED if generation == 1 else f"edited (generation {generation})"


def _key(policy: Json) -> str:
    return f"{_KIND}/{policy['metadata']['name']}"


def _recorded(state: State) -> str:
    return next(key for key in state if key.startswith(f"{_KIND}/"))


def _find(observed: Observed, key: str) -> Json | None:
    return next((one for one in observed.related["policies"] if _key(one) == key), None)
