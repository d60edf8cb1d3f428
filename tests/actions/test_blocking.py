"""What blockTraffic plans: pure tables."""

from __future__ import annotations

import copy
from typing import Any

import pytest
from pydantic import ValidationError

from builders import OPERATION, Json, stored, workload
from paramedic.actions import ACTIONS
from paramedic.actions.base import Change, Create, Delete, Observed, Outcome
from paramedic.actions.block_traffic.params import BlockTrafficParams
from paramedic.api import ANNOTATION_OPERATION
from paramedic.api.reasons import Reason
from paramedic.core.networkpolicies import still_open
from paramedic.errors import Refused

ACTION = ACTIONS["blockTraffic"]
AFTER = "019cbe40-1c00-7000-8000-000000000002"
NAME = "block-front-8a5edab282"  # of no incident and no step
KEY = f"NetworkPolicy/{NAME}"
PORTS = [{"port": 80, "protocol": "TCP"}, {"port": 53, "protocol": "UDP"}]


def service(method: str = "Service", **spec: Any) -> Observed:
    body = {"type": "LoadBalancer", "selector": {"app": "a"}, "ports": copy.deepcopy(PORTS)} | spec
    manifest = {"apiVersion": "v1", "kind": "Service", "metadata": {"name": "front"}}
    body = {key: value for key, value in body.items() if value is not None}
    return Observed(stored(manifest) | {"spec": body, "method": method})


def closed(*policies: Json, target: Json | None = None) -> Observed:
    """A target with the NetworkPolicies of its namespace."""
    found = target or {key: value for key, value in service().target.items() if key != "method"}
    return Observed(found, {"policies": list(policies)}, incident="breach")


def made(stamp: str = OPERATION, generation: int = 1, incident: str = "breach", uid: str = "uid-w") -> Json:
    """A NetworkPolicy as this incident's step has made it."""
    annotations = {ANNOTATION_OPERATION: stamp, "paramedic.dev/incident": incident}
    metadata = {"name": NAME, "namespace": "covet", "uid": "uid-n", "resourceVersion": "9", "generation": generation}
    owners = [{"uid": uid}]
    return {"metadata": metadata | {"annotations": annotations, "ownerReferences": owners}, "spec": {"podSelector": {}}}


def plan(seen: Observed, **params: Any) -> Change:
    return ACTION.plan(seen, BlockTrafficParams.model_validate(params), OPERATION)


def spec_of(change: Change) -> Json:
    (write,) = change.forward
    assert not isinstance(write, Delete)
    found: Json = write.body["spec"]
    return found


# -- the Service's type ------------------------------------------------------------------------------------------------


def test_all_that_goes_with_the_type_is_taken_away_and_remembered() -> None:
    given = {
        "loadBalancerSourceRanges": ["10.0.0.0/8"],
        "allocateLoadBalancerNodePorts": False,
        "externalIPs": ["1.2.3.4"],
    }
    ports = [PORTS[0] | {"nodePort": 30080}, PORTS[1] | {"nodePort": 30053}]
    seen = service(
        ports=ports, loadBalancerClass="c", healthCheckNodePort=31000, externalTrafficPolicy="Local", **given
    )
    change = plan(seen)
    assert spec_of(change) == {
        "type": "ClusterIP",
        "externalIPs": None,
        "loadBalancerClass": None,
        "loadBalancerIP": None,
        "loadBalancerSourceRanges": None,
        "externalTrafficPolicy": None,
        "healthCheckNodePort": None,
        "allocateLoadBalancerNodePorts": None,
    }
    assert change.before["nodePorts"] == {"80/TCP": 30080, "53/UDP": 30053}
    assert not [value for value in change.before.values() if value in (None, [], {})], "a status drops what is empty"
    back = spec_of(ACTION.restore(service(type="ClusterIP"), change.before, AFTER))
    assert back == given | {
        "type": "LoadBalancer",
        "loadBalancerClass": "c",
        "loadBalancerIP": None,
        "externalTrafficPolicy": "Local",
        "healthCheckNodePort": 31000,
        "ports": ports,
    }


def test_node_ports_come_back_on_the_ports_that_are_there_then() -> None:
    change = plan(service(type="NodePort", ports=[PORTS[0] | {"nodePort": 30080}, PORTS[1] | {"nodePort": 30053}]))
    theirs = [{"port": 80, "protocol": "TCP", "targetPort": 8080}, {"port": 9000, "protocol": "TCP"}]
    back = spec_of(ACTION.restore(service(type="ClusterIP", ports=theirs), change.before, AFTER))
    assert back["ports"] == [theirs[0] | {"nodePort": 30080}, theirs[1]]


@pytest.mark.parametrize(
    "spec",
    [{"type": "ClusterIP"}, {"type": "ClusterIP", "clusterIP": "None"}, {"type": "ClusterIP", "externalIPs": []}],
)
def test_what_is_not_reached_from_outside_is_left_alone(spec: Json) -> None:
    assert plan(service(**spec)).is_empty


def test_external_addresses_count_as_outside() -> None:
    change = plan(service(type="ClusterIP", externalIPs=["203.0.113.7"]))
    assert change.message.startswith("front: external IPs 203.0.113.7 removed (an Ingress")
    assert change.after["externalIPs"] == ""


def test_hands_off_unless_it_is_as_left_or_as_before() -> None:
    change = plan(service())
    ACTION.require_unchanged(service(type="ClusterIP"), change.before, change.after)
    ACTION.require_unchanged(service(), change.before, change.after)
    assert ACTION.restore(service(), change.before, AFTER).is_empty
    with pytest.raises(Refused) as refused:
        ACTION.require_unchanged(service(type="NodePort"), change.before, change.after)
    assert refused.value.reason is Reason.TARGET_CHANGED


# -- its selector ------------------------------------------------------------------------------------------------------


def test_the_selector_is_swapped_and_comes_back_with_its_keys() -> None:
    seen = service("Selector", selector={"app": "a", "tier": "web"})
    change = plan(seen, method="Selector")
    assert spec_of(change) == {"selector": {"tier": None, "app": "emergency-shutdown"}}
    assert change.before == {"selector": {"app": "a", "tier": "web"}}
    swapped = service("Selector", selector={"app": "emergency-shutdown"})
    assert spec_of(ACTION.restore(swapped, change.before, AFTER)) == {"selector": {"app": "a", "tier": "web"}}
    assert plan(swapped, method="Selector").is_empty
    stamped = service("Selector")
    stamped.target["metadata"]["annotations"] = {ANNOTATION_OPERATION: OPERATION}
    assert ACTION.settled(stamped, change.before, change.after, OPERATION) is Outcome.APPLIED
    assert ACTION.settled(seen, change.before, change.after, OPERATION) is Outcome.NOT_APPLIED
    assert ACTION.settled(service("Selector"), change.before, change.after, OPERATION) is Outcome.UNKNOWN


@pytest.mark.parametrize(
    ("seen", "params", "reason"),
    [
        (service(type="ExternalName", externalName="x"), {}, Reason.UNSUPPORTED_KIND),
        (service("Selector", type="ExternalName"), {"method": "Selector"}, Reason.UNSUPPORTED_KIND),
        (service("Selector", selector=None), {"method": "Selector"}, Reason.INVALID_PARAMETERS),
        (Observed(stored(workload()) | {"method": "Selector"}), {"method": "Selector"}, Reason.INVALID_PARAMETERS),
        (Observed(stored(workload()) | {"method": "Service"}), {}, Reason.INVALID_PARAMETERS),
    ],
)
def test_refusals(seen: Observed, params: Json, reason: Reason) -> None:
    with pytest.raises(Refused) as refused:
        plan(seen, **params)
    assert refused.value.reason is reason


# -- a NetworkPolicy ---------------------------------------------------------------------------------------------------


def closing(seen: Observed, **params: Any) -> Change:
    return plan(seen, method="NetworkPolicy", **params)


@pytest.mark.parametrize(
    ("params", "spec"),
    [
        ({}, {"policyTypes": ["Ingress"]}),
        ({"direction": "Both", "dns": False}, {"policyTypes": ["Ingress", "Egress"]}),
        (
            {"direction": "Both"},
            {
                "policyTypes": ["Ingress", "Egress"],
                "egress": [{"ports": [{"protocol": "UDP", "port": 53}, {"protocol": "TCP", "port": 53}]}],
            },
        ),
        (
            {"allow": [{"podLabels": {"app": "b"}}, {"ports": [{"port": 9090, "protocol": "SCTP"}]}]},
            {
                "policyTypes": ["Ingress"],
                "ingress": [
                    {"from": [{"podSelector": {"matchLabels": {"app": "b"}}}]},
                    {"ports": [{"protocol": "SCTP", "port": 9090}]},
                ],
            },
        ),
        (
            {"direction": "Both", "dns": False, "allow": [{"namespace": "ns", "podLabels": {"app": "b"}}]},
            {
                "policyTypes": ["Ingress", "Egress"],
                **{
                    side: [
                        {
                            way: [
                                {
                                    "namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "ns"}},
                                    "podSelector": {"matchLabels": {"app": "b"}},
                                }
                            ]
                        }
                    ]
                    for side, way in (("ingress", "from"), ("egress", "to"))
                },
            },
        ),
    ],
)
def test_the_policy_that_closes(params: Json, spec: Json) -> None:
    change = closing(closed(), **params)
    assert spec_of(change) == {"podSelector": {"matchLabels": {"app": "a"}}} | spec
    assert (change.before, change.after) == ({KEY: "absent"}, {KEY: "as created"})


def test_it_belongs_to_its_target() -> None:
    (write,) = closing(closed(target=stored(workload("StatefulSet")))).forward
    assert isinstance(write, Create)
    assert write.path == "/apis/networking.k8s.io/v1/namespaces/covet/networkpolicies"
    owner = {"apiVersion": "apps/v1", "kind": "StatefulSet", "name": "covet-app", "uid": "uid-w"}
    assert write.body["metadata"]["ownerReferences"] == [owner]
    assert write.body["spec"]["podSelector"] == {"matchLabels": {"app": "covet-app"}}


def test_a_service_without_a_selector_would_close_the_whole_namespace() -> None:
    target = service(selector=None).target
    with pytest.raises(Refused, match="has no selector, so that its pods are not known"):
        closing(closed(target=target))


def test_it_is_deleted_as_it_was_made() -> None:
    change = closing(closed())
    seen = closed(made())
    ACTION.require_unchanged(seen, change.before, change.after)
    assert ACTION.settled(seen, change.before, change.after, OPERATION) is Outcome.APPLIED
    (write,) = ACTION.restore(seen, change.before, AFTER).forward
    assert isinstance(write, Delete)
    assert (write.path.rpartition("/")[2], write.uid, write.resource_version) == (NAME, "uid-n", "9")
    gone = closed()
    ACTION.require_unchanged(gone, change.before, change.after)
    assert ACTION.restore(gone, change.before, AFTER).is_empty
    back = {KEY: "as created"}, {KEY: "absent"}
    assert ACTION.settled(gone, *back, AFTER) is Outcome.APPLIED
    assert ACTION.settled(seen, *back, AFTER) is Outcome.NOT_APPLIED
    assert ACTION.settled(closed(made(generation=2)), *back, AFTER) is Outcome.UNKNOWN


@pytest.mark.parametrize("other", [made(generation=2), made(incident="other"), made(uid="uid-x"), made(stamp="")])
def test_hands_off_what_is_not_as_created(other: Json) -> None:
    change = closing(closed())
    with pytest.raises(Refused, match="was changed by others since"):
        ACTION.require_unchanged(closed(other), change.before, change.after)


def test_a_policy_of_that_name_by_others_is_neither_done_nor_not() -> None:
    change = closing(closed())
    assert ACTION.settled(closed(), change.before, change.after, OPERATION) is Outcome.NOT_APPLIED
    assert ACTION.settled(closed(made(stamp="x")), change.before, change.after, OPERATION) is Outcome.UNKNOWN


def _policy(name: str, selector: Json, **spec: Any) -> Json:
    return {"metadata": {"name": name}, "spec": {"podSelector": selector} | spec}


def test_policies_add_up_so_the_others_that_let_something_in_are_named() -> None:
    others = [
        _policy("all", {}, ingress=[{}]),
        _policy("same", {"matchLabels": {"app": "a"}}, ingress=[{}]),
        _policy("perhaps", {"matchLabels": {"tier": "web"}}, ingress=[{}]),
        _policy("by-expression", {"matchExpressions": [{"key": "app", "operator": "Exists"}]}, ingress=[{}]),
        _policy("outwards", {}, egress=[{}]),
        _policy("other", {"matchLabels": {"app": "b"}}, ingress=[{}]),
        _policy("closed", {}),
    ]
    inwards = ["all", "same", "perhaps", "by-expression"]
    assert list(still_open(others, {"app": "a"}, outwards=False)) == inwards
    assert list(still_open(others, {"app": "a"}, outwards=True)) == [*inwards, "outwards"]
    message = closing(closed(*others)).message
    assert "what NetworkPolicy all, same, perhaps, by-expression may allow stays allowed" in message


def test_the_nodes_network_is_not_closed() -> None:
    host = stored(workload("DaemonSet"))
    host["spec"]["template"]["spec"]["hostNetwork"] = True
    assert "its pods use the node's network" in closing(closed(target=host)).message


@pytest.mark.parametrize(
    ("params", "beyond"), [({}, False), ({"method": "Selector"}, False), ({"method": "NetworkPolicy"}, True)]
)
def test_only_a_network_policy_reaches_beyond_the_target(params: Json, beyond: bool) -> None:
    assert ACTION.reaches_beyond(params) is beyond


@pytest.mark.parametrize(
    "exempt",
    [
        {"cidr": "10.0.0.1/8"},
        {"cidr": "10.0.0.0/33"},
        {"cidr": "example.com/8"},
        {"podLabels": {}},
        {"podLabels": {"a": "b c"}},
        {"namespace": "A"},
        {"ports": []},
        {"ports": [{"port": 0}]},
        {"ports": [{"port": "http"}]},
        {"from": []},
        {},
        {"cidr": "10.0.0.0/8", "namespace": "a"},
    ],
)
def test_exceptions_that_cannot_be_used(exempt: Json) -> None:
    with pytest.raises(ValidationError):
        BlockTrafficParams.model_validate({"method": "NetworkPolicy", "allow": [exempt]})
