"""CEL for ``when`` and ``condition``: checked when the policy is read, evaluated on plain values.

An expression is a tenant's text and runs inside of the operator, in a library that knows no limits: what would multiply
the cost is refused when the policy is read, so that neither time nor memory can be had in masses.
"""

import re
from collections.abc import Mapping
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import re2

from paramedic.core.expression_cost import MACRO, MACROS, bounded, too_much

if TYPE_CHECKING:
    import cel

MAX_LENGTH = 1024
_SHOWN = 200
_LITERAL = re.compile(
    r"""(?P<raw>\b(?:[rR][bB]?|[bB][rR]))(?:'[^'\n]*'|"[^"\n]*")|'(?:[^'\\\n]|\\.)*'|"(?:[^"\\\n]|\\.)*\"""", re.DOTALL
)
_PLACEHOLDER = "\x00"
_CONVERSIONS = frozenset({"bytes", "double", "duration", "dyn", "int", "string", "timestamp", "type", "uint"})
_OF_TEXTS = frozenset({"contains", "endsWith", "has", "matches", "size", "startsWith"})
_OF_TIMES = frozenset(
    {"getDate", "getDayOfMonth", "getDayOfWeek", "getDayOfYear", "getFullYear", "getHours"}
) | frozenset({"getMilliseconds", "getMinutes", "getMonth", "getSeconds"})
FUNCTIONS = frozenset(MACROS) | _CONVERSIONS | _OF_TEXTS | _OF_TIMES
"""What an expression may call. ``map`` is not among them: for each element the library copies the whole list."""
_CALL = re.compile(r"\b(?!in\b)([a-zA-Z_]\w*)\s*\(")
_MATCHES = re.compile(r"\.\s*matches\s*\(\s*\x00\s*\)")
_ESCAPES = {"\\": "\\", "'": "'", '"': '"', "n": "\n", "t": "\t", "r": "\r"}
_PATTERN_LIMITS = re2.Options()
_PATTERN_LIMITS.log_errors = False
_PATTERN_LIMITS.max_mem = 1 << 16


class ExpressionError(ValueError):
    """The expression is wrong, or cannot be evaluated on these values; the message says why."""


@lru_cache(maxsize=2048)
def compile_expression(text: str, names: frozenset[str]) -> "cel.Program":
    """Compiles ``text``, which may use the variables ``names``.

    Raises ExpressionError for a syntax error, an unknown variable or function, and what could cost too much.
    """
    import cel  # here, for it brings a command line along, which costs every start 0.1 s

    code, literals = _without_literals(text)
    try:
        program = cel.compile(text)
        used, functions = set(program.variables()), set(program.functions())
    except (ValueError, RuntimeError) as error:
        raise ExpressionError(f"{text!r}: {_first_line(error)}") from error
    if strange := set(_CALL.findall(code)) - FUNCTIONS:
        known = ", ".join(sorted(FUNCTIONS))
        raise ExpressionError(f"{text!r}: unknown function {', '.join(sorted(strange))}; known are {known}")
    unknown = used - names - {macro["variable"] for macro in MACRO.finditer(code)}
    if unknown:
        raise ExpressionError(f"{text!r}: unknown {', '.join(sorted(unknown))}; known are {', '.join(sorted(names))}")
    for problem in too_much(code, len(text), functions):
        raise ExpressionError(f"{_quoted(text)}: {problem}")
    if "matches" in functions:
        _check_patterns(text, code, literals)
    return program


def evaluate_condition(text: str, values: Mapping[str, Any]) -> bool:
    """Evaluates to true or false. Raises ExpressionError when the result is neither or cannot be had."""
    program = compile_expression(text, frozenset(values))
    try:
        result = program.execute({name: bounded(value, name) for name, value in values.items()})
    except KeyError as error:
        raise ExpressionError(f"{text!r}: no such key {error}; guard it with has(…) or 'key' in …") from error
    except (TypeError, RuntimeError, ValueError, ArithmeticError, LookupError) as error:
        raise ExpressionError(f"{text!r}: {_first_line(error)}") from error
    if not isinstance(result, bool):
        raise ExpressionError(f"{text!r}: gives {type(result).__name__}, not true or false")
    return result


def _without_literals(text: str) -> tuple[str, list[str]]:
    """The code with a placeholder for each quoted text, and those texts. Raises ExpressionError."""
    if len(text) > MAX_LENGTH or _PLACEHOLDER in text:
        raise ExpressionError(f"{_quoted(text)}: at most {MAX_LENGTH} characters, without NUL")
    literals = [found[0] for found in _LITERAL.finditer(text)]
    code = _LITERAL.sub(_PLACEHOLDER, text)
    if "//" in code or _PLACEHOLDER * 2 in code:
        raise ExpressionError(f"{text!r}: comments and triple quotes are not supported")
    return code, literals


def _check_patterns(text: str, code: str, literals: list[str]) -> None:
    """Patterns must be written out, so that an alert's text is never one, and must compile to something small."""
    if len(_MATCHES.findall(code)) != len(re.findall(r"\bmatches\b", code)):
        raise ExpressionError(f"{text!r}: write matches as text.matches('pattern'), with the pattern in quotes")
    for found in _MATCHES.finditer(code):
        literal = literals[code[: found.end()].count(_PLACEHOLDER) - 1]
        try:
            re2.compile(_content(literal), _PATTERN_LIMITS)  # type: ignore[no-untyped-call]
        except re2.error as error:
            raise ExpressionError(f"{text!r}: {literal} is no pattern that can be used: {error}") from error


def _content(literal: str) -> str:
    if literal[0] in "rRbB":
        return literal.split(literal[-1], 1)[1][:-1]
    return re.sub(r"\\(.)", _resolve, literal[1:-1], flags=re.DOTALL)


def _resolve(escape: re.Match[str]) -> str:
    if escape[1] not in _ESCAPES:
        raise ExpressionError(f"{escape[0]} cannot be used in a pattern; write the pattern as r'…'")
    return _ESCAPES[escape[1]]


def _quoted(text: str) -> str:
    return repr(text) if len(text) <= _SHOWN else f"{text[:_SHOWN]!r}…"


def _first_line(error: Exception) -> str:
    return str(error).split("\n", 1)[0][:300]
