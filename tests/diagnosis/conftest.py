"""A namespace with a service in trouble, and the diagnosis of it."""

from collections.abc import AsyncIterator

import pytest

from diagnosis.ward import Ward
from paramedic.clients.kube import Kube, load_configuration
from paramedic.clients.web import Web
from testbed.access import Access
from testbed.api import Api


@pytest.fixture
async def kube(cluster: Access) -> AsyncIterator[Kube]:
    """As admin."""
    async with Kube(await load_configuration(cluster.kubeconfig)) as opened:
        yield opened


@pytest.fixture
async def web() -> AsyncIterator[Web]:
    """One that may ask this machine."""
    async with Web(allow_loopback=True) as opened:
        yield opened


@pytest.fixture
def ward(admin: Api, namespace: str, kube: Kube, web: Web) -> Ward:
    return Ward(admin, namespace, kube, web)
