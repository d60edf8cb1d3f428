"""blockAddresses against moto's elbv2 and ec2, with the cluster's nodes read from a real API server."""

from __future__ import annotations

import copy
from dataclasses import replace
from typing import cast

import pytest

from aws.faults import (
    DONE_BUT_500,
    EXPIRED,
    LOSE_ANSWER,
    LOSE_REQUEST,
    THROTTLED,
    UNAVAILABLE,
    Fault,
    ec2_error,
    error,
    rewritten,
)
from aws.world import NAMESPACE, REGION, Cloud, Json
from builders import NOW
from paramedic.actions.base import Change, Clients, Observed, Outcome, may_put_back
from paramedic.actions.block_addresses import BlockAddresses, BlockAddressesParams
from paramedic.api.connection import ConnectionSettings
from paramedic.api.incident import AlertSource, StepStatus
from paramedic.api.reasons import Reason
from paramedic.api.workload import BoundTarget, bound
from paramedic.clients.connections import Connections
from paramedic.clients.kube import Kube
from paramedic.core.operation import new_operation
from paramedic.errors import ParamedicError, Refused, Retry, Terminal, Unreachable

ACTION = BlockAddresses()
TARGET: BoundTarget = bound("Connection", NAMESPACE, "covet-alb")
ATTACKERS = [f"203.0.113.{n}" for n in range(0, 24, 2)]  # 12 addresses, no two of which are neighbours: three rules


@pytest.fixture
def clients(cloud: Cloud, kube: Kube) -> Clients:
    cloud.create_listener()
    return cloud.clients(kube)


async def observe(clients: Clients, operation: str = "", **alert: dict[str, str]) -> Observed:
    seen = await ACTION.observe(TARGET, clients)
    return replace(seen, incident="ddos", operation=operation, alert=AlertSource(**alert) if alert else None)


async def plan(clients: Clients, operation: str, **params: object) -> Change:
    wanted = BlockAddressesParams.model_validate(params or {"addresses": ATTACKERS})
    return ACTION.plan(await observe(clients), wanted, operation)


async def settled(clients: Clients, change: Change, operation: str) -> Outcome:
    return ACTION.settled(await observe(clients), change.before, change.after, operation)


def step_of(change: Change) -> StepStatus:
    stored = {"name": "s", "action": ACTION.name, "before": change.before, "after": change.after}
    return StepStatus.model_validate(StepStatus.model_validate(stored).to_wire())


async def put_back(clients: Clients, change: Change, operation: str) -> Change:
    seen = await observe(clients, operation)
    may_put_back(ACTION, seen, step_of(change))
    back = ACTION.restore(seen, step_of(change).before or {}, new_operation(NOW))
    await ACTION.apply(back, clients)
    return back


async def test_planning_changes_nothing_and_gives_the_same_twice(clients: Clients, cloud: Cloud) -> None:
    operation = new_operation(NOW)
    seen = await observe(clients)
    copied = copy.deepcopy(seen)
    params = BlockAddressesParams.model_validate({"addresses": ATTACKERS})
    change = ACTION.plan(seen, params, operation)
    assert change == ACTION.plan(seen, params, operation)
    assert seen == copied
    assert ACTION.settled(seen, change.before, change.after, operation) is Outcome.NOT_APPLIED
    assert cloud.rules() == []


async def test_blocks_in_chunks_each_with_its_tags_and_takes_exactly_those_away(clients: Clients, cloud: Cloud) -> None:
    theirs = cloud.create_rule(2)
    operation = new_operation(NOW)
    change = await plan(clients, operation)
    await ACTION.apply(change, clients)
    ours = [rule for rule in cloud.rules() if rule["RuleArn"] != theirs]
    assert [int(rule["Priority"]) for rule in ours] == [1, 3, 4]
    assert sorted(a for rule in ours for a in rule["Conditions"][0]["SourceIpConfig"]["Values"]) == sorted(
        f"{address}/32" for address in ATTACKERS
    )
    assert max(len(rule["Conditions"][0]["SourceIpConfig"]["Values"]) for rule in ours) == 5
    for number, rule in enumerate(ours):
        assert rule["Tags"]["paramedic.dev/operation"] == operation
        assert rule["Tags"]["paramedic.dev/incident"] == f"{NAMESPACE}/ddos"
        assert rule["Tags"]["paramedic.dev/chunk"] == str(number)
        fixed = rule["Actions"][0]["FixedResponseConfig"]
        assert fixed == {"StatusCode": "403", "ContentType": "text/plain", "MessageBody": "Blocked"}
    assert await settled(clients, change, operation) is Outcome.APPLIED

    await put_back(clients, change, operation)
    assert [rule["RuleArn"] for rule in cloud.rules()] == [theirs]


async def test_applying_twice_makes_no_second_rule(clients: Clients, cloud: Cloud) -> None:
    change = await plan(clients, new_operation(NOW))
    await ACTION.apply(change, clients)
    before = cloud.rules()
    await ACTION.apply(change, clients)
    assert cloud.rules() == before


@pytest.mark.parametrize(
    "fault",
    [
        pytest.param(LOSE_ANSWER, id="done, and the answer is lost"),
        pytest.param(DONE_BUT_500, id="done, and answered 500"),
        pytest.param(LOSE_REQUEST, id="the request is lost"),
        pytest.param(THROTTLED, id="throttled"),
        pytest.param(UNAVAILABLE, id="503"),
    ],
)
@pytest.mark.parametrize("nth", [1, 2, 3])
async def test_the_sdk_repeats_and_each_rule_is_made_once(
    clients: Clients, cloud: Cloud, fault: Fault, nth: int
) -> None:
    rule = cloud.faults.on("CreateRule", fault, nth=nth)
    change = await plan(clients, operation := new_operation(NOW))
    await ACTION.apply(change, clients)
    assert rule.struck == 1
    assert sorted(r["Tags"]["paramedic.dev/chunk"] for r in cloud.rules()) == ["0", "1", "2"]
    assert await settled(clients, change, operation) is Outcome.APPLIED


@pytest.mark.parametrize("done", [0, 1, 2, 3])
async def test_after_a_crash_what_lacks_is_made_and_nothing_twice(clients: Clients, cloud: Cloud, done: int) -> None:
    """The process dies at the (done + 1)th rule: what AWS has done by then is found by its tags."""
    cloud.faults.on("CreateRule", error("AccessDenied", "dead", 403), nth=done + 1, times=100)
    cloud.faults.on("DeleteRule", LOSE_REQUEST, times=100)
    change = await plan(clients, operation := new_operation(NOW))
    if done < 3:
        with pytest.raises(ParamedicError):
            await ACTION.apply(change, clients)
    else:
        await ACTION.apply(change, clients)
    assert len(cloud.rules()) == done
    cloud.faults.forget()

    again = await plan(clients, operation)
    assert again.after == change.after
    expected = Outcome.APPLIED if done == 3 else Outcome.NOT_APPLIED
    assert await settled(clients, change, operation) is expected
    await ACTION.apply(again, clients)
    assert cloud.faults.count("CreateRule") == 3 - done
    assert sorted(r["Tags"]["paramedic.dev/chunk"] for r in cloud.rules()) == ["0", "1", "2"]
    await put_back(clients, change, operation)
    assert cloud.rules() == []


async def test_a_refusal_midway_leaves_nothing_behind(clients: Clients, cloud: Cloud) -> None:
    cloud.faults.on("CreateRule", error("TooManyRules", "the limit is reached"), nth=2)
    with pytest.raises(Terminal, match="TooManyRules"):
        await ACTION.apply(await plan(clients, new_operation(NOW)), clients)
    assert cloud.rules() == []


async def test_a_priority_that_others_take_meanwhile_is_not_fought_over(clients: Clients, cloud: Cloud) -> None:
    cloud.faults.on("CreateRule", Fault(hook=lambda: cloud.create_rule(1) and None))
    await ACTION.apply(await plan(clients, new_operation(NOW), addresses=["203.0.113.7"]), clients)
    assert [rule["Priority"] for rule in cloud.rules()] == ["1", "2"]
    assert cloud.blocked()[1] == ["203.0.113.7/32"]


async def test_undo_leaves_a_rule_that_others_have_changed_and_says_so(clients: Clients, cloud: Cloud) -> None:
    operation = new_operation(NOW)
    change = await plan(clients, operation)
    await ACTION.apply(change, clients)
    edited = cloud.rules()[1]
    cloud.client("elbv2").modify_rule(
        RuleArn=edited["RuleArn"],
        Conditions=[{"Field": "source-ip", "SourceIpConfig": {"Values": ["192.0.2.1/32"]}}],
    )
    assert await settled(clients, change, operation) is Outcome.UNKNOWN
    back = await put_back(clients, change, operation)
    assert cloud.blocked() == [["192.0.2.1/32"]]
    assert "others have changed the rules with priority 2, which stay" in back.message
    assert ACTION.settled(await observe(clients, operation), back.before, back.after, "x") is Outcome.APPLIED


async def test_undo_whose_answer_is_lost_is_looked_at_and_ended(clients: Clients, cloud: Cloud) -> None:
    change = await plan(clients, operation := new_operation(NOW))
    await ACTION.apply(change, clients)
    cloud.faults.on("DeleteRule", LOSE_ANSWER, nth=2, times=100)
    seen = await observe(clients, operation)
    back = ACTION.restore(seen, change.before, undo := new_operation(NOW))
    with pytest.raises(Unreachable):
        await ACTION.apply(back, clients)
    cloud.faults.forget()
    assert ACTION.settled(await observe(clients, operation), back.before, back.after, undo) is Outcome.NOT_APPLIED
    await ACTION.apply(ACTION.restore(await observe(clients, operation), change.before, undo), clients)
    assert cloud.rules() == []
    assert ACTION.settled(await observe(clients, operation), back.before, back.after, undo) is Outcome.APPLIED


async def test_two_incidents_hold_their_own_rules(clients: Clients, cloud: Cloud) -> None:
    one, other = new_operation(NOW), new_operation(NOW)
    first = await plan(clients, one, addresses=["203.0.113.7"])
    second = await plan(clients, other, addresses=["203.0.113.7", "203.0.113.9"])
    await ACTION.apply(first, clients)
    await ACTION.apply(second, clients)
    await put_back(clients, first, one)
    assert cloud.blocked() == [["203.0.113.7/32", "203.0.113.9/32"]]
    await put_back(clients, second, other)
    assert cloud.rules() == []


async def test_says_when_other_rules_are_asked_first(clients: Clients, cloud: Cloud) -> None:
    cloud.create_rule(1)
    cloud.create_rule(2)
    change = await plan(clients, new_operation(NOW), addresses=["203.0.113.7"])
    assert change.message == "covet-alb: 203.0.113.7/32 answered 403, behind 2 other rules, which are asked first"


EVERY_PATH: Json = {"Field": "path-pattern", "PathPatternConfig": {"Values": ["/api/*", "/*"]}}
EVERY_HOST: Json = {"Field": "host-header", "HostHeaderConfig": {"Values": ["*"]}}
SOME_PATHS: Json = {"Field": "path-pattern", "PathPatternConfig": {"Values": ["/api/*"]}}


@pytest.mark.parametrize("condition", [EVERY_PATH, EVERY_HOST])
@pytest.mark.parametrize("priority", [1, 3])
async def test_behind_a_rule_for_every_request_nothing_is_blocked(
    clients: Clients, cloud: Cloud, condition: Json, priority: int
) -> None:
    cloud.create_rule(priority, condition)
    with pytest.raises(Refused, match=f"with priority {priority} .* matches every request") as refusal:
        await plan(clients, new_operation(NOW))
    assert refusal.value.reason is Reason.INVALID_PARAMETERS


async def test_in_front_of_it_and_behind_others_all_is_blocked(clients: Clients, cloud: Cloud) -> None:
    cloud.create_rule(2, SOME_PATHS)
    cloud.create_rule(5, EVERY_PATH)
    await ACTION.apply(await plan(clients, new_operation(NOW)), clients)
    assert [rule["Priority"] for rule in cloud.rules()] == ["1", "2", "3", "4", "5"]


@pytest.mark.parametrize("tag", ["elbv2.k8s.aws/cluster", "ingress.k8s.aws/stack", "gateway.k8s.aws.alb/stack"])
async def test_where_a_controller_takes_other_rules_away_none_is_made(clients: Clients, cloud: Cloud, tag: str) -> None:
    cloud.create_rule(7, SOME_PATHS, **{tag: "covet"})
    with pytest.raises(Refused, match=f"tag {tag} on the rule with priority 7.*wafv2-acl-arn"):
        await plan(clients, new_operation(NOW), addresses=["203.0.113.7"])


# -- what is never blocked ---------------------------------------------------------------------------------------------


async def test_addresses_of_an_alert_are_taken_and_those_protected_left_out(clients: Clients, cloud: Cloud) -> None:
    params = BlockAddressesParams.model_validate({"addressesFromLabel": "sources", "neverBlock": ["198.51.100.0/24"]})
    labels = {"sources": "203.0.113.7, 203.0.113.200 198.51.100.1,2001:db8::1,192.0.2.0/25,192.0.2.128/25"}
    change = ACTION.plan(await observe(clients, labels=labels), params, new_operation(NOW))
    await ACTION.apply(change, clients)
    assert cloud.blocked() == [["192.0.2.0/24", "2001:db8::1/128", "203.0.113.7/32"]]
    assert change.after["leftOut"] == [
        "203.0.113.200/32 is in the connection's neverBlock",
        "198.51.100.1/32 is in neverBlock",
    ]
    assert "left out: 203.0.113.200/32 is in the connection's neverBlock" in change.message


HOSTILE: list[tuple[str, Reason, str]] = [
    ("0.0.0.0/0", Reason.ADDRESS_PROTECTED, "too large"),
    ("203.0.113.7 ::/0", Reason.ADDRESS_PROTECTED, "too large"),
    ("128.0.0.0/1", Reason.ADDRESS_PROTECTED, "too large"),
    ("2001:db8::/31", Reason.ADDRESS_PROTECTED, "too large"),
    ("127.0.0.1", Reason.ADDRESS_PROTECTED, "loopback"),
    ("169.254.169.254", Reason.ADDRESS_PROTECTED, "link-local"),
    ("224.0.0.1", Reason.ADDRESS_PROTECTED, "multicast"),
    ("10.20.0.1", Reason.ADDRESS_PROTECTED, "private"),
    ("::ffff:10.20.0.1", Reason.ADDRESS_PROTECTED, "write it as IPv4"),
    ("fe80::1%eth0", Reason.INVALID_PARAMETERS, "is no address"),
    ("203.0.113.7; rm -rf /", Reason.INVALID_PARAMETERS, "'rm'"),
    ("203.0.113.7\u202e", Reason.INVALID_PARAMETERS, "\\u202e"),
    ("٢٠٣.0.113.7", Reason.INVALID_PARAMETERS, "is no address"),
    ("203.0.113.7/24", Reason.INVALID_PARAMETERS, "write 203.0.113.0/24"),
    ("0313.0.113.7", Reason.INVALID_PARAMETERS, "neither an IP address nor a CIDR"),
    ("3405803783", Reason.INVALID_PARAMETERS, "neither"),
    ("", Reason.INVALID_PARAMETERS, "empty"),
    (" ".join(f"203.0.113.{n}" for n in range(101)), Reason.INVALID_PARAMETERS, "101 addresses are more than 100"),
    ("203.0.113.7," * 1000, Reason.INVALID_PARAMETERS, "longer than"),
]


async def test_one_bad_word_in_an_alert_and_nothing_is_blocked(clients: Clients, cloud: Cloud) -> None:
    params = BlockAddressesParams.model_validate({"addressesFromAnnotation": "sources"})
    seen = await observe(clients, annotations={"sources": "-"})
    for text, reason, told in HOSTILE:
        hostile = replace(seen, alert=AlertSource(annotations={"sources": text}))
        with pytest.raises(Refused) as refusal:
            ACTION.plan(hostile, params, new_operation(NOW))
        assert (refusal.value.reason, told in str(refusal.value)) == (reason, True), (text, str(refusal.value))
        assert str(refusal.value).isascii(), "what is shown of it cannot deceive"
    with pytest.raises(Refused, match="no annotation sources"):
        ACTION.plan(replace(seen, alert=AlertSource()), params, new_operation(NOW))


async def test_addresses_of_an_incident_pass_the_same_checks(clients: Clients) -> None:
    """The API server has refused most of it already; an Incident may be older than a rule of its schema."""
    params = BlockAddressesParams.model_validate({"addressesFromIncident": True})
    seen = await observe(clients)
    for text, reason, told in HOSTILE:
        with pytest.raises(Refused) as refusal:
            ACTION.plan(replace(seen, source_addresses=(text,)), params, new_operation(NOW))
        assert (refusal.value.reason, told in str(refusal.value)) == (reason, True), (text, str(refusal.value))
        assert str(refusal.value).isascii(), "what is shown of it cannot deceive"
    many = tuple(f"203.0.113.{n}" for n in range(101))
    with pytest.raises(Refused, match="101 addresses are more than 100"):
        ACTION.plan(replace(seen, source_addresses=many), params, new_operation(NOW))


BY_ALERT: Json = {"addressesFromLabel": "sources"}
BY_INCIDENT: Json = {"addressesFromIncident": True}
LITERAL: Json = {"addresses": ["203.0.113.1"]}
ALERT = AlertSource(labels={"sources": "203.0.113.3"})
NAMED = ("203.0.113.5", "2001:db8::5")
WHO: list[tuple[Json, AlertSource | None, tuple[str, ...], str]] = [
    (BY_INCIDENT, None, NAMED, "2001:db8::5/128 203.0.113.5/32"),
    (BY_INCIDENT, None, ("203.0.113.5", "203.0.113.5/32"), "203.0.113.5/32"),
    (LITERAL | BY_INCIDENT, None, NAMED, "2001:db8::5/128 203.0.113.1/32 203.0.113.5/32"),
    (LITERAL | BY_INCIDENT, None, (), "203.0.113.1/32"),
    (BY_ALERT | BY_INCIDENT, None, NAMED, "2001:db8::5/128 203.0.113.5/32"),
    (BY_ALERT | BY_INCIDENT, ALERT, (), "203.0.113.3/32"),
    (BY_ALERT | BY_INCIDENT, ALERT, ("203.0.113.5",), "203.0.113.3/32 203.0.113.5/32"),
    (LITERAL, None, NAMED, "203.0.113.1/32"),
    (BY_ALERT, ALERT, NAMED, "203.0.113.3/32"),
]
NOBODY: list[tuple[Json, AlertSource | None, tuple[str, ...], str]] = [
    (BY_INCIDENT, None, (), "the incident names no spec.sourceAddresses"),
    (BY_INCIDENT, ALERT, (), "the incident names no spec.sourceAddresses"),
    (BY_ALERT | BY_INCIDENT, AlertSource(), (), "no label sources"),
    (BY_ALERT, None, NAMED, "no label sources"),
]


async def test_the_policy_says_whose_addresses_count(clients: Clients) -> None:
    seen = await observe(clients)
    for params, alert, named, expected in WHO:
        told = replace(seen, alert=alert, source_addresses=named)
        change = ACTION.plan(told, BlockAddressesParams.model_validate(params), new_operation(NOW))
        assert change.after == {"rules": {"0": expected}}, (params, alert, named)


async def test_where_nobody_names_addresses_it_is_said_who_might_have(clients: Clients) -> None:
    seen = await observe(clients)
    for params, alert, named, told in NOBODY:
        nobody = replace(seen, alert=alert, source_addresses=named)
        with pytest.raises(Refused, match=told) as refusal:
            ACTION.plan(nobody, BlockAddressesParams.model_validate(params), new_operation(NOW))
        assert refusal.value.reason is Reason.INVALID_PARAMETERS


async def test_the_vpc_and_the_nodes_are_never_blocked(clients: Clients, cloud: Cloud, kube: Kube) -> None:
    node: Json = {
        "apiVersion": "v1",
        "kind": "Node",
        "metadata": {"name": "edge-1"},
        "spec": {"podCIDRs": ["198.18.7.0/24"]},
    }
    created = await kube.create("/api/v1/nodes", node)
    addresses = [{"type": "ExternalIP", "address": "192.0.2.44"}, {"type": "Hostname", "address": "edge-1"}]
    await kube.merge_patch("/api/v1/nodes/edge-1/status", {"status": {"addresses": addresses}})
    try:
        for address, told in {
            "10.20.1.77": "in the load balancer's VPC",
            "10.0.0.0/8": "in the load balancer's VPC",
            "192.0.2.44": "node edge-1",
            "198.18.0.0/16": "the cluster's pods",
            "203.0.113.130": "in the connection's neverBlock",
        }.items():
            params: Json = {"addresses": [address], "allowPrivate": True, "shortestPrefixIPv4": 8}
            with pytest.raises(Refused, match=told) as refusal:
                await plan(clients, new_operation(NOW), **params)
            assert refusal.value.reason is Reason.ADDRESS_PROTECTED
    finally:
        found = await kube.get("/api/v1/nodes/edge-1")
        await kube.delete("/api/v1/nodes/edge-1", created["metadata"]["uid"], found["metadata"]["resourceVersion"])


async def test_the_nat_gateways_of_the_vpc_are_never_blocked(clients: Clients, cloud: Cloud) -> None:
    """Pods come from there when they ask for their own service by its public name."""
    cloud.create_nat_gateway()
    public = rewritten(r"<publicIp>[0-9.]+</publicIp>", "<publicIp>192.0.2.90</publicIp>")  # moto's are of loopback
    cloud.faults.on("DescribeNatGateways", public)
    with pytest.raises(Refused, match=r"192\.0\.2\.90/32 is the NAT gateway nat-\w+") as refusal:
        await plan(clients, new_operation(NOW), addresses=["192.0.2.90"])
    assert refusal.value.reason is Reason.ADDRESS_PROTECTED


async def test_without_the_right_on_nat_gateways_somebody_must_have_told(
    clients: Clients, cloud: Cloud, kube: Kube
) -> None:
    denied = ec2_error("UnauthorizedOperation", "You are not authorized", 403)
    cloud.faults.on("DescribeNatGateways", denied, times=99)
    assert not (await plan(clients, new_operation(NOW))).is_empty, "the connection's neverBlock tells"
    access = {"region": REGION, "endpointURL": cloud.faults.url, "listenerARN": cloud.listener}
    entry = {"name": "covet-alb", "namespaces": [NAMESPACE], "loadBalancer": access}
    connections = Connections([ConnectionSettings.model_validate(entry)], kube)
    told = "lacks ec2:DescribeNatGateways .*: allow ec2:DescribeNatGateways, or say by neverBlock"
    with pytest.raises(Refused, match=told) as refusal:
        await plan(replace(clients, connections=connections), new_operation(NOW))
    assert refusal.value.reason is Reason.FORBIDDEN


# -- AWS refuses -------------------------------------------------------------------------------------------------------


async def test_a_missing_right_names_the_action_of_iam(clients: Clients, cloud: Cloud) -> None:
    operation = new_operation(NOW)
    done = await plan(clients, operation, addresses=["203.0.113.7"])
    await ACTION.apply(done, clients)
    cloud.faults.on("DescribeVpcs", ec2_error("UnauthorizedOperation", "You are not authorized", 403), times=9)
    with pytest.raises(Refused, match="lacks ec2:DescribeVpcs") as refusal:
        await plan(clients, new_operation(NOW), addresses=["203.0.113.9"])
    assert refusal.value.reason is Reason.FORBIDDEN
    await put_back(clients, done, operation)
    assert cloud.rules() == [], "what was done before can be undone all the same"


async def test_without_rights_on_nodes_somebody_must_have_told_what_is_never_blocked(cloud: Cloud) -> None:
    class NoNodes:
        async def list(self, path: str) -> list[Json]:
            raise Refused(Reason.FORBIDDEN, f"may not list {path}")

    cloud.create_listener()
    told = cloud.clients(cast("Kube", NoNodes()))
    assert not (await plan(told, new_operation(NOW))).is_empty
    access = {"region": REGION, "endpointURL": cloud.faults.url, "listenerARN": cloud.listener}
    entry = {"name": "covet-alb", "namespaces": [NAMESPACE], "loadBalancer": access}
    connections = Connections([ConnectionSettings.model_validate(entry)], cast("Kube", None))
    with pytest.raises(Refused, match="the cluster's own addresses are not known"):
        await plan(replace(told, connections=connections), new_operation(NOW))


async def test_an_expired_credential_is_said_and_nothing_secret_with_it(clients: Clients, cloud: Cloud) -> None:
    change = await plan(clients, new_operation(NOW))
    cloud.faults.on("CreateRule", EXPIRED, times=100)
    with pytest.raises(Unreachable, match="ExpiredToken") as told:
        await ACTION.apply(change, clients)
    assert not told.value.uncertain
    assert "wJalrXUtnFEMI" not in repr(told.value)
    assert "AKIAIOSFODNN7EXAMPLE" not in repr(told.value)
    assert cloud.rules() == []


async def test_a_listener_that_is_gone_is_not_found(clients: Clients, cloud: Cloud) -> None:
    cloud.client("elbv2").delete_listener(ListenerArn=cloud.listener)
    with pytest.raises((ParamedicError), match=r"ListenerNotFound|not found|NotFound") as told:
        await ACTION.observe(TARGET, clients)
    assert not isinstance(told.value, Retry)


WRONG: list[tuple[Json, str]] = [
    ({}, "one of addresses"),
    ({"addressesFromIncident": False}, "one of addresses"),
    ({"addresses": ["1.2.3.4/33"]}, "neither an IP address nor a CIDR"),
    ({"addresses": ["0.0.0.0/0"]}, "too large"),
    ({"addresses": ["1.0.0.0/8"]}, "too large"),
    ({"addresses": ["0.0.0.0/0"], "shortestPrefixIPv4": 8}, "too large"),
    ({"addresses": ["1.2.3.4"], "shortestPrefixIPv4": 0}, "greater than or equal to 8"),
    ({"addresses": ["192.168.1.1"]}, "private"),
    ({"addresses": ["127.0.0.1"], "allowPrivate": True}, "loopback"),
    ({"addresses": ["1.2.3.4"], "statusCode": 200}, "greater than or equal to 400"),
    ({"addresses": ["1.2.3.4"], "neverBlock": ["example.com"]}, "match pattern"),
]


@pytest.mark.parametrize(("params", "told"), WRONG, ids=lambda value: str(value)[:40])
def test_wrong_parameters_are_found_when_the_policy_is_read(params: Json, told: str) -> None:
    with pytest.raises(ValueError, match=told):
        BlockAddressesParams.model_validate(params)
