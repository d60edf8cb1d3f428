"""What a person says about an incident in one word: ack, pause, resume, reject, escalate."""

import click

from paramedic.plugin.failures import Exit, Failure
from paramedic.plugin.incidents import Change, is_over
from paramedic.plugin.screen import Line
from paramedic.plugin.session import connection_options, how_to, name_argument, output_option, session
from paramedic.plugin.texts import Json, at


@click.command()
@name_argument
@click.option("--take-over", is_flag=True, help="Also when somebody else works on it.")
@output_option("json", "yaml", "name")
@connection_options
def ack(name: str, take_over: bool, form: str | None) -> None:
    """Say that you work on it."""
    me = session().incidents.whoami()

    def change(incident: Json) -> Json:
        _still_open(incident)
        other = at(incident, "spec", "acknowledgedBy") or at(incident, "status", "acknowledgement", "by")
        if other == me:
            return {}
        if other and not take_over:
            text = f"{other} works on {name} already; to take it over: {how_to('ack', name, ' --take-over')}"
            raise Failure(Exit.CONFLICT, text)
        return {"acknowledgedBy": me}

    write(name, change, [f"{name} acknowledged by {me}"], form)


@click.command()
@name_argument
@output_option("json", "yaml", "name")
@connection_options
def pause(name: str, form: str | None) -> None:
    """Take over: Paramedic does nothing further."""
    write(
        name,
        _paused(True),
        [f"{name} paused: Paramedic does nothing further. To let it go on: {how_to('resume', name)}"],
        form,
    )


@click.command()
@name_argument
@output_option("json", "yaml", "name")
@connection_options
def resume(name: str, form: str | None) -> None:
    """Let Paramedic go on."""
    write(name, _paused(False), [f"{name} resumed: Paramedic goes on"], form)


@click.command()
@name_argument
@output_option("json", "yaml", "name")
@connection_options
def reject(name: str, form: str | None) -> None:
    """Refuse the step that waits for approval: the incident is paused."""

    def change(incident: Json) -> Json:
        if not any(step.get("state") == "AwaitingApproval" for step in at(incident, "status", "steps", default=[])):
            raise Failure(Exit.CONFLICT, f"no step of {name} waits for approval; to take over: {how_to('pause', name)}")
        return _paused(True)(incident)

    write(
        name,
        change,
        [f"{name} rejected, and so paused: nothing further is done. To let it go on: {how_to('resume', name)}"],
        form,
    )


@click.command()
@name_argument
@click.option("-m", "--message", required=True, help="Why: it is what people are told.")
@output_option("json", "yaml", "name")
@connection_options
def escalate(name: str, message: str, form: str | None) -> None:
    """Call the next level of the team."""
    me = session().incidents.whoami()

    def change(incident: Json) -> Json:
        _still_open(incident)
        if at(incident, "spec", "escalation", "message") == message:
            raise Failure(Exit.CONFLICT, f"{name} was escalated with these very words already: another call says more")
        return {"escalation": {"requestedBy": me, "message": message}}

    write(name, change, [f"{name}: {me} asks for more people: {message}. Who is called: {how_to('show', name)}"], form)


def write(name: str, change: Change, done: Line, form: str | None) -> None:
    """Writes the change, and says so: in words, or as the incident that is stored."""
    stored = session().incidents.change(name, change)
    if form:
        session().screen.resource(stored, form)
    else:
        session().screen.line(*done)


def _still_open(incident: Json) -> None:
    if is_over(incident):
        raise Failure(Exit.CONFLICT, f"{incident['metadata']['name']} is over: {at(incident, 'status', 'message')}")


def _paused(wanted: bool) -> Change:
    def change(incident: Json) -> Json:
        _still_open(incident)
        return {} if bool(at(incident, "spec", "paused")) is wanted else {"paused": wanted}

    return change
