"""Reads the API server's audit log: the witness of what was really asked, by whom, and what was answered."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

Json = dict[str, Any]

WRITES = frozenset({"create", "update", "patch", "delete", "deletecollection"})


@dataclass(frozen=True)
class Request:
    """One answered request."""

    verb: str
    user: str
    resource: str
    """Plural, with the subresource if any: "deployments", "incidents/status"."""
    namespace: str
    name: str
    status: int
    uri: str
    user_agent: str
    received_at: str
    """RFC 3339 with microseconds, so that texts compare as times do."""
    raw: Json

    @property
    def is_write(self) -> bool:
        return self.verb in WRITES


class AuditLog:
    """`since` marks make each test see only its own part of a log that the whole session shares."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def mark(self) -> int:
        """Where the log ends now; give it to `requests`."""
        return self.path.stat().st_size

    def requests(
        self,
        since: int = 0,
        *,
        verb: str | None = None,
        user: str | None = None,
        resource: str | None = None,
        namespace: str | None = None,
        name: str | None = None,
    ) -> list[Request]:
        """What was answered after `since`, oldest first; each argument given must match exactly."""
        wanted = {"verb": verb, "user": user, "resource": resource, "namespace": namespace, "name": name}
        given = {key: value for key, value in wanted.items() if value is not None}
        return [one for one in self._read(since) if all(getattr(one, key) == value for key, value in given.items())]

    def writes(self, since: int = 0, *, user: str | None = None, namespace: str | None = None) -> list[Request]:
        """The creates, updates, patches and deletes among them."""
        return [one for one in self.requests(since, user=user, namespace=namespace) if one.is_write]

    def _read(self, since: int) -> list[Request]:
        with self.path.open("rb") as file:
            file.seek(since)
            text = file.read()
        complete = text[: text.rfind(b"\n") + 1]  # the server may be in the middle of a line
        return [_request(json.loads(line)) for line in complete.splitlines()]


def _request(event: Json) -> Request:
    reference = event.get("objectRef", {})
    parts = (reference.get("resource", ""), reference.get("subresource", ""))
    return Request(
        verb=event["verb"],
        user=event["user"].get("username", ""),
        resource="/".join(part for part in parts if part),
        namespace=reference.get("namespace", ""),
        name=reference.get("name", ""),
        status=event.get("responseStatus", {}).get("code", 0),
        uri=event["requestURI"],
        user_agent=event.get("userAgent", ""),
        received_at=event["requestReceivedTimestamp"],
        raw=event,
    )
