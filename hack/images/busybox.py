"""The two images that need no Python: `busybox`, and `pause`, which holds a pod's namespaces."""

from __future__ import annotations

import shutil
import subprocess
import tempfile
from pathlib import Path

from images.oci import Runs, write_image, write_layer
from testbed.packages import program

NAMES = ("docker.io/local/busybox:1", "docker.io/local/pause:1")


def build_busybox(folder: Path) -> Path:
    """One image of Debian's static busybox under both `NAMES`; it sleeps unless told otherwise. Returns the tar."""
    busybox = program("busybox", "busybox-static")
    with tempfile.TemporaryDirectory(prefix="layer-", dir=folder) as scratch:
        root = Path(scratch) / "root"
        (root / "bin").mkdir(parents=True)
        (root / "tmp").mkdir()
        (root / "tmp").chmod(0o1777)
        shutil.copy(busybox, root / "bin/busybox")
        for applet in _applets(busybox):
            (root / "bin" / applet).symlink_to("busybox")
        layer = write_layer(root, Path(scratch) / "layer.tar.gz")
        runs = Runs(entrypoint=(), arguments=("/bin/sleep", "infinity"), environment={"PATH": "/bin"})
        return write_image(folder / "busybox.tar", NAMES, [layer], runs)


def _applets(busybox: Path) -> list[str]:
    """The names that it answers to, its own apart."""
    listed = subprocess.run([busybox, "--list"], capture_output=True, text=True, check=True).stdout.split()
    return [name for name in listed if name != "busybox"]
