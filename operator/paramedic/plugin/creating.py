"""``kubectl incident create``: opens an incident, and says who answers to it."""

import re
from datetime import UTC, datetime

import click

from paramedic.api.policy import RemediationPolicy, Severity
from paramedic.api.workload import RESOURCES, TargetRef
from paramedic.plugin.choosing import SEVERITIES, Choice, Wish, choose, read_target
from paramedic.plugin.failures import Exit, Failure
from paramedic.plugin.incidents import Incidents
from paramedic.plugin.reading import read_policies
from paramedic.plugin.session import connection_options, how_to, output_option, session
from paramedic.plugin.showing import follow
from paramedic.plugin.texts import Json

_MODES = {
    "Observe": "it only records what it would do",
    "Approve": "it asks before each step",
    "Auto": "it acts",
}


@click.command()
@click.argument("words", nargs=-1, metavar="[KIND/NAME] [TITLE]")
@click.option("--type", "kind", metavar="TYPE", help="What it is, for example APIOutage; else as the policies have it.")
@click.option("--severity", type=click.Choice(SEVERITIES), default="P1", show_default=True, help="How bad it is.")
@click.option("--policy", metavar="NAME", help="Which policy is to answer; else the one that matches.")
@click.option("--source-address", "addresses", metavar="CIDR", multiple=True, help="Where it comes from; repeatable.")
@click.option("--name", metavar="NAME", help="Name of the incident; else made of the title and the time.")
@click.option("--dry-run", is_flag=True, help="Ask the API server, and store nothing.")
@click.option("-w", "--watch", is_flag=True, help="Then show what happens, until it is over.")
@output_option("json", "yaml", "name")
@connection_options
def create(
    words: tuple[str, ...],
    kind: str | None,
    severity: Severity,
    policy: str | None,
    addresses: tuple[str, ...],
    name: str | None,
    dry_run: bool,
    watch: bool,
    form: str | None,
) -> None:
    """Open an incident: create deployment/covet-app "API returns 5xx".

    Type, policy and target are found out from the policies of the namespace, where there is one possibility.
    """
    incidents, screen = session().incidents, session().screen
    target, title = _read(words)
    choice = choose(_policies(incidents), Wish(severity, kind, target, policy), incidents.namespace)
    title = title or _default_title(choice)
    spec = _spec(incidents, choice, title) | ({"sourceAddresses": list(addresses)} if addresses else {})
    stored = incidents.create(name or _name(title), spec, dry_run=dry_run)
    if form:
        screen.resource(stored, form)
    else:
        screen.lines([line] for line in _told(stored, choice, dry_run=dry_run))
        if addresses and not _blocks(choice.policy):
            screen.note("the source addresses are kept on the incident for people: no step that answers blocks them")
    if watch and not dry_run:
        screen.line("")
        follow(stored["metadata"]["name"], form)


def _read(words: tuple[str, ...]) -> tuple[TargetRef | None, str]:
    """The target, where the first word is one, and the rest as the title."""
    if not words:
        return None, ""
    target = read_target(words[0])
    if target is None and len(words) > 1 and "/" in words[0]:
        raise Failure(Exit.USAGE, f"{words[0]} is nothing that can be acted on: there are {', '.join(RESOURCES)}")
    return target, " ".join(words[1:] if target else words)


def _policies(incidents: Incidents) -> list[RemediationPolicy]:
    try:
        policies, unread = read_policies(incidents.policies())
    except Failure as failure:
        if failure.code is not Exit.FORBIDDEN:
            raise
        session().screen.note(f"which policies there are is not known: {failure}")
        return []
    if unread:
        session().screen.note(f"policies of another version of Paramedic, not looked at: {', '.join(unread)}")
    return policies


def _spec(incidents: Incidents, choice: Choice, title: str) -> Json:
    """Names the policy, so that the one that was told is the one that answers."""
    spec: Json = {"title": title, "type": choice.type, "severity": choice.severity, "commander": incidents.whoami()}
    if choice.target and _say_target(incidents, choice):
        spec["target"] = {"kind": choice.target.kind, "name": choice.target.name}
    if choice.policy:
        own = choice.policy.metadata.namespace
        named = {"name": choice.policy.metadata.name}
        spec["policyRef"] = named | ({} if own == incidents.namespace else {"namespace": own})
    return spec


def _say_target(incidents: Incidents, choice: Choice) -> bool:
    """Who names a target must be allowed to patch it. Who may only trigger the policy leaves the target to it."""
    assert choice.target is not None
    if choice.policy is None or choice.policy.spec.target is None:
        return True
    group = RESOURCES[choice.target.kind][0].rpartition("/")[0]
    return incidents.may_patch(group, RESOURCES[choice.target.kind][1], choice.target.name)


def _blocks(policy: RemediationPolicy | None) -> bool:
    """Whether a step of the policy looks at the Incident's source addresses."""
    return policy is not None and any(step.params.get("addressesFromIncident") for step in policy.spec.steps)


def _default_title(choice: Choice) -> str:
    return f"{choice.type} of {choice.target.kind}/{choice.target.name}" if choice.target else choice.type


def _name(title: str) -> str:
    """Readable, and the same when the same is opened twice in a minute: then the second is told so."""
    stem = re.sub(r"[^a-z0-9]+", "-", title.lower()).strip("-")[:40].strip("-") or "incident"
    return f"{stem}-{datetime.now(UTC):%m%d-%H%M}"


def _told(stored: Json, choice: Choice, *, dry_run: bool) -> list[str]:
    name, namespace = stored["metadata"]["name"], stored["metadata"]["namespace"]
    target = f" of {choice.target.kind}/{choice.target.name}" if choice.target else ""
    done = "would be opened (dry run)" if dry_run else "opened"
    head = f"{name} {done} in {namespace}: {choice.severity} {choice.type}{target}"
    more = [] if dry_run else [f"to see it: {how_to('show', name, ' --watch')}"]
    return [head, *_answer(choice.policy), *more]


def _answer(policy: RemediationPolicy | None) -> list[str]:
    if policy is None:
        return ["no policy answers: people are told, nothing is done by itself"]
    steps = ", ".join(f"{step.name} ({step.action})" for step in policy.spec.steps)
    if policy.spec.paused:
        return [f"the policy {policy.metadata.name} answers, but it is paused: nothing is done. Its steps: {steps}"]
    broken = next((c for c in policy.status.conditions if c.type == "Ready" and c.status == "False"), None)
    lines = [f"the policy {policy.metadata.name} answers, in mode {policy.spec.mode}: {_MODES[policy.spec.mode]}"]
    lines += [f"  but it is not Ready: {broken.message}"] if broken else []
    return [*lines, f"  {steps}"]
