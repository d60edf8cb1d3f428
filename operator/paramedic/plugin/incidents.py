"""Incidents and policies as the user may see and write them."""

import random
import re
import time
from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

from paramedic.api import API_VERSION, SYSTEM_NAMESPACE
from paramedic.plugin.apiserver import MERGE_PATCH, ApiServer
from paramedic.plugin.failures import Exit, Failure
from paramedic.plugin.texts import Json

_FIELD_MANAGER = {"fieldManager": "kubectl-incident"}
_PAGE_SIZE = "500"
_TRIES = 10
_NAME = re.compile(r"[a-z0-9]([-a-z0-9.]*[a-z0-9])?", re.ASCII)
_WHOAMI = "/apis/authentication.k8s.io/v1/selfsubjectreviews"
_MAY = "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews"
_AGAIN_AFTER_SECONDS = 2.0
_T = TypeVar("_T")
Change = Callable[[Json], Json]
"""From an Incident as it is to what of its spec is to be changed; empty for nothing. Raises Failure when the change
makes no sense (any more)."""


class Incidents:
    """One namespace of one server."""

    def __init__(self, server: ApiServer, namespace: str) -> None:
        self._server = server
        self.namespace = namespace

    def get(self, name: str) -> Json:
        """One incident. Raises Failure."""
        return self._server.request("GET", self._path(name))

    def read_all(self, *, everywhere: bool = False) -> tuple[list[Json], str]:
        """All of the namespace, or of all; with the version from which ``watch`` goes on. Raises Failure."""
        return self._all(_collection("" if everywhere else self.namespace, "incidents"))

    def policies(self) -> list[Json]:
        """Those of the namespace, and those of Paramedic's own where the user may read them. Raises Failure."""
        own, _ = self._all(_collection(self.namespace, "remediationpolicies"))
        if self.namespace == SYSTEM_NAMESPACE:
            return own
        try:
            return own + self._all(_collection(SYSTEM_NAMESPACE, "remediationpolicies"))[0]
        except Failure as failure:
            if failure.code is Exit.FORBIDDEN:
                return own
            raise

    def policy(self, namespace: str, name: str) -> Json:
        """One policy. Raises Failure."""
        return self._server.request("GET", f"{_collection(namespace, 'remediationpolicies')}/{_segment(name)}")

    def watch(self, version: str, *, everywhere: bool = False, name: str = "") -> Iterator[Json]:
        """Watch events since that version, until the server ends the watch. Raises Failure."""
        query = {"resourceVersion": version} | ({"fieldSelector": f"metadata.name={name}"} if name else {})
        return self._server.watch(_collection("" if everywhere else self.namespace, "incidents"), query)

    def changes(self, known: Iterable[Json], version: str, *, everywhere: bool = False) -> Iterator[Json]:
        """Each incident that changes, from a list on (``known``, with its version), for ever; what changed while the
        connection was lost comes as well. Raises Failure when the user may not watch.
        """
        seen = {_uid(item): _version(item) for item in known}
        while True:
            try:
                for event in self.watch(version, everywhere=everywhere):
                    version = _version(event["object"])
                    seen[_uid(event["object"])] = version
                    yield event["object"]
                continue
            except Failure as failure:
                _go_on_after(failure)
            found, version = _until_reachable(lambda: self.read_all(everywhere=everywhere))
            yield from (item for item in found if seen.get(_uid(item)) != _version(item))
            seen = {_uid(item): _version(item) for item in found}

    def follow(self, name: str) -> Iterator[Json]:
        """The incident as it is, then whenever it has changed. What was missed while the connection was lost is in the
        next. Raises Failure when it is gone, or cannot be read at the beginning.
        """
        current = self.get(name)
        while True:
            yield current
            try:
                for event in self.watch(_version(current), name=name):
                    if event["type"] == "DELETED":
                        raise Failure(Exit.NOT_FOUND, f"{name} was deleted")
                    yield event["object"]
            except Failure as failure:
                _go_on_after(failure)
            current = _until_reachable(lambda: self.get(name))

    def change(self, name: str, change: Change) -> Json:
        """Writes onto the spec what ``change`` says, unless somebody has written in between: then it is asked anew.
        Returns the incident as it is then. Raises Failure.
        """
        for attempt in range(_TRIES):
            found = self.get(name)
            spec = change(found)
            if not spec:
                return found
            body = {"metadata": {"resourceVersion": found["metadata"]["resourceVersion"]}, "spec": spec}
            try:
                return self._server.request(
                    "PATCH", self._path(name), query=_FIELD_MANAGER, body=body, content_type=MERGE_PATCH
                )
            except Failure as failure:
                if failure.code is not Exit.CONFLICT:
                    raise
                time.sleep(random.uniform(0.02, 0.1) * (attempt + 1))  # noqa: S311 - to get out of others' way
        raise Failure(Exit.CONFLICT, f"{name} was changed by others at each of {_TRIES} tries: try again")

    def create(self, name: str, spec: Json, *, dry_run: bool) -> Json:
        """Stores a new one; ``dry_run`` asks the server all the same, and stores nothing. Raises Failure."""
        metadata = {"name": name, "namespace": self.namespace}
        body = {"apiVersion": API_VERSION, "kind": "Incident", "metadata": metadata, "spec": spec}
        query = _FIELD_MANAGER | ({"dryRun": "All"} if dry_run else {})
        return self._server.request("POST", _collection(self.namespace, "incidents"), query=query, body=body)

    def whoami(self) -> str:
        """The user name that the server knows the user by. Raises Failure."""
        body = {"apiVersion": "authentication.k8s.io/v1", "kind": "SelfSubjectReview"}
        answer = self._server.request("POST", _WHOAMI, body=body)
        return str(answer["status"]["userInfo"]["username"])

    def may_patch(self, group: str, resource: str, name: str) -> bool:
        """Whether the user may patch an object of the namespace. Raises Failure."""
        asked = {"verb": "patch", "group": group, "resource": resource, "name": name, "namespace": self.namespace}
        kind = {"apiVersion": "authorization.k8s.io/v1", "kind": "SelfSubjectAccessReview"}
        answer = self._server.request("POST", _MAY, body=kind | {"spec": {"resourceAttributes": asked}})
        return bool(answer["status"].get("allowed"))

    def _path(self, name: str) -> str:
        return f"{_collection(self.namespace, 'incidents')}/{_segment(name)}"

    def _all(self, path: str) -> tuple[list[Json], str]:
        query, items = {"limit": _PAGE_SIZE}, list[Json]()
        while True:
            answer = self._server.request("GET", path, query=query)
            items += answer.get("items") or []
            marker = answer["metadata"].get("continue")
            if not marker:
                return items, str(answer["metadata"]["resourceVersion"])
            query = query | {"continue": marker}


def is_over(incident: Json) -> bool:
    """Whether it has ended."""
    return bool((incident.get("status") or {}).get("phase") == "Resolved")


def _collection(namespace: str, plural: str) -> str:
    where = f"/namespaces/{_segment(namespace)}" if namespace else ""
    return f"/apis/{API_VERSION}{where}/{plural}"


def _segment(name: str) -> str:
    """A name as a part of a path, in which it must not lead elsewhere."""
    if not _NAME.fullmatch(name):
        raise Failure(Exit.USAGE, f"{name!r} is no name that Kubernetes knows; kubectl incident list -A shows them all")
    return name


def _go_on_after(failure: Failure) -> None:
    """Waits a while after a watch has failed, unless it would fail again."""
    if failure.code in (Exit.NOT_FOUND, Exit.FORBIDDEN):
        raise failure
    time.sleep(_AGAIN_AFTER_SECONDS)


def _until_reachable(read: Callable[[], _T]) -> _T:
    """Reads for as long as the server is away."""
    while True:
        try:
            return read()
        except Failure as failure:
            if failure.code is not Exit.NO_CLUSTER:
                raise
            time.sleep(_AGAIN_AFTER_SECONDS)


def _uid(item: Json) -> str:
    return str(item["metadata"]["uid"])


def _version(item: Json) -> str:
    return str(item["metadata"]["resourceVersion"])
