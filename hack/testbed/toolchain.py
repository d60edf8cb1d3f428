"""Builds what the test bed runs from the go.mod files beside this package, once per machine.

The binaries lie in a cache outside the work tree, keyed by everything that decides what comes out (go.mod, go.sum,
build flags, platform), so `make clean` or another checkout costs no second build. A module appears in the cache
complete or not at all, and two builds at once share one: the second waits.
"""

from __future__ import annotations

import hashlib
import json
import os
import platform
import shutil
import subprocess
import tempfile
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path

from testbed.golang import ToolchainError, find_go, version_in
from testbed.locks import locked
from testbed.processes import spawn
from testbed.progress import Progress, say

HACK = Path(__file__).resolve().parent.parent

KUBERNETES_VERSION = "1.37.2"


@dataclass(frozen=True)
class Module:
    """One folder `hack/<name>` with a go.mod, and the commands that are built from it."""

    name: str
    commands: dict[str, str]
    ldflags: str = "-s -w"
    tags: str = ""
    data: dict[str, str] = field(default_factory=dict)
    """Folders copied from a module's source: name in the cache → "module path:folder in it"."""

    @property
    def folder(self) -> Path:
        return HACK / self.name

    def build_flags(self) -> list[str]:
        """The flags of `go build`; they are part of the cache's key."""
        tags = [f"-tags={self.tags}"] if self.tags else []
        return ["-trimpath", "-buildvcs=false", *tags, f"-ldflags={self.ldflags}"]

    def key(self) -> str:
        """Changes whenever the binaries could."""
        digest = hashlib.sha256()
        for name in ("go.mod", "go.sum"):
            digest.update((self.folder / name).read_bytes())
        parts = [self.build_flags(), self.commands, self.data, platform.system(), platform.machine()]
        digest.update(json.dumps(parts, sort_keys=True).encode())
        return digest.hexdigest()[:16]


def _kubernetes_ldflags() -> str:
    """Without these, clients are told that the server is v0.0.0-master."""
    major, minor, _ = KUBERNETES_VERSION.split(".")
    values = {"gitVersion": f"v{KUBERNETES_VERSION}", "gitMajor": major, "gitMinor": minor, "gitTreeState": "clean"}
    stamps = [f"-X k8s.io/component-base/version.{name}={value}" for name, value in values.items()]
    return " ".join(["-s -w", *stamps])


def _kubernetes_commands() -> dict[str, str]:
    names = ("kube-apiserver", "kubectl", "kube-controller-manager", "kube-scheduler")
    return {name: f"k8s.io/kubernetes/cmd/{name}" for name in names}


__all__ = [
    "CLUSTER",
    "MODULES",
    "MONITORING",
    "NODE",
    "ToolchainError",
    "binary",
    "cache_folder",
    "ensure",
    "installed",
    "kwok_stages",
]

MODULES = {
    module.name: module
    for module in (
        Module("etcd", {"etcd": "go.etcd.io/etcd/server/v3"}),
        Module("kubernetes", _kubernetes_commands(), ldflags=_kubernetes_ldflags()),
        Module(
            "kwok",
            {"kwok": "sigs.k8s.io/kwok/cmd/kwok"},
            data={"stage": "sigs.k8s.io/kwok:kustomize/stage"},
        ),
        Module(
            "prometheus",
            {"prometheus": "github.com/prometheus/prometheus/cmd/prometheus"},
            tags="remove_all_sd",
        ),
        Module(
            "alertmanager",
            {name: f"github.com/prometheus/alertmanager/cmd/{name}" for name in ("alertmanager", "amtool")},
        ),
        Module(
            "kubelet",
            {name: f"k8s.io/kubernetes/cmd/{name}" for name in ("kubelet", "kube-proxy")},
            ldflags=_kubernetes_ldflags(),
        ),
        Module(
            "containerd",
            {
                name: f"github.com/containerd/containerd/v2/cmd/{name}"
                for name in ("containerd", "containerd-shim-runc-v2", "ctr")
            },
            tags="no_btrfs,no_devmapper,no_zfs",
        ),
        Module(
            "cni-plugins",
            {
                name: f"github.com/containernetworking/plugins/plugins/{kind}/{name}"
                for name, kind in (("ptp", "main"), ("loopback", "main"), ("host-local", "ipam"))
            },
        ),
        Module("coredns", {"coredns": "github.com/coredns/coredns"}),
    )
}

CLUSTER = ("etcd", "kubernetes", "kwok")
NODE = ("kubelet", "containerd", "cni-plugins", "coredns")
"""What a real node needs besides."""
MONITORING = ("prometheus", "alertmanager")


def cache_folder() -> Path:
    """`$PARAMEDIC_CACHE`, or ~/.cache/paramedic; made if missing."""
    folder = Path(os.environ.get("PARAMEDIC_CACHE") or Path.home() / ".cache" / "paramedic").expanduser().resolve()
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def installed(name: str) -> Path:
    """The cache's folder of module `name` (commands in `bin/`), whether or not it has been built yet."""
    module = MODULES[name]
    return cache_folder() / "tools" / f"{module.name}-{module.key()}"


def binary(command: str) -> Path:
    """The path of one command, e.g. "kubectl"; builds its module when it is not in the cache."""
    for module in MODULES.values():
        if command in module.commands:
            ensure(module.name)
            return installed(module.name) / "bin" / command
    raise ToolchainError(f"no module of the test bed builds {command!r}; known: {sorted(MODULES)}")


def ensure(*names: str) -> None:
    """Builds the named modules that are not in the cache yet, telling how far it is. Instant when none is missing."""
    missing = [MODULES[name] for name in names if not installed(name).exists()]
    if not missing:
        return
    say(f"test bed: {len(missing)} of {len(names)} modules to build; once per machine, then kept in the cache")
    go = find_go(_wanted_go(missing), cache_folder())
    for number, module in enumerate(missing, start=1):
        with _only_one(module):
            if not installed(module.name).exists():
                _install(module, go, f"[{number}/{len(missing)}] {module.name}")


def _only_one(module: Module) -> AbstractContextManager[None]:
    """Holds the module's build lock; says so when somebody else is building it."""
    locks = cache_folder() / "locks"
    locks.mkdir(exist_ok=True)
    return locked(locks / f"{module.name}.lock", f"test bed: another process is building {module.name}; waiting for it")


def _install(module: Module, go: Path, title: str) -> None:
    """Builds into a temporary folder of the cache and renames it: nobody ever sees half a module."""
    target = installed(module.name)
    target.parent.mkdir(exist_ok=True)
    for leftover in target.parent.glob(f".{module.name}-*"):  # of a build that was killed; the lock is ours
        shutil.rmtree(leftover, ignore_errors=True)
    place = {"prefix": f".{module.name}-", "dir": str(target.parent)}
    with tempfile.TemporaryDirectory(**place, ignore_cleanup_errors=True) as scratch:
        staging = Path(scratch) / "module"
        (staging / "bin").mkdir(parents=True)
        (Path(scratch) / "go").mkdir()
        for command, package in module.commands.items():
            _build(module, go, package, staging / "bin" / command, f"{title}: {command}")
        for name, origin in module.data.items():
            _copy_source(module, go, origin, staging / name)
        staging.rename(target)


def _build(module: Module, go: Path, package: str, target: Path, title: str) -> None:
    """`target` lies in the staging folder, and Go's own temporary files beside that: a build that is cut short leaves
    them where the next one clears up.
    """
    argv = [str(go), "build", *module.build_flags(), "-o", str(target), package]
    scratch = target.parents[2] / "go"
    log = scratch / f"{target.name}.log"
    with Progress(title) as progress:
        child = spawn("go", argv, log, cwd=module.folder, env=_go_environment() | {"GOTMPDIR": str(scratch)})
        try:
            while not child.wait(0.25):
                progress.tick()
        finally:
            child.kill_group()
    if child.exit_code:
        raise ToolchainError(_build_failure(module, package, child.exit_code, log.read_text(errors="replace")))


def _build_failure(module: Module, package: str, code: int, output: str) -> str:
    hint = (
        "killed: most likely out of memory (the API server needs about 3 GiB to build)" if code < 0 else f"exit {code}"
    )
    return (
        f"building {package} failed ({hint}). Go said:\n{output.strip()[-4000:]}\n"
        f"Try again by hand: cd {module.folder} && go build {package}\n"
        "Without network access, set GOPROXY to a Go module proxy that can be reached."
    )


def _copy_source(module: Module, go: Path, origin: str, target: Path) -> None:
    """Copies data files out of a Go module's source, which lies read-only in Go's own module cache."""
    module_path, folder = origin.split(":")
    argv = [str(go), "mod", "download", "-json", module_path]
    answer = subprocess.run(argv, cwd=module.folder, env=_go_environment(), capture_output=True, text=True, check=False)
    if answer.returncode:
        raise ToolchainError(f"{' '.join(argv)} failed:\n{answer.stdout}{answer.stderr}")
    source = Path(json.loads(answer.stdout)["Dir"]) / folder
    for file in source.rglob("*.yaml"):
        copy = target / file.relative_to(source)
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(file, copy)


def _wanted_go(modules: list[Module]) -> tuple[int, ...]:
    """The newest version that any of their go.mod files asks for."""
    texts = (module.folder.joinpath("go.mod").read_text() for module in modules)
    return max(version_in(text, r"^go (\d+)\.(\d+)(?:\.(\d+))?$") for text in texts)


def _go_environment() -> dict[str, str]:
    """The user's own environment (GOPROXY, GOFLAGS, …), except what would change the outcome."""
    return {**os.environ, "CGO_ENABLED": "0", "GOWORK": "off"}


def kwok_stages() -> list[Path]:
    """kwok's own stages: nodes that get Ready, pods that run, complete and go away at once."""
    stage = installed("kwok") / "stage"
    folders = ("node/fast", "pod/fast")
    return [
        file
        for folder in folders
        for file in sorted((stage / folder).glob("*.yaml"))
        if file.name != "kustomization.yaml"
    ]
