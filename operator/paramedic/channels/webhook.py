"""Tells any system that takes JSON over HTTP: Opsgenie, Teams, Mattermost and the rest."""

from urllib.parse import quote

from paramedic.api.incident import Incident, Notice
from paramedic.api.people import ChannelSettings, Header, WebhookChannel
from paramedic.api.reasons import Reason
from paramedic.channels.base import Message, PartlyTold, Told
from paramedic.clients.http_json import HttpJson
from paramedic.clients.secret_file import SecretFile
from paramedic.core import webhook_body
from paramedic.errors import ParamedicError, Retry, Terminal
from paramedic.messages import Messages


class Webhook:
    """One URL. The other side can tell a repetition by the header Idempotency-Key, or by the notices' own keys."""

    def __init__(self, settings: ChannelSettings, messages: Messages) -> None:
        assert settings.webhook is not None
        self.name = settings.name
        self._settings: WebhookChannel = settings.webhook
        self._messages = messages
        self._http = HttpJson(settings.name, settings.timeout)

    async def tell(self, message: Message) -> Told:
        """One POST for all notices, but for each call one of its own, whatever becomes of the others. Raises as
        ``Channel.tell``.
        """
        wanted = self._settings.kinds
        notices = [notice for notice in message.notices if not wanted or notice.kind in wanted]
        if not notices:
            return {}
        facts = await self._messages.facts(message.incident)
        texts = {name: await self._messages.text(name, message.incident) for name in webhook_body.TEXTS}
        told: list[str] = []
        refused: list[str] = []
        problem: ParamedicError | None = None
        for batch in webhook_body.batches(notices):
            keys = [notice.key for notice in batch]
            try:
                await self._post(message.incident, webhook_body.values(message.incident, batch, facts, texts), batch)
            except Terminal as error:
                problem = problem or error
                refused += keys
            except Retry as error:
                problem = problem or error
                break
            else:
                told += keys
        if problem is None:
            return {}
        if len(refused) == len(notices) or not (told or refused):
            raise problem
        unwanted = [notice.key for notice in message.notices if notice not in notices]
        raise PartlyTold({}, problem, told + unwanted, refused or None)

    async def _post(self, incident: Incident, values: webhook_body.Json, notices: list[Notice]) -> None:
        try:
            body = webhook_body.render_body(self._settings.body, values)
        except ValueError as error:
            raise Terminal(Reason.NOTICE_UNDELIVERED, f"{self.name}: {error}") from error
        headers = {header.name: self._value(header) for header in self._settings.headers}
        url = self._url().replace("{id}", quote(incident.metadata.uid, safe=""))
        key = webhook_body.idempotency_key(incident, notices)
        await self._http.send(
            "POST", url, body, headers={"Idempotency-Key": key} | headers, secrets=tuple(headers.values())
        )

    async def close(self) -> None:
        """Ends the connections."""
        await self._http.close()

    def _url(self) -> str:
        if self._settings.url_file:
            return SecretFile(self._settings.url_file, f"channel {self.name}'s urlFile").read()
        assert self._settings.url is not None
        return self._settings.url

    def _value(self, header: Header) -> str:
        if header.value_file:
            return SecretFile(header.value_file, f"channel {self.name}'s file of header {header.name}").read()
        return header.value or ""
