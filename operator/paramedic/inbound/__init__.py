"""What other systems say to Paramedic besides alerts: one small file for each, and the table of their paths."""

from collections.abc import Awaitable, Callable

from aiohttp import web

from paramedic.inbound.pagerduty import PagerDutyWebhook
from paramedic.metrics import Metrics
from paramedic.settings import Settings
from paramedic.store import Store
from paramedic.voices import Voices

Handler = Callable[[web.Request], Awaitable[web.Response]]


def inbound_edges(settings: Settings, voices: Voices, store: Store, metrics: Metrics) -> dict[str, Handler]:
    """The paths that the settings' channels are called back on, with what answers there."""
    edges: dict[str, Handler] = {}
    if any(one.pagerduty and one.pagerduty.webhook_secret_file for one in settings.channels):
        edges["/webhook/pagerduty"] = PagerDutyWebhook(settings.channels, voices, store, metrics).handle
    return edges
