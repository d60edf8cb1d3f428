"""Jinja for one line of text: a tenant's template over an alert's hostile text gives plain text and nothing else.

What is not on a short list is refused before anything is compiled: no calls, no attributes of Python objects, no
arithmetic, no statements, and only filters that cannot make a long text out of a short one.
"""

import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import lru_cache
from typing import Any

from jinja2 import Template, Undefined, nodes
from jinja2.sandbox import ImmutableSandboxedEnvironment

from paramedic.core import work
from paramedic.core.work import as_text, count, counted, on_text, rendered

_MAX_TEMPLATE = 4096
_MAX_DEPTH = 32
_MAX_TEXT, _MAX_NEW = 4096, 256
_MOST_WORK = 256 * 1024
_WHAT_IS_ALLOWED = "only expressions such as {{ labels.pod }} or {{ annotations.summary | default('none') }}"
EXPRESSIONS = frozenset(
    {
        "Template",
        "Output",
        "TemplateData",
        "Const",
        "Name",
        "Getattr",
        "Getitem",
        "Slice",
        "Filter",
        "Test",
        "CondExpr",
        "Concat",
        "Compare",
        "Operand",
        "Tuple",
        "And",
        "Or",
        "Neg",
        "Not",
    }
)


class KeysOnly(ImmutableSandboxedEnvironment):
    """A dot reads a key of a mapping, never an attribute: ``labels.items`` is the label of that name."""

    def getattr(self, obj: Any, attribute: str) -> Any:
        """A key, never an attribute."""
        return self.getitem(obj, attribute)

    def getitem(self, obj: Any, argument: Any) -> Any:
        """A key of a mapping, or a slice of a text."""
        if isinstance(obj, str) and isinstance(argument, slice):
            return obj[argument]
        if isinstance(obj, Mapping) and not isinstance(argument, tuple) and argument in obj:
            return obj[argument]
        return self.undefined(obj=obj, name=argument)


def _default(value: Any, other: Any = "", also_empty: bool = False) -> Any:
    missing = isinstance(value, Undefined) or (also_empty and not value)
    return other if missing else value


def _replace(value: Any, old: Any, new: Any) -> str:
    """Replaces as often as shows in what is left of the text."""
    text, by = as_text(value)[:_MAX_TEXT], as_text(new)[:_MAX_NEW]
    return text.replace(as_text(old), by, -(-_MAX_TEXT // len(by)) if by else -1)[:_MAX_TEXT]


def _truncate(value: Any, length: int = 255) -> str:
    text = count(value) if isinstance(value, str) else as_text(value)
    return text if len(text) <= length else text[: max(0, length - 1)] + "…"


FILTERS: dict[str, Callable[..., Any]] = {
    **work.FILTERS,
    "capitalize": on_text(str.capitalize),
    "default": _default,
    "d": _default,
    "length": lambda value: len(value),
    "lower": on_text(str.lower),
    "replace": _replace,
    "title": on_text(str.title),
    "trim": on_text(str.strip),
    "truncate": _truncate,
    "upper": on_text(str.upper),
}
_TESTS = ("defined", "undefined")
_ENVIRONMENT = KeysOnly(autoescape=False, optimized=False, finalize=work.printed)
_ENVIRONMENT.globals.clear()
_ENVIRONMENT.filters = dict(FILTERS)
_ENVIRONMENT.tests = {name: test for name, test in _ENVIRONMENT.tests.items() if name in _TESTS}


@lru_cache(maxsize=1024)
def compile_template(text: str, names: frozenset[str] | None = None) -> Template:
    """Compiles a template of expressions.

    Raises ValueError that says what is not allowed in it, also for a variable that is not among ``names``.
    """
    if len(text) > _MAX_TEMPLATE:
        raise ValueError(f"a template has at most {_MAX_TEMPLATE} characters")
    with only_value_errors(text):
        tree = _ENVIRONMENT.parse(text)
        check_nodes(tree, text, EXPRESSIONS)
        unknown = {node.name for node in tree.find_all(nodes.Name)} - (names or frozenset())
        if names is not None and unknown:
            raise ValueError(f"{text!r}: unknown {', '.join(sorted(unknown))}; known are {', '.join(sorted(names))}")
        return _ENVIRONMENT.from_string(counted(tree))


def render(text: str, values: Mapping[str, Any], limit: int = 1024) -> str:
    """Renders to one printable line of at most ``limit`` characters. Raises ValueError when it cannot be rendered."""
    template = compile_template(text)
    with only_value_errors(text):
        return one_line(rendered(template, _short(values), 8 * limit, _MOST_WORK))[:limit]


@contextmanager
def only_value_errors(text: str) -> Iterator[None]:
    """Whatever is wrong with a template is a ValueError, as callers expect; want of memory is the process's own."""
    try:
        yield
    except (MemoryError, ValueError):
        raise
    except RecursionError as error:
        raise ValueError(f"{text[:100]!r}…: nested too deeply") from error
    except Exception as error:
        raise ValueError(f"{text if len(text) <= 100 else text[:100] + '…'!r}: {error}") from error


def one_line(text: str) -> str:
    """The text without line breaks and other control characters, which a terminal might obey."""
    return " ".join("".join(c if c.isprintable() else " " for c in text).split())


def check_nodes(tree: nodes.Node, text: str, allowed: frozenset[str]) -> None:
    """Raises ValueError for the first thing that is not on the list. Not recursive, so that depth does no harm."""
    waiting = [(tree, 0)]
    while waiting:
        node, depth = waiting.pop()
        if depth > _MAX_DEPTH:
            raise ValueError(f"{text[:100]!r}…: nested too deeply")
        if type(node).__name__ not in allowed:
            raise ValueError(f"{text!r}: {type(node).__name__} is not allowed here; {_WHAT_IS_ALLOWED}")
        if isinstance(node, nodes.Const) and isinstance(node.value, float) and not math.isfinite(node.value):
            raise ValueError(f"{text!r}: a number is too large; write it smaller, or as text in quotes")
        waiting += ((child, depth + 1) for child in node.iter_child_nodes())


def _short(value: Any) -> Any:
    """The values without texts that are longer than any title needs."""
    if isinstance(value, str):
        return value[:_MAX_TEXT]
    return {key: _short(inner) for key, inner in value.items()} if isinstance(value, Mapping) else value
