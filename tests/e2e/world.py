"""A namespace with workloads, policies and incidents, and questions about the state of all of them."""

import asyncio
import time
from datetime import UTC, datetime, timedelta
from typing import Any

from paramedic.core.alert import fingerprint
from testbed.api import Api, eventually
from testbed.operator_process import Operator, payload

Json = dict[str, Any]
INCIDENTS = "paramedic.dev/v1alpha1/incidents"
POLICIES = "paramedic.dev/v1alpha1/remediationpolicies"
PLURALS = {"Deployment": "deployments", "StatefulSet": "statefulsets", "DaemonSet": "daemonsets"}
OPERATION = "paramedic.dev/operation"


class World:
    """One test's namespace, seen as an admin sees it."""

    def __init__(self, admin: Api, namespace: str, operator: Operator) -> None:
        self.admin = admin
        self.namespace = namespace
        self.operator = operator

    # -- workloads ----------------------------------------------------------------------------------------------------

    async def workload(self, name: str = "app", kind: str = "Deployment", image: str = "app:1", **spec: Any) -> Json:
        """Creates a workload and waits until it is rolled out."""
        await self.admin.create(workload(name, kind, image, **spec), self.namespace)
        return await self.rolled_out(name, kind)

    async def get(self, name: str = "app", kind: str = "Deployment") -> Json:
        return await self.admin.get(f"apps/v1/{PLURALS[kind]}", name, self.namespace)

    async def image(self, name: str = "app", kind: str = "Deployment") -> str:
        return str((await self.get(name, kind))["spec"]["template"]["spec"]["containers"][0]["image"])

    async def release(self, image: str, name: str = "app", kind: str = "Deployment") -> None:
        """A new release, as ``kubectl set image`` makes it; returns when its controller has seen it."""
        patch = {"spec": {"template": {"spec": {"containers": [{"name": "app", "image": image}]}}}}
        await self.admin.patch(f"apps/v1/{PLURALS[kind]}", name, patch, self.namespace, kind="strategic")
        await eventually(lambda: self._observed(name, kind), what=f"{name} observed")

    async def rolled_out(self, name: str = "app", kind: str = "Deployment") -> Json:
        return await eventually(lambda: self._ready(name, kind), timeout=30, what=f"{kind}/{name} rolled out")

    async def scale(self, replicas: int, name: str = "app") -> None:
        await self.admin.patch("apps/v1/deployments", name, {"spec": {"replicas": replicas}}, self.namespace)

    async def replicas(self, name: str = "app") -> int:
        return int((await self.get(name))["spec"]["replicas"])

    async def stamp(self, name: str = "app", kind: str = "Deployment") -> str:
        annotations = (await self.get(name, kind))["metadata"].get("annotations") or {}
        return str(annotations.get(OPERATION, ""))

    async def generation(self, name: str = "app", kind: str = "Deployment") -> int:
        return int((await self.get(name, kind))["metadata"]["generation"])

    # -- policies and incidents ---------------------------------------------------------------------------------------

    async def policy(self, *steps: Json, name: str = "policy", ready: bool = True, **spec: Any) -> Json:
        """Creates a policy for alert ``name`` and waits until the operator has judged it."""
        created = await self.admin.create(policy(name, *steps, namespace=self.namespace, **spec), self.namespace)
        await eventually(lambda: self._judged(name, ready), what=f"policy {name} judged")
        return created

    async def edit_policy(self, spec: Json, name: str = "policy") -> None:
        await self.admin.patch(POLICIES, name, {"spec": spec}, self.namespace)

    async def incident(self, name: str = "incident", **spec: Any) -> Json:
        """Applies an Incident by hand."""
        return await self.admin.create(incident(name, **spec), self.namespace)

    async def edit(self, name: str, spec: Json) -> None:
        await self.admin.patch(INCIDENTS, name, {"spec": spec}, self.namespace)

    async def all_incidents(self) -> list[Json]:
        return list(await self.admin.list(INCIDENTS, self.namespace))

    async def alert(self, name: str = "policy", state: str = "firing", **labels: Any) -> int:
        """Sends one alert as Alertmanager would; returns the answer's status."""
        return await self.send(self.alert_body(name, state, **labels))

    async def send(self, *alerts: Json) -> int:
        """Posts alerts in one payload; returns the answer's status."""
        return await asyncio.to_thread(self.operator.post_alerts, payload(*alerts))

    def alert_body(self, name: str = "policy", state: str = "firing", starts_at: str = "", **labels: Any) -> Json:
        found = {"alertname": name, "namespace": self.namespace} | labels
        return {
            "status": state,
            "labels": found,
            "annotations": {"summary": f"{name} is on fire"},
            "startsAt": starts_at or _START,
            "endsAt": _now() if state == "resolved" else "0001-01-01T00:00:00Z",
            "generatorURL": "http://prometheus/graph",
            "fingerprint": fingerprint(found),
        }

    async def the_incident(self) -> Json:
        """The only incident of the namespace."""
        found = await self.all_incidents()
        assert len(found) == 1, [i["metadata"]["name"] for i in found]
        return found[0]

    async def reaches(self, *phases: str, name: str | None = None, timeout: float = 20) -> Json:
        """The incident, once it is in one of the phases."""

        async def probe() -> Json | None:
            found = await self._find(name)
            return found if found and (found.get("status") or {}).get("phase") in phases else None

        try:
            return await eventually(probe, timeout=timeout, what=f"phase {phases}")
        except AssertionError as error:
            raise AssertionError(f"{error}\n{story(await self._find(name))}") from error

    async def stays(self, phase: str, seconds: float = 1.5, name: str | None = None) -> Json:
        """The incident, which is and remains in the phase."""
        await self.reaches(phase, name=name)
        deadline = time.monotonic() + seconds
        while True:
            found = await self.reaches(phase, name=name, timeout=0.5)
            if time.monotonic() > deadline:
                return found

    async def reaches_all(self, count: int, *phases: str, timeout: float = 20) -> list[Json]:
        """All incidents, once there are so many and each is in one of the phases."""

        async def probe() -> list[Json] | None:
            found = await self.all_incidents()
            there = all((i.get("status") or {}).get("phase") in phases for i in found)
            return found if len(found) == count and there else None

        try:
            return await eventually(probe, timeout=timeout, what=f"{count} incidents in {phases}")
        except AssertionError as error:
            told = "\n".join(story(i) for i in await self.all_incidents())
            raise AssertionError(f"{error}\n{told}") from error

    async def says(self, reason: str, name: str | None = None, timeout: float = 20) -> Json:
        """The incident, once its timeline has an entry of that reason."""

        async def probe() -> Json | None:
            found = await self._find(name)
            return found if found and reason in reasons(found) else None

        try:
            return await eventually(probe, timeout=timeout, what=f"reason {reason}")
        except AssertionError as error:
            raise AssertionError(f"{error}\n{story(await self._find(name))}") from error

    async def events(self, reason: str) -> list[Json]:
        """The incidents' Events of that reason, once there is one: they are sent after the status is stored."""
        return list(await eventually(lambda: self._events(reason), what=f"an Event {reason}"))

    async def _events(self, reason: str) -> list[Json]:
        found = await self.admin.list("events.k8s.io/v1/events", self.namespace)
        return [e for e in found if e.get("reason") == reason and e["regarding"].get("kind") == "Incident"]

    async def _find(self, name: str | None) -> Json | None:
        if name:
            return await self.admin.find(INCIDENTS, name, self.namespace)
        found = await self.all_incidents()
        assert len(found) <= 1, [i["metadata"]["name"] for i in found]
        return found[0] if found else None

    async def _observed(self, name: str, kind: str) -> bool:
        found = await self.get(name, kind)
        return bool(found["status"].get("observedGeneration", 0) >= found["metadata"]["generation"])

    async def _ready(self, name: str, kind: str) -> Json | None:
        found = await self.get(name, kind)
        status = found["status"]
        wanted = found["spec"].get("replicas", status.get("desiredNumberScheduled", 1))
        ready = status.get("availableReplicas", status.get("numberAvailable", 0))
        updated = status.get("updatedReplicas", status.get("updatedNumberScheduled", 0))
        done = wanted == 0 or (ready == wanted and updated == wanted)
        return found if done and await self._observed(name, kind) else None

    async def _judged(self, name: str, ready: bool) -> bool:
        found = await self.admin.get(POLICIES, name, self.namespace)
        conditions = (found.get("status") or {}).get("conditions") or []
        return any(c["type"] == "Ready" and c["status"] == str(ready) for c in conditions)


_START = (datetime.now(UTC) - timedelta(minutes=1)).strftime("%Y-%m-%dT%H:%M:%S.000Z")


def _now() -> str:
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


def workload(name: str, kind: str = "Deployment", image: str = "app:1", **spec: Any) -> Json:
    """A workload of one container."""
    labels = {"app": name}
    pod = {
        "metadata": {"labels": labels},
        "spec": {"containers": [{"name": "app", "image": image}], "terminationGracePeriodSeconds": 0},
    }
    body: Json = {"selector": {"matchLabels": labels}, "template": pod}
    if kind != "DaemonSet":
        body["replicas"] = 2
    if kind == "StatefulSet":
        body |= {"serviceName": name, "podManagementPolicy": "Parallel"}
    return {"apiVersion": "apps/v1", "kind": kind, "metadata": {"name": name}, "spec": body | spec}


def hpa(name: str, target: str, minimum: int, maximum: int) -> Json:
    """An HPA for a Deployment."""
    ref = {"apiVersion": "apps/v1", "kind": "Deployment", "name": target}
    spec = {"scaleTargetRef": ref, "minReplicas": minimum, "maxReplicas": maximum}
    return {"apiVersion": "autoscaling/v2", "kind": "HorizontalPodAutoscaler", "metadata": {"name": name}, "spec": spec}


def policy(name: str, *steps: Json, namespace: str = "", kind: str = "Deployment", **spec: Any) -> Json:
    """A policy in mode Auto for the alert of its own name and for every incident, with quick checks."""
    body: Json = {
        "mode": "Auto",
        "match": {"alerts": [{"matchers": [f'alertname="{name}"']}], "incidents": {}},
        "target": {"kind": kind, "name": "app"},
        "steps": list(steps) or [{"name": "restart", "restart": {}}],
        "verify": {"rollout": True, "timeout": "10s"},
    }
    return {
        "apiVersion": "paramedic.dev/v1alpha1",
        "kind": "RemediationPolicy",
        "metadata": {"name": name},
        "spec": body | spec,
    }


def incident(name: str, **spec: Any) -> Json:
    """An Incident as a person applies it."""
    body: Json = {"title": "it hurts", "type": "APIOutage", "severity": "P1"}
    return {
        "apiVersion": "paramedic.dev/v1alpha1",
        "kind": "Incident",
        "metadata": {"name": name},
        "spec": body | spec,
    }


def condition(found: Json, kind: str) -> Json:
    """A condition of an incident; empty when it has none of that type."""
    return next((c for c in found["status"]["conditions"] if c["type"] == kind), {})


def reasons(found: Json) -> list[str]:
    """The reasons on the timeline, in order."""
    return [entry["reason"] for entry in (found.get("status") or {}).get("timeline") or []]


def step(found: Json, index: int = 0) -> Json:
    """A step's status."""
    return found["status"]["steps"][index]  # type: ignore[no-any-return]


def story(found: Json | None) -> str:
    """What an incident says of itself, for messages of failed tests."""
    if found is None:
        return "there is no incident"
    status = found.get("status") or {}
    lines = [f"{found['metadata']['name']}: {status.get('phase')}: {status.get('message')}"]
    lines += [
        f"  step {s['name']}: {s['state']} {s.get('reason')}: {s.get('message')}" for s in status.get("steps", [])
    ]
    lines += [f"  {t['at']} {t['actor']} {t['reason']}: {t['message']}" for t in status.get("timeline", [])]
    return "\n".join(lines)
