"""pg_dump in an image, with the libraries that it needs: the Dockerfile's image has it, too."""

from __future__ import annotations

import shutil
from contextlib import suppress
from pathlib import Path

from images.python import stage_libraries
from testbed.golang import ToolchainError
from testbed.postgres import installed


def stage_pg_dump(root: Path) -> None:
    """That of this machine's PostgreSQL. Where none is to be had the image does without, and Paramedic says so."""
    with suppress(ToolchainError):
        found = installed("pg_dump")
        target = root / "usr/local/bin/pg_dump"
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(found, target)
        stage_libraries(root, [target])
