"""The writes that a remediation needs, by a bare client: create the record, write the intent, change the target."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from bench.bed import FLOOR_GROUP, MERGE, NAMESPACE, STAMP, Bare, encode
from testbed.operator_process import alert


@dataclass(frozen=True)
class ThreeWrites:
    """The same in size as Paramedic's, in series, built beforehand."""

    target: str
    record: bytes
    intent: bytes
    change: bytes

    @classmethod
    def on(cls, target: str) -> ThreeWrites:
        """For one Deployment."""
        return cls(target, encode(_record(target)), encode(_intent(target)), encode(_change(target)))

    async def make(self, bare: Bare) -> None:
        incidents = f"/apis/{FLOOR_GROUP}/namespaces/{NAMESPACE}/incidents"
        await bare.send("POST", incidents, self.record)
        await bare.send("PATCH", f"{incidents}/{self.target}/status", self.intent, MERGE)
        await bare.send("PATCH", f"/apis/apps/v1/namespaces/{NAMESPACE}/deployments/{self.target}", self.change, MERGE)

    def job(self, bare: Bare) -> Callable[[], Awaitable[None]]:
        return lambda: self.make(bare)


def _record(target: str) -> dict[str, object]:
    source = alert("BenchFloor", deployment=target, namespace=NAMESPACE, severity="critical")
    return {
        "apiVersion": FLOOR_GROUP,
        "kind": "Incident",
        "metadata": {"name": target, "namespace": NAMESPACE},
        "spec": {
            "title": "BenchFloor",
            "type": "BenchFloor",
            "severity": "P1",
            "target": {"apiVersion": "apps/v1", "kind": "Deployment", "name": target},
            "alert": {"fingerprint": "0123456789abcdef", "labels": source["labels"], "startsAt": source["startsAt"]},
        },
    }


def _intent(target: str) -> dict[str, object]:
    step = {
        "name": "restart",
        "action": "restart",
        "state": "Executing",
        "reason": "Executing",
        "message": f"{target}: pods restarted",
        "target": {"apiVersion": "apps/v1", "kind": "Deployment", "namespace": NAMESPACE, "name": target},
        "operation": "01a208e5-ddea-75a7-b412-e9e61d12102f",
        "attempts": 1,
        "before": {"restart": ""},
        "after": {"restart": "01a208e5-ddea-75a7-b412-e9e61d12102f"},
    }
    return {"status": {"phase": "Remediating", "step": "restart", "steps": [step]}}


def _change(target: str) -> dict[str, object]:
    stamp = {STAMP: f"floor-{target}"}
    return {"metadata": {"annotations": stamp}, "spec": {"template": {"metadata": {"annotations": stamp}}}}
