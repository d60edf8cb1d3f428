"""The runbook's sections at AWS from end to end: Paramedic as a process, with its ServiceAccount's rights, before moto.

It is here and not in tests/e2e because its operator needs settings of its own, and two would wait for the one Lease.
"""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import yaml

from aws.answers import FAILING_OVER, compose, writer_still
from aws.faults import Fault, error, rewritten
from aws.world import REGION, Cloud, Json
from conftest import forget_incidents
from e2e.world import World, step, story
from installed import ROOT
from paramedic.api.base import parse_time
from testbed.access import Access
from testbed.api import Api, ApiError, eventually
from testbed.operator_process import Operator

CONFIG_MAPS = "v1/configmaps"
CONNECTION = {"kind": "Connection", "name": "covet-db"}


@pytest.fixture
async def world(installed: Access, admin: Api, namespace: str, cloud: Cloud, tmp_path: Path) -> AsyncIterator[World]:
    """An operator whose settings name a database and a listener for the test's namespace."""
    cloud.create_cluster()
    cloud.create_listener()
    access = {"region": REGION, "endpointURL": cloud.faults.url}
    nowhere = {"host": "127.0.0.1", "port": 1, "database": "covet", "username": "paramedic", "sslmode": "disable"}
    (tmp_path / "evidence").mkdir()
    connections = [
        {"name": "covet-sql", "namespaces": [namespace], "postgres": nowhere},
        {"name": "covet-account", "namespaces": [namespace], "aws": access},
        {"name": "covet-db", "namespaces": [namespace], "aurora": access | {"cluster": "covet-aurora"}},
        {"name": "covet-alb", "namespaces": [namespace], "loadBalancer": access | {"listenerARN": cloud.listener}},
        {"name": "shared-db", "namespaces": [f"{namespace}-too"], "aurora": access | {"cluster": "covet-aurora"}},
    ]
    env = {
        "PARAMEDIC_CONNECTIONS": json.dumps(connections),
        "PARAMEDIC_NEVER_BLOCK": '["198.51.100.0/24"]',
        "PARAMEDIC_RESYNC_INTERVAL": "5s",
        "PARAMEDIC_DIAGNOSE": "false",
        "PARAMEDIC_EVIDENCE__DIRECTORY": str(tmp_path / "evidence"),
        "AWS_ACCESS_KEY_ID": "AKIAIOSFODNN7EXAMPLE",
        "AWS_SECRET_ACCESS_KEY": "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY",
    }
    with Operator(installed, tmp_path, identity="paramedic-0", env=env) as operator:
        operator.wait_leading()
        yield World(admin, namespace, operator)
        told = operator.log.read_text()
        assert "wJalrXUtnFEMI" not in told
        assert "AKIAIOSFODNN7EXAMPLE" not in told


@pytest.fixture
async def neighbour(world: World) -> AsyncIterator[World]:
    """Another namespace, of which a connection of another name leads to the same database."""
    name = f"{world.namespace}-too"
    await world.admin.create({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}})
    other = World(world.admin, name, world.operator)
    target = {"kind": "Connection", "name": "shared-db"}
    step = {"name": "failover", "target": target, "databaseFailover": {}, "timeout": "1m"}
    await other.policy(step, strategy="Sequence", target=target, guards={"maxConcurrent": 5})
    yield other
    await forget_incidents(world.admin, name)
    await world.admin.delete("v1/namespaces", name)


async def service(world: World) -> None:
    """A workload that reads DB_HOST."""
    config = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "covet-config"}}
    await world.admin.create(config | {"data": {"DB_HOST": "old-writer", "LOG": "info"}}, world.namespace)
    source = [{"configMapRef": {"name": "covet-config"}}]
    pod = {
        "metadata": {"labels": {"app": "app"}},
        "spec": {"containers": [{"name": "app", "image": "app:1", "envFrom": source}]},
    }
    await world.workload("app", template=pod)


def sample(file: str, name: str) -> Json:
    """One of the samples for covet."""
    found = yaml.safe_load_all((ROOT / "manifests" / "samples" / "covet" / file).read_text())
    return next(one for one in found if one["metadata"]["name"] == name)


async def data(world: World) -> Json:
    found: Json = (await world.admin.get(CONFIG_MAPS, "covet-config", world.namespace))["data"]
    return found


def failover(**params: object) -> Json:
    config = {"configMap": {"name": "covet-config"}}
    return {"name": "failover", "target": CONNECTION, "databaseFailover": config | params, "timeout": "1m"}


async def test_a_database_fails_over_and_the_service_follows(world: World, cloud: Cloud) -> None:
    await service(world)
    before = await world.stamp()
    await world.policy(failover(), strategy="Sequence", target=CONNECTION)
    await world.incident(type="DatabaseDegraded")
    found = await world.reaches("Resolved", "Escalated", timeout=60)
    assert found["status"]["phase"] == "Resolved", story(found)
    assert cloud.writer() == "covet-3", "the reader that is least behind"
    assert cloud.faults.count("FailoverDBCluster") == 1
    endpoint = cloud.endpoint_of("covet-3")
    assert await data(world) == {"DB_HOST": endpoint, "LOG": "info"}
    assert await world.stamp() not in ("", before), "what reads DB_HOST was restarted"
    asked, awaited, config = found["status"]["steps"]
    assert (asked["before"], asked["after"]) == ({"writer": "covet-1"}, {"writer": "covet-3"})
    assert "latest snapshot: rds:covet-aurora" in asked["message"]
    assert awaited["result"]["endpoint"] == endpoint
    assert config["params"]["data"] == {"DB_HOST": endpoint}
    assert cloud.cluster_tags()["paramedic.dev/operation"] == asked["operation"]


async def test_while_it_fails_over_the_step_says_how_it_gets_on(world: World, cloud: Cloud) -> None:
    await service(world)
    seen_as_moving = compose(FAILING_OVER, writer_still("covet-1"))

    def begin() -> None:
        cloud.faults.on("DescribeDBClusters", seen_as_moving, times=8)

    cloud.faults.on("FailoverDBCluster", Fault(after=begin))
    await world.policy(failover(), strategy="Sequence", target=CONNECTION)
    await world.incident(type="DatabaseDegraded")

    async def told() -> bool:
        steps = (await world.the_incident()).get("status", {}).get("steps") or [{}, {}]
        return "failing-over, the writer is covet-1, not yet covet-3" in steps[1].get("message", "")

    await eventually(told, timeout=30, what="the step says how it gets on")
    found = await world.reaches("Resolved", "Escalated", timeout=60)
    assert found["status"]["phase"] == "Resolved", story(found)
    assert found["status"]["steps"][1]["message"] == f"covet-db: covet-3 writes at {cloud.endpoint_of('covet-3')}"


@pytest.mark.parametrize("moved", [True, False], ids=["AWS has heard it", "AWS is about to hear it"])
async def test_killed_while_it_asks_it_fails_over_once(world: World, cloud: Cloud, moved: bool) -> None:
    """kill -9 at the request itself, before its answer; and at the tag before it."""
    await service(world)
    dead = threading.Event()

    def kill() -> None:
        world.operator.kill()
        dead.set()

    if moved:
        cloud.faults.on("FailoverDBCluster", Fault(answer="", after=kill))
    else:
        cloud.faults.on("AddTagsToResource", Fault(forward=False, answer="", hook=kill))
    await world.policy(failover(targetInstance="covet-2"), strategy="Sequence", target=CONNECTION)
    await world.incident(type="DatabaseDegraded")
    await eventually(lambda: answered(dead), timeout=30, what="the operator is dead")
    world.operator.start()
    world.operator.wait_ready()
    found = await world.reaches("Resolved", "Escalated", timeout=60)
    assert found["status"]["phase"] == "Resolved", story(found)
    assert step(found)["attempts"] == 2
    assert cloud.faults.count("FailoverDBCluster", reached=True) == 1
    assert cloud.writer() == "covet-2"
    assert (await data(world))["DB_HOST"] == cloud.endpoint_of("covet-2")


async def test_a_failover_that_aws_forbids_fails_at_once_and_says_so(world: World, cloud: Cloud) -> None:
    await service(world)
    denied = error("AccessDenied", "User: arn:aws:iam::1:role/p is not authorized", 403)
    cloud.faults.on("FailoverDBCluster", denied, times=99)
    await world.policy(failover(), strategy="Sequence", target=CONNECTION)
    await world.incident(type="DatabaseDegraded")
    found = await world.reaches("Escalated", timeout=30)
    assert step(found)["reason"] == "Forbidden", story(found)
    assert "lacks rds:FailoverDBCluster (manifests/README.md)" in step(found)["message"]
    assert cloud.writer() == "covet-1"
    assert (await data(world))["DB_HOST"] == "old-writer"


async def test_a_mistyped_connection_is_told_by_the_policy_and_keeps_from_failing_over(
    world: World, cloud: Cloud
) -> None:
    await service(world)
    wanted = failover(verifyConnection="covet-sqll")
    await world.policy(wanted, strategy="Sequence", target=CONNECTION, ready=False)
    await world.incident(type="DatabaseDegraded")
    found = await world.reaches("Escalated", timeout=30)
    assert step(found)["state"] == "Failed", story(found)
    assert "connection covet-sqll is not in Paramedic's settings" in step(found)["message"]
    assert cloud.faults.count("FailoverDBCluster") == 0


async def test_the_service_follows_the_writer_though_nobody_can_verify_it(world: World, cloud: Cloud) -> None:
    """The database does not answer: before the failover that is the reason for it, and afterwards for a person."""
    await service(world)
    step_of_policy = failover(verifyConnection="covet-sql") | {"timeout": "15s"}
    await world.policy(step_of_policy, strategy="Sequence", target=CONNECTION)
    await world.incident(type="DatabaseDegraded")
    found = await world.reaches("Escalated", timeout=60)
    assert [s["state"] for s in found["status"]["steps"]] == ["Succeeded", "Succeeded", "Succeeded", "Failed"], story(
        found
    )
    assert "covet-sql takes no writes: " in step(found, 3)["message"]
    assert (await data(world))["DB_HOST"] == cloud.endpoint_of("covet-3")


async def answered(event: threading.Event) -> bool:
    return event.is_set()


async def test_two_incidents_that_want_the_same_failover_make_one(world: World, cloud: Cloud) -> None:
    await service(world)
    guards = {"maxConcurrent": 5, "rateLimit": {"actions": 10, "period": "1h"}}
    await world.policy(failover(), strategy="Sequence", target=CONNECTION, guards=guards)
    await world.incident("first", type="DatabaseDegraded")
    await world.incident("second", type="DatabaseDegraded")
    found = await world.reaches_all(2, "Resolved", "Escalated", timeout=60)
    phases = sorted(one["status"]["phase"] for one in found)
    assert phases == ["Escalated", "Resolved"], "\n".join(map(story, found))
    assert [step(one)["reason"] for one in found].count("FailedOverSince") == 1
    assert cloud.faults.count("FailoverDBCluster") == 1
    assert cloud.writer() == "covet-3"


async def test_an_outage_that_two_namespaces_see_makes_one_failover(
    world: World, neighbour: World, cloud: Cloud
) -> None:
    """The neighbour's incident of before is for a person then; one of after waits for the cooldown."""
    await service(world)
    await world.policy(failover(), strategy="Sequence", target=CONNECTION)
    await neighbour.incident("before", type="DatabaseDegraded", paused=True)
    await world.incident(type="DatabaseDegraded")
    await world.reaches("Resolved", timeout=60)
    await neighbour.edit("before", {"paused": False})
    found = await neighbour.reaches("Escalated", name="before", timeout=30)
    assert step(found)["reason"] == "FailedOverSince"
    assert f"the incident {world.namespace}/incident " in step(found)["message"]
    assert "had it fail over to covet-3 at" in step(found)["message"]

    async def clearly_over() -> bool:
        """An Incident's creation is stored without the fraction of the second."""
        asked_at = parse_time(cloud.cluster_tags()["paramedic.dev/failover-at"])
        return datetime.now(UTC) >= asked_at + timedelta(seconds=1)

    await eventually(clearly_over, what="the next second")
    await neighbour.incident("after", type="DatabaseDegraded")
    found = await neighbour.reaches("Blocked", name="after", timeout=30)
    assert step(found)["reason"] == "Cooldown", story(found)
    assert cloud.faults.count("FailoverDBCluster") == 1
    assert cloud.writer() == "covet-3"


async def test_two_namespaces_that_act_at_the_same_moment_make_one_failover(
    world: World, neighbour: World, cloud: Cloud
) -> None:
    """Whoever comes second sees the first one's stamp, waits for its end, and goes on from there or asks a person."""
    await service(world)
    moving = compose(FAILING_OVER, writer_still("covet-1"))
    cloud.faults.on("FailoverDBCluster", Fault(after=lambda: cloud.faults.on("DescribeDBClusters", moving, times=6)))
    await world.policy(failover(), strategy="Sequence", target=CONNECTION)
    await asyncio.gather(*(one.incident(type="DatabaseDegraded") for one in (world, neighbour)))
    found = [await one.reaches("Resolved", "Escalated", timeout=60) for one in (world, neighbour)]
    assert "Resolved" in [one["status"]["phase"] for one in found], "\n".join(map(story, found))
    assert "Unknown" not in [s["state"] for one in found for s in one["status"]["steps"]]
    assert cloud.faults.count("FailoverDBCluster") == 1
    assert cloud.writer() == "covet-3"


async def test_a_replica_that_is_behind_is_for_a_person(world: World, cloud: Cloud) -> None:
    await service(world)
    await world.policy(failover(maxReplicaLag="10ms"), strategy="Sequence", target=CONNECTION)
    await world.incident(type="DatabaseDegraded")
    found = await world.reaches("Escalated", timeout=30)
    assert step(found)["reason"] == "NoReplicaReady"
    assert cloud.writer() == "covet-1"
    assert (await data(world))["DB_HOST"] == "old-writer"
    assert [s["state"] for s in found["status"]["steps"]] == ["Failed", "Pending", "Pending"]


async def test_attackers_of_an_alert_are_kept_out_for_a_while(world: World, cloud: Cloud) -> None:
    theirs = cloud.create_rule(1)
    block = {"name": "block", "blockAddresses": {"addressesFromAnnotation": "sources"}, "ttl": "5s"}
    await world.policy(block, target={"kind": "Connection", "name": "covet-alb"}, verify={"rollout": True})
    alert = world.alert_body()
    alert["annotations"]["sources"] = " ".join(f"203.0.113.{n}" for n in (1, 3, 5, 7, 9, 11)) + " 198.51.100.7"
    assert await world.send(alert) == 200
    await eventually(lambda: so_many(cloud, 3), timeout=30, what="two rules beside theirs")
    ours = [rule for rule in cloud.rules() if rule["RuleArn"] != theirs]
    assert [len(rule["Conditions"][0]["SourceIpConfig"]["Values"]) for rule in ours] == [5, 1]
    name = (await world.the_incident())["metadata"]["name"]
    assert {rule["Tags"]["paramedic.dev/incident"] for rule in ours} == {f"{world.namespace}/{name}"}
    await eventually(lambda: so_many(cloud, 1), timeout=30, what="they are taken away after the ttl")
    assert [rule["RuleArn"] for rule in cloud.rules()] == [theirs]
    found = await world.says("PutBack")
    assert step(found)["after"]["leftOut"] == ["198.51.100.7/32 is in the settings' neverBlock"]


async def test_a_person_approves_the_block_that_was_shown(world: World, cloud: Cloud) -> None:
    block = {"name": "block", "blockAddresses": {"addresses": ["203.0.113.7"]}, "ttl": "1h"}
    alb = {"kind": "Connection", "name": "covet-alb"}
    await world.policy(block, target=alb, mode="Approve", verify={"rollout": True})
    await world.incident(type="DDoS")
    found = await world.stays("AwaitingApproval", 1)
    assert step(found)["after"] == {"rules": {"0": "203.0.113.7/32"}}
    assert cloud.rules() == []
    await world.edit("incident", {"approvals": [{"step": "block", "approvedBy": "admin"}]})
    await eventually(lambda: so_many(cloud, 1), timeout=20, what="the rule")
    await world.admin.delete("paramedic.dev/v1alpha1/incidents", "incident", world.namespace)
    await eventually(lambda: so_many(cloud, 0), timeout=20, what="the rule goes with its incident")


async def test_addresses_of_an_incident_are_kept_out_as_the_sample_says(world: World, cloud: Cloud) -> None:
    """The sample policy and the sample Incident for it, with what is protected and what is too large beside them."""
    await world.policy(**sample("ddos-addresses.yaml", "ddos-addresses")["spec"], name="ddos-addresses")
    flood = sample("incidents.yaml", "flood")["spec"]
    theirs = cloud.create_rule(1)
    addresses = [*flood["sourceAddresses"], "192.0.2.7", "198.51.100.7"]
    await world.incident(**flood | {"sourceAddresses": addresses})
    found = await world.stays("AwaitingApproval", 1)
    shown = {"0": "2001:db8::/48 203.0.113.64/26 203.0.113.7/32"}
    left_out = ["192.0.2.7/32 is in neverBlock", "198.51.100.7/32 is in the settings' neverBlock"]
    assert step(found)["after"] == {"rules": shown, "leftOut": left_out}
    for other in (["203.0.113.99"], [*addresses, "203.0.113.99"], None):
        with pytest.raises(ApiError, match=r"spec\.sourceAddresses cannot be changed after creation"):
            await world.edit("incident", {"sourceAddresses": other})
    assert [rule["RuleArn"] for rule in cloud.rules()] == [theirs]

    approval = {"step": "block-addresses", "approvedBy": "admin", "operation": step(found)["operation"]}
    await world.edit("incident", {"approvals": [approval]})
    await eventually(lambda: so_many(cloud, 2), timeout=20, what="the rule beside theirs")
    ours = next(rule for rule in cloud.rules() if rule["RuleArn"] != theirs)
    assert sorted(ours["Conditions"][0]["SourceIpConfig"]["Values"]) == shown["0"].split()
    await world.admin.delete("paramedic.dev/v1alpha1/incidents", "incident", world.namespace)
    await eventually(lambda: so_many(cloud, 1), timeout=20, what="the rule goes with its incident")
    assert [rule["RuleArn"] for rule in cloud.rules()] == [theirs]


async def test_an_incident_cannot_have_more_blocked_than_the_policy_lets_it(world: World, cloud: Cloud) -> None:
    block = {"name": "block", "blockAddresses": {"addressesFromIncident": True}, "ttl": "1h"}
    await world.policy(block, target={"kind": "Connection", "name": "covet-alb"})
    cases = {
        "too-large": ["203.0.113.7", "203.0.0.0/15"],
        "private": ["203.0.113.7", "10.1.2.3"],
        "metadata": ["169.254.169.254"],
        "protected": ["198.51.100.7"],
    }
    for name, addresses in cases.items():
        await world.incident(name, type="DDoS", sourceAddresses=addresses)
        found = await world.reaches("Escalated", name=name, timeout=30)
        assert step(found)["reason"] == "AddressProtected", story(found)
    await world.incident("nobody", type="DDoS")
    assert step(await world.reaches("Escalated", name="nobody", timeout=30))["reason"] == "InvalidParameters"
    own = {"policyRef": {"name": "policy"}, "target": {"kind": "Deployment", "name": "app"}}
    await world.incident("of-an-own-target", type="DDoS", sourceAddresses=["203.0.113.7"], **own)
    found = await world.reaches("Escalated", name="of-an-own-target", timeout=30)
    assert step(found)["reason"] == "UnsupportedKind", story(found)
    assert cloud.rules() == []


async def test_a_person_approves_the_failover_that_was_shown(world: World, cloud: Cloud) -> None:
    """It stays with the instance that was shown, though another is nearer by now."""
    await service(world)
    await world.policy(failover(), strategy="Sequence", target=CONNECTION, mode="Approve")
    await world.incident(type="DatabaseDegraded")
    found = await world.stays("AwaitingApproval", 1)
    assert step(found)["after"] == {"writer": "covet-3"}
    cloud.put_lag("covet-3", 700.0)
    cloud.put_lag("covet-2", 1.0)
    assert cloud.faults.count("FailoverDBCluster") == 0
    await world.edit("incident", {"approvals": [{"step": "failover", "approvedBy": "admin"}]})
    found = await world.reaches("Resolved", "Escalated", timeout=60)
    assert found["status"]["phase"] == "Resolved", story(found)
    assert cloud.writer() == "covet-3"
    assert (await data(world))["DB_HOST"] == cloud.endpoint_of("covet-3")


async def so_many(cloud: Cloud, number: int) -> bool:
    return len(cloud.rules()) == number


async def test_an_alert_cannot_have_the_whole_world_blocked(world: World, cloud: Cloud) -> None:
    block = {"name": "block", "blockAddresses": {"addressesFromLabel": "sources"}, "ttl": "1h"}
    await world.policy(block, target={"kind": "Connection", "name": "covet-alb"})
    await world.alert(sources="203.0.113.7,0.0.0.0/0")
    found = await world.reaches("Escalated", timeout=30)
    assert step(found)["reason"] == "AddressProtected"
    assert cloud.rules() == []


async def test_a_right_that_lacks_is_named(world: World, cloud: Cloud) -> None:
    cloud.faults.on("CreateRule", error("AccessDenied", "User: arn:aws:iam::1:role/p is not authorized", 403), times=99)
    block = {"name": "block", "blockAddresses": {"addresses": ["203.0.113.7"]}, "ttl": "1h"}
    await world.policy(block, target={"kind": "Connection", "name": "covet-alb"})
    await world.incident(type="DDoS")
    found = await world.reaches("Escalated", timeout=60)
    assert step(found)["reason"] == "Forbidden"
    assert "lacks elasticloadbalancing:CreateRule (manifests/README.md)" in step(found)["message"]


async def test_a_rule_whose_answer_was_lost_with_the_operator_is_not_made_twice(world: World, cloud: Cloud) -> None:
    dead = threading.Event()

    def kill() -> None:
        world.operator.kill()
        dead.set()

    cloud.faults.on("CreateRule", Fault(answer="", after=kill), nth=2)
    addresses = [f"203.0.113.{n}" for n in range(0, 24, 2)]
    block = {"name": "block", "blockAddresses": {"addresses": addresses}, "ttl": "1h"}
    await world.policy(block, target={"kind": "Connection", "name": "covet-alb"}, verify={"rollout": True})
    await world.incident(type="DDoS")
    await eventually(lambda: answered(dead), timeout=30, what="the operator is dead")
    assert len(cloud.rules()) == 2
    world.operator.start()
    world.operator.wait_ready()
    await eventually(lambda: so_many(cloud, 3), timeout=60, what="the third rule")
    assert sorted(rule["Tags"]["paramedic.dev/chunk"] for rule in cloud.rules()) == ["0", "1", "2"]
    assert cloud.faults.count("CreateRule", reached=True) == 3


at_the_request = pytest.mark.parametrize("reached", [True, False], ids=["AWS got it", "AWS did not get it"])


def killed_at(world: World, cloud: Cloud, action: str, reached: bool) -> threading.Event:
    """Set when the operator was killed at its request for that action."""
    dead = threading.Event()

    def kill() -> None:
        world.operator.kill()
        dead.set()

    fault = Fault(answer="", after=kill) if reached else Fault(forward=False, answer="", hook=kill)
    cloud.faults.on(action, fault)
    return dead


async def revived(world: World, dead: threading.Event) -> None:
    await eventually(lambda: answered(dead), timeout=30, what="the operator is dead")
    world.operator.start()
    world.operator.wait_ready()


@at_the_request
async def test_killed_while_it_takes_a_snapshot_it_takes_one(world: World, cloud: Cloud, reached: bool) -> None:
    """And EC2 does not list it yet when the operator is back."""
    await world.workload("app")
    volume = str(cloud.client("ec2").create_volume(AvailabilityZone=f"{REGION}a", Size=1)["VolumeId"])
    dead = killed_at(world, cloud, "CreateSnapshot", reached)
    not_listed = rewritten(r"<snapshotSet>.*</snapshotSet>|<snapshotSet/>", "<snapshotSet/>")
    cloud.faults.on("DescribeSnapshots", not_listed, nth=2, times=3)
    taken = {"connection": "covet-account", "volumes": [volume], "claims": False}
    capture = {"name": "keep", "captureEvidence": {"include": ["events"], "snapshots": taken}}
    await world.policy(capture, target={"kind": "Deployment", "name": "app"})
    await world.incident(type="DataBreach")
    await revived(world, dead)
    found = await world.says("Applied", timeout=60)
    assert step(found)["attempts"] == 2, story(found)
    assert cloud.faults.count("CreateSnapshot", reached=True) == 1
    made = cloud.client("ec2").describe_snapshots(Filters=[{"Name": "volume-id", "Values": [volume]}])["Snapshots"]
    kept = [item.get("uri") for item in found["status"]["evidence"] if item["name"] == f"snapshots/{volume}"]
    assert kept == [f"ec2://{REGION}/{made[0]['SnapshotId']}"]


@at_the_request
async def test_killed_while_it_takes_rules_away_the_rest_goes_and_theirs_stay(
    world: World, cloud: Cloud, reached: bool
) -> None:
    theirs = cloud.create_rule(1)
    dead = killed_at(world, cloud, "DeleteRule", reached)
    block = {"name": "block", "blockAddresses": {"addresses": [f"203.0.113.{n}" for n in range(0, 24, 2)]}, "ttl": "2s"}
    await world.policy(block, target={"kind": "Connection", "name": "covet-alb"}, verify={"rollout": True})
    await world.incident(type="DDoS")
    await revived(world, dead)
    found = await world.says("PutBack", timeout=60)
    assert step(found)["state"] == "Reverted", story(found)
    assert [rule["RuleArn"] for rule in cloud.rules()] == [theirs]
    assert cloud.faults.count("DeleteRule", reached=True) == 3
