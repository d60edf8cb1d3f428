"""Runbook 4, "DDoS Attack": requests are limited by the mesh, the gateway or the Ingress, and freed again."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from e2e.world import INCIDENTS, OPERATION, POLICIES, World, reasons, step, story
from installed import ROOT
from products import ENVOY_FILTERS, HTTP_ROUTES, TRAFFIC_POLICIES, install, remove
from testbed.api import Api, eventually

Json = dict[str, Any]
INGRESSES = "networking.k8s.io/v1/ingresses"
BINDINGS = "rbac.authorization.k8s.io/v1/clusterrolebindings"
SAMPLES = ROOT / "manifests" / "samples" / "covet"
BY_MESH = {"name": "limit", "rateLimit": {"method": "EnvoyFilter"}, "ttl": "4s"}
MORE: Json = {"name": "more", "scale": {"replicas": 3}}
ROUTE: Json = {"kind": "HTTPRoute", "name": "web"}
BY_GATEWAY = {"name": "limit", "target": ROUTE, "rateLimit": {"method": "BackendTrafficPolicy"}, "ttl": "4s"}
INGRESS: Json = {"kind": "Ingress", "name": "web"}
BY_NGINX = {"name": "limit", "target": INGRESS, "rateLimit": {"method": "Ingress", "per": "1s"}, "ttl": "4s"}
NGINX = "nginx.ingress.kubernetes.io/"


@pytest.fixture
async def mesh(admin: Api) -> None:
    await install(admin, ENVOY_FILTERS)


@pytest.fixture
async def gateway(admin: Api) -> None:
    await install(admin, HTTP_ROUTES, TRAFFIC_POLICIES)


@pytest.fixture
async def bare(admin: Api) -> None:
    """A cluster with none of the products."""
    await remove(admin, ENVOY_FILTERS, TRAFFIC_POLICIES, HTTP_ROUTES)


@pytest.fixture
async def without_the_right(admin: Api) -> AsyncIterator[None]:
    binding = await admin.get(BINDINGS, "paramedic-actions-ratelimit")
    await admin.delete(BINDINGS, "paramedic-actions-ratelimit")
    yield
    binding["metadata"] = {"name": "paramedic-actions-ratelimit"}
    await admin.create(binding)


async def limits(world: World, resource: str = ENVOY_FILTERS) -> list[Json]:
    return list(await world.admin.list(resource, world.namespace))


# -- Istio ------------------------------------------------------------------------------------------------------------


async def test_a_flood_is_limited_until_the_ttl_is_over(world: World, mesh: None) -> None:
    deployment = await world.workload()
    await world.policy(BY_MESH)
    await world.incident("flood", type="DDoS")
    found = await world.says("Applied")
    (limit,) = await limits(world)
    meta = limit["metadata"]
    assert meta["labels"] == {"app.kubernetes.io/managed-by": "paramedic"}
    assert meta["annotations"] == {OPERATION: step(found)["operation"], "paramedic.dev/incident": "flood"}
    assert [owner["uid"] for owner in meta["ownerReferences"]] == [deployment["metadata"]["uid"]]
    assert limit["spec"]["workloadSelector"] == {"labels": {"app": "app"}}
    (patch,) = limit["spec"]["configPatches"]
    bucket = patch["patch"]["value"]["typed_config"]["token_bucket"]
    assert bucket == {"max_tokens": 100, "tokens_per_fill": 100, "fill_interval": "60s"}
    assert meta["name"] in step(found)["message"]
    found = await world.reaches("Resolved")
    assert await limits(world) == []
    assert (step(found)["state"], step(found)["reason"]) == ("Reverted", "LeaseEnded"), story(found)
    assert "operation" not in str((await world.get())["metadata"].get("annotations")), "the workload is left alone"


async def test_the_limit_outlives_a_killed_operator_and_ends_once(world: World, mesh: None) -> None:
    await world.workload()
    await world.policy(BY_MESH | {"ttl": "6s"})
    await world.incident()
    await world.says("Applied")
    await asyncio.to_thread(world.operator.kill)
    assert len(await limits(world)) == 1
    await asyncio.to_thread(world.operator.restart)
    found = await world.reaches("Resolved")
    assert await limits(world) == []
    assert reasons(found).count("Applied") == 1
    assert reasons(found).count("PutBack") == 1


async def test_hands_off_a_limit_that_others_have_edited(world: World, mesh: None) -> None:
    await world.workload()
    await world.policy(BY_MESH)
    await world.incident()
    await world.says("Applied")
    (limit,) = await limits(world)
    await world.admin.patch(ENVOY_FILTERS, limit["metadata"]["name"], {"spec": {"priority": 7}}, world.namespace)
    found = await world.reaches("Escalated")
    assert step(found)["revert"]["state"] == "Failed"
    assert "is edited (generation 2) instead of" in step(found)["revert"]["message"]
    assert len(await limits(world)) == 1


async def test_a_limit_that_others_have_removed_is_nothing_to_put_back(world: World, mesh: None) -> None:
    await world.workload()
    await world.policy(BY_MESH)
    await world.incident()
    await world.says("Applied")
    (limit,) = await limits(world)
    await world.admin.delete(ENVOY_FILTERS, limit["metadata"]["name"], world.namespace)
    found = await world.reaches("Resolved")
    assert "gone already" in step(found)["revert"]["message"]


async def test_two_incidents_limit_for_as_long_as_each_says(world: World, mesh: None) -> None:
    await world.workload()
    quick = {"guards": {"cooldown": "0s", "maxConcurrent": 5}}
    await world.policy(BY_MESH | {"ttl": "6s"}, **quick)
    await world.policy(
        BY_MESH | {"ttl": "1h", "rateLimit": {"method": "EnvoyFilter", "requests": 9}}, name="other", **quick
    )
    await world.incident("short", policyRef={"name": "policy"})
    await world.says("Verified", name="short")
    await world.incident("long", policyRef={"name": "other"})
    await world.says("Verified", name="long")
    assert len(await limits(world)) == 2
    await world.reaches("Resolved", name="short")
    (left,) = await limits(world)
    assert left["metadata"]["annotations"]["paramedic.dev/incident"] == "long"
    await world.admin.delete(INCIDENTS, "long", world.namespace)
    await eventually(lambda: _none_left(world), timeout=20, what="the incident's limit is gone with it")


async def _none_left(world: World) -> bool:
    return not await limits(world)


async def test_the_limit_goes_with_its_target(world: World, mesh: None) -> None:
    """So that it never holds for a namesake; the cluster collects it, whatever has become of Paramedic."""
    await world.workload()
    await world.policy(BY_MESH | {"ttl": "1h"})
    await world.incident()
    await world.says("Verified")
    assert len(await limits(world)) == 1
    await world.admin.delete("apps/v1/deployments", "app", world.namespace)
    # The garbage collector looks for new kinds of resources every 30 s.
    await eventually(lambda: _none_left(world), timeout=90, what="the limit is collected")


async def test_a_service_names_the_pods_too(world: World, mesh: None) -> None:
    await world.workload()
    spec = {"selector": {"tier": "front"}, "ports": [{"port": 80}]}
    await world.admin.create(
        {"apiVersion": "v1", "kind": "Service", "metadata": {"name": "front"}, "spec": spec}, world.namespace
    )
    await world.policy(BY_MESH | {"target": {"kind": "Service", "name": "front"}})
    await world.incident()
    await world.says("Applied")
    (limit,) = await limits(world)
    assert limit["spec"]["workloadSelector"] == {"labels": {"tier": "front"}}
    await world.reaches("Resolved")


# -- what is not there ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("limit", "words"),
    [
        (BY_MESH, ["envoyfilters.networking.istio.io", "Istio is not installed", "use method"]),
        (BY_GATEWAY, ["gateway.networking.k8s.io/v1", "the Gateway API is not installed", "use method EnvoyFilter"]),
    ],
)
async def test_without_the_product_the_next_step_follows(
    world: World, bare: None, limit: Json, words: list[str]
) -> None:
    await world.workload()
    await world.policy(limit | {"onFailure": "Continue"}, MORE)
    await world.incident(type="DDoS")
    found = await world.reaches("Resolved")
    assert (step(found)["state"], step(found)["reason"]) == ("Failed", "APINotInstalled"), story(found)
    assert not [word for word in words if word not in step(found)["message"]]
    assert step(found, 1)["state"] == "Succeeded"
    assert await world.replicas() == 3


async def test_a_gateway_api_without_envoy_gateway(world: World, bare: None, admin: Api) -> None:
    await install(admin, HTTP_ROUTES)
    await world.admin.create(route(), world.namespace)
    await world.policy(BY_GATEWAY)
    await world.incident()
    found = await world.reaches("Escalated")
    assert step(found)["reason"] == "APINotInstalled"
    assert "Envoy Gateway is not installed" in step(found)["message"]


async def test_a_missing_target_is_not_a_missing_product(world: World, gateway: None) -> None:
    await world.policy(BY_GATEWAY)
    await world.incident()
    found = await world.reaches("Escalated")
    assert step(found)["reason"] == "TargetNotFound"


async def test_without_the_right_it_is_forbidden(world: World, mesh: None, without_the_right: None) -> None:
    await world.workload()
    await world.policy(BY_MESH)
    await world.incident()
    found = await world.reaches("Escalated", timeout=30)
    assert step(found)["reason"] == "Forbidden"
    assert "envoyfilters" in step(found)["message"]


# -- Envoy Gateway ----------------------------------------------------------------------------------------------------


def route(name: str = "web", **labels: str) -> Json:
    spec = {"parentRefs": [{"name": "edge"}], "rules": [{"backendRefs": [{"name": "front", "port": 80}]}]}
    meta = {"name": name, "labels": labels}
    return {"apiVersion": "gateway.networking.k8s.io/v1", "kind": "HTTPRoute", "metadata": meta, "spec": spec}


async def test_a_route_is_limited_and_freed(world: World, gateway: None) -> None:
    await world.admin.create(route(), world.namespace)
    await world.policy(BY_GATEWAY)
    await world.incident(type="DDoS")
    await world.says("Applied")
    (limit,) = await limits(world, TRAFFIC_POLICIES)
    (rule,) = limit["spec"]["rateLimit"]["local"]["rules"]
    assert rule == {"limit": {"requests": 100, "unit": "Minute"}}
    await world.reaches("Resolved")
    assert await limits(world, TRAFFIC_POLICIES) == []


async def test_a_route_with_a_policy_of_others_is_refused(world: World, gateway: None) -> None:
    await world.admin.create(route(team="a"), world.namespace)
    selected = {"kind": "HTTPRoute", "matchLabels": {"team": "a"}}
    theirs = {"apiVersion": "gateway.envoyproxy.io/v1alpha1", "kind": "BackendTrafficPolicy"}
    spec = {"targetSelectors": [selected], "timeout": {"http": {"requestTimeout": "5s"}}}
    await world.admin.create(theirs | {"metadata": {"name": "timeouts"}, "spec": spec}, world.namespace)
    await world.policy(BY_GATEWAY)
    await world.incident()
    found = await world.reaches("Escalated")
    assert step(found)["reason"] == "AlreadyLimited"
    assert "BackendTrafficPolicy timeouts is for HTTPRoute/web already" in step(found)["message"]
    assert len(await limits(world, TRAFFIC_POLICIES)) == 1


# -- ingress-nginx ----------------------------------------------------------------------------------------------------


async def ingress(world: World, controller: str = "k8s.io/ingress-nginx", **notes: str) -> None:
    name = controller.replace("/", ".")
    networking = "networking.k8s.io/v1"
    served = {"apiVersion": networking, "kind": "IngressClass", "metadata": {"name": name}}
    await world.admin.apply(served | {"spec": {"controller": controller}})
    meta = {"name": "web", "annotations": notes}
    spec = {"ingressClassName": name, "defaultBackend": {"service": {"name": "front", "port": {"number": 80}}}}
    await world.admin.create(
        {"apiVersion": networking, "kind": "Ingress", "metadata": meta, "spec": spec}, world.namespace
    )


async def annotated(world: World) -> dict[str, str]:
    """The Ingress's annotations that are ingress-nginx's, without their prefix."""
    found = (await world.admin.get(INGRESSES, "web", world.namespace))["metadata"].get("annotations") or {}
    return {key.removeprefix(NGINX): value for key, value in found.items() if key.startswith(NGINX)}


async def test_an_ingress_is_limited_and_gets_its_own_limits_back(world: World) -> None:
    earlier = {NGINX + "limit-rps": "500", NGINX + "limit-connections": "7"}
    await ingress(world, **earlier, **{"argocd.argoproj.io/tracking-id": "shop:networking.k8s.io/Ingress:x/web"})
    params = {"method": "Ingress", "per": "1s", "requests": 5, "burstMultiplier": 2, "connections": 50}
    await world.policy(BY_NGINX | {"rateLimit": params})
    await world.incident(type="DDoS")
    found = await world.says("Applied")
    assert await annotated(world) == {"limit-rps": "5", "limit-burst-multiplier": "2", "limit-connections": "7"}
    assert "managed by Argo CD (shop)" in step(found)["message"]
    found = await world.reaches("Resolved")
    assert await annotated(world) == {"limit-rps": "500", "limit-connections": "7"}, story(found)


async def test_an_incident_that_names_its_target_limits_that_one_only(world: World, mesh: None) -> None:
    """Who may change an Ingress may have it annotated; that somebody may create EnvoyFilters is not known."""
    await ingress(world)
    await world.workload()
    await world.policy(BY_NGINX, name="nginx")
    await world.policy(BY_MESH, name="mesh")
    await world.incident("edge", target=INGRESS, policyRef={"name": "nginx"})
    await world.incident("pods", target={"name": "app"}, policyRef={"name": "mesh"})
    found = await world.reaches("Escalated", name="pods")
    assert step(found)["reason"] == "TargetNotNamed"
    assert await limits(world) == []
    await world.reaches("Resolved", name="edge")


async def test_hands_off_an_ingress_that_others_have_limited_since(world: World) -> None:
    await ingress(world)
    await world.policy(BY_NGINX)
    await world.incident()
    await world.says("Applied")
    theirs = {"metadata": {"annotations": {NGINX + "limit-rps": "1"}}}
    await world.admin.patch(INGRESSES, "web", theirs, world.namespace)
    found = await world.reaches("Escalated")
    assert "limit-rps 1" in step(found)["revert"]["message"]
    assert await annotated(world) == {"limit-rps": "1"}


async def test_an_ingress_of_another_controller_is_refused(world: World) -> None:
    await ingress(world, "ingress.k8s.aws/alb")
    await world.policy(BY_NGINX)
    await world.incident()
    found = await world.reaches("Escalated")
    assert step(found)["reason"] == "InvalidParameters"
    assert "served by ingress.k8s.aws/alb" in step(found)["message"]
    assert await annotated(world) == {}


# -- the sample -------------------------------------------------------------------------------------------------------


def documents(file: Path) -> list[Json]:
    return [one for one in yaml.safe_load_all(file.read_text()) if one]


async def test_the_runbooks_flood_is_answered_by_the_sample(world: World, mesh: None) -> None:
    """covet-app under a flood: limited at once, and freed when the alert is over."""
    app = next(one for one in documents(SAMPLES / "service.yaml") if one["metadata"]["name"] == "covet-app")
    del app["spec"]["template"]["spec"]["containers"][0]["envFrom"]
    await world.admin.create(app, world.namespace)
    await world.rolled_out("covet-app")
    (sample,) = documents(SAMPLES / "ddos.yaml")
    first = sample["spec"]["steps"][0]
    first["revertWhen"] = {"alertResolved": True, "for": "1s"}  # ten minutes in the sample
    sample["spec"]["verify"] = {"rollout": True}
    await world.admin.create(sample, world.namespace)
    await eventually(lambda: _ready(world), what="the sample is ready")
    await world.alert("CovetRequestFlood")
    found = await world.says("Verified")
    assert found["spec"]["type"] == "DDoS"
    (limit,) = await limits(world)
    assert limit["spec"]["workloadSelector"] == {"labels": {"app": "covet"}}
    await world.alert("CovetRequestFlood", state="resolved")
    found = await world.reaches("Resolved")
    assert await limits(world) == []
    assert [s["state"] for s in found["status"]["steps"]] == ["Reverted", "Skipped"], story(found)
    assert (await world.get("covet-app"))["spec"]["replicas"] == app["spec"]["replicas"]


async def _ready(world: World) -> bool:
    found = await world.admin.get(POLICIES, "ddos", world.namespace)
    conditions = (found.get("status") or {}).get("conditions") or []
    return any(c["type"] == "Ready" and c["status"] == "True" for c in conditions)
