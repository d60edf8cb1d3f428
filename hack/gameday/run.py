"""One fault, once: brought about, watched until it is over, and told."""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import Any

from gameday.days import GameDay
from gameday.ground import Ground
from gameday.outage import Outage, outage_of
from gameday.scene import Act, Scene
from testbed.audit import Request, seconds_since_1970
from testbed.operator_process import USER

Json = dict[str, Any]

ENDED = ("Resolved", "Escalated")
DONE = ("Succeeded", "Skipped")
OWN = ("paramedic.dev", "events.k8s.io")
ASKED = ("authentication.k8s.io", "authorization.k8s.io")
"""Reviews are created to be answered; nothing is kept of them."""
EVIDENCE = "s3"
"""Where evidence goes: Paramedic's own records, as incidents are."""
LONGEST_ROUND_SECONDS = 60
"""So long a round may take that begins at the end of a day's `watch_seconds`."""


@dataclass(frozen=True)
class Run:
    """What came of one fault. Times are seconds after it was brought about, None when it did not come to that."""

    detected: float | None
    acted: float | None
    hurt: float | None
    """When it began to hurt."""
    recovered: float | None
    watched: float
    sent: int
    failed: Counter[str]
    acts: Counter[str]
    """What Paramedic has changed where it should."""
    outside: Counter[str]
    """What it has changed in other namespaces, or in none."""
    phases: list[str]
    """Of the incidents, at the end."""
    killed: Counter[str]
    """How often containers that there are at the end were ended before, by Kubernetes' reason."""
    amiss: list[str] = field(default_factory=list)
    """What the day's own look at the end found not to be as it should."""


def run(ground: Ground, day: GameDay, *, helped: bool, cap: float) -> Run:
    """Watched until it no longer hurts and the incident is over; at most `cap` seconds, or as long as the day needs."""
    namespace, cap = namespace_of(day, helped=helped), longest(day, cap)
    with ground.scene(day, namespace, helped=helped) as scene:
        ground.say(f"{namespace}: {day.fault}")
        mark, began = ground.audit.mark(), time.time()
        day.begin(scene)
        detected = watch(ground, day, scene, began, helped=helped, cap=cap)
        acts, outside = acts_of(ground, namespace, mark, began)
        amiss = day.look(scene, acts) if helped and day.look else []
        return replace(_told(scene, day, began, detected, acts, outside), amiss=amiss)


def longest(day: GameDay, cap: float) -> float:
    """Seconds after which nobody waits any longer. A day that must be watched for a while makes it longer: cut short,
    it would say nothing.
    """
    return max(cap, day.watch_seconds + LONGEST_ROUND_SECONDS) if day.watch_seconds else cap


def namespace_of(day: GameDay, *, helped: bool) -> str:
    """Where covet runs for it."""
    return f"covet-{day.name}" if helped else f"covet-{day.name}-alone"


def watch(ground: Ground, day: GameDay, scene: Scene, began: float, *, helped: bool, cap: float) -> float | None:
    """Returns when it is over, or the time is; and when the alert fired, as Alertmanager was told."""
    detected: float | None = None
    while time.time() < began + cap:
        if detected is None and (fired := ground.fired_at(scene.namespace)):
            detected = fired - began
        if time.time() >= began + day.watch_seconds and _over(day, scene, began, helped=helped):
            break
        time.sleep(0.2)
    return detected


def acts_of(ground: Ground, namespace: str, mark: int, began: float) -> tuple[list[Act], Counter[str]]:
    """What Paramedic has changed in the namespace, by the API server's audit log, in the database, by its log, and in
    AWS, by what was asked there; and what it has changed anywhere else.
    """
    inside, outside = sorted_out(ground.audit.writes(mark, user=USER), namespace)
    ended = [Act(at, "PostgreSQL: statement ended") for at in ground.stores.ended_statements() if at >= began]
    logs = [Act(at, "PostgreSQL: log of slow queries") for at in ground.stores.log_changes() if at >= began]
    asked = [Act(one.at, f"AWS: {one.action}") for one in ground.aws.cloud.changed(began) if one.service != EVIDENCE]
    return sorted([*inside, *ended, *logs, *asked], key=lambda one: one.at), outside


def sorted_out(writes: Sequence[Request], namespace: str) -> tuple[list[Act], Counter[str]]:
    """Changes of targets in the namespace; and those elsewhere, each with where it was."""
    changes = [one for one in writes if one.status < 300 and _on_target(one)]
    inside = [Act(seconds_since_1970(one.received_at), _what(one)) for one in changes if one.namespace == namespace]
    elsewhere = [one for one in changes if one.namespace != namespace]
    return inside, Counter(f"{_what(one)} in {one.namespace or 'no namespace'}" for one in elsewhere)


def phases(scene: Scene) -> list[str]:
    """Of the incidents that there are now; none when the API server cannot be asked."""
    with suppress(RuntimeError):
        items: list[Json] = json.loads(scene.kubectl("get", "incidents", "-o", "json"))["items"]
        return [phase_of(one.get("status", {})) for one in items]
    return []


def phase_of(status: Json) -> str:
    """An incident's phase; or Holding: all is done, and what was done is to be put back some time."""
    steps = status.get("steps", [])
    holds = any("revertAt" in step for step in steps) and all(step["state"] in DONE for step in steps)
    return "Holding" if holds and status.get("phase") not in ENDED else str(status.get("phase", ""))


def _over(day: GameDay, scene: Scene, began: float, *, helped: bool) -> bool:
    """No longer hurts, or never did and the incident is over."""
    outage = outage_of(day.hurt(scene), began)
    if outage.began is not None and not outage.over:
        return False
    if not helped:
        return outage.over
    now = phases(scene)
    return bool(now) and all(phase in (day.ends, "Escalated") for phase in now)


def killed(scene: Scene) -> Counter[str]:
    """Why the containers that there are now were ended before, by reason; none when the API server cannot be asked."""
    with suppress(RuntimeError):
        pods: list[Json] = json.loads(scene.kubectl("get", "pods", "-o", "json"))["items"]
        containers = [one for pod in pods for one in pod.get("status", {}).get("containerStatuses", [])]
        states = [one.get(key, {}).get("terminated") for one in containers for key in ("state", "lastState")]
        return Counter(str(state["reason"]) for state in states if state)
    return Counter()


def _told(
    scene: Scene, day: GameDay, began: float, detected: float | None, acts: Sequence[Act], outside: Counter[str]
) -> Run:
    outage = outage_of(day.hurt(scene), began)
    users: Outage = outage_of(scene.of_users(), began)
    return Run(
        detected=detected,
        acted=acts[0].at - began if acts else None,
        hurt=None if outage.began is None else outage.began - began,
        recovered=None if outage.ended is None else outage.ended - began,
        watched=time.time() - began,
        sent=users.sent,
        failed=users.failed,
        acts=Counter(one.what for one in acts),
        outside=outside,
        phases=phases(scene),
        killed=killed(scene),
    )


def _on_target(one: Request) -> bool:
    """Not Paramedic's own records (incidents, policies, Events), and not what it only asked about."""
    group = one.raw.get("objectRef", {}).get("apiGroup", "")
    return group not in (*OWN, *ASKED) and one.resource != "events" and "dryRun=" not in one.uri


def _what(one: Request) -> str:
    """Created objects have names of their own each time."""
    return f"{one.verb} {one.resource}" if one.verb == "create" else f"{one.verb} {one.resource} {one.name}"
