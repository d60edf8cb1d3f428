"""How people are told: one small file for each kind of channel, and the table of them."""

from collections.abc import Callable

from paramedic.api.people import ChannelSettings
from paramedic.channels.base import Channel
from paramedic.channels.pagerduty import make_pagerduty
from paramedic.channels.slack import SlackTeller
from paramedic.channels.statuspage import StatuspageIncidents
from paramedic.channels.webhook import Webhook
from paramedic.messages import Messages

Make = Callable[[ChannelSettings, Messages], Channel]
CHANNELS: dict[str, Make] = {
    "statuspage": StatuspageIncidents,
    "webhook": Webhook,
    "pagerduty": make_pagerduty,
    "slack": SlackTeller,
}


def make_channels(settings: list[ChannelSettings], messages: Messages) -> dict[str, Channel]:
    """The channels of the settings by name; ``messages`` are the texts that they tell. Raises Terminal when one lacks
    a library that it needs.
    """
    return {one.name: CHANNELS[one.kind](one, messages) for one in settings}
