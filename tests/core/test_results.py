"""Parameters that a later part of a procedure takes from an earlier one."""

from typing import Any

import pytest

from paramedic.api.incident import StepStatus
from paramedic.core.results import filled, from_step

STEPS = [
    StepStatus(name="ask", action="databaseFailover", after={"writer": "covet-2"}),
    StepStatus(name="wait", action="awaitDatabase", result={"endpoint": "db.example", "port": 5432}),
]


@pytest.mark.parametrize(
    ("params", "expected"),
    [
        ({}, {}),
        ({"data": {"A": "1"}, "list": [1, {"b": None}]}, {"data": {"A": "1"}, "list": [1, {"b": None}]}),
        ({"data": {"DB_HOST": from_step("wait", "result.endpoint")}}, {"data": {"DB_HOST": "db.example"}}),
        ({"list": [from_step("ask", "after.writer"), "x"]}, {"list": ["covet-2", "x"]}),
        ({"fromStep": "ask"}, {"fromStep": "ask"}),
    ],
)
def test_references_are_replaced_and_nothing_else(params: Any, expected: Any) -> None:
    assert filled(params, STEPS) == expected
    assert filled(expected, STEPS) == expected


@pytest.mark.parametrize(
    ("step", "field"),
    [("gone", "after.writer"), ("ask", "after.endpoint"), ("ask", "result.endpoint"), ("wait", "params.x")],
)
def test_what_is_not_there_is_an_error(step: str, field: str) -> None:
    with pytest.raises(LookupError, match=f"step {step} has come to no"):
        filled({"data": {"A": from_step(step, field)}}, STEPS)
