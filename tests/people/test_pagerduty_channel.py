"""The channel against a PagerDuty that checks each request, and fails as networks and vendors do."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import cast

import pytest

from builders import incident
from paramedic.api.incident import Notice
from paramedic.api.people import ChannelSettings
from paramedic.channels import make_channels, pagerduty
from paramedic.channels.base import Message, PartlyTold
from paramedic.channels.pagerduty import PagerDutyAlerts, connect
from paramedic.clients import extras
from paramedic.core.pagerduty import uid_of
from paramedic.errors import ParamedicError, Retry, Terminal, Unreachable
from paramedic.messages import Messages
from people.pagerduty_vendor import EMAIL, ROUTING_KEY, TOKEN, FakePagerDuty
from people.vendors import Fault

KEY = "paramedic-uid-1"


@pytest.fixture
def vendor() -> Iterator[FakePagerDuty]:
    with FakePagerDuty() as pager:
        yield pager


@pytest.fixture
async def channel(vendor: FakePagerDuty, tmp_path: Path) -> AsyncIterator[PagerDutyAlerts]:
    async with made(vendor, tmp_path) as one:
        yield one


class made:  # noqa: N801 - reads as a function
    """A channel, closed at the end."""

    def __init__(self, vendor: FakePagerDuty, folder: Path, *, rest: bool = True, timeout: str = "5s") -> None:
        (folder / "key").write_text(f"{ROUTING_KEY}\n")
        (folder / "token").write_text(TOKEN)
        chosen = {"routing_key_file": folder / "key", "events_url": vendor.url, "api_url": vendor.url}
        more = {"api_token_file": folder / "token", "from_email": EMAIL} if rest else {}
        settings = ChannelSettings.model_validate({"name": "pager", "pagerduty": chosen | more, "timeout": timeout})
        self.channel = PagerDutyAlerts("pager", connect(settings), [])

    async def __aenter__(self) -> PagerDutyAlerts:
        return self.channel

    async def __aexit__(self, *_: object) -> None:
        await self.channel.close()


def message(*kinds: str, again: bool = False, minutes_ago: float = 0.5, **external: str) -> Message:
    begun = datetime.now(UTC).replace(microsecond=0) - timedelta(minutes=minutes_ago)
    told = [
        Notice(key=str(n), kind=kind, at=begun + timedelta(seconds=n), message=f"fact {n}")  # type: ignore[arg-type]
        for n, kind in enumerate(kinds)
    ]
    return Message(incident(status={"external": external or None}), told, again)


def test_without_the_library_it_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = ChannelSettings.model_validate({"name": "pager", "pagerduty": {"routing_key_file": tmp_path / "key"}})
    monkeypatch.setattr(extras, "_LIBRARIES", extras._LIBRARIES | {"pagerduty": "not_installed_here"})
    with pytest.raises(Terminal, match=r"pip install 'paramedic\[pagerduty\]'"):
        make_channels([settings], cast("Messages", None))


async def test_from_the_beginning_to_the_end(vendor: FakePagerDuty, channel: PagerDutyAlerts) -> None:
    told = await channel.tell(message("Opened"))
    assert told["pager"] == KEY
    assert vendor.alerts[0].actions == ["trigger"]
    assert vendor.alerts[0].notes == []
    told = await channel.tell(message("Update", "Acknowledged", pager=KEY))
    assert told["pager/incident"] == "Q000"
    assert vendor.alerts[0].status == "acknowledged"
    await channel.tell(message("Update", "Resolved", **{"pager/incident": "Q000"}))
    alert, *others = vendor.alerts
    assert not others
    assert alert.actions == ["trigger", "acknowledge", "resolve"]
    assert alert.lines == ["fact 0", "fact 1", "fact 0", "fact 1"]
    assert len(alert.notes) == 2, "one note for all that waited"


async def test_without_the_rest_api_there_are_no_notes(vendor: FakePagerDuty, tmp_path: Path) -> None:
    async with made(vendor, tmp_path, rest=False) as channel:
        assert (await channel.tell(message("Opened", "Update")))["pager"] == KEY
    assert [request.path for request in vendor.requests] == ["/v2/enqueue"]


async def test_what_may_have_been_told_is_looked_for_first(vendor: FakePagerDuty, channel: PagerDutyAlerts) -> None:
    first = message("Opened", "Update", "Update")
    await channel.tell(first)
    await channel.tell(Message(first.incident, first.notices, again=True))
    assert len(vendor.alerts) == 1
    assert vendor.alerts[0].lines == ["fact 1", "fact 2"]


@pytest.mark.parametrize("taken", [False, True])
@pytest.mark.parametrize("kind", ["reset", "hang"])
async def test_no_note_twice_when_the_answer_is_lost(
    vendor: FakePagerDuty, tmp_path: Path, kind: str, taken: bool
) -> None:
    async with made(vendor, tmp_path, timeout="500ms") as channel:
        await channel.tell(message("Opened"))
        second = message("Update", **{"pager/incident": "Q000"})
        vendor.fail_next(Fault.reset(taken=taken) if kind == "reset" else Fault.hang(taken=taken))
        with pytest.raises(Retry) as lost:
            await channel.tell(second)
        assert lost.value.uncertain
        vendor.release()
        await channel.tell(Message(second.incident, second.notices, again=True))
    assert vendor.alerts[0].lines == ["fact 0"]


async def test_each_request_is_one_try(vendor: FakePagerDuty, channel: PagerDutyAlerts) -> None:
    for fault in (Fault.status(500), Fault.status(503), Fault.reset(taken=False), Fault.status(429, retry_after=7)):
        vendor.requests.clear()
        vendor.fail_next(fault)
        with pytest.raises(Retry):
            await channel.tell(message("Opened"))
        assert len(vendor.requests) == 1


async def test_pagerduty_says_how_long_to_wait(vendor: FakePagerDuty, channel: PagerDutyAlerts) -> None:
    vendor.fail_next(Fault.status(429, retry_after=17, body={"status": "throttled"}))
    with pytest.raises(Retry) as refused:
        await channel.tell(message("Opened"))
    assert refused.value.after == timedelta(seconds=17)
    assert not refused.value.uncertain


@pytest.mark.parametrize(
    ("fault", "error", "uncertain"),
    [
        (Fault.status(400, body={"status": "invalid event", "errors": ["no"]}), Terminal, None),
        (Fault.status(403), Unreachable, False),
        (Fault.status(500), Retry, True),
        (Fault.status(302), Terminal, None),
    ],
)
async def test_what_an_answer_means(
    vendor: FakePagerDuty, channel: PagerDutyAlerts, fault: Fault, error: type[ParamedicError], uncertain: bool | None
) -> None:
    vendor.fail_next(fault)
    with pytest.raises(error) as refused:
        await channel.tell(message("Opened"))
    assert uncertain is None or getattr(refused.value, "uncertain", None) is uncertain
    assert str(fault.reply.status) in str(refused.value)


async def test_nobody_there(vendor: FakePagerDuty, channel: PagerDutyAlerts) -> None:
    vendor.stop()
    with pytest.raises(Retry) as refused:
        await channel.tell(message("Opened"))
    assert not refused.value.uncertain, "it was never asked"


async def test_secrets_are_read_anew_and_never_told(
    vendor: FakePagerDuty, channel: PagerDutyAlerts, tmp_path: Path
) -> None:
    wrong = "w" * 31 + "!"
    (tmp_path / "key").write_text(wrong)
    with pytest.raises(Unreachable, match="routing key") as refused:
        await channel.tell(message("Opened"))
    assert wrong not in str(refused.value)
    (tmp_path / "key").write_text(ROUTING_KEY)
    (tmp_path / "token").write_text("another-one-XYZQ")
    with pytest.raises(PartlyTold, match="401") as partly:
        await channel.tell(message("Opened", "Update"))
    assert isinstance(partly.value.problem, Unreachable)
    assert "XYZQ" not in str(partly.value), "not even its end, which PagerDuty's client would tell"
    (tmp_path / "token").unlink()
    with pytest.raises(PartlyTold, match="apiTokenFile"):
        await channel.tell(message("Opened", "Update"))
    (tmp_path / "token").write_text(TOKEN)
    await channel.tell(message("Opened", "Update"))
    assert vendor.alerts[0].lines == ["fact 1"]


async def test_who_was_paged_is_not_paged_again_because_the_note_cannot_be_made(
    vendor: FakePagerDuty, channel: PagerDutyAlerts, tmp_path: Path
) -> None:
    """The token of the REST API is wrong, and on-call has resolved the alert there meanwhile."""
    first = message("Opened", "Update")
    (tmp_path / "token").write_text("a-wrong-one")
    kept: dict[str, str] = {}
    for again in (False, True, True):
        of = incident(status={"external": kept or None})
        with pytest.raises(ParamedicError, match="401") as failed:
            await channel.tell(Message(of, first.notices, again))
        kept |= failed.value.told if isinstance(failed.value, PartlyTold) else {}
        vendor.alerts[0].status = "resolved"
    (tmp_path / "token").write_text(TOKEN)
    await channel.tell(Message(incident(status={"external": kept}), first.notices, again=True))
    assert [alert.actions for alert in vendor.alerts] == [["trigger"]]
    assert vendor.alerts[0].lines == ["fact 1"]


async def test_each_call_pages_though_somebody_works_on_it(vendor: FakePagerDuty, channel: PagerDutyAlerts) -> None:
    """A trigger of an alert that is open or acknowledged there rings no phone."""
    kept: dict[str, str] = {}
    for number, kind in enumerate(("Opened", "Acknowledged", "Call", "Call", "Acknowledged", "Resolved")):
        of = incident(status={"external": kept or None})
        told = Notice(key=f"{kind}.{number}", kind=kind, at=datetime.now(UTC), message=f"fact {number}")  # type: ignore[arg-type]
        kept |= await channel.tell(Message(of, [told], again=False))
        if kind == "Call":
            assert vendor.alerts[-1].status == "triggered", "a phone rings"
            assert {uid_of(alert.key) for alert in vendor.alerts} == {"uid-1"}
    assert [alert.status for alert in vendor.alerts] == ["resolved"] * 3
    assert vendor.alerts[0].key == KEY
    assert vendor.alerts[0].lines == ["fact 1", "fact 2", "fact 3", "fact 4", "fact 5"], "the whole story in one place"


async def test_an_incident_that_cannot_be_found_yet_is_waited_for(
    vendor: FakePagerDuty, channel: PagerDutyAlerts, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pagerduty, "_BETWEEN_LOOKS_SECONDS", 0.01)
    vendor.hidden = 100
    with pytest.raises(PartlyTold, match=KEY) as partly:
        await channel.tell(message("Opened", "Update"))
    assert isinstance(partly.value.problem, Retry)
    assert vendor.alerts[0].actions == ["trigger"], "people are paged all the same"
    vendor.hidden = 2
    told = await channel.tell(message("Opened", "Update", again=True))
    assert told["pager/incident"] == "Q000"
    assert vendor.alerts[0].lines == ["fact 1"]


async def test_an_incident_that_is_never_there_is_not_waited_for(
    vendor: FakePagerDuty, channel: PagerDutyAlerts, monkeypatch: pytest.MonkeyPatch
) -> None:
    """PagerDuty's own rules may have suppressed it."""
    monkeypatch.setattr(pagerduty, "_BETWEEN_LOOKS_SECONDS", 0.01)
    vendor.hidden = 100
    with pytest.raises(Terminal, match="no notes"):
        await channel.tell(message("Update", minutes_ago=10, pager=KEY))


@pytest.mark.parametrize("again", [False, True])
async def test_what_was_over_before_it_could_be_told_pages_nobody(
    vendor: FakePagerDuty, channel: PagerDutyAlerts, again: bool
) -> None:
    told = await channel.tell(message("Opened", "Update", "Resolved", again=again))
    assert "pager" not in told
    assert vendor.alerts == []


async def test_what_is_over_and_may_have_paged_somebody_is_ended_there(
    vendor: FakePagerDuty, channel: PagerDutyAlerts
) -> None:
    vendor.fail_next(Fault.reset(taken=True))
    with pytest.raises(Retry):
        await channel.tell(message("Opened"))
    await channel.tell(message("Opened", "Update", "Resolved", again=True))
    assert vendor.alerts[0].status == "resolved"
    assert vendor.alerts[0].lines == ["fact 1", "fact 2"]


async def test_an_answer_that_is_none(vendor: FakePagerDuty, channel: PagerDutyAlerts) -> None:
    vendor.fail_next(Fault.status(200, body="<html>a proxy's page</html>"))
    with pytest.raises(Retry, match="not what PagerDuty answers") as refused:
        await channel.tell(message("Opened"))
    assert refused.value.uncertain
