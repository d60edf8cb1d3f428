"""Several services at once are one outage: which incidents belong together, and the parent that they get. Pure."""

from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from paramedic.api import API_VERSION, LABEL_MANAGED_BY
from paramedic.api.incident import Acknowledgement, Incident
from paramedic.api.people import SeveralServices
from paramedic.api.policy import Severity
from paramedic.core import people
from paramedic.core.alert import short_hash

PARENT_TYPE = "SeveralServices"
MOST_CHILDREN = 256
_NAME_PREFIX = "several-services-"
_NAMED = 10


@dataclass(frozen=True, slots=True)
class Member:
    """What of an open incident counts here."""

    name: str
    target: str | None
    """Kind/name of what is affected; one without a target is no service of its own."""
    severity: Severity
    created_at: datetime
    parent: str | None = None
    is_parent: bool = False
    children: frozenset[str] = frozenset()
    at_rest: bool = True
    """Whether its status is not about to be written anyway."""
    notify: tuple[str, ...] = ()
    team: str | None = None
    acknowledgement: Acknowledgement | None = None


def is_parent(incident: Incident) -> bool:
    """Whether it is the parent of several, as Paramedic makes it: no policy answers to it."""
    spec = incident.spec
    made = spec.type == PARENT_TYPE and incident.metadata.name.startswith(_NAME_PREFIX)
    return made and spec.target is None and spec.policy_ref is None and spec.alert is None


def member(incident: Incident) -> Member | None:
    """None for one that the API server has not dated."""
    meta, spec, status = incident.metadata, incident.spec, incident.status
    if meta.creation_timestamp is None:
        return None
    return Member(
        name=meta.name,
        target=f"{spec.target.kind}/{spec.target.name}" if spec.target else status.target,
        severity=people.severity(incident),
        created_at=meta.creation_timestamp,
        parent=status.parent,
        is_parent=is_parent(incident),
        children=frozenset(status.children),
        at_rest=status.phase not in ("Remediating", "Verifying"),
        notify=tuple(status.policy.notify) if status.policy else (),
        team=status.policy.team if status.policy else None,
        acknowledgement=status.acknowledgement,
    )


def outage(
    members: Iterable[Member], rule: SeveralServices, now: datetime, last_parent_at: datetime | None = None
) -> list[Member]:
    """The incidents that are one outage, oldest first: from the latest window in which enough different targets were
    affected. Empty when there is none, or when it is long ago. What was there when the last parent was made is none:
    a person may have closed that one.
    """
    # Those that ``takes`` would let into a parent made now: one without parts ends at once, and is made again.
    recent = [m for m in members if _could_join(m) and m.created_at >= now - 2 * rule.window]
    if last_parent_at is not None:
        recent = [m for m in recent if m.created_at > last_parent_at]
    alone = sorted(recent, key=lambda m: (m.created_at, m.name))
    affected: Counter[str | None] = Counter()
    first, found = 0, None
    for one in alone:
        affected[one.target] += 1
        while alone[first].created_at < one.created_at - rule.window:
            affected -= Counter([alone[first].target])
            first += 1
        if len(affected) >= rule.targets:
            found = first
    return alone[found:] if found is not None else []


@dataclass(frozen=True, slots=True)
class OpenParent:
    """A parent that is not over, and when the incidents were created that it takes in."""

    parent: Member
    since: datetime
    until: datetime

    def takes(self, child: Member) -> bool:
        """Whether it is a part of the parent already, or is to become one. What is graver than what a person has taken
        on is not: that person has not heard of it.
        """
        if not _could_join(child):
            return child.parent == self.parent.name
        taken_on = self.parent.acknowledgement is not None
        graver = child.severity < self.parent.severity
        return self.since <= child.created_at <= self.until and not (taken_on and graver)


def open_parents(members: Sequence[Member], rule: SeveralServices) -> list[OpenParent]:
    """The namespace's parents that are not over, oldest first."""
    youngest: dict[str, datetime] = {}
    for one in members:
        if one.parent:
            youngest[one.parent] = max(one.created_at, youngest.get(one.parent, one.created_at))
    parents = sorted((m for m in members if m.is_parent), key=lambda m: (m.created_at, m.name))
    # A parent is made a moment after the last of its first parts, which may be a window younger than the first.
    return [
        OpenParent(
            p, p.created_at - 2 * rule.window, max(p.created_at, youngest.get(p.name, p.created_at)) + rule.window
        )
        for p in parents
    ]


def parent_of(child: Member, parents: Iterable[OpenParent]) -> Member | None:
    """That which takes it; of several, the first."""
    return next((one.parent for one in parents if one.takes(child)), None)


def by_parent(members: Iterable[Member], parents: Sequence[OpenParent]) -> defaultdict[str | None, list[Member]]:
    """The members by the name of the parent that takes them; None for those that are alone, and the parents."""
    parts: defaultdict[str | None, list[Member]] = defaultdict(list)
    for one in members:
        parent = parent_of(one, parents)
        parts[parent.name if parent else None].append(one)
    return parts


def parent_name(namespace: str, last_parent_uid: str) -> str:
    """The same for whoever makes the namespace's next parent, however many of its parts they know of."""
    return f"{_NAME_PREFIX}{short_hash(namespace, last_parent_uid)[:10]}"


def parent_manifest(namespace: str, name: str, parts: Sequence[Member]) -> dict[str, Any]:
    """The parent as it is created."""
    targets = list(dict.fromkeys(m.target for m in parts if m.target))
    title = f"{len(targets)} services at once: {tell_names(targets)}"
    return {
        "apiVersion": API_VERSION,
        "kind": "Incident",
        "metadata": {"name": name, "namespace": namespace, "labels": {LABEL_MANAGED_BY: "paramedic"}},
        "spec": {"title": title[:1024], "type": PARENT_TYPE, "severity": gravest(parts)},
    }


def lacks(parent: Member, parts: Iterable[Member]) -> bool:
    """Whether the parent's list of children is to be longer."""
    return len(parent.children) < MOST_CHILDREN and any(part.name not in parent.children for part in parts)


def must_look_again(part: Member, parent: Member) -> bool:
    """Whether a part has not taken over yet what the parent means for it, and no write of its own is on the way."""
    behind = part.parent is None or (parent.acknowledgement is not None and part.acknowledgement is None)
    return behind and part.at_rest


def tell_open(parts: Sequence[str]) -> str:
    """One line on a parent whose parts are not over."""
    return f"{len(parts)} {'part is' if len(parts) == 1 else 'parts are'} not over: {tell_names(parts)}"


def tell_names(names: Sequence[str]) -> str:
    """The first of the names, and how many there are besides."""
    more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
    return f"{', '.join(names[:_NAMED])}{more}"


def gravest(parts: Iterable[Member]) -> Severity:
    """P0 before P3; P3 of none."""
    return min((m.severity for m in parts), default="P3")


def _could_join(one: Member) -> bool:
    return one.target is not None and one.parent is None and not one.is_parent
