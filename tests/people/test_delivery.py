"""A channel that fails in a way that nobody has thought of: what it was told is told again only after a look."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from paramedic.api import conditions as c
from paramedic.api.incident import Notice
from paramedic.api.people import ChannelSettings
from paramedic.api.reasons import Reason
from paramedic.channels.base import Message, PartlyTold, Told
from paramedic.delivery import Delivery
from paramedic.errors import ParamedicError, Retry, Terminal
from paramedic.metrics import Metrics
from paramedic.record import Draft
from paramedic.store import Store
from people.tellers import incident, notice
from testbed.api import eventually

Json = dict[str, Any]
HOOK = ChannelSettings.model_validate(
    {"name": "hook", "perMinute": 6000, "webhook": {"url": "http://127.0.0.1:1/incidents"}}
)


def long_quiet() -> float:
    """No target is on its way to a change."""
    return 60.0


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

    def add(self, new: Notice) -> None:
        found = self.store.open_incident(self.key)
        assert found is not None
        raw = found[0].model_dump(mode="json", by_alias=True)
        raw["status"]["notices"].append(new.to_wire())
        self._put(raw)

    def waiting(self) -> set[str]:
        """The channels that have still to be told something."""
        found = self.store.open_incident(self.key)
        return {name for one in found[0].status.notices for name in one.pending} if found else set()

    def said(self) -> list[str]:
        found = self.store.open_incident(self.key)
        return [entry.reason for entry in found[0].status.timeline] if found else []

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
    delivery = Delivery({"hook": vendor}, [HOOK], book.store, book.amend, Metrics(), lambda: True, long_quiet)
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


class Partly:
    """A channel that tells half of it at the first try."""

    name = "hook"

    def __init__(self, problem: ParamedicError) -> None:
        self.known: list[str | None] = []
        self._problem = problem

    async def tell(self, message: Message) -> Told:
        self.known.append(message.external.get("hook"))
        if len(self.known) == 1:
            raise PartlyTold({"hook": "half of it"}, self._problem)
        return {}

    async def close(self) -> None:
        """Holds nothing open."""


@pytest.mark.parametrize(
    ("problem", "undelivered"),
    [(Retry("it is busy"), []), (Terminal(Reason.NOTICE_UNDELIVERED, "it says no"), ["hook"])],
)
async def test_what_was_told_is_kept_when_the_rest_cannot_be(problem: ParamedicError, undelivered: list[str]) -> None:
    channel, book = Partly(problem), Book()
    delivery = Delivery({"hook": channel}, [HOOK], book.store, book.amend, Metrics(), lambda: True, long_quiet)
    delivering = asyncio.create_task(delivery.run())
    try:
        book.put("Applied")
        delivery.wake(book.key, ["hook"])
        await eventually(lambda: not book.untold(), what="it is settled")
    finally:
        delivering.cancel()
        await asyncio.wait([delivering])
    found = book.store.open_incident(book.key)
    assert found is not None
    assert found[0].status.external == {"hook": "half of it"}
    assert found[0].status.notices[0].undelivered == undelivered
    assert channel.known == ([None] if undelivered else [None, "half of it"]), "the next try knows of it"


async def test_an_incident_whose_status_cannot_be_written_holds_up_no_other(monkeypatch: pytest.MonkeyPatch) -> None:
    """And what came of its telling is stored later, without telling it again."""
    monkeypatch.setattr("paramedic.delivery._STORED_WITHIN_SECONDS", 0.1)
    vendor, stuck, may_write = Vendor(0), Book(), asyncio.Event()
    stuck.put("Applied")

    async def amend(key: str, change: Callable[[Draft], None]) -> None:
        await may_write.wait()
        await stuck.amend(key, change)

    delivery = Delivery({"hook": vendor}, [HOOK], stuck.store, amend, Metrics(), lambda: True, long_quiet)
    delivering = asyncio.create_task(delivery.run())
    try:
        delivery.wake(stuck.key, ["hook"])
        await eventually(lambda: vendor.told, what="it is told")
        opened = notice(reason="Opened").model_copy(update={"pending": ["hook"]})
        raw = incident(notices=[opened.to_wire()]).model_dump(mode="json", by_alias=True)
        raw["metadata"] |= {"name": "other", "uid": "uid-other", "resourceVersion": "1"}
        stuck.store.put_incident(raw)
        delivery.wake("covet/other", ["hook"])
        await eventually(lambda: len(vendor.told) == 2, timeout=3, what="the other is told")
        assert stuck.untold(), "nothing of the first is stored"
        may_write.set()
        await eventually(lambda: not stuck.untold(), what="it is stored")
    finally:
        delivering.cancel()
        await asyncio.wait([delivering])
    assert len(vendor.told) == 2, "told once"


async def test_who_has_lost_the_lead_while_a_channel_asked_for_patience_tells_nothing() -> None:
    vendor, book, leads = Vendor(0), Book(), True
    quiet = 0.0

    def quiet_seconds() -> float:
        nonlocal leads, quiet
        leads, quiet = False, 60.0  # the lead is lost while it waits
        return quiet

    delivery = Delivery({"hook": vendor}, [HOOK], book.store, book.amend, Metrics(), lambda: leads, quiet_seconds)
    delivering = asyncio.create_task(delivery.run())
    try:
        book.put("Applied")
        delivery.wake(book.key, ["hook"])
        await eventually(lambda: quiet, what="it has waited")
        await asyncio.sleep(0.3)
    finally:
        delivering.cancel()
        await asyncio.wait([delivering])
    assert vendor.told == []


class Answering:
    """A channel whose vendor answers, or fails as long as it is told to."""

    def __init__(self, name: str, problem: ParamedicError | None = None) -> None:
        self.name, self.problem = name, problem

    async def tell(self, _: Message) -> Told:
        if self.problem:
            raise self.problem
        return {}

    async def close(self) -> None:
        """Holds nothing open."""


def notified(book: Book) -> tuple[str, str, str]:
    found = book.store.open_incident(book.key)
    known = c.find(found[0].status.conditions, c.NOTIFIED) if found else None
    return (known.status, known.reason, known.message) if known else ("", "", "")


@asynccontextmanager
async def delivering(book: Book, *channels: Answering) -> AsyncIterator[Callable[[str], None]]:
    """What puts a notice for all of them on the incident, while they are told; another process after another."""
    settings = [ChannelSettings.model_validate(HOOK.to_wire() | {"name": one.name}) for one in channels]
    by_name = {one.name: one for one in channels}
    delivery = Delivery(by_name, settings, book.store, book.amend, Metrics(), lambda: True, long_quiet)
    task = asyncio.create_task(delivery.run())

    def put(reason: str) -> None:
        book.add(notice(reason=reason).model_copy(update={"pending": list(by_name)}))
        delivery.wake(book.key, by_name)

    delivery.wake_all()
    try:
        yield put
    finally:
        task.cancel()
        await asyncio.wait([task])


async def test_that_one_channel_is_told_does_not_hide_that_another_is_down() -> None:
    pager, chat, book = Answering("pager", Retry("cannot be reached")), Answering("chat"), Book()
    book.put()
    down = ("False", "ChannelDown", "pager cannot be told for now: cannot be reached")
    async with delivering(book, pager, chat) as put:
        put("Applied")
        await eventually(lambda: notified(book) == down, what="the pager is down")
        put("Verified")
        await eventually(lambda: book.waiting() == {"pager"}, what="the chat is told")
        assert notified(book) == down
        chat.problem = Retry("is busy")
        put("Blocked")
        both = f"{down[2]}; chat cannot be told for now: is busy"
        await eventually(lambda: notified(book)[2] == both, what="the chat is down, too")
    assert [entry for entry in book.said() if entry == "ChannelDown"] == ["ChannelDown"] * 2, "once for each"
    chat.problem = None
    async with delivering(book, pager, chat):  # the next process knows it from what is stored
        await eventually(lambda: book.waiting() == {"pager"}, what="the chat is told")
        assert notified(book) == down
        pager.problem = None
        await eventually(lambda: notified(book)[0] == "True", timeout=10, what="the pager answers again")
    assert book.waiting() == set()


async def test_what_a_channel_has_refused_for_good_is_seen_until_that_one_is_told_again() -> None:
    problem = Terminal(Reason.NOTICE_UNDELIVERED, "it says no")
    pager, chat, book = Answering("pager", problem), Answering("chat"), Book()
    book.put()
    refused = ("False", "NoticeUndelivered", "pager was not told: it says no")
    async with delivering(book, pager, chat) as put:
        put("Applied")
        await eventually(lambda: notified(book) == refused and not book.untold(), what="the pager refuses")
        pager.problem = None
        put("Verified")
        await eventually(lambda: notified(book)[0] == "True", what="the pager takes the next")


class Gate:
    """A channel whose vendor takes nothing until it is opened."""

    name = "hook"

    def __init__(self) -> None:
        self.told: list[str] = []
        self.begun, self.open = asyncio.Event(), asyncio.Event()

    async def tell(self, message: Message) -> Told:
        self.told.append(message.incident.metadata.name)
        self.begun.set()
        await self.open.wait()
        return {}

    async def close(self) -> None:
        """Holds nothing open."""


async def test_what_somebody_is_waited_for_goes_before_all_others() -> None:
    """Of a storm of small incidents, one is grave, one calls, one asks, and one that waits already begins to call."""
    gate, store = Gate(), Store()
    versions = itertools.count(1)

    def put(name: str, kind: str = "Update", severity: str = "P3") -> str:
        waiting = [notice(kind).model_copy(update={"pending": ["hook"]}).to_wire()]
        raw = incident(notices=waiting, spec={"severity": severity}).model_dump(mode="json", by_alias=True)
        raw["metadata"] |= {"name": name, "uid": name, "resourceVersion": str(next(versions))}
        store.put_incident(raw)
        return f"covet/{name}"

    async def amend(key: str, change: Callable[[Draft], None]) -> None:
        store.drop_incident(key)  # as far as this test goes it is told, and that is all

    delivery = Delivery({"hook": gate}, [HOOK], store, amend, Metrics(), lambda: True, long_quiet)
    delivering = asyncio.create_task(delivery.run())
    try:
        small = [put(f"small-{number}") for number in range(20)]
        for key in small:
            delivery.wake(key, ["hook"])
        await gate.begun.wait()
        for key in (put("grave", severity="P0"), put("calls", "Call"), put("asks", "ApprovalNeeded")):
            delivery.wake(key, ["hook"])
        delivery.wake(put("small-19", "Call"), ["hook"])
        gate.open.set()
        await eventually(lambda: not store.entries, what="all is told")
    finally:
        delivering.cancel()
        await asyncio.wait([delivering])
    assert gate.told[:5] == ["small-0", "grave", "calls", "asks", "small-19"]
    assert gate.told[5:] == [f"small-{number}" for number in range(1, 19)]


@pytest.mark.parametrize("busy", [True, False])
async def test_a_target_on_its_way_to_a_change_goes_first_but_not_for_ever(
    busy: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is never quiet holds a notice up for a moment only."""
    monkeypatch.setattr("paramedic.delivery._PATIENCE", 10 if busy else 10_000)
    quiet, vendor, book = [0.0], Vendor(0), Book()
    delivery = Delivery({"hook": vendor}, [HOOK], book.store, book.amend, Metrics(), lambda: True, lambda: quiet[0])
    delivering = asyncio.create_task(delivery.run())
    try:
        book.put("Applied")
        delivery.wake(book.key, ["hook"])
        await asyncio.sleep(0.2)
        assert not vendor.told
        if not busy:
            quiet[0] = 1.0
        await eventually(lambda: not book.untold(), what="it is told")
    finally:
        delivering.cancel()
        await asyncio.wait([delivering])
