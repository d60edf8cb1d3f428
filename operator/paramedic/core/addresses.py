"""Source addresses that are to be kept out: read strictly, and never those that must stay reachable."""

import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from ipaddress import IPv4Network, IPv6Network, collapse_addresses, ip_network
from typing import TypeVar

Network = IPv4Network | IPv6Network
_OneVersion = TypeVar("_OneVersion", IPv4Network, IPv6Network)
_SEPARATORS = re.compile(r"[,; \t\r\n]+")
_LONGEST_ADDRESS = 49
_LONGEST_TEXT = 8192
_SHOWN = 60


@dataclass(frozen=True, slots=True)
class Protected:
    """A network that is never blocked, and what it is."""

    network: Network
    what: str


@dataclass(frozen=True, slots=True)
class Bounds:
    """The shortest prefixes that may be blocked, and whether private networks may be."""

    ipv4: int = 16
    ipv6: int = 32
    private: bool = False


def _all(what: str, *networks: str) -> tuple[Protected, ...]:
    return tuple(Protected(ip_network(one), what) for one in networks)


# Not the sources of anybody's requests: who gives them has made a mistake, or wants us to make one.
_NEVER = (
    *_all("no address of a host", "0.0.0.0/8", "::/128"),
    *_all("loopback", "127.0.0.0/8", "::1/128"),
    *_all("link-local", "169.254.0.0/16", "fe80::/10"),
    *_all("multicast", "224.0.0.0/4", "ff00::/8"),
    *_all("reserved", "240.0.0.0/4"),
    *_all("an IPv4 address in IPv6: write it as IPv4", "::ffff:0:0/96", "64:ff9b::/96"),
)
_PRIVATE = _all("private", "10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "100.64.0.0/10", "fc00::/7")


def parse_network(text: str) -> Network:
    """An address or a CIDR, ``203.0.113.7`` or ``203.0.113.0/24``. Raises ValueError with what is wrong."""
    if len(text) > _LONGEST_ADDRESS or not text.isascii() or "%" in text:
        raise ValueError(f"{_shown(text)} is no address")
    try:
        return ip_network(text)
    except ValueError:
        loose = _loose(text)
        hint = f": it has bits of a host set, write {loose}" if loose else ""
        raise ValueError(f"{_shown(text)} is neither an IP address nor a CIDR{hint}") from None


def is_address(text: str) -> bool:
    """Whether it can be read as an address or a CIDR."""
    try:
        parse_network(text)
    except ValueError:
        return False
    return True


def parse_list(text: str, most: int) -> list[Network]:
    """What an alert says, separated by commas or blanks. One word that is no address makes all of it suspect.

    Raises ValueError.
    """
    if len(text) > _LONGEST_TEXT:
        raise ValueError(f"the list of addresses is longer than {_LONGEST_TEXT} characters")
    words = [word for word in _SEPARATORS.split(text) if word]
    if not words:
        raise ValueError("the list of addresses is empty")
    if len(words) > most:
        raise ValueError(f"{len(words)} addresses are more than {most}")
    return [parse_network(word) for word in words]


def check(network: Network, bounds: Bounds) -> str | None:
    """What speaks against blocking it, whatever else is known; None when nothing does."""
    shortest = bounds.ipv4 if network.version == 4 else bounds.ipv6
    if network.prefixlen < shortest:
        return f"{network} is too large: its prefix is shorter than /{shortest}"
    found = first_overlap(network, _NEVER if bounds.private else (*_NEVER, *_PRIVATE))
    return f"{network} is {found.what}" if found else None


def first_overlap(network: Network, protected: Iterable[Protected]) -> Protected | None:
    """The first protected network that shares an address with this one."""
    return next((one for one in protected if _overlap(network, one.network)), None)


def merged(networks: Iterable[Network], bounds: Bounds) -> list[str]:
    """The same addresses in as few CIDRs as possible, none of them larger than may be blocked, in a fixed order, IPv4
    first.
    """
    chosen = list(networks)
    v4 = _collapsed((n for n in chosen if isinstance(n, IPv4Network)), bounds.ipv4)
    v6 = _collapsed((n for n in chosen if isinstance(n, IPv6Network)), bounds.ipv6)
    return [str(one) for one in (*v4, *v6)]


def in_chunks(addresses: Sequence[str], size: int) -> Iterator[tuple[str, ...]]:
    """The addresses in groups of at most ``size``."""
    yield from (tuple(addresses[at : at + size]) for at in range(0, len(addresses), size))


def _overlap(one: Network, other: Network) -> bool:
    if isinstance(one, IPv4Network) and isinstance(other, IPv4Network):
        return one.overlaps(other)
    return isinstance(one, IPv6Network) and isinstance(other, IPv6Network) and one.overlaps(other)


def _collapsed(networks: Iterable[_OneVersion], shortest: int) -> Iterator[_OneVersion]:
    """Neighbours as one, as long as they are in the same network with the ``shortest`` prefix."""
    alike = defaultdict(list)
    for network in networks:
        alike[network.supernet(new_prefix=min(network.prefixlen, shortest))].append(network)
    for _, group in sorted(alike.items()):
        yield from collapse_addresses(group)


def _loose(text: str) -> Network | None:
    try:
        return ip_network(text, strict=False)
    except ValueError:
        return None


def _shown(text: str) -> str:
    return ascii(text if len(text) <= _SHOWN else f"{text[:_SHOWN]}…")
