"""Diagnosing a service of 200 pods that are all in trouble, beside a bare client's lists of the same objects."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

from bench.bed import FIXTURES_AT_ONCE, NAMESPACE, QUICK, SYSTEM_NAMESPACE, Bed, deployment, encode, in_parallel
from bench.figures import Figure, at_most, exactly, percentile
from paramedic.api.diagnosis import DiagnoseParams
from paramedic.api.reasons import FindingReason
from paramedic.api.workload import bound
from paramedic.clients.kube import Kube, load_configuration
from paramedic.clients.web import Web
from paramedic.diagnosis import Diagnosis, diagnose
from paramedic.diagnosis.looking import Limits
from testbed.api import eventually
from testbed.silent import silent

Json = dict[str, Any]

PODS, FEW_PODS = 200, 20
ROUNDS, FEW_ROUNDS = 40, 3
WARM_UP = 3
MOST_SECONDS = 2.0
NAME = "diagnosed"
_CORE = f"/api/v1/namespaces/{NAMESPACE}"
_CACHED = "resourceVersion=0"
_LABELS = f"labelSelector=app%3D{NAME}"
_LISTS = (
    f"/apis/apps/v1/namespaces/{NAMESPACE}/deployments/{NAME}",
    f"{_CORE}/pods?{_LABELS}&{_CACHED}",
    f"/apis/apps/v1/namespaces/{NAMESPACE}/replicasets?{_LABELS}",
    f"{_CORE}/events?fieldSelector=type%3DWarning",
    f"{_CORE}/services?{_CACHED}",
    f"/apis/discovery.k8s.io/v1/namespaces/{NAMESPACE}/endpointslices?{_CACHED}",
    f"/apis/networking.k8s.io/v1/namespaces/{NAMESPACE}/ingresses?{_CACHED}",
    f"/apis/autoscaling/v2/namespaces/{NAMESPACE}/horizontalpodautoscalers?{_CACHED}",
    f"{_CORE}/resourcequotas?{_CACHED}",
    "/api/v1/nodes",
)


async def measure(b: Bed) -> list[Figure]:
    """With the operator's own rights; once as it is, once with a health URL that never answers."""
    count, rounds = (FEW_PODS, FEW_ROUNDS) if b.scale is QUICK else (PODS, ROUNDS)
    await _fixtures(b, count)
    token = b.cluster.service_account_token(SYSTEM_NAMESPACE, "paramedic")
    configuration = await load_configuration(b.cluster.kubeconfig_for(token))
    async with Kube(configuration) as kube, Web(allow_loopback=True) as web, silent() as url:
        dead = f"{url}/health"
        # What is counted must not depend on the machine's speed.
        told = await _diagnose(kube, web, DiagnoseParams(), Limits(60, 60, 60, 60))
        quick, lists = await _in_turn(rounds, lambda: _diagnose(kube, web, DiagnoseParams()), lambda: _list_all(b))
        (slow,) = await _in_turn(rounds // 2 + 1, lambda: _diagnose(kube, web, DiagnoseParams(health_urls=[dead])))
    name = f"diagnose {count} pods in trouble, p95"
    floor = percentile(lists, 95)
    # Service names resolve only inside of a cluster, and this runs outside of one.
    missed = [line for line in told.failed if "DNS" not in line]
    return [
        replace(at_most(name, percentile(quick, 95), "s", MOST_SECONDS, "floor: bare lists"), floor=floor),
        at_most("  with a health URL that never answers", percentile(slow, 95), "s", MOST_SECONDS),
        exactly("  findings: pods not ready", _of(told, FindingReason.PODS_NOT_READY), 1, f"{count} of {count}"),
        exactly("  looks that failed", len(missed), 0, "; ".join(missed)[:100]),
    ]


def _of(told: Diagnosis, reason: FindingReason) -> int:
    return sum(finding.reason == reason for finding in told.findings)


async def _fixtures(b: Bed, count: int) -> None:
    """A release that never gets ready, a Service in front of it, two Warnings for each pod."""
    manifest = deployment(NAME, count)
    manifest["spec"]["template"]["spec"]["containers"][0]["image"] = "bench/app:bad"
    await b.bare.create_all([manifest])
    service = {"metadata": {"name": NAME}, "spec": {"selector": {"app": NAME}, "ports": [{"port": 80}]}}
    await b.bare.send("POST", f"{_CORE}/services", encode({"apiVersion": "v1", "kind": "Service"} | service))
    pods = await eventually(lambda: _running(b, count), 120, what=f"{count} pods run")
    assert pods
    await in_parallel([_warning(b, pod, number) for pod in pods for number in (1, 2)], FIXTURES_AT_ONCE)


async def _running(b: Bed, count: int) -> list[Json]:
    found = await b.admin.list("v1/pods", NAMESPACE, labelSelector=f"app={NAME}")
    return found if sum(pod["status"].get("phase") == "Running" for pod in found) == count else []


def _warning(b: Bed, pod: Json, number: int) -> Callable[[], Awaitable[bytes]]:
    name = pod["metadata"]["name"]
    event = {
        "apiVersion": "v1",
        "kind": "Event",
        "metadata": {"name": f"{name}.{number}"},
        "involvedObject": {"kind": "Pod", "namespace": NAMESPACE, "name": name, "uid": pod["metadata"]["uid"]},
        "reason": "Unhealthy",
        "message": "Readiness probe failed: HTTP probe failed with statuscode: 503",
        "type": "Warning",
        "count": 7,
        "lastTimestamp": datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
    }
    return lambda: b.bare.send("POST", f"{_CORE}/events", encode(event))


async def _diagnose(kube: Kube, web: Web, params: DiagnoseParams, limits: Limits | None = None) -> Diagnosis:
    now = datetime.now(UTC)
    return await diagnose(kube, bound("Deployment", NAMESPACE, NAME), params, now, now, web=web, limits=limits)


async def _list_all(b: Bed) -> None:
    """The same objects, all at once, their bytes unparsed."""
    await asyncio.gather(*(b.bare.send("GET", path) for path in _LISTS))


async def _in_turn(rounds: int, *jobs: Callable[[], Awaitable[Any]]) -> list[list[float]]:
    """Seconds of each job in each round, warm-up left out; in turn, so that all meet the same machine."""
    took: list[list[float]] = [[] for _ in jobs]
    for _ in range(rounds + WARM_UP):
        for job, seconds in zip(jobs, took, strict=True):
            began = time.monotonic()
            await job()
            seconds.append(time.monotonic() - began)
    return [seconds[WARM_UP:] for seconds in took]
