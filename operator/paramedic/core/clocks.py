"""An incident's clocks: how long people and Paramedic took, and when the next status update is due. Pure."""

from datetime import datetime, timedelta

from paramedic.api.base import MAX_DURATION
from paramedic.api.incident import Incident, Times
from paramedic.api.reasons import Reason
from paramedic.core.notices import NEWEST
from paramedic.core.situation import began_at, helped


def mitigated_at(incident: Incident) -> datetime | None:
    """When a remedy was first verified, also if what it did has been put back since."""
    finished = (step.finished_at for step in incident.status.steps if helped(step))
    return incident.status.mitigated_at or min((at for at in finished if at), default=None)


def times(incident: Incident) -> Times | None:
    """How long things took, from the beginning of the trouble; each figure stays once it is there."""
    status, known = incident.status, incident.status.times or Times()
    began = began_at(incident)
    acknowledged = status.acknowledgement.at if status.acknowledgement else None
    if began is None or not (acknowledged or status.mitigated_at or status.resolved_at):
        return status.times
    return Times(
        acknowledge=known.acknowledge if known.acknowledge is not None else _between(began, acknowledged),
        mitigate=known.mitigate if known.mitigate is not None else _between(began, status.mitigated_at),
        resolve=known.resolve if known.resolve is not None else _between(began, status.resolved_at),
    )


def next_update_at(incident: Incident, every: timedelta) -> datetime | None:
    """When the next status update is due: at whole intervals since the incident was opened, after the last one."""
    opened = incident.metadata.creation_timestamp
    if opened is None or not every:
        return None
    notices = incident.status.notices
    told = [notice.at for notice in notices if notice.reason == Reason.UPDATE_DUE]
    # Of a long list only the newest are kept: an older update than those is not there any more.
    oldest = [notices[0].at] if len(notices) >= NEWEST else []
    last = max([opened, *told, *oldest])
    return opened + ((last - opened) // every + 1) * every


def _between(began: datetime, ended: datetime | None) -> timedelta | None:
    if ended is None:
        return None
    return min(max(ended - began, timedelta(0)), MAX_DURATION)
