"""What is shown, in chapters. Each asserts on what the API server says; none believes its own words."""

from __future__ import annotations

import re
import signal
import time
from typing import Any

from demo import terminal
from demo.follow import Follower, timestamp
from demo.world import DemoError, World, until, world
from testbed.access import KubectlError
from testbed.golang import ToolchainError
from testbed.janitor import temporary_folder
from testbed.operator_process import USER
from testbed.processes import ProcessError

Json = dict[str, Any]

GOOD_RELEASE, BAD_RELEASE = "covet/app:1.0.0", "covet/app:1.1.0-bad"
OUTAGE_LIMIT = 90.0
STEP_LIMIT = 20.0
GOOD = {"Applied", "Verified", "AlertResolved", "RemediationSucceeded"}
BAD = {"AlertReceived", "VerificationFailed", "StepFailed", "RemediesExhausted"}


def main() -> int:
    """The exit code: 0 when everything was seen to happen, 1 when not, 130 when interrupted."""
    for number in (signal.SIGTERM, signal.SIGHUP):  # they leave as little behind as Ctrl-C
        if signal.getsignal(number) != signal.SIG_IGN:
            signal.signal(number, signal.default_int_handler)
    began = time.monotonic()
    try:
        with temporary_folder("paramedic-demo-") as folder:
            terminal.title("Paramedic: an outage, from the bad release to the recovery")
            terminal.chapter(1, "The scene")
            with world(folder) as parts:
                _tell(parts)
        _farewell(time.monotonic() - began)
    except (DemoError, KubectlError, ProcessError, ToolchainError, OSError) as error:
        terminal.failed(str(error))
        return 1
    except KeyboardInterrupt:
        terminal.line("\n   interrupted; nothing is left running")
        return 130
    return 0


def _tell(parts: World) -> None:
    """The story; when something does not happen, with what Paramedic last said."""
    try:
        outage(parts)
        by_hand(parts)
        observe(parts)
        refused(parts)
    except DemoError as error:
        raise DemoError(f"{error}\n\nThe end of Paramedic's log:\n{parts.operator.log_tail(8)}") from error


def _farewell(seconds: float) -> None:
    shown = "a rollback by a real alert, a loan of workers, a plan without an act, a refusal"
    terminal.line(f"\n{terminal.paint('Shown', terminal.BOLD)}: {shown}; nothing is left running. {seconds:.0f} s")


# -- the outage -------------------------------------------------------------------------------------------------------


def outage(parts: World) -> None:
    """A bad release is undone by an alert that it caused."""
    terminal.chapter(2, "A bad release, and nobody awake")
    mark = parts.audit().mark()
    follower = Follower(parts.cluster.credentials(), "covet")
    began = time.time()
    parts.kubectl("set", "image", "deployment/covet-app", f"app={BAD_RELEASE}", show=True)
    incident = _watch_outage(parts, follower, began)
    _check_outage(parts, incident, mark)
    _show_times(incident, began)
    name = incident["metadata"]["name"]
    parts.kubectl("get", "inc", show=True)
    parts.kubectl("get", "inc", "-o", "wide", show=True)
    terminal.command(f"kubectl describe inc {name}   # in part")
    terminal.output(trimmed(parts.kubectl("describe", "inc", name)))


def _watch_outage(parts: World, follower: Follower, began: float) -> Json:
    """Prints what happens until the incident is over; returns the Incident."""
    deadline = time.monotonic() + OUTAGE_LIMIT
    signals = _Signals(parts, began)
    while time.monotonic() < deadline:
        for entry in follower.news():
            text = f"{entry['reason']}: {entry['message']}"
            terminal.moment(timestamp(entry["at"]) - began, entry["actor"], text, _colour(entry["reason"]))
        signals.look()
        over = [one for one in follower.incidents.values() if one.get("status", {}).get("phase") == "Resolved"]
        if over:
            return over[0]
        time.sleep(0.1)
    seen = {name: one.get("status", {}).get("message") for name, one in follower.incidents.items()}
    raise DemoError(f"the outage was not over within {OUTAGE_LIMIT:g} s. Incidents: {seen or 'none'}")


class _Signals:
    """Prints what Prometheus sees, whenever it changes."""

    def __init__(self, parts: World, began: float) -> None:
        self._parts = parts
        self._began = began
        self._alert = "inactive"
        self._failing = False

    def look(self) -> None:
        ratio, alert = self._parts.error_ratio() or 0.0, self._parts.alert_state()
        if (ratio > 0.01) != self._failing:
            self._failing = ratio > 0.01
            text = f"{ratio:.0%} of the requests fail" if self._failing else "no request fails any more"
            self._say(text, terminal.YELLOW if self._failing else terminal.GREEN)
        if alert != self._alert:
            self._alert = alert
            suffix = f", {ratio:.0%} of the requests fail" if alert == "firing" else ""
            self._say(f"alert CovetApiErrors is {alert}{suffix}", terminal.RED if alert == "firing" else "")

    def _say(self, text: str, colour: str) -> None:
        terminal.moment(time.time() - self._began, "prometheus", text, colour)


def _check_outage(parts: World, incident: Json, mark: int) -> None:
    """The API server's word: one action, on the right target, and it helped."""
    step, app = incident["status"]["steps"][0], parts.get("deployment", "covet-app")
    image = app["spec"]["template"]["spec"]["containers"][0]["image"]
    _expect(image == GOOD_RELEASE, f"covet-app runs {GOOD_RELEASE} again (it runs {image})")
    _expect(app["status"].get("availableReplicas") == 3, "all replicas of covet-app are available")
    _expect(step["state"] == "Succeeded", f"the rollback succeeded (its state is {step['state']})")
    stamp = app["metadata"]["annotations"].get("paramedic.dev/operation")
    _expect(stamp == step["operation"], "covet-app carries the operation's stamp")
    _expect(parts.error_ratio() == 0, "no request fails any more")
    writes = parts.audit().writes(mark, user=USER, namespace="covet")
    touched = [one.name for one in writes if one.resource == "deployments"]
    _expect(touched == ["covet-app"], f"exactly one write on a Deployment, that of covet-app (there were {touched})")
    terminal.passed(
        f"the API server agrees: {GOOD_RELEASE} on 3 of 3 replicas; Paramedic wrote to one Deployment, once"
    )


def _show_times(incident: Json, began: float) -> None:
    at = {entry["reason"]: timestamp(entry["at"]) for entry in reversed(incident["status"]["timeline"])}
    alert, action, recovered = (at.get(reason, float("nan")) for reason in ("AlertReceived", "Applied", "Verified"))
    text = f"bad release → alert {alert - began:.1f} s → rolled back {action - alert:.2f} s → "
    terminal.passed(terminal.paint(f"{text}recovered {recovered - action:.1f} s", terminal.BOLD))


# -- the rest ---------------------------------------------------------------------------------------------------------


def by_hand(parts: World) -> None:
    """An Incident that a person applies is carried out too, and what was lent is taken back."""
    terminal.chapter(3, "An incident declared by hand: more workers, for a while")
    _apply(parts, "queue-is-stuck", "QueueBacklog", "P2", "Jobs wait for more than ten minutes")
    incident = _wait_for(parts, "queue-is-stuck", "Remediating", step=("more-workers", "Succeeded"))
    worker = parts.get("deployment", "covet-worker")
    _expect(worker["spec"]["replicas"] == 7, f"covet-worker has 7 replicas (it has {worker['spec']['replicas']})")
    _expect(worker["status"].get("availableReplicas") == 7, "all 7 of them are available")
    parts.kubectl("get", "inc", "queue-is-stuck", "-o", "wide", show=True)
    step = _step(incident, "more-workers")
    seconds = timestamp(step["finishedAt"]) - timestamp(incident["status"]["timeline"][0]["at"])
    terminal.passed(f"{step['message']}, 7 of 7 available; applied and verified in {seconds:.1f} s")
    incident = _wait_for(parts, "queue-is-stuck", "Resolved")
    replicas = parts.get("deployment", "covet-worker")["spec"]["replicas"]
    _expect(replicas == 2, f"covet-worker has its 2 replicas back (it has {replicas})")
    revert = _step(incident, "more-workers")["revert"]
    terminal.passed(f"and put back when its ttl of {step['ttl']} was over: {revert['message']}")


def observe(parts: World) -> None:
    """A policy on trial says what it would do, and does nothing."""
    terminal.chapter(4, "A policy on trial (mode: Observe): what it would do")
    before = parts.get("statefulset", "covet-search")["metadata"]
    _apply(parts, "slow-search", "SearchSlow", "P3", "Searching takes seconds")
    incident = _wait_for(parts, "slow-search", "Open", step=("restart", "Skipped"))
    after = parts.get("statefulset", "covet-search")["metadata"]
    step = _step(incident, "restart")
    _expect(step["reason"] == "ObserveMode", f"the mode is why nothing is done (said: {step['reason']})")
    _expect(step["message"].startswith("would: "), f"the plan is on the status (there is: {step['message']})")
    same = (before["generation"], before["uid"]) == (after["generation"], after["uid"])
    _expect(same, "covet-search was not touched")
    parts.kubectl("get", "inc", "slow-search", "-o", "wide", show=True)
    generation = after["generation"]
    terminal.passed(f"its plan: “{step['message']}”; untouched: covet-search is still at generation {generation}")


def refused(parts: World) -> None:
    """What is held back is as visible as what is done."""
    terminal.chapter(5, "The same target once more: refused")
    before = parts.get("deployment", "covet-worker")["metadata"]["generation"]
    _apply(parts, "queue-is-stuck-again", "QueueBacklog", "P2", "Jobs wait again")
    incident = _wait_for(parts, "queue-is-stuck-again", "Blocked")
    refusal = _condition(incident, "RemediationAllowed")
    _expect((refusal["status"], refusal["reason"]) == ("False", "Cooldown"), f"the cooldown refuses (said: {refusal})")
    after = parts.get("deployment", "covet-worker")["metadata"]["generation"]
    _expect(before == after, "covet-worker was not touched")
    events = until(lambda: _events(parts, "queue-is-stuck-again", "Cooldown"), "the Event Cooldown", STEP_LIMIT)
    _expect(events[0]["type"] == "Warning", "the Event is a Warning")
    parts.kubectl("get", "inc", "queue-is-stuck-again", "-o", "wide", show=True)
    parts.kubectl("get", "events", "--field-selector", "reason=Cooldown", show=True)
    text = f"RemediationAllowed=False, Cooldown; untouched: covet-worker is still at generation {after}"
    terminal.passed(text)


def _apply(parts: World, name: str, kind: str, severity: str, title: str) -> None:
    """Shows the manifest and applies it."""
    manifest = (
        "apiVersion: paramedic.dev/v1alpha1\nkind: Incident\n"
        f"metadata: {{name: {name}, namespace: covet}}\n"
        f"spec: {{type: {kind}, severity: {severity}, title: {title}}}\n"
    )
    terminal.command(f"kubectl apply -f -   # {kind}, {severity}: {title}")
    terminal.output(parts.kubectl("apply", "-f", "-", stdin=manifest))


def _wait_for(parts: World, name: str, phase: str, step: tuple[str, str] | None = None) -> Json:
    """The Incident, once it is in the phase and the step in its state."""
    seen: list[Json] = []

    def probe() -> Json | None:
        seen[:] = [parts.get("incident", name)]
        status = seen[0].get("status", {})
        states = [(one["name"], one["state"]) for one in status.get("steps", [])]
        return seen[0] if status.get("phase") == phase and (step is None or step in states) else None

    try:
        found: Json = until(probe, f"incident {name} is {phase}", STEP_LIMIT)
    except DemoError as error:
        status = seen[0].get("status", {}) if seen else {}
        raise DemoError(f"{error}; it is {status.get('phase')}: {status.get('message')}") from error
    return found


def _events(parts: World, incident: str, reason: str) -> list[Json]:
    return parts.list("events", f"--field-selector=reason={reason},involvedObject.name={incident}")


def _condition(incident: Json, kind: str) -> Json:
    conditions = incident["status"].get("conditions", [])
    return next((one for one in conditions if one["type"] == kind), {"status": "missing", "reason": "missing"})


def _step(incident: Json, name: str) -> Json:
    found: Json = next(one for one in incident["status"]["steps"] if one["name"] == name)
    return found


def _expect(true: bool, what: str) -> None:
    """DemoError unless it is so; `what` says how it should be."""
    if not true:
        raise DemoError(f"this should hold, and does not: {what}")


def _colour(reason: str) -> str:
    return terminal.GREEN if reason in GOOD else terminal.RED if reason in BAD else ""


# -- kubectl describe, in part ----------------------------------------------------------------------------------------

_NOT_SHOWN = """
API Version, Kind, Namespace, Metadata, Labels, Annotations, Alert, Policy, Policy Ref, Target, Checklist, Evidence,
Conditions, Timeline, Observed Generation, Resolved At, Action, Params, When, Before, After, Approval Required,
On Failure, Timeout, Attempts, Verify, Verification, Started At, Finished At, Paused, Ttl
"""
_DROPPED = re.compile(rf"^ *({'|'.join(part.strip() for part in _NOT_SHOWN.split(','))}):")


def trimmed(description: str) -> str:
    """The lines of a description that a person looks for first; a dropped key takes what is under it along."""
    kept: list[str] = []
    dropped_at = -1
    for text in description.splitlines():
        indent = len(text) - len(text.lstrip())
        if 0 <= dropped_at < indent:
            continue
        dropped_at = indent if _DROPPED.match(text) else -1
        if dropped_at < 0:
            kept.append(text)
    return "\n".join(kept)
