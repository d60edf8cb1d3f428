"""`python3 hack/testbed up|down|status|env|load|kubectl-path`: a cluster that runs in the background of a work tree.

`up` leaves a small supervisor behind that owns the cluster's programs: `down` ends it in good order, and should it be
killed, the kernel ends them.
"""

from __future__ import annotations

import argparse
import json
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from testbed import toolchain
from testbed.access import write_private
from testbed.cluster import Cluster, ClusterError
from testbed.kwoknode import KwokNode
from testbed.locks import locked
from testbed.node import Node
from testbed.ports import PortError
from testbed.processes import Identity, ProcessError
from testbed.progress import Progress, say
from testbed.realnode import RealNode, load_image, why_not

ROOT = toolchain.HACK.parent
DEFAULT_FOLDER = ROOT / ".cluster"
STATE = "supervisor.json"
MARKER = "paramedic-testbed"
STOP_TIMEOUT = 20.0
NODES: dict[str, Callable[[Path], Node]] = {"kwok": KwokNode, "real": RealNode}


def main(argv: list[str] | None = None) -> int:
    """The exit code: 0 done, 1 failed with a message, 130 interrupted."""
    arguments = _parser().parse_args(argv)
    folder = Path(arguments.dir).absolute()
    try:
        run: Callable[..., int] = arguments.run
        return run(folder, **{name: value for name, value in vars(arguments).items() if name in ("node", "images")})
    except (ClusterError, PortError, ProcessError, toolchain.ToolchainError) as error:
        say(f"error: {error}")
        return 1
    except KeyboardInterrupt:
        say("interrupted; nothing is left running")
        return 130


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="testbed", description="A real Kubernetes control plane on this machine.")
    parser.add_argument(
        "--dir", default=DEFAULT_FOLDER, help="the cluster's folder (default: .cluster at the repository's root)"
    )
    commands = parser.add_subparsers(required=True, metavar="command")
    for name, run, text in (
        ("up", up, "build what is missing and start the cluster in the background; fine to repeat"),
        ("down", down, "stop it and remove its folder"),
        ("status", status, "tell whether it runs (exit code 0) or not (1)"),
        ("env", env, 'print what a shell needs: eval "$(python3 hack/testbed env)"'),
        ("load", load, "give images to the real node"),
        ("kubectl-path", kubectl_path, "print the path of a kubectl of the same version"),
        ("supervise", supervise, "hold the cluster in the foreground (what up leaves in the background)"),
    ):
        command = commands.add_parser(name, help=text)
        command.add_argument("--dir", default=argparse.SUPPRESS, help=argparse.SUPPRESS)
        command.set_defaults(run=run)
        if run in (up, supervise):
            command.add_argument("--node", choices=NODES, default="kwok", help="kwok plays pods, real runs them (root)")
        if run is load:
            command.add_argument("images", type=Path, nargs="+", help="OCI images as tar files")
    return parser


def up(folder: Path, node: str) -> int:
    """Starts the cluster unless it runs already, and prints what to do next."""
    if node == "real" and (reason := why_not()):
        raise ClusterError(reason)
    for number in (signal.SIGTERM, signal.SIGHUP):  # they leave as little behind as Ctrl-C
        if signal.getsignal(number) != signal.SIG_IGN:  # as under nohup
            signal.signal(number, signal.default_int_handler)
    toolchain.ensure(*toolchain.CLUSTER, *(toolchain.NODE if node == "real" else ()))
    with _one_at_a_time(folder):
        state = _running(folder)
        if state and state["node"] != node:
            raise ClusterError(
                f"a cluster with a {state['node']} node runs in {folder}; {_command('down', folder)} first"
            )
        if state is None:
            state = _start_or_clear(folder, node)
            say(f"the cluster is up ({state['started_in']:.1f} s): {state['url']}")
        else:
            say(f"the cluster is up already: {state['url']}")
    print(f"\n  export KUBECONFIG={shlex.quote(str(folder / 'kubeconfig'))}")
    print(f'  export PATH={shlex.quote(str(toolchain.binary("kubectl").parent))}:"$PATH"')
    print(f"  kubectl get nodes\n\n{_command('down', folder)} stops it.")
    return 0


def down(folder: Path) -> int:
    """Stops the cluster and removes its folder. Removes nothing that no cluster of ours lies in."""
    if not folder.exists():
        say(f"there is no cluster in {folder}")
        return 0
    if not (folder / MARKER).exists():
        raise ClusterError(f"{folder} was not made by the test bed (no file {MARKER} in it); remove it yourself")
    with _one_at_a_time(folder):
        supervisor = _supervisor(folder)
        if supervisor:
            supervisor.stop(STOP_TIMEOUT)
        shutil.rmtree(folder)
    say("the cluster is down" if supervisor else "the cluster was not running; its folder is removed")
    return 0


def status(folder: Path) -> int:
    """One line, and why the supervisor has ended by itself, if it has."""
    state = _running(folder)
    if state:
        print(f"running: {state['url']}, kubeconfig {folder / 'kubeconfig'}")
        return 0
    print(f"not running; {_command('up', folder)} starts it")
    log = folder / "supervisor.log"
    if log.exists() and log.read_text().strip():
        print(f"Why, by {log}:\n{log.read_text().strip()[:4000]}")
    return 1


def env(folder: Path) -> int:
    """Shell assignments for `eval`."""
    if not _running(folder):
        raise ClusterError(f"no cluster runs in {folder}; {_command('up', folder)} starts one")
    print(f"export KUBECONFIG={shlex.quote(str(folder / 'kubeconfig'))}")
    print(f"export KUBECACHEDIR={shlex.quote(str(folder / 'kubectl-cache'))}")
    found = (toolchain.binary("kubectl").parent, toolchain.HACK.parent / ".venv" / "bin")
    print(f'export PATH={":".join(shlex.quote(str(folder)) for folder in found)}:"$PATH"')
    return 0


def load(folder: Path, images: list[Path]) -> int:
    """Pods use them with `imagePullPolicy: Never`."""
    state = _running(folder)
    if not state or state["node"] != "real":
        raise ClusterError(f"no cluster with a real node runs in {folder}; make cluster-up NODE=real starts one")
    for image in images:
        load_image(folder, image.absolute())
    return 0


def kubectl_path(folder: Path) -> int:
    print(toolchain.binary("kubectl"))
    return 0


def supervise(folder: Path, node: str) -> int:
    """Holds the cluster until TERM comes or one of its programs dies; run in the background by `up`."""
    signal.signal(signal.SIGTERM, _stop_on_signal)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with Cluster(folder, NODES[node]) as cluster:
            _write_state(folder, ready=True, node=node, url=cluster.url, started_in=cluster.started_in)
            while not (dead := cluster.dead()):
                time.sleep(0.5)
            say(f"stopping everything: {dead.obituary()}")
        return 1
    except SystemExit:
        return 0


def _stop_on_signal(number: int, frame: object) -> None:
    """Unwinds through the cluster's own clean-up; a second signal must not cut that short."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    raise SystemExit(0)


def _start_or_clear(folder: Path, node: str) -> dict[str, Any]:
    """An interrupted start leaves no folder either; a failed one leaves its logs."""
    try:
        return _start(folder, node)
    except KeyboardInterrupt:
        shutil.rmtree(folder, ignore_errors=True)
        raise


def _start(folder: Path, node: str) -> dict[str, Any]:
    """Leaves a supervisor running, or, when it fails or we are interrupted, nothing at all."""
    log = folder / "supervisor.log"
    (folder / STATE).unlink(missing_ok=True)
    argv = [sys.executable, str(Path(__file__).with_name("__main__.py")), "supervise", "--node", node]
    argv += ["--dir", str(folder)]
    with log.open("w") as output:
        process = subprocess.Popen(
            argv, stdin=subprocess.DEVNULL, stdout=output, stderr=output, start_new_session=True, cwd="/"
        )
    try:
        _write_identity(folder, process.pid)
        return _await_ready(folder, process, log)
    except BaseException:
        process.terminate()
        process.wait()
        raise


def _await_ready(folder: Path, process: subprocess.Popen[bytes], log: Path) -> dict[str, Any]:
    with Progress("starting the cluster") as progress:
        while not (state := _read(folder)).get("ready"):
            if process.poll() is not None:
                raise ProcessError(f"the cluster did not start:\n{log.read_text().strip()[-4000:]}")
            progress.tick()
            time.sleep(0.05)
    return state


def _write_identity(folder: Path, pid: int) -> None:
    """Kept apart from what the supervisor writes, so that the two cannot overwrite each other."""
    identity = Identity.of(pid)
    if identity:
        write_private(folder / "supervisor.pid", json.dumps({"pid": identity.pid, "started": identity.started}))


def _supervisor(folder: Path) -> Identity | None:
    """The supervisor, if it is alive."""
    try:
        found = json.loads((folder / "supervisor.pid").read_text())
    except (FileNotFoundError, ValueError):
        return None
    identity = Identity(found["pid"], found["started"])
    return identity if identity.alive() else None


def _running(folder: Path) -> dict[str, Any] | None:
    """What a live supervisor tells about a cluster that is ready."""
    state = _read(folder)
    return state if state.get("ready") and _supervisor(folder) else None


def _read(folder: Path) -> dict[str, Any]:
    try:
        state: dict[str, Any] = json.loads((folder / STATE).read_text())
    except FileNotFoundError:
        return {}
    return state


def _write_state(folder: Path, **state: Any) -> None:
    write_private(folder / STATE, json.dumps(state))


@contextmanager
def _one_at_a_time(folder: Path) -> Iterator[None]:
    """Makes the folder ours and lets `up` and `down` of the same folder wait for each other."""
    if folder.exists() and any(folder.iterdir()) and not (folder / MARKER).exists():
        raise ClusterError(f"{folder} holds something else (no file {MARKER} in it); choose another folder with --dir")
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    with locked(folder / MARKER, f"another up or down works in {folder}; waiting for it"):
        if not (folder / MARKER).exists():  # what we waited for was a `down`
            raise ClusterError(f"{folder} was removed meanwhile; run the same command again")
        yield


def _command(verb: str, folder: Path) -> str:
    """How the user says it."""
    if folder == DEFAULT_FOLDER:
        return f"make cluster-{verb}"
    return f"{Path(sys.executable).name} {toolchain.HACK / 'testbed'} {verb} --dir {shlex.quote(str(folder))}"
