"""databaseFailover on a Cluster of CloudNativePG, on a real API server; the test plays CloudNativePG's own operator."""

from __future__ import annotations

import asyncio
import re
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from aws.world import Json
from builders import NOW
from paramedic.actions.await_database import AwaitDatabase, AwaitDatabaseParams
from paramedic.actions.base import Change, Clients, Observed, Outcome
from paramedic.actions.database_failover import DatabaseFailover, DatabaseFailoverParams
from paramedic.api.connection import ConnectionSettings
from paramedic.api.diagnosis import ConnectionCheck
from paramedic.api.reasons import Reason
from paramedic.api.workload import BoundTarget, bound
from paramedic.clients.connections import Connections
from paramedic.clients.kube import Kube, load_configuration
from paramedic.core.findings import findings_of
from paramedic.core.operation import new_operation
from paramedic.core.picture import Picture
from paramedic.diagnosis.connections import read_connections
from paramedic.diagnosis.looking import Looks
from paramedic.errors import Conflict, Refused, Retry, Terminal
from testbed.access import Access, kubeconfig_text, write_private
from testbed.api import Api, eventually
from testbed.postgres import PostgresServer

ACTION = DatabaseFailover()
AWAIT = AwaitDatabase()
PASSWORD = "s3cr3t-p4ssw0rd"
COMPONENT = Path(__file__).parents[2] / "manifests/components/actions-cloudnativepg/rbac.yaml"
CRD: Json = {
    "apiVersion": "apiextensions.k8s.io/v1",
    "kind": "CustomResourceDefinition",
    "metadata": {"name": "clusters.postgresql.cnpg.io"},
    "spec": {
        "group": "postgresql.cnpg.io",
        "scope": "Namespaced",
        "names": {"kind": "Cluster", "plural": "clusters", "singular": "cluster", "listKind": "ClusterList"},
        "versions": [
            {
                "name": "v1",
                "served": True,
                "storage": True,
                "subresources": {"status": {}},
                "schema": {
                    "openAPIV3Schema": {"type": "object", "x-kubernetes-preserve-unknown-fields": True},
                },
            }
        ],
    },
}
HEALTHY: Json = {
    "phase": "Cluster in healthy state",
    "currentPrimary": "covet-db-1",
    "targetPrimary": "covet-db-1",
    "instanceNames": ["covet-db-1", "covet-db-2", "covet-db-3"],
    "instancesStatus": {"healthy": ["covet-db-1", "covet-db-2", "covet-db-3"]},
    "writeService": "covet-db-rw",
    "lastSuccessfulBackup": "2026-01-31T02:00:00Z",
    "conditions": [
        {
            "type": "ContinuousArchiving",
            "status": "True",
            "reason": "ContinuousArchivingSuccess",
            "message": "",
            "lastTransitionTime": "2026-01-01T00:00:00Z",
        },
        {
            "type": "Ready",
            "status": "True",
            "reason": "ClusterIsReady",
            "message": "Cluster is Ready",
            "lastTransitionTime": "2026-01-01T00:00:00Z",
        },
    ],
}


@pytest.fixture
async def crd(admin: Api) -> None:
    if await admin.find("apiextensions.k8s.io/v1/customresourcedefinitions", CRD["metadata"]["name"]) is None:
        await admin.create(CRD)

    async def served() -> bool:
        found = await admin.get("apiextensions.k8s.io/v1/customresourcedefinitions", CRD["metadata"]["name"])
        conditions = (found.get("status") or {}).get("conditions") or []
        return any(c["type"] == "Established" and c["status"] == "True" for c in conditions)

    await eventually(served, what="the CRD is established")


class Stage:
    """A Cluster with three pods."""

    def __init__(self, admin: Api, kube: Kube, namespace: str) -> None:
        self.admin = admin
        self.kube = kube
        self.namespace = namespace
        where = {"cluster": "covet-db", "namespace": namespace}
        settings = {"name": "covet-pg", "namespaces": [namespace], "cloudNativePG": where}
        self.settings = settings
        self.connect()
        self.target: BoundTarget = bound("Connection", namespace, "covet-pg")

    def connect(self, *more: Json) -> None:
        """With these connections beside the Cluster's."""
        known = [ConnectionSettings.model_validate(one) for one in (self.settings, *more)]
        self.clients = Clients(self.kube, connections=Connections(known, self.kube))

    async def create(self) -> None:
        manifest = {"apiVersion": "postgresql.cnpg.io/v1", "kind": "Cluster", "metadata": {"name": "covet-db"}}

        async def created() -> bool:
            await self.admin.create(manifest | {"spec": {"instances": 3}}, self.namespace)
            return True

        await eventually(created, what="the Cluster is created")
        await self.set_status(HEALTHY)
        for name in HEALTHY["instanceNames"]:
            pod = {"containers": [{"name": "postgres", "image": "postgres:17"}], "nodeSelector": {"nowhere": "yes"}}
            await self.admin.create(
                {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name}, "spec": pod}, self.namespace
            )

    @property
    def path(self) -> str:
        return f"/apis/postgresql.cnpg.io/v1/namespaces/{self.namespace}/clusters/covet-db"

    async def set_status(self, status: Json) -> None:
        await self.kube.merge_patch(f"{self.path}/status", {"status": status})

    async def get(self) -> Json:
        return await self.kube.get(self.path)

    async def observe(self) -> Observed:
        return replace(await ACTION.observe(self.target, self.clients), incident="db-slow")

    async def plan(self, operation: str, **params: Any) -> Change:
        seen = replace(await ACTION.observe_for(self.target, params, self.clients), incident="db-slow")
        return ACTION.plan(seen, DatabaseFailoverParams.model_validate(params), operation)

    async def settled(self, change: Change, operation: str) -> Outcome:
        return ACTION.settled(await self.observe(), change.before, change.after, operation)


@pytest.fixture
async def stage(crd: None, admin: Api, kube: Kube, namespace: str) -> Stage:
    prepared = Stage(admin, kube, namespace)
    await prepared.create()
    return prepared


async def test_promotes_as_the_plugin_does_and_only_once(stage: Stage, cluster: Access) -> None:
    change = await stage.plan(operation := new_operation(NOW), targetInstance="covet-db-2")
    assert change.message == "covet-pg: writer covet-db-1 → covet-db-2; latest snapshot: backup of 2026-01-31T02:00:00Z"
    before = await stage.get()
    assert await stage.settled(change, operation) is Outcome.NOT_APPLIED
    await ACTION.apply(change, stage.clients)
    found = await stage.get()
    status = found["status"]
    changed = {key for key in status if status[key] != before["status"].get(key)}
    assert changed == {"targetPrimary", "targetPrimaryTimestamp", "phase", "phaseReason", "conditions"}
    assert status["targetPrimary"] == "covet-db-2"
    assert status["phase"] == "Switchover in progress"
    assert status["phaseReason"] == "Switching over to covet-db-2"
    assert status["targetPrimaryTimestamp"].endswith("Z")
    by_type = {c["type"]: c for c in status["conditions"]}
    assert (by_type["Ready"]["status"], by_type["Ready"]["reason"]) == ("False", "ClusterIsNotReady")
    assert by_type["ContinuousArchiving"] == HEALTHY["conditions"][0]
    stamp = f"incident {stage.namespace}/db-slow, operation {operation}, to covet-db-2"
    assert by_type["paramedic.dev/FailoverRequested"]["message"] == stamp
    assert len(by_type) == len(status["conditions"]) == 3
    assert await stage.settled(change, operation) is Outcome.APPLIED

    with pytest.raises(Conflict):
        await ACTION.apply(change, stage.clients)
    assert (await stage.get())["metadata"]["resourceVersion"] == found["metadata"]["resourceVersion"]


async def test_a_diagnosis_sees_the_cluster(stage: Stage) -> None:
    checks, looks = [ConnectionCheck(name="covet-pg")], Looks()

    async def told() -> list[str]:
        assert stage.clients.connections is not None
        found = await read_connections(stage.clients.connections, stage.kube, stage.namespace, checks, looks, 20)
        return [f"{f.reason}: {f.message}" for f in findings_of(Picture("", stage.namespace, NOW, outside=found))]

    assert await told() == []
    await stage.set_status({"phase": "Failing over", "instancesStatus": {"healthy": ["covet-db-2", "covet-db-3"]}})
    assert await told() == [
        "DatabaseClusterNotAvailable: covet-pg: the cluster is Failing over; "
        "1 of 3 instances not available (covet-db-1); latest snapshot: backup of 2026-01-31T02:00:00Z"
    ]
    await stage.admin.delete("postgresql.cnpg.io/v1/clusters", "covet-db", stage.namespace)
    assert await told() == ["DatabaseClusterNotAvailable: covet-pg: there is no such database cluster"]
    assert looks.failed == []


async def test_what_changed_since_the_look_is_not_written_over(stage: Stage) -> None:
    change = await stage.plan(operation := new_operation(NOW))
    assert change.after == {"writer": "covet-db-2"}
    await stage.set_status({"targetPrimary": "covet-db-3", "phase": "Failing over"})
    with pytest.raises(Conflict):
        await ACTION.apply(change, stage.clients)
    assert (await stage.get())["status"]["targetPrimary"] == "covet-db-3"
    assert await stage.settled(change, operation) is Outcome.UNKNOWN


async def test_an_incident_of_before_anothers_failover_does_not_move_it_back(stage: Stage) -> None:
    """As CloudNativePG leaves its status afterwards, in which the stamp stays until the next."""
    opened, params = datetime.now(UTC), DatabaseFailoverParams()
    other = replace(await stage.observe(), incident="another", since=opened)
    planned_late = ACTION.plan(other, params, new_operation(NOW))
    change = await stage.plan(operation := new_operation(NOW))
    await ACTION.apply(change, stage.clients)
    with pytest.raises(Conflict):
        await ACTION.apply(planned_late, stage.clients)
    moving = replace(await stage.observe(), incident="another", since=opened + timedelta(minutes=1))
    with pytest.raises(Retry, match="covet-pg is failing over to covet-db-2, for the incident"):
        ACTION.plan(moving, params, new_operation(NOW))
    promoted = {"currentPrimary": "covet-db-2", "phase": HEALTHY["phase"]}
    await stage.set_status(promoted)

    told = rf"{stage.namespace}/db-slow \(operation {operation}\) had it fail over to covet-db-2"
    seen = replace(await stage.observe(), incident="another", since=opened)
    with pytest.raises(Refused, match=told) as refusal:
        ACTION.plan(seen, params, new_operation(NOW))
    assert refusal.value.reason is Reason.FAILED_OVER_SINCE
    after = replace(seen, since=opened + timedelta(minutes=1))
    assert ACTION.plan(after, params, new_operation(NOW)).after == {"writer": "covet-db-1"}
    assert after.acted_at is not None
    assert abs(after.acted_at - datetime.now(UTC)) < timedelta(minutes=5)

    await ACTION.apply(ACTION.plan(after, params, latest := new_operation(NOW)), stage.clients)
    stamps = [c for c in (await stage.get())["status"]["conditions"] if c["type"].startswith("paramedic.dev/")]
    assert [latest in one["message"] for one in stamps] == [True]


async def test_waits_until_the_operator_has_promoted_it(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(AwaitDatabase, "every_seconds", 0.05)
    await ACTION.apply(await stage.plan(new_operation(NOW), targetInstance="covet-db-2"), stage.clients)
    heard: list[str] = []
    seen = await AWAIT.observe(stage.target, stage.clients)
    change = AWAIT.plan(seen, AwaitDatabaseParams(writer="covet-db-2"), new_operation(NOW))
    waiting = asyncio.create_task(AWAIT.apply(replace(change, seconds=20.0, tell=heard.append), stage.clients))
    await asyncio.sleep(0.3)
    assert not waiting.done()
    await stage.set_status({"currentPrimary": "covet-db-2"})
    await asyncio.sleep(0.3)
    assert not waiting.done(), "it is not healthy yet"
    await stage.set_status({"phase": "Cluster in healthy state"})
    report = await waiting
    assert heard[0] == "covet-pg: Switchover in progress, the writer is covet-db-1, not yet covet-db-2"
    assert report.result is not None
    assert report.result["clusterEndpoint"] == f"covet-db-rw.{stage.namespace}.svc"


@pytest.mark.parametrize(
    ("status", "fenced", "reason", "told"),
    [
        ({"phase": "Upgrading cluster"}, None, Reason.DATABASE_NOT_READY, "Upgrading cluster"),
        ({"targetPrimary": "covet-db-3"}, None, Reason.DATABASE_NOT_READY, "no failover can be begun"),
        ({}, '["*"]', Reason.DATABASE_NOT_READY, "fenced at its primary"),
        ({}, '["covet-db-1"]', Reason.DATABASE_NOT_READY, "fenced at its primary"),
        ({}, "not json", Reason.DATABASE_NOT_READY, "fenced at its primary"),
        ({}, '["covet-db-2"]', Reason.NO_REPLICA_READY, "covet-db-2 is not available"),
        (
            {"instancesStatus": {"healthy": ["covet-db-1"]}},
            None,
            Reason.NO_REPLICA_READY,
            "covet-db-2 is not available",
        ),
    ],
)
async def test_is_refused_where_it_could_do_harm(
    stage: Stage, status: Json, fenced: str | None, reason: Reason, told: str
) -> None:
    await stage.set_status(status)
    if fenced:
        await stage.kube.merge_patch(stage.path, {"metadata": {"annotations": {"cnpg.io/fencedInstances": fenced}}})
    with pytest.raises(Refused, match=told.replace("*", r"\*")) as refusal:
        await stage.plan(new_operation(NOW), targetInstance="covet-db-2")
    assert refusal.value.reason is reason


# -- how far the replicas are behind ----------------------------------------------------------------------------------


class Standby(PostgresServer):
    """A standby of a server, by the name of an instance."""

    def __init__(self, primary: PostgresServer, name: str) -> None:
        super().__init__()
        self.password = primary.password
        self._primary = primary
        self._name = name

    def _init(self) -> None:
        source = self._primary.url(application_name=self._name)
        argv = [
            str(self.program("pg_basebackup")),
            "-D",
            str(self.data),
            "-d",
            source,
            "-R",
            "-X",
            "stream",
            "-c",
            "fast",
        ]
        subprocess.run(argv, check=True, capture_output=True)
        with (self.data / "postgresql.conf").open("a") as conf:
            conf.write(f"port = {self.port}\nunix_socket_directories = '{self.folder}'\n")
            conf.write("wal_receiver_status_interval = 1\n")
        owner = self._primary.data.stat()
        for path in [self.folder, *self.folder.rglob("*")]:
            shutil.chown(path, owner.st_uid, owner.st_gid)


@pytest.fixture(scope="module")
def replicated() -> Iterator[tuple[PostgresServer, PostgresServer]]:
    """A server and its standby, which calls itself covet-db-2."""
    with PostgresServer() as primary:
        primary.psql(f"CREATE ROLE paramedic LOGIN PASSWORD '{PASSWORD}'; CREATE TABLE orders (at timestamptz)")
        with Standby(primary, "covet-db-2") as standby:
            yield primary, standby


@pytest.fixture
def through(stage: Stage, replicated: tuple[PostgresServer, PostgresServer], tmp_path: Path) -> Stage:
    """With the connection covet-sql to the server that writes, whose role may see lags."""
    primary, _ = replicated
    primary.psql("GRANT pg_monitor TO paramedic")
    file = tmp_path / "password"
    file.write_text(PASSWORD)
    server = {"host": "127.0.0.1", "port": primary.port, "database": "postgres", "username": "paramedic"}
    entry = {"postgres": server | {"sslmode": "disable", "passwordFile": str(file)}}
    stage.connect({"name": "covet-sql", "namespaces": [stage.namespace]} | entry)
    return stage


async def test_of_replicas_whose_lag_the_writer_tells_the_nearest_is_taken(through: Stage) -> None:
    async def told() -> Change | None:
        found = await through.plan(new_operation(NOW), verifyConnection="covet-sql")
        return found if "behind by covet-sql's pg_stat_replication" in found.message else None

    await through.set_status({"instanceNames": ["covet-db-0", *HEALTHY["instanceNames"]]})
    await through.set_status({"instancesStatus": {"healthy": ["covet-db-0", *HEALTHY["instanceNames"]]}})
    change = await eventually(told, what="the standby is there")
    assert change.after == {"writer": "covet-db-2"}, "of covet-db-0 nothing is known"
    with pytest.raises(Refused, match=r"pg_stat_replication tells no lag of covet-db-3 \(unknownLag: Accept"):
        await through.plan(
            new_operation(NOW), verifyConnection="covet-sql", targetInstance="covet-db-3", maxReplicaLag="1h"
        )
    change = await through.plan(new_operation(NOW), verifyConnection="covet-sql", targetInstance="covet-db-3")
    assert "its lag is not known" in change.message
    assert change.after == {"writer": "covet-db-3"}, "CloudNativePG waits for it, and nobody has set a bound"


async def test_a_replica_that_is_too_far_behind_is_refused(
    through: Stage, replicated: tuple[PostgresServer, PostgresServer]
) -> None:
    primary, standby = replicated
    wanted = {"verifyConnection": "covet-sql", "targetInstance": "covet-db-2", "maxReplicaLag": "200ms"}

    async def refused() -> str:
        try:
            await through.plan(new_operation(NOW), **wanted)
        except Refused as error:
            return str(error) if "behind the writer" in str(error) else ""
        return ""

    standby.psql("SELECT pg_wal_replay_pause()")
    try:
        primary.psql("INSERT INTO orders VALUES (now())")
        told = await eventually(refused, timeout=30, what="the lag is told")
    finally:
        standby.psql("SELECT pg_wal_replay_resume()")
    assert re.search(r"covet-db-2 is [0-9.]+ s behind the writer, more than 200ms", told)

    async def caught_up() -> bool:
        return (await through.plan(new_operation(NOW), **wanted)).after == {"writer": "covet-db-2"}

    await eventually(caught_up, timeout=30, what="it has caught up")


async def test_a_bound_that_nobody_can_check_is_not_passed_over(
    through: Stage, replicated: tuple[PostgresServer, PostgresServer]
) -> None:
    primary, _ = replicated
    primary.psql("REVOKE pg_monitor FROM paramedic")
    bound_of = {"targetInstance": "covet-db-2", "maxReplicaLag": "5s"}
    with pytest.raises(Refused, match=r"no lag of covet-db-2 \(covet-sql: the role sees no lags: GRANT pg_monitor"):
        await through.plan(new_operation(NOW), verifyConnection="covet-sql", **bound_of)
    with pytest.raises(Refused, match="there is no verifyConnection that could tell the lag of covet-db-2") as refusal:
        await through.plan(new_operation(NOW), **bound_of)
    assert refusal.value.reason is Reason.NO_REPLICA_READY
    change = await through.plan(new_operation(NOW), unknownLag="Accept", **bound_of)
    assert "its lag is not known: there is no verifyConnection" in change.message


async def test_an_instance_without_a_pod_is_not_promoted(stage: Stage) -> None:
    change = await stage.plan(new_operation(NOW), targetInstance="covet-db-2")
    await stage.admin.delete("v1/pods", "covet-db-2", stage.namespace, {"gracePeriodSeconds": 0})
    await eventually(lambda: gone(stage), what="the pod is gone")
    with pytest.raises(Exception, match="the pod covet-db-2 of the new primary does not exist"):
        await ACTION.apply(change, stage.clients)
    assert (await stage.get())["status"]["targetPrimary"] == "covet-db-1"


async def test_the_components_rights_are_enough_and_without_them_it_says_what_lacks(
    installed: Access, crd: None, admin: Api, kube: Kube, namespace: str, tmp_path: Path
) -> None:
    stage = Stage(admin, kube, namespace)
    await stage.create()
    token = installed.service_account_token("paramedic-system", "paramedic")
    text = kubeconfig_text(installed.credentials().url, installed.credentials().ca, token)
    file = write_private(tmp_path / "kubeconfig", text)
    async with Kube(await load_configuration(file)) as own:
        mine = Stage(admin, own, namespace)
        with pytest.raises(Refused, match='cannot get resource "clusters"'):
            await mine.observe()
        installed.kubectl("apply", "-f", COMPONENT)
        try:
            await eventually(mine.observe, what="the rights are in force")
            change = await mine.plan(new_operation(NOW), targetInstance="covet-db-2")
            await ACTION.apply(change, mine.clients)
        finally:
            installed.kubectl("delete", "-f", COMPONENT)
    assert (await stage.get())["status"]["targetPrimary"] == "covet-db-2"


async def gone(stage: Stage) -> bool:
    return await stage.admin.find("v1/pods", "covet-db-2", stage.namespace) is None


async def test_a_secret_cannot_stand_for_a_cluster(stage: Stage) -> None:
    """Its author might not have the operator's rights on it."""
    secret = {
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": {"name": "mine", "labels": {"paramedic.dev/connection": "true"}},
        "stringData": {"type": "cloudNativePG", "cluster": "covet-db", "namespace": stage.namespace},
    }
    await stage.admin.create(secret, stage.namespace)
    with pytest.raises(Terminal, match="for Paramedic's settings only"):
        await ACTION.observe(bound("Connection", stage.namespace, "mine"), stage.clients)
