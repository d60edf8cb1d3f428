"""``slowQueryLog``: logs slow statements of a PostgreSQL server for a while (runbook 2, "Slow Query Performance")."""

import json
from collections.abc import AsyncGenerator
from dataclasses import dataclass
from typing import Any

from pydantic import Field

from paramedic.actions.base import Action, Change, Clients, Observed, Outcome, Report, State
from paramedic.actions.outside import CONNECTION, as_target, connections_of
from paramedic.api.base import Model
from paramedic.api.incident import Evidence
from paramedic.api.reasons import Reason
from paramedic.api.workload import BoundTarget
from paramedic.clients.postgres import Postgres
from paramedic.clients.postgres_statements import (
    PARAMETER,
    Statistics,
    read_setting,
    require_reset,
    reset_statistics,
    slowest,
    write_setting,
)
from paramedic.core.slowlog import OFF, Setting, described
from paramedic.errors import ParamedicError, Refused

_TOLD = 5


class SlowQueryLogParams(Model):
    """What is slow."""

    threshold_milliseconds: int = Field(
        1000, ge=0, le=2_147_483_647, description="Statements that take as long or longer are logged; 0: all."
    )
    top: int = Field(10, ge=1, le=100, description="So many of the slowest statements are kept as evidence.")
    reset_statistics: bool = Field(False, description="Begin pg_stat_statements anew, once its top has been kept.")


@dataclass(frozen=True, slots=True)
class _Work:
    namespace: str
    connection: str
    incident: str
    operation: str
    value: str
    top: int
    reset: bool
    item: str


class SlowQueryLog(Action):
    """Sets ``log_min_duration_statement`` by ALTER SYSTEM, and puts back what postgresql.auto.conf said before."""

    name = "slowQueryLog"
    summary = (
        "Logs slow statements of a PostgreSQL server until ttl, and keeps the top of pg_stat_statements. It heals "
        "nothing: the policy's verify is not for it, and a remedy after it is tried all the same."
    )
    params = SlowQueryLogParams
    kinds = CONNECTION
    extra = "postgres"
    connection_types = ("postgres",)
    needs_ttl = True

    async def observe(self, target: BoundTarget, clients: Clients) -> Observed:
        """Reads the setting. Raises Refused (a missing right), Terminal, Unreachable."""
        database = await connections_of(clients).postgres(target.namespace, target.name)
        setting = await read_setting(database)
        return Observed(as_target(target, setting.server), seen=setting)

    def state(self, observed: Observed) -> State:
        """What postgresql.auto.conf says."""
        return {PARAMETER: _setting(observed).written}

    def plan(self, observed: Observed, params: SlowQueryLogParams, operation: str) -> Change:
        """The lower threshold. Raises Refused where it would have no effect."""
        setting, wanted = _setting(observed), params.threshold_milliseconds
        if setting.is_hidden:
            raise Refused(
                Reason.INVALID_PARAMETERS,
                f"{observed.name}: {PARAMETER} is set by {setting.source}, which hides what ALTER SYSTEM says",
            )
        message = f"{observed.name}: log of slow queries {described(setting.milliseconds)} → {described(wanted)}"
        before, after = self.state(observed), {PARAMETER: str(wanted)}
        if OFF < setting.milliseconds <= wanted:
            return Change(before, before, (), None, f"{observed.name} logs slow queries already {described(wanted)}")
        return _change(before, after, message, _work(observed, operation, str(wanted), params))

    def plan_again(
        self, observed: Observed, params: SlowQueryLogParams, operation: str, before: State, after: State
    ) -> Change:
        """The same: writing the same value twice is writing it once."""
        message = f"{observed.name}: log of slow queries {described(params.threshold_milliseconds)}"
        return _change(before, after, message, _work(observed, operation, after[PARAMETER], params))

    def restore(self, observed: Observed, before: State, operation: str) -> Change:
        """The earlier value; where there was none, the line is taken away."""
        value = str(before[PARAMETER])
        message = f"{observed.name}: {PARAMETER} as before ({value})"
        work = _Work(
            observed.target["metadata"]["namespace"],
            observed.name,
            observed.incident,
            operation,
            value,
            SlowQueryLogParams().top,
            reset=False,
            item="after",
        )
        return _change(self.state(observed), before, message, work)

    async def apply(self, change: Change, clients: Clients) -> Report:
        """Keeps the slowest statements, sets the threshold, then begins the statistics anew: once more after a crash,
        it would keep what is left of them. Raises Refused, Terminal, Unreachable.
        """
        work: _Work = change.work
        database = await connections_of(clients).postgres(work.namespace, work.connection)
        statistics = await slowest(database, work.top)
        resets = work.reset and not statistics.lacking
        if resets:
            await require_reset(database)
        evidence = await _keep(work, statistics, clients)
        await write_setting(database, work.value)
        kept = await _reset(database) if resets else ""
        return _report(change, statistics, evidence, kept)

    def settled(self, observed: Observed, before: State, after: State, operation: str) -> Outcome:
        """Not applied, too, when it is written and not loaded: then it is done again."""
        setting, present = _setting(observed), self.state(observed)
        if setting.has_loaded(str(after.get(PARAMETER, ""))):
            return Outcome.APPLIED
        known = present[PARAMETER] in (before.get(PARAMETER), after.get(PARAMETER))
        return Outcome.NOT_APPLIED if known else Outcome.UNKNOWN


def _setting(observed: Observed) -> Setting:
    assert isinstance(observed.seen, Setting)
    return observed.seen


def _work(observed: Observed, operation: str, value: str, params: SlowQueryLogParams) -> _Work:
    namespace = observed.target["metadata"]["namespace"]
    return _Work(
        namespace,
        observed.name,
        observed.incident,
        operation,
        value,
        params.top,
        reset=params.reset_statistics,
        item="before",
    )


def _change(before: State, after: State, message: str, work: _Work) -> Change:
    return Change(before, after, (), before, message, work=work)


async def _keep(work: _Work, statistics: Statistics, clients: Clients) -> tuple[Evidence, ...]:
    """The statements as evidence, where there is a place for it."""
    if clients.evidence is None or statistics.lacking:
        return ()
    about = {"action": "slowQueryLog", "connection": work.connection}
    kept = clients.evidence.collection(work.namespace, work.incident, work.operation, about=about)
    async with kept:
        await kept.keep(f"slow-queries-{work.item}.json", "application/json", _lines(statistics))
    return tuple(kept.items)


async def _reset(database: Postgres) -> str:
    """Begins the statistics anew. The setting is made by then: what stands in the way is returned, and not raised."""
    try:
        await reset_statistics(database)
    except ParamedicError as error:
        return f" (the statistics of statements may not have been reset: {error})"
    return ""


async def _lines(statistics: Statistics) -> AsyncGenerator[bytes, None]:
    yield json.dumps([one.to_json() for one in statistics.statements], indent=1).encode()


def _report(change: Change, statistics: Statistics, evidence: tuple[Evidence, ...], kept: str) -> Report:
    """``kept``: why the statistics may not have been reset."""
    slowest_ones = [
        {"query": one.query, "calls": one.calls, "meanMilliseconds": one.mean_milliseconds}
        for one in statistics.statements[:_TOLD]
    ]
    result: dict[str, Any] = {"top": slowest_ones} | ({"lacking": statistics.lacking} if statistics.lacking else {})
    note = f" (no statistics of statements: {statistics.lacking})" if statistics.lacking else ""
    return Report(change.message + note + kept, result, evidence)
