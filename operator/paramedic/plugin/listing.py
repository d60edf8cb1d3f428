"""``kubectl incident list``: the open incidents, the gravest first."""

from collections.abc import Sequence
from datetime import UTC, datetime

import click

from paramedic.plugin.incidents import is_over
from paramedic.plugin.screen import Line, Screen, Span
from paramedic.plugin.session import connection_options, output_option, session
from paramedic.plugin.styles import PHASE_STYLES, SEVERITY_STYLES
from paramedic.plugin.texts import Json, age, at, moment

_HEAD = ("NAME", "SEVERITY", "PHASE", "TARGET", "STEP", "WHO", "AGE", "MESSAGE")
_WIDE = ("POLICY", "TITLE")
NONE = "<none>"


@click.command("list")
@click.option("-A", "--all-namespaces", "everywhere", is_flag=True, help="Of all namespaces.")
@click.option("--all", "ended", is_flag=True, help="Those that have ended as well.")
@click.option("-w", "--watch", is_flag=True, help="Then show each that changes.")
@output_option("wide", "json", "yaml", "name")
@connection_options
def list_command(everywhere: bool, ended: bool, watch: bool, form: str | None) -> None:
    """Show incidents: what, how bad, where it stands, and who has it."""
    incidents, screen = session().incidents, session().screen
    found, version = incidents.read_all(everywhere=everywhere)
    shown = sorted((item for item in found if ended or not is_over(item)), key=_gravity)
    columns = Columns(everywhere=everywhere, wide=form == "wide")
    widths = _show(shown, form, columns, screen)
    if not shown and form in (None, "wide"):
        where = "in any namespace" if everywhere else f"in {incidents.namespace}"
        screen.note(f"No {'' if ended else 'open '}incidents {where}.")
    if not watch:
        return
    for changed in incidents.changes(found, version, everywhere=everywhere):
        widths = _show_change(changed, form, columns, widths, screen)


class Columns:
    """Which columns there are."""

    def __init__(self, *, everywhere: bool, wide: bool) -> None:
        self._everywhere = everywhere
        self._wide = wide

    @property
    def head(self) -> Line:
        """Their names."""
        return [*(["NAMESPACE"] if self._everywhere else []), *_HEAD, *(_WIDE if self._wide else [])]

    def row(self, incident: Json, now: datetime) -> Line:
        """One incident's cells; ``<none>`` where there is nothing, so that a column stays a column."""
        status = incident.get("status") or {}
        severity = at(status, "severity") or at(incident, "spec", "severity")
        phase = at(status, "phase", default="Open")
        cells: list[Span | str] = [
            at(incident, "metadata", "name"),
            Span(severity, SEVERITY_STYLES.get(severity, "")),
            Span(phase, PHASE_STYLES.get(phase, "")),
            at(status, "target") or _target(incident) or NONE,
            at(status, "step", default=NONE),
            who_has_it(incident) or NONE,
            age(moment(at(incident, "metadata", "creationTimestamp")), now),
            at(status, "message", default=NONE),
        ]
        first = [at(incident, "metadata", "namespace")] if self._everywhere else []
        last = [at(status, "policy", "name", default=NONE), at(incident, "spec", "title")] if self._wide else []
        return [*first, *cells, *last]


def who_has_it(incident: Json) -> str:
    """Who leads, else who has taken it on; a service account by its short name."""
    who = (
        at(incident, "spec", "commander")
        or at(incident, "status", "commander")
        or at(incident, "status", "acknowledgement", "by")
        or at(incident, "spec", "acknowledgedBy")
    )
    return str(who).removeprefix("system:serviceaccount:")


def _show(items: Sequence[Json], form: str | None, columns: Columns, screen: Screen) -> list[int]:
    if form in ("json", "yaml", "name"):
        screen.resource({"apiVersion": "v1", "kind": "List", "items": list(items)}, form)
        return []
    if not items:
        return []
    now = datetime.now(UTC)
    return screen.table([columns.head, *(columns.row(item, now) for item in items)])


def _show_change(incident: Json, form: str | None, columns: Columns, widths: list[int], screen: Screen) -> list[int]:
    if form in ("json", "yaml", "name"):
        screen.resource(incident, form)
        return widths
    row = columns.row(incident, datetime.now(UTC))
    return screen.table([row], widths) if widths else screen.table([columns.head, row])


def _gravity(incident: Json) -> tuple[bool, str, str]:
    """The open before the ended, the gravest first, of those the oldest."""
    severity = at(incident, "status", "severity") or at(incident, "spec", "severity")
    return is_over(incident), severity, at(incident, "metadata", "creationTimestamp")


def _target(incident: Json) -> str:
    target = at(incident, "spec", "target", default={})
    return f"{target.get('kind', 'Deployment')}/{target['name']}" if target else ""
