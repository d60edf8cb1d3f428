"""What covet's processes are told through their environment: the keys of its ConfigMap and Secret, and its release."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum


class Fault(StrEnum):
    """What is wrong with a release. A release that is fine has none."""

    NONE = ""
    ERRORS = "errors"
    """Every request is answered 500."""
    CRASH = "crash"
    """The process ends at its start."""
    LEAK = "leak"
    """Each request leaves memory behind, until the kernel ends the process."""
    SLOW = "slow"
    """Each request takes far longer."""
    UNINDEXED = "unindexed"
    """Each order searches all reviews, for which there is no index."""
    NEVER_READY = "never-ready"
    """It runs, and never says that it is ready."""


@dataclass(frozen=True)
class Config:
    """Times are in seconds."""

    database: str
    """A connection string for libpq, without the password."""
    database_password: str
    redis_host: str
    redis_port: int
    redis_password: str
    listen_host: str
    listen_port: int
    admin_token: str
    """Whoever has it may use /admin. Empty: nobody."""
    audit_debug: bool
    """Whether every request is logged; else those that were refused."""
    fault: Fault
    slots: int
    """Requests that one process works on at once; the others wait, as in front of a server with so many workers."""
    work_seconds: float
    """How long the work on one request takes, beside its queries."""
    task_seconds: float
    """How long a worker takes for one task."""
    leak_bytes: int
    """What a release that leaks leaves behind, for each request."""


def config_from(environment: Mapping[str, str]) -> Config:
    """KeyError with the name of what is missing."""
    text = environment.get
    return Config(
        database=(
            f"host='{environment['DB_HOST']}' port='{text('DB_PORT', '5432')}' dbname='{text('DB_NAME', 'covet')}'"
            f" user='{text('DB_USER', 'covet')}' connect_timeout=2 application_name=covet"
        ),
        database_password=text("DB_PASSWORD", ""),
        redis_host=environment["REDIS_HOST"],
        redis_port=int(text("REDIS_PORT", "6379")),
        redis_password=text("REDIS_PASSWORD", ""),
        listen_host=text("LISTEN_HOST", "0.0.0.0"),  # noqa: S104  # a pod's own address
        listen_port=int(text("LISTEN_PORT", "8000")),
        admin_token=text("ADMIN_TOKEN", ""),
        audit_debug=text("AUDIT_LOG_LEVEL", "WARNING") == "DEBUG",
        fault=Fault(text("FAULT", "")),
        slots=int(text("SLOTS", "4")),
        work_seconds=float(text("WORK_SECONDS", "0.02")),
        task_seconds=float(text("TASK_SECONDS", "0.1")),
        leak_bytes=int(text("LEAK_BYTES", "1000000")),
    )
