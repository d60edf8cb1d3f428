"""The Alertmanager edge: ``POST /webhook/alertmanager``, payload version 4.

2xx only when everything is stored; 503 when it cannot be (Alertmanager retries 5xx only); 400 for what is no payload,
401 for a wrong token, 413 for a body that is too large, which is then not read.
"""

import asyncio
import hmac
import json
import ssl
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Annotated, Any, Literal

from aiohttp import web
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from paramedic.api.base import Time
from paramedic.core.alert import Alert, fingerprint
from paramedic.errors import ParamedicError
from paramedic.intake import Intake
from paramedic.log import get_logger
from paramedic.metrics import Metrics
from paramedic.settings import Settings
from paramedic.store import Store

_log = get_logger(__name__)
_MAX_ALERTS = 10_000
_YEAR_ONE = 1
# A start in the far future would make every later firing look like an old one; it is taken as unknown.
_CLOCK_SKEW = timedelta(hours=1)
_UNKNOWN_START = datetime(1970, 1, 1, tzinfo=UTC)
# A sender that is stuck must not keep a place for ever.
_READ_SECONDS = 10.0
Text = dict[str, str]


class _WebhookAlert(BaseModel):
    model_config = ConfigDict(strict=False, extra="ignore")

    status: Literal["firing", "resolved"]
    labels: Annotated[dict[str, Annotated[str, Field(strict=True)]], Field(max_length=256)]
    annotations: dict[str, Annotated[str, Field(strict=True)]] = Field(default_factory=dict, max_length=256)
    starts_at: Time = Field(alias="startsAt")
    ends_at: Time | None = Field(None, alias="endsAt")
    generator_url: Annotated[str, Field(strict=True)] = Field("", alias="generatorURL")
    fingerprint: Annotated[str, Field(strict=True, max_length=64)] = ""


class _Payload(BaseModel):
    model_config = ConfigDict(extra="ignore")

    version: Literal["4"] = "4"
    alerts: list[_WebhookAlert] = Field(max_length=_MAX_ALERTS)


class Receiver:
    """Handles the webhook's requests."""

    def __init__(self, settings: Settings, intake: Intake, store: Store, metrics: Metrics) -> None:
        self._settings = settings
        self._intake = intake
        self._store = store
        self._metrics = metrics
        self._token = RotatedFile(settings.webhook_token_file)
        self._in_flight = 0

    async def handle(self, request: web.Request) -> web.Response:
        """One request; the answer's status is counted."""
        began = time.perf_counter()
        try:
            response = await self._answer(request)
        except Exception:  # noqa: BLE001 - whatever it is, the sender must try again, and somebody must see it
            _log.exception("the webhook failed")
            response = _text(500, "an error of Paramedic's own: send it again")
        self._metrics.webhook_requests.labels(str(response.status)).inc()
        self._metrics.webhook_seconds.observe(time.perf_counter() - began)
        return response

    async def _answer(self, request: web.Request) -> web.Response:
        if problem := self._unauthorized(request):
            return _text(401, problem, {"WWW-Authenticate": "Bearer"})
        limit = self._settings.webhook_max_bytes
        if (request.content_length or 0) > limit:
            return _too_large(limit)
        if not self._store.loaded or self._in_flight >= self._settings.webhook_max_in_flight:
            return _text(503, "busy: send it again", {"Retry-After": "1"})
        self._in_flight += 1
        try:
            return await self._read_and_take(request, limit)
        finally:
            self._in_flight -= 1

    async def _read_and_take(self, request: web.Request, limit: int) -> web.Response:
        try:
            async with asyncio.timeout(_READ_SECONDS):
                body = await request.read()
            alerts = parse_payload(body)
        except web.HTTPRequestEntityTooLarge:
            return _too_large(limit)
        except TimeoutError:
            return _closing(_text(503, "the body did not come in time: send it again"))
        except (ValueError, web.RequestPayloadError) as error:
            return _text(400, str(error))
        try:
            await self._intake.take(alerts, "webhook")
        except ParamedicError as error:
            return _text(503, f"not stored, send it again: {error}", {"Retry-After": "1"})
        return _text(200, "stored")

    def _unauthorized(self, request: web.Request) -> str | None:
        if self._settings.webhook_anonymous:
            return None
        expected = self._token.read()
        if not expected:
            return "no token is configured: set PARAMEDIC_WEBHOOK_TOKEN_FILE to a file that holds one"
        scheme, _, given = request.headers.get("Authorization", "").partition(" ")
        right = hmac.compare_digest(given.strip().encode(errors="replace"), expected)
        return None if scheme.lower() == "bearer" and right else "a valid bearer token is needed"


def parse_payload(body: bytes) -> list[Alert]:
    """The alerts of a webhook payload. Raises ValueError that says what is wrong; never anything else."""
    try:
        payload = _Payload.model_validate(json.loads(body, parse_constant=_no_constant))
    except ValidationError as error:
        first = error.errors(include_input=False, include_url=False)[0]
        raise ValueError(f"{'.'.join(map(str, first['loc']))[:200]}: {first['msg']}") from error
    except RecursionError as error:
        raise ValueError("the JSON is nested too deeply") from error
    except (UnicodeDecodeError, json.JSONDecodeError) as error:
        raise ValueError(f"not JSON: {error}") from error
    return [_alert(a) for a in payload.alerts]


def _alert(item: _WebhookAlert) -> Alert:
    for text in (
        *item.labels,
        *item.labels.values(),
        *item.annotations,
        *item.annotations.values(),
        item.generator_url,
    ):
        if "\x00" in text or not _is_unicode(text):
            raise ValueError("labels, annotations and URLs must be text without NUL and lone surrogates")
    return Alert(
        state=item.status,
        labels=item.labels,
        annotations=item.annotations,
        starts_at=item.starts_at if item.starts_at < datetime.now(UTC) + _CLOCK_SKEW else _UNKNOWN_START,
        ends_at=_real(item.ends_at),
        generator_url=item.generator_url,
        fingerprint=item.fingerprint or fingerprint(item.labels),
    )


def _is_unicode(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _real(moment: datetime | None) -> datetime | None:
    """Alertmanager writes year 1 for an alert that has not ended."""
    return None if moment is None or moment.year == _YEAR_ONE else moment


def _no_constant(name: str) -> Any:
    raise ValueError(f"{name} is not JSON")


class RotatedFile:
    """A file that is read again whenever it changes, as a mounted Secret does."""

    def __init__(self, path: Path | None) -> None:
        self._path = path
        self._seen: tuple[int, int, int] | None = None
        self._content = b""

    def read(self) -> bytes:
        """The content without surrounding white space; empty when there is no file."""
        if self._path is None:
            return b""
        try:
            stat = self._path.stat()
            version = (stat.st_mtime_ns, stat.st_ino, stat.st_size)
            if version != self._seen:
                self._content, self._seen = self._path.read_bytes().strip(), version
        except OSError as error:
            _log.error("cannot read the webhook's token", file=str(self._path), error=str(error))
            self._content, self._seen = b"", None
        return self._content


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


def _too_large(limit: int) -> web.Response:
    return _closing(_text(413, f"the body is larger than {limit} bytes"))


def _closing(response: web.Response) -> web.Response:
    """For an answer before the whole body was read: what is left of it is not waited for."""
    response.force_close()
    return response


def _text(status: int, text: str, headers: dict[str, str] | None = None) -> web.Response:
    return web.Response(status=status, text=text[:2000] + "\n", headers=headers)
