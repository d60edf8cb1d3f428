"""Since when a release is there that was rolled out before, as a real API server and its controllers tell it."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta

import pytest

from builders import Json, workload
from paramedic.actions import ACTIONS
from paramedic.actions.base import Clients, Observed
from paramedic.actions.rollback import current_revision, release_started_at
from paramedic.api.workload import RESOURCES, bound
from paramedic.clients.kube import Kube
from paramedic.core.rollout import is_observed, rollout_result
from testbed.api import Api, eventually


class Releases:
    """A workload, and what is seen of it once its rollout is complete."""

    def __init__(self, admin: Api, kube: Kube, kind: str, namespace: str) -> None:
        self.admin, self.kube, self.kind, self.namespace = admin, kube, kind, namespace

    async def change(self, spec: Json) -> Observed:
        await self.admin.patch("/".join(RESOURCES[self.kind]), "covet-app", {"spec": spec}, self.namespace)
        return await self.rolled_out()

    async def release(self, image: str) -> Observed:
        """Not within the same second as what was before: that is as exact as Kubernetes writes times down."""
        await asyncio.sleep(2)
        return await self.change({"template": {"spec": {"containers": [{"name": "main", "image": image}]}}})

    async def rolled_out(self) -> Observed:
        return await eventually(self._seen, timeout=30, what="the rollout is complete")

    async def _seen(self) -> Observed | None:
        found = await ACTIONS["rollback"].observe(bound(self.kind, self.namespace, "covet-app"), Clients(self.kube))
        there = is_observed(found.target) and rollout_result(found.target).state == "Passed"
        return found if there and current_revision(found) else None


@pytest.mark.parametrize("kind", ["Deployment", "StatefulSet", "DaemonSet"])
async def test_a_bad_release_that_is_rolled_out_again_is_a_new_one(
    admin: Api, kube: Kube, namespace: str, kind: str
) -> None:
    await admin.create(workload(kind, image="covet:1"), namespace)
    releases = Releases(admin, kube, kind, namespace)
    await releases.rolled_out()
    bad = started(await releases.release("covet:2"))
    back = started(await releases.release("covet:1"))
    assert back < bad, "a rollback by hand is no new release"
    await asyncio.sleep(2)
    again = started(await releases.release("covet:2"))
    assert again >= bad + timedelta(seconds=4)
    complete = datetime.now(UTC)
    if kind != "DaemonSet":
        await asyncio.sleep(2)
        assert again <= started(await releases.change({"replicas": 4})) <= complete, "to scale makes no release"


def started(seen: Observed) -> datetime:
    found = release_started_at(seen)
    assert found
    return found
