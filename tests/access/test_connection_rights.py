"""Who may have Paramedic act on what is outside of the cluster: RBAC's virtual resource `connections`."""

import contextlib
from collections.abc import AsyncIterator, Callable

import pytest

from access.people import Json, Teams, allowed, incident, policy, refused, settle
from testbed.access import Access
from testbed.api import Api, eventually

Login = Callable[[str], Api]
DATABASE: Json = {"kind": "Connection", "name": "covet-db"}
LONG: Json = {"name": "long", "terminateQueries": {"olderThan": "10m"}}
QUEUE: Json = {
    "name": "workers",
    "scaleByQueue": {"connection": "covet-queue", "key": "jobs", "perReplica": 10, "max": 5},
}


@pytest.fixture(scope="module")
def teams(installed: Access) -> Teams:
    return settle(installed)


@pytest.fixture
async def login(admin: Api, teams: Teams) -> AsyncIterator[Login]:
    async with contextlib.AsyncExitStack() as stack:
        clients = {who: await stack.enter_async_context(admin.with_token(token)) for who, token in teams.tokens.items()}
        yield clients.__getitem__


async def test_who_may_edit_the_namespace_may_use_its_connections(login: Login, teams: Teams) -> None:
    await allowed(login("dev"), policy(target=DATABASE, steps=[LONG]), teams.a)
    await allowed(login("dev"), incident(target=DATABASE), teams.a)


@pytest.mark.parametrize("who", ["owner", "clerk"])
async def test_a_right_on_paramedics_resources_includes_connections(login: Login, teams: Teams, who: str) -> None:
    await allowed(login(who), policy(target=DATABASE, steps=[LONG]), teams.a)


@pytest.mark.parametrize("who", ["viewer", "desk", "neighbour"])
async def test_others_may_not(login: Login, teams: Teams, who: str) -> None:
    await refused(login(who).create(policy(target=DATABASE, steps=[LONG]), teams.a))


@pytest.mark.parametrize("who", ["guest-approver", "desk"])
async def test_an_incident_that_names_a_connection_needs_the_right_on_it(login: Login, teams: Teams, who: str) -> None:
    words = ("may not patch connections/covet-db",) if who == "desk" else ()
    await refused(login(who).create(incident(target=DATABASE), teams.a), *words)


async def test_scaling_by_a_queue_needs_what_it_changes_and_asks(login: Login, teams: Teams) -> None:
    await allowed(login("boss"), policy(steps=[QUEUE]), teams.a)
    await refused(login("narrow").create(policy(steps=[QUEUE]), teams.a), "may not patch horizontalpodautoscalers")
    await allowed(login("dev"), policy(steps=[QUEUE]), teams.a)
    keda = QUEUE | {"scaleByQueue": QUEUE["scaleByQueue"] | {"scaledObject": "Patch"}}
    await refused(login("dev").create(policy(steps=[keda]), teams.a), "may not patch scaledobjects")


async def test_scaling_what_keda_owns_needs_the_right_on_its_object(login: Login, teams: Teams) -> None:
    plain = {"name": "more", "scale": {"replicas": 5}}
    await allowed(login("dev"), policy(steps=[plain]), teams.a)
    keda = {"name": "more", "scale": {"replicas": 5, "scaledObject": "Patch"}}
    await refused(login("dev").create(policy(steps=[keda]), teams.a), "may not patch scaledobjects")
    await allowed(login("boss"), policy(steps=[keda]), teams.a)


@pytest.mark.parametrize("procedure", ["shutdown", "recover"])
async def test_pausing_keda_in_an_emergency_needs_the_right_on_its_object(
    login: Login, teams: Teams, procedure: str
) -> None:
    plain = {"name": "go", "approval": "Required", procedure: {"workloads": [{"name": "covet-app"}]}}
    await allowed(login("dev"), policy(steps=[plain]), teams.a)
    keda = plain | {procedure: plain[procedure] | {"scaledObject": "Patch"}}
    await refused(login("dev").create(policy(steps=[keda]), teams.a), "may not patch scaledobjects")
    await allowed(login("boss"), policy(steps=[keda]), teams.a)


async def test_a_failover_needs_what_it_changes_afterwards_and_asks(login: Login, teams: Teams) -> None:
    config = {"name": "failover", "databaseFailover": {"configMap": {"name": "covet-config"}}}
    await allowed(login("dev"), policy(target=DATABASE, steps=[config]), teams.a)
    await refused(login("clerk").create(policy(target=DATABASE, steps=[config]), teams.a), "may not patch")
    await refused(login("keeper").create(policy(target=DATABASE, steps=[config]), teams.a), "may not patch deployments")
    alone = {"name": "failover", "databaseFailover": {"configMap": {"name": "covet-config", "restart": "None"}}}
    await allowed(login("keeper"), policy(target=DATABASE, steps=[alone]), teams.a)
    words = "may not patch configmaps/covet-config"
    await refused(login("clerk").create(policy(target=DATABASE, steps=[alone]), teams.a), words)


@pytest.mark.parametrize(
    "step",
    [
        {"databaseFailover": {"verifyConnection": "covet-sql"}},
        {"awaitDatabase": {"verifyConnection": "covet-sql"}},
        {"captureEvidence": {"snapshots": {"connection": "covet-sql"}}},
        {"captureEvidence": {"databaseDump": {"connection": "covet-sql"}}},
        {"diagnose": {"connections": [{"name": "covet-db"}, {"name": "covet-sql"}]}},
    ],
)
async def test_a_connection_that_is_only_used_needs_the_right_on_it_too(
    login: Login, admin: Api, teams: Teams, step: Json
) -> None:
    """Somebody may write policies and use the database, and no other connection."""
    one = {"apiGroups": ["paramedic.dev"], "resources": ["connections"], "resourceNames": ["covet-db"]}
    writing = {"apiGroups": ["paramedic.dev"], "resources": ["remediationpolicies"], "verbs": ["create"]}
    role = {
        "apiVersion": "rbac.authorization.k8s.io/v1",
        "kind": "Role",
        "metadata": {"name": "one-connection"},
        "rules": [one | {"verbs": ["patch"]}, writing],
    }
    if await admin.find("rbac.authorization.k8s.io/v1/roles", "one-connection", teams.a) is None:
        await admin.create(role, teams.a)
        binding = {
            "apiVersion": "rbac.authorization.k8s.io/v1",
            "kind": "RoleBinding",
            "metadata": {"name": "one-connection"},
            "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": "one-connection"},
            "subjects": [{"kind": "ServiceAccount", "name": "viewer", "namespace": teams.people}],
        }
        await admin.create(binding, teams.a)
    name, params = next(iter(step.items()))
    using = ("verifyConnection", "snapshots", "databaseDump", "connections")
    plain = {"name": "s", name: {k: v for k, v in params.items() if k not in using}}
    await eventually(lambda: allowed(login("viewer"), policy(target=DATABASE, steps=[plain]), teams.a))
    wanted = policy(target=DATABASE, steps=[{"name": "s"} | step])
    await refused(login("viewer").create(wanted, teams.a), "may not patch connections/covet-sql")
