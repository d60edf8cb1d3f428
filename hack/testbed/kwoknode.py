"""A node played by kwok: see `nodes` for which pods get ready and which never do."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from testbed import nodes, toolchain
from testbed.access import write_private
from testbed.ports import Ports
from testbed.processes import Child, spawn, stop_all
from testbed.rest import Rest

HOST = "127.0.0.1"
USER = "testbed:kwok"
STOP_GRACE = 0.5

CONTAINER_LOG = """\
2026-01-01T00:00:00.000000000Z stdout F starting
2026-01-01T00:00:01.000000000Z stdout F listening on :8080
2026-01-01T00:00:02.000000000Z stderr F cannot reach the database: connection refused
"""
"""What `kubectl logs` answers for every pod, in the container runtime's format."""

PREVIOUS_LOG = "2025-12-31T23:59:59.000000000Z stderr F out of memory\n"
"""What `kubectl logs --previous` answers."""


class KwokNode:
    """One kwok in the cluster's folder, which manages one node."""

    name = nodes.NODE_NAME
    users: Mapping[str, list[str]] = {USER: ["system:masters"]}
    services = "10.96.0.0/16"

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._ports = Ports()
        self._port = 0
        self._kwok: Child | None = None

    def prepare(self) -> str:
        own = self._folder / "kwok"
        shutil.rmtree(own, ignore_errors=True)
        write_private(own / "container.log", CONTAINER_LOG)
        write_private(own / "previous.log", PREVIOUS_LOG)
        self._port = self._ports.reserve()
        return HOST

    def apiserver_flags(self) -> dict[str, Any]:
        return {"endpoint-reconciler-type": "none"}  # a loopback address is no endpoint

    def controller_manager_flags(self) -> dict[str, Any]:
        return {"node-monitor-grace-period": "24h"}  # kwok's node sends no heartbeats worth the noise

    def start(self, api: Rest, kubeconfig_of: Callable[[str], Path], certificate: Path) -> None:
        flags = self._flags(kubeconfig_of(USER), certificate)
        argv = [str(toolchain.binary("kwok")), *(f"--{flag}={value}" for flag, value in flags)]
        self._kwok = spawn("kwok", argv, self._folder / "logs" / "kwok.log", cwd=self._folder)
        api.request("POST", "/api/v1/nodes", nodes.node())

    def stop(self) -> None:
        stop_all(self.children(), STOP_GRACE)
        self._kwok = None
        self._ports.release()

    def children(self) -> Iterable[Child]:
        return [self._kwok] if self._kwok else []

    def _flags(self, kubeconfig: Path, certificate: Path) -> list[tuple[str, Any]]:
        own = self._folder / "kwok"
        stages = nodes.write_stages(own, toolchain.kwok_stages(), own / "container.log", own / "previous.log")
        return [
            ("kubeconfig", kubeconfig),
            *(("config", stage) for stage in stages),
            ("manage-nodes-with-annotation-selector", nodes.NODE_SELECTOR),
            ("node-ip", HOST),
            ("node-port", self._port),
            ("server-address", f"{HOST}:{self._port}"),
            ("tls-cert-file", certificate),
            ("tls-private-key-file", certificate.with_suffix(".key")),
        ]
