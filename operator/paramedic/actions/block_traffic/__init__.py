"""``blockTraffic``: cuts a service off (runbook 4, "Immediate Containment", and the emergency shutdown).

At the Service (its type, or its selector), or by a NetworkPolicy around the pods.
"""

from typing import Any

from paramedic.actions.base import Action, Change, Clients, Json, Observed, Outcome, State, read_target
from paramedic.actions.block_traffic.networkpolicy import Closing, policies_path
from paramedic.actions.block_traffic.params import BlockTrafficParams, Method
from paramedic.actions.block_traffic.service import Exposure, SelectorSwap, settled_by_stamp
from paramedic.api.reasons import Reason
from paramedic.api.workload import WORKLOADS, BoundTarget
from paramedic.errors import Refused

_AT_THE_SERVICE: dict[Method, Exposure | SelectorSwap] = {"Service": Exposure(), "Selector": SelectorSwap()}
_CLOSING = Closing()


class BlockTraffic(Action):
    """Patches the Service, or creates a NetworkPolicy."""

    name = "blockTraffic"
    summary = "Cuts off traffic: makes a Service a ClusterIP one, swaps its selector away, or adds a NetworkPolicy."
    params = BlockTrafficParams
    kinds = ("Service", *WORKLOADS)

    def reaches_beyond(self, params: Json) -> bool:
        """A NetworkPolicy is another object."""
        return params.get("method") == "NetworkPolicy"

    async def observe_for(self, target: BoundTarget, params: Json, clients: Clients) -> Observed:
        """Reads the target and, where one is to be made, the NetworkPolicies of the namespace."""
        found = await read_target(target, clients.kube)
        if params.get("method") != "NetworkPolicy":
            # What is read again later knows by this which of the two methods it was.
            return Observed(found | {"method": params.get("method") or "Service"})
        return Observed(found, {"policies": await clients.kube.list(policies_path(target.namespace))})

    def state(self, observed: Observed) -> State:
        """The fields of the Service, or the policies that were made."""
        return _way(observed).state(observed)

    def plan(self, observed: Observed, params: Any, operation: str) -> Change:
        """The change or the new policy. Raises Refused when the method is not for this target."""
        if params.method != "NetworkPolicy" and observed.kind != "Service":
            raise Refused(
                Reason.INVALID_PARAMETERS,
                f"method {params.method} is for a Service, not for {observed.kind}/{observed.name}: use method "
                "NetworkPolicy, or give the step the Service as its target",
            )
        return _way(observed).plan(observed, params, operation)

    def restore(self, observed: Observed, before: State, operation: str) -> Change:
        """Open again, as it was before."""
        return _way(observed).restore(observed, before, operation)

    def require_unchanged(self, observed: Observed, before: State, after: State) -> None:
        """Raises Refused when others have changed the same since, unless to what it was."""
        if "policies" in observed.related:
            _CLOSING.require_unchanged(observed, after)
        elif self.state(observed) != before:
            super().require_unchanged(observed, before, after)

    def settled(self, observed: Observed, before: State, after: State, operation: str) -> Outcome:
        """Whether the Service carries the operation's stamp, or the policy is there."""
        if "policies" in observed.related:
            return _CLOSING.settled(observed, before, after, operation)
        return settled_by_stamp(self.state(observed), observed, before, operation)


def _way(observed: Observed) -> Exposure | SelectorSwap | Closing:
    if "policies" in observed.related:
        return _CLOSING
    return _AT_THE_SERVICE[observed.target["method"]]
