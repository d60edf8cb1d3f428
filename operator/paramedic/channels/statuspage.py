"""Tells the public by a page of Atlassian Statuspage, in customers' words only."""

from collections.abc import Sequence
from typing import Any

from paramedic.api.incident import Incident
from paramedic.api.people import ChannelSettings
from paramedic.channels.base import Message, Told
from paramedic.clients.http_json import Absent
from paramedic.clients.statuspage import Statuspage
from paramedic.core import markup
from paramedic.core.status_page import (
    Posting,
    brings_back,
    component_statuses,
    concerned,
    leaves_down,
    posting,
)
from paramedic.messages import Messages

Json = dict[str, Any]
_LONGEST_NAME, _LONGEST_BODY = 255, 25_000
_OURS, _DOWN = "paramedic", "down"


class StatuspageIncidents:
    """An incident of the page for each of ours. Its ``metadata`` says whose it is and what was posted last, since
    Statuspage has no keys against repetition.
    """

    def __init__(self, settings: ChannelSettings, messages: Messages) -> None:
        assert settings.statuspage is not None
        self.name = settings.name
        self._components = settings.statuspage.components
        self._messages = messages
        self._page = Statuspage(settings.name, settings.statuspage, settings.timeout)

    async def tell(self, message: Message) -> Told:
        """At most one posting. Raises as ``Channel.tell``."""
        number = message.external.get(self.name) or None
        news = posting(message.incident, message.notices, message.external.get(f"{self.name}/told"))
        if news is None:
            return {}
        others = await self._page.unresolved() if number is None or self._components else []
        if number is None:
            return await self._open(message, news, others)
        try:
            if message.again and _mark(await self._page.incident(number)) == news.mark:
                return self._kept(number, news)
            return await self._post(message, number, news, others)
        except Absent:
            return await self._tell_anew(message, news, await self._page.unresolved())

    async def close(self) -> None:
        """Ends the connections."""
        await self._page.close()

    async def _open(self, message: Message, news: Posting, others: list[Json]) -> Told:
        """Makes it, unless it was made before the answer was lost. What was over before the page could be told is not
        told afterwards, nor what is being deleted: nobody would end it there.
        """
        told: Told = {}
        for one in others:
            if _is_ours(one, message.incident):
                posted = _mark(one) == news.mark
                told = self._kept(one["id"], news) if posted else await self._post(message, one["id"], news, others)
        if told or news.status == "resolved" or message.incident.metadata.deletion_timestamp:
            return told
        made = await self._page.create(await self._fields(message, news, others))
        return self._kept(str(made["id"]), news)

    async def _tell_anew(self, message: Message, news: Posting, others: list[Json]) -> Told:
        """A person has deleted it there: it is made again; of what is over by now only the components are put right,
        which the page leaves as they were.
        """
        if told := await self._open(message, news, others):
            return told
        ids = concerned(message.incident, self._components)
        for component, status in component_statuses(ids, news.component, others).items():
            await self._page.set_component(component, status)
        return self._kept("", news)

    async def _post(self, message: Message, number: str, news: Posting, others: list[Json]) -> Told:
        rest = [other for other in others if other.get("id") != number]
        listed = [one["id"] for other in others if other.get("id") == number for one in other.get("components") or []]
        await self._page.update(number, await self._fields(message, news, rest, listed))
        return self._kept(number, news)

    async def _fields(self, message: Message, news: Posting, others: list[Json], listed: Sequence[str] = ()) -> Json:
        """The posting as Statuspage takes it. ``listed`` are components that its incident has already."""
        incident = message.incident
        text = self._messages.customer_all_clear if news.status == "resolved" else self._messages.customer_message
        ids = list(dict.fromkeys((*concerned(incident, self._components), *listed)))
        ours = {"incident": incident.metadata.uid, "told": news.mark}
        if leaves_down(incident):
            ours[_DOWN] = incident.metadata.namespace
        fields: Json = {
            "name": (await self._messages.customer_title(incident))[:_LONGEST_NAME],
            "status": news.status,
            "impact_override": news.impact,
            "body": (await text(incident, markup.html))[:_LONGEST_BODY],
            "metadata": {_OURS: ours},
        }
        if ids:
            fields |= {"component_ids": ids, "components": component_statuses(ids, news.component, others)}
        return fields

    def _kept(self, number: str, news: Posting) -> Told:
        return {self.name: number, f"{self.name}/told": news.mark}


def _is_ours(page_incident: Json, incident: Incident) -> bool:
    """Made for this incident, or for a shutdown that this incident has ended."""
    ours = _ours(page_incident)
    if ours.get("incident") == incident.metadata.uid:
        return True
    return brings_back(incident) and ours.get(_DOWN) == incident.metadata.namespace


def _mark(page_incident: Json) -> str | None:
    mark: str | None = _ours(page_incident).get("told")
    return mark


def _ours(page_incident: Json) -> Json:
    found = (page_incident.get("metadata") or {}).get(_OURS)
    return found if isinstance(found, dict) else {}
