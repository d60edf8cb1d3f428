"""``diagnose``: looks for the cause, and changes nothing (runbook 1 and 3, "Diagnosis Steps").

Every incident is diagnosed once by itself; as a step it comes at a chosen moment, and knows where to look beside the
target.
"""

from paramedic.actions.base import Action, Change, Clients, Json, Observed, Outcome, Report, State
from paramedic.api.diagnosis import ConnectionCheck, DiagnoseParams
from paramedic.api.reasons import Reason
from paramedic.api.workload import bound
from paramedic.core.findings import told
from paramedic.errors import Refused, Terminal


class Diagnose(Action):
    """Runs all checks at once. ``when`` of later steps knows ``findings``."""

    name = "diagnose"
    summary = "Looks for the cause: pods, rollouts, Events, logs, services, nodes, URLs, DNS, Envoy, databases, queues."
    params = DiagnoseParams
    connection_types = ("postgres", "redis", "aurora", "cloudNativePG", "elasticache")
    undoable = False
    slow = True

    def connections_named(self, params: Json, target: str | None) -> tuple[str, ...]:
        """Those to look at."""
        return tuple(check.name for check in self.connection_checks(params, target))

    def connection_checks(self, params: Json, target: str | None) -> tuple[ConnectionCheck, ...]:
        """Those to look at."""
        return tuple(DiagnoseParams.model_validate(params).connections)

    def state(self, observed: Observed) -> State:
        """Nothing is governed."""
        return {}

    def plan(self, observed: Observed, params: DiagnoseParams, operation: str) -> Change:
        """A look at the target."""
        namespace = str(observed.target["metadata"]["namespace"])
        work = bound(observed.kind, namespace, observed.name), params, observed.incident, observed.since
        return Change({}, {}, (), None, f"{observed.name}: looking for the cause", work=work)

    def restore(self, observed: Observed, before: State, operation: str) -> Change:
        """There is nothing to undo."""
        raise Refused(Reason.NOT_PUT_BACK, "a diagnosis needs no undo")

    async def apply(self, change: Change, clients: Clients) -> Report:
        """Looks. Raises Terminal where nobody can."""
        if clients.examine is None:
            raise Terminal(Reason.INVALID_PARAMETERS, "this process cannot diagnose")
        findings, evidence = await clients.examine(*change.work)
        return Report(told(findings), {"findings": len(findings)}, evidence, findings)

    def settled(self, observed: Observed, before: State, after: State, operation: str) -> Outcome:
        """It leaves no trace, and may always be done again."""
        return Outcome.NOT_APPLIED
