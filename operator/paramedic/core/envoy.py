"""Circuit breakers in Envoy's ``/stats/prometheus`` (runbook 3, "Network Issues")."""

import re
from typing import NamedTuple

_LINE = re.compile(r"envoy_cluster_(?P<stat>\w{1,80})\{(?P<labels>[^\n]{0,2000})\} (?P<value>[0-9.eE+]{1,20})")
_CLUSTER = re.compile(r'envoy_cluster_name="((?:[^"\\]|\\.)*)"')
_OPEN = re.compile(r"circuit_breakers_(\w+)_open")
_OVERFLOW = re.compile(r"upstream_\w+_overflow")


class Stat(NamedTuple):
    """One value that is not 0: ``default_rq_pending`` (open) or ``upstream_rq_pending_overflow`` (a count)."""

    cluster: str
    name: str
    value: float
    is_open: bool


def breaker_stats(text: str) -> list[Stat]:
    """The open circuit breakers, and how many requests or connections each cluster has turned away so far."""
    found = []
    for line in text.splitlines():
        match = _LINE.match(line)
        if match is None:
            continue
        name, cluster = match["stat"], _CLUSTER.search(match["labels"])
        opened, overflow = _OPEN.fullmatch(name), _OVERFLOW.fullmatch(name)
        value = _number(match["value"])
        if cluster and value and (opened or overflow):
            found.append(Stat(cluster[1], opened[1] if opened else name, value, opened is not None))
    return found


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return 0.0
