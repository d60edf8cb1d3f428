"""While a step's checks do not hold, people read which of them does not; rarely enough to be no burden."""

from __future__ import annotations

from datetime import datetime, timedelta

import pytest

from builders import NOW, step
from paramedic.api.incident import StepStatus, Verification
from paramedic.core.summary import progress
from paramedic.core.verify import Verdict
from paramedic.verification import Verifier


def after(seconds: float) -> datetime:
    return NOW + timedelta(seconds=seconds)


def waiting(message: str) -> Verdict:
    return Verdict("Waiting", message)


@pytest.fixture
def verifying() -> StepStatus:
    return step(state="Verifying", message="scaled from 2 to 4", verification=Verification(started_at=NOW))


def told(verifier: Verifier, verifying: StepStatus, message: str, seconds: float) -> str:
    """What people read of the step after a look at that time."""
    verifier.tell(verifying, waiting(message), after(seconds))
    return progress(verifying)


def test_which_check_does_not_hold_is_told_after_half_a_minute_and_then_as_often(verifying: StepStatus) -> None:
    verifier = Verifier(None, None)  # type: ignore[arg-type]
    line = "undo: scaled from 2 to 4; verifying"
    assert told(verifier, verifying, "1 of 4 pods ready", 29) == line
    assert verifying.verification is not None
    assert not verifying.verification.message
    assert told(verifier, verifying, "2 of 4 pods ready", 30) == f"{line}: 2 of 4 pods ready"
    assert verifying.verification.message == "2 of 4 pods ready"
    assert told(verifier, verifying, "3 of 4 pods ready", 59) == f"{line}: 2 of 4 pods ready"
    assert told(verifier, verifying, "errors 0.2, wanted < 0.1", 60) == f"{line}: errors 0.2, wanted < 0.1"


def test_a_step_that_does_not_verify_is_told_as_it_is() -> None:
    done = step(state="Executing", message="scales", verification=Verification(started_at=NOW, message="an old check"))
    assert progress(done) == "undo: scales"


def test_a_step_that_is_done_is_forgotten(verifying: StepStatus) -> None:
    """Its operation may be tried once more, with its own half minute."""
    verifier = Verifier(None, None)  # type: ignore[arg-type]
    told(verifier, verifying, "first", 30)
    verifier.forget(verifying)
    verifying.verification = Verification(started_at=after(31))
    assert told(verifier, verifying, "second", 60).endswith("verifying")
    assert told(verifier, verifying, "third", 61).endswith(": third")
