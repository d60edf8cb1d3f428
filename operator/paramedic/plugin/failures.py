"""How a command ends when it cannot do what was asked: an exit code that scripts can rely on, and a line for people."""

from enum import IntEnum


class Exit(IntEnum):
    """The exit codes, as documented in docs/kubectl-incident.md."""

    REFUSED = 1
    USAGE = 2
    NOT_FOUND = 3
    FORBIDDEN = 4
    CONFLICT = 5
    NO_CLUSTER = 6


class Failure(Exception):
    """The command ends with ``code``. The message says in one or two lines what was wrong and what to do."""

    def __init__(self, code: Exit, message: str) -> None:
        super().__init__(message)
        self.code = code
