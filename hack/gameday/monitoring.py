"""The testbed's Prometheus, within reach of pods, with any number of Alertmanagers; and who tells it of the pods."""

from __future__ import annotations

import contextlib
import urllib.parse
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from gameday.repeated import Repeated
from testbed.monitoring import Prometheus
from testbed.processes import ProcessError
from testbed.rest import ApiError, Rest

Json = dict[str, Any]

PODS, SERVICE = "covet", "covet-service"
"""Jobs: each pod of its own; and whether anybody answers at the Service."""
POLL_SECONDS = 0.5


class ReachablePrometheus(Prometheus):
    """Listens on a second address, too: `outside_url`."""

    def __init__(self, folder: Path, *, host: str, port: int, alertmanagers: Sequence[str]) -> None:
        super().__init__(folder, targets={PODS: [], SERVICE: []})
        self.outside_url = f"http://{host}:{port}"
        self.alertmanagers = list(alertmanagers)

    def _config(self) -> Json:
        config = super()._config()
        addresses = [urllib.parse.urlsplit(url).netloc for url in self.alertmanagers]
        config["alerting"] = {"alertmanagers": [{"static_configs": [{"targets": addresses}]}]}
        return config

    def _flags(self) -> list[str]:
        return [*super()._flags(), f"--web.listen-address={urllib.parse.urlsplit(self.outside_url).netloc}"]


class Discovery:
    """A thread that tells Prometheus which pods there are, as its own discovery of Kubernetes would."""

    def __init__(self, api: Rest, prometheus: Prometheus, namespace: str, service: str) -> None:
        self._api = api
        self._prometheus = prometheus
        self._pods = f"/api/v1/namespaces/{namespace}/pods?labelSelector=app%3Dcovet"
        self._service = service
        self._told: list[str] = []
        self._following = Repeated("discovery", POLL_SECONDS, self._follow)

    def __enter__(self) -> Self:
        self._prometheus.set_targets(SERVICE, [self._service])
        self._following.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._following.__exit__(kind, error, trace)
        for job in (PODS, SERVICE):
            with contextlib.suppress(OSError, ProcessError):
                self._prometheus.set_targets(job, [])

    def _follow(self) -> None:
        with contextlib.suppress(OSError, ApiError, ProcessError):  # one of the two is away
            found = sorted(map(_address, filter(_is_there, self._api.request("GET", self._pods)["items"])))
            if found != self._told:
                self._prometheus.set_targets(PODS, found)
                self._told = found


def _is_there(pod: Json) -> bool:
    status = pod.get("status", {})
    return bool(status.get("podIP")) and status.get("phase") == "Running" and "deletionTimestamp" not in pod["metadata"]


def _address(pod: Json) -> str:
    return f"{pod['status']['podIP']}:8000"
