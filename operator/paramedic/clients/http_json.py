"""JSON over HTTP to one system that the settings' owner named: what a refusal, a lost answer and a limit mean for us.

Redirects are not followed (a secret in a header would go along), certificates are checked, answers are bounded, and no
message has a secret in it: neither the headers nor the URL, which is one at Teams and Mattermost.
"""

import asyncio
import json
import socket
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from typing import Any

import aiohttp
from aiohttp.abc import AbstractResolver, ResolveResult

from paramedic.api.reasons import Reason
from paramedic.core.templates import one_line
from paramedic.errors import ParamedicError, Retry, Terminal, Unreachable

MAX_ANSWER = 1024 * 1024
_TOLD = 200
_SAFE = frozenset({"GET", "HEAD"})
_TOO_MANY = frozenset({420, 429})
_NOT_LET_IN = frozenset({401, 403, 407})
# Not worked on, by what these mean: the same may be accepted later.
_NOT_YET = frozenset({408, 425})
_ABSENT = frozenset({404, 410})
_PATIENCE, _MOST_PATIENCE = timedelta(seconds=30), timedelta(hours=1)
# Not the default executor: a vendor's name that does not resolve must not hold up the API server's.
_threads = ThreadPoolExecutor(4, thread_name_prefix="vendors-dns")


@dataclass(frozen=True, slots=True)
class Answer:
    """An answer 2xx; ``body`` is its JSON, or None where it is none. ``headers`` have names in lower case."""

    status: int
    body: Any
    headers: Mapping[str, str]


class Absent(Terminal):
    """What was asked for is not there (any more)."""


class HttpJson:
    """Requests to one system, whose ``name`` stands in every message. Opened at first use; close it at the end."""

    def __init__(self, name: str, timeout: timedelta) -> None:
        self._name = name
        seconds = timeout.total_seconds()
        # A connection that is not made fails before the whole time is up, so that it is known that nothing was asked.
        self._timeout = aiohttp.ClientTimeout(total=seconds, sock_connect=seconds / 2)
        self._session: aiohttp.ClientSession | None = None

    async def send(
        self,
        method: str,
        url: str,
        body: Any = None,
        *,
        headers: Mapping[str, str] | None = None,
        secrets: tuple[str, ...] = (),
    ) -> Answer:
        """One request, ``body`` as JSON. ``secrets`` are taken out of what is told of an answer.

        Raises Retry: ``uncertain`` when it may have been carried out all the same, with ``after`` for 420 and 429;
        Unreachable when the system does not let us in; Terminal when it refuses what was asked (other 4xx, a redirect).
        """
        uncertain = method not in _SAFE
        try:
            async with self._open().request(
                method, url, json=body, headers=dict(headers or {}), allow_redirects=False
            ) as answer:
                content = await _bounded(answer)
        except (aiohttp.ClientConnectorError, aiohttp.ConnectionTimeoutError) as error:
            raise Retry(f"{self._name} cannot be reached: {_problem(error)}") from error
        except aiohttp.InvalidURL as error:
            raise Terminal(Reason.NOTICE_UNDELIVERED, f"{self._name}: its URL is not one; see the settings") from error
        except (aiohttp.ClientError, OSError, TimeoutError) as error:
            raise Retry(f"{self._name} gave no answer: {_problem(error)}", uncertain=uncertain) from error
        if answer.status // 100 != 2:
            told = f"{self._name} answered {answer.status}{_without(secrets, url, content)}"
            raise refusal(answer.status, told, answer.headers.get("Retry-After"), uncertain=uncertain)
        return Answer(answer.status, _json(content), {name.lower(): value for name, value in answer.headers.items()})

    async def close(self) -> None:
        """Ends the connections."""
        if self._session:
            await self._session.close()

    def _open(self) -> aiohttp.ClientSession:
        if self._session is None:
            self._session = aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(resolver=VendorResolver()),
                cookie_jar=aiohttp.DummyCookieJar(),
                headers={"User-Agent": "paramedic", "Accept": "application/json"},
                timeout=self._timeout,
                trust_env=True,  # the usual variables of a proxy
            )
        return self._session


class VendorResolver(AbstractResolver):
    """The system's resolver, in threads of its own."""

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET
    ) -> list[ResolveResult]:
        """As ``getaddrinfo`` does."""
        found = await asyncio.get_running_loop().run_in_executor(
            _threads, lambda: socket.getaddrinfo(host, port, family, socket.SOCK_STREAM, 0, socket.AI_ADDRCONFIG)
        )
        return [
            ResolveResult(
                hostname=host, host=str(address[0]), port=port, family=kind, proto=proto, flags=socket.AI_NUMERICHOST
            )
            for kind, _, proto, _, address in found
        ]

    async def close(self) -> None:
        """The threads are everybody's."""


def refusal(status: int, told: str, retry_after: str | None, *, uncertain: bool) -> ParamedicError:
    """What an answer that is not 2xx means for us, ``told`` for a person."""
    if status in _TOO_MANY:
        return Retry(told, after=_patience(retry_after) or _PATIENCE)
    if status in _NOT_LET_IN:
        return Unreachable(f"{told}: check its credentials in the settings, and what they may do")
    if status in _NOT_YET:
        return Retry(told)
    if status >= 500:
        return Retry(told, after=_patience(retry_after), uncertain=uncertain)
    if status // 100 == 3:
        return Terminal(Reason.NOTICE_UNDELIVERED, f"{told}: redirects are not followed; name the final URL")
    return (Absent if status in _ABSENT else Terminal)(Reason.NOTICE_UNDELIVERED, told)


def _patience(text: str | None) -> timedelta | None:
    """Retry-After, in seconds or as a date; at most an hour. None for what is neither."""
    if text is None:
        return None
    try:
        wait = timedelta(seconds=float(text))
    except (ValueError, OverflowError):
        try:
            until = parsedate_to_datetime(text)
        except (ValueError, TypeError):
            return None
        wait = until.replace(tzinfo=until.tzinfo or UTC) - datetime.now(UTC)
    return min(max(wait, timedelta(0)), _MOST_PATIENCE)


async def _bounded(answer: aiohttp.ClientResponse) -> bytes:
    parts, left = [], MAX_ANSWER
    while left > 0 and (part := await answer.content.read(left)):
        parts.append(part)
        left -= len(part)
    return b"".join(parts)


def _json(content: bytes) -> Any:
    try:
        return json.loads(content)
    except (ValueError, RecursionError):
        return None


def _without(secrets: tuple[str, ...], url: str, content: bytes) -> str:
    """The beginning of what was answered, for a person, without what nobody else may read."""
    text = content.decode(errors="replace")
    for secret in (*secrets, url):
        text = text.replace(secret, "***")
    told = one_line(text[: 4 * _TOLD])[:_TOLD]
    return f": {told}" if told else ""


def _problem(error: Exception) -> str:
    """Without the URL, which aiohttp's own texts may name."""
    if isinstance(error, aiohttp.ClientConnectorCertificateError):
        return "its certificate is not valid"
    cause = error.os_error if isinstance(error, aiohttp.ClientConnectorError) else error
    if isinstance(cause, TimeoutError):
        return "not in time"
    return (isinstance(cause, OSError) and cause.strerror) or type(cause).__name__
