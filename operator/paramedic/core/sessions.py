"""Which sessions of a PostgreSQL server may be ended: pure, over rows of pg_stat_activity."""

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from paramedic.api.base import format_duration, format_time, parse_time
from paramedic.core.sqltext import backs_up, defines, normalized

IDLE = ("idle in transaction", "idle in transaction (aborted)")
_BACKUP_PROGRAMS = frozenset(
    {"pg_dump", "pg_dumpall", "pg_restore", "pg_basebackup", "pg_receivewal", "pg_recvlogical", "pg_rewind"}
)
_MOST_TOLD = 3
Json = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Session:
    """One backend. ``since``: when its statement began, or, between two statements, when the last one ended.

    ``out_of_reach``: only a superuser could end it; ``needs_right``: Paramedic's role may not end others' sessions.
    """

    pid: int
    backend_start: datetime
    since: datetime
    age: timedelta
    backend_type: str
    user: str
    database: str
    application: str
    state: str
    wait_event_type: str = ""
    wait_event: str = ""
    query: str = ""
    own: bool = False
    holds_ddl_locks: bool = False
    out_of_reach: bool = False
    needs_right: bool = False

    @property
    def identity(self) -> "Identity":
        """What tells this statement of this session from every other."""
        return Identity(self.pid, self.backend_start, self.since, self.state)

    def to_status(self) -> Json:
        """For the Incident's status: no literals of the query."""
        return {
            "pid": self.pid,
            "backendStart": format_time(self.backend_start),
            "since": format_time(self.since),
            "state": self.state,
            "user": self.user,
            "database": self.database,
            "application": self.application,
            "query": normalized(self.query),
        }


@dataclass(frozen=True, slots=True)
class Identity:
    """One statement (or pause in a transaction) of one backend: pids and backends are used again."""

    pid: int
    backend_start: datetime
    since: datetime
    state: str

    @classmethod
    def of_status(cls, stored: Json) -> "Identity":
        """As ``Session.to_status`` wrote it."""
        since, start = parse_time(stored["since"]), parse_time(stored["backendStart"])
        return cls(int(stored["pid"]), start, since, str(stored["state"]))


@dataclass(frozen=True, slots=True)
class Wanted:
    """What is to be ended; empty collections mean any. ``matches`` says whether a query's text is meant."""

    older_than: timedelta
    states: Sequence[str]
    users: Sequence[str] = ()
    databases: Sequence[str] = ()
    applications: Sequence[str] = ()
    wait_events: Sequence[str] = ()
    matches: Callable[[str], bool] = lambda _: True
    include_ddl: bool = False
    at_most: int = 10

    def wants(self, session: Session) -> bool:
        """Whether it is old enough and of the kind that is meant."""
        return (
            session.age > self.older_than
            and session.state in self.states
            and _among(self.users, session.user)
            and _among(self.databases, session.database)
            and _among(self.applications, session.application)
            and _among(self.wait_events, session.wait_event_type, session.wait_event)
            and self.matches(session.query)
        )


@dataclass(frozen=True, slots=True)
class Chosen:
    """The oldest that may be ended; how many more there are; why others were spared that were meant."""

    victims: tuple[Session, ...]
    more: int
    spared: Mapping[str, int]


def choose(sessions: Iterable[Session], wanted: Wanted) -> Chosen:
    """Picks what is ended."""
    meant = sorted((s for s in sessions if wanted.wants(s)), key=lambda s: (s.since, s.pid))
    reasons = {s.pid: why_spared(s, include_ddl=wanted.include_ddl) for s in meant}
    free = [s for s in meant if not reasons[s.pid]]
    spared = Counter(reason for reason in reasons.values() if reason)
    return Chosen(tuple(free[: wanted.at_most]), max(0, len(free) - wanted.at_most), spared)


def why_spared(session: Session, *, include_ddl: bool) -> str:
    """Why a session must never be ended, in a word or two; empty when it may."""
    if session.backend_type != "client backend":
        return session.backend_type or "background process"
    if session.own:
        return "Paramedic's own"
    if session.application in _BACKUP_PROGRAMS or backs_up(session.query):
        return "backup"
    if not include_ddl and (session.holds_ddl_locks or defines(session.query)):
        return "DDL or maintenance"
    return "a superuser's" if session.out_of_reach else ""


def told(sessions: Iterable[Session]) -> str:
    """The longest statements under way, for people."""
    running = [s for s in sessions if s.state == "active" and s.backend_type == "client backend" and not s.own]
    longest = sorted(running, key=lambda s: s.age, reverse=True)[:_MOST_TOLD]
    return ", ".join(f"{s.user or '?'} for {_rounded(s.age)}" for s in longest)


def _rounded(age: timedelta) -> str:
    return format_duration(timedelta(seconds=int(age.total_seconds())))


def _among(allowed: Sequence[str], *present: str) -> bool:
    return not allowed or any(one in allowed for one in present if one)
