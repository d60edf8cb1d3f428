"""The JSON client that all channels share: what an answer, or none, means for us."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from pathlib import Path
from typing import Any

import pytest

from paramedic.clients.http_json import HttpJson
from paramedic.clients.secret_file import SecretFile
from paramedic.errors import Retry, Terminal, Unreachable
from people.vendors import FakeVendor, Fault, Reply, Request, Route, Schema


class _Note(Schema):
    text: str


class _Board(FakeVendor):
    """A vendor that keeps what it is given."""

    def __init__(self) -> None:
        super().__init__()
        self.notes: list[str] = []

    def routes(self) -> list[Route]:
        return [Route("POST", "/notes", _Note, self._add), Route("GET", "/notes", None, self._list)]

    def _add(self, request: Request) -> Reply:
        self.notes.append(request.json["text"])
        return Reply(201, {"id": len(self.notes)})

    def _list(self, request: Request) -> Reply:
        return Reply(200, self.notes)


@pytest.fixture
def board() -> Iterator[_Board]:
    with _Board() as started:
        yield started


@pytest.fixture
async def client() -> AsyncIterator[HttpJson]:
    opened = HttpJson("board", timedelta(seconds=1))
    yield opened
    await opened.close()


async def post(client: HttpJson, board: _Board, **more: Any) -> Any:
    return await client.send("POST", f"{board.url}/notes", {"text": "down"}, **more)


async def test_answer(client: HttpJson, board: _Board) -> None:
    answer = await post(client, board)
    assert (answer.status, answer.body) == (201, {"id": 1})
    assert (await client.send("GET", f"{board.url}/notes")).body == ["down"]


async def test_what_is_no_json_is_none(client: HttpJson, board: _Board) -> None:
    board.fail_next(Fault.status(200, body="ok"))
    assert (await post(client, board)).body is None


@pytest.mark.parametrize(
    ("fault", "uncertain", "after"),
    [
        (Fault.status(429, retry_after=7), False, timedelta(seconds=7)),
        (Fault.status(420, retry_after=60), False, timedelta(seconds=60)),
        (Fault.status(429), False, timedelta(seconds=30)),
        (Fault.status(429, retry_after="soon"), False, timedelta(seconds=30)),
        (Fault.status(429, retry_after=10**9), False, timedelta(hours=1)),
        (Fault.status(500), True, None),
        (Fault.status(503, retry_after=5), True, timedelta(seconds=5)),
        (Fault.status(408), False, None),
        (Fault.reset(taken=False), True, None),
        (Fault.reset(taken=True), True, None),
        (Fault.hang(taken=True), True, None),
    ],
)
async def test_later(client: HttpJson, board: _Board, fault: Fault, uncertain: bool, after: timedelta | None) -> None:
    board.fail_next(fault)
    with pytest.raises(Retry) as caught:
        await post(client, board)
    assert (caught.value.uncertain, caught.value.after) == (uncertain, after)
    assert "board" in str(caught.value)


async def test_retry_after_as_a_date(client: HttpJson, board: _Board) -> None:
    board.fail_next(
        Fault.status(429, retry_after=format_datetime(datetime.now(UTC) + timedelta(minutes=10), usegmt=True))
    )
    with pytest.raises(Retry) as caught:
        await post(client, board)
    assert caught.value.after is not None
    assert timedelta(minutes=9) < caught.value.after <= timedelta(minutes=10)


async def test_reading_is_never_uncertain(client: HttpJson, board: _Board) -> None:
    board.fail_next(Fault.status(502))
    with pytest.raises(Retry) as caught:
        await client.send("GET", f"{board.url}/notes")
    assert not caught.value.uncertain


async def test_a_server_that_is_down_has_done_nothing(client: HttpJson, board: _Board) -> None:
    board.stop()
    with pytest.raises(Retry, match="board cannot be reached") as caught:
        await post(client, board)
    assert not caught.value.uncertain
    board.start()
    await post(client, board)
    assert board.notes == ["down"]


async def test_a_name_that_does_not_resolve(client: HttpJson) -> None:
    with pytest.raises(Retry, match="board cannot be reached") as caught:
        await client.send("POST", "http://vendor.invalid/notes", {})
    assert not caught.value.uncertain


@pytest.mark.parametrize("status", [401, 403])
async def test_wrong_credentials_may_be_put_right(client: HttpJson, board: _Board, status: int) -> None:
    board.fail_next(Fault.status(status, body={"error": "bad key"}))
    with pytest.raises(Unreachable, match=r"bad key.*check its credentials"):
        await post(client, board)


@pytest.mark.parametrize("status", [400, 404, 422])
async def test_a_refusal_is_for_good(client: HttpJson, board: _Board, status: int) -> None:
    board.fail_next(Fault.status(status, body={"error": "no such component"}))
    with pytest.raises(Terminal, match=f"board answered {status}: .*no such component"):
        await post(client, board)


async def test_redirects_are_not_followed(client: HttpJson, board: _Board) -> None:
    board.fail_next(Fault("reply", reply=Reply(307, headers={"Location": "/notes"})))
    with pytest.raises(Terminal, match="redirects are not followed"):
        await post(client, board)
    assert board.notes == []
    assert len(board.requests) == 1


async def test_no_secret_in_messages(client: HttpJson, board: _Board) -> None:
    key = "s3cr3t-k3y"
    board.fail_next(Fault.status(422, body=f"Authorization: OAuth {key} at {board.url}/notes\x1b[31m\n<b>"))
    with pytest.raises(Terminal) as caught:
        await post(client, board, headers={"Authorization": f"OAuth {key}"}, secrets=(key,))
    assert key not in str(caught.value)
    assert board.url not in str(caught.value)
    assert str(caught.value).isprintable()


async def test_no_url_in_messages_of_a_lost_answer(client: HttpJson, board: _Board) -> None:
    url = board.url
    for fault in (Fault.reset(taken=True), Fault.hang(taken=True)):
        board.fail_next(fault)
        with pytest.raises(Retry) as caught:
            await post(client, board)
        assert url.removeprefix("http://") not in str(caught.value)


def test_secret_file_is_read_anew(tmp_path: Path) -> None:
    path = tmp_path / "key"
    secret = SecretFile(path, "statuspage's apiKeyFile")
    with pytest.raises(Unreachable, match=r"statuspage's apiKeyFile.*No such file"):
        secret.read()
    path.write_text("first\n")
    assert secret.read() == "first"
    path.write_text("second")
    assert secret.read() == "second"


@pytest.mark.parametrize("content", [b"", b" \n", b"two\nlines", b"\xff\xfe"])
def test_secret_file_that_holds_no_secret(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "key"
    path.write_bytes(content)
    with pytest.raises(Unreachable, match="the key"):
        SecretFile(path, "the key").read()
