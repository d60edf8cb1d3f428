"""What a cluster asks of its node, be it played or real."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, Protocol

from testbed.processes import Child
from testbed.rest import Rest


class Node(Protocol):
    """The one node of a cluster. The order is `prepare`, `start`, `stop`; `stop` comes also when one of them failed."""

    @property
    def name(self) -> str: ...

    @property
    def users(self) -> Mapping[str, list[str]]:
        """Those that its programs log in as: user name → groups. The audit log leaves them out."""

    @property
    def services(self) -> str:
        """The network that Services get their ClusterIPs from; known after `prepare`."""

    def prepare(self) -> str:
        """Before there is an API server. Returns the address that this one is to listen on."""

    def apiserver_flags(self) -> dict[str, Any]:
        """Flags of kube-apiserver for this kind of node; known after `prepare`."""

    def controller_manager_flags(self) -> dict[str, Any]:
        """Flags of kube-controller-manager for this kind of node."""

    def start(self, api: Rest, kubeconfig_of: Callable[[str], Path], certificate: Path) -> None:
        """Starts its programs and lets it join; `certificate` is the API server's, the key beside it."""

    def stop(self) -> None:
        """Ends its programs and removes what they have made, outside of the cluster's folder too."""

    def children(self) -> Iterable[Child]:
        """Its running programs."""
