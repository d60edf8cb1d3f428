"""What a CEL expression may cost: refused when the policy is read, or when the values are larger than any honest ones.

The evaluator copies a value whole at each reference to it, and a list for each element that is added. So the cost is
bounded by what may be written (how often, inside of which loop) and by how many entries the values have.
"""

import re
from collections.abc import Iterator, Mapping
from typing import Any

MAX_LENGTH_WITH_MACROS = 512
MAX_SUMS = 8
MAX_ENTRIES = 256
"""Of one map or list."""
MAX_TEXT = 1024
"""Characters of a text that are looked at."""
MACROS = ("all", "exists", "exists_one", "filter")
MACRO = re.compile(rf"\.\s*(?:{'|'.join(MACROS)})\s*\(\s*(?P<variable>[a-zA-Z_]\w*)?")
_INDEXED = re.compile(r"(?:[)\]]|\b(?!in\b)\w+)\s*$")
_CONSTANTS = re.compile(r"(?:true|false|null|[^a-zA-Z_(\[{])*\]")


def too_much(code: str, length: int, functions: set[str]) -> Iterator[str]:
    """What is wrong with the code of an expression of this length, whose quoted texts are NUL characters."""
    if code.count("+") > MAX_SUMS:
        yield f"at most {MAX_SUMS} +"
    macros = list(MACRO.finditer(code))
    if not macros:
        return
    named = ", ".join(MACROS)
    if length > MAX_LENGTH_WITH_MACROS:
        yield f"at most {MAX_LENGTH_WITH_MACROS} characters with a list macro ({named})"
    if any(MACRO.search(_arguments(code, macro)) for macro in macros):
        yield "a list macro cannot be used inside of another"
    if _makes_a_value(code):
        yield f"with list macros ({named}) write lists of constants only, as in k in ['a', 'b'], and no maps"
    for name in (name for name, found in {"matches": "matches" in functions, "+": "+" in code}.items() if found):
        yield f"{name} cannot be used with list macros ({named})"


def bounded(value: Any, name: str) -> Any:
    """The value with its texts cut to what anybody compares with. Raises ValueError when it has too many entries."""
    if isinstance(value, str):
        return value[:MAX_TEXT]
    if not isinstance(value, Mapping | list):
        return value
    if len(value) > MAX_ENTRIES:
        raise ValueError(f"{name} has {len(value)} entries; expressions are evaluated with at most {MAX_ENTRIES}")
    if isinstance(value, list):
        return [bounded(inner, name) for inner in value]
    return {bounded(key, name): bounded(inner, f"{name}.{key}") for key, inner in value.items()}


def _arguments(code: str, macro: re.Match[str]) -> str:
    """What stands in a macro's parentheses."""
    opened = code.index("(", macro.start()) + 1
    depth = 1
    for position in range(opened, len(code)):
        depth += {"(": 1, ")": -1}.get(code[position], 0)
        if depth == 0:
            return code[opened:position]
    return code[opened:]


def _makes_a_value(code: str) -> bool:
    """Whether a map is written there, or a list of more than constants."""
    brackets = (at for at, character in enumerate(code) if character == "[" and not _INDEXED.search(code, 0, at))
    return "{" in code or any(not _CONSTANTS.match(code, at + 1) for at in brackets)
