"""Alertmanager's matchers, as its documentation has them ("Matchers" under "Configuration").

A matcher is a label name, one of ``=`` ``!=`` ``=~`` ``!~``, and a value that may be in double quotes, with any
whitespace between. In the value a backslash escapes a double quote, an n (a line feed) or a backslash; any other
backslash stands for itself. A list is separated by commas and may stand in braces. Regular expressions are RE2 and
anchored at both ends. A label that an alert lacks has the empty string as its value.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

import re2

_NAME = r'(?:[a-zA-Z_:][a-zA-Z0-9_:]*|"(?:[^"\\]|\\.)+")'
_ONE = re.compile(rf"^\s*({_NAME})\s*(=~|!=|!~|=)\s*(.*?)\s*$", re.DOTALL)
_ESCAPES = {"n": "\n", '"': '"', "\\": "\\"}
_RE2_OPTIONS = re2.Options()
_RE2_OPTIONS.log_errors = False


@dataclass(frozen=True, slots=True)
class Matcher:
    """One comparison of a label with a value."""

    label: str
    operator: str
    value: str
    pattern: Any = field(default=None, compare=False, repr=False)

    def matches(self, labels: Mapping[str, str]) -> bool:
        """Whether an alert with these labels passes."""
        actual = labels.get(self.label, "")
        match self.operator:
            case "=":
                return actual == self.value
            case "!=":
                return actual != self.value
            case "=~":
                return self.pattern.fullmatch(actual) is not None
            case _:
                return self.pattern.fullmatch(actual) is None

    def __str__(self) -> str:
        value = self.value.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
        return f'{self.label}{self.operator}"{value}"'


@lru_cache(maxsize=4096)
def parse_matchers(text: str) -> tuple[Matcher, ...]:
    """Reads one matcher or a list of them. Raises ValueError that says what is wrong and where."""
    stripped = text.strip()
    if stripped.startswith("{") != stripped.endswith("}"):
        raise ValueError(f"{text!r}: a brace is opened or closed without the other")
    if stripped.startswith("{"):
        stripped = stripped[1:-1]
    return tuple(_parse_one(part) for part in _split(stripped))


def all_match(matchers: tuple[Matcher, ...], labels: Mapping[str, str]) -> bool:
    """Whether every matcher passes."""
    return all(m.matches(labels) for m in matchers)


def _split(text: str) -> list[str]:
    """Splits at commas outside of quotes; one comma at the end is tolerated."""
    parts, start, quoted, position = [], 0, False, 0
    while position < len(text):
        char = text[position]
        if char == "\\":
            position += 1
        elif char == '"':
            quoted = not quoted
        elif char == "," and not quoted:
            parts.append(text[start:position])
            start = position + 1
        position += 1
    last = text[start:]
    return parts if parts and not last.strip() else [*parts, last]


def _parse_one(text: str) -> Matcher:
    found = _ONE.match(text)
    if not found:
        raise ValueError(f'{text.strip()!r} is not a matcher: write for example severity=~"critical|page"')
    label, operator, raw = found.groups()
    label = _unescape(label[1:-1]) if label.startswith('"') else label
    value = _value(raw, text)
    return Matcher(label, operator, value, _compile(value) if "~" in operator else None)


def _value(raw: str, text: str) -> str:
    opened = raw.startswith('"')
    closed = len(raw) > int(opened) and raw.endswith('"') and not _ends_escaped(raw)
    if opened != closed:
        raise ValueError(f"{text.strip()!r}: a double quote is opened or closed without the other")
    inner = raw[1:-1] if opened else raw
    if re.search(r'(?<!\\)(?:\\\\)*"', inner):
        raise ValueError(f'{text.strip()!r}: a double quote inside the value must be written as \\"')
    return _unescape(inner)


def _ends_escaped(raw: str) -> bool:
    """Whether the last character is escaped by an odd run of backslashes before it."""
    before = raw[:-1]
    return (len(before) - len(before.rstrip("\\"))) % 2 == 1


def _unescape(text: str) -> str:
    return re.sub(r'\\([n"\\])', lambda m: _ESCAPES[m.group(1)], text)


def _compile(pattern: str) -> Any:
    try:
        return re2.compile(pattern, _RE2_OPTIONS)  # type: ignore[no-untyped-call]
    except re2.error as error:
        raise ValueError(f"{pattern!r} is not an RE2 regular expression: {_text(error)}") from error


def _text(error: Exception) -> str:
    """The library's messages are bytes."""
    detail = error.args[0] if error.args else error
    return detail.decode(errors="replace") if isinstance(detail, bytes) else str(detail)
