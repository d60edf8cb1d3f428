"""The Aurora cluster of game days: who asks AWS to fail over gets a real server that writes, and is told when."""

from __future__ import annotations

import sys
from collections.abc import Mapping

import pytest

from gameday.aurora import CLUSTER, INSTANCES, Aurora, as_it_is
from gameday.cloud import Cloud
from gameday.stores import DATABASE
from testbed.processes import wait_until

FIRST, SECOND = INSTANCES
WHO = "<DBInstanceIdentifier>{}</DBInstanceIdentifier><IsClusterWriter>{}</IsClusterWriter>"
MEMBER = f"<DBClusterMember>{WHO}</DBClusterMember>"


def answer(status: str, writer: str) -> bytes:
    members = "".join(MEMBER.format(name, str(name == writer).lower()) for name in INSTANCES)
    return f'<A xmlns="http://rds"><DBCluster>{members}<Status>{status}</Status></DBCluster></A>'.encode()


def test_a_cluster_fails_over_until_its_writer_is_promoted() -> None:
    assert as_it_is(answer("available", SECOND), SECOND) == answer("available", SECOND)
    assert as_it_is(answer("available", SECOND), FIRST) == answer("failing-over", SECOND)
    assert as_it_is(b"<A/>", FIRST) == b"<A/>"


class Loopback:
    """In the place of a node."""

    def __init__(self) -> None:
        self.names: Mapping[str, str] = {}

    def add_address(self, number: int) -> str:
        return f"127.0.0.{161 + number}"

    def set_names(self, names: Mapping[str, str]) -> None:
        self.names = names

    def favour(self, pid: int) -> None:
        pass


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux has all of 127.0.0.0/8")
def test_who_asks_aws_gets_a_server_that_writes_where_the_cluster_s_name_leads(cloud: Cloud) -> None:
    rds, network = cloud.client("rds"), Loopback()

    def status() -> str:
        return str(rds.describe_db_clusters(DBClusterIdentifier=CLUSTER)["DBClusters"][0]["Status"])

    with Aurora(cloud, network) as aurora, aurora.running("secret", "127.0.0.0/8"):
        assert network.names[aurora.endpoint] == network.names[aurora.endpoint_of(FIRST)] == "127.0.0.161"
        aurora.server(FIRST).psql("INSERT INTO orders (item_id) VALUES (1)", database=DATABASE)
        wait_until(lambda: orders(aurora) == "1", "the standby has it", 10)
        aurora.kill_writer()
        rds.failover_db_cluster(DBClusterIdentifier=CLUSTER, TargetDBInstanceIdentifier=SECOND)
        wait_until(lambda: status() == "available", "failed over", 30)
        aurora.server(SECOND).psql("INSERT INTO orders (item_id) VALUES (2)", database=DATABASE)
        assert orders(aurora) == "2"
        assert network.names[aurora.endpoint] == network.names[aurora.endpoint_of(SECOND)] == "127.0.0.162"


def orders(aurora: Aurora) -> str:
    return aurora.server(SECOND).psql("SELECT count(*) FROM orders", database=DATABASE)
