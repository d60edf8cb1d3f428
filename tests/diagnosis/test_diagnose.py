"""The diagnosis on a real API server: real rollouts, real endpoints, and pods in trouble."""

from __future__ import annotations

import json
import time
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from diagnosis.servers import answering, serving
from diagnosis.ward import Ward, deployment, soon, stamp, terminated
from paramedic.api.diagnosis import DiagnoseParams
from paramedic.api.reasons import FindingReason as R
from paramedic.api.workload import bound
from paramedic.clients.kube import Configuration, Kube, load_configuration
from paramedic.diagnosis import diagnose
from paramedic.diagnosis.looking import Limits
from testbed.access import Access
from testbed.api import Api, eventually
from testbed.cluster import Cluster
from testbed.silent import silent

Json = dict[str, Any]


# -- the target --------------------------------------------------------------------------------------------------------


async def test_a_bad_release_is_the_first_finding(ward: Ward) -> None:
    await ward.deploy()
    await ward.release("covet:bad", env=[{"name": "DB_HOST", "value": "hunter2"}])
    alert = soon(2)
    told = await ward.diagnose(alert=alert)
    assert [f.reason for f in told.findings][:2] == [R.RECENT_ROLLOUT, R.CONFIG_CHANGED]
    first = told.findings[0]
    assert first.object == "Deployment/covet-app"
    assert first.message.startswith("3 of 4 pods NotReady since the rollout to revision 2, 2 min before the alert;")
    assert "image of main: covet:1 → covet:bad; env of main: DB_HOST" in first.message
    assert told.failed == ()
    assert "hunter2" not in json.dumps(told.document)
    assert [r["revision"] for r in told.document["rollout"]["history"]] == [2, 1]


async def test_a_stateful_set_and_a_daemon_set(ward: Ward) -> None:
    for kind, plural in (("StatefulSet", "statefulsets"), ("DaemonSet", "daemonsets")):
        body = deployment("covet-app", "covet:bad", 1)
        body["kind"] = kind
        del body["spec"]["strategy"]
        if kind == "DaemonSet":
            del body["spec"]["replicas"]
        await ward.admin.create(body, ward.namespace)
        target = bound(kind, ward.namespace, "covet-app")
        await ward.finds(R.PODS_NOT_READY, target=target)
        found = await ward.finds(R.RECENT_ROLLOUT, target=target)
        assert found.message.startswith("1 of 1 pods NotReady since the rollout to revision 1")
        await ward.admin.delete(f"apps/v1/{plural}", "covet-app", ward.namespace)


async def test_pods_in_all_kinds_of_trouble(ward: Ward) -> None:
    await ward.deploy(image="covet:bad", replicas=6)
    crash, oom, pull, config_error, *_ = await ward.pods()
    loop = {"waiting": {"reason": "CrashLoopBackOff", "message": "back-off 5m0s"}}
    await ward.set_status(crash, {"state": loop, "lastState": terminated("Error", 1), "restartCount": 12})
    await ward.set_status(oom, {"state": loop, "lastState": terminated("OOMKilled", 137), "restartCount": 3})
    await ward.set_status(pull, {"state": {"waiting": {"reason": "ImagePullBackOff"}}})
    missing = {"reason": "CreateContainerConfigError", "message": 'secret "covet-secrets" not found'}
    await ward.set_status(config_error, {"state": {"waiting": missing}})
    await ward.finds(R.CONTAINER_CANNOT_START)
    told = await ward.diagnose(alert=soon(0))
    by_reason = {f.reason: f for f in told.findings}
    assert set(by_reason) == {
        R.RECENT_ROLLOUT,
        R.IMAGE_PULL_FAILED,
        R.CONTAINER_CANNOT_START,
        R.OOM_KILLED,
        R.CRASH_LOOPING,
        R.PODS_NOT_READY,
    }
    assert by_reason[R.IMAGE_PULL_FAILED].object == f"Pod/{pull['metadata']['name']}"
    assert "(limit 128Mi), up to 3 restarts" in by_reason[R.OOM_KILLED].message
    assert "exit code 1" in "".join(f.message for f in told.findings if f.reason == R.CRASH_LOOPING)
    assert by_reason[R.PODS_NOT_READY].message.startswith("6 of 6 pods NotReady")
    rows = {row["name"]: row for row in told.document["pods"]}
    assert rows[crash["metadata"]["name"]]["containers"][0]["lastEnd"]["exitCode"] == 1


async def test_what_the_real_scheduler_cannot_place(ward: Ward) -> None:
    await ward.admin.create(deployment("covet-app", "covet:1", 2, nodeSelector={"disk": "none"}), ward.namespace)
    await ward.finds(R.UNSCHEDULABLE, "2 of 2 pods: no node takes it (Unschedulable: 0/")


async def test_what_a_real_quota_refuses(ward: Ward) -> None:
    quota = {
        "apiVersion": "v1",
        "kind": "ResourceQuota",
        "metadata": {"name": "compute"},
        "spec": {"hard": {"pods": "1"}},
    }
    await ward.admin.create(quota, ward.namespace)
    counted = lambda: ward.admin.get("v1/resourcequotas", "compute", ward.namespace)  # noqa: E731
    await eventually(lambda: _has(counted, "status", "hard"), what="the quota is counted")
    await ward.admin.create(deployment("covet-app", "covet:1", 3), ward.namespace)
    found = await ward.finds(R.QUOTA_EXCEEDED)
    assert "exceeded quota: compute" in found.message or "pods 1 of 1" in found.message


async def test_a_target_that_is_gone_or_scaled_to_nothing(ward: Ward) -> None:
    told = await ward.diagnose()
    assert [(f.reason, f.object) for f in told.findings] == [(R.OBJECT_MISSING, "Deployment/covet-app")]
    await ward.deploy(replicas=0)
    assert R.SCALED_TO_ZERO in [f.reason for f in (await ward.diagnose()).findings]


async def test_others_pods_under_the_same_labels_are_not_the_targets(ward: Ward) -> None:
    await ward.deploy(replicas=1)
    stranger = {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": "stranger", "labels": {"app": "covet-app"}},
        "spec": {"containers": [{"name": "main", "image": "covet:bad"}]},
    }
    await ward.admin.create(stranger, ward.namespace)
    await eventually(lambda: ward.admin.find("v1/pods", "stranger", ward.namespace))
    assert [row["name"].rpartition("-")[0] != "" for row in (await ward.diagnose()).document["pods"]] == [True]
    assert R.PODS_NOT_READY not in [f.reason for f in (await ward.diagnose()).findings]


# -- what leads to it --------------------------------------------------------------------------------------------------


def service(name: str = "covet-service", **selector: str) -> Json:
    spec: Json = {"ports": [{"port": 80}], "selector": selector}
    return {"apiVersion": "v1", "kind": "Service", "metadata": {"name": name}, "spec": spec}


def ingress(backend: str, name: str = "covet-ingress") -> Json:
    to = {"service": {"name": backend, "port": {"number": 80}}}
    rule = {"host": "api.covet.example", "http": {"paths": [{"path": "/", "pathType": "Prefix", "backend": to}]}}
    meta = {"name": name}
    return {"apiVersion": "networking.k8s.io/v1", "kind": "Ingress", "metadata": meta, "spec": {"rules": [rule]}}


async def test_a_service_without_a_ready_endpoint(ward: Ward) -> None:
    await ward.deploy(image="covet:bad", replicas=2)
    await ward.admin.create(service(app="covet-app"), ward.namespace)
    await ward.admin.create(ingress("covet-service"), ward.namespace)

    async def two_endpoints() -> Any:
        told = await ward.diagnose()
        return told if told.document["services"][0]["endpoints"] == {"ready": 0, "all": 2} else None

    told = await eventually(two_endpoints, 15)
    assert "Service/covet-service has no ready endpoint (2 not ready)" in [f.message for f in told.findings]
    assert told.document["ingresses"][0]["hosts"] == ["api.covet.example"]


async def test_a_service_whose_selector_was_swapped_away(ward: Ward) -> None:
    await ward.deploy(replicas=1)
    await ward.admin.create(service(app="maintenance"), ward.namespace)
    found = await ward.finds(R.SERVICE_SELECTS_NOTHING)
    assert "it looks for app=maintenance, they have app=covet-app" in found.message
    assert found.object == "Service/covet-service"


async def test_services_of_others_are_left_alone(ward: Ward) -> None:
    await ward.deploy(replicas=1)
    await ward.deploy("covet-other", replicas=1)
    await ward.admin.create(service("covet-other", app="covet-other"), ward.namespace)
    await ward.admin.create(service("payments", app="payments"), ward.namespace)
    await ward.finds(R.RECENT_ROLLOUT)

    async def has_endpoints() -> bool:
        slices = await ward.admin.list("discovery.k8s.io/v1/endpointslices", ward.namespace)
        return any(one.get("endpoints") for one in slices)

    await eventually(has_endpoints, 15)

    async def quiet() -> bool:
        return R.SERVICE_SELECTS_NOTHING not in [f.reason for f in (await ward.diagnose()).findings]

    await eventually(quiet, 10, what="nothing is said of the others' Services")


async def test_what_is_named_and_does_not_exist(ward: Ward) -> None:
    await ward.deploy(replicas=1)
    await ward.admin.create(service(app="covet-app"), ward.namespace)
    both = ingress("covet-service")
    both["spec"]["defaultBackend"] = {"service": {"name": "gone", "port": {"number": 80}}}
    await ward.admin.create(both, ward.namespace)
    await ward.finds(R.OBJECT_MISSING)
    told = await ward.diagnose(ingress="no-such-ingress", service="no-such-service")
    missing = {f.object for f in told.findings if f.reason == R.OBJECT_MISSING}
    assert missing == {"Service/no-such-service", "Ingress/no-such-ingress"}
    assert {f.object for f in (await ward.diagnose()).findings if f.reason == R.OBJECT_MISSING} == {"Service/gone"}


async def test_a_service_can_be_the_target(ward: Ward) -> None:
    await ward.deploy(image="covet:bad", replicas=1)
    await ward.admin.create(service(app="covet-app"), ward.namespace)
    target = bound("Service", ward.namespace, "covet-service")
    await ward.finds(R.NO_READY_ENDPOINTS, target=target)
    told = await ward.diagnose(target=target)
    assert {R.PODS_NOT_READY, R.NO_READY_ENDPOINTS} <= {f.reason for f in told.findings}
    assert told.failed == (
        "could not look: DNS of the service: Paramedic runs outside of the cluster, whose names it cannot look up",
    )


async def test_inside_of_a_cluster_the_services_name_is_looked_up(ward: Ward, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KUBERNETES_SERVICE_HOST", "10.96.0.1")
    await ward.deploy(replicas=1)
    await ward.admin.create(service(app="covet-app"), ward.namespace)
    found = await ward.finds(R.DNS_FAILED)
    assert found.message.startswith(f"covet-service.{ward.namespace}.svc does not resolve:")


# -- what is around it -------------------------------------------------------------------------------------------------


@pytest.fixture
async def sick_node(admin: Api) -> AsyncIterator[str]:
    """A node that nobody manages."""
    name = f"sick-{time.monotonic_ns()}"
    await admin.create({"apiVersion": "v1", "kind": "Node", "metadata": {"name": name}})
    conditions = [{"type": "Ready", "status": "False"}, {"type": "DiskPressure", "status": "True"}]
    await admin.patch("v1/nodes", name, {"status": {"conditions": conditions}}, subresource="status")
    yield name
    await admin.delete("v1/nodes", name)


async def test_a_node_that_is_down_under_the_pods(ward: Ward, sick_node: str) -> None:
    await ward.admin.create(deployment("covet-app", "covet:1", 2, nodeName=sick_node), ward.namespace)
    found = await ward.finds(R.NODE_PRESSURE)
    assert "DiskPressure on 1 of 2 nodes" in found.message
    told = await ward.diagnose()
    down = next(f for f in told.findings if f.reason == R.NODE_NOT_READY)
    assert down.message == f"1 of 2 nodes NotReady ({sick_node}); 2 of the target's pods are there"
    shown = {row["name"]: row for row in told.document["nodes"]["shown"]}
    assert "Ready=False" in shown[sick_node]["unusual"]


async def test_an_autoscaler_at_its_limit(ward: Ward) -> None:
    await ward.deploy(replicas=2)
    metric = {
        "type": "Resource",
        "resource": {"name": "cpu", "target": {"type": "Utilization", "averageUtilization": 70}},
    }
    ref = {"apiVersion": "apps/v1", "kind": "Deployment", "name": "covet-app"}
    spec = {"scaleTargetRef": ref, "minReplicas": 1, "maxReplicas": 2, "metrics": [metric]}
    hpa = {
        "apiVersion": "autoscaling/v2",
        "kind": "HorizontalPodAutoscaler",
        "metadata": {"name": "covet-hpa"},
        "spec": spec,
    }
    await ward.admin.create(hpa, ward.namespace)
    failing = await ward.finds(R.AUTOSCALER_FAILING)  # by the real controller, which has no metrics here
    assert "FailedGetResourceMetric" in failing.message
    limited = {"type": "ScalingLimited", "status": "True", "reason": "TooManyReplicas"}
    status = {"currentReplicas": 2, "desiredReplicas": 2, "conditions": [limited]}

    async def at_limit() -> str | None:
        await ward.admin.patch(
            "autoscaling/v2/horizontalpodautoscalers",
            "covet-hpa",
            {"status": status},
            ward.namespace,
            subresource="status",
        )
        found = (await ward.diagnose()).findings
        return next((f.message for f in found if f.reason == R.AUTOSCALER_AT_LIMIT), None)

    message = await eventually(at_limit, 15)
    assert message.startswith("HorizontalPodAutoscaler/covet-hpa is at its limit: 2 of at most 2 replicas")


async def test_events_of_the_pods(ward: Ward) -> None:
    await ward.deploy(image="covet:bad", replicas=1)
    pod = (await ward.pods())[0]["metadata"]["name"]
    now = datetime.now(UTC)
    event = {
        "apiVersion": "v1",
        "kind": "Event",
        "metadata": {"name": f"{pod}.1"},
        "involvedObject": {"kind": "Pod", "namespace": ward.namespace, "name": pod},
        "reason": "Unhealthy",
        "message": "Liveness probe failed: GET http://10.0.0.1/?token=hunter2 503",
        "type": "Warning",
        "count": 17,
        "lastTimestamp": stamp(now),
    }
    await ward.admin.create(event, ward.namespace)
    told = await ward.diagnose(alert=now)
    found = next(f for f in told.findings if f.reason == R.PROBE_FAILING)
    assert "liveness probe fails, 17 times" in found.message
    assert "hunter2" not in found.message + json.dumps(told.document)


@pytest.fixture
async def metrics_api(admin: Api) -> AsyncIterator[None]:
    """metrics.k8s.io/v1beta1, with objects that are stored instead of measured."""
    names = [f"{plural}.metrics.k8s.io" for plural in ("pods", "nodes")]
    for plural, kind, scope in (("pods", "PodMetrics", "Namespaced"), ("nodes", "NodeMetrics", "Cluster")):
        schema = {"openAPIV3Schema": {"type": "object", "x-kubernetes-preserve-unknown-fields": True}}
        versions = [{"name": "v1beta1", "served": True, "storage": True, "schema": schema}]
        meta = {"name": f"{plural}.metrics.k8s.io", "annotations": {"api-approved.kubernetes.io": "unapproved, a test"}}
        crd = {"apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition", "metadata": meta}
        spec = {
            "group": "metrics.k8s.io",
            "scope": scope,
            "names": {"plural": plural, "kind": kind},
            "versions": versions,
        }
        await admin.create(crd | {"spec": spec})
    await admin.established(*names)
    yield
    for name in names:
        await admin.delete("apiextensions.k8s.io/v1/customresourcedefinitions", name)


async def test_usage_where_there_is_a_metrics_server(ward: Ward, metrics_api: None) -> None:
    await ward.deploy(replicas=1)
    pod = (await ward.pods())[0]["metadata"]["name"]
    meta = {"name": pod, "labels": {"app": "covet-app"}}
    used = {"containers": [{"name": "main", "usage": {"memory": "125Mi", "cpu": "3m"}}]}
    body = {"apiVersion": "metrics.k8s.io/v1beta1", "kind": "PodMetrics", "metadata": meta} | used
    await ward.admin.create(body, ward.namespace)
    found = await ward.finds(R.MEMORY_NEAR_LIMIT)
    assert found.message == f"1 of 1 pods: container main uses 98% of its memory limit ({pod})"


async def test_without_a_metrics_server_nothing_is_missed(ward: Ward) -> None:
    await ward.deploy(replicas=1)
    told = await ward.diagnose()
    assert (told.document["usage"], told.failed) == (None, ())


# -- logs --------------------------------------------------------------------------------------------------------------


async def test_the_last_lines_of_failing_containers(ward: Ward) -> None:
    await ward.deploy(image="covet:bad", replicas=8)
    first, second, *_ = await ward.pods()
    for pod in (first, second):
        await ward.set_status(pod, {"lastState": terminated("Error", 1), "restartCount": 2})
    await ward.finds(R.PODS_NOT_READY)

    async def read() -> list[Json]:
        logs: list[Json] = (await ward.diagnose(logLines=2)).document["logs"]
        return logs if any(log["previous"] for log in logs) else []

    logs = await eventually(read, 10)
    assert 5 <= len(logs) <= 10
    assert len({(log["pod"], log["container"]) for log in logs}) == 5
    assert next(log for log in logs if not log["previous"])["lines"] == [
        "listening on :8080",
        "cannot reach the database: connection refused",
    ]
    assert (await ward.diagnose(logLines=0)).document["logs"] == []


async def test_hostile_logs(ward: Ward, own_cluster: Cluster) -> None:
    await ward.deploy(image="covet:bad", replicas=1)
    file = own_cluster.folder / "kwok" / "container.log"
    before = file.read_text()
    nasty = ["\x1b[2J\x1b]0;owned\x07boo", "password=hunter2", "Authorization: Bearer hunter2hunter2", "y" * 50_000]
    file.write_text("".join(f"2026-01-01T00:00:00.000000000Z stdout F {line}\n" for line in nasty))
    try:
        told = await ward.diagnose(logLines=200)
    finally:
        file.write_text(before)
    (log,) = told.document["logs"]
    assert log["lines"][:3] == ["boo", "password=***", "Authorization: ***"]
    assert all(line.isprintable() and len(line) <= 1000 for line in log["lines"])
    assert log["cut"]


# -- URLs --------------------------------------------------------------------------------------------------------------


async def test_urls_are_asked_and_their_bodies_kept_nowhere(ward: Ward, own_cluster: Cluster) -> None:
    await ward.deploy(replicas=1)
    async with serving(answering(503, "hunter2")) as bad, serving(answering(200, "hunter2")) as good, silent() as dead:
        told = await ward.diagnose(
            healthURLs=[f"{bad}/health?token=hunter2", f"{good}/health", f"{own_cluster.url}/livez"],
            metricsURLs=[f"{good}/metrics"],
            dependencies=[f"{good}/", f"{dead}/db", "http://169.254.169.254/"],
        )
    by_reason = {f.reason: f.message for f in told.findings}
    assert by_reason[R.HEALTH_CHECK_FAILED].startswith(f"{bad}/health answered 503 in ")
    assert by_reason[R.DEPENDENCY_UNREACHABLE] == f"{dead}/db does not answer: no answer within 3 s"
    assert f"the certificate of {own_cluster.url}/livez is not valid: self-signed" in by_reason[R.CERTIFICATE_PROBLEM]
    assert R.METRICS_UNAVAILABLE not in by_reason
    urls = {row["url"]: row for row in told.document["urls"]}
    assert urls[f"{good}/health"]["status"] == urls[f"{own_cluster.url}/livez"]["status"] == 200
    assert told.failed == (
        "could not look: dependency http://169.254.169.254/: 169.254.169.254 is a link-local address "
        "(169.254.169.254), which is never asked",
    )
    assert "hunter2" not in json.dumps(told.document)


STATS = """\
envoy_cluster_circuit_breakers_default_rq_pending_open{envoy_cluster_name="outbound|5432||db"} 1
envoy_cluster_upstream_rq_pending_overflow{envoy_cluster_name="outbound|5432||db"} 42
envoy_cluster_upstream_rq_total{envoy_cluster_name="outbound|5432||db"} 9000
"""


async def test_envoys_circuit_breakers_in_the_pods(ward: Ward) -> None:
    await ward.deploy(replicas=2)
    for pod in await ward.pods():
        await ward.set_status(pod, podIP="127.0.0.1", podIPs=[{"ip": "127.0.0.1"}])
    async with serving(answering(200, STATS)) as url:
        port = int(url.rpartition(":")[2])
        found = await ward.finds(R.CIRCUIT_BREAKER_OPEN, envoyStatsPort=port)
        told = await ward.diagnose(envoyStatsPort=port)
    assert "default_rq_pending for outbound|5432||db is open in " in found.message
    assert {"cluster": "outbound|5432||db", "name": "upstream_rq_pending_overflow", "count": 42.0} in told.document[
        "envoy"
    ][0]["overflows"]


# -- when looks fail ---------------------------------------------------------------------------------------------------


async def test_without_the_rights_it_says_so_and_tells_the_rest(ward: Ward, installed: Access) -> None:
    """As the operator is without the component: it may act on workloads, and read no pods."""
    await ward.deploy(image="covet:bad", replicas=2)
    await ward.admin.create(
        {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "bare"}}, ward.namespace
    )
    rbac = "rbac.authorization.k8s.io"
    binding = {
        "apiVersion": f"{rbac}/v1",
        "kind": "RoleBinding",
        "metadata": {"name": "bare"},
        "roleRef": {"apiGroup": rbac, "kind": "ClusterRole", "name": "paramedic-actions-workloads"},
        "subjects": [{"kind": "ServiceAccount", "name": "bare", "namespace": ward.namespace}],
    }
    await ward.admin.create(binding, ward.namespace)
    token = installed.service_account_token(ward.namespace, "bare")
    async with Kube(await load_configuration(installed.kubeconfig_for(token))) as kube, serving(answering(500)) as url:

        async def settled() -> Any:
            told = await ward.diagnose(kube=kube, healthURLs=[url])
            return told if told.document["rollout"]["history"] else None

        told = await eventually(settled, 10, what="the binding is in force")
    assert [f.reason for f in told.findings] == [R.RECENT_ROLLOUT, R.HEALTH_CHECK_FAILED]
    whats = {line.split(": ")[1] for line in told.failed}
    assert whats == {
        "pods",
        "events",
        "resource quotas",
        "nodes",
        "services",
        "ingresses",
        "usage of nodes",
        "usage of pods",
    }
    assert all("forbidden" in line and "manifests/components/diagnose" in line for line in told.failed)


async def test_the_operators_own_rights_are_enough(ward: Ward, installed: Access) -> None:
    await ward.deploy(image="covet:bad", replicas=1)
    await ward.admin.create(service(app="covet-app"), ward.namespace)
    token = installed.service_account_token("paramedic-system", "paramedic")
    async with Kube(await load_configuration(installed.kubeconfig_for(token))) as kube:
        told = await ward.diagnose(kube=kube)
    assert [line.split(": ")[1] for line in told.failed] == ["DNS of the service"]
    assert told.document["logs"][0]["lines"]


async def test_nothing_that_hangs_holds_it_up(ward: Ward) -> None:
    await ward.deploy(image="covet:bad", replicas=1)
    async with silent() as dead:
        configuration = Configuration()
        configuration.host = dead
        began = time.monotonic()
        async with Kube(configuration) as hung:
            told = await ward.diagnose(kube=hung, healthURLs=[dead], limits=Limits())
        assert time.monotonic() - began < 4
    assert [f.reason for f in told.findings] == [R.HEALTH_CHECK_FAILED]
    assert "could not look: nodes: no answer within 1.5 s" in told.failed
    assert "could not look: Deployment/covet-app: no answer within 1 s" in told.failed


async def test_a_client_of_its_own_never_asks_this_machine(ward: Ward) -> None:
    await ward.deploy(replicas=1)
    async with serving(answering(200)) as url:
        params = DiagnoseParams.model_validate({"healthURLs": [url]})
        target = bound("Deployment", ward.namespace, "covet-app")
        told = await diagnose(ward.kube, target, params, None, datetime.now(UTC) + timedelta(seconds=1))
    assert len(told.failed) == 1
    assert "loopback" in told.failed[0]


async def _has(get: Any, *path: str) -> bool:
    value = await get()
    for key in path:
        value = value.get(key) or {}
    return bool(value)
