"""The optional libraries: which extra of Paramedic's package holds which, and whether it is there."""

import importlib.util

from paramedic.api.reasons import Reason
from paramedic.errors import Terminal

_LIBRARIES = {"postgres": "psycopg", "redis": "redis", "aws": "boto3", "slack": "slack_sdk", "pagerduty": "pagerduty"}


def is_installed(extra: str) -> bool:
    """Whether the library of ``paramedic[extra]`` is there."""
    return importlib.util.find_spec(_LIBRARIES[extra]) is not None


def require(extra: str) -> None:
    """Raises Terminal with what to install."""
    if not is_installed(extra):
        raise Terminal(
            Reason.EXTRA_MISSING,
            f"this needs {_LIBRARIES[extra]}, which is not installed: pip install 'paramedic[{extra}]'",
        )
