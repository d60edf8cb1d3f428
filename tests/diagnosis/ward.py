"""A namespace with a service in trouble, and the diagnosis of it as an admin sees it."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

from paramedic.api.diagnosis import DiagnoseParams
from paramedic.api.incident import Finding
from paramedic.api.reasons import FindingReason
from paramedic.api.workload import BoundTarget, bound
from paramedic.clients.kube import Kube
from paramedic.clients.web import Web
from paramedic.diagnosis import Diagnosis, diagnose
from paramedic.diagnosis.looking import Limits
from testbed.api import Api, eventually

Json = dict[str, Any]
PATIENT = Limits(target=15, api=15, web=3, pods=15)
"""For a machine that is busy with other tests."""
DEPLOYMENTS = "apps/v1/deployments"
PODS = "v1/pods"


class Ward:
    """One test's namespace."""

    def __init__(self, admin: Api, namespace: str, kube: Kube, web: Web) -> None:
        self.admin = admin
        self.namespace = namespace
        self.kube = kube
        self.web = web

    async def deploy(self, name: str = "covet-app", image: str = "covet:1", replicas: int = 4, **template: Any) -> None:
        """Creates a Deployment of which three pods may be replaced at once, and waits for its pods."""
        await self.admin.create(deployment(name, image, replicas, **template), self.namespace)
        await eventually(lambda: self._started(name, replicas), 30, what=f"{replicas} pods of {name}")

    async def release(self, image: str, name: str = "covet-app", **container: Any) -> None:
        """A new release; returns when its pods run."""
        containers = [{"name": "main", "image": image} | container]
        patch = {"spec": {"template": {"spec": {"containers": containers}}}}
        await self.admin.patch(DEPLOYMENTS, name, patch, self.namespace, kind="strategic")
        await eventually(lambda: self._has_image(name, image), 30, what=f"a pod with {image}")

    async def pods(self, name: str = "covet-app") -> list[Json]:
        found = await self.admin.list(PODS, self.namespace, labelSelector=f"app={name}")
        return sorted(found, key=lambda p: p["metadata"]["name"])

    async def set_status(self, pod: Json, container: Json | None = None, **status: Any) -> None:
        """Writes a pod's status as a kubelet would; ``container`` goes into that of its only container."""
        containers = [c | (container or {}) for c in pod["status"].get("containerStatuses") or []]
        patch = {"status": {"containerStatuses": containers} | status}
        await self.admin.patch(PODS, pod["metadata"]["name"], patch, self.namespace, subresource="status")

    async def diagnose(
        self,
        *,
        target: BoundTarget | None = None,
        kube: Kube | None = None,
        alert: datetime | None = None,
        limits: Limits = PATIENT,
        **params: Any,
    ) -> Diagnosis:
        """The diagnosis of covet-app, with the parameters in the manifest's own words."""
        return await diagnose(
            kube or self.kube,
            target or bound("Deployment", self.namespace, "covet-app"),
            DiagnoseParams.model_validate(params),
            alert,
            datetime.now(UTC),
            web=self.web,
            limits=limits,
        )

    async def finds(self, reason: FindingReason, words: str = "", **arguments: Any) -> Finding:
        """The first finding of that reason with these words, once there is one: what is looked at comes about in time,
        and the API server's cache is a moment behind.
        """

        async def probe() -> Finding | None:
            found = (await self.diagnose(**arguments)).findings
            return next((f for f in found if f.reason == reason and words in f.message), None)

        return await eventually(probe, 15, what=f"{reason} {words}")

    async def _started(self, name: str, count: int) -> bool:
        found = await self.pods(name)
        return len(found) >= count and all(p["status"].get("phase") != "Pending" for p in found)

    async def _has_image(self, name: str, image: str) -> bool:
        found = [p for p in await self.pods(name) if p["spec"]["containers"][0]["image"] == image]
        return bool(found) and all(p["status"].get("phase") == "Running" for p in found)


def deployment(name: str, image: str, replicas: int, container: Json | None = None, **pod: Any) -> Json:
    labels = {"app": name}
    main: Json = {"name": "main", "image": image, "resources": {"limits": {"memory": "128Mi"}}} | (container or {})
    template = {
        "metadata": {"labels": labels},
        "spec": {"containers": [main], "terminationGracePeriodSeconds": 0} | pod,
    }
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": name},
        "spec": {
            "replicas": replicas,
            "selector": {"matchLabels": labels},
            "template": template,
            "strategy": {"rollingUpdate": {"maxUnavailable": 3, "maxSurge": 0}},
        },
    }


def terminated(reason: str, code: int) -> Json:
    """The state of a container that has just ended."""
    return {"terminated": {"reason": reason, "exitCode": code, "finishedAt": stamp(datetime.now(UTC))}}


def stamp(at: datetime) -> str:
    return at.strftime("%Y-%m-%dT%H:%M:%SZ")


def soon(minutes: float) -> datetime:
    return datetime.now(UTC) + timedelta(minutes=minutes)
