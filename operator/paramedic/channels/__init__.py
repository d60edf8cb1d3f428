"""How people are told: one small file for each kind of channel, and the table of them."""

from collections.abc import Callable

from paramedic.api.people import ChannelSettings
from paramedic.channels.base import Channel

Make = Callable[[ChannelSettings], Channel]
CHANNELS: dict[str, Make] = {}


def make_channels(settings: list[ChannelSettings]) -> dict[str, Channel]:
    """The channels of the settings by name. Raises Terminal when one lacks a file or a library that it needs."""
    return {one.name: CHANNELS[one.kind](one) for one in settings}
