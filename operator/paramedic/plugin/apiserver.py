"""The API server over plain HTTP, as the user who asks. Every error leaves here as a Failure."""

import json
import os
import ssl
import tempfile
from collections.abc import Iterator, Mapping
from functools import cached_property
from typing import Any
from urllib.parse import quote, urlencode

import urllib3
from urllib3.exceptions import ConnectTimeoutError, HTTPError, NewConnectionError

from paramedic.plugin.credentials import Credentials, credentials_of
from paramedic.plugin.failures import Exit, Failure
from paramedic.plugin.kubeconfig import Json, Login
from paramedic.plugin.proxies import pool_through, proxy_by_environment
from paramedic.plugin.refusals import failure_of

JSON = "application/json"
MERGE_PATCH = "application/merge-patch+json"
_CONNECT_SECONDS, _READ_SECONDS = 5.0, 30.0
_WATCH_SECONDS = 300
_HEADER_SIGNS = "!#$&'*+-.^_`|~"
"""What a header's name may contain besides letters and digits; ``%`` may, and would be read as an escape."""
# The server sends 429 for what it has not begun, and says when to come again.
_AGAIN = urllib3.Retry(
    total=4,
    connect=0,
    read=0,
    other=0,
    redirect=0,
    allowed_methods=None,
    status_forcelist=[429],
    raise_on_status=False,
)


class ApiServer:
    """One server, asked as one user. Nothing is sent, and no login plugin asked, before the first request."""

    def __init__(self, login: Login) -> None:
        self._login = login

    def request(
        self,
        method: str,
        path: str,
        *,
        query: Mapping[str, str] | None = None,
        body: Json | None = None,
        content_type: str = JSON,
    ) -> Json:
        """One request, the decoded answer. Raises Failure."""
        with self._send(method, path, query, body, content_type, _READ_SECONDS) as answer:
            try:
                return _decoded(answer.data)
            except HTTPError as error:
                raise self._unreachable(method, error) from error

    def watch(self, path: str, query: Mapping[str, str]) -> Iterator[Json]:
        """Watch events, ``{"type", "object"}``, until the server ends the watch, as it does after some minutes. Raises
        Failure, also for an event that is an error.
        """
        more = {"watch": "true", "timeoutSeconds": str(_WATCH_SECONDS), **query}
        with self._send("GET", path, more, None, JSON, _WATCH_SECONDS + _READ_SECONDS) as answer:
            try:
                for line in answer:
                    event = _decoded(line)
                    if event.get("type") == "ERROR":
                        raise failure_of(int(event["object"].get("code") or 500), json.dumps(event["object"]).encode())
                    yield event
            except HTTPError as error:
                raise self._unreachable("GET", error) from error

    def _send(
        self,
        method: str,
        path: str,
        query: Mapping[str, str] | None,
        body: Json | None,
        content_type: str,
        read_seconds: float,
    ) -> urllib3.BaseHTTPResponse:
        url = self._login.server + path + (f"?{urlencode(query)}" if query else "")
        data = json.dumps(body).encode() if body is not None else None
        timeout = urllib3.Timeout(connect=_CONNECT_SECONDS, read=read_seconds)
        try:
            answer = self._once(method, url, data, content_type, timeout)
            if answer.status == 401 and self._login.exec_plugin:
                self._log_in_again()
                answer = self._once(method, url, data, content_type, timeout)
            if answer.status >= 400:
                raise failure_of(answer.status, answer.data)
        except (HTTPError, OSError, ValueError) as error:
            raise self._unreachable(method, error) from error
        return answer

    def _once(
        self, method: str, url: str, data: bytes | None, content_type: str, timeout: urllib3.Timeout
    ) -> urllib3.BaseHTTPResponse:
        headers = self._headers()
        if data is not None:
            headers["Content-Type"] = content_type
        return self._pool.request(
            method, url, body=data, headers=headers, timeout=timeout, preload_content=False, retries=_AGAIN
        )

    def _headers(self) -> urllib3.HTTPHeaderDict:
        headers = urllib3.HTTPHeaderDict({"Accept": JSON, "User-Agent": "kubectl-incident"})
        if self._credentials.token:
            headers["Authorization"] = f"Bearer {self._credentials.token}"
        for name, value in _impersonation(self._login):
            headers.add(name, value)
        return headers

    @cached_property
    def _credentials(self) -> Credentials:
        return credentials_of(self._login)

    @cached_property
    def _pool(self) -> urllib3.PoolManager:
        login = self._login
        options: dict[str, Any] = {}
        if login.server.startswith("https:"):
            options["ssl_context"] = _tls(login, self._credentials)
        if login.server_name:
            options |= {"server_hostname": login.server_name, "assert_hostname": login.server_name}
        proxy = login.proxy or proxy_by_environment(login.server, os.environ)
        return pool_through(proxy, options) if proxy else urllib3.PoolManager(**options)

    def _log_in_again(self) -> None:
        """Drops what the login plugin gave, which has run out."""
        del self._credentials, self._pool

    def _unreachable(self, method: str, error: Exception) -> Failure:
        cause = getattr(error, "reason", None) or error
        text = f"the API server {self._login.server} cannot be reached: {cause}"
        if method != "GET" and not isinstance(cause, NewConnectionError | ConnectTimeoutError):
            text += "\nlook whether it was done before you do it again: kubectl incident list"
        return Failure(Exit.NO_CLUSTER, text)


def _impersonation(login: Login) -> Iterator[tuple[str, str]]:
    """https://kubernetes.io/docs/reference/access-authn-authz/authentication/#user-impersonation"""
    if login.impersonate:
        yield "Impersonate-User", login.impersonate
    if login.uid:
        yield "Impersonate-Uid", login.uid
    for group in login.groups:
        yield "Impersonate-Group", group
    for key, values in login.extra.items():
        name = f"Impersonate-Extra-{quote(key.lower(), safe=_HEADER_SIGNS)}"
        yield from ((name, value) for value in values)


def _tls(login: Login, credentials: Credentials) -> ssl.SSLContext:
    try:
        context = ssl.create_default_context(cadata=login.authority)
        if credentials.certificate:
            _load_certificate(context, credentials.certificate, credentials.key or "")
    except ssl.SSLError as error:
        raise Failure(Exit.NO_CLUSTER, f"a certificate or key of the kubeconfig cannot be used: {error}") from error
    if not login.verify:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    # Clusters' own CAs often lack what Python's strict mode asks of a CA.
    context.verify_flags &= ~ssl.VERIFY_X509_STRICT
    return context


def _load_certificate(context: ssl.SSLContext, certificate: str, key: str) -> None:
    """OpenSSL reads these from a file only: one that nobody else can read, and that is gone at once."""
    handle, path = tempfile.mkstemp()
    try:
        with os.fdopen(handle, "w") as file:
            file.write(f"{certificate}\n{key}\n")
        context.load_cert_chain(path)
    finally:
        os.unlink(path)  # noqa: PTH108 - mkstemp gives a name


def _decoded(raw: bytes) -> Json:
    try:
        parsed = json.loads(raw)
    except ValueError as error:
        raise Failure(Exit.NO_CLUSTER, "what answers is not a Kubernetes API server: its answer is no JSON") from error
    if not isinstance(parsed, dict):
        raise Failure(Exit.NO_CLUSTER, "what answers is not a Kubernetes API server")
    return parsed
