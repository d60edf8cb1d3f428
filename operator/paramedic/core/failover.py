"""A database cluster whose writer can be changed, whoever runs it; and what is to be thought of its state."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import Enum

QUIET = timedelta(seconds=60)
"""So long after a failover was asked for, it may still be about to begin."""
_CLOCKS_DIFFER = timedelta(seconds=5)
_LONGEST = timedelta(minutes=10)


class Phase(Enum):
    """What the cluster is doing."""

    AVAILABLE = "available"
    FAILING_OVER = "failing over"
    OTHER = "something else"


@dataclass(frozen=True, slots=True)
class Member:
    """One instance; ``lag_seconds`` is None where it is not known."""

    name: str
    healthy: bool
    endpoint: str = ""
    lag_seconds: float | None = None


@dataclass(frozen=True, slots=True)
class Snapshot:
    """A copy of a cluster at a moment; ``status`` is in the provider's own words."""

    name: str
    status: str
    at: datetime

    @property
    def is_ready(self) -> bool:
        """Whether it could be restored."""
        return self.status == "available"

    def __str__(self) -> str:
        return f"{self.name} of {self.at:%Y-%m-%d %H:%M} UTC"


@dataclass(frozen=True, slots=True)
class Asked:
    """The failover that Paramedic has asked for last: under which operation, where to, when, for which incident
    (``namespace/name``).
    """

    operation: str
    to: str
    at: datetime
    incident: str = ""


@dataclass(frozen=True, slots=True)
class Database:
    """A cluster as it was seen. ``status`` is in the provider's own words; ``failovers`` are those it tells of;
    ``moving_to`` is who is to write, where the provider tells.

    ``lag_source`` says where lags come from, the empty string when nobody was asked, and ``lag_problem`` why that tells
    none. Who ``waits_for_replica`` has the new writer catch up by itself, however long that takes.
    """

    identity: str
    phase: Phase
    status: str
    writer: str
    members: tuple[Member, ...]
    endpoint: str
    port: int
    asked: Asked | None = None
    failovers: tuple[tuple[datetime, str], ...] = ()
    lag_source: str = ""
    lag_problem: str = ""
    waits_for_replica: bool = False
    moving_to: str = ""
    resource_version: str = ""

    @property
    def readers(self) -> tuple[Member, ...]:
        """All but the writer."""
        return tuple(one for one in self.members if one.name != self.writer)

    def member(self, name: str) -> Member | None:
        """The instance of that name."""
        return next((one for one in self.members if one.name == name), None)


class Standing(Enum):
    """How a failover that may have been asked for stands."""

    BEGUN = "begun"
    NOT_ASKED = "not asked"
    MAYBE = "maybe"
    """Neither; what came of it cannot be told."""


def standing(database: Database, operation: str, earlier: str, wanted: str) -> Standing:
    """Whether the failover of this operation, from one writer to another, has begun."""
    if wanted in (database.writer, database.moving_to):
        return Standing.BEGUN
    asked = database.asked if database.asked and database.asked.operation == operation else None
    if database.phase is Phase.FAILING_OVER:
        return Standing.BEGUN if asked and asked.to == wanted else Standing.MAYBE
    if database.writer != earlier or (asked and told_since(database, asked.at)):
        return Standing.MAYBE
    return Standing.NOT_ASKED


def unsettled_for(database: Database, now: datetime) -> timedelta | None:
    """How long ago a failover was asked for that has neither begun nor can be given up yet; None when there is none."""
    asked = database.asked
    if asked is None or database.phase is not Phase.AVAILABLE or database.writer == asked.to:
        return None
    ago = now - asked.at
    return ago if timedelta(0) <= ago < QUIET and not told_since(database, asked.at) else None


def under_way(database: Database, now: datetime) -> Asked | None:
    """The request by which the cluster is failing over; None when it is not, or must be doing so by itself."""
    asked = database.asked
    if asked is None or database.phase is not Phase.FAILING_OVER or now - asked.at >= _LONGEST:
        return None
    return asked


def taken_over_since(database: Database, since: datetime, incident: str) -> Asked | None:
    """The failover that another incident than this has asked for since then, and that has begun; None when there is
    none. An incident of before it was meant to have the database moved away from where it is not any more.
    """
    asked = database.asked
    if asked is None or asked.incident == incident or asked.at < since.replace(microsecond=0):
        return None
    begun = database.phase is Phase.FAILING_OVER or asked.to == database.writer or told_since(database, asked.at)
    return asked if begun else None


def told_since(database: Database, at: datetime) -> Sequence[str]:
    """What the provider tells of failovers since then."""
    return [message for when, message in database.failovers if when >= at - _CLOCKS_DIFFER]


def nearest_reader(readers: Sequence[Member]) -> Member | None:
    """The healthy reader that is least behind; those whose lag is not known come last."""
    healthy = [one for one in readers if one.healthy]
    return min(healthy, key=lambda one: (one.lag_seconds is None, one.lag_seconds or 0.0, one.name), default=None)
