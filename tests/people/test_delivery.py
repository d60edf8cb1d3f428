"""A channel that fails in a way that nobody has thought of: what it was told is told again only after a look."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from paramedic.api.people import ChannelSettings
from paramedic.channels.base import Message, Told
from paramedic.delivery import Delivery
from paramedic.metrics import Metrics
from paramedic.record import Draft
from paramedic.store import Store
from people.tellers import incident, notice
from testbed.api import eventually

Json = dict[str, Any]
HOOK = ChannelSettings.model_validate(
    {"name": "hook", "perMinute": 6000, "webhook": {"url": "http://127.0.0.1:1/incidents"}}
)


class Vendor:
    """A channel whose vendor takes each notice; its library then fails as often as it is told to."""

    name = "hook"

    def __init__(self, failures: int) -> None:
        self.told: list[str] = []
        self.looked: list[bool] = []
        self._failures = failures

    async def tell(self, message: Message) -> Told:
        """Where it is asked to look first it tells only what the vendor has not got yet."""
        self.looked.append(message.again)
        known = self.told if message.again else []
        self.told += [one.key for one in message.notices if one.key not in known]
        if self._failures:
            self._failures -= 1
            raise RuntimeError("an answer that the vendor's library cannot read")
        return {}

    async def close(self) -> None:
        """Holds nothing open."""


class Book:
    """The incidents, as they are stored."""

    def __init__(self) -> None:
        self.store = Store()
        self.key = ""
        self._version = 0

    def put(self, *reasons: str) -> None:
        """The incident with these notices, none of which has been told."""
        waiting = [one.model_copy(update={"pending": ["hook"]}) for one in (notice(reason=r) for r in reasons)]
        self._put(incident(notices=[one.to_wire() for one in waiting]).model_dump(mode="json", by_alias=True))

    async def amend(self, key: str, change: Callable[[Draft], None]) -> None:
        found = self.store.open_incident(key)
        assert found is not None
        draft = Draft(*found, datetime.now(UTC))
        change(draft)
        self._put(draft.incident.model_dump(mode="json", by_alias=True))

    def untold(self) -> list[str]:
        found = self.store.open_incident(self.key)
        assert found is not None
        return [one.key for one in found[0].status.notices if one.pending]

    def _put(self, raw: Json) -> None:
        self._version += 1
        raw["metadata"]["resourceVersion"] = str(self._version)
        self.store.put_incident(raw)
        self.key = next(iter(self.store.entries))


@pytest.mark.parametrize("failures", [1, 2])
async def test_after_a_failure_that_nobody_expects_the_channel_looks_before_it_tells(
    failures: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("paramedic.delivery._LAST_RETRY", timedelta(milliseconds=20))
    vendor, book = Vendor(failures), Book()
    delivery = Delivery({"hook": vendor}, [HOOK], book.store, book.amend, Metrics(), lambda: True)
    delivering = asyncio.create_task(delivery.run())
    try:
        book.put("Applied")
        delivery.wake(book.key, ["hook"])
        await eventually(lambda: not book.untold(), what="it is told")
        book.put("Verified")
        delivery.wake(book.key, ["hook"])
        await eventually(lambda: not book.untold(), what="the next is told")
    finally:
        delivering.cancel()
        await asyncio.wait([delivering])
    assert vendor.looked == [False, *[True] * failures, False], "a look is needed only until it is settled"
    assert [key.partition(".")[0] for key in vendor.told] == ["Applied", "Verified"]
