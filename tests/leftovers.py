"""What a run has left behind."""

import os
from pathlib import Path


def commands_about(folder: Path) -> list[str]:
    """Command lines of the other processes that mention a folder."""
    found = []
    for entry in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            command = entry.read_bytes().replace(b"\0", b" ").decode(errors="replace")
        except (FileNotFoundError, ProcessLookupError):
            continue
        if str(folder) in command and entry.parent.name != str(os.getpid()):
            found.append(command)
    return found
