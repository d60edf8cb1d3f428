"""What all models share: camelCase names, strictness, and the scalar types with their units in the type."""

import re
from datetime import UTC, datetime, timedelta
from typing import Annotated, Any

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PlainSerializer,
    WithJsonSchema,
)
from pydantic.alias_generators import to_camel
from pydantic.config import JsonDict

_UNIT_SECONDS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
_DURATION_PART = re.compile(r"([0-9]+)(ms|s|m|h|d)")
# Longer than anything meant, and short enough that no sum with a date of our times leaves the calendar.
MAX_DURATION = timedelta(days=36_500)
DURATION_PATTERN = r"^([0-9]{1,7}(ms|s|m|h|d))+$"
NAME_PATTERN = r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?$"
OBJECT_NAME_PATTERN = r"^[a-z0-9]([-a-z0-9.]*[a-z0-9])?$"


class Model(BaseModel):
    """A part of a resource: camelCase on the wire, unknown fields refused."""

    model_config = ConfigDict(alias_generator=to_camel, populate_by_name=True, extra="forbid")

    def to_wire(self) -> dict[str, Any]:
        """The JSON form as the API server holds it: aliases, no empty optional fields."""
        return self.model_dump(mode="json", by_alias=True, exclude_none=True)


class StatusModel(Model):
    """A part of a status: fields of a newer version are kept out of the way instead of failing the read."""

    model_config = ConfigDict(alias_generator=to_camel, populate_by_name=True, extra="ignore")

    def to_wire(self) -> dict[str, Any]:
        """The JSON form without empty lists and maps, so that people read only what there is."""
        pruned: dict[str, Any] = _without_empty(super().to_wire())
        return pruned


def as_stored(model: type[Model]) -> BeforeValidator:
    """For a part of a policy that is kept on a status: what a newer version has added to it is left out there, too."""
    return BeforeValidator(
        lambda value: model.model_validate(value, extra="ignore") if isinstance(value, dict) else value
    )


def _without_empty(value: Any) -> Any:
    if isinstance(value, list):
        return [_without_empty(item) for item in value]
    if isinstance(value, dict):
        return {k: inner for k, v in value.items() if (inner := _without_empty(v)) not in ([], {})}
    return value


def parse_duration(value: str | int | float | timedelta) -> timedelta:
    """Reads ``90s``, ``10m``, ``1h30m``, ``2d``; numbers are seconds. Raises ValueError with the accepted form."""
    if isinstance(value, timedelta):
        return value
    if isinstance(value, int | float) and not isinstance(value, bool):
        seconds = value
    elif isinstance(value, str) and re.fullmatch(DURATION_PATTERN, value, re.ASCII):
        seconds = sum(float(n) * _UNIT_SECONDS[unit] for n, unit in _DURATION_PART.findall(value))
    else:
        raise ValueError(f"{value!r} is not a duration: write for example 30s, 10m or 1h30m")
    if not 0 <= seconds <= MAX_DURATION.total_seconds():
        raise ValueError(f"{value!r} is not between 0s and {MAX_DURATION.days}d")
    return timedelta(seconds=seconds)


def format_duration(value: timedelta) -> str:
    """The shortest form that ``parse_duration`` reads back, whole milliseconds at the finest."""
    milliseconds = round(value.total_seconds() * 1000)
    if milliseconds <= 0:
        return "0s"
    parts = []
    for unit, size in (("d", 86_400_000), ("h", 3_600_000), ("m", 60_000), ("s", 1000), ("ms", 1)):
        count, milliseconds = divmod(milliseconds, size)
        if count:
            parts.append(f"{count}{unit}")
    return "".join(parts)


def parse_time(value: str | datetime) -> datetime:
    """Reads RFC 3339, with the nanoseconds that Go writes; the result is in UTC. Raises ValueError."""
    try:
        if not isinstance(value, datetime):
            value = datetime.fromisoformat(re.sub(r"(\.\d{6})\d+", r"\1", value))
        return value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)
    except TypeError as error:
        raise ValueError(f"{value!r} is not a time: write for example 2026-01-31T03:00:00Z") from error
    except OverflowError as error:
        raise ValueError(f"{value} is outside of the calendar") from error


def format_time(value: datetime) -> str:
    """RFC 3339 in UTC, to the microsecond (Kubernetes' MicroTime)."""
    return value.astimezone(UTC).replace(tzinfo=None).isoformat(timespec="microseconds") + "Z"


def rule(expression: str, message: str) -> JsonDict:
    """One entry of ``x-kubernetes-validations``: a CEL rule with the message that a person reads."""
    return {"rule": expression, "message": message}


_DURATION_RULE = rule(
    f"self.matches('{DURATION_PATTERN}')", "a duration is a number with a unit, for example 30s, 10m or 1h30m"
)
Duration = Annotated[
    timedelta,
    BeforeValidator(parse_duration),
    PlainSerializer(format_duration, return_type=str),
    WithJsonSchema(
        {"type": "string", "pattern": DURATION_PATTERN, "maxLength": 32, "x-kubernetes-validations": [_DURATION_RULE]}
    ),
]
Time = Annotated[
    datetime,
    BeforeValidator(parse_time),
    PlainSerializer(format_time, return_type=str),
    WithJsonSchema({"type": "string", "format": "date-time"}),
]
StepName = Annotated[str, Field(pattern=NAME_PATTERN, max_length=63)]
NamespaceName = Annotated[str, Field(pattern=NAME_PATTERN, max_length=63)]
ObjectName = Annotated[str, Field(pattern=OBJECT_NAME_PATTERN, max_length=253)]
Url = Annotated[str, Field(pattern=r"^https?://[^\s]+$", max_length=2048)]
CelExpression = Annotated[str, Field(min_length=1, max_length=1024)]
Labels = Annotated[
    dict[str, Annotated[str, Field(max_length=65536)]],
    Field(max_length=128),
]
