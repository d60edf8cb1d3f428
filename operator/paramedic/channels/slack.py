"""Slack: a channel for each incident, one message in it that is kept up to date, and the details in its thread.

What was posted carries metadata with the notices that it tells of. So when an earlier try may have told something,
Slack itself knows; nothing is remembered here but ids that Slack would tell again.
"""

from collections.abc import Awaitable, Callable, Collection, Iterable, Mapping, Sequence
from datetime import datetime
from functools import partial

from paramedic.api.incident import Incident, Notice, StepStatus
from paramedic.api.people import ChannelSettings, SlackChannel
from paramedic.api.reasons import Reason
from paramedic.channels.base import Message, PartlyTold, Told
from paramedic.channels.slack_places import CLOCK_SKEW, MAIN, Places
from paramedic.clients.slack import ChannelGone, Seen, Slack
from paramedic.core import markup
from paramedic.core import slack_blocks as blocks
from paramedic.core.messages import TextName
from paramedic.core.slack_buttons import awaiting
from paramedic.errors import Retry, Terminal, Unreachable
from paramedic.log import get_logger
from paramedic.messages import Messages

_log = get_logger(__name__)
_NOTICE = "paramedic_notice"
_FOR_EVERYBODY = frozenset({"Opened", "Call", "Resolved"})
_WITHOUT_CHANNEL = _FOR_EVERYBODY | {"ApprovalNeeded", "Reminder", "Shutdown"}
"""What the shared channel is told in the place of the incident's own, when that is gone."""
_TEXTS: Mapping[TextName, Callable[[Notice], bool]] = {
    "internal_update": lambda notice: notice.reason == Reason.UPDATE_DUE,
    "shutdown_notice": lambda notice: notice.kind == "Shutdown",
    "all_clear": lambda notice: notice.kind == "Resolved",
}


class SlackTeller:
    """One workspace as a channel of Paramedic's. On ``status.external``: ``<name>/channel`` and ``<name>/thread`` say
    where the incident's message is, ``<name>/topic`` and ``<name>/approval`` what was shown last.
    """

    def __init__(self, settings: ChannelSettings, messages: Messages) -> None:
        """Raises Terminal when the library is not installed."""
        assert settings.slack is not None
        self.name = settings.name
        self._messages = messages
        self._settings = settings.slack
        self._slack = Slack(settings.name, settings.slack.token_file, settings.slack.api_url, settings.timeout)
        self._places = Places(self._slack, settings.slack)

    async def tell(self, message: Message) -> Told:
        """See ``Channel``. What was begun and not ended is looked for at the next try."""
        telling = _Telling(self._slack, self._places, self._settings, self._messages, self.name, message)
        before = self._slack.writes
        try:
            await telling.run()
        except Retry as error:
            changed = self._slack.writes != before
            again = Retry(str(error), error.after, uncertain=error.uncertain or changed)
            if telling.ids.items() <= message.external.items():
                raise again from error
            raise PartlyTold(telling.ids, again) from error  # people press the buttons that are there already
        return telling.ids

    async def close(self) -> None:
        """Ends the connections."""
        await self._slack.close()


class _Telling:
    """One call of ``tell``: gathers the ids that are to be kept."""

    def __init__(
        self,
        slack: Slack,
        places: Places,
        settings: SlackChannel,
        messages: Messages,
        name: str,
        message: Message,
    ) -> None:
        self.ids: Told = {}
        self._slack = slack
        self._places = places
        self._settings = settings
        self._messages = messages
        self._name = name
        self._message = message
        self._incident = message.incident
        self._known: set[tuple[str, str]] = set()
        self._fresh = False

    async def run(self) -> None:
        """In the incident's channel, with a line in the shared one; there alone when a person has archived or deleted
        the incident's.
        """
        is_shared_too = bool(self._places.shared) and self._settings.channel_per_incident
        try:
            channel = await self._tell_in_place()
        except ChannelGone as error:
            if not is_shared_too:
                raise
            _log.warning("an incident's channel is gone", channel=self._name, error=str(error))
            await self._tell_everybody(_WITHOUT_CHANNEL)
            return
        except (Terminal, Unreachable):
            if is_shared_too:
                await self._tell_everybody(_WITHOUT_CHANNEL)
            raise
        if is_shared_too:
            try:
                await self._tell_everybody(_FOR_EVERYBODY, f" <#{channel}>")
            except Terminal as error:  # the incident's own channel has it all
                _log.error("the shared channel cannot be told", channel=self._name, error=str(error))

    async def _tell_in_place(self) -> str:
        """Returns the channel's id. What calls people goes first, what can be looked up last."""
        channel, thread = await self._place()
        if self._message.again:
            self._recognize(await self._seen(channel, thread))
        notices = self._message.notices
        await self._call(channel, thread, [n for n in notices if n.kind == "Call"])
        asked = await self._ask(channel, thread, [n for n in notices if n.kind == "ApprovalNeeded"])
        await self._details(channel, thread, [n for n in notices if _is_detail(n) and n not in asked])
        await self._texts(channel, thread, notices)
        await self._keep_current(channel, thread)
        return channel

    async def _seen(self, channel: str, thread: str) -> list[Seen]:
        """Of the thread; where a person has deleted the message that it hangs on, of the channel."""
        try:
            return await self._slack.seen(channel, self._since(), thread)
        except ChannelGone:
            raise
        except Terminal:
            return await self._slack.seen(channel, self._since())

    async def _place(self) -> tuple[str, str]:
        """The channel's id and the main message's ``ts``; both are made where they are not there yet."""
        channel, thread = self._kept("channel"), self._kept("thread")
        if channel and thread:
            return channel, thread
        channel, found = await self._places.find(self._incident, again=self._message.again)
        if found is None:
            text, body = blocks.fit(blocks.headline(self._incident)), blocks.main_blocks(self._incident)
            payload = {"incident": self._incident.metadata.uid}
            channel, found = await self._slack.post(channel, text, body, event=MAIN, payload=payload)
            self._fresh = True
        self._keep("channel", channel)
        self._keep("thread", found)
        return channel, found

    async def _call(self, channel: str, thread: str, notices: Sequence[Notice]) -> None:
        if not (new := self._untold("call", notices)):
            return
        users = blocks.users_of(mention for notice in new for mention in notice.mentions)
        if users and self._settings.channel_per_incident:
            try:
                await self._if_it_can_be(self._slack.invite(channel, users), "invite")
            except Unreachable as error:  # where the app may not invite, the call is seen by who is there
                _log.warning("slack refuses", channel=self._name, what="invite", error=str(error))
        text = "\n".join(blocks.line_text(self._incident, notice) for notice in new)
        await self._post("call", channel, thread, text, blocks.text_blocks(text), new, broadcast=True)

    async def _ask(self, channel: str, thread: str, notices: Sequence[Notice]) -> Sequence[Notice]:
        """Asks for approval where a step still waits for it; those of the notices that this tells of."""
        step, new = awaiting(self._incident), self._untold("approval", notices)
        if step is None or not new:
            return [notice for notice in notices if notice not in new]
        if not self._is_asked(step):
            text = blocks.fit(f"{blocks.headline(self._incident)}: {step.name} waits for approval")
            body = blocks.approval_blocks(self._incident, step)
            operation = step.operation or ""
            ts = await self._post("approval", channel, thread, text, body, new, broadcast=True, operation=operation)
            await self._close_approval(channel)
            self._keep("approval", f"{ts} {operation}")
        return notices

    async def _details(self, channel: str, thread: str, notices: Sequence[Notice]) -> None:
        if new := self._untold("details", notices):
            text = blocks.fit(f"{blocks.headline(self._incident)}: {new[-1].message}")
            seen = any(notice.kind == "Reminder" for notice in new)
            await self._post("details", channel, thread, text, blocks.notices_blocks(new), new, broadcast=seen)

    async def _texts(self, channel: str, thread: str, notices: Sequence[Notice]) -> None:
        """The longer texts, where everybody in the channel sees them."""
        for name, of in _TEXTS.items():
            if new := self._untold(name, [n for n in notices if of(n)]):
                text = await self._messages.text(name, self._incident, markup.plain)
                body = blocks.text_blocks(blocks.escape(text))
                await self._post(name, channel, thread, blocks.fit(text), body, new, broadcast=True)

    async def _keep_current(self, channel: str, thread: str) -> None:
        """The main message, the topic and the last question, as things are now."""
        if not self._fresh:
            text, body = blocks.fit(blocks.headline(self._incident)), blocks.main_blocks(self._incident)
            await self._if_it_can_be(self._slack.update(channel, thread, text, body), "update")
        if self._settings.channel_per_incident:
            topic = blocks.topic(self._incident)
            if self._kept("topic") != blocks.digest(topic):
                await self._if_it_can_be(self._slack.set_topic(channel, topic), "topic")
                self._keep("topic", blocks.digest(topic))
        step = awaiting(self._incident)
        if step is None or not self._is_asked(step):
            await self._close_approval(channel)

    async def _close_approval(self, channel: str) -> None:
        """The last question loses its buttons."""
        ts, _, operation = self._kept("approval").partition(" ")
        if operation:
            text = blocks.closed_approval(self._incident, operation)
            body = [blocks.section(text)]
            await self._if_it_can_be(self._slack.update(channel, ts, blocks.fit(text), body), "approval")
            self._keep("approval", f"{ts} ")

    def _is_asked(self, step: StepStatus) -> bool:
        return self._kept("approval").endswith(f" {step.operation}")

    async def _tell_everybody(self, kinds: Collection[str], where: str = "") -> None:
        """A line in the shared channel; ``where`` is markup that leads to the incident's own."""
        notices = [notice for notice in self._message.notices if notice.kind in kinds and not self._is_answered(notice)]
        if not notices:
            return
        if self._message.again:
            self._recognize(await self._slack.seen(await self._places.shared.id(), self._since()))
        if new := self._untold("line", notices):
            text = "\n".join(f"{blocks.line_text(self._incident, notice)}{where}" for notice in new)
            await self._post("line", self._places.shared.name, None, text, blocks.text_blocks(text), new)

    def _is_answered(self, notice: Notice) -> bool:
        """Whether it is a question that nothing waits for any more."""
        return notice.kind == "ApprovalNeeded" and awaiting(self._incident) is None

    async def _post(
        self,
        part: str,
        channel: str,
        thread: str | None,
        text: str,
        body: list[blocks.Block],
        notices: Sequence[Notice],
        *,
        broadcast: bool = False,
        operation: str = "",
    ) -> str:
        payload = {
            "incident": self._incident.metadata.uid,
            "part": part,
            "keys": " ".join(blocks.digest(notice.key) for notice in notices),
        } | ({"operation": operation} if operation else {})
        post = partial(self._slack.post, channel, text, body, event=_NOTICE, payload=payload)
        if thread:
            try:
                return (await post(thread=thread, broadcast=broadcast))[1]
            except ChannelGone:
                raise
            except Terminal:  # a person has deleted what it would be a reply to
                return (await post())[1]
        return (await post())[1]

    async def _if_it_can_be(self, asked: Awaitable[None], what: str) -> None:
        """What is not worth failing for: a person has deleted the message, a user cannot be invited."""
        try:
            await asked
        except ChannelGone:
            raise
        except Terminal as error:
            _log.warning("slack refuses", channel=self._name, what=what, error=str(error))

    def _recognize(self, seen: Iterable[Seen]) -> None:
        """What an earlier try has told."""
        for message in seen:
            if message.event == _NOTICE and self._is_of_this(message):
                part = str(message.payload.get("part", ""))
                self._known |= {(part, key) for key in str(message.payload.get("keys", "")).split()}
                if part == "approval":
                    self._keep("approval", f"{message.ts} {message.payload.get('operation', '')}")

    def _untold(self, part: str, notices: Sequence[Notice]) -> list[Notice]:
        return [notice for notice in notices if (part, blocks.digest(notice.key)) not in self._known]

    def _is_of_this(self, message: Seen) -> bool:
        return message.payload.get("incident") == self._incident.metadata.uid

    def _since(self) -> datetime:
        return min(notice.at for notice in self._message.notices) - CLOCK_SKEW

    def _kept(self, what: str) -> str:
        key = f"{self._name}/{what}"
        return self.ids.get(key) or self._message.external.get(key, "")

    def _keep(self, what: str, value: str) -> None:
        self.ids[f"{self._name}/{what}"] = value


def _is_detail(notice: Notice) -> bool:
    """Neither a call nor what the main message or one of the longer texts tells."""
    return notice.kind not in ("Call", "Opened", "Resolved") and notice.reason != Reason.UPDATE_DUE


def place_of(incident: Incident, name: str) -> str:
    """The id of the channel in which the incident is told by the channel ``name``; empty before it is."""
    return (incident.status.external or {}).get(f"{name}/channel", "")
