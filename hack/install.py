"""Makes the environment: a virtual environment with the locked packages and Paramedic itself (editable).

Standard library only, for it runs before anything is installed:
``python3 hack/install.py .venv requirements-dev.lock``.
"""

import os
import subprocess
import sys
from pathlib import Path

UV = "uv==0.13.9"


def main(folder: Path, lock: Path) -> int:
    """Returns the exit code; says what is missing."""
    if sys.version_info < (3, 11):  # noqa: UP036 - it runs with whatever python3 is there
        print(f"Python 3.11 or newer is needed, this is {sys.version.split()[0]}: set PYTHON", file=sys.stderr)
        return 1
    print(f"installing the locked packages into {folder} …", flush=True)
    python = folder / "bin" / "python"
    if not _has_pip(python) and not _make_environment(folder):
        return 1
    _run([str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check", UV])
    uv = [str(folder / "bin" / "uv"), "pip"]
    # What the lock does not name (uv itself, Paramedic) must stay, so this installs instead of syncing.
    _run([*uv, "install", "--quiet", "--python", str(python), "--require-hashes", "-r", str(lock)])
    _run([*uv, "install", "--quiet", "--python", str(python), "--no-deps", "--editable", "."])
    return 0


def _has_pip(python: Path) -> bool:
    """Whether the environment is whole: one whose making was cut short, or failed, has a Python without pip."""
    try:
        return subprocess.run([str(python), "-m", "pip", "--version"], check=False, capture_output=True).returncode == 0
    except OSError:
        return False


def _make_environment(folder: Path) -> bool:
    command = [sys.executable, "-m", "venv", "--clear", str(folder)]
    if subprocess.run(command, check=False, capture_output=True).returncode == 0:
        return True
    package = f"python{sys.version_info.major}.{sys.version_info.minor}-venv"
    if os.geteuid() == 0 and Path("/usr/bin/apt-get").exists():
        install = ["apt-get", "install", "-y", "-qq", package]
        if subprocess.run(install, check=False, capture_output=True).returncode:  # its lists of packages may be old
            _run(["apt-get", "update", "-qq"])
            _run(install)
        _run(command)
        return True
    print(f"python's venv module does not work here; install it (Debian: apt-get install {package})", file=sys.stderr)
    return False


def _run(command: list[str]) -> None:
    subprocess.run(command, check=True)


if __name__ == "__main__":
    try:
        sys.exit(main(Path(sys.argv[1]), Path(sys.argv[2])))
    except subprocess.CalledProcessError as error:
        print(f"{' '.join(error.cmd)} failed with exit code {error.returncode}", file=sys.stderr)
        sys.exit(1)
