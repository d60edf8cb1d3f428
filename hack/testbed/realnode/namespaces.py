"""A node's own namespaces: `namespaces.py hold …` makes and keeps them, `namespaces.py enter …` runs a program in them.

Run as a script and never imported. What lives in them ends with them, by the kernel: the processes with the PID
namespace's first one, the mounts with the mount namespace, the interfaces, routes and nftables tables with the network
namespace. Whoever holds them ends with the process that started it, even when that one is killed with -9.
(Python 3.12 has os.unshare and os.setns; 3.11 has not.)
"""

import ctypes
import os
import signal
import socket
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

PR_SET_PDEATHSIG = 1
CLONE_NEWNS, CLONE_NEWUTS, CLONE_NEWIPC, CLONE_NEWPID, CLONE_NEWNET = 1 << 17, 1 << 26, 1 << 27, 1 << 29, 1 << 30
MS_RDONLY, MS_REMOUNT, MS_BIND = 1, 1 << 5, 1 << 12
MS_REC, MS_PRIVATE, MS_SHARED = 1 << 14, 1 << 18, 1 << 20
NAMESPACES = ("mnt", "net", "uts", "ipc", "pid")
CGROUPS = Path("/sys/fs/cgroup")
CGROUP_PATIENCE = 5.0  # seconds; a cgroup is busy for a moment after its last process
SYSCTLS = {  # what a kubelet wants (setupKernelTunables); they belong to the machine, and no namespace has its own
    "vm/overcommit_memory": "1",
    "vm/panic_on_oom": "0",
    "kernel/panic": "10",
    "kernel/panic_on_oops": "1",
    "kernel/keys/root_maxkeys": "1000000",
    "kernel/keys/root_maxbytes": "25000000",
}

libc = ctypes.CDLL(None, use_errno=True)


def main() -> None:
    """`hold`, `enter` or `sweep`, and the arguments of the function that does it."""
    verb, *arguments = sys.argv[1:]
    verbs: dict[str, Callable[..., None]] = {"hold": hold, "enter": enter, "sweep": remove_cgroups}
    verbs[verb](*arguments)


def hold(pid_file: str, hostname: str, scratch: str, cgroup: str) -> None:
    """Makes namespaces, writes the pid of their first process to `pid_file` when they are ready, and waits.

    Makes cgroups of the name `cgroup` too, for the pods. On TERM, or when the parent dies, all processes in the
    namespaces are ended and the cgroups, empty then, removed.
    """
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM, signal.SIGCHLD])
    call("prctl", PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0)
    call("unshare", CLONE_NEWNS | CLONE_NEWUTS | CLONE_NEWIPC | CLONE_NEWPID | CLONE_NEWNET)
    make_cgroups(cgroup)
    ready, tell = os.pipe()
    first = fork(lambda: be_first(tell, hostname, Path(scratch)))
    os.close(tell)
    if os.read(ready, 1):
        Path(f"{pid_file}.new").write_text(str(first))
        Path(f"{pid_file}.new").rename(pid_file)
        signal.sigwait([signal.SIGTERM, signal.SIGCHLD])
    os.kill(first, signal.SIGKILL)
    os.waitpid(first, 0)  # returns when every process in the namespace is gone
    remove_cgroups(cgroup)


def be_first(tell: int, hostname: str, scratch: Path) -> None:
    """The PID namespace's process 1: prepares the mounts, `scratch` in memory among them, then buries orphans."""
    socket.sethostname(hostname)
    call("mount", None, b"/", None, MS_REC | MS_PRIVATE, None)
    mount("proc", "/proc", "proc")
    for folder in ("/run", "/var/log"):  # where programs write whatever their settings say
        mount("tmpfs", folder, "tmpfs")
    mount("tmpfs", str(scratch), "tmpfs")
    cover_sysctls(scratch / "sysctls")
    for name in ("upper", "work"):
        (scratch / name).mkdir()
    mount("overlay", "/var/lib", "overlay", f"lowerdir=/var/lib,upperdir={scratch}/upper,workdir={scratch}/work")
    call("mount", None, b"/", None, MS_REC | MS_SHARED, None)  # what is mounted for one pod is seen by the others
    os.write(tell, b"1")
    while True:
        signal.sigwait([signal.SIGCHLD])
        with suppress(ChildProcessError):
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass


def enter(pid: str, *program: str) -> None:
    """Runs the program in the namespaces of `pid`; passes TERM and INT on to it and ends as it does."""
    for namespace in [os.open(f"/proc/{pid}/ns/{name}", os.O_RDONLY | os.O_CLOEXEC) for name in NAMESPACES]:
        call("setns", namespace, 0)
    passed = [signal.SIGTERM, signal.SIGINT]
    signal.pthread_sigmask(signal.SIG_BLOCK, passed)
    child = fork(lambda: become(program, passed))
    for number in passed:
        signal.signal(number, lambda number, _: os.kill(child, number))
    signal.pthread_sigmask(signal.SIG_UNBLOCK, passed)
    sys.exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) & 0xFF)


def become(program: tuple[str, ...], blocked: list[signal.Signals]) -> None:
    """Replaces this process, which takes the `blocked` signals again, by the program."""
    signal.pthread_sigmask(signal.SIG_UNBLOCK, blocked)
    try:
        os.execvp(program[0], program)
    except OSError as error:
        sys.exit(f"cannot run {program[0]}: {error.strerror}")


def fork(work: Callable[[], None]) -> int:
    """The pid of a child that does `work` and is killed when this process ends."""
    if child := os.fork():
        return child
    call("prctl", PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    work()
    sys.exit(0)


def make_cgroups(name: str) -> None:
    """One in each hierarchy of cgroup v1, or one in that of v2, with all controllers there are."""
    for procs in (*CGROUPS.glob("cgroup.procs"), *CGROUPS.glob("*/cgroup.procs")):
        if procs.parent == CGROUPS or not (CGROUPS / "cgroup.procs").exists():
            (procs.parent / name).mkdir(exist_ok=True)
    controllers = CGROUPS / "cgroup.controllers"
    if controllers.exists():
        for controller in controllers.read_text().split():
            with suppress(OSError):  # one that cannot be had here; the kubelet says so if it needs it
                (CGROUPS / "cgroup.subtree_control").write_text(f"+{controller}")


def remove_cgroups(name: str) -> None:
    """Removes the cgroups of this name, in every hierarchy, with all below them; one that is in use stays."""
    deadline = time.monotonic() + CGROUP_PATIENCE
    for top in (CGROUPS / name, *CGROUPS.glob(f"*/{name}")):
        while top.exists() and not removed(top) and time.monotonic() < deadline:
            time.sleep(0.02)


def removed(top: Path) -> bool:
    """Whether it is gone after one more try."""
    for folder, _, _ in os.walk(top, topdown=False):
        with suppress(OSError):
            Path(folder).rmdir()
    return not top.exists()


def cover_sysctls(folder: Path) -> None:
    """Shows programs in the namespaces these settings as they want them; the machine's own nobody there can change."""
    folder.mkdir()
    for name, value in SYSCTLS.items():
        file, setting = folder / name.replace("/", "."), Path("/proc/sys", name)
        if not setting.exists():  # this kernel was built without it
            continue
        file.write_text(f"{value}\n")
        call("mount", str(file).encode(), str(setting).encode(), None, MS_BIND, None)
        call("mount", None, str(setting).encode(), None, MS_BIND | MS_REMOUNT | MS_RDONLY, None)


def mount(source: str, target: str, kind: str, data: str = "") -> None:
    """A new file system of this kind over `target`."""
    call("mount", source.encode(), target.encode(), kind.encode(), 0, data.encode() or None)


def call(name: str, *arguments: object) -> None:
    """A call of the C library; SystemExit with the reason when it fails."""
    if getattr(libc, name)(*arguments) == -1:
        number = ctypes.get_errno()
        sys.exit(f"{name}{arguments}: {os.strerror(number)}")


main()
