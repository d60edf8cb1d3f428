"""One operator for all end-to-end tests: Paramedic itself, as a process, with the rights of its ServiceAccount only."""

from collections.abc import Iterator

import pytest

from e2e.world import World
from testbed.access import Access
from testbed.api import Api
from testbed.operator_process import Operator, install

QUICK = {"PARAMEDIC_RESYNC_INTERVAL": "5s", "PARAMEDIC_LOG_LEVEL": "DEBUG"}


@pytest.fixture(scope="session")
def operator(cluster: Access, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Operator]:
    """A running operator that leads."""
    install(cluster)
    with Operator(cluster, tmp_path_factory.mktemp("operator"), env=QUICK) as running:
        running.wait_leading()
        yield running


@pytest.fixture
def world(admin: Api, namespace: str, operator: Operator) -> World:
    """The namespace of this test with the operator watching it."""
    return World(admin, namespace, operator)
