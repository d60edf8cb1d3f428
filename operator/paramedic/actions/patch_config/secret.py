"""Secrets: changed without being read.

The API server answers a patch with metadata alone when asked to, so that the right to patch is enough and no value
comes into this process. Whether somebody else has changed a key since is told by ``managedFields``: the API server
moves a key to the manager that changes its value, and notes when. A digest would tell the same, and be guessed from.

What a change replaced is kept, for its undo, where it is as well guarded as before: in a second Secret,
``<name>-before``, that people have made for this purpose. Only for that is the Secret itself read. (An immutable Secret
for each change would need the right to get Secrets of any name.)
"""

import base64
import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

from paramedic.actions.base import Json, Patch, annotation
from paramedic.actions.patch_config.params import MOST_BYTES, SecretValue
from paramedic.api import ANNOTATION_WRITTEN_KEYS, API_VERSION, FIELD_MANAGER
from paramedic.api.incident import Incident, StepStatus
from paramedic.api.reasons import Reason
from paramedic.api.workload import BoundTarget, target_path
from paramedic.errors import Conflict, NotFound, ParamedicError, Refused, Terminal
from paramedic.log import get_logger

if TYPE_CHECKING:
    from paramedic.clients.kube import Kube

_NOBODY = ["nobody"]
_IMMUTABLE = "field is immutable when `immutable` is set"
_PROBE = {"data": {"paramedic-probe": ""}}
_MOST_KEPT = 20
_SERVICE_ACCOUNT = "--serviceaccount=paramedic-system:paramedic"
_log = get_logger(__name__)


def kept_name(name: str) -> str:
    """The Secret that keeps earlier values of another."""
    return f"{name}-before"


def how_to_allow(namespace: str, verbs: str, *names: str) -> str:
    """The commands that give Paramedic rights on Secrets by name."""
    role = f"paramedic-secret-{names[0]}"
    named = " ".join(f"--resource-name={name}" for name in names)
    return (
        f"kubectl create role {role} -n {namespace} --verb={verbs} --resource=secrets {named}; "
        f"kubectl create rolebinding {role} -n {namespace} --role={role} {_SERVICE_ACCOUNT}"
    )


async def read_secret(target: BoundTarget, kube: "Kube") -> Json:
    """The Secret's metadata, whether it is ``readable`` and whether it is ``immutable``; never its values. Raises
    NotFound, Refused with the missing right, Retry, Terminal.
    """
    path = target_path(target.kind, target.namespace, target.name)
    readable = await metadata_if_allowed(path, kube)
    try:
        found = await kube.patch_unseen(path, {}, dry_run=True)
    except Refused as error:
        how = how_to_allow(target.namespace, "patch", target.name)
        raise Refused(error.reason, f"{error}; to allow it: {how}") from error
    kind = {"apiVersion": target.api_version, "kind": target.kind}
    return found | kind | {"readable": readable is not None, "immutable": await _is_immutable(path, kube)}


async def metadata_if_allowed(path: str, kube: "Kube") -> Json | None:
    """The metadata of a Secret that Paramedic has the right to get; None for another."""
    try:
        return await kube.get_metadata(path)
    except Refused:
        return None


async def _is_immutable(path: str, kube: "Kube") -> bool:
    try:
        await kube.patch_unseen(path, _PROBE, dry_run=True)
    except (Refused, Terminal) as error:  # what else stands in the way is told by the change itself
        return _IMMUTABLE in str(error)
    return False


async def missing_source(namespace: str, source: SecretValue, kube: "Kube") -> str:
    """Why a Secret that valueFrom names cannot be read; the empty string when it can."""
    name = source.secret_name
    try:
        await kube.get_metadata(target_path("Secret", namespace, name))
    except NotFound:
        return f"Secret/{name}, which valueFrom names, does not exist in {namespace}"
    except Refused:
        how = how_to_allow(namespace, "get", name)
        return f"Paramedic may not get Secret/{name}, which valueFrom names; to allow it: {how}"
    return ""


def key_owners(secret: Json, key: str) -> list[str]:
    """Who has set the key, and when: the same as long as nobody changes its value.

    An operation's id is a change of ours. Who applies ``stringData`` is noted under that, whoever wrote ``data`` last.
    """
    entries = secret["metadata"].get("managedFields") or []
    owners = [entry for entry in entries if f"f:{key}" in (entry.get("fieldsV1") or {}).get("f:data", {})]
    applied = [entry for entry in entries if f"f:{key}" in (entry.get("fieldsV1") or {}).get("f:stringData", {})]
    operation = written_keys(secret).get(key)
    ours = operation and any(entry.get("manager") == FIELD_MANAGER for entry in owners)
    first = [str(operation)] if ours else sorted(map(_seen, owners))
    return [*first, *sorted(f"stringData of {_seen(entry)}" for entry in applied)] or list(_NOBODY)


def secret_state(secret: Json, keys: list[str]) -> "str | dict[str, list[str]]":
    """The operation that has set all of the keys; where it is not one and the same, the owners of each."""
    owners = {key: key_owners(secret, key) for key in keys}
    first = owners[keys[0]]
    is_one = all(names == first for names in owners.values()) and len(first) == 1
    return first[0] if is_one and first[0] in written_keys(secret).values() else owners


def keys_of_others(secret: Json, keys: list[str], before: Any, after: str) -> list[str]:
    """The keys that others have set since the operation ``after``. One whose owners are as before it has not moved, as
    its value was there already.
    """
    found = []
    for key in keys:
        owners, earlier = key_owners(secret, key), [before] if isinstance(before, str) else before.get(key, [])
        ours = owners[0] == after and set(owners[1:]) <= set(earlier)
        if not ours and owners != earlier:
            found.append(key)
    return found


def written_keys(secret: Json) -> dict[str, str]:
    """The keys that Paramedic has written, with the operation. An annotation, so anybody's text: it counts only where
    the API server says that the key is ours.
    """
    try:
        parsed = json.loads(annotation(secret, ANNOTATION_WRITTEN_KEYS) or "{}")
    except ValueError:
        return {}
    return {str(k): str(v) for k, v in parsed.items()} if isinstance(parsed, dict) else {}


def noted_keys(secret: Json, keys: list[str], operation: str) -> str:
    """The annotation's value after the operation has written these keys."""
    still = {k: v for k, v in written_keys(secret).items() if key_owners(secret, k)[0] == v}
    return json.dumps(still | dict.fromkeys(keys, operation), sort_keys=True)


def _seen(entry: Json) -> str:
    return f"{entry.get('manager')} {entry.get('operation')} {entry.get('time')}"


@dataclass(frozen=True, slots=True)
class Kept:
    """The earlier values of one step of ``incident``, under ``name`` in the Secret at ``path``."""

    path: str
    name: str
    operation: str
    incident: str = ""

    async def keep(self, kube: "Kube", target_path: str, version: str | None, keys: list[str]) -> None:
        """Keeps the present values of the Secret at ``target_path``; what was kept earlier makes room. Raises Conflict
        when it is not that version any more, NotFound when it is gone, Refused when its values cannot be kept.
        """
        present = await kube.get(target_path)
        if version and present["metadata"]["resourceVersion"] != version:
            raise Conflict(f"{target_path} was changed meanwhile")
        earlier = {key: (present.get("data") or {}).get(key) for key in keys}
        whose = {"incident": self.incident} if self.incident else {}
        kept = encoded(json.dumps({"operation": self.operation, "values": earlier} | whose))
        others = {name: value for name, value in (await self._held(kube)).items() if name != self.name}
        old = await self._in_the_way(kube, others, _size(kept))
        try:
            await kube.patch_unseen(self.path, {"data": {self.name: kept} | dict.fromkeys(old)})
        except NotFound as error:
            raise self._missing() from error

    async def take(self, kube: "Kube") -> dict[str, str | None]:
        """The earlier values as the API holds them (base64), None for a key that was not there. Raises Refused when
        they are not kept any more.
        """
        earlier = _decoded((await self._held(kube)).get(self.name, "")).get("values")
        if not isinstance(earlier, dict):
            raise Refused(Reason.NOT_PUT_BACK, f"{self.path} does not keep the values from before any more")
        return earlier

    async def forget(self, kube: "Kube") -> None:
        """They are not needed any more. Where they cannot be taken away they stay until newer ones need the room."""
        try:
            await kube.patch_unseen(self.path, {"data": {self.name: None}})
        except ParamedicError as error:
            _log.warning("what was put back is still kept", path=self.path, entry=self.name, error=str(error))

    async def _held(self, kube: "Kube") -> dict[str, str]:
        """All that the Secret holds. Raises Refused when it is not there: the target may be there all the same."""
        try:
            return dict((await kube.get(self.path)).get("data") or {})
        except NotFound as error:
            raise self._missing() from error

    def _missing(self) -> Refused:
        name = self.path.rpartition("/")[2]
        return Refused(
            Reason.NOT_PUT_BACK,
            f"Secret/{name}, which keeps the values from before, was deleted; create it anew (kubectl create secret "
            f"generic {name}), and set by hand what it was to put back",
        )

    async def _in_the_way(self, kube: "Kube", others: dict[str, str], size: int) -> list[str]:
        """The oldest entries that must go for one of ``size`` bytes, without those that may still have to be put back.
        Raises Refused when there is no room without these.
        """
        by_age = sorted((str(entry["operation"]), name) for name, entry in _entries(others))
        room = MOST_BYTES - size - sum(map(_size, others.values()))
        too_many = len(by_age) + 1 - _MOST_KEPT
        gone: list[str] = []
        for _, name in by_age:
            if room >= 0 and len(gone) >= too_many:
                break
            if not await self._is_needed(kube, _decoded(others[name])):
                gone.append(name)
                room += _size(others[name])
        if room < 0:
            raise Refused(
                Reason.NOT_PUT_BACK,
                f"Secret/{self.path.rpartition('/')[2]} has no room for the earlier values ({size} bytes), which the "
                f"undo needs: it may hold {MOST_BYTES} bytes, and what it holds is of changes that may still be put "
                "back, or not Paramedic's; resolve those incidents, or take away what is not needed",
            )
        return gone

    async def _is_needed(self, kube: "Kube", entry: Json) -> bool:
        """Whether the entry's incident may still want it. One of which that cannot be told makes room."""
        if not entry.get("incident"):
            return False
        namespace = self.path.split("/")[4]
        try:
            found = await kube.get(f"/apis/{API_VERSION}/namespaces/{namespace}/incidents/{entry['incident']}")
            steps = Incident.model_validate(found).status.steps
        except (NotFound, Refused, ValidationError):
            return False
        return any(step.operation == entry["operation"] and _may_be_put_back(step) for step in steps)


@dataclass(frozen=True, slots=True)
class SecretPatch(Patch):
    """New values for keys of a Secret. ``body`` has the preconditions and stamps; values are read only on writing."""

    keys: tuple[str, ...] = ()
    sources: tuple[SecretValue, ...] = ()
    kept: Kept | None = None

    async def write(self, kube: "Kube") -> None:
        """Reads what valueFrom names, keeps the earlier values, and writes. Raises Conflict, NotFound, Refused, Retry,
        Terminal; no message holds a value.
        """
        folder = self.path.rpartition("/")[0]
        values = {source.key: await _value(folder, source, kube) for source in self.sources}
        if sum(len(value) * 3 // 4 for value in values.values()) > MOST_BYTES:
            raise Refused(Reason.INVALID_PARAMETERS, f"the new values are more than {MOST_BYTES} bytes in all")
        if self.kept:
            await self.kept.keep(kube, self.path, self.body["metadata"].get("resourceVersion"), list(self.keys))
        await kube.patch_unseen(self.path, self.body | {"data": values})


@dataclass(frozen=True, slots=True)
class SecretRestore(Patch):
    """The kept values back into the Secret."""

    kept: Kept | None = None

    async def write(self, kube: "Kube") -> None:
        """Raises Conflict, NotFound, Refused when nothing is kept, Retry, Terminal."""
        assert self.kept is not None
        earlier = await self.kept.take(kube)
        await kube.patch_unseen(self.path, self.body | {"data": earlier})
        await self.kept.forget(kube)


async def _value(folder: str, source: SecretValue, kube: "Kube") -> str:
    try:
        found = await kube.get(f"{folder}/{source.secret_name}")
    except NotFound as error:
        raise Refused(
            Reason.INVALID_PARAMETERS, f"Secret/{source.secret_name}, which valueFrom names, does not exist"
        ) from error
    value = (found.get("data") or {}).get(source.secret_key)
    if value is None:
        raise Refused(
            Reason.INVALID_PARAMETERS,
            f"Secret/{source.secret_name} has no key {source.secret_key}, which valueFrom names for {source.key}",
        )
    return str(value)


def _may_be_put_back(step: StepStatus) -> bool:
    """At a lease's end, or because it does not help."""
    reverting = step.revert is not None and step.revert.state == "Executing"
    return reverting or step.holds_mitigation or step.state in ("Executing", "Verifying")


def _entries(held: dict[str, str]) -> list[tuple[str, Json]]:
    """What Paramedic has kept, by name; the rest is other people's."""
    decoded = ((name, _decoded(value)) for name, value in held.items())
    return [(name, entry) for name, entry in decoded if "operation" in entry]


def _size(value: str) -> int:
    """How many bytes of a Secret a value takes, as the API server counts: at most two fewer."""
    return len(value) * 3 // 4


def _decoded(value: str) -> Json:
    """What was kept; empty for what is not of ours."""
    try:
        parsed = json.loads(base64.b64decode(value))
    except ValueError:
        return {}
    return parsed if isinstance(parsed, dict) else {}


def encoded(text: str) -> str:
    """A value as the API takes it."""
    return base64.b64encode(text.encode()).decode()
