"""What a kubeconfig is made of, so that one that is made otherwise is an error that says where.

The source: https://kubernetes.io/docs/reference/config-api/kubeconfig.v1/. Fields that are not listed here are let be.
"""

from collections.abc import Mapping
from typing import Any, TypeAlias

Shape: TypeAlias = "type | list[Shape] | Mapping[str, Shape]"
"""A type; a list of things of a shape, which have names where they are mappings; the shapes of a mapping's fields, with
``*`` of all of them.
"""
_WORDS = {str: "a text", bool: "true or false", list: "a list", dict: "a mapping", int: "a number", float: "a number"}
_CLUSTER: Shape = {
    "server": str,
    "tls-server-name": str,
    "insecure-skip-tls-verify": bool,
    "certificate-authority": str,
    "certificate-authority-data": str,
    "proxy-url": str,
    "disable-compression": bool,
    "extensions": [{}],
}
_EXEC: Shape = {
    "apiVersion": str,
    "command": str,
    "args": [str],
    "env": [{"value": str}],
    "installHint": str,
    "provideClusterInfo": bool,
    "interactiveMode": str,
}
_USER: Shape = {
    "client-certificate": str,
    "client-certificate-data": str,
    "client-key": str,
    "client-key-data": str,
    "token": str,
    "tokenFile": str,
    "as": str,
    "as-uid": str,
    "as-groups": [str],
    "as-user-extra": {"*": [str]},
    "exec": _EXEC,
}
KUBECONFIG: Shape = {
    "current-context": str,
    "clusters": [{"cluster": _CLUSTER}],
    "users": [{"user": _USER}],
    "contexts": [{"context": {"cluster": str, "user": str, "namespace": str}}],
}


def check(value: Any, shape: Shape, where: str = "") -> None:
    """Raises ValueError, which says where, when a value is not of this shape; null is no value, and of each."""
    if value is None:
        return
    if isinstance(shape, list):
        for number, item in enumerate(_typed(value, list, where)):
            _check_item(item, shape[0], f"{where}[{number}]")
    elif isinstance(shape, Mapping):
        for key, one in _typed(value, dict, where).items():
            field = _typed(key, str, f"the key {key!r} of {where or 'it'}")
            if (inner := shape.get(field, shape.get("*"))) is not None:
                check(one, inner, f"{where}.{field}" if where else field)
    else:
        _typed(value, shape, where)


def _check_item(item: Any, shape: Shape, where: str) -> None:
    """One of a list, where nothing may be missing."""
    if item is None:
        raise ValueError(f"{where} is empty")
    check(item, shape, where)
    if isinstance(item, dict):
        if not item.get("name"):
            raise ValueError(f"{where} has no name")
        _typed(item["name"], str, f"{where}.name")


def _typed(value: Any, wanted: type, where: str) -> Any:
    if not isinstance(value, wanted):
        found = _WORDS.get(type(value), f"a {type(value).__name__}")
        raise ValueError(f"{where or 'it'} must be {_WORDS[wanted]}, and is {found}")  # noqa: TRY004 - of the file
    return value
