"""The HTTP server: webhook, probes, metrics."""

import asyncio
import contextlib
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from pathlib import Path

from aiohttp import web
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest

from paramedic.log import get_logger
from paramedic.metrics import Metrics
from paramedic.receiver import Receiver
from paramedic.settings import Settings, SettingsError

_log = get_logger(__name__)
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
    app = web.Application(client_max_size=settings.webhook_max_bytes)
    app.router.add_post("/webhook/alertmanager", receiver.handle)
    for path, handle in (inbound or {}).items():
        app.router.add_post(path, handle)
    app.router.add_get("/healthz", _probe(alive))
    app.router.add_get("/readyz", _probe(ready))
    app.router.add_get("/metrics", _metrics(metrics, before_scrape))
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=5, handler_cancellation=False)
    await runner.setup()
    context = _tls(settings)
    refresher = _refresher(settings, context)
    try:
        host, port = settings.listen_address
        site = web.TCPSite(runner, host, port, ssl_context=context, backlog=1024)
        await site.start()
        yield runner.addresses[0][1]
    except OSError as error:
        raise SettingsError(f"cannot listen on {settings.listen} (PARAMEDIC_LISTEN): {error.strerror}") from error
    finally:
        if refresher:
            refresher.cancel()
        await runner.cleanup()


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
