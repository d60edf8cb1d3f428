"""A proxy and an operator behind it, for the files that break what is between them and the API server."""

import gc
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from faults.drill import Ground
from testbed.cluster import Cluster
from testbed.faultproxy import FaultProxy
from testbed.operator_process import NAMESPACE, SERVICE_ACCOUNT, Operator

ENVIRONMENT = {"PARAMEDIC_WORKERS": "128", "PARAMEDIC_RESYNC_INTERVAL": "2s"}
SHORT_LEASE = {
    "PARAMEDIC_LEASE_DURATION": "4s",
    "PARAMEDIC_RENEW_DEADLINE": "3s",
    "PARAMEDIC_RETRY_PERIOD": "1s",
}


@pytest.fixture(scope="module")
def ground(
    own_cluster: Cluster, installed: object, tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest
) -> Iterator[Ground]:
    """One operator for a whole file: the drills are kept apart by their namespaces."""
    short = SHORT_LEASE if getattr(request.module, "WITH_SHORT_LEASE", False) else {}
    folder: Path = tmp_path_factory.mktemp("faults")
    (evidence := folder / "evidence").mkdir()
    with _behind_a_proxy(
        own_cluster, folder, ENVIRONMENT | short | {"PARAMEDIC_EVIDENCE__DIRECTORY": str(evidence)}
    ) as ground:
        ground.operator.wait_leading()
        yield ground


@pytest.fixture(scope="module")
def pair(
    own_cluster: Cluster, installed: object, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[Ground, Ground]]:
    """Two operators, each behind a proxy of its own, in no order."""
    folder: Path = tmp_path_factory.mktemp("pair")
    with (
        _behind_a_proxy(own_cluster, folder / "one", ENVIRONMENT | SHORT_LEASE) as one,
        _behind_a_proxy(own_cluster, folder / "other", ENVIRONMENT | SHORT_LEASE) as other,
    ):
        yield one, other


@contextmanager
def _behind_a_proxy(cluster: Cluster, folder: Path, env: dict[str, str]) -> Iterator[Ground]:
    token = cluster.service_account_token(NAMESPACE, SERVICE_ACCOUNT)
    identity = f"faults-{uuid.uuid4().hex[:6]}"
    with (
        FaultProxy(cluster.credentials()) as proxy,
        Operator(
            cluster, folder / "operator", kubeconfig=proxy.kubeconfig(token, folder), identity=identity, env=env
        ) as operator,
    ):
        yield Ground(cluster, proxy, operator)
    # Loops and sockets of killed operators: collected now, for CPython 3.11 does not bear it while it compiles a module
    # ("AST constructor recursion depth mismatch").
    gc.collect()


@pytest.fixture
def fresh_name() -> str:
    """A name for a namespace of the test's own."""
    return f"faults-{uuid.uuid4().hex[:10]}"
