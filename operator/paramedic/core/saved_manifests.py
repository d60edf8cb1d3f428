"""Manifests kept as the keys of a ConfigMap: which object each one is of, and what of it may be applied."""

import hashlib
import json
from collections.abc import Iterable
from typing import Any

import yaml

from paramedic.api import GROUP
from paramedic.api.reasons import Reason
from paramedic.core.redact import clean
from paramedic.errors import Refused

Json = dict[str, Any]
VERSIONS = {"Service": "v1", "Deployment": "apps/v1", "StatefulSet": "apps/v1"}
_DROPPED_ANNOTATIONS = ("kubectl.kubernetes.io/last-applied-configuration",)
_MOST_CHARACTERS = 256 * 1024
_LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


def digest_of(data: Json) -> str:
    """SHA-256 of a ConfigMap's data, the same as ``kubectl get configmap NAME -o json | jq -cSj .data | sha256sum``."""
    text = json.dumps(data, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return hashlib.sha256(text.encode(errors="surrogatepass")).hexdigest()


def manifests_of(config_map: Json, namespace: str, wanted: Iterable[tuple[str, str]]) -> dict[tuple[str, str], Json]:
    """The manifest of each wanted object, by kind and name. Raises Refused when one is missing, or when there is
    anything else: another kind, another object, another namespace.
    """
    name, data = config_map["metadata"]["name"], config_map.get("data") or {}
    if sum(len(str(text)) for text in data.values()) > _MOST_CHARACTERS:
        raise _wrong(f"ConfigMap/{name} has more than 256 KiB of manifests")
    found: dict[tuple[str, str], Json] = {}
    for key in sorted(data):
        manifest = _parsed(data[key], f"ConfigMap/{name}, key {key}")
        which = manifest["kind"], manifest["metadata"]["name"]
        _check(manifest, namespace, f"ConfigMap/{name}, key {key}")
        if which in found:
            raise _wrong(f"ConfigMap/{name} has two manifests of {which[0]}/{which[1]}")
        found[which] = manifest
    missing, extra = set(wanted) - set(found), set(found) - set(wanted)
    if missing:
        raise _wrong(f"ConfigMap/{name} has no manifest of {_names(missing)}")
    if extra:
        raise _wrong(f"ConfigMap/{name} has manifests of what the step does not name: {_names(extra)}")
    return found


def to_apply(manifest: Json, extra_annotations: Json, preconditions: Json) -> Json:
    """What is applied of it: all but the replicas, or a Service's selector, which come back later, stage by stage."""
    metadata = manifest["metadata"]
    annotations = {
        k: v
        for k, v in (metadata.get("annotations") or {}).items()
        if k not in _DROPPED_ANNOTATIONS and not k.startswith(f"{GROUP}/")
    }
    later = "selector" if manifest["kind"] == "Service" else "replicas"
    return {
        "apiVersion": manifest["apiVersion"],
        "kind": manifest["kind"],
        "metadata": {"name": metadata["name"], "annotations": annotations | extra_annotations}
        | ({"labels": metadata["labels"]} if metadata.get("labels") else {})
        | preconditions,
        "spec": {k: v for k, v in manifest["spec"].items() if k != later},
    }


def saved_by(manifest: Json) -> Json:
    """The state that a manifest stands for, as a shutdown saves it."""
    spec = manifest["spec"]
    if manifest["kind"] == "Service":
        return {"selector": {str(k): str(v) for k, v in (spec.get("selector") or {}).items()}}
    replicas = spec.get("replicas", 1)
    if not isinstance(replicas, int) or isinstance(replicas, bool) or replicas < 0:
        raise _wrong(f"{manifest['kind']}/{manifest['metadata']['name']}: replicas: {clean(replicas, 40)} is no number")
    return {"replicas": replicas}


def _parsed(text: Any, where: str) -> Json:
    if not isinstance(text, str):
        raise _wrong(f"{where}: not a text")
    try:
        # A few lines of aliases stand for more than any memory holds, once something writes them out.
        if any(isinstance(event, yaml.AliasEvent) for event in yaml.parse(text, Loader=_LOADER)):
            raise _wrong(f"{where}: aliases (*name) are not taken: write out what they stand for")
        documents = [one for one in yaml.load_all(text, Loader=_LOADER) if one is not None]
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise _wrong(f"{where}: not YAML: {clean(error, 160)}") from error
    if len(documents) != 1 or not _is_manifest(documents[0]):
        raise _wrong(f"{where}: not one manifest with apiVersion, kind, metadata.name and spec")
    manifest: Json = documents[0]
    return manifest


def _is_manifest(found: Any) -> bool:
    if not isinstance(found, dict):
        return False
    metadata = found.get("metadata")
    named = isinstance(metadata, dict) and isinstance(metadata.get("name"), str)
    return named and isinstance(found.get("kind"), str) and isinstance(found.get("spec"), dict)


def _check(manifest: Json, namespace: str, where: str) -> None:
    kind = manifest["kind"]
    if VERSIONS.get(kind) != manifest.get("apiVersion"):
        shown = clean(f"{manifest.get('apiVersion')} {kind}", 120)
        raise _wrong(f"{where}: {shown} is not restored, only {', '.join(f'{v} {k}' for k, v in VERSIONS.items())}")
    stated = manifest["metadata"].get("namespace", namespace)
    if stated != namespace:
        raise _wrong(f"{where}: is of namespace {clean(stated, 63)}; only objects of {namespace} are restored")


def _names(objects: Iterable[tuple[str, str]]) -> str:
    return ", ".join(clean(f"{kind}/{name}", 120) for kind, name in sorted(objects))


def _wrong(message: str) -> Refused:
    return Refused(Reason.INVALID_PARAMETERS, message)
