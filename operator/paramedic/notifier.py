"""Which notices an incident gets, stored with the facts that they tell of; and what came of telling them."""

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from datetime import datetime

from paramedic.api import conditions as c
from paramedic.api.incident import Incident, Notice, Untold
from paramedic.api.people import PeopleSettings
from paramedic.api.reasons import Reason
from paramedic.core import escalation, notices
from paramedic.core.people import resolution
from paramedic.record import Draft

Wake = Callable[[str, Iterable[str]], None]
_LONGEST_MESSAGE = 512


class Notifier:
    """``attend`` is asked before each write. ``wake`` is told, after it, which channels have something to tell."""

    def __init__(
        self,
        channels: Sequence[str],
        default: Sequence[str],
        reserved: Mapping[str, Collection[str]] | None = None,
        *,
        paging: Collection[str] = (),
        people: PeopleSettings | None = None,
    ) -> None:
        """``reserved`` has, for channels that not everybody may name, the namespaces whose policies may. ``paging`` are
        those that page people when an incident begins: they wait for the hours in which ``people`` are called.
        """
        self._channels = frozenset(channels)
        self._default = tuple(default)
        self._reserved = reserved or {}
        self._paging = frozenset(paging)
        self._people = people or PeopleSettings()
        self.wake: Wake = lambda key, names: None

    def attend(self, draft: Draft) -> None:
        """Adds the notices of what was said since the last write."""
        self._give_up_unknown(draft)
        wanted = self._wanted(draft.incident)
        if not wanted and not draft.incident.status.notices:
            return
        known = self.channels_of(draft.incident)
        if len(known) < len(wanted):
            missing = ", ".join(name for name in wanted if name not in known)
            text = f"not in the settings' channels, or not for this namespace, so nobody is told there: {missing}"
            draft.set_condition(c.NOTIFIED, "False", Reason.CHANNEL_UNKNOWN, text)
        made = [notice for entry in draft.said if (notice := notices.notice_of(entry, known))]
        own = [notice for notice in made if not notices.is_told_otherwise(draft.incident, notice)]
        status = draft.incident.status
        new = notices.besides_calls(own, status.notices, draft.now)
        status.notices = notices.with_notices(status.notices, new)
        self._keep_hours(draft, new)
        waiting = notices.waiting_channels(draft.incident) & self._channels
        if waiting:
            draft.afterwards(lambda: self.wake(draft.key, waiting))

    def channels_of(self, incident: Incident) -> list[str]:
        """The channels that are told of an incident: those that it wants, as far as the settings have them for it."""
        return [name for name in self._wanted(incident) if name in self._channels and self._may_name(incident, name)]

    def told_of_calls(self, incident: Incident) -> list[str]:
        """Those of them that are told of each call. Who was only called before is told of the escalation as of a fact,
        and not called again.
        """
        own, called = self._own(incident), escalation.called_channels(incident, self._people)
        return [name for name in self.channels_of(incident) if name in own or name not in called]

    def next_look(self, incident: Incident, now: datetime) -> datetime | None:
        """When those may be paged who wait for their hours."""
        return escalation.next_hours(incident, self._people, now) if notices.is_held(incident) else None

    def _give_up_unknown(self, draft: Draft) -> None:
        """The settings have another name for the channel now, or it is gone: what waits for it would do so for ever."""
        for channel in notices.without_channel(draft.incident, self._channels):
            notices.give_up(draft.incident.status.notices, channel)
            text = f"{channel} was not told: the settings have no channel of this name any more"
            _trouble(draft, channel, Reason.NOTICE_UNDELIVERED, text)

    def _keep_hours(self, draft: Draft, new: Sequence[Notice]) -> None:
        """Nobody is paged outside of the hours; nor afterwards, once somebody works on it or a parent speaks for it."""
        status = draft.incident.status
        is_open = escalation.may_call(draft.incident, self._people, draft.now)
        if not is_open:
            notices.hold(draft.incident, new, self._paging)
        if status.acknowledgement or status.resolved_at or status.parent or resolution(draft.incident):
            notices.drop_held(status.notices)
        elif is_open:
            notices.release(status.notices)

    def _may_name(self, incident: Incident, channel: str) -> bool:
        """The settings' own ``notify`` is the word of who reserved it, and so are the contacts that were called."""
        policy = incident.status.policy
        speaker = policy.namespace if policy else incident.metadata.namespace
        if channel in self._default or channel not in self._reserved or speaker in self._reserved[channel]:
            return True
        return channel in escalation.called_channels(incident, self._people)

    def _wanted(self, incident: Incident) -> list[str]:
        return list(dict.fromkeys((*self._own(incident), *incident.status.notify)))

    def _own(self, incident: Incident) -> Sequence[str]:
        policy = incident.status.policy
        return policy.notify if policy and policy.notify else self._default


def kept(external: dict[str, str]) -> Callable[[Draft], None]:
    """What is put on the status of what a channel has got, though it could not be told everything."""

    def put(draft: Draft) -> None:
        draft.incident.status.external = {**(draft.incident.status.external or {}), **external}

    return put


def delivered(channel: str, keys: Sequence[str], external: dict[str, str]) -> Callable[[Draft], None]:
    """What is put on the status once a channel has been told. All is well only if no other one is in trouble."""

    def put(draft: Draft) -> None:
        status = draft.incident.status
        notices.told(status.notices, channel, keys, delivered=True)
        if external:
            kept(external)(draft)
        status.untold = [one for one in status.untold if one.channel != channel]
        known = c.find(status.conditions, c.NOTIFIED)
        if not _set_troubles(draft) and (known is None or known.reason != Reason.CHANNEL_UNKNOWN):
            draft.set_condition(c.NOTIFIED, "True", Reason.DELIVERED, f"told: {channel}")

    return put


def undelivered(channel: str, keys: Sequence[str], problem: str) -> Callable[[Draft], None]:
    """What is put on the status when a channel can never be told this."""

    def put(draft: Draft) -> None:
        notices.told(draft.incident.status.notices, channel, keys, delivered=False)
        _trouble(draft, channel, Reason.NOTICE_UNDELIVERED, f"{channel} was not told: {problem}")

    return put


def down(channel: str, problem: str) -> Callable[[Draft], None]:
    """What is put on the status while a channel does not answer."""

    def put(draft: Draft) -> None:
        _trouble(draft, channel, Reason.CHANNEL_DOWN, f"{channel} cannot be told for now: {problem}")

    return put


def _trouble(draft: Draft, channel: str, reason: Reason, message: str) -> None:
    """Said once for each channel, until that one has been told again."""
    status = draft.incident.status
    known = {one.channel: one for one in status.untold}
    status.untold = [one for one in status.untold if one.channel != channel]
    status.untold.append(Untold(channel=channel, reason=str(reason), message=message[:_LONGEST_MESSAGE]))
    if channel not in known or known[channel].reason != reason:
        draft.say(reason, message, event=True)
    _set_troubles(draft)


def _set_troubles(draft: Draft) -> bool:
    """Puts on the condition which channels are in trouble; false when none is. Nobody waits for one that is down and
    has nothing to be told.
    """
    waiting = notices.waiting_channels(draft.incident)
    troubles = [
        one for one in draft.incident.status.untold if one.channel in waiting or one.reason != Reason.CHANNEL_DOWN
    ]
    if troubles:
        text = "; ".join(one.message for one in troubles)
        draft.set_condition(c.NOTIFIED, "False", Reason.of(troubles[-1].reason), text)
    return bool(troubles)
