"""Buttons and ``/incident``: ``POST /webhook/slack`` where there is a signing secret, Socket Mode with an app token.

401 for what Slack has not signed, or too long ago; 400 for what is no payload; else 200 at once, as Slack asks for.
"""

import time
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from aiohttp import web

from paramedic.api.people import ChannelSettings, SlackChannel
from paramedic.clients.kube import Json, Kube
from paramedic.clients.secret_file import SecretFile
from paramedic.clients.slack_socket import SlackSocket
from paramedic.core.slack_payload import Said, is_fresh, is_signed, read_form, read_payload
from paramedic.errors import Retry, Unreachable
from paramedic.inbound.edge import Edge, text
from paramedic.inbound.slack_deeds import SlackDeeds
from paramedic.log import get_logger
from paramedic.metrics import Metrics
from paramedic.store import Store
from paramedic.voices import Voices

Handler = Callable[[web.Request], Awaitable[web.Response]]
_log = get_logger(__name__)
_MAX_BYTES = 256 * 1024
_SIGNATURE, _TIMESTAMP = "X-Slack-Signature", "X-Slack-Request-Timestamp"


class SlackInbound:
    """All workspaces of the settings: those that call back by HTTP, and those that are connected by Socket Mode."""

    def __init__(
        self, channels: Sequence[ChannelSettings], voices: Voices, store: Store, kube: Kube, metrics: Metrics
    ) -> None:
        """Raises Terminal when the library is not installed."""
        self._deeds: list[SlackDeeds] = []
        self._signed: list[tuple[SecretFile, SlackDeeds]] = []
        self._connected: dict[Path, list[SlackDeeds]] = {}
        self._sockets: dict[str, SlackSocket] = {}
        self._store = store
        self._metrics = metrics
        self._edge = Edge(
            "slack",
            self._answer,
            metrics.inbound_requests,
            ready=lambda: store.loaded,
            max_bytes=_MAX_BYTES,
            refuse=_refusal,
        )
        for one in channels:
            if one.slack and (one.slack.signing_secret_file or one.slack.app_token_file):
                self._add(one, one.slack, SlackDeeds(one, voices, store, kube))

    def edges(self) -> dict[str, Handler]:
        """The path that Slack posts to, with what answers there."""
        return {"/webhook/slack": self._edge.handle} if self._signed else {}

    def jobs(self) -> dict[str, Coroutine[Any, Any, None]]:
        """What runs as long as the operator does, by name."""
        return {f"the Socket Mode of {name}": socket.run() for name, socket in self._sockets.items()}

    async def close(self) -> None:
        """Ends what is under way."""
        for deeds in self._deeds:
            await deeds.close()

    def _add(self, channel: ChannelSettings, slack: SlackChannel, deeds: SlackDeeds) -> None:
        self._deeds.append(deeds)
        if slack.signing_secret_file:
            self._signed.append((SecretFile(slack.signing_secret_file, f"{channel.name}'s signingSecretFile"), deeds))
        if slack.app_token_file:
            of_the_app = self._connected.setdefault(slack.app_token_file, [])
            of_the_app.append(deeds)
            token = SecretFile(slack.app_token_file, f"{channel.name}'s appTokenFile")
            up = self._metrics.channel_up.labels(f"{channel.name}/socket")
            self._sockets[channel.name] = SlackSocket(
                channel.name,
                token,
                slack.api_url,
                channel.timeout,
                partial(self._hear, of_the_app),
                lambda there: up.set(int(there)),
            )

    def _hear(self, of_the_app: Sequence[SlackDeeds], payload: Json) -> None:
        """What Socket Mode brings, over any of the app's connections. Raises Retry, and ValueError for no payload."""
        if not self._store.loaded:
            raise Retry("still reading what is stored")
        if said := read_payload(payload):
            _addressed(of_the_app, said).take(said)

    async def _answer(self, request: web.Request, body: bytes) -> web.Response:
        signed = self._signed_by(request, body)
        if not signed:
            return _unsigned()
        try:
            said = read_form(body)
        except ValueError as error:
            return text(400, str(error))
        if said:
            _addressed(signed, said).take(said)
        return web.Response()

    def _signed_by(self, request: web.Request, body: bytes) -> list[SlackDeeds]:
        """The channels with whose secret it was signed."""
        timestamp, signature = request.headers.get(_TIMESTAMP, ""), request.headers.get(_SIGNATURE, "")
        found = []
        for secret, deeds in self._signed:
            try:
                if is_signed(secret.read(), timestamp, body, signature, time.time()):
                    found.append(deeds)
            except Unreachable as error:
                _log.error("a signing secret cannot be read", channel=deeds.name, error=str(error))
        return found


def _addressed(candidates: Sequence[SlackDeeds], said: Said) -> SlackDeeds:
    """The channel that it is for; the first, which says why not, where it is for none."""
    return next((one for one in candidates if one.is_addressed(said)), candidates[0])


def _refusal(request: web.Request) -> web.Response | None:
    """Before the body is read: what cannot be signed need not be."""
    signed = request.headers.get(_SIGNATURE) and is_fresh(request.headers.get(_TIMESTAMP, ""), time.time())
    return None if signed else _unsigned()


def _unsigned() -> web.Response:
    return text(401, "a valid signature of Slack's, not older than five minutes, is needed")
