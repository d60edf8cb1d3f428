"""What is wrong in a settings file, in the file's own words. Pure."""

import difflib
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel
from pydantic.alias_generators import to_camel

from paramedic.api.base import OBJECT_NAME_PATTERN
from paramedic.api.policy import SCHEDULE_PATTERN

FREE_KEYS = "externalLabels"
"""The setting whose keys are names of somebody else's."""
_SNAKE = re.compile(r"(?<=[a-z0-9])([A-Z]+)")
_PATTERNS = {
    OBJECT_NAME_PATTERN: "lower-case letters, digits, - and . are allowed, for example on-call",
    SCHEDULE_PATTERN: 'five cron fields are needed, for example "0 9 * * MON-FRI"',
}


def snake_case(key: str) -> str:
    """The name of the field that a key of the file stands for."""
    return _SNAKE.sub(lambda found: "_" + found.group(1).lower(), key)


def explain(errors: Iterable[Mapping[str, Any]], written: Any, model: type[BaseModel]) -> list[str]:
    """One line for each of pydantic's ``errors``: where, as ``written`` has it, what is wrong, and what was meant.

    No value of the file is quoted, besides what a message of our own says: one may be a secret.
    """
    names = sorted({to_camel(name) for name in _names(model)})
    return [line for error in errors for line in _lines(error, written, names)]


def written_twice(text: str) -> Iterator[str]:
    """One line for each setting that is there twice in one place: YAML itself would take the last and say nothing.
    Raises YAMLError.
    """
    waiting, seen = [(yaml.compose(text, Loader=yaml.SafeLoader), False)], set[int]()
    while waiting:
        node, is_free = waiting.pop(0)
        if isinstance(node, yaml.CollectionNode) and id(node) not in seen:
            seen.add(id(node))  # an alias is the same node again
            if isinstance(node, yaml.MappingNode):
                yield from _twice(node, is_free=is_free)
                waiting += [(value, key.value == FREE_KEYS) for key, value in node.value]
            else:
                waiting += [(item, is_free) for item in node.value]


def where(location: Sequence[str | int], written: Any) -> str:
    """``people.teams[0].name``: each key as it is written, or would be."""
    path = ""
    for part in location:
        if isinstance(part, int):
            path += f"[{part}]"
            written = written[part] if isinstance(written, list) and part < len(written) else None
        else:
            key = _key(part, written)
            path += f".{key}" if path else key
            written = written.get(key) if isinstance(written, dict) else None
    return path


def unreadable_files(model: BaseModel, path: str = "") -> Iterator[str]:
    """One line for each file that a setting names and that cannot be read here."""
    for name in type(model).model_fields:
        value, here = getattr(model, name), f"{path}.{to_camel(name)}".lstrip(".")
        if isinstance(value, Path) and name.endswith("_file"):
            yield from _problem_of(value, here)
        for label, inner in _models(value):
            yield from unreadable_files(inner, here + label)


def _twice(node: yaml.MappingNode, *, is_free: bool) -> Iterator[str]:
    first: dict[str, int] = {}
    for key, _ in node.value:
        line, name = key.start_mark.line + 1, str(key.value) if is_free else snake_case(str(key.value))
        if name in first and key.tag != "tag:yaml.org,2002:merge":
            yield f"line {line}: {key.value} is there twice, first on line {first[name]}: leave one"
        first.setdefault(name, line)


def _lines(error: Mapping[str, Any], written: Any, names: list[str]) -> Iterator[str]:
    """What only the whole file shows says itself where it is, one line for each."""
    text = _text(error, written, names)
    yield from (f"{where(error['loc'], written)}: {text}",) if error["loc"] else text.splitlines()


def _models(value: Any) -> Iterator[tuple[str, BaseModel]]:
    if isinstance(value, BaseModel):
        yield "", value
    elif isinstance(value, list):
        yield from ((f"[{number}]", item) for number, item in enumerate(value) if isinstance(item, BaseModel))


def _problem_of(file: Path, path: str) -> Iterator[str]:
    try:
        with file.open("rb") as opened:
            opened.read(1)
    except OSError as error:
        yield f"{path}: {file} cannot be read: {error.strerror}"


def _key(part: str, written: Any) -> str:
    if isinstance(written, dict):
        alike = (str(key) for key in written if str(key) == part or snake_case(str(key)) == snake_case(part))
        return next(alike, to_camel(snake_case(part)))
    return to_camel(snake_case(part))


def _text(error: Mapping[str, Any], written: Any, names: list[str]) -> str:
    if error["type"] == "extra_forbidden":
        key = where(error["loc"][-1:], _parent(error["loc"], written))
        meant = difflib.get_close_matches(key, [name for name in names if name != key], 1, 0.75)
        return "there is no such setting here" + (f"; {meant[0]} is meant?" if meant else "")
    if error["type"] == "missing":
        return "is needed"
    pattern = str((error.get("ctx") or {}).get("pattern"))
    return _PATTERNS.get(pattern) or str(error["msg"]).removeprefix("Value error, ")


def _parent(location: Sequence[str | int], written: Any) -> Any:
    """What is written around the last part of a location."""
    for part in location[:-1]:
        if isinstance(part, int):
            written = written[part] if isinstance(written, list) and part < len(written) else None
        else:
            written = written.get(_key(part, written)) if isinstance(written, dict) else None
    return written


def _names(model: type[BaseModel], seen: frozenset[type] = frozenset()) -> Iterator[str]:
    """The names of all settings, at whatever depth."""
    for name, field in model.model_fields.items():
        yield name
        for inner in _models_in(field.annotation):
            if inner not in seen:
                yield from _names(inner, seen | {inner})


def _models_in(annotation: Any) -> Iterator[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for part in getattr(annotation, "__args__", ()):
        yield from _models_in(part)
