"""The IAM policies that manifests/README.md gives are enough, by moto's own IAM; and nothing in them is too much."""

from __future__ import annotations

import json
import re
import urllib.request
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from aws.world import NAMESPACE, REGION, Cloud, Json
from builders import NOW
from paramedic.actions.await_database import AwaitDatabase, AwaitDatabaseParams
from paramedic.actions.base import Clients
from paramedic.actions.block_addresses import BlockAddresses, BlockAddressesParams
from paramedic.actions.database_failover import DatabaseFailover, DatabaseFailoverParams
from paramedic.api.diagnosis import ConnectionCheck
from paramedic.api.workload import bound
from paramedic.clients.evidence import EvidenceStore
from paramedic.clients.evidence_directory import DirectoryBackend
from paramedic.clients.kube import Kube
from paramedic.core.operation import new_operation
from paramedic.diagnosis.connections import read_connections
from paramedic.diagnosis.looking import Looks
from paramedic.errors import Refused
from paramedic.evidence.snapshots import Snapshots, capture_snapshots

README = Path(__file__).parents[2] / "manifests" / "README.md"
SECTION = README.read_text().partition("\n## AWS\n")[2].partition("\n## ")[0]
BLOCK, FAILOVER, SNAPSHOTS, DIAGNOSIS = map(json.loads, re.findall(r"```json\n(.*?)```", SECTION, re.DOTALL))
# moto asks for no right to tag where a request creates something with its tags; AWS does.
ON_CREATION = {"elasticloadbalancing:AddTags", "ec2:CreateTags"}


def actions_of(policy: Json) -> list[str]:
    listed = [s["Action"] if isinstance(s["Action"], list) else [s["Action"]] for s in policy["Statement"]]
    return sorted(action for some in listed for action in some)


def without(policy: Json, action: str) -> Json:
    """The policy without one of its actions, for all resources: moto's are of another account. moto calls CloudWatch's
    actions by the name of its endpoint.
    """
    left = [one for one in actions_of(policy) if one != action]
    left += [one.replace("cloudwatch:", "monitoring:") for one in left if one.startswith("cloudwatch:")]
    return {"Version": policy["Version"], "Statement": [{"Effect": "Allow", "Action": left, "Resource": "*"}]}


@pytest.fixture
def as_user(cloud: Cloud, moto: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[Json], None]]:
    """From now on requests are made as a user with just this policy, and IAM is asked."""
    iam = cloud.client("iam")

    def begin(policy: Json) -> None:
        iam.create_user(UserName="paramedic")
        iam.put_user_policy(UserName="paramedic", PolicyName="p", PolicyDocument=json.dumps(policy))
        key = iam.create_access_key(UserName="paramedic")["AccessKey"]
        monkeypatch.setenv("AWS_ACCESS_KEY_ID", key["AccessKeyId"])
        monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", key["SecretAccessKey"])
        _ask_iam_after(moto, 0)

    yield begin
    _ask_iam_after(moto, float("inf"))


def _ask_iam_after(moto: str, requests: float) -> None:
    body, kind = str(requests).encode(), {"Content-Type": "text/plain"}
    request = urllib.request.Request(f"{moto}/moto-api/reset-auth", body, kind, method="POST")
    urllib.request.urlopen(request, timeout=10).close()


async def block(clients: Clients, _: Any) -> None:
    action, target = BlockAddresses(), bound("Connection", NAMESPACE, "covet-alb")
    operation = new_operation(NOW)
    seen = await action.observe(target, clients)
    change = action.plan(seen, BlockAddressesParams.model_validate({"addresses": ["203.0.113.7"]}), operation)
    await action.apply(change, clients)
    seen = replace(await action.observe(target, clients), operation=operation)
    await action.apply(action.restore(seen, change.before, new_operation(NOW)), clients)


async def fail_over(clients: Clients, _: Any) -> None:
    action, target = DatabaseFailover(), bound("Connection", NAMESPACE, "covet-db")
    seen = await action.observe(target, clients)
    await action.apply(action.plan(seen, DatabaseFailoverParams(), new_operation(NOW)), clients)
    waiting = AwaitDatabase()
    seen = await waiting.observe(target, clients)
    change = waiting.plan(seen, AwaitDatabaseParams(writer="covet-3"), new_operation(NOW))
    await waiting.apply(replace(change, seconds=10.0), clients)


async def snapshot(clients: Clients, given: tuple[str, Path]) -> None:
    volume, root = given
    assert clients.connections is not None
    wanted = Snapshots("covet-account", (volume,), "")
    store = EvidenceStore(DirectoryBackend(root))
    async with store.collection(NAMESPACE, "breach", new_operation(NOW), seconds=20) as kept:
        await capture_snapshots(kept, clients.kube, clients.connections, wanted, NAMESPACE, "breach", "op-1")
    note = kept.items[1].note
    if note:
        raise AssertionError(note)


async def diagnose(clients: Clients, _: Any) -> None:
    assert clients.connections is not None
    checks, looks = [ConnectionCheck(name="covet-db"), ConnectionCheck(name="covet-cache")], Looks()
    await read_connections(clients.connections, clients.kube, NAMESPACE, checks, looks, 20)
    assert looks.failed == []


Work = Callable[[Clients, Any], Awaitable[None]]
CASES: list[Any] = [
    pytest.param(BLOCK, block, id="blockAddresses"),
    pytest.param(FAILOVER, fail_over, id="databaseFailover"),
    pytest.param(SNAPSHOTS, snapshot, id="snapshots"),
    pytest.param(DIAGNOSIS, diagnose, id="diagnose"),
]


@pytest.mark.parametrize(("policy", "work"), CASES)
async def test_the_policy_is_enough_and_each_of_its_actions_is_needed(
    cloud: Cloud, kube: Kube, moto: str, as_user: Callable[[Json], None], tmp_path: Path, policy: Json, work: Work
) -> None:
    cloud.create_cluster()
    cloud.create_replication_group()
    cloud.create_listener()
    volume = str(cloud.client("ec2").create_volume(AvailabilityZone=f"{REGION}a", Size=1)["VolumeId"])
    as_user(without(policy, ""))
    await work(cloud.clients(kube), (volume, tmp_path))
    needed = set(actions_of(policy)) - ON_CREATION
    asked = {iam_name(one.service, one.action) for one in cloud.faults.asked}
    assert asked == needed


def iam_name(service: str, action: str) -> str:
    return f"{'cloudwatch' if service == 'monitoring' else service}:{action}"


async def test_without_a_right_the_message_names_it(cloud: Cloud, moto: str, as_user: Callable[[Json], None]) -> None:
    """What AWS' IAM really answers, not what a test makes up."""
    cloud.create_cluster()
    as_user(without(FAILOVER, "rds:FailoverDBCluster"))
    with pytest.raises(Refused, match="lacks rds:FailoverDBCluster"):
        await fail_over(cloud.clients(), None)
    assert cloud.faults.count("FailoverDBCluster") == 1
