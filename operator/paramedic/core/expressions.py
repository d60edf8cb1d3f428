"""CEL for ``when`` and ``condition``: checked when the policy is read, evaluated on plain values."""

import re
from collections.abc import Mapping
from functools import lru_cache
from typing import Any

import cel

MAX_MACROS = 2
_MACRO = re.compile(r"\.(?:all|exists|exists_one|map|filter)\s*\(")
_LITERALS = re.compile(r"'(?:[^'\\]|\\.)*'|\"(?:[^\"\\]|\\.)*\"")


class ExpressionError(ValueError):
    """The expression is wrong, or cannot be evaluated on these values; the message says why."""


@lru_cache(maxsize=2048)
def compile_expression(text: str, names: frozenset[str]) -> cel.Program:
    """Compiles ``text``, which may use the variables ``names``.

    Raises ExpressionError for a syntax error, an unknown variable, or more than two nested list macros (they multiply
    the cost, and the expression is a tenant's text).
    """
    try:
        program = cel.compile(text)
        used = set(program.variables())
    except (ValueError, RuntimeError) as error:
        raise ExpressionError(f"{text!r}: {_first_line(error)}") from error
    if len(_MACRO.findall(_LITERALS.sub("''", text))) > MAX_MACROS:
        raise ExpressionError(f"{text!r}: at most {MAX_MACROS} of all, exists, exists_one, map and filter")
    bound = set(re.findall(r"\(\s*([a-zA-Z_]\w*)\s*,", text))
    unknown = used - names - bound
    if unknown:
        raise ExpressionError(f"{text!r}: unknown {', '.join(sorted(unknown))}; known are {', '.join(sorted(names))}")
    return program


def evaluate_condition(text: str, values: Mapping[str, Any]) -> bool:
    """Evaluates to true or false. Raises ExpressionError when the result is neither or cannot be had."""
    program = compile_expression(text, frozenset(values))
    try:
        result = program.execute(dict(values))
    except KeyError as error:
        raise ExpressionError(f"{text!r}: no such key {error}; guard it with has(…) or 'key' in …") from error
    except (TypeError, RuntimeError, ValueError) as error:
        raise ExpressionError(f"{text!r}: {_first_line(error)}") from error
    if not isinstance(result, bool):
        raise ExpressionError(f"{text!r}: gives {type(result).__name__}, not true or false")
    return result


def _first_line(error: Exception) -> str:
    return str(error).split("\n", 1)[0][:300]
