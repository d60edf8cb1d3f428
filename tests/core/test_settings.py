"""Settings: the file's keys, the variables over it, and every mistake in one message. And what a log never shows."""

from __future__ import annotations

import io
import json
import logging
import sys
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import structlog

from paramedic import log
from paramedic.settings import Settings, SettingsError, load_settings


@pytest.fixture(autouse=True)
def bare_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    import os

    for name in list(os.environ):
        if name.startswith("PARAMEDIC_"):
            monkeypatch.delenv(name)


@pytest.fixture
def given(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    def write(text: str) -> Path:
        path = tmp_path / "config.yaml"
        path.write_text(text)
        monkeypatch.setenv("PARAMEDIC_CONFIG", str(path))
        return path

    return write


FILE = """
listen: 127.0.0.1:9999
webhookTokenFile: /etc/token
webhookMaxBytes: 2048
leaseDuration: 20s
prometheus:
  url: http://prometheus:9090
  pollInterval: 1m
  externalLabels: {clusterName: eu, snake_case: kept}
"""


def test_the_defaults_work() -> None:
    found = load_settings()
    assert found.listen_address == ("0.0.0.0", 8080)
    assert found.prometheus.url is None
    assert found.webhook_anonymous is False
    assert found.lease_duration > found.renew_deadline > found.retry_period


def test_the_files_keys_are_camel_case(given: Any) -> None:
    given(FILE)
    found = load_settings()
    assert found.listen_address == ("127.0.0.1", 9999)
    assert found.webhook_token_file == Path("/etc/token")
    assert (found.webhook_max_bytes, found.lease_duration) == (2048, timedelta(seconds=20))
    assert found.prometheus.poll_interval == timedelta(minutes=1)
    assert found.prometheus.external_labels == {"clusterName": "eu", "snake_case": "kept"}


def test_variables_win_over_the_file(given: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    given(FILE)
    monkeypatch.setenv("PARAMEDIC_LISTEN", "[::1]:7777")
    monkeypatch.setenv("PARAMEDIC_WEBHOOK_MAX_BYTES", "4096")
    monkeypatch.setenv("PARAMEDIC_PROMETHEUS__URL", "http://other:9090")
    monkeypatch.setenv("PARAMEDIC_PROMETHEUS__TIMEOUT", "7s")
    found = load_settings()
    assert found.listen_address == ("::1", 7777)
    assert found.webhook_max_bytes == 4096
    assert (found.prometheus.url, found.prometheus.timeout) == ("http://other:9090", timedelta(seconds=7))
    assert found.prometheus.poll_interval == timedelta(minutes=1)


def test_every_mistake_is_in_one_message(given: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    given("webhookMaxBytes: 3\nlogLevel: LOUD\nsurprise: 1\nprometheus: {timeout: soon, nonsense: 1}\n")
    monkeypatch.setenv("PARAMEDIC_WORKERS", "many")
    with pytest.raises(SettingsError) as failure:
        load_settings()
    said = str(failure.value)
    for field in ("webhookMaxBytes", "logLevel", "surprise", "prometheus.timeout", "prometheus.nonsense", "workers"):
        assert field in said, field
    assert "'soon' is not a duration" in said


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("a: [", "cannot be read"),
        ("- a list", None),
        ("just a word", None),
        ("prometheus: [1]", "prometheus"),
        ("leaseDuration: [1]", "leaseDuration"),
        ("leaseDuration: {a: 1}", "leaseDuration"),
        ("leaseDuration: 9999999999999d", "leaseDuration"),
        ("listen: 0.0.0.0", "listen"),
        ("listen: 0.0.0.0:http", "listen"),
        ("listen: 0.0.0.0:99999", "listen"),
        ("\x00", None),
    ],
)
def test_a_wrong_file_is_explained(given: Any, text: str, said: str | None) -> None:
    given(text)
    with pytest.raises(SettingsError) as failure:
        load_settings()
    assert said is None or said in str(failure.value)


def test_an_empty_file_is_no_mistake(given: Any) -> None:
    given("")
    assert load_settings() == load_settings()


def test_a_file_that_is_not_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PARAMEDIC_CONFIG", "/nowhere/config.yaml")
    with pytest.raises(SettingsError, match=r"PARAMEDIC_CONFIG names /nowhere/config\.yaml, which is not a file"):
        load_settings()


def test_binary_is_explained(given: Any) -> None:
    path = given("")
    path.write_bytes(b"\xff\xfe\x00listen")
    with pytest.raises(SettingsError):
        load_settings()


@pytest.mark.parametrize(
    ("listen", "address"), [(":8080", ("0.0.0.0", 8080)), ("[::]:80", ("::", 80)), ("h:0", ("h", 0))]
)
def test_addresses(listen: str, address: tuple[str, int]) -> None:
    assert Settings(listen=listen).listen_address == address


# -- the log -----------------------------------------------------------------------------------------------------------


@pytest.fixture
def lines(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """Configures logging as the operator does; calling it gives what was written, parsed."""
    written, root = io.StringIO(), logging.getLogger()
    handlers, level = root.handlers[:], root.level
    monkeypatch.setattr(sys, "stderr", written)
    log.configure("INFO", "json")
    yield lambda: [json.loads(line) for line in written.getvalue().splitlines()]
    root.handlers[:] = handlers
    root.setLevel(level)
    structlog.reset_defaults()


def test_secrets_are_hidden(lines: Any) -> None:
    log.get_logger("test.secrets").info(
        "asked",
        token="s3cret",
        webhook_token="s3cret",
        Authorization="Bearer s3cret",
        database_password="s3cret",
        client_secret="s3cret",
        headers={"Authorization": "Bearer s3cret", "Accept": "json"},
        nested=[{"password": "s3cret"}],
        url="https://user:s3cret@host/path",
        note="sent with Bearer s3cret-s3cret and more",
        kept="covet/api-down",
    )
    (line,) = lines()
    assert "s3cret" not in json.dumps(line)
    assert (line["kept"], line["headers"]["Accept"], line["level"]) == ("covet/api-down", "json", "info")
    assert line["url"] == "https://user:***@host/path"


def test_secrets_in_exceptions_and_in_others_records_are_hidden(lines: Any) -> None:
    try:
        raise ValueError("401 for Bearer s3cret-token at postgres://covet:s3cret@db/covet")
    except ValueError:
        log.get_logger("test.exceptions").exception("failed")
    logging.getLogger("some.library").warning("header %s", "Bearer s3cret-token")
    assert "s3cret" not in json.dumps(lines())
    assert "ValueError" in lines()[0]["exception"]
    assert lines()[1]["logger"] == "some.library"


def test_one_line_each_whatever_is_in_it(lines: Any) -> None:
    log.get_logger("test.lines").info(
        "two\nlines\u2028", value='"}\n{"level": "forged"}', odd=object, number=float("nan")
    )
    assert len(lines()) == 1


def test_debug_is_not_written(lines: Any) -> None:
    log.get_logger("test.debug").debug("nothing")
    assert lines() == []
