"""What game days happen on: a cluster with a real node, Paramedic in its pods, real monitoring, covet's databases,
AWS as moto plays it.

    with Ground(folder, namespaces) as ground, ground.scene(day, namespace, helped=True) as scene:
        ...

Everything is ended when the context is left, and, should this process be killed, by the kernel.
"""

from __future__ import annotations

import json
import secrets
import string
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol, Self

import yaml

from gameday import aws
from gameday.envoyfilters import install_definition
from gameday.installation import adapted, secret, settings_for
from gameday.load import Load
from gameday.mesh import ControlPlane, injected
from gameday.monitoring import Discovery, ReachablePrometheus
from gameday.outage import outage_of
from gameday.scene import Scene
from gameday.stores import Stores, stores
from images.catalog import build
from images.envoy import build_envoy
from testbed import toolchain
from testbed.access import write_private
from testbed.audit import AuditLog, seconds_since_1970
from testbed.cluster import Cluster
from testbed.monitoring import Alertmanager
from testbed.operator_process import NAMESPACE as OPERATOR_NAMESPACE
from testbed.ports import Ports
from testbed.processes import ProcessError, wait_until
from testbed.realnode import RealNode, load_image

Json = dict[str, Any]

HERE = Path(__file__).parent
MANIFESTS = toolchain.HACK.parent / "manifests"
DATABASES = 2
"""Which of the machine's further addresses is theirs (`RealNode.add_address`)."""
PROCESSES = 20
"""The pods' part of the processors is that of so many processes."""
ROLLOUT_SECONDS = 120
WELL_SECONDS = 5


class Fault(Protocol):
    """What a scene needs to know of a game day."""

    @property
    def policy(self) -> str: ...
    @property
    def rate(self) -> float: ...
    @property
    def recreate(self) -> bool: ...
    @property
    def settings(self) -> Mapping[str, str]: ...
    @property
    def sidecar(self) -> bool: ...
    @property
    def aurora(self) -> bool: ...
    @property
    def balancer(self) -> bool: ...
    def rule(self, namespace: str) -> Json: ...


class Ground:
    """`namespaces` are those that covet may run in: the operator's connections are for these."""

    def __init__(self, folder: Path, namespaces: Sequence[str], say: Callable[[str], None] = print) -> None:
        self.folder = folder
        self.cluster = Cluster(folder / "cluster", RealNode)
        self._namespaces = list(namespaces)
        self.say = say
        self._stack = ExitStack()
        self._ports = Ports()
        self._has_envoy = False

    def __enter__(self) -> Self:
        try:
            self._start()
        except BaseException:
            self._stack.close()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()

    @property
    def audit(self) -> AuditLog:
        """The API server's own record."""
        return AuditLog(self.cluster.audit_log)

    def _start(self) -> None:
        began = time.monotonic()
        toolchain.ensure(*toolchain.CLUSTER, *toolchain.NODE, *toolchain.MONITORING)
        images = [self._image("covet"), self._image("paramedic")]
        self._stack.callback(self._ports.release)
        self._stack.enter_context(self.cluster)
        self.node.favour_pods(PROCESSES)
        for image in images:
            load_image(self.cluster.folder, image)
            image.unlink()
        self.stores: Stores = self._stack.enter_context(
            stores(self.node.add_address(DATABASES), str(self.node.addresses.all))
        )
        self.node.favour(self.stores.postgres.pid)  # in production it has a machine of its own
        self.aws = self._stack.enter_context(aws.opened(self.folder, self.node))
        prometheus_port = self._ports.reserve()
        self._install_paramedic(f"http://{self._machine}:{prometheus_port}")
        self.alertmanagers = [self._alertmanager("first"), self._alertmanager("second")]
        self.prometheus = ReachablePrometheus(
            self.folder / "prometheus",
            host=self._machine,
            port=prometheus_port,
            alertmanagers=[self.alertmanagers[0].url],
        )
        self._stack.enter_context(self.prometheus)
        install_definition(self.cluster)
        self.say(f"the ground is there, after {time.monotonic() - began:.0f} s")

    @property
    def node(self) -> RealNode:
        """The cluster's."""
        assert isinstance(self.cluster.node, RealNode)
        return self.cluster.node

    @property
    def _machine(self) -> str:
        """This machine, as pods reach it."""
        return self.node.addresses.machine

    def _image(self, name: str) -> Path:
        self.folder.mkdir(parents=True, exist_ok=True)
        return build(name, self.folder)

    # -- Paramedic ----------------------------------------------------------------------------------------------------

    def _install_paramedic(self, prometheus_url: str) -> None:
        """Two replicas, ready."""
        kubectl = self.cluster.kubectl
        kubectl("apply", "-f", MANIFESTS.parent / "crds")
        definitions = ("crd/incidents.paramedic.dev", "crd/remediationpolicies.paramedic.dev")
        kubectl("wait", "--for=condition=Established", "--timeout=30s", *definitions)
        self.webhook_token = secrets.token_urlsafe(24)
        built = kubectl("kustomize", MANIFESTS)
        settings = settings_for(self.stores, self.aws, prometheus_url, self._namespaces)
        kubectl("apply", "-f", "-", input=adapted(built, settings, self.webhook_token, self.stores.password))
        self._wait_for("deployment/paramedic", OPERATOR_NAMESPACE)

    def _alertmanager(self, name: str) -> Alertmanager:
        """One of its own: two that know nothing of each other tell everything twice."""
        token = write_private(self.folder / f"alertmanager-{name}" / "token", self.webhook_token)
        address = self._cluster_ip("paramedic", OPERATOR_NAMESPACE)
        url = f"http://{address}:8080/webhook/alertmanager"
        made = Alertmanager(self.folder / f"alertmanager-{name}", webhook_url=url, token_file=token)
        return self._stack.enter_context(made)

    def alert_states(self) -> list[str]:
        """Of all alerts that Prometheus knows of now: pending or firing. Unknown ones when it cannot be asked."""
        try:
            return [str(one["state"]) for one in self.prometheus.alerts()]
        except (OSError, ProcessError):
            return ["unknown"]

    def fired_at(self, namespace: str) -> float | None:
        """When the first alert of the namespace that is firing now began to (seconds since 1970); None: there is none.
        Prometheus says it, to the Alertmanager.
        """
        try:
            alerts = self.alertmanagers[0].alerts()
        except (OSError, ProcessError):
            return None
        began = [one["startsAt"] for one in alerts if one["labels"].get("namespace") == namespace]
        return min((seconds_since_1970(one) for one in began), default=None)

    def paramedic_log(self) -> str:
        """What its pods have logged until now."""
        words = ("logs", "-n", OPERATOR_NAMESPACE, "-l", "app.kubernetes.io/name=paramedic", "--tail=-1", "--prefix")
        return self.cluster.kubectl(*words)

    # -- covet --------------------------------------------------------------------------------------------------------

    @contextmanager
    def scene(self, day: Fault, namespace: str, *, helped: bool) -> Iterator[Scene]:
        """covet in a new namespace, well and with its users; with a policy when it is to be helped."""
        with ExitStack() as stack:
            stack.callback(self._clear, namespace)
            self.cluster.kubectl("create", "namespace", namespace)
            if day.aurora:
                stack.enter_context(self.aws.aurora.running(self.stores.password, str(self.node.addresses.all)))
            mesh = stack.enter_context(self._mesh(namespace)) if day.sidecar else None
            self._deploy(day, namespace, mesh)
            address = f"{self._cluster_ip('covet-service', namespace)}:80"
            api = self.cluster.api()
            stack.enter_context(Discovery(api, self.prometheus, namespace, address))
            way_in = f"http://{address}"
            if day.balancer:
                way_in = stack.enter_context(self.aws.balancer.running(address))
            self.prometheus.set_rules([{"name": "covet", "rules": [day.rule(namespace)]}])
            stack.callback(self.prometheus.set_rules, [])
            users = Load(way_in, rate=day.rate)
            scene = stack.enter_context(Scene(self.cluster, self.node, namespace, self.stores, self.aws, users))
            self._wait_well(scene)
            if helped:  # not before: what goes wrong while covet starts is no incident
                self._apply_policy(day.policy, namespace)
            yield scene

    @contextmanager
    def _mesh(self, namespace: str) -> Iterator[ControlPlane]:
        """The control plane of the namespace's sidecars, and their image on the node."""
        if not self._has_envoy:
            image = build_envoy(self.folder)
            load_image(self.cluster.folder, image)
            image.unlink()
            self._has_envoy = True
        ports = Ports()
        try:
            with ControlPlane(self.cluster.api(), namespace, self._machine, ports.reserve()) as mesh:
                yield mesh
        finally:
            ports.release()

    def _deploy(self, day: Fault, namespace: str, mesh: ControlPlane | None) -> None:
        values = {
            "DB_HOST": self.stores.host,
            "DB_PORT": str(self.stores.postgres.port),
            "REDIS_HOST": self.stores.host,
            "REDIS_PORT": str(self.stores.redis.port),
            **(self.aws.aurora.settings if day.aurora else {}),
            **day.settings,
        }
        password = self.stores.password
        config = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "covet-config"}, "data": values}
        passwords = secret(namespace, "covet-secrets", {"DB_PASSWORD": password, "REDIS_PASSWORD": password})
        objects = [config, passwords, *yaml.safe_load_all((HERE / "manifests" / "covet.yaml").read_text())]
        for one in objects:
            if day.recreate and one["kind"] == "Deployment":
                one["spec"]["strategy"] = {"type": "Recreate"}
        if mesh:
            objects = injected(objects, mesh.address)
        listed = json.dumps({"apiVersion": "v1", "kind": "List", "items": objects})
        self.cluster.kubectl("apply", "-n", namespace, "-f", "-", input=listed)
        for name in ("covet-app", "covet-worker"):
            self._wait_for(f"deployment/{name}", namespace)

    def _apply_policy(self, name: str, namespace: str) -> None:
        text = (HERE / "policies" / f"{name}.yaml").read_text()
        given = string.Template(text).safe_substitute(DB_HOST=self.stores.host, DATABASE_VOLUME=self.aws.cloud.volume)
        self.cluster.kubectl("apply", "-n", namespace, "-f", "-", input=given)
        ready = ("wait", "-n", namespace, "--for=condition=Ready", "--timeout=30s", f"remediationpolicy/{name}")
        self.cluster.kubectl(*ready)

    def _wait_well(self, scene: Scene) -> None:
        began = time.time()

        def well() -> bool:
            seen = [one for one in scene.users.samples if one.at > time.time() - WELL_SECONDS]
            long_enough = time.time() > began + WELL_SECONDS
            return long_enough and bool(seen) and outage_of(seen, 0).began is None and not self.alert_states()

        wait_until(well, f"covet in {scene.namespace} is well", ROLLOUT_SECONDS, interval=0.5)

    def _clear(self, namespace: str) -> None:
        """As if covet had never been there. Its pods go by themselves."""
        self.stores.clear()
        self.cluster.kubectl("delete", "incidents,remediationpolicies", "--all", "-n", namespace, timeout=120)
        self.cluster.kubectl("delete", "namespace", namespace, "--ignore-not-found", "--wait=false")

    # -- small things -------------------------------------------------------------------------------------------------

    def _wait_for(self, workload: str, namespace: str) -> None:
        try:
            words = ("rollout", "status", workload, "-n", namespace, f"--timeout={ROLLOUT_SECONDS}s")
            self.cluster.kubectl(*words, timeout=ROLLOUT_SECONDS + 10)
        except RuntimeError as error:
            state = self.cluster.kubectl("describe", "pods", "-n", namespace)
            raise ProcessError(f"{error}\n{state[-3000:]}") from error

    def _cluster_ip(self, service: str, namespace: str) -> str:
        return self.cluster.kubectl("get", "service", service, "-n", namespace, "-o", "jsonpath={.spec.clusterIP}")
