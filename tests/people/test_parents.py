"""Exactly one parent, whoever makes it: two operators at once, one that begins anew, and a name that is taken."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from e2e.world import INCIDENTS, incident
from paramedic.api.incident import Incident
from paramedic.api.people import SeveralServices
from paramedic.clients.kube import Kube
from paramedic.core.several import parent_name
from paramedic.parents import Parents
from paramedic.store import Store
from testbed.access import Access
from testbed.api import Api, eventually

Json = dict[str, Any]
RULE = SeveralServices(targets=3, window=timedelta(minutes=5))


@pytest.fixture
async def outage(installed: Access, admin: Api, namespace: str) -> str:
    """A namespace with three incidents."""
    await burn(admin, namespace, "one", "two", "three")
    return namespace


async def mirror(admin: Api, namespace: str, *left_out: str) -> Store:
    """What an operator knows that has just read everything, or all but the last."""
    store = Store()
    for raw in await admin.list(INCIDENTS, namespace):
        if raw["metadata"]["name"] not in left_out:
            store.put_incident(raw)
    return store


@asynccontextmanager
async def looking(kube: Kube, store: Store, woken: list[str], *, leads: bool = True) -> AsyncIterator[Parents]:
    parents = Parents(kube, store, RULE, lambda key, _: woken.append(key), lambda: leads, lambda: datetime.now(UTC))
    running = asyncio.create_task(parents.queue.run())
    try:
        yield parents
    finally:
        running.cancel()
        await asyncio.wait([running])


async def made(admin: Api, namespace: str) -> list[str]:
    found = await admin.list(INCIDENTS, namespace)
    return [one["metadata"]["name"] for one in found if one["spec"]["type"] == "SeveralServices"]


async def test_two_that_look_at_once_make_one_and_both_know_it(admin: Api, kube: Kube, outage: str) -> None:
    woken: list[str] = []
    stores = [await mirror(admin, outage), await mirror(admin, outage), await mirror(admin, outage)]
    async with (
        looking(kube, stores[0], woken) as one,
        looking(kube, stores[1], woken) as other,
        looking(kube, stores[2], woken) as third,
    ):
        for each in (one, other, third):
            each.queue.add(outage)
        for store in stores:
            await eventually(lambda store=store: store.open_parents(outage), what="everybody knows the parent")
        name = parent_name(outage, "")
        await eventually(lambda: {f"{outage}/{n}" for n in (name, "one", "two", "three")} <= set(woken), what="woken")
    assert await made(admin, outage) == [name]


async def test_one_that_begins_anew_takes_the_parent_that_is_there(admin: Api, kube: Kube, outage: str) -> None:
    for _ in range(3):
        woken: list[str] = []
        store = await mirror(admin, outage)
        async with looking(kube, store, woken) as parents:
            parents.queue.add(outage)
            await eventually(lambda store=store: store.open_parents(outage), what="the parent")
            await eventually(lambda woken=woken: f"{outage}/one" in woken, what="its parts look again")
    assert len(await made(admin, outage)) == 1


async def burn(admin: Api, namespace: str, *names: str) -> None:
    for name in names:
        await admin.create(incident(name, target={"kind": "Deployment", "name": name}), namespace)


async def a_parent(admin: Api, namespace: str, **status: Any) -> Json:
    """The first of the namespace, made in an earlier second than all that follows."""
    name = parent_name(namespace, "")
    stored = await admin.create(incident(name, type="SeveralServices", severity="P2"), namespace)
    await admin.patch(INCIDENTS, name, {"status": status}, namespace, subresource="status")
    await asyncio.sleep(1.1)
    return stored


async def test_after_the_end_of_one_the_next_has_another_name(
    installed: Access, admin: Api, kube: Kube, namespace: str
) -> None:
    first = await a_parent(admin, namespace, phase="Resolved")
    await burn(admin, namespace, "one", "two", "three")
    store = await mirror(admin, namespace)
    async with looking(kube, store, []) as parents:
        parents.queue.add(namespace)
        await eventually(lambda: store.open_parents(namespace), what="the parent")
    second = parent_name(namespace, first["metadata"]["uid"])
    assert set(await made(admin, namespace)) == {first["metadata"]["name"], second}


async def test_beside_one_that_does_not_take_them_the_next_outage_has_its_own(
    installed: Access, admin: Api, kube: Kube, namespace: str
) -> None:
    """What somebody has taken on lingers, and is less grave."""
    taken_on = {"by": "alice", "at": AT}
    first = await a_parent(admin, namespace, phase="Open", acknowledgement=taken_on)
    await burn(admin, namespace, "one", "two", "three")
    store = await mirror(admin, namespace)
    async with looking(kube, store, []) as parents:
        parents.queue.add(namespace)
        await eventually(lambda: len(store.open_parents(namespace)) == 2, what="a second parent")
    second = parent_name(namespace, first["metadata"]["uid"])
    assert set(await made(admin, namespace)) == {first["metadata"]["name"], second}


async def test_one_that_was_closed_is_not_made_again_for_its_parts(admin: Api, kube: Kube, outage: str) -> None:
    """Which have been left alone by its end."""
    await a_parent(admin, outage, phase="Resolved")
    store = await mirror(admin, outage)
    async with looking(kube, store, []) as parents:
        parents.queue.add(outage)
        await eventually(lambda: parents.queue.idle, what="a look")
    assert await made(admin, outage) == [parent_name(outage, "")]


async def test_who_does_not_lead_makes_none(admin: Api, kube: Kube, outage: str) -> None:
    store = await mirror(admin, outage)
    async with looking(kube, store, [], leads=False) as parents:
        parents.queue.add(outage)
        await eventually(lambda: parents.queue.idle)
        parents.queue.add(outage)
        await eventually(lambda: parents.queue.idle)
    assert await made(admin, outage) == []


async def test_a_name_that_somebody_else_has_taken_is_left_to_them(admin: Api, kube: Kube, outage: str) -> None:
    taken = parent_name(outage, "")
    await admin.create(incident(taken, target={"kind": "Deployment", "name": "mine"}), outage)
    store = await mirror(admin, outage, taken)
    async with looking(kube, store, []) as parents:
        parents.queue.add(outage)
        await eventually(lambda: f"{outage}/{taken}" in store.entries, what="what is there is read")
        assert store.open_parents(outage) == []
    assert await made(admin, outage) == []


@pytest.mark.parametrize("how", ["closed", "deleted"])
async def test_the_parts_of_one_that_is_over_look_again(how: str) -> None:
    """They have been silent for it, and nothing else may happen to them."""
    store, woken, name = Store(loaded=True), list[str](), parent_name("ns", "")
    parent = stored(name, {"phase": "Open"}, type="SeveralServices")
    store.put_incident(parent)
    for part, of in (("burns", name), ("alone", None)):
        status = {"phase": "Escalated", "parent": of}
        store.put_incident(stored(part, status, target={"kind": "Deployment", "name": part}))
    async with looking(None, store, woken) as parents:  # type: ignore[arg-type]
        store.parent_gone = parents.parent_gone
        if how == "closed":
            closed = parent | {"status": {"phase": "Resolved", "resolvedAt": AT}}
            closed["metadata"] |= {"resourceVersion": "2"}
            store.put_incident(closed)
            parents.after_round(Incident.model_validate(closed))
        else:
            store.drop_incident(f"ns/{name}")
        await eventually(lambda: woken, what="a part looks again")
    assert woken == ["ns/burns"]


AT = "2026-03-02T12:00:00Z"


def stored(name: str, status: Json, **spec: Any) -> Json:
    """An incident as the API server shows it."""
    body = incident(name, **spec)
    meta = {"namespace": "ns", "uid": name, "resourceVersion": "1", "creationTimestamp": AT}
    return body | {"metadata": body["metadata"] | meta, "status": status}
