"""What every channel is: a way to tell people of an incident."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from paramedic.api.incident import Incident, Notice
from paramedic.errors import ParamedicError


@dataclass(frozen=True, slots=True)
class Message:
    """What is to be told at once: all notices of one incident that wait for the channel, oldest first."""

    incident: Incident
    notices: Sequence[Notice]
    again: bool
    """Whether an earlier try may have told it already: then look first, where the other system can be asked."""

    @property
    def external(self) -> Mapping[str, str]:
        """The ids that were kept at earlier tellings."""
        return self.incident.status.external or {}


Told = dict[str, str]
"""Ids to keep on ``status.external``; the keys begin with the channel's name."""


class PartlyTold(ParamedicError):
    """Some of it was told when the rest met with ``problem``; ``told`` is to be kept, so that it is not told again.

    ``keys`` are of notices that were told whole. The problem is that of the notices ``failed``; None: of all others.
    """

    def __init__(
        self, told: Told, problem: ParamedicError, keys: Sequence[str] = (), failed: Sequence[str] | None = None
    ) -> None:
        super().__init__(str(problem))
        self.told = told
        self.problem = problem
        self.keys = keys
        self.failed = failed


class Channel(Protocol):
    """A way to tell people. It holds no state that matters: what it must know later it returns."""

    name: str

    async def tell(self, message: Message) -> Told:
        """Tells it, merged into as few requests as the other system allows. Raises Retry (with ``after`` as the other
        system asks, ``uncertain`` when it may have been told), Terminal, Refused (never try again), and PartlyTold
        with one of these.
        """

    async def close(self) -> None:
        """Gives up what it holds open."""
