"""Traffic cut off and let through again: the runbook's containment, and each method with its undo."""

from pathlib import Path
from typing import Any

import pytest
import yaml

from e2e.world import World, step, story, workload
from installed import ROOT
from testbed.api import eventually

Json = dict[str, Any]
COVET = ROOT / "manifests" / "samples" / "covet"
SERVICES, POLICIES = "v1/services", "networking.k8s.io/v1/networkpolicies"
SERVICE = {"kind": "Service", "name": "front"}
EXPOSED: Json = {
    "type": "LoadBalancer",
    "loadBalancerClass": "example.com/lb",
    "loadBalancerSourceRanges": ["10.0.0.0/8"],
    "externalTrafficPolicy": "Local",
    "externalIPs": ["203.0.113.7"],
}


async def front(world: World, **spec: Any) -> Json:
    """A Service in front of two pods that are ready."""
    body: Json = {
        "selector": {"app": "app"},
        "ports": [{"name": "http", "port": 80}, {"name": "s", "port": 443}],
    } | spec
    manifest: Json = {"apiVersion": "v1", "kind": "Service", "metadata": {"name": "front"}, "spec": body}
    return await world.admin.create(manifest, world.namespace)


async def spec_of(world: World, name: str = "front") -> Json:
    found: Json = (await world.admin.get(SERVICES, name, world.namespace))["spec"]
    return found


async def reachable(world: World) -> int:
    """How many pods the EndpointSlice controller counts behind the Service."""
    slices = await world.admin.list(
        "discovery.k8s.io/v1/endpointslices", world.namespace, labelSelector="kubernetes.io/service-name=front"
    )
    ready = [one for found in slices for one in found.get("endpoints") or [] if one["conditions"].get("ready")]
    return len(ready)


def block(method: str = "Service", target: Json = SERVICE, **rest: Any) -> Json:
    params = {key: rest.pop(key) for key in ("direction", "allow") if key in rest}
    return {"name": "block", "target": target, "blockTraffic": {"method": method} | params} | rest


async def test_a_service_is_no_longer_reached_from_outside_and_then_exactly_as_before(world: World) -> None:
    before = (await front(world, **EXPOSED))["spec"]
    await world.policy(block(ttl="3s"), target=SERVICE)
    await world.alert()
    found = await world.says("Applied")
    blocked = await spec_of(world)
    assert blocked["type"] == "ClusterIP"
    assert not {"externalIPs", "loadBalancerClass", "healthCheckNodePort"} & set(blocked)
    assert not [port for port in blocked["ports"] if "nodePort" in port]
    assert blocked["clusterIP"] == before["clusterIP"]
    assert "LoadBalancer → ClusterIP, external IPs 203.0.113.7 removed" in step(found)["message"]
    found = await world.says("PutBack")
    assert step(found)["state"] == "Reverted", story(found)
    assert await spec_of(world) == before


async def test_ports_that_others_have_changed_meanwhile_stay_theirs(world: World) -> None:
    before = (await front(world, type="NodePort"))["spec"]
    await world.policy(block(ttl="3s"), target=SERVICE)
    await world.alert()
    await world.says("Applied")
    ports = [{"name": "http", "port": 80}, {"name": "admin", "port": 9000}]
    await world.admin.patch(SERVICES, "front", {"spec": {"ports": ports}}, world.namespace)
    await world.says("PutBack")
    after = {port["name"]: port for port in (await spec_of(world))["ports"]}
    assert set(after) == {"http", "admin"}
    assert after["http"]["nodePort"] == before["ports"][0]["nodePort"]
    assert (await spec_of(world))["type"] == "NodePort"


async def test_hands_off_a_service_that_others_have_opened_otherwise(world: World) -> None:
    await front(world, **EXPOSED)
    await world.policy(block(ttl="3s"), target=SERVICE)
    await world.alert()
    await world.says("Applied")
    await world.admin.patch(SERVICES, "front", {"spec": {"type": "NodePort"}}, world.namespace)
    theirs = await spec_of(world)
    found = await world.reaches("Escalated")
    assert "hands off" in step(found)["revert"]["message"], story(found)
    assert await spec_of(world) == theirs


async def test_a_swapped_selector_leaves_no_pod_behind_the_service(world: World) -> None:
    await world.workload()
    before = (await front(world, selector={"app": "app"}))["spec"]
    await eventually(lambda: _counts(world, 2), what="two pods behind it")
    await world.policy(block("Selector", ttl="4s"))
    await world.alert()
    await world.says("Applied")
    assert (await spec_of(world))["selector"] == {"app": "emergency-shutdown"}
    await eventually(lambda: _counts(world, 0), what="no pod behind it")
    await world.says("PutBack")
    assert await spec_of(world) == before
    await eventually(lambda: _counts(world, 2), what="two pods behind it again")


async def _counts(world: World, count: int) -> bool:
    return await reachable(world) == count


async def test_a_network_policy_closes_the_pods_off_until_it_is_taken_away(world: World) -> None:
    await world.workload()
    await front(world)
    web = {"podSelector": {"matchLabels": {"app": "app"}}, "ingress": [{}]}
    theirs: Json = {"apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy", "metadata": {"name": "open"}}
    await world.admin.create(theirs | {"spec": web}, world.namespace)
    allow = [{"namespace": "monitoring", "ports": [{"port": 9090}]}, {"cidr": "10.1.0.0/16"}]
    await world.policy(block("NetworkPolicy", direction="Both", allow=allow, ttl="3s"))
    await world.alert()
    found = await world.says("Applied")
    (made,) = [one for one in await world.admin.list(POLICIES, world.namespace) if one["metadata"]["name"] != "open"]
    monitoring = {"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "monitoring"}}}
    peers = [monitoring, {"ipBlock": {"cidr": "10.1.0.0/16"}}]
    assert made["spec"] == {
        "podSelector": {"matchLabels": {"app": "app"}},
        "policyTypes": ["Ingress", "Egress"],
        "ingress": [{"from": [peers[0]], "ports": [{"protocol": "TCP", "port": 9090}]}, {"from": [peers[1]]}],
        "egress": [
            {"to": [peers[0]], "ports": [{"protocol": "TCP", "port": 9090}]},
            {"to": [peers[1]]},
            {"ports": [{"protocol": "UDP", "port": 53}, {"protocol": "TCP", "port": 53}]},
        ],
    }
    assert made["metadata"]["labels"] == {"app.kubernetes.io/managed-by": "paramedic"}
    assert made["metadata"]["annotations"]["paramedic.dev/operation"] == step(found)["operation"]
    assert "needs a network plugin that enforces it" in step(found)["message"]
    assert "what NetworkPolicy open may allow stays allowed" in step(found)["message"]
    await world.says("PutBack")
    assert [one["metadata"]["name"] for one in await world.admin.list(POLICIES, world.namespace)] == ["open"]


async def test_what_was_approved_is_what_is_made(world: World) -> None:
    await world.workload()
    target = {"kind": "Deployment", "name": "app"}
    await world.policy(block("NetworkPolicy", target), mode="Approve")
    await world.incident()
    shown = step(await world.reaches("AwaitingApproval"))
    assert await world.admin.list(POLICIES, world.namespace) == []
    await world.edit("incident", {"approvals": [{"step": "block", "approvedBy": "admin"}]})
    await world.reaches("Resolved")
    (made,) = await world.admin.list(POLICIES, world.namespace)
    assert list(shown["after"]) == [f"NetworkPolicy/{made['metadata']['name']}"]


async def test_hands_off_a_network_policy_that_others_have_edited(world: World) -> None:
    await world.workload()
    target = {"kind": "Deployment", "name": "app"}
    await world.policy(block("NetworkPolicy", target, ttl="3s"))
    await world.alert()
    await world.says("Applied")
    (made,) = await world.admin.list(POLICIES, world.namespace)
    await world.admin.patch(POLICIES, made["metadata"]["name"], {"spec": {"ingress": [{}]}}, world.namespace)
    found = await world.reaches("Escalated")
    assert "was changed by others since: hands off" in step(found)["revert"]["message"], story(found)
    assert len(await world.admin.list(POLICIES, world.namespace)) == 1


@pytest.mark.parametrize(
    ("spec", "method", "state", "reason", "words"),
    [
        ({"type": "ExternalName", "externalName": "x.example", "selector": None}, "Service", "Failed",
         "UnsupportedKind", "only another name of x.example"),
        ({"selector": None}, "Selector", "Failed", "InvalidParameters", "EndpointSlices are written by somebody else"),
        ({"selector": None}, "NetworkPolicy", "Failed", "InvalidParameters", "give the step the workload"),
        ({}, "Service", "Skipped", "AlreadyInPlace", "not reached from outside"),
        ({"clusterIP": "None"}, "Service", "Skipped", "AlreadyInPlace", "not reached from outside"),
        ({"selector": {"app": "emergency-shutdown"}}, "Selector", "Skipped", "AlreadyInPlace", "already"),
    ],
)  # fmt: skip
async def test_what_is_not_blocked_says_why(
    world: World, spec: Json, method: str, state: str, reason: str, words: str
) -> None:
    await front(world, **spec)
    before = await spec_of(world)
    await world.policy(block(method, onFailure="Continue"))
    await world.incident()
    found = await world.reaches("Escalated")
    assert (step(found)["state"], step(found)["reason"]) == (state, reason), story(found)
    assert words in step(found)["message"]
    assert await spec_of(world) == before
    assert await world.admin.list(POLICIES, world.namespace) == []


async def test_a_workload_has_no_type_and_a_service_can_be_missing(world: World) -> None:
    await world.workload()
    workload_target = {"kind": "Deployment", "name": "app"}
    steps = [block("Selector", workload_target), block("Service", {"kind": "Service", "name": "not-there"})]
    steps = [one | {"name": f"s{n}", "onFailure": "Continue"} for n, one in enumerate(steps)]
    await world.policy(*steps)
    await world.incident()
    found = await world.reaches("Escalated")
    assert [s["reason"] for s in found["status"]["steps"]] == ["InvalidParameters", "TargetNotFound"], story(found)
    assert "use method NetworkPolicy" in step(found)["message"]


async def test_containment_as_the_sample_has_it(world: World) -> None:
    """Runbook 4, "Immediate Containment": what the three commands do by hand, each step with consent."""
    for manifest in _documents(COVET / "service.yaml"):
        await world.admin.create(manifest, world.namespace)
    await world.rolled_out("covet-app")
    (policy,) = [one for one in _documents(COVET / "policies.yaml") if one["metadata"]["name"] == "containment"]
    ours = [one for one in policy["spec"]["steps"] if "captureEvidence" not in one]
    policy["spec"]["steps"] = ours
    await world.admin.create(policy, world.namespace)
    consents = [{"step": one["name"], "approvedBy": "admin"} for one in ours]
    await world.incident(type="SecurityBreach", severity="P0", approvals=consents)
    found = await world.reaches("Resolved", timeout=60)
    done = {s["state"] for s in found["status"]["steps"] if s["action"] != "captureEvidence"}
    assert done == {"Succeeded"}, story(found)
    assert (await spec_of(world, "covet-service"))["type"] == "ClusterIP"
    hpa = await world.admin.get("autoscaling/v2/horizontalpodautoscalers", "covet-hpa", world.namespace)
    assert (hpa["spec"]["minReplicas"], hpa["spec"]["maxReplicas"]) == (1, 1)
    assert (await world.get("covet-worker"))["spec"]["replicas"] == 0
    config = await world.admin.get("v1/configmaps", "covet-config", world.namespace)
    assert config["data"]["AUDIT_LOG_LEVEL"] == "DEBUG"
    audit = found["status"]["steps"][-1]
    assert await world.stamp("covet-app") == audit["operation"]
    assert (await world.get("covet-worker"))["spec"]["template"]["metadata"].get("annotations") is None


def _documents(file: Path) -> list[Json]:
    return [one for one in yaml.safe_load_all(file.read_text()) if one]


async def test_who_may_change_the_service_only_cannot_have_a_network_policy_made(world: World) -> None:
    await world.admin.create(workload("app"), world.namespace)
    await front(world, **EXPOSED)
    steps = [block("NetworkPolicy", onFailure="Continue"), block() | {"name": "type"}]
    await world.policy(*steps, target=SERVICE)
    await world.incident(target=SERVICE)
    found = await world.reaches("Resolved")
    assert step(found)["reason"] == "TargetNotNamed", story(found)
    assert await world.admin.list(POLICIES, world.namespace) == []
    assert (await spec_of(world))["type"] == "ClusterIP"
