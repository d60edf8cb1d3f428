"""The console scripts ``kubectl-incident`` and ``kubectl_complete-incident``."""

import sys

_HINT = "kubectl-incident needs libraries that are not installed: pip install 'paramedic[cli]'"


def main() -> int:
    """Runs a command; returns the exit code."""
    try:
        from paramedic.plugin import cli
    except ModuleNotFoundError as error:
        return _not_installed(error)
    return cli.run()


def complete_for_kubectl() -> int:
    """Prints suggestions for the words that were typed."""
    try:
        from paramedic.plugin import cli
    except ModuleNotFoundError as error:
        return _not_installed(error)
    return cli.complete(sys.argv[1:])


def _not_installed(error: ModuleNotFoundError) -> int:
    if error.name not in ("click", "rich", "urllib3"):
        raise error
    print(_HINT, file=sys.stderr)
    return 2
