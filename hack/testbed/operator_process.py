"""Paramedic itself as a local process, with the rights of its own ServiceAccount and none of ours.

    install(cluster)                                 # the CRDs and everything in manifests/
    with Operator(cluster, folder / "operator") as operator:
        operator.wait_leading()
        assert operator.post_alerts(payload(alert("Down", deployment="web"))) == 200

All methods block. In a test whose event loop also serves the operator (a proxy, a fake Prometheus), call them through
`asyncio.to_thread`.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import secrets
import signal
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from testbed import toolchain
from testbed.access import Access, KubectlError, kubeconfig_text, write_private
from testbed.ports import Ports
from testbed.processes import Child, ProcessError, spawn, wait_until

Json = dict[str, Any]

ROOT = toolchain.HACK.parent
NAMESPACE = "paramedic-system"
SERVICE_ACCOUNT = "paramedic"
USER = f"system:serviceaccount:{NAMESPACE}:{SERVICE_ACCOUNT}"
"""The user name under which the audit log shows what the operator asks for."""
DEFINITIONS = ("incidents.paramedic.dev", "remediationpolicies.paramedic.dev")
READY_TIMEOUT = 30.0
STOP_GRACE = 15.0  # it gives what is under way 5 s and its connections another 5
NEVER_ENDED = "0001-01-01T00:00:00Z"
_LABEL = re.compile(r'(\w+)="((?:[^"\\]|\\.)*)"')


class Operator:
    """One operator. `start()` may be called again after it has ended; its log goes on in the same file.

    `token` (default: a fresh one of the ServiceAccount) or `kubeconfig` says as whom it talks to the cluster; `api_url`
    and `api_ca` put something, such as a proxy, in between. `env` adds to its environment: PARAMEDIC_* variables of the
    caller are not handed on. Processes that share an `identity` count as the same pod, restarted. `env` and
    `prometheus`, its URL, can be changed before each start.
    """

    def __init__(
        self,
        access: Access,
        folder: Path | str,
        *,
        token: str | None = None,
        kubeconfig: Path | None = None,
        api_url: str | None = None,
        api_ca: Path | None = None,
        identity: str | None = None,
        prometheus: str | None = None,
        env: Mapping[str, str] | None = None,
        python: str | Path = sys.executable,
    ) -> None:
        self.folder = Path(folder).absolute()
        self.identity = identity or f"local-{secrets.token_hex(3)}"
        self.webhook_token = secrets.token_urlsafe(24)
        self.webhook_token_file = self.folder / "webhook-token"
        self.log = self.folder / "operator.log"
        self.url = ""
        self._access = access
        self._token = token
        self._given_kubeconfig = kubeconfig
        self._api_url, self._api_ca = api_url, api_ca
        self.prometheus = prometheus
        self.env = dict(env or {})
        self._python = python
        self._ports = Ports()
        self._port = 0
        self._kubeconfig: Path | None = None
        self._child: Child | None = None

    def __enter__(self) -> Self:
        self.start()
        try:
            self.wait_ready()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    # -- its life -----------------------------------------------------------------------------------------------------

    @property
    def webhook_url(self) -> str:
        """Where Alertmanager sends to, known before the start."""
        return f"{self._reserve()}/webhook/alertmanager"

    @property
    def pid(self) -> int:
        """Its process id. ProcessError when it was never started."""
        return self._running.pid

    @property
    def alive(self) -> bool:
        """Whether the process runs (frozen counts as running)."""
        return self._child is not None and self._child.alive()

    def start(self) -> None:
        """Starts it and does not wait: see `wait_ready` and `wait_leading`."""
        if self.alive:
            raise ProcessError("the operator runs already")
        self._reserve()
        write_private(self.webhook_token_file, self.webhook_token)
        argv = [self._python, "-m", "paramedic", "run"]
        self._child = spawn("paramedic", argv, self.log, env=self._environment(), cwd=self.folder)

    def stop(self) -> None:
        """TERM: it finishes what is under way and gives its Lease back. Keeps its port and token for a restart."""
        if self._child:
            self._child.send(signal.SIGCONT)
            self._child.stop(STOP_GRACE)

    def kill(self) -> None:
        """KILL, as the kernel does to a pod out of memory; returns when it is gone."""
        self._running.send(signal.SIGKILL)
        self._running.wait(60)

    def freeze(self) -> None:
        """STOP: the process stands still, its connections stay open."""
        self._running.send(signal.SIGSTOP)

    def thaw(self) -> None:
        """CONT: it goes on as if no time had passed."""
        self._running.send(signal.SIGCONT)

    def restart(self, timeout: float = READY_TIMEOUT) -> None:
        """Stops it if it runs, starts it again and waits until it is ready."""
        self.stop()
        self.start()
        self.wait_ready(timeout)

    def close(self) -> None:
        """Stops it and gives its port back."""
        self.stop()
        self._ports.release()
        self.url = ""

    # -- what it says -------------------------------------------------------------------------------------------------

    def wait_ready(self, timeout: float = READY_TIMEOUT) -> None:
        """Until /readyz says 200. ProcessError with its last words when it ends before or takes longer."""
        wait_until(self._is_ready, "the operator is ready", timeout, [self._running], interval=0.02)

    def wait_leading(self, timeout: float = READY_TIMEOUT) -> None:
        """Until it is the one that acts."""
        wait_until(self.leads, "the operator leads", timeout, [self._running], interval=0.02)

    def leads(self) -> bool:
        """Whether its metrics say that it is the leader; false when it does not answer."""
        try:
            return self.metrics().get("paramedic_leader") == 1
        except OSError:
            return False

    def get(self, path: str, timeout: float = 5) -> tuple[int, str]:
        """Status and body of one of its pages. OSError when it does not answer."""
        return _exchange(urllib.request.Request(self.url + path), timeout)

    def metrics(self) -> dict[str, float]:
        """All of /metrics, by series as written there: 'paramedic_actions_total{action="scale",result="Applied"}'."""
        _, text = self.get("/metrics")
        lines = (line.rpartition(" ") for line in text.splitlines() if line and not line.startswith("#"))
        return {series: float(value) for series, _, value in lines}

    def metric(self, name: str, **labels: str) -> float:
        """The sum of a metric's series that carry these labels; 0 when there is none."""
        return sum(value for series, value in self.metrics().items() if _carries(series, name, labels))

    def post_alerts(self, body: Json | bytes, *, token: str | None = None, timeout: float = 30) -> int:
        """Posts a webhook payload (see `payload`); the answer's status. OSError when it does not answer."""
        return self.post(body, token=token, timeout=timeout)[0]

    def post(self, body: Json | bytes, *, token: str | None = None, timeout: float = 30) -> tuple[int, str]:
        """Like `post_alerts`, with the answer's text."""
        headers = {"Content-Type": "application/json"}
        if given := self.webhook_token if token is None else token:
            headers["Authorization"] = f"Bearer {given}"
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        return _exchange(urllib.request.Request(self.webhook_url, data, headers, method="POST"), timeout)

    def rss_bytes(self) -> int:
        """Resident memory."""
        try:
            status = Path(f"/proc/{self.pid}/status").read_text()
        except FileNotFoundError:
            return int(_ps(self.pid, "rss")) * 1024
        return int(status.split("VmRSS:")[1].split()[0]) * 1024

    def cpu_seconds(self) -> float:
        """CPU time used since its start, user and system. Linux only."""
        fields = Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def log_tail(self, lines: int = 15) -> str:
        """The end of its log."""
        return self._running.tail(lines)

    def log_lines(self) -> list[Json]:
        """Its log, decoded; lines that are not JSON come as {"raw": line}."""
        return [_decoded(line) for line in self.log.read_text(errors="replace").splitlines()]

    # -- how it is started --------------------------------------------------------------------------------------------

    @property
    def _running(self) -> Child:
        if self._child is None:
            raise ProcessError("the operator was never started")
        return self._child

    def _reserve(self) -> str:
        """Picks its address once."""
        if not self.url:
            self._port = self._ports.reserve()
            self.url = f"http://127.0.0.1:{self._port}"
        return self.url

    def _environment(self) -> dict[str, str]:
        inherited = {name: value for name, value in os.environ.items() if not name.startswith("PARAMEDIC_")}
        own = {
            "KUBECONFIG": str(self._write_kubeconfig()),
            "PARAMEDIC_LISTEN": f"127.0.0.1:{self._port}",
            "PARAMEDIC_WEBHOOK_TOKEN_FILE": str(self.webhook_token_file),
            "PARAMEDIC_LOG_FORMAT": "json",
            "PARAMEDIC_IDENTITY": self.identity,
            "PYTHONUNBUFFERED": "1",
        }
        if self.prometheus:
            own["PARAMEDIC_PROMETHEUS__URL"] = self.prometheus
        return {**inherited, **own, **self.env}

    def _write_kubeconfig(self) -> Path:
        """The given one, or one with the token; written once."""
        if self._given_kubeconfig:
            return self._given_kubeconfig
        if self._kubeconfig is None:
            token = self._token or self._access.service_account_token(NAMESPACE, SERVICE_ACCOUNT)
            self._kubeconfig = write_private(self.folder / "kubeconfig", self._kubeconfig_for(token))
        return self._kubeconfig

    def _kubeconfig_for(self, token: str) -> str:
        credentials = self._access.credentials()
        if self._api_ca or (credentials.ca and not self._api_url):
            return kubeconfig_text(self._api_url or credentials.url, self._api_ca or _needed(credentials.ca), token)
        config = json.loads(self._access.kubeconfig_for(token).read_text())
        if self._api_url:
            config["clusters"][0]["cluster"] = {"server": self._api_url}
        return json.dumps(config, indent=1)

    def _is_ready(self) -> bool:
        try:
            return self.get("/readyz", timeout=2)[0] == 200
        except OSError:
            return False


# -- payloads ---------------------------------------------------------------------------------------------------------


def alert(
    alertname: str,
    *,
    status: str = "firing",
    starts_at: datetime | str | None = None,
    ends_at: datetime | str | None = None,
    annotations: Mapping[str, str] | None = None,
    fingerprint: str | None = None,
    **labels: str,
) -> Json:
    """One alert of a webhook payload. Without a fingerprint the receiver makes one, other than Alertmanager's."""
    now = datetime.now(UTC)
    over = ends_at or (now if status == "resolved" else NEVER_ENDED)
    body: Json = {
        "status": status,
        "labels": {"alertname": alertname, **labels},
        "annotations": dict(annotations or {}),
        "startsAt": _timestamp(starts_at or now),
        "endsAt": _timestamp(over),
        "generatorURL": "http://prometheus.example/graph",
    }
    return body | ({"fingerprint": fingerprint} if fingerprint else {})


def resolved(firing: Json, at: datetime | str | None = None) -> Json:
    """The end of a firing alert."""
    return firing | {"status": "resolved", "endsAt": _timestamp(at or datetime.now(UTC))}


def payload(*alerts: Json) -> Json:
    """Alertmanager's webhook payload, version 4."""
    firing = any(one["status"] == "firing" for one in alerts)
    return {
        "version": "4",
        "groupKey": "{}:{}",
        "truncatedAlerts": 0,
        "status": "firing" if firing else "resolved",
        "receiver": "paramedic",
        "groupLabels": {},
        "commonLabels": {},
        "commonAnnotations": {},
        "externalURL": "http://alertmanager.example",
        "alerts": list(alerts),
    }


# -- installation -----------------------------------------------------------------------------------------------------


def install(access: Access) -> None:
    """Applies crds/ and manifests/ and waits until they are in force.

    The Deployment is scaled to nothing: there is no image of it here, the operator runs beside the cluster.
    """
    access.kubectl("apply", "-f", ROOT / "crds")
    access.kubectl("wait", "--for=condition=Established", "--timeout=30s", *(f"crd/{name}" for name in DEFINITIONS))
    access.kubectl("apply", "-k", ROOT / "manifests")
    access.kubectl("scale", f"deployment/{SERVICE_ACCOUNT}", "-n", NAMESPACE, "--replicas=0")
    _wait_served(access)
    _wait_for_admission(access)


def _wait_served(access: Access) -> None:
    """Established is said a moment before it is true for a request."""

    def served() -> bool:
        try:
            access.kubectl("get", "incidents,remediationpolicies", "--all-namespaces", "-o", "name")
        except KubectlError:
            return False
        return True

    wait_until(served, "the API of Paramedic is served", 30, interval=0.1)


def _wait_for_admission(access: Access) -> None:
    """The API server takes admission policies up a moment after they are stored: until a false name is refused."""
    incident = {
        "apiVersion": "paramedic.dev/v1alpha1",
        "kind": "Incident",
        "metadata": {"name": "is-admission-in-force", "namespace": NAMESPACE},
        "spec": {"title": "never stored", "type": "APIOutage", "acknowledgedBy": "somebody else"},
    }

    def refused() -> bool:
        try:
            access.kubectl("create", "--dry-run=server", "-f", "-", input=json.dumps(incident))
        except KubectlError as error:
            if "your own user name" not in str(error):
                raise
            return True
        return False

    wait_until(refused, "the admission policies are in force", 30, interval=0.1)


# -- small things -----------------------------------------------------------------------------------------------------


def _exchange(request: urllib.request.Request, timeout: float) -> tuple[int, str]:
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(request, timeout=timeout) as answer:
            return answer.status, answer.read().decode(errors="replace")
    except urllib.error.HTTPError as error:
        with contextlib.closing(error):
            return error.code, error.read().decode(errors="replace")


def _carries(series: str, name: str, labels: Mapping[str, str]) -> bool:
    own, _, rest = series.partition("{")
    return own == name and labels.items() <= dict(_LABEL.findall(rest)).items()


def _timestamp(moment: datetime | str) -> str:
    return moment if isinstance(moment, str) else moment.astimezone(UTC).isoformat().replace("+00:00", "Z")


def _decoded(line: str) -> Json:
    with contextlib.suppress(ValueError):
        value = json.loads(line)
        if isinstance(value, dict):
            return value
    return {"raw": line}


def _ps(pid: int, field: str) -> str:
    answer = subprocess.run(["ps", "-o", f"{field}=", "-p", str(pid)], capture_output=True, text=True, check=True)
    return answer.stdout.strip()


def _needed(ca: Path | None) -> Path:
    if ca is None:
        raise ProcessError("the cluster's CA is not known")
    return ca
