"""``terminateQueries``: ends long statements of a PostgreSQL server (runbook 2, "High Connection Count")."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field

from paramedic.actions.base import Action, Change, Clients, Json, Observed, Outcome, Report, State
from paramedic.actions.outside import CONNECTION, as_target, connections_of
from paramedic.api.base import Duration, Model, format_duration
from paramedic.api.reasons import Reason
from paramedic.api.workload import BoundTarget
from paramedic.clients.postgres_sessions import Activity, Ended, end, look
from paramedic.core.sessions import Chosen, Identity, Wanted, choose, told
from paramedic.core.sqltext import pattern
from paramedic.errors import Refused

_LEAST_AGE = timedelta(seconds=1)
_LONGEST_GRACE = timedelta(minutes=1)
_State = Literal["active", "idle in transaction", "idle in transaction (aborted)"]


def _active() -> list[_State]:
    return ["active"]


_Name = Annotated[str, Field(min_length=1, max_length=63)]
_Names = Annotated[list[_Name], Field(max_length=32)]


def _check_age(value: timedelta) -> timedelta:
    if value < _LEAST_AGE:
        raise ValueError("olderThan must be 1s or more: else every statement would be meant")
    return value


def _check_grace(value: timedelta) -> timedelta:
    if value > _LONGEST_GRACE:
        raise ValueError(f"grace must be {format_duration(_LONGEST_GRACE)} or less")
    return value


def _check_pattern(value: str) -> str:
    pattern(value)
    return value


class TerminateQueriesParams(Model):
    """Which statements are meant; all that is given must hold."""

    older_than: Annotated[Duration, AfterValidator(_check_age)] = Field(
        description="Statements that have run for longer; for sessions idle in a transaction, idle for longer."
    )
    users: _Names = Field(default_factory=list, description="Only sessions of these roles.")
    databases: _Names = Field(
        default_factory=list, description="Only sessions in these databases. Default: the connection's own."
    )
    applications: _Names = Field(default_factory=list, description="Only sessions with these application names.")
    query_pattern: Annotated[str, AfterValidator(_check_pattern)] | None = Field(
        None,
        min_length=1,
        max_length=256,
        description="Only statements whose text (its first 8192 characters) this RE2 regular expression is found in.",
    )
    wait_events: _Names = Field(
        default_factory=list,
        description="Only sessions that wait for one of these: a wait_event_type (Lock) or a wait_event (tuple).",
    )
    states: list[_State] = Field(
        default_factory=_active, min_length=1, max_length=3, description="States of the sessions."
    )
    grace: Annotated[Duration, AfterValidator(_check_grace)] = Field(
        timedelta(seconds=5), description="From cancelling a statement to terminating its session, where it goes on."
    )
    at_most: int = Field(10, ge=1, le=100, description="Most sessions that one step ends, the oldest first.")
    include_ddl: bool = Field(
        False, alias="includeDDL", description="DDL, VACUUM, REINDEX and the like, too. Backups never."
    )


@dataclass(frozen=True, slots=True)
class _Work:
    namespace: str
    connection: str
    victims: Sequence[Identity]
    grace: timedelta
    include_ddl: bool


class TerminateQueries(Action):
    """Cancels statements, and terminates the sessions whose statement goes on; each by pid, start and statement."""

    name = "terminateQueries"
    summary = (
        "Ends long statements of a PostgreSQL server: cancelled first, their sessions terminated after a grace time."
    )
    params = TerminateQueriesParams
    kinds = CONNECTION
    extra = "postgres"
    connection_types = ("postgres",)
    undoable = False

    async def observe(self, target: BoundTarget, clients: Clients) -> Observed:
        """Reads all sessions. Raises Refused (a missing right), Terminal, Unreachable."""
        database = await connections_of(clients).postgres(target.namespace, target.name)
        activity = await look(database)
        return Observed(as_target(target, activity.server), seen=activity)

    def state(self, observed: Observed) -> State:
        """There is no state to come back to."""
        return {}

    def plan(self, observed: Observed, params: TerminateQueriesParams, operation: str) -> Change:
        """Whom to end: on the status by identity, with the statement's text without its literals."""
        activity = _activity(observed)
        chosen = choose(activity.sessions, _wanted(params, activity.database))
        message = f"{observed.name}: {_diagnosis(activity)}; {_intention(chosen, params)}"
        before: State = {"sessions": [victim.to_status() for victim in chosen.victims]}
        if not chosen.victims:
            return Change(before, {"ended": 0}, (), None, message)
        if any(victim.needs_right for victim in chosen.victims):
            raise Refused(
                Reason.FORBIDDEN,
                f'{message}; but {activity.user} may not end them: GRANT pg_signal_backend TO "{activity.user}"',
            )
        return _change(observed, params, before, [v.identity for v in chosen.victims], message)

    def plan_again(
        self, observed: Observed, params: TerminateQueriesParams, operation: str, before: State, after: State
    ) -> Change:
        """Those of the plan that are left, and nobody else."""
        left = _left(observed, before)
        spared = len(before.get("sessions", [])) - len(left)
        message = f"{observed.name}: {_diagnosis(_activity(observed))}; ending {_count(len(left))} of the plan"
        return _change(
            observed, params, before, left, f"{message} ({spared} have ended already)" if spared else message
        )

    def plan_as_shown(
        self, observed: Observed, params: TerminateQueriesParams, operation: str, before: State, after: State
    ) -> Change:
        """What a person was shown, as long as any of it is left: who has come since is not meant by a consent."""
        if _left(observed, before):
            return self.plan_again(observed, params, operation, before, after)
        return self.plan(observed, params, operation)

    def restore(self, observed: Observed, before: State, operation: str) -> Change:
        """What was ended does not come back."""
        raise Refused(Reason.NOT_PUT_BACK, "an ended query cannot be put back")

    async def apply(self, change: Change, clients: Clients) -> Report:
        """Ends them. Raises Unreachable when the connection is lost: then those that are left are looked for."""
        work: _Work = change.work
        database = await connections_of(clients).postgres(work.namespace, work.connection)
        ended = await end(database, work.victims, work.grace, include_ddl=work.include_ddl)
        return _report(change, ended, len(work.victims))

    def settled(self, observed: Observed, before: State, after: State, operation: str) -> Outcome:
        """Applied when none of those in the plan is left."""
        return Outcome.NOT_APPLIED if _left(observed, before) else Outcome.APPLIED


def _activity(observed: Observed) -> Activity:
    assert isinstance(observed.seen, Activity)
    return observed.seen


def _wanted(params: TerminateQueriesParams, database: str) -> Wanted:
    compiled = pattern(params.query_pattern) if params.query_pattern else None
    return Wanted(
        older_than=params.older_than,
        states=params.states,
        users=params.users,
        databases=params.databases or [database],
        applications=params.applications,
        wait_events=params.wait_events,
        matches=(lambda text: bool(compiled.search(text))) if compiled else (lambda _: True),
        include_ddl=params.include_ddl,
        at_most=params.at_most,
    )


def _change(
    observed: Observed, params: TerminateQueriesParams, before: State, victims: Sequence[Identity], message: str
) -> Change:
    namespace = observed.target["metadata"]["namespace"]
    work = _Work(namespace, observed.name, victims, params.grace, params.include_ddl)
    return Change(before, {"ended": len(before["sessions"])}, (), None, message, work=work)


def _left(observed: Observed, before: State) -> list[Identity]:
    present = {session.identity for session in _activity(observed).sessions}
    recorded: list[Json] = before.get("sessions", [])
    return [identity for identity in map(Identity.of_status, recorded) if identity in present]


def _diagnosis(activity: Activity) -> str:
    clients = [s for s in activity.sessions if s.backend_type == "client backend"]
    active = sum(s.state == "active" and not s.own for s in clients)
    longest = told(activity.sessions)
    use = f"{activity.connections} of {activity.max_connections} connections, {active} active"
    return f"{use} (longest: {longest})" if longest else use


def _intention(chosen: Chosen, params: TerminateQueriesParams) -> str:
    older = f"older than {format_duration(params.older_than)}"
    what = f"ending {_count(len(chosen.victims))} {older}" if chosen.victims else f"nothing {older} to be ended"
    more = f"{chosen.more} more are left (atMost)" if chosen.more else ""
    spared = ", ".join(f"{number} {reason}" for reason, number in sorted(chosen.spared.items()))
    return "; ".join(part for part in (what, more, f"spared: {spared}" if spared else "") if part)


def _count(number: int) -> str:
    return f"{number} {'query' if number == 1 else 'queries'}"


def _report(change: Change, ended: Ended, meant: int) -> Report:
    done = meant - len(ended.left)
    result: dict[str, Any] = {
        "ended": done,
        "cancelled": ended.cancelled,
        "terminated": ended.terminated,
        "left": len(ended.left),
    }
    if ended.left:
        pids = ", ".join(map(str, ended.left[:10]))
        return Report(f"{done} of {meant} have ended; still there: pid {pids}", result, failed=True)
    how = f"{ended.cancelled} cancelled, {ended.terminated} terminated"
    return Report(f"{change.message}: {how}", result)
