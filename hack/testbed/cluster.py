"""A real control plane with one node, on free ports of this machine, in one folder.

    with Cluster(folder) as cluster:
        cluster.kubectl("get", "nodes")

etcd, kube-apiserver, kube-controller-manager and kube-scheduler are the real ones, so are RBAC, admission (including
ValidatingAdmissionPolicy), rollouts, garbage collection and the audit log. The node is played by kwok, unless a real
one is asked for: `Cluster(folder, RealNode)`. HorizontalPodAutoscalers are stored but nothing measures pods.
"""

from __future__ import annotations

import json
import secrets
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any, TextIO

from testbed import toolchain
from testbed.access import Access, Credentials, kubeconfig_text, write_private
from testbed.keys import new_key
from testbed.kwoknode import CONTAINER_LOG, PREVIOUS_LOG, KwokNode
from testbed.locks import try_lock
from testbed.node import Node
from testbed.ports import Ports
from testbed.processes import Child, spawn, stop_all, wait_until
from testbed.rest import ApiError, Rest

__all__ = ["CONTAINER_LOG", "PREVIOUS_LOG", "Cluster", "ClusterError", "audit_policy"]

HOST = "127.0.0.1"
START_TIMEOUT = 120.0
STOP_GRACE = 0.5  # the API server would wait for its open watches for a minute; what it answered is in etcd already
ISSUER = "https://kubernetes.default.svc"

SYSTEM_USERS = {"system:kube-controller-manager": ["system:masters"], "system:kube-scheduler": []}
"""User name → groups. The audit log leaves these, and the node's own, out."""


class ClusterError(RuntimeError):
    """The cluster cannot be started or used as asked; the text says what to do."""


class Cluster(Access):
    """One control plane and its node. `start()` begins with an empty cluster, whatever lay in the folder.

    After `start()`: `url`, `token` (an admin's), `ca` (verifies the API server), `kubeconfig` (that admin's),
    `audit_log` (one JSON object per line, level Metadata, stage ResponseComplete; without Leases and the system's own
    traffic), `folder`, `started_in` (seconds until a pod could be scheduled).
    """

    audit_log: Path

    def __init__(self, folder: Path | str, node: Callable[[Path], Node] = KwokNode) -> None:
        self.folder = Path(folder).absolute()
        self.node = node(self.folder)
        self.host = HOST
        super().__init__(self.folder / "kubeconfig", self.folder)
        self.audit_log = self.folder / "audit.log"
        self.ca = self.folder / "certs" / "apiserver.crt"
        self.url = ""
        self.token = ""
        self.started_in = 0.0
        self._tokens: dict[str, str] = {}
        self._users = {**SYSTEM_USERS, **self.node.users}
        self._ports = Ports()
        self._children: dict[str, Child] = {}
        self._lock: TextIO | None = None

    def __enter__(self) -> Cluster:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def start(self) -> None:
        """Returns when a pod can be scheduled. On any failure nothing is left running."""
        toolchain.ensure(*toolchain.CLUSTER)
        self._lock = _own(self.folder)
        began = time.monotonic()
        try:
            self._lay_out()
            self._start_all()
        except BaseException:
            self.stop()
            raise
        self.started_in = time.monotonic() - began

    def stop(self) -> None:
        """Ends all its processes; the folder stays, for its logs. Does nothing when it is not running."""
        self.node.stop()
        stop_all([*reversed(self._children.values())], STOP_GRACE)
        self._children.clear()
        self._ports.release()
        if self._lock:
            self._lock.close()
            self._lock = None

    def dead(self) -> Child | None:
        """A child that has ended although nobody stopped it, if there is one."""
        return next((child for child in self._all_children() if not child.alive()), None)

    @property
    def pids(self) -> dict[str, int]:
        """Its running programs by name."""
        return {child.name: child.pid for child in self._all_children()}

    def _all_children(self) -> list[Child]:
        return [*self._children.values(), *self.node.children()]

    def restart_apiserver(self, downtime: float = 0) -> None:
        """Stops the API server and starts it again on the same port with the same data; returns when it is ready."""
        self.stop_apiserver()
        time.sleep(downtime)
        self.start_apiserver()

    def stop_apiserver(self) -> None:
        """Leaves the cluster without its API server, until `start_apiserver()`."""
        self._children.pop("kube-apiserver").stop(STOP_GRACE)

    def start_apiserver(self) -> None:
        """Starts the API server and waits until it is ready."""
        self._spawn("kube-apiserver", self._apiserver_flags())
        self._wait("the API server", "/readyz")

    def api(self) -> Rest:
        """A small synchronous client, as admin. Tests prefer `testbed.api.Api`."""
        return Rest(self.url, self.token, self.ca)

    def _system_api(self) -> Rest:
        """A client whose traffic the audit log leaves out."""
        return Rest(self.url, self._tokens["system:kube-controller-manager"], self.ca)

    def credentials(self) -> Credentials:
        return Credentials(url=self.url, ca=self.ca, token=self.token)

    def service_account_token(self, namespace: str, name: str, seconds: int = 3600) -> str:
        path = f"/api/v1/namespaces/{namespace}/serviceaccounts/{name}/token"
        token = self.api().request("POST", path, {"spec": {"expirationSeconds": seconds}})["status"]["token"]
        return str(token)

    def kubeconfig_for(self, token: str, name: str = "") -> Path:
        path = self.folder / f"kubeconfig-{name or secrets.token_hex(6)}"
        return write_private(path, kubeconfig_text(self.url, self.ca, token))

    def _kubectl_path(self) -> Path:
        return toolchain.binary("kubectl")

    # -- the folder ---------------------------------------------------------------------------------------------------

    def _lay_out(self) -> None:
        """Clears what an earlier cluster left and writes everything that exists before the first program starts."""
        for name in ("etcd", "certs", "logs", "kubectl-cache", "system"):
            shutil.rmtree(self.folder / name, ignore_errors=True)
        for stale in (self.audit_log, *self.folder.glob("kubeconfig*")):
            stale.unlink(missing_ok=True)
        self.audit_log.touch(mode=0o600)
        self._tokens = {user: secrets.token_hex(16) for user in self._users}
        self.token = secrets.token_hex(16)
        system = self.folder / "system"
        write_private(system / "tokens.csv", self._token_file())
        write_private(system / "service-accounts.key", new_key())
        write_private(system / "audit-policy.yaml", json.dumps(audit_policy(list(self._users))))

    def _token_file(self) -> str:
        users = {"admin": ["system:masters"], **self._users}
        tokens = {"admin": self.token, **self._tokens}
        return "".join(f'{tokens[user]},{user},{user},"{",".join(groups)}"\n' for user, groups in users.items())

    def _kubeconfig_of(self, user: str) -> Path:
        path = self.folder / "system" / f"{user.removeprefix('system:').replace(':', '-')}.kubeconfig"
        return write_private(path, kubeconfig_text(self.url, self.ca, self._tokens[user]))

    # -- the programs -------------------------------------------------------------------------------------------------

    def _start_all(self) -> None:
        self.host = self.node.prepare()
        self._etcd_url = f"http://{HOST}:{self._ports.reserve()}"
        self.url = f"https://{self.host}:{self._ports.reserve()}"
        self._spawn("etcd", self._etcd_flags())
        self._spawn("kube-apiserver", self._apiserver_flags())
        wait_until(self._has_certificate, "the API server's certificate", START_TIMEOUT, self._children.values())
        write_private(self.kubeconfig, kubeconfig_text(self.url, self.ca, self.token))
        self._wait("the API server", "/readyz")
        self._spawn("kube-controller-manager", self._controller_manager_flags())
        self._spawn("kube-scheduler", self._scheduler_flags())
        self.node.start(self._system_api(), self._kubeconfig_of, self.ca)
        wait_until(self._schedulable, "a node that pods can be scheduled on", START_TIMEOUT, self._all_children())

    def _has_certificate(self) -> bool:
        """The key is written after the certificate."""
        key = self.ca.with_suffix(".key")
        return key.exists() and key.read_text().rstrip().endswith("-----")

    def _schedulable(self) -> bool:
        """The node is ready and untainted, and the default ServiceAccount is there: without it no pod is admitted."""
        try:
            node = self._system_api().request("GET", f"/api/v1/nodes/{self.node.name}")
            self._system_api().request("GET", "/api/v1/namespaces/default/serviceaccounts/default")
        except (ApiError, OSError):
            return False
        return not node["spec"].get("taints") and "Ready" in _true_conditions(node)

    def _wait(self, what: str, path: str) -> None:
        api = self.api()
        wait_until(lambda: api.answers(path), what, START_TIMEOUT, self._children.values())

    def _spawn(self, name: str, flags: dict[str, Any]) -> None:
        pairs = [(flag, value) for flag, values in flags.items() for value in _many(values)]
        argv = [str(toolchain.binary(name)), *(f"--{flag}={_text(value)}" for flag, value in pairs)]
        self._children[name] = spawn(name, argv, self.folder / "logs" / f"{name}.log", cwd=self.folder)

    def _etcd_flags(self) -> dict[str, Any]:
        peer = f"http://{HOST}:{self._ports.reserve()}"
        return {
            "data-dir": self.folder / "etcd",
            "listen-client-urls": self._etcd_url,
            "advertise-client-urls": self._etcd_url,
            "listen-peer-urls": peer,
            "initial-advertise-peer-urls": peer,
            "initial-cluster": f"default={peer}",
            "unsafe-no-fsync": True,
            "quota-backend-bytes": 4 * 1024**3,
            "log-level": "warn",
        }

    def _apiserver_flags(self) -> dict[str, Any]:
        system = self.folder / "system"
        key = system / "service-accounts.key"
        return {
            "etcd-servers": self._etcd_url,
            "bind-address": self.host,
            "advertise-address": self.host,
            "secure-port": self.url.rpartition(":")[2],
            "cert-dir": self.ca.parent,
            "service-cluster-ip-range": self.node.services,
            "authorization-mode": "RBAC",
            "token-auth-file": system / "tokens.csv",
            "service-account-issuer": ISSUER,
            "service-account-key-file": key,
            "service-account-signing-key-file": key,
            "allow-privileged": True,
            "kubelet-preferred-address-types": "InternalIP",
            "audit-policy-file": system / "audit-policy.yaml",
            "audit-log-path": self.audit_log,
            "audit-log-maxsize": 0,
            "delete-collection-workers": 4,
            "profiling": False,
            **self.node.apiserver_flags(),
        }

    def _controller_manager_flags(self) -> dict[str, Any]:
        return {
            "kubeconfig": self._kubeconfig_of("system:kube-controller-manager"),
            "root-ca-file": self.ca,
            "service-account-private-key-file": self.folder / "system" / "service-accounts.key",
            "leader-elect": False,
            "secure-port": 0,
            "kube-api-qps": 500,
            "kube-api-burst": 1000,
            "concurrent-deployment-syncs": 20,
            "concurrent-replicaset-syncs": 20,
            "concurrent-statefulset-syncs": 20,
            "concurrent-namespace-syncs": 20,
            "concurrent-gc-syncs": 20,
            "profiling": False,
            **self.node.controller_manager_flags(),
        }

    def _scheduler_flags(self) -> dict[str, Any]:
        return {
            "kubeconfig": self._kubeconfig_of("system:kube-scheduler"),
            "leader-elect": False,
            "secure-port": 0,
            "kube-api-qps": 500,
            "kube-api-burst": 1000,
        }


def audit_policy(system_users: list[str]) -> dict[str, Any]:
    """Everything that people, tests and the operator ask for, once, after it was answered."""
    return {
        "apiVersion": "audit.k8s.io/v1",
        "kind": "Policy",
        "omitStages": ["RequestReceived", "ResponseStarted"],
        "rules": [
            {"level": "None", "users": [*system_users, "system:apiserver"]},
            {"level": "None", "resources": [{"group": "coordination.k8s.io", "resources": ["leases"]}]},
            {
                "level": "None",
                "nonResourceURLs": ["/healthz*", "/readyz*", "/livez*", "/version*", "/openapi*", "/api*"],
            },
            {"level": "Metadata"},
        ],
    }


def _own(folder: Path) -> TextIO:
    """Takes the folder for one cluster; ClusterError when another runs in it."""
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    lock = try_lock(folder / "lock")
    if lock is None:
        raise ClusterError(f"another cluster runs in {folder}; stop it first, or choose another folder")
    return lock


def _true_conditions(resource: dict[str, Any]) -> set[str]:
    return {
        condition["type"] for condition in resource["status"].get("conditions", []) if condition["status"] == "True"
    }


def _many(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]


def _text(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)
