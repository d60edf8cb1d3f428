"""The load balancer `covet-alb` as game days have it: moto keeps its listener's rules, a real Envoy follows them.

    with Balancer(cloud, node, folder) as balancer, balancer.running("10.96.0.7:80") as url:
        ...                          # users come by the URL; who is in a rule's source-ip is answered as it says

What is played: that the Envoy does as moto's rules say, within half a second. As an Application Load Balancer does, it
adds the address of who connects to X-Forwarded-For. It runs in the node's network, beside covet and not before it in
the world: so "outside" is this machine, on the other end of the node's one cable. What rules can do beyond what
Paramedic asks for is not known here, and said to be so.
"""

from __future__ import annotations

import contextlib
import socket
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from ipaddress import IPv4Network, ip_network
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from gameday.cloud import REGION, Cloud
from gameday.envoy import TO_UPSTREAM, chain, command, write_listener
from gameday.load import Sample
from gameday.repeated import Repeated
from testbed.ports import Ports
from testbed.processes import wait_until
from testbed.realnode import RealNode

Json = dict[str, Any]

NAME = "covet-alb"
NEVER_BLOCK = "198.51.100.0/24"
"""Partners, as in manifests/README.md: what the connection's neverBlock has."""
POLL_SECONDS = 0.3
TURNED_AWAY = "HTTP 403"
MOST_UNHEARD = 0.1
_START_SECONDS = 30


class RuleError(RuntimeError):
    """A rule of the listener says what this load balancer does not know, so it cannot tell what AWS' would do."""


class Balancer:
    """One load balancer with one listener: AWS knows of it all the time, and it is there while it is `running`."""

    def __init__(self, cloud: Cloud, node: RealNode, folder: Path) -> None:
        self._elb = cloud.client("elbv2")
        self._ec2 = cloud.client("ec2")
        self._node = node
        self._folder = folder
        self._ports = Ports()
        self._followed: list[Json] = []
        self.listener_arn = ""
        self.outsider = ""
        """An address outside of its network, and of this machine: who binds to it comes from there."""

    def __enter__(self) -> Self:
        self._port = self._ports.reserve()
        self.outsider = self._node.add_outsider()
        vpc = self._ec2.create_vpc(CidrBlock=str(self._node.addresses.all))["Vpc"]["VpcId"]
        subnets = [self._subnet(vpc, number, zone) for number, zone in enumerate("ab")]
        made = self._elb.create_load_balancer(Name=NAME, Subnets=subnets, Type="application")["LoadBalancers"][0]
        answer = self._elb.create_listener(
            LoadBalancerArn=made["LoadBalancerArn"],
            Protocol="HTTP",
            Port=80,
            DefaultActions=[{"Type": "fixed-response", "FixedResponseConfig": {"StatusCode": "503"}}],
        )
        self.listener_arn = str(answer["Listeners"][0]["ListenerArn"])
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._ports.release()

    @contextmanager
    def running(self, upstream: str) -> Iterator[str]:
        """The URL; without rules. What no rule is for goes to `upstream` (HOST:PORT), by the default action."""
        for rule in self.rules():
            self._elb.delete_rule(RuleArn=rule["RuleArn"])
        self._followed = []
        where = (self._node.addresses.node, self._port)
        self._write([])
        with ExitStack() as stack:
            child = self._node.spawn("balancer", command(self._folder, upstream), self._folder / "envoy.log")
            stack.callback(child.stop, 1)
            wait_until(lambda: _listens(where), "the load balancer listens", _START_SECONDS, [child])
            stack.enter_context(Repeated("balancer", POLL_SECONDS, self._follow))
            yield f"http://{where[0]}:{where[1]}"

    def rules(self) -> list[Json]:
        """Those of the listener but for its default one, in the order of their priority."""
        found = self._elb.describe_rules(ListenerArn=self.listener_arn)["Rules"]
        return sorted((one for one in found if one["Priority"] != "default"), key=lambda one: int(one["Priority"]))

    def _subnet(self, vpc: str, number: int, zone: str) -> str:
        network = list(self._node.addresses.all.subnets(new_prefix=24))[number]
        made = self._ec2.create_subnet(VpcId=vpc, CidrBlock=str(network), AvailabilityZone=f"{REGION}{zone}")
        return str(made["Subnet"]["SubnetId"])

    def _follow(self) -> None:
        rules = self.rules()
        if rules != self._followed:
            self._write(rules)
            self._followed = rules

    def _write(self, rules: Sequence[Json]) -> None:
        write_listener(self._folder, self._node.addresses.node, self._port, chains(rules))


def chains(rules: Sequence[Json]) -> Json:
    """The filter chains of a listener with these rules, as DescribeRules tells them. Raises RuleError."""
    sources = [_sources(rule) for rule in rules]
    seen: list[IPv4Network] = []
    for network in [one for found in sources for one in found]:
        if any(network.overlaps(one) for one in seen):  # AWS asks by priority, and Envoy the narrowest first
            raise RuleError(f"two rules are for {network}, which is not known here")
        seen.append(network)
    blocking = [_blocked(found, rule["Actions"]) for found, rule in zip(sources, rules, strict=True)]
    return {"filter_chains": blocking, "default_filter_chain": _to_upstream()}


def not_blocked(rules: Sequence[Json], address: str) -> list[str]:
    """What is not as it should be, where one rule is to be for this address alone."""
    blocked = [one["Conditions"][0]["SourceIpConfig"]["Values"] for one in rules]
    return [] if blocked == [[f"{address}/32"]] else [f"the listener blocks {blocked}, where {address} was due"]


def not_kept_out(flood: Sequence[Sample], users: Sequence[Sample]) -> list[str]:
    """What is not as it should be in what a flood and users were answered, where the flood is to get 403."""
    answers = Counter(one.failure or "fine" for one in flood)
    unheard = answers["timeout"]  # this machine had no time for it: that says nothing, as long as it is seldom
    found = []
    if answers.keys() - {"timeout"} != {TURNED_AWAY} or unheard > MOST_UNHEARD * answers.total():
        found.append(f"the flood is answered {dict(answers) or 'nothing'}, where {TURNED_AWAY} was due")
    if turned_away := sum(one.failure == TURNED_AWAY for one in users):
        found.append(f"{turned_away} requests of users were answered {TURNED_AWAY}")
    return found


def _sources(rule: Json) -> list[IPv4Network]:
    """Of a rule that is for source addresses, and for nothing else."""
    conditions = rule["Conditions"]
    if [one["Field"] for one in conditions] != ["source-ip"]:
        raise RuleError(f"a rule is for {[one['Field'] for one in conditions]}, which is not known here")
    found = [ip_network(value) for value in conditions[0]["SourceIpConfig"]["Values"]]
    return [one for one in found if isinstance(one, IPv4Network)]  # nobody comes by IPv6 here


def _blocked(sources: Sequence[IPv4Network], actions: Sequence[Json]) -> Json:
    if [one["Type"] for one in actions] != ["fixed-response"]:
        raise RuleError(f"a rule does {[one['Type'] for one in actions]}, which is not known here")
    fixed = actions[0]["FixedResponseConfig"]
    body = {"inline_string": fixed.get("MessageBody", "")}
    route = {"match": {"prefix": "/"}, "direct_response": {"status": int(fixed["StatusCode"]), "body": body}}
    ranges = [{"address_prefix": str(one.network_address), "prefix_len": one.prefixlen} for one in sources]
    return {"filter_chain_match": {"source_prefix_ranges": ranges}, **chain(route)}


def _to_upstream() -> Json:
    """`use_remote_address`: who connects is added to X-Forwarded-For, whatever stands there already."""
    return chain(TO_UPSTREAM, use_remote_address=True)


def _listens(where: tuple[str, int]) -> bool:
    with contextlib.closing(socket.socket()) as probe:
        return probe.connect_ex(where) == 0
