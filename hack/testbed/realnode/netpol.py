"""NetworkPolicies as nftables rules. Pure: objects of the API server in, a ruleset as text out.

By the documentation of networking.k8s.io/v1 NetworkPolicy: a pod that a policy selects for a direction takes in that
direction what one of its policies lets through, and nothing else; other pods are as before. What a pod is answered is
always let through, and so is what the node asks of its pods (probes), to which the machine under it counts. IPv4 only.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

Json = dict[str, Any]

TABLE = "inet network-policies"
_PEERS = {"Ingress": ("ingress", "from", "saddr"), "Egress": ("egress", "to", "daddr")}
"""policyType → the field of its rules, the field of their peers, which address of a packet the peer has."""


@dataclass(frozen=True)
class World:
    """What selectors choose from."""

    pods: list[Json]
    namespaces: Mapping[str, Mapping[str, str]]
    """Name → labels."""


def ruleset(machine: str, policies: Iterable[Json], pods: Iterable[Json], namespaces: Iterable[Json]) -> str:
    """The whole table, for `nft -f -`; it takes the place of an earlier one in one go. `machine` is an address."""
    by_address = {_address(pod): pod for pod in pods if _address(pod)}
    world = World([*by_address.values()], {_name(one): _labels(one) for one in namespaces})
    given = list(policies)
    chains: list[str] = []
    jumps: dict[str, list[str]] = {"Ingress": [], "Egress": []}
    for pod in world.pods:
        for direction, pairs in jumps.items():
            applied = [one for one in given if _applies(one, pod, direction)]
            if applied:
                chain = f"{direction.lower()}-{_address(pod).replace('.', '-')}"
                pairs.append(f"{_address(pod)} : jump {chain}")
                chains.append(_chain(chain, [rule for one in applied for rule in _rules(one, pod, direction, world)]))
    return _table(machine, chains, jumps)


def _table(machine: str, chains: list[str], jumps: dict[str, list[str]]) -> str:
    leaving = _jump("saddr", jumps["Egress"])
    entering = _jump("daddr", jumps["Ingress"])
    always = ["ct state established,related accept", f"ip saddr {machine} accept"]
    hooks = [
        _chain("forward", [_hook("forward"), *always, *leaving, *entering], end=""),
        _chain("input", [_hook("input"), *always, *leaving], end=""),
    ]
    body = "\n".join([*chains, *hooks])
    return f"table {TABLE} {{}}\ndelete table {TABLE}\ntable {TABLE} {{\n{body}\n}}\n"


def _hook(name: str) -> str:
    return f"type filter hook {name} priority filter; policy accept;"


def _jump(address: str, pairs: list[str]) -> list[str]:
    return [f"ip {address} vmap {{ {', '.join(pairs)} }}"] if pairs else []


def _chain(name: str, rules: list[str], end: str = "drop") -> str:
    lines = "".join(f"    {rule}\n" for rule in [*rules, end] if rule)
    return f"  chain {name} {{\n{lines}  }}"


def _applies(policy: Json, pod: Json, direction: str) -> bool:
    spec = policy["spec"]
    kinds = spec.get("policyTypes") or ["Ingress", *(["Egress"] if "egress" in spec else [])]
    same = _namespace(policy) == _namespace(pod)
    return direction in kinds and same and selects(spec.get("podSelector") or {}, _labels(pod))


def _rules(policy: Json, pod: Json, direction: str, world: World) -> Iterable[str]:
    """One line for each pair of peers and ports that is let through; "return" goes on to the other direction."""
    field, peers_field, address = _PEERS[direction]
    for rule in policy["spec"].get(field) or []:
        for peer in rule.get(peers_field) or [None]:
            named_by = [pod] if direction == "Ingress" else world.pods
            for peers in _peers(peer, address, _namespace(policy), world):
                for ports in _ports(rule.get("ports"), named_by):
                    yield " ".join(part for part in (peers, ports, "return") if part)


def _peers(peer: Json | None, address: str, home: str, world: World) -> list[str]:
    """What a packet's `address` must be: [""] when any will do, [] when none will."""
    if peer is None:
        return [""]
    if block := peer.get("ipBlock"):
        outside = f" ip {address} != {{ {', '.join(block['except'])} }}" if block.get("except") else ""
        return [f"ip {address} {block['cidr']}{outside}"]
    found = [_address(pod) for pod in world.pods if _is_peer(peer, pod, home, world)]
    return [f"ip {address} {{ {', '.join(found)} }}"] if found else []


def _is_peer(peer: Json, pod: Json, home: str, world: World) -> bool:
    if "namespaceSelector" in peer:
        there = selects(peer["namespaceSelector"] or {}, world.namespaces.get(_namespace(pod), {}))
    else:
        there = _namespace(pod) == home
    return there and selects(peer.get("podSelector") or {}, _labels(pod))


def _ports(ports: list[Json] | None, named_by: list[Json]) -> list[str]:
    """[""] when any port will do."""
    return [_port(one, named_by) for one in ports] if ports else [""]


def _port(port: Json, named_by: list[Json]) -> str:
    protocol = port.get("protocol", "TCP").lower()
    number = port.get("port")
    if number is None:
        return f"meta l4proto {protocol}"
    if isinstance(number, str):
        named = sorted({str(one["containerPort"]) for pod in named_by for one in _ports_named(number, pod)})
        return f"{protocol} dport {{ {', '.join(named or ['0'])} }}"  # no packet has port 0
    return f"{protocol} dport {number}-{port['endPort']}" if "endPort" in port else f"{protocol} dport {number}"


def _ports_named(name: str, pod: Json) -> list[Json]:
    containers = pod["spec"]["containers"]
    return [one for container in containers for one in container.get("ports", []) if one.get("name") == name]


def selects(selector: Json, labels: Mapping[str, str]) -> bool:
    """A LabelSelector; an empty one selects everything."""
    equal = all(labels.get(key) == value for key, value in (selector.get("matchLabels") or {}).items())
    return equal and all(_holds(one, labels) for one in selector.get("matchExpressions") or [])


def _holds(expression: Json, labels: Mapping[str, str]) -> bool:
    value = labels.get(expression["key"])
    values = expression.get("values") or []
    operators: dict[str, Callable[[], bool]] = {
        "In": lambda: value in values,
        "NotIn": lambda: value not in values,
        "Exists": lambda: value is not None,
        "DoesNotExist": lambda: value is None,
    }
    return operators[expression["operator"]]()


def _address(pod: Json) -> str:
    """Its own IP; "" when it has none (not started, ended, or on the node's network)."""
    if pod["spec"].get("hostNetwork") or pod["status"].get("phase") in ("Succeeded", "Failed"):
        return ""
    return str(pod["status"].get("podIP", ""))


def _labels(one: Json) -> Mapping[str, str]:
    labels: Mapping[str, str] = one["metadata"].get("labels") or {}
    return labels


def _name(one: Json) -> str:
    return str(one["metadata"]["name"])


def _namespace(one: Json) -> str:
    return str(one["metadata"]["namespace"])
