"""What is known of Incidents and policies: a mirror of the API server, never a truth of its own.

Open incidents are kept whole (as compact JSON); of ended ones only what the guards and the receiver need. The
resourceVersion decides which of two copies is newer, so that a late watch event never undoes what a write has told.
"""

import json
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any, get_args

from pydantic import ValidationError

from paramedic.api import FINALIZER
from paramedic.api.incident import MAX_STARTS, Incident, Phase, PinnedPolicy, StepStatus
from paramedic.api.policy import READING, RemediationPolicy, only_reads
from paramedic.core import unreadable
from paramedic.core.alert import Alert
from paramedic.core.guard import ActionRecord, TargetKey
from paramedic.core.leases import Temporary, temporary
from paramedic.core.match import CompiledPolicy, is_same
from paramedic.core.notices import urgent_channels, waiting_channels
from paramedic.core.policy_index import PolicyIndex
from paramedic.core.retention import reach
from paramedic.core.several import Member, is_parent, member
from paramedic.core.situation import is_firing, is_remediating
from paramedic.errors import Retry

Json = dict[str, Any]
GroupKey = tuple[str, str, str]
_FRESH = 256
_FOR_PEOPLE = frozenset({"timeline", "conditions", "evidence", "findings", "checklist", "notices", "message"})
OPEN_PHASES = tuple(phase for phase in get_args(Phase) if phase != "Resolved")
_COMPACT = json.JSONEncoder(separators=(",", ":"), ensure_ascii=False)


@dataclass(slots=True)
class Entry:
    """One Incident in the mirror."""

    key: str
    uid: str
    version: int
    phase: str
    raw: bytes | None
    group: GroupKey | None
    last_starts_at: datetime | None
    policy: str | None
    firing: frozenset[str] = frozenset()
    starts: Mapping[str, datetime] = field(default_factory=dict)
    """Latest start of each alert that was heard, by fingerprint."""
    opened_by: str = ""
    """Fingerprint of the alert that opened it, whose labels are ``alert_labels``."""
    alert_labels: Json | None = None
    group_labels: Mapping[str, str] = field(default_factory=dict)
    """What the alerts of its group have in common; empty when it stands alone."""
    busy_targets: tuple[TargetKey, ...] = ()
    remediating: bool = False
    actions: tuple[ActionRecord, ...] = ()
    left: tuple[tuple[TargetKey, Json], ...] = ()
    temporary: tuple[Temporary, ...] = ()
    created_at: datetime | None = None
    waiting_channels: frozenset[str] = frozenset()
    urgent_channels: frozenset[str] = frozenset()
    attend_at: datetime | None = None
    ended_at: datetime | None = None
    guard_reach: timedelta = timedelta(0)
    """How far back the guards of its pinned policy look."""
    problem: str | None = None
    """Why it cannot be read; then it counts as far as ``core.unreadable`` can tell, and nothing is done for it."""
    behind: bool = False
    """Whether its status does not speak of its present spec: nobody has worked on it since that was written."""
    member: Member | None = None
    """What counts among the namespace's open incidents; None for one that is over."""
    was_parent: bool = False
    """Whether it is, or was, the parent of several."""

    @property
    def open(self) -> bool:
        """Whether the incident is not over."""
        return self.phase != "Resolved"

    def heard_until(self, fingerprint: str) -> datetime | None:
        """The latest start that may have been heard of the alert; None when nothing was. Of one that is not remembered
        (any more) it is the oldest start that is, or without any the group's latest.
        """
        if not self.starts:
            return self.last_starts_at
        forgotten = min(self.starts.values()) if len(self.starts) >= MAX_STARTS else None
        return self.starts.get(fingerprint, forgotten)


@dataclass(slots=True)
class PolicyEntry:
    """One policy in the mirror; ``problem`` says why it cannot be used."""

    policy: RemediationPolicy | None
    raw: Json
    problem: str | None
    version: int


@dataclass(slots=True)
class Store:
    """The mirror. All methods are synchronous: what one of them sees is consistent."""

    entries: dict[str, Entry] = field(default_factory=dict)
    policies: dict[str, PolicyEntry] = field(default_factory=dict)
    loaded: bool = False
    _policy_index: PolicyIndex = field(default_factory=PolicyIndex)
    _by_group: dict[GroupKey, set[str]] = field(default_factory=lambda: defaultdict(set))
    _by_alert: dict[str, set[str]] = field(default_factory=lambda: defaultdict(set))
    _by_target: dict[TargetKey, set[str]] = field(default_factory=lambda: defaultdict(set))
    _by_policy: dict[str, set[str]] = field(default_factory=lambda: defaultdict(set))
    _members: dict[str, dict[str, Member]] = field(default_factory=lambda: defaultdict(dict))
    _parents: dict[str, set[str]] = field(default_factory=lambda: defaultdict(set))
    part_left: Callable[[str, str], None] = lambda namespace, parent: None
    """Told when an incident is over or gone that may have been a part of the namespace's parent of several."""
    parent_gone: Callable[[str], None] = lambda namespace: None
    """Told of the namespace when a parent of several was deleted."""
    _fresh: dict[str, tuple[int, Incident, Json]] = field(default_factory=dict)
    _reserved: dict[str, ActionRecord] = field(default_factory=dict)
    _in_doubt: dict[str, ActionRecord] = field(default_factory=dict)

    def put_incident(self, raw: Json, incident: Incident | None = None) -> bool:
        """Takes a copy in; false when it is not newer than the one that is known.

        ``incident`` is the same, read already, where the caller has it.
        """
        key = key_of(raw)
        known = self.entries.get(key)
        version = int(raw["metadata"].get("resourceVersion") or 0)
        if known and known.uid == raw["metadata"].get("uid") and known.version >= version:
            return False
        was_open = bool(known and known.member)
        self._forget(key)
        raw["metadata"].pop("managedFields", None)
        try:
            entry = _entry(key, version, raw, incident or _ended(raw) or self._read(key, version, raw))
        except ValidationError as error:
            entry = _unreadable(key, version, raw, unreadable.tell(error))
        self.entries[key] = entry
        self._index(entry)
        if was_open and not entry.member:
            self._tell_parents(key)
        return True

    def remove_incident(self, raw: Json) -> None:
        """Forgets a deleted Incident; one of the same name but another UID stays."""
        key = key_of(raw)
        known = self.entries.get(key)
        if known and known.uid == raw["metadata"].get("uid"):
            self.drop_incident(key)

    def drop_incident(self, key: str) -> None:
        """Forgets an Incident that is known to be gone."""
        gone = self.entries.get(key)
        self._forget(key)
        self._tell_parents(key)
        if gone and gone.was_parent:
            self.parent_gone(namespace_of(key))

    def members(self, namespace: str) -> Collection[Member]:
        """The namespace's open incidents, as far as they count for ``core.several``."""
        return self._members[namespace].values() if namespace in self._members else ()

    def open_parents(self, namespace: str) -> list[Member]:
        """The parents of several in the namespace that are not over."""
        keys = self._parents.get(namespace, ())
        return [found for key in keys if (found := self.entries[key].member)]

    def is_over(self, key: str) -> bool:
        """Whether the incident has ended or is gone; false of one that may only not have been read yet."""
        entry = self.entries.get(key)
        return not entry.open if entry else self.loaded

    def last_parent(self, namespace: str) -> tuple[datetime | None, str]:
        """When the newest parent of several in the namespace was created, over or not, and its UID; empty when there
        was none.
        """
        known = [self.entries[key] for key in self._parents.get(namespace, ())]
        dated = [(entry.created_at, entry.uid) for entry in known if entry.created_at]
        return max(dated, default=(None, ""))

    def _tell_parents(self, key: str) -> None:
        for parent in self.open_parents(namespace_of(key)):
            self.part_left(namespace_of(key), parent.name)

    def open_incident(self, key: str) -> tuple[Incident, Json] | None:
        """The whole Incident, the caller's own, and its status as stored; None when it is over, gone or unreadable."""
        entry = self.entries.get(key)
        if entry is None or entry.raw is None or entry.problem:
            return None
        fresh = self._fresh.pop(key, None)
        if fresh and fresh[0] == entry.version:
            return fresh[1], fresh[2]
        raw = json.loads(entry.raw)
        return Incident.model_validate(raw), raw.get("status") or {}

    def _read(self, key: str, version: int, raw: Json) -> Incident:
        """Reads a copy and keeps it for the work that is likely to follow at once."""
        incident = Incident.model_validate(raw)
        while len(self._fresh) >= _FRESH:
            del self._fresh[next(iter(self._fresh))]
        self._fresh[key] = version, incident, raw.get("status") or {}
        return incident

    def open_entries(self) -> Iterator[Entry]:
        """All incidents that are not over."""
        return (e for e in self.entries.values() if e.open)

    def count_by_phase(self) -> dict[str, int]:
        """How many incidents are in each phase but Resolved."""
        counts = dict.fromkeys(OPEN_PHASES, 0)
        for entry in self.open_entries():
            counts[entry.phase] += 1
        return counts

    def count_unreadable(self) -> int:
        """How many incidents that are not over cannot be read, so that nothing is done for them."""
        return sum(entry.problem is not None for entry in self.open_entries())

    def in_group(self, group: GroupKey) -> list[Entry]:
        """Incidents of the same policy and group, newest firing last."""
        found = [self.entries[k] for k in self._by_group.get(group, ())]
        return sorted(found, key=lambda e: (e.last_starts_at is not None, e.last_starts_at))

    def open_with(self, alert: Alert) -> list[Entry]:
        """The incidents that are not over, of which this alert is known to fire."""
        found = (self.entries[key] for key in self._by_alert.get(alert.fingerprint, ()))
        return [entry for entry in found if is_same(alert, entry.alert_labels or {}, entry.group_labels)]

    def with_labels(self) -> list[Entry]:
        """The incidents that have an alert and are not over, or were closed by a person while it fired."""
        return [entry for entry in self.entries.values() if entry.alert_labels]

    def put_policy(self, raw: Json, policy: RemediationPolicy | None, problem: str | None) -> bool:
        """Takes a policy in; false when it is not newer."""
        key = key_of(raw)
        version = int(raw["metadata"].get("resourceVersion") or 0)
        known = self.policies.get(key)
        if known and known.raw["metadata"].get("uid") == raw["metadata"].get("uid") and known.version >= version:
            return False
        self.policies[key] = PolicyEntry(policy, raw, problem, version)
        if policy and not problem:
            self._policy_index.put(policy)
        else:
            self._policy_index.remove(key)
        return True

    def remove_policy(self, raw: Json) -> None:
        """Forgets a deleted policy."""
        self.policies.pop(key_of(raw), None)
        self._policy_index.remove(key_of(raw))

    def usable_policies(self) -> list[RemediationPolicy]:
        """The policies without a problem, for whose matchers there is room."""
        return [e.policy for k, e in self.policies.items() if e.policy and not e.problem and self.has_room(k)]

    def has_room(self, policy: str) -> bool:
        """Whether there is room for the matchers of a policy without a problem, among those of its namespace."""
        return self._policy_index.has_room(policy)

    def policies_that_may_mean(self, alert: Alert) -> list[CompiledPolicy]:
        """The usable policies that can match the alert, and others."""
        return self._policy_index.candidates(alert)

    def policy(self, key: str) -> RemediationPolicy | None:
        """A policy by ``namespace/name``, also one with a problem that can be read."""
        entry = self.policies.get(key)
        return entry.policy if entry else None

    def policy_is_paused(self, key: str) -> bool:
        """Whether ``spec.paused`` of the policy is true, as of now."""
        policy = self.policy(key)
        return policy is not None and policy.spec.paused

    def policy_holds(self, pinned: PinnedPolicy | None) -> bool:
        """Whether nothing may be begun under the policy: it is paused, deleted, or made anew."""
        policy = self.policy(pinned.key) if pinned else None
        return policy is None or pinned is None or policy.spec.paused or policy.metadata.uid != pinned.uid

    def actions_on(self, target: TargetKey) -> list[ActionRecord]:
        """All known and reserved actions on a target."""
        stored = [a for k in self._by_target.get(target, ()) for a in self.entries[k].actions if a.target == target]
        return stored + [a for a in self._reservations() if a.target == target]

    def actions_under(self, policy: str) -> list[ActionRecord]:
        """All known and reserved actions under a policy; what was put back is none of them."""
        entries = (self.entries[k] for k in self._by_policy.get(policy, ()))
        stored = [a for entry in entries for a in entry.actions if a.policy == policy]
        return stored + [a for a in self._reservations() if a.policy == policy]

    def left_states(self, target: TargetKey) -> tuple[Json, ...]:
        """States that successful actions have moved the target away from."""
        return tuple(state for k in self._by_target.get(target, ()) for t, state in self.entries[k].left if t == target)

    def covered(self, key: str, steps: Sequence[StepStatus]) -> dict[int, str]:
        """The incident's steps that hold something on which a later change stands, each with whose change that is."""
        there = ((i, s) for i, s in enumerate(steps) if s.holds_mitigation or s.is_left_in_place)
        return {i: whose for i, s in there if (whose := self._stands_on(s, key, steps))}

    def _stands_on(self, step: StepStatus, key: str, steps: Sequence[StepStatus]) -> str | None:
        own = (f"step {one.step}" for one in temporary(steps) if one.stands_on(step))
        others = self._by_target.get(step.target.key, set()) - {key} if step.target else ()
        foreign = (
            f"incident {other}" for other in others for one in self.entries[other].temporary if one.stands_on(step)
        )
        return next(own, None) or next(foreign, None)

    def busy_with(self, target: TargetKey, but: str) -> str | None:
        """Another incident that is acting on the target, if there is one."""
        for key in self._by_target.get(target, ()):
            if key != but and target in self.entries[key].busy_targets:
                return key
        reserved = (a.incident for a in self._reservations() if a.target == target and a.incident != but)
        return next(reserved, None)

    def open_remediations(self, policy: str, but: str) -> int:
        """Incidents of the policy that have acted and are not over, besides ``but``."""
        stored = {k for k in self._by_policy.get(policy, ()) if self.entries[k].remediating}
        reserved = {a.incident for a in self._reservations() if a.policy == policy}
        return len((stored | reserved) - {but})

    @contextmanager
    def reserve(self, action: ActionRecord) -> Iterator[None]:
        """Counts an action while its intent is being written, so that two incidents never share one allowance."""
        self._reserved[action.operation] = action
        try:
            yield
        except Retry as error:
            if error.uncertain:  # it may be stored: it counts until the incident has been read anew
                self._in_doubt[action.incident] = action
            raise
        finally:
            del self._reserved[action.operation]

    def is_in_doubt(self, key: str) -> bool:
        """Whether an intent of the incident may be stored without our knowing: it is to be read before all else."""
        return key in self._in_doubt

    def settle(self, key: str) -> None:
        """The incident has been read anew: what was in doubt of it is known."""
        self._in_doubt.pop(key, None)

    def _reservations(self) -> list[ActionRecord]:
        return [a for a in (*self._reserved.values(), *self._in_doubt.values()) if not self._is_stored(a)]

    def waiting_for(self, targets: Iterable[TargetKey], policy: str | None) -> list[str]:
        """Blocked incidents that the end of work on these targets, or under the policy, may let go on."""
        keys = {k for t in targets for k in self._by_target.get(t, ())}
        keys |= self._by_policy.get(policy or "", set())
        return [k for k in keys if self.entries[k].phase == "Blocked"]

    def _is_stored(self, action: ActionRecord) -> bool:
        entry = self.entries.get(action.incident)
        return bool(entry and any(a.operation == action.operation for a in entry.actions))

    def _index(self, entry: Entry) -> None:
        if entry.group:
            self._by_group[entry.group].add(entry.key)
        for mark in entry.firing if entry.open else ():
            self._by_alert[mark].add(entry.key)
        if entry.policy:
            self._by_policy[entry.policy].add(entry.key)
        for target in _targets(entry):
            self._by_target[target].add(entry.key)
        if entry.member:
            self._members[namespace_of(entry.key)][entry.key] = entry.member
        if entry.was_parent:
            self._parents[namespace_of(entry.key)].add(entry.key)

    def _forget(self, key: str) -> None:
        self.settle(key)
        entry = self.entries.pop(key, None)
        if entry is None:
            return
        if entry.group:
            _discard(self._by_group, entry.group, key)
        for mark in entry.firing if entry.open else ():
            _discard(self._by_alert, mark, key)
        if entry.policy:
            _discard(self._by_policy, entry.policy, key)
        for target in _targets(entry):
            _discard(self._by_target, target, key)
        if entry.was_parent:
            _discard(self._parents, namespace_of(key), key)
        members = self._members.get(namespace_of(key))
        if members is not None:
            members.pop(key, None)
            if not members:
                del self._members[namespace_of(key)]


class WatchProgress:
    """The newest resourceVersion that a watch has shown, for each resource: the proof that it lives."""

    def __init__(self) -> None:
        self.newest: dict[str, int] = {}

    def saw(self, resource: str, raw: Json) -> None:
        """Takes note of one event."""
        version = int(raw["metadata"].get("resourceVersion") or 0)
        self.newest[resource] = max(version, self.newest.get(resource, 0))


def namespace_of(key: str) -> str:
    """The namespace of ``namespace/name``."""
    return key.partition("/")[0]


def key_of(raw: Json) -> str:
    """``namespace/name``."""
    return f"{raw['metadata']['namespace']}/{raw['metadata']['name']}"


def _ended(raw: Json) -> Incident | None:
    """An Incident that is over and holds nothing, without the record for people: half the work of reading it."""
    status = raw.get("status") or {}
    if status.get("phase") != "Resolved" or FINALIZER in (raw["metadata"].get("finalizers") or ()):
        return None
    if any(notice.get("pending") for notice in status.get("notices") or ()):
        return None
    return Incident.model_validate(raw | {"status": {k: v for k, v in status.items() if k not in _FOR_PEOPLE}})


def _targets(entry: Entry) -> set[TargetKey]:
    held = {one.target for one in entry.temporary} | {target for target, _ in entry.left}
    return set(entry.busy_targets) | {a.target for a in entry.actions if a.target} | held


def _discard(index: Any, group: Any, key: str) -> None:
    members = index.get(group)
    if members is not None:
        members.discard(key)
        if not members:
            del index[group]


def _entry(key: str, version: int, raw: Json, incident: Incident) -> Entry:
    waiting, ended = waiting_channels(incident), is_firing(incident) is False
    over = incident.status.phase == "Resolved" and FINALIZER not in incident.metadata.finalizers and not waiting
    policy = _policy_key(incident)
    return Entry(
        key=key,
        uid=incident.metadata.uid,
        version=version,
        phase=incident.status.phase,
        raw=None if over else _COMPACT.encode(raw).encode(),
        group=_group(incident),
        last_starts_at=_last_starts_at(incident),
        policy=policy,
        firing=_firing(incident),
        starts=_starts(incident),
        opened_by=(incident.spec.alert.fingerprint or "") if incident.spec.alert else "",
        alert_labels=dict(incident.spec.alert.labels) if incident.spec.alert and not (over and ended) else None,
        group_labels=dict(incident.spec.alert.group_labels) if incident.spec.alert else {},
        busy_targets=_busy_targets(incident),
        remediating=is_remediating(incident),
        actions=tuple(_actions(incident, key, policy or "")),
        left=tuple(_left(incident)),
        temporary=() if incident.status.phase == "Resolved" else tuple(temporary(incident.status.steps)),
        created_at=incident.metadata.creation_timestamp,
        waiting_channels=waiting,
        urgent_channels=urgent_channels(incident) if waiting else waiting,
        attend_at=incident.status.attend_at,
        ended_at=incident.status.resolved_at,
        guard_reach=reach(incident.status.policy.guards) if incident.status.policy else timedelta(0),
        behind=incident.status.observed_generation != incident.metadata.generation,
        member=None if incident.status.phase == "Resolved" else member(incident),
        was_parent=is_parent(incident),
    )


def _unreadable(key: str, version: int, raw: Json, problem: str) -> Entry:
    """One that this version cannot read. In doubt it is not over, and acts."""
    phase = str((raw.get("status") or {}).get("phase"))
    over = phase == "Resolved" and FINALIZER not in (raw["metadata"].get("finalizers") or ())
    return Entry(
        key=key,
        uid=str(raw["metadata"].get("uid", "")),
        version=version,
        phase=phase if over or phase in OPEN_PHASES else "Open",
        raw=None if over else b"{}",
        group=None,
        last_starts_at=None,
        policy=unreadable.policy_key(raw),
        busy_targets=() if over else unreadable.busy_targets(raw),
        remediating=phase in ("Remediating", "Verifying"),
        actions=tuple(unreadable.actions(raw, key)),
        problem=problem,
    )


def _policy_key(incident: Incident) -> str | None:
    return incident.status.policy.key if incident.status.policy else None


def _group(incident: Incident) -> GroupKey | None:
    source = incident.spec.alert
    if source is None or incident.spec.policy_ref is None:
        return None
    ref, namespace = incident.spec.policy_ref, incident.metadata.namespace
    return namespace, f"{ref.namespace or namespace}/{ref.name}", source.group_key or source.fingerprint or ""


def _firing(incident: Incident) -> frozenset[str]:
    """Fingerprints that are known to fire; without a state yet, that of the alert that opened it."""
    if incident.status.alert:
        return frozenset(incident.status.alert.firing)
    return frozenset({incident.spec.alert.fingerprint or ""} if incident.spec.alert else ())


def _starts(incident: Incident) -> Mapping[str, datetime]:
    """Of each alert that was heard; without a state yet, of the one that opened it."""
    source = incident.spec.alert
    if incident.status.alert or source is None:
        return incident.status.alert.starts if incident.status.alert else {}
    return {source.fingerprint or "": source.starts_at} if source.starts_at else {}


def _last_starts_at(incident: Incident) -> datetime | None:
    seen = incident.status.alert.last_starts_at if incident.status.alert else None
    started = incident.spec.alert.starts_at if incident.spec.alert else None
    return max((t for t in (seen, started) if t), default=None)


def _busy_targets(incident: Incident) -> tuple[TargetKey, ...]:
    if incident.status.phase == "Resolved":  # by a person, who does not wait for what is being verified
        return ()
    return tuple(
        {
            s.target.key
            for s in incident.status.steps
            if s.target
            and s.action not in READING
            and (s.state in ("Executing", "Verifying") or (s.revert is not None and s.revert.state == "Executing"))
        }
    )


def _actions(incident: Incident, key: str, policy: str) -> Iterator[ActionRecord]:
    for step in incident.status.steps:
        target = step.target.key if step.target else None
        if step.operation and step.attempts and step.started_at and not only_reads(step.action, step.params):
            acted_on = None if step.action in READING else target
            yield ActionRecord(policy, acted_on, step.started_at, key, step.operation)
        if step.revert and step.revert.started_at:
            yield ActionRecord("", target, step.revert.started_at, key, step.revert.operation)


def _left(incident: Incident) -> Iterator[tuple[TargetKey, Json]]:
    for step in incident.status.steps:
        if step.target and step.before and step.action == "rollback" and step.state in ("Succeeded", "Unknown"):
            yield step.target.key, step.before
