"""Every reason that a condition, an Event, a step or the timeline can carry, with what it means.

The table in ``docs/reasons.md`` is made from here (``paramedic reasons``).
"""

from enum import StrEnum


class Reason(StrEnum):
    """A CamelCase constant and its meaning."""

    meaning: str

    def __new__(cls, value: str, meaning: str) -> "Reason":
        """Keeps the meaning beside the value."""
        member = str.__new__(cls, value)
        member._value_ = value
        member.meaning = meaning
        return member

    @classmethod
    def of(cls, value: str) -> "Reason":
        """The reason of that name. Raises StopIteration when there is none."""
        return next(r for r in cls if r.value == value)

    # What came in
    ALERT_RECEIVED = "AlertReceived", "An alert opened the incident."
    ALERT_RESOLVED = "AlertResolved", "The alert has ended."
    INCIDENT_OPENED = "IncidentOpened", "A person or a program applied the incident."
    POLICY_MATCHED = "PolicyMatched", "A policy was matched and pinned at its generation."
    NO_POLICY = "NoPolicy", "No policy that is Ready answers to this incident; nothing will be done."
    POLICY_GONE = "PolicyGone", "The pinned policy was deleted: nothing further is done under it."
    # The policy itself
    POLICY_VALID = "PolicyValid", "The policy can be used."
    POLICY_INVALID = "PolicyInvalid", "The policy has a mistake that only reading it whole can show; see the message."
    # What held it back
    ALLOWED = "Allowed", "Every guard let the action pass."
    PAUSED = "Paused", "spec.paused is true on the incident: a person has taken over."
    POLICY_PAUSED = "PolicyPaused", "spec.paused is true on the policy."
    COOLDOWN = "Cooldown", "The target was acted on too recently (guards.cooldown)."
    RATE_LIMITED = "RateLimited", "The policy has used up its actions (guards.rateLimit)."
    MAX_CONCURRENT = "MaxConcurrent", "Too many remediations are open under the policy (guards.maxConcurrent)."
    TARGET_BUSY = "TargetBusy", "Another incident is acting on the same target."
    MIN_HEALTHY = "MinHealthy", "Too few workloads of the namespace are healthy (guards.minHealthy): a wider outage."
    MAX_AGE = "MaxAge", "The incident is too old to be acted on without a person (guards.maxAge)."
    OUTSIDE_WINDOW = "OutsideWindow", "No window of guards.windows.allow is open."
    DENIED_BY_WINDOW = "DeniedByWindow", "A window of guards.windows.deny is open."
    NAMESPACE_NOT_SERVED = "NamespaceNotServed", "The policy may not act in this namespace."
    NAMESPACE_TERMINATING = "NamespaceTerminating", "The namespace is being deleted."
    OBSERVE_MODE = "ObserveMode", "The policy's mode is Observe: what would be done is recorded, nothing is done."
    AWAITING_APPROVAL = "AwaitingApproval", "A person must approve the step (spec.approvals)."
    APPROVED = "Approved", "A person approved the step."
    PLAN_CHANGED = "PlanChanged", "What the step would do has changed since it was approved; approve it anew."
    # Steps
    CONDITION_FALSE = "ConditionFalse", "The step's when is false."
    CONDITION_ERROR = "ConditionError", "The step's when could not be evaluated; see the message."
    ALREADY_IN_PLACE = "AlreadyInPlace", "The target is already as the step would make it."
    RECOVERED = "Recovered", "An earlier step helped, so that this one is not needed."
    NOT_NEEDED = "NotNeeded", "The incident ended before this step was needed."
    TARGET_UNKNOWN = "TargetUnknown", "Neither the step, the incident, the policy nor the alert names a target."
    TARGET_NOT_NAMED = (
        "TargetNotNamed",
        "The step has a target of its own that is not the one that the Incident names: whoever applied it was checked "
        "for that one only. Apply an Incident without a target.",
    )
    TARGET_NOT_FOUND = "TargetNotFound", "The target does not exist."
    TARGET_DELETED = "TargetDeleted", "The target is being deleted."
    TARGET_REPLACED = "TargetReplaced", "The target was deleted and made anew under its name since it was pinned."
    TARGET_CHANGED = "TargetChanged", "Somebody else changed the same fields: hands off."
    NO_EARLIER_REVISION = "NoEarlierRevision", "There is no earlier revision to go back to."
    REVISION_NOT_FOUND = "RevisionNotFound", "The named revision does not exist."
    WORKLOAD_PAUSED = "WorkloadPaused", "The Deployment is paused (spec.paused) and would not roll out."
    UNSUPPORTED_KIND = "UnsupportedKind", "The action cannot be done on this kind."
    INVALID_PARAMETERS = "InvalidParameters", "The action's parameters cannot be used on this target."
    FORBIDDEN = "Forbidden", "Kubernetes' access control does not let Paramedic do this."
    REJECTED = "Rejected", "The API server (or an admission webhook) refused the change."
    EXECUTING = "Executing", "The intent is stored and the change is being made."
    APPLIED = "Applied", "The change was made."
    TIMED_OUT = "TimedOut", "The step could not be carried out within its timeout."
    OUTCOME_UNKNOWN = "OutcomeUnknown", "Whether the change was made cannot be told; it is not repeated."
    # Verification
    VERIFYING = "Verifying", "Watching whether it helped."
    VERIFIED = "Verified", "All checks held for as long as asked."
    VERIFICATION_FAILED = "VerificationFailed", "A check did not hold within the timeout."
    VERIFICATION_INCONCLUSIVE = "VerificationInconclusive", "A check could not be evaluated; neither good nor bad."
    ROLLOUT_COMPLETE = "RolloutComplete", "The target's rollout is complete."
    # Putting back
    PUTTING_BACK = "PuttingBack", "The intent to put the change back is stored."
    PUT_BACK = "PutBack", "The change was put back."
    LEASE_ENDED = "LeaseEnded", "The mitigation's ttl has passed or revertWhen holds."
    NOT_PUT_BACK = "NotPutBack", "The change could not be put back; see the message."
    # How it ended
    REMEDIATION_SUCCEEDED = "RemediationSucceeded", "A remedy helped."
    RESOLVED_WITHOUT_ACTION = "ResolvedWithoutAction", "The alert ended before anything was done."
    RESOLVED_BY_PERSON = "ResolvedByPerson", "A person closed the incident (spec.resolution)."
    STEP_FAILED = "StepFailed", "A step failed, and its onFailure says to stop or escalate."
    REMEDIES_EXHAUSTED = "RemediesExhausted", "No step helped."
    NO_STEP_APPLIED = "NoStepApplied", "Every step was skipped; nothing was done."
    ALERT_STILL_FIRING = "AlertStillFiring", "The remedy was verified, but the alert still fires."
    IN_PROGRESS = "InProgress", "Work is under way."
    ACKNOWLEDGED = "Acknowledged", "A person works on it."
    DELETED = "Deleted", "The incident is being deleted; what it holds is put back first."


# Reasons that stand for something that a person should look at: their Events are Warnings.
WARNINGS = frozenset(
    {
        Reason.NO_POLICY,
        Reason.POLICY_GONE,
        Reason.POLICY_INVALID,
        Reason.COOLDOWN,
        Reason.RATE_LIMITED,
        Reason.MAX_CONCURRENT,
        Reason.MIN_HEALTHY,
        Reason.MAX_AGE,
        Reason.OUTSIDE_WINDOW,
        Reason.DENIED_BY_WINDOW,
        Reason.NAMESPACE_NOT_SERVED,
        Reason.PLAN_CHANGED,
        Reason.CONDITION_ERROR,
        Reason.TARGET_UNKNOWN,
        Reason.TARGET_NOT_NAMED,
        Reason.TARGET_NOT_FOUND,
        Reason.TARGET_DELETED,
        Reason.TARGET_REPLACED,
        Reason.TARGET_CHANGED,
        Reason.NO_EARLIER_REVISION,
        Reason.REVISION_NOT_FOUND,
        Reason.WORKLOAD_PAUSED,
        Reason.UNSUPPORTED_KIND,
        Reason.INVALID_PARAMETERS,
        Reason.FORBIDDEN,
        Reason.REJECTED,
        Reason.TIMED_OUT,
        Reason.OUTCOME_UNKNOWN,
        Reason.VERIFICATION_FAILED,
        Reason.VERIFICATION_INCONCLUSIVE,
        Reason.NOT_PUT_BACK,
        Reason.STEP_FAILED,
        Reason.REMEDIES_EXHAUSTED,
        Reason.NO_STEP_APPLIED,
        Reason.ALERT_STILL_FIRING,
    }
)
