"""The record of an incident: condition, Event, timeline and metric are set together, with the same reason.

A ``Draft`` is one incident's status while it is being worked on. Nothing that is said on it is seen by anybody until
``commit`` has written it with a resourceVersion precondition; Events and metrics follow only then.
"""

import asyncio
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

from paramedic.api import API_VERSION, FINALIZER
from paramedic.api import conditions as c
from paramedic.api.base import format_time
from paramedic.api.conditions import ConditionStatus
from paramedic.api.incident import Acknowledgement, EscalationStatus, Evidence, Finding, Incident, TimelineEntry
from paramedic.api.policy import Severity
from paramedic.api.reasons import WARNINGS, Reason
from paramedic.clients.kube import Kube
from paramedic.core.alert import short_hash
from paramedic.core.evidence import joined
from paramedic.core.findings import MOST, told
from paramedic.core.merge import merge_difference
from paramedic.core.operation import new_operation
from paramedic.core.plan import Resolve, Wait
from paramedic.core.summary import summarize
from paramedic.errors import AlreadyExists, NotFound, ParamedicError, Retry
from paramedic.gate import Urgency
from paramedic.log import get_logger
from paramedic.metrics import Metrics
from paramedic.store import Store

Json = dict[str, Any]
_FIRST_ENTRIES, _NEWEST_ENTRIES = 10, 100
_MESSAGE_LIMIT = 1024
_MAX_EVENTS_WAITING = 1000
_EVENTS_AT_ONCE, _EVENT_RETRY = 4, timedelta(seconds=1)
_log = get_logger(__name__)


@dataclass(slots=True)
class Draft:
    """An incident as it will be once committed."""

    incident: Incident
    base: Json
    now: datetime
    events: list[Json] = field(default_factory=list)
    effects: list[Callable[[], None]] = field(default_factory=list)
    said: list[TimelineEntry] = field(default_factory=list)
    """What was put on the timeline since the last write."""

    @property
    def key(self) -> str:
        """``namespace/name``."""
        return self.incident.key

    @property
    def is_over(self) -> bool:
        """Whether the incident had ended: nothing that happens afterwards is part of it."""
        return self.incident.status.phase == "Resolved"

    def say(
        self,
        reason: Reason,
        message: str,
        *,
        actor: str = "paramedic",
        condition: tuple[str, ConditionStatus] | None = None,
        event: bool | None = None,
    ) -> bool:
        """Puts one fact on the timeline, with its condition and Event; false when it has been said already.

        ``event=None`` sends an Event for warnings only: an incident that goes well costs one Event, for its action.
        """
        if condition and not self.set_condition(*condition, reason, message):
            return False
        self._add_to_timeline(reason, message, actor)
        if event or (event is None and reason in WARNINGS):
            self.events.append(self._event(reason, message))
        return True

    def set_condition(self, kind: str, status: ConditionStatus, reason: Reason, message: str) -> bool:
        """Sets a condition without a word on the timeline; false when status and reason are as before."""
        status_ = self.incident.status
        old = c.find(status_.conditions, kind)
        generation = self.incident.metadata.generation
        status_.conditions = c.with_condition(
            status_.conditions, kind, status, reason, message[:_MESSAGE_LIMIT], self.now, generation
        )
        return old is None or (old.status, old.reason) != (status, reason)

    def drop_condition(self, kind: str) -> None:
        """Removes a condition that exists only while it is true."""
        self.incident.status.conditions = c.without(self.incident.status.conditions, kind)

    def afterwards(self, effect: Callable[[], None]) -> None:
        """Runs once the draft is stored: metrics count what is, not what was intended."""
        self.effects.append(effect)

    def changes(self) -> Json:
        """The merge patch from the stored status to this one; empty when there is nothing to write."""
        wanted = self.incident.status.to_wire()
        difference: Json = merge_difference(self.base, wanted)
        return difference

    def _add_to_timeline(self, reason: Reason, message: str, actor: str) -> None:
        entry = TimelineEntry(at=self.now, actor=actor, reason=str(reason), message=message[:_MESSAGE_LIMIT])
        self.incident.status.timeline = bounded([*self.incident.status.timeline, entry])
        self.said.append(entry)

    def _event(self, reason: Reason, message: str) -> Json:
        meta = self.incident.metadata
        return _event(self.key, meta.uid, new_operation(self.now), self.now, reason, message)


def bounded(timeline: list[TimelineEntry]) -> list[TimelineEntry]:
    """The first 10 entries, which tell how it began, and the newest 100."""
    if len(timeline) <= _FIRST_ENTRIES + _NEWEST_ENTRIES:
        return timeline
    return timeline[:_FIRST_ENTRIES] + timeline[-_NEWEST_ENTRIES:]


def escalate(draft: Draft, reason: Reason, message: str) -> None:
    """Calls for a person; nothing further is done by itself, besides putting back what is leased."""
    known = draft.incident.status.escalation
    if known is None:
        draft.incident.status.escalation = EscalationStatus(
            level=1, since=draft.now, reason=str(reason), message=message
        )
    elif not known.handed_over:
        known.handed_over, known.reason, known.message = True, str(reason), message
    text = f"escalated: {message}"[:_MESSAGE_LIMIT]
    draft.set_condition(c.ESCALATED, "True", reason, text)
    if all((entry.reason, entry.message) != (reason, text) for entry in draft.incident.status.timeline):
        draft.say(reason, text, event=True)


def acknowledge(draft: Draft, given: Acknowledgement, words: str) -> None:
    """Puts on the status who has taken the incident on, told in these words."""
    draft.incident.status.acknowledgement = given
    draft.say(Reason.ACKNOWLEDGED, f"acknowledged by {words}", actor=given.by, condition=(c.ACKNOWLEDGED, "True"))


def raise_severity(draft: Draft, known: Severity | None, found: Severity, how: str) -> None:
    """The incident is graver than it was known to be."""
    draft.incident.status.severity = found
    draft.say(Reason.SEVERITY_RAISED, f"severity raised from {known} to {found} {how}")


def keep_evidence(draft: Draft, evidence: Iterable[Evidence]) -> None:
    """Adds to the status what was kept for later, the newest of each place, within what a status can hold."""
    draft.incident.status.evidence = joined(draft.incident.status.evidence, list(evidence))


def put_findings(draft: Draft, findings: Sequence[Finding]) -> None:
    """The diagnosis' findings on the status, and the gravest of them on the timeline."""
    draft.incident.status.findings, draft.incident.status.diagnosed_at = list(findings)[:MOST], draft.now
    draft.say(Reason.DIAGNOSED, told(findings))


def apply_summary(draft: Draft, end: Wait | Resolve | None) -> None:
    """Phase, message and the kstatus conditions from what the draft says."""
    status = draft.incident.status
    summary = summarize(draft.incident, end)
    if status.phase != summary.phase or status.phase_since is None:
        status.phase_since = draft.now
    status.phase, status.message, status.step = summary.phase, summary.message, summary.step
    status.target = summary.target
    status.observed_generation = draft.incident.metadata.generation
    over = summary.phase == "Resolved"
    reason = Reason.RECOVERED if over else Reason.IN_PROGRESS
    draft.set_condition(c.READY, "True" if over else "False", reason, summary.message)
    for kind, true in ((c.RECONCILING, summary.reconciling), (c.STALLED, summary.stalled)):
        if true:
            draft.set_condition(kind, "True", Reason.IN_PROGRESS, summary.message)
        else:
            draft.drop_condition(kind)


class Recorder:
    """Writes drafts; sends their Events behind the back of the work, which they never hold up or fail."""

    def __init__(self, kube: Kube, store: Store, metrics: Metrics, instance: str) -> None:
        self._kube = kube
        self._store = store
        self._metrics = metrics
        self._instance = instance
        self.attend: Callable[[Draft], None] = lambda draft: None
        """Adds what must be stored together with what the draft says."""
        self._events: asyncio.Queue[Json] = asyncio.Queue(_MAX_EVENTS_WAITING)
        self._unread: dict[str, str] = {}

    def open_draft(self, key: str, now: datetime) -> Draft | None:
        """A draft on the newest known copy; None when the incident is gone or over."""
        found = self._store.open_incident(key)
        return Draft(*found, now) if found else None

    async def commit(self, draft: Draft) -> bool:
        """Stores the draft; false when there was nothing to write. Raises Conflict when somebody else has written
        since (then nothing is stored), NotFound, Retry (uncertain: it may be stored).
        """
        self.attend(draft)
        changes = draft.changes()
        if changes:
            meta = draft.incident.metadata
            body = {"metadata": {"uid": meta.uid, "resourceVersion": meta.resource_version}, "status": changes}
            path = f"{incident_path(meta.namespace, meta.name)}/status"
            stored = await self._kube.merge_patch(path, body, _urgency(draft.incident))
            self._take(draft, stored, draft.incident)
        self._publish(draft)
        return bool(changes)

    async def set_finalizer(self, draft: Draft, *, present: bool) -> None:
        """Adds or removes Paramedic's finalizer. Raises like ``commit``."""
        meta = draft.incident.metadata
        if (FINALIZER in meta.finalizers) == present:
            return
        finalizers = [f for f in meta.finalizers if f != FINALIZER] + ([FINALIZER] if present else [])
        body = {
            "metadata": {"uid": meta.uid, "resourceVersion": meta.resource_version, "finalizers": finalizers or None}
        }
        urgency = Urgency.INTENT if present else Urgency.RECORD
        stored = await self._kube.merge_patch(incident_path(meta.namespace, meta.name), body, urgency)
        meta.finalizers = finalizers
        # The draft's status may be ahead of what is stored.
        self._take(draft, stored, None)

    def tell_unreadable(self, key: str, now: datetime) -> None:
        """Where the incident cannot be read: in the log, and as one Event for each problem, whichever process tells."""
        entry = self._store.entries.get(key)
        if entry is None or entry.problem is None or self._unread.get(entry.uid) == entry.problem:
            return
        self._unread[entry.uid] = entry.problem
        text = (
            f"this version of Paramedic cannot read the incident ({entry.problem}): nothing is done for it, nor put "
            "back. Install the version that wrote it; or put back by hand what it holds, and delete it without its "
            f"finalizer {FINALIZER}"
        )
        _log.error("incident cannot be read", incident=key, problem=entry.problem)
        mark = short_hash(entry.uid, entry.problem)
        self._send(_event(key, entry.uid, mark, now, Reason.UNREADABLE, text) | {"reportingInstance": self._instance})

    async def run(self) -> None:
        """Sends Events until cancelled, a few at a time."""
        async with asyncio.TaskGroup() as group:
            for number in range(_EVENTS_AT_ONCE):
                group.create_task(self._send_events(), name=f"event sender {number}")

    async def _send_events(self) -> None:
        while True:
            event = await self._events.get()
            try:
                await self._create_event(event)
            except AlreadyExists:
                continue  # the first try was stored, though its answer was lost
            except ParamedicError as error:
                self._metrics.events_dropped.inc()
                _log.warning("event not sent", incident=event["regarding"]["name"], error=str(error))

    async def _create_event(self, event: Json) -> None:
        path = _events_path(event["metadata"]["namespace"])
        try:
            await self._kube.create(path, event, Urgency.RECORD)
        except Retry as error:
            await asyncio.sleep((error.after or _EVENT_RETRY).total_seconds())
            await self._kube.create(path, event, Urgency.RECORD)

    def _take(self, draft: Draft, stored: Json, incident: Incident | None) -> None:
        draft.incident.metadata.resource_version = stored["metadata"]["resourceVersion"]
        draft.base = stored.get("status") or {}
        if stored["metadata"].get("deletionTimestamp") and not stored["metadata"].get("finalizers"):
            self._store.remove_incident(stored)
        else:
            self._store.put_incident(stored, incident)

    def _publish(self, draft: Draft) -> None:
        for effect in draft.effects:
            effect()
        for event in draft.events:
            event["reportingInstance"] = self._instance
            self._send(event)
        draft.effects, draft.events, draft.said = [], [], []

    def _send(self, event: Json) -> None:
        _log.info(
            "event",
            incident=f"{event['metadata']['namespace']}/{event['regarding']['name']}",
            reason=event["reason"],
            message=event["note"],
        )
        try:
            self._events.put_nowait(event)
        except asyncio.QueueFull:
            self._metrics.events_dropped.inc()


async def reread(kube: Kube, store: Store, key: str) -> bool:
    """Reads an Incident anew into the mirror, or drops it there when it is gone; whether it was newer. Raises Retry,
    Terminal, Refused.
    """
    try:
        return store.put_incident(await kube.get(incident_path(*key.split("/", 1))))
    except NotFound:
        store.drop_incident(key)
        return False


def _urgency(incident: Incident) -> Urgency:
    """An action waits for the status that holds its intent; any other status only tells."""
    steps = incident.status.steps
    intent = any(s.state == "Executing" or (s.revert and s.revert.state == "Executing") for s in steps)
    return Urgency.INTENT if intent else Urgency.RECORD


def incident_path(namespace: str, name: str = "") -> str:
    """The API path of an Incident, or of all of a namespace."""
    base = f"/apis/{API_VERSION}/namespaces/{namespace}/incidents"
    return f"{base}/{name}" if name else base


def _event(key: str, uid: str, mark: str, now: datetime, reason: Reason, message: str) -> Json:
    """An Event on the incident ``namespace/name``; another one of the same ``mark`` is the same."""
    namespace, name = key.split("/", 1)
    return {
        "apiVersion": "events.k8s.io/v1",
        "kind": "Event",
        "metadata": {"name": f"{name[:200]}.{mark}", "namespace": namespace},
        "eventTime": format_time(now),
        "reportingController": "paramedic.dev/paramedic",
        "reportingInstance": "paramedic",
        "action": str(reason),
        "reason": str(reason),
        "type": "Warning" if reason in WARNINGS else "Normal",
        "note": message[:_MESSAGE_LIMIT],
        "regarding": {
            "apiVersion": API_VERSION,
            "kind": "Incident",
            "name": name,
            "namespace": namespace,
            "uid": uid,
        },
    }


def _events_path(namespace: str) -> str:
    return f"/apis/events.k8s.io/v1/namespaces/{namespace}/events"
