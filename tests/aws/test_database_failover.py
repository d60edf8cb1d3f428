"""databaseFailover and awaitDatabase against moto's rds and cloudwatch.

moto moves the writer at once (rds/models.py, ``DBCluster.failover``) and tells no event of it; what AWS shows
meanwhile, the status failing-over, the earlier writer, events, is put into its answers by the layer of faults.
"""

from __future__ import annotations

import asyncio
import copy
import re
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from botocore.loaders import Loader
from botocore.model import ServiceModel
from botocore.parsers import create_parser

from aws.answers import FAILING_OVER, compose, told, writer_still
from aws.faults import (
    DONE_BUT_500,
    EXPIRED,
    LOSE_ANSWER,
    LOSE_REQUEST,
    THROTTLED,
    UNAVAILABLE,
    Fault,
    error,
    rewritten,
)
from aws.world import NAMESPACE, REGION, Cloud, Json
from builders import NOW
from paramedic import acting
from paramedic.actions.await_database import AwaitDatabase, AwaitDatabaseParams
from paramedic.actions.base import Change, Clients, Observed, Outcome
from paramedic.actions.database_failover import DatabaseFailover, DatabaseFailoverParams
from paramedic.api.base import format_time
from paramedic.api.policy import Step
from paramedic.api.reasons import Reason
from paramedic.api.workload import BoundTarget, bound
from paramedic.clients import extras
from paramedic.core import failover
from paramedic.core.operation import new_operation
from paramedic.errors import Conflict, ParamedicError, Refused, Retry, Terminal, Unreachable

ACTION = DatabaseFailover()
AWAIT = AwaitDatabase()
TARGET: BoundTarget = bound("Connection", NAMESPACE, "covet-db")


@pytest.fixture
def clients(cloud: Cloud) -> Clients:
    cloud.create_cluster()
    return cloud.clients()


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """What takes a minute on AWS takes no time here."""
    monkeypatch.setattr(failover, "QUIET", timedelta(0))
    monkeypatch.setattr(AwaitDatabase, "every_seconds", 0.05)


async def observe(clients: Clients) -> Observed:
    return replace(await ACTION.observe(TARGET, clients), incident="db-slow")


async def plan(clients: Clients, operation: str, **params: object) -> Change:
    return ACTION.plan(await observe(clients), DatabaseFailoverParams.model_validate(params), operation)


async def settled(clients: Clients, change: Change, operation: str) -> Outcome:
    return ACTION.settled(await observe(clients), change.before, change.after, operation)


async def test_planning_changes_nothing_and_gives_the_same_twice(clients: Clients, cloud: Cloud) -> None:
    operation = new_operation(NOW)
    seen = await observe(clients)
    copied = copy.deepcopy(seen)
    change = ACTION.plan(seen, DatabaseFailoverParams(), operation)
    assert change == ACTION.plan(seen, DatabaseFailoverParams(), operation)
    assert seen == copied
    assert (change.before, change.after) == ({"writer": "covet-1"}, {"writer": "covet-3"})
    assert "covet-1 → covet-3 (0.015 s behind by CloudWatch's AuroraReplicaLag)" in change.message
    assert ACTION.settled(seen, change.before, change.after, operation) is Outcome.NOT_APPLIED
    assert cloud.faults.count("FailoverDBCluster") == 0
    assert cloud.cluster_tags() == {}


async def test_fails_over_once_and_stamps_the_cluster_before(clients: Clients, cloud: Cloud) -> None:
    change = await plan(clients, operation := new_operation(NOW), targetInstance="covet-2")
    await ACTION.apply(change, clients)
    assert cloud.writer() == "covet-2"
    tags = cloud.cluster_tags()
    assert tags["paramedic.dev/operation"] == operation
    assert tags["paramedic.dev/incident"] == f"{NAMESPACE}/db-slow"
    assert tags["paramedic.dev/failover-to"] == "covet-2"
    actions = [one.action for one in cloud.faults.asked]
    assert actions.index("AddTagsToResource") < actions.index("FailoverDBCluster")
    assert await settled(clients, change, operation) is Outcome.APPLIED
    with pytest.raises(Conflict, match="the writer is covet-2 now, not covet-1"):
        await ACTION.apply(change, clients)
    assert cloud.faults.count("FailoverDBCluster") == 1


async def test_the_latest_snapshot_is_told(clients: Clients, cloud: Cloud) -> None:
    rds = cloud.client("rds")
    rds.create_db_cluster_snapshot(DBClusterIdentifier="covet-aurora", DBClusterSnapshotIdentifier="before-the-night")
    message = (await plan(clients, new_operation(NOW))).message
    assert re.search(r"latest snapshot: before-the-night of \d{4}-\d\d-\d\d \d\d:\d\d UTC$", message)


async def test_what_is_the_writer_already_is_left_alone(clients: Clients) -> None:
    change = await plan(clients, new_operation(NOW), targetInstance="covet-1")
    assert change.is_empty
    assert change.message == "covet-db: covet-1 is the writer already"


# -- before the failover -----------------------------------------------------------------------------------------------


async def test_an_instance_that_is_too_far_behind_is_refused(cloud: Cloud) -> None:
    cloud.create_cluster(lag_milliseconds={"covet-2": 7000.0, "covet-3": 9000.0})
    clients = cloud.clients()
    with pytest.raises(Refused, match="covet-2 is 7 s behind the writer, more than 5s") as refusal:
        await plan(clients, new_operation(NOW), targetInstance="covet-2")
    assert refusal.value.reason is Reason.NO_REPLICA_READY
    with pytest.raises(Refused, match=r"nobody can take over: covet-2 is 7 s .*; covet-3 is 9 s"):
        await plan(clients, new_operation(NOW))
    change = await plan(clients, new_operation(NOW), maxReplicaLag="8s")
    assert change.after == {"writer": "covet-2"}


async def test_a_lag_that_nobody_tells_is_refused_unless_accepted(cloud: Cloud) -> None:
    cloud.create_cluster(lag_milliseconds={})
    clients = cloud.clients()
    with pytest.raises(Refused, match="AuroraReplicaLag tells no lag of covet-2"):
        await plan(clients, new_operation(NOW), targetInstance="covet-2")
    change = await plan(clients, new_operation(NOW), targetInstance="covet-2", unknownLag="Accept")
    assert "its lag is not known" in change.message
    await ACTION.apply(change, clients)
    assert cloud.writer() == "covet-2"


async def test_a_reader_that_is_not_available_is_refused(clients: Clients, cloud: Cloud) -> None:
    stop = rewritten("<DBInstanceStatus>available<", "<DBInstanceStatus>rebooting<")
    cloud.faults.on("DescribeDBInstances", stop)
    with pytest.raises(Refused, match="covet-3 is not available") as refusal:
        await plan(clients, new_operation(NOW), targetInstance="covet-3")
    assert refusal.value.reason is Reason.NO_REPLICA_READY


async def test_a_stranger_is_refused(clients: Clients) -> None:
    with pytest.raises(Terminal, match="covet-9 is no instance of the cluster; there are covet-1, covet-2, covet-3"):
        await plan(clients, new_operation(NOW), targetInstance="covet-9")


@pytest.mark.parametrize("status", ["failing-over", "upgrading", "inaccessible-encryption-credentials"])
async def test_a_cluster_that_is_not_available_is_refused(clients: Clients, cloud: Cloud, status: str) -> None:
    cloud.faults.on("DescribeDBClusters", rewritten("<Status>available<", f"<Status>{status}<"))
    with pytest.raises(Refused, match=f"covet-db is {status}") as refusal:
        await plan(clients, new_operation(NOW))
    assert refusal.value.reason is Reason.DATABASE_NOT_READY


# -- crashes and lost answers ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fault", "moved"),
    [
        pytest.param(LOSE_ANSWER, True, id="done, and the answer is lost"),
        pytest.param(DONE_BUT_500, True, id="done, and answered 500"),
        pytest.param(LOSE_REQUEST, False, id="the request is lost"),
        pytest.param(UNAVAILABLE, False, id="503"),
        pytest.param(EXPIRED, False, id="the credential has expired"),
    ],
)
async def test_a_failover_without_an_answer_is_looked_at_and_made_once(
    clients: Clients, cloud: Cloud, impatient: None, fault: Fault, moved: bool
) -> None:
    cloud.faults.on("FailoverDBCluster", fault)
    change = await plan(clients, operation := new_operation(NOW))
    with pytest.raises(Unreachable):
        await ACTION.apply(change, clients)
    assert cloud.faults.count("FailoverDBCluster") == 1, "the SDK must not repeat it by itself"
    assert (cloud.writer() == "covet-3") is moved

    outcome = await settled(clients, change, operation)
    assert outcome is (Outcome.APPLIED if moved else Outcome.NOT_APPLIED)
    if outcome is Outcome.NOT_APPLIED:
        again = ACTION.plan_again(
            await observe(clients), DatabaseFailoverParams(), operation, change.before, change.after
        )
        await ACTION.apply(again, clients)
    assert cloud.faults.count("FailoverDBCluster", reached=True) == 1
    assert cloud.writer() == "covet-3"
    assert await settled(clients, change, operation) is Outcome.APPLIED


async def test_what_is_throttled_was_surely_not_done_and_is_asked_again(clients: Clients, cloud: Cloud) -> None:
    cloud.faults.on("FailoverDBCluster", THROTTLED, times=2)
    await ACTION.apply(await plan(clients, new_operation(NOW)), clients)
    assert cloud.faults.count("FailoverDBCluster", reached=True) == 1
    assert cloud.writer() == "covet-3"


async def test_a_crash_before_the_request_is_seen_by_the_missing_tag(clients: Clients, cloud: Cloud) -> None:
    cloud.faults.on("AddTagsToResource", error("AccessDenied", "dead", 403))
    change = await plan(clients, operation := new_operation(NOW))
    with pytest.raises(Refused, match="rds:AddTagsToResource"):
        await ACTION.apply(change, clients)
    assert cloud.faults.count("FailoverDBCluster") == 0
    assert await settled(clients, change, operation) is Outcome.NOT_APPLIED


async def test_after_a_lost_answer_nothing_is_done_as_long_as_it_may_still_begin(
    clients: Clients, cloud: Cloud
) -> None:
    cloud.faults.on("FailoverDBCluster", LOSE_REQUEST)
    change = await plan(clients, new_operation(NOW))
    with pytest.raises(Unreachable) as lost:
        await ACTION.apply(change, clients)
    assert lost.value.uncertain
    with pytest.raises(Retry, match=r"a failover to covet-3 was asked for .* ago and has not begun yet") as waiting:
        await observe(clients)
    assert waiting.value.after == timedelta(seconds=5)
    assert not isinstance(waiting.value, Unreachable), "or the step would fail by it"


async def test_while_it_fails_over_the_request_counts_as_made(clients: Clients, cloud: Cloud) -> None:
    change = await plan(clients, operation := new_operation(NOW))
    cloud.faults.on("FailoverDBCluster", LOSE_ANSWER)
    with pytest.raises(Unreachable):
        await ACTION.apply(change, clients)
    cloud.faults.on("DescribeDBClusters", compose(FAILING_OVER, writer_still("covet-1")))
    assert await settled(clients, change, operation) is Outcome.APPLIED
    cloud.faults.on("DescribeDBClusters", compose(FAILING_OVER, writer_still("covet-1")))
    assert await settled(clients, change, new_operation(NOW)) is Outcome.UNKNOWN, "somebody else's failover"


async def test_told_of_a_failover_that_cannot_be_seen_nobody_fails_over_again(
    clients: Clients, cloud: Cloud, impatient: None
) -> None:
    change = await plan(clients, operation := new_operation(NOW))
    cloud.faults.on("FailoverDBCluster", LOSE_REQUEST)
    with pytest.raises(Unreachable):
        await ACTION.apply(change, clients)
    old = datetime.now(UTC) - timedelta(hours=2)
    cloud.faults.on("DescribeEvents", told("Completed failover to DB instance: covet-1", old))
    assert await settled(clients, change, operation) is Outcome.NOT_APPLIED, "that one was before"
    cloud.faults.on("DescribeEvents", told("Started cross AZ failover to DB instance: covet-3"))
    assert await settled(clients, change, operation) is Outcome.UNKNOWN
    cloud.faults.on("DescribeEvents", told("DB cluster was patched", category="maintenance"))
    assert await settled(clients, change, operation) is Outcome.NOT_APPLIED


async def test_a_third_writer_is_neither_done_nor_not_done(clients: Clients, cloud: Cloud) -> None:
    change = await plan(clients, operation := new_operation(NOW))
    cloud.client("rds").failover_db_cluster(DBClusterIdentifier="covet-aurora", TargetDBInstanceIdentifier="covet-2")
    assert await settled(clients, change, operation) is Outcome.UNKNOWN
    with pytest.raises(Conflict):
        await ACTION.apply(change, clients)
    assert cloud.faults.count("FailoverDBCluster") == 0


async def test_a_cluster_that_fails_over_by_itself_is_not_asked(clients: Clients, cloud: Cloud) -> None:
    change = await plan(clients, new_operation(NOW))
    cloud.faults.on("FailoverDBCluster", error("InvalidDBClusterStateFault", "is not in available state"))
    with pytest.raises(Conflict, match="InvalidDBClusterStateFault"):
        await ACTION.apply(change, clients)
    assert cloud.writer() == "covet-1"


async def test_going_on_keeps_to_the_instance_that_was_planned(clients: Clients, cloud: Cloud) -> None:
    """The nearest may be another by now, and after the failover it would be the earlier writer."""
    change = await plan(clients, operation := new_operation(NOW))
    assert change.after == {"writer": "covet-3"}
    cloud.put_lag("covet-3", 900.0)
    cloud.put_lag("covet-2", 1.0)
    params, seen = DatabaseFailoverParams(), await observe(clients)
    assert ACTION.plan(seen, params, operation).after == {"writer": "covet-2"}
    assert ACTION.plan_again(seen, params, operation, change.before, change.after).after == change.after
    assert ACTION.plan_as_shown(seen, params, operation, change.before, change.after).after == change.after


async def test_two_that_want_the_same_failover_make_one(clients: Clients, cloud: Cloud) -> None:
    """Had both come past the lock on their target, the second would find the writer another than it has seen."""
    first, second = await plan(clients, new_operation(NOW)), await plan(clients, new_operation(NOW))
    await ACTION.apply(first, clients)
    with pytest.raises(Conflict):
        await ACTION.apply(second, clients)
    assert cloud.faults.count("FailoverDBCluster") == 1


NEIGHBOUR: BoundTarget = bound("Connection", "neighbour", "shared-db")


@pytest.fixture
def shared(clients: Clients, cloud: Cloud) -> Clients:
    """Of a namespace in which a connection of another name leads to the same cluster."""
    access = {"region": REGION, "endpointURL": cloud.faults.url, "cluster": "covet-aurora"}
    entry: Json = {"name": "shared-db", "namespaces": ["neighbour"], "aurora": access}
    return replace(clients, connections=cloud.connections(None, NAMESPACE, entry))


async def of_neighbour(shared: Clients, since: datetime) -> Observed:
    return replace(await ACTION.observe(NEIGHBOUR, shared), incident="db-slow", since=since)


async def test_an_incident_of_before_anothers_failover_does_not_move_it_back(shared: Clients, cloud: Cloud) -> None:
    """Nor one that was held back meanwhile; one of after is left to the cooldown, which sees the other's stamp."""
    opened, params = datetime.now(UTC), DatabaseFailoverParams()
    mine = replace(await observe(shared), since=opened)
    await ACTION.apply(ACTION.plan(mine, params, operation := new_operation(NOW)), shared)
    seen = await of_neighbour(shared, opened)
    with pytest.raises(Refused, match=rf"incident covet/db-slow \(operation {operation}\) had it fail over") as refusal:
        ACTION.plan(seen, params, new_operation(NOW))
    assert refusal.value.reason is Reason.FAILED_OVER_SINCE
    for again in (ACTION.plan_again, ACTION.plan_as_shown):
        with pytest.raises(Refused, match="apply a new Incident"):
            again(seen, params, new_operation(NOW), {"writer": "covet-3"}, {"writer": "covet-2"})
    own = replace(await observe(shared), since=opened)
    assert ACTION.plan(own, params, new_operation(NOW)).after == {"writer": "covet-2"}, "its own is no obstacle"

    after = await of_neighbour(shared, datetime.now(UTC) + timedelta(seconds=2))
    assert ACTION.plan(after, params, new_operation(NOW)).after == {"writer": "covet-2"}
    assert after.acted_at is not None
    assert format_time(after.acted_at) == cloud.cluster_tags()["paramedic.dev/failover-at"]


async def test_of_two_at_the_same_moment_one_asks_and_the_other_leaves_its_stamp(
    shared: Clients, cloud: Cloud, impatient: None
) -> None:
    """AWS moves slowly: it shows the earlier writer for long, and first not even that it fails over."""
    opened, params = datetime.now(UTC), DatabaseFailoverParams()
    operations = [new_operation(NOW), new_operation(NOW)]
    seen = [replace(await observe(shared), since=opened), await of_neighbour(shared, opened)]
    changes = [ACTION.plan(one, params, operation) for one, operation in zip(seen, operations, strict=True)]

    def begin() -> None:
        cloud.faults.on("DescribeDBClusters", writer_still("covet-1"), times=2)
        cloud.faults.on("DescribeDBClusters", compose(FAILING_OVER, writer_still("covet-1")), times=2)

    cloud.faults.on("FailoverDBCluster", Fault(after=begin))
    ended = await asyncio.gather(*(ACTION.apply(one, shared) for one in changes), return_exceptions=True)
    (lost,) = [number for number, one in enumerate(ended) if one is not None]
    assert isinstance(ended[lost], Conflict), ended
    assert cloud.cluster_tags()["paramedic.dev/operation"] == operations[1 - lost]
    assert cloud.faults.count("FailoverDBCluster") == 1

    async def look() -> Observed:
        return await of_neighbour(shared, opened) if lost else replace(await observe(shared), since=opened)

    def result(looked: Observed) -> Outcome:
        return ACTION.settled(looked, changes[lost].before, changes[lost].after, operations[lost])

    early, moving, later = await look(), await look(), await look()
    assert result(early) is Outcome.NOT_APPLIED
    with pytest.raises(Retry, match=r"failing over to covet-3, for the incident \w+/db-slow") as waiting:
        result(moving)
    assert not isinstance(waiting.value, Unreachable)
    with pytest.raises(Refused, match="apply a new Incident"):
        ACTION.plan(moving, params, operations[lost])
    with pytest.raises(Retry, match="failing over to covet-3"):
        ACTION.plan(replace(moving, since=opened + timedelta(hours=1)), params, operations[lost])
    with pytest.raises(Retry, match="failing over to covet-3"):
        result(later)
    assert result(await look()) is Outcome.APPLIED, "the writer is whom it wanted"
    assert cloud.faults.count("FailoverDBCluster") == 1


async def test_a_missing_right_names_the_action_of_iam(clients: Clients, cloud: Cloud) -> None:
    cloud.faults.on("FailoverDBCluster", error("AccessDenied", "User: x is not authorized to perform", 403))
    with pytest.raises(Refused, match="rds:FailoverDBCluster") as refusal:
        await ACTION.apply(await plan(clients, new_operation(NOW)), clients)
    assert refusal.value.reason is Reason.FORBIDDEN
    assert cloud.writer() == "covet-1"


async def test_a_right_that_lacks_for_good_is_believed_in_the_end(
    clients: Clients, cloud: Cloud, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Our own stamp of a request that AWS has refused is not taken for somebody else's."""
    monkeypatch.setattr(acting, "_FORBIDDEN_PAUSE_SECONDS", 0.0)
    denied = error("AccessDenied", "User: x is not authorized to perform", 403)
    cloud.faults.on("FailoverDBCluster", denied, times=4)
    change = await plan(clients, operation := new_operation(NOW))
    with pytest.raises(Refused, match="lacks rds:FailoverDBCluster"):
        await acting.patiently(lambda: ACTION.apply(change, clients))
    assert cloud.faults.count("FailoverDBCluster") == 4
    assert cloud.cluster_tags()["paramedic.dev/operation"] == operation
    cloud.faults.forget()
    cloud.faults.on("FailoverDBCluster", denied, times=2)
    await acting.patiently(lambda: ACTION.apply(change, clients))
    assert cloud.faults.count("FailoverDBCluster", reached=True) == 1
    assert cloud.writer() == "covet-3"


async def test_a_stamp_of_the_same_operation_by_another_process_counts(clients: Clients, cloud: Cloud) -> None:
    """This one was refused, then frozen; another has looked meanwhile, found nothing done, and asked under the same
    id. AWS does not show yet what it does.
    """
    change = await plan(clients, new_operation(NOW))
    cloud.faults.on("FailoverDBCluster", error("AccessDenied", "User: x is not authorized to perform", 403))
    with pytest.raises(Refused):
        await ACTION.apply(change, clients)
    later = format_time(datetime.now(UTC) + timedelta(seconds=1))
    arn = cloud.client("rds").describe_db_clusters()["DBClusters"][0]["DBClusterArn"]
    tag = {"Key": "paramedic.dev/failover-at", "Value": later}
    cloud.client("rds").add_tags_to_resource(ResourceName=arn, Tags=[tag])
    with pytest.raises(Conflict, match="another failover has been asked for"):
        await ACTION.apply(change, clients)
    assert cloud.faults.count("FailoverDBCluster") == 1


async def test_a_cluster_that_is_not_there_is_said(cloud: Cloud) -> None:
    with pytest.raises(ParamedicError, match="DBClusterNotFound"):
        await observe(cloud.clients())


async def test_without_the_extra_the_policy_is_told_so(cloud: Cloud, monkeypatch: pytest.MonkeyPatch) -> None:
    connections = cloud.connections()
    await connections.check(NAMESPACE, "covet-db", *ACTION.connection_types)
    monkeypatch.setitem(extras._LIBRARIES, "aws", "no_such_library")
    with pytest.raises(Terminal, match=r"pip install 'paramedic\[aws\]'") as lacking:
        await connections.check(NAMESPACE, "covet-db", *ACTION.connection_types)
    assert lacking.value.reason is Reason.EXTRA_MISSING
    with pytest.raises(Terminal, match="of type aws, not aurora or cloudNativePG"):
        await connections.check(NAMESPACE, "covet-account", *ACTION.connection_types)


# -- waiting -----------------------------------------------------------------------------------------------------------


def waiting(writer: str = "covet-3", seconds: float = 20.0) -> tuple[AwaitDatabaseParams, float]:
    return AwaitDatabaseParams(writer=writer), seconds


async def test_waits_until_the_writer_is_there_and_says_how_it_gets_on(
    clients: Clients, cloud: Cloud, impatient: None
) -> None:
    await ACTION.apply(await plan(clients, new_operation(NOW)), clients)
    cloud.faults.on("DescribeDBClusters", compose(FAILING_OVER, writer_still("covet-1")), times=3)
    cloud.faults.on("DescribeDBClusters", FAILING_OVER, times=2)
    cloud.faults.on("DescribeDBClusters", UNAVAILABLE, times=5)
    heard: list[str] = []
    seen = await AWAIT.observe(TARGET, clients)
    change = AWAIT.plan(seen, AwaitDatabaseParams(writer="covet-3"), new_operation(NOW))
    report = await AWAIT.apply(replace(change, seconds=30.0, tell=heard.append), clients)
    assert heard[0] == "covet-db: failing-over, the writer is covet-1, not yet covet-3"
    assert "covet-db: failing-over, the writer is covet-3" in heard
    assert report.result == {
        "writer": "covet-3",
        "endpoint": cloud.endpoint_of("covet-3"),
        "clusterEndpoint": cloud.client("rds").describe_db_clusters()["DBClusters"][0]["Endpoint"],
        "port": 5432,
    }
    assert report.message == f"covet-db: covet-3 writes at {cloud.endpoint_of('covet-3')}"


async def test_gives_up_in_time_and_says_what_was_lacking(clients: Clients, impatient: None) -> None:
    seen = await AWAIT.observe(TARGET, clients)
    change = AWAIT.plan(seen, AwaitDatabaseParams(writer="covet-2"), new_operation(NOW))
    with pytest.raises(Terminal, match="available, the writer is covet-1, not yet covet-2") as ended:
        async with asyncio.timeout(10):
            await AWAIT.apply(replace(change, seconds=2.5), clients)
    assert ended.value.reason is Reason.TIMED_OUT


# -- the procedure -----------------------------------------------------------------------------------------------------


def parts_of(**params: object) -> list[Step]:
    step = {"name": "failover", "target": {"kind": "Connection", "name": "covet-db"}, "databaseFailover": params}
    return ACTION.expand(Step.model_validate(step))


def test_stands_for_the_failover_the_wait_and_the_new_endpoint() -> None:
    asked, awaited, config = parts_of(targetInstance="covet-2", configMap={"name": "covet-config"})
    assert [(p.name, p.action) for p in (asked, awaited, config)] == [
        ("failover-failover", "databaseFailover"),
        ("failover-await", "awaitDatabase"),
        ("failover-config", "patchConfig"),
    ]
    assert awaited.params == {"writer": "covet-2"}
    assert config.target is not None
    assert (config.target.kind, config.target.name) == ("ConfigMap", "covet-config")
    reference = {"fromStep": "failover-await", "field": "result.endpoint"}
    assert config.params == {"data": {"DB_HOST": reference}, "restart": "Users"}
    assert asked.verify is not None
    assert asked.verify.is_empty()
    assert config.verify is None, "the policy's"


def test_without_a_named_instance_the_wait_is_for_the_one_that_was_chosen() -> None:
    asked, awaited = parts_of(verifyConnection="covet-sql")  # there is nothing to be written before
    assert awaited.params == {
        "writer": {"fromStep": "failover-failover", "field": "after.writer"},
        "verifyConnection": "covet-sql",
    }
    assert asked.verify is None


def test_the_new_endpoint_is_written_before_anybody_tries_the_writer() -> None:
    """Whatever is wrong with that connection, the old writer serves nobody any more."""
    parts = parts_of(targetInstance="covet-2", verifyConnection="covet-sql", configMap={"name": "covet-config"})
    assert [(part.name, part.params.get("verifyConnection")) for part in parts] == [
        ("failover-failover", "covet-sql"),
        ("failover-await", None),
        ("failover-config", None),
        ("failover-verify", "covet-sql"),
    ]
    assert parts[2].verify is None, "the policy's"
    assert parts[3].params == {"writer": "covet-2", "verifyConnection": "covet-sql"}


WRONG: list[tuple[Json, str]] = [
    ({"targetInstance": "Covet 2"}, "match pattern"),
    ({"maxReplicaLag": "soon"}, "not a duration"),
    ({"unknownLag": "Ignore"}, "'Refuse' or 'Accept'"),
    ({"configMap": {"key": "DB_HOST"}}, "Field required"),
    ({"configMap": {"name": "covet-config", "key": "DB HOST"}}, "match pattern"),
]


@pytest.mark.parametrize(("params", "said"), WRONG, ids=lambda value: str(value)[:40])
def test_wrong_parameters_are_found_when_the_policy_is_read(params: Json, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        DatabaseFailoverParams.model_validate(params)


def test_what_the_faults_answer_is_of_aws_own_form() -> None:
    """botocore's model of the service reads the event and the error that the layer makes up."""
    model = ServiceModel(Loader().load_service_model("rds", "service-2"))
    event = told("Started cross AZ failover to DB instance: covet-3", NOW)
    assert event.rewrite is not None
    body = event.rewrite(
        "<DescribeEventsResponse><DescribeEventsResult><Events/></DescribeEventsResult></DescribeEventsResponse>"
    )
    answer = {"status_code": 200, "headers": {}, "body": body.encode()}
    shape = model.operation_model("DescribeEvents").output_shape
    found = create_parser("query").parse(answer, shape)["Events"]
    assert found[0]["EventCategories"] == ["failover"]
    assert format_time(found[0]["Date"]) == format_time(NOW)
    refused = error("InvalidDBClusterStateFault", "no")
    assert refused.answer is not None
    answer = {"status_code": 400, "headers": {}, "body": refused.answer.encode()}
    assert create_parser("query").parse(answer, shape)["Error"]["Code"] == "InvalidDBClusterStateFault"
    codes = [s.metadata["error"]["code"] for s in model.operation_model("FailoverDBCluster").error_shapes]
    assert {"InvalidDBClusterStateFault", "InvalidDBInstanceState"} <= set(codes)
