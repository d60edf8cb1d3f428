"""A cluster with a real node, one for all tests of this folder."""

from collections.abc import AsyncIterator, Iterator

import pytest

from images.catalog import build
from testbed import toolchain
from testbed.access import KubectlError
from testbed.api import Api
from testbed.cluster import Cluster
from testbed.realnode import RealNode, load_image, why_not

ROOT = toolchain.HACK.parent
SYSTEM = "paramedic-system"


@pytest.fixture(scope="package", autouse=True)
def real(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    if reason := why_not():
        pytest.skip(reason)
    with Cluster(tmp_path_factory.mktemp("real"), RealNode) as cluster:
        yield cluster


@pytest.fixture(scope="package")
def paramedic(real: Cluster) -> Cluster:
    """The cluster with Paramedic installed as README.md says, from an image of the work tree, and ready."""
    load_image(real.folder, build("paramedic", real.folder))
    real.kubectl("apply", "-f", ROOT / "crds")
    real.kubectl("wait", "--for=condition=Established", "crd", "--all")
    real.kubectl("apply", "-k", ROOT / "hack/images/paramedic")
    try:
        real.kubectl("rollout", "status", "deployment/paramedic", "-n", SYSTEM, "--timeout=90s", timeout=100)
    except KubectlError as error:
        said = real.kubectl("logs", "-n", SYSTEM, "deployment/paramedic", "--tail=20")
        raise AssertionError(f"{error}\n{said}\n{real.kubectl('get', 'events', '-n', SYSTEM)}") from error
    return real


@pytest.fixture
async def api(real: Cluster) -> AsyncIterator[Api]:
    async with Api(real.credentials()) as opened:
        yield opened
