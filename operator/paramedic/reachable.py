"""Whether the connections that a policy names are there: asked now and then, for Secrets come and go."""

import time
from collections.abc import Iterator

from paramedic.actions import ACTIONS
from paramedic.api.policy import RemediationPolicy
from paramedic.api.reasons import Reason
from paramedic.clients.connections import Connections
from paramedic.errors import Refused, Retry, Terminal

_KEPT_SECONDS = 30.0
Problem = tuple[Reason, str]
Use = tuple[str, str, tuple[str, ...]]


class Reachable:
    """What is wrong with the connections of policies. Nothing is connected to; answers are kept for half a minute."""

    def __init__(self, connections: Connections) -> None:
        self._connections = connections
        self._known: dict[Use, tuple[float, Problem | None]] = {}

    async def problem(self, policy: RemediationPolicy) -> Problem | None:
        """The first that cannot be used, and why; None where all can, or where it cannot be told now."""
        for step, use in _uses(policy):
            found = await self._look(use)
            if found:
                return found[0], f"steps.{step}: {found[1]}"
        return None

    async def _look(self, use: Use) -> Problem | None:
        now = time.monotonic()
        until, known = self._known.get(use, (0.0, None))
        if now < until:
            return known
        found = await self._ask(use)
        self._known = {one: kept for one, kept in self._known.items() if kept[0] > now}
        self._known[use] = now + _KEPT_SECONDS, found
        return found

    async def _ask(self, use: Use) -> Problem | None:
        namespace, name, types = use
        try:
            await self._connections.check(namespace, name, *types)
        except (Refused, Terminal) as error:
            return error.reason, str(error)
        except Retry:
            return None
        return None


def _uses(policy: RemediationPolicy) -> Iterator[tuple[str, Use]]:
    """The steps that use a connection, with its namespace, its name and the types that will do."""
    for step in policy.spec.steps:
        action = ACTIONS.get(step.action)
        target = step.target or policy.spec.target
        if action is None:
            continue
        for name, types in action.connections_used(step.params, target.name if target else None):
            for namespace in policy.spec.namespaces or [policy.metadata.namespace]:
                yield step.name, (namespace, name, types)
