"""Tells PagerDuty: an alert is triggered, acknowledged and resolved with the incident; notes tell of what happens."""

import asyncio
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

from paramedic.api.incident import Notice
from paramedic.api.people import ChannelSettings
from paramedic.api.reasons import Reason
from paramedic.channels.base import Message, Told
from paramedic.clients.extras import require
from paramedic.core import pagerduty as core
from paramedic.errors import Retry, Terminal
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
    """One integration of one service. Events may be told twice (the dedup key sees to that), notes may not."""

    def __init__(self, name: str, pagerduty: "PagerDuty", dashboards: Sequence[str]) -> None:
        self.name = name
        self._pagerduty = pagerduty
        self._dashboards = tuple(dashboards)

    async def tell(self, message: Message) -> Told:
        """Events first, which page people; then the notes. Raises as ``Channel.tell``."""
        key = core.dedup_key(message.incident)
        wanted = core.actions(message.notices)
        for action in wanted:
            properties = core.event(message.incident, self._dashboards) if action == "trigger" else {}
            await self._pagerduty.send_event(action, key, **properties)
        told = {self.name: key} if "trigger" in wanted else {}
        if self._pagerduty.has_rest:
            told |= await self._add_notes(message, key, just_triggered="trigger" in wanted)
        return told

    async def close(self) -> None:
        """Ends the connections."""
        await self._pagerduty.close()

    async def _add_notes(self, message: Message, key: str, *, just_triggered: bool) -> Told:
        """The id of PagerDuty's incident, once a note was made there; there is none where nobody was paged."""
        if not core.untold(message.notices, ()):
            return {}
        place, triggered = f"{self.name}/incident", just_triggered or self.name in message.external
        known = None if just_triggered else message.external.get(place)  # a trigger may have opened another there
        incident = known or await self._find_incident(key, _LOOKS if triggered else 1)
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
