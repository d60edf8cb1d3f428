"""This machine's Python as the root file system of an image: interpreter, standard library, requirements, libraries."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Iterable
from importlib.metadata import Distribution, PackageNotFoundError
from pathlib import Path

from packaging.requirements import Requirement

REQUIREMENTS = "/opt/requirements"
"""Where the locked requirements lie in the image; to be named in PYTHONPATH."""

_VERSION = f"python{sys.version_info.major}.{sys.version_info.minor}"
_NOT_NEEDED = (
    *("__pycache__", "site-packages", "dist-packages", "config-*", "ensurepip"),
    *("test", "tests", "lib2to3", "idlelib", "tkinter", "_tkinter*", "turtledemo"),
)
_LIBRARY = re.compile(r"^\s*(?:\S+ => )?(/\S+) \(0x", re.MULTILINE)
_PLACES_OF_THE_SYSTEM = ("/lib/", "/lib64/", "/usr/lib/", "/usr/lib64/")


class ImageError(RuntimeError):
    """An image cannot be made; the text says what to do."""


def stage_runtime(root: Path, lock: Path) -> None:
    """Fills `root` with all that `python3` needs, and the requirements of a lock file that are installed here."""
    stdlib = Path(sysconfig.get_path("stdlib"))
    target = root / "usr/local/lib" / _VERSION
    shutil.copytree(stdlib, target, symlinks=True, ignore=shutil.ignore_patterns(*_NOT_NEEDED))
    _stage_interpreter(root)
    for name, version in locked(lock):
        stage_distribution(root / REQUIREMENTS.lstrip("/"), name, version)
    stage_libraries(root, [root / "usr/local/bin" / _VERSION, *root.rglob("*.so"), *root.rglob("*.so.*")])
    _stage_system(root)
    compile_all(root)


def _stage_interpreter(root: Path) -> None:
    folder = root / "usr/local/bin"
    folder.mkdir(parents=True)
    shutil.copy(Path(sys.executable).resolve(), folder / _VERSION)
    (folder / "python3").symlink_to(_VERSION)


def locked(lock: Path) -> list[tuple[str, str]]:
    """(name, version) of each requirement in a lock file that holds on this machine."""
    lines = re.findall(r"^([A-Za-z0-9][^\s\\]*==[^\\\n]+)", lock.read_text(), re.MULTILINE)
    found = [Requirement(line.strip()) for line in lines]
    return [
        (one.name, next(iter(one.specifier)).version) for one in found if one.marker is None or one.marker.evaluate()
    ]


def stage_distribution(target: Path, name: str, version: str) -> None:
    """Copies an installed distribution's own files; ImageError when it is not installed in that version."""
    try:
        distribution = Distribution.from_name(name)
    except PackageNotFoundError:
        raise ImageError(f"{name} {version} is not installed in {sys.prefix}; run `make check` once") from None
    if distribution.version != version:
        raise ImageError(f"{name} is locked at {version}, but {distribution.version} is installed; run `make check`")
    for file in distribution.files or []:
        if ".." in file.parts or "__pycache__" in file.parts:  # console scripts; bytecode is made anew
            continue
        copy = target / file
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(str(distribution.locate_file(file)), copy)


def stage_libraries(root: Path, binaries: Iterable[Path]) -> None:
    """Copies every shared library that one of `binaries`, files in `root`, is linked with to where the loader looks."""
    needed = {library for binary in binaries for library in linked(binary) if not library.is_relative_to(root)}
    place = next(library.parent for library in needed if library.name.startswith("libc.so"))
    for library in needed:
        kept = str(library).startswith(_PLACES_OF_THE_SYSTEM)
        copy = root / str(library if kept else place / library.name).lstrip("/")
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(library, copy)


def linked(binary: Path) -> list[Path]:
    answer = subprocess.run(["ldd", str(binary)], capture_output=True, text=True, check=False)
    return [Path(path) for path in _LIBRARY.findall(answer.stdout)]


def _stage_system(root: Path) -> None:
    """Users that programs look up, and a folder for scratch files."""
    (root / "etc").mkdir(exist_ok=True)
    (root / "etc/passwd").write_text("root:x:0:0::/:\nnonroot:x:65532:65532::/tmp:\n")
    (root / "etc/group").write_text("root:x:0:\nnonroot:x:65532:\n")
    (root / "tmp").mkdir()
    (root / "tmp").chmod(0o1777)


def compile_all(root: Path) -> None:
    """Makes all bytecode now: later the file system is read-only. Unchecked, for nothing there changes."""
    how = ["-q", "-j", "0", "--invalidation-mode", "unchecked-hash", "-s", str(root), "-p", "/"]
    subprocess.run([sys.executable, "-m", "compileall", *how, str(root)], check=False, stdout=subprocess.DEVNULL)
