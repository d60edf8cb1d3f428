"""One remediation in a namespace of its own while something breaks, and the judgement on what came of it."""

import asyncio
import functools
import hashlib
import time
import uuid
from collections import Counter
from collections.abc import AsyncIterator, Awaitable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlparse

import aiohttp

from faults.shapes import (
    ASIDE,
    BAD,
    DEPLOYMENTS,
    INCIDENTS,
    KEPT,
    POLICIES,
    TARGET,
    Beside,
    Shape,
    deployment,
    incident,
    labels,
)
from faults.witness import Witness
from products import ENVOY_FILTERS, install
from testbed.api import Api, ApiError, eventually, resource_path
from testbed.audit import Request, WritesOfOne
from testbed.cluster import Cluster
from testbed.faultproxy import FaultProxy, Rule, Seen
from testbed.operator_process import USER, Operator, alert, payload, resolved

Json = dict[str, Any]
PATIENCE = 180.0
# A claim for each look; the deployment controller writes its status meanwhile, and each such write can cost one more.
MOST_ATTEMPTS = 6
TOUCHED = {
    "incidents": INCIDENTS,
    "envoyfilters": ENVOY_FILTERS,
    "configmaps": "v1/configmaps",
    "secrets": "v1/secrets",
    "networkpolicies": "networking.k8s.io/v1/networkpolicies",
    "services": "v1/services",
    "jobs": "batch/v1/jobs",
}
CHANGED = (
    "deployments",
    "horizontalpodautoscalers",
    "envoyfilters",
    "configmaps",
    "secrets",
    "networkpolicies",
    "services",
    "jobs",
)


@dataclass
class Ground:
    """What the drills of one file share."""

    cluster: Cluster
    proxy: FaultProxy
    operator: Operator

    @functools.cached_property
    def writes(self) -> WritesOfOne:
        """What the API server says that the operator has written."""
        return WritesOfOne(self.cluster.audit_log, USER)


@dataclass
class Scene:
    """What the drills of one wave share."""

    ground: Ground
    admin: Api
    witness: Witness
    http: aiohttp.ClientSession


@asynccontextmanager
async def open_scene(ground: Ground) -> AsyncIterator[Scene]:
    async with (
        Api(ground.cluster.credentials(), user_agent="witness") as admin,
        Witness(admin) as witness,
        aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=30)) as http,
    ):
        yield Scene(ground, admin, witness, http)


@dataclass
class Drill:
    """One remediation, from the alert to its end."""

    shape: Shape
    title: str
    namespace: str = field(default_factory=lambda: f"drill-{uuid.uuid4().hex[:10]}")
    rule: Rule | None = None
    problems: list[str] = field(default_factory=list)
    story: str = ""
    _answers: list[str] = field(default_factory=list)
    _states_before: int = 0
    _before: Json = field(default_factory=dict)

    async def prepare(self, scene: Scene) -> None:
        """The namespace with its target, as it is a moment before the incident."""
        admin = scene.admin
        beside = self.shape.beside
        if beside and beside.resource == ENVOY_FILTERS:
            await install(admin, ENVOY_FILTERS)
        await new_namespace(admin, self.namespace)
        if beside and beside.existing:
            self._before = await admin.create(beside.existing, self.namespace)
            for needed in beside.needs:
                await admin.create(needed, self.namespace)
        await admin.create(self.shape.policy, self.namespace)
        created = time.time()
        await admin.create(deployment(), self.namespace)
        await rolled_out(admin, self.namespace)
        if self.shape.released:
            await admin.patch(DEPLOYMENTS, TARGET, deployment(BAD), self.namespace)
            await observed(admin, self.namespace)
        await eventually(lambda: knows_policies(scene.ground.proxy, created), timeout=30)
        wanted = self.shape.changes[0]
        await scene.witness.sees(lambda: scene.witness.states(self.namespace)[-1:] == [wanted], 10)
        self._states_before = len(scene.witness.states(self.namespace)) - 1

    async def run(self, scene: Scene, after: float = 0) -> None:
        """Raises nothing: what goes wrong stands in ``problems``."""
        await asyncio.sleep(after)
        try:
            await self._remediate(scene)
            await self._judge(scene)
        except Exception as error:
            self.problems.append(f"{type(error).__name__}: {error}")
        self.story = self._tell(scene)

    async def clear(self, scene: Scene) -> None:
        """Takes away what the operator would read again and again while others are drilled."""
        for resource in (POLICIES, INCIDENTS, DEPLOYMENTS):
            await scene.admin.request("DELETE", resource_path(resource, namespace=self.namespace))

    async def _remediate(self, scene: Scene) -> None:
        firing = alert("Broken", namespace=self.namespace)
        if self.shape.by_alert:
            await self._send(scene, firing)
            if not await scene.witness.sees(lambda: self._recovered(scene), PATIENCE):
                self.problems.append(f"not recovered within {PATIENCE:g} s")
                return
            await self._send(scene, resolved(firing))
        else:
            await self._apply(scene)
        if not await scene.witness.sees(lambda: self._over(scene), PATIENCE):
            self.problems.append(f"not Resolved within {PATIENCE:g} s")

    async def _send(self, scene: Scene, body: Json) -> None:
        """As Alertmanager does: again and again until it is taken."""
        self._answers += await send(scene, payload(body))

    async def _apply(self, scene: Scene) -> None:
        """As a person does whose kubectl finds no API server: once more."""

        async def applied() -> bool:
            if not await scene.admin.find(INCIDENTS, "applied", self.namespace):
                consents = [{"step": step, "approvedBy": "admin"} for step in self.shape.approved]
                await scene.admin.create(incident(approvals=consents), self.namespace)
            return True

        await eventually(applied, timeout=PATIENCE, interval=0.3, what="the incident is applied")

    def _recovered(self, scene: Scene) -> bool:
        found = scene.witness.incidents(self.namespace)
        return any(step["state"] == "Succeeded" for one in found for step in steps(one))

    def _over(self, scene: Scene) -> bool:
        found = scene.witness.incidents(self.namespace)
        return bool(found) and all(phase(one) == "Resolved" for one in found)

    # -- the judgement ------------------------------------------------------------------------------------------------

    async def _judge(self, scene: Scene) -> None:
        # An Event follows the write that it tells of, when its turn comes.
        rule, late = self.rule, PATIENCE if ": event " in self.title else 0
        if rule and not await scene.witness.sees(rule.fired.is_set, late):
            self.problems.append("the fault never struck: the remediation does not make this write any more")
        found = await scene.admin.list(INCIDENTS, self.namespace)
        if len(found) != 1:
            self.problems.append(f"{len(found)} incidents instead of one")
            return
        self._judge_incident(found[0])
        await self._judge_target(scene, found[0])

    def _judge_incident(self, found: Json) -> None:
        told = Counter(entry["reason"] for entry in found["status"]["timeline"])
        for reason, times in expected_timeline(self.shape).items():
            if told[reason] != times:
                self.problems.append(f"the timeline tells {reason} {told[reason]} times instead of {times}")
        for step in steps(found):
            attempts = step.get("attempts", 0)
            if step["state"] != "Skipped" and not 1 <= attempts <= MOST_ATTEMPTS:
                self.problems.append(f"step {step['name']} has {attempts} attempts")
        self._judge_evidence(found)
        if found["metadata"].get("finalizers"):
            self.problems.append(f"finalizers are left: {found['metadata']['finalizers']}")

    def _judge_evidence(self, found: Json) -> None:
        """What the status tells of is there, whole, and nothing else is."""
        listed = {unquote(urlparse(item["uri"]).path): item["sha256"] for item in found["status"].get("evidence") or []}
        if self.shape.reads and not listed:
            self.problems.append("no evidence was kept")
        for path, digest in listed.items():
            if not Path(path).is_file() or hashlib.sha256(Path(path).read_bytes()).hexdigest() != digest:
                self.problems.append(f"{path} is not what the status says")
        partial = [str(file) for path in listed for file in Path(path).parent.glob(".*.partial")]
        if partial:
            self.problems.append(f"files that were begun and left: {partial}")

    async def _judge_target(self, scene: Scene, found: Json) -> None:
        target = await scene.admin.get(DEPLOYMENTS, TARGET, self.namespace)
        last = (target["spec"]["replicas"], target["spec"]["template"]["spec"]["containers"][0]["image"])
        await scene.witness.sees(lambda: scene.witness.states(self.namespace)[-1:] == [last], 5)
        states = tuple(scene.witness.states(self.namespace)[self._states_before :])
        if states != self.shape.changes:
            self.problems.append(f"the target went {_arrows(states)} instead of {_arrows(self.shape.changes)}")
        operations = [operation(found, index, back=back) for index, back in self.shape.operations]
        stamps = scene.witness.stamps(self.namespace)
        if stamps != (operations if self.shape.stamps_target else []):
            self.problems.append(f"the target was stamped {stamps}, the incident says {operations}")
        patches = effects(scene.ground.writes.of(self.namespace))
        expected = len(operations) * self.shape.effects
        if len(patches) != expected:
            self.problems.append(f"the API server carried out {len(patches)} changes instead of {expected}")
        if self.shape.beside:
            await self._judge_beside(scene, self.shape.beside)

    async def _judge_beside(self, scene: Scene, beside: Beside) -> None:
        if beside.existing is None:
            left = await scene.admin.list(beside.resource, self.namespace)
            if len(left) != beside.left:
                self.problems.append(f"{len(left)} objects are there that were created, instead of {beside.left}")
            return
        found = await scene.admin.get(beside.resource, beside.existing["metadata"]["name"], self.namespace)
        for part in ("data", "spec"):
            if found.get(part) != self._before.get(part):
                self.problems.append(f"{beside.resource} is {found.get(part)} instead of {self._before.get(part)}")

    def _tell(self, scene: Scene) -> str:
        found = scene.witness.incidents(self.namespace)
        writes = scene.ground.proxy.writes(self.namespace)
        lines = [
            f"{self.title} in {self.namespace}: {len(self.problems)} problems",
            *(f"  - {problem}" for problem in self.problems),
            *(f"webhook: {answer}" for answer in self._answers),
            f"target: {_arrows(scene.witness.states(self.namespace))}",
            *(line for one in found for line in tell(one)),
            "writes seen by the proxy:",
            *(
                f"  {_clock(one.at)} {name:60} {one}{' <- broken' if self.rule and one in self.rule.struck else ''}"
                for one, name in zip(writes, labels(writes), strict=True)
            ),
        ]
        return "\n".join(lines)


def expected_timeline(shape: Shape) -> dict[str, int]:
    """How often the record must tell what was done: neither more nor less than what was done."""
    forward = sum(not back for _, back in shape.operations)
    backward = len(shape.operations) - forward
    heard = 1 if shape.by_alert else 0
    return {
        "Executing": forward + shape.reads,
        "Applied": forward + shape.reads,
        "PuttingBack": backward,
        "PutBack": backward,
        "OutcomeUnknown": 0,
        "AlertReceived": heard,
        "AlertResolved": heard,
        "RemediationSucceeded": 1,
    }


async def send(scene: Scene, body: Json, operator: Operator | None = None, patience: float = PATIENCE) -> list[str]:
    """Posts until the answer is 2xx; all answers."""
    receiver = operator or scene.ground.operator
    headers = {"Authorization": f"Bearer {receiver.webhook_token}"}
    deadline = asyncio.get_running_loop().time() + patience
    answers = []
    while asyncio.get_running_loop().time() < deadline:
        try:
            async with scene.http.post(receiver.webhook_url, json=body, headers=headers) as answer:
                answers.append(f"{body['status']}: {answer.status} {(await answer.text()).strip()[:200]}")
                if answer.status < 300:
                    return answers
        except (aiohttp.ClientError, OSError, TimeoutError) as error:
            answers.append(f"{body['status']}: {type(error).__name__}")
        await asyncio.sleep(0.3)
    raise AssertionError(f"the webhook took the alert not within {patience:g} s: {answers[-3:]}")


async def new_namespace(admin: Api, name: str) -> None:
    await admin.create({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}})
    await eventually(lambda: admin.find("v1/serviceaccounts", "default", name), timeout=30, interval=0.2)


async def rolled_out(admin: Api, namespace: str, name: str = TARGET) -> None:
    async def probe() -> bool:
        found = await admin.get(DEPLOYMENTS, name, namespace)
        return bool(found.get("status", {}).get("availableReplicas") == found["spec"]["replicas"])

    await eventually(probe, timeout=60, interval=0.3, what=f"{namespace}/{name} rolled out")


async def observed(admin: Api, namespace: str, name: str = TARGET) -> None:
    async def probe() -> bool:
        found = await admin.get(DEPLOYMENTS, name, namespace)
        seen = found["status"].get("observedGeneration", 0) >= found["metadata"]["generation"]
        return bool(seen and found["status"].get("updatedReplicas"))

    await eventually(probe, timeout=60, interval=0.2, what=f"{namespace}/{name} observed")


def knows_policies(proxy: FaultProxy, since: float) -> bool:
    """Whether the operator has listed the policies after that moment (its resync does every other second)."""
    return any(
        one.resource == "remediationpolicies" and one.method == "GET" and one.at > since and one.answered == 200
        for one in reversed(proxy.seen[-2000:])
        if not one.is_watch
    )


def effects(writes: list[Request]) -> list[str]:
    """Those that changed the target, or what is beside it."""
    return [
        f"{one.received_at} {one.verb} {one.uri}"
        for one in writes
        if one.resource in CHANGED and one.status < 300 and "dryRun=" not in one.uri and one.name != KEPT
    ]


def steps(found: Json) -> list[Json]:
    return list((found.get("status") or {}).get("steps") or [])


def phase(found: Json) -> str:
    return str((found.get("status") or {}).get("phase", ""))


def operation(found: Json, index: int, *, back: bool = False) -> str:
    step = steps(found)[index]
    return str((step.get("revert") or {}).get("operation") if back else step.get("operation"))


def tell(found: Json) -> list[str]:
    """An incident's story for a person who reads a failed test."""
    status = found.get("status") or {}
    lines = [f"incident {found['metadata']['name']}: {status.get('phase')}: {status.get('message')}"]
    lines += [
        f"  step {one['name']}: {one['state']} {one.get('reason')} attempts={one.get('attempts')} "
        f"operation={one.get('operation')} revert={one.get('revert')}"
        for one in steps(found)
    ]
    return lines + [f"  {e['at']} {e['actor']} {e['reason']}: {e['message']}" for e in status.get("timeline") or []]


async def touch(admin: Api, seen: Seen) -> None:
    """Another writer was quicker: makes the write that waits a conflict."""
    if seen.method == "POST" and seen.resource == "incidents":
        await admin.create(seen.json, seen.namespace)
        return
    # What is about to be created cannot be touched, but what it is for can.
    resource, name = TOUCHED.get(seen.resource.partition("/")[0], DEPLOYMENTS), seen.name
    if seen.method == "POST":
        resource, name = DEPLOYMENTS, TARGET
    patch = {"metadata": {"annotations": {"example.com/touched": uuid.uuid4().hex}}}
    try:
        # Another writer than who made it: a Secret's values count as the same while their manager has written nothing.
        await admin.patch(resource, name, patch, seen.namespace, fieldManager="another-writer")
    except ApiError as error:
        raise AssertionError(f"cannot touch {seen}: {error}") from error


async def gather_limited(limit: int, *work: Awaitable[None]) -> None:
    """All of them, so many at once."""
    slots = asyncio.Semaphore(limit)

    async def one(job: Awaitable[None]) -> None:
        async with slots:
            await job

    await asyncio.gather(*(one(job) for job in work))


def is_aside(name: str) -> bool:
    """Whether the write has no fixed place among the remediation's own."""
    return name.startswith(ASIDE) or " attempt " in name or (name.endswith(")") and name[-3:-1].strip("(").isdigit())


def _arrows(states: Any) -> str:
    return " → ".join(f"{replicas}×{image}" for replicas, image in states)


def _clock(at: float) -> str:
    return datetime.fromtimestamp(at, UTC).strftime("%H:%M:%S.%f")[:-3]
