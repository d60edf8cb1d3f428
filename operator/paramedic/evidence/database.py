"""A dump of a PostgreSQL database (runbook 4, "Database dump for analysis")."""

import asyncio
from dataclasses import dataclass

from paramedic.clients.connections import Connections
from paramedic.clients.evidence import Collection
from paramedic.clients.pg_dump import MEDIA_TYPE, Selection, dump, require_pg_dump
from paramedic.errors import ParamedicError


@dataclass(frozen=True, slots=True)
class Dump:
    """What to dump: what is selected of a connection's database, ``most_bytes`` of it where that is less than the
    settings allow.
    """

    connection: str
    selection: Selection
    most_bytes: int | None


async def capture_dump(kept: Collection, connections: Connections, wanted: Dump, namespace: str) -> None:
    """Adds the dump, or a note why there is none. One that was cut short can be restored up to there."""
    name = f"database/{wanted.connection}.dump"
    try:
        async with asyncio.timeout(kept.seconds_left):
            database = await connections.postgres(namespace, wanted.connection)
            program = await require_pg_dump(database)
    except TimeoutError:
        kept.miss(name, "the time for this step was over before the dump was begun")
    except ParamedicError as error:
        kept.miss(name, str(error))
    else:
        most = min(kept.limits.dump_bytes, wanted.most_bytes or kept.limits.dump_bytes)
        await kept.keep(name, MEDIA_TYPE, dump(program, database, wanted.selection), long=True, most_bytes=most)
