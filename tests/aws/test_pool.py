"""Ways to AWS that are kept: few enough for the memory, and nobody is harmed when one is given up."""

from __future__ import annotations

import asyncio
import base64
import threading
import time
from pathlib import Path
from typing import Any, cast

import pytest

from aws.world import NAMESPACE, REGION, Cloud
from paramedic.api.connection import AwsAccess, ConnectionSettings, Keys
from paramedic.clients import aws_pool
from paramedic.clients.aws import HURRIED, Aws
from paramedic.clients.aws_pool import AwsPool
from paramedic.clients.connections import Connections
from paramedic.clients.kube import Kube
from paramedic.errors import Unreachable
from testbed.api import eventually

ACCESS = AwsAccess.model_validate({"region": REGION, "endpointURL": "http://127.0.0.1:1"})


def keys(number: int) -> Keys:
    return Keys.model_validate({"access_key_id": f"AKIA{number:012d}", "secret_access_key": "x"})


class Secrets:
    """An API server whose every Secret is a connection of type aws, with keys of its own."""

    async def get(self, path: str) -> dict[str, Any]:
        number = int(path.rpartition("-")[2])
        values = {
            "type": "aws",
            "region": REGION,
            "accessKeyId": f"AKIA{number:012d}",
            "secretAccessKey": "x",
        }
        data = {key: base64.b64encode(value.encode()).decode() for key, value in values.items()}
        return {"metadata": {"labels": {"paramedic.dev/connection": "true"}}, "data": data}


async def test_many_secrets_of_one_namespace_crowd_out_none_of_another() -> None:
    connections = Connections([], cast("Kube", Secrets()))
    mine = await connections.aws("victim", "key-0", "aws")
    for number in range(1, 100):
        await connections.aws("greedy", f"key-{number}", "aws")
    assert await connections.aws("victim", "key-0", "aws") is mine
    assert len(connections._aws) == 1 + aws_pool._MOST_OF_ONE
    last = await connections.aws("greedy", "key-99", "aws")
    assert await connections.aws("greedy", "key-99", "aws") is last


def test_in_all_who_has_most_gives_way() -> None:
    pool = AwsPool()
    few = [pool.get(f"one-{n}", "a", ACCESS, keys(n), None) for n in range(aws_pool._MOST_IN_ALL - 3)]
    for name in "abc":
        pool.get("several", name, ACCESS, keys(900), None)
    pool.get("new", "a", ACCESS, keys(901), None)
    assert len(pool) == aws_pool._MOST_IN_ALL
    assert [pool.get(f"one-{n}", "a", ACCESS, keys(n), None) for n in range(len(few))] == few


def test_new_keys_take_the_place_of_the_earlier_and_the_idle_are_forgotten() -> None:
    now = 0.0
    pool = AwsPool(lambda: now)
    first = pool.get("team", "a", ACCESS, keys(1), None)
    assert pool.get("team", "a", ACCESS, keys(1), None) is first
    assert pool.get("team", "a", ACCESS, keys(2), None) is not first
    assert pool.get("team", "a", ACCESS, keys(2), HURRIED) is not pool.get("team", "a", ACCESS, keys(2), None)
    assert len(pool) == 2
    now += aws_pool._IDLE_SECONDS
    pool.get("others", "b", ACCESS, keys(3), None)
    assert len(pool) == 1


async def test_one_that_is_kept_no_more_still_serves_who_has_it(cloud: Cloud) -> None:
    """Also calls that wait for their turn; its threads end with its last user."""
    access = AwsAccess.model_validate({"region": REGION, "endpointURL": cloud.faults.url})
    pool = AwsPool()
    mine: Aws | None = pool.get("victim", "a", access, keys(0), None)
    assert mine is not None
    busy = [asyncio.get_running_loop().run_in_executor(mine._threads, time.sleep, 0.5) for _ in range(4)]
    queued = asyncio.create_task(mine.read("ec2", "describe_vpcs"))
    await asyncio.sleep(0.1)
    for number in range(1, 2 * aws_pool._MOST_OF_ONE):
        pool.get("victim", f"other-{number}", access, keys(number), None)
    assert "Vpcs" in await queued
    assert "Vpcs" in await mine.read("ec2", "describe_vpcs")
    await asyncio.gather(*busy)
    threads = set(mine._threads._threads)
    assert threads
    assert pool.get("victim", "a", access, keys(0), None) is not mine
    del queued
    mine = None
    await eventually(lambda: not threads & set(threading.enumerate()), timeout=5, what="its threads have ended")


async def test_what_ends_with_the_process_is_no_mistake_and_no_cancellation() -> None:
    aws = Aws("account", ACCESS, keys(1))
    busy = [asyncio.get_running_loop().run_in_executor(aws._threads, time.sleep, 0.5) for _ in range(4)]
    queued = asyncio.create_task(aws.write("ec2", "create_snapshot", VolumeId="vol-1"))
    await asyncio.sleep(0.1)
    aws.close()
    with pytest.raises(Unreachable, match="given up while it waited for its turn") as given_up:
        await queued
    assert not given_up.value.uncertain
    with pytest.raises(Unreachable, match="not asked: cannot schedule new futures after shutdown") as ended:
        await aws.read("ec2", "describe_vpcs")
    assert not ended.value.uncertain
    await asyncio.gather(*busy)


async def test_who_is_cancelled_itself_stays_cancelled() -> None:
    aws = Aws("account", ACCESS, keys(1))
    busy = [asyncio.get_running_loop().run_in_executor(aws._threads, time.sleep, 0.5) for _ in range(4)]
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.1):
            await aws.read("ec2", "describe_vpcs")
    await asyncio.gather(*busy)
    aws.close()


def test_all_have_what_botocore_knows_of_aws_in_common() -> None:
    """Else twenty connections would take 600 MB."""
    made = [Aws(f"a-{n}", ACCESS, keys(n)) for n in range(20)]
    made[0]._client("ec2", 5)
    before = resident_megabytes()
    for one in made[1:]:
        one._client("ec2", 5)
    assert (resident_megabytes() - before) / (len(made) - 1) < 5


def resident_megabytes() -> float:
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096 / 1e6


async def test_a_turn_that_somebody_has_is_not_forgotten() -> None:
    """However many other servers are asked meanwhile: two sessions at once at the most."""
    settings = [
        {
            "name": f"db-{n}",
            "namespaces": [NAMESPACE],
            "redis": {"host": f"redis-{n}.example.com", "tls": False},
        }
        for n in range(200)
    ]
    connections = Connections([ConnectionSettings.model_validate(one) for one in settings], cast("Kube", None))
    held = await connections.redis(NAMESPACE, "db-0")
    for number in range(1, 200):
        await connections.redis(NAMESPACE, f"db-{number}")
    assert (await connections.redis(NAMESPACE, "db-0"))._way.turn is held._way.turn
    assert len(connections._turns) <= 2
