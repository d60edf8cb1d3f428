"""Everything that the story happens in, on this machine and in one temporary folder."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from demo import terminal
from testbed import toolchain
from testbed.access import KubectlError, write_private
from testbed.audit import AuditLog
from testbed.cluster import Cluster
from testbed.monitoring import Alertmanager, Prometheus
from testbed.operator_process import Operator, install
from testbed.ports import Ports
from testbed.processes import spawn

Json = dict[str, Any]

NAMESPACE = "covet"
OBJECTS = Path(__file__).with_name("covet")
RATIO = 'sum(rate(http_requests_total{job="covet",code=~"5.."}[3s])) / sum(rate(http_requests_total{job="covet"}[3s]))'
RULE: Json = {
    "alert": "CovetApiErrors",
    "expr": f"{RATIO} > 0.05",
    "for": "2s",
    "labels": {"severity": "critical", "namespace": NAMESPACE, "deployment": "covet-app"},
    "annotations": {"summary": "covet's API answers 5xx"},
}


class DemoError(RuntimeError):
    """Something that the demo shows did not happen."""


@dataclass
class World:
    """The running parts."""

    cluster: Cluster
    operator: Operator
    prometheus: Prometheus

    def kubectl(self, *args: str, show: bool = False, stdin: str | None = None) -> str:
        """Runs kubectl in covet's namespace; `show` prints the command and its answer."""
        if show:
            terminal.command(f"kubectl {' '.join(_quoted(arg) for arg in args)}")
        answer = self.cluster.kubectl("-n", NAMESPACE, *args, input=stdin)
        if show:
            terminal.output(answer)
        return answer

    def get(self, kind: str, name: str) -> Json:
        """One object as the API server has it now."""
        found: Json = json.loads(self.kubectl("get", kind, name, "-o", "json"))
        return found

    def list(self, kind: str, *args: str) -> list[Json]:
        """Objects as the API server has them now."""
        found: list[Json] = json.loads(self.kubectl("get", kind, "-o", "json", *args))["items"]
        return found

    def audit(self) -> AuditLog:
        """The API server's own record."""
        return AuditLog(self.cluster.audit_log)

    def error_ratio(self) -> float | None:
        """The share of requests answered 5xx, by Prometheus; None before it has two samples."""
        result = self.prometheus.query(RATIO)
        value = float(result[0]["value"][1]) if result else float("nan")
        return None if value != value else value

    def alert_state(self) -> str:
        """What Prometheus says of the alert: inactive, pending or firing."""
        states = [str(one["state"]) for one in self.prometheus.alerts()]
        return states[0] if states else "inactive"


@contextmanager
def world(folder: Path) -> Iterator[World]:
    """Starts everything and tells about it; all is ended when the context is left."""
    toolchain.ensure(*toolchain.CLUSTER, *toolchain.MONITORING)
    with ExitStack() as stack:
        ports = Ports()
        stack.callback(ports.release)
        covet_port = ports.reserve()
        cluster = Cluster(folder / "cluster")
        operator = Operator(cluster, folder / "operator", identity="demo")
        stack.callback(operator.close)
        services = stack.enter_context(ExitStack())
        helper = stack.enter_context(ThreadPoolExecutor(1))  # left first: what it is starting is then stopped
        monitoring = helper.submit(_start_monitoring, services, folder, operator, covet_port)
        with terminal.task("a real control plane: etcd, API server, controllers, scheduler; kwok plays the pods"):
            stack.enter_context(cluster)
        with terminal.task("Paramedic's CRDs and manifests/ applied"):
            install(cluster)
        with terminal.task("Prometheus, and Alertmanager with Paramedic's webhook and its bearer token"):
            prometheus = monitoring.result()
        parts = World(cluster, operator, prometheus)
        with terminal.task("Paramedic itself: beside the cluster, whose pods are only played, as its ServiceAccount"):
            operator.prometheus = prometheus.url
            operator.start()
            _deploy_covet(parts, folder, covet_port, stack)
            operator.wait_leading()
        with terminal.task("covet deployed, 40 requests/s, no errors"):
            until(lambda: parts.error_ratio() == 0, "covet serves without errors", 20)
            until(lambda: _rolled_out(parts), "covet's Deployments are rolled out", 20)
        yield parts


def until(probe: Callable[[], Any], what: str, seconds: float) -> Any:
    """Polls until the probe's answer is true and returns it. DemoError after so many seconds."""
    deadline = time.monotonic() + seconds
    while not (answer := probe()):
        if time.monotonic() > deadline:
            raise DemoError(f"{what}: not within {seconds:g} s")
        time.sleep(0.05)
    return answer


def _start_monitoring(services: ExitStack, folder: Path, operator: Operator, covet_port: int) -> Prometheus:
    """Alertmanager, which calls Paramedic, and Prometheus, which calls Alertmanager."""
    alertmanager = services.enter_context(
        Alertmanager(folder / "alertmanager", webhook_url=operator.webhook_url, token_file=operator.webhook_token_file)
    )
    return services.enter_context(
        Prometheus(
            folder / "prometheus",
            rules=[{"name": "covet", "rules": [RULE]}],
            targets={"covet": [f"127.0.0.1:{covet_port}"]},
            alertmanager=alertmanager.url,
        )
    )


def _deploy_covet(parts: World, folder: Path, port: int, stack: ExitStack) -> None:
    """The objects, and the process that serves what the pods would."""
    parts.cluster.kubectl("create", "namespace", NAMESPACE)
    parts.cluster.kubectl("apply", "-k", OBJECTS)
    token = until(lambda: _token(parts.cluster), "covet's ServiceAccount", 10)
    token_file = write_private(folder / "covet" / "token", token)
    argv = [sys.executable, str(Path(__file__).with_name("played")), f"--port={port}", f"--api={parts.cluster.url}"]
    argv += [f"--ca={parts.cluster.ca}", f"--token-file={token_file}"]
    child = spawn("covet", argv, folder / "covet" / "log")
    stack.callback(child.stop, 1)


def _token(cluster: Cluster) -> str | None:
    try:
        return cluster.service_account_token(NAMESPACE, "default")
    except (KubectlError, RuntimeError):
        return None


def _rolled_out(parts: World) -> bool:
    """Every Deployment is as wanted."""
    return all(_complete(one) for one in parts.list("deployments"))


def _complete(deployment: Json) -> bool:
    wanted, status = deployment["spec"]["replicas"], deployment.get("status", {})
    observed = status.get("observedGeneration") == deployment["metadata"]["generation"]
    counts = {status.get(name, 0) for name in ("replicas", "updatedReplicas", "availableReplicas")}
    return bool(observed and counts == {wanted})


def _quoted(argument: str) -> str:
    return f"'{argument}'" if any(char in argument for char in " {}*?") else argument
