"""Operation ids: unique, and ordered in time, so that a stamp on a target also tells when it was acted on."""

import secrets
import uuid
from datetime import UTC, datetime


def new_operation(now: datetime) -> str:
    """A UUID version 7 (RFC 9562) of that moment."""
    milliseconds = int(now.timestamp() * 1000) & ((1 << 48) - 1)
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
    return datetime.fromtimestamp((parsed.int >> 80) / 1000, UTC)
