"""Which addresses and names a node uses, so that several clusters of one machine stay apart.

Each cluster has a /16 of 10.0.0.0/8, chosen so that no route of the machine overlaps it and held by a file lock:

    10.N.0.1        the machine itself, as pods see it: the API server listens here, so may databases and Prometheus
    10.N.0.2        the node: kubelet, cluster DNS
    10.N.0.16/28    more of this machine's, where several servers are to have the same port
    10.N.64.0/18    pods
    10.N.128.0/18   Services
"""

from __future__ import annotations

import json
import subprocess
from dataclasses import dataclass
from ipaddress import IPv4Network
from pathlib import Path
from typing import TextIO

from testbed.locks import try_lock

FIRST, LAST = 160, 223
NAME_PREFIX = "paramedic-"
LOCKS = Path("/run/paramedic-networks")
"""One place for all of the machine, whatever TMPDIR says: its networks and cgroups are there once."""


class AddressError(RuntimeError):
    """No addresses are left for another cluster."""


@dataclass(frozen=True)
class Addresses:
    """All that is derived from N."""

    number: int

    @property
    def all(self) -> IPv4Network:
        return IPv4Network(f"10.{self.number}.0.0/16")

    @property
    def machine(self) -> str:
        """This machine as the node and its pods reach it."""
        return f"10.{self.number}.0.1"

    @property
    def node(self) -> str:
        return f"10.{self.number}.0.2"

    def more(self, number: int) -> str:
        """One of sixteen more of this machine's, from 0 on; there once the node was told (`RealNode.add_address`)."""
        return str(IPv4Network(f"10.{self.number}.0.16/28")[number])

    @property
    def outsider(self) -> str:
        """Of 203.0.113.0/24, which is for documentation (RFC 5737); there once the node was told."""
        return f"203.0.113.{self.number}"

    @property
    def pods(self) -> IPv4Network:
        return IPv4Network(f"10.{self.number}.64.0/18")

    @property
    def services(self) -> IPv4Network:
        return IPv4Network(f"10.{self.number}.128.0/18")

    @property
    def name(self) -> str:
        """Of the network interface on the machine's side, and of the cgroup."""
        return f"{NAME_PREFIX}{self.number}"


def choose() -> tuple[Addresses, TextIO]:
    """Free addresses, and the lock that keeps them ours until it is closed."""
    taken = _routes()
    for number in range(FIRST, LAST + 1):
        addresses = Addresses(number)
        lock = _lock(addresses)
        if lock and not any(addresses.all.overlaps(route) for route in taken):
            return addresses, lock
        if lock:
            lock.close()
    raise AddressError(f"no free network between 10.{FIRST}.0.0/16 and 10.{LAST}.0.0/16; stop other clusters first")


def lock(name: str) -> TextIO | None:
    """The lock of the addresses of this name; None while a cluster holds it."""
    return _lock(Addresses(int(name.removeprefix(NAME_PREFIX))))


def _lock(addresses: Addresses) -> TextIO | None:
    LOCKS.mkdir(mode=0o700, exist_ok=True)
    return try_lock(LOCKS / str(addresses.number))


def _routes() -> list[IPv4Network]:
    """The networks that the machine reaches already, the default route apart."""
    answer = subprocess.run(["ip", "-json", "-4", "route"], capture_output=True, text=True, check=True)
    targets = [route["dst"] for route in json.loads(answer.stdout)]
    return [IPv4Network(target, strict=False) for target in targets if target != "default"]
