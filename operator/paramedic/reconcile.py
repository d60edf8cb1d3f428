"""One incident, from what is stored to what comes next.

``Reconciler.reconcile`` asks ``core.plan.next_move`` for the one thing to do, does it, and asks again, until the answer
is to wait. Everything that it knows is on the Incident's status, besides the ``news`` that are to be put there.
"""

import asyncio
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from typing import Any

from paramedic.acting import Acting, NotActing
from paramedic.actions import ACTIONS
from paramedic.api import conditions as c
from paramedic.api.incident import Incident
from paramedic.api.policy import RemediationPolicy
from paramedic.api.reasons import Reason
from paramedic.api.workload import bound
from paramedic.clients.kube import Kube
from paramedic.core import leases, plan, situation
from paramedic.core.heard import Heard
from paramedic.core.match import policy_for_incident
from paramedic.core.people import resolution
from paramedic.core.pinning import pin, pinned_steps
from paramedic.core.redact import clean
from paramedic.core.several import is_parent, tell_open
from paramedic.core.summary import progress
from paramedic.diagnostician import Diagnostician
from paramedic.errors import Conflict, NotFound, ParamedicError, Retry
from paramedic.execute import Executor
from paramedic.log import get_logger
from paramedic.metrics import Metrics
from paramedic.news import Amendment, Item, News, Stored, answer, refuse_firing, take_all, take_heard
from paramedic.people import People
from paramedic.putback import DID_NOT_HELP, PutBack
from paramedic.record import Draft, Recorder, apply_summary, escalate, incident_path, reread
from paramedic.slow import SlowActions
from paramedic.store import Store
from paramedic.verification import Verifier, next_look
from paramedic.workqueue import WorkQueue

Json = dict[str, Any]
_log = get_logger(__name__)
_MAX_MOVES = 64
_FAILURES_UNTOLD = 3
_MAX_TRIES = 6
_FIRST_BACKOFF, _LAST_BACKOFF = timedelta(milliseconds=200), timedelta(seconds=30)
_COUNT_LATER = timedelta(seconds=30)


class Reconciler:
    """Works on incidents, one at a time each. ``queue`` says which and when."""

    def __init__(
        self,
        kube: Kube,
        store: Store,
        recorder: Recorder,
        acting: Acting,
        executor: Executor,
        slow: SlowActions,
        putback: PutBack,
        verifier: Verifier,
        diagnostician: Diagnostician,
        people: People,
        metrics: Metrics,
        *,
        namespace: str,
        workers: int,
        may_act: Callable[[], bool],
        clock: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self._kube = kube
        self._store = store
        self._recorder = recorder
        self._acting = acting
        self._executor = executor
        self._slow = slow
        self._putback = putback
        self._verifier = verifier
        self._diagnostician = diagnostician
        self._people = people
        self._metrics = metrics
        self._namespace = namespace
        self._may_act = may_act
        self._clock = clock
        self._failures: dict[str, int] = defaultdict(int)
        self._news = News()
        self.queue = WorkQueue(self._work, workers)
        slow.when_done = self.queue.add
        diagnostician.wake = self.queue.add_after
        metrics.queue_depth.set_function(lambda: len(self.queue))

    # -- the edges speak ----------------------------------------------------------------------------------------------

    def look_ahead(self, policy: RemediationPolicy, manifest: Json) -> None:
        """An Incident is about to be stored: its target can be read meanwhile."""
        first, target = policy.spec.steps[0], manifest["spec"].get("target")
        if target and first.target is None:
            namespace = manifest["metadata"]["namespace"]
            self._acting.look_ahead(first.action, first.params, bound(target["kind"], namespace, target["name"]))

    def hear(self, key: str, news: Heard) -> None:
        """An alert's resend: counted with the next write, and within half a minute."""
        if self._news.add(key, news):
            self.queue.add_after(key, _COUNT_LATER)

    def hear_late(self, key: str, news: Heard) -> None:
        """The end of an alert whose incident was over before: put on its status soon."""
        self._news.add(key, news)
        self.queue.add(key)

    @contextmanager
    def opening(self, key: str, first: Heard, rest: Sequence[Heard]) -> Iterator[list[Stored]]:
        """While an Incident is being created: its first status tells of the whole batch, also when the watch shows it
        before the answer comes. Gives what is done once the status of each of the ``rest`` is stored (or fails as
        ``tell`` does); ``first`` is stored by the creation. When that fails, the news is taken back.
        """
        with self._news.first(key, first, rest) as stored:
            yield stored
        self.queue.add(key)

    async def tell(self, key: str, *news: Heard) -> None:
        """Ends, and further alerts of the group: returns once all is stored. Without the lead it goes straight onto the
        status. Raises Retry when the lead is lost meanwhile, NotFound when the incident is gone, or over: then what
        fires is another incident.
        """
        if self._may_act():
            await asyncio.gather(*(self._ask(key, one) for one in news))
        else:
            await self._write_down(key, lambda draft: take_heard(draft, news), only_open=True)

    async def amend(self, key: str, change: Amendment) -> None:
        """Something to be put on the status: returns once it is stored. Without the lead it goes straight onto the
        status. Raises Retry when the lead is lost meanwhile or the incident keeps changing, NotFound when it is gone.
        """
        if self._may_act():
            await self._ask(key, change)
        else:
            await self._write_down(key, change)

    async def _ask(self, key: str, news: Heard | Amendment) -> None:
        stored = self._news.ask(key, news)
        self.queue.add(key)
        await stored

    async def _write_down(self, key: str, change: Amendment, *, only_open: bool = False) -> None:
        for _ in range(_MAX_TRIES):
            draft = self._recorder.open_draft(key, self._clock())
            if draft is None or (only_open and draft.is_over):
                raise NotFound(f"{key} is over or gone")
            change(draft)
            try:
                await self._recorder.commit(draft)
                self.queue.add(key)  # should the lead have come to this process meanwhile
                return
            except Conflict:
                await reread(self._kube, self._store, key)
        raise Retry(f"{key} keeps changing")

    def stop(self) -> None:
        """The lead is lost: forgets what waits and what runs, and sends back who waits for a write."""
        self.queue.clear()
        self._slow.stop()
        self._diagnostician.stop()
        self._verifier.stop()
        self._news.refuse_all(Retry("another process is the leader now"))

    # -- one round ----------------------------------------------------------------------------------------------------

    async def reconcile(self, key: str) -> None:
        """Does all that can be done for the incident now. Raises Conflict, NotFound, Retry: then it is asked again."""
        if self._store.is_in_doubt(key):  # else its next write could hide from others that the last one was stored
            await self._read_anew(key)
        draft = self._recorder.open_draft(key, self._clock())
        news = self._news.take(key)
        if draft is None or draft.is_over:
            news = refuse_firing(news, NotFound(f"{key} is over or gone"))
        if draft is None:
            self._recorder.tell_unreadable(key, self._clock())
            draft = await self._recall(key, news)
            if draft is None:
                return
        before = self._store.entries[key]
        draft.afterwards(lambda: answer(news, None))  # by the first write, which holds it all
        try:
            end = await self._advance(draft, [item for item, _ in news])
        except (Conflict, Retry):
            self._news.give_back(key, news)
            raise
        except BaseException as error:
            answer(news, Retry(f"{key}: {error!r}"))
            raise
        answer(news, None)
        self._wake_others(key, before.busy_targets, before.remediating, before.policy)
        self._diagnostician.attend(draft.incident)
        self._people.after_round(draft.incident)
        now = self._clock()
        looks = (
            end.until if isinstance(end, plan.Wait) else None,
            leases.next_lease_look(draft.incident, now),
            self._people.next_look(draft.incident, now),
        )
        if end is None:  # as many moves as one round may have, and not at rest yet
            self.queue.add_after(key, _FIRST_BACKOFF)
        elif at := min(filter(None, looks), default=None):
            self.queue.add_after(key, at - now)

    async def _recall(self, key: str, news: list[Item]) -> Draft | None:
        """An ended incident, of which the mirror keeps the outline only, when something is to be put on its status."""
        if not news:
            return None
        try:
            raw = await self._kube.get(incident_path(*key.split("/", 1)))
            draft = Draft(Incident.model_validate(raw), raw.get("status") or {}, self._clock())
        except (ParamedicError, ValueError) as error:
            answer(news, error if isinstance(error, NotFound) else Retry(f"{key}: {error}"))
            return None
        self._store.put_incident(raw)
        return draft

    async def _advance(self, draft: Draft, news: list[Heard | Amendment]) -> plan.Wait | plan.Resolve | None:
        """Move after move until there is nothing to do, with the state stored at the end."""
        self._take_in(draft, news)
        end: plan.Wait | plan.Resolve | None = None
        for _ in range(_MAX_MOVES):
            draft.now = self._clock()
            end = await self._move(draft)
            if end:
                break
        if draft.incident.metadata.deletion_timestamp and not draft.incident.metadata.finalizers:
            return None
        apply_summary(draft, end)
        self._diagnostician.take(draft)
        await self._recorder.commit(draft)
        return end

    def _take_in(self, draft: Draft, news: list[Heard | Amendment]) -> None:
        """What was heard, what people say, which policy."""
        status = draft.incident.status
        take_all(draft, news)
        self._diagnostician.take(draft)
        if status.policy is None and status.phase != "Resolved" and not is_parent(draft.incident):
            self._pin_policy(draft)

    def _pin_policy(self, draft: Draft) -> None:
        policy = policy_for_incident(self._store.usable_policies(), draft.incident, self._namespace)
        status = draft.incident.status
        if policy is None:
            draft.say(Reason.NO_POLICY, self._why_no_policy(draft), condition=(c.REMEDIATION_ALLOWED, "False"))
            return
        status.policy = pin(policy)
        status.steps = pinned_steps(policy, draft.incident, lambda step: ACTIONS[step.action].expand(step))
        draft.say(Reason.POLICY_MATCHED, f"policy {policy.key} at generation {policy.metadata.generation}")

    def _why_no_policy(self, draft: Draft) -> str:
        spec, ref = draft.incident.spec, draft.incident.spec.policy_ref
        if ref is None:
            return f"no policy of this namespace answers to {spec.type} {spec.severity}; kubectl get rpol shows them"
        named = f"{ref.namespace or draft.incident.metadata.namespace}/{ref.name}"
        entry = self._store.policies.get(named)
        return f"policy {named} is not Ready: {entry.problem}" if entry else f"there is no policy {named}"

    async def _move(self, draft: Draft) -> plan.Wait | plan.Resolve | None:  # noqa: C901 - one arm for each move
        """Performs one move; an answer ends the round."""
        if is_parent(draft.incident) and _is_waiting_for_policy(draft):
            return await self._wait_for_parts(draft)
        if draft.incident.status.policy is None and _is_waiting_for_policy(draft):
            return plan.Wait(c.find(draft.incident.status.conditions, c.REMEDIATION_ALLOWED).message)  # type: ignore[union-attr]
        if self._policy_is_gone(draft):
            escalate(draft, Reason.POLICY_GONE, "the policy was deleted; nothing further is done under it")
        over, paused = await self._leases_over(draft), self._policy_is_paused(draft)
        covered = self._store.covered(draft.key, draft.incident.status.steps)
        match plan.next_move(draft.incident, draft.now, over, covered, policy_paused=paused):
            case plan.Look(step):
                await self._executor.look(draft, step)
            case plan.Follow(step):
                return await self._slow.follow(draft, draft.incident.status.steps[step])
            case plan.LookAtRevert(step):
                held = draft.incident.spec.paused or self._policy_is_paused(draft)
                await self._putback.look(draft, step, held=held)
            case plan.PutBack(step, reason):
                await self._putback.put_back(draft, step, reason)
            case plan.Keep(step):
                _keep(draft, step)
            case plan.RunStep(step):
                looking = self._diagnostician.wait_for_findings(draft, draft.incident.status.steps[step])
                return looking or await self._executor.run_step(draft, step)
            case plan.VerifyStep(step):
                return await self._verify(draft, step)
            case plan.ObservePlan():
                return await self._observe_all(draft)
            case plan.Escalate(reason, message):
                escalate(draft, reason, message)
            case plan.Release():
                if draft.events:  # the object may be gone with its finalizer
                    await self._acting.commit(draft)
                await self._recorder.set_finalizer(draft, present=False)
                if draft.incident.metadata.deletion_timestamp:
                    return plan.Wait("deleted")
            case plan.Resolve() as move:
                await self._resolve(draft, move)
                return move
            case plan.Wait() as move:
                return self._wait(draft, move)
        return None

    async def _wait_for_parts(self, draft: Draft) -> plan.Wait | plan.Resolve:
        """Nothing is done for a parent itself: it is over when its parts are."""
        if parts := self._people.open_parts(draft.incident):
            return plan.Wait(tell_open(parts))
        move = plan.Resolve(Reason.PARTS_RESOLVED, "all incidents that were parts of this one are over")
        await self._resolve(draft, move)
        return move

    async def _verify(self, draft: Draft, index: int) -> plan.Wait | None:
        step = draft.incident.status.steps[index]
        verdict = await self._verifier.judge_step(draft.incident, step, draft.now)
        draft.now = self._clock()
        held = self._policy_is_paused(draft) and ACTIONS[step.action].undoable  # a failure would put it back
        if verdict.state == "Waiting" or (verdict.state == "Failed" and held):
            self._verifier.tell(step, verdict, draft.now)
            return plan.Wait(progress(step), next_look(step, draft.now))
        self._verifier.forget(step)
        step.finished_at = draft.now
        if step.verification:
            step.verification.message = verdict.message
        if verdict.state == "Passed":
            self._helped(draft, index, verdict.message)
        elif verdict.state == "Failed":
            await self._did_not_help(draft, index, verdict.message)
        else:
            step.state, step.reason = "Unknown", str(Reason.VERIFICATION_INCONCLUSIVE)
            step.message = f"{step.message}; whether it helped cannot be told: {verdict.message}"
            text = f"step {step.name}: {verdict.message}"
            draft.say(Reason.VERIFICATION_INCONCLUSIVE, text, condition=(c.VERIFIED, "Unknown"))
        return None

    def _helped(self, draft: Draft, index: int, message: str) -> None:
        steps = draft.incident.status.steps
        step = steps[index]
        step.state = "Succeeded"
        step.reason = str(Reason.ROLLOUT_COMPLETE if step.verify and step.verify.rollout else Reason.VERIFIED)
        draft.say(Reason.VERIFIED, f"step {step.name} helped: {message}", condition=(c.VERIFIED, "True"))
        draft.set_condition(c.REMEDIATED, "True", Reason.REMEDIATION_SUCCEEDED, step.message)
        self._metrics.actions.labels(step.action, "Verified").inc()
        pinned = draft.incident.status.policy
        if pinned and pinned.strategy == "UntilRecovered" and not situation.goes_on(steps, index):
            _skip_pending(draft, Reason.RECOVERED, f"step {step.name} helped")

    async def _did_not_help(self, draft: Draft, index: int, message: str) -> None:
        step = draft.incident.status.steps[index]
        step.state, step.reason = "Failed", str(Reason.VERIFICATION_FAILED)
        draft.say(Reason.VERIFICATION_FAILED, f"step {step.name}: {message}", condition=(c.VERIFIED, "False"))
        draft.set_condition(c.REMEDIATED, "False", Reason.VERIFICATION_FAILED, message)
        self._metrics.actions.labels(step.action, "VerificationFailed").inc()
        done = step.message
        step.message = f"{done}{DID_NOT_HELP}{message}"
        await self._putback.put_back(draft, index, Reason.VERIFICATION_FAILED)

    async def _observe_all(self, draft: Draft) -> plan.Wait | None:
        for step in draft.incident.status.steps:
            if looking := self._diagnostician.wait_for_findings(draft, step):
                return looking
        draft.set_condition(c.REMEDIATION_ALLOWED, "False", Reason.OBSERVE_MODE, "the policy's mode is Observe")
        for index, step in enumerate(draft.incident.status.steps):
            if step.state == "Pending":
                await self._executor.describe_plan(draft, index)
        return None

    async def _resolve(self, draft: Draft, move: plan.Resolve) -> None:
        await self._recorder.set_finalizer(draft, present=False)
        status = draft.incident.status
        _skip_pending(draft, Reason.NOT_NEEDED, "the incident ended before")
        said = resolution(draft.incident)
        actor = said.resolved_by if said and move.reason == Reason.RESOLVED_BY_PERSON else "paramedic"
        # An Event closes what a Warning has opened; an incident that went well has had its Event for the action.
        draft.say(move.reason, move.message, actor=actor, event=status.escalation is not None)
        status.resolved_at = draft.now
        if status.escalation:
            draft.set_condition(c.ESCALATED, "False", move.reason, move.message)

    def _wait(self, draft: Draft, move: plan.Wait) -> plan.Wait:
        if move.reason in (Reason.PAUSED, Reason.POLICY_PAUSED):
            draft.say(move.reason, move.message, condition=(c.REMEDIATION_ALLOWED, "False"), event=True)
        return move

    async def _leases_over(self, draft: Draft) -> frozenset[int]:
        steps = draft.incident.status.steps
        held = [
            i
            for i, s in enumerate(steps)
            if s.holds_mitigation and s.revert_when and s.state in ("Succeeded", "Unknown")
        ]
        over = [i for i in held if await self._verifier.lease_is_over(draft.incident, steps[i], draft.now)]
        return frozenset(over)

    def _policy_is_paused(self, draft: Draft) -> bool:
        pinned = draft.incident.status.policy
        return pinned is not None and self._store.policy_is_paused(pinned.key)

    def _policy_is_gone(self, draft: Draft) -> bool:
        pinned = draft.incident.status.policy
        if pinned is None or situation.is_handed_over(draft.incident) or draft.incident.status.phase == "Resolved":
            return False
        unfinished = any(s.state in situation.WAITING_STATES for s in draft.incident.status.steps)
        policy = self._store.policy(pinned.key)
        return unfinished and (policy is None or policy.metadata.uid != pinned.uid)

    def _wake_others(
        self, key: str, targets: tuple[tuple[str, str, str], ...], was_open: bool, policy: str | None
    ) -> None:
        """Work that ends here may be what others wait for."""
        entry = self._store.entries.get(key)
        freed = set(targets) - set(entry.busy_targets if entry else ())
        ended = was_open and not (entry and entry.remediating)
        for other in self._store.waiting_for(freed, policy if ended else None):
            self.queue.add(other)

    # -- what went wrong ----------------------------------------------------------------------------------------------

    async def _work(self, key: str) -> None:
        """The queue's handler: never raises; whatever fails is looked at anew, later and later."""
        if not self._may_act():
            answer(self._news.take(key), NotActing("the lead is lost or in doubt"))
            return
        try:
            await self.reconcile(key)
            self._failures.pop(key, None)
        except NotActing as error:
            answer(self._news.take(key), error)
        except Exception as error:  # noqa: BLE001 - one bad incident must not end the work on the others
            await self._try_again(key, error)

    async def _try_again(self, key: str, error: Exception) -> None:
        self._failures[key] += 1
        delay = min(_FIRST_BACKOFF * 2 ** min(self._failures[key] - 1, 10), _LAST_BACKOFF)
        if isinstance(error, Conflict) and self._failures[key] < 5:
            delay = timedelta(0)
        if isinstance(error, Retry) and error.after:
            delay = max(delay, error.after)
        self._metrics.reconcile_errors.labels(type(error).__name__).inc()
        if isinstance(error, ParamedicError):
            _log.info("will look again", incident=key, error=str(error), seconds=delay.total_seconds())
        else:
            _log.error("unexpected error", incident=key, exc_info=error)
        if not await self._refresh(key):
            delay = max(delay, _FIRST_BACKOFF)
        elif self._failures[key] >= _FAILURES_UNTOLD and not isinstance(error, Conflict):
            await self._tell_hindrance(key, error)
        self.queue.add_after(key, delay)

    async def _tell_hindrance(self, key: str, error: Exception) -> None:
        """What stands in the way for longer is seen on the incident, whose clocks go on; and who waits for a write of
        his news need not wait for its end.
        """
        draft = self._recorder.open_draft(key, self._clock())
        if draft is None or draft.is_over:
            return
        news = self._news.take(key)
        draft.afterwards(lambda: answer(news, None))
        try:
            self._take_in(draft, [item for item, _ in news])
            _say_hindrance(draft, error)
            await self._recorder.commit(draft)
        except Exception as problem:  # noqa: BLE001 - what failed before is looked at again in any case
            _log.info("cannot tell what stands in the way", incident=key, error=str(problem))
            self._news.give_back(key, news)
        else:
            answer(news, None)

    async def _refresh(self, key: str) -> bool:
        """Reads the Incident anew: the copy may be old, or a write without an answer may have been stored."""
        try:
            await self._read_anew(key)
        except ParamedicError as error:
            _log.info("cannot read the incident", incident=key, error=str(error))
            return False
        return True

    async def _read_anew(self, key: str) -> None:
        await reread(self._kube, self._store, key)
        self._store.settle(key)


def _is_waiting_for_policy(draft: Draft) -> bool:
    incident = draft.incident
    return (
        resolution(incident) is None
        and incident.metadata.deletion_timestamp is None
        and situation.is_firing(incident) is not False
        and incident.status.phase != "Resolved"
    )


def _keep(draft: Draft, index: int) -> None:
    """A person makes a temporary change permanent: it is not looked after any more."""
    step, said = draft.incident.status.steps[index], resolution(draft.incident)
    assert said is not None
    step.kept_by, step.revert_at = said.resolved_by, None
    if step.state == "Verifying":
        step.state, step.reason, step.finished_at = "Succeeded", str(Reason.KEPT_BY_PERSON), draft.now
    text = f"step {step.name} is made permanent by {said.resolved_by}: {step.message}"
    draft.say(Reason.KEPT_BY_PERSON, text, actor=said.resolved_by, event=True)


def _say_hindrance(draft: Draft, error: Exception) -> None:
    """Once on the timeline, and in the message for as long as it lasts."""
    ours = isinstance(error, ParamedicError)
    reason = Reason.HINDERED if ours else Reason.INTERNAL_ERROR
    text = clean(error if ours else f"a mistake in Paramedic itself, tried again: {error!r}", 500)
    if draft.incident.status.timeline[-1].reason != reason:
        draft.say(reason, text, event=True)
    apply_summary(draft, plan.Wait(f"tried again and again: {text}"))


def _skip_pending(draft: Draft, reason: Reason, message: str) -> None:
    for step in draft.incident.status.steps:
        if step.state in situation.WAITING_STATES:
            step.state, step.reason, step.message = "Skipped", str(reason), message
