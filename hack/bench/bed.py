"""A control plane, fixtures and the bare client that floors are measured with."""

from __future__ import annotations

import asyncio
import json
import ssl
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import aiohttp

from testbed.access import KubectlError
from testbed.api import Api, eventually
from testbed.audit import AuditLog, Request
from testbed.cluster import Cluster
from testbed.operator_process import ROOT, USER, Operator, install

Json = dict[str, Any]
T = TypeVar("T")

NAMESPACE = "bench"
GROUP = "paramedic.dev/v1alpha1"
FLOOR_GROUP = "bench.paramedic.dev/v1alpha1"
FLOOR_NAME = "bench-floor"
SYSTEM_NAMESPACE = "paramedic-system"
STAMP = "paramedic.dev/operation"
JSON, MERGE = "application/json", "application/merge-patch+json"
FIXTURES_AT_ONCE = 24
POLICIES_LIMIT = 90
IDLE_LOOK, IDLE_LOOKS, IDLE_SHARE = 0.5, 4, 0.1


@dataclass(frozen=True)
class Scale:
    """How much of everything; `--quick` takes little."""

    latency_rounds: int = 4
    latency_alerts: int = 50
    storm_rounds: int = 3
    storm_alerts: int = 1000
    storm_targets: int = 100
    senders: int = 50
    stored_incidents: int = 10_000
    stored_open: int = 400
    stored_policies: int = 200
    stored_rounds: int = 3
    idle_seconds: float = 60
    restart_incidents: int = 10
    writes_alerts: int = 20


QUICK = Scale(1, 5, 1, 100, 10, 10, 200, 20, 10, 1, 3, 3, 3)


class Bare:
    """As little as a client can do: bytes there, bytes back."""

    def __init__(self, cluster: Cluster, token: str) -> None:
        self.url = cluster.url
        self._context = ssl.create_default_context(cafile=str(cluster.ca))
        self._headers = {"Authorization": f"Bearer {token}"}

    async def __aenter__(self) -> Bare:
        connector = aiohttp.TCPConnector(limit=0, ssl=self._context)
        timeout = aiohttp.ClientTimeout(total=None)
        self.session = aiohttp.ClientSession(connector=connector, headers=self._headers, timeout=timeout)
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.session.close()

    async def send(self, method: str, path: str, body: bytes | None = None, kind: str = JSON) -> bytes:
        """One request; RuntimeError for a refusal."""
        async with self.session.request(method, self.url + path, data=body, headers={"Content-Type": kind}) as answer:
            raw = await answer.read()
            if answer.status >= 400:
                raise RuntimeError(f"{method} {path}: {answer.status}: {raw[:500].decode(errors='replace')}")
            return raw

    async def create_all(self, objects: Iterable[Json]) -> None:
        """Fixtures, many at once."""
        await in_parallel([self._creation(one) for one in objects], FIXTURES_AT_ONCE)

    def _creation(self, manifest: Json) -> Callable[[], Awaitable[bytes]]:
        path, body = collection(manifest), encode(manifest)
        return lambda: self.send("POST", path, body)


@dataclass
class Bed:
    """One row's world."""

    cluster: Cluster
    operator: Operator
    bare: Bare
    floor: Bare
    admin: Api
    scale: Scale

    async def idle(self, limit: float = 60) -> None:
        """Until the operator has nothing more to do, such as diagnoses, which wait for a quiet moment."""
        deadline, calm = time.monotonic() + limit, 0
        while calm < IDLE_LOOKS and time.monotonic() < deadline:
            cpu = self.operator.cpu_seconds()
            await asyncio.sleep(IDLE_LOOK)
            calm = calm + 1 if self.operator.cpu_seconds() - cpu < IDLE_SHARE * IDLE_LOOK else 0

    @property
    def audit(self) -> AuditLog:
        return AuditLog(self.cluster.audit_log)

    def mark(self) -> int:
        """Where the audit log stands."""
        return self.audit.mark()

    async def policies_known(self) -> None:
        """Until Paramedic has said of every policy that it is Ready: before, an alert would match nothing."""

        async def known() -> bool:
            policies = await self.admin.list(f"{GROUP}/remediationpolicies", NAMESPACE)
            return all(one.get("status", {}).get("observedGeneration") for one in policies)

        await eventually(known, POLICIES_LIMIT, what="all policies are Ready")

    async def incidents(self, policy_name: str) -> list[Json]:
        """The Incidents under a policy, as stored now."""
        everything = await self.admin.list(f"{GROUP}/incidents", NAMESPACE)
        return [one for one in everything if one["spec"].get("policyRef", {}).get("name") == policy_name]

    def writes(self, since: int) -> list[Request]:
        """What Paramedic has written since, Leases aside (the audit log has none)."""
        return self.audit.writes(since, user=USER)

    def target_writes(self, since: int) -> list[str]:
        """The names of the Deployments that Paramedic has written to since, once for each write."""
        return [one.name for one in self.writes(since) if one.resource == "deployments" and one.status < 300]

    async def start_operator(self) -> None:
        """Starts it and waits until it leads."""
        self.operator.start()
        await asyncio.to_thread(self.operator.wait_ready)
        await asyncio.to_thread(self.operator.wait_leading)

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """The operator, leading, meanwhile."""
        await self.start_operator()
        try:
            yield
        finally:
            await self.stop_operator()

    async def stop_operator(self) -> None:
        """Ends it in good order."""
        await asyncio.to_thread(self.operator.stop)


@asynccontextmanager
async def bed(folder: Path, scale: Scale) -> AsyncIterator[Bed]:
    """A fresh control plane with Paramedic installed; the operator is not started yet."""
    with Cluster(folder / "cluster") as cluster:
        install(cluster)
        _install_floor(cluster)
        operator = Operator(cluster, folder / "operator", identity="bench")
        try:
            async with (
                Bare(cluster, cluster.token) as bare,
                Bare(cluster, cluster.service_account_token(SYSTEM_NAMESPACE, FLOOR_NAME)) as floor,
                Api(cluster.credentials()) as admin,
            ):
                await bare.create_all([{"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NAMESPACE}}])
                yield Bed(cluster, operator, bare, floor, admin, scale)
        finally:
            operator.close()


def _install_floor(cluster: Cluster) -> None:
    """A copy of the Incident's definition and of its admission policies under another group, and a user with the rights
    that Paramedic has: the same cost to write, and nobody acts on it."""
    text = (ROOT / "crds" / "incidents.yaml").read_text()
    converted = cluster.kubectl("create", "-f", "-", "--dry-run=client", "-o", "json", input=text)
    definition = json.loads(converted)
    group, _, _ = FLOOR_GROUP.partition("/")
    definition["metadata"] = {"name": f"incidents.{group}"}
    definition["spec"]["group"] = group
    definition["spec"]["names"].pop("shortNames", None)
    cluster.kubectl("apply", "--server-side", "-f", "-", input=json.dumps(definition))
    cluster.kubectl("wait", "--for=condition=Established", "--timeout=30s", f"crd/incidents.{group}")
    cluster.kubectl("apply", "-f", "-", input=json.dumps({"apiVersion": "v1", "kind": "List", "items": _rights(group)}))
    cluster.kubectl("apply", "-f", "-", input=json.dumps(_admission(cluster, group)))
    for _ in range(100):
        try:
            cluster.kubectl("get", f"incidents.v1alpha1.{group}", "-A", "-o", "name")
        except KubectlError:
            continue
        return


def _rights(group: str) -> list[Json]:
    rules = [
        {
            "apiGroups": [group],
            "resources": ["incidents", "incidents/status"],
            "verbs": ["create", "patch", "get", "list"],
        },
        {"apiGroups": ["paramedic.dev"], "resources": ["incidents"], "verbs": ["report"]},
        {"apiGroups": ["apps"], "resources": ["deployments"], "verbs": ["patch"]},
    ]
    rbac, name = "rbac.authorization.k8s.io", {"name": FLOOR_NAME}
    subject = {"kind": "ServiceAccount", "name": FLOOR_NAME, "namespace": SYSTEM_NAMESPACE}
    return [
        {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {**name, "namespace": SYSTEM_NAMESPACE}},
        {"apiVersion": f"{rbac}/v1", "kind": "ClusterRole", "metadata": name, "rules": rules},
        {
            "apiVersion": f"{rbac}/v1",
            "kind": "ClusterRoleBinding",
            "metadata": name,
            "roleRef": {"apiGroup": rbac, "kind": "ClusterRole", **name},
            "subjects": [subject],
        },
    ]


def _admission(cluster: Cluster, group: str) -> Json:
    """Paramedic's admission policies for Incidents, speaking of the copy and of the floor's user."""
    kinds = "validatingadmissionpolicies,validatingadmissionpolicybindings"
    listing = json.loads(cluster.kubectl("get", kinds, "-o", "json"))
    copies = []
    for item in listing["items"]:
        text = json.dumps(item["spec"]).replace(USER, f"system:serviceaccount:{SYSTEM_NAMESPACE}:{FLOOR_NAME}")
        spec = json.loads(text.replace('"apiGroups": ["paramedic.dev"]', f'"apiGroups": ["{group}"]'))
        if "policyName" in spec:
            spec["policyName"] = f"{FLOOR_NAME}-{spec['policyName']}"
        metadata = {"name": f"{FLOOR_NAME}-{item['metadata']['name']}"}
        copies.append({"apiVersion": item["apiVersion"], "kind": item["kind"], "metadata": metadata, "spec": spec})
    return {"apiVersion": "v1", "kind": "List", "items": copies}


async def in_parallel(jobs: Sequence[Callable[[], Awaitable[T]]], at_once: int) -> list[T]:
    """The jobs' results in the order of the jobs, at most so many of them running at a time."""
    results: dict[int, T] = {}
    waiting = iter(enumerate(jobs))

    async def work() -> None:
        for number, job in waiting:
            results[number] = await job()

    async with asyncio.TaskGroup() as group:
        for _ in range(min(at_once, len(jobs))):
            group.create_task(work())
    return [results[number] for number in range(len(jobs))]


# -- objects ----------------------------------------------------------------------------------------------------------

_PLURALS = {"Namespace": "namespaces", "Deployment": "deployments", "Incident": "incidents"}


def collection(manifest: Json) -> str:
    """Where an object of this kind is created."""
    version, kind = manifest["apiVersion"], manifest["kind"]
    plural = _PLURALS.get(kind, "remediationpolicies")
    root = f"/apis/{version}" if "/" in version else f"/api/{version}"
    return f"{root}/{plural}" if kind == "Namespace" else f"{root}/namespaces/{NAMESPACE}/{plural}"


def encode(value: Any) -> bytes:
    """Compact JSON."""
    return json.dumps(value, separators=(",", ":")).encode()


def deployment(name: str, replicas: int = 0) -> Json:
    """A target. Without replicas a rollout costs the cluster's controllers little, for both sides alike."""
    labels = {"app": name}
    container = {"name": "main", "image": "bench/app:1"}
    template = {"metadata": {"labels": labels}, "spec": {"containers": [container], "terminationGracePeriodSeconds": 0}}
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": name, "namespace": NAMESPACE},
        "spec": {"replicas": replicas, "selector": {"matchLabels": labels}, "template": template},
    }


def policy(name: str, matcher: str, *, target: str | None = None, verify: Json | None = None) -> Json:
    """Restarts the Deployment that the alert names (or `target`), with guards that never say no but the cooldown."""
    spec: Json = {
        "mode": "Auto",
        "match": {"alerts": [{"matchers": [matcher]}], "incidents": {"types": [kind_of(name)]}},
        "incident": {"type": kind_of(name), "severity": "P1", "groupBy": ["deployment"]},
        "target": {"kind": "Deployment", **({"name": target} if target else {"nameFromLabel": "deployment"})},
        "guards": {
            "cooldown": "2h",
            "maxConcurrent": 100_000,
            "rateLimit": {"actions": 100_000, "period": "1h"},
        },
        "steps": [{"name": "restart", "restart": {}}],
        "verify": verify or {"timeout": "10m"},
    }
    return {
        "apiVersion": GROUP,
        "kind": "RemediationPolicy",
        "metadata": {"name": name, "namespace": NAMESPACE},
        "spec": spec,
    }


def kind_of(name: str) -> str:
    """A policy's own incident type: "storm-7" → "BenchStorm7"."""
    return "Bench" + "".join(part.capitalize() for part in name.split("-"))
