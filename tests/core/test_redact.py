"""Secrets and control characters are gone from foreign text; what helps a person stays."""

from __future__ import annotations

import time

import pytest

from paramedic.core.redact import clean, clean_lines, redacted

JWT = "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxMjM0In0.dBjftJeZ4CVP-mB92K27uhbUJU1p1r"


@pytest.mark.parametrize(
    ("text", "result"),
    [
        ("password=hunter2 user=bob", "password=*** user=bob"),
        ("DB_PASSWORD: hunter2", "DB_PASSWORD: ***"),
        ("DB_PASS=hunter2 DB_HOST=db", "DB_PASS=*** DB_HOST=db"),
        ('{"user": "app", "pass": "hunter2"}', '{"user": "app", "pass": ***}'),
        (r'{"password": "hun\"ter 2", "a": 1}', '{"password": ***, "a": 1}'),
        ("tests pass: 5, fail: 0", "tests pass: 5, fail: 0"),
        ("POST https://hooks.slack.com/services/T000/B000/XXXXXXXX", "POST https://***"),
        ('{"dbPassword": "hunter2", "port": 1}', '{"dbPassword": ***, "port": 1}'),
        (r"{\"api_key\": \"hunter 2\", \"a\": 1}", r"{\"api_key\": ***, \"a\": 1}"),
        ("secrets: ['hunter2', 'b'], a: 1", "secrets: ***, a: 1"),
        ("secret_key => 'hunter2'", "secret_key => ***"),
        ("run --token hunter2 --verbose", "run --token *** --verbose"),
        ("GET /a?access_token=hunter2&b=1", "GET /a?access_token=***&b=1"),
        ("Authorization: Bearer hunter2hunter2", "Authorization: ***"),
        ("authorization=Digest username=bob, response=hunter2", "authorization=***"),
        ("Set-Cookie: a=hunter2; b=hunter2", "Set-Cookie: ***"),
        ("X-Api-Key: hunter2", "X-Api-Key: ***"),
        ("sent Bearer hunter2hunter2 to it", "sent Bearer *** to it"),
        ("postgres://bob:hunter2@db:5432/x", "postgres://***@db:5432/x"),
        ("redis://:hun@ter2@db", "redis://***@db"),
        (f"got {JWT}.", "got ***."),
        ("id AKIAIOSFODNN7EXAMPLE here", "id *** here"),
        ("ghp_0123456789abcdefghijABCDEFGHIJ", "***"),
        ("-----BEGIN RSA PRIVATE KEY-----\nhunter2\n-----END RSA PRIVATE KEY-----\nafter", "***\nafter"),
        ("-----BEGIN PRIVATE KEY-----\nhunter2", "***"),
        ("aHVudGVyMg==\n-----END PRIVATE KEY-----\nafter", "***\nafter"),
        ("pass\x1b[1mword=hunter2", "password=***"),
        ("curl -su -u bob:hunter2 http://x", "curl -su -u *** http://x"),
        ("curl --user 'bob:hunter2' http://x", "curl --user '***' http://x"),
        ("a: 1\n- password: |\n    hunter2\n\n    more\n  b: 2", "a: 1\n- password: ***\n    ***\n\n  b: 2"),
        ("tls:\n  token: >-\n   hunter2\n   hunter2\n", "tls:\n  token: ***\n    ***\n"),
        ("ENCRYPTION_KEY=hunter2 A=1", "ENCRYPTION_KEY=*** A=1"),
        ("decryptionKey: hunter2", "decryptionKey: ***"),
        ("MASTER_KEY=hunter2", "MASTER_KEY=***"),
        ('{"sshKey": "hunter2"}', '{"sshKey": ***}'),
        ("FERNET_KEY=hun+ter/2=", "FERNET_KEY=***"),
        (
            "AccountName=covet;AccountKey=hun+ter/2==;EndpointSuffix=core.windows.net",
            "AccountName=covet;AccountKey=***;EndpointSuffix=core.windows.net",
        ),
        ("ACCOUNT_KEY: hunter2", "ACCOUNT_KEY: ***"),
        ("PGPASS=hunter2", "PGPASS=***"),
        ("SALT=hunter2", "SALT=***"),
        ("hash_salt: hunter2", "hash_salt: ***"),
        ('{"hashSalt": "hunter2"}', '{"hashSalt": ***}'),
        ("run --salt hunter2 -v", "run --salt *** -v"),
        ("<db><password>hunter2</password></db>", "<db><password>***</password></db>"),
        ('<c:Password type="a">\nhunter 2\n</c:Password>', '<c:Password type="a">***</c:Password>'),
        ("<apiKey><![CDATA[hunter2<&]]></apiKey>", "<apiKey>***</apiKey>"),
    ],
)
def test_what_looks_like_a_secret_is_gone(text: str, result: str) -> None:
    assert redacted(text) == result
    assert redacted(result) == result


@pytest.mark.parametrize(
    "text",
    [
        'secret "covet-secrets" not found',
        "HTTP probe failed with statuscode: 503",
        "dial tcp 10.0.0.1:5432: connect: connection refused",
        "https://api.example.com/health answered 503",
        "-----BEGIN CERTIFICATE-----\nMIIB\n-----END CERTIFICATE-----",
        "bob@example.com: no such user",
        "docker run -u app image: not found",
        "data:\n  app.conf: |\n    threads: 4\n",
        "cache_key=users:42 partition_key=7 sortKey: name",
        "primary_key=id foreign_key: user_id public_key=abc",
        "key=value key: 5",
        "basalt=1 saltstack: 3006 somersault=2",
        "usage: login <user> <password> [options]",
        "<password></password> is empty",
    ],
)
def test_what_helps_stays(text: str) -> None:
    assert redacted(text) == text


def test_one_line_is_printable_and_bounded() -> None:
    assert clean("a\x1b]0;title\x07b\r\n\tc\u202e d\x00") == "ab c d"
    assert clean("x" * 300) == "x" * 199 + "…"
    assert clean(None, 10) == "None"


def test_a_log_keeps_its_lines_but_no_terminal_commands() -> None:
    assert clean_lines("a\n\x1b[31mred\x1b[0m\n\n\x07token=x\n" + "y" * 3000) == ["a", "red", "token=***", "y" * 1000]


@pytest.mark.parametrize(
    "text", ["password=" * 20_000, "-----BEGIN PRIVATE KEY" * 9_000, '"' * 200_000, "a.b" * 70_000]
)
def test_no_text_takes_long(text: str) -> None:
    began = time.perf_counter()
    redacted(text)
    assert time.perf_counter() - began < 2
