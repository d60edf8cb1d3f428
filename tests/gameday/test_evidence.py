"""A day's look at evidence: what is not in the bucket as the incident says, or cannot be used, is told."""

from __future__ import annotations

import hashlib
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest

from gameday.cloud import BUCKET, Asked, Cloud
from gameday.evidence import Found, kept_after, take
from gameday.stores import DATABASE, ROLE, Stores, stores
from testbed.processes import ProcessError

BODY = b"WARNING security: 203.0.113.7 GET /admin was refused"


def item(**more: Any) -> dict[str, Any]:
    """As on an incident."""
    checksum = hashlib.sha256(BODY).hexdigest()
    return {"name": "logs/a", "uri": f"s3://{BUCKET}/case/a", "sha256": checksum, "sizeBytes": len(BODY)} | more


@pytest.fixture
def kept(cloud: Cloud) -> Cloud:
    cloud.client("s3").put_object(Bucket=BUCKET, Key="case/a", Body=BODY)
    return cloud


def test_what_is_there_and_whole_is_found(kept: Cloud) -> None:
    found = Found()
    assert list(take(kept, item(), found)) == []
    assert found.of("logs/") == [BODY]
    assert found.of("events") == []


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"sha256": hashlib.sha256(b"else").hexdigest()}, "not what the incident says"),
        ({"sha256": None}, "not what the incident says"),
        ({"sizeBytes": 1}, "not what the incident says"),
        ({"note": "cut at 1 KiB"}, "cut at 1 KiB"),
        ({"uri": f"s3://{BUCKET}/case/none"}, "is not there"),
        ({"uri": "ec2://eu-west-1/snap-0123456789abcdef0"}, "is not there"),
    ],
)
def test_what_is_not_is_told(kept: Cloud, change: dict[str, Any], words: str) -> None:
    assert words in " ".join(take(kept, item(**change), Found()))


def test_a_snapshot_is_told_by_its_volume(cloud: Cloud) -> None:
    made = cloud.client("ec2").create_snapshot(VolumeId=cloud.volume)["SnapshotId"]
    found = Found()
    assert list(take(cloud, {"name": "snapshots/x", "uri": f"ec2://eu-west-1/{made}"}, found)) == []
    assert found.snapshots == [cloud.volume]


def asked(action: str, path: str = "/", service: str = "s3", by_paramedic: bool = True) -> Asked:
    return Asked(1000.0, by_paramedic, service, action, {}, path, 200)


LOGS = f"/{BUCKET}/paramedic/covet-breach/case/operation/logs/covet-app-1/app.log"


@pytest.mark.parametrize(
    ("request_", "late"),
    [
        (asked("PutObject", LOGS), True),
        (asked("CreateMultipartUpload", LOGS.replace("logs", "database")), True),
        (asked("CreateSnapshot", service="ec2"), True),
        (asked("PutObject", LOGS.replace("logs", "findings")), False),
        (asked("PutObject", LOGS.replace("covet-breach", "covet-slow-queries")), False),
        (asked("GetObject", LOGS), False),
        (asked("PutObject", LOGS, by_paramedic=False), False),
    ],
)
def test_what_is_captured_after_a_change_is_late(request_: Asked, late: bool) -> None:
    assert bool(kept_after(999.0, [request_], "covet-breach")) == late
    assert kept_after(1001.0, [request_], "covet-breach") == []


@pytest.fixture(scope="module")
def databases() -> Iterator[Stores]:
    if sys.platform != "linux":
        pytest.skip("a second address of this machine's is needed, as Linux has it")
    with stores("127.0.0.2", "127.0.0.0/8") as made:
        yield made


def test_a_dump_is_restored_and_leaves_nothing(databases: Stores) -> None:
    postgres = databases.postgres
    command = [postgres.program("pg_dump"), "-Fc", postgres.url(database=DATABASE)]
    dump = subprocess.run(list(map(str, command)), capture_output=True, check=True).stdout
    assert databases.restored(dump, ("items", "orders")) == {"items": 100, "orders": 0}
    with pytest.raises(ProcessError, match="pg_restore"):
        databases.restored(dump[: len(dump) // 2], ("items",))
    assert postgres.psql("SELECT count(*) FROM pg_database WHERE datname = 'restored'") == "0"


def test_the_log_tells_when_slow_statements_were_logged_and_which(databases: Stores) -> None:
    postgres, password = databases.postgres, databases.password

    def as_covet(sql: str) -> None:
        postgres.psql(sql, database=DATABASE, user=ROLE, password=password)

    as_covet("SELECT pg_sleep(0.2) /* before */")
    postgres.psql("ALTER SYSTEM SET log_min_duration_statement = 100; SELECT pg_reload_conf(); SELECT pg_sleep(0.2)")
    as_covet("SELECT pg_sleep(0.2) /* while */")
    databases.clear()
    postgres.psql("SELECT pg_sleep(0.2)")
    as_covet("SELECT pg_sleep(0.2) /* after */")
    began, ended = databases.log_changes()
    (logged,) = databases.slow_statements("pg_sleep")
    assert began < logged < ended
    assert databases.slow_statements("while") == [logged]
