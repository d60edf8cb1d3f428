"""Anybody in the cluster may connect, without a token: that costs the operator little, and the next alert is taken."""

from __future__ import annotations

import gzip
import logging
import os
import socket
import time
import tracemalloc
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

import pytest
from test_receiver import LIMIT, TOKEN, Live, alert, certificate, name_shown, payload, running

from paramedic import listener, server
from paramedic.inbound import edge

HEAD = b"POST /webhook/alertmanager HTTP/1.1\r\nHost: x\r\n"
LARGEST = HEAD + b"".join(b"X-%d: %s\r\n" % (n, b"a" * 2000) for n in range(60))
HUGE = HEAD + b"".join(b"X-%d: %s\r\n" % (n, b"a" * 8000) for n in range(100))
MANY = HEAD + b"".join(b"X-%d: a\r\n" % n for n in range(100_000))
LONG_LINE = b"POST /" + b"a" * 1_000_000


@pytest.fixture
def live(tmp_path: Path) -> Iterator[Live]:
    with running(tmp_path) as started:
        yield started


@pytest.fixture
def hurried(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Live]:
    """All deadlines are a second."""
    monkeypatch.setattr(server, "_HEAD_SECONDS", 1.0)
    monkeypatch.setattr(listener, "_UNREAD_SECONDS", 1.0)
    monkeypatch.setattr(listener, "_HANDSHAKE_SECONDS", 1.0)
    with running(tmp_path) as started:
        yield started


def open_many(live: Live, count: int, data: bytes, held: ExitStack) -> list[socket.socket]:
    """Connections on which this was sent, as far as it was taken."""
    opened = []
    for _ in range(count):
        one = held.enter_context(socket.create_connection(("127.0.0.1", live.port), timeout=5))
        opened.append(one)
        try:
            one.sendall(data)
        except (BrokenPipeError, ConnectionResetError):
            continue
    return opened


def is_closed(connection: socket.socket, within: float = 5.0) -> bool:
    connection.settimeout(within)
    try:
        while connection.recv(65536):
            pass
    except TimeoutError:
        return False
    except ConnectionResetError:
        pass
    return True


def resident_bytes() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


@pytest.mark.parametrize("data", [b"", HEAD, LARGEST, HUGE, MANY, LONG_LINE], ids=len)
def test_six_hundred_unfinished_heads_take_little_memory_and_nobodys_place(live: Live, data: bytes) -> None:
    assert live.takes_a_good_alert()
    before = resident_bytes()
    with ExitStack() as held:
        open_many(live, 600, data, held)
        assert live.takes_a_good_alert()
        assert live.ask(method="GET", path="/healthz")[0] == 200
        assert resident_bytes() - before < 120 * 2**20


def test_a_head_that_never_ends_is_hung_up_on_however_slowly_it_comes(hurried: Live) -> None:
    with ExitStack() as held:
        silent, slow = open_many(hurried, 2, b"", held)
        began = time.monotonic()
        for byte in HEAD * 20:
            try:
                slow.send(bytes([byte]))
            except (BrokenPipeError, ConnectionResetError):
                break
            time.sleep(0.02)
        assert time.monotonic() - began < 5
        assert is_closed(slow)
        assert is_closed(silent)


def test_handshakes_that_never_end_take_nobodys_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(listener, "_HANDSHAKE_SECONDS", 2.0)
    crt, key = certificate(tmp_path, "first")
    with running(tmp_path, tls_cert_file=crt, tls_key_file=key) as live, ExitStack() as held:
        opened = open_many(live, 400, b"\x16\x03\x01\x02\x00\x01", held)
        assert name_shown(live.port, crt) == "first"
        assert all(map(is_closed, opened))


def test_fifty_at_once_are_all_taken(live: Live) -> None:
    with ThreadPoolExecutor(50) as senders:
        answers = list(senders.map(lambda _: live.ask(payload())[0], range(200)))
    assert answers.count(200) == 200


def test_a_connection_that_was_answered_is_not_kept_for_ever(hurried: Live) -> None:
    with ExitStack() as held:
        (kept,) = open_many(hurried, 1, b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\nPOST /webhook", held)
        assert kept.recv(4096).startswith(b"HTTP/1.1 200 ")
        assert is_closed(kept)


def test_answers_that_are_not_read_are_not_kept_for_ever(hurried: Live) -> None:
    asking = b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n" * 3000
    before = resident_bytes()
    with ExitStack() as held:
        for _ in range(4):
            one = held.enter_context(socket.socket())
            one.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            one.connect(("127.0.0.1", hurried.port))
            one.setblocking(False)
            one.send(asking)
        assert hurried.takes_a_good_alert()
        _until(lambda: _open_connections(hurried) == 0)
        assert resident_bytes() - before < 60 * 2**20


def _open_connections(live: Live) -> int:
    """As the kernel knows them, on the server's side."""
    lines = Path("/proc/net/tcp").read_text().splitlines()[1:]
    ours = [line.split() for line in lines if line.split()[1].endswith(f":{live.port:04X}")]
    return sum(one[3] == "01" for one in ours)


def test_who_sends_an_alert_makes_no_room_for_others(live: Live) -> None:
    live.intake.gate.clear()
    body = payload()
    head = HEAD + f"Authorization: Bearer {TOKEN}\r\nContent-Length: {len(body)}\r\n\r\n".encode()
    with ExitStack() as held:
        working = open_many(live, 20, head + body, held)
        _until(lambda: live.intake.asked == 20)
        open_many(live, 600, HEAD, held)
        live.intake.gate.set()
        for connection in working:
            assert connection.recv(100).startswith(b"HTTP/1.1 200 ")


@pytest.mark.parametrize("data", [HUGE, MANY, LONG_LINE, b"\x16\x03\x01" + b"x" * 500 + b"\r\n\r\n"], ids=len)
def test_what_is_refused_leaves_no_traceback_in_the_log(
    live: Live, data: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    with ExitStack() as held, caplog.at_level(logging.DEBUG):
        for connection in open_many(live, 3, data, held):
            assert is_closed(connection)
    assert "Traceback" not in caplog.text
    assert live.takes_a_good_alert()


def test_signatures_fit(live: Live) -> None:
    many = ",".join(f"v1={'0' * 64}" for _ in range(16))
    assert live.ask(payload(), X_PagerDuty_Signature=many, X_Slack_Signature=f"v0={'0' * 64}")[0] == 200


def test_no_more_bytes_at_once_than_there_is_room_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is sent back has been taken nowhere; once there is room again it is taken."""
    monkeypatch.setattr(edge, "_BYTES_AT_ONCE", LIMIT)
    arrived, grow_to = [0], edge._Share.grow_to
    monkeypatch.setattr(edge._Share, "grow_to", lambda share, size: arrived.append(size) or grow_to(share, size))
    with running(tmp_path) as live, ExitStack() as held:
        large = payload(alert(annotations={"summary": "x" * (LIMIT // 2)}))
        head = HEAD + f"Authorization: Bearer {TOKEN}\r\nContent-Length: {len(large)}\r\n\r\n".encode()
        (first,) = open_many(live, 1, head + large[:-10], held)
        _until(lambda: max(arrived) == len(large) - 10)
        assert live.ask(large)[0] == 503
        assert live.ask(gzip.compress(large), Content_Encoding="gzip")[0] == 503
        assert live.takes_a_good_alert()
        taken = len(live.intake.taken)
        first.sendall(large[-10:])
        assert first.recv(100).startswith(b"HTTP/1.1 200 ")
        assert len(live.intake.taken) == taken + 1
        assert live.ask(large)[0] == 200


def test_who_only_announces_much_keeps_nobody_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(edge, "_BYTES_AT_ONCE", LIMIT)
    with running(tmp_path) as live, ExitStack() as held:
        head = HEAD + f"Authorization: Bearer {TOKEN}\r\nContent-Length: {LIMIT}\r\n\r\n".encode()
        open_many(live, 20, head + b"{", held)
        assert live.takes_a_good_alert()


def test_a_body_is_not_kept_while_its_alerts_are_stored(live: Live) -> None:
    live.intake.gate.clear()
    body = payload(*[alert(labels={"alertname": "A", "n": str(n)}) for n in range(700)])
    head = HEAD + f"Authorization: Bearer {TOKEN}\r\nContent-Length: {len(body)}\r\n\r\n".encode()
    with ExitStack() as held:
        tracemalloc.start()
        held.callback(tracemalloc.stop)
        (one,) = open_many(live, 1, head + body, held)
        _until(lambda: live.intake.asked == 1)
        time.sleep(0.2)
        largest = max(trace.size for trace in tracemalloc.take_snapshot().traces)
        live.intake.gate.set()
        assert one.recv(100).startswith(b"HTTP/1.1 200 ")
    assert largest < len(body)


def _until(holds: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 10
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.02)
