"""What people do in Slack: the buttons of an incident's messages, and ``/incident``.

Slack wants to hear within three seconds that it was understood, so the work is done behind that and answered by the
``response_url``. Nothing is answered as done that is not stored.
"""

import asyncio
from contextlib import suppress
from hashlib import sha256
from re import sub

from paramedic.api import API_VERSION, GROUP
from paramedic.api.incident import Incident
from paramedic.api.people import ChannelSettings, SlackUser
from paramedic.api.policy import Severity
from paramedic.api.reasons import Reason
from paramedic.channels.slack import place_of
from paramedic.clients.kube import Json, Kube
from paramedic.clients.slack import Slack
from paramedic.core import people
from paramedic.core.rights import Access, Right, to_create_incident
from paramedic.core.slack_blocks import fit, text_blocks
from paramedic.core.slack_buttons import Press, read_press
from paramedic.core.slack_payload import Command, Interaction, Said, may_respond_to, read_create
from paramedic.core.templates import one_line
from paramedic.errors import AlreadyExists, NotFound, ParamedicError, Refused, Retry
from paramedic.gate import Urgency
from paramedic.log import get_logger
from paramedic.record import incident_path
from paramedic.store import Store
from paramedic.voices import Speaker, Voices

_log = get_logger(__name__)
_AT_ONCE = 64
_MOST_LISTED = 20
_CHANNEL_TRIES, _CHANNEL_EVERY_SECONDS = 20, 0.5
_HELP = (
    "/incident create [P0…P3] TITLE: opens an incident\n"
    "/incident list: what is open\n"
    "/incident ack NAME: you work on it (NAMESPACE/NAME for one of another namespace)"
)


class SlackDeeds:
    """One workspace: what its people do."""

    def __init__(self, settings: ChannelSettings, voices: Voices, store: Store, kube: Kube) -> None:
        """Raises Terminal when the library is not installed."""
        assert settings.slack is not None
        self.name = settings.name
        self._settings = settings.slack
        self._voices = voices
        self._store = store
        self._kube = kube
        self._users = {user.slack: user for user in settings.slack.users}
        self._slack = Slack(settings.name, settings.slack.token_file, settings.slack.api_url, settings.timeout)
        self._tasks: set[asyncio.Task[None]] = set()

    def take(self, said: Said) -> None:
        """Begins to do what was said, and answers whoever said it. Raises Retry when too much is under way."""
        if len(self._tasks) >= _AT_ONCE:
            raise Retry(f"channel {self.name}: {_AT_ONCE} things are under way already")
        task = asyncio.create_task(self._do_and_answer(said), name=f"slack {self.name}")
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def is_addressed(self, said: Said) -> bool:
        """Whether it was said where this channel tells: several channels may be of one Slack app."""
        if isinstance(said, Command):
            return self._settings.incident_namespace is not None
        press = read_press(said.actions[0].action_id, said.actions[0].value)
        return press is not None and self._find_shown(said.channel.id, press) is not None

    async def close(self) -> None:
        """Ends what is under way, and the connections."""
        for task in self._tasks:
            task.cancel()
        await self._slack.close()

    async def _do_and_answer(self, said: Said) -> None:
        try:
            answer = await self._do(said)
        except Retry as error:
            answer = fit(f"That could not be stored; please try again. {error}")
        except ParamedicError as error:
            answer = fit(f"No: {error}")
        except Exception:  # noqa: BLE001 - one bad request must not go unanswered, and somebody must see it
            _log.exception("a request from Slack failed", channel=self.name)
            answer = "That failed by a mistake of Paramedic's own; its log says more."
        await self._answer(said.response_url, answer)

    async def _answer(self, url: str, markup: str) -> None:
        if not may_respond_to(url, self._settings.api_url):
            _log.warning("an answer has nowhere to go", channel=self.name)
            return
        try:
            await self._slack.respond(url, markup, text_blocks(markup))
        except ParamedicError as error:
            _log.warning("an answer was not delivered", channel=self.name, error=str(error))

    async def _do(self, said: Said) -> str:
        """Returns the answer, as Slack's markup. Raises ParamedicError that says why not."""
        speaker = self._speaker(said)
        await self._voices.check(speaker, "do that", [])  # known in Kubernetes at all
        await self._check_place(said)
        if isinstance(said, Interaction):
            return fit(await self._press(said, speaker))
        return await self._command(said, speaker)

    def _speaker(self, said: Said) -> Speaker:
        identifier, name = said.who
        user: SlackUser | None = self._users.get(identifier)
        told = f"{name} (Slack {identifier})" if name else f"Slack {identifier}"
        return Speaker(told, "slack", user.kubernetes if user else None, tuple(user.groups) if user else ())

    async def _check_place(self, said: Said) -> None:
        """Ids of people are unique in a workspace only, and a signing secret serves all that have installed the app."""
        home = await self._slack.identity()
        if not said.places & {home.team, home.enterprise}:
            _log.warning("refused: said in another workspace", channel=self.name)
            raise Refused(Reason.FORBIDDEN, "you are not of the workspace that Paramedic serves")

    # -- buttons -------------------------------------------------------------------------------------------------------

    async def _press(self, said: Interaction, speaker: Speaker) -> str:
        press = read_press(said.actions[0].action_id, said.actions[0].value)
        if press is None:
            raise NotFound("this button is not known (any more)")
        incident = self._shown_in(said.channel.id, press)
        key, shown = incident.key, press.shown
        if press.action == "acknowledge":
            await self._voices.acknowledge(key, speaker)
            return f"{key} is acknowledged by {speaker.user}."
        if press.action == "approve":
            await self._voices.approve(key, shown.step, shown.operation, speaker)
            return f"Step {shown.step} of {key} is approved by {speaker.user}."
        paused = press.action != "resume"
        await self._voices.pause(key, speaker, paused=paused)
        if press.action == "reject":
            return f"Step {shown.step} is rejected by {speaker.user}: {key} is paused, nothing further is done."
        return f"{key} is paused by {speaker.user}." if paused else f"{key} goes on, says {speaker.user}."

    def _shown_in(self, channel: str, press: Press) -> Incident:
        """The very incident that the button was shown for, in the channel where it is told."""
        found = self._find_shown(channel, press)
        if found is None:
            raise NotFound("the incident of this button is over, gone, or told elsewhere")
        return found

    def _find_shown(self, channel: str, press: Press) -> Incident | None:
        found = self._store.open_incident(press.shown.incident)
        if found is None or found[0].metadata.uid != press.shown.uid or place_of(found[0], self.name) != channel:
            return None
        return found[0]

    # -- /incident -----------------------------------------------------------------------------------------------------

    async def _command(self, said: Command, speaker: Speaker) -> str:
        verb, _, rest = said.text.strip().partition(" ")
        commands = {"create": self._create, "list": self._list, "ack": self._acknowledge}
        if verb not in commands:
            return _HELP
        if self._settings.incident_namespace is None:
            text = "there is no namespace for incidents from Slack: set channels[].slack.incidentNamespace"
            raise Refused(Reason.INVALID_PARAMETERS, text)
        return await commands[verb](self._settings.incident_namespace, one_line(rest), said, speaker)

    async def _create(self, namespace: str, rest: str, said: Command, speaker: Speaker) -> str:
        severity, title = read_create(rest)
        if not title:
            return _HELP
        await self._voices.check(speaker, "create an incident", to_create_incident(namespace))
        manifest = _manifest(namespace, title[:1024], severity, said, speaker)
        with suppress(AlreadyExists):  # Slack has sent it twice
            await self._kube.create(incident_path(namespace), manifest, Urgency.ACT)
        name = manifest["metadata"]["name"]
        channel = await self._channel_of(f"{namespace}/{name}")
        return fit(f"{namespace}/{name} is open, and you lead it.") + (f" <#{channel}>" if channel else "")

    async def _channel_of(self, key: str) -> str:
        """Once there is one; empty when there is none for a while."""
        for _ in range(_CHANNEL_TRIES):
            found = self._store.open_incident(key)
            if found and (channel := place_of(found[0], self.name)):
                return channel
            await asyncio.sleep(_CHANNEL_EVERY_SECONDS)
        return ""

    async def _list(self, namespace: str, _: str, __: Command, speaker: Speaker) -> str:
        wanted = Right(((Access("list", GROUP, "incidents", namespace),),))
        await self._voices.check(speaker, "list incidents", [wanted])
        keys = [entry.key for entry in self._store.open_entries() if entry.key.startswith(f"{namespace}/")]
        found = [self._store.open_incident(key) for key in sorted(keys)[:_MOST_LISTED]]
        lines = [_line(one[0]) for one in found if one]
        more = [f"… and {len(keys) - _MOST_LISTED} more"] if len(keys) > _MOST_LISTED else []
        return fit("\n".join([*lines, *more]) or f"Nothing is open in {namespace}.")

    async def _acknowledge(self, namespace: str, rest: str, _: Command, speaker: Speaker) -> str:
        key = rest if "/" in rest else f"{namespace}/{rest}"
        await self._voices.acknowledge(key, speaker)
        return fit(f"{key} is acknowledged by {speaker.user}.")


def _line(incident: Incident) -> str:
    status = incident.status
    return (
        f"{people.severity(incident)} {incident.metadata.name}: {status.phase}, {one_line(incident.spec.title)[:120]} "
        f"(IC {people.commander(incident)})"
    )


def _manifest(namespace: str, title: str, severity: Severity, said: Command, speaker: Speaker) -> Json:
    """The name comes from the title and from Slack's id of the request, so that a repetition makes no second one."""
    slug = sub(r"[^a-z0-9]+", "-", title.lower()).strip("-")[:30].strip("-") or "reported"
    name = f"{slug}-{sha256(said.trigger_id.encode()).hexdigest()[:10]}"
    return {
        "apiVersion": API_VERSION,
        "kind": "Incident",
        "metadata": {
            "name": name,
            "namespace": namespace,
            "annotations": {"paramedic.dev/reported-by": str(speaker.user), "paramedic.dev/reported-via": speaker.name},
        },
        "spec": {"title": title, "type": "Reported", "severity": severity, "commander": speaker.user},
    }
