"""The HTTP server: webhook, probes, metrics."""

import asyncio
import contextlib
import logging
import socket
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from pathlib import Path

from aiohttp import web
from aiohttp.http_exceptions import HttpProcessingError
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest

from paramedic.listener import Listener
from paramedic.log import get_logger
from paramedic.metrics import Metrics
from paramedic.receiver import Receiver
from paramedic.settings import Settings, SettingsError

_log = get_logger(__name__)
# Of a request's head, which anybody in the cluster may send. Alertmanager's has 7 fields, and proxies add some of their
# own; the largest field that is known is PagerDuty's list of up to 16 signatures, 1.1 KB. aiohttp closes a connection
# on which no head was completed in time, be it the first or, after an answer, the next. A scrape each 15 s keeps its.
_MOST_FIELDS = 64
_MOST_FIELD_BYTES = 2048
_HEAD_SECONDS = 20.0
_LINGERING_SECONDS = 2.0
_KERNEL_BYTES = 128 * 1024
Probe = Callable[[], str | None]
Handler = Callable[[web.Request], Awaitable[web.Response]]


@contextlib.asynccontextmanager
async def serve(
    settings: Settings,
    receiver: Receiver,
    metrics: Metrics,
    alive: Probe,
    ready: Probe,
    before_scrape: Callable[[], None] = lambda: None,
    inbound: Mapping[str, Handler] | None = None,
) -> AsyncIterator[int]:
    """Listens while the context lasts and yields the port. ``inbound`` are further paths that are posted to.

    Raises SettingsError when it cannot.
    """
    app = web.Application(client_max_size=settings.webhook_max_bytes, middlewares=[_working])
    app.router.add_post("/webhook/alertmanager", receiver.handle)
    for path, handle in (inbound or {}).items():
        app.router.add_post(path, handle)
    app.router.add_get("/healthz", _probe(alive))
    app.router.add_get("/readyz", _probe(ready))
    app.router.add_get("/metrics", _metrics(metrics, before_scrape))
    context = _tls(settings)
    app[_LISTENER] = listener = Listener(context)
    async with _runner(app) as make, contextlib.AsyncExitStack() as stack:
        if refresher := _refresher(settings, context):
            stack.callback(refresher.cancel)
        listening = stack.enter_context(_bound(settings))
        accepting = asyncio.create_task(listener.run(listening, make))
        stack.callback(accepting.cancel)
        yield listening.getsockname()[1]


_LISTENER = web.AppKey("listener", Listener)


@web.middleware
async def _working(
    request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
) -> web.StreamResponse:
    with request.app[_LISTENER].working(request.protocol):
        return await handler(request)


@contextlib.asynccontextmanager
async def _runner(app: web.Application) -> AsyncIterator[Callable[[], asyncio.Protocol]]:
    """What makes the protocol of one connection. At the end, requests that are worked on are waited for."""
    runner = web.AppRunner(
        app,
        access_log=None,
        logger=_quiet_logger(),
        shutdown_timeout=5,
        handler_cancellation=False,
        keepalive_timeout=_HEAD_SECONDS,
        lingering_time=_LINGERING_SECONDS,
        max_headers=_MOST_FIELDS,
        max_field_size=_MOST_FIELD_BYTES,
        max_line_size=_MOST_FIELD_BYTES,
    )
    await runner.setup()
    try:
        assert runner.server is not None
        yield runner.server
    finally:
        await runner.cleanup()


def _bound(settings: Settings) -> socket.socket:
    """The socket that is listened on. Raises SettingsError when there can be none."""
    host, port = settings.listen_address
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        bound = socket.create_server((host, port), family=family, backlog=1024)
    except OSError as error:
        raise SettingsError(f"cannot listen on {settings.listen} (PARAMEDIC_LISTEN): {error.strerror}") from error
    bound.setblocking(False)
    for buffer in (socket.SO_RCVBUF, socket.SO_SNDBUF):  # of each connection; the kernel's count as the pod's memory
        bound.setsockopt(socket.SOL_SOCKET, buffer, _KERNEL_BYTES)
    return bound


def _quiet_logger() -> logging.Logger:
    """For aiohttp, which writes a traceback for whatever is not HTTP: anybody could fill the log with it."""
    logger = logging.getLogger(f"{__name__}.http")
    logger.filters[:] = [_is_our_own_mistake]
    return logger


def _is_our_own_mistake(record: logging.LogRecord) -> bool:
    return not (record.exc_info and isinstance(record.exc_info[1], HttpProcessingError))


def _probe(problem_of: Probe) -> Handler:
    async def handle(_: web.Request) -> web.Response:
        problem = problem_of()
        return web.Response(status=503 if problem else 200, text=f"{problem or 'ok'}\n")

    return handle


def _metrics(metrics: Metrics, before_scrape: Callable[[], None]) -> Handler:
    async def handle(_: web.Request) -> web.Response:
        before_scrape()
        return web.Response(body=generate_latest(metrics.registry), headers={"Content-Type": CONTENT_TYPE_LATEST})

    return handle


def _tls(settings: Settings) -> ssl.SSLContext | None:
    if settings.tls_cert_file is None or settings.tls_key_file is None:
        return None
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    try:
        context.load_cert_chain(settings.tls_cert_file, settings.tls_key_file)
    except (OSError, ssl.SSLError) as error:
        raise SettingsError(f"the TLS certificate cannot be loaded: {error}") from error
    return context


def _refresher(settings: Settings, context: ssl.SSLContext | None) -> "asyncio.Task[None] | None":
    if context is None or settings.tls_cert_file is None or settings.tls_key_file is None:
        return None
    return asyncio.create_task(keep_certificate_fresh(context, settings.tls_cert_file, settings.tls_key_file))


async def keep_certificate_fresh(context: ssl.SSLContext, certificate: Path, key: Path, every: float = 10.0) -> None:
    """Loads a rotated certificate into the running server's context, until cancelled.

    It is tried in a context of its own first: half of a rotation would leave the server without a usable key.
    """
    seen = _changed_at(certificate)
    while True:
        await asyncio.sleep(every)
        try:
            changed = _changed_at(certificate)
            if changed != seen:
                ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(certificate, key)
                context.load_cert_chain(certificate, key)
                seen = changed
        except (OSError, ssl.SSLError) as error:
            _log.error("cannot load the rotated certificate; the old one stays", error=str(error))


def _changed_at(path: Path) -> int:
    return path.stat().st_mtime_ns
