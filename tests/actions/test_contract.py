"""What every action promises, on a real API server: each entry of ACTIONS, on each kind that it is for.

A new action needs an entry in CASES and nothing else here.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import pytest

from builders import NOW, Json, hpa, workload
from paramedic.actions import ACTIONS
from paramedic.actions.base import Action, Change, Clients, Observed, Outcome, annotation, may_put_back, same_state
from paramedic.actions.rollback import current_revision
from paramedic.api import ANNOTATION_BEFORE_SHUTDOWN, ANNOTATION_INCIDENT, ANNOTATION_OPERATION
from paramedic.api.connection import ConnectionSettings
from paramedic.api.incident import StepStatus
from paramedic.api.policy import READING
from paramedic.api.reasons import Reason
from paramedic.api.workload import RESOURCES, WORKLOADS, BoundTarget, bound
from paramedic.clients.connections import Connections
from paramedic.clients.kube import Kube
from paramedic.core.operation import new_operation
from paramedic.core.rollout import is_observed
from paramedic.errors import AlreadyExists, Conflict, Refused, Terminal
from products import ENVOY_FILTERS, HTTP_ROUTES, SCALED_OBJECTS, TRAFFIC_POLICIES, install
from testbed.access import Access
from testbed.api import Api, eventually
from testbed.redis import RedisServer

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
    setting: Callable[[Stage], Awaitable[None]] | None = None
    """Creates the target `covet-app` and what belongs to it; by default a workload in its second release."""
    variant: str = ""
    creates: str = ""
    """The resource that the action creates, where it does not patch its target."""
    patches: str = ""
    """The resource whose `covet-app` the action patches, where that is not its target."""

    @property
    def holder(self) -> str:
        return self.patches or (HPAS if self.with_hpa else "")

    def __str__(self) -> str:
        return f"{self.action} {self.kind}{' with an HPA' if self.with_hpa else ''} {self.variant}".rstrip()


OTHERS_RELEASE: Json = {"spec": {"template": {"metadata": {"annotations": {"release": "by others"}}}}}
OTHERS_RESTART: Json = {"spec": {"template": {"metadata": {"annotations": {ANNOTATION_OPERATION: "others"}}}}}
OTHERS_LIMIT: Json = {"metadata": {"annotations": {"nginx.ingress.kubernetes.io/limit-rpm": "7"}}}


async def in_a_mesh(stage: Stage) -> None:
    await install(stage.admin, ENVOY_FILTERS)
    spec = {"selector": {"app": "covet-app"}, "ports": [{"port": 80}]}
    service: Json = {"apiVersion": "v1", "kind": "Service", "metadata": {"name": "covet-app"}, "spec": spec}
    await stage.admin.create(service if stage.case.kind == "Service" else workload(stage.case.kind), stage.namespace)


async def behind_envoy_gateway(stage: Stage) -> None:
    await install(stage.admin, HTTP_ROUTES, TRAFFIC_POLICIES)
    spec = {"parentRefs": [{"name": "edge"}], "rules": [{"backendRefs": [{"name": "covet-service", "port": 80}]}]}
    route = {"apiVersion": "gateway.networking.k8s.io/v1", "kind": "HTTPRoute", "metadata": {"name": "covet-app"}}
    await stage.admin.create(route | {"spec": spec}, stage.namespace)


async def behind_nginx(stage: Stage) -> None:
    networking = "networking.k8s.io/v1"
    served = {"spec": {"controller": "k8s.io/ingress-nginx"}}
    await stage.admin.apply({"apiVersion": networking, "kind": "IngressClass", "metadata": {"name": "nginx"}} | served)
    notes = {"nginx.ingress.kubernetes.io/limit-rpm": "6000", "nginx.ingress.kubernetes.io/limit-rps": "50"}
    backend = {"service": {"name": "covet-service", "port": {"number": 80}}}
    ingress = {"apiVersion": networking, "kind": "Ingress", "metadata": {"name": "covet-app", "annotations": notes}}
    spec = {"ingressClassName": "nginx", "defaultBackend": backend}
    await stage.admin.create(ingress | {"spec": spec}, stage.namespace)


async def configured(stage: Stage) -> None:
    """A ConfigMap or Secret with its user, where what it held is kept, and where new values come from."""
    user = workload(name="user")
    source = {"configMapRef" if stage.case.kind == "ConfigMap" else "secretRef": {"name": "covet-app"}}
    user["spec"]["template"]["spec"]["containers"][0]["envFrom"] = [source]
    await stage.admin.apply(user, stage.namespace)
    for name, values in (("covet-app-before", {}), ("standby", {"password": "new"})):
        await stage.admin.apply(_config("Secret", name, values), stage.namespace)
    target = _config(stage.case.kind, "covet-app", {"DB_HOST": "old", "DB_PASSWORD": "old", "KEEP": "1"})
    await stage.admin.create(target, stage.namespace, fieldManager="kubectl")


def _config(kind: str, name: str, values: Json) -> Json:
    """Values as people write them."""
    field = "data" if kind == "ConfigMap" else "stringData"
    return {"apiVersion": "v1", "kind": kind, "metadata": {"name": name}, field: values}


async def exposed(stage: Stage) -> None:
    """Services with all that goes with their type, and a workload with pods of other labels too."""
    if stage.case.kind != "Service":
        await stage.admin.create(workload(stage.case.kind), stage.namespace)
        return
    ports = [{"name": "http", "port": 80}, {"name": "dns", "port": 53, "protocol": "UDP"}]
    spec: Json = {"selector": {"app": "covet-app", "tier": "web"}, "ports": ports, "sessionAffinity": "ClientIP"}
    if stage.case.variant == "NodePort":
        spec |= {"type": "NodePort", "externalTrafficPolicy": "Local", "externalIPs": ["203.0.113.7"]}
    else:
        spec |= {"type": "LoadBalancer", "loadBalancerClass": "example.com/lb", "loadBalancerIP": "203.0.113.9"}
        spec |= {"loadBalancerSourceRanges": ["10.0.0.0/8"], "externalTrafficPolicy": "Local"}
    service: Json = {"apiVersion": "v1", "kind": "Service", "metadata": {"name": "covet-app"}, "spec": spec}
    await stage.admin.create(service, stage.namespace)


_NEW_VALUES: Json = {"data": {"DB_HOST": "new", "ADDED": ""}}
_FROM_STANDBY: Json = {"valueFrom": [{"key": "DB_PASSWORD", "secretName": "standby", "secretKey": "password"}]}
_MORE_ADDRESSES: Json = {"spec": {"externalIPs": ["198.51.100.7"]}}
CONFIGURING = [
    Case("patchConfig", "ConfigMap", _NEW_VALUES, {"data": {"DB_HOST": "theirs"}}, setting=configured),
    Case(
        "patchConfig",
        "ConfigMap",
        _NEW_VALUES | {"restart": "None"},
        {"data": {"ADDED": "theirs"}},
        setting=configured,
        variant="without restarts",
    ),
    Case(
        "patchConfig",
        "Secret",
        _FROM_STANDBY,
        {"stringData": {"DB_PASSWORD": "theirs"}},
        setting=configured,
    ),
]
BLOCKING = [
    Case("blockTraffic", "Service", {}, _MORE_ADDRESSES, setting=exposed, variant="LoadBalancer"),
    Case("blockTraffic", "Service", {}, _MORE_ADDRESSES, setting=exposed, variant="NodePort"),
    Case(
        "blockTraffic",
        "Service",
        {"method": "Selector"},
        {"spec": {"selector": {"app": "theirs"}}},
        setting=exposed,
        variant="Selector",
    ),
    *(
        Case(
            "blockTraffic",
            kind,
            {"method": "NetworkPolicy", "direction": "Both", "allow": [{"cidr": "10.0.0.0/8", "ports": [{"port": 1}]}]},
            {"spec": {"policyTypes": ["Ingress"]}},
            setting=exposed,
            creates="networking.k8s.io/v1/networkpolicies",
            variant="NetworkPolicy",
        )
        for kind in ("Service", "DaemonSet")
    ),
]


async def in_service(stage: Stage) -> None:
    """What a shutdown takes down."""
    await stage.admin.apply(
        _served(stage.case.kind, replicas=3, selector={"app": "covet-app", "tier": "web"}), stage.namespace
    )


async def shut_down(stage: Stage) -> None:
    """What a shutdown has left, with an HPA in the variant that has one."""
    saved: Json = {"selector": {"app": "covet-app"}} if stage.case.kind == "Service" else {"replicas": 8}
    if stage.case.variant == "with an HPA":
        saved["hpa"] = {"name": "covet-app", "minReplicas": 2, "maxReplicas": 5}
        bare = hpa(least=2)
        bare["metadata"] = {"name": "covet-app"}
        await stage.admin.apply(bare, stage.namespace)
    manifest = _served(stage.case.kind, replicas=0, selector={"app": "emergency-shutdown"})
    manifest["metadata"]["annotations"] = {ANNOTATION_BEFORE_SHUTDOWN: json.dumps(saved)}
    await stage.admin.apply(manifest, stage.namespace)


def _served(kind: str, replicas: int, selector: Json) -> Json:
    spec = {"selector": selector, "ports": [{"port": 80}]}
    service: Json = {"apiVersion": "v1", "kind": "Service", "metadata": {"name": "covet-app"}, "spec": spec}
    return service if kind == "Service" else workload(kind, replicas=replicas)


_THEIR_SELECTOR: Json = {"spec": {"selector": {"app": "theirs"}}}
_LAST_STAGE: Json = {"do": "Scale", "stages": ["100%"], "last": True}
EMERGENCY = [
    Case("shutdown", "Service", {"selector": {"app": "nobody"}}, _THEIR_SELECTOR, setting=in_service),
    *(Case("shutdown", k, {}, {"spec": {"replicas": 7}}, setting=in_service) for k in ("Deployment", "StatefulSet")),
    Case("recover", "Service", {"do": "Traffic"}, _THEIR_SELECTOR, setting=shut_down),
    *(
        Case("recover", "Deployment", params, {"spec": {"replicas": 7}}, setting=shut_down, variant=variant)
        for params, variant in (
            ({"do": "Scale", "stages": [1]}, "to the first stage"),
            (_LAST_STAGE, "to the last stage"),
            ({"do": "Scale", "stages": ["25%"]}, "with an HPA"),
        )
    ),
    Case("recover", "StatefulSet", {"do": "Scale", "stages": ["50%"]}, {"spec": {"replicas": 7}}, setting=shut_down),
]


async def scaled_by_keda(stage: Stage) -> None:
    await install(stage.admin, SCALED_OBJECTS)
    await stage.admin.create(workload(stage.case.kind), stage.namespace)
    spec = {"scaleTargetRef": {"name": "covet-app"}, "triggers": [{"type": "cpu", "metadata": {"value": "60"}}]}
    scaled: Json = {"apiVersion": "keda.sh/v1alpha1", "kind": "ScaledObject", "metadata": {"name": "covet-app"}}
    await stage.admin.create(scaled | {"spec": spec | {"maxReplicaCount": 4}}, stage.namespace)


_QUEUE: Json = {"connection": "covet-queue", "key": "jobs", "perReplica": 100, "max": 20}
CASES = [
    *CONFIGURING,
    *EMERGENCY,
    *BLOCKING,
    *(Case("restart", kind, {}, OTHERS_RESTART) for kind in WORKLOADS),
    *(Case("rollback", kind, {}, OTHERS_RELEASE) for kind in WORKLOADS),
    *(Case("scale", kind, {"replicas": "+50%"}, {"spec": {"replicas": 7}}) for kind in ("Deployment", "StatefulSet")),
    Case("scale", "Deployment", {"replicas": 4, "maxReplicas": 9}, {"spec": {"minReplicas": 3}}, with_hpa=True),
    Case(
        "scale",
        "Deployment",
        {"replicas": 6, "scaledObject": "Patch"},
        {"spec": {"minReplicaCount": 3}},
        setting=scaled_by_keda,
        patches=SCALED_OBJECTS,
        variant="scaled by KEDA",
    ),
    *(
        Case(
            "rateLimit",
            kind,
            {"method": "EnvoyFilter"},
            {"spec": {"priority": 5}},
            setting=in_a_mesh,
            creates=ENVOY_FILTERS,
        )
        for kind in ("Deployment", "Service")
    ),
    Case(
        "rateLimit",
        "HTTPRoute",
        {"method": "BackendTrafficPolicy"},
        {"spec": {"timeout": {"http": {"requestTimeout": "5s"}}}},
        setting=behind_envoy_gateway,
        creates=TRAFFIC_POLICIES,
    ),
    Case("rateLimit", "Ingress", {"method": "Ingress", "connections": 20}, OTHERS_LIMIT, setting=behind_nginx),
    *(Case("scaleByQueue", kind, _QUEUE, {"spec": {"replicas": 7}}) for kind in ("Deployment", "StatefulSet")),
    Case("scaleByQueue", "Deployment", _QUEUE, {"spec": {"minReplicas": 3}}, with_hpa=True),
    Case(
        "scaleByQueue",
        "Deployment",
        _QUEUE | {"scaledObject": "Patch"},
        {"spec": {"minReplicaCount": 3}},
        setting=scaled_by_keda,
        patches=SCALED_OBJECTS,
        variant="scaled by KEDA",
    ),
]
PATCHING = [case for case in CASES if not case.creates]
each = pytest.mark.parametrize("case", CASES, ids=map(str, CASES))
each_patch = pytest.mark.parametrize("case", PATCHING, ids=map(str, PATCHING))
CREATING = [case for case in CASES if case.creates]
each_creation = pytest.mark.parametrize("case", CREATING, ids=map(str, CREATING))


def test_every_action_has_its_cases() -> None:
    slow = {action.name for action in ACTIONS.values() if action.slow}  # they have a contract of their own
    outside = {action.name for action in ACTIONS.values() if action.kinds == ("Connection",)}  # so have these
    assert {case.action for case in CASES} == set(ACTIONS) - READING - slow - outside


@dataclass
class Stage:
    """A workload in its second release, in a namespace of its own."""

    case: Case
    admin: Api
    kube: Kube
    namespace: str
    connections: Connections | None = None

    @property
    def action(self) -> Action:
        return ACTIONS[self.case.action]

    @property
    def params(self) -> Any:
        """A procedure's are those of its parts."""
        return (self.action.part_params or self.action.params).model_validate(self.case.params)

    @property
    def target(self) -> BoundTarget:
        return bound(self.case.kind, self.namespace, "covet-app")

    @property
    def clients(self) -> Clients:
        return Clients(self.kube, connections=self.connections)

    async def prepare(self) -> None:
        await self.create()
        if self.case.setting:
            return
        history = ACTIONS["rollback"]
        await eventually(lambda: self._recorded(history), what="the first revision is recorded")
        await eventually(lambda: self._replaced(SECOND), what="the second release is written")
        await eventually(lambda: self._recorded(history), what="the second revision is recorded")

    async def create(self) -> None:
        if self.case.setting:
            await self.case.setting(self)
            return
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
        found = await history.observe(self.target, self.clients)
        return current_revision(found) is not None and is_observed(found.target)

    @property
    def resource(self) -> str:
        return "/".join(RESOURCES[self.case.kind])

    async def workload(self) -> Json:
        return await self.admin.get(self.resource, "covet-app", self.namespace)

    async def patched(self) -> Json:
        """The object that the action patches or creates; a blank one before that."""
        if self.case.creates:
            found = await self.admin.list(self.case.creates, self.namespace)
            return next(iter(found), {"metadata": {}})
        return await self.admin.get(self.case.holder or self.resource, "covet-app", self.namespace)

    async def change_as_others_would(self, patch: Json) -> None:
        if self.case.creates:
            name = (await self.patched())["metadata"]["name"]
            await self.admin.patch(self.case.creates, name, patch, self.namespace)
            return
        resource = self.case.holder or self.resource
        await self.admin.patch(resource, "covet-app", patch, self.namespace)

    async def forestall(self, change: Change) -> None:
        """Others do something of the kind before it is done."""
        if not self.case.creates:
            await self.change_as_others_would(self.case.others)
            return
        for write in change.forward:
            theirs = copy.deepcopy(write.body)
            del theirs["metadata"]["annotations"]
            await self.admin.create(theirs, self.namespace)

    async def observe(self) -> Observed:
        return await self.action.observe_for(self.target, self.case.params, self.clients)

    async def plan(self, operation: str) -> tuple[Observed, Change]:
        seen = await self.observe()
        return seen, self.action.plan(seen, self.params, operation)

    async def settled(self, change: Change, operation: str) -> Outcome:
        return self.action.settled(await self.observe(), change.before, change.after, operation)

    async def do(self, operation: str) -> tuple[Observed, Change]:
        """Plans and applies, anew when the controllers write their status in between, as the reconciler does."""

        intents: list[Change] = []  # the first is the one that is stored: others may be of what is half done

        async def done() -> tuple[Observed, Change]:
            seen, change = await self.plan(operation)
            intents.append(change)
            await self.action.apply(change, self.clients)
            return seen, replace(change, before=intents[0].before)

        return await eventually(done, what="it is done")

    async def put_back(self, step: StepStatus) -> Change:
        """The way back, as soon as the controllers have recorded the way there."""

        operation = new_operation(NOW)

        async def done() -> Change:
            seen = await self.observe()
            may_put_back(self.action, seen, step)
            change = self.action.restore(seen, step.before or {}, operation)
            await self.action.apply(change, self.clients)
            return change

        return await eventually(done, what="it is put back")


@pytest.fixture(scope="session")
def backlog() -> Iterator[RedisServer]:
    """A queue with 950 jobs."""
    with RedisServer() as server:
        server.cli("RPUSH", "jobs", *range(950))
        yield server


@pytest.fixture
async def stage(case: Case, admin: Api, kube: Kube, namespace: str, request: pytest.FixtureRequest) -> Stage:
    prepared = Stage(case, admin, kube, namespace)
    if "connection" in case.params:
        redis = {"host": "127.0.0.1", "port": request.getfixturevalue("backlog").port, "tls": False}
        queue = {"name": case.params["connection"], "namespaces": [namespace], "redis": redis}
        prepared.connections = Connections([ConnectionSettings.model_validate(queue)], kube)
    await prepared.prepare()
    return prepared


def step_of(case: Case, change: Change, uid: str) -> StepStatus:
    target = {"namespace": "x", "name": "covet-app", "kind": case.kind, "uid": uid}
    # As stored and read again: what does not survive JSON would be found here.
    stored = {"name": "s", "action": case.action, "target": target, "before": change.before, "after": change.after}
    return StepStatus.model_validate(StepStatus.model_validate(stored).to_wire())


def governed(obj: Json) -> Json:
    """An object without what the API server and controllers write by themselves."""
    meta = obj["metadata"]
    notes = {k: v for k, v in (meta.get("annotations") or {}).items() if k.startswith("nginx.ingress.kubernetes.io/")}
    return {"spec": obj.get("spec"), "data": obj.get("data"), "labels": meta.get("labels"), "annotations": notes}


@each
async def test_planning_writes_nothing_and_gives_the_same_twice(case: Case, stage: Stage) -> None:
    operation, before = new_operation(NOW), await stage.patched()
    seen, change = await stage.plan(operation)
    copied = copy.deepcopy(seen)
    again = stage.action.plan(seen, stage.params, operation)
    assert again == change
    assert seen == copied, "planning has changed what it was given"
    assert not change.is_empty
    assert stage.action.settled(seen, change.before, change.after, operation) is Outcome.NOT_APPLIED
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
    with pytest.raises((Conflict, AlreadyExists)):
        await stage.action.apply(change, stage.clients)
    assert governed(await stage.patched()) == governed(after)
    # What is done already is not planned again, except that one can always restart.
    if case.action == "scale":
        wanted = stage.action.params.model_validate(case.params | {"replicas": _wanted(change)})
        assert stage.action.plan(await stage.observe(), wanted, operation).is_empty


def _wanted(change: Change) -> int:
    return int(next(change.after[key] for key in ("replicas", "minReplicas", "minReplicaCount") if key in change.after))


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
    if case.kind != "Secret":  # its state is who has set a key: who has put it back
        assert same_state(stage.action.state(await stage.observe()), change.before)
    if case.creates:  # what is gone is gone, however often it is deleted
        await stage.action.apply(back, stage.clients)
        assert governed(await stage.patched()) == governed(before)
        return
    with pytest.raises(Conflict):
        await stage.action.apply(back, stage.clients)


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
    await stage.forestall(change)
    assert await stage.settled(change, operation) is Outcome.UNKNOWN


@each_creation
async def test_what_is_created_has_no_field_that_is_not_known(case: Case, stage: Stage) -> None:
    """The API server drops those without a word unless it is asked."""
    _, change = await stage.plan(new_operation(NOW))
    for write in change.forward:
        taken = await stage.admin.create(write.body, stage.namespace, dryRun="All", fieldValidation="Strict")
        assert taken["metadata"]["name"] == write.body["metadata"]["name"]


@each_patch
async def test_what_was_planned_on_an_old_copy_is_not_done(case: Case, stage: Stage) -> None:
    _, change = await stage.plan(operation := new_operation(NOW))
    await stage.change_as_others_would({"metadata": {"labels": {"touched": "yes"}}})
    before = governed(await stage.patched())
    with pytest.raises(Conflict):
        await stage.action.apply(change, stage.clients)
    assert governed(await stage.patched()) == before
    assert await stage.settled(change, operation) is Outcome.NOT_APPLIED


@each_patch
async def test_a_namesake_is_never_taken_for_the_target(case: Case, stage: Stage) -> None:
    seen, change = await stage.plan(new_operation(NOW))
    await stage.admin.delete(stage.resource, "covet-app", stage.namespace, {"propagationPolicy": "Background"})
    if case.holder:
        await stage.admin.delete(case.holder, "covet-app", stage.namespace)
    await eventually(lambda: _gone(stage), what="it is gone")
    await stage.create()
    before = governed(await stage.patched())
    with pytest.raises(Conflict):
        await stage.action.apply(change, stage.clients)
    for patch in change.forward:  # the UID alone is enough
        del patch.body["metadata"]["resourceVersion"]
    with pytest.raises((Conflict, Terminal)):
        await stage.action.apply(change, stage.clients)
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
        seen = await action.observe(BoundTarget(namespace=namespace, name="covet-app"), Clients(kube))
        await action.apply(action.plan(seen, action.params(), new_operation(NOW)), Clients(kube))
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
        seen = await action.observe(BoundTarget(namespace=namespace, name="covet-app"), Clients(kube))
        named = Observed(seen.target, seen.related, incident="api-down")
        await action.apply(action.plan(named, action.params(replicas=5), new_operation(NOW)), Clients(kube))
        return True

    await eventually(done)
    found = await admin.get("apps/v1/deployments", "covet-app", namespace)
    assert annotation(found, ANNOTATION_INCIDENT) == "api-down"
