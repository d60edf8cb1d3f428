"""Runs the diagnosis of each incident once, beside the work on it, and puts what it found on the status.

A remedy does not wait for it, unless a step's ``when`` speaks of ``findings``: it begins when no target is on its way
to a change, and its result goes along with the next write, so that it costs neither time nor a write of its own where
things go quickly.
"""

import asyncio
import json
from collections.abc import AsyncGenerator, Callable, Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta

from paramedic.actions import ACTIONS
from paramedic.actions.base import Examine
from paramedic.actions.outside import CONNECTION
from paramedic.api.diagnosis import ConnectionCheck, DiagnoseParams
from paramedic.api.incident import Evidence, Finding, Incident, IncidentStatus, StepStatus
from paramedic.api.workload import WORKLOADS, BoundTarget, bound
from paramedic.clients.connections import Connections
from paramedic.clients.evidence import EvidenceStore
from paramedic.clients.kube import Kube
from paramedic.core.plan import Wait
from paramedic.core.situation import began_at
from paramedic.diagnosis import Diagnosis, diagnose
from paramedic.errors import ParamedicError
from paramedic.gate import until_quiet
from paramedic.log import get_logger
from paramedic.record import Draft, keep_evidence, put_findings

_AT_ONCE = 4
_MOST = 10
_QUIET_SECONDS = 0.5
_PATIENCE, _PAUSE_SECONDS = 60, 0.25
_LIMIT_SECONDS = 15.0
_GO_ALONG_WITHIN = timedelta(seconds=30)
_UNDER_WAY = ("Remediating", "Verifying")
_YOUNG = timedelta(minutes=10)
_log = get_logger(__name__)


@dataclass(frozen=True, slots=True)
class _Found:
    """What came of one incident's diagnosis."""

    uid: str
    due: datetime
    findings: tuple[Finding, ...]
    evidence: tuple[Evidence, ...]


class Diagnostician:
    """Knows which incidents are being looked into. Nothing of it outlives the process: a restart looks again."""

    def __init__(
        self, examine: Examine, clock: Callable[[], datetime], quiet_seconds: Callable[[], float], *, enabled: bool
    ) -> None:
        self.wake: Callable[[str, timedelta], None] = lambda _key, _after: None
        """Told the incident of which something was found, and within what time to look at it."""
        self._examine = examine
        self._clock = clock
        self._quiet_seconds = quiet_seconds
        self._enabled = enabled
        self._slots = asyncio.Semaphore(_AT_ONCE)
        self._under_way: dict[str, asyncio.Task[None]] = {}
        self._found: dict[str, _Found] = {}

    def attend(self, incident: Incident) -> None:
        """Begins the diagnosis of an incident that has had none, when nothing more urgent is left to do for it."""
        if self._wanted(incident) and incident.key not in self._under_way:
            self._begin(incident, at_once=False)

    def wait_for_findings(self, draft: Draft, step: StepStatus) -> Wait | None:
        """A Wait while a step's ``when`` needs findings that are not there yet."""
        if step.when is None or "findings" not in step.when or not self._wanted(draft.incident):
            return None
        if draft.key not in self._under_way:
            self._begin(draft.incident, at_once=True)
        return Wait(f"{step.name}: looking for the cause", draft.now + timedelta(seconds=_LIMIT_SECONDS + 1))

    def take(self, draft: Draft) -> None:
        """Puts what was found on the draft, once: when it is time, or else along with what is written anyway."""
        found = self._found.get(draft.key)
        if found is None or (draft.now < found.due and not draft.changes()):
            return
        if found.uid != draft.incident.metadata.uid or "diagnosedAt" in draft.base:
            del self._found[draft.key]
        if found.uid != draft.incident.metadata.uid or draft.incident.status.diagnosed_at is not None:
            return
        put_findings(draft, found.findings)
        keep_evidence(draft, found.evidence)
        # Known until it is stored: made anew, it would take the place of evidence that the status may tell of already.
        draft.afterwards(lambda: self._forget(draft.key))

    def _forget(self, key: str) -> None:
        self._found.pop(key, None)

    def stop(self) -> None:
        """The lead is lost: forgets everything."""
        for task in self._under_way.values():
            task.cancel()
        self._under_way.clear()
        self._found.clear()

    def _wanted(self, incident: Incident) -> bool:
        """Not for one that has been looked into, will be by a step of its own, is over, or is old: after a restart
        nobody needs to know any more what the cluster looks like now.
        """
        status, created = incident.status, incident.metadata.creation_timestamp
        return (
            self._enabled
            and status.diagnosed_at is None
            and incident.key not in self._found
            and status.phase != "Resolved"
            and created is not None
            and self._clock() - created < _YOUNG
            and not _by_a_step(status)
            and target_of(incident) is not None
        )

    def _begin(self, incident: Incident, *, at_once: bool) -> None:
        task = asyncio.create_task(self._look(incident, at_once), name=f"diagnosis of {incident.key}")
        self._under_way[incident.key] = task
        task.add_done_callback(lambda _: self._under_way.pop(incident.key, None))

    async def _look(self, incident: Incident, at_once: bool) -> None:
        if not at_once:
            await asyncio.sleep(_PAUSE_SECONDS)  # its own round may be about to act
            await until_quiet(self._quiet_seconds, _QUIET_SECONDS, looks=_PATIENCE, pause=_PAUSE_SECONDS)
        target, name = target_of(incident), incident.metadata.name
        params = DiagnoseParams(connections=checks_of(incident.status.steps))
        assert target is not None
        async with self._slots:
            findings, evidence = await self._examine(target, params, name, began_at(incident))
        # Work that is under way will write soon; where a person is waited for, the person wants to know now.
        soon = not at_once and incident.status.phase in _UNDER_WAY
        within = _GO_ALONG_WITHIN if soon else timedelta(0)
        self._found[incident.key] = _Found(incident.metadata.uid, self._clock() + within, findings, evidence)
        self.wake(incident.key, within)


class Examiner:
    """The diagnosis as actions and incidents want it: bounded, and kept as evidence where there is a store."""

    def __init__(
        self,
        kube: Kube,
        evidence: EvidenceStore | None,
        clock: Callable[[], datetime],
        connections: Connections | None = None,
    ) -> None:
        self._kube = kube
        self._connections = connections
        self._evidence = evidence
        self._clock = clock

    async def __call__(
        self, target: BoundTarget, params: DiagnoseParams, incident: str, since: datetime | None
    ) -> tuple[tuple[Finding, ...], tuple[Evidence, ...]]:
        """See ``actions.base.Examine``."""
        try:
            async with asyncio.timeout(_LIMIT_SECONDS):
                now, connections = self._clock(), self._connections
                diagnosis = await diagnose(self._kube, target, params, since, now, connections=connections)
        except (TimeoutError, ParamedicError) as error:
            _log.warning("no diagnosis", target=str(target), incident=incident, error=repr(error))
            return (), ()
        return diagnosis.findings, await self._kept(target.namespace, incident, diagnosis)

    async def _kept(self, namespace: str, incident: str, diagnosis: Diagnosis) -> tuple[Evidence, ...]:
        if self._evidence is None:
            return ()
        place = self._evidence.collection(namespace, incident, "diagnosis")
        return (await place.keep("diagnosis.json", "application/json", _encoded(diagnosis)),)


async def _encoded(diagnosis: Diagnosis) -> AsyncGenerator[bytes, None]:
    yield json.dumps(diagnosis.document, ensure_ascii=False, indent=1, default=str).encode()


def _by_a_step(status: IncidentStatus) -> bool:
    """Whether a step of the policy looks, which in mode Observe it only would."""
    observed = status.policy is not None and status.policy.mode == "Observe"
    return not observed and any(step.action == "diagnose" for step in status.steps)


def target_of(incident: Incident) -> BoundTarget | None:
    """The workload that the incident is about: its own target, else that of the first step that has one. Where there is
    none, the first connection.
    """
    named = incident.spec.target
    if named and named.kind in WORKLOADS:
        return bound(named.kind, incident.metadata.namespace, named.name)
    targets = [step.target for step in incident.status.steps if step.target]
    return next((t for kinds in (WORKLOADS, CONNECTION) for t in targets if t.kind in kinds), None)


def checks_of(steps: Iterable[StepStatus]) -> list[ConnectionCheck]:
    """The connections that the steps use, with their queues: what the policy's author was allowed to name."""
    found: dict[str, ConnectionCheck] = {}
    for check in (check for step in steps for check in _checks(step)):
        known = found.get(check.name)
        queues = [q for q in check.queues if known is None or q.key not in {k.key for k in known.queues}]
        found[check.name] = known.model_copy(update={"queues": [*known.queues, *queues]}) if known else check
    return [check.model_copy(update={"queues": check.queues[:_MOST]}) for check in found.values()][:_MOST]


def _checks(step: StepStatus) -> tuple[ConnectionCheck, ...]:
    action = ACTIONS.get(step.action)
    try:
        return action.connection_checks(step.params or {}, step.target.name if step.target else None) if action else ()
    except ValueError:  # parameters that wait for what an earlier step will find
        return ()
