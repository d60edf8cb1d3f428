"""What the tests of databases and queues share: names, connections, sessions with a statement under way."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psycopg

from paramedic.actions.base import Clients
from paramedic.api.connection import ConnectionSettings
from paramedic.clients.connections import Connections
from testbed.access import Access
from testbed.operator_process import Operator

NAMESPACE = "covet"
PASSWORD = "s3cr3t-p4ssw0rd"  # of every role
ROLES = f"""
CREATE ROLE paramedic LOGIN PASSWORD '{PASSWORD}' IN ROLE pg_monitor, pg_signal_backend;
CREATE ROLE watcher LOGIN PASSWORD '{PASSWORD}' IN ROLE pg_monitor;
CREATE ROLE stranger LOGIN PASSWORD '{PASSWORD}';
CREATE ROLE app LOGIN PASSWORD '{PASSWORD}';
CREATE ROLE replicator LOGIN REPLICATION PASSWORD '{PASSWORD}';
CREATE DATABASE covet OWNER app;
CREATE DATABASE other OWNER app;
GRANT SET, ALTER SYSTEM ON PARAMETER log_min_duration_statement TO paramedic;
"""


def clients_of(*entries: dict[str, Any]) -> Clients:
    settings = [ConnectionSettings.model_validate(entry) for entry in entries]
    return Clients(None, connections=Connections(settings, None))  # type: ignore[arg-type]  # no Secret is looked for


def postgres_entry(port: int, folder: Path, password: str = PASSWORD, **more: Any) -> dict[str, Any]:
    """As in the settings."""
    file = folder / "db-password"
    file.write_text(password + "\n")
    server = {"host": "127.0.0.1", "port": port, "database": "covet", "username": "paramedic", "sslmode": "disable"}
    return {"name": "covet-db", "namespaces": [NAMESPACE], "postgres": server | {"passwordFile": str(file)} | more}


@contextmanager
def operator_with(
    installed: Access, folder: Path, connections: list[dict[str, Any]], env: dict[str, str] | None = None
) -> Iterator[Operator]:
    """A running operator that leads and knows these connections."""
    own = {"PARAMEDIC_CONNECTIONS": json.dumps(connections), "PARAMEDIC_RESYNC_INTERVAL": "5s"}
    with Operator(installed, folder, env=own | (env or {})) as running:
        running.wait_leading()
        yield running
        assert "unexpected error" not in running.log.read_text()


Run = Callable[..., Awaitable["Busy"]]


class Busy:
    """A session of the application's with a statement under way."""

    def __init__(self, connection: psycopg.AsyncConnection[Any], task: asyncio.Task[Any] | None) -> None:
        self.connection = connection
        self.pid = connection.info.backend_pid
        self.task = task

    async def outcome(self, timeout: float = 20) -> str:
        """How the statement ended: done, canceled or terminated."""
        assert self.task is not None
        try:
            await asyncio.wait_for(self.task, timeout)
        except psycopg.errors.QueryCanceled:
            return "canceled"
        except psycopg.OperationalError:
            return "terminated"
        return "done"

    def runs(self) -> bool:
        return self.task is not None and not self.task.done()
