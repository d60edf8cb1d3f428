"""Which pieces of evidence an Incident's status names, for its list is bounded and a capture is not."""

from collections.abc import Sequence

from paramedic.api.incident import Evidence

INDEX = "index.json"
"""Name of the item that lists all others of one operation."""
SHOWN_AT_MOST = 200


def joined(present: Sequence[Evidence], new: Sequence[Evidence]) -> list[Evidence]:
    """Both lists, at most 200 items. What is stored anew in the same place replaces what was said of it before.

    Without room for all, indexes stay, then what is missing or cut, then the rest in its order; the last index says how
    many have no room.
    """
    items = list({(item.name, item.uri): item for item in [*present, *new]}.values())
    if len(items) <= SHOWN_AT_MOST:
        return items
    by_weight = sorted(range(len(items)), key=lambda at: _weight(items[at]))
    shown = [items[at] for at in sorted(by_weight[:SHOWN_AT_MOST])]
    return _with_remark(shown, len(items) - SHOWN_AT_MOST)


def _weight(item: Evidence) -> int:
    if item.name == INDEX:
        return 0
    return 1 if item.note else 2


def _with_remark(shown: list[Evidence], hidden: int) -> list[Evidence]:
    last = max((at for at, item in enumerate(shown) if item.name == INDEX), default=None)
    if last is not None:
        remark = f"lists what has no room here: {hidden} more"
        shown[last] = shown[last].model_copy(update={"note": remark})
    return shown
