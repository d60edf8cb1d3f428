"""A change of several writes that stops in the middle."""

import pytest

from paramedic.actions.base import Action, Change, Clients, Create
from paramedic.api.reasons import Reason
from paramedic.clients.kube import Kube
from paramedic.errors import NotFound, PartlyDone
from testbed.api import Api


def config_map(name: str, namespace: str) -> Create:
    body = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name}}
    return Create(f"/api/v1/namespaces/{namespace}/configmaps", body)


async def test_what_was_made_before_it_is_told(kube: Kube, admin: Api, namespace: str) -> None:
    writes = config_map("first", namespace), config_map("second", "there-is-none"), config_map("third", namespace)
    with pytest.raises(PartlyDone) as stopped:
        await Action().apply(Change({}, {}, writes, None, ""), Clients(kube))
    assert stopped.value.reason is Reason.TARGET_NOT_FOUND
    assert str(stopped.value).startswith("1 of 3 changes were made, then: ")
    made = [found["metadata"]["name"] for found in await admin.list("v1/configmaps", namespace)]
    assert "first" in made
    assert "third" not in made


async def test_when_the_first_fails_nothing_was_made(kube: Kube, admin: Api, namespace: str) -> None:
    writes = config_map("first", "there-is-none"), config_map("second", namespace)
    with pytest.raises(NotFound):
        await Action().apply(Change({}, {}, writes, None, ""), Clients(kube))
    assert "second" not in [found["metadata"]["name"] for found in await admin.list("v1/configmaps", namespace)]
