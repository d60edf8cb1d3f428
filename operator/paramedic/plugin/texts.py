"""Text for people: harmless to a terminal, and times as kubectl writes them. Pure."""

from datetime import UTC, datetime, timedelta
from typing import Any

Json = dict[str, Any]


def clean(text: str) -> str:
    """On one line, with spaces for control characters and the like, which a terminal might obey."""
    return "".join(c if c.isprintable() else " " for c in text)


def harmless_json(text: str) -> str:
    """JSON of the same meaning, whose strings hold nothing that a terminal might obey."""
    return "".join(c if c.isprintable() or c == "\n" else _escaped(c) for c in text)


def _escaped(character: str) -> str:
    code = ord(character)
    if code < 0x10000:
        return f"\\u{code:04x}"
    high, low = divmod(code - 0x10000, 0x400)
    return f"\\u{0xD800 + high:04x}\\u{0xDC00 + low:04x}"


def at(value: Json, *path: str, default: Any = "") -> Any:
    """What stands at the end of a path of keys; ``default`` where nothing does."""
    for key in path:
        value = value.get(key) or {}
    return value or default


def age(since: datetime | None, now: datetime) -> str:
    """``61s``, ``25m``, ``3h12m``, ``2d``, as the column AGE of kubectl."""
    return duration(now - since) if since else "<unknown>"


def duration(span: timedelta) -> str:
    """The same for a span; none is shorter than ``0s``."""
    seconds = max(0, int(span.total_seconds()))
    minutes, hours, days = seconds // 60, seconds // 3600, seconds // 86400
    if minutes < 2:
        return f"{seconds}s"
    if minutes < 10:
        return _two(minutes, "m", seconds % 60, "s")
    if hours < 3:
        return f"{minutes}m"
    if hours < 8:
        return _two(hours, "h", minutes % 60, "m")
    if days < 2:
        return f"{hours}h"
    return _two(days, "d", hours % 24, "h") if days < 8 else f"{days}d"


def clock(moment: datetime) -> str:
    """``2026-01-31 03:00:00 UTC``."""
    return f"{moment.astimezone(UTC):%Y-%m-%d %H:%M:%S} UTC"


def moment(text: str) -> datetime | None:
    """RFC 3339 as the API server writes it; None for what is no time."""
    try:
        read = datetime.fromisoformat(text)
    except ValueError:
        return None
    return read if read.tzinfo else read.replace(tzinfo=UTC)


def _two(large: int, large_unit: str, small: int, small_unit: str) -> str:
    return f"{large}{large_unit}{small}{small_unit}" if small else f"{large}{large_unit}"
