"""NetworkPolicies: what one that blocks says, and which others let traffic through all the same.

Their rules add up: a policy can only allow, and pods that any policy selects are closed to the rest.
"""

from collections.abc import Iterator, Mapping
from typing import Any

Json = dict[str, Any]
_NAMESPACE_NAME = "kubernetes.io/metadata.name"
_DNS = {"ports": [{"protocol": "UDP", "port": 53}, {"protocol": "TCP", "port": 53}]}


def blocking_spec(selector: Json, allow: list[Json], *, outwards: bool, dns: bool) -> Json:
    """The spec of a policy that closes the selected pods but for ``allow`` (peer and ports as the API says them)."""
    spec: Json = {"podSelector": selector, "policyTypes": ["Ingress"]}
    if allow:
        spec["ingress"] = [_rule("from", one) for one in allow]
    if outwards:
        spec["policyTypes"] = ["Ingress", "Egress"]
        egress = [_rule("to", one) for one in allow] + ([_DNS] if dns else [])
        spec |= {"egress": egress} if egress else {}
    return spec


def peer(namespace: str | None, pod_labels: Mapping[str, str] | None, cidr: str | None) -> Json | None:
    """A NetworkPolicyPeer; None for everybody."""
    if cidr:
        return {"ipBlock": {"cidr": cidr}}
    found: Json = {}
    if namespace:
        found["namespaceSelector"] = {"matchLabels": {_NAMESPACE_NAME: namespace}}
    if pod_labels:
        found["podSelector"] = {"matchLabels": dict(pod_labels)}
    return found or None


def still_open(policies: list[Json], labels: Mapping[str, str], *, outwards: bool) -> Iterator[str]:
    """Names of policies that allow something to (or from) pods of which these labels are known."""
    for policy in policies:
        spec = policy["spec"]
        rules = [*(spec.get("ingress") or []), *((spec.get("egress") or []) if outwards else [])]
        if rules and _may_select(spec.get("podSelector") or {}, labels):
            yield str(policy["metadata"]["name"])


def _rule(side: str, one: Json) -> Json:
    return ({side: [one["peer"]]} if one["peer"] else {}) | ({"ports": one["ports"]} if one["ports"] else {})


def _may_select(selector: Json, labels: Mapping[str, str]) -> bool:
    """Whether it selects such pods, as far as is known: of other labels and of expressions it is assumed."""
    wanted = selector.get("matchLabels") or {}
    return all(labels.get(key, value) == value for key, value in wanted.items())
