"""Where output goes: colours in a terminal, plain and uncut in a pipe, and never what a terminal would obey."""

import json
import sys
from collections.abc import Iterable, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, NamedTuple

from paramedic.plugin.texts import Json, clean, harmless_json

if TYPE_CHECKING:
    from rich.console import Console

_GAP = "   "


class Span(NamedTuple):
    """A piece of a line in one style (Rich's: ``bold red``); plain where nothing is said."""

    text: str
    style: str = ""


Line = Sequence[Span | str]


class Screen:
    """Standard output. ``note`` goes to standard error, so that a pipe carries results only."""

    def __init__(self) -> None:
        self.is_terminal = sys.stdout.isatty()
        self.can_ask = sys.stdin is not None and sys.stdin.isatty() and sys.stderr.isatty()

    def line(self, *spans: Span | str) -> None:
        """One line."""
        pieces = [_span(one) for one in spans]
        if not self.is_terminal:
            print("".join(piece.text for piece in pieces).rstrip(), flush=True)
            return
        from rich.text import Text

        self._console.print(Text.assemble(*pieces), soft_wrap=True)

    def lines(self, lines: Iterable[Line]) -> None:
        """Several."""
        for one in lines:
            self.line(*one)

    def table(self, rows: Sequence[Line], widths: Sequence[int] = ()) -> list[int]:
        """Rows of cells, columns aligned as kubectl aligns them; the last is as long as it is. Returns the columns'
        widths, which keep later rows in line when given back.
        """
        cleaned = [[_span(cell) for cell in row] for row in rows]
        columns = zip(*cleaned, strict=True)
        found = [max(len(cell.text) for cell in column) for column in columns]
        wide = [max(pair) for pair in zip(found, widths or [0] * len(found), strict=True)]
        for row in cleaned:
            padded = [
                Span(cell.text.ljust(width) + _GAP, cell.style) for cell, width in zip(row[:-1], wide, strict=False)
            ]
            self.line(*padded, row[-1])
        return wide

    def note(self, text: str) -> None:
        """A remark that is no part of the result."""
        for one in text.splitlines():
            print(clean(one), file=sys.stderr, flush=True)

    def before_result(self, lines: Iterable[Line], form: str | None) -> None:
        """What has to be seen before something is done: no part of a result that is ``json``, ``yaml`` or ``name``."""
        if form is None:
            self.lines(lines)
            return
        for one in lines:
            self.note("".join(_span(piece).text for piece in one))

    def resource(self, resource: Json, form: str) -> None:
        """A resource, or a list of them, as ``json``, ``yaml`` or ``name``; without managedFields, as kubectl does."""
        items = resource.get("items", [resource])
        for item in items:
            item.get("metadata", {}).pop("managedFields", None)
        if form == "name":
            for item in items:
                self.line(f"incident.paramedic.dev/{item['metadata']['name']}")
        elif form == "json":
            print(harmless_json(json.dumps(resource, indent=4, ensure_ascii=False)), flush=True)
        else:
            print(_yaml(resource), end="", flush=True)

    def ask(self, question: str) -> bool:
        """A yes or no from the terminal; anything but yes is no."""
        print(f"{clean(question)} [y/N] ", end="", file=sys.stderr, flush=True)
        return sys.stdin.readline().strip().lower() in ("y", "yes")

    @cached_property
    def _console(self) -> "Console":
        from rich.console import Console

        return Console(highlight=False, emoji=False, markup=False)


def _yaml(resource: Json) -> str:
    """Readable in every script; all but ASCII is escaped where some of it is what a terminal might obey."""
    import yaml

    text = yaml.safe_dump(resource, sort_keys=False, allow_unicode=True, width=120)
    if all(c.isprintable() or c == "\n" for c in text):
        return text
    return yaml.safe_dump(resource, sort_keys=False, width=120)


def _span(piece: Span | str) -> Span:
    if isinstance(piece, str):
        return Span(clean(piece))
    return Span(clean(piece.text), piece.style)
