"""The API server in raw dicts, for tests: nothing between the test and what the server really said.

    async with Api(cluster.credentials()) as admin:
        await admin.create({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "shop"}})
        await admin.patch("apps/v1/deployments", "web", {"spec": {"replicas": 2}}, "shop")

A resource is written "v1/pods", "apps/v1/deployments" or "paramedic.dev/v1alpha1/incidents".
"""

from __future__ import annotations

import asyncio
import functools
import inspect
import json
import ssl
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from types import TracebackType
from typing import Any, TypeVar, overload

import aiohttp

from testbed.access import Credentials
from testbed.rest import ApiError, Json, decode

__all__ = ["Api", "ApiError", "Json", "eventually", "resource_path"]

T = TypeVar("T")

# aiohttp gives a connection up after 30 s, which a machine can take that does a hundred things at once.
_PATIENCE = aiohttp.ClientTimeout(total=300, sock_connect=None)
PATCH_TYPES = {
    "merge": "application/merge-patch+json",
    "json": "application/json-patch+json",
    "strategic": "application/strategic-merge-patch+json",
    "apply": "application/apply-patch+yaml",
}


def resource_path(resource: str, name: str = "", namespace: str | None = None, subresource: str = "") -> str:
    """("apps/v1/deployments", "web", "shop", "scale") → /apis/apps/v1/namespaces/shop/deployments/web/scale"""
    group_version, _, plural = resource.rpartition("/")
    if not group_version:
        raise ValueError(f"{resource!r} lacks its version; write it like v1/pods or apps/v1/deployments")
    root = f"/{'apis' if '/' in group_version else 'api'}/{group_version}"
    scope = f"/namespaces/{namespace}" if namespace else ""
    rest = "".join(f"/{part}" for part in (name, subresource) if part)
    return f"{root}{scope}/{plural}{rest}"


class Api:
    """One identity's view of the API server. Answers are dicts, refusals ApiError(status, body)."""

    def __init__(self, credentials: Credentials, user_agent: str = "testbed") -> None:
        self.credentials = credentials
        self._user_agent = user_agent
        self._session: aiohttp.ClientSession | None = None
        self._plurals: dict[tuple[str, str], tuple[str, bool]] = {}

    async def __aenter__(self) -> Api:
        headers = {"User-Agent": self._user_agent}
        if self.credentials.token:
            headers["Authorization"] = f"Bearer {self.credentials.token}"
        connector = aiohttp.TCPConnector(limit=0, ssl=_tls(self.credentials))
        self._session = aiohttp.ClientSession(connector=connector, headers=headers, timeout=_PATIENCE)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._session:
            await self._session.close()

    def with_token(self, token: str, user_agent: str = "testbed") -> Api:
        """The same server as somebody else; to be entered like any Api."""
        return Api(Credentials(self.credentials.url, self.credentials.ca, token), user_agent)

    async def request(
        self,
        method: str,
        path: str,
        body: Any = None,
        params: Mapping[str, Any] | None = None,
        content_type: str = "application/json",
    ) -> Json:
        """One request, the decoded answer."""
        data = None if body is None else json.dumps(body)
        headers = {"Content-Type": content_type}
        url = self.credentials.url + path
        async with self._open.request(method, url, data=data, headers=headers, params=_query(params)) as answer:
            decoded = decode(await answer.read())
            if answer.status >= 400:
                raise ApiError(answer.status, decoded, f"{method} {path}")
            return decoded

    @property
    def _open(self) -> aiohttp.ClientSession:
        if self._session is None:
            raise RuntimeError("use Api as a context manager: async with Api(credentials) as api")
        return self._session

    async def get(self, resource: str, name: str, namespace: str | None = None, subresource: str = "") -> Json:
        return await self.request("GET", resource_path(resource, name, namespace, subresource))

    async def find(self, resource: str, name: str, namespace: str | None = None) -> Json | None:
        """Like get, but None when there is no such object."""
        try:
            return await self.get(resource, name, namespace)
        except ApiError as error:
            if error.status == 404:
                return None
            raise

    async def list(self, resource: str, namespace: str | None = None, **params: Any) -> list[Json]:
        """The items; `params` are query parameters (labelSelector, fieldSelector, …). Without a namespace: of all."""
        answer = await self.request("GET", resource_path(resource, namespace=namespace), params=params)
        items: list[Json] = answer.get("items") or []
        return items

    async def create(self, manifest: Json, namespace: str | None = None, **params: Any) -> Json:
        """Posts a manifest; its namespace is the argument, or what it says itself."""
        path = await self._path_of(manifest, namespace, name=False)
        return await self.request("POST", path, manifest, params)

    async def apply(
        self, manifest: Json, namespace: str | None = None, manager: str = "testbed", force: bool = True
    ) -> Json:
        """Server-side apply: creates or updates."""
        path = await self._path_of(manifest, namespace, name=True)
        return await self.request(
            "PATCH", path, manifest, {"fieldManager": manager, "force": force}, PATCH_TYPES["apply"]
        )

    async def replace(self, manifest: Json, namespace: str | None = None, subresource: str = "") -> Json:
        """Puts a whole object; its resourceVersion, if it has one, is a precondition."""
        path = await self._path_of(manifest, namespace, name=True)
        return await self.request("PUT", f"{path}/{subresource}" if subresource else path, manifest)

    async def patch(
        self,
        resource: str,
        name: str,
        patch: Any,
        namespace: str | None = None,
        *,
        subresource: str = "",
        kind: str = "merge",
        **params: Any,
    ) -> Json:
        """`kind` is merge, json, strategic or apply; `params` are query parameters (fieldManager, force, dryRun, …)."""
        path = resource_path(resource, name, namespace, subresource)
        return await self.request("PATCH", path, patch, params, PATCH_TYPES[kind])

    async def delete(self, resource: str, name: str, namespace: str | None = None, options: Json | None = None) -> Json:
        """Asks for the deletion; does not wait for finalizers. `options`: a DeleteOptions' fields."""
        return await self.request("DELETE", resource_path(resource, name, namespace), options)

    async def watch(
        self, resource: str, namespace: str | None = None, resource_version: str = "", **params: Any
    ) -> AsyncIterator[Json]:
        """Watch events ({"type", "object"}) until the server ends the watch or the caller stops iterating."""
        query = _query({"watch": True, "resourceVersion": resource_version or None, **params})
        path = resource_path(resource, namespace=namespace)
        timeout = aiohttp.ClientTimeout(total=None)
        async with self._open.get(
            self.credentials.url + path, params=query, timeout=timeout, read_bufsize=2**22
        ) as answer:
            if answer.status >= 400:
                raise ApiError(answer.status, decode(await answer.read()), f"WATCH {path}")
            async for line in answer.content:
                yield json.loads(line)

    async def established(self, *definitions: str, timeout: float = 10) -> None:
        """Waits until the named CustomResourceDefinitions ("incidents.paramedic.dev") are served."""
        for name in definitions:
            await eventually(functools.partial(self._serves, name), timeout, what=f"{name} is served")

    async def _serves(self, definition: str) -> bool:
        found = await self.get("apiextensions.k8s.io/v1/customresourcedefinitions", definition)
        conditions = found.get("status", {}).get("conditions", [])
        if not any(one["type"] == "Established" and one["status"] == "True" for one in conditions):
            return False
        group, names = found["spec"]["group"], found["spec"]["names"]
        for version in found["spec"]["versions"]:
            await self.list(f"{group}/{version['name']}/{names['plural']}", limit=1)
        return True

    async def _path_of(self, manifest: Json, namespace: str | None, *, name: bool) -> str:
        plural, namespaced = await self._resource(manifest["apiVersion"], manifest["kind"])
        metadata = manifest["metadata"]
        where = (namespace or metadata.get("namespace") or "default") if namespaced else None
        return resource_path(f"{manifest['apiVersion']}/{plural}", metadata["name"] if name else "", where)

    async def _resource(self, version: str, kind: str) -> tuple[str, bool]:
        """(plural, namespaced) by discovery, remembered; asked again for a kind not known yet, as CRDs come later."""
        if (version, kind) not in self._plurals:
            answer = await self.request("GET", f"/{'apis' if '/' in version else 'api'}/{version}")
            for one in answer["resources"]:
                if "/" not in one["name"]:
                    self._plurals[version, one["kind"]] = one["name"], one["namespaced"]
        if (version, kind) not in self._plurals:
            raise LookupError(f"the API server knows no {kind} in {version}; is its CustomResourceDefinition applied?")
        return self._plurals[version, kind]


def _tls(credentials: Credentials) -> ssl.SSLContext:
    """Always verifies the server."""
    context = ssl.create_default_context(cafile=str(credentials.ca) if credentials.ca else None)
    if credentials.certificate:
        context.load_cert_chain(credentials.certificate, credentials.key)
    return context


def _query(params: Mapping[str, Any] | None) -> dict[str, str]:
    """Query parameters as the API server reads them; None leaves one out."""
    items = (params or {}).items()
    return {
        name: str(value).lower() if isinstance(value, bool) else str(value)
        for name, value in items
        if value is not None
    }


@overload
async def eventually(
    probe: Callable[[], Awaitable[T]], timeout: float = ..., interval: float = ..., what: str = ...
) -> T: ...


@overload
async def eventually(probe: Callable[[], T], timeout: float = ..., interval: float = ..., what: str = ...) -> T: ...


async def eventually(probe: Callable[[], Any], timeout: float = 10, interval: float = 0.1, what: str = "") -> Any:
    """Polls `probe` (plain or async) until it returns something truthy without raising; returns that.

    AssertionError after `timeout` seconds, telling `what` was waited for and what the last try gave.
    """
    deadline = time.monotonic() + timeout
    while True:
        try:
            value = probe()
            result = await value if inspect.isawaitable(value) else value
            if result:
                return result
            last, cause = f"it last returned {result!r}", None
        except Exception as error:  # every failure of a probe means: not yet
            last, cause = f"it last raised {type(error).__name__}: {error}", error
        if time.monotonic() > deadline:
            raise AssertionError(f"{what or _name(probe)}: not within {timeout:g} s; {last}") from cause
        await asyncio.sleep(interval)


def _name(probe: Callable[..., Any]) -> str:
    """What a reader recognises a probe by: its name, or where the lambda stands."""
    code = getattr(probe, "__code__", None)
    name = getattr(probe, "__qualname__", repr(probe))
    return f"{name} ({code.co_filename.rpartition('/')[2]}:{code.co_firstlineno})" if code else name
