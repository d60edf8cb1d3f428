"""Every reason that a condition, an Event, a step or the timeline can carry, with what it means.

The table in ``docs/reasons.md`` is made from here (``paramedic reasons``).
"""

from enum import StrEnum
from typing import Self


class _Documented(StrEnum):
    """A CamelCase constant and its meaning."""

    meaning: str

    def __new__(cls, value: str, meaning: str) -> Self:
        """Keeps the meaning beside the value."""
        member = str.__new__(cls, value)
        member._value_ = value
        member.meaning = meaning
        return member


class Reason(_Documented):
    """What a condition, an Event, a step or an entry of the timeline can say."""

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
    DIAGNOSED = "Diagnosed", "The diagnosis was made; status.findings has what it found."
    POLICY_GONE = "PolicyGone", "The pinned policy was deleted: nothing further is done under it."
    UNREADABLE = (
        "Unreadable",
        "This version of Paramedic cannot read the Incident, as when a newer one has written it: nothing is done for "
        "it, and what it may be acting on counts as busy.",
    )
    # The policy itself
    POLICY_VALID = "PolicyValid", "The policy can be used."
    POLICY_INVALID = "PolicyInvalid", "The policy has a mistake that only reading it whole can show; see the message."
    POLICY_WITHOUT_ROOM = (
        "PolicyWithoutRoom",
        "The matchers of the namespace's older policies take all the memory that one namespace may have: this policy "
        "answers to nothing until some of them are deleted or made simpler.",
    )
    # What held it back
    ALLOWED = "Allowed", "Every guard let the action pass."
    PAUSED = "Paused", "spec.paused is true on the incident: a person has taken over."
    RESUMED = "Resumed", "A person has ended the pause: Paramedic goes on."
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
    SHUT_DOWN = "ShutDown", "The target is shut down, or its recovery is not finished: recover it first."
    NO_EARLIER_REVISION = "NoEarlierRevision", "There is no earlier revision to go back to."
    REVISION_NOT_FOUND = "RevisionNotFound", "The named revision does not exist."
    WORKLOAD_PAUSED = "WorkloadPaused", "The Deployment is paused (spec.paused) and would not roll out."
    ROLLS_OUT_ON_DELETE = (
        "RollsOutOnDelete",
        "The workload's updateStrategy is OnDelete: a new template reaches its pods only as somebody deletes them.",
    )
    UNSUPPORTED_KIND = "UnsupportedKind", "The action cannot be done on this kind."
    IMMUTABLE = "Immutable", "The object is immutable: make another under a new name, and have it used."
    INVALID_PARAMETERS = "InvalidParameters", "The action's parameters cannot be used on this target."
    API_NOT_INSTALLED = "APINotInstalled", "The cluster lacks a kind of resource that the action needs."
    ALREADY_LIMITED = "AlreadyLimited", "A rate limit is on the target already, and a second would not be heeded."
    FORBIDDEN = "Forbidden", "Kubernetes' access control does not let Paramedic do this."
    NOTHING_SAVED = "NothingSaved", "There is no saved state that the service could be recovered from."
    NO_EVIDENCE_STORE = "NoEvidenceStore", "Nowhere to keep evidence is configured (settings: evidence)."
    EVIDENCE_LIMIT = "EvidenceLimit", "The namespace's captures have stored as much within a day as they may."
    CONNECTION_UNKNOWN = (
        "ConnectionUnknown",
        "No connection of that name and type may be used in this namespace (settings: connections, or a Secret).",
    )
    CONNECTION_FAILED = (
        "ConnectionFailed",
        "The server behind the connection does not answer, or does not let Paramedic in.",
    )
    ADDRESS_PROTECTED = (
        "AddressProtected",
        "The addresses must not be blocked: too large a network, or one that must stay reachable.",
    )
    NO_REPLICA_READY = "NoReplicaReady", "No replica of the database can take over; see the message."
    DATABASE_NOT_READY = "DatabaseNotReady", "The database cluster is in no state for a failover; see the message."
    FAILED_OVER_SINCE = "FailedOverSince", "Another incident had the database fail over after this one's trouble began."
    EXTRA_MISSING = "ExtraMissing", "Paramedic was installed without the library that this needs (pip install …)."
    REJECTED = "Rejected", "The API server (or an admission webhook) refused the change."
    EXECUTING = "Executing", "The intent is stored and the change is being made."
    RUNNING = "Running", "The intent is stored and the work, which takes a while, is under way."
    APPLIED = "Applied", "The change was made."
    WORK_FAILED = "WorkFailed", "The work ended badly; see the message."
    HINDERED = "Hindered", "Something does not answer that the next move needs; it is asked again and again."
    INTERNAL_ERROR = "InternalError", "A mistake in Paramedic itself; please report it with the log."
    TIMED_OUT = "TimedOut", "The step could not be carried out within its timeout."
    PARTLY_DONE = "PartlyDone", "Only some of the step's changes could be made; what was made is still there."
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
    KEPT_BY_PERSON = "KeptByPerson", "A person made the temporary change permanent (spec.resolution.keep)."
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
    # People
    SEVERITY_RAISED = "SeverityRaised", "The incident is graver than it was thought to be."
    NOT_ACKNOWLEDGED = "NotAcknowledged", "Nobody has taken the incident on in time (people.responses)."
    NOT_RESOLVED = "NotResolved", "The incident was not over in time (people.responses)."
    SECURITY_BREACH = "SecurityBreach", "A security incident: people are called at once."
    SEVERAL_SERVICES = "SeveralServices", "Several services of the namespace fail at the same time."
    HANDED_OVER = "HandedOver", "Paramedic does nothing further by itself; people are called."
    BLOCKED_TOO_LONG = "BlockedTooLong", "The remedy was held back, or has stopped, for too long (people.responses)."
    APPROVAL_OVERDUE = "ApprovalOverdue", "A step has waited for approval for too long (people.responses)."
    REQUESTED = "Requested", "A person has asked for more people (spec.escalation)."
    UNANSWERED = "Unanswered", "Nobody has acknowledged: the next level of the team is called."
    CALLED = "Called", "People who are called only at certain hours are called now (people.responses.callDuring)."
    SHUTDOWN_INITIATED = "ShutdownInitiated", "A complete shutdown of the service has begun."
    UPDATE_DUE = "UpdateDue", "The next status update is due."
    PART_JOINED = "PartJoined", "Several services fail at once, and one more: it is a part of this incident."
    PARTS_RESOLVED = "PartsResolved", "All incidents that were parts of this one are over."
    CHECKLIST_OVERDUE = "ChecklistOverdue", "Items of the post-incident checklist were not done in time."
    DELIVERED = "Delivered", "The channels have been told."
    PERSON_NOT_ALLOWED = (
        "PersonNotAllowed",
        "A person asked for something elsewhere than in Kubernetes without the right to it there; see the message.",
    )
    CHANNEL_UNKNOWN = (
        "ChannelUnknown",
        "spec.notify names a channel that the settings do not have for this namespace.",
    )
    CHANNEL_DOWN = "ChannelDown", "A channel does not answer; what it has to be told waits and is not lost."
    NOTICE_UNDELIVERED = "NoticeUndelivered", "A channel refused what it was told; it will not be told again."


# Reasons that stand for something that a person should look at: their Events are Warnings.
WARNINGS = frozenset(
    {
        Reason.NO_POLICY,
        Reason.CHANNEL_DOWN,
        Reason.REQUESTED,
        Reason.PERSON_NOT_ALLOWED,
        Reason.SEVERITY_RAISED,
        Reason.NOT_ACKNOWLEDGED,
        Reason.NOT_RESOLVED,
        Reason.SECURITY_BREACH,
        Reason.SEVERAL_SERVICES,
        Reason.BLOCKED_TOO_LONG,
        Reason.APPROVAL_OVERDUE,
        Reason.UNANSWERED,
        Reason.NOTICE_UNDELIVERED,
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
        Reason.SHUT_DOWN,
        Reason.NO_EARLIER_REVISION,
        Reason.REVISION_NOT_FOUND,
        Reason.WORKLOAD_PAUSED,
        Reason.ROLLS_OUT_ON_DELETE,
        Reason.UNSUPPORTED_KIND,
        Reason.IMMUTABLE,
        Reason.INVALID_PARAMETERS,
        Reason.API_NOT_INSTALLED,
        Reason.ALREADY_LIMITED,
        Reason.FORBIDDEN,
        Reason.NOTHING_SAVED,
        Reason.NO_EVIDENCE_STORE,
        Reason.EVIDENCE_LIMIT,
        Reason.CONNECTION_UNKNOWN,
        Reason.CONNECTION_FAILED,
        Reason.ADDRESS_PROTECTED,
        Reason.NO_REPLICA_READY,
        Reason.DATABASE_NOT_READY,
        Reason.FAILED_OVER_SINCE,
        Reason.EXTRA_MISSING,
        Reason.REJECTED,
        Reason.TIMED_OUT,
        Reason.WORK_FAILED,
        Reason.HINDERED,
        Reason.UNREADABLE,
        Reason.INTERNAL_ERROR,
        Reason.PARTLY_DONE,
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


class FindingReason(_Documented):
    """What the diagnosis can find (``status.findings``); a policy's ``when`` may ask for it."""

    # What has changed
    RECENT_ROLLOUT = "RecentRollout", "The target's present release was rolled out shortly before the alert, or since."
    RECENT_RESTART = "RecentRestart", "The target's pods were restarted shortly before the alert, or since."
    CONFIG_CHANGED = "ConfigChanged", "That release changed environment variables; their names are told, never values."
    # Pods
    IMAGE_PULL_FAILED = "ImagePullFailed", "Containers wait for an image that cannot be pulled."
    CONTAINER_CANNOT_START = (
        "ContainerCannotStart",
        "Containers cannot be created: a missing ConfigMap, Secret or key, a command that is not there, and so on.",
    )
    VOLUME_FAILED = "VolumeFailed", "A volume cannot be attached or mounted."
    OOM_KILLED = "OOMKilled", "Containers were killed for want of memory within the last hour."
    CRASH_LOOPING = "CrashLooping", "Containers end again and again; the kubelet waits between its tries."
    UNSCHEDULABLE = "Unschedulable", "Pods wait for a node that can take them."
    EVICTED = "Evicted", "Pods were evicted from their nodes."
    PODS_NOT_CREATED = "PodsNotCreated", "The API server refuses pods that the workload wants."
    QUOTA_EXCEEDED = "QuotaExceeded", "A ResourceQuota of the namespace leaves no room for the pods that are wanted."
    SCALED_TO_ZERO = "ScaledToZero", "The target wants no pods."
    PROBE_FAILING = "ProbeFailing", "Readiness, liveness or startup probes fail."
    HIGH_RESTARTS = "HighRestarts", "Containers have been restarted five times or more, and within the last hour."
    STUCK_TERMINATING = "StuckTerminating", "Pods are long past the end of their grace period."
    ROLLOUT_STUCK = "RolloutStuck", "The rollout has exceeded its progress deadline."
    PODS_NOT_READY = "PodsNotReady", "Pods are not ready, for whatever reason."
    # Nodes and room
    NODE_NOT_READY = "NodeNotReady", "Nodes are not ready."
    NODE_PRESSURE = "NodePressure", "Nodes are short of memory, disk or process ids, or have no network."
    AUTOSCALER_AT_LIMIT = "AutoscalerAtLimit", "An autoscaler has given all replicas that it may and wants more."
    AUTOSCALER_FAILING = "AutoscalerFailing", "An autoscaler cannot read its metrics or cannot scale."
    MEMORY_NEAR_LIMIT = "MemoryNearLimit", "Containers use 90 % of their memory limit or more."
    CPU_NEAR_LIMIT = "CPUNearLimit", "Containers use 90 % of their CPU limit or more."
    # The way to the pods
    OBJECT_MISSING = "ObjectMissing", "An object that the policy or another object names does not exist."
    SERVICE_SELECTS_NOTHING = "ServiceSelectsNothing", "A Service's selector matches none of the pods it should serve."
    NO_READY_ENDPOINTS = "NoReadyEndpoints", "A Service has no endpoint that is ready."
    DNS_FAILED = "DNSFailed", "A Service's name does not resolve inside of the cluster."
    CIRCUIT_BREAKER_OPEN = "CircuitBreakerOpen", "Envoy's circuit breaker is open in some of the pods."
    # Databases, caches and queues
    DATABASE_CLUSTER_NOT_AVAILABLE = (
        "DatabaseClusterNotAvailable",
        "A database cluster is not available, has no writer, or has instances that are not available.",
    )
    DATABASE_UNREACHABLE = "DatabaseUnreachable", "A database takes no connection, or does not answer in time."
    DATABASE_CONNECTIONS_EXHAUSTED = (
        "DatabaseConnectionsExhausted",
        "90 % or more of the connections that a PostgreSQL server leaves to clients are taken.",
    )
    LONG_RUNNING_QUERIES = "LongRunningQueries", "Statements or transactions in PostgreSQL go on for very long."
    DATABASE_LOCKS_WAITING = "DatabaseLocksWaiting", "Sessions in PostgreSQL wait for locks that others hold."
    CACHE_NOT_AVAILABLE = (
        "CacheNotAvailable",
        "A replication group in ElastiCache is not available, or one of its node groups is not or has no primary.",
    )
    CACHE_UNREACHABLE = "CacheUnreachable", "A Redis server takes no connection, or does not answer in time."
    CACHE_CONNECTIONS_EXHAUSTED = (
        "CacheConnectionsExhausted",
        "A Redis server rejects connections, or 90 % or more of those that it allows are taken.",
    )
    CACHE_MEMORY_FULL = (
        "CacheMemoryFull",
        "90 % or more of a Redis server's memory is used, and its policy does not let it free any key it likes.",
    )
    CACHE_EVICTING = "CacheEvicting", "A Redis server removes keys for want of memory."
    QUEUE_DEEP = "QueueDeep", "More entries wait in a queue than the policy holds for usual."
    # Seen from outside
    DEPENDENCY_UNREACHABLE = "DependencyUnreachable", "Something that the service depends on does not answer, or 5xx."
    CERTIFICATE_PROBLEM = "CertificateProblem", "A certificate is expired, of another name or not trusted."
    HEALTH_CHECK_FAILED = "HealthCheckFailed", "A health URL does not answer, or not 2xx or 3xx."
    METRICS_UNAVAILABLE = "MetricsUnavailable", "A metrics URL does not answer 2xx."
