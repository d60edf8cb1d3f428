"""What tells whether a step helped, shared by ``verify`` and ``revertWhen``."""

from datetime import timedelta
from typing import Literal

from pydantic import ConfigDict, Field

from paramedic.api.base import CelExpression, Duration, Model, rule


class PrometheusCheck(Model):
    """A PromQL query that gives one number, and a condition on it."""

    query: str = Field(min_length=1, max_length=4096, description="PromQL; must give one series or a scalar.")
    condition: CelExpression = Field(
        description="CEL on `value` (a double), for example `value < 0.01`. True means healthy."
    )
    no_data: Literal["Inconclusive", "Passed", "Failed"] = Field(
        "Inconclusive", description="What an empty answer or NaN means."
    )


class Checks(Model):
    """Conditions that must all hold."""

    rollout: bool | None = Field(None, description="The target's rollout is complete and its pods are available.")
    alert_resolved: bool | None = Field(None, description="The alert that opened the incident has ended.")
    prometheus: PrometheusCheck | None = Field(None, description="A PromQL query with a condition.")
    for_: Duration | None = Field(
        None, alias="for", description="How long the checks must hold without a break, for example 30s."
    )

    def is_empty(self) -> bool:
        """Whether nothing is asked."""
        return not (self.rollout or self.alert_resolved or self.prometheus)


class Verify(Checks):
    """Checks with a time limit."""

    timeout: Duration = Field(
        timedelta(minutes=5), description="After this, a check that does not hold has Failed (or is Inconclusive)."
    )


_SOMETHING = rule(
    "(has(self.alertResolved) && self.alertResolved) || has(self.prometheus)",
    "revertWhen needs alertResolved: true or a prometheus query",
)


class RevertWhen(Model):
    """When a leased mitigation may be put back early."""

    model_config = ConfigDict(json_schema_extra={"x-kubernetes-validations": [_SOMETHING]})

    alert_resolved: bool | None = Field(None, description="The alert that opened the incident has ended.")
    prometheus: PrometheusCheck | None = Field(None, description="A PromQL query with a condition.")
    for_: Duration | None = Field(None, alias="for", description="How long it must hold without a break.")
