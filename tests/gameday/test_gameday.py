"""One game day from the fault to the recovery, as users and the audit log saw it; and what is left of it."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from gameday.days import DAYS
from gameday.ground import Ground
from gameday.report import Row
from gameday.run import namespace_of, run
from leftovers import commands_about
from testbed import toolchain
from testbed.processes import Identity
from testbed.realnode import why_not

pytestmark = [pytest.mark.slow, pytest.mark.skipif(bool(why_not()), reason=why_not() or "")]

ENVOY = b"/usr/local/bin/envoy\0"
BAD_RELEASE = next(day for day in DAYS if day.name == "bad-release")


@pytest.fixture
def folder() -> Iterator[Path]:
    """Its path is short: the kubelet makes sockets below it (107 characters at most). PostgreSQL's user may enter."""
    with tempfile.TemporaryDirectory(prefix="gameday-") as name:
        Path(name).chmod(0o711)
        yield Path(name)


def test_a_bad_release_is_rolled_back_once_and_users_recover(folder: Path) -> None:
    with Ground(folder / "ground", [namespace_of(BAD_RELEASE, helped=True)]) as ground:
        helped = run(ground, BAD_RELEASE, helped=True, cap=180)
        log = ground.paramedic_log()
    assert Row(BAD_RELEASE, helped, None).problems() == [], log
    assert helped.failed["HTTP 500"] > 0
    assert helped.hurt is not None
    assert helped.recovered is not None
    assert helped.hurt < helped.recovered
    assert "unexpected error" not in log


def test_nothing_is_left_when_it_is_ended(folder: Path) -> None:
    """By SIGTERM, in the middle of it, when everything runs: covet, its users, sidecars. (Ctrl-C and SIGHUP take the
    same way; what kill -9 leaves is up to the real node, the databases and the folder, each of which has its own test.)
    """
    interfaces = set(Path("/sys/class/net").iterdir())
    argv = [sys.executable, str(toolchain.HACK / "gameday"), "flood", "--helped-only"]
    environment = {**os.environ, "TMPDIR": str(folder)}
    with subprocess.Popen(argv, env=environment, stderr=subprocess.PIPE, text=True, cwd=folder) as process:
        try:
            assert process.stderr is not None
            told = []
            while "covet-flood: " not in "".join(told[-1:]):
                told.append(process.stderr.readline())
                assert told[-1], f"it ended too early:\n{''.join(told)}"
            sidecars = envoys_below(folder)
            assert len(sidecars) == 3
            process.send_signal(signal.SIGTERM)
            assert process.wait(120) == 130
        finally:
            process.kill()
    assert list(folder.glob("paramedic-gameday-*")) == []
    assert commands_about(folder) == []
    assert not any(one.alive() for one in sidecars)
    assert [one for one in mounts() if str(folder) in one] == []
    assert set(Path("/sys/class/net").iterdir()) - interfaces == set()


def envoys_below(folder: Path) -> list[Identity]:
    """The Envoys in containers of the node that lies in the folder: one of their ancestors names it."""
    commands = contents("cmdline")
    parents = {pid: stat.rpartition(b")")[2].split()[1].decode() for pid, stat in contents("stat").items()}

    def is_below(pid: str) -> bool:
        return pid in commands and (str(folder).encode() in commands[pid] or is_below(parents.get(pid, "")))

    envoys = [int(pid) for pid, said in commands.items() if said.startswith(ENVOY) and is_below(pid)]
    return [one for one in map(Identity.of, envoys) if one]


def contents(file: str) -> dict[str, bytes]:
    """This file in /proc of each process that is there, by pid."""
    found = {}
    for path in Path("/proc").glob(f"[0-9]*/{file}"):
        with contextlib.suppress(OSError):
            found[path.parent.name] = path.read_bytes()
    return found


def mounts() -> list[str]:
    return Path("/proc/self/mounts").read_text().splitlines()
