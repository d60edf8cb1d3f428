"""A listener of an Application Load Balancer: its rules, and the networks that its load balancer itself is in.

Rules that Paramedic makes are known by their tags. The addresses stand in a tag too, so that it can be told whether the
rule is still as it was made.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from ipaddress import ip_network
from typing import Any

from paramedic.api import ANNOTATION_INCIDENT, ANNOTATION_OPERATION
from paramedic.api.connection import LoadBalancer
from paramedic.clients.aws import Aws, AwsFault
from paramedic.errors import NotFound, Retry

Json = dict[str, Any]
MOST_VALUES = 5
"""Values that a rule's conditions may have in all (Quotas for your Application Load Balancers; not adjustable)."""
_TAG_CHUNK = "paramedic.dev/chunk"
_TAG_ADDRESSES = "paramedic.dev/addresses"
_TAGS_AT_ONCE = 20
# kubernetes-sigs.github.io/aws-load-balancer-controller, "Resource tags": of an Ingress' and of a Gateway's rules.
_TAGS_OF_CONTROLLER = ("elbv2.k8s.aws/cluster", "ingress.k8s.aws/", "gateway.k8s.aws")
_CONFIGS = {"path-pattern": "PathPatternConfig", "host-header": "HostHeaderConfig"}
_ANYTHING = ("*", "/*")
_LAST_PRIORITY = 50_000
_TRIES = 10


@dataclass(frozen=True, slots=True)
class Rule:
    """One rule. ``operation`` and ``chunk`` are empty for a rule that Paramedic has not made; ``intact`` tells whether
    one of Paramedic's is as it was made; ``matches_all`` that no request comes to the rules behind it. ``controller``
    is the tag by which the AWS Load Balancer Controller knows a rule as its own.
    """

    arn: str
    priority: int
    addresses: tuple[str, ...] = ()
    operation: str = ""
    chunk: str = ""
    intact: bool = False
    matches_all: bool = False
    controller: str = ""


@dataclass(frozen=True, slots=True)
class Block:
    """A rule to be made: these source addresses get a fixed answer."""

    operation: str
    chunk: str
    addresses: tuple[str, ...]
    incident: str
    status_code: int


class Listener:
    """Reads and writes rules. Its methods raise NotFound, AwsFault, Refused, Terminal, Unreachable."""

    def __init__(self, aws: Aws) -> None:
        assert isinstance(aws.access, LoadBalancer)
        self.arn = aws.access.listener_arn
        self._aws = aws

    async def networks(self) -> list[tuple[str, str]]:
        """CIDRs of the load balancer's VPC and subnets, where its health checks come from, each with what it is."""
        balancer = await self._balancer()
        vpcs = await self._aws.read("ec2", "describe_vpcs", VpcIds=[balancer["VpcId"]])
        zones = [zone["SubnetId"] for zone in balancer.get("AvailabilityZones", []) if zone.get("SubnetId")]
        subnets = await self._aws.read("ec2", "describe_subnets", SubnetIds=zones) if zones else {"Subnets": []}
        return [
            *((cidr, "in the load balancer's VPC") for vpc in vpcs["Vpcs"] for cidr in _cidrs(vpc)),
            *((cidr, "in the load balancer's subnets") for subnet in subnets["Subnets"] for cidr in _cidrs(subnet)),
        ]

    async def gateways(self) -> list[tuple[str, str]]:
        """Public addresses of the NAT gateways in the load balancer's VPC: what runs there comes from them when it asks
        for its own public name.
        """
        where = [{"Name": "vpc-id", "Values": [(await self._balancer())["VpcId"]]}]
        found = await self._aws.items("ec2", "describe_nat_gateways", "NatGateways", Filter=where)
        return [
            (address["PublicIp"], f"the NAT gateway {gateway['NatGatewayId']}")
            for gateway in found
            for address in gateway.get("NatGatewayAddresses") or []
            if address.get("PublicIp")
        ]

    async def rules(self) -> list[Rule]:
        """All rules but the default one, in the order in which they are asked."""
        found = await self._aws.items("elbv2", "describe_rules", "Rules", ListenerArn=self.arn)
        numbered = [rule for rule in found if rule["Priority"] != "default"]
        tags = await self._tags([rule["RuleArn"] for rule in numbered])
        return sorted((_rule(raw, tags.get(raw["RuleArn"], {})) for raw in numbered), key=lambda rule: rule.priority)

    async def put(self, block: Block) -> None:
        """Makes the rule at the lowest priority that is free, unless it is there. The API takes no client token: that
        two rules cannot have one priority is what keeps a repeated request from making two.
        """
        for _ in range(_TRIES):
            rules = await self.rules()
            if any((rule.operation, rule.chunk) == (block.operation, block.chunk) for rule in rules):
                return
            try:
                await self._create(block, lowest_free(rule.priority for rule in rules))
            except AwsFault as fault:
                if fault.code != "PriorityInUse":
                    raise
            else:
                return
        raise Retry(f"{self._aws.name}: others take the free priorities of the listener all the time")

    async def take_away(self, operation: str) -> None:
        """Deletes the operation's rules that are as they were made."""
        for rule in await self.rules():
            if rule.operation == operation and rule.intact:
                await self.delete(rule.arn)

    async def delete(self, arn: str) -> None:
        """One that is gone already is no error."""
        try:
            await self._aws.write("elbv2", "delete_rule", idempotent=True, RuleArn=arn)
        except NotFound:
            return

    async def _balancer(self) -> Json:
        listeners = await self._aws.read("elbv2", "describe_listeners", ListenerArns=[self.arn])
        arns = [listeners["Listeners"][0]["LoadBalancerArn"]]
        found: Json = await self._aws.read("elbv2", "describe_load_balancers", LoadBalancerArns=arns)
        balancer: Json = found["LoadBalancers"][0]
        return balancer

    async def _create(self, block: Block, priority: int) -> None:
        answer = {"StatusCode": str(block.status_code), "ContentType": "text/plain", "MessageBody": "Blocked"}
        await self._aws.write(
            "elbv2",
            "create_rule",
            idempotent=True,
            ListenerArn=self.arn,
            Priority=priority,
            Conditions=[{"Field": "source-ip", "SourceIpConfig": {"Values": list(block.addresses)}}],
            Actions=[{"Type": "fixed-response", "FixedResponseConfig": answer}],
            Tags=[{"Key": key, "Value": value} for key, value in _block_tags(block).items()],
        )

    async def _tags(self, arns: Sequence[str]) -> dict[str, dict[str, str]]:
        found: dict[str, dict[str, str]] = {}
        for at in range(0, len(arns), _TAGS_AT_ONCE):
            some = await self._aws.read("elbv2", "describe_tags", ResourceArns=list(arns[at : at + _TAGS_AT_ONCE]))
            for one in some["TagDescriptions"]:
                found[one["ResourceArn"]] = {tag["Key"]: tag["Value"] for tag in one["Tags"]}
        return found


def lowest_free(taken: Iterable[int]) -> int:
    """The lowest priority that no rule has. Raises Retry when all are taken."""
    used = set(taken)
    free = next((number for number in range(1, _LAST_PRIORITY + 1) if number not in used), None)
    if free is None:
        raise Retry("no priority of the listener is free")
    return free


def _rule(raw: Json, tags: dict[str, str]) -> Rule:
    sources = [c["SourceIpConfig"]["Values"] for c in raw["Conditions"] if c.get("Field") == "source-ip"]
    addresses = tuple(sorted(_normal(value) for values in sources for value in values))
    alone = len(raw["Conditions"]) == 1 and len(sources) == 1
    fixed = [action["Type"] for action in raw["Actions"]] == ["fixed-response"]
    return Rule(
        arn=raw["RuleArn"],
        priority=int(raw["Priority"]),
        addresses=addresses,
        operation=tags.get(ANNOTATION_OPERATION, ""),
        chunk=tags.get(_TAG_CHUNK, ""),
        intact=alone and fixed and tags.get(_TAG_ADDRESSES, "") == " ".join(addresses),
        matches_all=all(_matches_all(condition) for condition in raw["Conditions"]),
        controller=next((name for name in sorted(tags) if name.startswith(_TAGS_OF_CONTROLLER)), ""),
    )


def _matches_all(condition: Json) -> bool:
    """Of a path or a host, which a request always has."""
    field = condition.get("Field", "")
    config = condition.get(_CONFIGS.get(field, ""), {})
    values = {*(condition.get("Values") or []), *(config.get("Values") or [])}
    return field in _CONFIGS and not values.isdisjoint(_ANYTHING)


def _normal(cidr: str) -> str:
    """In the one way of writing that ``ipaddress`` has, as an IPv6 address has several."""
    try:
        return str(ip_network(cidr))
    except ValueError:
        return cidr


def _block_tags(block: Block) -> dict[str, str]:
    return {
        ANNOTATION_OPERATION: block.operation,
        ANNOTATION_INCIDENT: block.incident,
        _TAG_CHUNK: block.chunk,
        _TAG_ADDRESSES: " ".join(sorted(block.addresses)),
    }


def _cidrs(network: Json) -> Iterable[str]:
    """IPv4 and IPv6 CIDRs of a VPC or a subnet."""
    yield from filter(None, [network.get("CidrBlock")])
    for block in network.get("CidrBlockAssociationSet") or []:
        yield block["CidrBlock"]
    for block in network.get("Ipv6CidrBlockAssociationSet") or []:
        yield block["Ipv6CidrBlock"]
