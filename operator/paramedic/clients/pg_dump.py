"""``pg_dump`` of a PostgreSQL database, as a stream in its custom format, which ``pg_restore`` reads.

The program is run with an argv and an environment of its own, and nothing of the operator's. The password is in a file
in memory that only it can see. It ends with its reader, and with the operator, however that ends (``leash``); it then
cancels what the server does for it. pg_dump puts ``statement_timeout`` and ``lock_timeout`` out of force for itself
(but for ``--lock-wait-timeout``), so the limits are the reader's: of time and of size; of memory, the leash's.
"""

import asyncio
import os
import re
import shutil
import signal
import sys
from asyncio.subprocess import DEVNULL, PIPE, Process
from collections.abc import AsyncGenerator
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path

from paramedic.api.reasons import Reason
from paramedic.clients import leash
from paramedic.clients.credentials import memory_file
from paramedic.clients.postgres import Login, Postgres, libpq_options
from paramedic.errors import Terminal, Unreachable

PROGRAM = "pg_dump"
MEDIA_TYPE = "application/x-postgresql-dump"
_LOCK_WAIT_MILLISECONDS = 10_000
# A peer that is gone without a word is noticed within half a minute, in whatever the dump waits for.
_NOTICE_LOSS = "keepalives_idle=15 keepalives_interval=5 keepalives_count=3 tcp_user_timeout=30000"
_CHUNK_BYTES = 256 * 1024
_GRACE_SECONDS = 3.0
_MOST_SAID_BYTES = 4096
_MOST_CHARACTERS = 250
_VERSION_SECONDS = 10.0
_ENVIRONMENT = {
    "port": "PGPORT",
    "dbname": "PGDATABASE",
    "user": "PGUSER",
    "host": "PGHOST",
    "hostaddr": "PGHOSTADDR",
    "sslmode": "PGSSLMODE",
    "sslrootcert": "PGSSLROOTCERT",
    "sslcertmode": "PGSSLCERTMODE",  # this and requireauth: from pg_dump 16 on; an older one knows neither
    "gssencmode": "PGGSSENCMODE",
    "require_auth": "PGREQUIREAUTH",
    "connect_timeout": "PGCONNECT_TIMEOUT",
    "application_name": "PGAPPNAME",
}
"""libpq's options by the variable that says the same."""


@dataclass(frozen=True, slots=True)
class Selection:
    """What of the database is dumped. ``without_rows_of``: patterns of tables, as pg_dump takes them."""

    schema_only: bool = False
    without_rows_of: tuple[str, ...] = ()

    def options(self) -> list[str]:
        """For pg_dump's argv."""
        rows = [f"--exclude-table-data={pattern}" for pattern in self.without_rows_of]
        return [*(["--schema-only"] if self.schema_only else []), *rows]


async def require_pg_dump(database: Postgres) -> str:
    """The program's path, once it is known that it can dump this server. Raises Terminal with what to install,
    Unreachable, Refused.
    """
    async with database.session() as session:
        server = session.version // 10_000
    path = shutil.which(PROGRAM)
    wanted = f"install postgresql-client-{server} or newer beside Paramedic"
    if path is None:
        raise Terminal(Reason.EXTRA_MISSING, f"this needs pg_dump, which is not installed: {wanted}")
    own = await _major_version(path)
    if own < server:
        raise Terminal(
            Reason.EXTRA_MISSING,
            f"pg_dump {own} cannot dump {database.name}, a server of version {server}: {wanted}",
        )
    return path


async def dump(path: str, database: Postgres, selection: Selection) -> AsyncGenerator[bytes, None]:
    """The archive, while it is made; a program that is closed before its end is ended. Raises Unreachable with what
    pg_dump says when it fails, also after it has yielded a part; Terminal.
    """
    login = await database.login()
    with ExitStack() as open_files:
        environment, descriptors = _environment(database, login, open_files)
        process = await asyncio.create_subprocess_exec(
            *_leashed(path, "--format=custom", "--no-password", f"--lock-wait-timeout={_LOCK_WAIT_MILLISECONDS}"),
            f"--dbname={_NOTICE_LOSS}",
            *selection.options(),
            stdin=DEVNULL,
            stdout=PIPE,
            stderr=PIPE,
            env=environment,
            pass_fds=descriptors,
            start_new_session=True,
            cwd="/",
            limit=_CHUNK_BYTES,
        )
        said = asyncio.create_task(_first_words(process))
        try:
            assert process.stdout is not None
            while chunk := await process.stdout.read(_CHUNK_BYTES):
                yield chunk
            if await process.wait():
                raise Unreachable(f"{database.name}: {_told(await said, login.password)}")
        finally:
            await _end(process)
            said.cancel()


def _leashed(*command: str) -> list[str]:
    return [sys.executable, "-I", "-S", str(Path(leash.__file__)), str(os.getpid()), *command]


def _environment(database: Postgres, login: Login, open_files: ExitStack) -> tuple[dict[str, str], list[int]]:
    """All of it, with the files in memory that it names. Raises Terminal."""
    descriptors = []

    def file(text: str) -> str:
        descriptors.append(open_files.enter_context(memory_file(text)))
        return f"/proc/self/fd/{descriptors[-1]}"

    options = libpq_options(database.server, file(login.ca) if login.ca else None) | login.where
    named = {_ENVIRONMENT[name]: str(value) for name, value in options.items() if value is not None}
    named["PGPASSFILE"] = os.devnull if login.password is None else file(_pass_line(login.password))
    return named | {"PATH": os.defpath, "LC_ALL": "C", "HOME": "/nonexistent"}, descriptors


def _pass_line(password: str) -> str:
    """A line of a password file that fits whatever is connected to. Raises Terminal."""
    if "\n" in password or "\r" in password:
        raise Terminal(Reason.CONNECTION_FAILED, "pg_dump takes no password of several lines")
    return "*:*:*:*:" + re.sub(r"([\\:])", r"\\\1", password) + "\n"


async def _major_version(path: str) -> int:
    """Of the program. Raises Terminal when it does not say."""
    process = await asyncio.create_subprocess_exec(
        *_leashed(path, "--version"),
        stdin=DEVNULL,
        stdout=PIPE,
        stderr=DEVNULL,
        env={"PATH": os.defpath, "LC_ALL": "C"},
        start_new_session=True,
    )
    try:
        async with asyncio.timeout(_VERSION_SECONDS):
            assert process.stdout is not None
            text = (await process.stdout.read(_MOST_SAID_BYTES)).decode(errors="replace")
    except TimeoutError:
        text = "nothing"
    finally:
        await _end(process)
    found = re.search(r"\(PostgreSQL\) (\d+)", text)
    if found is None:
        raise Terminal(Reason.EXTRA_MISSING, f"{path} is no pg_dump: it says {text.strip()[:80]!r} of its version")
    return int(found[1])


async def _first_words(process: Process) -> str:
    """The beginning of what the program says on stderr; the rest is read and dropped."""
    assert process.stderr is not None
    said = b""
    while chunk := await process.stderr.read(_MOST_SAID_BYTES):
        said += chunk[: _MOST_SAID_BYTES - len(said)]
    return said.decode(errors="replace")


def _told(said: str, password: str | None) -> str:
    """What went wrong, in one line; details would quote the query."""
    lines = [line for line in said.splitlines() if "error:" in line] or said.splitlines() or ["pg_dump has failed"]
    text = lines[0][:_MOST_CHARACTERS]
    return text.replace(password, "***") if password else text


async def _end(process: Process) -> None:
    """Returns when it is gone. One that still runs is told to end, so that it cancels what the server does for it."""
    if process.returncode is None:
        _signal(process, signal.SIGTERM)
    try:
        async with asyncio.timeout(_GRACE_SECONDS):
            await _gone(process)
    except TimeoutError:
        _signal(process, signal.SIGKILL)
        await _gone(process)
    except asyncio.CancelledError:
        _signal(process, signal.SIGKILL)
        raise


def _signal(process: Process, number: signal.Signals) -> None:
    with suppress(ProcessLookupError):
        os.killpg(process.pid, number)


async def _gone(process: Process) -> None:
    """What is still in the pipe has to be read: else asyncio does not see that it has ended."""
    assert process.stdout is not None
    while await process.stdout.read(_CHUNK_BYTES):
        pass
    await process.wait()
