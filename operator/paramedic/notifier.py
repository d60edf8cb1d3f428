"""Which notices an incident gets, stored with the facts that they tell of; and what came of telling them."""

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence

from paramedic.api import conditions as c
from paramedic.api.incident import Incident
from paramedic.api.reasons import Reason
from paramedic.core import notices
from paramedic.record import Draft

Wake = Callable[[str, Iterable[str]], None]


class Notifier:
    """``attend`` is asked before each write. ``wake`` is told, after it, which channels have something to tell."""

    def __init__(
        self, channels: Sequence[str], default: Sequence[str], reserved: Mapping[str, Collection[str]] | None = None
    ) -> None:
        """``reserved`` has, for channels that not everybody may name, the namespaces whose policies may."""
        self._channels = frozenset(channels)
        self._default = tuple(default)
        self._reserved = reserved or {}
        self.wake: Wake = lambda key, names: None

    def attend(self, draft: Draft) -> None:
        """Adds the notices of what was said since the last write."""
        wanted = self._wanted(draft.incident)
        if not wanted and not draft.incident.status.notices:
            return
        known = self.channels_of(draft.incident)
        if len(known) < len(wanted):
            missing = ", ".join(name for name in wanted if name not in known)
            text = f"not in the settings' channels, or not for this namespace, so nobody is told there: {missing}"
            draft.set_condition(c.NOTIFIED, "False", Reason.CHANNEL_UNKNOWN, text)
        made = [notice for entry in draft.said if (notice := notices.notice_of(entry, known))]
        new = [notice for notice in made if not notices.is_told_otherwise(draft.incident, notice, draft.now)]
        status = draft.incident.status
        status.notices = notices.with_notices(status.notices, new)
        waiting = notices.waiting_channels(draft.incident) & self._channels
        if waiting:
            draft.afterwards(lambda: self.wake(draft.key, waiting))

    def channels_of(self, incident: Incident) -> list[str]:
        """The channels that are told of an incident: those that it wants, as far as the settings have them for it."""
        policy = incident.status.policy
        speaker = policy.namespace if policy else incident.metadata.namespace
        return [name for name in self._wanted(incident) if name in self._channels and self._may_name(speaker, name)]

    def _may_name(self, namespace: str, channel: str) -> bool:
        """The settings' own ``notify`` is the word of who reserved it."""
        return channel in self._default or channel not in self._reserved or namespace in self._reserved[channel]

    def _wanted(self, incident: Incident) -> list[str]:
        policy = incident.status.policy
        own = policy.notify if policy and policy.notify else self._default
        return list(dict.fromkeys((*own, *incident.status.notify)))


def delivered(channel: str, keys: Sequence[str], external: dict[str, str]) -> Callable[[Draft], None]:
    """What is put on the status once a channel has been told."""

    def put(draft: Draft) -> None:
        status = draft.incident.status
        notices.told(status.notices, channel, keys, delivered=True)
        if external:
            status.external = {**(status.external or {}), **external}
        down = c.find(status.conditions, c.NOTIFIED)
        if down is None or down.reason != Reason.CHANNEL_UNKNOWN:
            draft.set_condition(c.NOTIFIED, "True", Reason.DELIVERED, f"told: {channel}")

    return put


def undelivered(channel: str, keys: Sequence[str], problem: str) -> Callable[[Draft], None]:
    """What is put on the status when a channel can never be told this."""

    def put(draft: Draft) -> None:
        notices.told(draft.incident.status.notices, channel, keys, delivered=False)
        text = f"{channel} was not told: {problem}"
        draft.say(Reason.NOTICE_UNDELIVERED, text, condition=(c.NOTIFIED, "False"), event=True)

    return put


def down(channel: str, problem: str) -> Callable[[Draft], None]:
    """What is put on the status while a channel does not answer."""

    def put(draft: Draft) -> None:
        text = f"{channel} cannot be told for now: {problem}"
        draft.say(Reason.CHANNEL_DOWN, text, condition=(c.NOTIFIED, "False"), event=True)

    return put
