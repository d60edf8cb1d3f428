"""Whether a real node can run here."""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path

CAPABILITIES = {12: "CAP_NET_ADMIN", 19: "CAP_SYS_PTRACE", 21: "CAP_SYS_ADMIN"}
CONTROLLERS = ("cpu", "cpuset", "memory", "pids")
PROGRAMS = {"ip": "iproute2", "ldd": "libc-bin", "openssl": "openssl"}
INSTALLED_WHEN_MISSING = {"runc": "runc", "nft": "nftables", "busybox": "busybox-static"}
"""Program → Debian's package, which `testbed.packages` installs."""

_CGROUPS = Path("/sys/fs/cgroup")


def why_not() -> str | None:
    """Why no real node can run here, in one line; None when it can. Changes nothing."""
    if sys.platform != "linux":
        return "a real node needs Linux"
    if os.geteuid() != 0:
        return "a real node needs root: it mounts file systems and makes network interfaces"
    if missing := _missing_capabilities():
        return f"a real node needs {', '.join(missing)}: in a container, that is --privileged"
    if missing := [name for name in CONTROLLERS if not _can_limit(name)]:
        return f"a real node needs the cgroup controllers {', '.join(missing)}, writable under {_CGROUPS}"
    if "overlay" not in Path("/proc/filesystems").read_text().split():
        return "a real node needs the overlay file system, which this kernel does not offer (modprobe overlay)"
    if missing := _missing_programs():
        return f"a real node needs programs that are not installed: {', '.join(missing)}"
    return None


def _missing_capabilities() -> list[str]:
    status = Path("/proc/self/status").read_text()
    effective = int(next(line for line in status.splitlines() if line.startswith("CapEff:")).split()[1], 16)
    return [name for bit, name in CAPABILITIES.items() if not effective >> bit & 1]


def _can_limit(controller: str) -> bool:
    """By cgroup v1 (a folder of the controller's own) or v2 (listed at the root)."""
    listed = _CGROUPS / "cgroup.controllers"
    if listed.exists():
        return controller in listed.read_text().split() and os.access(_CGROUPS, os.W_OK)
    return os.access(_CGROUPS / controller, os.W_OK)


def _missing_programs() -> list[str]:
    """Those that Debian's package manager, where there is one, will not bring."""
    missing = [f"{name} (Debian: {package})" for name, package in PROGRAMS.items() if not shutil.which(name)]
    if shutil.which("apt-get"):
        return missing
    return missing + [
        f"{name} (Debian: {package})" for name, package in INSTALLED_WHEN_MISSING.items() if not shutil.which(name)
    ]
