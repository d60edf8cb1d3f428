"""What a diagnosis has seen of databases, caches and queues. ``connection`` is always the connection's name."""

from dataclasses import asdict, dataclass
from datetime import datetime, timedelta
from typing import Any, Literal

from paramedic.api.base import format_time
from paramedic.core.failover import Database

Json = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Unavailable:
    """A server that does not serve; ``full`` when it says that it has no connection left."""

    connection: str
    kind: Literal["database", "cache"]
    why: str
    full: bool = False


@dataclass(frozen=True, slots=True)
class Running:
    """What one session of PostgreSQL does, or, between two statements of a transaction, did last. The query is without
    its literals.
    """

    pid: int
    user: str
    state: str
    age: timedelta
    query: str


@dataclass(frozen=True, slots=True)
class DatabaseLoad:
    """How busy a PostgreSQL server is. ``most`` is what max_connections leaves to clients; counts are the server's.

    ``longest`` are the first few of ``long_running`` sessions that have been at it for more than ``long_after``;
    ``waiting`` wait for locks, the first since ``waited``, and ``blockers`` hold these and wait for none themselves.
    Both are of the connection's database alone.
    """

    connection: str
    connections: int
    most: int
    active: int
    idle_in_transaction: int
    long_after: timedelta
    long_running: int = 0
    longest: tuple[Running, ...] = ()
    waiting: int = 0
    waited: timedelta = timedelta(0)
    blockers: tuple[Running, ...] = ()


@dataclass(frozen=True, slots=True)
class ClusterState:
    """A database cluster, None where its provider does not know it, and its newest snapshots."""

    connection: str
    database: Database | None
    snapshots: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class QueueDepth:
    """How much waits in a queue, and how much may."""

    key: str
    entries: int
    most: int


@dataclass(frozen=True, slots=True)
class CacheLoad:
    """How full a Redis server is; ``max_bytes`` is 0 where nothing bounds it, ``max_clients`` where it is not known.

    ``evicted`` keys and ``rejected`` connections are since the server's start; ``evicting`` and ``rejecting`` of them
    came while it was looked at.
    """

    connection: str
    used_bytes: int
    max_bytes: int
    policy: str
    clients: int
    max_clients: int = 0
    evicted: int = 0
    evicting: int = 0
    rejected: int = 0
    rejecting: int = 0
    queues: tuple[QueueDepth, ...] = ()


@dataclass(frozen=True, slots=True)
class Shard:
    """One node group of a replication group; ``primary`` is empty where ElastiCache does not tell it."""

    name: str
    status: str
    primary: str
    members: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class CacheGroup:
    """A replication group in ElastiCache; ``status`` is empty where there is none of that name."""

    connection: str
    group: str
    status: str
    automatic_failover: str = ""
    shards: tuple[Shard, ...] = ()


Outside = Unavailable | DatabaseLoad | ClusterState | CacheLoad | CacheGroup


def row_of(seen: Outside) -> Json:
    """For the evidence."""
    return {"seen": type(seen).__name__} | {name: _plain(value) for name, value in asdict(seen).items()}


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {str(key): _plain(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(one) for one in value]
    if isinstance(value, timedelta):
        return f"{value.total_seconds():.1f} s"
    return format_time(value) if isinstance(value, datetime) else getattr(value, "value", value)
