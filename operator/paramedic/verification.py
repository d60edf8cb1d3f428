"""Gathers what ``verify`` and ``revertWhen`` ask for: the target's rollout, the alert, Prometheus."""

import asyncio
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from paramedic.actions import ACTIONS
from paramedic.actions.base import read_target
from paramedic.api.checks import Checks, PrometheusCheck, RevertWhen
from paramedic.api.incident import Incident, StepStatus
from paramedic.api.workload import WORKLOADS, BoundTarget, bound
from paramedic.clients.kube import Kube
from paramedic.clients.prometheus import Prometheus
from paramedic.core.situation import is_firing, verification_deadline
from paramedic.core.verify import Facts, Result, Verdict, judge, watched_deadline
from paramedic.errors import NotFound, Refused, Retry, Terminal

_POLL = ((timedelta(seconds=15), timedelta(seconds=1)), (timedelta(minutes=1), timedelta(seconds=2)))
_SLOW_POLL = timedelta(seconds=5)
_TELL_EVERY = timedelta(seconds=30)
_LOST_SIGHT = timedelta(minutes=1)
_WORST_FIRST = ("Failed", "Inconclusive", "Waiting", "Passed")


@dataclass(slots=True)
class _Watch:
    """What is remembered of a step's checks between two looks, without a gap of more than a minute."""

    since: datetime
    looked_at: datetime
    passing_since: datetime | None = None


class Verifier:
    """Looks and judges. Since when checks hold is kept in memory only: whoever has not looked for a while (a restart, a
    pause, an outage) begins the hold anew, and has time to see it through before he calls it a failure.
    """

    def __init__(self, kube: Kube, prometheus: Prometheus | None) -> None:
        self._kube = kube
        self._prometheus = prometheus
        self._watches: dict[tuple[str, str], _Watch] = {}
        self._told_at: dict[str, datetime] = {}

    async def judge_step(self, incident: Incident, step: StepStatus, now: datetime) -> Verdict:
        """Whether the step has helped."""
        assert step.verify is not None
        watch = self._watch(step, "verify", now)
        deadline = verification_deadline(step)
        if deadline and step.verification:
            deadline = watched_deadline(step.verification.started_at, deadline, watch.since)
        return await self._judge(incident, step, step.verify, now, deadline, watch)

    async def holds(self, incident: Incident, step: StepStatus) -> bool:
        """Whether the step's checks hold at this moment, however long."""
        assert step.verify is not None
        checks = step.verify.model_copy(update={"for_": None})
        facts = await self._gather(incident, step, checks)
        return judge(checks, facts, datetime.now(UTC), deadline=None, passing_since=None).state == "Passed"

    async def lease_is_over(self, incident: Incident, step: StepStatus, now: datetime) -> bool:
        """Whether the step's ``revertWhen`` holds."""
        if step.revert_when is None:
            return False
        watch = self._watch(step, "revertWhen", now)
        verdict = await self._judge(incident, step, step.revert_when, now, None, watch)
        return verdict.state == "Passed"

    def tell(self, step: StepStatus, verdict: Verdict, now: datetime) -> None:
        """Puts on the step which of its checks does not hold yet: not more often than people need it, for each telling
        is a write.
        """
        operation, asked = step.operation or "", step.verification
        if asked and now - self._told_at.get(operation, asked.started_at) >= _TELL_EVERY:
            asked.message = verdict.message
            self._told_at[operation] = now

    def forget(self, step: StepStatus) -> None:
        """Drops what is remembered of a step that is done."""
        self._told_at.pop(step.operation or "", None)
        for what in ("verify", "revertWhen"):
            self._watches.pop((step.operation or "", what), None)

    def stop(self) -> None:
        """The lead is lost: forgets what was seen, for others go on."""
        self._watches.clear()
        self._told_at.clear()

    def _watch(self, step: StepStatus, what: str, now: datetime) -> _Watch:
        key = (step.operation or "", what)
        watch = self._watches.get(key)
        if watch is None or now - watch.looked_at > _LOST_SIGHT:
            watch = self._watches[key] = _Watch(since=now, looked_at=now)
        return watch

    async def _judge(
        self,
        incident: Incident,
        step: StepStatus,
        checks: Checks | RevertWhen,
        now: datetime,
        deadline: datetime | None,
        watch: _Watch,
    ) -> Verdict:
        facts = await self._gather(incident, step, checks)
        verdict = judge(checks, facts, now, deadline=deadline, passing_since=watch.passing_since)
        watch.looked_at, watch.passing_since = now, verdict.passing_since
        return verdict

    async def _gather(self, incident: Incident, step: StepStatus, checks: Checks | RevertWhen) -> Facts:
        asks_rollout = isinstance(checks, Checks) and bool(checks.rollout)
        rollout, (samples, unreadable) = await asyncio.gather(
            self._rollouts(incident, step) if asks_rollout else _nothing(),
            self._ask(checks.prometheus),
        )
        return Facts(rollout, is_firing(incident), samples, unreadable)

    async def _rollouts(self, incident: Incident, step: StepStatus) -> Result:
        """The worst of the rollouts that the step has set off; good where it set off none."""
        targets = rolled_out(incident, step)
        results = await asyncio.gather(*(self._rollout(step, target) for target in targets))
        return min(results, key=lambda r: _WORST_FIRST.index(r.state), default=Result("Passed", "nothing to roll out"))

    async def _rollout(self, step: StepStatus, target: BoundTarget) -> Result:
        try:
            found = await read_target(target, self._kube)
        except NotFound:
            return Result("Failed", f"{target} does not exist any more")
        except (Refused, Retry) as error:  # also a refusal: an API server that starts has not read the roles yet
            return Result("Inconclusive", f"{target} could not be read: {error}", for_now=True)
        except Terminal as error:
            return Result("Inconclusive", f"{target} could not be read: {error}")
        if target.uid and found["metadata"]["uid"] != target.uid:
            return Result("Failed", f"{target} was deleted and made anew")
        since = step.verification.started_at if step.verification else None
        return ACTIONS[step.action].rollout(found, step.after or {}, since)

    async def _ask(self, check: PrometheusCheck | None) -> tuple[list[float] | None, str | None]:
        if check is None:
            return None, None
        if self._prometheus is None:
            return None, "no Prometheus is configured (prometheus.url)"
        try:
            return await self._prometheus.query(check.query), None
        except Retry as error:
            return None, str(error)


def rolled_out(incident: Incident, step: StepStatus) -> list[BoundTarget]:
    """The workloads whose rollout shows whether the step went well: its target, or those among the objects that it
    changed, or else the workload that the incident is about.
    """
    if step.target is None:
        return []
    if step.target.kind in WORKLOADS:
        return [step.target]
    namespace, about = step.target.namespace, incident.spec.target
    parts = [part.partition("/") for part in step.after or {}]
    changed = [bound(kind, namespace, name) for kind, _, name in parts if kind in WORKLOADS and name]
    if changed or about is None or about.kind not in WORKLOADS:
        return changed
    return [bound(about.kind, namespace, about.name)]


def next_look(step: StepStatus, now: datetime) -> datetime:
    """Often at first, when a rollout may end any second; then less so. Never past the deadline."""
    started = step.verification.started_at if step.verification else now
    pause = next((pause for until, pause in _POLL if now - started < until), _SLOW_POLL)
    deadline = verification_deadline(step)
    return min(now + pause, deadline) if deadline and deadline > now else now + pause


async def _nothing() -> None:
    return None
