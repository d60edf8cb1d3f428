"""Gathers what a message needs, the figures of the impact among it, and renders it."""

import asyncio
import math
from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Any

from paramedic.api.incident import Incident
from paramedic.api.policy import ImpactFigure, MessageTemplates
from paramedic.clients.prometheus import Prometheus
from paramedic.core import markup, messages, people
from paramedic.core.messages import Circumstances, Escape, TextName
from paramedic.errors import ParamedicError
from paramedic.log import get_logger
from paramedic.settings import Settings
from paramedic.store import Store

_log = get_logger(__name__)
_MOST_FOR_FIGURES_SECONDS = 3.0
_AT_ONCE = 2  # verification asks the same Prometheus, and must not wait for us
_FRESH = timedelta(seconds=10)
_MOST_REMEMBERED = 256


class Messages:
    """The texts of an incident as they are now. ``escape`` is applied to every fact in them, not to the templates.

    None of its methods raises or waits long: a figure that Prometheus does not tell in time is told as unknown.
    """

    def __init__(
        self, settings: Settings, prometheus: Prometheus | None, store: Store, clock: Callable[[], datetime]
    ) -> None:
        self._settings = settings
        self._prometheus = prometheus
        self._store = store
        self._clock = clock
        self._asking = asyncio.Semaphore(_AT_ONCE)
        self._figures: dict[str, tuple[datetime, float | None]] = {}
        pages = (channel.statuspage.public_url for channel in settings.channels if channel.statuspage)
        self._status_page = next((url for url in pages if url), "")

    async def internal_update(self, incident: Incident, escape: Escape = markup.plain) -> str:
        """The runbook's "Internal Status Update"."""
        return await self.text("internal_update", incident, escape)

    async def all_clear(self, incident: Incident, escape: Escape = markup.plain) -> str:
        """The runbook's "All-Clear Message"."""
        return await self.text("all_clear", incident, escape)

    async def shutdown_notice(self, incident: Incident, escape: Escape = markup.plain) -> str:
        """What stakeholders are told of a complete shutdown."""
        return await self.text("shutdown_notice", incident, escape)

    async def customer_message(self, incident: Incident, escape: Escape = markup.plain) -> str:
        """The runbook's "Customer Communication"."""
        return await self.text("customer_message", incident, escape)

    async def customer_title(self, incident: Incident, escape: Escape = markup.plain) -> str:
        """One line for customers."""
        return " ".join((await self.text("customer_title", incident, escape)).split())

    async def customer_all_clear(self, incident: Incident, escape: Escape = markup.plain) -> str:
        """What customers are told when it is over."""
        return await self.text("customer_all_clear", incident, escape)

    @property
    def dashboards(self) -> list[str]:
        """URLs for those who look into it."""
        return self._settings.dashboards

    async def text(self, name: TextName, incident: Incident, escape: Escape = markup.plain) -> str:
        """Any of the texts."""
        return messages.render(name, await self.facts(incident, escape), self._own(incident), self._settings.templates)

    async def facts(self, incident: Incident, escape: Escape = markup.plain) -> dict[str, Any]:
        """The variables of the texts."""
        own = self._own(incident)
        around = Circumstances(
            now=self._clock(),
            impact=await self._impact(own.impact) if own else (),
            update_every=self._settings.people.response(people.severity(incident)).update_every,
            service=(own and own.service) or "service",
            status_page=self._status_page,
            dashboards=self._settings.dashboards,
        )
        return messages.facts(incident, around, escape)

    def _own(self, incident: Incident) -> MessageTemplates | None:
        """As the policy says now: wording may be put right while an incident is under way."""
        pinned = incident.status.policy
        policy = self._store.policy(pinned.key) if pinned else None
        return policy.spec.messages if policy else None

    async def _impact(self, figures: list[ImpactFigure]) -> list[str]:
        values = await asyncio.gather(*(self._value(figure.query) for figure in figures))
        return [messages.impact_line(figure, value) for figure, value in zip(figures, values, strict=True)]

    async def _value(self, query: str) -> float | None:
        """The greatest value of a query; None when that is not known in time. Remembered for a moment, as several
        channels tell the same.
        """
        known = self._figures.get(query)
        if known and self._clock() - known[0] < _FRESH:
            return known[1]
        value = await self._ask(query)
        if len(self._figures) >= _MOST_REMEMBERED:
            self._figures.clear()
        self._figures[query] = (self._clock(), value)
        return value

    async def _ask(self, query: str) -> float | None:
        if self._prometheus is None:
            return None
        try:
            async with asyncio.timeout(_MOST_FOR_FIGURES_SECONDS), self._asking:
                values = await self._prometheus.query(query)
                return max((value for value in values if math.isfinite(value)), default=None)
        except (TimeoutError, ParamedicError) as error:
            _log.warning("a figure of the impact is not known", query=query, error=str(error))
            return None
