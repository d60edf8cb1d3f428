"""SQL as PostgreSQL shows it in its statistics: foreign text, made fit to be told, and told apart by its kind."""

import re
from typing import Any

import re2

_MOST_CHARACTERS = 200
_LITERAL = "?"
_TOKEN = re.compile(
    r"""
      (?P<comment>--[^\n]*|/\*.*?(?:\*/|\Z))
    | (?P<dollar>\$(?P<tag>[A-Za-z_]\w*|)\$.*?(?:\$(?P=tag)\$|\Z))
    | (?P<string>(?:\b[EeBbXxNn]|\b[Uu]&)?'(?:[^'\\]|''|\\.)*(?:'|\Z|\\\Z))
    | (?P<name>"(?:[^"]|"")*(?:"|\Z)|[A-Za-z_\x80-\U0010ffff][\w$\x80-\U0010ffff]*|\$\d+)
    | (?P<number>\d[\w.]*|\.\d\w*)
    | (?P<blank>\s+)
    | (?P<other>.)
    """,
    re.VERBOSE | re.DOTALL,
)
_DEFINITIONS = frozenset(
    (
        *("alter", "analyse", "analyze", "cluster", "comment", "create", "drop", "grant", "import", "reassign"),
        *("refresh", "reindex", "revoke", "security", "truncate", "vacuum"),
    )
)


def normalized(query: str) -> str:
    """A query on one line without its literals and comments, cut at 200 characters.

    Where a backslash stands before a quote, what is a literal depends on a setting of the server: the rest is left out.
    """
    parts: list[str] = []
    for token in _TOKEN.finditer(query):
        kind, text = token.lastgroup, token.group()
        if kind == "string":
            parts.append(_LITERAL)
            if "\\" in text:
                parts.append(" …")
                break
        elif kind in ("dollar", "tag", "number"):
            parts.append(_LITERAL)
        elif kind == "comment" and "/*" in text[2:]:  # comments in comments: where this one ends is not known
            parts.append(" …")
            break
        elif kind in ("blank", "comment"):
            parts.append(" ")
        elif text.isprintable():
            parts.append(text)
    joined = " ".join("".join(parts).split())
    return joined if len(joined) <= _MOST_CHARACTERS else f"{joined[: _MOST_CHARACTERS - 1]}…"


def defines(query: str) -> bool:
    """Whether one of its statements changes definitions or maintains tables (DDL, VACUUM, REINDEX, …)."""
    begins = True
    for token in _TOKEN.finditer(query):
        kind, text = token.lastgroup, token.group()
        if kind in ("blank", "comment"):
            continue
        if begins and kind == "name" and text.lower() in _DEFINITIONS:
            return True
        begins = text == ";"
    return False


def backs_up(query: str) -> bool:
    """Whether it reads data out as a backup does (pg_dump under whatever name, COPY … TO STDOUT)."""
    return bool(_BACKUP.search(query))


def pattern(text: str) -> Any:
    """A compiled RE2 pattern, which takes linear time on any text. Raises ValueError with what is wrong in it."""
    options = re2.Options()
    options.log_errors = False
    try:
        return re2.compile(text, options)  # type: ignore[no-untyped-call]
    except re2.error as error:
        raise ValueError(f"{text!r} is not a regular expression of RE2: {_said(error)}") from error


# PostgreSQL takes \v for white space, RE2's \s does not.
_BACKUP = pattern(r"(?is)\bcopy\b.*\bto[\s\v]+stdout\b|\b_pg_dump_cursor\b|\bpg_(?:backup|start_backup|stop_backup)")


def _said(error: Exception) -> str:
    told = error.args[0] if error.args else ""
    return told.decode(errors="replace") if isinstance(told, bytes) else str(told)
