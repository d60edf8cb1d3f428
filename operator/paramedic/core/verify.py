"""Did it help? Failed and Inconclusive differ: an unreachable Prometheus is neither a recovery nor a reason to undo."""

import math
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Literal

from paramedic.api.checks import Checks, PrometheusCheck, RevertWhen
from paramedic.core.expressions import ExpressionError, evaluate_condition

State = Literal["Passed", "Waiting", "Failed", "Inconclusive"]
_GRACE = timedelta(seconds=15)
"""For so long after the deadline what only does not answer just now is asked again: an API server that restarts."""
UNWATCHED = timedelta(minutes=2)
"""So long after a pause, or after Paramedic was away, Alertmanager and a rollout may take to show what is so now."""


@dataclass(frozen=True, slots=True)
class Result:
    """One check at one moment. ``Waiting`` may still pass; ``Failed`` cannot any more; one that is Inconclusive only
    ``for_now`` may be told a moment later; while it is ``held_up`` the change has not taken effect and waits for a
    person, so that no other check can tell anything of it.
    """

    state: State
    message: str
    for_now: bool = False
    held_up: bool = False


@dataclass(frozen=True, slots=True)
class Facts:
    """What was seen. None: not asked for. An exception's text stands in ``unreadable``."""

    rollout: Result | None = None
    alert_firing: bool | None = None
    samples: list[float] | None = None
    unreadable: str | None = None


@dataclass(frozen=True, slots=True)
class Verdict:
    """The whole, with the moment since which all checks hold."""

    state: State
    message: str
    passing_since: datetime | None = None


def judge(
    checks: Checks | RevertWhen,
    facts: Facts,
    now: datetime,
    *,
    deadline: datetime | None,
    passing_since: datetime | None,
) -> Verdict:
    """The verdict at ``now``. After ``deadline`` Waiting becomes Failed; what could not be read, Inconclusive."""
    results = _results(checks, facts)
    if not results and isinstance(checks, RevertWhen):
        return Verdict("Waiting", "there is no alert that could end: the ttl counts")
    message = "; ".join(r.message for r in results) or "nothing to check"
    if any(r.state == "Failed" for r in results):
        return Verdict("Failed", message)
    if all(r.state == "Passed" for r in results):
        return _held(checks.for_ or timedelta(0), passing_since or now, now, deadline, message)
    patience = _GRACE if any(r.for_now for r in results) else timedelta(0)
    if deadline is None or now < deadline + patience:
        return Verdict("Waiting", message)
    # A check that is known not to hold outweighs one that could not be read.
    failed = any(r.state == "Waiting" for r in results) and not any(r.held_up for r in results)
    return Verdict("Failed" if failed else "Inconclusive", message)


def watched_deadline(started_at: datetime, deadline: datetime, watched_since: datetime) -> datetime:
    """The deadline of a check that nobody has looked at before ``watched_since``: time in which nobody looked is no
    evidence that it does not hold.
    """
    return max(deadline, watched_since + min(UNWATCHED, deadline - started_at))


def _held(hold: timedelta, since: datetime, now: datetime, deadline: datetime | None, message: str) -> Verdict:
    if now - since >= hold:
        return Verdict("Passed", message, since)
    # A hold that began in time may finish after the deadline: cutting it short would call a recovery a failure.
    if deadline is not None and now >= deadline + hold:
        return Verdict("Failed", message)
    return Verdict("Waiting", f"{message}; must hold until {(since + hold):%H:%M:%S} UTC", since)


def _results(checks: Checks | RevertWhen, facts: Facts) -> list[Result]:
    results = []
    if getattr(checks, "rollout", None):
        results.append(facts.rollout or Result("Inconclusive", "the rollout could not be read"))
    if checks.alert_resolved and facts.alert_firing is not None:
        results.append(_alert_has_ended(facts.alert_firing))
    if checks.prometheus:
        results.append(_prometheus_condition_holds(checks.prometheus, facts))
    return results


def _alert_has_ended(firing: bool) -> Result:
    return Result("Waiting", "the alert still fires") if firing else Result("Passed", "the alert has ended")


def _prometheus_condition_holds(check: PrometheusCheck, facts: Facts) -> Result:
    if facts.samples is None:
        return Result("Inconclusive", f"Prometheus could not be asked: {facts.unreadable or 'no answer'}")
    values = [v for v in facts.samples if not math.isnan(v)]
    if not values:
        state: State = "Waiting" if check.no_data == "Failed" else check.no_data
        return Result(state, "the query gives no data")
    if len(values) > 1:
        return Result("Inconclusive", f"the query gives {len(values)} series; it must give one")
    return _condition_on(check.condition, values[0])


def _condition_on(condition: str, value: float) -> Result:
    try:
        holds = evaluate_condition(condition, {"value": float(value)})
    except ExpressionError as error:
        return Result("Inconclusive", str(error))
    text = f"{condition} with value = {value:.6g}"
    return Result("Passed", text) if holds else Result("Waiting", f"not yet: {text}")
