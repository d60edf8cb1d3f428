"""The test bed itself: real rollouts, an honest audit log, and nothing left behind."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from leftovers import commands_about
from testbed import certificates, toolchain
from testbed.access import Access, KubectlError
from testbed.api import Api, ApiError, eventually
from testbed.audit import AuditLog
from testbed.cluster import Cluster, ClusterError
from testbed.monitoring import Alertmanager, Prometheus
from testbed.nodes import NEVER_READY
from testbed.ports import Ports
from testbed.processes import Identity, ProcessError, spawn, wait_until
from testbed.rest import Rest

linux_only = pytest.mark.skipif(sys.platform != "linux", reason="needs /proc and PR_SET_PDEATHSIG")

START_AND_HANG = """
import sys, time
from testbed.cluster import Cluster
Cluster(sys.argv[1]).start()
print("started", flush=True)
time.sleep(600)
"""


STORES_AND_HANG = """
import time
from testbed.postgres import PostgresServer
from testbed.redis import RedisServer
with PostgresServer(), RedisServer(password="sesame"):
    print("started", flush=True)
    time.sleep(600)
"""
RESERVE = """
import sys
from testbed import ports
print("free" if ports._lock(int(sys.argv[1])) else "taken", flush=True)
"""
BUILD = """
import sys
from pathlib import Path
from testbed import toolchain
toolchain.MODULES = {"etcd": toolchain.Module("etcd", {"etcd": "somewhere"})}
toolchain.find_go = lambda *_: Path(sys.argv[1])
toolchain.ensure("etcd")
"""


def deployment(name: str, image: str, **annotations: str) -> dict[str, Any]:
    labels = {"app": name}
    template = {
        "metadata": {"labels": labels, "annotations": annotations},
        "spec": {"containers": [{"name": "main", "image": image}]},
    }
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": name},
        "spec": {"replicas": 3, "selector": {"matchLabels": labels}, "template": template},
    }


@contextmanager
def python(code: str, *arguments: str | int | Path, **environment: str) -> Iterator[subprocess.Popen[str]]:
    """Ended at the end: a test that fails must not wait for it."""
    environment = {**os.environ, "PYTHONPATH": str(toolchain.HACK), **environment}
    argv = [sys.executable, "-c", code, *map(str, arguments)]
    with subprocess.Popen(argv, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        try:
            yield process
        finally:
            process.kill()


async def ready_replicas(admin: Api, namespace: str, name: str) -> int:
    found = await admin.get("apps/v1/deployments", name, namespace)
    return int(found["status"].get("readyReplicas", 0))


async def test_a_deployment_rolls_out(admin: Api, namespace: str) -> None:
    await admin.create(deployment("web", "shop/web:1"), namespace)

    async def all_ready() -> bool:
        return await ready_replicas(admin, namespace, "web") == 3

    await eventually(all_ready)


@pytest.mark.parametrize(
    ("image", "annotations"),
    [("shop/web:bad", {}), ("shop/web:broken-2", {}), ("shop/web:1", {NEVER_READY: "true"})],
    ids=["bad", "broken", "annotation"],
)
async def test_a_bad_release_hangs(admin: Api, namespace: str, image: str, annotations: dict[str, str]) -> None:
    await admin.create(deployment("web", image, **annotations), namespace)

    async def running() -> list[dict[str, Any]]:
        pods = await admin.list("v1/pods", namespace)
        return pods if len(pods) == 3 and all(pod["status"]["phase"] == "Running" for pod in pods) else []

    pods = await eventually(running)
    conditions = {one["type"]: one["status"] for pod in pods for one in pod["status"]["conditions"]}
    assert conditions["Ready"] == "False"
    assert await ready_replicas(admin, namespace, "web") == 0


async def test_the_audit_log_witnesses_a_write(admin: Api, namespace: str, audit: AuditLog) -> None:
    mark = audit.mark()
    body = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "settings"}, "data": {"a": "1"}}
    await admin.create(body, namespace)
    await admin.patch("v1/configmaps", "settings", {"data": {"a": "2"}}, namespace)
    expected = [("create", "settings", 201), ("patch", "settings", 200)]

    def seen() -> bool:
        writes = audit.writes(mark, user="admin", namespace=namespace)
        return [(one.verb, one.name or "settings", one.status) for one in writes] == expected

    await eventually(seen)


async def test_another_token_has_only_its_own_rights(cluster: Access, admin: Api, namespace: str) -> None:
    await admin.create({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "nobody"}}, namespace)
    token = cluster.service_account_token(namespace, "nobody")
    async with admin.with_token(token) as nobody:
        with pytest.raises(ApiError) as refusal:
            await nobody.list("v1/secrets", namespace)
    assert (refusal.value.status, refusal.value.reason) == (403, "Forbidden")
    kubeconfig = cluster.kubeconfig_for(token)
    assert f"serviceaccount:{namespace}:nobody" in cluster.kubectl("--kubeconfig", kubeconfig, "auth", "whoami")


async def test_the_api_server_can_be_restarted(own_cluster: Cluster, admin: Api, namespace: str) -> None:
    own_cluster.restart_apiserver()
    assert await admin.get("v1/namespaces", namespace)


@linux_only
def test_two_clusters_side_by_side_and_a_stop_that_leaves_nothing(cluster: Access, tmp_path: Path) -> None:
    with Cluster(tmp_path / "second") as second:
        identities = [Identity.of(pid) for pid in second.pids.values()]
        assert all(identities)
        assert second.url != cluster.credentials().url
        second.kubectl("create", "namespace", "only-here")
        assert "only-here" not in cluster.kubectl("get", "namespaces", "-o", "name")
        with pytest.raises(ClusterError, match="another cluster runs"):
            Cluster(tmp_path / "second").start()
    assert not any(identity.alive() for identity in identities if identity)
    assert commands_about(tmp_path) == []


@linux_only
async def test_a_parent_killed_with_9_leaves_nothing(tmp_path: Path) -> None:
    with python(START_AND_HANG, tmp_path) as parent:
        assert parent.stdout is not None
        assert parent.stdout.readline() == "started\n"
        assert len(commands_about(tmp_path)) == 6  # it and its five programs
        parent.send_signal(signal.SIGKILL)
    await eventually(lambda: not commands_about(tmp_path), timeout=5)


@linux_only
async def test_databases_whose_parent_is_killed_with_9_leave_nothing(tmp_path: Path) -> None:
    tmp_path.chmod(0o711)  # PostgreSQL's user may enter
    with tempfile.TemporaryDirectory(prefix="stores-") as name:
        folder = Path(name)
        folder.chmod(0o711)
        with python(STORES_AND_HANG, TMPDIR=name) as parent:
            assert parent.stdout is not None
            assert parent.stdout.readline() == "started\n"
            assert len(list(folder.iterdir())) == 2
            parent.send_signal(signal.SIGKILL)
        await eventually(lambda: list(folder.iterdir()) == [], timeout=10)
        await eventually(lambda: commands_about(folder) == [], timeout=10)


@linux_only
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL], ids=["Ctrl-C", "kill -9"])
async def test_a_build_that_is_cut_short_leaves_nothing_running(tmp_path: Path, number: signal.Signals) -> None:
    go = tmp_path / "go"
    go.write_text(f'#!/bin/sh\necho x >"$GOTMPDIR/b001"\ntouch {tmp_path}/began\nsleep 4 # a compiler\nsleep 600\n')
    go.chmod(0o755)
    with python(BUILD, go, PARAMEDIC_CACHE=str(tmp_path / "cache"), TMPDIR=str(tmp_path)) as parent:
        await eventually((tmp_path / "began").exists)
        parent.send_signal(number)
        parent.wait(10)
    await eventually(lambda: commands_about(tmp_path) == [], timeout=2)
    tools = tmp_path / "cache" / "tools"
    assert [one.name[:6] for one in tools.iterdir()] == ([] if number == signal.SIGINT else [".etcd-"])
    assert not list(tmp_path.glob("go-build*"))


@linux_only
async def test_a_cluster_that_cannot_start_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, listener: int
) -> None:
    monkeypatch.setattr(Ports, "reserve", lambda self: listener)
    with pytest.raises(ProcessError, match="address already in use"):
        Cluster(tmp_path).start()
    assert commands_about(tmp_path) == []


def test_a_child_outlives_the_thread_that_asked_for_it(tmp_path: Path) -> None:
    started = []
    thread = threading.Thread(target=lambda: started.append(spawn("sleep", ["sleep", "60"], tmp_path / "log")))
    thread.start()
    thread.join()
    child = started[0]
    assert not child.wait(0.3)
    child.stop()
    assert not child.alive()


def test_a_child_that_dies_is_reported_with_its_last_words(tmp_path: Path) -> None:
    child = spawn("talker", ["sh", "-c", "echo no such disk; exit 3"], tmp_path / "log")
    with pytest.raises(ProcessError, match=r"(?s)talker ended with exit code 3.*no such disk"):
        wait_until(lambda: False, "the talker", 10, [child])


@linux_only
def test_a_recycled_pid_is_never_signalled(tmp_path: Path) -> None:
    child = spawn("sleep", ["sleep", "60"], tmp_path / "log")
    Identity(child.pid, "1").send(signal.SIGKILL)
    assert not child.wait(0.2)
    child.stop()


async def test_an_alert_reaches_a_webhook_by_itself(tmp_path: Path, webhook: Webhook) -> None:
    token = tmp_path / "token"
    token.write_text("sesame")
    rule = {"alert": "Down", "expr": "up == 0", "labels": {"severity": "page"}}
    rules = [{"name": "shop", "rules": [rule]}]
    targets = {"shop": ["127.0.0.1:9"]}
    with (
        Alertmanager(tmp_path / "am", webhook_url=webhook.url, token_file=token) as alertmanager,
        Prometheus(tmp_path / "prom", rules=rules, targets=targets, alertmanager=alertmanager.url),
    ):
        await eventually(lambda: webhook.received, timeout=20)
    authorization, body = webhook.received[0]
    assert authorization == "Bearer sesame"
    assert [alert["labels"]["alertname"] for alert in body["alerts"]] == ["Down"]
    assert commands_about(tmp_path) == []


def test_ports_are_handed_out_once(listener: int, monkeypatch: pytest.MonkeyPatch) -> None:
    one, other = Ports(), Ports()
    taken = [ports.reserve() for ports in (one, other) for _ in range(20)]
    assert len(set(taken)) == len(taken)
    monkeypatch.setattr("testbed.ports.LOWEST", listener)
    monkeypatch.setattr("testbed.ports._highest", lambda: listener + 10)
    assert other.reserve() > listener
    one.release()
    other.release()


def test_no_two_processes_have_the_same_port_whatever_their_tmpdir(tmp_path: Path) -> None:
    ports = Ports()
    with python(RESERVE, ports.reserve(), TMPDIR=str(tmp_path)) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == "taken\n"
    ports.release()


def test_a_kubectl_that_hangs_is_an_error_of_kubectl(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hanging = tmp_path / "kubectl"
    hanging.write_text("#!/bin/sh\nexec sleep 60\n")
    hanging.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    with pytest.raises(KubectlError, match=r"kubectl get pods: no end within 0\.2 s"):
        Access(tmp_path / "kubeconfig", tmp_path).kubectl("get", "pods", timeout=0.2)


def test_an_answer_that_breaks_off_is_an_error_as_any_other_of_the_network(tmp_path: Path) -> None:
    class Breaks(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(500 if "refused" in self.path else 200)
            self.send_header("Content-Length", "1000")
            self.end_headers()
            self.wfile.write(b'{"items":')

        def log_message(self, *_: object) -> None:
            pass

    ca = certificates.make(tmp_path).ca
    with HTTPServer(("127.0.0.1", 0), Breaks) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        api = Rest(f"http://127.0.0.1:{server.server_port}", "token", ca)
        for path in ("/pods", "/refused"):
            with pytest.raises(OSError, match=f"GET {path}: the answer broke off"):
                api.request("GET", path)
        server.shutdown()


@pytest.fixture
def listener() -> Iterator[int]:
    """A port that a stranger listens on."""
    with socket.create_server(("127.0.0.1", 0)) as stranger:
        yield stranger.getsockname()[1]


@dataclass
class Webhook:
    """What was posted to `url`: (Authorization header, decoded body)."""

    url: str
    received: list[tuple[str, Any]]


@pytest.fixture
async def webhook() -> AsyncIterator[Webhook]:
    received: list[tuple[str, Any]] = []

    async def receive(request: web.Request) -> web.Response:
        received.append((request.headers.get("Authorization", ""), await request.json()))
        return web.Response()

    application = web.Application()
    application.router.add_post("/", receive)
    runner = web.AppRunner(application)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    yield Webhook(f"http://127.0.0.1:{runner.addresses[0][1]}/", received)
    await runner.cleanup()
