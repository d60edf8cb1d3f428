"""A real Redis server on a free port of 127.0.0.1, in memory only.

with RedisServer(password="x") as server:
    server.cli("RPUSH", "jobs", "1")
"""

from __future__ import annotations

import signal
import subprocess
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Self

from testbed import certificates
from testbed.janitor import temporary_folder
from testbed.packages import program
from testbed.ports import Ports
from testbed.processes import Child, ProcessError, spawn, wait_until

_READY_TIMEOUT = 30.0


class RedisServer:
    """One server; with `tls` it speaks nothing else."""

    def __init__(self, *, password: str = "", tls: bool = False) -> None:
        self.password = password
        self.tls = tls
        self.port = 0
        self.certificates: certificates.Certificates | None = None
        self._ports = Ports()
        self._child: Child | None = None
        self._stack = ExitStack()
        self._folder = Path()

    def __enter__(self) -> Self:
        self._folder = self._stack.enter_context(temporary_folder("paramedic-redis-"))
        try:
            self.port = self._ports.reserve()
            self.certificates = certificates.make(self._folder) if self.tls else None
            self.start()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def start(self) -> None:
        """Starts it, empty; returns when it answers."""
        conf = self._folder / "redis.conf"
        conf.write_text("\n".join(self._settings(self._folder)) + "\n")
        conf.chmod(0o600)
        argv = [program("redis-server", "redis-server"), conf]
        self._child = spawn("redis-server", argv, self._folder / "server.log", cwd=self._folder)
        wait_until(self._ready, "Redis is ready", _READY_TIMEOUT, [self._child])

    def freeze(self) -> None:
        """STOP: it takes connections and answers nothing."""
        if self._child:
            self._child.send(signal.SIGSTOP)

    def thaw(self) -> None:
        """CONT."""
        if self._child:
            self._child.send(signal.SIGCONT)

    def stop(self) -> None:
        """Ends it; what it held is lost."""
        if self._child:
            self._child.stop()

    def close(self) -> None:
        """Leaves nothing behind."""
        self.stop()
        self._ports.release()
        self._stack.close()

    def cli(self, *command: str | int) -> str:
        """What redis-cli prints. ProcessError with an error that Redis answers."""
        argv = [program("redis-cli", "redis-tools"), "-p", str(self.port), "-e", "--no-auth-warning"]
        if self.certificates:
            argv += ["--tls", "--cacert", str(self.certificates.ca)]
        environment = {"REDISCLI_AUTH": self.password} if self.password else {}
        line = list(map(str, [*argv, *command]))
        done = subprocess.run(line, env=environment, capture_output=True, text=True, check=False)
        if done.returncode:
            raise ProcessError(f"redis-cli {command[0]}: {done.stdout.strip()} {done.stderr.strip()}")
        return done.stdout.strip()

    def _settings(self, folder: Path) -> list[str]:
        lines = ["bind 127.0.0.1", 'save ""', "appendonly no", f'dir "{folder}"', "daemonize no"]
        if self.certificates:
            files = f'tls-cert-file "{self.certificates.certificate}"\ntls-key-file "{self.certificates.key}"'
            lines += ["port 0", f"tls-port {self.port}", files, "tls-auth-clients no"]
        else:
            lines += [f"port {self.port}"]
        return [*lines, f'requirepass "{self.password}"'] if self.password else lines

    def _ready(self) -> bool:
        try:
            return self.cli("PING") == "PONG"
        except ProcessError:
            return False
