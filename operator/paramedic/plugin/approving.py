"""``kubectl incident approve``: consent to one plan, after it was shown."""

from collections.abc import Sequence
from typing import Any

import click

from paramedic.plugin.failures import Exit, Failure
from paramedic.plugin.planned import change_lines, lease_line
from paramedic.plugin.reading import read_incident
from paramedic.plugin.saying import write
from paramedic.plugin.screen import Line, Span
from paramedic.plugin.session import connection_options, how_to, name_argument, output_option, session, step_argument
from paramedic.plugin.styles import HEADING
from paramedic.plugin.texts import Json, at


@click.command()
@name_argument
@step_argument
@click.option("-y", "--yes", is_flag=True, help="Do not ask. Needed where there is no terminal.")
@output_option("json", "yaml", "name")
@connection_options
def approve(name: str, step: str | None, yes: bool, form: str | None) -> None:
    """Show the plan that waits for approval, and consent to it.

    The consent is bound to the plan as it is shown: should it change, it is asked for anew.
    """
    incidents, screen = session().incidents, session().screen
    incident = incidents.get(name)
    shown = _waiting_step(incident, step)
    screen.before_result(_plan(incident, shown), form)
    if not yes:
        if not screen.can_ask:
            raise Failure(Exit.USAGE, "there is no terminal to ask on: --yes approves what is shown here")
        if not screen.ask("Approve?"):
            screen.note(f"not approved; to refuse it: {how_to('reject', name)}")
            return
    me = incidents.whoami()
    consent = {"step": shown.get("partOf") or shown["name"], "approvedBy": me, "operation": shown["operation"]}

    def change(found: Json) -> Json:
        if consent in at(found, "spec", "approvals", default=[]):
            return {}
        _check_unchanged(found, shown)
        return {"approvals": [*at(found, "spec", "approvals", default=[]), consent]}

    write(name, change, [f"step {consent['step']} of {name} approved by {me}"], form)


def _waiting_step(incident: Json, wanted: str | None) -> Json:
    """The step that waits; of several, the one that is wanted. Raises Failure."""
    name = incident["metadata"]["name"]
    waiting = _waiting(incident)
    chosen = [s for s in waiting if wanted in (None, s["name"], s.get("partOf"))]
    if len(chosen) == 1:
        return chosen[0]
    if chosen:
        names = ", ".join(s["name"] for s in chosen)
        raise Failure(Exit.USAGE, f"several steps of {name} wait for approval, name one: {names}")
    phase, message = at(incident, "status", "phase", default="Open"), at(incident, "status", "message")
    which = f"step {wanted} of {name} does not wait" if wanted else f"no step of {name} waits"
    raise Failure(Exit.CONFLICT, f"{which} for approval; it is {phase}: {message}")


def _waiting(incident: Json) -> Sequence[dict[str, Any]]:
    steps = at(incident, "status", "steps", default=[])
    return [s for s in steps if s.get("state") == "AwaitingApproval" and s.get("operation")]


def _check_unchanged(incident: Json, shown: Json) -> None:
    now = next((s for s in _waiting(incident) if s["name"] == shown["name"]), None)
    name = incident["metadata"]["name"]
    if now is None:
        raise Failure(Exit.CONFLICT, f"step {shown['name']} of {name} does not wait for approval any more")
    if now["operation"] != shown["operation"]:
        text = f"what step {shown['name']} would do has changed since it was shown; now it {at(now, 'message')}"
        raise Failure(Exit.CONFLICT, f"{text}\nlook again: {how_to('approve', name)}")


def _plan(incident: Json, shown: Json) -> list[Line]:
    read = read_incident(incident)
    step = next(s for s in read.status.steps if s.name == shown["name"])
    where = f"{step.target} in {step.target.namespace}" if step.target else read.metadata.namespace
    lines: list[Line] = [
        [Span(f"{step.name} of {read.metadata.name}", HEADING), f": {step.action} of {where}"],
        [f"  {step.message}"],
        *([f"  {line}"] for line in change_lines(step.before, step.after)),
    ]
    lease = lease_line(step)
    return [*lines, [f"  {lease}"]] if lease else lines
