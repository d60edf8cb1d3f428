"""Foreign text made fit to be kept and shown: without what looks like a secret, without what a terminal obeys.

A net, not a wall: a secret that looks like any other word stays. RE2, so that no text takes more than linear time.
"""

from functools import lru_cache
from typing import Any

import re2

from paramedic.core.templates import one_line

HIDDEN = "***"


def _pattern(text: str) -> Any:
    return re2.compile(text)  # type: ignore[no-untyped-call]


_ESCAPES = _pattern("\x1b(?:\\[[0-?]*[ -/]*[@-~]|\\][^\x07\x1b]*(?:\x07|\x1b\\\\)?|[@-_])")
_KEY_BLOCK = _pattern(
    r"(?s)-----BEGIN [A-Z0-9 ]{0,40}PRIVATE KEY(?: BLOCK)?-----.*?(?:-----END [A-Z0-9 ]{0,40}-----|\z)"
)
# The end of a key whose beginning was cut off, as the last lines of a log may begin anywhere.
_KEY_TAIL = _pattern(r"(?s)\A[A-Za-z0-9+/=\s\\]*-----END [A-Z0-9 ]{0,40}PRIVATE KEY(?: BLOCK)?-----")
_WORDS = (
    r"(?:[\w.-]*(?:passwd|password|passphrase|passcode|pwd|pgpass|secret|token|api[_.-]?key|apikey|access[_.-]?key"
    r"|private[_.-]?key|client[_.-]?key|signing[_.-]?key|(?:en|de)cryption[_.-]?key|master[_.-]?key|ssh[_.-]?key"
    r"|fernet[_.-]?key|account[_.-]?key|shared[_.-]?key|hmac[_.-]?key|credentials?|session[_.-]?id|cookie|signature|dsn)"
    r"[\w.-]*"
    # A word of its own: neither basalt nor saltstack.
    r"|\b(?:[\w.-]*[_.-])?salt|\b[\w.-]*(?-i:[a-z0-9]Salt))"
)
_VALUE = r"""(?:\[[^\]]*\]?|"(?:[^"\\]|\\.)*"?|\\+"(?:[^"\\]|\\[^"])*\\*"?|\\*'[^']*'?|[^\s"',;&}\])]+)"""
_PATTERNS = tuple(
    (_pattern(pattern), replacement)
    for pattern, replacement in (
        # Whole headers, whatever their scheme.
        (
            r"(?i)((?:proxy-)?authorization|x-[\w-]*(?:key|token|auth)|(?:set-)?cookie)([\"'\\]*\s*[:=]\s*)[^\r\n]+",
            rf"\1\2{HIDDEN}",
        ),
        (r"(?i)\b(bearer|basic)\s+[\w.~+/=-]{8,}", rf"\1 {HIDDEN}"),
        # key=value, key: value, "key": "value", --key value
        (rf"(?i)({_WORDS})([\"'\\]*\s*(?:=>|[:=])\s*){_VALUE}", rf"\1\2{HIDDEN}"),
        (rf"(?i)(\b[\w.-]*[_.-]pass|[\"']pass)([\"'\\]*\s*(?:=>|[:=])\s*){_VALUE}", rf"\1\2{HIDDEN}"),
        (rf"(?i)(--{_WORDS}\s+){_VALUE}", rf"\1{HIDDEN}"),
        # <password>value</password>
        (rf"(?i)(<(?:\w+:)?{_WORDS}(?:\s[^<>]*)?>)(?:<!\[CDATA\[[^\]]*\]\]>|[^<])+(</)", rf"\1{HIDDEN}\2"),
        # curl -u user:password
        (r"(\s(?:-u|--user|--proxy-user)[\s=]+[\"']?)[^\s:\"']+:[^\s\"']+", rf"\1{HIDDEN}"),
        # The user and password of a URL; its host must stay readable.
        (r"([A-Za-z][\w+.-]*://)[^\s/\"']*@", rf"\1{HIDDEN}@"),
    )
)
# A value of several lines in YAML; those belong to it that are indented deeper than its key.
_BLOCK = _pattern(rf"(?i)^([ \t]*(?:-[ \t]+)*)[\"']?{_WORDS}[\"']?[ \t]*:[ \t]*[|>][-+0-9]*[ \t]*(?:#.*)?\r?$")
_TOKENS = _pattern(
    r"\beyJ[\w-]{8,}\.[\w-]{4,}(?:\.[\w-]*)?"  # JSON Web Tokens
    r"|\b(?:AKIA|ASIA)[A-Z0-9]{16}\b"  # AWS
    r"|\bgh[pousr]_\w{20,}|\bgithub_pat_\w{20,}|\bglpat-[\w-]{16,}"  # GitHub, GitLab
    r"|\bxox[a-z]-[\w-]{10,}"  # Slack
    r"|\bhooks\.slack\.com/\w+/[\w/-]+|\b(?:sk-|npm_)[\w-]{20,}"  # incoming webhooks, model vendors, npm
    r"|\b[sr]k_(?:live|test)_\w{10,}|\bAIza[\w-]{30,}"  # Stripe, Google
)


def redacted(text: str) -> str:
    """The text with what looks like a secret replaced; line breaks stay."""
    text = _without_blocks(_ESCAPES.sub("", text))
    text = _KEY_TAIL.sub(HIDDEN, _KEY_BLOCK.sub(HIDDEN, text))
    for pattern, replacement in _PATTERNS:
        text = pattern.sub(replacement, text)
    return str(_TOKENS.sub(HIDDEN, text))


def _without_blocks(text: str) -> str:
    if "\n" not in text:
        return text
    kept: list[str] = []
    depth: int | None = None
    for line in text.split("\n"):
        indent = len(line) - len(line.lstrip(" "))
        if depth is not None and line.strip() and indent > depth:
            continue
        kept.append(line)
        if header := _BLOCK.search(line):
            depth = len(header.group(1))
            kept.append(" " * (depth + 2) + HIDDEN)
        elif line.strip():
            depth = None
    return "\n".join(kept)


def clean(text: object, limit: int = 200) -> str:
    """One printable line of at most ``limit`` characters, without secrets."""
    # What is cut off must not leave half a secret that no pattern knows any more: so cut last.
    return _cleaned(str(text)[: 8 * limit], limit)


@lru_cache(maxsize=1024)
def _cleaned(text: str, limit: int) -> str:
    """Remembered, as two hundred pods in the same trouble say the same."""
    line = one_line(redacted(text))
    return line if len(line) <= limit else line[: limit - 1] + "…"


def clean_lines(text: str, limit: int = 1000) -> list[str]:
    """The lines of a log, each printable and at most ``limit`` characters long, without secrets."""
    return [line[:limit] for raw in redacted(text).splitlines() if (line := one_line(raw))]
