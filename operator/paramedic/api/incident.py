"""``Incident``: one outage, what is done about it, and the record of it."""

from typing import Annotated, Any, Literal

from pydantic import ConfigDict, Field
from pydantic.config import JsonDict

from paramedic.api.addresses import MOST_ADDRESSES, SourceAddress
from paramedic.api.base import Duration, Labels, Model, ObjectName, StatusModel, StepName, Time, as_stored, rule
from paramedic.api.checklist import ChecklistText
from paramedic.api.checks import RevertWhen, Verify
from paramedic.api.conditions import Condition
from paramedic.api.policy import Guards, IncidentType, Mode, OnFailure, Severity, Strategy
from paramedic.api.reasons import Reason
from paramedic.api.workload import BoundTarget, TargetRef

Phase = Literal["Open", "Blocked", "AwaitingApproval", "Remediating", "Verifying", "Escalated", "Resolved"]
StepState = Literal[
    "Pending",
    "Skipped",
    "Blocked",
    "AwaitingApproval",
    "Executing",
    "Verifying",
    "Succeeded",
    "Failed",
    "Unknown",
    "Reverted",
]
UserName = Annotated[str, Field(max_length=253)]
Opaque: JsonDict = {"x-kubernetes-preserve-unknown-fields": True, "type": "object"}
IMMUTABLE = "{0} cannot be changed after creation: create a new Incident"


def _immutable(field: str) -> JsonDict:
    return rule(
        f"has(self.{field}) == has(oldSelf.{field}) && (!has(self.{field}) || self.{field} == oldSelf.{field})",
        IMMUTABLE.format(f"spec.{field}"),
    )


class PolicyRef(Model):
    """A policy by name."""

    name: ObjectName = Field(description="Name of a RemediationPolicy.")
    namespace: str | None = Field(
        None,
        max_length=63,
        description="Its namespace: the Incident's own (default), or Paramedic's for a policy that serves others.",
    )


class AlertSource(Model):
    """The alert that opened the incident; set by Paramedic's receiver."""

    fingerprint: str | None = Field(None, max_length=64, description="Alertmanager's fingerprint.")
    labels: Labels = Field(default_factory=dict, description="The alert's labels.")
    annotations: Labels = Field(default_factory=dict, description="The alert's annotations.")
    starts_at: Time | None = Field(None, description="When the alert began to fire.")
    generator_url: str | None = Field(None, alias="generatorURL", max_length=8192, description="Where it came from.")
    group_key: str | None = Field(
        None, max_length=64, description="Hash of the policy's groupBy values: alerts with the same are one incident."
    )
    group_labels: Labels = Field(
        default_factory=dict, description="The policy's groupBy labels with their values; empty without groupBy."
    )


class Approval(Model):
    """A person's consent to one step. The API server checks that approvedBy is who writes it."""

    step: StepName = Field(description="Name of the step.")
    approved_by: UserName = Field(description="The approver's own Kubernetes user name.")
    operation: str | None = Field(
        None, max_length=64, description="Bind the consent to the plan with this operation id (status.steps)."
    )


class Resolution(Model):
    """A person's statement that the incident is over."""

    resolved_by: UserName = Field(description="The writer's own Kubernetes user name.")
    root_cause: str | None = Field(None, max_length=16384, description="What it was.")
    follow_ups: list[Annotated[str, Field(max_length=2048)]] = Field(
        default_factory=list, max_length=64, description="What remains to be done."
    )
    keep: list[StepName] = Field(
        default_factory=list,
        max_length=64,
        description="Steps whose temporary change is made permanent: it is left in place instead of being put back.",
    )


class Tick(Model):
    """That a person has done an item of the post-incident checklist."""

    item: ChecklistText = Field(description="The item, in the runbook's words.")
    done_by: UserName = Field(description="The writer's own Kubernetes user name.")


class EscalationRequest(Model):
    """A person's call for more people (runbook, "Manual Escalation Criteria")."""

    requested_by: UserName = Field(description="The writer's own Kubernetes user name.")
    message: str = Field(
        min_length=1, max_length=1024, description="Why; another text is another request, and calls the next level."
    )


class IncidentSpec(Model):
    """What happened, and what people say about it."""

    model_config = ConfigDict(
        json_schema_extra={
            "x-kubernetes-validations": [
                _immutable("type"),
                _immutable("target"),
                _immutable("policyRef"),
                _immutable("alert"),
                _immutable("sourceAddresses"),
            ]
        }
    )

    title: str = Field(min_length=1, max_length=1024, description="One line for people.")
    type: IncidentType = Field(
        description="APIOutage, DatabaseDegraded, HighLoad, NetworkDegraded, QueueBacklog, SecurityBreach, DDoS, "
        "EmergencyShutdown, EmergencyRecovery, or a team's own CamelCase word."
    )
    severity: Severity = Field("P2", description="P0 (total outage) to P3 (cosmetic).")
    target: TargetRef | None = Field(None, description="What is affected; else the policy says it.")
    policy_ref: PolicyRef | None = Field(None, description="The policy to use; else policies are matched.")
    alert: AlertSource | None = Field(
        None, description="Set by Paramedic's receiver.", json_schema_extra={"x-kubernetes-map-type": "atomic"}
    )
    source_addresses: list[SourceAddress] = Field(
        default_factory=list,
        max_length=MOST_ADDRESSES,
        description="Addresses or CIDRs, IPv4 and IPv6, that the trouble comes from, for a policy whose blockAddresses "
        "has addressesFromIncident. They cannot be changed after creation.",
    )
    paused: bool = Field(
        False,
        description="A person takes over. While true no step is done, nothing is put back (a ttl that runs out waits) "
        "and the alert's end does not close the incident. Set it to false, or write spec.resolution.",
    )
    acknowledged_by: UserName | None = Field(None, description="Who works on it; your own user name.")
    commander: UserName | None = Field(None, description="Who leads the response; by default who acknowledged first.")
    approvals: list[Approval] = Field(
        default_factory=list,
        max_length=64,
        description="Consents to steps that await approval.",
    )
    escalation: EscalationRequest | None = Field(None, description="Write this to call the next level of the team.")
    resolution: Resolution | None = Field(None, description="Write this to close the incident.")
    checklist: list[Tick] = Field(
        default_factory=list,
        max_length=64,
        description="Items of the post-incident checklist (status.checklist) that people have done.",
    )


class PinnedPolicy(StatusModel):
    """The policy as it was when it was matched; a later edit does not change an incident under way."""

    name: str = Field(description="Name.")
    namespace: str = Field(description="Namespace.")
    uid: str = Field("", description="UID.")
    generation: int = Field(1, description="Generation of its spec.")
    mode: Mode = Field("Approve", description="Mode.")
    strategy: Strategy = Field("UntilRecovered", description="Strategy.")
    guards: Annotated[Guards, as_stored(Guards)] = Field(default_factory=Guards, description="Guards.")
    team: str | None = Field(None, description="Team to escalate to.")
    notify: list[str] = Field(default_factory=list, description="Channels that are told.")

    @property
    def key(self) -> str:
        """``namespace/name``."""
        return f"{self.namespace}/{self.name}"


MAX_STARTS = 100
"""How many alerts of a group are remembered with their start."""


class AlertState(StatusModel):
    """What has been heard of the alert since."""

    state: Literal["firing", "resolved"] = Field("firing", description="Whether any alert of the group fires.")
    count: int = Field(1, description="How often it was received.")
    last_received_at: Time | None = Field(None, description="When it was last received.")
    last_starts_at: Time | None = Field(None, description="Latest start of an alert that joined.")
    starts: dict[str, Time] = Field(
        default_factory=dict,
        max_length=MAX_STARTS,
        description="Latest start of each alert that was heard, by fingerprint; the newest 100.",
    )
    ends_at: Time | None = Field(None, description="When the alert ended.")
    firing: list[str] = Field(
        default_factory=list,
        description="Fingerprints of the group's alerts that still fire; at most 1,000. 'and others' "
        "stands for more: then the group ends when Prometheus shows none of it, or by a person's word.",
    )


class Verification(StatusModel):
    """Progress of a verification."""

    started_at: Time = Field(description="When it began.")
    passing_since: Time | None = Field(None, description="Since when all checks hold.")
    message: str = Field("", description="Result of the last look.")


class Revert(StatusModel):
    """The putting back of a step."""

    state: Literal["Executing", "Succeeded", "Failed", "Unknown"] = Field(description="State.")
    reason: str = Field("", description="CamelCase constant.")
    message: str = Field("", description="For a person.")
    operation: str = Field(description="Operation id, stamped on the target.")
    attempts: int = Field(1, description="How often its intent was claimed.")
    before: dict[str, Any] | None = Field(None, description="Fields before.", json_schema_extra=Opaque)
    after: dict[str, Any] | None = Field(None, description="Fields after.", json_schema_extra=Opaque)
    started_at: Time | None = Field(None, description="When its intent was written.")
    finished_at: Time | None = Field(None, description="When it ended.")
    failure: str = Field("", description="Why it could not be done: CamelCase constant.")


class StepStatus(StatusModel):
    """One step: as resolved when the policy was pinned, and what came of it."""

    name: str = Field(description="Name of the step.")
    part_of: str | None = Field(None, description="The policy's step that stands for several, of which this is one.")
    action: str = Field(description="Action.")
    state: StepState = Field("Pending", description="State.")
    reason: str = Field("", description="CamelCase constant.")
    message: str = Field("", description="For a person.")
    params: dict[str, Any] = Field(default_factory=dict, description="Parameters.", json_schema_extra=Opaque)
    target: BoundTarget | None = Field(None, description="The object, with the UID that was pinned.")
    when: str | None = Field(None, description="Condition.")
    approval_required: bool = Field(False, description="Whether a person must approve.")
    on_failure: OnFailure = Field("Escalate", description="What follows when it fails.")
    timeout: Duration | None = Field(None, description="For carrying it out.")
    ttl: Duration | None = Field(None, description="Leased for so long.")
    revert_when: Annotated[RevertWhen | None, as_stored(RevertWhen)] = Field(
        None, description="Put back early when this holds."
    )
    verify: Annotated[Verify | None, as_stored(Verify)] = Field(None, description="What shows that it helped.")
    operation: str | None = Field(None, description="Operation id, stamped on the target.")
    attempts: int = Field(0, description="How often its intent was claimed.")
    approved_by: str | None = Field(None, description="Who approved it.")
    before: dict[str, Any] | None = Field(None, description="Fields before.", json_schema_extra=Opaque)
    after: dict[str, Any] | None = Field(None, description="Fields after.", json_schema_extra=Opaque)
    started_at: Time | None = Field(None, description="When its intent was written.")
    finished_at: Time | None = Field(None, description="When it ended.")
    revert_at: Time | None = Field(None, description="When a leased mitigation is put back.")
    result: dict[str, Any] | None = Field(
        None, description="What it found, for the when of later steps.", json_schema_extra=Opaque
    )
    verification: Verification | None = Field(None, description="Progress of its verification.")
    revert: Revert | None = Field(None, description="How it was put back.")
    kept_by: str | None = Field(None, description="Who has made its temporary change permanent (resolution.keep).")

    @property
    def holds_mitigation(self) -> bool:
        """Whether something temporary of this step is still in place (or may be)."""
        leased = self.ttl is not None or self.revert_when is not None
        acted = self.state in ("Executing", "Verifying", "Succeeded", "Failed", "Unknown") and self.after is not None
        there = self.kept_by is None and (self.revert is None or self.revert.state == "Executing")
        return leased and acted and there

    @property
    def is_left_in_place(self) -> bool:
        """Whether something temporary of this step could not be put back: not where others have changed it since."""
        if self.revert is None or self.revert.state != "Failed" or self.kept_by is not None:
            return False
        leased = self.ttl is not None or self.revert_when is not None
        return leased and self.revert.failure != Reason.TARGET_CHANGED


class EscalationStatus(StatusModel):
    """How far the incident has been escalated."""

    level: int = Field(1, description="Level of the team's escalation matrix.")
    since: Time = Field(description="Since when it is at this level.")
    reason: str = Field("", description="CamelCase constant.")
    message: str = Field("", description="For a person.")
    team: str | None = Field(None, description="Team of the settings' escalation matrix.")
    handed_over: bool = Field(
        True, description="Whether Paramedic does nothing further by itself; false: people are called beside its work."
    )
    triggers: list[str] = Field(
        default_factory=list, description="What people were called for so far; each counts once. CamelCase constants."
    )
    waiting: list[str] = Field(
        default_factory=list,
        description="Calls that wait for the hours in which people are called: level and trigger, as in 1.NotResolved.",
    )


Via = Literal["kubernetes", "pagerduty", "slack"]


class Acknowledgement(StatusModel):
    """That a person works on it."""

    by: str = Field(description="Who: a Kubernetes user name, or as the other system names the person.")
    at: Time = Field(description="When.")
    via: Via = Field("kubernetes", description="Where it was said.")


class Consent(StatusModel):
    """A person's consent to one step that was given elsewhere than in spec.approvals, and checked by Paramedic."""

    step: str = Field(description="Name of the step.")
    approved_by: str = Field(description="Kubernetes user name of the person.")
    operation: str | None = Field(None, description="The plan that it is bound to.")
    at: Time = Field(description="When.")
    via: Via = Field("slack", description="Where it was given.")


class Closure(StatusModel):
    """A person's word that the incident is over, given elsewhere than in spec.resolution."""

    by: str = Field(description="Who.")
    at: Time = Field(description="When.")
    via: Via = Field("pagerduty", description="Where it was said.")


class Times(StatusModel):
    """How long things took, from the beginning of the trouble."""

    acknowledge: Duration | None = Field(None, description="Until a person took it on.")
    mitigate: Duration | None = Field(None, description="Until a remedy was verified.")
    resolve: Duration | None = Field(None, description="Until it was over.")


NoticeKind = Literal["Opened", "Update", "ApprovalNeeded", "Acknowledged", "Call", "Shutdown", "Resolved", "Reminder"]


class Notice(StatusModel):
    """Something that people are told. Stored together with the fact that it tells of, so that none is lost."""

    key: str = Field(description="Unique in the incident: what is never told twice.")
    kind: NoticeKind = Field(description="What it is; each channel decides by this what it does.")
    reason: str = Field("", description="CamelCase constant: the fact's.")
    at: Time = Field(description="When it became true.")
    message: str = Field(description="The fact, for a person.")
    mentions: list[str] = Field(default_factory=list, description="Who is called, as the channels name them.")
    pending: list[str] = Field(default_factory=list, description="Channels that have not been told yet.")
    held: list[str] = Field(
        default_factory=list,
        description="Channels that page people, which are told at the hours in which people are called.",
    )
    undelivered: list[str] = Field(default_factory=list, description="Channels that could not be told, for good.")


class Untold(StatusModel):
    """A channel that has not taken what it was told last."""

    channel: str = Field(description="Its name in the settings.")
    reason: str = Field("", description="CamelCase constant.")
    message: str = Field("", description="What is the matter, for a person.")


class Evidence(StatusModel):
    """Something kept for later."""

    name: str = Field(description="What.")
    uri: str | None = Field(None, description="Where; absent when it could not be captured.")
    sha256: str | None = Field(None, description="Checksum of what is there.")
    size_bytes: int | None = Field(None, description="Size of what is there, in bytes.")
    note: str | None = Field(None, description="What is missing or was cut, and why.")


class Finding(StatusModel):
    """One thing that the diagnosis found."""

    reason: str = Field(description="CamelCase constant: RecentRollout, CrashLooping, OOMKilled and so on.")
    message: str = Field(description="For a person, with numbers and times relative to the alert.")
    object: str | None = Field(None, description="Kind/name of what it speaks of.")


class ChecklistItem(StatusModel):
    """One item of the post-incident checklist."""

    due: Duration = Field(description="After the resolution.")
    item: str = Field(description="What is to be done.")
    done: bool = Field(False, description="Whether it is done.")
    done_by: str | None = Field(None, description="Who did it: paramedic, or a person.")
    done_at: Time | None = Field(None, description="When it was ticked.")
    reminded: bool = Field(False, description="Whether people have been reminded of it after it was due.")


class TimelineEntry(StatusModel):
    """One line of the record."""

    at: Time = Field(description="When.")
    actor: str = Field(description="paramedic, or the user name of a person.")
    reason: str = Field(description="CamelCase constant.")
    message: str = Field(description="For a person.")


class IncidentStatus(StatusModel):
    """What is known and what was done."""

    observed_generation: int | None = Field(None, description="Generation of the spec that this speaks of.")
    phase: Phase = Field("Open", description="Where the incident stands.")
    phase_since: Time | None = Field(None, description="Since when it is in this phase.")
    message: str | None = Field(None, description="One line: what is going on and what happens next.")
    step: str | None = Field(None, description="The current or last step.")
    target: str | None = Field(None, description="Kind/name of what is affected.")
    conditions: list[Condition] = Field(default_factory=list, description="Kubernetes conditions.")
    policy: PinnedPolicy | None = Field(None, description="The policy, pinned when matched.")
    alert: AlertState | None = Field(None, description="What has been heard of the alert since.")
    steps: list[StepStatus] = Field(default_factory=list, description="Every step and what came of it.")
    severity: Severity | None = Field(
        None, description="The gravest of spec.severity and what alerts have said since; never lowered by an alert."
    )
    acknowledgement: Acknowledgement | None = Field(None, description="Who has taken it on first.")
    commander: str | None = Field(None, description="Who leads: spec.commander, else who acknowledged first.")
    approvals: list[Consent] = Field(
        default_factory=list, max_length=64, description="Consents that were given in Slack and checked by Paramedic."
    )
    closure: Closure | None = Field(None, description="That a person has closed it elsewhere than here.")
    mitigated_at: Time | None = Field(None, description="When a remedy was first verified.")
    times: Times | None = Field(None, description="How long things took.")
    escalation: EscalationStatus | None = Field(None, description="How far it has been escalated.")
    parent: str | None = Field(None, description="Incident of the namespace that this one is a part of.")
    children: list[str] = Field(
        default_factory=list, max_length=256, description="Incidents of the namespace that are parts of this one."
    )
    notify: list[str] = Field(
        default_factory=list,
        description="Channels besides the policy's: of its parts' policies, and those by which people were called.",
    )
    external: dict[str, str] | None = Field(None, description="Ids in PagerDuty, Slack and others.")
    notices: list[Notice] = Field(
        default_factory=list,
        description="What people are told: the newest 50 and what is still to be told, at most 300.",
    )
    untold: list[Untold] = Field(
        default_factory=list, description="Channels that did not take what they were told last; see Notified."
    )
    attend_at: Time | None = Field(
        None, description="When Paramedic looks at the ended incident again: for its checklist, or to prune it."
    )
    evidence: list[Evidence] = Field(
        default_factory=list,
        max_length=200,
        description="What was kept for later; the item index.json lists what has no room here.",
    )
    findings: list[Finding] = Field(
        default_factory=list,
        max_length=10,
        description="What the diagnosis found, causes before their symptoms; the whole of it is kept as evidence.",
    )
    diagnosed_at: Time | None = Field(None, description="When the diagnosis was made.")
    checklist: list[ChecklistItem] = Field(default_factory=list, description="The post-incident checklist.")
    resolved_at: Time | None = Field(None, description="When the incident ended.")
    timeline: list[TimelineEntry] = Field(
        default_factory=list, description="The record: the first 10 and the newest 100 entries."
    )


class IncidentMeta(StatusModel):
    """The metadata that is used."""

    name: str
    namespace: str
    uid: str = ""
    generation: int = 1
    resource_version: str = ""
    creation_timestamp: Time | None = None
    deletion_timestamp: Time | None = None
    finalizers: list[str] = Field(default_factory=list)


class Incident(StatusModel):
    """An Incident as read from the API server."""

    metadata: IncidentMeta
    spec: IncidentSpec
    status: IncidentStatus = Field(default_factory=IncidentStatus)

    @property
    def key(self) -> str:
        """``namespace/name``."""
        return f"{self.metadata.namespace}/{self.metadata.name}"
