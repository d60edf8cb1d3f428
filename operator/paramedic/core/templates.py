"""Jinja for one line of text: a tenant's template over an alert's hostile text gives plain text and nothing else.

What is not on a short list is refused before anything is compiled: no calls, no attributes of Python objects, no
arithmetic, no statements, and only filters that cannot make a long text out of a short one.
"""

from collections.abc import Callable, Iterator, Mapping
from functools import lru_cache
from typing import Any

from jinja2 import Template, TemplateError, Undefined, nodes
from jinja2.sandbox import ImmutableSandboxedEnvironment

_MAX_TEMPLATE = 4096
_MAX_DEPTH = 32
_MAX_TEXT, _MAX_NEW, _MAX_WORKED_ON = 4096, 256, 16_384
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
        if isinstance(obj, Mapping) and argument in obj:
            return obj[argument]
        return self.undefined(obj=obj, name=argument)


def _default(value: Any, other: Any = "", also_empty: bool = False) -> Any:
    missing = isinstance(value, Undefined) or (also_empty and not value)
    return other if missing else value


def _replace(value: Any, old: Any, new: Any) -> str:
    return str(value)[:_MAX_TEXT].replace(str(old), str(new)[:_MAX_NEW])[:_MAX_TEXT]


def _truncate(value: Any, length: int = 255) -> str:
    text = str(value)
    return text if len(text) <= length else text[: max(0, length - 1)] + "…"


def as_text(value: Any) -> str:
    """What a filter works on: as much as a message has at most, for a template can put together far more (``~``)."""
    return str(value)[:_MAX_WORKED_ON]


FILTERS: dict[str, Callable[..., Any]] = {
    "capitalize": lambda value: as_text(value).capitalize(),
    "default": _default,
    "d": _default,
    "length": lambda value: len(value),
    "lower": lambda value: as_text(value).lower(),
    "replace": _replace,
    "title": lambda value: as_text(value).title(),
    "trim": lambda value: as_text(value).strip(),
    "truncate": _truncate,
    "upper": lambda value: as_text(value).upper(),
}
_TESTS = ("defined", "undefined")
_ENVIRONMENT = KeysOnly(autoescape=False)
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
    try:
        tree = _ENVIRONMENT.parse(text)
        check_nodes(tree, text, EXPRESSIONS)
        unknown = {node.name for node in tree.find_all(nodes.Name)} - (names or frozenset())
        if names is not None and unknown:
            raise ValueError(f"{text!r}: unknown {', '.join(sorted(unknown))}; known are {', '.join(sorted(names))}")
        return _ENVIRONMENT.from_string(tree)
    except TemplateError as error:
        raise ValueError(f"{text!r}: {error}") from error
    except RecursionError as error:
        raise ValueError(f"{text[:100]!r}…: nested too deeply") from error


def render(text: str, values: Mapping[str, Any], limit: int = 1024) -> str:
    """Renders to one printable line of at most ``limit`` characters. Raises ValueError when it cannot be rendered."""
    template = compile_template(text)
    try:
        rendered = "".join(up_to(8 * limit, template.generate(_short(values))))
    except (TemplateError, TypeError, ValueError, ArithmeticError, AttributeError, LookupError) as error:
        raise ValueError(f"{text!r}: {error}") from error
    return one_line(rendered)[:limit]


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
        waiting += ((child, depth + 1) for child in node.iter_child_nodes())


def up_to(limit: int, chunks: Iterator[str]) -> Iterator[str]:
    """So many characters of the chunks; nothing is asked for beyond them."""
    for chunk in chunks:
        yield chunk[:limit]
        limit -= len(chunk)
        if limit <= 0:
            return


def _short(value: Any) -> Any:
    """The values without texts that are longer than any title needs."""
    if isinstance(value, str):
        return value[:_MAX_TEXT]
    return {key: _short(inner) for key, inner in value.items()} if isinstance(value, Mapping) else value
