"""``kubectl incident resolve``: a person's word that it is over, or more words to one that is."""

from collections.abc import Sequence
from dataclasses import dataclass

import click

from paramedic.api.incident import Incident
from paramedic.plugin.failures import Exit, Failure
from paramedic.plugin.planned import lease_line
from paramedic.plugin.reading import read_incident
from paramedic.plugin.saying import write
from paramedic.plugin.session import connection_options, name_argument, output_option, session
from paramedic.plugin.texts import Json, at


@click.command()
@name_argument
@click.option("--root-cause", metavar="TEXT", help="What it was.")
@click.option("--follow-up", "follow_ups", metavar="TEXT", multiple=True, help="What remains to be done; repeatable.")
@click.option("--keep", "keep", metavar="STEP", multiple=True, help="Leave in place what this step has changed.")
@click.option("-y", "--yes", is_flag=True, help="Do not ask, also when something temporary is still in place.")
@output_option("json", "yaml", "name")
@connection_options
def resolve(
    name: str,
    root_cause: str | None,
    follow_ups: tuple[str, ...],
    keep: tuple[str, ...],
    yes: bool,
    form: str | None,
) -> None:
    """Close the incident, or add the root cause and follow-ups to one that has ended.

    What is temporary is put back when its time comes, and the incident is Resolved after that, unless --keep names it.
    """
    incidents, screen = session().incidents, session().screen
    said = Statement(root_cause, follow_ups, keep)
    held = held_lines(said.checked(read_incident(incidents.get(name))), keep)
    screen.before_result([[line] for line in held], form)
    if held and not yes and screen.can_ask and not screen.ask("Close it, and have these put back?"):
        screen.note("not closed")
        return
    me = incidents.whoami()
    write(name, lambda incident: said.added_to(incident, me), [said.told(name, me)], form)


@dataclass(frozen=True, slots=True)
class Statement:
    """What is said about the end of an incident."""

    root_cause: str | None
    follow_ups: Sequence[str]
    keep: Sequence[str]

    def checked(self, incident: Incident) -> Incident:
        """The incident, whose steps are those that are named. Raises Failure."""
        known = {known for step in incident.status.steps for known in (step.name, step.part_of) if known}
        unknown = [name for name in self.keep if name not in known]
        if unknown:
            text = f"{incident.metadata.name} has no step {unknown[0]}: there are {', '.join(sorted(known)) or 'none'}"
            raise Failure(Exit.USAGE, text)
        return incident

    def added_to(self, incident: Json, me: str) -> Json:
        """Together with what was said before: nobody's words are lost, and who adds to them signs them. Raises Failure
        when nothing would be new.
        """
        before = at(incident, "spec", "resolution", default={})
        lists = {
            "followUps": _joined(before.get("followUps", []), self.follow_ups),
            "keep": _joined(before.get("keep", []), self.keep),
        }
        cause = self.root_cause or before.get("rootCause")
        words = {key: value for key, value in (lists | {"rootCause": cause}).items() if value}
        if before and words.items() <= before.items():
            name = incident["metadata"]["name"]
            raise Failure(Exit.CONFLICT, f"{name} was closed by {before['resolvedBy']} already; --root-cause says more")
        return {"resolution": words | {"resolvedBy": me}}

    def told(self, name: str, me: str) -> str:
        """One line."""
        return f"{name} closed by {me}{f': {self.root_cause}' if self.root_cause else ''}"


def held_lines(incident: Incident, keep: Sequence[str]) -> list[str]:
    """What temporary is in place, and until when, and what could not be put back; empty when there is neither."""
    steps = [step for step in incident.status.steps if step.name not in keep and step.part_of not in keep]
    held = [f"  {step.name}: {step.message}; {lease_line(step)}" for step in steps if step.holds_mitigation]
    left = [f"  {step.name}: {step.message}" for step in steps if step.is_left_in_place]
    return [
        *(["Still in place, and put back before the incident ends:", *held] if held else []),
        *(["Could not be put back; do that by hand, then name it with --keep:", *left] if left else []),
    ]


def _joined(before: Sequence[str], more: Sequence[str]) -> list[str]:
    return list(dict.fromkeys([*before, *more]))
