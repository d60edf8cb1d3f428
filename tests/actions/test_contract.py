"""What every action promises, on a real API server: each entry of ACTIONS, on each kind that it is for.

A new action needs an entry in CASES and nothing else here.
"""

from __future__ import annotations

import copy
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass

import pytest
from kubernetes.aio import client, config

from builders import NOW, Json, hpa, workload
from paramedic.actions import ACTIONS
from paramedic.actions.base import Action, Change, Observed, Outcome, annotation, may_put_back, same_state
from paramedic.actions.rollback import current_revision
from paramedic.api import ANNOTATION_INCIDENT, ANNOTATION_OPERATION
from paramedic.api.incident import StepStatus
from paramedic.api.reasons import Reason
from paramedic.api.workload import BoundTarget
from paramedic.clients.kube import Kube
from paramedic.core.operation import new_operation
from paramedic.errors import Conflict, Refused, Terminal
from testbed.access import Access
from testbed.api import Api, eventually

PLURALS = {"Deployment": "deployments", "StatefulSet": "statefulsets", "DaemonSet": "daemonsets"}
HPAS = "autoscaling/v2/horizontalpodautoscalers"
# A second release that adds, changes and removes in every way a template can be changed.
FIRST: Json = {
    "containers": [
        {
            "name": "main",
            "image": "covet:1",
            "command": ["serve"],
            "env": [{"name": "A", "value": "1"}, {"name": "B", "value": "2"}, {"name": "C", "value": "3"}],
            "ports": [{"containerPort": 8080}],
            "resources": {"limits": {"memory": "64Mi"}},
            "volumeMounts": [{"name": "cache", "mountPath": "/cache"}],
            "readinessProbe": {"httpGet": {"path": "/healthz", "port": 8080}, "periodSeconds": 7},
        },
        {"name": "side", "image": "side:1"},
    ],
    "initContainers": [{"name": "wait", "image": "wait:1"}],
    "volumes": [{"name": "cache", "emptyDir": {}}],
    "nodeSelector": {"disk": "ssd"},
    "terminationGracePeriodSeconds": 0,
}
SECOND: Json = {
    "containers": [
        {
            "name": "main",
            "image": "covet:2",
            "args": ["--fast"],
            "env": [{"name": "C", "value": "three"}, {"name": "A", "value": "1"}, {"name": "D", "value": ""}],
            "lifecycle": {"preStop": {"exec": {"command": ["sleep", "1"]}}},
        }
    ],
    "volumes": [{"name": "data", "emptyDir": {"medium": "Memory"}}],
    "hostAliases": [{"ip": "10.0.0.1", "hostnames": ["db"]}],
    "terminationGracePeriodSeconds": 0,
    "securityContext": {"runAsNonRoot": True},
}


@dataclass(frozen=True)
class Case:
    """An action, a kind, parameters, and how somebody else would change the same fields."""

    action: str
    kind: str
    params: Json
    others: Json
    with_hpa: bool = False

    def __str__(self) -> str:
        return f"{self.action} {self.kind}{' with an HPA' if self.with_hpa else ''}"


OTHERS_RELEASE: Json = {"spec": {"template": {"metadata": {"annotations": {"release": "by others"}}}}}
OTHERS_RESTART: Json = {"spec": {"template": {"metadata": {"annotations": {ANNOTATION_OPERATION: "others"}}}}}
CASES = [
    *(Case("restart", kind, {}, OTHERS_RESTART) for kind in PLURALS),
    *(Case("rollback", kind, {}, OTHERS_RELEASE) for kind in PLURALS),
    *(Case("scale", kind, {"replicas": "+50%"}, {"spec": {"replicas": 7}}) for kind in ("Deployment", "StatefulSet")),
    Case("scale", "Deployment", {"replicas": 4, "maxReplicas": 9}, {"spec": {"minReplicas": 3}}, with_hpa=True),
]
each = pytest.mark.parametrize("case", CASES, ids=map(str, CASES))


def test_every_action_has_its_cases() -> None:
    assert {case.action for case in CASES} == set(ACTIONS)


@pytest.fixture
async def kube(cluster: Access) -> AsyncIterator[Kube]:
    configuration = client.Configuration()
    await config.load_kube_config(config_file=str(cluster.kubeconfig), client_configuration=configuration)
    async with Kube(configuration) as opened:
        yield opened


@dataclass
class Stage:
    """A workload in its second release, in a namespace of its own."""

    case: Case
    admin: Api
    kube: Kube
    namespace: str

    @property
    def action(self) -> Action:
        return ACTIONS[self.case.action]

    @property
    def target(self) -> BoundTarget:
        return BoundTarget(kind=self.case.kind, namespace=self.namespace, name="covet-app")

    async def prepare(self) -> None:
        await self.create()
        history = ACTIONS["rollback"]
        await eventually(lambda: self._recorded(history), what="the first revision is recorded")
        await eventually(lambda: self._replaced(SECOND), what="the second release is written")
        await eventually(lambda: self._recorded(history), what="the second revision is recorded")

    async def create(self) -> None:
        manifest = workload(self.case.kind)
        manifest["spec"]["template"]["spec"] = copy.deepcopy(FIRST)
        await self.admin.create(manifest, self.namespace)
        if self.case.with_hpa:
            bare = hpa(least=None)
            bare["metadata"] = {"name": "covet-app"}
            await self.admin.create(bare, self.namespace)

    async def _replaced(self, template: Json) -> bool:
        present = await self.workload()
        present["spec"]["template"]["spec"] = copy.deepcopy(template)
        await self.admin.replace(present, self.namespace)
        return True

    async def _recorded(self, history: Action) -> bool:
        return current_revision(await history.observe(self.target, self.kube)) is not None

    @property
    def resource(self) -> str:
        return f"apps/v1/{PLURALS[self.case.kind]}"

    async def workload(self) -> Json:
        return await self.admin.get(self.resource, "covet-app", self.namespace)

    async def patched(self) -> Json:
        """The object that the action patches."""
        return await self.admin.get(HPAS, "covet-app", self.namespace) if self.case.with_hpa else await self.workload()

    async def change_as_others_would(self, patch: Json) -> None:
        resource = HPAS if self.case.with_hpa else self.resource
        await self.admin.patch(resource, "covet-app", patch, self.namespace)

    async def observe(self) -> Observed:
        return await self.action.observe(self.target, self.kube)

    async def plan(self, operation: str) -> tuple[Observed, Change]:
        seen = await self.observe()
        return seen, self.action.plan(seen, self.action.params.model_validate(self.case.params), operation)

    async def settled(self, change: Change, operation: str) -> Outcome:
        return self.action.settled(await self.observe(), change.before, operation)

    async def do(self, operation: str) -> tuple[Observed, Change]:
        """Plans and applies, anew when the controllers write their status in between, as the reconciler does."""

        async def done() -> tuple[Observed, Change]:
            seen, change = await self.plan(operation)
            await self.action.apply(change, self.kube)
            return seen, change

        return await eventually(done, what="it is done")

    async def put_back(self, step: StepStatus) -> Change:
        """The way back, as soon as the controllers have recorded the way there."""

        async def done() -> Change:
            seen = await self.observe()
            may_put_back(self.action, seen, step)
            change = self.action.restore(seen, step.before or {}, new_operation(NOW))
            await self.action.apply(change, self.kube)
            return change

        return await eventually(done, what="it is put back")


@pytest.fixture
async def stage(case: Case, admin: Api, kube: Kube, namespace: str) -> Stage:
    prepared = Stage(case, admin, kube, namespace)
    await prepared.prepare()
    return prepared


def step_of(case: Case, change: Change, uid: str) -> StepStatus:
    target = {"namespace": "x", "name": "covet-app", "kind": case.kind, "uid": uid}
    # As stored and read again: what does not survive JSON would be found here.
    stored = {"name": "s", "action": case.action, "target": target, "before": change.before, "after": change.after}
    return StepStatus.model_validate(StepStatus.model_validate(stored).to_wire())


def governed(obj: Json) -> Json:
    """An object without what the API server and controllers write by themselves."""
    return {"spec": obj["spec"], "labels": obj["metadata"].get("labels")}


@each
async def test_planning_writes_nothing_and_gives_the_same_twice(case: Case, stage: Stage) -> None:
    operation, before = new_operation(NOW), await stage.patched()
    seen, change = await stage.plan(operation)
    copied = copy.deepcopy(seen)
    again = stage.action.plan(seen, stage.action.params.model_validate(case.params), operation)
    assert again == change
    assert seen == copied, "planning has changed what it was given"
    assert not change.is_empty
    assert stage.action.settled(seen, change.before, operation) is Outcome.NOT_APPLIED
    assert governed(await stage.patched()) == governed(before)
    assert annotation(await stage.patched(), ANNOTATION_OPERATION) == ""


@each
async def test_applying_does_it_once_and_leaves_its_stamp(case: Case, stage: Stage) -> None:
    operation, before = new_operation(NOW), await stage.patched()
    _, change = await stage.do(operation)
    after = await stage.patched()
    assert annotation(after, ANNOTATION_OPERATION) == operation
    assert "paramedic" in {entry["manager"] for entry in after["metadata"]["managedFields"]}
    assert governed(after) != governed(before)
    assert await stage.settled(change, operation) is Outcome.APPLIED
    assert same_state(stage.action.state(await stage.observe()), change.after)
    with pytest.raises(Conflict):
        await stage.action.apply(change, stage.kube)
    assert governed(await stage.patched()) == governed(after)
    # What is done already is not planned again, except that one can always restart.
    if case.action == "scale":
        again = stage.action.plan(await stage.observe(), stage.action.params(replicas=_wanted(change)), operation)
        assert again.is_empty


def _wanted(change: Change) -> int:
    return int(change.after.get("replicas") or change.after["minReplicas"])


@each
async def test_the_inverse_restores_exactly(case: Case, stage: Stage) -> None:
    before = await stage.patched()
    seen, change = await stage.do(new_operation(NOW))
    if not stage.action.undoable:
        with pytest.raises(Refused) as refusal:
            stage.action.restore(await stage.observe(), change.before, new_operation(NOW))
        assert refusal.value.reason is Reason.NOT_PUT_BACK
        return
    back = await stage.put_back(step_of(case, change, seen.uid))
    assert governed(await stage.patched()) == governed(before)
    assert same_state(stage.action.state(await stage.observe()), change.before)
    with pytest.raises(Conflict):
        await stage.action.apply(back, stage.kube)


@each
async def test_hands_off_when_others_have_changed_the_same_fields(case: Case, stage: Stage) -> None:
    seen, change = await stage.do(operation := new_operation(NOW))
    await stage.change_as_others_would(case.others)
    changed = governed(await stage.patched())
    with pytest.raises(Refused) as refusal:
        may_put_back(stage.action, await stage.observe(), step_of(case, change, seen.uid))
    assert refusal.value.reason is Reason.TARGET_CHANGED
    assert "covet-app was changed by others since" in str(refusal.value)
    assert governed(await stage.patched()) == changed
    # The stamp tells that it was done, whatever others have done since.
    assert await stage.settled(change, operation) is Outcome.APPLIED


@each
async def test_an_effect_of_others_is_neither_done_nor_not_done(case: Case, stage: Stage) -> None:
    _, change = await stage.plan(operation := new_operation(NOW))
    await stage.change_as_others_would(case.others)
    assert await stage.settled(change, operation) is Outcome.UNKNOWN


@each
async def test_what_was_planned_on_an_old_copy_is_not_done(case: Case, stage: Stage) -> None:
    _, change = await stage.plan(operation := new_operation(NOW))
    await stage.change_as_others_would({"metadata": {"labels": {"touched": "yes"}}})
    before = governed(await stage.patched())
    with pytest.raises(Conflict):
        await stage.action.apply(change, stage.kube)
    assert governed(await stage.patched()) == before
    assert await stage.settled(change, operation) is Outcome.NOT_APPLIED


@each
async def test_a_namesake_is_never_taken_for_the_target(case: Case, stage: Stage) -> None:
    seen, change = await stage.plan(new_operation(NOW))
    await stage.admin.delete(stage.resource, "covet-app", stage.namespace, {"propagationPolicy": "Background"})
    if case.with_hpa:
        await stage.admin.delete(HPAS, "covet-app", stage.namespace)
    await eventually(lambda: _gone(stage), what="it is gone")
    await stage.create()
    before = governed(await stage.patched())
    with pytest.raises(Conflict):
        await stage.action.apply(change, stage.kube)
    for patch in change.forward:  # the UID alone is enough
        del patch.body["metadata"]["resourceVersion"]
    with pytest.raises((Conflict, Terminal)):
        await stage.action.apply(change, stage.kube)
    assert governed(await stage.patched()) == before
    with pytest.raises(Refused) as refusal:
        may_put_back(stage.action, await stage.observe(), step_of(case, change, seen.uid))
    assert refusal.value.reason is Reason.TARGET_REPLACED


async def _gone(stage: Stage) -> bool:
    return await stage.admin.find(stage.resource, "covet-app", stage.namespace) is None


# -- single promises that need a cluster -------------------------------------------------------------------------------


async def test_rollback_restores_what_kubectl_would(admin: Api, kube: Kube, namespace: str, cluster: Access) -> None:
    """The same template as `kubectl rollout undo` on a twin."""
    for name in ("covet-app", "twin"):
        manifest = workload(name=name)
        manifest["spec"]["template"]["spec"] = copy.deepcopy(FIRST)
        manifest["metadata"]["annotations"] = {"kubernetes.io/change-cause": "the first"}
        await admin.create(manifest, namespace)
        await eventually(_history_of(admin, namespace, name, 1), what="first")
        present = await admin.get("apps/v1/deployments", name, namespace)
        present["spec"]["template"]["spec"] = copy.deepcopy(SECOND)
        present["metadata"]["annotations"]["kubernetes.io/change-cause"] = "the second"
        await eventually(_replacing(admin, namespace, name, present["metadata"]["annotations"]), what="second")
        await eventually(_history_of(admin, namespace, name, 2), what="second")
    action = ACTIONS["rollback"]

    async def done() -> bool:
        seen = await action.observe(BoundTarget(namespace=namespace, name="covet-app"), kube)
        await action.apply(action.plan(seen, action.params(), new_operation(NOW)), kube)
        return True

    await eventually(done)
    cluster.kubectl("rollout", "undo", "deployment/twin", "-n", namespace)
    ours, theirs = [await admin.get("apps/v1/deployments", name, namespace) for name in ("covet-app", "twin")]
    template = theirs["spec"]["template"]
    template["metadata"]["labels"] = {"app": "covet-app"}
    assert ours["spec"]["template"] == template
    assert annotation(ours, "kubernetes.io/change-cause") == annotation(theirs, "kubernetes.io/change-cause")
    assert annotation(ours, "kubernetes.io/change-cause") == "the first"


def _history_of(admin: Api, namespace: str, name: str, count: int) -> Callable[[], Awaitable[bool]]:
    async def recorded() -> bool:
        found = await admin.list("apps/v1/replicasets", namespace, labelSelector=f"app={name}")
        return len(found) == count

    return recorded


def _replacing(admin: Api, namespace: str, name: str, annotations: Json) -> Callable[[], Awaitable[bool]]:
    async def replaced() -> bool:
        present = await admin.get("apps/v1/deployments", name, namespace)
        present["spec"]["template"]["spec"] = copy.deepcopy(SECOND)
        present["metadata"]["annotations"] |= {k: v for k, v in annotations.items() if k.startswith("kubernetes.io/")}
        await admin.replace(present, namespace)
        return True

    return replaced


async def test_the_incident_is_named_beside_the_operation(admin: Api, kube: Kube, namespace: str) -> None:
    await admin.create(workload(), namespace)
    action = ACTIONS["scale"]

    async def done() -> bool:
        seen = await action.observe(BoundTarget(namespace=namespace, name="covet-app"), kube)
        named = Observed(seen.target, seen.related, incident="api-down")
        await action.apply(action.plan(named, action.params(replicas=5), new_operation(NOW)), kube)
        return True

    await eventually(done)
    found = await admin.get("apps/v1/deployments", "covet-app", namespace)
    assert annotation(found, ANNOTATION_INCIDENT) == "api-down"
