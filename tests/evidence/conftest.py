"""Each test's own directory, and its own S3 server."""

from __future__ import annotations

import sys
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from evidence.places import Bucket, Directory, Place, answers
from testbed.ports import Ports
from testbed.processes import Child, spawn, wait_until


@pytest.fixture
def directory(tmp_path: Path) -> Directory:
    (tmp_path / "evidence").mkdir()
    return Directory(tmp_path / "evidence")


class Server:
    """One moto server for all tests, started anew when a test has ended it."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._ports = Ports()
        self.url = f"http://127.0.0.1:{self._ports.reserve()}"
        self.child: Child | None = None

    def running(self) -> Child:
        if self.child is None or not self.child.alive():
            argv = [sys.executable, "-m", "moto.server", "-p", self.url.rpartition(":")[2]]
            self.child = spawn("moto", argv, self._folder / "moto.log")
            wait_until(lambda: answers(self.url), "moto's server", 30, [self.child])
        return self.child

    def stop(self) -> None:
        if self.child:
            self.child.stop()
        self._ports.release()


@pytest.fixture(scope="session")
def s3(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    server = Server(tmp_path_factory.mktemp("moto"))
    yield server
    server.stop()


@pytest.fixture
def bucket(s3: Server, monkeypatch: pytest.MonkeyPatch) -> Bucket:
    """A bucket of the test's own."""
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "testing")
    found = Bucket(s3.url, s3.running(), f"evidence-{uuid.uuid4().hex[:10]}")
    found.create()
    return found


@pytest.fixture(params=["directory", "bucket"])
def place(request: pytest.FixtureRequest) -> Place:
    """Each of them."""
    found: Place = request.getfixturevalue(request.param)
    return found
