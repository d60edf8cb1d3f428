"""The commands of ``kubectl incident``, and how each of them ends."""

import importlib
import io
import os
import sys
from collections.abc import Callable, Sequence

import click
from click.shell_completion import CompletionItem

from paramedic.plugin.completing import VARIABLE, completion, lines_for_kubectl
from paramedic.plugin.failures import Exit, Failure
from paramedic.plugin.session import connection_options
from paramedic.plugin.texts import clean

_COMMANDS = {
    "list": ("listing:list_command", "What is open, how bad it is, where it stands, who has it."),
    "show": ("showing:show", "One incident: findings, steps, timeline, and what you can do."),
    "create": ("creating:create", "Open an incident."),
    "ack": ("saying:ack", "Say that you work on it."),
    "approve": ("approving:approve", "Look at the plan that waits for approval, and consent to it."),
    "reject": ("saying:reject", "Refuse that plan: the incident is paused."),
    "pause": ("saying:pause", "Take over: Paramedic does nothing further."),
    "resume": ("saying:resume", "Let Paramedic go on."),
    "escalate": ("saying:escalate", "Call the next level of the team."),
    "resolve": ("resolving:resolve", "Close it, with the root cause and what remains to be done."),
    "tick": ("ticking:tick", "Tick an item of the post-incident checklist."),
    "report": ("reporting:report", "Write the post-incident report."),
}
"""Each command's module and name, and what it is for: what one needs is imported only when it runs."""
_INTERRUPTED = 130


class Lazy(click.Group):
    """Finds a command when it is called for."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """In the order in which they are needed."""
        return [*_COMMANDS, *super().list_commands(ctx)]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """None for what is no command."""
        if cmd_name not in _COMMANDS:
            return super().get_command(ctx, cmd_name)
        module, _, name = _COMMANDS[cmd_name][0].partition(":")
        command: click.Command = getattr(importlib.import_module(f"paramedic.plugin.{module}"), name)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """The list in the help, without importing what is listed."""
        with formatter.section("Commands"):
            formatter.write_dl(self._summaries())

    def shell_complete(self, ctx: click.Context, incomplete: str) -> list[CompletionItem]:
        """Options where one is begun, else commands; they are not imported for it."""
        if incomplete.startswith("-"):
            return click.Command.shell_complete(self, ctx, incomplete)
        return [CompletionItem(name, help=text) for name, text in self._summaries() if name.startswith(incomplete)]

    def _summaries(self) -> list[tuple[str, str]]:
        own = [(name, command.get_short_help_str()) for name, command in self.commands.items()]
        return [*((name, summary) for name, (_, summary) in _COMMANDS.items()), *own]


@click.group(cls=Lazy, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="paramedic")
@connection_options
def cli() -> None:
    """Incidents, for who is on call: see, approve, take over, close."""


cli.add_command(completion)


def run() -> int:
    """Runs a command; returns the exit code (docs/kubectl-incident.md)."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    return _guarded(lambda: cli.main(prog_name="kubectl incident", complete_var=VARIABLE, standalone_mode=False))


def complete(words: Sequence[str]) -> int:
    """Prints suggestions for the words that were typed; never an error."""
    for line in lines_for_kubectl(cli, words):
        print(line)
    return 0


def _guarded(run: Callable[[], object]) -> int:
    try:
        result = run()
        return result if isinstance(result, int) else 0
    except Failure as failure:
        first, *more = str(failure).splitlines()
        print("\n".join([f"error: {clean(first)}", *map(clean, more)]), file=sys.stderr)
        return failure.code
    except click.ClickException as error:
        error.show()
        return Exit.USAGE
    except (KeyboardInterrupt, click.Abort):
        return _INTERRUPTED
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
