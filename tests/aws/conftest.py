"""One AWS for all tests of this folder: moto's server, emptied before each test, behind a layer of faults."""

from __future__ import annotations

import sys
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from aws.faults import Faults
from aws.world import Cloud
from evidence.places import answers
from testbed.ports import Ports
from testbed.processes import spawn, wait_until


@pytest.fixture(scope="session")
def moto(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The server's URL."""
    ports = Ports()
    port = ports.reserve()
    url = f"http://127.0.0.1:{port}"
    log: Path = tmp_path_factory.mktemp("moto") / "moto.log"
    server = spawn("moto", [sys.executable, "-m", "moto.server", "-p", str(port)], log)
    wait_until(lambda: answers(url), "moto's server", 30, [server])
    yield url
    server.stop()
    ports.release()


@pytest.fixture
def faults(moto: str) -> Iterator[Faults]:
    """In front of an empty AWS."""
    request = urllib.request.Request(f"{moto}/moto-api/reset", method="POST")
    urllib.request.urlopen(request, timeout=10).close()
    with Faults(moto) as layer:
        yield layer


@pytest.fixture
def cloud(moto: str, faults: Faults, monkeypatch: pytest.MonkeyPatch) -> Cloud:
    """What tests put into AWS, and see there; credentials are in the environment."""
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKIAIOSFODNN7EXAMPLE")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY")
    monkeypatch.delenv("AWS_SESSION_TOKEN", raising=False)
    return Cloud(moto, faults)
