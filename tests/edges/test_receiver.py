"""The webhook over real connections: every answer means what it says, and nothing that comes in ends the server."""

from __future__ import annotations

import asyncio
import gzip
import http.client
import json
import socket
import ssl
import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from paramedic.core.alert import Alert, quick_fingerprint
from paramedic.errors import Retry
from paramedic.inbound import edge
from paramedic.metrics import Metrics
from paramedic.receiver import Receiver, parse_payload
from paramedic.server import keep_certificate_fresh, serve
from paramedic.settings import Settings, SettingsError
from paramedic.store import Store

TOKEN = "right-token"
LIMIT = 256 * 1024


class FakeIntake:
    """Keeps what it is given; fails or waits when told to."""

    def __init__(self) -> None:
        self.asked = 0
        self.taken: list[Alert] = []
        self.failure: Exception | None = None
        self.gate = threading.Event()
        self.gate.set()

    async def take(self, alerts: Sequence[Alert], source: str) -> None:
        assert source == "webhook"
        self.asked += 1
        await asyncio.to_thread(self.gate.wait)
        if self.failure:
            raise self.failure
        self.taken += alerts


@dataclass
class Live:
    """A server in a thread of its own."""

    port: int
    intake: FakeIntake
    store: Store
    metrics: Metrics
    token_file: Path
    stop: Callable[[], None] = field(repr=False)

    def ask(
        self, body: bytes | None = None, *, method: str = "POST", path: str = "/webhook/alertmanager", **headers: str
    ) -> tuple[int, str]:
        """One request on a connection of its own."""
        with closing(http.client.HTTPConnection("127.0.0.1", self.port, timeout=15)) as connection:
            given_ = {"Authorization": f"Bearer {TOKEN}", "Content-Type": "application/json"} | headers
            connection.request(method, path, body, {k.replace("_", "-"): v for k, v in given_.items()})
            answer = connection.getresponse()
            return answer.status, answer.read().decode()

    def raw(self, head: str) -> socket.socket:
        """A connection on which only this has been sent."""
        opened = socket.create_connection(("127.0.0.1", self.port), timeout=15)
        opened.sendall(head.replace("\n", "\r\n").encode("latin-1"))
        return opened

    def takes_a_good_alert(self) -> bool:
        before = len(self.intake.taken)
        return self.ask(payload())[0] == 200 and len(self.intake.taken) == before + 1


@contextmanager
def running(folder: Path, **chosen: Any) -> Iterator[Live]:
    """A server that listens on a loopback port while the context lasts."""
    token_file = folder / "token"
    token_file.write_text(f"{TOKEN}\n")
    usual = {"listen": "127.0.0.1:0", "webhook_token_file": token_file, "webhook_max_bytes": LIMIT}
    parts = Settings(**(usual | chosen)), FakeIntake(), Store(loaded=True), Metrics()
    started: list[Any] = []
    ready = threading.Event()

    async def run() -> None:
        chosen_, intake, store, metrics = parts
        stop, loop = asyncio.Event(), asyncio.get_running_loop()
        handler = Receiver(chosen_, intake, store, metrics)  # type: ignore[arg-type]
        async with serve(chosen_, handler, metrics, lambda: None, lambda: None if store.loaded else "loading") as port:
            started.append(Live(port, intake, store, metrics, token_file, lambda: loop.call_soon_threadsafe(stop.set)))
            ready.set()
            await stop.wait()

    thread = threading.Thread(target=lambda: asyncio.run(run()), daemon=True)
    thread.start()
    assert ready.wait(10)
    try:
        yield started[0]
    finally:
        started[0].intake.gate.set()
        started[0].stop()
        thread.join(10)


@pytest.fixture
def live(tmp_path: Path) -> Iterator[Live]:
    with running(tmp_path) as started:
        yield started


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Live]:
    with running(tmp_path_factory.mktemp("receiver"), webhook_max_bytes=16 * 2**20) as started:
        yield started


def alert(**fields: Any) -> dict[str, Any]:
    usual: dict[str, Any] = {
        "status": "firing",
        "labels": {"alertname": "CovetApiErrors", "severity": "critical"},
        "annotations": {"summary": "Errors"},
        "startsAt": "2026-03-02T12:00:00.123456789Z",
        "endsAt": "0001-01-01T00:00:00Z",
        "generatorURL": "http://prometheus/graph",
        "fingerprint": "0123456789abcdef",
    }
    return {k: v for k, v in (usual | fields).items() if v is not ...}


def payload(*alerts: Any, **fields: Any) -> bytes:
    return json.dumps({"version": "4", "alerts": list(alerts) or [alert()]} | fields).encode()


# -- what each answer means --------------------------------------------------------------------------------------------


def test_what_alertmanager_sends_is_taken(live: Live) -> None:
    status, said = live.ask(payload(alert(), alert(status="resolved", endsAt="2026-03-02T12:05:00Z", fingerprint=...)))
    assert (status, said) == (200, "stored\n")
    first, second = live.intake.taken
    assert (first.state, first.ends_at, first.fingerprint) == ("firing", None, "0123456789abcdef")
    assert first.starts_at.isoformat() == "2026-03-02T12:00:00.123456+00:00"
    assert second.ends_at
    assert second.fingerprint == quick_fingerprint(second.labels)
    assert live.ask(payload(alerts=[]))[0] == 200


def test_more_fields_than_known_do_not_matter(live: Live) -> None:
    assert live.ask(payload(alert(extra=[1]), receiver="x", groupLabels={}, truncatedAlerts=3))[0] == 200


def test_what_is_not_stored_is_to_be_sent_again(live: Live) -> None:
    live.intake.failure = Retry("the API server cannot be reached")
    status, said = live.ask(payload())
    assert status == 503
    assert "send it again" in said
    live.intake.failure = ZeroDivisionError("a mistake of our own")
    assert live.ask(payload())[0] == 500
    live.intake.failure = None
    assert live.takes_a_good_alert()


def test_before_everything_is_read_nothing_is_taken(live: Live) -> None:
    live.store.loaded = False
    assert live.ask(payload())[0] == 503
    assert live.ask(method="GET", path="/readyz")[0] == 503
    assert live.ask(method="GET", path="/healthz")[0] == 200
    live.store.loaded = True
    assert live.takes_a_good_alert()


def test_answers_are_counted(live: Live) -> None:
    live.ask(payload())
    live.ask(b"{")
    live.ask(payload(), Authorization="Bearer no")
    shown = live.ask(method="GET", path="/metrics")[1]
    for code in ("200", "400", "401"):
        assert f'paramedic_webhook_requests_total{{code="{code}"}} 1.0' in shown


@pytest.mark.parametrize(("method", "path", "status"), [("GET", "/webhook/alertmanager", 405), ("POST", "/", 404)])
def test_other_requests(live: Live, method: str, path: str, status: int) -> None:
    assert live.ask(b"", method=method, path=path)[0] == status


# -- who may send ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("header", "status"),
    [
        (f"Bearer {TOKEN}", 200),
        (f"bearer {TOKEN}", 200),
        (f"Bearer  {TOKEN} ", 200),
        (f"Basic {TOKEN}", 401),
        (TOKEN, 401),
        ("Bearer", 401),
        ("Bearer ", 401),
        ("", 401),
        (f"Bearer {TOKEN}x", 401),
        (f"Bearer {TOKEN[:-1]}", 401),
        (f"Bearer {TOKEN.upper()}", 401),
        ("Bearer \xff\xfe", 401),
        ("Bearer " + "x" * 1500, 401),
    ],
)
def test_the_token(live: Live, header: str, status: int) -> None:
    assert live.ask(payload(), Authorization=header)[0] == status
    assert len(live.intake.taken) == (1 if status == 200 else 0)


def test_the_token_is_checked_before_anything_else(live: Live) -> None:
    live.store.loaded = False
    assert live.ask(b"x" * (LIMIT + 1), Authorization="Bearer no")[0] == 401


def test_a_rotated_token_counts_at_once(live: Live) -> None:
    live.token_file.write_text("new-token-of-another-length")
    assert live.ask(payload())[0] == 401
    assert live.ask(payload(), Authorization="Bearer new-token-of-another-length")[0] == 200
    # as Kubernetes does it: a new file is moved over the old name
    fresh = live.token_file.with_name("fresh")
    fresh.write_text("yet-another-token-of-other-size")
    fresh.replace(live.token_file)
    assert live.ask(payload(), Authorization="Bearer new-token-of-another-length")[0] == 401
    assert live.ask(payload(), Authorization="Bearer yet-another-token-of-other-size")[0] == 200


def test_without_a_setting_nobody_gets_in_unless_that_is_wanted(tmp_path: Path) -> None:
    with running(tmp_path, webhook_token_file=None) as closed:
        assert closed.ask(payload())[0] == 401
    with running(tmp_path, webhook_token_file=None, webhook_anonymous=True) as open_:
        assert open_.ask(payload(), Authorization="")[0] == 200


@pytest.mark.parametrize("content", [None, "", "\n", " \n ", "two\nlines"])
def test_while_the_token_cannot_be_read_nobody_gets_in_and_nothing_is_lost(live: Live, content: str | None) -> None:
    """Alertmanager drops what is answered 401, and tries again what is answered 503."""
    live.token_file.unlink()
    if content is not None:
        live.token_file.write_text(content)
    for header in ("Bearer ", "Bearer", "", f"Bearer {TOKEN}"):
        status, said = live.ask(payload(), Authorization=header)
        assert status == 503
        assert str(live.token_file) not in said, "who is not known yet learns nothing of the file system"
    live.token_file.write_text(TOKEN)
    assert live.ask(payload())[0] == 200


# -- size and time -----------------------------------------------------------------------------------------------------


def test_a_large_body_is_refused_unread(live: Live) -> None:
    head = f"POST /webhook/alertmanager HTTP/1.1\nHost: x\nAuthorization: Bearer {TOKEN}\nContent-Length: 99999999\n\n"
    with closing(live.raw(head)) as connection:
        assert connection.recv(100).startswith(b"HTTP/1.1 413 ")
    assert live.takes_a_good_alert()


def test_the_limit_itself_is_taken(live: Live) -> None:
    body = payload()
    assert live.ask(body + b" " * (LIMIT - len(body)))[0] == 200
    assert live.ask(body + b" " * (LIMIT - len(body) + 1))[0] == 413


def test_a_large_body_in_chunks_is_refused(live: Live) -> None:
    head = f"POST /webhook/alertmanager HTTP/1.1\nHost: x\nAuthorization: Bearer {TOKEN}\n"
    with closing(live.raw(head + "Transfer-Encoding: chunked\n\n")) as connection:
        answer = b""
        try:
            for _ in range(200):
                connection.sendall(b"2000\r\n" + b" " * 0x2000 + b"\r\n")
            answer = connection.recv(100)
        except (BrokenPipeError, ConnectionResetError):
            answer = b"HTTP/1.1 413 (the server has hung up)"
        assert answer.startswith(b"HTTP/1.1 413 ")
    assert live.takes_a_good_alert()


def test_a_body_that_unpacks_to_a_large_one_is_refused(live: Live) -> None:
    bomb = gzip.compress(b" " * 200_000_000)
    assert len(bomb) < LIMIT
    began = time.process_time()
    assert live.ask(bomb, Content_Encoding="gzip")[0] == 413
    assert time.process_time() - began < 1
    assert live.ask(gzip.compress(payload()), Content_Encoding="gzip")[0] == 200
    assert live.ask(b"not gzip at all", Content_Encoding="gzip")[0] == 400
    assert live.takes_a_good_alert()


def test_a_slow_sender_is_waited_for(live: Live) -> None:
    body = payload()
    head = (
        f"POST /webhook/alertmanager HTTP/1.1\nHost: x\nAuthorization: Bearer {TOKEN}\nContent-Length: {len(body)}\n\n"
    )
    with closing(live.raw(head)) as connection:
        for start in range(0, len(body), 40):
            connection.sendall(body[start : start + 40])
            time.sleep(0.01)
        assert connection.recv(100).startswith(b"HTTP/1.1 200 ")


PARTIAL = (
    f'POST /webhook/alertmanager HTTP/1.1\nHost: x\nAuthorization: Bearer {TOKEN}\nContent-Length: 500\n\n{{"alerts"'
)


def test_stuck_senders_take_no_more_than_their_places(tmp_path: Path) -> None:
    with running(tmp_path, webhook_max_in_flight=3) as live:
        stuck = [live.raw(PARTIAL) for _ in range(3)]
        _until(lambda: live.ask(payload())[0] == 503)
        assert live.ask(method="GET", path="/healthz")[0] == 200
        assert live.ask(payload(), Authorization="Bearer no")[0] == 401
        stuck.pop().close()
        _until(lambda: live.ask(payload())[0] == 200)
        for connection in stuck:
            connection.close()
        _until(live.takes_a_good_alert)


def test_a_sender_that_stays_stuck_loses_its_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(edge, "_READ_SECONDS", 0.3)
    with running(tmp_path, webhook_max_in_flight=1) as live, closing(live.raw(PARTIAL)) as connection:
        _until(lambda: live.ask(payload())[0] == 503)
        assert connection.recv(100).startswith(b"HTTP/1.1 503 ")
        _until(live.takes_a_good_alert)


def test_more_at_once_than_can_be_worked_on_is_sent_back(tmp_path: Path) -> None:
    with running(tmp_path, webhook_max_in_flight=2) as live:
        live.intake.gate.clear()
        answers: list[int] = []
        senders = [threading.Thread(target=lambda: answers.append(live.ask(payload())[0])) for _ in range(8)]
        for sender in senders:
            sender.start()
        _until(lambda: len(answers) == 6)
        live.intake.gate.set()
        for sender in senders:
            sender.join(10)
        assert sorted(answers) == [200, 200, *[503] * 6]
        assert len(live.intake.taken) == 2


def test_heads_that_never_end_hold_nobody_up(live: Live) -> None:
    opened = [live.raw("POST /webhook/alertmanager HTTP/1.1\nHost: x\nX-Slow: ") for _ in range(100)]
    assert live.takes_a_good_alert()
    for connection in opened:
        connection.close()


@pytest.mark.parametrize("noise", ["\x00" * 500, "GET\n\n", "POST /webhook/alertmanager HTTP/9.9\n\n", "\x16\x03\x01"])
def test_what_is_not_http_is_hung_up_on(live: Live, noise: str) -> None:
    with closing(live.raw(noise)) as connection:
        connection.shutdown(socket.SHUT_WR)
        assert b" 200 " not in connection.recv(1000)
    assert live.takes_a_good_alert()


def _until(holds: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 10
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.01)


# -- what may be in a body ---------------------------------------------------------------------------------------------

INJECTIONS = [
    "'; DROP TABLE incidents; --",
    "$(reboot) `reboot` | reboot; reboot && reboot",
    'up{job="x"} or vector(1)',
    "{{ ''.__class__ }} {% for a in b %}",
    "../../../../etc/passwd",
    "line\r\nX-Header: forged\n\n{",
    "\x1b[31m\x07\u202e\ufeff",
    "[" * 1000,
    "in the interval [0, 10)",
    '}]}","alerts":[{',
    "x" * 65536,
    "\U0001f642" * 1000,
]


@pytest.mark.parametrize(
    ("sent", "taken"),
    [
        ("x\x00y", "x\ufffdy"),
        ("\ud800", "\ufffd"),
        ("\udfff\x00\ud83d", "\ufffd\ufffd\ufffd"),
        ("\ud83d\ude42", "\U0001f642"),
    ],
)
def test_what_kubernetes_does_not_store_is_marked_as_unreadable(live: Live, sent: str, taken: str) -> None:
    texts = {"alertname": "A", f"a{sent}": sent}
    assert live.ask(payload(alert(labels=texts, annotations=texts, generatorURL=sent, fingerprint=sent)))[0] == 200
    (found,) = live.intake.taken
    assert found.labels == found.annotations == {"alertname": "A", f"a{taken}": taken}
    assert (found.generator_url, found.fingerprint) == (taken, taken)


@pytest.mark.parametrize("text", INJECTIONS, ids=range(len(INJECTIONS)))
def test_texts_come_through_as_they_are(live: Live, text: str) -> None:
    sent = [alert(labels={"alertname": "A", "x": text}, annotations={"summary": text}, fingerprint=...)] * 40
    assert live.ask(payload(*sent[: 40 if len(text) <= 1000 and text.isascii() else 1]))[0] == 200
    assert live.intake.taken[0].labels["x"] == live.intake.taken[0].annotations["summary"] == text


MANY = {f"l{n}": "x" for n in range(300)}
REFUSED: list[tuple[str, bytes]] = [
    ("nothing", b""),
    ("no JSON", b"alerts=1"),
    ("half", payload()[:-5]),
    ("two", payload() + payload()),
    ("a list", b"[]"),
    ("a number", b"5"),
    ("null", b"null"),
    ("no alerts", b"{}"),
    ("alerts null", b'{"alerts": null}'),
    ("alerts an object", b'{"alerts": {}}'),
    ("an alert null", b'{"alerts": [null]}'),
    ("another version", payload(version="3")),
    ("version a number", payload(version=4)),
    ("no status", payload(alert(status=...))),
    ("another status", payload(alert(status="burning"))),
    ("no labels", payload(alert(labels=...))),
    ("labels a list", payload(alert(labels=["a"]))),
    ("a label a number", payload(alert(labels={"a": 1}))),
    ("a label null", payload(alert(labels={"a": None}))),
    ("a label an object", payload(alert(labels={"a": {"b": "c"}}))),
    ("too many labels", payload(alert(labels=MANY))),
    ("too many annotations", payload(alert(annotations=MANY))),
    ("an annotation true", payload(alert(annotations={"a": True}))),
    ("no start", payload(alert(startsAt=...))),
    ("start null", payload(alert(startsAt=None))),
    ("start a number", payload(alert(startsAt=1772452800))),
    ("start a list", payload(alert(startsAt=[]))),
    ("start a word", payload(alert(startsAt="now"))),
    ("start before the calendar", payload(alert(startsAt="0001-01-01T00:00:00+01:00"))),
    ("start after the calendar", payload(alert(startsAt="9999-12-31T23:59:59-01:00"))),
    ("start in the year 10000", payload(alert(startsAt="10000-01-01T00:00:00Z"))),
    ("start in the year 0", payload(alert(startsAt="0000-01-01T00:00:00Z"))),
    ("end a number", payload(alert(endsAt=5))),
    ("end after the calendar", payload(alert(endsAt="9999-12-31T23:59:59-01:00"))),
    ("fingerprint a number", payload(alert(fingerprint=5))),
    ("fingerprint too long", payload(alert(fingerprint="f" * 65))),
    ("URL null", payload(alert(generatorURL=None))),
    ("NaN", b'{"alerts": [NaN]}'),
    ("Infinity elsewhere", payload(x=1).replace(b'"x": 1', b'"x": -Infinity')),
    ("not UTF-8", b'{"alerts": ["\xff\xfe"]}'),
    ("UTF-16 with a mark", payload().decode().encode("utf-16")[:-1]),
    ("deep lists", b'{"alerts": ' + b"[" * 100_000 + b"]" * 100_000 + b"}"),
    ("deep objects", b'{"a":' * 100_000 + b"1" + b"}" * 100_000),
    ("deep and open", b"[" * 200_000),
    ("a huge number", b'{"alerts": [], "x": ' + b"9" * 100_000 + b"}"),
    ("too many alerts", payload(*[alert()] * 10_001)),
    ("spaces", b" " * 1_000_000),
]


@pytest.mark.parametrize("body", [r[1] for r in REFUSED], ids=[r[0] for r in REFUSED])
def test_what_is_no_payload_is_refused_for_good(shared: Live, body: bytes) -> None:
    before = len(shared.intake.taken)
    status, said = shared.ask(body)
    assert status == 400, said
    assert 3 < len(said) <= 2001
    assert len(shared.intake.taken) == before
    assert shared.takes_a_good_alert()


SPOILED: list[Any] = [
    alert(labels={"alertname": "Spoiled"} | MANY),
    alert(labels={"alertname": "Spoiled"}, annotations=MANY),
    alert(labels={"alertname": "Spoiled", "a": 1}),
    alert(labels={"alertname": "Spoiled"}, startsAt="now"),
    alert(labels={"alertname": 5}),
    alert(labels=["alertname"]),
    None,
]


@pytest.mark.parametrize("one", SPOILED, ids=range(len(SPOILED)))
def test_one_alert_that_cannot_be_read_costs_the_others_nothing(live: Live, one: Any) -> None:
    status, said = live.ask(payload(alert(fingerprint="a"), one, alert(fingerprint="b")))
    assert (status, said) == (200, "stored, but for 1\n")
    assert [taken.fingerprint for taken in live.intake.taken] == ["a", "b"]
    counted = {"source": "webhook", "outcome": "unreadable"}
    assert live.metrics.registry.get_sample_value("paramedic_alerts_total", counted) == 1


def test_what_is_left_out_is_named_with_what_is_wrong_in_it() -> None:
    found = parse_payload(payload(alert(), SPOILED[0], SPOILED[2], SPOILED[5]))
    first, second, third = found.unreadable
    assert first.startswith("alerts.1 (Spoiled): labels: ")
    assert "256 items" in first
    assert second.startswith("alerts.2 (Spoiled): labels.a: ")
    assert third.startswith("alerts.3: labels: ")


def test_ten_megabytes_are_taken_where_that_is_allowed(shared: Live) -> None:
    many = [alert(labels={"alertname": "A", "n": str(n)}, annotations={"summary": "[" * 1000}) for n in range(8000)]
    assert shared.ask(payload(*many))[0] == 200


def test_of_two_values_the_last_counts(shared: Live) -> None:
    body = payload().replace(b'"severity": "critical"', b'"severity": "info", "severity": "critical"')
    assert shared.ask(body)[0] == 200
    assert shared.intake.taken[-1].labels["severity"] == "critical"


anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=10) | st.just("2026-03-02T12:00:00Z"),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)
FIELDS = ["status", "labels", "annotations", "startsAt", "endsAt", "generatorURL", "fingerprint"]
bent = st.dictionaries(st.sampled_from(FIELDS), anything | st.just(...), max_size=3).map(lambda change: alert(**change))
bodies = st.one_of(
    st.binary(max_size=200),
    anything.map(lambda value: json.dumps(value).encode()),
    st.lists(bent | anything, max_size=3).map(lambda alerts: json.dumps({"alerts": alerts}).encode()),
    st.tuples(st.integers(0, 400), st.binary(max_size=3)).map(lambda cut: payload()[: cut[0]] + cut[1]),
)


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(bodies)
def test_any_body_gives_alerts_or_a_value_error(body: bytes) -> None:
    try:
        found = parse_payload(body)
    except ValueError:
        return
    assert all(isinstance(a, Alert) and a.starts_at.tzinfo for a in found.alerts)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(bodies)
def test_the_server_lives_on_whatever_comes(shared: Live, body: bytes) -> None:
    assert shared.ask(body)[0] in (200, 400)
    assert shared.takes_a_good_alert()


# -- TLS ---------------------------------------------------------------------------------------------------------------


def certificate(folder: Path, name: str, prefix: str = "tls") -> tuple[Path, Path]:
    """A self-signed certificate for 127.0.0.1, written over the one that is there."""
    crt, key = folder / f"{prefix}.crt", folder / f"{prefix}.key"
    argv = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "2"]
    argv += ["-subj", f"/CN={name}", "-addext", "subjectAltName=IP:127.0.0.1", "-keyout", str(key), "-out", str(crt)]
    subprocess.run(argv, check=True, capture_output=True, timeout=30)
    return crt, key


def name_shown(port: int, trusted: Path) -> str:
    """The subject of the certificate that the server shows; fails unless it is the trusted one."""
    context = ssl.create_default_context(cafile=str(trusted))
    context.verify_flags &= ~ssl.VERIFY_X509_STRICT
    with (
        socket.create_connection(("127.0.0.1", port), timeout=10) as plain,
        context.wrap_socket(plain, server_hostname="127.0.0.1") as wrapped,
    ):
        found: Any = wrapped.getpeercert()
    return str(dict(pair for (pair,) in found["subject"])["commonName"])


def test_tls(tmp_path: Path) -> None:
    crt, key = certificate(tmp_path, "first")
    with running(tmp_path, tls_cert_file=crt, tls_key_file=key) as live:
        assert name_shown(live.port, crt) == "first"
        context = ssl.create_default_context(cafile=str(crt))
        context.verify_flags &= ~ssl.VERIFY_X509_STRICT
        with closing(http.client.HTTPSConnection("127.0.0.1", live.port, context=context, timeout=10)) as connection:
            connection.request("POST", "/webhook/alertmanager", payload(), {"Authorization": f"Bearer {TOKEN}"})
            assert connection.getresponse().status == 200
        with pytest.raises((OSError, http.client.HTTPException)):
            live.ask(payload())


async def test_a_rotated_certificate_is_shown_to_new_connections(tmp_path: Path) -> None:
    crt, key = certificate(tmp_path, "first")
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(crt, key)
    server = await asyncio.start_server(lambda _, writer: writer.close(), "127.0.0.1", 0, ssl=context)
    port = server.sockets[0].getsockname()[1]
    refresher = asyncio.create_task(keep_certificate_fresh(context, crt, key, every=0.05))
    await asyncio.sleep(0.1)
    trusted_copy = crt.read_bytes()
    trusted = tmp_path / "first.pem"
    trusted.write_bytes(trusted_copy)
    try:
        # half of a rotation, and rubbish: the old one stays in use
        half, _ = certificate(tmp_path, "half", "half")
        for content in (half.read_bytes(), b"rubbish", trusted_copy):
            crt.write_bytes(content)
            await asyncio.sleep(0.2)
            assert await asyncio.to_thread(name_shown, port, trusted) == "first"
        certificate(tmp_path, "second")
        await _eventually_shown(port, crt, "second")
        assert not refresher.done()
    finally:
        refresher.cancel()
        server.close()


async def _eventually_shown(port: int, trusted: Path, name: str) -> None:
    deadline = time.monotonic() + 10
    while True:
        try:
            if await asyncio.to_thread(name_shown, port, trusted) == name:
                return
        except (OSError, ssl.SSLError):
            pass
        assert time.monotonic() < deadline
        await asyncio.sleep(0.05)


@pytest.mark.parametrize("missing", ["tls_cert_file", "tls_key_file"])
def test_a_certificate_that_cannot_be_loaded_is_explained(tmp_path: Path, missing: str) -> None:
    crt, key = certificate(tmp_path, "first")
    chosen = {"tls_cert_file": crt, "tls_key_file": key} | {missing: tmp_path / "nothing"}
    with pytest.raises(SettingsError, match="the TLS certificate cannot be loaded"):
        asyncio.run(_serve_once(Settings(listen="127.0.0.1:0", **chosen)))


def test_a_port_that_is_taken_is_explained() -> None:
    with closing(socket.create_server(("127.0.0.1", 0))) as taken:
        listen = f"127.0.0.1:{taken.getsockname()[1]}"
        with pytest.raises(SettingsError, match=f"cannot listen on {listen} \\(PARAMEDIC_LISTEN\\)"):
            asyncio.run(_serve_once(Settings(listen=listen)))


async def _serve_once(chosen: Settings) -> None:
    metrics = Metrics()
    handler = Receiver(chosen, FakeIntake(), Store(), metrics)  # type: ignore[arg-type]
    async with serve(chosen, handler, metrics, lambda: None, lambda: None):
        pass
