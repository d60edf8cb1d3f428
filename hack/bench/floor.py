"""The writes that a remediation needs, by a bare client: create the record, write the intent, change the target.

Their bodies are Paramedic's own: the same code makes the Incident and the status that holds the intent. What a bare
client is spared is everything else: hearing of the alert, reading, deciding, the answers.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from bench.bed import FLOOR_GROUP, MERGE, NAMESPACE, STAMP, Bare, encode, policy
from paramedic.api import ANNOTATION_INCIDENT
from paramedic.api import conditions as c
from paramedic.api.incident import Incident
from paramedic.api.policy import RemediationPolicy
from paramedic.api.reasons import Reason
from paramedic.core import pinning
from paramedic.core.alert import Alert
from paramedic.core.heard import Heard
from paramedic.core.match import incident_manifest
from paramedic.news import take_heard
from paramedic.record import Draft, apply_summary

Json = dict[str, Any]
_UID = "01a208e5-ddea-45a7-b412-e9e61d12102f"
_OPERATION = "01a208e5-ddea-75a7-b412-e9e61d12102f"


@dataclass(frozen=True)
class ThreeWrites:
    """Paramedic's, in series, built beforehand."""

    target: str
    record: bytes
    intent: bytes
    change: bytes

    @classmethod
    def on(cls, target: str) -> ThreeWrites:
        """For one Deployment."""
        record, intent = _record_and_intent(target)
        return cls(target, encode(record), encode(intent), encode(_change(target)))

    async def make(self, bare: Bare) -> None:
        incidents = f"/apis/{FLOOR_GROUP}/namespaces/{NAMESPACE}/incidents"
        await bare.send("POST", incidents, self.record)
        await bare.send("PATCH", f"{incidents}/{self.target}/status", self.intent, MERGE)
        await bare.send("PATCH", f"/apis/apps/v1/namespaces/{NAMESPACE}/deployments/{self.target}", self.change, MERGE)

    def job(self, bare: Bare) -> Callable[[], Awaitable[None]]:
        return lambda: self.make(bare)


def _record_and_intent(target: str) -> tuple[Json, Json]:
    now = datetime.now(UTC)
    labels = {"alertname": "BenchFloor", "deployment": target, "namespace": NAMESPACE, "severity": "critical"}
    alert = Alert("firing", labels, {}, now, None, "http://prometheus.example/graph", "0123456789abcdef")
    raw = policy("floor", 'alertname="BenchFloor"')
    raw["metadata"] |= {"uid": _UID, "generation": 1}
    under = RemediationPolicy.model_validate(raw)
    record = incident_manifest(under, NAMESPACE, alert)
    record["apiVersion"], record["metadata"]["name"] = FLOOR_GROUP, target
    return record, {"status": intent_status(record, under, Heard(alert, now), now)}


def intent_status(record: Json, under: RemediationPolicy, heard: Heard, now: datetime) -> Json:
    """The status of an Incident whose first step, a restart, is about to be done."""
    draft = Draft(Incident.model_validate(record), {}, now)
    status = draft.incident.status
    take_heard(draft, [heard])
    status.policy, status.steps = pinning.pin(under), pinning.pinned_steps(under, draft.incident)
    draft.say(Reason.POLICY_MATCHED, f"policy {under.key} at generation {under.metadata.generation}")
    step = status.steps[0]
    assert step.target is not None
    step.state, step.reason, step.message = "Executing", str(Reason.EXECUTING), f"{step.target.name}: pods restarted"
    step.operation, step.attempts, step.started_at, step.target.uid = _OPERATION, 1, now, _UID
    step.before, step.after = {"restart": ""}, {"restart": _OPERATION}
    draft.say(Reason.EXECUTING, f"step {step.name}: {step.message}")
    draft.set_condition(c.REMEDIATION_ALLOWED, "True", Reason.ALLOWED, f"step {step.name} may act")
    draft.set_condition(c.REMEDIATED, "Unknown", Reason.EXECUTING, f"step {step.name}: {step.message}")
    status.severity = draft.incident.spec.severity
    apply_summary(draft, None)
    return draft.changes()


def _change(target: str) -> Json:
    stamp = {STAMP: f"floor-{target}"}
    return {
        "metadata": {"annotations": stamp | {ANNOTATION_INCIDENT: target}},
        "spec": {"template": {"metadata": {"annotations": stamp}}},
    }
