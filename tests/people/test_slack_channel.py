"""Telling people in Slack: what stands there afterwards, whatever goes wrong on the way."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from builders import incident, step
from paramedic.api.incident import Incident, Notice
from paramedic.api.people import ChannelSettings
from paramedic.channels.base import Message, PartlyTold
from paramedic.channels.slack import SlackTeller
from paramedic.errors import Retry, Terminal, Unreachable
from paramedic.messages import Messages
from paramedic.settings import Settings
from paramedic.store import Store
from people.slack_vendor import BOT_TOKEN, Channel, FakeSlack
from people.vendors import Fault

OPERATION = "019cbe40-1c00-7000-8000-000000000002"


@pytest.fixture
def slack() -> Iterator[FakeSlack]:
    with FakeSlack() as running:
        yield running


def settings(slack: FakeSlack, folder: Path, **own: Any) -> ChannelSettings:
    token = folder / "token"
    token.write_text(BOT_TOKEN + "\n")
    body = {"token_file": token, "api_url": f"{slack.url}/api/"} | own
    return ChannelSettings.model_validate({"name": "chat", "slack": body, "timeout": "2s"})


def teller_of(chosen: ChannelSettings) -> SlackTeller:
    messages = Messages(Settings(channels=[chosen]), None, Store(), lambda: datetime.now(UTC))
    return SlackTeller(chosen, messages)


@pytest.fixture
async def teller(slack: FakeSlack, tmp_path: Path) -> AsyncIterator[SlackTeller]:
    made = teller_of(settings(slack, tmp_path))
    yield made
    await made.close()


@pytest.fixture
async def everybody(slack: FakeSlack, tmp_path: Path) -> AsyncIterator[SlackTeller]:
    """With a shared channel besides."""
    slack.add_channel("incident-response")
    made = teller_of(settings(slack, tmp_path, channel="#incident-response"))
    yield made
    await made.close()


def notice(key: str, kind: str = "Update", **fields: Any) -> Notice:
    body = {"key": key, "kind": kind, "reason": "StepFailed", "at": datetime.now(UTC), "message": f"fact {key}"}
    return Notice.model_validate(body | fields)


OPENED = notice("opened", "Opened")


def down(*steps: Any, name: str = "api-down", external: dict[str, str] | None = None, **status: Any) -> Incident:
    created = datetime.now(UTC).isoformat()
    metadata = {"name": name, "creationTimestamp": created, "uid": f"uid-{name}"}
    return incident(*steps, metadata=metadata, status={"external": external} | status)


def waiting(operation: str = OPERATION) -> Any:
    return step("more-room", "AwaitingApproval", operation=operation, message="would: app: 2 → 10")


async def test_the_first_telling_makes_the_channel_its_topic_and_the_message(
    slack: FakeSlack, teller: SlackTeller
) -> None:
    told = await teller.tell(Message(down(), [OPENED], again=False))
    channel = slack.channel("incident-api-down")
    assert told["chat/channel"] == channel.id
    assert told["chat/thread"] == channel.main.ts
    assert channel.topic == "P0 · open · IC unassigned · API returns 5xx"
    assert "API returns 5xx" in channel.main.words
    assert list(channel.main.buttons) == ["Acknowledge", "Pause"]
    assert len(channel.messages) == 1


async def test_later_facts_update_the_message_and_go_to_its_thread_as_one(
    slack: FakeSlack, teller: SlackTeller
) -> None:
    ids = await teller.tell(Message(down(), [OPENED], again=False))
    later = down(step("undo", "Succeeded", message="revision 7 → 6"), external=ids)
    more = await teller.tell(Message(later, [notice("a"), notice("b")], again=False))
    channel = slack.channel("incident-api-down")
    assert len(channel.top) == 1
    assert "✅ undo (scale): revision 7 → 6" in channel.main.words
    assert [m.thread for m in channel.thread] == [channel.main.ts]
    assert "fact a" in channel.thread[0].words
    assert "fact b" in channel.thread[0].words
    assert channel.topics == 1, "it has not changed"
    assert not set(more) - {"chat/topic"}


async def test_a_call_mentions_and_invites_and_is_seen_by_the_whole_channel(
    slack: FakeSlack, everybody: SlackTeller
) -> None:
    call = notice("call.1", "Call", mentions=["U0ALICE", "S0ONCALL", "PABC123"])
    await everybody.tell(Message(down(), [OPENED, call], again=False))
    channel, shared = slack.channel("incident-api-down"), slack.channel("incident-response")
    assert channel.members == {"U0ALICE"}
    assert channel.thread[0].broadcast
    assert channel.thread[0].words == "📣 P0: API returns 5xx: fact call.1\n<@U0ALICE> <!subteam^S0ONCALL>"
    assert "PABC123" not in channel.thread[0].words
    assert len(shared.messages) == 1
    assert f"<#{channel.id}>" in shared.main.words
    assert "<@U0ALICE>" in shared.main.words
    # She is there already, and is called again.
    ids = {"chat/channel": channel.id, "chat/thread": channel.main.ts}
    again = notice("call.2", "Call", mentions=["U0ALICE"])
    await everybody.tell(Message(down(external=ids), [again], again=False))
    assert len(channel.thread) == 2


async def test_a_step_that_waits_is_asked_for_with_buttons_which_go_when_it_is_answered(
    slack: FakeSlack, teller: SlackTeller
) -> None:
    asked = notice("ask", "ApprovalNeeded", reason="AwaitingApproval")
    ids = await teller.tell(Message(down(waiting()), [OPENED, asked], again=False))
    channel = slack.channel("incident-api-down")
    question = channel.thread[0]
    assert question.broadcast
    assert list(question.buttons) == ["Approve", "Reject"]
    assert OPERATION in question.buttons["Approve"]["value"]
    assert "Approve" in channel.main.buttons
    done = step("more-room", "Succeeded", operation=OPERATION, approved_by="alice")
    ids |= await teller.tell(Message(down(done, external=ids), [notice("approved")], again=False))
    assert question.buttons == {}
    assert "approved by alice" in question.words
    assert "Approve" not in channel.main.buttons
    edits = question.edits
    await teller.tell(Message(down(done, external=ids), [notice("more")], again=False))
    assert question.edits == edits, "it is left alone from then on"


async def test_a_question_that_stands_is_not_asked_again(slack: FakeSlack, teller: SlackTeller) -> None:
    ids = await teller.tell(Message(down(waiting()), [OPENED, notice("ask", "ApprovalNeeded")], again=False))
    await teller.tell(Message(down(waiting(), external=ids), [notice("ask-2", "ApprovalNeeded")], again=False))
    (question,) = slack.channel("incident-api-down").thread
    assert list(question.buttons) == ["Approve", "Reject"]


async def test_a_changed_plan_is_asked_for_anew_and_the_old_question_closed(
    slack: FakeSlack, teller: SlackTeller
) -> None:
    ids = await teller.tell(Message(down(waiting()), [OPENED, notice("ask", "ApprovalNeeded")], again=False))
    changed = down(waiting("019cbe40-1c00-7000-8000-000000000003"), external=ids)
    await teller.tell(Message(changed, [notice("ask-anew", "ApprovalNeeded")], again=False))
    first, second = slack.channel("incident-api-down").thread
    assert first.buttons == {}
    assert "000000000003" in second.buttons["Approve"]["value"]


async def test_the_end_is_told_with_the_all_clear_and_nothing_to_press(
    slack: FakeSlack, everybody: SlackTeller
) -> None:
    ids = await everybody.tell(Message(down(), [OPENED], again=False))
    over = down(external=ids, phase="Resolved", resolved_at=datetime.now(UTC).isoformat())
    await everybody.tell(Message(over, [notice("over", "Resolved", reason="RemediationSucceeded")], again=False))
    channel = slack.channel("incident-api-down")
    assert channel.main.buttons == {}
    assert channel.topic.startswith("P0 · resolved")
    assert channel.thread[-1].broadcast
    assert "INCIDENT RESOLVED" in channel.thread[-1].words
    assert len(slack.channel("incident-response").messages) == 2


async def test_status_updates_are_the_runbooks(slack: FakeSlack, teller: SlackTeller) -> None:
    due = notice("due", reason="UpdateDue")
    await teller.tell(Message(down(), [OPENED, due], again=False))
    told = slack.channel("incident-api-down").thread
    assert len(told) == 1
    assert told[0].words.startswith("INCIDENT UPDATE - api-down\n\nStatus: INVESTIGATING")


async def test_without_a_channel_per_incident_the_named_one_is_used(slack: FakeSlack, tmp_path: Path) -> None:
    shared = slack.add_channel("ops")
    made = teller_of(settings(slack, tmp_path, channel="ops", channel_per_incident=False))
    ids = await made.tell(Message(down(), [OPENED], again=False))
    await made.tell(Message(down(name="db-down"), [OPENED], again=False))
    await made.tell(Message(down(external=ids), [notice("a")], again=False))
    again = await made.tell(Message(down(name="db-down"), [OPENED], again=True))
    await made.close()
    assert set(slack.channels) == {shared.id}
    assert [len(shared.top), len(shared.thread)] == [2, 1]
    assert shared.topics == 0
    assert again["chat/thread"] == shared.top[1].ts


# -- names that are taken ----------------------------------------------------------------------------------------------


async def test_somebody_elses_channel_is_left_alone(slack: FakeSlack, teller: SlackTeller) -> None:
    others = [slack.add_channel(name) for name in ("general", "random", "incident-api-down")]
    told = await teller.tell(Message(down(), [OPENED], again=False))
    ours = slack.channels[told["chat/channel"]]
    assert ours.name.startswith("incident-api-down-")
    assert [c.messages for c in others] == [[], [], []]


async def test_an_earlier_incident_of_the_name_keeps_its_channel(slack: FakeSlack, teller: SlackTeller) -> None:
    first = await teller.tell(Message(down(), [OPENED], again=False))
    created = datetime.now(UTC).isoformat()
    recreated = incident(metadata={"name": "api-down", "uid": "uid-anew", "creationTimestamp": created})
    for again in (False, True):  # also when the first try's answer was lost
        second = await teller.tell(Message(recreated, [OPENED], again=again))
        assert second["chat/channel"] != first["chat/channel"]
    assert len(slack.channels) == 2
    assert [len(c.messages) for c in slack.channels.values()] == [1, 1]


async def test_two_names_that_are_both_taken_are_an_error_for_a_person(slack: FakeSlack, teller: SlackTeller) -> None:
    await teller.tell(Message(down(), [OPENED], again=False))
    for channel in slack.channels.values():
        channel.creator = "U0ADMIN"
    name = (await teller.tell(Message(down(), [OPENED], again=False)))["chat/channel"]
    slack.channels[name].creator = "U0ADMIN"
    with pytest.raises(Terminal, match="belong to others"):
        await teller.tell(Message(down(), [OPENED], again=True))


# -- what goes wrong ---------------------------------------------------------------------------------------------------

EVERYTHING = [
    OPENED,
    notice("call", "Call", mentions=["U0ALICE"]),
    notice("ask", "ApprovalNeeded"),
    notice("detail"),
    notice("due", reason="UpdateDue"),
]


def problems(channels: dict[str, Channel]) -> list[tuple[str, list[str]]]:
    return [(c.name, sorted(m.words for m in c.messages)) for c in channels.values()]


async def tell_until_told(
    teller: SlackTeller, made: Incident, notices: Sequence[Notice] = EVERYTHING, *, at_first: bool = False
) -> dict[str, str]:
    """As the delivery does: what may have been told is looked for."""
    again, kept = at_first, dict[str, str]()
    for _ in range(5):
        try:
            return kept | await teller.tell(Message(made, notices, again=again))
        except PartlyTold as partly:
            kept |= partly.told
            made = made.model_copy(update={"status": made.status.model_copy(update={"external": kept})})
            again = again or bool(getattr(partly.problem, "uncertain", False))
        except Retry as error:
            again = again or error.uncertain
    raise AssertionError("never told")


REQUESTS = 13
FAILURES = [(kind, number) for kind in ("reset-taken", "reset", "500", "429") for number in range(REQUESTS)]
# It takes the time-out's two seconds: the channel, the invitation and a text are enough.
FAILURES += [("hang-taken", number) for number in (0, 2, 5)]


@pytest.mark.parametrize(("kind", "number"), FAILURES)
async def test_each_request_may_fail_in_each_way_and_everything_is_told_once(
    slack: FakeSlack, everybody: SlackTeller, kind: str, number: int
) -> None:
    faults = {
        "reset-taken": Fault.reset(taken=True),
        "reset": Fault.reset(taken=False),
        "500": Fault.status(500),
        "429": Fault.status(429, retry_after=1),
        "hang-taken": Fault.hang(taken=True),
    }
    made = down(waiting())
    fine = Fault("pass", taken=True)
    slack.fail_next(*[fine] * number, faults[kind])
    ids = await tell_until_told(everybody, made)
    slack.release()
    channel, shared = slack.channel("incident-api-down"), slack.channel("incident-response")
    assert ids["chat/channel"] == channel.id
    assert ids["chat/thread"] == channel.main.ts
    assert ids["chat/approval"].endswith(OPERATION)
    assert [len(channel.top), len(channel.thread), len(shared.messages)] == [1, 4, 1]
    assert len(slack.channels) == 2
    assert channel.topics >= 1


async def test_a_new_process_that_does_not_know_tells_nothing_twice(slack: FakeSlack, everybody: SlackTeller) -> None:
    made = down(waiting())
    first = await tell_until_told(everybody, made)
    before = problems(slack.channels)
    second = await tell_until_told(everybody, made, at_first=True)
    assert problems(slack.channels) == before
    assert {key: second[key] for key in ("chat/channel", "chat/thread", "chat/approval")} == {
        key: first[key] for key in ("chat/channel", "chat/thread", "chat/approval")
    }


async def test_what_is_new_is_told_beside_what_was_told(slack: FakeSlack, everybody: SlackTeller) -> None:
    made = down(waiting())
    await tell_until_told(everybody, made)
    await everybody.tell(Message(made, [*EVERYTHING, notice("new"), notice("call2", "Call")], again=True))
    thread = slack.channel("incident-api-down").thread
    assert len(thread) == 6
    assert sum("fact new" in m.words for m in thread) == 1
    assert sum("fact detail" in m.words for m in thread) == 1


async def test_retry_after_is_obeyed_to_the_second(slack: FakeSlack, teller: SlackTeller) -> None:
    slack.fail_next(Fault.status(429, retry_after=37))
    with pytest.raises(Retry) as caught:
        await teller.tell(Message(down(), [OPENED], again=False))
    assert caught.value.after == timedelta(seconds=37)
    assert not caught.value.uncertain
    assert len(slack.requests) == 1, "the library tries nothing again by itself"


@pytest.mark.parametrize(
    ("answer", "error", "uncertain"),
    [
        ({"ok": False, "error": "internal_error"}, Retry, True),
        ({"ok": False, "error": "invalid_auth"}, Retry, False),
        ({"ok": False, "error": "missing_scope", "needed": "channels:manage"}, Retry, False),
        ({"ok": False, "error": "ratelimited"}, Retry, False),
        ({"ok": False, "error": "invalid_name_specials"}, Terminal, None),
        ("<html>not JSON</html>", Retry, True),
        ({}, Terminal, None),
    ],
)
async def test_slacks_errors_are_ours(
    slack: FakeSlack, teller: SlackTeller, answer: Any, error: type[Exception], uncertain: bool | None
) -> None:
    slack.fail_next(Fault.status(200, body=answer))
    with pytest.raises(error) as caught:
        await teller.tell(Message(down(), [OPENED], again=False))
    assert BOT_TOKEN not in str(caught.value)
    assert getattr(caught.value, "uncertain", None) == uncertain


async def test_a_token_that_is_put_right_is_used_at_once(slack: FakeSlack, teller: SlackTeller, tmp_path: Path) -> None:
    (tmp_path / "token").write_text("xoxb-wrong")
    with pytest.raises(Retry, match="check the bot token"):
        await teller.tell(Message(down(), [OPENED], again=False))
    (tmp_path / "token").unlink()
    with pytest.raises(Retry, match="cannot be read"):
        await teller.tell(Message(down(), [OPENED], again=False))
    (tmp_path / "token").write_text(BOT_TOKEN)
    await teller.tell(Message(down(), [OPENED], again=False))
    assert slack.channel("incident-api-down").main


async def test_a_message_that_a_person_has_deleted_is_no_error(slack: FakeSlack, teller: SlackTeller) -> None:
    ids = await teller.tell(Message(down(), [OPENED], again=False))
    channel = slack.channel("incident-api-down")
    channel.messages.clear()
    await teller.tell(Message(down(external=ids), [notice("a")], again=False))
    assert "fact a" in channel.messages[0].words


async def test_who_was_told_before_a_person_deleted_the_message_is_not_told_again(
    slack: FakeSlack, teller: SlackTeller
) -> None:
    ids = await teller.tell(Message(down(), [OPENED], again=False))
    channel = slack.channel("incident-api-down")
    channel.messages.clear()
    await teller.tell(Message(down(external=ids), [LOUD["call"]], again=False))
    await teller.tell(Message(down(external=ids), [LOUD["call"]], again=True))
    assert len(channel.messages) == 1, "found in the channel, for the thread is gone"


async def test_a_call_is_posted_where_the_app_may_invite_nobody(slack: FakeSlack, teller: SlackTeller) -> None:
    ids = await teller.tell(Message(down(), [OPENED], again=False))
    slack.fail_next(Fault.status(200, body={"ok": False, "error": "restricted_action"}))
    call = notice("call", "Call", mentions=["U0ALICE"])
    await teller.tell(Message(down(external=ids), [call], again=False))
    assert sum("fact call" in m.words for m in slack.channel("incident-api-down").thread) == 1


async def test_the_shared_channel_hears_a_call_while_the_own_one_is_closed_to_us(
    slack: FakeSlack, everybody: SlackTeller
) -> None:
    ids = await everybody.tell(Message(down(), [OPENED], again=False))
    slack.fail_next(Fault.status(200, body={"ok": False, "error": "not_in_channel"}))
    with pytest.raises(Retry, match="not_in_channel"):
        await everybody.tell(Message(down(external=ids), [notice("call", "Call")], again=False))
    assert any("fact call" in m.words for m in slack.channel("incident-response").messages)


async def test_buttons_work_while_the_shared_channel_cannot_be_told(slack: FakeSlack, everybody: SlackTeller) -> None:
    """Where it stands is kept, though the rest is tried again."""
    closed = Fault.status(200, body={"ok": False, "error": "not_in_channel"})
    slack.fail_next(*[Fault("pass", taken=True)] * 8, closed)
    with pytest.raises(PartlyTold, match="not_in_channel") as partly:
        await everybody.tell(Message(down(waiting()), EVERYTHING, again=False))
    assert not slack.channel("incident-response").messages
    assert partly.value.told["chat/channel"] == slack.channel("incident-api-down").id


async def test_a_shared_channel_that_is_not_there_costs_nothing_else(slack: FakeSlack, tmp_path: Path) -> None:
    made = teller_of(settings(slack, tmp_path, channel="nowhere"))
    await made.tell(Message(down(), [OPENED], again=False))
    await made.tell(Message(down(), [OPENED], again=True))
    await made.close()
    assert len(slack.channel("incident-api-down").messages) == 1


async def test_metadata_of_other_apps_are_not_believed(slack: FakeSlack, teller: SlackTeller) -> None:
    ids = await teller.tell(Message(down(), [OPENED], again=False))
    channel = slack.channel("incident-api-down")
    await teller.tell(Message(down(external=ids), [notice("a")], again=False))
    channel.thread[0].user = "U0OTHER"
    await teller.tell(Message(down(external=ids), [notice("a")], again=True))
    assert len(channel.thread) == 2


def test_without_the_library_the_settings_are_refused(
    slack: FakeSlack, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(Terminal, match=r"pip install 'paramedic\[slack\]'"):
        teller_of(settings(slack, tmp_path))


def test_unreachable_is_a_retry() -> None:
    assert issubclass(Unreachable, Retry)


# -- an incident's channel that a person has archived or deleted -------------------------------------------------------

LOUD = {
    "call": notice("call-2", "Call", mentions=["U0ALICE"]),
    "question": notice("ask-2", "ApprovalNeeded"),
    "reminder": notice("remind", "Reminder"),
    "shutdown": notice("off", "Shutdown"),
    "end": notice("over", "Resolved", reason="RemediationSucceeded"),
}
GONE = ("archived", "deleted")


async def told_before(slack: FakeSlack, everybody: SlackTeller, how: str) -> dict[str, str]:
    """The ids of an incident whose channel is gone."""
    ids = await everybody.tell(Message(down(), [OPENED], again=False))
    gone = slack.channel("incident-api-down")
    if how == "archived":
        gone.archived = True
    else:
        del slack.channels[gone.id]
    return ids


def lines(slack: FakeSlack, key: str) -> int:
    """How many lines of the shared channel tell this."""
    return sum(f"fact {key}" in m.words for m in slack.channel("incident-response").messages)


@pytest.mark.parametrize("how", GONE)
async def test_without_the_incidents_channel_the_shared_one_is_told_what_matters(
    slack: FakeSlack, everybody: SlackTeller, how: str
) -> None:
    made = down(waiting(), external=await told_before(slack, everybody, how))
    everything = [*LOUD.values(), notice("detail"), notice("due", reason="UpdateDue")]
    await everybody.tell(Message(made, everything, again=False))
    told = {one.key: lines(slack, one.key) for one in everything}
    assert told == {one.key: 1 for one in LOUD.values()} | {"detail": 0, "due": 0}
    assert "<@U0ALICE>" in slack.channel("incident-response").messages[-1].words
    assert not any("<#" in m.words for m in slack.channel("incident-response").messages[1:]), "it leads nowhere"
    assert {c.name for c in slack.channels.values()} <= {"incident-response", "incident-api-down"}
    await everybody.tell(Message(made, [notice("quiet")], again=False))
    assert lines(slack, "quiet") == 0


async def test_a_question_that_is_answered_is_not_asked_there(slack: FakeSlack, everybody: SlackTeller) -> None:
    made = down(external=await told_before(slack, everybody, "archived"))
    await everybody.tell(Message(made, [LOUD["question"], LOUD["reminder"]], again=False))
    assert [lines(slack, "ask-2"), lines(slack, "remind")] == [0, 1]


@pytest.mark.parametrize("how", GONE)
@pytest.mark.parametrize("again", [False, True])
@pytest.mark.parametrize("kind", ["reset-taken", "reset", "500"])
@pytest.mark.parametrize("number", range(5))
async def test_nothing_is_lost_or_told_twice_there(
    slack: FakeSlack, everybody: SlackTeller, how: str, again: bool, kind: str, number: int
) -> None:
    made = down(waiting(), external=await told_before(slack, everybody, how))
    faults = {
        "reset-taken": Fault.reset(taken=True),
        "reset": Fault.reset(taken=False),
        "500": Fault.status(500),
    }
    slack.fail_next(*[Fault.none()] * number, faults[kind])
    await tell_until_told(everybody, made, list(LOUD.values()), at_first=again)
    await tell_until_told(everybody, made, list(LOUD.values()), at_first=True)
    assert {one.key: lines(slack, one.key) for one in LOUD.values()} == {one.key: 1 for one in LOUD.values()}


@pytest.mark.parametrize("how", GONE)
async def test_a_channel_that_goes_while_it_is_told(slack: FakeSlack, everybody: SlackTeller, how: str) -> None:
    ids = await everybody.tell(Message(down(), [OPENED], again=False))
    channel = slack.channel("incident-api-down")
    body = {"ok": False, "error": "is_archived" if how == "archived" else "channel_not_found"}
    slack.fail_next(Fault.none(), Fault.none(), Fault.status(200, body=body))  # the invitation and the call go well
    made = down(waiting(), external=ids)
    await everybody.tell(Message(made, list(LOUD.values()), again=False))
    assert [lines(slack, one.key) for one in LOUD.values()] == [1] * len(LOUD)
    assert sum("fact call-2" in m.words for m in channel.thread) == 1


async def test_a_channel_that_is_back_is_told_again(slack: FakeSlack, everybody: SlackTeller) -> None:
    ids = await everybody.tell(Message(down(), [OPENED], again=False))
    channel = slack.channel("incident-api-down")
    channel.archived = True
    ids |= await everybody.tell(Message(down(external=ids), [LOUD["reminder"]], again=False))
    channel.archived = False
    await everybody.tell(Message(down(external=ids), [notice("late")], again=False))
    assert [m for m in channel.thread if "fact late" in m.words]


@pytest.mark.parametrize("how", GONE)
async def test_where_no_other_channel_is_named_it_is_an_error_for_a_person(
    slack: FakeSlack, teller: SlackTeller, how: str
) -> None:
    made = down(external=await told_before(slack, teller, how))
    with pytest.raises(Terminal, match="is_archived" if how == "archived" else "channel_not_found"):
        await teller.tell(Message(made, [LOUD["call"]], again=False))


@pytest.mark.parametrize("how", GONE)
async def test_where_both_channels_are_gone_it_is_an_error_for_a_person(
    slack: FakeSlack, everybody: SlackTeller, how: str
) -> None:
    made = down(external=await told_before(slack, everybody, how))
    slack.channel("incident-response").archived = True
    with pytest.raises(Terminal, match="is_archived"):
        await everybody.tell(Message(made, [LOUD["call"]], again=False))
