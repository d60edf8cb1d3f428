"""Brings notices to their channels: one queue for each, apart from the work on incidents, which it never holds up.

What waits is on the Incidents' statuses, so a restart loses nothing. What this process has not tried itself may have
been told by the last one: the channel is then asked to look before it tells (``Message.again``).
"""

import asyncio
from collections.abc import Callable, Iterable, Mapping
from datetime import timedelta
from typing import Protocol

from paramedic import notifier
from paramedic.api.people import ChannelSettings
from paramedic.channels.base import Channel, Message, PartlyTold, Told
from paramedic.core import notices
from paramedic.errors import NotFound, ParamedicError, Retry
from paramedic.gate import until_quiet
from paramedic.log import get_logger
from paramedic.metrics import Metrics
from paramedic.record import Draft
from paramedic.store import Store
from paramedic.workqueue import WorkQueue

_log = get_logger(__name__)
_FIRST_RETRY, _LAST_RETRY = timedelta(seconds=1), timedelta(minutes=5)
_QUIET_SECONDS, _PATIENCE = 0.05, 10
_STORED_WITHIN_SECONDS = 5.0
"""One incident whose status cannot be written must not hold up what others have to tell."""


class Amend(Protocol):
    """Puts something on an incident's status; returns once it is stored. Raises Retry, NotFound."""

    async def __call__(self, key: str, change: Callable[[Draft], None]) -> None:
        """``change`` is called with the draft, once for each try."""


class Delivery:
    """All channels' queues. Only the leader delivers."""

    def __init__(
        self,
        channels: Mapping[str, Channel],
        settings: Iterable[ChannelSettings],
        store: Store,
        amend: Amend,
        metrics: Metrics,
        leads: Callable[[], bool],
        quiet_seconds: Callable[[], float],
    ) -> None:
        """``quiet_seconds`` tells for how long no target has been on its way to a change."""
        by_name = {one.name: one for one in settings}
        self._queues = {
            name: ChannelQueue(channel, by_name[name].per_minute, store, amend, metrics, leads, quiet_seconds)
            for name, channel in channels.items()
        }
        self._store = store

    def wake(self, key: str, names: Iterable[str]) -> None:
        """An incident has something to tell by these channels."""
        for name in names:
            if name in self._queues:
                self._queues[name].fresh(key)

    def wake_all(self) -> None:
        """A new leader takes over what is still to be told."""
        for entry in self._store.entries.values():
            for name in entry.waiting_channels:
                if name in self._queues:
                    self._queues[name].inherited(entry.key)

    def stop(self) -> None:
        """The lead is lost: forgets what waits, and that it was this process' own."""
        for queue in self._queues.values():
            queue.stop()

    async def run(self) -> None:
        """Delivers until cancelled."""
        async with asyncio.TaskGroup() as group:
            for name, queue in self._queues.items():
                group.create_task(queue.queue.run(), name=f"channel {name}")

    async def close(self) -> None:
        """Closes the channels."""
        for queue in self._queues.values():
            await queue.channel.close()


class ChannelQueue:
    """One channel: one incident at a time, no faster than its rate, and not at all while it asks for patience. What
    somebody is waited for goes first.
    """

    def __init__(
        self,
        channel: Channel,
        per_minute: int,
        store: Store,
        amend: Amend,
        metrics: Metrics,
        leads: Callable[[], bool],
        quiet_seconds: Callable[[], float],
    ) -> None:
        self.channel = channel
        self.queue = WorkQueue(self._work, 1, self._is_urgent)
        self._spacing = 60.0 / per_minute
        self._store = store
        self._amend = amend
        self._metrics = metrics
        self._leads = leads
        self._quiet_seconds = quiet_seconds
        self._not_before = 0.0
        self._failures: dict[str, int] = {}
        self._own: dict[str, bool] = {}
        self._unstored: dict[str, tuple[Callable[[Draft], None], int]] = {}
        """What came of tellings and is not on the status yet, with the tries so far; it comes before more is told."""

    def fresh(self, key: str) -> None:
        """A notice of this process: unless others waited before it, nobody can have told it yet."""
        self._own.setdefault(key, True)
        self.queue.add(key)

    def inherited(self, key: str) -> None:
        """Notices that the last leader may have told."""
        self._own[key] = False
        self.queue.add(key)

    def _is_urgent(self, key: str) -> bool:
        entry = self._store.entries.get(key)
        return entry is not None and self.channel.name in entry.urgent_channels

    def stop(self) -> None:
        """Forgets everything."""
        self.queue.clear()
        self._own.clear()
        self._failures.clear()
        self._unstored.clear()

    async def _work(self, key: str) -> None:
        """The queue's handler: never raises."""
        if not self._leads():
            return
        try:
            await self._pace()
            # Telling takes time of the same processor, and what comes of it is written to the same API server.
            await until_quiet(self._quiet_seconds, _QUIET_SECONDS, looks=_PATIENCE, pause=_QUIET_SECONDS)
            if self._leads():  # a channel may have asked for an hour's patience
                await self._deliver(key)
        except Exception:  # noqa: BLE001 - one bad incident must not end the delivery of the others
            _log.exception("a notice failed", channel=self.channel.name, incident=key)
            self._own[key] = False  # it may have been told
            self.queue.add_after(key, _LAST_RETRY)

    async def _pace(self) -> None:
        """Waits for the channel's next turn."""
        loop = asyncio.get_running_loop()
        wait = self._not_before - loop.time()
        if wait > 0:
            await asyncio.sleep(wait)
        self._not_before = max(self._not_before, loop.time()) + self._spacing

    async def _deliver(self, key: str) -> None:
        if (unstored := self._unstored.get(key)) and not await self._store_result(key, unstored[0]):
            return
        found = self._store.open_incident(key)
        waiting = notices.pending(found[0], self.channel.name) if found else []
        if not found or not waiting:
            self._settled(key)
            return
        keys = [notice.key for notice in waiting]
        message = Message(found[0], waiting, again=not self._own.get(key, False))
        try:
            told = await self.channel.tell(message)
        except PartlyTold as partly:
            await self._partly_told(key, keys, partly)
        except ParamedicError as error:
            await self._failed(key, keys, error)
        else:
            await self._done(key, keys, told)

    async def _partly_told(self, key: str, keys: list[str], partly: PartlyTold) -> None:
        if partly.keys:
            self._metrics.notices.labels(self.channel.name, "Delivered").inc(len(partly.keys))
            change = notifier.delivered(self.channel.name, partly.keys, partly.told)
        else:
            change = notifier.kept(partly.told)
        if await self._store_result(key, change):
            failed = partly.failed or [one for one in keys if one not in partly.keys]
            await self._failed(key, list(failed), partly.problem)

    async def _failed(self, key: str, keys: list[str], error: ParamedicError) -> None:
        if isinstance(error, Retry):
            await self._later(key, error)
        else:
            await self._never(key, keys, error)

    async def _done(self, key: str, keys: list[str], told: Told) -> None:
        self._metrics.notices.labels(self.channel.name, "Delivered").inc(len(keys))
        self._metrics.channel_up.labels(self.channel.name).set(1)
        if await self._store_result(key, notifier.delivered(self.channel.name, keys, told)):
            self._settled(key)

    async def _never(self, key: str, keys: list[str], error: ParamedicError) -> None:
        _log.error("notices cannot be delivered", channel=self.channel.name, incident=key, error=str(error))
        self._metrics.notices.labels(self.channel.name, "Undelivered").inc(len(keys))
        if await self._store_result(key, notifier.undelivered(self.channel.name, keys, str(error))):
            self._settled(key)

    async def _later(self, key: str, error: Retry) -> None:
        self._failures[key] = self._failures.get(key, 0) + 1
        delay = max(_pause(self._failures[key]), error.after or timedelta(0))
        if error.after:
            self._not_before = asyncio.get_running_loop().time() + delay.total_seconds()
        if error.uncertain:
            self._own[key] = False
        _log.warning("a channel does not answer", channel=self.channel.name, incident=key, error=str(error))
        self._metrics.notices.labels(self.channel.name, "Retried").inc()
        self._metrics.channel_up.labels(self.channel.name).set(0)
        self.queue.add_after(key, delay)
        if self._failures[key] == 1:
            await self._store_result(key, notifier.down(self.channel.name, str(error)))

    async def _store_result(self, key: str, change: Callable[[Draft], None]) -> bool:
        """Stores what came of it; false when that must be tried again, before anything more is told."""
        try:
            async with asyncio.timeout(_STORED_WITHIN_SECONDS):
                await self._amend(key, change)
        except NotFound:
            self._unstored.pop(key, None)
            return True
        except (Retry, TimeoutError):
            tries = 1 + self._unstored.get(key, (change, 0))[1]
            self._unstored[key] = change, tries
            self.queue.add_after(key, _pause(tries))
            return False
        self._unstored.pop(key, None)
        return True

    def _settled(self, key: str) -> None:
        self._failures.pop(key, None)
        self._own.pop(key, None)


def _pause(tries: int) -> timedelta:
    factor: int = 2 ** min(tries - 1, 20)
    return min(_FIRST_RETRY * factor, _LAST_RETRY)
