"""What ``diagnose`` is told: where to look beside the target itself. All of it is optional."""

from datetime import timedelta
from typing import Annotated, Literal

from pydantic import Field

from paramedic.api.base import Duration, Model, ObjectName

QueueType = Literal["List", "Stream", "SortedSet"]

# No "@" before the path: a URL with a password in it would be stored and shown in clear.
URL_PATTERN = r"^https?://[^\s/?#@]+([/?#]\S*)?$"
Url = Annotated[str, Field(pattern=URL_PATTERN, max_length=2048)]


class QueueCheck(Model):
    """A queue in Redis whose depth is looked at."""

    key: str = Field(min_length=1, max_length=512, description="Key of the queue.")
    type: QueueType | None = Field(None, description="What is at the key; default: what Redis says.")
    group: str | None = Field(
        None, min_length=1, max_length=512, description="Of a stream: the consumer group whose work is counted."
    )
    max_depth: int = Field(1000, ge=0, le=1_000_000_000, description="More entries than this are told.")


class ConnectionCheck(Model):
    """A database, a cache or a cluster of either, outside of the target, that is looked at."""

    name: ObjectName = Field(description="Connection of type postgres, redis, aurora, cloudNativePG or elasticache.")
    long_query_after: Duration = Field(
        timedelta(minutes=5), description="Of PostgreSQL: statements that run for longer are told."
    )
    queues: list[QueueCheck] = Field(default_factory=list, max_length=10, description="Of Redis: queues.")


class DiagnoseParams(Model):
    """Where to look. Services and Ingresses that lead to the target's pods are found when they are not named."""

    service: ObjectName | None = Field(
        None, description="Service in front of the target; else those whose selector matches the target's pods."
    )
    ingress: ObjectName | None = Field(
        None, description="Ingress in front of the service; else those whose backends are such a service."
    )
    health_urls: list[Url] = Field(
        default_factory=list,
        alias="healthURLs",
        max_length=10,
        description="URLs that answer 2xx or 3xx when the service is well; asked from the operator, http or https.",
    )
    metrics_urls: list[Url] = Field(
        default_factory=list, alias="metricsURLs", max_length=10, description="Metrics endpoints that must answer 2xx."
    )
    dependencies: list[Url] = Field(
        default_factory=list,
        max_length=10,
        description="URLs of what the service depends on; anything but a 5xx counts as reachable.",
    )
    connections: list[ConnectionCheck] = Field(
        default_factory=list,
        max_length=10,
        description="Databases, caches, their clusters and queues to look at, in the policy's namespace.",
    )
    log_lines: int = Field(
        20, ge=0, le=200, description="Last log lines to keep of each failing container; 0 for none."
    )
    envoy_stats_port: int | None = Field(
        None,
        ge=1,
        le=65535,
        description="Port of Envoy's /stats/prometheus in the target's pods (15090 with Istio), for circuit breakers.",
    )
