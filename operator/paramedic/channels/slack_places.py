"""Where an incident stands in Slack: its channel and its message, found again where an earlier try has made them."""

from datetime import UTC, datetime, timedelta

from paramedic.api.incident import Incident
from paramedic.api.people import SlackChannel
from paramedic.api.reasons import Reason
from paramedic.clients.slack import ChannelInfo, Slack
from paramedic.core.slack_blocks import channel_name
from paramedic.errors import AlreadyExists, Terminal

MAIN = "paramedic_incident"
"""The ``event_type`` of an incident's message; its payload has ``incident``, the UID."""
CLOCK_SKEW = timedelta(minutes=5)
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


class Shared:
    """The channel that the settings name, for all incidents: by its id, or by its name, whose id Slack tells."""

    def __init__(self, slack: Slack, name: str | None) -> None:
        self.name = (name or "").removeprefix("#")
        self._slack = slack
        self._id = self.name if self.name.isupper() and self.name.isalnum() else ""

    def __bool__(self) -> bool:
        return bool(self.name)

    async def id(self) -> str:
        """Raises Terminal when there is no public channel of that name."""
        if not self._id:
            found = await self._slack.find_channels([self.name])
            if self.name not in found:
                text = f"there is no public channel #{self.name}: name it by its id, or invite Paramedic's app to it"
                raise Terminal(Reason.NOTICE_UNDELIVERED, text)
            self._id = found[self.name].id
        return self._id


class Places:
    """The places of a workspace. Its methods raise as ``Slack`` does."""

    def __init__(self, slack: Slack, settings: SlackChannel) -> None:
        self.shared = Shared(slack, settings.channel)
        self._slack = slack
        self._own = settings.channel_per_incident

    async def find(self, incident: Incident, *, again: bool) -> tuple[str, str | None]:
        """The incident's channel, which is made where it is not there, and its message's ``ts``; None: it has none."""
        if self._own:
            channel, is_new = await self._own_channel(incident)
        elif again:
            channel, is_new = await self.shared.id(), False
        else:
            channel, is_new = self.shared.name, True
        return channel, None if is_new else await self._message(channel, incident)

    async def _own_channel(self, incident: Incident) -> tuple[str, bool]:
        names = [channel_name(incident, unique=unique) for unique in (False, True)]
        found: dict[str, ChannelInfo] | None = None
        for name in names:
            try:
                return await self._slack.create_channel(name), True
            except AlreadyExists:
                found = await self._slack.find_channels(names) if found is None else found
                if name in found and await self._is_of(found[name], incident):
                    return found[name].id, False
        raise Terminal(Reason.NOTICE_UNDELIVERED, f"the Slack channels #{' and #'.join(names)} belong to others")

    async def _is_of(self, channel: ChannelInfo, incident: Incident) -> bool:
        """Made for this very incident by a try whose result was lost; not for an earlier one of the same name."""
        who, since = await self._slack.identity(), _since(incident)
        if channel.archived or channel.creator != who.user or channel.created < since.timestamp():
            return False
        seen = await self._slack.seen(channel.id, since)
        return all(m.payload.get("incident") == incident.metadata.uid for m in seen if m.event == MAIN)

    async def _message(self, channel: str, incident: Incident) -> str | None:
        seen = await self._slack.seen(channel, _since(incident))
        uid = incident.metadata.uid
        return next((m.ts for m in seen if m.event == MAIN and m.payload.get("incident") == uid), None)


def _since(incident: Incident) -> datetime:
    """Nothing of the incident's is older."""
    return max(incident.metadata.creation_timestamp or _EPOCH, _EPOCH + CLOCK_SKEW) - CLOCK_SKEW
