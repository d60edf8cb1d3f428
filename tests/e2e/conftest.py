"""One operator for all end-to-end tests: Paramedic itself, as a process, with the rights of its ServiceAccount only."""

from collections.abc import Iterator

import pytest

from e2e.world import World
from testbed.access import Access
from testbed.api import Api
from testbed.monitoring import Prometheus
from testbed.operator_process import Operator

QUICK = {
    "PARAMEDIC_RESYNC_INTERVAL": "5s",
    "PARAMEDIC_PROMETHEUS__POLL_INTERVAL": "500ms",
    "PARAMEDIC_PROMETHEUS__POLL_GRACE": "2s",
    "PARAMEDIC_PROMETHEUS__END_GRACE": "2s",
}


@pytest.fixture(scope="package")
def prometheus(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Prometheus]:
    """A real Prometheus, without rules at first."""
    with Prometheus(tmp_path_factory.mktemp("prometheus")) as running:
        yield running


@pytest.fixture(scope="package")
def operator(installed: Access, prometheus: Prometheus, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Operator]:
    """A running operator that leads."""
    folder = tmp_path_factory.mktemp("operator")
    with Operator(installed, folder, prometheus=prometheus.url, env=QUICK) as running:
        running.wait_leading()
        yield running


@pytest.fixture
def world(admin: Api, namespace: str, operator: Operator) -> World:
    """The namespace of this test with the operator watching it."""
    return World(admin, namespace, operator)
