"""Free TCP ports on 127.0.0.1 that stay ours between being picked and being used.

Asking the kernel for port 0 and closing again gives a port that any outgoing connection may take a moment later. So
ports are taken from below the range that the kernel hands out by itself, and a file lock held until `release()` keeps
other test beds of the same user off them. Should a stranger take one all the same, the child that finds it taken says
so.
"""

from __future__ import annotations

import random
import socket
from pathlib import Path
from typing import TextIO

from testbed.locks import shared_folder, try_lock

LOWEST = 20_000
EPHEMERAL_RANGE = Path("/proc/sys/net/ipv4/ip_local_port_range")


class PortError(RuntimeError):
    """No free port could be found."""


class Ports:
    """Hands out ports and holds them until `release()` or the end of the process."""

    def __init__(self) -> None:
        self._locks: list[TextIO] = []

    def reserve(self) -> int:
        """A port that nobody listens on and that no other `Ports` of this user hands out."""
        candidates = list(range(LOWEST, _highest()))
        random.shuffle(candidates)
        for port in candidates:
            lock = _lock(port)
            if lock is None:
                continue
            if _free(port):
                self._locks.append(lock)
                return port
            lock.close()
        raise PortError(f"no free port between {LOWEST} and {_highest()} on 127.0.0.1; stop what occupies them")

    def release(self) -> None:
        """Gives all of them back."""
        while self._locks:
            self._locks.pop().close()


def _highest() -> int:
    """The first port that the kernel hands out by itself; 32768 where it does not tell."""
    try:
        lowest_ephemeral = int(EPHEMERAL_RANGE.read_text().split()[0])
    except OSError:
        lowest_ephemeral = 32_768
    return lowest_ephemeral if lowest_ephemeral > LOWEST + 1000 else 32_768


def _lock(port: int) -> TextIO | None:
    return try_lock(shared_folder("paramedic-ports") / str(port))


def _free(port: int) -> bool:
    """Whether it can be listened on now; SO_REUSEADDR so that old connections winding down do not count."""
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True
