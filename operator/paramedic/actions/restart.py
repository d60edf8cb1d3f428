"""``restart``: rolls a workload's pods, as ``kubectl rollout restart`` does (runbook 1, "Quick Fixes")."""

from typing import Any

from paramedic.actions.base import Action, Change, Observed, State, annotation, patch_of, require_rollout
from paramedic.api import ANNOTATION_OPERATION
from paramedic.api.base import Model
from paramedic.api.reasons import Reason
from paramedic.api.workload import target_path
from paramedic.errors import Refused


class RestartParams(Model):
    """Nothing to set."""


class Restart(Action):
    """Sets an annotation of the pod template to the operation id, so that doing it twice is doing it once."""

    name = "restart"
    summary = "Rolls the pods of a Deployment, StatefulSet or DaemonSet."
    params = RestartParams
    undoable = False

    def state(self, observed: Observed) -> State:
        """The template's stamp."""
        template = observed.target["spec"]["template"].get("metadata") or {}
        return {"restart": annotation({"metadata": template}, ANNOTATION_OPERATION)}

    def plan(self, observed: Observed, params: Any, operation: str) -> Change:
        """A new stamp on the template. Raises Refused when that would not roll the pods."""
        require_rollout(observed)
        body = {"spec": {"template": {"metadata": {"annotations": {ANNOTATION_OPERATION: operation}}}}}
        namespace = observed.target["metadata"]["namespace"]
        patch = patch_of(
            observed.target, target_path(observed.kind, namespace, observed.name), body, operation, observed.incident
        )
        return Change(self.state(observed), {"restart": operation}, (patch,), None, f"{observed.name}: pods restarted")

    def restore(self, observed: Observed, before: State, operation: str) -> Change:
        """A restart cannot and need not be undone."""
        raise Refused(Reason.NOT_PUT_BACK, "a restart needs no undo")
