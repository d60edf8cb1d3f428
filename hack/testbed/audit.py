"""Reads the API server's audit log: the witness of what was really asked, by whom, and what was answered."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from datetime import datetime
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
        return [_request(json.loads(line)) for line in _lines(self.path, since).splitlines()]


class WritesOfOne:
    """The writes of one user, by namespace. What it has read it does not read again: for a log that grows long while
    many ask.
    """

    def __init__(self, path: Path, user: str) -> None:
        self._path = path
        self._user = user
        self._read_to = 0
        self._found: dict[str, list[Request]] = {}

    def of(self, namespace: str) -> list[Request]:
        """Those answered until now, oldest first; without what the log tells of them beyond a `Request`'s fields."""
        self._go_on()
        return list(self._found.get(namespace, ()))

    def _go_on(self) -> None:
        text = _lines(self._path, self._read_to)
        self._read_to += len(text)
        name = self._user.encode()
        for line in text.splitlines():
            if name not in line:
                continue
            one = replace(_request(json.loads(line)), raw={})
            if one.is_write and one.user == self._user:
                self._found.setdefault(one.namespace, []).append(one)


def seconds_since_1970(moment: str) -> float:
    """Of a time as the API server or Alertmanager writes it (RFC 3339)."""
    return datetime.fromisoformat(moment).timestamp()


def _lines(path: Path, since: int) -> bytes:
    """The whole lines: the server may be in the middle of one."""
    with path.open("rb") as file:
        file.seek(since)
        text = file.read()
    return text[: text.rfind(b"\n") + 1]


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
