"""slowQueryLog against a real server: the setting, its way back, the statistics."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from databases.bed import PASSWORD, clients_of, postgres_entry
from paramedic.actions.base import Change, Clients, Observed, Outcome, Report, may_put_back
from paramedic.actions.slow_query_log import SlowQueryLog, SlowQueryLogParams
from paramedic.api.incident import StepStatus
from paramedic.api.reasons import Reason
from paramedic.api.workload import BoundTarget
from paramedic.clients.evidence import EvidenceStore
from paramedic.clients.evidence_directory import DirectoryBackend
from paramedic.errors import Refused, Unreachable
from testbed.api import eventually
from testbed.postgres import PostgresServer
from testbed.tcpproxy import TcpProxy

ACTION = SlowQueryLog()
SETTING = "log_min_duration_statement"
MakeClients = Callable[..., Clients]


@pytest.fixture(autouse=True)
def as_installed(postgres: PostgresServer) -> Iterator[None]:
    """Every test begins and ends without the setting."""
    yield
    _alter(postgres, f"RESET {SETTING}")


def _alter(postgres: PostgresServer, change: str) -> None:
    postgres.psql(f"ALTER SYSTEM {change}")
    postgres.psql("SELECT pg_reload_conf(); SELECT pg_sleep(0.2)")


class Doctor:
    """Looks, plans and acts, as the operator does."""

    def __init__(self, clients: Clients, target: BoundTarget) -> None:
        self.clients = clients
        self.target = target

    async def look(self) -> Observed:
        return replace(await ACTION.observe(self.target, self.clients), incident="slow")

    async def plan(self, **params: Any) -> Change:
        return ACTION.plan(await self.look(), SlowQueryLogParams.model_validate(params), "0" * 8)

    async def act(self, **params: Any) -> tuple[Change, Report]:
        change = await self.plan(**params)
        return change, await ACTION.apply(change, self.clients)

    async def put_back(self, change: Change) -> Report:
        seen = await self.look()
        may_put_back(ACTION, seen, _step(change, seen))
        return await ACTION.apply(ACTION.restore(seen, change.before, "1" * 8), self.clients)

    async def settled(self, change: Change) -> Outcome:
        return ACTION.settled(await self.look(), change.before, change.after, "0" * 8)


def _step(change: Change, seen: Observed) -> StepStatus:
    target = {"namespace": "covet", "name": "covet-db", "kind": "Connection", "uid": seen.uid}
    stored = {"name": "s", "action": ACTION.name, "target": target, "before": change.before, "after": change.after}
    return StepStatus.model_validate(StepStatus.model_validate(stored).to_wire())


@pytest.fixture
def doctor(clients: MakeClients, target: BoundTarget) -> Doctor:
    return Doctor(clients(), target)


def _written(postgres: PostgresServer) -> str:
    """What postgresql.auto.conf says."""
    lines = (postgres.data / "postgresql.auto.conf").read_text().splitlines()
    return next((line.partition("=")[2].strip(" '") for line in lines if line.startswith(SETTING)), "")


def _in_force(postgres: PostgresServer) -> str:
    return postgres.psql(f"SHOW {SETTING}")


async def test_on_and_off_again(doctor: Doctor, postgres: PostgresServer) -> None:
    change, _ = await doctor.act(thresholdMilliseconds=20)

    assert (change.before, change.after) == ({SETTING: "not set"}, {SETTING: "20"})
    assert (_written(postgres), _in_force(postgres)) == ("20", "20ms")
    assert await doctor.settled(change) is Outcome.APPLIED
    postgres.psql("SELECT pg_sleep(0.05), 'noted'", database="covet", user="app", password=PASSWORD)
    await eventually(lambda: "'noted'" in postgres.log.read_text(), what="the slow query is logged")

    await doctor.put_back(change)

    assert (_written(postgres), _in_force(postgres)) == ("", "-1")


@pytest.mark.parametrize("earlier", ["2500", "3s", "-1"])
async def test_the_earlier_value_comes_back(doctor: Doctor, postgres: PostgresServer, earlier: str) -> None:
    _alter(postgres, f"SET {SETTING} = '{earlier}'")
    before = _in_force(postgres)
    change, _ = await doctor.act(thresholdMilliseconds=20)
    assert _in_force(postgres) == "20ms"
    await doctor.put_back(change)
    assert _in_force(postgres) == before
    assert _written(postgres) != ""


async def test_what_postgresql_conf_says_comes_back(target: BoundTarget, tmp_path: Path) -> None:
    """It is not copied to postgresql.auto.conf, where later edits of the file would have no effect."""
    with PostgresServer(settings={SETTING: "700"}) as server:
        entry = postgres_entry(server.port, tmp_path, server.password, username="postgres", database="postgres")
        doctor = Doctor(clients_of(entry), target)
        change, report = await doctor.act(thresholdMilliseconds=20)
        assert "from 700 ms on → from 20 ms on" in change.message
        assert report.result is not None
        assert "pg_stat_statements is not created" in report.result["lacking"]
        await doctor.put_back(change)
        assert (_written(server), _in_force(server)) == ("", "700ms")


async def test_a_lower_threshold_is_left_alone(doctor: Doctor, postgres: PostgresServer) -> None:
    _alter(postgres, f"SET {SETTING} = 10")
    change = await doctor.plan(thresholdMilliseconds=20)
    assert change.is_empty
    assert not (await doctor.plan(thresholdMilliseconds=5)).is_empty


async def test_hands_off_when_others_have_set_it_since(doctor: Doctor, postgres: PostgresServer) -> None:
    change, _ = await doctor.act(thresholdMilliseconds=20)
    _alter(postgres, f"SET {SETTING} = 50")
    with pytest.raises(Refused, match="changed by others since") as caught:
        await doctor.put_back(change)
    assert caught.value.reason is Reason.TARGET_CHANGED
    assert _in_force(postgres) == "50ms"
    assert await doctor.settled(change) is Outcome.UNKNOWN


async def test_the_top_of_the_statistics_is_kept(
    clients: MakeClients, target: BoundTarget, postgres: PostgresServer, tmp_path: Path
) -> None:
    store = EvidenceStore(DirectoryBackend(_made(tmp_path / "evidence")))
    doctor = Doctor(replace(clients(), evidence=store), target)
    postgres.psql("SELECT pg_stat_statements_reset()", database="covet")
    slow = "SELECT pg_sleep(0.3), 'card 4111'"
    for query in (slow, "SELECT 1", "ALTER ROLE app PASSWORD 's3cr3t-p4ssw0rd'"):
        postgres.psql(query, database="covet", user="app", password=PASSWORD)

    change, report = await doctor.act(thresholdMilliseconds=20, top=2)

    assert report.result is not None
    top = report.result["top"]
    assert len(top) == 2
    assert top[0]["query"].startswith("SELECT pg_sleep($1), $2")
    assert top[0]["meanMilliseconds"] >= 300
    assert top[0]["calls"] == 1
    kept = {item.name: item for item in report.evidence}
    uri = kept["slow-queries-before.json"].uri
    assert uri is not None
    stored = json.loads(Path(uri.removeprefix("file://")).read_text())
    assert [one["query"] for one in stored] == [one["query"] for one in top]

    after = await doctor.put_back(change)
    assert "slow-queries-after.json" in {item.name for item in after.evidence}
    everything = "".join(path.read_text() for path in (tmp_path / "evidence").rglob("*") if path.is_file())
    assert PASSWORD not in everything
    store.close()


def _made(folder: Path) -> Path:
    folder.mkdir()
    return folder


async def test_statistics_are_reset_only_when_asked_and_allowed(
    clients: MakeClients, target: BoundTarget, postgres: PostgresServer
) -> None:
    def calls() -> int:
        return int(postgres.psql("SELECT count(*) FROM pg_stat_statements WHERE query LIKE '%mark%'", database="covet"))

    postgres.psql("REVOKE EXECUTE ON FUNCTION pg_stat_statements_reset FROM paramedic", database="covet")
    postgres.psql("SELECT 1 AS mark", database="covet")
    doctor = Doctor(clients(), target)
    with pytest.raises(Refused, match=r'GRANT EXECUTE ON FUNCTION public\.pg_stat_statements_reset TO "paramedic"'):
        await doctor.act(thresholdMilliseconds=20, resetStatistics=True)
    assert _written(postgres) == "", "the setting is not touched when the step fails"
    change, _ = await doctor.act(thresholdMilliseconds=20)
    assert calls() >= 1
    await doctor.put_back(change)
    postgres.psql("GRANT EXECUTE ON FUNCTION pg_stat_statements_reset TO paramedic", database="covet")
    await doctor.act(thresholdMilliseconds=20, resetStatistics=True)
    assert calls() <= 1  # the question itself


@pytest.mark.parametrize("where", [b"ALTER SYSTEM SET", b'pg_stat_statements_reset"()'])
@pytest.mark.parametrize("forward", [True, False], ids=["the server got it", "the server did not get it"])
async def test_what_was_kept_before_a_reset_is_not_lost_by_going_on(
    postgres: PostgresServer, target: BoundTarget, tmp_path: Path, where: bytes, forward: bool
) -> None:
    store = EvidenceStore(DirectoryBackend(_made(tmp_path / "evidence")))
    postgres.psql("GRANT EXECUTE ON FUNCTION pg_stat_statements_reset TO paramedic", database="covet")
    postgres.psql("SELECT pg_sleep(0.3), 'slow one'", database="covet")
    with TcpProxy(postgres.port) as proxy:
        doctor = Doctor(replace(clients_of(postgres_entry(proxy.port, tmp_path)), evidence=store), target)
        change = await doctor.plan(thresholdMilliseconds=20, resetStatistics=True)
        proxy.cut_on(where, forward=forward)
        try:
            report = await ACTION.apply(change, doctor.clients)
            assert "the statistics of statements may not have been reset: " in report.message
        except Unreachable:
            if await doctor.settled(change) is Outcome.NOT_APPLIED:
                await ACTION.apply(change, doctor.clients)
        assert _in_force(postgres) == "20ms"
        assert await doctor.settled(change) is Outcome.APPLIED
    kept = next((tmp_path / "evidence").rglob("slow-queries-before.json")).read_text()
    assert "pg_sleep" in kept
    store.close()


async def test_columns_of_older_versions(doctor: Doctor, postgres: PostgresServer) -> None:
    """Before PostgreSQL 13 the columns are called total_time and mean_time: that version of the extension is there."""
    postgres.psql(
        "DROP EXTENSION pg_stat_statements; CREATE EXTENSION pg_stat_statements VERSION '1.7'", database="covet"
    )
    try:
        postgres.psql("SELECT pg_sleep(0.2)", database="covet")
        _, report = await doctor.act(thresholdMilliseconds=20)
        assert report.result is not None
        assert report.result.get("lacking") is None
        assert report.result["top"][0]["meanMilliseconds"] > 0
    finally:
        postgres.psql("DROP EXTENSION pg_stat_statements; CREATE EXTENSION pg_stat_statements", database="covet")


async def test_without_the_extension_it_is_said_and_not_failed(clients: MakeClients, target: BoundTarget) -> None:
    change, report = await Doctor(clients(database="other"), target).act(thresholdMilliseconds=20)
    assert change.after == {SETTING: "20"}
    assert "pg_stat_statements is not created in other" in report.message


async def test_what_hides_it_is_refused(doctor: Doctor, postgres: PostgresServer) -> None:
    postgres.psql(f"ALTER ROLE paramedic SET {SETTING} = 5000")
    try:
        with pytest.raises(Refused, match="set by user"):
            await doctor.plan(thresholdMilliseconds=20)
    finally:
        postgres.psql(f"ALTER ROLE paramedic RESET {SETTING}")


async def test_missing_rights_are_all_named(clients: MakeClients, target: BoundTarget) -> None:
    with pytest.raises(Refused) as caught:
        await Doctor(clients(username="stranger"), target).plan()
    for grant in ("pg_read_all_settings", f"ALTER SYSTEM ON PARAMETER {SETTING}", "pg_reload_conf()"):
        assert grant in str(caught.value)


@pytest.mark.parametrize("where", [b"ALTER SYSTEM", b"pg_reload_conf()"])
@pytest.mark.parametrize("forward", [True, False], ids=["the server got it", "the server did not get it"])
async def test_a_connection_cut_in_the_middle_is_looked_at_and_done_once(
    postgres: PostgresServer, target: BoundTarget, tmp_path: Path, where: bytes, forward: bool
) -> None:
    with TcpProxy(postgres.port) as proxy:
        doctor = Doctor(clients_of(postgres_entry(proxy.port, tmp_path)), target)
        change = await doctor.plan(thresholdMilliseconds=20)
        proxy.cut_on(where, forward=forward)
        with pytest.raises(Unreachable) as caught:
            await ACTION.apply(change, doctor.clients)
        assert caught.value.uncertain
        outcome = await doctor.settled(change)
        assert outcome in (Outcome.APPLIED, Outcome.NOT_APPLIED)
        if outcome is Outcome.NOT_APPLIED:
            params = SlowQueryLogParams(threshold_milliseconds=20)
            again = ACTION.plan_again(await doctor.look(), params, "0" * 8, change.before, change.after)
            assert (again.before, again.after) == (change.before, change.after)
            await ACTION.apply(again, doctor.clients)
        assert _in_force(postgres) == "20ms"
        await doctor.put_back(change)
        assert (_written(postgres), _in_force(postgres)) == ("", "-1")
