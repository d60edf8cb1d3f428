"""Which release a workload runs, since when, and what it changed: names only where a value could be a secret."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Protocol

from paramedic.api import ANNOTATION_OPERATION
from paramedic.core.redact import clean

Json = dict[str, Any]
_RESTART_ANNOTATIONS = frozenset({"kubectl.kubernetes.io/restartedAt", ANNOTATION_OPERATION})
_NAMED = 10
_CONTAINER_LISTS = ("containers", "initContainers")
_COMPARED_APART = frozenset({"name", "image", "env", "envFrom", "resources"})


class Entry(Protocol):
    """One entry of the rollout history."""

    @property
    def name(self) -> str:
        """Name of the ReplicaSet or ControllerRevision."""

    @property
    def number(self) -> int:
        """Revision."""

    @property
    def template(self) -> Json:
        """Pod template."""

    @property
    def created_at(self) -> datetime:
        """When it was recorded."""


@dataclass(frozen=True, slots=True)
class Changes:
    """What differs between two pod templates, in words."""

    images: tuple[str, ...] = ()
    env: tuple[str, ...] = ()
    resources: tuple[str, ...] = ()
    other: tuple[str, ...] = ()

    def words(self) -> tuple[str, ...]:
        """All of it, the most telling first."""
        return self.images + self.env + self.resources + self.other


@dataclass(frozen=True, slots=True)
class Release:
    """The present release: all newest entries of the history that differ by restarts only."""

    revision: int
    started_at: datetime
    restarted_at: datetime | None
    entries: frozenset[str]
    previous: int | None
    changes: Changes


def release_of(current: Entry, history: Sequence[Entry], started_at: datetime | None = None) -> Release:
    """The release that ``current`` belongs to, and what it changed against the one before. ``started_at`` is for one
    that was rolled out again.
    """
    same = [e for e in history if not changes_between(e.template, current.template).words()]
    began = started_at or min(e.created_at for e in same)
    earlier = [e for e in history if e.number < current.number and e not in same]
    previous = max(earlier, key=lambda e: e.number, default=None)
    return Release(
        revision=current.number,
        started_at=began,
        restarted_at=current.created_at if current.created_at > began else None,
        entries=frozenset(e.name for e in same),
        previous=previous.number if previous else None,
        changes=changes_between(previous.template, current.template) if previous else Changes(),
    )


def changes_between(old: Json, new: Json) -> Changes:
    """What differs between two pod templates; restarts do not count."""
    before, after = old.get("spec") or {}, new.get("spec") or {}
    pairs = [pair for kind in _CONTAINER_LISTS for pair in _pairs(before.get(kind), after.get(kind))]
    kept = [(name, a, b) for name, a, b in pairs if a is not None and b is not None]
    came_or_went = [
        f"container {clean(n, 63)} {'added' if a is None else 'removed'}" for n, a, b in pairs if not (a and b)
    ]
    return Changes(
        images=tuple(_image(n, a, b) for n, a, b in kept if a.get("image") != b.get("image")),
        env=tuple(f"env of {clean(n, 63)}: {names}" for n, a, b in kept if (names := _env(a, b))),
        resources=tuple(f"resources of {clean(n, 63)}: {text}" for n, a, b in kept if (text := _resources(a, b))),
        other=(
            *came_or_went,
            *(f"{field} of {clean(n, 63)}" for n, a, b in kept for field in _differing(a, b, _COMPARED_APART)),
            *_differing(before, after, frozenset(_CONTAINER_LISTS)),
            *_metadata(old, new),
        ),
    )


def env_names(changes: Changes) -> str:
    """The environment variables that a release changed: ``env of main: DB_HOST, LOG_LEVEL``."""
    return "; ".join(changes.env)


def _pairs(old: Any, new: Any) -> list[tuple[str, Json | None, Json | None]]:
    before, after = _by_name(old), _by_name(new)
    return [(name, before.get(name), after.get(name)) for name in dict.fromkeys([*before, *after])]


def _by_name(items: Any) -> dict[str, Json]:
    return {str(item.get("name")): item for item in items or []}


def _image(name: str, old: Json, new: Json) -> str:
    return f"image of {clean(name, 63)}: {clean(old.get('image'), 120)} → {clean(new.get('image'), 120)}"


def _env(old: Json, new: Json) -> str:
    """Names only: the values may be secrets."""
    before, after = _by_name(old.get("env")), _by_name(new.get("env"))
    names = [name for name in dict.fromkeys([*before, *after]) if before.get(name) != after.get(name)]
    names += ["envFrom"] if (old.get("envFrom") or []) != (new.get("envFrom") or []) else []
    return _some(names)


def _resources(old: Json, new: Json) -> str:
    before, after = _flat(old.get("resources")), _flat(new.get("resources"))
    return _some(
        [
            f"{key} {clean(before.get(key, 'none'), 30)} → {clean(after.get(key, 'none'), 30)}"
            for key in dict.fromkeys([*before, *after])
            if before.get(key) != after.get(key)
        ]
    )


def _flat(resources: Json | None) -> dict[str, Any]:
    groups = {group: inner for group, inner in (resources or {}).items() if isinstance(inner, dict)}
    flat = {f"{group}.{name}": value for group, inner in groups.items() for name, value in inner.items()}
    return flat | {name: value for name, value in (resources or {}).items() if name not in groups and value}


def _metadata(old: Json, new: Json) -> Iterable[str]:
    for field, ignored in (("labels", frozenset[str]()), ("annotations", _RESTART_ANNOTATIONS)):
        before, after = ((t.get("metadata") or {}).get(field) or {} for t in (old, new))
        if names := _differing(before, after, ignored):
            yield f"{field}: {_some(names)}"


def _some(texts: list[str]) -> str:
    shown = [clean(text, 120) for text in texts[:_NAMED]]
    return ", ".join([*shown, *([f"{len(texts) - _NAMED} more"] if len(texts) > _NAMED else [])])


def _differing(old: Json, new: Json, ignored: frozenset[str]) -> list[str]:
    names = [name for name in dict.fromkeys([*old, *new]) if name not in ignored]
    return [clean(name, 120) for name in names if (old.get(name) or None) != (new.get(name) or None)]
