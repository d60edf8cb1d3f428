"""The smallest client of the API server that a cluster's start needs: standard library, synchronous, raw dicts."""

from __future__ import annotations

import http.client
import json
import ssl
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

Json = dict[str, Any]


class ApiError(RuntimeError):
    """The API server refused: `status` is the HTTP status, `body` its answer (a metav1.Status, or {"raw": text})."""

    def __init__(self, status: int, body: Json, request: str = "") -> None:
        super().__init__(f"{request}: {status} {body.get('reason', '')}: {body.get('message') or body}")
        self.status = status
        self.body = body

    @property
    def reason(self) -> str:
        """The API's own word for it: NotFound, AlreadyExists, Conflict, Forbidden, Invalid, …"""
        return str(self.body.get("reason", ""))


def decode(text: bytes) -> Json:
    """An answer's body; what is not a JSON object comes back as {"raw": text}."""
    try:
        value = json.loads(text)
    except ValueError:
        value = None
    return value if isinstance(value, dict) else {"raw": text.decode(errors="replace")}


class Rest:
    """A bearer token, a CA and a URL."""

    def __init__(self, url: str, token: str, ca: Path) -> None:
        self.url = url
        self._token = token
        self._context = ssl.create_default_context(cafile=str(ca))

    def request(self, method: str, path: str, body: Json | None = None, timeout: float = 10) -> Json:
        """The decoded answer; ApiError for a refusal, OSError when nobody answers."""
        data = None if body is None else json.dumps(body).encode()
        headers = {"Authorization": f"Bearer {self._token}", "Content-Type": "application/json"}
        request = urllib.request.Request(self.url + path, data=data, headers=headers, method=method)
        opener = urllib.request.build_opener(
            urllib.request.ProxyHandler({}), urllib.request.HTTPSHandler(context=self._context)
        )
        try:
            return _answer(opener, request, timeout)
        except http.client.HTTPException as error:  # such as IncompleteRead, which is no OSError by itself
            raise ConnectionError(f"{method} {path}: the answer broke off: {error!r}") from error

    def answers(self, path: str) -> bool:
        """Whether a GET succeeds now."""
        try:
            self.request("GET", path, timeout=2)
        except (OSError, ApiError):
            return False
        return True


def _answer(opener: urllib.request.OpenerDirector, request: urllib.request.Request, timeout: float) -> Json:
    try:
        with opener.open(request, timeout=timeout) as answer:
            return decode(answer.read())
    except urllib.error.HTTPError as error:
        raise ApiError(error.code, decode(error.read()), f"{request.method} {request.selector}") from error
