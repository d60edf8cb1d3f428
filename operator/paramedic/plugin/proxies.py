"""The proxy between: which one the environment names, by the rules that kubectl has from Go, and the way through it.

The rules: https://pkg.go.dev/golang.org/x/net/http/httpproxy#Config. International domain names are not translated.
"""

from base64 import b64encode
from collections.abc import Mapping
from importlib.util import find_spec
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network
from typing import Any
from urllib.parse import SplitResult, unquote, urlsplit

import urllib3

from paramedic.plugin.failures import Exit, Failure

_PORTS = {"http": 80, "https": 443}
_Address = IPv4Address | IPv6Address


def proxy_by_environment(server: str, environment: Mapping[str, str]) -> str | None:
    """The URL of the proxy for this server, by ``HTTPS_PROXY`` (``HTTP_PROXY`` where the server has no TLS) and
    ``NO_PROXY``; None: there is none in between, as never before localhost. Raises ValueError when the server's URL is
    none.
    """
    parts = urlsplit(server)
    proxy = _value(environment, f"{parts.scheme}_PROXY")
    host, port = parts.hostname or "", str(parts.port or _PORTS.get(parts.scheme, 0))
    if not proxy or not _is_proxied(host, port, _value(environment, "NO_PROXY")):
        return None
    return proxy if "://" in proxy else f"http://{proxy}"


def pool_through(proxy: str, options: Mapping[str, Any]) -> urllib3.PoolManager:
    """Connections through this proxy, with the user and password that its URL may have; ``options`` are urllib3's.
    Raises Failure when it is of a kind that cannot be used.
    """
    parts = urlsplit(proxy)
    url = parts._replace(netloc=parts.netloc.rpartition("@")[2]).geturl()
    if parts.scheme == "socks5":
        return _by_socks(url, parts, options)
    if parts.scheme not in _PORTS:
        text = f"the proxy {url} cannot be used: its URL must begin with http://, https:// or socks5://"
        raise Failure(Exit.NO_CLUSTER, text)
    return urllib3.ProxyManager(url, proxy_headers=_authorization(parts), **options)


def _by_socks(url: str, parts: SplitResult, options: Mapping[str, Any]) -> urllib3.PoolManager:
    if find_spec("socks") is None:
        text = f"the proxy {url} speaks SOCKS, for which kubectl incident needs PySocks: pip install pysocks"
        raise Failure(Exit.NO_CLUSTER, text)
    from urllib3.contrib.socks import SOCKSProxyManager

    user, password = _user(parts) or (None, None)
    # As kubectl does, let the proxy look up the server's name: that is what the h stands for.
    return SOCKSProxyManager(url.replace("socks5", "socks5h", 1), user, password, **options)


def _authorization(parts: SplitResult) -> dict[str, str]:
    if user := _user(parts):
        return {"Proxy-Authorization": f"Basic {b64encode(':'.join(user).encode()).decode()}"}
    return {}


def _user(parts: SplitResult) -> tuple[str, str] | None:
    return None if parts.username is None else (unquote(parts.username), unquote(parts.password or ""))


def _value(environment: Mapping[str, str], name: str) -> str:
    return environment.get(name.upper()) or environment.get(name.lower()) or ""


def _is_proxied(host: str, port: str, exceptions: str) -> bool:
    address = _address(host)
    if host == "localhost" or (address and address.is_loopback):
        return False
    entries = [entry.strip().lower() for entry in exceptions.split(",")]
    return not any(_matches(entry, host, address, port) for entry in entries if entry)


def _matches(entry: str, host: str, address: _Address | None, port: str) -> bool:
    """Whether an entry of ``NO_PROXY`` is for this host: ``*``, a network, an address or a domain, the last two perhaps
    with a port.
    """
    if entry == "*":
        return True
    if "/" in entry:
        return address is not None and _is_in(address, entry)
    name, only_port = _split(entry)
    if only_port not in ("", port) or not name:
        return False
    return address == _address(name) if address else _is_of_domain(host, name)


def _is_in(address: _Address, network: str) -> bool:
    try:
        return address in ip_network(network, strict=False)
    except ValueError:
        return False


def _is_of_domain(host: str, domain: str) -> bool:
    """``y.com`` is itself and what is below it, ``.y.com`` and ``*.y.com`` only what is below."""
    below = domain.removeprefix("*")
    return host.endswith(below) if below.startswith(".") else host == below or host.endswith(f".{below}")


def _split(entry: str) -> tuple[str, str]:
    """An entry's host, and its port where it has one."""
    if entry.startswith("["):
        host, _, port = entry[1:].partition("]:")
        return (host, port) if port else (entry, "")
    host, _, port = entry.partition(":")
    return (entry, "") if ":" in port else (host, port)


def _address(host: str) -> _Address | None:
    try:
        return ip_address(host)
    except ValueError:
        return None
