"""Tells PagerDuty: an alert is triggered, acknowledged and resolved with the incident; notes tell of what happens."""

import asyncio
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

from paramedic.api.incident import Notice
from paramedic.api.people import ChannelSettings
from paramedic.api.reasons import Reason
from paramedic.channels.base import Message, PartlyTold, Told
from paramedic.clients.extras import require
from paramedic.core import pagerduty as core
from paramedic.errors import ParamedicError, Retry, Terminal
from paramedic.messages import Messages

if TYPE_CHECKING:
    from paramedic.clients.pagerduty import PagerDuty

# The Events API is asynchronous: an incident can be found a moment after its event was accepted, or never, where rules
# of PagerDuty's own suppress it.
_LOOKS, _BETWEEN_LOOKS_SECONDS = 4, 1.0
_FOUND_WITHIN = timedelta(minutes=5)


def connect(settings: ChannelSettings) -> "PagerDuty":
    """The client of a channel of this kind. Raises Terminal when the library is not there."""
    require("pagerduty")
    from paramedic.clients.pagerduty import PagerDuty

    assert settings.pagerduty is not None
    return PagerDuty(settings.name, settings.pagerduty, settings.timeout)


def make_pagerduty(settings: ChannelSettings, messages: Messages) -> "PagerDutyAlerts":
    """A channel. Raises Terminal when the library is not there."""
    return PagerDutyAlerts(settings.name, connect(settings), messages.dashboards)


class PagerDutyAlerts:
    """One integration of one service. No note is made twice, and no event sent again that PagerDuty has accepted: who
    has resolved the alert there since would be paged anew.
    """

    def __init__(self, name: str, pagerduty: "PagerDuty", dashboards: Sequence[str]) -> None:
        self.name = name
        self._pagerduty = pagerduty
        self._dashboards = tuple(dashboards)

    async def tell(self, message: Message) -> Told:
        """Events first, which page people; then the notes. Raises as ``Channel.tell``."""
        told: Told = {}
        paged = core.Paged.read(message.incident, self.name)
        try:
            for event in core.events(message.incident, message.notices, paged, again=message.again):
                properties = core.event(message.incident, self._dashboards) if event.action == "trigger" else {}
                await self._pagerduty.send_event(event.action, event.key, **properties)
                told = event.then.to_external(self.name)
            return told | await self._add_notes(message, {**message.external, **told})
        except ParamedicError as problem:
            if told:
                raise PartlyTold(told, problem) from problem
            raise

    async def close(self) -> None:
        """Ends the connections."""
        await self._pagerduty.close()

    async def _add_notes(self, message: Message, external: Told) -> Told:
        """The id of PagerDuty's first incident, once a note was made there; there is none where nobody was paged."""
        if not self._pagerduty.has_rest or not core.untold(message.notices, ()):
            return {}
        key, place, triggered = core.dedup_key(message.incident), f"{self.name}/incident", self.name in external
        incident = external.get(place) or await self._find_incident(key, _LOOKS if triggered else 1)
        if incident is None and not triggered:
            return {}
        if incident is None:
            _give_up_late(message.notices, key)
            raise Retry(f"{self.name} has no incident of the key {key} yet", uncertain=True)
        notes = await self._pagerduty.notes(incident) if message.again else ()
        for note in core.notes(core.untold(message.notices, notes)):
            await self._pagerduty.add_note(incident, note)
        return {place: incident}

    async def _find_incident(self, key: str, looks: int) -> str | None:
        """Waits a moment for an event that PagerDuty has just accepted."""
        for look in range(looks):
            if look:
                await asyncio.sleep(_BETWEEN_LOOKS_SECONDS)
            if found := await self._pagerduty.find_incident(key):
                return found
        return None


def _give_up_late(notices: Sequence[Notice], key: str) -> None:
    if datetime.now(UTC) - notices[-1].at > _FOUND_WITHIN:
        raise Terminal(Reason.NOTICE_UNDELIVERED, f"no incident there has an alert of the key {key}: no notes are made")
