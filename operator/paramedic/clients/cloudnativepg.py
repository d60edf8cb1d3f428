"""A PostgreSQL cluster of the operator CloudNativePG, in this Kubernetes cluster.

It promotes whom ``status.targetPrimary`` names, after the present primary has ended and the replica has all of it. The
request is the change of status that ``kubectl cnpg promote`` makes (internal/cmd/plugin/promote), bound to the object's
UID and resourceVersion: a second one of the same look fails. The stamp of the operation goes with it as a condition, as
the status is all that the right to promote lets one write; CloudNativePG keeps conditions that are not its own.
"""

import json
import re
from datetime import datetime
from typing import Any

from paramedic.api.base import format_time, parse_time
from paramedic.api.connection import CloudNativePG
from paramedic.clients.kube import Kube
from paramedic.core.failover import Asked, Database, Member, Phase
from paramedic.errors import NotFound

Json = dict[str, Any]
_GROUP = "/apis/postgresql.cnpg.io/v1"
_FENCED = "cnpg.io/fencedInstances"
_HEALTHY = "Cluster in healthy state"
_SWITCHOVER = "Switchover in progress"
_FAILOVER = "Failing over"
_PORT = 5432
_ASKED = "paramedic.dev/FailoverRequested"
_ASKED_MESSAGE = re.compile(r"incident (?P<incident>\S+), operation (?P<operation>\S+), to (?P<to>\S+)")


class CloudNativePGCluster:
    """One Cluster. Its methods raise Conflict, NotFound, Refused, Retry, Terminal."""

    def __init__(self, kube: Kube, where: CloudNativePG) -> None:
        self._kube = kube
        self._where = where
        self._path = f"{_GROUP}/namespaces/{where.namespace}/clusters/{where.cluster}"

    async def look(self, *, briefly: bool = False) -> Database:
        """The cluster as its operator describes it. A fenced instance counts as not healthy."""
        found = await self._kube.get(self._path)
        status = found.get("status") or {}
        fenced = _fenced(found)
        healthy = set((status.get("instancesStatus") or {}).get("healthy") or []) - fenced
        endpoint = f"{status.get('writeService') or f'{self._where.cluster}-rw'}.{self._where.namespace}.svc"
        blocked = bool(fenced & {"*", str(status.get("currentPrimary"))})
        names = status.get("instanceNames") or []
        return Database(
            identity=str(found["metadata"]["uid"]),
            phase=Phase.OTHER if blocked else _phase(status),
            status="fenced at its primary" if blocked else str(status.get("phase") or "no status yet"),
            writer=str(status.get("currentPrimary") or ""),
            members=tuple(Member(name, name in healthy and "*" not in fenced, endpoint) for name in names),
            endpoint=endpoint,
            port=_PORT,
            asked=_asked(status),
            failovers=_told(status),
            waits_for_replica=True,
            moving_to=str(status.get("targetPrimary") or ""),
            resource_version=str(found["metadata"]["resourceVersion"]),
        )

    async def latest_snapshot(self) -> str:
        """The last backup that went well, for people; the empty string when there is none."""
        found = await self._kube.get(self._path)
        at = (found.get("status") or {}).get("lastSuccessfulBackup")
        return f"backup of {at}" if at else ""

    async def ask(self, to: str, database: Database, operation: str, incident: str, now: datetime) -> None:
        """Names the new primary. Raises Conflict when the cluster has changed since it was seen."""
        found = await self._kube.get(self._path)
        await self._pod_exists(to)
        metadata = {"uid": database.identity, "resourceVersion": database.resource_version}
        conditions = (found.get("status") or {}).get("conditions") or []
        status = {
            "targetPrimary": to,
            "targetPrimaryTimestamp": format_time(now),
            "phase": _SWITCHOVER,
            "phaseReason": f"Switching over to {to}",
            "conditions": [*_not_ready(conditions, now), _stamp(to, operation, incident, now)],
        }
        await self._kube.merge_patch(f"{self._path}/status", {"metadata": metadata, "status": status})

    async def _pod_exists(self, name: str) -> None:
        path = f"/api/v1/namespaces/{self._where.namespace}/pods/{name}"
        try:
            await self._kube.get_metadata(path)
        except NotFound as error:
            raise NotFound(f"the pod {name} of the new primary does not exist") from error


def _phase(status: Json) -> Phase:
    moving = status.get("currentPrimary") != status.get("targetPrimary")
    if moving or status.get("phase") in (_SWITCHOVER, _FAILOVER):
        return Phase.FAILING_OVER
    return Phase.AVAILABLE if status.get("phase") == _HEALTHY else Phase.OTHER


def _fenced(cluster: Json) -> set[str]:
    """Names of the instances that are kept from serving; ``*`` for all."""
    text = (cluster["metadata"].get("annotations") or {}).get(_FENCED)
    if not text:
        return set()
    try:
        found = json.loads(text)
    except ValueError:
        return {"*"}
    return {str(name) for name in found} if isinstance(found, list) else {"*"}


def _asked(status: Json) -> Asked | None:
    """By the condition that was written with the request."""
    stamp: Json = next((one for one in status.get("conditions") or [] if one.get("type") == _ASKED), {})
    told = _ASKED_MESSAGE.fullmatch(str(stamp.get("message", "")))
    at = _time(stamp.get("lastTransitionTime"))
    return Asked(told["operation"], told["to"], at, told["incident"]) if told and at else None


def _told(status: Json) -> tuple[tuple[datetime, str], ...]:
    """The last time that anybody named a primary."""
    at = _time(status.get("targetPrimaryTimestamp"))
    return ((at, f"{status.get('targetPrimary')} was to be the primary"),) if at else ()


def _time(text: object) -> datetime | None:
    try:
        return parse_time(str(text))
    except ValueError:
        return None


def _stamp(to: str, operation: str, incident: str, now: datetime) -> Json:
    return {
        "type": _ASKED,
        "status": "True",
        "reason": "FailoverRequested",
        "message": f"incident {incident}, operation {operation}, to {to}",
        "lastTransitionTime": _seconds(now),
    }


def _seconds(now: datetime) -> str:
    return format_time(now)[:19] + "Z"


def _not_ready(conditions: list[Json], now: datetime) -> list[Json]:
    """The conditions with Ready false, as long as the cluster is not healthy again; without the stamp."""
    since = _seconds(now)
    before = next((one for one in conditions if one["type"] == "Ready"), {"status": ""})
    ready = {
        "type": "Ready",
        "status": "False",
        "reason": "ClusterIsNotReady",
        "message": "Cluster Is Not Ready",
        "lastTransitionTime": since if before["status"] != "False" else before["lastTransitionTime"],
    }
    return [*(one for one in conditions if one["type"] not in ("Ready", _ASKED)), ready]
