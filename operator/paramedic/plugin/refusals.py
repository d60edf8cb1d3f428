"""What the API server says when it refuses, made readable: the part that tells a person what to do. Pure."""

import json
import re
from typing import Any

from paramedic.plugin.failures import Exit, Failure

_DENIED = re.compile(r".*?denied (?:the )?request:\s*(.*)", re.DOTALL)
_INVALID = re.compile(r'.*?" is invalid:\s*(.*)', re.DOTALL)
_BY_RBAC = re.compile(
    r'.*User "(?P<user>[^"]+)" cannot (?P<verb>\w+) resource "(?P<what>[^"]+)" in API group "[^"]*"'
    r'(?: in the namespace "(?P<where>[^"]+)")?',
    re.DOTALL,
)
_READING = frozenset({"get", "list", "watch"})
_NOT_INSTALLED = "the server could not find the requested resource"


def failure_of(status: int, raw: bytes) -> Failure:
    """The Failure for an answer with an HTTP status of 400 or more."""
    message, causes = _status(raw)
    if status == 401:
        return Failure(Exit.FORBIDDEN, "the API server does not accept your login: log in again (kubectl auth whoami)")
    if status == 403:
        return Failure(Exit.FORBIDDEN, _forbidden(message))
    if status == 404:
        return Failure(Exit.NOT_FOUND, _not_found(message))
    if status == 409:
        return Failure(Exit.CONFLICT, message)
    return Failure(Exit.REFUSED, _invalid(message, causes) or f"the API server answered {status}")


def _status(raw: bytes) -> tuple[str, list[Any]]:
    """Message and causes of a Kubernetes Status; else what a proxy in between says."""
    try:
        parsed: Any = json.loads(raw)
        return str(parsed.get("message") or ""), (parsed.get("details") or {}).get("causes") or []
    except (ValueError, AttributeError):
        return raw[:300].decode(errors="replace"), []


def _invalid(message: str, causes: list[Any]) -> str:
    """Field by field; without what the server says of checks that it has left out."""
    told = [f"{one['field']}: {one.get('message', '')}" for one in causes if one.get("field") not in (None, "<nil>")]
    return "\n".join(told) or _useful(message)


def _forbidden(message: str) -> str:
    found = _BY_RBAC.match(message)
    if not found:
        return _useful(message)
    where = f" in {found['where']}" if found["where"] else " in all namespaces"
    role = "paramedic-view" if found["verb"] in _READING else "paramedic-edit"
    return f"{found['user']} may not {found['verb']} {found['what']}{where}: ask for the ClusterRole {role} there"


def _not_found(message: str) -> str:
    if _NOT_INSTALLED in message or not message or message.startswith("404 page not found"):
        return "Paramedic is not installed in this cluster: it knows no incidents.paramedic.dev"
    return message


def _useful(message: str) -> str:
    """Without what admission policies and the schema's validation put in front."""
    for pattern in (_DENIED, _INVALID):
        if found := pattern.match(message):
            return found[1]
    return message
