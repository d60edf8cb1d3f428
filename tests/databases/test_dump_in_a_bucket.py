"""A dump goes to a bucket as it goes to a directory: streamed, whole, and restorable."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path

from databases.bed import NAMESPACE
from databases.dumps import DUMPER, ROWS, dumping, restored
from evidence.conftest import bucket, s3  # noqa: F401
from evidence.places import Bucket, opened
from paramedic.actions.base import Clients
from paramedic.clients.pg_dump import Selection
from paramedic.evidence.database import Dump, capture_dump
from testbed.postgres import PostgresServer


async def test_it_is_whole_in_a_bucket(
    customers: PostgresServer,
    clients: Callable[..., Clients],
    bucket: Bucket,  # noqa: F811
    tmp_path: Path,
) -> None:
    connections = clients(**DUMPER).connections
    assert connections is not None
    with opened(bucket) as store:
        async with store.collection(NAMESPACE, "breach", "op", seconds=60) as kept:
            await capture_dump(kept, connections, Dump("covet-db", Selection(), None), NAMESPACE)
    (item,) = [one for one in kept.items if one.name != "index.json"]
    assert item.uri is not None, item.note
    data = bucket.read(item.uri)
    assert (hashlib.sha256(data).hexdigest(), len(data)) == (item.sha256, item.size_bytes)
    (file := tmp_path / "read.dump").write_bytes(data)
    database = restored(customers, str(file))
    assert customers.psql("SELECT count(*) FROM people", database=database) == str(ROWS)
    assert dumping(customers.port) == []
