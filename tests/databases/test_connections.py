"""Connections: from the settings, from Secrets on a real API server, and what they never do."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from databases.bed import NAMESPACE, PASSWORD, clients_of, postgres_entry
from paramedic.actions.base import Clients
from paramedic.api.connection import ConnectionSettings
from paramedic.api.reasons import Reason
from paramedic.clients import extras
from paramedic.clients.connections import Connections
from paramedic.clients.kube import Kube, load_configuration
from paramedic.clients.postgres import Postgres
from paramedic.clients.rds_token import rds_token
from paramedic.errors import Refused, Terminal, Unreachable
from paramedic.policies import read_policy
from paramedic.settings import SettingsError, load_settings
from testbed.access import Access
from testbed.api import Api
from testbed.ports import Ports
from testbed.postgres import PostgresServer

MakeClients = Callable[..., Clients]


async def _postgres(clients: Clients) -> Postgres:
    assert clients.connections is not None
    return await clients.connections.postgres(NAMESPACE, "covet-db")


async def _ask(database: Postgres, query: Any = "SELECT 1 AS one") -> Any:
    async with database.session() as session:
        return (await session.rows(query))[0]


# -- sessions ----------------------------------------------------------------------------------------------------------


async def test_a_session_has_limits_and_a_name(clients: MakeClients) -> None:
    shown = await _ask(
        await _postgres(clients()),
        "SELECT current_setting('statement_timeout') AS statements, current_setting('lock_timeout') AS locks, "
        "current_setting('idle_in_transaction_session_timeout') AS idle, current_setting('search_path') AS path, "
        "current_setting('application_name') AS name",
    )
    assert shown == {"statements": "10s", "locks": "10s", "idle": "10s", "path": "pg_catalog", "name": "paramedic"}


async def test_a_statement_that_takes_too_long_is_given_up(clients: MakeClients) -> None:
    database = await _postgres(clients())
    async with database.session(statement_seconds=0.3) as session:
        with pytest.raises(Unreachable, match=r"longer than 0\.3 s"):
            await session.rows("SELECT pg_sleep(5)")


async def test_the_sessions_of_a_large_server_can_be_read(clients: MakeClients) -> None:
    """As many as 5,000, with a thousand characters of their statements."""
    columns = ", ".join(f"n AS c{number}" for number in range(15))
    query: Any = f"SELECT {columns}, repeat('x', 1000) AS query FROM generate_series(1, 5000) n"
    async with (await _postgres(clients())).session() as session:
        rows = await session.rows(query)
    assert len(rows) == 5000
    assert {len(row["query"]) for row in rows} == {1000}


async def test_two_sessions_at_once_at_the_most(clients: MakeClients, postgres: PostgresServer) -> None:
    made = clients()
    most = 0

    async def one() -> None:
        nonlocal most
        async with (await _postgres(made)).session() as session:
            found = await session.rows(
                "SELECT count(*) AS n FROM pg_stat_activity WHERE application_name = 'paramedic'"
            )
            most = max(most, found[0]["n"])
            await asyncio.sleep(0.05)

    await asyncio.gather(*(one() for _ in range(8)))
    assert most == 2
    assert postgres.psql("SELECT count(*) FROM pg_stat_activity WHERE application_name = 'paramedic'") in ("0", "1")


async def test_the_password_file_is_read_for_each_session(clients: MakeClients, tmp_path: Path) -> None:
    made = clients()
    (tmp_path / "db-password").write_text("rotated away")
    with pytest.raises(Unreachable):
        await _ask(await _postgres(made))
    (tmp_path / "db-password").write_text(PASSWORD)
    assert await _ask(await _postgres(made)) == {"one": 1}


async def test_a_wrong_password_is_said_and_not_shown(postgres: PostgresServer, tmp_path: Path) -> None:
    database = await _postgres(clients_of(postgres_entry(postgres.port, tmp_path, "wr0ng-p4ss")))
    with pytest.raises(Unreachable, match='password authentication failed for user "paramedic"') as caught:
        await _ask(database)
    assert "wr0ng-p4ss" not in str(caught.value) + repr(caught.value.__cause__)


async def test_nobody_there(tmp_path: Path) -> None:
    ports = Ports()
    database = await _postgres(clients_of(postgres_entry(ports.reserve(), tmp_path)))
    with pytest.raises(Unreachable, match=r"(?i)refused"):
        await _ask(database)
    ports.release()


async def test_a_password_file_that_is_missing(clients: MakeClients, tmp_path: Path) -> None:
    made = clients(passwordFile=str(tmp_path / "nowhere"))
    with pytest.raises(Terminal, match="cannot be read: No such file"):
        await _ask(await _postgres(made))


async def test_another_role_of_the_database_cannot_put_itself_in_between(
    clients: MakeClients, postgres: PostgresServer
) -> None:
    """A function of the application's in `public` is not found, whatever its name."""
    trap = "CREATE FUNCTION public.pg_has_role(name, text, text) RETURNS bool LANGUAGE sql AS 'SELECT 1/0 = 1'"
    postgres.psql(trap, database="covet", user="app", password=PASSWORD)
    try:
        shown = await _ask(
            await _postgres(clients()), "SELECT pg_has_role('paramedic'::name, 'pg_monitor', 'USAGE') AS fine"
        )
        assert shown == {"fine": True}
    finally:
        postgres.psql("DROP FUNCTION public.pg_has_role(name, text, text)", database="covet")


# -- TLS ---------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def tls_server() -> Any:
    with PostgresServer(tls=True) as server:
        yield server


def _tls_entry(server: PostgresServer, folder: Path, **more: Any) -> dict[str, Any]:
    given = {"username": "postgres", "database": "postgres", "sslmode": "verify-full", "host": "localhost"}
    return postgres_entry(server.port, folder, server.password, **(given | more))


async def test_tls_is_verified(tls_server: PostgresServer, tmp_path: Path) -> None:
    assert tls_server.certificates is not None
    trusted = _tls_entry(tls_server, tmp_path, caFile=str(tls_server.certificates.ca))
    query = "SELECT ssl AS tls FROM pg_stat_ssl WHERE pid = pg_backend_pid()"
    assert await _ask(await _postgres(clients_of(trusted)), query) == {"tls": True}
    with pytest.raises(Unreachable, match=r"(?i)certificate"):
        await _ask(await _postgres(clients_of(_tls_entry(tls_server, tmp_path))))


async def test_a_certificate_of_another_name_is_refused(tmp_path: Path) -> None:
    with PostgresServer(tls=True, names=("db.example.com",)) as server:
        assert server.certificates is not None
        entry = _tls_entry(server, tmp_path, caFile=str(server.certificates.ca))
        with pytest.raises(Unreachable, match="does not match host name"):
            await _ask(await _postgres(clients_of(entry)))


async def test_a_server_without_tls_is_refused(postgres: PostgresServer, tmp_path: Path) -> None:
    entry = postgres_entry(postgres.port, tmp_path, sslmode="verify-full")
    with pytest.raises(Unreachable, match=r"(?i)ssl"):
        await _ask(await _postgres(clients_of(entry)))


async def test_a_token_of_aws_iam_is_the_password(
    tls_server: PostgresServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """RDS takes it in clear text within TLS; here a server of ours asks for it so, and refuses it."""
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKIDEXAMPLE")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "s3cr3t-k3y")
    assert tls_server.certificates is not None
    entry = _tls_entry(tls_server, tmp_path, caFile=str(tls_server.certificates.ca), iamRegion="eu-west-1")
    del entry["postgres"]["passwordFile"]
    database = await _postgres(clients_of(entry))
    token = await rds_token("eu-west-1", database.server)
    assert token.startswith(f"localhost:{tls_server.port}/?Action=connect&DBUser=postgres&")
    assert "AKIDEXAMPLE" in token
    with pytest.raises(Unreachable, match="password authentication failed") as caught:
        await _ask(database)
    assert "X-Amz" not in str(caught.value) + repr(caught.value.__cause__)


def test_verified_is_the_default() -> None:
    server = {"host": "db", "database": "d", "username": "u"}
    found = ConnectionSettings.model_validate({"name": "a", "namespaces": ["x"], "postgres": server}).endpoint
    assert found.sslmode == "verify-full"  # type: ignore[union-attr]
    redis = ConnectionSettings.model_validate({"name": "a", "namespaces": ["x"], "redis": {"host": "r"}}).endpoint
    assert redis.tls  # type: ignore[union-attr]


# -- which connection a name stands for --------------------------------------------------------------------------------


SERVER = {"host": "db.example.com", "database": "d", "username": "u"}


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ({"name": "a", "postgres": SERVER}, "namespaces"),
        ({"name": "a", "namespaces": [], "postgres": SERVER}, "namespaces"),
        ({"name": "a", "namespaces": ["*"], "postgres": SERVER}, "namespaces"),
        ({"name": "a", "namespaces": ["x"]}, "exactly one of"),
        ({"name": "a", "namespaces": ["x"], "postgres": SERVER, "redis": {"host": "r"}}, "exactly one of"),
        ({"name": "a", "namespaces": ["x"], "postgres": SERVER | {"password": "p"}}, "password"),
        ({"name": "a", "namespaces": ["x"], "postgres": SERVER | {"host": "db sslmode=disable"}}, "host"),
        ({"name": "a", "namespaces": ["x"], "postgres": SERVER | {"sslmode": "prefer"}}, "sslmode"),
        ({"name": "a", "namespaces": ["x"], "aurora": {"cluster": "c"}}, "region"),
        ({"name": "a", "namespaces": ["x"], "postgres": SERVER | {"iamRegion": "Europe"}}, "iamRegion"),
        (
            {"name": "a", "namespaces": ["x"], "postgres": SERVER | {"iamRegion": "eu-west-1", "passwordFile": "/p"}},
            "takes no passwordFile",
        ),
        (
            {"name": "a", "namespaces": ["x"], "postgres": SERVER | {"iamRegion": "eu-west-1", "sslmode": "require"}},
            "verifies the server",
        ),
        ({"name": "a", "namespaces": ["x"], "aws": {"region": "eu-west-1", "endpointURL": "file:///x"}}, "endpointURL"),
    ],
)
def test_wrong_settings_are_refused(entry: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        ConnectionSettings.model_validate(entry)


async def test_a_missing_library_is_said(clients: MakeClients, monkeypatch: pytest.MonkeyPatch) -> None:
    made = clients()
    monkeypatch.setitem(extras._LIBRARIES, "postgres", "no_such_library")
    with pytest.raises(Terminal, match=r"pip install 'paramedic\[postgres\]'") as caught:
        await _postgres(made)
    assert caught.value.reason is Reason.EXTRA_MISSING


def test_a_policy_that_needs_a_missing_library_is_not_ready(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(extras._LIBRARIES, "redis", "no_such_library")
    queue = {"connection": "covet-queue", "key": "jobs", "perReplica": 10, "max": 5}
    _, problem = read_policy(_policy({"name": "workers", "scaleByQueue": queue}), "paramedic-system")
    assert problem is not None
    assert "steps.workers: scaleByQueue needs a library" in problem
    assert "pip install 'paramedic[redis]'" in problem
    assert read_policy(_policy({"name": "more", "scale": {"replicas": 3}}), "paramedic-system")[1] is None


def test_a_policy_whose_pattern_is_none_is_not_ready() -> None:
    step = {"name": "long", "terminateQueries": {"olderThan": "1m", "queryPattern": "("}}
    _, problem = read_policy(_policy(step, target={"kind": "Connection", "name": "covet-db"}), "paramedic-system")
    assert problem is not None
    assert "not a regular expression of RE2" in problem


def _policy(step: dict[str, Any], **spec: Any) -> dict[str, Any]:
    body = {"match": {"incidents": {}}, "target": {"name": "covet-app"}, "steps": [step]} | spec
    return {"metadata": {"name": "p", "namespace": "covet"}, "spec": body}


async def _secret(admin: Api, namespace: str, values: dict[str, str], *, labelled: bool = True) -> None:
    labels = {"paramedic.dev/connection": "true"} if labelled else {}
    body = {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "covet-db", "labels": labels}}
    await admin.create(body | {"stringData": values}, namespace)


async def test_a_secret_of_the_namespace(admin: Api, kube: Kube, namespace: str, tls_server: PostgresServer) -> None:
    assert tls_server.certificates is not None
    values = {
        "type": "postgres",
        "host": "localhost",
        "port": str(tls_server.port),
        "database": "postgres",
        "username": "postgres",
        "password": tls_server.password + "\n",
        "ca.crt": tls_server.certificates.ca.read_text(),
    }
    await _secret(admin, namespace, values)
    found = await Connections([], kube, allow_loopback=True).postgres(namespace, "covet-db")
    assert await _ask(found) == {"one": 1}
    assert tls_server.password not in repr(found) + repr(vars(found))
    with pytest.raises(Terminal, match="of type postgres, not redis"):
        await Connections([], kube).redis(namespace, "covet-db")


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1", "169.254.169.254", "::1"])
async def test_a_secret_cannot_lead_to_the_operators_own_machine(
    admin: Api, kube: Kube, namespace: str, host: str
) -> None:
    values = {"type": "redis", "host": host, "tls": "false"}
    if host == "::1":
        values["host"] = "0:0:0:0:0:0:0:1"
    await _secret(admin, namespace, values)
    queue = await Connections([], kube).redis(namespace, "covet-db")
    with pytest.raises(Terminal, match="never asked") as caught:
        async with queue.session() as session:
            await session.call("PING")
    assert caught.value.reason is Reason.CONNECTION_FAILED


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"type": "mysql"}, "type must be one of"),
        ({}, "type must be one of"),
        ({"type": "postgres", "host": "db", "database": "d", "username": "u", "pasword": "hunter2"}, "pasword"),
        (
            {"type": "postgres", "host": "db", "database": "d", "username": "u", "passwordFile": "/etc/x"},
            "passwordFile",
        ),
        ({"type": "postgres", "host": "db", "database": "d", "username": "u", "port": "hunter2"}, "port"),
        ({"type": "aurora", "cluster": "c", "region": "eu-west-1"}, "accessKeyId"),
        (
            {
                "type": "aws",
                "region": "eu-west-1",
                "accessKeyId": "A" * 20,
                "secretAccessKey": "hunter2",
                "endpointURL": "http://169.254.169.254",
            },
            "endpointURL is for Paramedic's settings only",
        ),
    ],
)
async def test_wrong_secrets_are_refused_without_their_values(
    admin: Api, kube: Kube, namespace: str, values: dict[str, str], message: str
) -> None:
    await _secret(admin, namespace, values)
    with pytest.raises(Terminal, match=message) as caught:
        await Connections([], kube).find(namespace, "covet-db")
    assert caught.value.reason is Reason.CONNECTION_UNKNOWN
    assert "hunter2" not in str(caught.value)


async def test_a_secret_that_is_not_meant_as_one(admin: Api, kube: Kube, namespace: str) -> None:
    await _secret(admin, namespace, {"type": "redis", "host": "r"}, labelled=False)
    with pytest.raises(Terminal, match="has no label"):
        await Connections([], kube).find(namespace, "covet-db")


async def test_settings_of_another_namespace_do_not_count(kube: Kube, namespace: str, tmp_path: Path) -> None:
    entry = ConnectionSettings.model_validate(postgres_entry(5432, tmp_path))
    with pytest.raises(Terminal, match=f"no connection covet-db for namespace {namespace}") as caught:
        await Connections([entry], kube).find(namespace, "covet-db")
    assert caught.value.reason is Reason.CONNECTION_UNKNOWN


async def test_a_missing_right_on_the_secret_is_said_with_the_role(
    admin: Api, installed: Access, namespace: str
) -> None:
    """As the operator's own ServiceAccount, which may read no Secret; the Role in the message is what it takes."""
    await _secret(admin, namespace, {"type": "redis", "host": "r.example.com"})
    token = installed.service_account_token("paramedic-system", "paramedic")
    file = installed.kubeconfig_for(token)
    async with Kube(await load_configuration(file)) as own:
        connections = Connections([], own)
        with pytest.raises(Refused, match="kubectl create role paramedic-connection-covet-db") as caught:
            await connections.find(namespace, "covet-db")
        commands = str(caught.value).partition("to allow it: ")[2].split(" && ")
        for command in commands:
            installed.kubectl(*command.split()[1:])
        assert (await connections.find(namespace, "covet-db")).type == "redis"


def test_the_settings_file_names_connections_in_camel_case(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "paramedic.yaml"
    file.write_text(
        "connections:\n"
        "- name: covet-db\n"
        "  namespaces: [covet]\n"
        "  postgres: {host: db.example.com, database: covet, username: paramedic, passwordFile: /secrets/p}\n"
        "- name: covet-alb\n"
        "  namespaces: [covet]\n"
        "  aurora: {cluster: covet-aurora, region: eu-west-1, endpointURL: 'http://127.0.0.1:5000'}\n"
    )
    monkeypatch.setenv("PARAMEDIC_CONFIG", str(file))
    database, cluster = load_settings().connections
    assert database.postgres is not None
    assert database.postgres.password_file == Path("/secrets/p")
    assert cluster.aurora is not None
    assert cluster.aurora.endpoint_url == "http://127.0.0.1:5000"
    file.write_text("connections:\n- name: a\n  namespaces: [covet]\n  postgres: {host: db}\n")
    with pytest.raises(SettingsError, match=r"connections\[0\]\.postgres\.database: is needed"):
        load_settings()
