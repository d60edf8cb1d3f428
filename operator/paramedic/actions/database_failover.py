"""``databaseFailover``: another instance of a database cluster becomes the writer (runbook 2, "Database Failover").

A procedure: the failover is asked for, once; then it is waited for (``awaitDatabase``); then a ConfigMap gets the new
writer's endpoint and what uses it is restarted (``patchConfig``). The request itself is a short action with an intent
of its own: after a crash the cluster is looked at, and never asked again as long as it cannot be told.
"""

from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Annotated, Literal

from pydantic import Field

from paramedic.actions.base import Action, Change, Clients, Json, Observed, Outcome, Report, State
from paramedic.actions.databases import TYPES, Seen, provider, verification_problem, verifying, with_lags
from paramedic.actions.emergency import part_name, with_condition
from paramedic.actions.outside import CONNECTION, as_target
from paramedic.api.base import Duration, Model, ObjectName, format_duration
from paramedic.api.checks import Verify
from paramedic.api.policy import Step
from paramedic.api.reasons import Reason
from paramedic.api.workload import BoundTarget, TargetSelector
from paramedic.core.failover import (
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
from paramedic.core.results import from_step
from paramedic.errors import Refused, Retry, Terminal

_LOOK_AGAIN_AFTER = timedelta(seconds=5)
_MOST_LAG = timedelta(seconds=5)
_OUTCOMES = {
    Standing.BEGUN: Outcome.APPLIED,
    Standing.NOT_ASKED: Outcome.NOT_APPLIED,
    Standing.MAYBE: Outcome.UNKNOWN,
}


class NewEndpoint(Model):
    """Where the service reads which host its database is."""

    name: ObjectName = Field(description="ConfigMap in the same namespace.")
    key: Annotated[str, Field(pattern=r"^[-._a-zA-Z0-9]{1,253}$", max_length=253)] = Field(
        "DB_HOST", description="Key that gets the host name."
    )
    endpoint: Literal["Writer", "Cluster"] = Field(
        "Writer",
        description="Writer: the new writer's own endpoint. Cluster: the cluster's, which always leads to the writer.",
    )
    restart: Literal["Users", "None"] = Field("Users", description="What is restarted then, as in patchConfig.")


class DatabaseFailoverParams(Model):
    """Who is to write, and what has to hold before."""

    target_instance: str | None = Field(
        None,
        max_length=63,
        pattern=r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?$",
        description="Instance that becomes the writer; default: the healthy reader that is least behind.",
    )
    max_replica_lag: Duration | None = Field(
        None,
        description="Refuse an instance that is further behind the writer than this; default: 5s. The lag is "
        "CloudWatch's; for CloudNativePG it is that of pg_stat_replication, read through verifyConnection.",
    )
    unknown_lag: Literal["Refuse", "Accept"] = Field(
        "Refuse",
        description="What to do when the lag cannot be had. CloudNativePG waits for the replica by itself: there it "
        "matters only where maxReplicaLag is set.",
    )
    config_map: NewEndpoint | None = Field(
        None, description="Afterwards write the new endpoint to a ConfigMap, and restart what uses it."
    )
    verify_connection: ObjectName | None = Field(
        None,
        description="Connection of type postgres to whoever writes: the new writer must take a write through it, and "
        "of CloudNativePG it tells beforehand how far the replicas are behind (the role needs pg_monitor).",
    )


@dataclass(frozen=True, slots=True)
class _Work:
    namespace: str
    connection: str
    to: str
    database: Database
    operation: str
    incident: str


class DatabaseFailover(Action):
    """The state is who writes: ``{"writer": "covet-1"}``."""

    name = "databaseFailover"
    summary = "Makes another instance of an Aurora or CloudNativePG cluster the writer, and points the service at it."
    params = DatabaseFailoverParams
    kinds = CONNECTION
    connection_types = TYPES
    undoable = False
    leasable = False

    def expand(self, step: Step) -> list[Step]:
        """The failover, the wait for it and, where a ConfigMap is named, its new value: as soon as the writer is known,
        whatever a connection to it says, for the old one serves nobody any more. What verifies comes last.
        """
        params = DatabaseFailoverParams.model_validate(step.params)
        asked, awaited = part_name(step.name, "failover"), part_name(step.name, "await")
        writer = {"writer": params.target_instance or from_step(asked, "after.writer")}
        through = {"verifyConnection": params.verify_connection} if params.verify_connection else {}
        failover = _part(step, asked, self.name, step.params, verify=Verify() if params.config_map else step.verify)
        if not params.config_map:
            waiting = _part(step, awaited, "awaitDatabase", writer | through, verify=Verify())
            return with_condition([failover, waiting], step.when)
        waiting = _part(step, awaited, "awaitDatabase", writer, verify=Verify())
        parts = [failover, waiting, _config_part(step, params.config_map, awaited)]
        if through:
            parts.append(
                _part(step, part_name(step.name, "verify"), "awaitDatabase", writer | through, verify=Verify())
            )
        return with_condition(parts, step.when)

    def connections_used(self, params: Json, target: str | None) -> tuple[tuple[str, tuple[str, ...]], ...]:
        """The cluster's, and the one that is to verify the failover."""
        return *super().connections_used(params, target), *verifying(params)

    async def observe(self, target: BoundTarget, clients: Clients) -> Observed:
        """Reads the cluster. Raises Retry while a failover that was asked for may be about to begin."""
        runs = await provider(clients, target.namespace, target.name)
        database, now = await runs.look(), datetime.now(UTC)
        ago = unsettled_for(database, now)
        if ago is not None and database.asked:
            to, since = database.asked.to, format_duration(ago)
            raise Retry(
                f"{target.name}: a failover to {to} was asked for {since} ago and has not begun yet", _LOOK_AGAIN_AFTER
            )
        seen = Seen(database, await runs.latest_snapshot(), under_way(database, now))
        acted_at = database.asked.at if database.asked else None
        return Observed(as_target(target, database.identity), seen=seen, acted_at=acted_at)

    async def observe_for(self, target: BoundTarget, params: Json, clients: Clients) -> Observed:
        """The same, and whether the failover could be verified; where the provider tells no lags, with those that the
        connection to the writer tells.
        """
        observed = await self.observe(target, clients)
        seen, through = observed.seen, params.get("verifyConnection")
        if not through:
            return observed
        problem = await verification_problem(clients, target.namespace, str(through))
        database = seen.database
        if not database.lag_source:
            database = await with_lags(clients, target.namespace, str(through), database)
        return replace(observed, seen=replace(seen, database=database, cannot_verify=problem))

    def state(self, observed: Observed) -> State:
        """Who writes."""
        return {"writer": _database(observed).writer}

    def plan(self, observed: Observed, params: DatabaseFailoverParams, operation: str) -> Change:
        """To the named instance or the nearest. Raises Refused when the cluster is not ready for it, nobody is, or
        another incident has had it fail over in the meantime; Retry while it fails over for another.
        """
        database = _database(observed)
        _require_ready(observed)
        if params.target_instance == database.writer:
            return Change(self.state(observed), self.state(observed), (), None, _already(observed))
        if params.target_instance:
            return self._change_to(observed, params, operation, _named(database, params.target_instance))
        fit = [one for one in database.readers if not _against(database, one, params)]
        nearest = nearest_reader(fit)
        if nearest is None:
            told = [_against(database, one, params) for one in database.readers] or ["there is no reader"]
            raise Refused(Reason.NO_REPLICA_READY, f"{observed.name}: nobody can take over: {'; '.join(told)}")
        return self._change_to(observed, params, operation, nearest)

    def plan_again(
        self, observed: Observed, params: DatabaseFailoverParams, operation: str, before: State, after: State
    ) -> Change:
        """To the same instance as was planned. Raises as ``plan``, for that instance."""
        _require_ready(observed)
        return self._change_to(observed, params, operation, _named(_database(observed), str(after["writer"])))

    def plan_as_shown(
        self, observed: Observed, params: DatabaseFailoverParams, operation: str, before: State, after: State
    ) -> Change:
        """To the instance that a person was shown, as long as it will do."""
        database = _database(observed)
        shown = database.member(str(after.get("writer", "")))
        if shown and shown.name != database.writer and not _against(database, shown, params):
            return self.plan_again(observed, params, operation, before, after)
        return self.plan(observed, params, operation)

    def restore(self, observed: Observed, before: State, operation: str) -> Change:
        """A second failover is no undo of the first."""
        raise Refused(Reason.NOT_PUT_BACK, "a failover is not put back: who writes is as good as who wrote before")

    async def apply(self, change: Change, clients: Clients) -> Report | None:
        """Asks for the failover. Raises Conflict when the cluster is in no state for it any more."""
        work: _Work = change.work
        runs = await provider(clients, work.namespace, work.connection)
        await runs.ask(work.to, work.database, work.operation, work.incident, datetime.now(UTC))
        return None

    def settled(self, observed: Observed, before: State, after: State, operation: str) -> Outcome:
        """By who writes, what the cluster is doing, the stamp of the request, and what is told of failovers since.
        Raises Retry while it fails over for another incident: what came of this one is seen after that.
        """
        _wait_for_others(observed)
        return _OUTCOMES[standing(_database(observed), operation, str(before["writer"]), str(after["writer"]))]

    def _change_to(self, observed: Observed, params: DatabaseFailoverParams, operation: str, chosen: Member) -> Change:
        seen: Seen = observed.seen
        database = seen.database
        against = _against(database, chosen, params)
        if against:
            raise Refused(Reason.NO_REPLICA_READY, f"{observed.name}: {against}")
        namespace = str(observed.target["metadata"]["namespace"])
        work = _Work(namespace, observed.name, chosen.name, database, operation, _incident(observed))
        message = f"{observed.name}: writer {database.writer} → {chosen.name}{_lag(database, chosen, params)}"
        message += f"; latest snapshot: {seen.snapshot}" if seen.snapshot else "; there is no snapshot"
        return Change({"writer": database.writer}, {"writer": chosen.name}, (), None, message, work=work)


def _part(step: Step, name: str, action: str, params: Json, **changes: object) -> Step:
    plain = {
        "name": name,
        "target": step.target,
        "approval": step.approval,
        "timeout": step.timeout,
        "on_failure": step.on_failure,
    }
    return Step.model_validate(plain | changes | {action: params})


def _config_part(step: Step, config: NewEndpoint, awaited: str) -> Step:
    field = "result.endpoint" if config.endpoint == "Writer" else "result.clusterEndpoint"
    params = {"data": {config.key: from_step(awaited, field)}, "restart": config.restart}
    target = TargetSelector(kind="ConfigMap", name=config.name)
    return _part(step, part_name(step.name, "config"), "patchConfig", params, target=target, verify=step.verify)


def _database(observed: Observed) -> Database:
    seen: Seen = observed.seen
    return seen.database


def _already(observed: Observed) -> str:
    return f"{observed.name}: {_database(observed).writer} is the writer already"


def _incident(observed: Observed) -> str:
    return f"{observed.target['metadata']['namespace']}/{observed.incident}"


def _require_ready(observed: Observed) -> None:
    """The same trouble may have opened incidents in several namespaces: only the first of them has it fail over."""
    database = _database(observed)
    _require_verification(observed)
    first = taken_over_since(database, observed.since, _incident(observed)) if observed.since else None
    if first:
        raise Refused(
            Reason.FAILED_OVER_SINCE,
            f"{observed.name}: the incident {first.incident} (operation {first.operation}) had it fail over to "
            f"{first.to} at {first.at:%Y-%m-%d %H:%M:%S} UTC, after this incident's trouble began; if the database "
            "still fails, apply a new Incident",
        )
    _wait_for_others(observed)
    if database.phase is not Phase.AVAILABLE:
        raise Refused(
            Reason.DATABASE_NOT_READY, f"{observed.name} is {database.status}: no failover can be begun from there"
        )


def _require_verification(observed: Observed) -> None:
    """Raises Refused: there must be no failover of which nobody could tell whether the new writer takes writes."""
    problem = observed.seen.cannot_verify
    if problem:
        reason = problem.reason if isinstance(problem, Refused | Terminal) else Reason.CONNECTION_FAILED
        raise Refused(reason, f"{observed.name}: whether it takes writes could not be verified: {problem}")


def _wait_for_others(observed: Observed) -> None:
    seen: Seen = observed.seen
    asked = seen.under_way
    if asked and asked.incident != _incident(observed):
        raise Retry(
            f"{observed.name} is failing over to {asked.to}, for the incident {asked.incident}", _LOOK_AGAIN_AFTER
        )


def _named(database: Database, name: str) -> Member:
    found = database.member(name)
    if found is None:
        members = ", ".join(one.name for one in database.members) or "none"
        raise Terminal(Reason.INVALID_PARAMETERS, f"{name} is no instance of the cluster; there are {members}")
    return found


def _against(database: Database, member: Member, params: DatabaseFailoverParams) -> str:
    """What speaks against an instance; the empty string when nothing does."""
    if not member.healthy:
        return f"{member.name} is not available"
    if member.lag_seconds is None:
        if _may_be_unknown(database, params):
            return ""
        return f"{_no_lag(database, member)} (unknownLag: Accept would do without)"
    most = params.max_replica_lag or _MOST_LAG
    if member.lag_seconds > most.total_seconds():
        return f"{member.name} is {member.lag_seconds:g} s behind the writer, more than {format_duration(most)}"
    return ""


def _may_be_unknown(database: Database, params: DatabaseFailoverParams) -> bool:
    """A bound that somebody has set is never just passed over."""
    return params.unknown_lag == "Accept" or (database.waits_for_replica and params.max_replica_lag is None)


def _no_lag(database: Database, member: Member) -> str:
    if not database.lag_source:
        return f"there is no verifyConnection that could tell the lag of {member.name}"
    return f"{database.lag_source} tells no lag of {member.name}{database.lag_problem}"


def _lag(database: Database, member: Member, params: DatabaseFailoverParams) -> str:
    if member.lag_seconds is not None:
        return f" ({member.lag_seconds:g} s behind by {database.lag_source})"
    if not database.lag_source and params.max_replica_lag is None:
        return ""
    return f" (its lag is not known: {_no_lag(database, member)})"
