"""PagerDuty's webhooks (v3): a person who acknowledges or resolves there does so here.

A webhook is signed with the secret of its subscription, comes at least once and in order, is dropped after any 4xx but
429, and a subscription whose webhooks are dropped is switched off: so 4xx is for what is not signed, and nothing else.
"""

import hashlib
import hmac
import json
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field

from aiohttp import web
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from paramedic.api.people import ChannelSettings, PagerDutyChannel
from paramedic.channels.pagerduty import connect
from paramedic.clients.secret_file import SecretFile
from paramedic.core.pagerduty import is_whole, uid_of
from paramedic.core.templates import one_line
from paramedic.errors import NotFound, ParamedicError, Refused, Retry
from paramedic.inbound.edge import Edge, text
from paramedic.log import get_logger
from paramedic.metrics import Metrics
from paramedic.store import Store
from paramedic.voices import Speaker, Voices

_log = get_logger(__name__)
_MOST_BYTES = 512 * 1024  # PagerDuty drops what is larger than 256 KB
_SIGNATURE, _VERSION, _MOST_SIGNATURES = "X-PagerDuty-Signature", "v1=", 16
_PERSON, _MERGED = "user_reference", "merge_resolve_reason"
_ACKNOWLEDGED, _RESOLVED = "incident.acknowledged", "incident.resolved"


class _Lenient(BaseModel):
    model_config = ConfigDict(extra="ignore")


class _Agent(_Lenient):
    id: str = ""
    type: str = ""
    summary: str | None = None


class _ResolveReason(_Lenient):
    type: str = ""


class _Data(_Lenient):
    id: str = Field("", pattern=r"^[A-Z0-9]{0,40}$")
    incident_key: str | None = None
    resolve_reason: _ResolveReason | None = None

    @property
    def is_merged(self) -> bool:
        """Whether it was resolved because its alerts are another incident's now: they go on there."""
        return self.resolve_reason is not None and self.resolve_reason.type == _MERGED


class _Event(_Lenient):
    event_type: str
    agent: _Agent | None = None
    data: _Data = Field(default_factory=_Data)


class _Payload(_Lenient):
    event: _Event


@dataclass(frozen=True, slots=True)
class _Subscriber:
    """A channel that is called back."""

    channel: ChannelSettings
    settings: PagerDutyChannel
    secret: SecretFile = field(repr=False)

    def signed(self, body: bytes, signatures: Sequence[str]) -> bool:
        """Whether one of the signatures is made with the channel's secret. Raises Retry while that cannot be read."""
        digest = hmac.new(self.secret.read().encode(), body, hashlib.sha256).hexdigest()
        return any(hmac.compare_digest(digest.encode(), one.encode(errors="replace")) for one in signatures)


class PagerDutyWebhook:
    """``POST /webhook/pagerduty``."""

    def __init__(self, channels: Sequence[ChannelSettings], voices: Voices, store: Store, metrics: Metrics) -> None:
        self._subscribers = [subscriber for one in channels if (subscriber := _subscriber(one))]
        self._voices = voices
        self._store = store
        edge = Edge(
            "pagerduty",
            self._answer,
            metrics.inbound_requests,
            ready=lambda: store.loaded,
            max_bytes=_MOST_BYTES,
            refuse=lambda request: None if _VERSION in request.headers.get(_SIGNATURE, "") else _unsigned(),
        )
        self.handle = edge.handle

    async def _answer(self, request: web.Request, body: bytes) -> web.Response:
        subscriber = self._sender(request.headers.get(_SIGNATURE, ""), body)
        if subscriber is None:
            return _unsigned()
        try:
            event = _Payload.model_validate(json.loads(body)).event
        except (ValidationError, ValueError, RecursionError) as error:
            _log.warning("a webhook of PagerDuty's is not understood", error=str(error)[:500])
            return text(200, "not understood, ignored")
        return text(200, await self._take(subscriber, event))

    def _sender(self, header: str, body: bytes) -> _Subscriber | None:
        """Whose subscription has signed this. Raises Retry when none has, and a secret cannot be read for now."""
        given = [part.strip() for part in header.split(",")[:_MOST_SIGNATURES]]
        signatures = [one.removeprefix(_VERSION) for one in given if one.startswith(_VERSION)]
        unread: Retry | None = None
        for subscriber in self._subscribers:
            try:
                if subscriber.signed(body, signatures):
                    return subscriber
            except Retry as error:
                unread = error
        if unread and signatures:
            raise unread
        return None

    async def _take(self, subscriber: _Subscriber, event: _Event) -> str:
        """What came of it, in words. Raises Retry."""
        if event.event_type not in (_ACKNOWLEDGED, _RESOLVED):
            return f"{one_line(event.event_type)[:100]}: nothing follows from it"
        if event.agent is None or event.agent.type != _PERSON:
            return "not said by a person, ignored"
        if event.event_type == _RESOLVED and event.data.is_merged:
            return "merged into another incident, which goes on: nothing follows from it"
        who = _speaker(subscriber.settings, event.agent)
        incidents = await self._incidents(subscriber, event.data)
        told = [await self._say(self._meant(event, whole=whole), key, who) for key, whole in incidents]
        return "; ".join(told) or "of no incident that is open here"

    def _meant(self, event: _Event, *, whole: bool) -> Callable[[str, Speaker], Awaitable[None]]:
        """Who resolves the page of one call has answered it; the outage that it tells of goes on."""
        return self._voices.close if event.event_type == _RESOLVED and whole else self._voices.acknowledge

    async def _say(self, say: Callable[[str, Speaker], Awaitable[None]], key: str, who: Speaker) -> str:
        """What came of it for one incident, in words. Raises Retry."""
        try:
            await say(key, who)
            return f"{key}: stored"
        except NotFound as error:
            return str(error)
        except Refused as error:
            await self._voices.tell_refusal(key, who, error)
            return f"{key}: {error}"

    async def _incidents(self, subscriber: _Subscriber, data: _Data) -> list[tuple[str, bool]]:
        """Our open incidents that PagerDuty's stands for, and whether for the whole of each or only for calls. What was
        merged has several alerts with keys of their own, whichever key it has itself, if any.
        """
        keys = await self._keys(subscriber, data)
        wanted = {uid for key in keys if (uid := uid_of(key))}
        wholes = {uid_of(key) for key in keys if is_whole(key)}
        found = [entry for entry in self._store.open_entries() if entry.uid in wanted] if wanted else []
        told = [entry for entry in found if self._is_told(entry.key, subscriber.channel.name)]
        return [(entry.key, entry.uid in wholes) for entry in told]

    def _is_told(self, key: str, channel: str) -> bool:
        """Whether this channel tells of the incident: a subscription speaks for no other, whatever key it names."""
        found = self._store.open_incident(key)
        if found is None:
            return False
        status = found[0].status
        return channel in (status.external or {}) or any(channel in notice.pending for notice in status.notices)

    async def _keys(self, subscriber: _Subscriber, data: _Data) -> set[str]:
        """Raises Retry when none is known for now."""
        keys = {data.incident_key} if data.incident_key else set()
        if data.id and subscriber.settings.api_token_file:
            keys.update(await self._alert_keys(subscriber, data.id, needed=not keys))
        return keys

    async def _alert_keys(self, subscriber: _Subscriber, incident: str, *, needed: bool) -> list[str]:
        client = connect(subscriber.channel)
        try:
            return await client.alert_keys(incident)
        except ParamedicError as error:
            if needed and isinstance(error, Retry):
                raise
            _log.warning("the alerts of an incident of PagerDuty's cannot be read", error=str(error))
            return []
        finally:
            await client.close()


def _subscriber(channel: ChannelSettings) -> _Subscriber | None:
    chosen = channel.pagerduty
    if chosen is None or chosen.webhook_secret_file is None:
        return None
    return _Subscriber(channel, chosen, SecretFile(chosen.webhook_secret_file, f"{channel.name}'s webhookSecretFile"))


def _speaker(settings: PagerDutyChannel, agent: _Agent) -> Speaker:
    name = f"{one_line(agent.summary or 'somebody')[:100]} (PagerDuty {one_line(agent.id)[:30]})"
    known = next((user for user in settings.users if user.pagerduty == agent.id), None)
    if known is None:
        return Speaker(name, "pagerduty")
    return Speaker(name, "pagerduty", known.kubernetes, tuple(known.groups))


def _unsigned() -> web.Response:
    return text(401, f"{_SIGNATURE} is not made with the secret of a configured subscription")
