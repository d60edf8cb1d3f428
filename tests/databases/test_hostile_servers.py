"""Servers that are none: a tenant names any host, and no answer of it may take the operator's memory or time."""

from __future__ import annotations

import asyncio
import json
import os
import socket
import ssl
import struct
import sys
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from itertools import count, repeat
from pathlib import Path
from typing import Any

import pytest

from databases import asking
from paramedic.errors import Refused, Terminal
from testbed import certificates
from testbed.postgres import PostgresServer

Speak = Callable[[socket.socket], None]
MEBIBYTE = 1024 * 1024
MOST_MEBIBYTES, MOST_SECONDS = 80, 0.5


@contextmanager
def serving(speak: Speak) -> Iterator[int]:
    """A server on loopback that speaks so to whoever comes; its port."""
    listening = socket.create_server(("127.0.0.1", 0))

    def accept() -> None:
        with suppress(OSError):
            while True:
                connection, _ = listening.accept()
                threading.Thread(target=talk, args=(connection,), daemon=True).start()

    def talk(connection: socket.socket) -> None:
        with connection, suppress(OSError, struct.error):
            speak(connection)

    threading.Thread(target=accept, daemon=True).start()
    try:
        yield listening.getsockname()[1]
    finally:
        listening.shutdown(socket.SHUT_RDWR)
        listening.close()


async def asked(kind: str, speak: Speak, ca: Path | None = None, **variables: str) -> dict[str, Any]:
    """What comes of it in a process of its own."""
    with serving(speak) as port:
        argv = [asking.__file__, kind, str(port), *([str(ca)] if ca else [])]
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            *argv,
            stdout=asyncio.subprocess.PIPE,
            env=os.environ | {"PYTHONPATH": ":".join(sys.path)} | variables,
        )
        out, _ = await asyncio.wait_for(process.communicate(), 60)
        result: dict[str, Any] = json.loads(out)
        return result


def is_bearable(result: dict[str, Any]) -> bool:
    return result["mebibytes"] < MOST_MEBIBYTES and result["longest"] < MOST_SECONDS


# -- Redis -------------------------------------------------------------------------------------------------------------


def redis_like(answer: Iterable[bytes], kind: bytes = b"list") -> Speak:
    """It knows what a client says before it asks, and of which type the key is; to the rest it answers so."""

    def speak(connection: socket.socket) -> None:
        with connection.makefile("rb") as lines:
            while head := lines.readline():
                words = [lines.read(int(lines.readline()[1:]) + 2)[:-2] for _ in range(int(head[1:]))]
                if words[0] in (b"CLIENT", b"SELECT", b"AUTH"):
                    connection.sendall(b"+OK\r\n")
                elif words[0] == b"TYPE":
                    connection.sendall(b"+" + kind + b"\r\n")
                else:
                    for part in answer:
                        connection.sendall(part)

    return speak


@pytest.mark.parametrize(
    "answer",
    [
        [b"$314572800\r\n", *[b"x" * MEBIBYTE] * 300],
        [b"*1000000\r\n", *[(b"$1000000\r\n" + b"x" * 1_000_000 + b"\r\n")] * 300],
        [b"*100000000\r\n", *[b"*0\r\n" * 100_000] * 300],
        [b"*100000000\r\n", *[b":1\r\n" * 100_000] * 300],
        [b"+" + b"x" * 300 * MEBIBYTE],
    ],
    ids=["one value", "many values", "empty lists", "numbers", "a line"],
)
async def test_redis_that_answers_too_much(answer: list[bytes]) -> None:
    result = await asked("redis", redis_like(answer))
    assert result["found"] == "Terminal"
    assert is_bearable(result), result


@pytest.mark.parametrize(
    "answer",
    [
        b":" + b"9" * 5000,
        b":" + b"9" * 4000,
        b":-1",
        b":",
        b"*1\r\n" * 20_000,
        b"+" + b"x" * 100_000,
        b"$-7",
        b"$-1",
        b"*-1",
        b"*0",
        b"+OK",
        b"?",
    ],
    ids=lambda answer: repr(answer[:8]),
)
async def test_redis_that_answers_nonsense(answer: bytes) -> None:
    with serving(redis_like([answer + b"\r\n"])) as port, pytest.raises(Terminal, match="covet-queue: "):
        await asking.ask("redis", port)


@pytest.mark.parametrize(
    "answer", [b"*0", b"*1\r\n*1\r\n$1\r\nx", b":7", b"*1\r\n*2\r\n$4\r\nname\r\n$7\r\nworkers", b"$-1"]
)
async def test_redis_whose_stream_is_none(answer: bytes) -> None:
    with serving(redis_like([answer + b"\r\n"], b"stream")) as port, pytest.raises((Terminal, Refused)):
        await asking.ask("redis", port)


async def test_a_type_of_any_length_is_not_told() -> None:
    with serving(redis_like([], b"x" * 50_000)) as port, pytest.raises(Refused) as caught:
        await asking.ask("redis", port)
    assert len(str(caught.value)) < 200


# -- PostgreSQL --------------------------------------------------------------------------------------------------------


def message(kind: bytes, content: bytes, length: int | None = None) -> bytes:
    return kind + struct.pack("!i", 4 + (len(content) if length is None else length)) + content


def status(name: bytes, value: bytes) -> bytes:
    return message(b"S", name + b"\0" + value + b"\0")


COLUMN = message(b"T", struct.pack("!h", 1) + b"one\0" + struct.pack("!ihihih", 0, 0, 25, -1, -1, 0))
BEGUN = b"1" + struct.pack("!i", 4) + b"2" + struct.pack("!i", 4) + COLUMN
GREETING = (
    message(b"R", struct.pack("!i", 0)) + status(b"client_encoding", b"UTF8") + status(b"server_version", b"10.0")
)
READY = message(b"K", struct.pack("!ii", 1, 1)) + message(b"Z", b"I")


def value(size: int) -> bytes:
    return message(b"D", struct.pack("!hi", 1, size) + b"x" * size)


def names() -> Iterator[bytes]:
    """Of settings, each another one."""
    for start in count(step=2000):
        yield b"".join(status(b"%x" % number, b"") for number in range(start, start + 2000))


def postgres_like(
    answer: Callable[[], Iterable[bytes]], *, login: bool = False, tls: ssl.SSLContext | None = None
) -> Speak:
    """It lets everybody in, and answers every statement so; with ``login``, before that."""

    def speak(connection: socket.socket) -> None:
        size, code = struct.unpack("!ii", connection.recv(8, socket.MSG_WAITALL))
        if code == 80877103:  # SSLRequest
            connection.sendall(b"S" if tls else b"N")
            if tls:
                connection = tls.wrap_socket(connection, server_side=True)
            size, _ = struct.unpack("!ii", exactly(connection, 8))
        exactly(connection, size - 8)
        connection.sendall(GREETING if login else GREETING + READY)
        if not login:
            exactly(connection, 5)
        for part in answer():
            connection.sendall(part)

    return speak


def exactly(connection: socket.socket, size: int) -> bytes:
    found = b""
    while len(found) < size:
        if not (part := connection.recv(size - len(found))):
            raise OSError("the client is gone")
        found += part
    return found


ANSWERS: dict[str, Callable[[], Iterable[bytes]]] = {
    "many large rows": lambda: [BEGUN, *[value(MEBIBYTE)] * 300],
    "one larger row": lambda: [
        BEGUN + message(b"D", struct.pack("!hi", 1, 300 * MEBIBYTE), 6 + 300 * MEBIBYTE),
        *[b"x" * MEBIBYTE] * 300,
    ],
    "rows without end": lambda: [BEGUN, *repeat(message(b"D", struct.pack("!hi", 1, -1)) * 5000, 10_000)],
    "results without end": lambda: repeat(message(b"C", b"\0") * 10_000, 10_000),
    "notices without end": lambda: repeat(message(b"N", b"SINFO\0M" + b"x" * 1000 + b"\0\0") * 100, 10_000),
    "notifications without end": lambda: repeat(message(b"A", struct.pack("!i", 1) + b"a\0\0") * 5000, 10_000),
    "an error": lambda: [message(b"E", b"M", 300 * MEBIBYTE), *[b"x" * MEBIBYTE] * 300],
    "settings without end": names,
}


@pytest.mark.parametrize("kind", ["postgres", "change"])
@pytest.mark.parametrize("answer", ANSWERS)
async def test_postgres_that_answers_too_much(kind: str, answer: str) -> None:
    result = await asked(kind, postgres_like(ANSWERS[answer]))
    assert result["found"] == ("Unreachable" if kind == "change" else "Terminal")
    assert "more than can be read" in result["message"]
    assert is_bearable(result), result


@pytest.mark.parametrize("answer", ["many large rows", "one larger row"])
async def test_the_same_within_tls(answer: str, tmp_path: Path) -> None:
    made = certificates.make(tmp_path)
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(made.certificate, made.key)
    result = await asked("postgres", postgres_like(ANSWERS[answer], tls=context), made.ca)
    assert result["found"] == "Terminal"
    assert "more than can be read" in result["message"]
    assert is_bearable(result), result


async def test_postgres_that_never_ends_its_greeting() -> None:
    result = await asked("postgres", postgres_like(names, login=True))
    assert result["found"] == "Unreachable"
    assert is_bearable(result), result


@pytest.mark.parametrize("answer", ["many large rows", "one larger row", "rows without end"])
async def test_pg_dump_is_not_given_the_memory_either(postgres: PostgresServer, answer: str) -> None:
    """It runs beside the operator, and keeps what it asks of the catalogue."""
    result = await asked(
        "dump", postgres_like(ANSWERS[answer]), PATH=f"{postgres.program('pg_dump').parent}:{os.defpath}"
    )
    assert result["found"] == "Unreachable", result
    assert result["mebibytes"] < 256
