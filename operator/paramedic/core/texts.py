"""Jinja for texts of several lines: like that for titles, with ``if`` and ``for`` over the lists that are given.

A ``for`` goes over a given list only, at most 50 items of it, and holds no other.
"""

from collections.abc import Callable, Mapping
from functools import lru_cache
from typing import Any

from jinja2 import Template, TemplateRuntimeError, Undefined, nodes

from paramedic.core import markup, work
from paramedic.core.templates import EXPRESSIONS, FILTERS, KeysOnly, check_nodes, only_value_errors
from paramedic.core.work import as_json, as_text, counted, on_text, rendered

MAX_TEMPLATE = 16_384
MAX_TEXT = work.LONGEST
MOST_ITEMS = 50
_MOST_WORK = 2 * 1024 * 1024
_STATEMENTS = EXPRESSIONS | {"If", "For", "List", "Dict", "Pair"}


def _percent(value: Any, digits: int = 0) -> str:
    """0.153 is 15%."""
    return f"{value * 100:.{min(max(int(digits), 0), 6)}f}%" if _is_number(value) else as_text(value)


def _number(value: Any, digits: int = 2) -> str:
    """Without a long tail: 3.0 is 3, 2.3333 is 2.33."""
    if not _is_number(value):
        return as_text(value)
    text = f"{value:.{min(max(int(digits), 0), 6)}f}"
    return text.rstrip("0").rstrip(".") if "." in text else text


def _join(value: Any, separator: Any = ", ") -> str:
    return as_text(separator)[:16].join(as_text(item) for item in _items(value))[:MAX_TEXT]


def _tojson(value: Any) -> str:
    return as_json("" if isinstance(value, Undefined) else value)


def _first(value: Any) -> Any:
    return next(iter(_items(value)), "")


def _last(value: Any) -> Any:
    return value[-1] if _items(value) else ""


def _items(value: Any) -> list[Any]:
    if isinstance(value, Undefined):
        return []
    if not isinstance(value, list | tuple):
        raise TemplateRuntimeError("for, join, first and last need one of the lists")
    return list(value[:MOST_ITEMS])


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


_MORE: dict[str, Callable[..., Any]] = {
    "first": _first,
    "html": on_text(markup.html),
    "join": _join,
    "last": _last,
    "markdown": on_text(markup.markdown),
    "number": _number,
    "percent": _percent,
    "tojson": _tojson,
}
_EACH = "_each"
_TESTS = ("defined", "undefined")


def _environment() -> KeysOnly:
    environment = KeysOnly(
        autoescape=False, optimized=False, finalize=work.printed, trim_blocks=True, lstrip_blocks=True
    )
    environment.globals.clear()
    environment.filters = {**FILTERS, **_MORE, _EACH: _items}
    environment.tests = {name: test for name, test in environment.tests.items() if name in _TESTS}
    return environment


_ENVIRONMENT = _environment()


@lru_cache(maxsize=256)
def compile_text(text: str, names: frozenset[str]) -> Template:
    """Compiles a template over variables of these names.

    Raises ValueError that says what is not allowed in it, also for a variable that is not among ``names``.
    """
    if len(text) > MAX_TEMPLATE:
        raise ValueError(f"a template has at most {MAX_TEMPLATE} characters")
    with only_value_errors(text):
        tree = _ENVIRONMENT.parse(text)
        check_nodes(tree, _short(text), _STATEMENTS)
        _check_loops(tree)
        _check_names(tree, names)
        return _ENVIRONMENT.from_string(counted(tree))


def render_text(text: str, values: Mapping[str, Any], limit: int = MAX_TEXT) -> str:
    """Renders to at most ``limit`` printable characters and line breaks; runs of empty lines become one.

    Raises ValueError when it cannot be rendered.
    """
    return _tidy(render_raw(text, values, limit))


def render_raw(text: str, values: Mapping[str, Any], limit: int) -> str:
    """The same, as the template gives it: for JSON, which quotes by itself what is not printable."""
    with only_value_errors(text):
        return rendered(compile_text(text, frozenset(values)), values, limit, _MOST_WORK)


def _check_loops(tree: nodes.Template) -> None:
    """Raises ValueError for a loop in a loop, and makes the others go over bounded lists only."""
    for loop in tree.find_all(nodes.For):
        if loop.recursive or next(loop.find_all(nodes.For), None):
            raise ValueError("a for cannot hold another one")
        loop.iter = nodes.Filter(loop.iter, _EACH, [], [], None, None)


def _check_names(tree: nodes.Template, names: frozenset[str]) -> None:
    used = {node.name: node for node in tree.find_all(nodes.Name) if node.ctx == "load"}
    own = {node.name for node in tree.find_all(nodes.Name) if node.ctx == "store"}
    unknown = sorted(used.keys() - names - own)
    if unknown:
        raise ValueError(f"unknown {', '.join(unknown)}; known are {', '.join(sorted(names))}")


def _tidy(text: str) -> str:
    lines: list[str] = []
    for raw in text.split("\n"):
        line = "".join(c if c.isprintable() else " " for c in raw).rstrip()
        if line or (lines and lines[-1]):
            lines.append(line)
    return "\n".join(lines).strip("\n")


def _short(text: str) -> str:
    return text if len(text) <= 100 else f"{text[:100]}…"
