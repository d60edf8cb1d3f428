"""A real PostgreSQL server on a free port of 127.0.0.1 (or another address of this machine), in a folder of its own.

    with PostgresServer(tls=True, settings={"max_connections": "50"}) as server:
        server.psql("CREATE ROLE app LOGIN PASSWORD 'x'")
        server.url("app", "x")

PostgreSQL refuses to run as root, so root runs it as `nobody`. Its folder is therefore one in the system's temporary
folder, which is removed at the end, however that comes.
"""

from __future__ import annotations

import os
import pwd
import re
import secrets
import shutil
import signal
import subprocess
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Self

from testbed import certificates
from testbed.janitor import temporary_folder
from testbed.packages import program
from testbed.ports import Ports
from testbed.processes import Child, ProcessError, spawn, wait_until

SUPERUSER = "postgres"
LOOPBACK = "127.0.0.1"
_LEAST_USER = "nobody"
_READY_TIMEOUT = 60.0
_STOP_GRACE = 20.0
_SETTINGS = {
    "shared_preload_libraries": "pg_stat_statements",
    "max_connections": "60",
    "wal_level": "replica",
    "max_wal_senders": "4",
    "fsync": "off",
    "synchronous_commit": "off",
    "shared_buffers": "16MB",
    "dynamic_shared_memory_type": "mmap",
    "log_statement": "none",
}


class PostgresServer:
    """One server. `settings` go into postgresql.conf; with `tls` every client has to speak it, and
    `names` are the DNS names in its certificate. It is spoken to at `host`, on `port` (0: a free one). With
    `standby_of` it begins as a copy of that server and follows it, by streaming replication.
    """

    def __init__(
        self,
        *,
        tls: bool = False,
        names: tuple[str, ...] = (),
        settings: Mapping[str, str] | None = None,
        host: str = LOOPBACK,
        port: int = 0,
        standby_of: PostgresServer | None = None,
    ) -> None:
        self.tls = tls
        self._names = names
        self._host = host
        self._origin = standby_of
        self.port = port
        self.password: str = standby_of.password if standby_of else secrets.token_urlsafe(16)
        self.folder = Path()
        self.log = Path()
        self.certificates: certificates.Certificates | None = None
        self._settings = _SETTINGS | {"listen_addresses": host} | dict(settings or {})
        self._ports = Ports()
        self._stack = ExitStack()
        self._child: Child | None = None

    def __enter__(self) -> Self:
        self.folder = self._stack.enter_context(temporary_folder("paramedic-postgres-"))
        self.log = self.folder / "server.log"
        try:
            self.port = self.port or self._ports.reserve()
            self._init()
            self.start()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @property
    def data(self) -> Path:
        """The data directory."""
        return self.folder / "data"

    def start(self) -> None:
        """Starts it; returns when it takes connections."""
        argv: list[str | Path] = [*_as_somebody(), installed("postgres"), "-D", self.data]
        self._child = spawn("postgres", argv, self.log, env=_environment(), cwd=self.folder)
        wait_until(self._ready, "PostgreSQL is ready", _READY_TIMEOUT, [self._child])

    @property
    def pid(self) -> int:
        """Of the process that starts all others of the server."""
        assert self._child is not None
        return self._child.pid

    def stop(self) -> None:
        """Ends it at once, and its sessions; the data stays for the next start."""
        if self._child and self._child.alive():
            self._child.send(signal.SIGINT)
            self._child.wait(_STOP_GRACE)
            self._child.stop()

    def kill(self) -> None:
        """Ends it as a crash does: its clients hear no farewell."""
        if self._child and self._child.alive():
            self._child.kill_group()

    def close(self) -> None:
        """Leaves nothing behind."""
        self.stop()
        self._ports.release()
        self._stack.close()

    def psql(self, sql: str, *, database: str = "postgres", user: str = SUPERUSER, password: str | None = None) -> str:
        """What psql prints for the statements, unaligned and without headers. ProcessError with its words."""
        argv = [
            installed("psql"),
            "-X",
            "-q",
            "-A",
            "-t",
            "-v",
            "ON_ERROR_STOP=1",
            "-d",
            self.url(user, password, database),
        ]
        done = subprocess.run(list(map(str, argv)), input=sql, capture_output=True, text=True, check=False)
        if done.returncode:
            raise ProcessError(f"psql: {done.stderr.strip()}")
        return done.stdout.strip()

    def url(self, user: str = SUPERUSER, password: str | None = None, database: str = "postgres", **more: str) -> str:
        """A connection string for libpq; `password` defaults to the superuser's."""
        mode = {"sslmode": "require" if self.tls else "disable"}
        given = {"host": self._host, "port": str(self.port), "dbname": database, "user": user}
        words = given | {"password": self.password if password is None else password} | mode | more
        return " ".join(f"{name}='{value}'" for name, value in words.items())

    def program(self, name: str) -> Path:
        """One of PostgreSQL's own programs, such as pg_dump."""
        return installed(name)

    def _ready(self) -> bool:
        argv = [installed("pg_isready"), "-h", self._host, "-p", str(self.port), "-q"]
        return subprocess.run(list(map(str, argv)), check=False).returncode == 0

    def _init(self) -> None:
        password = self.folder / "password"
        password.write_text(self.password)
        if self.tls:
            self.certificates = certificates.make(self.folder / "tls", *self._names)
            self._settings |= {
                "ssl": "on",
                "ssl_cert_file": str(self.certificates.certificate),
                "ssl_key_file": str(self.certificates.key),
            }
        _hand_over(self.folder)
        self._fill(password)
        password.unlink()
        own = {"port": str(self.port), "unix_socket_directories": str(self.folder)}
        lines = [f"{name} = '{value}'\n" for name, value in (self._settings | own).items()]
        with (self.data / "postgresql.conf").open("a") as conf:
            conf.writelines(lines)
        kind = "hostssl" if self.tls else "host"
        rules = [
            f"{kind} {database} all {address}/32 scram-sha-256\n"
            for database in ("all", "replication")
            for address in sorted({LOOPBACK, self._host})
        ]
        (self.data / "pg_hba.conf").write_text("".join(rules))

    def _fill(self, password: Path) -> None:
        """Makes the data directory: new, or as a copy that will follow."""
        if self._origin:
            copy = ["-R", "-X", "stream", "-c", "fast", "-d", self._origin.url()]
            name, words = "pg_basebackup", copy
        else:
            new = ["-U", SUPERUSER, "-A", "scram-sha-256", "--pwfile", str(password)]
            name, words = "initdb", [*new, "--no-sync", "--no-locale", "-E", "UTF8"]
        command = list(map(str, [*_as_somebody(), installed(name), "-D", self.data, *words]))
        done = subprocess.run(command, env=_environment(), cwd=self.folder, capture_output=True, text=True, check=False)
        if done.returncode:
            raise ProcessError(f"{name}: {done.stderr.strip()[-800:]}")


def installed(name: str) -> Path:
    """One of PostgreSQL's own programs on this machine; ToolchainError when it cannot be had."""
    return program("postgres", "postgresql", _find_postgres).parent / name


def _find_postgres() -> Path | None:
    """Debian keeps the server's programs out of the PATH, in one folder for each version: the newest."""
    versions = sorted(Path("/usr/lib/postgresql").glob("*/bin/postgres"), key=_version)
    found = versions[-1] if versions else shutil.which("postgres")
    return Path(found).resolve() if found else None


def _version(path: Path) -> int:
    digits = re.fullmatch(r"\d+", path.parts[-3])
    return int(digits[0]) if digits else 0


def _as_somebody() -> list[str]:
    """What a command of PostgreSQL's is run by; the new user would lose the tie to our life, so it is tied anew."""
    if os.geteuid() != 0:
        return []
    user = pwd.getpwnam(_LEAST_USER)
    ids = [f"--reuid={user.pw_uid}", f"--regid={user.pw_gid}", "--clear-groups", "--pdeathsig=SIGKILL"]
    return [str(program("setpriv", "util-linux")), *ids]


def _hand_over(folder: Path) -> None:
    if os.geteuid() == 0:
        user = pwd.getpwnam(_LEAST_USER)
        for path in [folder, *folder.rglob("*")]:
            os.chown(path, user.pw_uid, user.pw_gid)


def _environment() -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if not name.startswith("PG")} | {
        "LC_ALL": "C",
        "TZ": "UTC",
    }
