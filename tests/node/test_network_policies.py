"""NetworkPolicies on the real node, with real requests: who is let through, and who is not."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest

from node.web import IMAGE, address_of, body, serve
from testbed.access import KubectlError
from testbed.api import Api, eventually, resource_path
from testbed.cluster import Cluster

NAMESPACE = "callers"
CALLERS = ("friend", "stranger")
POLICIES = "networking.k8s.io/v1/networkpolicies"
WEB = {"matchLabels": {"app": "web"}}
FRIENDS = [{"podSelector": {"matchLabels": {"role": "friend"}}}]
ALL = {"cidr": "10.0.0.0/8"}


@pytest.fixture
async def url(real: Cluster, api: Api) -> AsyncIterator[str]:
    """Of the web server in NAMESPACE, which both callers reach; made by the first test."""
    if await api.find("v1/namespaces", NAMESPACE) is None:
        await api.create({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NAMESPACE}})
        await serve(api, NAMESPACE)
        for name in CALLERS:
            await api.create(caller(name), NAMESPACE)
    found = f"http://{await address_of(api, NAMESPACE, 'web')}"
    await answered_are(real, found, set(CALLERS))
    yield found
    await api.request("DELETE", resource_path(POLICIES, namespace=NAMESPACE))
    await answered_are(real, found, set(CALLERS))


def caller(name: str) -> dict[str, Any]:
    container = {"name": "main", "image": IMAGE, "imagePullPolicy": "Never"}
    spec = {"containers": [container], "terminationGracePeriodSeconds": 0}
    return {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "labels": {"role": name}}, "spec": spec}


async def answered_are(real: Cluster, url: str, expected: set[str]) -> None:
    """Waits until exactly these callers get an answer."""

    async def so() -> bool:
        answers = await asyncio.gather(*(asyncio.to_thread(answered, real, name, url) for name in CALLERS))
        return {name for name, answer in zip(CALLERS, answers, strict=True) if answer} == expected

    await eventually(so, timeout=30, what=f"answered are {sorted(expected)}")


def answered(real: Cluster, pod: str, url: str) -> bool:
    """A refused policy drops packets: the caller is left waiting, and gives up after a second."""
    try:
        return "release" in real.kubectl("exec", "-n", NAMESPACE, pod, "--", "timeout", "1", "wget", "-qO-", url)
    except KubectlError:
        return False


@pytest.mark.parametrize(
    ("spec", "expected"),
    [
        pytest.param({"podSelector": WEB}, set(), id="nobody"),
        pytest.param({"podSelector": WEB, "ingress": [{"from": FRIENDS}]}, {"friend"}, id="pods"),
        pytest.param(
            {"podSelector": WEB, "ingress": [{"from": FRIENDS, "ports": [{"port": 81, "endPort": 90}]}]},
            set(),
            id="other ports",
        ),
        pytest.param(
            {"podSelector": WEB, "ingress": [{"from": FRIENDS, "ports": [{"port": "http"}]}]},
            {"friend"},
            id="a named port",
        ),
        pytest.param(
            {"podSelector": WEB, "ingress": [{"from": [{"namespaceSelector": {"matchLabels": {"no": "such"}}}]}]},
            set(),
            id="namespaces",
        ),
        pytest.param(
            {"podSelector": WEB, "ingress": [{"from": [{"ipBlock": {**ALL, "except": ["10.128.0.0/9"]}}]}]},
            set(),
            id="addresses but some",
        ),
        pytest.param(
            {"podSelector": FRIENDS[0]["podSelector"], "policyTypes": ["Egress"]},
            {"stranger"},
            id="way out",
        ),
    ],
)
async def test_who_is_let_through(real: Cluster, api: Api, url: str, spec: dict[str, Any], expected: set[str]) -> None:
    policy = {"apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy", "metadata": {"name": "gate"}, "spec": spec}
    await api.create(policy, NAMESPACE)
    await answered_are(real, url, expected)


async def test_the_machine_is_let_through_as_the_node_is(api: Api, real: Cluster, url: str) -> None:
    spec = {"podSelector": {}, "policyTypes": ["Ingress"]}
    policy = {"apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy", "metadata": {"name": "gate"}, "spec": spec}
    await api.create(policy, NAMESPACE)
    await answered_are(real, url, set())
    assert body(url) == "release 1\n"


async def test_paramedic_cuts_off_all_but_the_named_and_lets_them_back_in(
    paramedic: Cluster, api: Api, url: str
) -> None:
    block = {"method": "NetworkPolicy", "direction": "Ingress", "allow": [{"podLabels": {"role": "friend"}}]}
    spec = {
        "mode": "Auto",
        "match": {"incidents": {"types": ["SecurityBreach"]}},
        "target": {"kind": "Deployment", "name": "web"},
        "steps": [{"name": "block", "blockTraffic": block, "ttl": "1h"}],
        "verify": {"rollout": True},
    }
    kind = {"apiVersion": "paramedic.dev/v1alpha1", "kind": "RemediationPolicy"}
    await api.create(kind | {"metadata": {"name": "containment"}, "spec": spec}, NAMESPACE)
    incident = {"title": "a stranger calls", "type": "SecurityBreach", "severity": "P0"}
    await api.create(kind | {"kind": "Incident", "metadata": {"name": "breach"}, "spec": incident}, NAMESPACE)
    await answered_are(paramedic, url, {"friend"})
    await api.delete("paramedic.dev/v1alpha1/incidents", "breach", NAMESPACE)
    await answered_are(paramedic, url, set(CALLERS))
    assert await api.list(POLICIES, NAMESPACE) == []
