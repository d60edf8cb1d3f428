"""Manifests fit to be handed on: what looks like a secret is replaced, and what they say of Secrets is listed."""

from collections.abc import Iterator
from typing import Any

from paramedic.core.redact import HIDDEN, redacted

Json = dict[str, Any]
LAST_APPLIED = "kubectl.kubernetes.io/last-applied-configuration"
_LEFT_OUT = "*** (a copy of the manifest, with whatever stands in it)"
_FREE_KEYS = frozenset({"annotations", "binaryData", "data"})
"""Maps whose keys are the author's words; elsewhere a key such as ``secretName`` is Kubernetes' own."""
_SHORTEST_SECRET = 8


def without_secrets(manifest: Json) -> Json:
    """A copy without values whose name or look is that of a secret: environment, command lines, URLs, ConfigMaps,
    annotations. ``managedFields`` stay as they are: they hold names of fields, and who wrote them when.
    """
    return {
        key: value if key == "kind" else _metadata(value) if key == "metadata" else _inner(value, key)
        for key, value in manifest.items()
    }


def without_secret_values(value: Any) -> Any:
    """A copy of what somebody has written throughout, such as a Job's output: whatever stands under a key whose name is
    that of a secret is hidden, at any depth; true, false and null stay, which tell no secret.
    """
    if isinstance(value, dict):
        return {_text(k): _under(k, v) for k, v in _with_named_value_hidden(value).items()}
    if isinstance(value, list):
        return _words(value) if all(isinstance(v, str) for v in value) else [without_secret_values(v) for v in value]
    return _text(value) if isinstance(value, str) else value


def secret_references(manifest: Json) -> Iterator[tuple[str, str]]:
    """Names of Secrets that a manifest refers to, each with a key of it, or with an empty one for the whole."""
    yield from _references(manifest)


def _metadata(metadata: Any) -> Any:
    if not isinstance(metadata, dict):
        return _inner(metadata, "")
    managed = {"managedFields": metadata["managedFields"]} if "managedFields" in metadata else {}
    return {k: _inner(v, k) for k, v in metadata.items() if k != "managedFields"} | managed


def _inner(value: Any, parent: str) -> Any:
    if isinstance(value, dict):
        return {k: _of_key(k, v, parent) for k, v in _with_named_value_hidden(value).items()}
    if isinstance(value, list):
        return _words(value) if all(isinstance(v, str) for v in value) else [_inner(v, "") for v in value]
    return _text(value) if isinstance(value, str) else value


def _with_named_value_hidden(value: Json) -> Json:
    """Of an environment variable or header whose name tells that it is a secret."""
    name = value.get("name")
    if isinstance(name, str) and value.get("value") is not None and _is_secret(name):
        return value | {"value": HIDDEN}
    return value


def _of_key(key: str, value: Any, parent: str) -> Any:
    if key == LAST_APPLIED:
        return _LEFT_OUT
    if parent in _FREE_KEYS and isinstance(value, str) and _is_secret(key):
        return HIDDEN
    return _inner(value, key)


def _under(key: str, value: Any) -> Any:
    if value is None or isinstance(value, bool):
        return value
    return HIDDEN if _is_secret(key) else without_secret_values(value)


def _words(values: list[str]) -> list[str]:
    """A command line: the word after ``--password`` is one too."""
    return [
        HIDDEN
        if at and values[at - 1].startswith("-") and "=" not in values[at - 1] and _is_secret(values[at - 1])
        else _text(value)
        for at, value in enumerate(values)
    ]


def _text(value: str) -> str:
    return value if len(value) < _SHORTEST_SECRET else redacted(value)


def _is_secret(name: str) -> bool:
    """Whether ``name=value`` would be taken for one."""
    line = f"{name.lstrip('-')}=value"
    return redacted(line) != line


def _references(value: Any) -> Iterator[tuple[str, str]]:
    if isinstance(value, list):
        for inner in value:
            yield from _references(inner)
    if not isinstance(value, dict):
        return
    for key, inner in value.items():
        if key in ("secretKeyRef", "secretRef", "secret") and isinstance(inner, dict):
            yield from _reference(inner)
        elif key == "secretName" and isinstance(inner, str):
            yield inner, ""
        elif key in ("imagePullSecrets", "secrets") and isinstance(inner, list):
            yield from ((str(one["name"]), "") for one in inner if isinstance(one, dict) and one.get("name"))
        else:
            yield from _references(inner)


def _reference(ref: Json) -> Iterator[tuple[str, str]]:
    name = ref.get("name") or ref.get("secretName")
    if name:
        keys = [str(item.get("key", "")) for item in ref.get("items") or []] or [str(ref.get("key") or "")]
        yield from ((str(name), key) for key in keys)
