"""Operation ids: unique, and ordered in time, so that a stamp on a target also tells when it was acted on."""

import secrets
import uuid
from datetime import UTC, datetime, timedelta

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MILLISECOND = timedelta(milliseconds=1)


def new_operation(now: datetime) -> str:
    """A UUID version 7 (RFC 9562) of that moment."""
    milliseconds = (now - _EPOCH) // _MILLISECOND & ((1 << 48) - 1)
    value = milliseconds << 80 | 0x7 << 76 | secrets.randbits(12) << 64 | 0b10 << 62 | secrets.randbits(62)
    return str(uuid.UUID(int=value))


def operation_time(operation: str) -> datetime | None:
    """When the operation was planned; None for a text that is no such id."""
    try:
        parsed = uuid.UUID(operation)
    except ValueError:
        return None
    if parsed.version != 7:
        return None
    try:
        return _EPOCH + (parsed.int >> 80) * _MILLISECOND
    except OverflowError:
        return None
