"""The Alertmanager edge: ``POST /webhook/alertmanager``, payload version 4.

2xx only when everything is stored; 503 when it cannot be (Alertmanager retries 5xx only); 400 for what is no payload,
401 for a wrong token, 413 for a body that is too large, which is then not read. One alert that cannot be read costs the
others of its payload nothing: they may be another team's.
"""

import asyncio
import hmac
import json
import re
import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Annotated, Any, Literal

from aiohttp import web
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from paramedic.api.base import Time
from paramedic.clients.secret_file import SecretFile
from paramedic.core.alert import UNKNOWN_START, Alert, quick_fingerprint
from paramedic.core.templates import one_line
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
_TELL_OF = 3
_NOT_STORABLE = re.compile("[\x00\ud800-\udfff]")


def _storable(value: Any) -> Any:
    """NUL and lone surrogates, which Kubernetes does not store, become U+FFFD."""
    return _NOT_STORABLE.sub("\ufffd", value) if isinstance(value, str) else value


_Text = Annotated[str, BeforeValidator(_storable), Field(strict=True)]


class _WebhookAlert(BaseModel):
    model_config = ConfigDict(strict=False, extra="ignore")

    status: Literal["firing", "resolved"]
    labels: Annotated[dict[_Text, _Text], Field(max_length=256)]
    annotations: dict[_Text, _Text] = Field(default_factory=dict, max_length=256)
    starts_at: Time = Field(alias="startsAt")
    ends_at: Time | None = Field(None, alias="endsAt")
    generator_url: _Text = Field("", alias="generatorURL")
    fingerprint: Annotated[_Text, Field(max_length=64)] = ""


class _Payload(BaseModel):
    model_config = ConfigDict(extra="ignore")

    version: Literal["4"] = "4"
    alerts: list[Any] = Field(max_length=_MAX_ALERTS)


@dataclass(frozen=True, slots=True)
class Payload:
    """The alerts of a payload, and of those that cannot be read what is wrong in each."""

    alerts: Sequence[Alert]
    unreadable: Sequence[str] = ()


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
            payload = parse_payload(body)
        except ValueError as error:
            return text(400, str(error))
        del body  # it may be large, and storing may take long
        self._tell_unreadable(payload.unreadable)
        try:
            async with asyncio.timeout(_PATIENCE_SECONDS):
                await self._intake.take(payload.alerts, "webhook")
        except TimeoutError:
            return text(503, f"not stored within {_PATIENCE_SECONDS} s, send it again", {"Retry-After": "1"})
        except ParamedicError as error:
            return text(503, f"not stored, send it again: {error}", {"Retry-After": "1"})
        return text(200, f"stored, but for {len(payload.unreadable)}" if payload.unreadable else "stored")

    def _tell_unreadable(self, problems: Sequence[str]) -> None:
        if problems:
            self._metrics.alerts.labels("webhook", "unreadable").inc(len(problems))
            _log.error("unreadable alerts are left out", count=len(problems), error="; ".join(problems[:_TELL_OF]))

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


def parse_payload(body: bytes) -> Payload:
    """What a webhook payload holds. Raises ValueError that says what is wrong where it is no payload, or holds nothing
    that can be read; never anything else.
    """
    try:
        payload = _Payload.model_validate(json.loads(body, parse_constant=_no_constant))
    except ValidationError as error:
        raise ValueError(_first_of(error)) from error
    except RecursionError as error:
        raise ValueError("the JSON is nested too deeply") from error
    except (UnicodeDecodeError, json.JSONDecodeError) as error:
        raise ValueError(f"not JSON: {error}") from error
    found, unreadable = [], []
    for number, item in enumerate(payload.alerts):
        try:
            found.append(_alert(_WebhookAlert.model_validate(item)))
        except ValidationError as error:
            unreadable.append(f"alerts.{number}{_named(item)}: {_first_of(error)}")
    if unreadable and not found:
        raise ValueError(unreadable[0])
    return Payload(found, unreadable)


def _first_of(error: ValidationError) -> str:
    first = error.errors(include_input=False, include_url=False)[0]
    where = one_line(".".join(map(str, first["loc"])))[:200]
    return f"{where}: {first['msg']}" if where else first["msg"]


def _named(item: Any) -> str:
    """The alert's name in brackets, where it has one: whose rule it is."""
    labels = item.get("labels") if isinstance(item, dict) else None
    name = labels.get("alertname") if isinstance(labels, dict) else None
    return f" ({one_line(_storable(name))[:100]})" if isinstance(name, str) else ""


def _alert(item: _WebhookAlert) -> Alert:
    return Alert(
        state=item.status,
        labels=item.labels,
        annotations=item.annotations,
        starts_at=max(item.starts_at, UNKNOWN_START),
        ends_at=_real(item.ends_at),
        generator_url=item.generator_url,
        fingerprint=item.fingerprint or quick_fingerprint(item.labels),  # Alertmanager tells its own
    )


def _real(moment: datetime | None) -> datetime | None:
    """Alertmanager writes year 1 for an alert that has not ended."""
    return None if moment is None or moment.year == _YEAR_ONE else moment


def _no_constant(name: str) -> Any:
    raise ValueError(f"{name} is not JSON")
