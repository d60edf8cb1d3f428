"""Something that can be read into the store."""

from collections.abc import Callable
from dataclasses import dataclass

from paramedic.clients.evidence import Chunks

JSON = "application/json"
TEXT = "text/plain; charset=utf-8"


@dataclass(frozen=True, slots=True)
class Source:
    """An item's name, its media type, and how to read it; nothing is read before that."""

    name: str
    media_type: str
    read: Callable[[], Chunks]
