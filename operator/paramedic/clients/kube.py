"""The Kubernetes API over raw JSON, on the connection settings that ``kubernetes.aio`` loads.

Raw JSON because the typed models cost three times the request itself on hot paths; every error leaves here as one of
``paramedic.errors``.
"""

import asyncio
import json
import os
import ssl
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing
from datetime import timedelta
from pathlib import Path
from typing import Any, NoReturn

import aiohttp
import kopf
from kubernetes.aio import client, config

from paramedic.api import FIELD_MANAGER
from paramedic.api.reasons import Reason
from paramedic.core.discreet import harmless_part
from paramedic.errors import AlreadyExists, Conflict, Expired, NotFound, ParamedicError, Refused, Retry, Terminal
from paramedic.gate import Gate, Urgency

Json = dict[str, Any]
Configuration = client.Configuration
_JSON = "application/json"
_METADATA_ONLY = "application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1"
_METADATA_OF_ONE = "application/json;as=PartialObjectMetadata;g=meta.k8s.io;v=v1"
_DRY_RUN = {"dryRun": "All"}
_APPLY_PATCH = "application/apply-patch+yaml"
_MERGE_PATCH = "application/merge-patch+json"
_PAGE_SIZE = 500
_WATCH_SECONDS = "2"
_GONE = 410
_SENT_WITHIN_SECONDS = 0.001
_CONNECT_SECONDS = 5.0
_ENCODER = json.JSONEncoder(separators=(",", ":"), ensure_ascii=False)


async def load_configuration(kubeconfig: Path | None = None) -> client.Configuration:
    """From the file, if one is given; else inside a cluster the pod's own ServiceAccount, and outside the user's own
    kubeconfig. Raises Terminal when there is none.
    """
    configuration = client.Configuration()
    try:
        if kubeconfig is None and os.environ.get("KUBERNETES_SERVICE_HOST") and not os.environ.get("KUBECONFIG"):
            config.load_incluster_config(client_configuration=configuration)  # type: ignore[no-untyped-call]
        else:
            file = str(kubeconfig) if kubeconfig else None
            await config.load_kube_config(file, client_configuration=configuration)  # type: ignore[no-untyped-call]
    except (config.ConfigException, OSError) as error:
        raise Terminal(
            Reason.INVALID_PARAMETERS, f"no cluster to talk to: {error}; set KUBECONFIG, or run inside a cluster"
        ) from error
    return configuration


def context_namespace(kubeconfig: Path | None = None) -> str:
    """The namespace of the kubeconfig's context. Raises Terminal when there is no kubeconfig."""
    try:
        _, active = config.list_kube_config_contexts(  # type: ignore[no-untyped-call]
            str(kubeconfig) if kubeconfig else None
        )
    except (config.ConfigException, OSError) as error:
        raise Terminal(
            Reason.INVALID_PARAMETERS, f"no cluster to talk to: {error}; set KUBECONFIG, or --kubeconfig"
        ) from error
    return str(active["context"].get("namespace") or "default")


def ssl_context(configuration: client.Configuration) -> ssl.SSLContext:
    """TLS as the configuration says; verification is on unless the kubeconfig turns it off."""
    context = ssl.create_default_context(cafile=configuration.ssl_ca_cert, cadata=configuration.ca_cert_data)
    if configuration.cert_file:
        context.load_cert_chain(configuration.cert_file, keyfile=configuration.key_file)
    if not configuration.verify_ssl:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    # Clusters' own CAs often lack what Python's strict mode asks of a CA.
    context.verify_flags &= ~ssl.VERIFY_X509_STRICT
    return context


class Kube:
    """One API server. Use as an async context manager."""

    def __init__(
        self, configuration: client.Configuration, *, connections: int = 64, request_seconds: float = 15
    ) -> None:
        self._configuration = configuration
        self._timeout = aiohttp.ClientTimeout(total=request_seconds, connect=_CONNECT_SECONDS)
        self._connections = connections
        self._session: aiohttp.ClientSession | None = None
        self.gate = Gate()

    async def __aenter__(self) -> "Kube":
        connector = aiohttp.TCPConnector(limit=self._connections, ssl=ssl_context(self._configuration))
        self._session = aiohttp.ClientSession(
            self._configuration.host, connector=connector, timeout=self._timeout, auto_decompress=True
        )
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._session:
            await self._session.close()

    async def token(self) -> str | None:
        """The ``Authorization`` header's value, read anew when the token is rotated."""
        return await self._configuration.get_api_key_with_prefix("BearerToken")

    async def connection_info(self) -> kopf.ConnectionInfo:
        """The same connection for Kopf, which asks again when a token is refused."""
        chosen = self._configuration
        authorization = await self.token() or ""
        scheme, _, token = authorization.partition(" ")
        return kopf.ConnectionInfo(
            server=chosen.host,
            ca_path=chosen.ssl_ca_cert,
            ca_data=chosen.ca_cert_data.encode() if isinstance(chosen.ca_cert_data, str) else chosen.ca_cert_data,
            insecure=not chosen.verify_ssl,
            scheme=scheme or None,
            token=token or None,
            certificate_path=chosen.cert_file,
            private_key_path=chosen.key_file,
        )

    async def get(self, path: str) -> Json:
        """Reads one object. Raises NotFound, Retry, Terminal."""
        return await self._request("GET", path)

    async def get_metadata(self, path: str) -> Json:
        """Reads one object's metadata only. Raises NotFound, Refused, Retry, Terminal."""
        return await self._request("GET", path, accept=_METADATA_OF_ONE)

    async def pages(self, path: str, *, metadata_only: bool = False, **query: str) -> AsyncIterator[list[Json]]:
        """A collection, page by page, so that a large one is never whole in memory; the next page is on its way while
        one is worked on. Raises Retry, Terminal.
        """
        accept = _METADATA_ONLY if metadata_only else _JSON
        params = {"limit": str(_PAGE_SIZE)} | {k: v for k, v in query.items() if v}

        async def page(marker: str) -> Json:
            more = params | ({"continue": marker} if marker else {})
            return await self._request("GET", path, params=more, accept=accept)

        answer = await page("")
        while marker := answer.get("metadata", {}).get("continue"):
            following = asyncio.create_task(page(marker))
            try:
                await asyncio.sleep(_SENT_WITHIN_SECONDS)
                yield answer.get("items") or []
                answer = await following
            finally:
                following.cancel()
        yield answer.get("items") or []

    async def newest_version(self, path: str) -> str:
        """The resourceVersion at which the collection is now. Raises Retry, Terminal."""
        answer = await self._request("GET", path, params={"limit": "1"}, accept=_METADATA_ONLY)
        return str(answer["metadata"]["resourceVersion"])

    async def changed_since(self, path: str, version: str, **query: str) -> AsyncIterator[Json]:
        """The metadata of what was created or changed in a collection after a resourceVersion. It costs next to nothing
        where nothing was, and takes two seconds. Raises Expired, Retry, Terminal.
        """
        params = {"watch": "true", "timeoutSeconds": _WATCH_SECONDS, "resourceVersion": version} | query
        async with aclosing(self.stream(path, params, accept=_METADATA_OF_ONE)) as chunks:
            async for event in _events(path, chunks):
                if event["type"] in ("ADDED", "MODIFIED"):
                    yield event["object"]

    async def list(self, path: str, label_selector: str = "") -> list[Json]:
        """All objects of a collection. Raises Retry, Terminal."""
        pages = self.pages(path, labelSelector=label_selector)
        return [item async for page in pages for item in page]

    async def stream(
        self,
        path: str,
        params: dict[str, str] | None = None,
        *,
        read_seconds: float = 60.0,
        accept: str = "*/*",
    ) -> AsyncGenerator[bytes, None]:
        """The body of an answer as it comes, for logs: as long as it takes, with at most ``read_seconds`` between two
        chunks. Close it when you leave early. Raises NotFound, Refused, Retry, Terminal.
        """
        assert self._session is not None, "use Kube as an async context manager"
        timeout = aiohttp.ClientTimeout(total=None, connect=5, sock_read=read_seconds)
        headers = await self._headers(accept)
        try:
            async with self._session.get(path, params=params, headers=headers, timeout=timeout) as answer:
                if answer.status >= 400:
                    _raise("GET", path, answer, await answer.read())
                async for chunk in answer.content.iter_any():
                    yield chunk
        except (TimeoutError, aiohttp.ClientError, ConnectionError) as error:
            raise Retry(f"GET {path}: the answer was lost ({error!r})") from error

    async def create(self, path: str, body: Json, urgency: Urgency = Urgency.ACT) -> Json:
        """Creates one object. Raises AlreadyExists, Refused (by admission), Retry, Terminal."""
        async with self.gate.admitted(urgency):
            return await self._request("POST", path, body=body)

    async def merge_patch(self, path: str, body: Json, urgency: Urgency = Urgency.ACT) -> Json:
        """Writes one JSON merge patch; a UID or resourceVersion in it is a precondition. Raises Conflict, NotFound,
        Retry, Terminal.
        """
        async with self.gate.admitted(urgency):
            return await self._request("PATCH", path, body=body, content_type=_MERGE_PATCH)

    async def try_patch(self, path: str, body: Json) -> None:
        """Whether the API server would take this merge patch; nothing is changed. Raises as ``merge_patch`` does."""
        await self._request("PATCH", path, params=_DRY_RUN, body=body, content_type=_MERGE_PATCH)

    async def patch_unseen(self, path: str, body: Json, *, dry_run: bool = False) -> Json:
        """A merge patch of a Secret: answers with its metadata only, and no error quotes a value. Needs the right to
        patch alone, also as a dry run, which changes nothing. Raises Conflict, NotFound, Refused, Retry, Terminal.
        """
        params = _DRY_RUN if dry_run else None
        async with self.gate.admitted(Urgency.ACT):
            return await self._request(
                "PATCH", path, params=params, body=body, content_type=_MERGE_PATCH, accept=_METADATA_OF_ONE, unseen=True
            )

    async def apply(self, path: str, body: Json) -> Json:
        """Server-side apply, taking over the fields in ``body`` from other managers; a UID or resourceVersion in it is
        a precondition. Raises Conflict, NotFound, Retry, Terminal.
        """
        async with self.gate.admitted(Urgency.ACT):
            return await self._request("PATCH", path, params={"force": "true"}, body=body, content_type=_APPLY_PATCH)

    async def delete(self, path: str, uid: str, resource_version: str) -> None:
        """Deletes exactly this object, with its dependents in the background. Raises Conflict when it is another or a
        newer one, NotFound, Retry, Terminal.
        """
        preconditions = {"uid": uid, "resourceVersion": resource_version}
        body = {"kind": "DeleteOptions", "apiVersion": "v1", "propagationPolicy": "Background"}
        async with self.gate.admitted(Urgency.ACT):
            await self._request("DELETE", path, body=body | {"preconditions": preconditions})

    async def _headers(self, accept: str) -> dict[str, str]:
        """Of every request."""
        token = await self.token()
        return {"Accept": accept, "User-Agent": "paramedic"} | ({"Authorization": token} if token else {})

    async def _request(
        self,
        method: str,
        path: str,
        *,
        params: dict[str, str] | None = None,
        body: Json | None = None,
        content_type: str = _JSON,
        accept: str = _JSON,
        unseen: bool = False,
    ) -> Json:
        assert self._session is not None, "use Kube as an async context manager"
        query = dict(params or {}) | ({} if method == "GET" else {"fieldManager": FIELD_MANAGER})
        headers = await self._headers(accept)
        if body is not None:
            headers["Content-Type"] = content_type
        data = _ENCODER.encode(body).encode() if body is not None else None
        try:
            async with self._session.request(method, path, params=query, data=data, headers=headers) as answer:
                raw = await answer.read()
                if answer.status >= 400:
                    _raise(method, path, answer, raw, unseen=unseen)
                parsed: Json = json.loads(raw)
                return parsed
        except aiohttp.ClientConnectorError as error:
            raise Retry(f"the API server cannot be reached: {error}") from error
        except (TimeoutError, aiohttp.ClientError, ConnectionError, ValueError) as error:
            raise Retry(f"{method} {path}: the answer was lost ({error!r})", uncertain=method != "GET") from error


async def _events(path: str, chunks: AsyncIterator[bytes]) -> AsyncIterator[Json]:
    """What a watch tells, one event a line. Raises what an error among them stands for."""
    rest = b""
    async for chunk in chunks:
        *lines, rest = (rest + chunk).split(b"\n")
        for event in map(json.loads, lines):
            if event["type"] == "ERROR":
                told = event["object"]
                text = f"{told.get('message')} (watch of {path}: {told.get('code')})"
                raise _translated(int(told.get("code") or 500), str(told.get("reason")), text, None, uncertain=False)
            yield event


def _raise(method: str, path: str, answer: aiohttp.ClientResponse, raw: bytes, *, unseen: bool = False) -> NoReturn:
    reason, message = _status_of(raw)
    message = harmless_part(message) if unseen else message
    text = f"{message or answer.reason or 'no message'} ({method} {path}: {answer.status})"[:1000]
    raise _translated(answer.status, reason, text, answer.headers.get("Retry-After"), uncertain=method != "GET")


def _translated(status: int, reason: str, text: str, retry_after: str | None, *, uncertain: bool) -> ParamedicError:
    after = timedelta(seconds=int(retry_after)) if retry_after and retry_after.isdigit() else None
    if status == 404:
        return NotFound(text)
    if status == 409:
        return AlreadyExists(text) if reason == "AlreadyExists" else Conflict(text)
    if status == 403:
        terminating = "is being terminated" in text
        return Refused(Reason.NAMESPACE_TERMINATING if terminating else Reason.FORBIDDEN, text)
    if status == _GONE:
        return Expired(text)
    if status == 429:
        return Retry(text, after or timedelta(seconds=1))
    if status in (401, 408) or status >= 500:
        return Retry(text, after, uncertain=uncertain and status != 401)
    if status == 422 and ("uid mismatch" in text.lower() or ("metadata.uid" in text and "immutable" in text)):
        return Conflict(text)
    return Terminal(Reason.REJECTED, text)


def _status_of(raw: bytes) -> tuple[str, str]:
    """Reason and message of a Kubernetes Status; empty for what a proxy in between may say."""
    try:
        parsed = json.loads(raw)
        return str(parsed.get("reason") or ""), str(parsed.get("message") or "")
    except (ValueError, AttributeError):
        return "", raw[:200].decode(errors="replace")
