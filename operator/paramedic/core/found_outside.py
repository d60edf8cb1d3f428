"""Findings about databases, caches and queues."""

from collections.abc import Iterator

from paramedic.api.incident import Finding
from paramedic.api.reasons import FindingReason as R
from paramedic.core.failover import Phase
from paramedic.core.outside import (
    CacheGroup,
    CacheLoad,
    ClusterState,
    DatabaseLoad,
    Outside,
    QueueDepth,
    Running,
    Shard,
    Unavailable,
)
from paramedic.core.picture import Picture, finding, some, span
from paramedic.core.redact import clean

_NEAR = 0.9
_AVAILABLE = "available"
_FREES_ANY_KEY = "allkeys-"
_SERVING = frozenset({_AVAILABLE, "snapshotting"})
_UNITS = ((1 << 30, "GiB"), (1 << 20, "MiB"), (1 << 10, "KiB"))


def outside_findings(picture: Picture) -> Iterator[Finding]:
    """What is wrong with what the service depends on outside of its pods."""
    for seen in picture.outside:
        for reason, text in _wrong(seen):
            yield finding(reason, f"{seen.connection}: {text}", f"Connection/{seen.connection}")


def _wrong(seen: Outside) -> Iterator[tuple[R, str]]:
    match seen:
        case Unavailable():
            yield _unavailable(seen)
        case ClusterState():
            yield from _cluster(seen)
        case DatabaseLoad():
            yield from _database(seen)
        case CacheGroup():
            yield from _group(seen)
        case CacheLoad():
            yield from _cache(seen)


def _unavailable(seen: Unavailable) -> tuple[R, str]:
    why = clean(seen.why.removeprefix(f"{seen.connection}: "), 300)
    if seen.kind == "database":
        full, unreachable = R.DATABASE_CONNECTIONS_EXHAUSTED, R.DATABASE_UNREACHABLE
    else:
        full, unreachable = R.CACHE_CONNECTIONS_EXHAUSTED, R.CACHE_UNREACHABLE
    return (full, f"no connection is left: {why}") if seen.full else (unreachable, f"does not serve: {why}")


def _cluster(seen: ClusterState) -> Iterator[tuple[R, str]]:
    database = seen.database
    if database is None:
        yield R.DATABASE_CLUSTER_NOT_AVAILABLE, "there is no such database cluster"
        return
    down = [one.name for one in database.members if not one.healthy]
    parts = [] if database.phase is Phase.AVAILABLE else [f"the cluster is {clean(database.status, 100)}"]
    parts += [] if database.writer else ["nobody writes"]
    parts += [f"{len(down)} of {len(database.members)} instances not available ({some(down)})"] if down else []
    if parts:
        parts.append(f"latest snapshot: {seen.snapshots[0] if seen.snapshots else 'none'}")
        yield R.DATABASE_CLUSTER_NOT_AVAILABLE, "; ".join(parts)


def _database(seen: DatabaseLoad) -> Iterator[tuple[R, str]]:
    if seen.waiting:
        text = f"{_sessions(seen.waiting)} for locks, the first for {span(seen.waited)}"
        yield R.DATABASE_LOCKS_WAITING, f"{text}{_held_by(seen.blockers)}"
    if seen.long_running:
        first = f"; the longest: {_told(seen.longest[0])}" if seen.longest else ""
        text = f"{seen.long_running} at work for more than {span(seen.long_after)}{first}"
        yield R.LONG_RUNNING_QUERIES, text
    if seen.most > 0 and seen.connections >= _NEAR * seen.most:
        text = f"{seen.connections} of {seen.most} connections are taken"
        yield (
            R.DATABASE_CONNECTIONS_EXHAUSTED,
            f"{text} ({seen.active} active, {seen.idle_in_transaction} idle in a transaction)",
        )


def _sessions(count: int) -> str:
    return f"{count} session{' waits' if count == 1 else 's wait'}"


def _held_by(blockers: tuple[Running, ...]) -> str:
    if not blockers:
        return ""
    more = f" and {len(blockers) - 1} more" if len(blockers) > 1 else ""
    return f"; held up by {_told(blockers[0])}{more}"


def _told(one: Running) -> str:
    return f"pid {one.pid} ({clean(one.user, 63)}, {one.state} for {span(one.age)}): {clean(one.query, 200)}"


def _group(seen: CacheGroup) -> Iterator[tuple[R, str]]:
    if not seen.status:
        yield R.CACHE_NOT_AVAILABLE, f"there is no replication group {seen.group}"
        return
    parts = [] if seen.status in _SERVING else [f"replication group {seen.group} is {clean(seen.status, 63)}"]
    parts += [text for shard in seen.shards for text in _shard(shard, seen)]
    if parts:
        yield R.CACHE_NOT_AVAILABLE, "; ".join(parts)


def _shard(shard: Shard, seen: CacheGroup) -> Iterator[str]:
    if shard.status not in _SERVING:
        yield f"its node group {clean(shard.name, 40)} is {clean(shard.status, 63)}"
    elif not shard.primary and any(one.primary for one in seen.shards):
        yield f"its node group {clean(shard.name, 40)} has no primary"


def _cache(seen: CacheLoad) -> Iterator[tuple[R, str]]:
    # A cache that may free any key is full by design: then only what is evicted tells something.
    full = seen.max_bytes and seen.used_bytes >= _NEAR * seen.max_bytes
    if full and not seen.policy.startswith(_FREES_ANY_KEY):
        text = f"{_size(seen.used_bytes)} of {_size(seen.max_bytes)} are used, and {clean(seen.policy, 40)} is in force"
        yield R.CACHE_MEMORY_FULL, text
    if seen.evicting:
        text = f"{seen.evicting} keys were evicted while it was looked at, {seen.evicted} since it started"
        yield R.CACHE_EVICTING, text
    if seen.rejecting or (seen.max_clients and seen.clients >= _NEAR * seen.max_clients):
        text = f"{seen.clients} of {seen.max_clients or '?'} connections are taken, {seen.rejected} were rejected"
        yield R.CACHE_CONNECTIONS_EXHAUSTED, text
    for queue in seen.queues:
        yield from _queue(queue)


def _queue(queue: QueueDepth) -> Iterator[tuple[R, str]]:
    if queue.entries > queue.most:
        yield R.QUEUE_DEEP, f"{queue.entries} entries wait in {clean(queue.key, 120)} (more than {queue.most})"


def _size(count: int) -> str:
    size, unit = next(((size, unit) for size, unit in _UNITS if count >= size), (1, "B"))
    return f"{count / size:.1f} {unit}" if size > 1 else f"{count} B"
