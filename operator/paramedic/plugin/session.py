"""What a command needs: the options that all of them share, and what comes of them."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any, TypeVar

import click
from click.shell_completion import CompletionItem

from paramedic.plugin.incidents import Incidents
from paramedic.plugin.screen import Screen
from paramedic.plugin.texts import Json, at

_KEY = "paramedic.plugin"
_C = TypeVar("_C", bound=Callable[..., Any])


@dataclass
class Session:
    """One run of the command line. Nothing is read or sent before it is asked for."""

    kubeconfig: str | None = None
    context: str | None = None
    namespace: str | None = None
    impersonate: str | None = None
    groups: tuple[str, ...] = ()

    @cached_property
    def screen(self) -> Screen:
        """Where output goes."""
        return Screen()

    @cached_property
    def incidents(self) -> Incidents:
        """The incidents of the namespace that was chosen. Raises Failure when there is no cluster to ask."""
        from paramedic.plugin.apiserver import ApiServer
        from paramedic.plugin.kubeconfig import Chosen, load_login

        login = load_login(Chosen(self.kubeconfig, self.context, self.namespace, self.impersonate, self.groups))
        return Incidents(ApiServer(login), login.namespace)


def session() -> Session:
    """That of the command that runs."""
    return _of(click.get_current_context())


def connection_options(command: _C) -> _C:
    """Adds the options by which kubectl, too, says where and as whom; they may stand before the subcommand as well."""
    for option in reversed(_CONNECTION):
        command = option(command)
    return command


def _of(context: click.Context) -> Session:
    made: Session = context.meta.setdefault(_KEY, Session())
    return made


def _keep(context: click.Context, parameter: click.Parameter, value: Any) -> None:
    if value and parameter.name:
        setattr(_of(context), parameter.name, value)


def _option(*names: str, **more: Any) -> Callable[[_C], _C]:
    return click.option(*names, expose_value=False, callback=_keep, **more)


_CONNECTION = [
    _option("-n", "--namespace", metavar="NAMESPACE", help="Instead of the context's namespace."),
    _option("--context", metavar="NAME", help="Context of the kubeconfig, instead of the current one."),
    _option("--kubeconfig", type=click.Path(dir_okay=False), help="Instead of what KUBECONFIG names."),
    _option("--as", "impersonate", metavar="USER", help="Impersonate this user."),
    _option("--as-group", "groups", metavar="GROUP", multiple=True, help="Impersonate this group as well."),
]


def output_option(*forms: str) -> Callable[[_C], _C]:
    """``-o``, with the forms that the command has besides its own for people."""
    return click.option(
        "-o", "--output", "form", type=click.Choice(forms), help="Another form than the one for people."
    )


def complete_names(context: click.Context, _: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Names of incidents: for ``report`` and ``show`` of all, else of the open ones."""
    ended = context.info_name in ("show", "report", "tick", "resolve")
    found, _version = _of(context).incidents.read_all()
    return [
        CompletionItem(item["metadata"]["name"], help=_hint(item))
        for item in found
        if item["metadata"]["name"].startswith(incomplete) and (ended or at(item, "status", "phase") != "Resolved")
    ]


def name_argument(command: _C) -> _C:
    """The incident that the command is about."""
    return click.argument("name", shell_complete=_quietly(complete_names))(command)


def step_argument(command: _C) -> _C:
    """The step that waits for approval, where there may be several."""
    return click.argument("step", required=False, shell_complete=_quietly(_complete_steps))(command)


def item_argument(command: _C) -> _C:
    """An item of the checklist."""
    return click.argument("item", shell_complete=_quietly(_complete_items))(command)


def _complete_steps(context: click.Context, _: click.Parameter, incomplete: str) -> list[CompletionItem]:
    incident = _of(context).incidents.get(context.params["name"])
    waiting = [s for s in at(incident, "status", "steps", default=[]) if s.get("state") == "AwaitingApproval"]
    return [CompletionItem(s["name"], help=at(s, "message")) for s in waiting if s["name"].startswith(incomplete)]


def _hint(incident: Json) -> str:
    return f"{at(incident, 'status', 'phase', default='Open')}: {at(incident, 'spec', 'title')}"


def _complete_items(context: click.Context, _: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """By number: the items are sentences."""
    items = at(_of(context).incidents.get(context.params["name"]), "status", "checklist", default=[])
    numbered = ((str(number), entry) for number, entry in enumerate(items, 1))
    return [CompletionItem(n, help=e["item"]) for n, e in numbered if not e.get("done") and n.startswith(incomplete)]


Completer = Callable[[click.Context, click.Parameter, str], list[CompletionItem]]


def _quietly(complete: Completer) -> Completer:
    """Nobody wants an error in the middle of the line that is being typed."""

    def completed(context: click.Context, parameter: click.Parameter, incomplete: str) -> list[CompletionItem]:
        from paramedic.plugin.failures import Failure

        try:
            return complete(context, parameter, incomplete)
        except (Failure, KeyError):
            return []

    return completed


def how_to(verb: str, name: str, more: str = "") -> str:
    """A command to copy, about an incident of the namespace that was chosen."""
    return f"kubectl incident {verb} {name} -n {session().incidents.namespace}{more}"
