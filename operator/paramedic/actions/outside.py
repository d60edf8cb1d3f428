"""What actions share whose target is a Connection: something outside of the cluster."""

from typing import TYPE_CHECKING

from paramedic.actions.base import Clients, Json
from paramedic.api.workload import BoundTarget

if TYPE_CHECKING:
    from paramedic.clients.connections import Connections

CONNECTION = ("Connection",)


def connections_of(clients: Clients) -> "Connections":
    """The connections; an operator always has them."""
    assert clients.connections is not None
    return clients.connections


def as_target(target: BoundTarget, identity: str) -> Json:
    """The target as if it were an object of the API server, with the server's own identity as its UID."""
    metadata = {"name": target.name, "namespace": target.namespace, "uid": identity}
    return {"apiVersion": target.api_version, "kind": target.kind, "metadata": metadata}
