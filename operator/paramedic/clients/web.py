"""GET of URLs that a team wrote into its policy, asked from the operator's own place in the network.

That place may reach what the team may not: so no redirects are followed, no body is handed on, and the addresses of the
operator's own machine and of the cloud's metadata services are refused. Addresses are checked as they are connected to,
not before, so that a name which resolves to something else the second time gains nothing.
"""

import asyncio
import ipaddress
import socket
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import aiohttp
from aiohttp.abc import AbstractResolver, ResolveResult
from yarl import URL

from paramedic.api.reasons import Reason
from paramedic.errors import Refused, Retry

MAX_BODY = 64 * 1024
_THREADS = 16
_AGENT = {"User-Agent": "paramedic", "Accept": "*/*", "Accept-Encoding": "identity"}
# Metadata services whose addresses are not link-local: AWS over IPv6, Alibaba, Azure, Oracle.
_METADATA = frozenset(
    ipaddress.ip_address(one) for one in ("fd00:ec2::254", "100.100.100.200", "168.63.129.16", "192.0.0.192")
)
_THIS_NETWORK = ipaddress.ip_network("0.0.0.0/8")
_NAT64 = ipaddress.ip_network("64:ff9b::/96")
_Address = ipaddress.IPv4Address | ipaddress.IPv6Address


@dataclass(frozen=True, slots=True)
class Reply:
    """An answer's status, and how long it took; ``tls_error`` when its certificate is not valid."""

    status: int
    milliseconds: int
    tls_error: str = ""


class _AddressRefusedError(OSError):
    """The address must not be connected to."""


class Web:
    """HTTP and HTTPS for the diagnosis. Use as an async context manager. ``allow_loopback`` is for tests."""

    def __init__(self, *, allow_loopback: bool = False) -> None:
        self._allow_loopback = allow_loopback
        self._session: aiohttp.ClientSession | None = None
        # Not the default executor: a DNS server that hangs must not hold up the rest of the operator.
        self._threads = ThreadPoolExecutor(_THREADS, thread_name_prefix="dns")

    async def __aenter__(self) -> "Web":
        resolver = _GuardedResolver(self._threads, self._allow_loopback)
        connector = aiohttp.TCPConnector(resolver=resolver, force_close=True, use_dns_cache=False, limit=64)
        self._session = aiohttp.ClientSession(
            connector=connector,
            headers=_AGENT,
            auto_decompress=False,
            cookie_jar=aiohttp.DummyCookieJar(),
            timeout=aiohttp.ClientTimeout(total=30),
        )
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._session:
            await self._session.close()
        self._threads.shutdown(wait=False, cancel_futures=True)

    async def check(self, url: str) -> Reply:
        """Asks, and asks again without checking the certificate where that is what is wrong.

        Raises Refused for an address that must not be asked, Retry when there is no answer.
        """
        try:
            return await self._ask(url)
        except aiohttp.ClientConnectorCertificateError as error:
            reply = await self._ask(url, verify=False)
            return Reply(reply.status, reply.milliseconds, _certificate_error(error))

    async def read(self, url: str, limit: int) -> tuple[bytes, bool]:
        """The first ``limit`` bytes of a 200's body, and whether that is all. For the operator itself: not to be kept.

        Raises Refused, Retry.
        """
        async with self._get(url, verify=True) as answer:
            if answer.status != 200:
                raise Retry(f"it answered {answer.status}")
            return await _body(answer, limit)

    async def resolve(self, name: str) -> None:
        """Looks a name up. Raises Retry when it has no address."""
        try:
            await asyncio.get_running_loop().run_in_executor(self._threads, socket.getaddrinfo, name, None)
        except OSError as error:
            raise Retry(error.strerror or str(error)) from error

    async def _ask(self, url: str, *, verify: bool = True) -> Reply:
        began = time.monotonic()
        async with self._get(url, verify=verify) as answer:
            await _body(answer, MAX_BODY)
            return Reply(answer.status, round(1000 * (time.monotonic() - began)))

    def _get(self, url: str, *, verify: bool) -> "_Request":
        assert self._session is not None, "use Web as an async context manager"
        return _Request(self._session, url, verify=verify, allow_loopback=self._allow_loopback)


class _Request:
    """One GET, with aiohttp's errors as ours."""

    def __init__(self, session: aiohttp.ClientSession, url: str, *, verify: bool, allow_loopback: bool) -> None:
        self._session = session
        self._url = url
        self._verify = verify
        self._allow_loopback = allow_loopback

    async def __aenter__(self) -> aiohttp.ClientResponse:
        try:
            parsed = URL(self._url)
            _check_scheme(parsed.scheme, self._url)
            # aiohttp asks no resolver about a host that is an address already.
            _check_literal(parsed.host or "", self._allow_loopback)
            self._answer = await self._session.get(parsed, allow_redirects=False, ssl=self._verify)
            return self._answer
        except aiohttp.ClientConnectorCertificateError:
            raise
        except _AddressRefusedError as error:
            raise Refused(Reason.INVALID_PARAMETERS, str(error)) from error
        except aiohttp.ClientConnectorDNSError as error:
            if isinstance(error.os_error, _AddressRefusedError):
                raise Refused(Reason.INVALID_PARAMETERS, str(error.os_error)) from error
            raise Retry(f"its name does not resolve ({error.os_error.strerror or 'no address'})") from error
        except (aiohttp.ClientError, OSError, ValueError) as error:
            raise Retry(_told(error)) from error

    async def __aexit__(self, *_: object) -> None:
        self._answer.close()


class _GuardedResolver(AbstractResolver):
    """The system's resolver, without the addresses that must not be connected to."""

    def __init__(self, threads: ThreadPoolExecutor, allow_loopback: bool) -> None:
        self._threads = threads
        self._allow_loopback = allow_loopback

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_UNSPEC
    ) -> list[ResolveResult]:
        loop = asyncio.get_running_loop()
        found = await loop.run_in_executor(
            self._threads, lambda: socket.getaddrinfo(host, port, family, socket.SOCK_STREAM, 0, socket.AI_ADDRCONFIG)
        )
        for *_, address in found:
            check_address(str(address[0]), host, self._allow_loopback)
        return [
            ResolveResult(
                hostname=host, host=str(address[0]), port=port, family=kind, proto=proto, flags=socket.AI_NUMERICHOST
            )
            for kind, _, proto, _, address in found
        ]

    async def close(self) -> None:
        """The threads are the caller's."""


async def _body(answer: aiohttp.ClientResponse, limit: int) -> tuple[bytes, bool]:
    """At most ``limit`` bytes. Raises Retry when the connection breaks."""
    parts, left = [], limit
    try:
        while left > 0 and (part := await answer.content.read(left)):
            parts.append(part)
            left -= len(part)
    except (aiohttp.ClientError, OSError) as error:
        raise Retry(_told(error)) from error
    return b"".join(parts), left > 0


def _check_scheme(scheme: str, url: str) -> None:
    if scheme not in ("http", "https"):
        raise _AddressRefusedError(f"only http and https are asked, not {scheme or url[:20]!r}")


def _check_literal(host: str, allow_loopback: bool) -> None:
    try:
        ipaddress.ip_address(host.partition("%")[0])
    except ValueError:
        return
    check_address(host, host, allow_loopback)


def check_address(text: str, host: str, allow_loopback: bool) -> None:
    """Raises _AddressRefusedError for what is the operator's own machine or a metadata service, in any guise."""
    address = ipaddress.ip_address(text.partition("%")[0])
    for one in (address, *_embedded(address)):
        if allow_loopback and one.is_loopback:
            continue
        kind = _forbidden(one)
        if kind:
            raise _AddressRefusedError(f"{host} is {kind} address ({address}), which is never asked")


def _forbidden(address: _Address) -> str:
    if address.is_loopback:
        return "a loopback"
    if address.is_link_local:
        return "a link-local"
    if address.is_multicast:
        return "a multicast"
    if address.is_unspecified or address in _THIS_NETWORK:
        return "an unspecified"
    if address.is_reserved and address.version == 4:
        return "a reserved"
    return "a metadata service's" if address in _METADATA else ""


def _embedded(address: _Address) -> list[_Address]:
    """IPv4 addresses inside of an IPv6 one: mapped, compatible, 6to4, Teredo, NAT64."""
    if isinstance(address, ipaddress.IPv4Address):
        return []
    found = [address.ipv4_mapped, address.sixtofour, *(address.teredo or ())]
    if address in _NAT64 or (int(address) >> 32 == 0 and int(address) > 1):
        found.append(ipaddress.IPv4Address(int(address) & 0xFFFFFFFF))
    return [one for one in found if one is not None]


def _certificate_error(error: aiohttp.ClientConnectorCertificateError) -> str:
    cause = error.certificate_error
    return str(getattr(cause, "verify_message", "") or getattr(cause, "reason", "") or cause)[:200]


def _told(error: Exception) -> str:
    if isinstance(error, aiohttp.ClientConnectorError):
        return f"no connection ({error.os_error.strerror or error.os_error})"
    return f"{error}"[:200] or type(error).__name__
