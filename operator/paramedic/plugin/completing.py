"""Completion: for the shell by click, and for ``kubectl incident <TAB>`` as kubectl asks plugins for it.

kubectl runs ``kubectl_complete-incident`` with the words that were typed, the last of them incomplete, and reads one
suggestion in a line, ``word<TAB>description``, and at the end a directive of Cobra's (KEP-2379).
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import click
from click.shell_completion import ShellComplete, get_completion_class

from paramedic.plugin.texts import clean

if TYPE_CHECKING:
    from click import Command

VARIABLE = "_KUBECTL_INCIDENT_COMPLETE"
_NO_FILES, _FILES = ":4", ":0"
"""Cobra's ShellCompDirectiveNoFileComp and ShellCompDirectiveDefault."""


@click.command()
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
def completion(shell: str) -> None:
    """Print what the shell needs to complete kubectl-incident.

    For bash: source <(kubectl-incident completion bash). `kubectl incident <TAB>` needs no more than kubectl's own
    completion.
    """
    found = get_completion_class(shell)
    assert found is not None
    click.echo(found(click.get_current_context().find_root().command, {}, "kubectl-incident", VARIABLE).source())


def lines_for_kubectl(command: "Command", words: Sequence[str]) -> list[str]:
    """What ``kubectl_complete-incident`` prints."""
    *typed, incomplete = words or [""]
    items = ShellComplete(command, {}, "kubectl-incident", VARIABLE).get_completions(typed, incomplete)
    plain = [item for item in items if item.type == "plain"]
    lines = [f"{item.value}\t{clean(item.help)}" if item.help else str(item.value) for item in plain]
    return [*lines, _FILES if len(plain) < len(items) else _NO_FILES]
