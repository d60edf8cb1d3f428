"""What every edge that another system calls has in common: a bounded body that is waited for a bounded time, at most so
many requests and bytes at once, and an answer that says whether to send it again.
"""

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager

from aiohttp import web
from prometheus_client import Counter

from paramedic.errors import Retry
from paramedic.log import get_logger

Answer = Callable[[web.Request, bytes], Awaitable[web.Response]]
Refuse = Callable[[web.Request], web.Response | None]
_log = get_logger(__name__)
# A sender that is stuck must not keep a place for ever.
_READ_SECONDS = 10.0
# Of all bodies that are being answered; what is made of one takes about eight times as much. One body may always be as
# large as its edge allows.
_BYTES_AT_ONCE = 8 << 20


class _Room:
    """How many bytes the bodies under way take."""

    def __init__(self, most: int) -> None:
        self.most = most
        self.taken = 0

    @contextmanager
    def share(self) -> Iterator["_Share"]:
        """What one body takes, as long as the context lasts."""
        share = _Share(self)
        try:
            yield share
        finally:
            self.taken -= share.size


class _Share:
    def __init__(self, room: _Room) -> None:
        self._room = room
        self.size = 0

    def grow_to(self, size: int) -> bool:
        """Whether there is room for so many bytes, which are then this one's."""
        more = max(0, size - self.size)
        if self._room.taken + more > self._room.most:
            return False
        self._room.taken += more
        self.size += more
        return True


class _NotReadError(Exception):
    """The body cannot be read whole; ``answer`` says why."""

    def __init__(self, answer: web.Response) -> None:
        super().__init__(answer.status)
        self.answer = answer


class Edge:
    """One path. ``answer`` gets the request and its whole body, and is asked only while ``ready``.

    What ``answer`` raises becomes 503 (Retry) or 500, after which the sender tries again. The sender is authenticated
    by ``answer``, or where that takes no body, by ``refuse``, before anything is read. ``answer`` holds the only
    reference to the body. ``counted`` has the labels edge and code.
    """

    def __init__(
        self,
        name: str,
        answer: Answer,
        counted: Counter,
        *,
        ready: Callable[[], bool],
        max_bytes: int,
        max_in_flight: int = 64,
        refuse: Refuse = lambda request: None,
    ) -> None:
        self._name = name
        self._answer = answer
        self._counted = counted
        self._ready = ready
        self._max_bytes = max_bytes
        self._max_in_flight = max_in_flight
        self._refuse = refuse
        self._in_flight = 0
        self._room = _Room(max(_BYTES_AT_ONCE, max_bytes))

    async def handle(self, request: web.Request) -> web.Response:
        """One request; the answer's status is counted."""
        try:
            response = await self._take(request)
        except Retry as error:
            response = text(503, f"not stored, send it again: {error}", {"Retry-After": "1"})
        except Exception:  # noqa: BLE001 - whatever it is, the sender must try again, and somebody must see it
            _log.exception("a request failed", edge=self._name)
            response = text(500, "an error of Paramedic's own: send it again")
        self._counted.labels(self._name, str(response.status)).inc()
        return response

    async def _take(self, request: web.Request) -> web.Response:
        if refusal := self._refuse(request):
            return refusal
        if (request.content_length or 0) > self._max_bytes:
            return self._too_large()
        if not self._ready() or self._in_flight >= self._max_in_flight:
            return _busy()
        self._in_flight += 1
        try:
            with self._room.share() as share:
                return await self._answer(request, await self._read(request, share))
        except _NotReadError as error:
            return error.answer
        finally:
            self._in_flight -= 1

    async def _read(self, request: web.Request, share: _Share) -> bytes:
        """The whole body, unpacked. Raises _NotReadError."""
        parts, size = [], 0
        try:
            async with asyncio.timeout(_READ_SECONDS):
                async for part in request.content.iter_any():
                    size += len(part)
                    if size > self._max_bytes:
                        raise _NotReadError(self._too_large())
                    if not share.grow_to(size):  # what has arrived counts: who only announces much keeps nobody out
                        raise _NotReadError(_closing(_busy()))
                    parts.append(part)
        except TimeoutError:
            late = text(503, "the body did not come in time: send it again")
            raise _NotReadError(_closing(late)) from None
        except web.RequestPayloadError as error:
            raise _NotReadError(text(400, str(error))) from error
        return b"".join(parts)

    def _too_large(self) -> web.Response:
        return _closing(text(413, f"the body is larger than {self._max_bytes} bytes"))


def text(status: int, words: str, headers: dict[str, str] | None = None) -> web.Response:
    """An answer for a person who looks at it."""
    return web.Response(status=status, text=words[:2000] + "\n", headers=headers)


def _busy() -> web.Response:
    return text(503, "busy: send it again", {"Retry-After": "1"})


def _closing(response: web.Response) -> web.Response:
    """For an answer before the whole body was read: what is left of it is not waited for."""
    response.force_close()
    return response
