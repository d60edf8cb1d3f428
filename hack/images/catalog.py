"""The images of programs in this work tree: Paramedic, and covet, the service of the game days."""

from __future__ import annotations

import hashlib
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

from images import python
from images.oci import Runs, write_image, write_layer
from images.postgres import stage_pg_dump
from testbed.locks import locked
from testbed.progress import Progress
from testbed.toolchain import HACK, cache_folder

ROOT = HACK.parent
LOCK = ROOT / "requirements.lock"
APPLICATION = "/opt/application"
KEEP_SECONDS = 7 * 24 * 3600


@dataclass(frozen=True)
class Program:
    """An image's own part: what is staged in its root on top of the Python layer, and what runs."""

    stage: Callable[[Path], None]
    entrypoint: Sequence[str]
    tag: str


def _stage_paramedic(root: Path) -> None:
    """The package as it is in the work tree, its metadata, by which it knows its version, and pg_dump."""
    target = root / APPLICATION.lstrip("/")
    _copy_package(ROOT / "operator/paramedic", target)
    metadata = target / f"paramedic-{version('paramedic')}.dist-info/METADATA"
    metadata.parent.mkdir()
    metadata.write_text(f"Metadata-Version: 2.4\nName: paramedic\nVersion: {version('paramedic')}\n")
    stage_pg_dump(root)


def _stage_covet(root: Path) -> None:
    _copy_package(HACK / "covet", root / APPLICATION.lstrip("/"))


def _copy_package(source: Path, target: Path) -> None:
    shutil.copytree(source, target / source.name, ignore=shutil.ignore_patterns("__pycache__"))


PROGRAMS = {
    "paramedic": Program(_stage_paramedic, ("python3", "-m", "paramedic", "run"), "dev"),
    "covet": Program(_stage_covet, ("python3", "-m", "covet.app"), "1"),
}


def build(name: str, folder: Path, tags: Sequence[str] = ()) -> Path:
    """Builds `docker.io/local/<name>` under each tag (default: the program's own) and returns the tar file in `folder`.

    It runs as uid 65532, on a read-only root file system if need be. ImageError when a requirement is not installed.
    """
    program = PROGRAMS[name]
    runtime = _runtime_layer()
    with tempfile.TemporaryDirectory(prefix="layer-", dir=folder) as scratch:
        root = Path(scratch) / "root"
        (root / APPLICATION.lstrip("/")).mkdir(parents=True)
        program.stage(root)
        python.compile_all(root)
        layer = write_layer(root, Path(scratch) / "layer.tar.gz")
        names = [f"docker.io/local/{name}:{tag}" for tag in tags or (program.tag,)]
        return write_image(folder / f"{name}.tar", names, [runtime, layer], _runs(program))


def _runs(program: Program) -> Runs:
    """As in the Dockerfile."""
    environment = {
        "PATH": "/usr/local/bin",
        "PYTHONPATH": f"{APPLICATION}:{python.REQUIREMENTS}",
        "PYTHONDONTWRITEBYTECODE": "1",
        "PYTHONUNBUFFERED": "1",
        "HOME": "/tmp",  # noqa: S108 - in the container
    }
    return Runs(program.entrypoint, folder="/tmp", environment=environment)  # noqa: S108


def _runtime_layer() -> Path:
    """Python and the locked requirements as a layer, made once per machine and lock file."""
    layer = cache_folder() / "images" / f"python-{_runtime_key()}.tar.gz"
    with _only_one():
        if not layer.exists():
            _make_runtime_layer(layer)
    return layer


def _runtime_key() -> str:
    parts = [LOCK.read_bytes(), Path(python.__file__).read_bytes(), f"{sys.version} {sys.base_prefix}".encode()]
    return hashlib.sha256(b"\0".join(parts)).hexdigest()[:16]


def _only_one() -> AbstractContextManager[None]:
    folder = cache_folder() / "images"
    folder.mkdir(exist_ok=True)
    return locked(folder / "lock", "images: another process makes the Python layer; waiting for it")


def _make_runtime_layer(layer: Path) -> None:
    """Complete or not at all. Layers of lock files long past are removed."""
    for earlier in layer.parent.glob("python-*"):
        if earlier.stat().st_mtime < time.time() - KEEP_SECONDS:
            earlier.unlink()
    with (
        Progress("images: Python and the locked requirements"),
        tempfile.TemporaryDirectory(prefix=".python-", dir=layer.parent) as scratch,
    ):
        root = Path(scratch) / "root"
        root.mkdir(mode=0o755)
        python.stage_runtime(root, LOCK)
        write_layer(root, Path(scratch) / "layer.tar.gz").rename(layer)
