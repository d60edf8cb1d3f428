"""What is noted of a putting back that could not be done."""

from __future__ import annotations

import pytest

from builders import held
from paramedic.api.incident import Revert
from paramedic.api.reasons import Reason
from paramedic.errors import PartlyDone, Refused, Terminal
from paramedic.putback import holds_nothing, note_failure

HALF = PartlyDone(Reason.FORBIDDEN, "1 of 2 changes were made, then: denied")
CHANGED = Refused(Reason.TARGET_CHANGED, "changed by others since")
DENIED = Refused(Reason.FORBIDDEN, "denied")


@pytest.mark.parametrize(
    ("errors", "failure", "message", "left"),
    [
        ([DENIED], "Forbidden", "denied", True),
        ([CHANGED], "TargetChanged", "changed by others since", False),
        ([HALF], "PartlyDone", "1 of 2 changes were made, then: denied", True),
        ([DENIED, CHANGED], "TargetChanged", "changed by others since", False),  # done by hand meanwhile
        ([HALF, CHANGED], "PartlyDone", "1 of 2 changes were made, then: denied", True),  # by nobody but itself
        ([HALF, DENIED, CHANGED], "PartlyDone", "denied", True),
    ],
)
def test_what_was_left_half_done_is_not_taken_for_others_doing(
    errors: list[Refused | PartlyDone], failure: str, message: str, left: bool
) -> None:
    revert = Revert(state="Executing", operation="o")
    for error in errors:
        note_failure(revert, error)
    assert (revert.state, revert.failure, revert.message) == ("Failed", failure, message)
    assert held(revert=revert).is_left_in_place is left


@pytest.mark.parametrize(
    ("error", "nothing"),
    [
        (Terminal(Reason.TARGET_NOT_FOUND, "gone"), True),
        (Refused(Reason.NAMESPACE_TERMINATING, "unable to create new content"), True),
        (PartlyDone(Reason.TARGET_NOT_FOUND, "1 of 2 changes were made, then: not found"), False),
        (DENIED, False),
    ],
)
def test_a_target_that_is_gone_or_going_holds_nothing(error: Refused | Terminal | PartlyDone, nothing: bool) -> None:
    assert holds_nothing(error) is nothing
