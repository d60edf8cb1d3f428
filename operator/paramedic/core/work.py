"""How much a template may work: every text that it makes is cut, and all that it works on together is counted.

Templates are tenants', and what one of them does not print costs the process that serves everybody as well: the
operand of a comparison, what is only measured, a list that is written out.
"""

import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

from jinja2 import Template, Undefined, nodes
from jinja2.visitor import NodeTransformer

LONGEST = 16_384
_LEAST = 128  # what working on an empty text costs
_PUT_TOGETHER, _COUNTED, _SEARCHED, _AS_KEY = "_put_together", "_counted", "_searched", "_as_key"
_left = ContextVar("_left", default=0)
"""How many characters may still be worked on."""


class TooMuchWorkError(ValueError):
    """A template works on more than it may."""


def rendered(template: Template, values: Mapping[str, Any], limit: int, most_work: int) -> str:
    """At most ``limit`` characters of what the template gives.

    Raises TooMuchWorkError when filters, ~ and comparisons work on more than ``most_work`` characters altogether.
    """
    with _work(most_work):
        return "".join(up_to(limit, template.generate(values)))


def as_text(value: Any) -> str:
    """What filters, ~ and the output take of a value; lists and maps are written as JSON."""
    return count(value[:LONGEST] if isinstance(value, str) else "".join(up_to(LONGEST, _pieces(value))))


def as_json(value: Any) -> str:
    """All of it."""
    return "".join(count(piece) for piece in _JSON.iterencode(value))


def count(text: str) -> str:
    """The text, once it is counted."""
    left = _left.get() - _LEAST - len(text)
    if left < 0:
        raise TooMuchWorkError("it works on too much text: use fewer filters, ~ and comparisons, above all in a for")
    _left.set(left)
    return text


def on_text(function: Callable[[str], str]) -> Callable[[Any], str]:
    """A filter that does so to the text of a value."""
    return lambda value: count(function(as_text(value)))


def up_to(limit: int, chunks: Iterable[str]) -> Iterator[str]:
    """So many characters of the chunks; nothing is asked for beyond them."""
    for chunk in chunks:
        yield chunk[:limit]
        limit -= len(chunk)
        if limit <= 0:
            return


def printed(value: Any) -> str:
    """What the output writes of a value; it is bounded itself, so texts are not counted."""
    return value if isinstance(value, str) else as_text(value)


def counted(tree: nodes.Template) -> nodes.Template:
    """The template, in which all that works on texts counts them."""
    _Counting().visit(tree)
    return tree


class _Counting(NodeTransformer):
    """Jinja's own ~, slices, comparisons and keys know no bounds, so filters stand in their places or around them."""

    def visit_Concat(self, node: nodes.Concat) -> nodes.Expr:  # noqa: N802 - so Jinja calls it, as the others
        self.generic_visit(node)
        return _filtered(nodes.Tuple(node.nodes, "load", lineno=node.lineno), _PUT_TOGETHER)

    def visit_Getitem(self, node: nodes.Getitem) -> nodes.Expr:  # noqa: N802
        self.generic_visit(node)
        return _filtered(node, _COUNTED) if isinstance(node.arg, nodes.Slice) else node

    def visit_Compare(self, node: nodes.Compare) -> nodes.Expr:  # noqa: N802
        self.generic_visit(node)
        node.expr = _filtered(node.expr, _COUNTED)
        return node

    def visit_Operand(self, node: nodes.Operand) -> nodes.Operand:  # noqa: N802
        self.generic_visit(node)
        node.expr = _filtered(node.expr, _SEARCHED if node.op in ("in", "notin") else _COUNTED)
        return node

    def visit_Pair(self, node: nodes.Pair) -> nodes.Pair:  # noqa: N802
        self.generic_visit(node)
        node.key = _filtered(node.key, _AS_KEY)
        return node


def _filtered(node: nodes.Expr, name: str) -> nodes.Filter:
    return nodes.Filter(node, name, [], [], None, None, lineno=node.lineno)


def _put_together(parts: Iterable[Any]) -> str:
    return "".join(up_to(LONGEST, map(as_text, parts)))


def _counted(value: Any) -> Any:
    for piece in _pieces(value):
        count(piece)
    return value


FILTERS: dict[str, Callable[..., Any]] = {
    _PUT_TOGETHER: _put_together,
    _COUNTED: _counted,
    _SEARCHED: lambda value: value if isinstance(value, Mapping) else _counted(value),
    _AS_KEY: lambda value: as_text(value) if isinstance(value, tuple) else value,
}
"""What ``counted`` puts into templates."""


@contextmanager
def _work(limit: int) -> Iterator[None]:
    before = _left.set(limit)
    try:
        yield
    finally:
        _left.reset(before)


def _pieces(value: Any) -> Iterator[str]:
    if isinstance(value, dict | list | tuple):
        return _READABLE_JSON.iterencode(value)
    return iter((str(value),))


def _written(value: Any) -> str:
    return "" if isinstance(value, Undefined) else str(value)


_JSON = json.JSONEncoder()
_READABLE_JSON = json.JSONEncoder(ensure_ascii=False, default=_written)
