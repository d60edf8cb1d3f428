"""Incidents that have ended are not watched: what was changed of them is asked for, on a real API server."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import timedelta
from typing import Any, cast

import pytest

from paramedic.clients.kube import Kube, load_configuration
from paramedic.errors import Expired
from paramedic.metrics import Metrics
from paramedic.resync import Resync
from paramedic.store import Store, WatchProgress
from testbed.access import Access
from testbed.api import Api

INCIDENTS = "paramedic.dev/v1alpha1/incidents"
PATH = "/apis/paramedic.dev/v1alpha1/incidents"
TO_ATTEND = "status.phase=Resolved,status.attendAt!="
SPEC = {"title": "t", "type": "APIOutage", "severity": "P1"}
Json = dict[str, Any]


class Forgetful(Kube):
    """Its API server never knows what has happened since."""

    async def changed_since(self, *_: Any, **__: Any) -> AsyncIterator[Json]:
        raise Expired("too old resource version")
        yield {}


async def ended(admin: Api, namespace: str, name: str) -> None:
    metadata = {"name": name, "namespace": namespace}
    body = {"apiVersion": "paramedic.dev/v1alpha1", "kind": "Incident", "metadata": metadata, "spec": SPEC}
    await admin.create(body)
    status = {"phase": "Resolved", "attendAt": "2026-01-01T00:00:00Z"}
    await admin.patch(INCIDENTS, name, {"status": status}, namespace, subresource="status")


async def tick(admin: Api, namespace: str, name: str) -> None:
    items = [{"item": "Document lessons learned", "doneBy": "admin"}]
    await admin.patch(INCIDENTS, name, {"spec": {"checklist": items}}, namespace)


async def changed_since(kube: Kube, version: str) -> list[Json]:
    return [one async for one in kube.changed_since(PATH, version, fieldSelector=TO_ATTEND)]


async def test_what_has_changed_since(installed: Access, admin: Api, kube: Kube, namespace: str) -> None:
    await ended(admin, namespace, "before")
    version = await kube.newest_version(PATH)
    assert await changed_since(kube, version) == []
    await ended(admin, namespace, "after")
    await tick(admin, namespace, "before")
    found = await changed_since(kube, version)
    assert {one["metadata"]["name"] for one in found} == {"after", "before"}
    assert all("spec" not in one for one in found), "metadata is enough"
    assert await changed_since(kube, await kube.newest_version(PATH)) == []


async def test_too_long_ago(installed: Access, kube: Kube) -> None:
    with pytest.raises(Expired, match="too old"):
        await changed_since(kube, "1")


@pytest.mark.parametrize("kind", [Kube, Forgetful])
async def test_a_change_after_the_end_is_seen_once(
    installed: Access, admin: Api, namespace: str, kind: type[Kube]
) -> None:
    await ended(admin, namespace, "incident")
    await ended(admin, namespace, "other")
    store, seen = Store(), list[str]()
    unused = cast("Any", None)
    every = timedelta(seconds=60)
    async with kind(await load_configuration(installed.kubeconfig)) as kube:
        resync = Resync(kube, store, unused, Metrics(), WatchProgress(), namespace="paramedic-system", every=every)
        resync.ended_changed = seen.append
        await resync.load_everything()
        await resync.look()
        assert seen == []
        await tick(admin, namespace, "incident")
        for _ in range(3):
            await resync.look()
        assert seen == [f"{namespace}/incident"]
