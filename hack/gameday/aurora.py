"""An Aurora cluster as game days have it: moto keeps its state, two real PostgreSQL servers are its instances.

    with Aurora(cloud, node) as aurora, aurora.running(password, network):
        aurora.kill_writer()
        ...                          # somebody asks AWS to fail over, and the other server is promoted

What is played: that the servers do as moto's state says. Who is the writer there is promoted here (`pg_promote`), and
until that is done AWS says that the cluster is failing over. The standby has the data by streaming replication, where
Aurora's instances share a volume; its lag, measured, is CloudWatch's `AuroraReplicaLag`. The cluster never fails over
by itself, as Aurora does when it sees that a writer is gone: this is the writer that serves nobody and that AWS takes
for available, about which people have to decide.
"""

from __future__ import annotations

import contextlib
import time
import xml.etree.ElementTree as ET
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime
from types import TracebackType
from typing import Protocol, Self

from gameday.cloud import Cloud
from gameday.repeated import Repeated
from gameday.stores import DATABASE, SERVER, allow, set_up
from testbed.ports import Ports
from testbed.postgres import PostgresServer
from testbed.processes import ProcessError, wait_until

CLUSTER = "covet-aurora"
INSTANCES = ("covet-aurora-1", "covet-aurora-2")
"""The first writes until there is a failover."""
POLL_SECONDS = 0.3
LAG_SECONDS = 2.0
"""CloudWatch is told the lag so often."""
_STREAMING_SECONDS = 30
_STREAMING = "SELECT 1 FROM pg_stat_replication WHERE state = 'streaming'"
_LAG = "SELECT coalesce(max(extract(epoch FROM replay_lag)), 0) * 1000 FROM pg_stat_replication"
_ORDERS = "SELECT max(id) FROM orders"
_ORDER_SECONDS = 2.0


class Network(Protocol):
    """Where the servers are, and who tells pods so; a real node."""

    def add_address(self, number: int) -> str: ...
    def set_names(self, names: Mapping[str, str]) -> None: ...
    def favour(self, pid: int) -> None: ...


class Aurora:
    """One cluster: AWS knows of it all the time, and its names lead to servers while it is `running`."""

    def __init__(self, cloud: Cloud, network: Network) -> None:
        self._cloud = cloud
        self._network = network
        self._rds = cloud.client("rds")
        self._ports = Ports()
        self._addresses: dict[str, str] = {}
        self._servers: dict[str, PostgresServer] = {}
        self._promoted = INSTANCES[0]
        self._told_lag_at = 0.0
        self.port = 0
        self.endpoint = ""
        """The cluster's own: leads to the writer."""

    def __enter__(self) -> Self:
        self.port = self._ports.reserve()
        self._addresses = {name: self._network.add_address(number) for number, name in enumerate(INSTANCES)}
        self._create()
        self._cloud.shaped["DescribeDBClusters"] = lambda answer: as_it_is(answer, self._promoted)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._cloud.shaped.clear()
        self._ports.release()

    @contextmanager
    def running(self, password: str, network: str) -> Iterator[None]:
        """Both servers, with covet's schema, as before any failover; `network` is where clients may come from."""
        first, second = INSTANCES
        self._fail_back()
        with ExitStack() as stack:
            writer = stack.enter_context(self._server(first, None))
            set_up(writer, password)
            reader = stack.enter_context(self._server(second, writer))
            for one in (writer, reader):
                allow(one, network)
                self._network.favour(one.pid)
            wait_until(lambda: bool(writer.psql(_STREAMING)), "the standby follows", _STREAMING_SECONDS)
            self._servers = {first: writer, second: reader}
            stack.enter_context(Repeated("aurora", POLL_SECONDS, self._follow))
            yield

    @property
    def settings(self) -> Mapping[str, str]:
        """Of covet, as before any failover."""
        return {"DB_HOST": self.endpoint_of(INSTANCES[0]), "DB_PORT": str(self.port)}

    def endpoint_of(self, instance: str) -> str:
        """An instance's own name."""
        found = self._rds.describe_db_instances(DBInstanceIdentifier=instance)["DBInstances"][0]
        return str(found["Endpoint"]["Address"])

    def kill_writer(self) -> None:
        """Its server crashes, and stays away."""
        self._servers[self._promoted].kill()

    def server(self, instance: str) -> PostgresServer:
        """Who it really is."""
        return self._servers[instance]

    def takes_orders(self, instance: str) -> bool:
        """Whether orders come in there now, by its own tables."""
        server = self._servers[instance]
        before = server.psql(_ORDERS, database=DATABASE)
        time.sleep(_ORDER_SECONDS)
        return server.psql(_ORDERS, database=DATABASE) != before

    # -- what AWS would do --------------------------------------------------------------------------------------------

    def _create(self) -> None:
        about = {"Engine": "aurora-postgresql", "DBClusterIdentifier": CLUSTER}
        made = self._rds.create_db_cluster(
            **about,
            MasterUsername="covet",
            MasterUserPassword="played by moto",  # nobody logs in with it
            Port=self.port,
        )
        self._arn = made["DBCluster"]["DBClusterArn"]
        self.endpoint = str(made["DBCluster"]["Endpoint"])
        for name in INSTANCES:
            self._rds.create_db_instance(**about, DBInstanceIdentifier=name, DBInstanceClass="db.r6g.large")

    def _server(self, instance: str, standby_of: PostgresServer | None) -> PostgresServer:
        address = self._addresses[instance]
        return PostgresServer(settings=SERVER, host=address, port=self.port, standby_of=standby_of)

    def _fail_back(self) -> None:
        """In AWS' books the first instance writes, and nobody has asked for anything."""
        first = INSTANCES[0]
        self._promoted = first
        cluster = self._rds.describe_db_clusters(DBClusterIdentifier=CLUSTER)["DBClusters"][0]
        if _writer_of(cluster["DBClusterMembers"]) != first:
            self._rds.failover_db_cluster(DBClusterIdentifier=CLUSTER, TargetDBInstanceIdentifier=first)
        keys = [tag["Key"] for tag in cluster["TagList"]]
        self._rds.remove_tags_from_resource(ResourceName=self._arn, TagKeys=keys)
        self._tell_names(first)

    def _follow(self) -> None:
        cluster = self._rds.describe_db_clusters(DBClusterIdentifier=CLUSTER)["DBClusters"][0]
        writer = _writer_of(cluster["DBClusterMembers"])
        if writer != self._promoted:
            self._servers[writer].psql("SELECT pg_promote()")
            self._tell_names(writer)
            self._promoted = writer
        elif time.monotonic() > self._told_lag_at + LAG_SECONDS:
            self._told_lag_at = time.monotonic()
            with contextlib.suppress(ProcessError):  # who is gone tells nothing
                self._tell_lag(float(self._servers[writer].psql(_LAG)))

    def _tell_names(self, writer: str) -> None:
        """As in Route 53: instances stay where they are, the cluster's name goes to the writer."""
        names = {self.endpoint_of(name): address for name, address in self._addresses.items()}
        self._network.set_names(names | {self.endpoint: self._addresses[writer]})

    def _tell_lag(self, milliseconds: float) -> None:
        for reader in set(INSTANCES) - {self._promoted}:
            metric = {
                "MetricName": "AuroraReplicaLag",
                "Dimensions": [{"Name": "DBInstanceIdentifier", "Value": reader}],
                "Timestamp": datetime.now(UTC),
                "Value": milliseconds,
                "Unit": "Milliseconds",
            }
            self._cloud.client("cloudwatch").put_metric_data(Namespace="AWS/RDS", MetricData=[metric])


def as_it_is(answer: bytes, promoted: str) -> bytes:
    """What DescribeDBClusters answers: as long as the writer of AWS' books is not `promoted`, the cluster is failing
    over. (moto is done with it at once.)
    """
    members = ET.fromstring(answer).iterfind(".//{*}DBClusterMember")  # noqa: S314  # moto has written it
    writing = [
        one.findtext("{*}DBInstanceIdentifier") for one in members if one.findtext("{*}IsClusterWriter") == "true"
    ]
    if writing in ([], [promoted]):
        return answer
    return answer.replace(b"<Status>available<", b"<Status>failing-over<", 1)


def _writer_of(members: list[dict[str, object]]) -> str:
    return next(str(one["DBInstanceIdentifier"]) for one in members if one["IsClusterWriter"])
