"""What has been heard of incidents and is not written down yet, and who waits until it is.

This is all that the process remembers besides what is stored: whoever sent it is answered only once it is stored.
"""

import asyncio
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager

from paramedic.api.reasons import Reason
from paramedic.core import situation
from paramedic.core.heard import Heard, absorb, gravest
from paramedic.core.people import severity
from paramedic.record import Draft, raise_severity

Amendment = Callable[[Draft], None]
"""Puts something on the status. It may be called more than once, each time on another draft."""
Stored = asyncio.Future[None]
Item = tuple[Heard | Amendment, Stored | None]


class News:
    """By incident, in the order of its coming."""

    def __init__(self) -> None:
        self._items: dict[str, list[Item]] = {}

    def add(self, key: str, news: Heard | Amendment) -> bool:
        """Nobody waits for it. Whether there was nothing before it."""
        first = key not in self._items
        self._items.setdefault(key, []).append((news, None))
        return first

    def ask(self, key: str, news: Heard | Amendment) -> Stored:
        """Done once it is stored, or failed with the reason why it will not be."""
        stored: Stored = asyncio.get_running_loop().create_future()
        self._items.setdefault(key, []).append((news, stored))
        return stored

    @contextmanager
    def first(self, key: str, first: Heard, rest: Sequence[Heard]) -> Iterator[list[Stored]]:
        """While the Incident is being created, which stores ``first``. When that fails all of it is taken back."""
        stored = [asyncio.get_running_loop().create_future() for _ in rest]
        items: list[Item] = [(first, None), *zip(rest, stored, strict=True)]
        self._items.setdefault(key, []).extend(items)
        try:
            yield stored
        except BaseException:
            self._take_back(key, items)
            raise

    def take(self, key: str) -> list[Item]:
        """What there is, to be written down now."""
        return self._items.pop(key, [])

    def give_back(self, key: str, items: list[Item]) -> None:
        """It could not be written down, and comes before what was heard meanwhile."""
        if items:
            self._items[key] = items + self._items.get(key, [])

    def refuse_all(self, error: Exception) -> None:
        """Forgets everything; who waits is told the error."""
        for items in self._items.values():
            answer(items, error)
        self._items.clear()

    def _take_back(self, key: str, items: list[Item]) -> None:
        left = [item for item in self.take(key) if all(item is not one for one in items)]
        self.give_back(key, left)
        for _, waiter in items:
            if waiter:
                waiter.cancel()


def answer(items: list[Item], error: Exception | None) -> None:
    """Tells who waits that it is stored, or why it is not; and forgets the items."""
    for _, waiter in items:
        if waiter is None or waiter.done():
            continue
        if error is None:
            waiter.set_result(None)
        else:
            waiter.set_exception(error)
    items.clear()


def refuse_firing(items: list[Item], error: Exception) -> list[Item]:
    """What may still be put on an incident that is over: not that an alert fires, which is another incident. Who waits
    for that is told the error.
    """
    answer([one for one in items if _tells_of_firing(one[0])], error)
    return [one for one in items if not _tells_of_firing(one[0])]


def _tells_of_firing(news: Heard | Amendment) -> bool:
    return isinstance(news, Heard) and news.alert.state == "firing"


def take_all(draft: Draft, news: Iterable[Heard | Amendment]) -> None:
    """All of it, onto the status: first what was heard of the alert."""
    items = list(news)
    take_heard(draft, [item for item in items if isinstance(item, Heard)])
    for item in items:
        if not isinstance(item, Heard):
            item(draft)


def take_heard(draft: Draft, heard: Sequence[Heard]) -> None:
    """What was heard of the alert, onto the status and the timeline."""
    status = draft.incident.status
    ended_before = situation.is_firing(draft.incident) is False
    status.alert = absorb(draft.incident, heard)
    if not status.timeline:
        _open(draft)
    _keep_gravest(draft, heard)
    if not ended_before and situation.is_firing(draft.incident) is False:
        draft.say(Reason.ALERT_RESOLVED, "the alert has ended")


def _open(draft: Draft) -> None:
    source = draft.incident.spec.alert
    if source:
        name = source.labels.get("alertname", "without a name")
        draft.say(Reason.ALERT_RECEIVED, f"alert {name}: {draft.incident.spec.title}")
    else:
        draft.say(Reason.INCIDENT_OPENED, draft.incident.spec.title)


def _keep_gravest(draft: Draft, heard: Sequence[Heard]) -> None:
    """An alert may make the incident graver, never less grave."""
    known, found = severity(draft.incident), gravest(heard)
    if found is None or found.severity is None or found.severity >= known:
        return
    name = found.alert.labels.get("alertname", "without a name")
    raise_severity(draft, known, found.severity, f"by alert {name}")
