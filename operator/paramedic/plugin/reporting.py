"""``kubectl incident report``: the post-incident report, as ``paramedic report`` makes it."""

import asyncio
import sys
from datetime import UTC, datetime
from pathlib import Path

import click
from pydantic import ValidationError

from paramedic.api.incident import Incident
from paramedic.api.policy import MessageTemplates, RemediationPolicy
from paramedic.clients.prometheus import Prometheus
from paramedic.plugin.failures import Failure
from paramedic.plugin.incidents import Incidents
from paramedic.plugin.reading import read_incident
from paramedic.plugin.session import connection_options, name_argument, session
from paramedic.report import FORMATS, make_report, render


@click.command()
@name_argument
@click.option("-o", "--output", "form", type=click.Choice(list(FORMATS)), default="md", show_default=True)
@click.option("--prometheus", metavar="URL", help="Where the graphs come from; without it there are none.")
@click.option(
    "--prometheus-token-file",
    "token_file",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="Holds a bearer token for it.",
)
@connection_options
def report(name: str, form: str, prometheus: str | None, token_file: Path | None) -> None:
    """Write the post-incident report to standard output."""
    incidents = session().incidents
    incident = read_incident(incidents.get(name))
    wording = _wording(incidents, incident)
    sys.stdout.write(asyncio.run(_rendered(incident, wording, form, prometheus, token_file)))


async def _rendered(
    incident: Incident, wording: MessageTemplates | None, form: str, url: str | None, token_file: Path | None
) -> str:
    prometheus = Prometheus(url, bearer_token_file=token_file) if url else None
    try:
        return render(await make_report(incident, wording, prometheus, datetime.now(UTC)), form)
    finally:
        if prometheus:
            prometheus.close()


def _wording(incidents: Incidents, incident: Incident) -> MessageTemplates | None:
    """The policy's figures of the impact, where it is still there and the user may read it."""
    pinned = incident.status.policy
    if pinned is None:
        return None
    try:
        return RemediationPolicy.model_validate(incidents.policy(pinned.namespace, pinned.name)).spec.messages
    except (Failure, ValidationError):
        return None
