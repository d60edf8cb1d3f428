"""Sandboxed Jinja: a tenant's template over an alert's hostile text gives plain text and nothing else."""

from collections.abc import Mapping
from functools import lru_cache
from typing import Any

from jinja2 import Template, TemplateError
from jinja2.sandbox import ImmutableSandboxedEnvironment

_MAX_TEMPLATE = 4096
_FORBIDDEN = ("{%", "**", "range(", "*")
_ENVIRONMENT = ImmutableSandboxedEnvironment(autoescape=False)
_ENVIRONMENT.globals.clear()


@lru_cache(maxsize=1024)
def compile_template(text: str) -> Template:
    """Compiles a template of expressions. Raises ValueError; statements and multiplication (loops that eat memory) are
    refused.
    """
    if len(text) > _MAX_TEMPLATE:
        raise ValueError(f"a template has at most {_MAX_TEMPLATE} characters")
    for word in _FORBIDDEN:
        if word in text:
            raise ValueError(f"{text!r}: {word!r} is not allowed here; only expressions such as {{{{ labels.pod }}}}")
    try:
        return _ENVIRONMENT.from_string(text)
    except TemplateError as error:
        raise ValueError(f"{text!r}: {error}") from error


def render(text: str, values: Mapping[str, Any], limit: int = 1024) -> str:
    """Renders to one line of at most ``limit`` characters. Raises ValueError when the template cannot be rendered."""
    try:
        rendered = compile_template(text).render(dict(values))
    except (TemplateError, TypeError, ValueError, ArithmeticError, AttributeError, LookupError) as error:
        raise ValueError(f"{text!r}: {error}") from error
    return " ".join(rendered.split())[:limit]
