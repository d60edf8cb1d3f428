"""What a server may answer that is not what it says it is: a tenant names databases, and may run them."""

from collections.abc import Iterator
from contextlib import contextmanager

from paramedic.api.reasons import Reason
from paramedic.errors import NONSENSE, Terminal


@contextmanager
def sensible(name: str, kind: str) -> Iterator[None]:
    """Around what reads the answers of a server. Raises Terminal where they are none that such a server gives."""
    try:
        yield
    except NONSENSE as error:
        raise Terminal(Reason.REJECTED, f"{name}: no answer of a {kind} server ({type(error).__name__})") from error
