"""Starts children so that none of them outlives us, and stops only what we started.

On Linux the kernel kills a child when the *thread* that forked it ends, however that came about. All children are
therefore forked by one thread that lasts as long as the process. Elsewhere (macOS) only an orderly stop ends them.
"""

from __future__ import annotations

import contextlib
import os
import queue
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterable
from concurrent.futures import Future
from dataclasses import dataclass
from pathlib import Path

LAUNCHER = Path(__file__).with_name("launch.py")
TAIL_LINES = 15


class ProcessError(RuntimeError):
    """A child did not start, did not get ready, or died; the text holds the end of its log."""


@dataclass(frozen=True)
class Identity:
    """A process that can be told from a later one with the same pid, by the time it started."""

    pid: int
    started: str

    @classmethod
    def of(cls, pid: int) -> Identity | None:
        """None when there is no such process (a zombie counts as none)."""
        started = _start_time(pid)
        return cls(pid, started) if started else None

    def alive(self) -> bool:
        return _start_time(self.pid) == self.started

    def send(self, number: signal.Signals) -> None:
        """Signals this very process; does nothing when it is gone, even if its pid lives on in another."""
        if self.alive():
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, number)

    def stop(self, grace: float) -> None:
        """TERM, then KILL after `grace` seconds; returns when it is gone."""
        self.send(signal.SIGTERM)
        deadline = time.monotonic() + grace
        while self.alive() and time.monotonic() < deadline:
            time.sleep(0.05)
        self.send(signal.SIGKILL)
        while self.alive():
            time.sleep(0.02)


def _start_time(pid: int) -> str:
    """When the process started, as the system tells it; "" when it is not there or a zombie."""
    try:
        return _start_time_from_proc(Path(f"/proc/{pid}/stat").read_text())
    except (FileNotFoundError, ProcessLookupError):
        return "" if Path("/proc/self/stat").exists() else _start_time_from_ps(pid)


def _start_time_from_proc(stat: str) -> str:
    """Field 22, in ticks since boot. Field 2 may hold blanks and parentheses, so it is counted from the last one."""
    state, *fields = stat.rpartition(")")[2].split()
    return "" if state in "ZX" else fields[18]


def _start_time_from_ps(pid: int) -> str:
    answer = subprocess.run(["ps", "-o", "lstart=", "-p", str(pid)], capture_output=True, text=True, check=False)
    return answer.stdout.strip()


class Child:
    """A running program of ours with a log file."""

    def __init__(self, name: str, process: subprocess.Popen[bytes], log: Path) -> None:
        self.name = name
        self.log = log
        self._process = process

    @property
    def pid(self) -> int:
        return self._process.pid

    def alive(self) -> bool:
        return self._process.poll() is None

    def send(self, number: signal.Signals) -> None:
        """Signals it; a child that has ended is left alone (Popen knows, so a recycled pid is never hit)."""
        self._process.send_signal(number)

    def wait(self, timeout: float) -> bool:
        """Whether it has ended, after at most `timeout` seconds."""
        try:
            self._process.wait(max(timeout, 0))
        except subprocess.TimeoutExpired:
            return False
        return True

    def stop(self, grace: float = 5) -> None:
        """TERM, then KILL after `grace` seconds; returns when it is gone."""
        stop_all([self], grace)

    def kill_group(self) -> None:
        """KILL at once, to it and to what it has started and left in its process group; returns when it is gone."""
        if self.alive():
            os.killpg(self.pid, signal.SIGKILL)
        self._process.wait()

    @property
    def exit_code(self) -> int:
        """Negative: the signal that ended it. Only once it has ended."""
        code = self._process.poll()
        assert code is not None
        return code

    def tail(self, lines: int = TAIL_LINES) -> str:
        """The end of its log."""
        text = self.log.read_text(errors="replace") if self.log.exists() else ""
        return "\n".join(line[:400] for line in text.splitlines()[-lines:]) or "(it wrote nothing)"

    def obituary(self) -> str:
        """What a person needs to know about a child that should not have ended."""
        code = self._process.poll()
        how = f"was killed by signal {-code}" if code is not None and code < 0 else f"ended with exit code {code}"
        return f"{self.name} {how}. The end of {self.log}:\n{self.tail()}"


def stop_all(children: Iterable[Child], grace: float = 5) -> None:
    """Stops them in the given order of TERMs, all at once; KILLs what is left after `grace` seconds."""
    running = [child for child in children if child.alive()]
    for child in running:
        child.send(signal.SIGTERM)
    deadline = time.monotonic() + grace
    for child in running:
        if not child.wait(deadline - time.monotonic()):
            child.send(signal.SIGKILL)
            child.wait(60)


def spawn(
    name: str, argv: Iterable[str | Path], log: Path, *, env: dict[str, str] | None = None, cwd: Path | None = None
) -> Child:
    """Starts a program in a process group of its own, its output appended to `log`. It never outlives this process."""
    log.parent.mkdir(parents=True, exist_ok=True)
    launcher = [sys.executable, "-I", "-S", str(LAUNCHER), str(os.getpid())]
    command = [*launcher, *map(str, argv)]

    def fork() -> subprocess.Popen[bytes]:
        with log.open("ab") as output:
            return subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=output, stderr=output, env=env, cwd=cwd, process_group=0
            )

    return Child(name, _forker().run(fork), log)


class _Forker:
    """One thread that forks all children and lasts until the process ends."""

    def __init__(self) -> None:
        self.pid = os.getpid()
        self._jobs: queue.SimpleQueue[tuple[Callable[[], subprocess.Popen[bytes]], Future[subprocess.Popen[bytes]]]] = (
            queue.SimpleQueue()
        )
        threading.Thread(target=self._work, name="forker", daemon=True).start()

    def run(self, fork: Callable[[], subprocess.Popen[bytes]]) -> subprocess.Popen[bytes]:
        future: Future[subprocess.Popen[bytes]] = Future()
        self._jobs.put((fork, future))
        return future.result()

    def _work(self) -> None:
        while True:
            fork, future = self._jobs.get()
            try:
                future.set_result(fork())
            except BaseException as error:  # handed to the caller, whatever it is
                future.set_exception(error)


_forker_lock = threading.Lock()
_the_forker: _Forker | None = None


def _forker() -> _Forker:
    """The process's forker; a forked copy of this process (multiprocessing) gets its own."""
    global _the_forker
    with _forker_lock:
        if _the_forker is None or _the_forker.pid != os.getpid():
            _the_forker = _Forker()
        return _the_forker


def wait_until(
    ready: Callable[[], bool], what: str, timeout: float, children: Iterable[Child] = (), interval: float = 0.05
) -> None:
    """Polls until `ready()`; ProcessError when one of `children` has died meanwhile, or after `timeout` seconds."""
    watched = list(children)
    deadline = time.monotonic() + timeout
    while not ready():
        for child in watched:
            if not child.alive():
                raise ProcessError(f"waiting for {what}: {child.obituary()}")
        if time.monotonic() > deadline:
            logs = "\n".join(f"The end of {child.log}:\n{child.tail()}" for child in watched)
            raise ProcessError(f"{what}: not so after {timeout:.0f} s.\n{logs}")
        time.sleep(interval)
