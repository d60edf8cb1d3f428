"""``patchConfig``: keys of a ConfigMap or Secret, then a restart of what reads them (runbook 1, "Configuration Fixes").

Undo restores the keys that were changed, and only those, and restarts the same workloads again.
"""

from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

from paramedic.actions.base import (
    Change,
    Clients,
    Json,
    Observed,
    Patch,
    Report,
    State,
    Write,
    annotation,
    patch_of,
    read_target,
)
from paramedic.actions.compound import CompoundAction, Parts
from paramedic.actions.patch_config.params import NO_VALUES_OF_SECRETS, PatchConfigParams
from paramedic.actions.patch_config.secret import (
    Kept,
    SecretPatch,
    SecretRestore,
    how_to_allow,
    kept_name,
    keys_of_others,
    metadata_if_allowed,
    missing_source,
    noted_keys,
    read_secret,
    secret_state,
)
from paramedic.api import ANNOTATION_OPERATION, ANNOTATION_WRITTEN_KEYS
from paramedic.api.reasons import Reason
from paramedic.api.workload import WORKLOADS, BoundTarget, collection_path, target_path
from paramedic.core.configusers import uses
from paramedic.core.redact import clean
from paramedic.core.rollout import rolls_out_on_delete
from paramedic.errors import NotFound, Refused, Terminal

if TYPE_CHECKING:
    from paramedic.clients.kube import Kube

_MOST_WORKLOADS = 20
_MOST_REMEMBERED = 131_072
_KEYS_TOLD = 5
_KEPT = "kept"
_NOT_RESTARTED = {
    "paused": "paused, not restarted",
    "onDelete": "OnDelete, not restarted until somebody deletes their pods",
}


@dataclass(frozen=True, slots=True)
class RestartPatch(Patch):
    """A new stamp on a workload's template. One that has been deleted meanwhile needs none."""

    part: str = ""

    async def write(self, kube: "Kube") -> None:
        """Raises Conflict, Refused, Retry, Terminal."""
        with suppress(NotFound):
            await kube.merge_patch(self.path, self.body)

    async def rehearse(self, kube: "Kube") -> None:
        """Asks the API server whether it would take it. Raises Conflict, Refused, Retry, Terminal."""
        try:
            with suppress(NotFound):
                await kube.try_patch(self.path, self.body)
        except (Refused, Terminal) as error:
            text = f"{self.part} cannot be restarted, so nothing was changed: {error}"
            raise type(error)(error.reason, text) from error


class PatchConfig(CompoundAction):
    """Patches ``data``, then the templates of the workloads that use it."""

    name = "patchConfig"
    summary = "Changes keys of a ConfigMap or Secret and restarts the workloads that use it."
    params = PatchConfigParams
    kinds = ("ConfigMap", "Secret")
    beyond_target = True

    def problem_for(self, params: Json, kind: str) -> str:
        """Values are for a ConfigMap, copies of values for a Secret."""
        return _problem_for(kind, bool(params.get("data")), bool(params.get("valueFrom")))

    def reaches_beyond(self, params: Json) -> bool:
        """When it restarts workloads."""
        return params.get("restart") != "None"

    async def observe_for(self, target: BoundTarget, params: Json, clients: Clients) -> Observed:
        """Reads the object (of a Secret the metadata only), the workloads to restart, and whether what valueFrom
        names can be read. Raises NotFound, Refused, Retry, Terminal.
        """
        wanted, kube = _parsed(params), clients.kube
        found = await (read_secret if target.kind == "Secret" else read_target)(target, kube)
        related = await _workloads(target, wanted, kube)
        if target.kind == "Secret":
            related |= await _beside_a_secret(target, wanted, kube)
        return Observed(found | {"keys": wanted.keys}, related)

    def parts(self, observed: Observed) -> Parts:
        """The object, and the workloads that are restarted after it."""
        objects = [observed.target, *observed.related["workloads"]]
        return {f"{obj['kind']}/{obj['metadata']['name']}": obj for obj in objects}

    def part_state(self, part: str, obj: Json) -> Any:
        """A ConfigMap's values; of a Secret who has set its keys; of a workload the last restart's stamp."""
        if obj["kind"] in WORKLOADS:
            return annotation({"metadata": obj["spec"]["template"].get("metadata") or {}}, ANNOTATION_OPERATION)
        if obj["kind"] == "Secret":
            return secret_state(obj, obj["keys"])
        data = obj.get("data") or {}
        return _values_state({key: data.get(key) for key in obj["keys"]})

    def write_part(
        self, observed: Observed, part: str, obj: Json | None, wanted: Any, operation: str
    ) -> Iterator[Write]:
        """One patch for each object; what a Secret's is to hold is filled in by ``plan`` and ``restore``."""
        if obj is None:
            return
        path = target_path(obj["kind"], observed.target["metadata"]["namespace"], obj["metadata"]["name"])
        if obj["kind"] in WORKLOADS:
            body: Json = {"spec": {"template": {"metadata": {"annotations": {ANNOTATION_OPERATION: wanted or None}}}}}
            patch = patch_of(obj, path, body, operation, observed.incident)
            yield RestartPatch(patch.path, patch.body, part)
        elif obj["kind"] == "Secret":
            patch = patch_of(obj, path, {}, operation, observed.incident)
            patch.body["metadata"]["annotations"][ANNOTATION_WRITTEN_KEYS] = noted_keys(obj, obj["keys"], operation)
            yield patch
        else:
            yield patch_of(obj, path, {"data": _values_of(wanted)}, operation, observed.incident)

    def plan(self, observed: Observed, params: PatchConfigParams, operation: str) -> Change:
        """The new values, then the restarts. Raises Refused for what is immutable, too much, or cannot be read."""
        _require_possible(observed, params)
        target = observed.target
        wanted = _wanted_state(target, params, operation)
        if self.part_state("", target) == wanted and annotation(target, ANNOTATION_OPERATION) != operation:
            there = f"{observed.name}: {', '.join(params.keys)} already as wanted"
            return Change(self.state(observed), self.state(observed), (), None, there)
        restarts = {part: operation for part in self.parts(observed) if part != _part(observed)}
        message = f"{observed.name}: {_told(target, params)}{_told_restarts(observed, list(restarts), params)}"
        change = self.change_to(observed, {_part(observed): wanted} | restarts, operation, message)
        if observed.kind == "ConfigMap":
            _require_rememberable(observed, change)
            return change
        return _secret_change(observed, params, change, operation)

    def restore(self, observed: Observed, before: State, operation: str) -> Change:
        """The earlier values of the changed keys, then the same workloads restarted once more. Raises Refused where a
        Secret's values were not kept.
        """
        earlier, present = before[_part(observed)], self.state(observed)
        if observed.kind == "Secret" and not before.get(_KEPT):
            raise Refused(Reason.NOT_PUT_BACK, _no_undo(observed))
        if present[_part(observed)] == earlier and annotation(observed.target, ANNOTATION_OPERATION) != operation:
            return Change(present, present, (), None, f"{observed.name}: as before already")
        # A workload whose template is as before has been put back without us, and has read what is replaced now.
        stamps = {part: stamp for part, stamp in before.items() if part in present and part != _part(observed)}
        again = {part: operation if present[part] == stamp else stamp for part, stamp in stamps.items()}
        told = f"{observed.name}: {', '.join(observed.target['keys'])} as before"
        message = f"{told}{_told_restarts(observed, list(again), None)}"
        change = self.change_to(observed, {_part(observed): earlier} | again, operation, message)
        if observed.kind == "ConfigMap":
            return change
        kept = _kept(observed, operation)
        return replace(change, forward=tuple(_restoring(w, observed, kept) for w in change.forward))

    def require_unchanged(self, observed: Observed, before: State, after: State) -> None:
        """Raises Refused when others have changed one of the keys since, unless to what it was. Restarts are nobody's
        property.
        """
        part, keys = _part(observed), observed.target["keys"]
        if observed.kind == "Secret":
            changed = keys_of_others(observed.target, keys, before[part], after[part])
        else:
            present = _values_of(self.part_state(part, observed.target))
            recorded = _values_of(after[part]), _values_of(before[part])
            changed = [key for key in keys if present[key] not in [state.get(key) for state in recorded]]
        if changed:
            text = f"{part} was changed by others since ({', '.join(changed)}): hands off"
            raise Refused(Reason.TARGET_CHANGED, text)

    async def apply(self, change: Change, clients: Clients) -> Report | None:
        """Asks first whether all restarts would be taken, so that a missing right leaves nothing half done."""
        for write in change.forward:
            if isinstance(write, RestartPatch):
                await write.rehearse(clients.kube)
        return await super().apply(change, clients)


def _problem_for(kind: str, data: bool, value_from: bool) -> str:
    if kind == "ConfigMap" and value_from:
        return "valueFrom is for a Secret: a ConfigMap may be read by many; use data"
    return NO_VALUES_OF_SECRETS if kind == "Secret" and data else ""


def _parsed(params: Json) -> PatchConfigParams:
    try:
        return PatchConfigParams.model_validate(params)
    except ValidationError as error:
        first = error.errors(include_input=False, include_url=False)[0]
        where = ".".join(["patchConfig", *map(str, first["loc"])])
        raise Terminal(Reason.INVALID_PARAMETERS, f"{where}: {first['msg']}") from error


async def _workloads(target: BoundTarget, wanted: PatchConfigParams, kube: "Kube") -> dict[str, list[Json]]:
    """The workloads to restart, in a fixed order; those that would not roll out, and named ones that are missing."""
    found: list[Json] = []
    missing: list[Json] = []
    if wanted.restart == "Users":
        for kind in WORKLOADS:
            listed = await kube.list(collection_path(kind, target.namespace))
            found += [{"kind": kind} | one for one in listed if uses(one, target.kind, target.name)]
    for named in wanted.workloads or []:
        try:
            path = target_path(named.kind, target.namespace, named.name)
            found.append({"kind": named.kind} | await kube.get(path))
        except NotFound:
            missing.append({"metadata": {"name": f"{named.kind}/{named.name}"}})
    found.sort(key=lambda one: (WORKLOADS.index(one["kind"]), one["metadata"]["name"]))
    paused = [one for one in found if one["spec"].get("paused")]
    on_delete = [one for one in found if rolls_out_on_delete(one)]
    rolling = [one for one in found if one not in paused and one not in on_delete]
    return {"workloads": rolling, "paused": paused, "onDelete": on_delete, "missing": missing}


async def _beside_a_secret(target: BoundTarget, wanted: PatchConfigParams, kube: "Kube") -> dict[str, list[Json]]:
    """What stands in the way of reading other Secrets, and the one that keeps earlier values."""
    problems = [await missing_source(target.namespace, source, kube) for source in wanted.value_from]
    kept = await _kept_of(target, kube)
    return {
        "problems": [{"metadata": {"name": problem}} for problem in problems if problem],
        _KEPT: [kept] if kept else [],
    }


async def _kept_of(target: BoundTarget, kube: "Kube") -> Json | None:
    with suppress(NotFound):
        return await metadata_if_allowed(target_path("Secret", target.namespace, kept_name(target.name)), kube)
    return None


def _require_possible(observed: Observed, params: PatchConfigParams) -> None:
    target, part = observed.target, _part(observed)
    if target.get("immutable"):
        raise Refused(
            Reason.IMMUTABLE,
            f"{part} is immutable: create one of another name with the new values and have the workloads refer to it",
        )
    if wrong := _problem_for(observed.kind, bool(params.data), bool(params.value_from)):
        raise Refused(Reason.INVALID_PARAMETERS, f"{part}: {wrong}")
    binary = sorted(set(target.get("binaryData") or {}) & set(params.keys))
    if binary:
        raise Refused(Reason.INVALID_PARAMETERS, f"{part} holds {', '.join(binary)} as binaryData, which is not text")
    missing = [one["metadata"]["name"] for one in observed.related["missing"]]
    if missing:
        raise Refused(Reason.TARGET_NOT_FOUND, f"{', '.join(missing)}, which workloads names, does not exist")
    count = len(observed.related["workloads"])
    if count > _MOST_WORKLOADS:
        raise Refused(
            Reason.INVALID_PARAMETERS,
            f"{count} workloads use {part}, and {_MOST_WORKLOADS} is the most that one step restarts: name them with "
            "restart: Named, or write restart: None",
        )
    for problem in observed.related.get("problems", []):
        raise Refused(Reason.FORBIDDEN, problem["metadata"]["name"])


def _require_rememberable(observed: Observed, change: Change) -> None:
    size = len(str(change.before[_part(observed)])) + len(str(change.after[_part(observed)]))
    if size > _MOST_REMEMBERED:
        raise Refused(
            Reason.INVALID_PARAMETERS,
            f"{_part(observed)}: the earlier and the new values are {size} characters long; for the undo at most "
            f"{_MOST_REMEMBERED} are remembered",
        )


def _secret_change(observed: Observed, params: PatchConfigParams, change: Change, operation: str) -> Change:
    """The same with the Secret's values filled in, as they are read; and with what is needed to put them back."""
    undoable = bool(observed.target["readable"] and observed.related[_KEPT])
    kept = _kept(observed, operation) if undoable else None
    forward = tuple(_filling(write, observed, params, kept) for write in change.forward)
    before = change.before | ({_KEPT: kept_name(observed.name)} if undoable else {})
    no_undo = "" if undoable else _no_undo(observed)
    return replace(change, before=before, forward=forward, inverse=before if undoable else None, no_undo=no_undo)


def _filling(write: Write, observed: Observed, params: PatchConfigParams, kept: Kept | None) -> Write:
    if not _is_for_target(write, observed):
        return write
    assert isinstance(write, Patch)
    return SecretPatch(write.path, write.body, tuple(params.keys), tuple(params.value_from), kept)


def _restoring(write: Write, observed: Observed, kept: Kept) -> Write:
    if not _is_for_target(write, observed):
        return write
    assert isinstance(write, Patch)
    return SecretRestore(write.path, write.body, kept)


def _is_for_target(write: Write, observed: Observed) -> bool:
    return write.path == _path(observed, observed.name)


def _no_undo(observed: Observed) -> str:
    namespace, name, kept = observed.target["metadata"]["namespace"], observed.name, kept_name(observed.name)
    return (
        f"Secret/{name} cannot be put back: what it held is kept in Secret/{kept}, which must exist, and Paramedic "
        f"must be allowed to get and patch both; to allow it: kubectl create secret generic {kept} -n {namespace}; "
        f"{how_to_allow(namespace, 'get,patch', name, kept)}"
    )


def _wanted_state(target: Json, params: PatchConfigParams, operation: str) -> Any:
    return operation if target["kind"] == "Secret" else _values_state(params.data)


def _values_state(values: "dict[str, str] | dict[str, str | None]") -> State:
    """Values by key, those that are not there apart; nothing of it empty, as empty parts of a status are dropped."""
    there = {key: value for key, value in sorted(values.items()) if value is not None}
    absent = sorted(key for key, value in values.items() if value is None)
    return ({"data": there} if there else {}) | ({"absent": absent} if absent else {})


def _values_of(state: State) -> dict[str, str | None]:
    return dict(state.get("data") or {}) | dict.fromkeys(state.get("absent") or [])


def _told(target: Json, params: PatchConfigParams) -> str:
    """What changes, for people: of a Secret the keys' names only."""
    if target["kind"] == "Secret":
        told = [f"{key} changed" for key in params.keys]
    else:
        told = [_told_value(key, (target.get("data") or {}).get(key), params.data[key]) for key in params.keys]
    more = f" and {len(told) - _KEYS_TOLD} more" if len(told) > _KEYS_TOLD else ""
    owner = next((one for one in target["metadata"].get("ownerReferences") or [] if one.get("controller")), None)
    note = f"; {owner['kind']}/{owner['name']}, which made it, may put it back" if owner else ""
    return f"{', '.join(told[:_KEYS_TOLD])}{more}{note}"


def _told_value(key: str, old: str | None, new: str) -> str:
    shown = [clean(f"{key}={value}", 80).removeprefix(f"{key}=") for value in (old or "", new)]
    return f"{key} {shown[0] if old is not None else '(not there)'} → {shown[1] or '(empty)'}"


def _told_restarts(observed: Observed, parts: list[str], params: PatchConfigParams | None) -> str:
    told = f"; then restarted: {', '.join(parts)}" if parts else ""
    if not parts and params and params.restart == "Users":
        told = "; no workload of the namespace that could be restarted uses it"
    for why in ("paused", "onDelete"):
        left = [f"{one['kind']}/{one['metadata']['name']}" for one in observed.related[why]]
        told += f"; {_NOT_RESTARTED[why]}: {', '.join(left)}" if left else ""
    return told


def _part(observed: Observed) -> str:
    return f"{observed.kind}/{observed.name}"


def _path(observed: Observed, name: str) -> str:
    return target_path(observed.kind, observed.target["metadata"]["namespace"], name)


def _kept(observed: Observed, operation: str) -> Kept:
    """Where this step keeps what it replaces."""
    name = f"kept.{observed.incident_uid}.{observed.step}"
    return Kept(_path(observed, kept_name(observed.name)), name, operation, observed.incident)
