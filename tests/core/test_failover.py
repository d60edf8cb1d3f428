"""Whether a failover that may have been asked for has begun, from a look at the cluster alone."""

from dataclasses import replace
from datetime import datetime, timedelta

import pytest

from builders import NOW
from paramedic.core.failover import (
    QUIET,
    Asked,
    Database,
    Member,
    Phase,
    Standing,
    nearest_reader,
    standing,
    taken_over_since,
    under_way,
    unsettled_for,
)

OPERATION, OTHERS = "ours", "theirs"
CLUSTER = Database(
    identity="cluster-1",
    phase=Phase.AVAILABLE,
    status="available",
    writer="a",
    members=(Member("a", True), Member("b", True), Member("c", True)),
    endpoint="db",
    port=5432,
)
MOVING = replace(CLUSTER, phase=Phase.FAILING_OVER, status="failing-over")


def asked(operation: str = OPERATION, to: str = "b", at: datetime = NOW) -> Asked:
    return Asked(operation, to, at)


def told(*after: float) -> tuple[tuple[datetime, str], ...]:
    return tuple((NOW + timedelta(seconds=seconds), "Started failover") for seconds in after)


CASES = [
    ("nothing was asked", CLUSTER, Standing.NOT_ASKED),
    ("others had asked earlier", replace(CLUSTER, asked=asked(OTHERS)), Standing.NOT_ASKED),
    ("it writes", replace(CLUSTER, writer="b"), Standing.BEGUN),
    ("it writes, by our request", replace(CLUSTER, writer="b", asked=asked()), Standing.BEGUN),
    ("it is on its way", replace(MOVING, asked=asked()), Standing.BEGUN),
    ("the provider names whom it moves to", replace(MOVING, moving_to="b"), Standing.BEGUN),
    ("it moves, and we have not asked", MOVING, Standing.MAYBE),
    ("it moves by others' request", replace(MOVING, asked=asked(OTHERS)), Standing.MAYBE),
    ("it moves to another by our request", replace(MOVING, asked=asked(to="c")), Standing.MAYBE),
    ("a third writes", replace(CLUSTER, writer="c"), Standing.MAYBE),
    ("nobody writes", replace(CLUSTER, writer=""), Standing.MAYBE),
    ("we asked, and nothing came of it", replace(CLUSTER, asked=asked()), Standing.NOT_ASKED),
    ("we asked, and a failover was told since", replace(CLUSTER, asked=asked(), failovers=told(1)), Standing.MAYBE),
    ("clocks differ", replace(CLUSTER, asked=asked(), failovers=told(-3)), Standing.MAYBE),
    ("that one was long before", replace(CLUSTER, asked=asked(), failovers=told(-3600)), Standing.NOT_ASKED),
    ("a failover was told, and we have not asked", replace(CLUSTER, failovers=told(1)), Standing.NOT_ASKED),
]


@pytest.mark.parametrize(("database", "expected"), [c[1:] for c in CASES], ids=[c[0] for c in CASES])
def test_how_a_failover_stands(database: Database, expected: Standing) -> None:
    assert standing(database, OPERATION, "a", "b") is expected


@pytest.mark.parametrize(
    ("database", "seconds", "waits"),
    [
        (CLUSTER, 0, False),
        (replace(CLUSTER, asked=asked()), 0, True),
        (replace(CLUSTER, asked=asked(OTHERS)), 59, True),
        (replace(CLUSTER, asked=asked()), QUIET.total_seconds(), False),
        (replace(CLUSTER, asked=asked()), -3600, False),
        (replace(CLUSTER, asked=asked(), writer="b"), 1, False),
        (replace(MOVING, asked=asked()), 1, False),
        (replace(CLUSTER, asked=asked(), failovers=told(1)), 2, False),
    ],
)
def test_a_request_may_still_be_about_to_begin(database: Database, seconds: float, waits: bool) -> None:
    found = unsettled_for(database, NOW + timedelta(seconds=seconds))
    assert (found is not None) is waits
    assert found in (None, timedelta(seconds=seconds))


MINE, ANOTHERS = "shop/db-slow", "pay/db-slow"
BY_ANOTHER = replace(asked(OTHERS), incident=ANOTHERS)


@pytest.mark.parametrize(
    ("database", "since", "counts"),
    [
        (CLUSTER, 0, False),
        (replace(CLUSTER, writer="b", asked=BY_ANOTHER), 0, True),
        (replace(CLUSTER, writer="b", asked=BY_ANOTHER), -60, True),
        (replace(CLUSTER, writer="b", asked=BY_ANOTHER), 0.9, True),
        (replace(CLUSTER, writer="b", asked=BY_ANOTHER), 1, False),
        (replace(CLUSTER, writer="b", asked=replace(BY_ANOTHER, incident=MINE)), 0, False),
        (replace(CLUSTER, asked=BY_ANOTHER), 0, False),
        (replace(MOVING, asked=BY_ANOTHER), 0, True),
        (replace(CLUSTER, writer="c", asked=BY_ANOTHER, failovers=told(1)), 0, True),
    ],
)
def test_a_failover_for_another_incident_counts_when_it_came_after_the_trouble_began(
    database: Database, since: float, counts: bool
) -> None:
    found = taken_over_since(database, NOW + timedelta(seconds=since), MINE)
    assert found == (database.asked if counts else None)


@pytest.mark.parametrize(
    ("database", "minutes", "known"),
    [
        (MOVING, 0, False),
        (replace(CLUSTER, asked=BY_ANOTHER), 0, False),
        (replace(MOVING, asked=BY_ANOTHER), 9, True),
        (replace(MOVING, asked=BY_ANOTHER), 10, False),
    ],
)
def test_a_cluster_fails_over_by_a_request_or_by_itself(database: Database, minutes: int, known: bool) -> None:
    found = under_way(database, NOW + timedelta(minutes=minutes))
    assert found == (database.asked if known else None)


def test_the_nearest_reader_is_healthy_and_least_behind() -> None:
    near, far = Member("b", True, lag_seconds=0.1), Member("c", True, lag_seconds=2.0)
    silent, ill = Member("d", True), Member("e", False, lag_seconds=0.0)
    assert nearest_reader([far, silent, near, ill]) == near
    assert nearest_reader([silent, ill]) == silent
    assert nearest_reader([ill]) is None
    assert nearest_reader([Member("z", True, lag_seconds=0.1), near]) == near
