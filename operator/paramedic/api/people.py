"""What the settings say about people: how fast each severity is answered, who is called, and by which channels."""

import re
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Annotated, Self

from pydantic import Field, field_validator, model_validator
from pydantic.alias_generators import to_camel

from paramedic.api.base import Duration, Model, NamespaceName, ObjectName, Url
from paramedic.api.incident import NoticeKind
from paramedic.api.policy import Severity, Window

SLACK_USER = re.compile(r"[UW][A-Z0-9]{2,20}", re.ASCII)
SLACK_GROUP = re.compile(r"S[A-Z0-9]{2,20}", re.ASCII)
_Text = Annotated[str, Field(max_length=16384)]


class Response(Model):
    """How one severity is answered (runbook, "Severity Classification" and "When to Escalate")."""

    severity: Severity
    respond_within: Duration = Field(description="Response time that was promised; shown, and measured against.")
    acknowledge_within: Duration | None = Field(None, description="Escalates when nobody has taken it on by then.")
    resolve_within: Duration | None = Field(None, description="Escalates when it is not over by then.")
    blocked_within: Duration | None = Field(
        timedelta(minutes=10), description="Escalates when a guard has held the remedy back for so long."
    )
    approve_within: Duration | None = Field(
        timedelta(minutes=10), description="Escalates when a step has waited for approval for so long."
    )
    update_every: Duration | None = Field(None, description="Between internal status updates while it is open.")
    call_during: list[Window] = Field(
        default_factory=list, max_length=32, description="People are called only inside these windows; none: always."
    )


def _minutes(count: int) -> timedelta:
    return timedelta(minutes=count)


RUNBOOK_RESPONSES = (
    Response(
        severity="P0",
        respond_within=timedelta(0),
        acknowledge_within=_minutes(5),
        resolve_within=_minutes(60),
        update_every=_minutes(30),
    ),
    Response(
        severity="P1",
        respond_within=_minutes(15),
        acknowledge_within=_minutes(15),
        resolve_within=_minutes(60),
        update_every=_minutes(30),
    ),
    Response(severity="P2", respond_within=_minutes(60), blocked_within=_minutes(60), approve_within=_minutes(60)),
    Response(severity="P3", respond_within=_minutes(240), blocked_within=_minutes(240), approve_within=None),
)


class Contact(Model):
    """One way to reach somebody."""

    channel: ObjectName = Field(description="Name of one of the settings' channels.")
    mention: str | None = Field(
        None, max_length=64, description="Whom to mention there: a Slack user (U…) or user group (S…)."
    )


class Level(Model):
    """One level of a team's escalation: who is called, and after how long the next one is."""

    name: str = Field(max_length=128, description='For example "On-call engineer".')
    contacts: list[Contact] = Field(min_length=1, max_length=16, description="At least one: else it reaches nobody.")
    next_after: Duration = Field(
        timedelta(minutes=15), description="Then the next level is called, unless somebody has acknowledged."
    )


class Team(Model):
    """One line of the escalation matrix."""

    name: ObjectName
    levels: list[Level] = Field(min_length=1, max_length=8)


class SeveralServices(Model):
    """When incidents on several targets are one outage."""

    targets: int = Field(3, ge=2, le=100, description="So many different targets of one namespace …")
    window: Duration = Field(
        timedelta(minutes=5),
        description="… within this time are one incident with parts; so is what comes within it after the last part.",
    )


class PeopleSettings(Model):
    """The escalation matrix and its clocks."""

    responses: list[Response] = Field(
        default_factory=list, max_length=4, description="Instead of the runbook's, for the severities that are named."
    )
    teams: list[Team] = Field(default_factory=list, max_length=64)
    default_team: ObjectName | None = Field(None, description="For policies that name none.")
    security_team: ObjectName | None = Field(None, description="For every SecurityBreach, at once.")
    several_services: SeveralServices | None = Field(
        default_factory=SeveralServices, description="null: incidents are never joined."
    )

    @field_validator("responses")
    @classmethod
    def _once_each(cls, value: list[Response]) -> list[Response]:
        _unique("responses", [one.severity for one in value])
        return value

    @model_validator(mode="after")
    def _known_teams(self) -> Self:
        names = [team.name for team in self.teams]
        _unique("teams", names)
        for field in ("default_team", "security_team"):
            name = getattr(self, field)
            if name is not None and name not in names:
                known = ", ".join(names) or "none is named"
                raise ValueError(f"{to_camel(field)} is {name}, and there is no such team: {known}")
        return self

    def response(self, severity: Severity) -> Response:
        """How a severity is answered: as the settings say, else as the runbook does."""
        own = {one.severity: one for one in self.responses}
        return own.get(severity) or next(one for one in RUNBOOK_RESPONSES if one.severity == severity)

    def team(self, name: str | None) -> Team | None:
        """A team by name."""
        return next((team for team in self.teams if team.name == name), None)


class SlackUser(Model):
    """Who a person in Slack is in Kubernetes."""

    slack: str = Field(pattern=r"^[UW][A-Z0-9]{2,20}$", description="Slack's member id, for example U012AB3CD.")
    kubernetes: str = Field(min_length=1, max_length=253, description="User name in Kubernetes.")
    groups: list[str] = Field(default_factory=list, max_length=64, description="The person's groups in Kubernetes.")


class SlackChannel(Model):
    """A Slack workspace."""

    token_file: Path = Field(description="Holds the bot token (xoxb-…).")
    app_token_file: Path | None = Field(None, description="Holds the app token (xapp-…): buttons by Socket Mode.")
    signing_secret_file: Path | None = Field(
        None, description="Holds the signing secret: buttons and /incident by POST /webhook/slack."
    )
    channel: str | None = Field(
        None, max_length=80, description="For incidents without a channel of their own, for example incident-response."
    )
    channel_per_incident: bool = Field(True, description="Make #incident-<name> for each incident.")
    users: list[SlackUser] = Field(default_factory=list, max_length=10_000)
    incident_namespace: str | None = Field(
        None, max_length=63, description="Where /incident create puts its Incidents; none: it is refused."
    )
    api_url: Url = "https://slack.com/api/"

    @model_validator(mode="after")
    def _a_place(self) -> Self:
        if not self.channel_per_incident and not self.channel:
            raise ValueError("set channel, or leave channelPerIncident true: else there is no place to tell people")
        return self


class PagerDutyUser(Model):
    """Who a person in PagerDuty is in Kubernetes."""

    pagerduty: str = Field(pattern=r"^P[A-Z0-9]{2,20}$", description="PagerDuty's user id.")
    kubernetes: str = Field(min_length=1, max_length=253, description="User name in Kubernetes.")
    groups: list[str] = Field(default_factory=list, max_length=64, description="The person's groups in Kubernetes.")


class PagerDutyChannel(Model):
    """A service of PagerDuty (Events API v2)."""

    routing_key_file: Path = Field(description="Holds the integration's routing key.")
    webhook_secret_file: Path | None = Field(
        None, description="Holds the secret of the webhook subscription (v3) to POST /webhook/pagerduty."
    )
    api_token_file: Path | None = Field(None, description="Holds a REST API token, for notes on the incident.")
    from_email: str | None = Field(None, max_length=254, description="PagerDuty user on whose behalf notes are made.")
    users: list[PagerDutyUser] = Field(default_factory=list, max_length=10_000)
    events_url: Url = "https://events.pagerduty.com"
    api_url: Url = "https://api.pagerduty.com"


class StatuspageComponent(Model):
    """Which component of the page a target is."""

    id: str = Field(max_length=64, description="Statuspage's component id.")
    namespace: str | None = Field(None, max_length=63, description="Of the incidents that concern it; none: all.")
    target: str | None = Field(None, max_length=253, description="Name of the target; none: every one.")


class StatuspageChannel(Model):
    """A public status page (Atlassian Statuspage)."""

    page_id: str = Field(pattern=r"^[a-z0-9]{4,32}$")
    api_key_file: Path = Field(description="Holds the API key.")
    components: list[StatuspageComponent] = Field(default_factory=list, max_length=256)
    public_url: Url | None = Field(None, description="Of the page, for messages to customers.")
    api_url: Url = "https://api.statuspage.io/v1"


class Header(Model):
    """One header of a webhook's requests."""

    name: str = Field(pattern=r"^[A-Za-z0-9-]{1,64}$")
    value: str | None = Field(None, max_length=1024, pattern=r"^[^\r\n]*$")
    value_file: Path | None = Field(None, description="Holds the value, where it is a secret.")

    @model_validator(mode="after")
    def _one_value(self) -> Self:
        if (self.value is None) == (self.value_file is None):
            raise ValueError(f"header {self.name}: set one of value and valueFile")
        return self


class WebhookChannel(Model):
    """Any system that takes JSON over HTTP: Opsgenie, Teams, Mattermost and the rest."""

    url: Url | None = Field(None, description="{id} in it is replaced by the Incident's UID.")
    url_file: Path | None = Field(None, description="Holds the URL, where it is a secret (Teams, Mattermost).")
    headers: list[Header] = Field(default_factory=list, max_length=32)
    kinds: list[NoticeKind] = Field(
        default_factory=list, max_length=16, description="Only notices of these kinds are told; none: all."
    )
    body: _Text | None = Field(
        None, description="Jinja that gives JSON; `tojson` quotes what it is given. None: all that Paramedic knows."
    )

    @model_validator(mode="after")
    def _one_url(self) -> Self:
        if (self.url is None) == (self.url_file is None):
            raise ValueError("set one of url and urlFile")
        return self


KINDS = ("slack", "pagerduty", "statuspage", "webhook")


class ChannelSettings(Model):
    """One entry of the settings' ``channels``: a way to tell people."""

    name: ObjectName = Field(description="How policies (spec.notify) and contacts name it.")
    slack: SlackChannel | None = None
    pagerduty: PagerDutyChannel | None = None
    statuspage: StatuspageChannel | None = None
    webhook: WebhookChannel | None = None
    namespaces: list[NamespaceName] = Field(
        default_factory=list,
        max_length=256,
        description="Only policies of these, and of Paramedic's own, may name it in spec.notify; none: all may.",
    )
    per_minute: int = Field(60, ge=1, le=6000, description="Most requests that are begun in a minute.")
    timeout: Duration = Field(timedelta(seconds=10), description="For one request.")

    @model_validator(mode="after")
    def _one_kind(self) -> Self:
        given = [kind for kind in KINDS if getattr(self, kind) is not None]
        if len(given) != 1:
            raise ValueError(f"channel {self.name}: exactly one of {', '.join(KINDS)} is needed, got {given or 'none'}")
        return self

    @property
    def kind(self) -> str:
        """Which of ``KINDS`` it is."""
        return next(kind for kind in KINDS if getattr(self, kind) is not None)


class Templates(Model):
    """Jinja instead of the runbook's texts; what is null stays as the runbook has it."""

    internal_update: _Text | None = None
    customer_message: _Text | None = None
    customer_title: _Text | None = None
    all_clear: _Text | None = None
    customer_all_clear: _Text | None = None
    shutdown_notice: _Text | None = None


def wrong_channels(channels: list[ChannelSettings], notify: list[str]) -> Iterator[str]:
    """One line for each channel that is there twice, and for each of ``notify`` that is not there."""
    names = [channel.name for channel in channels]
    yield from (f"channels: {name} is there twice" for name in sorted(set(names)) if names.count(name) > 1)
    yield from (_no_such_channel("notify", name, channels) for name in notify if name not in names)


def wrong_contacts(people: PeopleSettings, channels: list[ChannelSettings]) -> Iterator[str]:
    """One line for each contact whose channel is not there, or by whose channel nobody would be reached."""
    by_name = {channel.name: channel for channel in channels}
    for team in people.teams:
        for number, level in enumerate(team.levels, 1):
            where = f"people.teams: {team.name}, level {number} ({level.name})"
            for contact in level.contacts:
                channel = by_name.get(contact.channel)
                if channel is None:
                    yield _no_such_channel(where, contact.channel, channels)
                elif problem := _reaches_nobody(contact, channel):
                    yield f"{where}: {problem}"


def _no_such_channel(where: str, name: str, channels: list[ChannelSettings]) -> str:
    known = ", ".join(channel.name for channel in channels) or "none is named"
    return f"{where} names the channel {name}, and there is no such channel: {known}"


def _reaches_nobody(contact: Contact, channel: ChannelSettings) -> str | None:
    """Why a call by this channel would not reach who is meant."""
    mention = contact.mention or ""
    if channel.statuspage:
        return f"{channel.name} is a public status page, which calls nobody: name another channel"
    if channel.webhook and channel.webhook.kinds and "Call" not in channel.webhook.kinds:
        return f"{channel.name} is not told of calls: add Call to its kinds"
    if channel.slack and mention and not (SLACK_USER.fullmatch(mention) or SLACK_GROUP.fullmatch(mention)):
        return (
            f"{mention} is no id of Slack's, so nobody would be mentioned: write the member id (U… or W…, in Slack: "
            "Profile, ⋮, Copy member ID) or a user group's (S…, in its address in Slack)"
        )
    return None


def _unique(what: str, names: list[str]) -> None:
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise ValueError(f"{what}: {', '.join(twice)} is there twice")
