"""Three ways for work to end early: try again, do not do it, give up. They are different types on purpose."""

from datetime import timedelta

from paramedic.api.reasons import Reason

NONSENSE = (ValueError, TypeError, LookupError, AttributeError, ArithmeticError, RecursionError)
"""What reading an answer raises that is not what its sender is known to give."""


class ParamedicError(Exception):
    """Base of all errors that Paramedic raises itself."""


class Retry(ParamedicError):
    """Something outside did not answer; the same may work later.

    ``after`` is how long to wait at least. ``uncertain`` is true when the request may have been carried out all the
    same (the answer was lost): then look before acting again.
    """

    def __init__(self, message: str, after: timedelta | None = None, *, uncertain: bool = False) -> None:
        super().__init__(message)
        self.after = after
        self.uncertain = uncertain


class Unreachable(Retry):
    """A system outside of the cluster (a database, AWS) cannot be reached, or does not let Paramedic in for now.

    A step that has not begun fails by it, so that a person hears of it; what has begun is looked at until it answers.
    """


class Expired(Retry):
    """A list or a watch goes back further than the API server remembers: it has to begin anew."""


class Conflict(ParamedicError):
    """Somebody else changed the object since it was read: read it anew and decide afresh."""


class AlreadyExists(ParamedicError):
    """An object of that name is there already."""


class NotFound(ParamedicError):
    """The object is not there."""


class Refused(ParamedicError):
    """It must not or need not be done; ``reason`` and the message say why. Nothing was changed."""

    def __init__(self, reason: Reason, message: str) -> None:
        super().__init__(message)
        self.reason = reason


class Terminal(ParamedicError):
    """It cannot be done, now or later; ``reason`` and the message say why. Nothing was changed."""

    def __init__(self, reason: Reason, message: str) -> None:
        super().__init__(message)
        self.reason = reason


class PartlyDone(ParamedicError):
    """Some of several changes were made when one could not be; ``reason`` and the message say which stopped it."""

    def __init__(self, reason: Reason, message: str) -> None:
        super().__init__(message)
        self.reason = reason
