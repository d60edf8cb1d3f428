"""What covet counts of itself, as Prometheus reads it."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector

MOST_SOURCES = 200
OTHER_SOURCES = "others"

REGISTRY = CollectorRegistry()
ProcessCollector(registry=REGISTRY)

REQUESTS = Counter("http_requests_total", "Requests served, by status.", ["code"], registry=REGISTRY)
DURATION = Histogram(
    "http_request_duration_seconds",
    "From a request's arrival to its answer.",
    buckets=(0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5),
    registry=REGISTRY,
)
QUEUE_DEPTH = Gauge("covet_queue_depth", "Tasks that wait in Redis.", ["queue"], registry=REGISTRY)
DATABASE_ERRORS = Counter("covet_database_errors_total", "Uses of the database that failed.", registry=REGISTRY)
TASKS = Counter("covet_tasks_total", "Tasks done by this worker.", registry=REGISTRY)

BY_SOURCE = Counter(
    "http_requests_by_source_total",
    "Requests served, by who connected to the load balancer.",
    ["source"],
    registry=REGISTRY,
)

for _code in (200, 201, 401, 500, 503):  # a rate needs two samples of a series, the first of them 0
    REQUESTS.labels(code=str(_code))


_sources: set[str] = set()


def count_source(forwarded_for: str) -> None:
    """Counts a request by the last address of X-Forwarded-For, which the load balancer itself has put there. Behind
    none there is none. A flood from everywhere must not fill the memory: after `MOST_SOURCES` all others are one.
    """
    source = forwarded_for.rpartition(",")[2].strip()
    if not source:
        return
    if source not in _sources and len(_sources) >= MOST_SOURCES:
        source = OTHER_SOURCES
    _sources.add(source)
    BY_SOURCE.labels(source=source).inc()
