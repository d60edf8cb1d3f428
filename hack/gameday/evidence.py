"""Whether what was kept as evidence is what the incident says it is: looked at where it lies.

Each function returns what is not as it should be, for a person.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from botocore.exceptions import ClientError

from gameday.cloud import Asked, Cloud
from gameday.scene import Act, Scene
from testbed.processes import ProcessError

Json = dict[str, Any]

_INCIDENT = "incidents.paramedic.dev"
_KEEPS = ("PutObject", "CreateMultipartUpload", "CreateSnapshot")
_ITEMS = 100
"""So many rows has covet's table of items."""


@dataclass
class Found:
    """The items that incidents name, by their names, as they lie in the bucket; and what was amiss with them."""

    bodies: dict[str, bytes] = field(default_factory=dict)
    snapshots: list[str] = field(default_factory=list)
    """Volumes of which there is a complete snapshot."""
    amiss: list[str] = field(default_factory=list)

    def of(self, prefix: str) -> list[bytes]:
        """Those whose names begin so."""
        return [body for name, body in self.bodies.items() if name.startswith(prefix)]


def of_the_breach(scene: Scene, acts: Sequence[Act]) -> list[str]:
    """Kept before anything was changed, whole, and of use: the guesses are in the logs, the dump can be restored."""
    found = look_up(scene)
    return [*found.amiss, *_before(scene, acts), *_of_use(scene, found), *_audited(scene)]


def of_the_slow_queries(scene: Scene, acts: Sequence[Act]) -> list[str]:
    """The slow statement is in PostgreSQL's log, once that was switched on, and in the statistics that were kept."""
    found, amiss = look_up(scene), []
    logged = [at for at in scene.stores.slow_statements("FROM reviews") if at >= _first(acts)]
    if not logged:
        amiss.append("PostgreSQL has logged no slow search in the time in which it should have")
    if not any(b"reviews" in body for body in found.of("slow-queries")):
        amiss.append(f"the search is not among the slowest statements that were kept: {sorted(found.bodies)}")
    if (now := scene.stores.postgres.psql("SHOW log_min_duration_statement")) != "-1":
        amiss.append(f"log_min_duration_statement was not put back: it is {now}")
    return [*found.amiss, *amiss]


def look_up(scene: Scene) -> Found:
    """All that the incidents of the namespace name."""
    found = Found()
    incidents: list[Json] = json.loads(scene.kubectl("get", _INCIDENT, "-o", "json"))["items"]
    for item in [one for incident in incidents for one in incident["status"].get("evidence", [])]:
        found.amiss += take(scene.aws.cloud, item, found)
    return found


def take(cloud: Cloud, item: Json, found: Found) -> Iterator[str]:
    """Adds one item, if it is there, and tells what is amiss with it."""
    scheme, _, rest = str(item.get("uri", "")).partition("://")
    place, _, key = rest.partition("/")
    if item.get("note"):
        yield f"{item['name']}: {item['note']}"
        return
    try:
        yield from (
            _take_snapshot(cloud, key, found) if scheme == "ec2" else _take_object(cloud, place, key, item, found)
        )
    except ClientError as error:
        yield f"{item['name']} is not there: {error}"


def _take_snapshot(cloud: Cloud, key: str, found: Found) -> Iterator[str]:
    (snapshot,) = cloud.client("ec2").describe_snapshots(SnapshotIds=[key])["Snapshots"]
    found.snapshots.append(str(snapshot["VolumeId"]))
    if snapshot["State"] != "completed":
        yield f"the snapshot {key} is {snapshot['State']}"


def _take_object(cloud: Cloud, bucket: str, key: str, item: Json, found: Found) -> Iterator[str]:
    body: bytes = cloud.client("s3").get_object(Bucket=bucket, Key=key)["Body"].read()
    found.bodies[str(item["name"])] = body
    if (hashlib.sha256(body).hexdigest(), len(body)) != (item.get("sha256"), item.get("sizeBytes")):
        yield f"{item['name']}: what lies in the bucket is not what the incident says, by its SHA-256"


def _first(acts: Sequence[Act]) -> float:
    return min((one.at for one in acts), default=0)


def _before(scene: Scene, acts: Sequence[Act]) -> Iterator[str]:
    change = next((one for one in acts if not one.what.startswith("AWS: ")), None)
    if change and (late := kept_after(change.at, scene.aws.cloud.asked, scene.namespace)):
        yield f"{change.what} was done before all evidence was kept: {late}"


def kept_after(at: float, asked: Sequence[Asked], namespace: str) -> list[str]:
    """What a step captures (not a diagnosis or a report) that AWS was asked to keep later than that, by its path."""
    keeping = [one for one in asked if one.by_paramedic and one.at > at and one.action in _KEEPS]
    return sorted(one.path for one in keeping if one.service == "ec2" or _captured(one.path, namespace))


def _captured(path: str, namespace: str) -> bool:
    return f"/{namespace}/" in path and any(f"/{part}/" in path for part in ("logs", "database"))


def _of_use(scene: Scene, found: Found) -> Iterator[str]:
    if not any(b"GET /admin was refused" in body for body in found.of("logs/")):
        yield f"no guess is in the logs that were kept: {sorted(found.bodies)}"
    yield from (f"there are no {what}" for what in ("events", "manifests", "history") if not found.of(what))
    if found.snapshots != [scene.aws.cloud.volume]:
        yield f"there are snapshots of {found.snapshots}, where one of {scene.aws.cloud.volume} was due"
    dumps = found.of("database/")
    if len(dumps) != 1:
        yield f"{len(dumps)} dumps were kept, where 1 was due"
        return
    try:
        rows = scene.stores.restored(dumps[0], ("items", "orders"))
    except ProcessError as error:
        yield f"the dump cannot be restored: {error}"
    else:
        if rows["items"] != _ITEMS or not rows["orders"]:
            yield f"the dump holds {rows}"


def _audited(scene: Scene) -> Iterator[str]:
    """The app's own log says whether the setting has reached it."""
    if "DEBUG audit: " not in scene.kubectl("logs", "-l", "app=covet", "--tail=100"):
        yield "the app does not log every request"
