"""The real node's life: namespaces, network, programs, images."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, TextIO

from images.busybox import build_busybox
from testbed import toolchain
from testbed.golang import ToolchainError
from testbed.packages import program
from testbed.processes import Child, ProcessError, spawn, stop_all, wait_until
from testbed.realnode import addresses, settings
from testbed.realnode.addresses import Addresses
from testbed.realnode.checks import why_not
from testbed.rest import Rest

NAMESPACES = Path(__file__).with_name("namespaces.py")
CGROUPS = Path("/sys/fs/cgroup")
LONGEST_SOCKET = "kubelet/pod-resources/kubelet.sock"
MOST_SOCKET_CHARACTERS = 107
"""unix(7): `sun_path` holds 108 bytes with the final zero."""
MACHINE = "machine"
"""The cgroup beside those of the pods, for what runs on the machine itself."""
START_TIMEOUT = 60.0
STOP_GRACE = 120.0
NODE_USER = f"system:node:{settings.NODE_NAME}"
PROXY_USER = "system:kube-proxy"
DNS_USER = "testbed:coredns"
POLICY_USER = "testbed:network-policies"


class RealNode:
    """One real node of the cluster in `folder`; its own files are in `folder`/node, its logs with the others."""

    name = settings.NODE_NAME
    users: Mapping[str, list[str]] = {
        NODE_USER: ["system:nodes"],
        PROXY_USER: [],
        DNS_USER: ["system:masters"],
        POLICY_USER: ["system:masters"],
    }

    def __init__(self, folder: Path) -> None:
        self._cluster_folder = folder
        self._folder = folder / "node"
        self._scratch = self._folder / "scratch"
        self._addresses: Addresses | None = None
        self._lock: TextIO | None = None
        self._children: dict[str, Child] = {}
        self._kubelet: list[str] = []

    @property
    def addresses(self) -> Addresses:
        """Where things are; known after `prepare`."""
        if self._addresses is None:
            raise ProcessError("the node has no addresses before it is prepared")
        return self._addresses

    @property
    def services(self) -> str:
        return str(self.addresses.services)

    def prepare(self) -> str:
        if reason := why_not():
            raise ToolchainError(reason)
        toolchain.ensure(*toolchain.NODE)
        self._lay_out()
        self._sweep()
        self._addresses, self._lock = addresses.choose()
        self._hold()
        self._connect()
        return self._addresses.machine

    def apiserver_flags(self) -> dict[str, Any]:
        return {
            "authorization-mode": "Node,RBAC",
            "enable-admission-plugins": "NodeRestriction",
            "kubelet-client-certificate": self._client_certificate,
            "kubelet-client-key": self._client_certificate.with_suffix(".key"),
        }

    def controller_manager_flags(self) -> dict[str, Any]:
        return {}

    def start(self, api: Rest, kubeconfig_of: Callable[[str], Path], certificate: Path) -> None:
        self._start_containerd()
        load_image(self._cluster_folder, build_busybox(self._folder))
        self._start_coredns(kubeconfig_of(DNS_USER))
        self._start_kube_proxy(kubeconfig_of(PROXY_USER))
        self._start_enforcer(kubeconfig_of(POLICY_USER))
        self._kubelet = self._kubelet_command(kubeconfig_of(NODE_USER))
        self.start_kubelet()

    def stop(self) -> None:
        """Returns when its processes are gone and, with them, its mounts, network and cgroups."""
        stop_all([*reversed(self._children.values())], STOP_GRACE)  # the namespaces' holder is last
        self._children.clear()
        for name in ("kubelet", "ipam"):
            shutil.rmtree(self._folder / name, ignore_errors=True)
        if self._addresses:
            link = Path("/sys/class/net", self._addresses.name)
            wait_until(lambda: not link.exists(), "the node's network is gone", START_TIMEOUT)
        self._addresses = None
        if self._lock:
            self._lock.close()
            self._lock = None

    def children(self) -> Iterable[Child]:
        return self._children.values()

    def start_kubelet(self) -> None:
        """Starts the kubelet again after `stop_kubelet`."""
        self._spawn("kubelet", self._kubelet)

    def stop_kubelet(self) -> None:
        """The node's containers run on; nobody looks after them, and the API server hears nothing of them."""
        self._children.pop("kubelet").stop()

    def favour_pods(self, processes: int) -> None:
        """Gives all pods together the part of the processors that so many processes have, by default that of a single
        one: on a busy machine they would starve.
        """
        name = self.addresses.name
        for file, part in ((f"cpu/{name}/cpu.shares", processes * 1024), (f"{name}/cpu.weight", processes * 100)):
            if (CGROUPS / file).exists():
                (CGROUPS / file).write_text(str(part))

    def add_address(self, number: int) -> str:
        """One of `Addresses.more`, from now on this machine's; it goes with the node's network."""
        return self._add(self.addresses.more(number))

    def add_outsider(self) -> str:
        """An address of this machine, too, which is nobody's in the world and not of the cluster's network."""
        return self._add(self.addresses.outsider)

    def _add(self, address: str) -> str:
        _run("ip", "address", "add", f"{address}/32", "dev", self.addresses.name)
        return address

    def spawn(self, name: str, argv: list[str], log: Path) -> Child:
        """Starts a program in the node's namespaces, with which it ends at the latest."""
        return spawn(name, _entering(self._cluster_folder, argv), log, cwd=self._folder)

    def set_names(self, names: Mapping[str, str]) -> None:
        """What pods are told of names outside of the cluster: to which address each leads. Known to all after six
        seconds.
        """
        scratch = self._write("hosts.new", "".join(f"{address} {name}\n" for name, address in names.items()))
        scratch.rename(self._folder / "hosts")

    def favour(self, pid: int) -> None:
        """Lets a process of the machine's, and what that starts from now on, have its part among the pods."""
        for top in (CGROUPS / "cpu" / self.addresses.name, CGROUPS / self.addresses.name):
            if top.exists():
                (top / MACHINE).mkdir(exist_ok=True)
                (top / MACHINE / "cgroup.procs").write_text(str(pid))

    # -- before the cluster -------------------------------------------------------------------------------------------

    def _lay_out(self) -> None:
        """Clears what an earlier node left and makes the key pair by which the kubelet knows the API server."""
        if any(self._folder.is_relative_to(hidden) for hidden in ("/run", "/var/lib", "/var/log")):
            raise ProcessError(f"a real node cannot lie in {self._folder}, which it covers; choose another folder")
        if (excess := len(str(self._folder / LONGEST_SOCKET)) - MOST_SOCKET_CHARACTERS) > 0:
            raise ProcessError(
                f"a real node cannot lie in {self._folder}: the path is {excess} characters too long for the kubelet's "
                "sockets; choose another folder"
            )
        shutil.rmtree(self._folder, ignore_errors=True)
        self._folder.mkdir(mode=0o700, parents=True)
        self._client_certificate = self._folder / "kubelet-client.crt"
        subject = ["-subj", "/O=system:masters/CN=kube-apiserver", "-addext", "extendedKeyUsage=clientAuth"]
        files: list[str | Path] = [
            "-keyout",
            self._client_certificate.with_suffix(".key"),
            "-out",
            self._client_certificate,
        ]
        curve = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "2"]
        _run("openssl", "req", "-x509", *curve, *subject, *files)

    def _sweep(self) -> None:
        """Removes what a cluster that was killed may have left: cgroups, which outlive their processes."""
        pattern = f"{addresses.NAME_PREFIX}[0-9]*"
        found = {path.name for path in (*CGROUPS.glob(pattern), *CGROUPS.glob(f"*/{pattern}"))}
        for name in found:
            if lock := addresses.lock(name):
                with lock:
                    _run(sys.executable, "-I", "-S", NAMESPACES, "sweep", name)

    def _hold(self) -> None:
        """Makes the namespaces."""
        pid_file = self._folder / "pid"
        self._scratch.mkdir()
        names = [self.name, str(self._scratch), self.addresses.name]
        argv = [sys.executable, "-I", "-S", str(NAMESPACES), "hold", str(pid_file), *names]
        holder = spawn("namespaces", argv, self._log("namespaces"), cwd=self._folder)
        self._children["namespaces"] = holder
        wait_until(pid_file.exists, "the node's namespaces", START_TIMEOUT, [holder])

    def _connect(self) -> None:
        """One cable between the machine and the node, and routes to what is behind it."""
        at = self.addresses
        pid = (self._folder / "pid").read_text()
        _run("ip", "link", "add", at.name, "type", "veth", "peer", "name", "eth0", "netns", pid)
        _run("ip", "address", "add", f"{at.machine}/30", "dev", at.name)
        _run("ip", "link", "set", at.name, "up")
        for network in (at.pods, at.services):
            _run("ip", "route", "add", str(network), "via", at.node)
        enter(self._cluster_folder, "ip", "address", "add", f"{at.node}/30", "dev", "eth0")
        for link in ("lo", "eth0"):
            enter(self._cluster_folder, "ip", "link", "set", link, "up")
        enter(self._cluster_folder, "ip", "route", "add", "default", "via", at.machine)
        enter(self._cluster_folder, "sh", "-c", "echo 1 > /proc/sys/net/ipv4/ip_forward")

    # -- the programs -------------------------------------------------------------------------------------------------

    def _start_containerd(self) -> None:
        plugins = toolchain.binary("ptp").parent
        config = settings.containerd(self._folder, self._scratch, program("runc", "runc"), plugins)
        cni = json.dumps(settings.cni(self.addresses, self._folder))
        file = self._write("containerd.toml", config)
        self._write("cni/10-pods.conflist", cni)
        self._spawn("containerd", [str(toolchain.binary("containerd")), "--config", str(file)])
        wait_until(self._containerd_answers, "containerd", START_TIMEOUT, self.children())

    def _containerd_answers(self) -> bool:
        try:
            enter(self._cluster_folder, *_ctr(), "version")
        except ProcessError:
            return False
        return True

    def _start_coredns(self, kubeconfig: Path) -> None:
        file = self._write("Corefile", settings.coredns(self.addresses, kubeconfig, self._write("hosts", "")))
        self._spawn("coredns", [str(toolchain.binary("coredns")), "-conf", str(file)])

    def _start_kube_proxy(self, kubeconfig: Path) -> None:
        program("nft", "nftables")
        file = self._write("kube-proxy.json", json.dumps(settings.kube_proxy(kubeconfig)))
        self._spawn("kube-proxy", [str(toolchain.binary("kube-proxy")), f"--config={file}"])

    def _start_enforcer(self, kubeconfig: Path) -> None:
        module = [sys.executable, "-m", "testbed.realnode.enforcer"]
        self._spawn("network-policies", [*module, str(kubeconfig), self.addresses.machine])

    def _kubelet_command(self, kubeconfig: Path) -> list[str]:
        config = settings.kubelet(self.addresses, self._folder, self._client_certificate)
        flags = {
            "config": self._write("kubelet.json", json.dumps(config)),
            "root-dir": self._folder / "kubelet",
            "cert-dir": self._folder / "kubelet/pki",
            "kubeconfig": kubeconfig,
            "hostname-override": self.name,
            "node-ip": self.addresses.node,
        }
        return [str(toolchain.binary("kubelet")), *(f"--{flag}={value}" for flag, value in flags.items())]

    def _spawn(self, name: str, argv: list[str]) -> None:
        path = os.pathsep.join([str(toolchain.binary("containerd").parent), os.environ["PATH"], "/usr/sbin", "/sbin"])
        command = _entering(self._cluster_folder, argv)
        env = {**os.environ, "PATH": path, "PYTHONPATH": str(toolchain.HACK)}
        self._children[name] = spawn(name, command, self._log(name), cwd=self._folder, env=env)

    def _write(self, name: str, text: str) -> Path:
        file = self._folder / name
        file.parent.mkdir(exist_ok=True)
        file.write_text(text)
        return file

    def _log(self, name: str) -> Path:
        return self._cluster_folder / "logs" / f"{name}.log"


def load_image(cluster_folder: Path, image: Path) -> None:
    """Gives the running node of a cluster an OCI image (a tar file); pods use it with `imagePullPolicy: Never`."""
    enter(cluster_folder, *_ctr(), "--namespace", "k8s.io", "images", "import", "--local", str(image))


def enter(cluster_folder: Path, *argv: str) -> str:
    """Runs a program in the node's namespaces and returns its output; ProcessError with what it said when it fails."""
    return _run(*_entering(cluster_folder, argv))


def _entering(cluster_folder: Path, argv: Iterable[str]) -> list[str]:
    pid = (cluster_folder / "node" / "pid").read_text()
    return [sys.executable, "-I", "-S", str(NAMESPACES), "enter", pid, *argv]


def _ctr() -> list[str]:
    return [str(toolchain.binary("ctr")), "--address", settings.SOCKET]


def _run(*argv: str | Path) -> str:
    answer = subprocess.run([str(part) for part in argv], capture_output=True, text=True, check=False)
    if answer.returncode:
        raise ProcessError(f"{' '.join(map(str, argv))}: {answer.stderr.strip() or answer.stdout.strip()}")
    return answer.stdout
