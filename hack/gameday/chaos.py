"""Chaos: while an incident is under way, something else breaks. Nothing may be done twice, and nothing be lost.

The fault is always the same, a release that answers 500. What counts is what the API server's audit log and the
Deployment's generation say, not Paramedic's own words.
"""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from gameday.days import DAYS
from gameday.ground import Ground
from gameday.outage import outage_of
from gameday.report import seconds
from gameday.run import acts_of, phases, watch
from gameday.scene import Scene
from testbed.operator_process import NAMESPACE as OPERATOR_NAMESPACE
from testbed.processes import wait_until
from testbed.realnode import enter
from testbed.realnode.settings import SOCKET
from testbed.rest import ApiError
from testbed.toolchain import binary

Json = dict[str, Any]

DAY = next(day for day in DAYS if day.name == "bad-release")
MOMENT_SECONDS = 60
DOWN_SECONDS = 10
LEAST_SECONDS = 120
"""So long it is watched at least: when the API server was away, Kubernetes' own controllers and the kubelet, which are
needed in turn, may take a minute to look at it again (client-go waits up to 30 s, and by chance as long again).
"""
HEAD = (
    "what broke",
    "when",
    "incidents",
    "acted after",
    "recovered after",
    "requests failed",
    "Paramedic changed, by the audit log",
    "by the Deployment's generation",
)


@dataclass(frozen=True)
class Chaos:
    """What breaks, and when."""

    name: str
    what: str
    when: str
    """One of `MOMENTS`."""
    strike: Callable[[Ground], None]
    tellers: int = 1
    """How many Alertmanagers, which know nothing of each other, Prometheus tells."""


@dataclass(frozen=True)
class Aftermath:
    """What came of it."""

    chaos: Chaos
    acted: float | None
    recovered: float | None
    """Both in seconds after the release; None when it did not come to that."""
    sent: int
    failed: int
    phases: list[str]
    acts: Counter[str]
    generations: int
    """How often the Deployment was changed after the release."""
    outside: Counter[str]
    """What Paramedic has changed anywhere else."""

    def problems(self) -> list[str]:
        """What is not as it should be."""
        found = []
        if self.phases != ["Resolved"]:
            found.append(f"incidents ended as {self.phases or 'none'}")
        if self.recovered is None:
            found.append("users are still hurt")
        if dict(self.acts) != dict(DAY.acts) or self.generations != 1:
            found.append(f"changed {dict(self.acts)}, {self.generations} by generation, where {dict(DAY.acts)} was due")
        if self.outside:
            found.append(f"changed what is none of its business: {dict(self.outside)}")
        return [f"{self.chaos.name}: {one}" for one in found]

    def as_json(self) -> Json:
        """All figures."""
        chaos = {"name": self.chaos.name, "what": self.chaos.what, "when": self.chaos.when}
        return vars(self) | {"chaos": chaos, "problems": self.problems()}

    def cells(self) -> list[str]:
        """In the order of `HEAD`."""
        return [
            self.chaos.what,
            self.chaos.when,
            ", ".join(self.phases) or "none",
            seconds(self.acted),
            seconds(self.recovered),
            f"{self.failed} of {self.sent}",
            ", ".join(f"{times} × {what}" for what, times in self.acts.items()) or "nothing",
            str(self.generations),
        ]


def namespace_of(chaos: Chaos) -> str:
    """Where covet runs for it."""
    return f"covet-chaos-{chaos.name}"


def run_chaos(ground: Ground, chaos: Chaos, cap: float) -> Aftermath:
    """The fault, and at its moment the other one; watched until it is over, for `cap` or `LEAST_SECONDS` at most after
    that.
    """
    namespace = namespace_of(chaos)
    ground.prometheus.alertmanagers = [one.url for one in ground.alertmanagers[: chaos.tellers]]
    with ground.scene(DAY, namespace, helped=True) as scene:
        ground.say(f"{namespace}: {chaos.what}, when {chaos.when}")
        mark, began = ground.audit.mark(), time.time()
        DAY.begin(scene)
        released = _generation(scene)
        wait_until(lambda: MOMENTS[chaos.when](ground, scene), chaos.when, MOMENT_SECONDS, interval=0.02)
        chaos.strike(ground)
        watch(ground, DAY, scene, began, helped=True, cap=time.time() - began + max(cap, LEAST_SECONDS))
        users = outage_of(scene.of_users(), began)
        acts, outside = acts_of(ground, namespace, mark, began)
        return Aftermath(
            chaos=chaos,
            acted=acts[0].at - began if acts else None,
            recovered=None if users.ended is None else users.ended - began,
            sent=users.sent,
            failed=users.failures,
            phases=phases(scene),
            acts=Counter(one.what for one in acts),
            generations=_generation(scene) - released,
            outside=outside,
        )


def _generation(scene: Scene) -> int:
    return int(scene.get("deployment", "covet-app")["metadata"]["generation"])


# -- moments ----------------------------------------------------------------------------------------------------------


def _alert_fires(ground: Ground, _: Scene) -> bool:
    return "firing" in ground.alert_states()


def _incident_is_there(ground: Ground, scene: Scene) -> bool:
    return bool(_incidents(ground, scene))


def _step_verifies(ground: Ground, scene: Scene) -> bool:
    return any(one.get("status", {}).get("phase") == "Verifying" for one in _incidents(ground, scene))


def _incidents(ground: Ground, scene: Scene) -> list[Json]:
    path = f"/apis/paramedic.dev/v1alpha1/namespaces/{scene.namespace}/incidents"
    with suppress(OSError, ApiError):
        found: list[Json] = ground.cluster.api().request("GET", path)["items"]
        return found
    return []


MOMENTS = {
    "the alert fires": _alert_fires,
    "the incident is stored": _incident_is_there,
    "the rollback is verified": _step_verifies,
}


# -- strikes ----------------------------------------------------------------------------------------------------------


def _kill_operator(ground: Ground) -> None:
    """SIGKILL to the process of the replica that leads; the kubelet starts it again."""
    pod = json.loads(ground.cluster.kubectl("get", "pod", _leader(ground), "-n", OPERATOR_NAMESPACE, "-o", "json"))
    container = pod["status"]["containerStatuses"][0]["containerID"].rpartition("/")[2]
    ctr = (str(binary("ctr")), "--address", SOCKET, "--namespace", "k8s.io")
    enter(ground.cluster.folder, *ctr, "tasks", "kill", "--signal", "SIGKILL", container)


def _delete_operators_pod(ground: Ground) -> None:
    """The replica that leads goes at once and does not come back under its name: the other has to take over."""
    words = ("delete", "pod", _leader(ground), "-n", OPERATOR_NAMESPACE, "--force", "--grace-period=0")
    ground.cluster.kubectl(*words)


def _delete_all_operators_pods(ground: Ground) -> None:
    words = ("delete", "pods", "--all", "-n", OPERATOR_NAMESPACE, "--force", "--grace-period=0")
    ground.cluster.kubectl(*words)


def _stop_kubelet(ground: Ground) -> None:
    """Pods run on, but none is started or ended meanwhile."""
    ground.node.stop_kubelet()
    time.sleep(DOWN_SECONDS)
    ground.node.start_kubelet()


def _restart_apiserver(ground: Ground) -> None:
    ground.cluster.restart_apiserver(downtime=DOWN_SECONDS)


def _stop_prometheus(ground: Ground) -> None:
    """It forgets everything: its storage starts empty."""
    ground.prometheus.stop()
    time.sleep(DOWN_SECONDS)
    ground.prometheus.start()


def _nothing(_: Ground) -> None:
    """What disturbs was there from the beginning."""


def _everything(ground: Ground) -> None:
    _kill_operator(ground)
    ground.prometheus.stop()
    ground.node.stop_kubelet()
    _restart_apiserver(ground)
    ground.node.start_kubelet()
    ground.prometheus.start()


def _leader(ground: Ground) -> str:
    words = ("get", "lease", "paramedic", "-n", OPERATOR_NAMESPACE, "-o", "jsonpath={.spec.holderIdentity}")
    return ground.cluster.kubectl(*words).partition("_")[0]


CHAOS: Sequence[Chaos] = (
    Chaos("killed-early", "Paramedic killed with -9", "the incident is stored", _kill_operator),
    Chaos("killed-late", "Paramedic killed with -9", "the rollback is verified", _kill_operator),
    Chaos("pod-deleted", "the leading pod deleted by force", "the incident is stored", _delete_operators_pod),
    Chaos("both-deleted", "both pods deleted by force", "the alert fires", _delete_all_operators_pods),
    Chaos("kubelet", "the node's kubelet stopped for 10 s", "the incident is stored", _stop_kubelet),
    Chaos("apiserver-early", "the API server away for 10 s", "the alert fires", _restart_apiserver),
    Chaos("apiserver-late", "the API server away for 10 s", "the rollback is verified", _restart_apiserver),
    Chaos("prometheus-early", "Prometheus away for 10 s, and empty", "the incident is stored", _stop_prometheus),
    Chaos("prometheus-late", "Prometheus away for 10 s, and empty", "the rollback is verified", _stop_prometheus),
    Chaos("told-twice", "two Alertmanagers, each tells everything", "the alert fires", _nothing, tellers=2),
    Chaos("everything", "all of these at once", "the incident is stored", _everything, tellers=2),
)
