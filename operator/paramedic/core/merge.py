"""JSON merge patches (RFC 7396)."""

from typing import Any


def merge_difference(present: Any, wanted: Any) -> Any:
    """The JSON merge patch that turns ``present`` into ``wanted``."""
    if not isinstance(present, dict) or not isinstance(wanted, dict):
        return wanted
    gone = {key: None for key in present if key not in wanted}
    changed = {
        key: merge_difference(present.get(key), value) for key, value in wanted.items() if present.get(key) != value
    }
    return gone | changed
