"""Where a real node cannot run, it says why, in one line, and makes nothing."""

import os
from pathlib import Path

import pytest

from testbed.cluster import Cluster
from testbed.golang import ToolchainError
from testbed.processes import ProcessError
from testbed.realnode import RealNode, checks, why_not


def test_without_root(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("sys.platform", "linux")
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    with pytest.raises(ToolchainError, match="needs root"):
        Cluster(tmp_path, RealNode).start()
    assert not (tmp_path / "node").exists()


def test_on_another_system(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.platform", "darwin")
    assert why_not() == "a real node needs Linux"


@pytest.mark.skipif(bool(why_not()), reason=why_not() or "")
def test_in_a_folder_whose_path_is_too_long_for_sockets(tmp_path: Path) -> None:
    folder = tmp_path / ("deep" * 25)
    with pytest.raises(ProcessError, match=r"characters too long for the kubelet's sockets; choose another folder"):
        Cluster(folder, RealNode).start()
    assert not (folder / "node").exists()


@pytest.mark.skipif(bool(why_not()), reason=why_not() or "")
def test_without_what_it_needs_of_the_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patched:
        patched.setattr(checks, "CONTROLLERS", ("memory", "no-such-controller"))
        assert "no-such-controller, writable" in str(why_not())
    with monkeypatch.context() as patched:
        patched.setattr(checks, "CAPABILITIES", {60: "CAP_OF_TOMORROW"})
        assert str(why_not()).endswith("--privileged")
    with monkeypatch.context() as patched:
        patched.setattr(checks, "PROGRAMS", {"no-such-program": "some-package"})
        assert str(why_not()).endswith("no-such-program (Debian: some-package)")
