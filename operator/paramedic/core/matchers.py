"""Alertmanager's matchers, read as Alertmanager itself reads them by default.

That is by its classic grammar, and what that does not take, by the UTF-8 grammar (Alertmanager's documentation,
"Matchers" and "UTF-8 in Alertmanager").

A matcher is a label name, one of ``=`` ``!=`` ``=~`` ``!~``, and a value that may be in double quotes, with any
whitespace between. A list is separated by commas and may stand in braces. Regular expressions are RE2 and anchored at
both ends. A label that an alert lacks has the empty string as its value.

Stricter than Alertmanager in two points, where a slip of the pen would make a policy answer to more than was meant: an
empty list, and a brace without its counterpart, are refused.
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import re2

_SPACES = "\t\n\v\f\r \x85\xa0\u1680" + "".join(map(chr, range(0x2000, 0x200B))) + "\u2028\u2029\u202f\u205f\u3000"
_CLASSIC_SPACES = "\t\n\f\r "
_CLASSIC = re.compile(r"[\t\n\f\r ]*([a-zA-Z_:][a-zA-Z0-9_:]*)[\t\n\f\r ]*(=~|=|!=|!~)")
_CLASSIC_ESCAPES = {"n": "\n", '"': '"', "\\": "\\"}
_RESERVED = re.escape("{}!=~,\\\"'`" + _SPACES)
_TOKEN = re.compile(rf'[{_SPACES}]*(?:([{{}},])|(=~|=|!=|!~)|("(?:[^"\\]|\\.)*")|([^{_RESERVED}]+))', re.DOTALL)
_UTF8_ESCAPE = re.compile(r"\\(?:([abfnrtv\\\"])|u([0-9a-fA-F]{4})|U([0-9a-fA-F]{8})|(.?))", re.DOTALL)
_UTF8_ESCAPES = dict(zip('abfnrtv\\"', '\a\b\f\n\r\t\v\\"', strict=True))
_NEEDS_QUOTES = re.compile(f"[{_RESERVED}]")
# Tenants write the patterns, and there may be thousands. RE2 keeps within max_mem bytes with the program and what it
# remembers of earlier texts, so each pattern gets the least in which it can be compiled: for "critical|page" that is
# the first of these, for a list of 25 long names the second, for "\p{L}+" the third.
_RE2_BYTES = (1 << 11, 1 << 13, 1 << 15)
_MOST_BYTES = 1 << 16
_TOO_LARGE = "pattern too large"
_OWN_BYTES = 2048  # of a matcher without its program, measured
# Of a class of Unicode: RE2 keeps its ranges beside the program, uncounted, even where the pattern never comes to it.
_CLASS_BYTES = 6 * 1024
_UNICODE_CLASS = re.compile(r"\\[pP]")


@dataclass(frozen=True, slots=True)
class Matcher:
    """One comparison of a label with a value."""

    label: str
    operator: str
    value: str
    pattern: Any = field(default=None, compare=False, repr=False)
    pattern_bytes: int = field(default=0, compare=False, repr=False)

    @property
    def bytes(self) -> int:
        """How much memory it takes at most."""
        return _OWN_BYTES + self.pattern_bytes

    def matches(self, labels: Mapping[str, str]) -> bool:
        """Whether an alert with these labels passes."""
        actual = labels.get(self.label, "")
        match self.operator:
            case "=":
                return actual == self.value
            case "!=":
                return actual != self.value
            case "=~":
                return self.pattern.search(actual) is not None
            case _:
                return self.pattern.search(actual) is None

    def __str__(self) -> str:
        label = f'"{_escape(self.label)}"' if _NEEDS_QUOTES.search(self.label) else self.label
        return f'{label}{self.operator}"{_escape(self.value)}"'


def parse_matchers(text: str) -> tuple[Matcher, ...]:
    """Reads one matcher or a list of them. Raises ValueError that says what is wrong and where."""
    if not text.strip(_SPACES + "{}"):
        raise ValueError(f'{text!r}: at least one matcher is needed, for example severity=~"critical|page"')
    try:
        return tuple(_classic(part) for part in _classic_parts(_without_braces(text)))
    except ValueError as error:
        if _is_lopsided(text):  # Alertmanager takes the brace for a part of the value: neither is what was meant
            raise
        try:
            return tuple(_utf8(_without_braces(text.strip(_SPACES))))
        except ValueError:
            raise error from None


def all_match(matchers: tuple[Matcher, ...], labels: Mapping[str, str]) -> bool:
    """Whether every matcher passes."""
    return all(m.matches(labels) for m in matchers)


def _is_lopsided(text: str) -> bool:
    return text.startswith("{") != text.endswith("}")


def _without_braces(text: str) -> str:
    if _is_lopsided(text):
        raise ValueError(f"{text!r}: a brace is opened or closed without the other")
    return text[1:-1] if text.startswith("{") else text


def _classic_parts(text: str) -> list[str]:
    """Splits at commas outside of quotes; one comma at the end is tolerated."""
    parts, start, quoted, escaped = [], 0, False, False
    for position, char in enumerate(text):
        if char == ",":
            if not quoted:
                parts.append(text[start:position])
                start = position + 1
        elif char == "\\":
            escaped = not escaped
        elif char == '"' and not escaped:
            quoted = not quoted
        else:
            escaped = False
    last = text[start:].strip(_SPACES)
    return [*parts, last] if last else parts


def _classic(text: str) -> Matcher:
    found = _CLASSIC.match(text)
    if not found:
        raise ValueError(f'{text.strip()!r} is not a matcher: write for example severity=~"critical|page"')
    return _matcher(found[1], found[2], _classic_value(text[found.end() :].strip(_CLASSIC_SPACES), text))


def _classic_value(raw: str, text: str) -> str:
    """The value with its escapes resolved; a backslash before anything else stands for itself."""
    opened = raw.startswith('"')
    rest, out, position = raw[opened:], [], 0
    while position < len(rest):
        char, follows = rest[position], rest[position + 1 : position + 2]
        if char == "\\" and follows in _CLASSIC_ESCAPES:
            out.append(_CLASSIC_ESCAPES[follows])
            position += 1
        elif char == '"':
            if not opened or position < len(rest) - 1:
                raise ValueError(f'{text.strip()!r}: a double quote inside the value must be written as \\"')
            return "".join(out)
        else:
            out.append(char)
        position += 1
    if opened:
        raise ValueError(f"{text.strip()!r}: a double quote is opened and not closed")
    return "".join(out)


def _utf8(text: str) -> Iterator[Matcher]:
    """The same with any label name, in quotes or not; raises ValueError for what is not of that grammar."""
    tokens = list(_tokens(text))
    while tokens:
        if len(tokens) < 3 or [kind for kind, _ in tokens[:3]] != ["text", "operator", "text"]:
            raise ValueError("not a matcher")
        (_, label), (_, operator), (_, value), *tokens = tokens
        yield _matcher(label, operator, value)
        if tokens and tokens.pop(0) != ("mark", ","):
            raise ValueError("not a comma")


def _tokens(text: str) -> Iterator[tuple[str, str]]:
    position, text = 0, text.strip(_SPACES)
    while position < len(text):
        found = _TOKEN.match(text, position)
        if not found:
            raise ValueError(f"{text[position:]!r} is not a matcher")
        mark, operator, quoted, plain = found.groups()
        if mark or operator:
            yield ("mark", mark) if mark else ("operator", operator)
        else:
            yield "text", _unquoted(quoted) if quoted else plain
        position = found.end()


def _unquoted(text: str) -> str:
    """A quoted text of the UTF-8 grammar, whose escapes are Go's (without those for single bytes)."""
    if "\n" in text:
        raise ValueError("a line break inside of quotes")
    return _UTF8_ESCAPE.sub(_resolve, text[1:-1])


def _resolve(escape: re.Match[str]) -> str:
    short, four, eight, _ = escape.groups()
    if short:
        return _UTF8_ESCAPES[short]
    code = int(four or eight or "110000", 16)
    if code > 0x10FFFF or 0xD800 <= code <= 0xDFFF:
        raise ValueError(f"{escape[0]} is not an escape")
    return chr(code)


def _matcher(label: str, operator: str, value: str) -> Matcher:
    return Matcher(label, operator, value, *(_compile(value) if "~" in operator else (None, 0)))


def _compile(pattern: str) -> tuple[Any, int]:
    """The pattern, compiled, and how many bytes it takes at most. Raises ValueError when these are too many."""
    classes = _CLASS_BYTES * len(_UNICODE_CLASS.findall(pattern))
    for allowed in _RE2_BYTES:
        if classes + allowed > _MOST_BYTES:
            break
        try:
            return re2.compile(f"^(?:{pattern})$", _options(allowed)), classes + allowed  # type: ignore[no-untyped-call]
        except re2.error as error:
            if _TOO_LARGE not in _reason(error):
                raise ValueError(f"{pattern!r} is not an RE2 regular expression: {_reason(error)}") from error
    raise ValueError(
        f"{pattern!r} takes more than {_MOST_BYTES // 1024} KiB of memory: write it with fewer repetitions and "
        "classes of Unicode characters, or divide it between entries"
    )


def _options(allowed: int) -> re2.Options:
    options = re2.Options()
    options.log_errors = False
    options.max_mem = allowed
    return options


def _reason(error: re2.error) -> str:
    """What the library says, which it does in bytes."""
    said = error.args[0] if error.args else ""
    return said.decode(errors="replace") if isinstance(said, bytes) else str(said)


def _escape(text: str) -> str:
    return text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
