"""Evidence in a directory, usually a volume. Every item is whole or absent, also after a power failure."""

import os
import secrets
import stat
from datetime import datetime
from pathlib import Path

from paramedic.clients.evidence import StoreFailed


class DirectoryBackend:
    """Files of mode 0600 in folders of mode 0700 under a directory that must exist."""

    def __init__(self, directory: Path) -> None:
        self._root = directory.absolute()

    def open(self, path: tuple[str, ...], media_type: str) -> "FileSink":
        """Begins a file. Raises OSError, StoreFailed when the directory is not there."""
        if not self._root.is_dir():
            raise StoreFailed(f"{self._root} (evidence.directory) is not a directory: is the volume mounted?")
        folder = self._root
        for name in path[:-1]:
            folder = _private_folder(folder, name)
        return FileSink(folder / path[-1])

    def stored_bytes(self, folder: str, since: datetime) -> int:
        """By the files' times, unfinished ones too. Raises OSError."""
        return sum(_size_since(file, since.timestamp()) for file in (self._root / folder).rglob("*"))


class FileSink:
    """One file: written beside its place, synced, then renamed into it."""

    block_bytes = 1024 * 1024

    def __init__(self, path: Path) -> None:
        self.uri = path.as_uri()
        self._path = path
        for left_over in path.parent.glob(f".{path.name}.*.partial"):  # of a process that was killed
            left_over.unlink(missing_ok=True)
        self._partial = path.with_name(f".{path.name}.{secrets.token_hex(4)}.partial")
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        self._file = os.fdopen(os.open(self._partial, flags, 0o600), "wb", buffering=0)

    def write(self, block: bytes) -> None:
        """Raises OSError, for example when the disk is full."""
        rest = memoryview(block)
        while rest:
            rest = rest[self._file.write(rest) :]

    def commit(self, rest: bytes) -> None:
        """Raises OSError."""
        self.write(rest)
        os.fsync(self._file.fileno())
        self._file.close()
        self._partial.replace(self._path)
        _sync_folder(self._path.parent)

    def abort(self) -> None:
        """Raises OSError."""
        self._file.close()
        self._partial.unlink(missing_ok=True)


def _size_since(path: Path, since: float) -> int:
    """Nothing for a folder, and for a file that is gone by now: an unfinished one gets another name."""
    try:
        found = path.lstat()
    except FileNotFoundError:
        return 0
    return found.st_size if stat.S_ISREG(found.st_mode) and found.st_mtime >= since else 0


def _private_folder(parent: Path, name: str) -> Path:
    folder = parent / name
    try:
        folder.mkdir(mode=0o700)
    except FileExistsError:
        if folder.is_symlink() or not folder.is_dir():
            raise StoreFailed(f"{folder} is in the way: it is not a folder") from None
    else:
        _sync_folder(parent)
    return folder


def _sync_folder(folder: Path) -> None:
    """Makes the names in it last."""
    opened = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(opened)
    finally:
        os.close(opened)
