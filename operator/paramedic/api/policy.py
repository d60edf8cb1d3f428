"""``RemediationPolicy``: what an on-call engineer would do, written down once."""

from collections.abc import Mapping
from datetime import timedelta
from typing import Annotated, Any, Literal, Self

from pydantic import ConfigDict, Field, model_validator
from pydantic.alias_generators import to_camel

from paramedic.api.base import (
    CelExpression,
    Duration,
    Model,
    NamespaceName,
    ObjectName,
    StatusModel,
    StepName,
    Time,
    rule,
)
from paramedic.api.checks import RevertWhen, Verify
from paramedic.api.conditions import Condition
from paramedic.api.workload import TargetSelector

Mode = Literal["Observe", "Approve", "Auto"]
Strategy = Literal["UntilRecovered", "Sequence"]
OnFailure = Literal["Continue", "Stop", "Escalate"]
Severity = Literal["P0", "P1", "P2", "P3"]
MOST_MATCHERS = 128
"""In all entries of a policy."""
READING = frozenset({"diagnose", "captureEvidence", "awaitDatabase"})
"""Actions that change nothing of what is in trouble: by themselves they are no remedy, and nothing is verified."""
SHOWING = frozenset({"slowQueryLog"})
"""Actions that only let people see more. They change something, but heal nothing: that an alert goes on says nothing of
them, so they are verified by what their own step says only, and a remedy after them is tried all the same.
"""
_EVIDENCE_THAT_COSTS = frozenset({"networkCapture", "snapshots", "databaseDump"})
"""What ``captureEvidence`` starts, creates or loads elsewhere: a container in a pod, snapshots, a database."""
SHUTDOWN = "shutdown"
"""The action that each part of a complete shutdown is."""
_INCIDENT_TYPE_PATTERN = r"^[A-Z][A-Za-z0-9]{1,62}$"
_CAMEL_CASE = rule(
    f"self.matches('{_INCIDENT_TYPE_PATTERN}')", "an incident type is one CamelCase word, for example APIOutage"
)
IncidentType = Annotated[
    str,
    Field(pattern=_INCIDENT_TYPE_PATTERN, max_length=63, json_schema_extra={"x-kubernetes-validations": [_CAMEL_CASE]}),
]
LabelName = Annotated[str, Field(pattern=r"^[a-zA-Z_][a-zA-Z0-9_]*$", max_length=128)]

Matcher = Annotated[str, Field(min_length=2, max_length=512)]


class AlertMatch(Model):
    """Alerts for which every matcher holds."""

    matchers: list[Matcher] = Field(
        min_length=1,
        max_length=16,
        description="Alertmanager matchers, for example 'alertname=\"CovetApiErrors\"'; all must hold.",
        json_schema_extra={
            "x-kubernetes-validations": [
                rule(
                    'self.all(m, m.matches(\'^[ {]*("[^"]+"|[a-zA-Z_:][a-zA-Z0-9_:]*) *(=~|!~|!=|=)([^=~]|$)\'))',
                    'each matcher is label, one of = != =~ !~, and a value: for example severity=~"critical|page"',
                )
            ]
        },
    )


class IncidentMatch(Model):
    """Incidents of these types and severities; an empty list means any."""

    types: list[IncidentType] = Field(default_factory=list, max_length=64, description="Incident types.")
    severities: list[Severity] = Field(default_factory=list, max_length=4, description="Severities.")


class Match(Model):
    """What the policy answers to."""

    model_config = ConfigDict(
        json_schema_extra={
            "x-kubernetes-validations": [
                rule(
                    "(has(self.alerts) && size(self.alerts) > 0) || has(self.incidents)",
                    "match needs alerts, incidents, or both: as it stands the policy would never act",
                ),
                rule(
                    f"!has(self.alerts) || self.alerts.map(a, size(a.matchers)).sum() <= {MOST_MATCHERS}",
                    f"a policy may have {MOST_MATCHERS} matchers in all: join values in one regular expression, or "
                    "divide it into several policies",
                ),
            ]
        }
    )

    alerts: list[AlertMatch] = Field(default_factory=list, max_length=32, description="Any entry matches.")
    incidents: IncidentMatch | None = Field(None, description="Incidents that people apply.")


class IncidentTemplate(Model):
    """What a matching alert becomes."""

    model_config = ConfigDict(
        json_schema_extra={
            "x-kubernetes-validations": [
                rule(
                    "!has(self.severityMap) || has(self.severityFromLabel)",
                    "severityMap is used with severityFromLabel: name the alert label that it maps",
                )
            ]
        }
    )

    type: IncidentType = Field("APIOutage", description="Type of the incident.")
    severity: Severity = Field("P2", description="Severity, and the fallback for severityFromLabel.")
    severity_from_label: LabelName | None = Field(None, description="Alert label that gives the severity.")
    severity_map: dict[str, Severity] | None = Field(
        None, description="From the label's value to a severity, for example critical: P0."
    )
    group_by: list[LabelName] = Field(
        default_factory=list,
        max_length=32,
        description="Alerts with the same values of these labels are one incident; empty: each alert is its own. "
        "Labels that say what is acted on (nameFromLabel, addressesFromLabel) must be among them.",
    )
    title: str = Field(
        "{{ annotations.summary or labels.alertname }}",
        max_length=1024,
        description="Title, a Jinja template over labels and annotations.",
    )


class RateLimit(Model):
    """At most so many actions in a sliding period."""

    actions: int = Field(3, ge=1, le=100_000, description="How many actions.")
    period: Duration = Field(timedelta(hours=1), description="In which period.")


SCHEDULE_PATTERN = r"^\S+( +\S+){4}$"
_FIVE_FIELDS = rule(
    r"self.matches('^\\S+( +\\S+){4}$')",
    'a schedule is five cron fields (minute, hour, day, month, weekday), for example "0 18 * * FRI"',
)


class Window(Model):
    """A recurring span of time."""

    schedule: str = Field(
        pattern=SCHEDULE_PATTERN,
        max_length=128,
        json_schema_extra={"x-kubernetes-validations": [_FIVE_FIELDS]},
        description='When it opens: five cron fields, for example "0 18 * * FRI".',
    )
    duration: Duration = Field(description="How long it stays open.")
    time_zone: str = Field("UTC", max_length=64, description="IANA time zone, for example Europe/Berlin.")


class Windows(Model):
    """When acting is allowed."""

    allow: list[Window] = Field(default_factory=list, max_length=32, description="Act only inside these; none: always.")
    deny: list[Window] = Field(default_factory=list, max_length=32, description="Never act inside these.")


class Guards(Model):
    """What must hold before anything is done."""

    cooldown: Duration = Field(
        timedelta(minutes=10), description="After an action on a target, no other incident acts on it for this long."
    )
    rate_limit: RateLimit = Field(default_factory=RateLimit, description="Most actions per policy in a period.")
    max_concurrent: int = Field(1, ge=1, le=100_000, description="Most open remediations under this policy.")
    min_healthy: str = Field(
        "0%",
        pattern=r"^(100|[1-9]?[0-9])%$",
        description="Refuse when fewer of the namespace's workloads than this are healthy.",
    )
    max_age: Duration = Field(
        timedelta(hours=1), description="An incident older than this that was never acted on is left to people."
    )
    windows: Windows = Field(default_factory=Windows, description="When acting is allowed.")

    @property
    def min_healthy_fraction(self) -> float:
        """``min_healthy`` between 0 and 1."""
        return int(self.min_healthy.rstrip("%")) / 100


class Step(Model):
    """One action with its conditions. The action is the one key that is not among these fields."""

    model_config = ConfigDict(extra="allow")

    name: StepName = Field(description="Name of the step, unique in the policy; approvals refer to it.")
    when: CelExpression | None = Field(
        None,
        description="CEL; the step is skipped when false. Example: target.lastRolloutAge < duration('30m'). It knows "
        "alert.{labels,annotations,firing,age}, incident.{name,namespace,title,type,severity,age}, "
        "target.{kind,name,labels,replicas,readyReplicas,availableReplicas,updatedReplicas,lastRolloutAge}, "
        "findings[].{reason,message,object} and steps['NAME'].{state,reason,message,result}. List macros (all, exists, "
        "exists_one, filter) stand side by side, not one inside of another; map is not known.",
    )
    target: TargetSelector | None = Field(None, description="Instead of the policy's target.")
    approval: Literal["Required", "NotRequired"] | None = Field(
        None, description="Required: wait for a person, whatever the mode. NotRequired: do not, even in mode Approve."
    )
    timeout: Duration = Field(timedelta(minutes=5), description="For carrying the step out, without verification.")
    ttl: Duration | None = Field(None, description="A leased mitigation: put back after this.")
    revert_when: RevertWhen | None = Field(None, description="Put a leased mitigation back early when this holds.")
    verify: Verify | None = Field(None, description="Instead of the policy's verify.")
    on_failure: OnFailure = Field(
        "Escalate",
        description="What follows when the step fails. Continue: the next step. Escalate: people are called at once, "
        "and Paramedic does nothing further. Stop: nothing further; people are called when that lasts too long.",
    )

    @model_validator(mode="after")
    def _one_action(self) -> Self:
        if len(self.model_extra or {}) != 1:
            raise ValueError(f"step {self.name}: exactly one action is needed, got {sorted(self.model_extra or {})}")
        return self

    @property
    def action(self) -> str:
        """Name of the action, a key of ``ACTIONS``."""
        return next(iter(self.model_extra or {}))

    @property
    def params(self) -> dict[str, Any]:
        """The action's parameters as written."""
        return dict((self.model_extra or {})[self.action] or {})


def only_reads(action: str, params: Mapping[str, Any]) -> bool:
    """Whether a step with these parameters (as written) reads only what the cluster tells: it needs no consent, and no
    guard and no pause of the policy holds it.
    """
    return action in READING and not any(params.get(part) for part in _EVIDENCE_THAT_COSTS)


class Escalation(Model):
    """Who is called when Paramedic cannot go on."""

    team: str | None = Field(None, max_length=63, description="Team in the settings' escalation matrix.")


class ImpactFigure(Model):
    """A figure of the impact on users, looked up when people are told."""

    name: StepName = Field(description="Name of the figure, unique in the policy.")
    query: str = Field(
        min_length=1,
        max_length=2048,
        description="PromQL that gives one number; of several series the greatest counts.",
    )
    text: str = Field(
        min_length=1,
        max_length=512,
        description="One line, a Jinja template over value: '{{ value | percent }} of requests failing'. "
        "Filters: number, percent. value is the word unknown when Prometheus does not say.",
    )


_MessageText = Annotated[str, Field(min_length=1, max_length=4096)]


class MessageTemplates(Model):
    """What people are told, in the team's own words; what is absent is as the settings or the runbook have it."""

    internal_update: _MessageText | None = Field(None, description="Jinja of the internal status update.")
    customer_message: _MessageText | None = Field(None, description="Jinja of what customers are told meanwhile.")
    customer_title: _MessageText | None = Field(None, description="Jinja of the title on the status page.")
    all_clear: _MessageText | None = Field(None, description="Jinja of the all-clear message.")
    customer_all_clear: _MessageText | None = Field(None, description="Jinja of what customers are told at the end.")
    shutdown_notice: _MessageText | None = Field(None, description="Jinja of the notice of an emergency shutdown.")
    service: str | None = Field(
        None, max_length=128, description="What customers call the affected service, for example API service."
    )
    impact: list[ImpactFigure] = Field(default_factory=list, max_length=8, description="Figures of the impact.")


_TARGET_NEEDED = rule(
    "!has(self.match.alerts) || size(self.match.alerts) == 0 || has(self.target) || self.steps.all(s, has(s.target))",
    "an alert names no target by itself: set spec.target, or a target on every step",
)

_NO_VALUES_OF_SECRETS = rule(
    "self.steps.all(s, !has(s.patchConfig) || !has(s.patchConfig.data) || size(s.patchConfig.data) == 0 || "
    "(has(s.target) ? s.target.kind : has(self.target) ? self.target.kind : '') != 'Secret')",
    "values for a Secret are not written into a policy: put them into another Secret, named with patchConfig.valueFrom",
)


_ONE_TARGET_FOR_A_GROUP = rule(
    "!has(self.incident) || !has(self.incident.groupBy) || size(self.incident.groupBy) == 0 || ("
    "(!has(self.target) || !has(self.target.nameFromLabel) || self.target.nameFromLabel in self.incident.groupBy) && "
    "self.steps.all(s, (!has(s.target) || !has(s.target.nameFromLabel) || "
    "s.target.nameFromLabel in self.incident.groupBy) && (!has(s.blockAddresses) || "
    "!has(s.blockAddresses.addressesFromLabel) || s.blockAddresses.addressesFromLabel in self.incident.groupBy)))",
    "of alerts that are one incident only the first says what is acted on: add the label of nameFromLabel, and that of "
    "addressesFromLabel, to incident.groupBy",
)


class PolicySpec(Model):
    """Desired behaviour."""

    model_config = ConfigDict(
        json_schema_extra={"x-kubernetes-validations": [_TARGET_NEEDED, _ONE_TARGET_FOR_A_GROUP, _NO_VALUES_OF_SECRETS]}
    )

    mode: Mode = Field(
        "Approve",
        description="Observe: plan and record only. Approve: wait for a person before each step. Auto: act.",
    )
    priority: int = Field(0, ge=-1_000_000, le=1_000_000, description="Highest wins; then the oldest policy.")
    paused: bool = Field(
        False,
        description="Nothing is done under this policy while true, nor put back, until a person closes or deletes the "
        "incident; takes effect at once.",
    )
    strategy: Strategy = Field(
        "UntilRecovered",
        description="UntilRecovered: steps in order of preference, stop at the first that helped. "
        "Sequence: every step in order.",
    )
    namespaces: list[NamespaceName] = Field(
        default_factory=list,
        max_length=256,
        description="Only for policies in Paramedic's own namespace: the namespaces that they serve.",
    )
    match: Match = Field(description="What the policy answers to.")
    incident: IncidentTemplate = Field(default_factory=IncidentTemplate, description="What a matching alert becomes.")
    target: TargetSelector | None = Field(None, description="Default target of the steps.")
    guards: Guards = Field(default_factory=Guards, description="What must hold before anything is done.")
    steps: list[Step] = Field(min_length=1, max_length=16, description="In order; exactly one action each.")
    verify: Verify | None = Field(
        None, description="After each step, unless the step has its own. Default: rollout, and the alert's end."
    )
    escalation: Escalation | None = Field(None, description="Who is called when Paramedic cannot go on.")
    notify: list[Annotated[str, Field(max_length=63)]] = Field(
        default_factory=list, max_length=16, description="Channels that are told, for example slack."
    )
    messages: MessageTemplates | None = Field(None, description="What they are told, in the team's own words.")


class PolicyStatus(StatusModel):
    """What is known of the policy."""

    observed_generation: int | None = Field(None, description="Generation that the conditions speak of.")
    conditions: list[Condition] = Field(default_factory=list, description="Ready tells what is wrong in the policy.")
    matched: int | None = Field(None, description="Incidents that this policy has matched and that are still stored.")
    last_matched_at: Time | None = Field(None, description="When it last matched.")
    actions_in_period: int | None = Field(None, description="Actions in the current guards.rateLimit.period.")


class PolicyMeta(StatusModel):
    """The metadata that is used."""

    name: ObjectName
    namespace: str
    uid: str = ""
    generation: int = 1
    creation_timestamp: Time | None = None
    resource_version: str = ""


class RemediationPolicy(StatusModel):
    """A RemediationPolicy as read from the API server."""

    model_config = ConfigDict(alias_generator=to_camel)

    metadata: PolicyMeta
    spec: PolicySpec
    status: PolicyStatus = Field(default_factory=PolicyStatus)

    @property
    def key(self) -> str:
        """``namespace/name``."""
        return f"{self.metadata.namespace}/{self.metadata.name}"
