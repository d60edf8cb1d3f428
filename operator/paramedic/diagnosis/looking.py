"""Looks that may fail: each has a time limit, and what comes to nothing is a line, never an error."""

import asyncio
from collections.abc import Awaitable
from dataclasses import dataclass
from typing import Any, TypeVar

from paramedic import log
from paramedic.api.reasons import Reason
from paramedic.clients.kube import Kube
from paramedic.core.redact import clean
from paramedic.errors import ParamedicError, Refused

T = TypeVar("T")
Json = dict[str, Any]
_HINT = "; the rights for it are in manifests/components/diagnose"
_log = log.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Limits:
    """How long each look may take, in seconds. Logs and Envoy's statistics wait for the pods; all else is at once."""

    target: float = 1.0
    api: float = 1.5
    web: float = 1.5
    pods: float = 1.0
    connections: float = 6.0


class Looks:
    """Performs looks and remembers those that came to nothing."""

    def __init__(self) -> None:
        self.failed: list[str] = []

    async def at(self, what: str, look: Awaitable[T], seconds: float, *, hint: str = _HINT) -> T | None:
        """The look's result; None, and a line in ``failed``, when it fails or takes too long. ``hint`` is for what is
        forbidden.
        """
        try:
            async with asyncio.timeout(seconds):
                return await look
        except TimeoutError:
            self.missed(what, f"no answer within {seconds:g} s")
        except Refused as error:
            self.missed(what, str(error), hint if error.reason == Reason.FORBIDDEN else "")
        except ParamedicError as error:
            self.missed(what, str(error))
        except Exception as error:  # noqa: BLE001 - an object of an unforeseen shape must not cost the other looks
            _log.warning("a look of the diagnosis failed", what=what, exc_info=error)
            self.missed(what, f"{type(error).__name__}: {error}")
        return None

    def missed(self, what: str, why: str, hint: str = "") -> None:
        """Notes that something could not be looked at."""
        self.failed.append(f"could not look: {what}: {clean(why, 300)}{hint}")


async def recent(kube: Kube, path: str, *, selector: str = "") -> list[Json]:
    """A collection out of the API server's cache, which costs it least; a moment old."""
    pages = kube.pages(path, resourceVersion="0", labelSelector=selector)
    return [item async for page in pages for item in page]


async def nothing() -> None:
    """A look that is not asked for."""
