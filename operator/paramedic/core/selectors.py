"""Label selectors: as the API takes them in a query, and whether they match."""

from collections.abc import Mapping
from typing import Any

Json = dict[str, Any]
_OPERATORS = {"In": "in", "NotIn": "notin"}


def as_query(selector: Json) -> str:
    """A LabelSelector (matchLabels, matchExpressions) in the form of the ``labelSelector`` query parameter."""
    parts = [f"{key}={value}" for key, value in sorted((selector.get("matchLabels") or {}).items())]
    return ",".join([*parts, *(_expression(e) for e in selector.get("matchExpressions") or [])])


def matches(selector: Mapping[str, str], labels: Mapping[str, str]) -> bool:
    """Whether a Service's selector matches; an empty one selects nothing."""
    return bool(selector) and all(labels.get(key) == value for key, value in selector.items())


def _expression(expression: Json) -> str:
    key, operator = expression["key"], expression["operator"]
    if operator in _OPERATORS:
        return f"{key} {_OPERATORS[operator]} ({','.join(expression.get('values') or [])})"
    return str(key) if operator == "Exists" else f"!{key}"
