"""Snapshots of EBS volumes (runbook 4, "Create snapshots"): of named ones, and of those behind the target's claims,
also when it has no pod any more.

``CreateSnapshot`` takes no client token. A snapshot carries the operation in its tags, and before one is made it is
looked for by them; one whose answer was lost is looked for again, and not made a second time.
"""

import asyncio
from dataclasses import dataclass
from typing import Any

from paramedic.api import ANNOTATION_INCIDENT, ANNOTATION_OPERATION
from paramedic.api.incident import Evidence
from paramedic.clients.aws import Aws
from paramedic.clients.connections import Connections
from paramedic.clients.evidence import Collection
from paramedic.clients.kube import Kube
from paramedic.errors import NotFound, ParamedicError, Retry

Json = dict[str, Any]
_EBS_DRIVER = "ebs.csi.aws.com"
_POLL_SECONDS = 5.0
_LOOKS_FOR_LOST = 5
_LOOK_AGAIN_SECONDS = 2.0


@dataclass(frozen=True, slots=True)
class Snapshots:
    """What to take: the volumes behind the claims of the pods that match ``selector``, of the claims named in
    ``claims``, and of those that are a prefix in ``numbered`` and a number; and ``volumes`` besides.
    """

    connection: str
    volumes: tuple[str, ...]
    selector: str
    claims: tuple[str, ...] = ()
    numbered: tuple[str, ...] = ()

    def wants(self, claim: str) -> bool:
        """Whether the claim of this name is of the target, whatever its pods use."""
        heads = (claim.removeprefix(prefix) for prefix in self.numbered if claim.startswith(prefix))
        return claim in self.claims or any(ordinal.isdecimal() for ordinal in heads)


class NotTaken(ParamedicError):
    """There is no snapshot; the message says why."""


async def capture_snapshots(
    kept: Collection,
    kube: Kube,
    connections: Connections,
    wanted: Snapshots,
    namespace: str,
    incident: str,
    operation: str,
    attempt: int = 1,
) -> None:
    """Adds an item for each volume: its snapshot, or why there is none. What is not complete in time says so. From the
    second ``attempt`` on, it is looked for as long as for one whose answer was lost before it is made.
    """
    try:
        aws = await connections.aws(namespace, wanted.connection, "aws")
    except ParamedicError as error:
        kept.miss("snapshots", str(error))
        return
    volumes = dict.fromkeys(wanted.volumes)
    if wanted.selector:
        await _add_claimed(volumes, kept, kube, namespace, wanted)
    tags = {ANNOTATION_OPERATION: operation, ANNOTATION_INCIDENT: f"{namespace}/{incident}"}
    async with asyncio.TaskGroup() as group:
        for volume in volumes:
            group.create_task(_keep(kept, aws, volume, tags, _LOOKS_FOR_LOST if attempt > 1 else 1))


async def _add_claimed(
    volumes: dict[str, None], kept: Collection, kube: Kube, namespace: str, wanted: Snapshots
) -> None:
    """The EBS volumes behind the claims; what is behind none of them says so."""
    try:
        claims = await claims_of(kube, namespace, wanted)
        for claim in claims:
            name, bound_to = claim["metadata"]["name"], claim["spec"].get("volumeName")
            volume = await _volume_of(kube, bound_to) if bound_to else None
            if volume:
                volumes.setdefault(volume)
            else:
                kept.miss(f"snapshots/{name}", f"the claim {name} is not bound to a volume in EBS")
    except ParamedicError as error:
        kept.miss("snapshots", f"the claims of the pods could not be read: {error}")
        return
    if not claims and not volumes:
        kept.miss("snapshots", "the target and its pods use no PersistentVolumeClaim that is there")


async def claims_of(kube: Kube, namespace: str, wanted: Snapshots) -> list[Json]:
    """The claims that are there, of the target and of the pods that match. Raises Refused, Retry, Terminal."""
    collection = f"/api/v1/namespaces/{namespace}/pods"
    pods = [p async for page in kube.pages(collection, labelSelector=wanted.selector) for p in page]
    used = {name for pod in pods for name in _claims_of_pod(pod)}
    if not (used or wanted.claims or wanted.numbered):
        return []
    found = await kube.list(f"/api/v1/namespaces/{namespace}/persistentvolumeclaims")
    names = ((claim, str(claim["metadata"]["name"])) for claim in found)
    return [claim for claim, name in names if name in used or wanted.wants(name)]


def named_claims(pod_spec: Json) -> tuple[str, ...]:
    """The claims that a pod or a template for pods names."""
    volumes = pod_spec.get("volumes") or []
    return tuple(str(v["persistentVolumeClaim"]["claimName"]) for v in volumes if v.get("persistentVolumeClaim"))


def _claims_of_pod(pod: Json) -> tuple[str, ...]:
    """Those it names, and those that Kubernetes makes for its generic ephemeral volumes."""
    made = (v["name"] for v in pod["spec"].get("volumes") or [] if v.get("ephemeral"))
    return *named_claims(pod["spec"]), *(f"{pod['metadata']['name']}-{name}" for name in made)


def ebs_volume(persistent_volume: Json) -> str | None:
    """The id of the EBS volume that a PersistentVolume stands for; None for a volume of another kind."""
    spec = persistent_volume["spec"]
    csi = spec.get("csi") or {}
    if csi.get("driver") == _EBS_DRIVER:
        return str(csi["volumeHandle"])
    legacy = (spec.get("awsElasticBlockStore") or {}).get("volumeID")
    return str(legacy).rpartition("/")[2] if legacy else None


async def _volume_of(kube: Kube, name: str) -> str | None:
    try:
        return ebs_volume(await kube.get(f"/api/v1/persistentvolumes/{name}"))
    except NotFound:
        return None


async def _keep(kept: Collection, aws: Aws, volume: str, tags: dict[str, str], looks: int) -> None:
    name = f"snapshots/{volume}"
    try:
        async with asyncio.timeout(kept.seconds_left):
            snapshot = await _look_for(aws, volume, tags, looks) or await _create(aws, volume, tags)
    except TimeoutError:
        kept.miss(name, f"the time for this step was over; a snapshot may have been begun: {_search(tags)}")
    except ParamedicError as error:
        kept.miss(name, str(error))
    else:
        kept.items.append(await _completed(kept, aws, name, snapshot))


async def _find(aws: Aws, volume: str, tags: dict[str, str]) -> Json | None:
    """The snapshot that this operation has made of the volume."""
    filters = [
        {"Name": "volume-id", "Values": [volume]},
        {"Name": f"tag:{ANNOTATION_OPERATION}", "Values": [tags[ANNOTATION_OPERATION]]},
    ]
    found = await aws.items("ec2", "describe_snapshots", "Snapshots", OwnerIds=["self"], Filters=filters)
    return found[0] if found else None


async def _create(aws: Aws, volume: str, tags: dict[str, str]) -> Json:
    """Raises NotTaken when it is not known whether there is one, and what the API says."""
    told = [{"Key": key, "Value": value} for key, value in tags.items()]
    try:
        return await aws.write(
            "ec2",
            "create_snapshot",
            VolumeId=volume,
            Description=f"Incident evidence: {tags[ANNOTATION_INCIDENT]}",
            TagSpecifications=[{"ResourceType": "snapshot", "Tags": told}],
        )
    except Retry as error:
        if not error.uncertain:
            raise
        found = await _look_for(aws, volume, tags, _LOOKS_FOR_LOST)
        if not found:
            raise NotTaken(f"{error}; no snapshot of this operation has appeared since: {_search(tags)}") from error
        return found


async def _look_for(aws: Aws, volume: str, tags: dict[str, str], looks: int) -> Json | None:
    """What EC2 lists lags behind what it has done by some seconds."""
    for look in range(looks):
        if look:
            await asyncio.sleep(_LOOK_AGAIN_SECONDS)
        found = await _find(aws, volume, tags)
        if found:
            return found
    return None


def _search(tags: dict[str, str]) -> str:
    """For people."""
    return f"look for the tag {ANNOTATION_OPERATION}={tags[ANNOTATION_OPERATION]} later"


async def _completed(kept: Collection, aws: Aws, name: str, snapshot: Json) -> Evidence:
    """The item, once the snapshot is complete or the time is over."""
    uri, said = f"ec2://{aws.access.region}/{snapshot['SnapshotId']}", ""
    while snapshot["State"] == "pending" and (kept.seconds_left is None or kept.seconds_left > _POLL_SECONDS):
        await asyncio.sleep(_POLL_SECONDS)
        try:
            found = await aws.read("ec2", "describe_snapshots", SnapshotIds=[snapshot["SnapshotId"]])
            snapshot, said = found["Snapshots"][0], ""
        except ParamedicError as error:
            said = f" ({error})"
    return Evidence(name=name, uri=uri, note=_note(snapshot, said))


def _note(snapshot: Json, said: str) -> str | None:
    if snapshot["State"] == "completed":
        return None
    if snapshot["State"] == "pending":
        return f"the snapshot is still pending at {snapshot.get('Progress') or '0%'}{said}"
    return f"the snapshot is in state {snapshot['State']}: {snapshot.get('StateMessage') or 'no message'}"
