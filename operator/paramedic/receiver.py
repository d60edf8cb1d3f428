"""The Alertmanager edge: ``POST /webhook/alertmanager``, payload version 4.

2xx only when everything is stored; 503 when it cannot be (Alertmanager retries 5xx only); 400 for what is no payload,
401 for a wrong token, 413 for a body that is too large, which is then not read.
"""

import asyncio
import hmac
import json
import time
from datetime import datetime
from typing import Annotated, Any, Literal

from aiohttp import web
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from paramedic.api.base import Time
from paramedic.clients.secret_file import SecretFile
from paramedic.core.alert import UNKNOWN_START, Alert, quick_fingerprint
from paramedic.errors import ParamedicError, Retry
from paramedic.inbound.edge import Edge, text
from paramedic.intake import Intake
from paramedic.log import get_logger
from paramedic.metrics import Metrics
from paramedic.settings import Settings
from paramedic.store import Store

_log = get_logger(__name__)
_MAX_ALERTS = 10_000
_PATIENCE_SECONDS = 60  # a sender that has gone by then must not hold a place for ever
_YEAR_ONE = 1
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
        self._anonymous = settings.webhook_anonymous
        self._intake = intake
        self._metrics = metrics
        file = settings.webhook_token_file
        self._token = SecretFile(file, "the webhook's token") if file else None
        self._edge = Edge(
            "alertmanager",
            self._answer,
            metrics.inbound_requests,
            ready=lambda: store.loaded,
            max_bytes=settings.webhook_max_bytes,
            max_in_flight=settings.webhook_max_in_flight,
            refuse=self._refusal,
        )

    async def handle(self, request: web.Request) -> web.Response:
        """One request; the answer's status and time are counted."""
        began = time.perf_counter()
        response = await self._edge.handle(request)
        self._metrics.webhook_requests.labels(str(response.status)).inc()
        self._metrics.webhook_seconds.observe(time.perf_counter() - began)
        return response

    async def _answer(self, _: web.Request, body: bytes) -> web.Response:
        try:
            alerts = parse_payload(body)
        except ValueError as error:
            return text(400, str(error))
        del body  # it may be large, and storing may take long
        try:
            async with asyncio.timeout(_PATIENCE_SECONDS):
                await self._intake.take(alerts, "webhook")
        except TimeoutError:
            return text(503, f"not stored within {_PATIENCE_SECONDS} s, send it again", {"Retry-After": "1"})
        except ParamedicError as error:
            return text(503, f"not stored, send it again: {error}", {"Retry-After": "1"})
        return text(200, "stored")

    def _refusal(self, request: web.Request) -> web.Response | None:
        if self._anonymous:
            return None
        challenge = {"WWW-Authenticate": "Bearer"}
        if self._token is None:
            hint = "no token is configured: set PARAMEDIC_WEBHOOK_TOKEN_FILE to a file that holds one"
            return text(401, hint, challenge)
        try:
            expected = self._token.read().encode()
        except Retry as error:
            _log.error("cannot check who sends alerts", error=str(error))
            return text(503, "the webhook's token cannot be read for now: send it again", {"Retry-After": "1"})
        scheme, _, given = request.headers.get("Authorization", "").partition(" ")
        right = hmac.compare_digest(given.strip().encode(errors="replace"), expected)
        if scheme.lower() == "bearer" and right:
            return None
        return text(401, "a valid bearer token is needed", challenge)


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
    for words in (
        *item.labels,
        *item.labels.values(),
        *item.annotations,
        *item.annotations.values(),
        item.generator_url,
    ):
        if "\x00" in words or not _is_unicode(words):
            raise ValueError("labels, annotations and URLs must be text without NUL and lone surrogates")
    return Alert(
        state=item.status,
        labels=item.labels,
        annotations=item.annotations,
        starts_at=max(item.starts_at, UNKNOWN_START),
        ends_at=_real(item.ends_at),
        generator_url=item.generator_url,
        fingerprint=item.fingerprint or quick_fingerprint(item.labels),  # Alertmanager tells its own
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
