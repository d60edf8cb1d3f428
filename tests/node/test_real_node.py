"""A real node: pods that really run, Paramedic among them, and nothing that stays behind."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

from node.conftest import SYSTEM
from node.web import SERVE, address_of, body, serve
from testbed import toolchain
from testbed.api import Api, eventually
from testbed.cluster import Cluster
from testbed.processes import ProcessError
from testbed.realnode import enter

INCIDENTS = "paramedic.dev/v1alpha1/incidents"
CHANGES_BY_ITSELF = ("ns_last_pid",)
START_AND_HANG = """
import sys, time
from testbed.cluster import Cluster
from testbed.realnode import RealNode
with Cluster(sys.argv[1], RealNode) as cluster:
    cluster.kubectl("wait", "--for=create", "serviceaccount/default")
    cluster.kubectl("run", "sleeper", "--image=docker.io/local/busybox:1", "--image-pull-policy=Never")
    cluster.kubectl("wait", "--for=condition=Ready", "--timeout=30s", "pod/sleeper")
    print(cluster.node.addresses.name, flush=True)
    time.sleep(600)
"""


@pytest.fixture
def folder() -> Iterator[Path]:
    """One with a short path, for sockets lie in it."""
    with tempfile.TemporaryDirectory(prefix="node-") as name:
        yield Path(name)


@pytest.fixture
async def shop(api: Api, namespace_name: str) -> AsyncIterator[str]:
    """A namespace with a web server of two pods and its Service, not yet ready."""
    await api.create({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": namespace_name}})
    await serve(api, namespace_name)
    yield namespace_name
    await api.delete("v1/namespaces", namespace_name)


async def ready(api: Api, namespace: str) -> int:
    deployment = await api.get("apps/v1/deployments", "web", namespace)
    return int(deployment["status"].get("readyReplicas", 0))


async def both_ready(api: Api, namespace: str) -> bool:
    return await ready(api, namespace) == 2


async def test_a_service_answers_from_the_machine_and_from_pods(real: Cluster, api: Api, shop: str) -> None:
    await eventually(lambda: both_ready(api, shop), timeout=30)
    url = f"http://{await address_of(api, shop, 'web')}"
    assert await eventually(lambda: body(url)) == "release 1\n"
    inside = ("exec", "-n", shop, "deployment/web", "--", "wget", "-qO-")
    assert real.kubectl(*inside, f"http://web.{shop}.svc.cluster.local") == "release 1\n"


async def test_readiness_is_what_the_probe_says(real: Cluster, api: Api, shop: str) -> None:
    await eventually(lambda: both_ready(api, shop), timeout=30)
    url = f"http://{await address_of(api, shop, 'web')}"
    for pod in await api.list("v1/pods", shop):
        real.kubectl("exec", "-n", shop, pod["metadata"]["name"], "--", "rm", "/tmp/www/index.html")

    async def none_ready() -> bool:
        return await ready(api, shop) == 0

    await eventually(none_ready, timeout=30)

    def refused() -> bool:
        try:
            body(url)
        except OSError:
            return True
        return False

    await eventually(refused, what="a Service without endpoints refuses")


async def test_paramedic_runs_as_two_pods_of_which_one_leads(paramedic: Cluster, api: Api) -> None:
    pods = await api.list("v1/pods", SYSTEM)
    assert len(pods) == 2
    assert {pod["spec"]["nodeName"] for pod in pods} == {paramedic.node.name}
    assert {pod["spec"]["serviceAccountName"] for pod in pods} == {"paramedic"}

    def leading() -> list[str]:
        urls = {pod["metadata"]["name"]: f"http://{pod['status']['podIP']}:8080/metrics" for pod in pods}
        return [name for name, url in urls.items() if "\nparamedic_leader 1.0\n" in body(url)]

    leaders = await eventually(leading)
    lease = await api.get("coordination.k8s.io/v1/leases", "paramedic", SYSTEM)
    assert [lease["spec"]["holderIdentity"].rpartition("_")[0]] == leaders
    address = await address_of(api, SYSTEM, "paramedic")
    assert body(f"http://{address}:8080/readyz") == "ok\n"


async def test_paramedic_s_container_is_what_restricted_promises(paramedic: Cluster) -> None:
    tell = (
        "import os; print(os.getuid(), os.access('/', os.W_OK), os.access('/opt', os.W_OK), os.access('/tmp', os.W_OK))"
    )
    told = paramedic.kubectl("exec", "-n", SYSTEM, "deployment/paramedic", "--", "python3", "-c", tell)
    assert told.split() == ["65532", "False", "False", "True"]
    read_only = "open('/proc/mounts').read().split('\\n')[0].split()[3].split(',')[0]"
    told = paramedic.kubectl("exec", "-n", SYSTEM, "deployment/paramedic", "--", "python3", "-c", f"print({read_only})")
    assert told == "ro\n"
    status = "print(open('/proc/self/status').read())"
    told = paramedic.kubectl("exec", "-n", SYSTEM, "deployment/paramedic", "--", "python3", "-c", status)
    values = dict(line.split(":\t", 1) for line in told.splitlines() if ":\t" in line)
    assert (int(values["CapEff"], 16), values["NoNewPrivs"], values["Seccomp"]) == (0, "1", "2")


async def test_a_bad_release_is_rolled_back_by_the_pod(paramedic: Cluster, api: Api, shop: str) -> None:
    await eventually(lambda: both_ready(api, shop), timeout=30)
    url = f"http://{await address_of(api, shop, 'web')}"
    policy = {
        "apiVersion": "paramedic.dev/v1alpha1",
        "kind": "RemediationPolicy",
        "metadata": {"name": "outage"},
        "spec": {
            "mode": "Auto",
            "match": {"incidents": {"types": ["APIOutage"]}},
            "incident": {"type": "APIOutage", "severity": "P0"},
            "target": {"kind": "Deployment", "name": "web"},
            "steps": [{"name": "undo", "rollback": {}}],
            "verify": {"rollout": True, "timeout": "60s"},
        },
    }
    await api.create(policy, shop)
    bad = SERVE.replace("release 1", "release 2").replace("-p 8080", "-p 9090")  # where no probe asks
    command = [{"op": "replace", "path": "/spec/template/spec/containers/0/command/2", "value": bad}]
    await api.patch("apps/v1/deployments", "web", command, shop, kind="json")

    async def running_not_ready() -> bool:
        pods = await api.list("v1/pods", shop)
        new = [pod for pod in pods if pod["spec"]["containers"][0]["command"][2] == bad]
        return len(new) == 2 == sum(pod["status"]["phase"] == "Running" for pod in pods) and await ready(api, shop) == 0

    await eventually(running_not_ready, timeout=30)
    incident = {
        "apiVersion": "paramedic.dev/v1alpha1",
        "kind": "Incident",
        "metadata": {"name": "down"},
        "spec": {"title": "the shop is down", "type": "APIOutage", "severity": "P0"},
    }
    await api.create(incident, shop)

    async def resolved() -> dict[str, Any] | None:
        found = await api.get(INCIDENTS, "down", shop)
        return found if found.get("status", {}).get("phase") == "Resolved" else None

    found = await eventually(resolved, timeout=60)
    assert [step["state"] for step in found["status"]["steps"]] == ["Succeeded"], json.dumps(found["status"])
    assert await both_ready(api, shop)
    assert await eventually(lambda: body(url)) == "release 1\n"


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL], ids=["Ctrl-C", "kill -9"])
async def test_nothing_is_left(folder: Path, number: signal.Signals) -> None:
    mounts, settings = Path("/proc/self/mounts").read_text(), kernel_settings()
    with holder_of_a_cluster(folder) as parent:
        assert parent.stdout is not None
        assert parent.stderr is not None
        name = parent.stdout.readline().strip()
        assert name.startswith("paramedic-"), parent.stderr.read()
        first = (folder / "node" / "pid").read_text()
        namespaces = [str(Path(f"/proc/{first}/ns/{kind}").readlink()) for kind in ("pid", "net", "mnt")]
        assert len(processes_in(namespaces)) > 6
        assert "kube-proxy" in enter(folder, "nft", "list", "tables")
        assert Path("/sys/class/net", name).exists()
        assert cgroups(name)
        assert enter(folder, "cat", "/proc/sys/kernel/panic", "/proc/sys/vm/overcommit_memory").split() == ["10", "1"]
        with pytest.raises(ProcessError, match="Read-only"):
            enter(folder, "sh", "-c", "echo 10 > /proc/sys/kernel/panic")
        assert kernel_settings() == settings
        parent.send_signal(number)
        parent.wait(120)
    await eventually(lambda: processes_in(namespaces) == [], timeout=30)
    await eventually(lambda: not Path("/sys/class/net", name).exists(), timeout=30)
    await eventually(lambda: cgroups(name) == [], timeout=30)
    assert Path("/proc/self/mounts").read_text() == mounts
    assert kernel_settings() == settings


@contextmanager
def holder_of_a_cluster(folder: Path) -> Iterator[subprocess.Popen[str]]:
    """Ended at the end: a test that fails must not wait for it."""
    environment = {**os.environ, "PYTHONPATH": str(toolchain.HACK)}
    argv = [sys.executable, "-c", START_AND_HANG, str(folder)]
    with subprocess.Popen(argv, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as parent:
        try:
            yield parent
        finally:
            parent.kill()


def kernel_settings() -> dict[str, str]:
    """The machine's, by path: those that can be set, and that nothing changes by itself."""
    found = {}
    for file in [file for part in ("kernel", "vm") for file in Path("/proc/sys", part).rglob("*")]:
        if file.is_file() and file.stat().st_mode & 0o600 == 0o600 and file.name not in CHANGES_BY_ITSELF:
            with suppress(OSError):
                found[str(file)] = file.read_text()
    return found


def processes_in(namespaces: list[str]) -> list[str]:
    """The processes that are in one of these namespaces."""
    found = []
    for link in Path("/proc").glob("[0-9]*/ns/*"):
        try:
            found += [link.parts[2]] if str(link.readlink()) in namespaces else []
        except OSError:
            continue
    return sorted(set(found))


def cgroups(name: str) -> list[Path]:
    return [*Path("/sys/fs/cgroup").glob(name), *Path("/sys/fs/cgroup").glob(f"*/{name}")]
