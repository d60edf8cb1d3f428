"""What a server outside of the cluster is shown, and by what it is known: read when needed, never kept or told."""

import asyncio
import os
import socket
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from pydantic import SecretStr

from paramedic.api.connection import Keys
from paramedic.api.reasons import Reason
from paramedic.clients.web import check_address
from paramedic.errors import Terminal, Unreachable

_LOOKUP_SECONDS = 5
# Not the default executor: a DNS server that hangs must not hold up the rest of the operator.
_threads = ThreadPoolExecutor(4, thread_name_prefix="addresses")


@contextmanager
def memory_file(text: str) -> Iterator[int]:
    """The descriptor of a file that is nowhere but in memory, meanwhile, and that nobody else may read (mode 0600)."""
    descriptor = os.memfd_create("paramedic")
    try:
        os.fchmod(descriptor, 0o600)
        os.write(descriptor, text.encode())
        yield descriptor
    finally:
        os.close(descriptor)


class LoginRefused(Unreachable):
    """The server answers, and does not let Paramedic in."""


class LoginWrong(LoginRefused):
    """The server says that the login is wrong, or has no right to it: no trouble of its own."""


class NoConnectionLeft(Unreachable):
    """The server answers, and has no connection left."""


@dataclass(frozen=True, slots=True)
class Credentials:
    """A password and a CA, in files of the operator's or as a Secret holds them; or keys for AWS.

    With an ``iam_region`` a token of AWS IAM takes the password's place.
    """

    password_file: Path | None = None
    ca_file: Path | None = None
    iam_region: str | None = None
    password_value: SecretStr | None = field(default=None, repr=False)
    ca_pem: str | None = field(default=None, repr=False)
    keys: Keys | None = field(default=None, repr=False)

    def password(self) -> str | None:
        """As it is now. Raises Terminal when its file cannot be read."""
        if self.password_value is not None:
            return self.password_value.get_secret_value()
        return None if self.password_file is None else _read(self.password_file).removesuffix("\n")

    def ca(self) -> str | None:
        """The CA's certificates as PEM; None for the system's. Raises Terminal when its file cannot be read."""
        return self.ca_pem if self.ca_file is None else _read(self.ca_file)

    @contextmanager
    def ca_path(self) -> Iterator[str | None]:
        """A path under which the CA's certificates can be read meanwhile, for libraries that take nothing else."""
        if self.ca_pem is None:
            yield None if self.ca_file is None else str(self.ca_file)
            return
        with memory_file(self.ca_pem) as descriptor:
            yield f"/proc/self/fd/{descriptor}"


@dataclass(frozen=True, slots=True)
class Way:
    """How a server is got at: what it is shown, whose turn it is, and which addresses will not do.

    ``guarded`` where somebody else than the operator's owner named the host; ``allow_loopback`` is for tests.
    """

    credentials: Credentials
    turn: asyncio.Semaphore
    guarded: bool = False
    allow_loopback: bool = False

    async def addresses(self, host: str, port: int) -> list[str]:
        """The addresses of a host. Where ``guarded``, those of the operator's own machine and of metadata services are
        refused. Raises Unreachable, Terminal.
        """
        look_up = partial(socket.getaddrinfo, host, port, type=socket.SOCK_STREAM)
        try:
            async with asyncio.timeout(_LOOKUP_SECONDS):
                found = await asyncio.get_running_loop().run_in_executor(_threads, look_up)
        except TimeoutError as error:
            raise Unreachable(f"{host} cannot be resolved: no answer within {_LOOKUP_SECONDS} s") from error
        except OSError as error:
            raise Unreachable(f"{host} cannot be resolved: {error.strerror or error}") from error
        addresses = list(dict.fromkeys(str(address[0]) for *_, address in found))
        for address in addresses if self.guarded else ():
            try:
                check_address(address, host, self.allow_loopback)
            except OSError as error:
                raise Terminal(Reason.CONNECTION_FAILED, str(error)) from error
        return addresses


def _read(path: Path) -> str:
    try:
        return path.read_text()
    except (OSError, UnicodeDecodeError) as error:
        why = error.strerror if isinstance(error, OSError) else "it is not text"
        raise Terminal(
            Reason.CONNECTION_FAILED, f"{path} of the settings' connections cannot be read: {why}"
        ) from error
