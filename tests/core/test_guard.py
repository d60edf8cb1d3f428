"""Each guard at its boundary, and what they promise together under any history."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from builders import NOW, TARGET, action, ago, guards, later, minutes, situation
from paramedic.api.policy import Guards
from paramedic.api.reasons import Reason
from paramedic.core.guard import CHECKS, ActionRecord, Situation, TargetKey, first_refusal

US, SECOND = timedelta(microseconds=1), timedelta(seconds=1)
SLOW = {"allow": [{"schedule": "0 12 * * *", "duration": "1h"}]}
FREEZE = {"deny": [{"schedule": "0 12 * * *", "duration": "1h"}]}
OWN = "covet/api-down"
COOLDOWN, RATE = {"cooldown": "10m"}, {"rateLimit": {"actions": 2, "period": "1h"}}
CAPTURED = action(ago(1), target=None)


@pytest.mark.parametrize(
    ("rules", "facts", "reason", "ask_again"),
    [
        ({}, {}, None, None),
        # paused
        ({}, {"policy_paused": True}, Reason.POLICY_PAUSED, NOW + 15 * SECOND),
        # maxAge
        ({"maxAge": "1h"}, {"opened_at": ago(60)}, None, None),
        ({"maxAge": "1h"}, {"opened_at": ago(60) - US}, Reason.MAX_AGE, None),
        ({"maxAge": "1h"}, {"opened_at": ago(600), "acted_before": True}, None, None),
        # deny windows: closed at the end, open at the beginning
        ({"windows": FREEZE}, {"now": NOW - US}, None, None),
        ({"windows": FREEZE}, {"now": NOW}, Reason.DENIED_BY_WINDOW, later(60)),
        ({"windows": FREEZE}, {"now": later(60) - US, "opened_at": NOW}, Reason.DENIED_BY_WINDOW, later(60)),
        ({"windows": FREEZE}, {"now": later(60), "opened_at": NOW}, None, None),
        # allow windows
        ({"windows": SLOW}, {"now": NOW - US}, Reason.OUTSIDE_WINDOW, NOW),
        ({"windows": SLOW}, {"now": NOW}, None, None),
        ({"windows": SLOW}, {"now": later(60), "opened_at": NOW}, Reason.OUTSIDE_WINDOW, NOW + timedelta(days=1)),
        ({"windows": SLOW | FREEZE}, {}, Reason.DENIED_BY_WINDOW, later(60)),
        # one incident at a time on a target
        ({}, {"busy_with": "covet/other"}, Reason.TARGET_BUSY, NOW + 15 * SECOND),
        # cooldown
        (COOLDOWN, {"on_target": [action(ago(10))]}, None, None),
        (COOLDOWN, {"on_target": [action(ago(10) + US)]}, Reason.COOLDOWN, NOW + US),
        (COOLDOWN, {"on_target": [action(ago(3)), action(ago(20))]}, Reason.COOLDOWN, later(7)),
        (COOLDOWN, {"on_target": [action(ago(1), OWN)]}, None, None),
        (COOLDOWN, {"on_target": [action(ago(1), OWN), action(ago(2))]}, Reason.COOLDOWN, later(8)),
        (COOLDOWN, {"target_acted_at": ago(10)}, None, None),
        (COOLDOWN, {"target_acted_at": ago(9)}, Reason.COOLDOWN, later(1)),
        (COOLDOWN, {"target_acted_at": later(9)}, Reason.COOLDOWN, later(10)),
        (COOLDOWN, {"target_acted_at": ago(1), "on_target": [action(ago(1), OWN)]}, None, None),
        ({"cooldown": "0s"}, {"on_target": [action(NOW)]}, None, None),
        # half of a procedure is worse than none: what says whether to begin says nothing in the middle of one
        (RATE, {"under_policy": [action(ago(1), OWN), action(ago(2), OWN)], "procedure_begun": True}, None, None),
        ({"windows": FREEZE}, {"procedure_begun": True}, None, None),
        ({"minHealthy": "50%"}, {"healthy": (0, 2), "procedure_begun": True}, None, None),
        ({}, {"policy_paused": True, "procedure_begun": True}, Reason.POLICY_PAUSED, NOW + 15 * SECOND),
        ({}, {"busy_with": "covet/other", "procedure_begun": True}, Reason.TARGET_BUSY, NOW + 15 * SECOND),
        (COOLDOWN, {"on_target": [action(ago(9))], "procedure_begun": True}, Reason.COOLDOWN, later(1)),
        # rateLimit
        (RATE, {"under_policy": [action(ago(1))]}, None, None),
        (RATE, {"under_policy": [action(ago(1)), action(ago(2), OWN)]}, Reason.RATE_LIMITED, later(58)),
        (RATE, {"under_policy": [action(ago(60)), action(ago(1))]}, None, None),
        (RATE, {"under_policy": [action(ago(60) + US), action(ago(1))]}, Reason.RATE_LIMITED, NOW + US),
        (RATE, {"under_policy": [action(ago(m)) for m in (50, 40, 1)]}, Reason.RATE_LIMITED, later(20)),
        # maxConcurrent
        ({"maxConcurrent": 2}, {"open_remediations": 1}, None, None),
        ({"maxConcurrent": 2}, {"open_remediations": 2}, Reason.MAX_CONCURRENT, NOW + 15 * SECOND),
        ({"maxConcurrent": 1}, {"open_remediations": 1, "is_open_remediation": True}, None, None),
        # evidence: whoever works on the target, however bad things are, however old the incident
        ({}, {"policy_paused": True, "for_evidence": True}, Reason.POLICY_PAUSED, NOW + 15 * SECOND),
        ({"windows": FREEZE}, {"for_evidence": True}, Reason.DENIED_BY_WINDOW, later(60)),
        (
            {"windows": SLOW},
            {"now": later(60), "opened_at": NOW, "for_evidence": True},
            Reason.OUTSIDE_WINDOW,
            NOW + timedelta(days=1),
        ),
        # what was captured takes no remedy away, nor the other way round
        (RATE, {"under_policy": [CAPTURED] * 2, "for_evidence": True}, Reason.RATE_LIMITED, later(59)),
        (RATE, {"under_policy": [action(ago(1))] * 2, "for_evidence": True}, None, None),
        (RATE, {"under_policy": [CAPTURED] * 2}, None, None),
        (COOLDOWN, {"on_target": [action(ago(9))], "for_evidence": True}, None, None),
        ({}, {"busy_with": "covet/other", "for_evidence": True}, None, None),
        ({"maxConcurrent": 1}, {"open_remediations": 1, "for_evidence": True}, None, None),
        ({"minHealthy": "50%"}, {"healthy": (0, 2), "for_evidence": True}, None, None),
        ({"maxAge": "1h"}, {"opened_at": ago(600), "for_evidence": True}, None, None),
        # minHealthy
        ({"minHealthy": "50%"}, {"healthy": (1, 2)}, None, None),
        ({"minHealthy": "50%"}, {"healthy": (4, 9)}, Reason.MIN_HEALTHY, NOW + 15 * SECOND),
        ({"minHealthy": "50%"}, {"healthy": (0, 0)}, None, None),
        ({"minHealthy": "50%"}, {"healthy": None}, None, None),
        ({"minHealthy": "100%"}, {"healthy": (9, 10)}, Reason.MIN_HEALTHY, NOW + 15 * SECOND),
        ({"minHealthy": "0%"}, {"healthy": (0, 10)}, None, None),
    ],
)
def test_boundaries(rules: dict[str, Any], facts: dict[str, Any], reason: Reason | None, ask_again: datetime) -> None:
    found = first_refusal(guards(**rules), situation(**facts))
    assert (found.reason if found else None) == reason
    assert (found.ask_again_at if found else None) == ask_again


def test_the_message_names_what_a_person_needs_to_know() -> None:
    found = first_refusal(guards(cooldown="10m"), situation(on_target=[action(ago(3))]))
    assert found
    assert found.message == (
        "Deployment/covet-app was acted on at 11:57:00 UTC, cooldown is 10m: not before 12:07:00 UTC"
    )


def test_asking_again_when_told_to_succeeds() -> None:
    """The time that a refusal names is right to the microsecond: not too early, not too late."""
    rules = guards(cooldown="10m", rateLimit={"actions": 1, "period": "30m"}, windows=SLOW)
    past = [action(ago(3))]
    now, seen = NOW, []
    while found := first_refusal(rules, situation(now=now, opened_at=now, on_target=past, under_policy=past)):
        assert found.ask_again_at
        assert found.ask_again_at > now
        now = found.ask_again_at
        seen.append(found.reason)
    assert seen == [Reason.COOLDOWN, Reason.RATE_LIMITED]
    assert now == ago(3) + minutes(30)


# -- any history -------------------------------------------------------------------------------------------------------

TARGETS: list[TargetKey] = [TARGET, ("covet", "Deployment", "worker"), ("covet", "StatefulSet", "covet-app")]


@dataclass
class World:
    """Incidents ask, act when allowed, and end; the record is kept as the store keeps it."""

    rules: Guards
    now: datetime = NOW
    acted: list[ActionRecord] = field(default_factory=list)
    open_: dict[str, TargetKey] = field(default_factory=dict)

    def ask(self, who: str, target: TargetKey, stamp: bool) -> None:
        on_target = [a for a in self.acted if a.target == target]
        others = [k for k in self.open_ if k != who]
        asked = Situation(
            now=self.now,
            incident=who,
            opened_at=self.now,
            acted_before=any(a.incident == who for a in self.acted),
            policy="covet/p",
            policy_paused=False,
            target=target,
            on_target=() if stamp else on_target,
            under_policy=self.acted,
            busy_with=next((k for k in others if self.open_[k] == target), None),
            open_remediations=len(others),
            is_open_remediation=who in self.open_,
            target_acted_at=max((a.at for a in on_target), default=None) if stamp else None,
        )
        if first_refusal(self.rules, asked) is None:
            self.acted.append(ActionRecord("covet/p", target, self.now, who, str(len(self.acted))))
            self.open_[who] = target


moves = st.one_of(
    st.tuples(st.just("wait"), st.integers(1, 1200)),
    st.tuples(st.just("ask"), st.integers(0, 6)),
    st.tuples(st.just("ask by stamp"), st.integers(0, 6)),
    st.tuples(st.just("end"), st.integers(0, 6)),
)


@settings(max_examples=150, deadline=None)
@given(
    st.lists(moves, max_size=60),
    st.integers(1, 4),
    st.integers(0, 1200),
    st.integers(1, 1800),
    st.integers(1, 3),
)
def test_no_history_gets_past_the_limits(
    history: list[tuple[str, int]], actions: int, cooldown: int, period: int, concurrent: int
) -> None:
    rules = guards(
        cooldown=f"{cooldown}s",
        rateLimit={"actions": actions, "period": f"{period}s"},
        maxConcurrent=concurrent,
    )
    world = World(rules)
    for what, number in history:
        who = f"covet/i{number}"
        if what == "wait":
            world.now += number * SECOND
        elif what == "end":
            world.open_.pop(who, None)
        else:
            world.ask(who, TARGETS[number % len(TARGETS)], stamp=what == "ask by stamp")
        assert len(world.open_) <= concurrent
    _assert_rate(world.acted, actions, timedelta(seconds=period))
    _assert_cooldown(world.acted, timedelta(seconds=cooldown))


def _assert_rate(acted: list[ActionRecord], limit: int, period: timedelta) -> None:
    for first in acted:
        assert sum(first.at <= a.at < first.at + period for a in acted) <= limit


def _assert_cooldown(acted: list[ActionRecord], cooldown: timedelta) -> None:
    for earlier, one in enumerate(acted):
        for other in acted[earlier + 1 :]:
            if one.target == other.target and one.incident != other.incident:
                assert other.at - one.at >= cooldown


def test_every_check_is_in_the_chain() -> None:
    """One situation with everything wrong: taking away what is wrong, one by one, shows each guard's reason."""
    wrong = situation(
        policy_paused=True,
        opened_at=ago(100),
        busy_with="covet/other",
        on_target=[action(ago(1))],
        under_policy=[action(ago(1))] * 3,
        open_remediations=1,
        healthy=(0, 3),
        now=NOW,
    )
    rules = guards(minHealthy="10%", windows=FREEZE)
    mended: list[tuple[dict[str, Any], Guards]] = [
        ({"policy_paused": False}, rules),
        ({"opened_at": ago(1)}, rules),
        ({}, guards(minHealthy="10%", windows={"allow": [{"schedule": "0 1 * * *", "duration": "1h"}]})),
        ({}, guards(minHealthy="10%")),
        ({"busy_with": None}, guards(minHealthy="10%")),
        ({"on_target": []}, guards(minHealthy="10%")),
        ({"under_policy": []}, guards(minHealthy="10%")),
        ({"open_remediations": 0}, guards(minHealthy="10%")),
        ({"healthy": (3, 3)}, guards(minHealthy="10%")),
    ]
    seen = [_reason(rules, wrong)]
    for change, chosen in mended:
        wrong = replace(wrong, **change)
        seen.append(_reason(chosen, wrong))
    assert seen == [
        Reason.POLICY_PAUSED,
        Reason.MAX_AGE,
        Reason.DENIED_BY_WINDOW,
        Reason.OUTSIDE_WINDOW,
        Reason.TARGET_BUSY,
        Reason.COOLDOWN,
        Reason.RATE_LIMITED,
        Reason.MAX_CONCURRENT,
        Reason.MIN_HEALTHY,
        None,
    ]
    assert len(CHECKS) == len(seen) - 1


def _reason(rules: Guards, asked: Situation) -> Reason | None:
    found = first_refusal(rules, asked)
    return found.reason if found else None
