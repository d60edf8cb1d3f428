"""Is it safe to act now? A chain of short checks; the first that refuses says why and until when.

All that the checks need comes from stored incidents, so that a restart forgets no cooldown.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from paramedic.api.base import format_duration
from paramedic.api.policy import Guards
from paramedic.api.reasons import Reason
from paramedic.core import schedule

TargetKey = tuple[str, str, str]
_ASK_AGAIN = timedelta(seconds=15)


@dataclass(frozen=True, slots=True)
class ActionRecord:
    """One action of the past: whose policy, on which target (None where it has none), when, in which incident."""

    policy: str
    target: TargetKey | None
    at: datetime
    incident: str
    operation: str


@dataclass(frozen=True, slots=True)
class Situation:
    """What is known when an action is about to be taken."""

    now: datetime
    incident: str
    opened_at: datetime
    acted_before: bool
    policy: str
    policy_paused: bool
    target: TargetKey | None
    on_target: Sequence[ActionRecord] = ()
    under_policy: Sequence[ActionRecord] = ()
    busy_with: str | None = None
    open_remediations: int = 0
    """Besides this one."""
    is_open_remediation: bool = False
    target_acted_at: datetime | None = None
    healthy: tuple[int, int] | None = None
    procedure_begun: bool = False
    for_evidence: bool = False
    """The step keeps evidence: it costs something, and changes nothing of the target."""


@dataclass(frozen=True, slots=True)
class Refusal:
    """Which guard refuses and why. Without ``ask_again_at`` it is final: a person decides."""

    reason: Reason
    message: str
    ask_again_at: datetime | None


Check = Callable[[Guards, Situation], Refusal | None]
"""Named by what must hold; it answers with a refusal where that does not."""


def first_refusal(guards: Guards, situation: Situation) -> Refusal | None:
    """The first guard that does not let the action pass, or None."""
    return next((refusal for check in _checks(situation) if (refusal := check(guards, situation))), None)


def _checks(situation: Situation) -> "tuple[Check, ...]":
    if situation.for_evidence:
        return CHECKS_OF_EVIDENCE
    return CHECKS_UNDER_WAY if situation.procedure_begun else CHECKS


def policy_is_not_paused(_: Guards, s: Situation) -> Refusal | None:
    """``spec.paused`` of the policy takes effect at once, also for incidents under way."""
    if not s.policy_paused:
        return None
    return Refusal(Reason.POLICY_PAUSED, f"policy {s.policy} is paused", s.now + _ASK_AGAIN)


def incident_is_fresh(guards: Guards, s: Situation) -> Refusal | None:
    """An old incident that was never acted on is for a person: the world has moved on."""
    age = s.now - s.opened_at
    if s.acted_before or age <= guards.max_age:
        return None
    limit = format_duration(guards.max_age)
    return Refusal(
        Reason.MAX_AGE, f"opened {s.opened_at:%Y-%m-%d %H:%M} UTC, maxAge is {limit}: a person must decide", None
    )


def no_deny_window_is_open(guards: Guards, s: Situation) -> Refusal | None:
    """Change freezes."""
    ends = [end for w in guards.windows.deny if (end := schedule.closes_at(w, s.now))]
    if not ends:
        return None
    return Refusal(Reason.DENIED_BY_WINDOW, f"a deny window is open until {max(ends):%Y-%m-%d %H:%M} UTC", max(ends))


def an_allow_window_is_open(guards: Guards, s: Situation) -> Refusal | None:
    """With allow windows, acting is possible only inside one of them."""
    windows = guards.windows.allow
    if not windows or any(schedule.opened_at(w, s.now) for w in windows):
        return None
    opens = min((at for w in windows if (at := schedule.next_opening(w, s.now))), default=None)
    until = f"; the next opens at {opens:%Y-%m-%d %H:%M} UTC" if opens else ""
    return Refusal(Reason.OUTSIDE_WINDOW, f"no allow window is open{until}", opens or s.now + timedelta(hours=1))


def target_is_not_busy(_: Guards, s: Situation) -> Refusal | None:
    """One incident at a time acts on a target."""
    if s.busy_with is None:
        return None
    return Refusal(Reason.TARGET_BUSY, f"incident {s.busy_with} is acting on {_name(s.target)}", s.now + _ASK_AGAIN)


def target_has_cooled_down(guards: Guards, s: Situation) -> Refusal | None:
    """No other incident acts on a target for ``cooldown`` after an action; the stamp on the target counts too."""
    others = [a.at for a in s.on_target if a.incident != s.incident]
    if s.target_acted_at and not any(a.incident == s.incident for a in s.on_target):
        others.append(min(s.target_acted_at, s.now))
    if not others or s.now >= max(others) + guards.cooldown:
        return None
    until = max(others) + guards.cooldown
    return Refusal(
        Reason.COOLDOWN,
        f"{_name(s.target)} was acted on at {max(others):%H:%M:%S} UTC, cooldown is "
        f"{format_duration(guards.cooldown)}: not before {until:%H:%M:%S} UTC",
        until,
    )


def policy_has_actions_left(guards: Guards, s: Situation) -> Refusal | None:
    """At most ``rateLimit.actions`` in any ``rateLimit.period``, of remedies and of evidence each: what was captured
    takes no remedy away.
    """
    limit = guards.rate_limit
    alike = (a for a in s.under_policy if (a.target is None) == s.for_evidence)
    recent = sorted(a.at for a in alike if a.at > s.now - limit.period)
    if len(recent) < limit.actions:
        return None
    return Refusal(
        Reason.RATE_LIMITED,
        f"{len(recent)} actions under policy {s.policy} in the last {format_duration(limit.period)}, the limit is "
        f"{limit.actions}: not before {recent[-limit.actions] + limit.period:%H:%M:%S} UTC",
        recent[-limit.actions] + limit.period,
    )


def few_remediations_are_open(guards: Guards, s: Situation) -> Refusal | None:
    """At most ``maxConcurrent`` incidents of the policy are being worked on; one of them goes on."""
    if s.is_open_remediation or s.open_remediations < guards.max_concurrent:
        return None
    return Refusal(
        Reason.MAX_CONCURRENT,
        f"{s.open_remediations} remediations are open under policy {s.policy}, maxConcurrent is "
        f"{guards.max_concurrent}",
        s.now + _ASK_AGAIN,
    )


def namespace_is_healthy_enough(guards: Guards, s: Situation) -> Refusal | None:
    """When most of the namespace is down, the cause is elsewhere: a storm is not ours to fix."""
    if s.healthy is None or s.healthy[1] == 0:
        return None
    ready, total = s.healthy
    if ready / total >= guards.min_healthy_fraction:
        return None
    return Refusal(
        Reason.MIN_HEALTHY,
        f"{ready} of {total} workloads in the namespace are healthy, minHealthy is {guards.min_healthy}",
        s.now + _ASK_AGAIN,
    )


_BY_REASON: dict[Reason, Check] = {
    Reason.POLICY_PAUSED: policy_is_not_paused,
    Reason.MAX_AGE: incident_is_fresh,
    Reason.DENIED_BY_WINDOW: no_deny_window_is_open,
    Reason.OUTSIDE_WINDOW: an_allow_window_is_open,
    Reason.TARGET_BUSY: target_is_not_busy,
    Reason.COOLDOWN: target_has_cooled_down,
    Reason.RATE_LIMITED: policy_has_actions_left,
    Reason.MAX_CONCURRENT: few_remediations_are_open,
    Reason.MIN_HEALTHY: namespace_is_healthy_enough,
}
GUARDS = tuple(_BY_REASON)
"""The reasons for which a guard may refuse."""
CHECKS = tuple(_BY_REASON.values())

# A rate limit, a window or a freeze says whether to begin. Half of a procedure is worse than the whole or none of it.
CHECKS_UNDER_WAY: tuple[Check, ...] = (policy_is_not_paused, target_is_not_busy, target_has_cooled_down)

# Evidence is kept whoever works on the target, and however bad things are.
CHECKS_OF_EVIDENCE: tuple[Check, ...] = (
    policy_is_not_paused,
    no_deny_window_is_open,
    an_allow_window_is_open,
    policy_has_actions_left,
)


def _name(target: TargetKey | None) -> str:
    return f"{target[1]}/{target[2]}" if target else "the target"
