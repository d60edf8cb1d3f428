"""What is known of a PostgreSQL server's slow-query log, and what that means: pure."""

import re
from dataclasses import asdict, dataclass
from typing import Any

NOT_SET = "not set"
"""The value of a setting that postgresql.auto.conf says nothing of."""
OFF = -1
_UNITS = {"": 1, "us": 0.001, "ms": 1, "s": 1000, "min": 60_000, "h": 3_600_000, "d": 86_400_000}
_VALUE = re.compile(r"(-?\d+)\s*(us|ms|s|min|h|d)?")
_BEYOND_FILES = frozenset(
    {"command line", "environment variable", "database", "user", "database user", "client", "session", "override"}
)


@dataclass(frozen=True, slots=True)
class Setting:
    """``log_min_duration_statement``: what is in force (``milliseconds``, ``source``), what postgresql.auto.conf says
    (``written``), and what of that the server has loaded.
    """

    server: str
    milliseconds: int
    source: str
    written: str
    loaded: str

    @property
    def is_hidden(self) -> bool:
        """Whether what is written in files has no effect, for something stronger says otherwise."""
        return self.source in _BEYOND_FILES

    def has_loaded(self, value: str) -> bool:
        """Whether the value is written, and what the server goes by."""
        return self.written == value and milliseconds_of(self.loaded) == milliseconds_of(value)


@dataclass(frozen=True, slots=True)
class Statement:
    """One entry of pg_stat_statements; the query without its literals."""

    query: str
    calls: int
    rows: int
    total_milliseconds: float
    mean_milliseconds: float

    def to_json(self) -> dict[str, Any]:
        """For evidence and results."""
        return asdict(self)


def milliseconds_of(value: str) -> int | None:
    """A duration as PostgreSQL writes it; None for NOT_SET and what is none."""
    found = _VALUE.fullmatch(value.strip())
    return int(int(found[1]) * _UNITS[found[2] or ""]) if found else None


def described(milliseconds: int) -> str:
    """What is logged, for people."""
    return "off" if milliseconds == OFF else f"from {milliseconds} ms on"
