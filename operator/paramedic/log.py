"""Structured logs on standard error: one JSON object a line, or colours in a terminal."""

import logging
import re
import sys
from typing import Any

import structlog

Logger = structlog.stdlib.BoundLogger
_SECRET_KEYS = ("token", "authorization", "password", "secret")
# "Bearer …" as in headers, and the password in a URL.
_CREDENTIALS = re.compile(r"(?<=\bbearer )[\w.~+/=-]{8,}|(?<=:)[^\s/]{1,256}(?=@(?!sha256:))", re.IGNORECASE)


def configure(level: str, style: str) -> None:
    """Sends structlog's and the libraries' records through the same processors."""
    shared: list[Any] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.processors.format_exc_info,
        _hide_secrets,
    ]
    renderer = structlog.dev.ConsoleRenderer() if style == "console" else structlog.processors.JSONRenderer()
    formatter = structlog.stdlib.ProcessorFormatter(
        foreign_pre_chain=[structlog.stdlib.add_logger_name, *shared],
        processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, renderer],
    )
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(formatter)
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level)
    for noisy in ("kopf", "aiohttp.access", "urllib3", "asyncio", "httpx2"):
        logging.getLogger(noisy).setLevel(max(logging.WARNING, logging.getLevelName(level)))
    structlog.configure(
        processors=[
            structlog.stdlib.filter_by_level,
            *shared,
            structlog.stdlib.ProcessorFormatter.wrap_for_formatter,
        ],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
        cache_logger_on_first_use=True,
    )


def get_logger(name: str) -> Logger:
    """A logger that takes facts as keyword arguments."""
    logger: Logger = structlog.stdlib.get_logger(name)
    return logger


def _hide_secrets(_: Any, __: str, event: Any) -> Any:
    return {key: _hidden(key, value) for key, value in event.items()}


def _hidden(key: Any, value: Any) -> Any:
    """The value without secrets: what stands under a telling key, and credentials inside of any text."""
    if isinstance(key, str) and not key.startswith("_") and any(word in key.lower() for word in _SECRET_KEYS):
        return "***"
    if isinstance(value, str):
        return _CREDENTIALS.sub("***", value)
    if isinstance(value, dict):
        return {inner: _hidden(inner, content) for inner, content in value.items()}
    return [_hidden(None, item) for item in value] if isinstance(value, list | tuple) else value
