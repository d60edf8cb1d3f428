"""``kubectl incident show``: one incident, and what happens to it."""

from datetime import UTC, datetime

import click

from paramedic.api.incident import Incident
from paramedic.plugin.describing import describe, phase_line, timeline_line
from paramedic.plugin.reading import read_incident
from paramedic.plugin.screen import Line
from paramedic.plugin.session import connection_options, name_argument, output_option, session


@click.command()
@name_argument
@click.option("-w", "--watch", is_flag=True, help="Then show each new fact, until the incident is over.")
@output_option("json", "yaml", "name")
@connection_options
def show(name: str, watch: bool, form: str | None) -> None:
    """Show one incident: what was found and done, its timeline, and what you can do."""
    if watch:
        follow(name, form)
        return
    screen, raw = session().screen, session().incidents.get(name)
    if form:
        screen.resource(raw, form)
    else:
        screen.lines(describe(read_incident(raw), datetime.now(UTC)))


def follow(name: str, form: str | None = None) -> None:
    """Shows the incident, then what is new, until it is over."""
    screen, last = session().screen, None
    for raw in session().incidents.follow(name):
        incident = read_incident(raw)
        if form:
            screen.resource(raw, form)
        else:
            screen.lines(news(last, incident) if last else describe(incident, datetime.now(UTC)))
        if incident.status.phase == "Resolved":
            return
        last = incident


def news(before: Incident, after: Incident) -> list[Line]:
    """The timeline's new entries, and where the incident stands if that is another now."""
    known = {(entry.at, entry.reason, entry.message) for entry in before.status.timeline}
    lines = [
        timeline_line(entry) for entry in after.status.timeline if (entry.at, entry.reason, entry.message) not in known
    ]
    stood, stands = before.status, after.status
    moved = (stood.phase, stood.message) != (stands.phase, stands.message)
    return [*lines, phase_line(after)] if moved else lines
