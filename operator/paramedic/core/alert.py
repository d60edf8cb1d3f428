"""An alert as both edges (Alertmanager's webhook and Prometheus' API) hand it on."""

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Literal

_FNV_OFFSET = 14695981039346656037
_FNV_PRIME = 1099511628211
_MASK = (1 << 64) - 1
_MOST_BYTES = 8192


UNKNOWN_START = datetime(1970, 1, 1, tzinfo=UTC)
"""The latest start that is none: whoever has set it does not know."""


@dataclass(frozen=True, slots=True)
class Alert:
    """One alert: its labels identify it, ``starts_at`` tells one firing from the next. It is what the sender says, and
    may lie in the future where its clock is wrong.
    """

    state: Literal["firing", "resolved"]
    labels: Mapping[str, str]
    annotations: Mapping[str, str]
    starts_at: datetime
    ends_at: datetime | None
    generator_url: str
    fingerprint: str

    def group_key(self, group_by: list[str]) -> str:
        """What is the same for alerts of one incident: the fingerprint, or a hash of the values of ``group_by``."""
        if not group_by:
            return self.fingerprint
        return short_hash(*(f"{name}={value}" for name, value in common_labels(self.labels, group_by).items()))


def common_labels(labels: Mapping[str, str], names: Iterable[str]) -> dict[str, str]:
    """What all alerts of a group have in common; a label that is missing is empty."""
    return {name: labels.get(name, "") for name in names}


def fingerprint(labels: Mapping[str, str]) -> str:
    """Alertmanager's fingerprint of a label set: FNV-1a 64 over sorted names and values, each ended by 0xff
    (prometheus/common, model.LabelSet.Fingerprint). It takes 0.1 µs for a byte, so that of a very large set is another.
    """
    words = b"".join(word.encode() + b"\xff" for name in sorted(labels) for word in (name, labels[name]))
    if len(words) > _MOST_BYTES:
        return quick_fingerprint(labels)
    value = _FNV_OFFSET
    for byte in words:
        value = ((value ^ byte) * _FNV_PRIME) & _MASK
    return f"{value:016x}"


def quick_fingerprint(labels: Mapping[str, str]) -> str:
    """One that need not be Alertmanager's."""
    return short_hash(*(word for name in sorted(labels) for word in (name, labels[name])))


def short_hash(*parts: str) -> str:
    """16 hex digits over the parts, each with its length, so that no two lists run together."""
    digest = hashlib.sha256()
    for part in parts:
        raw = part.encode()
        digest.update(len(raw).to_bytes(4, "big") + raw)
    return digest.hexdigest()[:16]
