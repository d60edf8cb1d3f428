"""A secret in a file of the operator's: read anew for each use, so that a rotated one counts at once; never told."""

from pathlib import Path

from paramedic.errors import Unreachable


class SecretFile:
    """One line of text, for example an API key. ``what`` names it in messages: "statuspage's apiKeyFile"."""

    def __init__(self, path: Path, what: str) -> None:
        self._path = path
        self._what = what

    def read(self) -> str:
        """Without surrounding white space. Raises Unreachable while it cannot be read, is empty or has several lines:
        a Secret that is being put right must not cost what waits for it.
        """
        try:
            text = self._path.read_text().strip()
        except (OSError, UnicodeDecodeError) as error:
            why = error.strerror if isinstance(error, OSError) else "it is not text"
            raise Unreachable(f"{self._what}, {self._path}, cannot be read: {why}") from error
        if not text or not text.isprintable():
            raise Unreachable(f"{self._what}, {self._path}, is empty or has several lines: one line is needed")
        return text
