"""Incidents and policies as typed models, for the commands that look into them."""

from pydantic import ValidationError

from paramedic.api.incident import Incident
from paramedic.api.policy import RemediationPolicy
from paramedic.plugin.failures import Exit, Failure
from paramedic.plugin.texts import Json


def read_incident(raw: Json) -> Incident:
    """Raises Failure for one that another version of Paramedic has written, and this one does not understand."""
    try:
        return Incident.model_validate(raw)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        where = ".".join(map(str, first["loc"]))
        name = raw["metadata"]["name"]
        text = f"{name} is of another version of Paramedic than this plugin ({where}: {first['msg']})"
        raise Failure(Exit.REFUSED, f"{text}\nupdate the plugin, or: kubectl incident show {name} -o yaml") from error


def read_policies(raw: list[Json]) -> tuple[list[RemediationPolicy], list[str]]:
    """The policies that can be read, and the names of those that cannot."""
    read, unread = [], []
    for one in raw:
        try:
            read.append(RemediationPolicy.model_validate(one))
        except ValidationError:
            unread.append(str(one["metadata"]["name"]))
    return read, unread
