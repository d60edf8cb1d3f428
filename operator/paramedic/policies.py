"""What is wrong in a policy, beyond what its schema can say, and its status: Ready and the counts."""

import asyncio
import contextlib
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any

from pydantic import ValidationError

from paramedic.actions import ACTIONS
from paramedic.api import API_VERSION
from paramedic.api import conditions as c
from paramedic.api.checks import Checks, RevertWhen
from paramedic.api.policy import PolicySpec, PolicyStatus, RemediationPolicy, Step
from paramedic.api.reasons import Reason
from paramedic.clients.extras import is_installed
from paramedic.clients.kube import Kube
from paramedic.core import messages, schedule
from paramedic.core.expressions import ExpressionError, compile_expression
from paramedic.core.facts import NAMES
from paramedic.core.matchers import parse_matchers
from paramedic.core.merge import merge_difference
from paramedic.core.templates import compile_template
from paramedic.errors import ParamedicError
from paramedic.gate import Urgency
from paramedic.log import get_logger
from paramedic.reachable import Reachable
from paramedic.store import PolicyEntry, Store

Json = dict[str, Any]
_log = get_logger(__name__)
_TITLE_NAMES = frozenset({"labels", "annotations"})


def read_policy(raw: Json, namespace: str) -> tuple[RemediationPolicy | None, str | None]:
    """The policy, if it can be read, and what is wrong in it, all in one message."""
    try:
        policy = RemediationPolicy.model_validate(raw)
    except ValidationError as error:
        lines = [f"{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors(include_url=False)]
        return None, "; ".join(lines)[:2000]
    problems = list(find_problems(policy, namespace))
    return policy, "; ".join(problems)[:2000] or None


def find_problems(policy: RemediationPolicy, namespace: str) -> Iterator[str]:
    """Everything that is wrong, each with the field that it is about."""
    spec = policy.spec
    for number, entry in enumerate(spec.match.alerts):
        for matcher in entry.matchers:
            yield from _problem(f"match.alerts[{number}]", partial(parse_matchers, matcher))
    yield from _problem("incident.title", lambda: compile_template(spec.incident.title, _TITLE_NAMES))
    if spec.messages:
        yield from (f"messages.{problem}" for problem in messages.problems(spec.messages))
    for where, windows in (("allow", spec.guards.windows.allow), ("deny", spec.guards.windows.deny)):
        for window in windows:
            yield from _problem(f"guards.windows.{where}", partial(schedule.check, window))
    if spec.namespaces and policy.metadata.namespace != namespace:
        yield f"namespaces: only a policy in {namespace} may serve other namespaces"
    yield from _check_problems("verify", spec.verify)
    for step in spec.steps:
        yield from _step_problems(step, spec)
    names = [part.name for step in spec.steps for part in _parts(step)]
    yield from (f"steps: the name {name} is used twice" for name in sorted(set(names)) if names.count(name) > 1)


def _parts(step: Step) -> list[Step]:
    """The steps that it becomes on an Incident's status."""
    try:
        return ACTIONS[step.action].expand(step)
    except (KeyError, ValidationError):
        return [step]


def _step_problems(step: Step, spec: PolicySpec) -> Iterator[str]:
    where = f"steps.{step.name}"
    action = ACTIONS.get(step.action)
    if action is None:
        yield f"{where}: there is no action {step.action}; there are {', '.join(sorted(ACTIONS))}"
        return
    yield from _problem(f"{where}.{step.action}", lambda: action.params.model_validate(step.params))
    parts = _parts(step)
    if step.target and all(part.target != step.target for part in parts):
        yield f"{where}: {step.action} names its objects itself: leave target out"
    target = parts[0].target or spec.target
    if target and target.kind not in action.kinds:
        kinds = ", ".join(action.kinds)
        yield f"{where}: {step.action} is for {kinds}, not for {target.kind}: give the step a target of its own"
    elif target and (wrong := action.problem_for(step.params, target.kind)):
        yield f"{where}.{step.action}: {wrong}"
    if action.needs_approval and (step.approval == "NotRequired" or (spec.mode == "Auto" and not step.approval)):
        yield f"{where}: {step.action} always waits for a person: write approval: Required on the step"
    if step.when:
        yield from _problem(f"{where}.when", lambda: compile_expression(step.when or "", NAMES))
    if (step.ttl or step.revert_when) and not (action.undoable and action.leasable):
        yield f"{where}: {step.action} cannot be put back, so ttl and revertWhen make no sense"
    if action.needs_ttl and not step.ttl:
        yield f"{where}: {step.action} is for a while only: set ttl, for example 30m"
    if action.extra and not is_installed(action.extra):
        yield f"{where}: {step.action} needs a library that is not installed: pip install 'paramedic[{action.extra}]'"
    yield from _check_problems(f"{where}.verify", step.verify)
    yield from _check_problems(f"{where}.revertWhen", step.revert_when)


def _check_problems(where: str, checks: Checks | RevertWhen | None) -> Iterator[str]:
    if checks and checks.prometheus:
        condition = checks.prometheus.condition
        yield from _problem(f"{where}.prometheus", lambda: compile_expression(condition, frozenset({"value"})))


def _asks_prometheus(spec: PolicySpec) -> bool:
    checks = [spec.verify, *(check for step in spec.steps for check in (step.verify, step.revert_when))]
    return any(check is not None and check.prometheus is not None for check in checks)


def _problem(where: str, check: Callable[[], object]) -> Iterator[str]:
    try:
        check()
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        yield f"{where}.{'.'.join(map(str, first['loc']))}: {first['msg']}"
    except (ExpressionError, ValueError) as error:
        yield f"{where}: {error}"


class PolicyReporter:
    """Writes policies' status: Ready at once, counts at intervals, and nothing when nothing has changed."""

    def __init__(
        self,
        kube: Kube,
        store: Store,
        leads: Callable[[], bool],
        every: timedelta,
        reachable: Reachable,
        *,
        has_prometheus: bool,
    ) -> None:
        self._kube = kube
        self._reachable = reachable
        self._store = store
        self._leads = leads
        self._every = every
        self._has_prometheus = has_prometheus
        self._changed = asyncio.Event()

    def wake(self) -> None:
        """A policy is new or has changed."""
        self._changed.set()

    async def run(self) -> None:
        """Reports until cancelled."""
        while True:
            self._changed.clear()
            if self._leads():
                await self._report_all()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self._every.total_seconds()):
                    await self._changed.wait()

    async def _report_all(self) -> None:
        counts = self._count_matches()
        for key, entry in list(self._store.policies.items()):
            try:
                await self._report(key, entry, counts.get(key))
            except Exception:  # noqa: BLE001 - one odd policy must not end the process
                _log.exception("a policy's status cannot be told", policy=key)

    async def _report(self, key: str, entry: PolicyEntry, count: tuple[int, datetime | None] | None) -> None:
        wanted = self._wanted_status(key, entry, await self._problem(entry), count)
        difference = merge_difference(entry.raw.get("status") or {}, wanted)
        if difference:
            await self._write(entry, difference)

    async def _problem(self, entry: PolicyEntry) -> tuple[Reason, str] | None:
        """What is wrong in the policy, or with what it needs. The latter may mend by itself, so such a policy still
        answers to incidents: better a step that fails, and a person who is told, than an alert that matches nothing.
        """
        if entry.problem is not None:
            return Reason.POLICY_INVALID, entry.problem
        return await self._reachable.problem(entry.policy) if entry.policy else None

    def _count_matches(self) -> dict[str, tuple[int, datetime | None]]:
        counts: dict[str, tuple[int, datetime | None]] = {}
        for entry in self._store.entries.values():
            if entry.policy:
                number, last = counts.get(entry.policy, (0, None))
                newest = max(filter(None, (last, entry.created_at)), default=None)
                counts[entry.policy] = number + 1, newest
        return counts

    def _wanted_status(
        self,
        key: str,
        entry: PolicyEntry,
        problem: tuple[Reason, str] | None,
        count: tuple[int, datetime | None] | None,
    ) -> Json:
        now = datetime.now(UTC)
        old = PolicyStatus.model_validate(entry.raw.get("status") or {})
        generation = int(entry.raw["metadata"].get("generation") or 1)
        reason, message = problem or (Reason.POLICY_VALID, self._usable(entry))
        old.conditions = c.with_condition(
            old.conditions,
            c.READY,
            "False" if problem else "True",
            reason,
            message[:2000],
            now,
            generation,
        )
        old.observed_generation = generation
        stored, last = count or (0, None)
        old.matched, old.last_matched_at = stored, max(filter(None, (last, old.last_matched_at)), default=None)
        if entry.policy:
            period = entry.policy.spec.guards.rate_limit.period
            old.actions_in_period = sum(a.at > now - period for a in self._store.actions_under(key))
        return old.to_wire()

    def _usable(self, entry: PolicyEntry) -> str:
        if self._has_prometheus or entry.policy is None or not _asks_prometheus(entry.policy.spec):
            return "the policy can be used"
        return "the policy can be used, but no Prometheus is configured (prometheus.url) that its checks could ask"

    async def _write(self, entry: PolicyEntry, difference: Json) -> None:
        meta = entry.raw["metadata"]
        path = f"/apis/{API_VERSION}/namespaces/{meta['namespace']}/remediationpolicies/{meta['name']}/status"
        body = {"metadata": {"uid": meta["uid"], "resourceVersion": meta["resourceVersion"]}, "status": difference}
        try:
            stored = await self._kube.merge_patch(path, body, Urgency.RECORD)
        except ParamedicError as error:
            _log.info("policy status not written", policy=f"{meta['namespace']}/{meta['name']}", error=str(error))
            return
        self._store.put_policy(stored, entry.policy, entry.problem)
