"""What is wrong in a policy, beyond what its schema can say, and its status: Ready and the counts."""

import asyncio
import contextlib
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any

from pydantic import ValidationError

from paramedic.actions import ACTIONS
from paramedic.actions.base import NEEDS_APPROVAL, NEEDS_TTL, NOT_UNDOABLE
from paramedic.api import API_VERSION
from paramedic.api import conditions as c
from paramedic.api.checks import Checks, RevertWhen
from paramedic.api.policy import MOST_MATCHERS, PolicySpec, PolicyStatus, RemediationPolicy, Step
from paramedic.api.reasons import Reason
from paramedic.api.workload import WITH_PODS
from paramedic.clients.extras import is_installed
from paramedic.clients.kube import Kube
from paramedic.core import messages, schedule
from paramedic.core.expressions import ExpressionError, compile_expression
from paramedic.core.facts import NAMES
from paramedic.core.matchers import parse_matchers
from paramedic.core.merge import merge_difference
from paramedic.core.pinning import lacks_evidence
from paramedic.core.policy_index import MOST_POLICY_BYTES, ROOM_BYTES
from paramedic.core.room import MOST_PARAMETERS_BYTES, parameters_bytes
from paramedic.core.templates import compile_template
from paramedic.errors import ParamedicError
from paramedic.gate import Urgency
from paramedic.log import get_logger
from paramedic.reachable import Reachable
from paramedic.store import PolicyEntry, Store

Json = dict[str, Any]
_log = get_logger(__name__)
_TITLE_NAMES = frozenset({"labels", "annotations"})
_MOST_WRONG = 8
"""So many wrong matchers are told of at once."""
_WITHOUT_ROOM = (
    "match.alerts: the matchers of this namespace's older policies leave no room for this one's, so it answers to "
    f"nothing: the matchers of one namespace may take {ROOM_BYTES >> 20} MiB in all. Delete policies that are not "
    "needed, or write = instead of =~, and shorter regular expressions"
)


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
    yield from _matcher_problems(spec)
    yield from _problem("incident.title", lambda: compile_template(spec.incident.title, _TITLE_NAMES))
    if spec.messages:
        yield from (f"messages.{problem}" for problem in messages.problems(spec.messages))
    for where, windows in (("allow", spec.guards.windows.allow), ("deny", spec.guards.windows.deny)):
        for window in windows:
            yield from _problem(f"guards.windows.{where}", partial(schedule.check, window))
    if spec.namespaces and policy.metadata.namespace != namespace:
        yield f"namespaces: only a policy in {namespace} may serve other namespaces"
    yield from _grouping_problems(spec)
    yield from _check_problems("verify", spec.verify)
    for step in spec.steps:
        yield from _step_problems(step, spec)
    parts = [part for step in spec.steps for part in _parts(step)]
    if lacks_evidence(spec, parts):
        yield (
            "steps: of a SecurityBreach evidence is captured before anything is changed, but nothing that this policy "
            f"names has pods; add a step with captureEvidence and a target of kind {', '.join(WITH_PODS)}, or set "
            "spec.target to one"
        )
    if (size := parameters_bytes(parts)) > MOST_PARAMETERS_BYTES:
        yield (
            f"steps: their parameters take {size >> 10} KiB, where an Incident's status has room for "
            f"{MOST_PARAMETERS_BYTES >> 10} KiB; divide the policy"
        )
    names = [part.name for part in parts]
    yield from (f"steps: the name {name} is used twice" for name in sorted(set(names)) if names.count(name) > 1)


def _matcher_problems(spec: PolicySpec) -> Iterator[str]:
    """Ends where there is too much, be it that is wrong: what follows would be compiled for nothing."""
    count = size = wrong = 0
    for number, entry in enumerate(spec.match.alerts):
        for text in entry.matchers:
            try:
                found = parse_matchers(text)
            except ValueError as error:
                yield f"match.alerts[{number}]: {error}"
                wrong += 1
                found = ()
            count, size = count + len(found), size + sum(one.bytes for one in found)
            if problem := _too_much(count, size):
                yield problem
            if problem or wrong == _MOST_WRONG:
                return


def _too_much(count: int, size: int) -> str | None:
    if count > MOST_MATCHERS:
        return (
            f"match.alerts: a policy may have {MOST_MATCHERS} matchers in all: join values in one regular expression, "
            "or divide it into several policies"
        )
    if size > MOST_POLICY_BYTES:
        return (
            f"match.alerts: the matchers take more than {MOST_POLICY_BYTES >> 10} KiB of memory: write = instead of "
            "=~, or shorter regular expressions"
        )
    return None


def _grouping_problems(spec: PolicySpec) -> Iterator[str]:
    """Of an incident's alerts the first says what is acted on: what another one means by that label would be left
    alone, and held against what was done.
    """
    together = spec.incident.group_by
    for where, label in _labels_acted_by(spec) if together else ():
        if label not in together:
            yield (
                f"{where}: alerts with different values of {label} would be one incident, and only the first one's is "
                f"acted on: write incident.groupBy: [{', '.join([*together, label])}]"
            )


def _labels_acted_by(spec: PolicySpec) -> Iterator[tuple[str, str]]:
    """The alert's labels that say what is acted on, each with the field that names it."""
    targets = [("target", spec.target), *((f"steps.{step.name}.target", step.target) for step in spec.steps)]
    for where, target in targets:
        if target and target.name_from_label:
            yield f"{where}.nameFromLabel", target.name_from_label
    for step in spec.steps:
        named = {name: label for name, label in step.params.items() if name.endswith("FromLabel")}
        yield from ((f"steps.{step.name}.{step.action}.{name}", str(label)) for name, label in named.items())


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
        yield f"{where}: {NEEDS_APPROVAL.format(step.action)}"
    if step.when:
        yield from _problem(f"{where}.when", lambda: compile_expression(step.when or "", NAMES))
    if (step.ttl or step.revert_when) and not (action.undoable and action.leasable):
        yield f"{where}: {NOT_UNDOABLE.format(step.action)}"
    if action.needs_ttl and not step.ttl:
        yield f"{where}: {NEEDS_TTL.format(step.action)}"
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
        if entry.policy and not self._store.has_room(entry.policy.key):
            return Reason.POLICY_WITHOUT_ROOM, _WITHOUT_ROOM
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
