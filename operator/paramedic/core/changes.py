"""What an action changes, field by field. Pure."""

import json
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

_DEPTH = 3


class FieldChange(NamedTuple):
    """One field of a target; its values as JSON, None where there was or is none."""

    path: str
    before: str | None
    after: str | None


def field_changes(before: Mapping[str, Any] | None, after: Mapping[str, Any] | None) -> list[FieldChange]:
    """What differs, in the order of the fields; below the third level a value is told as a whole. None of what has
    no ``after``: it has not been planned.
    """
    if after is None:
        return []
    old, new = dict(_leaves(before or {})), dict(_leaves(after))
    return [
        FieldChange(path, old.get(path), new.get(path))
        for path in dict.fromkeys([*old, *new])
        if old.get(path) != new.get(path)
    ]


def _leaves(value: Mapping[str, Any], path: str = "", depth: int = _DEPTH) -> Iterator[tuple[str, str]]:
    for key, inner in value.items():
        where = f"{path}.{key}" if path else str(key)
        if isinstance(inner, Mapping) and inner and depth > 1:
            yield from _leaves(inner, where, depth - 1)
        else:
            yield where, json.dumps(inner, ensure_ascii=False, default=str)
