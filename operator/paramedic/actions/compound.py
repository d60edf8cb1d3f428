"""An action on several objects, which are changed one after the other.

It can be cut off between two of them. So each object carries the operation's stamp for itself, and going on means to do
what is left: an object with the stamp is done, one as before is not, and anything else is somebody's change in between.
"""

from collections.abc import Iterator, Mapping
from typing import Any

from paramedic.actions.base import (
    Action,
    Change,
    Json,
    Observed,
    Outcome,
    State,
    Write,
    annotation,
)
from paramedic.api import ANNOTATION_OPERATION

ABSENT = "absent"
"""The state of an object that is not there."""

Parts = Mapping[str, Json | None]
"""The objects that an action governs, by ``Kind/name``; None for one that is not there."""


class CompoundAction(Action):
    """Base of such actions. They say which objects there are and how to read and write one of them."""

    def parts(self, observed: Observed) -> Parts:
        """The objects that are there, or could be, by ``Kind/name``."""
        raise NotImplementedError

    def part_state(self, part: str, obj: Json) -> Any:
        """The governed fields of one object, fit for a status: no secrets."""
        raise NotImplementedError

    def write_part(
        self, observed: Observed, part: str, obj: Json | None, wanted: Any, operation: str
    ) -> Iterator[Write]:
        """The writes that bring one object to the wanted state (ABSENT: that it is not there), with the stamp."""
        raise NotImplementedError

    def state(self, observed: Observed) -> State:
        """The state of each object."""
        return {
            part: ABSENT if obj is None else self.part_state(part, obj) for part, obj in self.parts(observed).items()
        }

    def change_to(self, observed: Observed, after: State, operation: str, message: str) -> Change:
        """The change of all objects that are not as wanted and have not been done under this operation, in the order
        of ``after``."""
        before, parts = self.state(observed), self.parts(observed)
        left = [part for part in after if before.get(part) != after[part] and not _is_done(parts.get(part), operation)]
        forward = tuple(
            write for part in left for write in self.write_part(observed, part, parts.get(part), after[part], operation)
        )
        return Change(before, after, forward, before, message)

    def restore(self, observed: Observed, before: State, operation: str) -> Change:
        """Back to the earlier states, in the opposite order."""
        backwards = dict(reversed(before.items()))
        return self.change_to(observed, backwards, operation, f"{observed.name}: as before")

    def settled(self, observed: Observed, before: State, after: State, operation: str) -> Outcome:
        """Applied when all are done, NotApplied when the rest is as before, Unknown when others came in between."""
        parts, present = self.parts(observed), self.state(observed)
        wanted = [part for part in after if before.get(part) != after[part]]
        left = [p for p in wanted if not _is_done(parts.get(p), operation) and not _is_gone(present.get(p), after[p])]
        if not left:
            return Outcome.APPLIED
        return Outcome.NOT_APPLIED if all(present.get(p) == before.get(p) for p in left) else Outcome.UNKNOWN


def _is_done(obj: Json | None, operation: str) -> bool:
    return obj is not None and annotation(obj, ANNOTATION_OPERATION) == operation


def _is_gone(present: Any, wanted: Any) -> bool:
    """A deleted object can carry no stamp; that it is not there is what was wanted."""
    return bool(present == ABSENT and wanted == ABSENT)
