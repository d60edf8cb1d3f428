"""Slack's Socket Mode through ``slack_sdk``: buttons and ``/incident`` where Slack cannot call back."""

import asyncio
import logging
from collections.abc import Callable
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from paramedic.clients.extras import require
from paramedic.clients.secret_file import SecretFile
from paramedic.errors import Retry, Unreachable
from paramedic.log import get_logger

if TYPE_CHECKING:
    from slack_sdk.socket_mode.aiohttp import SocketModeClient
    from slack_sdk.socket_mode.async_client import AsyncBaseSocketModeClient
    from slack_sdk.socket_mode.request import SocketModeRequest

Hear = Callable[[dict[str, Any]], None]
Report = Callable[[bool], None]
_log = get_logger(__name__)
_CONNECT_SECONDS, _LOOK_SECONDS, _PING_SECONDS = 30.0, 5.0, 10.0
_FIRST_RETRY_SECONDS, _LAST_RETRY_SECONDS = 1.0, 60.0


class SlackSocket:
    """One workspace's connection, of which Slack allows ten at once: every replica has its own.

    ``hear`` gets each payload and returns at once; what it raises Retry for is not acknowledged. ``report`` is told
    whether there is a connection.
    """

    def __init__(
        self, name: str, token: SecretFile, api_url: str, timeout: timedelta, hear: Hear, report: Report
    ) -> None:
        """Raises Terminal when the library is not installed."""
        require("slack")
        self._name = name
        self._token = token
        self._api_url = api_url.rstrip("/") + "/"
        self._timeout = timeout
        self._hear = hear
        self._report = report

    async def run(self) -> None:
        """Stays connected until cancelled; a new connection takes the place of one that is broken."""
        wait = _FIRST_RETRY_SECONDS
        while True:
            try:
                await self._one_connection()
                wait = _FIRST_RETRY_SECONDS
            except (TimeoutError, Unreachable) as error:
                wait = min(2 * wait, _LAST_RETRY_SECONDS)
                _log.warning("Slack's Socket Mode is not connected", channel=self._name, error=str(error))
            await asyncio.sleep(wait)

    async def _one_connection(self) -> None:
        """Until it is broken. The library renews it when Slack asks for that; what else breaks it is begun anew, as the
        library would try the same ticket for ever.
        """
        client = self._client(self._token.read())
        try:
            async with asyncio.timeout(_CONNECT_SECONDS):
                await client.connect()  # type: ignore[no-untyped-call]
            _log.info("Slack's Socket Mode is connected", channel=self._name)
            self._report(True)
            failures = 0
            while failures < 2:  # it may be about to be renewed
                await asyncio.sleep(_LOOK_SECONDS)
                failures = 0 if await client.is_connected() else failures + 1
        finally:
            self._report(False)
            await client.close()  # type: ignore[no-untyped-call]

    def _client(self, token: str) -> "SocketModeClient":
        from slack_sdk.socket_mode.aiohttp import SocketModeClient
        from slack_sdk.web.async_client import AsyncWebClient

        quiet = logging.getLogger("paramedic.slack_socket")
        quiet.setLevel(logging.CRITICAL + 1)  # its errors name the connection's URL, which holds a ticket
        web = AsyncWebClient(base_url=self._api_url, timeout=int(self._timeout.total_seconds()) or 1, retry_handlers=[])
        client = SocketModeClient(token, logger=quiet, web_client=web, ping_interval=_PING_SECONDS)
        client.socket_mode_request_listeners.append(self._heard)
        return client

    async def _heard(self, client: "AsyncBaseSocketModeClient", request: "SocketModeRequest") -> None:
        from slack_sdk.socket_mode.response import SocketModeResponse

        if request.type in ("interactive", "slash_commands"):
            try:
                self._hear(request.payload)
            except Retry as error:
                _log.warning("busy: Slack sends it again", channel=self._name, error=str(error))
                return
            except ValueError as error:
                _log.warning("Slack sent what is no payload", channel=self._name, error=str(error))
        await client.send_socket_mode_response(SocketModeResponse(envelope_id=request.envelope_id))
