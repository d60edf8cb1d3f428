"""What ``diagnose`` is told: where to look beside the target itself. All of it is optional."""

from typing import Annotated

from pydantic import Field

from paramedic.api.base import Model, ObjectName

# No "@" before the path: a URL with a password in it would be stored and shown in clear.
URL_PATTERN = r"^https?://[^\s/?#@]+([/?#]\S*)?$"
Url = Annotated[str, Field(pattern=URL_PATTERN, max_length=2048)]


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
    log_lines: int = Field(
        20, ge=0, le=200, description="Last log lines to keep of each failing container; 0 for none."
    )
    envoy_stats_port: int | None = Field(
        None,
        ge=1,
        le=65535,
        description="Port of Envoy's /stats/prometheus in the target's pods (15090 with Istio), for circuit breakers.",
    )
