"""Time in which nobody looked is no evidence: after a restart, a pause or an outage a step is seen through first."""

from __future__ import annotations

from datetime import timedelta

import pytest

from builders import NOW, incident, later, step, verify
from paramedic.api.incident import StepStatus, Verification
from paramedic.core.verify import Verdict
from paramedic.verification import Verifier


@pytest.fixture
def verifier() -> Verifier:
    return Verifier(None, None)  # type: ignore[arg-type]  # it is asked for the alert only


def verifying(timeout: str = "5m") -> StepStatus:
    checks = verify(rollout=False, alertResolved=True, timeout=timeout, **{"for": "30s"})
    return step(state="Verifying", verify=checks, verification=Verification(started_at=NOW))


async def look(verifier: Verifier, judged: StepStatus, minutes: float, alert: str) -> Verdict:
    return await verifier.judge_step(incident(judged, alert_state=alert), judged, later(minutes))


async def test_what_helped_while_nobody_looked_is_seen_through(verifier: Verifier) -> None:
    judged = verifying()
    assert (await look(verifier, judged, 60, "resolved")).state == "Waiting"
    assert (await look(verifier, judged, 60.4, "resolved")).state == "Waiting"
    assert (await look(verifier, judged, 60.5, "resolved")).state == "Passed"


async def test_an_end_that_is_told_late_is_awaited_and_no_longer_than_that(verifier: Verifier) -> None:
    judged = verifying()
    assert (await look(verifier, judged, 60, "firing")).state == "Waiting"
    assert (await look(verifier, judged, 61, "firing")).state == "Waiting"
    assert (await look(verifier, judged, 61.9, "firing")).state == "Waiting"
    assert (await look(verifier, judged, 62, "firing")).state == "Failed"


async def test_who_has_looked_all_the_time_waits_until_the_deadline_only(verifier: Verifier) -> None:
    judged = verifying()
    states = [(await look(verifier, judged, minutes, "firing")).state for minutes in (0, 1, 2, 3, 4, 4.9, 5)]
    assert states == ["Waiting"] * 6 + ["Failed"]


async def test_a_hold_does_not_count_the_time_in_which_nobody_looked(verifier: Verifier) -> None:
    judged = verifying()
    assert (await look(verifier, judged, 1, "resolved")).state == "Waiting"
    assert (await look(verifier, judged, 2.1, "resolved")).state == "Waiting"
    assert (await look(verifier, judged, 2.6, "resolved")).state == "Passed"
    verifier.stop()
    assert (await look(verifier, judged, 2.7, "resolved")).state == "Waiting"


async def test_a_short_timeout_stays_short(verifier: Verifier) -> None:
    judged = verifying(timeout="40s")
    assert (await look(verifier, judged, 60, "firing")).state == "Waiting"
    assert (await look(verifier, judged, 60 + 39 / 60, "firing")).state == "Waiting"
    assert (await look(verifier, judged, 60 + 40 / 60, "firing")).state == "Failed"


def test_the_step_has_its_timeout() -> None:
    assert verifying("40s").verify.timeout == timedelta(seconds=40)  # type: ignore[union-attr]
