"""``blockAddresses``: answers chosen source addresses with 403 at the load balancer (runbook 4, "DDoS Attack").

A listener has room for few rules and each rule for few addresses; so one step makes several rules, each stamped by its
tags with the operation and a number. Each may be there or not after a crash: what lacks is made, nothing is made twice.
"""

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Annotated

from pydantic import AfterValidator, ConfigDict, Field, model_validator

from paramedic.actions.base import Action, Change, Clients, Observed, Outcome, Report, State
from paramedic.actions.outside import CONNECTION, as_target, connections_of
from paramedic.api.addresses import MOST_ADDRESSES, SHORTEST_PREFIX_IPV4, SHORTEST_PREFIX_IPV6
from paramedic.api.base import Model, rule
from paramedic.api.connection import LoadBalancer
from paramedic.api.policy import LabelName
from paramedic.api.reasons import Reason
from paramedic.api.workload import BoundTarget
from paramedic.clients.listener import MOST_VALUES, Block, Listener, Rule
from paramedic.core.addresses import (
    Bounds,
    Network,
    Protected,
    check,
    first_overlap,
    in_chunks,
    is_address,
    merged,
    parse_list,
    parse_network,
)
from paramedic.errors import Refused, Terminal

if TYPE_CHECKING:
    from paramedic.clients.kube import Kube

_NONE = "none"
_SHOWN_ADDRESSES = 10
_NODE_ADDRESSES = ("InternalIP", "ExternalIP")
_CIDR_PATTERN = r"^[0-9a-fA-F.:]{2,45}(/[0-9]{1,3})?$"
_SOURCE = rule(
    "(has(self.addresses) && size(self.addresses) > 0) || has(self.addressesFromLabel) || "
    "has(self.addressesFromAnnotation) || (has(self.addressesFromIncident) && self.addressesFromIncident)",
    "blockAddresses needs addresses, addressesFromLabel, addressesFromAnnotation or addressesFromIncident: as it "
    "stands nothing is blocked",
)


def _cidr(value: str) -> str:
    return str(parse_network(value))


Cidr = Annotated[str, Field(pattern=_CIDR_PATTERN, max_length=49), AfterValidator(_cidr)]


class BlockAddressesParams(Model):
    """Whom to keep out."""

    model_config = ConfigDict(json_schema_extra={"x-kubernetes-validations": [_SOURCE]})

    addresses: list[Cidr] = Field(
        default_factory=list, max_length=MOST_ADDRESSES, description="Addresses or CIDRs, for example 203.0.113.0/24."
    )
    addresses_from_label: LabelName | None = Field(
        None, description="Alert label with addresses or CIDRs, separated by commas or blanks; 100 at most."
    )
    addresses_from_annotation: LabelName | None = Field(None, description="The same, of an annotation of the alert.")
    addresses_from_incident: bool = Field(
        False,
        description="Also spec.sourceAddresses of the Incident; where a person has opened it, those instead of the "
        "alert's. Who may open an Incident for this policy then chooses whom it keeps out.",
    )
    never_block: list[Cidr] = Field(
        default_factory=list,
        max_length=MOST_ADDRESSES,
        description="Never these: partners, offices, monitoring. The load balancer's own networks, the cluster's (with "
        "the NAT gateways of its VPC) and the connection's neverBlock are never blocked either.",
    )
    status_code: int = Field(403, ge=400, le=599, description="What they are answered.")
    shortest_prefix_ipv4: int = Field(
        16, ge=SHORTEST_PREFIX_IPV4, le=32, alias="shortestPrefixIPv4", description="No larger networks."
    )
    shortest_prefix_ipv6: int = Field(
        32, ge=SHORTEST_PREFIX_IPV6, le=128, alias="shortestPrefixIPv6", description="No larger networks."
    )
    allow_private: bool = Field(
        False, description="Also private addresses, for an internal load balancer; its own VPC is never blocked."
    )

    @model_validator(mode="after")
    def _has_source(self) -> "BlockAddressesParams":
        from_outside = self.addresses_from_label or self.addresses_from_annotation or self.addresses_from_incident
        if not (self.addresses or from_outside):
            raise ValueError(
                "one of addresses, addressesFromLabel, addressesFromAnnotation and addressesFromIncident is needed"
            )
        for address in self.addresses:
            against = check(parse_network(address), self.bounds)
            if against:
                raise ValueError(against)
        return self

    @property
    def bounds(self) -> Bounds:
        """What may be blocked at all."""
        return Bounds(self.shortest_prefix_ipv4, self.shortest_prefix_ipv6, self.allow_private)


@dataclass(frozen=True, slots=True)
class _Seen:
    """The listener's rules, and what is never blocked; ``unknown`` is why that cannot be told."""

    rules: tuple[Rule, ...]
    protected: tuple[Protected, ...] = ()
    unknown: Refused | None = None


@dataclass(frozen=True, slots=True)
class _Work:
    """Rules to make, or an operation whose rules are taken away."""

    namespace: str
    connection: str
    blocks: tuple[Block, ...] = ()
    take_away: str = ""


class BlockAddresses(Action):
    """What it governs are the rules of one operation: ``{"rules": {"0": "203.0.113.7/32"}}``, or ``"none"``."""

    name = "blockAddresses"
    summary = "Source addresses, of the policy, the alert or the Incident, answered 403 by the load balancer (AWS ALB)."
    params = BlockAddressesParams
    kinds = CONNECTION
    connection_types = ("loadBalancer",)
    extra = "aws"

    async def observe(self, target: BoundTarget, clients: Clients) -> Observed:
        """Reads the listener's rules, and what must never be blocked. A right that lacks for the latter does not keep
        from undoing.
        """
        listener, never = await _listener(clients, target.namespace, target.name)
        seen = _Seen(tuple(await listener.rules()))
        try:
            own = [*await _gateways(listener, told=bool(never)), *await _nodes(clients.kube, told=bool(never))]
            known = [*await listener.networks(), *never, *own]
            seen = replace(seen, protected=tuple(Protected(parse_network(cidr), what) for cidr, what in known))
        except Refused as error:
            seen = replace(seen, unknown=error)
        return Observed(as_target(target, listener.arn), seen=seen)

    def state(self, observed: Observed) -> State:
        """What Paramedic blocks on this listener, by operation and number."""
        rules = [one for one in _rules(observed) if one.operation and one.intact]
        return {f"{one.operation}/{one.chunk}": " ".join(one.addresses) for one in rules}

    def plan(self, observed: Observed, params: BlockAddressesParams, operation: str) -> Change:
        """The rules that lack. Raises Refused when there is nothing that may be blocked, and when a rule there would
        not last or never be asked.
        """
        addresses, left_out = _chosen(observed, params)
        chunks = {str(n): " ".join(sorted(c)) for n, c in enumerate(in_chunks(addresses, MOST_VALUES))}
        present = _present(observed, operation)
        blocks = tuple(
            Block(operation, chunk, tuple(told.split()), _incident(observed), params.status_code)
            for chunk, told in chunks.items()
            if chunk not in present
        )
        if blocks:
            _require_no_controller(observed)
            _require_to_be_asked(observed, len(blocks))
        after: State = {"rules": chunks} | ({"leftOut": left_out} if left_out else {})
        work = _Work(_namespace(observed), observed.name, blocks) if blocks else None
        before: State = {"rules": _NONE}
        return Change(before, after, (), before, _message(observed, addresses, left_out, params), work=work)

    def restore(self, observed: Observed, before: State, operation: str) -> Change:
        """The operation's rules away, but for those that others have changed."""
        blocked = observed.operation
        changed = [one for one in _rules(observed) if one.operation == blocked and not one.intact]
        present = {chunk: told for chunk, told in _present(observed, blocked).items() if told}
        message = f"{observed.name}: {len(present)} rule{'s' * (len(present) != 1)} deleted"
        if changed:
            numbers = ", ".join(str(one.priority) for one in changed)
            message += f"; others have changed the rules with priority {numbers}, which stay: look at them"
        now: State = {"rules": present or _NONE}
        work = _Work(_namespace(observed), observed.name, take_away=blocked) if present else None
        return Change(now, before, (), None, message, work=work)

    async def apply(self, change: Change, clients: Clients) -> Report | None:
        """Makes what lacks, or takes away what is there. What AWS refuses midway leaves nothing behind."""
        if change.work is None:
            return None
        work: _Work = change.work
        listener, _ = await _listener(clients, work.namespace, work.connection)
        try:
            for block in work.blocks:
                await listener.put(block)
        except (Refused, Terminal):
            await listener.take_away(work.blocks[0].operation)
            raise
        if work.take_away:
            await listener.take_away(work.take_away)
        return None

    def require_unchanged(self, observed: Observed, before: State, after: State) -> None:
        """What others have changed is left alone rule by rule."""

    def settled(self, observed: Observed, before: State, after: State, operation: str) -> Outcome:
        """By the tags: all that was wanted is there, and nothing else of the operation; a rule that others have changed
        meanwhile is neither.
        """
        wanted = after["rules"]
        if wanted == _NONE:
            left = any(_present(observed, observed.operation).values())
            return Outcome.NOT_APPLIED if left else Outcome.APPLIED
        present = _present(observed, operation)
        if any(told != wanted.get(chunk) for chunk, told in present.items()):
            return Outcome.UNKNOWN
        return Outcome.APPLIED if present == wanted else Outcome.NOT_APPLIED


async def _listener(clients: Clients, namespace: str, name: str) -> tuple[Listener, list[tuple[str, str]]]:
    """The listener, and what is configured never to be blocked."""
    connections = connections_of(clients)
    aws = await connections.aws(namespace, name, "loadBalancer")
    assert isinstance(aws.access, LoadBalancer)
    own = [(str(network), "in the connection's neverBlock") for network in aws.access.never_block]
    return Listener(aws), [
        *own,
        *((str(network), "in the settings' neverBlock") for network in connections.never_block),
    ]


async def _gateways(listener: Listener, *, told: bool) -> list[tuple[str, str]]:
    """Addresses from which the cluster's pods come when they ask for something public. As ``_nodes``."""
    try:
        return await listener.gateways()
    except Refused as error:
        return _require_told(error, "allow ec2:DescribeNatGateways", told=told)


async def _nodes(kube: "Kube", *, told: bool) -> list[tuple[str, str]]:
    """Addresses of the cluster's nodes and their pods (those of Services are nobody's source). Where the nodes cannot
    be read, somebody must have told what is never to be blocked. Raises Refused.
    """
    try:
        nodes = await kube.list("/api/v1/nodes")
    except Refused as error:
        return _require_told(error, "add manifests/components/diagnose", told=told)
    found = [(cidr, "the cluster's pods") for node in nodes for cidr in node["spec"].get("podCIDRs") or []]
    for node in nodes:
        known = (node.get("status") or {}).get("addresses") or []
        mine = [one["address"] for one in known if one["type"] in _NODE_ADDRESSES and is_address(one["address"])]
        found += [(address, f"node {node['metadata']['name']}") for address in mine]
    return found


def _require_told(error: Refused, remedy: str, *, told: bool) -> list[tuple[str, str]]:
    """Nothing that is known beside what was told. Raises Refused where nobody has told anything."""
    if told:
        return []
    raise Refused(
        Reason.FORBIDDEN,
        f"{error}; so the cluster's own addresses are not known: {remedy}, or say by neverBlock of the connection what "
        "must not be blocked",
    ) from error


def _rules(observed: Observed) -> tuple[Rule, ...]:
    seen: _Seen = observed.seen
    return seen.rules


def _present(observed: Observed, operation: str) -> dict[str, str]:
    """The operation's rules by number; the empty string for one that others have changed."""
    rules = [one for one in _rules(observed) if one.operation == operation]
    return {one.chunk: " ".join(one.addresses) if one.intact else "" for one in rules}


def _chosen(observed: Observed, params: BlockAddressesParams) -> tuple[list[str], list[str]]:
    """What is blocked, and what is not though it was asked for, with the reason. Raises Refused, Terminal.

    The policy's own addresses are meant as they are written. What an alert or an Incident says is others' text: one
    word in it that is no address or too large a network, and nothing of it is done; what is protected is left out.
    """
    seen: _Seen = observed.seen
    if seen.unknown:
        raise seen.unknown
    protected = [*seen.protected, *(Protected(parse_network(cidr), "in neverBlock") for cidr in params.never_block)]
    told = [*_from_incident(observed, params), *_from_alert(observed, params)]
    asked = [*map(parse_network, params.addresses), *told]
    if not asked:
        raise Refused(
            Reason.INVALID_PARAMETERS,
            "the incident names no spec.sourceAddresses to block: create one with them "
            "(kubectl incident create --source-address)",
        )
    kept, left_out = [], []
    for network in dict.fromkeys(asked):
        found = first_overlap(network, protected)
        if found:
            left_out.append(f"{network} is {found.what}")
        else:
            kept.append(network)
    if not kept:
        raise Refused(Reason.ADDRESS_PROTECTED, f"nothing is left to block: {'; '.join(left_out)}"[:1000])
    return merged(kept, params.bounds), left_out


def _from_incident(observed: Observed, params: BlockAddressesParams) -> list[Network]:
    if not (params.addresses_from_incident and observed.source_addresses):
        return []
    return _parsed("spec.sourceAddresses of the incident", ",".join(observed.source_addresses), params.bounds)


def _from_alert(observed: Observed, params: BlockAddressesParams) -> list[Network]:
    """What the alert says; nothing where a person has opened the incident and may name the addresses themselves."""
    alert = observed.alert
    if alert is None and params.addresses_from_incident:
        return []
    sources = (
        ("label", params.addresses_from_label, alert.labels if alert else {}),
        ("annotation", params.addresses_from_annotation, alert.annotations if alert else {}),
    )
    found: list[Network] = []
    for kind, name, values in sources:
        if name is None:
            continue
        if name not in values:
            raise Refused(Reason.INVALID_PARAMETERS, f"the alert has no {kind} {name} to take addresses from")
        found += _parsed(f"{kind} {name} of the alert", values[name], params.bounds)
    return found


def _parsed(where: str, text: str, bounds: Bounds) -> list[Network]:
    try:
        networks = parse_list(text, MOST_ADDRESSES)
    except ValueError as error:
        raise Refused(Reason.INVALID_PARAMETERS, f"{where}: {error}") from error
    against = next(filter(None, (check(network, bounds) for network in networks)), None)
    if against:
        raise Refused(Reason.ADDRESS_PROTECTED, f"{where}: {against}")
    return networks


def _namespace(observed: Observed) -> str:
    return str(observed.target["metadata"]["namespace"])


def _incident(observed: Observed) -> str:
    return f"{_namespace(observed)}/{observed.incident}"


def _message(observed: Observed, addresses: list[str], left_out: list[str], params: BlockAddressesParams) -> str:
    shown = ", ".join(addresses[:_SHOWN_ADDRESSES])
    more = f" and {len(addresses) - _SHOWN_ADDRESSES} more" if len(addresses) > _SHOWN_ADDRESSES else ""
    said = f"{observed.name}: {shown}{more} answered {params.status_code}"
    first = _rules_in_front(observed)
    said += f", behind {first} other rules, which are asked first" if first else ""
    return f"{said}; left out: {'; '.join(left_out[:3])}" if left_out else said


def _require_no_controller(observed: Observed) -> None:
    """The AWS Load Balancer Controller deletes rules of its listeners that it does not know, at its next look
    (kubernetes-sigs/aws-load-balancer-controller, issue 3311), and numbers its own from 1.
    """
    kept = next((one for one in _rules(observed) if one.controller), None)
    if kept:
        raise Refused(
            Reason.INVALID_PARAMETERS,
            f"the listener of {observed.name} is kept by the AWS Load Balancer Controller (tag {kept.controller} on "
            f"the rule with priority {kept.priority}), which takes away rules that are not its own: block by AWS WAF "
            "(annotation alb.ingress.kubernetes.io/wafv2-acl-arn) or narrow alb.ingress.kubernetes.io/inbound-cidrs",
        )


def _require_to_be_asked(observed: Observed, wanted: int) -> None:
    """Raises Refused when so many rules have no room in front of one that matches every request."""
    every = next((one for one in _rules(observed) if one.matches_all), None)
    if every and every.priority - 1 - sum(one.priority < every.priority for one in _rules(observed)) < wanted:
        raise Refused(
            Reason.INVALID_PARAMETERS,
            f"the rule with priority {every.priority} of the listener of {observed.name} matches every request, so "
            f"that none would come to the {wanted} behind it: give it a higher number, with room for them in front",
        )


def _rules_in_front(observed: Observed) -> int:
    """How many rules of others have a lower priority number than the lowest that is free."""
    priorities = {one.priority: one for one in _rules(observed)}
    free = next(number for number in range(1, len(priorities) + 2) if number not in priorities)
    return sum(1 for number, one in priorities.items() if number < free and not one.operation)
