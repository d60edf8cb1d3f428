"""The first `make` on a machine, after one that was cut short."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import install


def test_an_environment_that_was_half_made_is_made_anew(tmp_path: Path) -> None:
    folder = tmp_path / "venv"
    python = folder / "bin" / "python"
    assert not install._has_pip(python)
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", folder], check=True)
    (folder / "left").touch()
    assert not install._has_pip(python)
    assert install._make_environment(folder)
    assert install._has_pip(python)
    assert not (folder / "left").exists()
