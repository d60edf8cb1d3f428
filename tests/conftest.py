"""What tests share: one cluster per run, a fresh namespace and an admin's client per test.

`PARAMEDIC_TEST_KUBECONFIG=path pytest` uses that cluster instead of starting one; tests that need more than a
kubeconfig (the audit log, restarting the API server) are then skipped.
"""

from __future__ import annotations

import asyncio
import os
import signal
import uuid
from collections.abc import AsyncIterator, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from xdist.scheduler import LoadScopeScheduling

from installed import install
from paramedic.clients.kube import Kube, load_configuration
from testbed.access import Access
from testbed.api import Api, ApiError, eventually, resource_path
from testbed.audit import AuditLog
from testbed.cluster import Cluster

GIVEN = "PARAMEDIC_TEST_KUBECONFIG"
ENDS = (signal.SIGTERM, signal.SIGHUP)
ONE_AT_A_TIME = ("node", "gameday", "demo", "testbed")
"""Folders whose tests look at what the machine has: interfaces, mounts, processes."""
INCIDENTS = "paramedic.dev/v1alpha1/incidents"
STARTED = pytest.StashKey[Cluster]()
LONG_AT_FIRST = (*ONE_AT_A_TIME, "faults", "people", "aws", "databases")


def pytest_configure() -> None:
    """Who runs the tests in the background has Ctrl-C ignored there, and every child would inherit that."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    for number in ENDS:
        if signal.getsignal(number) != signal.SIG_IGN:  # as under nohup
            signal.signal(number, _end_in_good_order)


def _end_in_good_order(number: int, frame: object) -> None:
    """As Ctrl-C does: fixtures end what they have started. It may come by several ways at once (make hands it on), and
    no second one is to cut that short.
    """
    for each in ENDS:
        signal.signal(each, signal.SIG_IGN)
    raise KeyboardInterrupt


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """A worker of pytest-xdist begins with what takes long."""
    if hasattr(config, "workerinput"):
        items.sort(key=lambda item: LONG_AT_FIRST.index(f) if (f := _folder(item.nodeid)) in LONG_AT_FIRST else 99)


class ByFile(LoadScopeScheduling):
    """A worker takes a whole file, for its fixtures; or all the folders that look at the machine."""

    def _split_scope(self, nodeid: str) -> str:
        return "machine" if _folder(nodeid) in ONE_AT_A_TIME else nodeid.partition("::")[0]


def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> ByFile:
    """Instead of pytest-xdist's own."""
    return ByFile(config, log)


def _folder(nodeid: str) -> str:
    return nodeid.split("/")[1]


@pytest.fixture(scope="session")
def cluster(tmp_path_factory: pytest.TempPathFactory, pytestconfig: pytest.Config) -> Iterator[Access]:
    """The cluster of this run: the given one, or a real control plane of its own."""
    folder = tmp_path_factory.mktemp("cluster")
    given = os.environ.get(GIVEN)
    if given:
        yield Access(Path(given).absolute(), folder)
        return
    with Cluster(folder) as started:
        pytestconfig.stash[STARTED] = started
        yield started
        del pytestconfig.stash[STARTED]


@pytest.fixture(scope="module", autouse=True)
def _leave_no_incident(pytestconfig: pytest.Config) -> Iterator[None]:
    """What a file's tests leave open, the operators of the next file would carry on with, and tell their channels."""
    yield
    if STARTED in pytestconfig.stash:
        asyncio.run(_forget_all(pytestconfig.stash[STARTED]))


async def _forget_all(cluster: Cluster) -> None:
    async with Api(cluster.credentials(), user_agent="test-admin") as api:
        await forget_incidents(api)


@pytest.fixture(scope="session")
def own_cluster(cluster: Access) -> Cluster:
    """The cluster, when it is ours to stop and restart."""
    if not isinstance(cluster, Cluster):
        pytest.skip(f"needs a cluster of its own; unset {GIVEN} to run it")
    return cluster


@pytest.fixture(scope="session")
def installed(cluster: Access) -> Access:
    """The cluster with Paramedic's CRDs, RBAC and admission policies in force; its Deployment runs no real process."""
    install(cluster)
    return cluster


@pytest.fixture
def audit(cluster: Access) -> AuditLog:
    """The API server's audit log."""
    if cluster.audit_log is None:
        pytest.skip(f"needs the API server's audit log; unset {GIVEN} to run it")
    return AuditLog(cluster.audit_log)


@pytest.fixture
async def admin(cluster: Access) -> AsyncIterator[Api]:
    """A raw client with all rights."""
    async with Api(cluster.credentials(), user_agent="test-admin") as api:
        yield api


@pytest.fixture
async def kube(cluster: Access) -> AsyncIterator[Kube]:
    """Paramedic's own client, with all rights."""
    async with Kube(await load_configuration(cluster.kubeconfig)) as opened:
        yield opened


@pytest.fixture
def namespace_name() -> str:
    """For tests whose operator must know the names beforehand."""
    return f"test-{uuid.uuid4().hex[:10]}"


@pytest.fixture
async def namespace(admin: Api, namespace_name: str) -> AsyncIterator[str]:
    """A namespace of this test's own, in which pods can be created; only of its incidents the end is waited for."""
    name = namespace_name
    await admin.create({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}})
    await eventually(lambda: admin.find("v1/serviceaccounts", "default", name), what=f"{name}'s default ServiceAccount")
    yield name
    await forget_incidents(admin, name)
    await admin.delete("v1/namespaces", name)


async def forget_incidents(admin: Api, namespace: str | None = None) -> None:
    """Deletes the namespace's incidents, or all, with whatever they hold: no operator is there to put it back."""
    (found,) = await eventually(lambda: _incidents(admin, namespace), what="incidents can be listed")
    for meta in (one["metadata"] for one in found):
        if meta.get("finalizers"):
            with suppress(ApiError):  # gone meanwhile
                await admin.patch(INCIDENTS, meta["name"], {"metadata": {"finalizers": None}}, meta["namespace"])
    for place in {one["metadata"]["namespace"] for one in found}:
        await admin.request("DELETE", resource_path(INCIDENTS, namespace=place))


async def _incidents(admin: Api, namespace: str | None) -> tuple[list[Any]]:
    """There are none where Paramedic is not installed. An API server that was just started answers 429 for a moment."""
    try:
        return (await admin.list(INCIDENTS, namespace),)
    except ApiError as error:
        if error.status == 404:
            return ([],)
        raise
