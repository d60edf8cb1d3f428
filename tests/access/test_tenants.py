"""What a tenant cannot make Paramedic do, asked of the API server with tenants' own tokens."""

import contextlib
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest

from access.people import INCIDENTS, POLICIES, Json, Teams, allowed, incident, policy, refused, settle
from testbed.access import Access
from testbed.api import Api, eventually

Login = Callable[[str], Api]


@pytest.fixture(scope="module")
def teams(installed: Access) -> Teams:
    return settle(installed)


@pytest.fixture
async def login(admin: Api, teams: Teams) -> AsyncIterator[Login]:
    """Clients of the people, by name."""
    async with contextlib.AsyncExitStack() as stack:
        clients = {who: await stack.enter_async_context(admin.with_token(token)) for who, token in teams.tokens.items()}
        yield clients.__getitem__


@pytest.fixture
async def operator(admin: Api, installed: Access) -> AsyncIterator[Api]:
    """Paramedic's own identity."""
    async with admin.with_token(installed.service_account_token("paramedic-system", "paramedic")) as api:
        yield api


@pytest.fixture
async def stored(admin: Api, teams: Teams, request: pytest.FixtureRequest) -> AsyncIterator[Callable[..., Any]]:
    """Stores a manifest in team a as the cluster's admin, for this test only."""
    kept = []

    async def store(manifest: Json, namespace: str = teams.a) -> str:
        made = await admin.create(manifest, namespace)
        kept.append((made["kind"], made["metadata"]["name"], namespace))
        return str(made["metadata"]["name"])

    yield store
    for kind, name, namespace in kept:
        await admin.delete(INCIDENTS if kind == "Incident" else POLICIES, name, namespace)


# -- policies ---------------------------------------------------------------------------------------------------------


async def test_who_may_patch_the_target_may_write_a_policy_for_it(login: Login, teams: Teams) -> None:
    await allowed(login("dev"), policy(steps=[{"name": "more", "scale": {"replicas": 5}}]), teams.a)
    await allowed(login("narrow"), policy(), teams.a)


async def test_who_may_change_configuration_and_traffic_by_hand_may_write_a_policy_for_it(
    login: Login, teams: Teams
) -> None:
    values = {"data": {"A": "x"}, "valueFrom": [FOREIGN]}
    steps = [CONFIG | {"patchConfig": values}, BLOCK | {"blockTraffic": {"method": "NetworkPolicy"}}]
    await allowed(login("dev"), policy(steps=steps), teams.a)
    steps = [CONFIG | {"patchConfig": {"data": {"A": "x"}, "restart": "None"}}, BLOCK | {"blockTraffic": {}}]
    await allowed(login("keeper"), policy(steps=steps), teams.a)


async def test_who_may_limit_requests_by_hand_may_write_a_policy_for_it(login: Login, teams: Teams) -> None:
    by_mesh = [{"name": "limit", "rateLimit": {"method": "EnvoyFilter"}}]
    await allowed(login("boss"), policy(steps=by_mesh), teams.a)
    by_nginx = [{"name": "limit", "rateLimit": {"method": "Ingress"}, "target": {"kind": "Ingress", "name": "i"}}]
    await allowed(login("dev"), policy(steps=by_nginx), teams.a)


async def test_the_largest_policy_stays_within_the_budget_of_checks(login: Login, teams: Teams) -> None:
    steps = [{"name": f"s{i}", "scale": {"replicas": 2}, "target": {"name": "d" * 200 + str(i)}} for i in range(16)]
    await allowed(login("dev"), policy(steps=steps), teams.a)


@pytest.mark.parametrize("number", range(16))
async def test_no_step_is_overlooked(login: Login, teams: Teams, number: int) -> None:
    """Each of the numbered checks does its work: one foreign target among fifteen that are allowed."""
    names = ["other" if i == number else "covet-app" for i in range(16)]
    steps = [{"name": f"s{i}", "restart": {}, "target": {"name": name}} for i, name in enumerate(names)]
    await refused(login("narrow").create(policy(target=None, steps=steps), teams.a), "deployments/other in")


OTHER = {"kind": "Deployment", "name": "other"}
STATEFUL = {"kind": "StatefulSet", "name": "covet-db"}
COLLECTION = {"kind": "Deployment", "nameFromLabel": "deployment"}
RESTART = {"name": "again", "restart": {}}


async def test_who_may_run_jobs_and_scale_by_hand_may_write_a_policy_for_it(login: Login, teams: Teams) -> None:
    await allowed(login("runner"), policy(steps=[{"name": "j", "runJob": JOB}]), teams.a)
    await allowed(login("dev"), policy(steps=[{"name": "j", "runJob": JOB_AS}]), teams.a)
    objects = {"services": ["s"], "workloads": [{"name": "covet-app"}]}
    shutdown, recover = (
        {"name": "s", "shutdown": objects},
        {"name": "r", "recover": objects | {"databaseCheck": JOB_AS}},
    )
    await allowed(login("keeper"), policy(target=None, steps=[shutdown]), teams.a)
    await allowed(login("dev"), policy(target=None, steps=[shutdown, recover]), teams.a)


async def test_the_largest_procedures_stay_within_the_budget_of_checks(login: Login, teams: Teams) -> None:
    names = [f"{'n' * 240}{number}" for number in range(8)]
    objects = {"services": names, "workloads": [{"name": name} for name in names]}
    steps = [{"name": "r", "recover": objects | {"databaseCheck": JOB_AS}}]
    await allowed(login("dev"), policy(target=None, steps=steps), teams.a)


async def test_the_short_way_for_many_namespaces_overlooks_no_procedure(admin: Api, login: Login, teams: Teams) -> None:
    """Who writes Paramedic's own policies, and has no right elsewhere."""
    steps = [{"name": "s", "shutdown": {"workloads": [{"name": "covet-app"}]}}]
    made = policy(target=None, steps=steps, namespaces=[teams.a, *(f"n{i}" for i in range(30))])
    role = {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "paramedic-edit"}
    clerk = [{"kind": "ServiceAccount", "name": "clerk", "namespace": teams.people}]
    binding = {"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "RoleBinding", "metadata": {"name": teams.people}}
    await admin.create(binding | {"roleRef": role, "subjects": clerk}, "paramedic-system")
    words = "31 rights would have to be checked one by one"
    await eventually(lambda: refused(login("clerk").create(made, "paramedic-system"), words), what="it is refused")


CONTAINER = {"name": "c", "image": "i:1"}
JOB = {"template": {"spec": {"containers": [CONTAINER]}}}
JOB_AS = {"template": {"spec": {"containers": [CONTAINER], "serviceAccountName": "migrator"}}}
CONFIG = {"name": "c", "target": {"kind": "ConfigMap", "name": "c"}}
FOREIGN = {"key": "A", "secretName": "foreign", "secretKey": "a"}
BLOCK = {"name": "b", "target": {"kind": "Service", "name": "s"}}


@pytest.mark.parametrize(
    ("who", "change", "words"),
    [
        ("clerk", {}, ["may not patch deployments/covet-app in team-a"]),
        ("narrow", {"target": OTHER}, ["deployments/other in"]),
        (
            "narrow",
            {"target": COLLECTION, "match": {"alerts": [{"matchers": ["a=b"]}]}},
            ["may not patch deployments in"],
        ),
        ("narrow", {"target": {"kind": "StatefulSet", "name": "covet-app"}}, ["statefulsets/covet-app"]),
        ("narrow", {"target": {"kind": "DaemonSet", "name": "covet-app"}}, ["daemonsets/covet-app"]),
        ("narrow", {"steps": [RESTART, {"name": "b", "restart": {}, "target": OTHER}]}, ["deployments/other in"]),
        ("narrow", {"target": None, "steps": [{**RESTART, "target": COLLECTION}]}, ["may not patch deployments in"]),
        (
            "narrow",
            {"steps": [{"name": "s", "scale": {"replicas": 2}}]},
            ["horizontalpodautoscalers in", "scale moves"],
        ),
        ("narrow", {"steps": [{"name": "j", "runJob": JOB}]}, ["may not create jobs in team-a"]),
        (
            "runner",
            {"steps": [{"name": "j", "runJob": JOB_AS}]},
            ["may not impersonate serviceaccounts/migrator in team-a", "the verb impersonate"],
        ),
        (
            "narrow",
            {"target": None, "steps": [{"name": "s", "shutdown": {"services": ["s"]}}]},
            ["may not patch services/s in team-a"],
        ),
        (
            "keeper",
            {
                "target": None,
                "steps": [{"name": "s", "shutdown": {"services": ["s"], "workloads": [{"name": "other"}]}}],
            },
            ["may not patch deployments/other in team-a"],
        ),
        (
            "narrow",
            {"target": None, "steps": [{"name": "s", "shutdown": {"workloads": [STATEFUL]}}]},
            ["may not patch statefulsets/covet-db in team-a"],
        ),
        (
            "keeper",
            {
                "target": None,
                "steps": [{"name": "r", "recover": {"services": ["s"], "workloads": [{"name": "covet-app"}]}}],
            },
            ["may not patch horizontalpodautoscalers in team-a"],
        ),
        ("narrow", {"steps": [CONFIG | {"patchConfig": {"data": {"A": "x"}, "restart": "None"}}]}, ["configmaps/c in"]),
        (
            "keeper",
            {"steps": [CONFIG | {"patchConfig": {"data": {"A": "x"}}}]},
            ["may not patch deployments in team-a"],
        ),
        (
            "keeper",
            {"steps": [CONFIG | {"patchConfig": {"data": {"A": "x"}, "restart": "Named", "workloads": [OTHER]}}]},
            ["may not patch deployments/other in team-a"],
        ),
        (
            "keeper",
            {"steps": [CONFIG | {"patchConfig": {"valueFrom": [FOREIGN], "restart": "None"}}]},
            ["may not get secrets/foreign in team-a", "the verb get"],
        ),
        (
            "keeper",
            {
                "target": {"kind": "Secret", "name": "s"},
                "steps": [
                    {
                        "name": "s",
                        "patchConfig": {"valueFrom": [{"key": "A", "secretName": "other", "secretKey": "a"}]},
                    }
                ],
            },
            ["may not patch secrets/s in team-a"],
        ),
        ("narrow", {"steps": [BLOCK | {"blockTraffic": {}}]}, ["may not patch services/s in team-a"]),
        (
            "keeper",
            {"steps": [BLOCK | {"blockTraffic": {"method": "NetworkPolicy"}}]},
            ["may not create networkpolicies in team-a"],
        ),
        (
            "dev",
            {"steps": [{"name": "s", "rateLimit": {"method": "EnvoyFilter"}}]},
            ["may not create envoyfilters in team-a", "the verb create"],
        ),
        (
            "dev",
            {"steps": [{"name": "s", "rateLimit": {"method": "BackendTrafficPolicy"}}]},
            ["may not create backendtrafficpolicies in team-a"],
        ),
        (
            "narrow",
            {"target": {"kind": "Ingress", "name": "i"}, "steps": [{"name": "s", "rateLimit": {"method": "Ingress"}}]},
            ["may not patch ingresses/i in team-a"],
        ),
        (
            "narrow",
            {"steps": [{"name": f"s{i}", "restart": {}, "target": {"name": f"d{i}"}} for i in range(16)]},
            ["deployments/d0 in"],
        ),
    ],
)
async def test_a_policy_cannot_do_what_its_author_could_not(
    login: Login, teams: Teams, stored: Callable[..., Any], who: str, change: Json, words: list[str]
) -> None:
    await refused(login(who).create(policy(**change), teams.a), *words)
    name = await stored(policy("mine"))
    changed = await _changed(login(who), teams.a, name, change or {"mode": "Auto"})
    await refused(login(who).replace(changed, teams.a), *words)


async def _changed(api: Api, namespace: str, name: str, change: Json) -> Json:
    found = await api.get(POLICIES, name, namespace)
    found["spec"] = {k: v for k, v in (found["spec"] | change).items() if v is not None}
    return found


@pytest.mark.parametrize(
    "where",
    [
        {"spec": {"namespaces": ["{b}"]}},
        {"metadata": {"namespace": "{b}"}},
        {"spec": {"target": {"kind": "Deployment", "name": "covet-app", "namespace": "{b}"}}},
        {"spec": {"steps": [{"name": "a", "restart": {}, "target": {"name": "covet-app", "namespace": "{b}"}}]}},
        {"spec": {"target": {"kind": "Deployment", "name": "../../{b}/deployments/covet-app"}}},
        {"spec": {"target": {"kind": "Deployment", "name": "covet-app in {b}"}}},
    ],
    ids=["namespaces", "metadata", "target", "step", "path", "words"],
)
async def test_no_field_of_a_policy_reaches_another_team(login: Login, teams: Teams, where: Json) -> None:
    manifest = _merged(policy(), _filled(where, teams))
    api = login("dev")
    path = f"/apis/paramedic.dev/v1alpha1/namespaces/{teams.a}/remediationpolicies"
    strict = {"fieldValidation": "Strict", "dryRun": "All"}
    with pytest.raises(Exception, match=r"only for policies in paramedic-system|unknown field|does not match|Invalid"):
        await api.request("POST", path, manifest, strict)


async def test_an_unknown_namespace_on_a_target_is_dropped_where_it_is_not_refused(login: Login, teams: Teams) -> None:
    target = {"kind": "Deployment", "name": "covet-app", "namespace": teams.b}
    made = await allowed(login("dev"), policy(target=target), teams.a)
    assert "namespace" not in made["spec"]["target"]


async def test_other_namespaces_are_refused_on_update_too(
    login: Login, teams: Teams, stored: Callable[..., Any]
) -> None:
    name = await stored(policy("mine"))
    change = {"spec": {"namespaces": [teams.b]}}
    await refused(login("dev").patch(POLICIES, name, change, teams.a), "only for policies in paramedic-system", teams.a)


@pytest.mark.parametrize(
    "matchers",
    [
        [['namespace=~".+"']],
        [['namespace!=""']],
        [['namespace="{b}"']],
        [["namespace={b}"]],
        [['"namespace"=~".*"']],
        [['"name\\\\space"=~".*"']],
        [['{alertname="X", namespace=~".+"}']],
        [['namespace="{a}"'], ['alertname=~".+"']],
        [['namespace="{a}",namespace=~".+"'], ['namespace=~".+"']],
        [['alertname=~".+",\u00a0namespace=~".+"']],
        [['alertname=~".+",namespace\u2003=~".+"']],
        [['alertname=~".+",\u0085namespace=~".+"']],
    ],
)
async def test_a_policy_cannot_take_other_teams_alerts(login: Login, teams: Teams, matchers: list[list[str]]) -> None:
    alerts = [{"matchers": _filled(texts, teams)} for texts in matchers]
    await refused(login("dev").create(policy(match={"alerts": alerts}), teams.a), "alerts of other namespaces")


@pytest.mark.parametrize(
    "matchers",
    [
        [["alertname=X"]],
        [['namespace="{a}"'], ["alertname=Y", "namespace = {a}"]],
        [['{namespace="{a}", x="y"}']],
        [['note="a namespace=b"']],
        [['alertname="X"', 'kube_namespace=~".+"']],
    ],
)
async def test_a_policy_takes_its_own_alerts(login: Login, teams: Teams, matchers: list[list[str]]) -> None:
    alerts = [{"matchers": _filled(texts, teams)} for texts in matchers]
    await allowed(login("dev"), policy(match={"alerts": alerts}), teams.a)


async def test_who_may_only_write_policies_may_still_pull_the_brake(
    login: Login, teams: Teams, stored: Callable[..., Any]
) -> None:
    clerk, name = login("clerk"), await stored(policy("mine"))
    await refused(clerk.patch(POLICIES, name, {"spec": {"mode": "Auto"}}, teams.a), "may not patch")
    await refused(clerk.patch(POLICIES, name, {"spec": {"paused": True, "mode": "Auto"}}, teams.a), "may not patch")
    await clerk.patch(POLICIES, name, {"spec": {"paused": True}}, teams.a)
    await clerk.patch(POLICIES, name, {"metadata": {"labels": {"team": "a"}}}, teams.a)
    await refused(clerk.patch(POLICIES, name, {"spec": {"paused": False}}, teams.a), "may not patch")


async def test_a_policy_of_paramedics_namespace_needs_the_right_in_every_namespace_it_lists(
    admin: Api, installed: Access, teams: Teams
) -> None:
    """A platform engineer with rights in team a only, then in team b too."""
    bind = ("create", "rolebinding", f"platform-{teams.a}", f"--serviceaccount={teams.people}:viewer")
    installed.kubectl(*bind, "--clusterrole=edit", "-n", "paramedic-system")
    both = policy(namespaces=[teams.a, teams.b], steps=[{"name": "s", "scale": {"replicas": 2}}])
    async with admin.with_token(teams.tokens["viewer"]) as engineer:
        await refused(engineer.create(both, "paramedic-system"), f"deployments/covet-app in {teams.a}")
        for namespace in (teams.a, teams.b):
            installed.kubectl(*bind, "--clusterrole=edit", "-n", namespace)
            if namespace == teams.a:
                await refused(engineer.create(both, "paramedic-system"), f"deployments/covet-app in {teams.b}")
        await allowed(engineer, both, "paramedic-system")
        steps = [{"name": f"s{i}", "scale": {"replicas": 2}, "target": {"name": f"d{i}"}} for i in range(8)]
        await allowed(engineer, policy(namespaces=[teams.a, teams.b], steps=steps), "paramedic-system")
        many = policy(namespaces=[teams.a, teams.b, *(f"n{i}" for i in range(30))])
        await refused(engineer.create(many, "paramedic-system"), "32 rights", "20 is the most")
    for namespace in (teams.a, teams.b, "paramedic-system"):
        installed.kubectl("delete", "rolebinding", f"platform-{teams.a}", "-n", namespace)
    await allowed(admin, many, "paramedic-system")


# -- incidents --------------------------------------------------------------------------------------------------------


async def test_who_may_patch_a_target_may_open_an_incident_of_it(login: Login, teams: Teams) -> None:
    for who in ("dev", "narrow"):
        await allowed(login(who), incident(), teams.a)


@pytest.mark.parametrize("who", ["clerk", "desk", "owner", "narrow"])
async def test_an_incidents_target_must_be_ones_own_to_patch(login: Login, teams: Teams, who: str) -> None:
    target = {"kind": "StatefulSet", "name": "db"}
    await refused(login(who).create(incident(target=target), teams.a), "may not patch statefulsets/db in team-a")


async def test_without_a_target_the_policy_must_be_ones_own_to_trigger(login: Login, teams: Teams) -> None:
    bare = incident(target=None)
    named = incident(target=None, policyRef={"name": "api-outage"})
    for who in ("clerk", "narrow"):
        await refused(login(who).create(bare, teams.a), "may not have it act", "trigger", "paramedic-trigger")
        await refused(login(who).create(named, teams.a), f"remediationpolicies/api-outage in {teams.a}")
    for who in ("desk", "dev", "owner"):
        await allowed(login(who), bare, teams.a)
        await allowed(login(who), named, teams.a)


async def test_who_may_change_all_that_runs_may_not_have_a_policy_act_on_databases(login: Login, teams: Teams) -> None:
    """Without a target the policy may be one with databaseFailover: the right to connections is part of all."""
    bare, worker = incident(target=None), login("worker")
    await refused(worker.create(bare, teams.a), "may not have it act", "trigger", "paramedic-trigger")
    await allowed(worker, incident(), teams.a)
    await allowed(login("dev"), bare, teams.a)


async def test_the_right_to_a_policy_is_none_to_its_namesake_elsewhere(login: Login, teams: Teams) -> None:
    """Paramedic's own policies serve other namespaces, under whatever names."""
    for elsewhere in ("paramedic-system", teams.b):
        ref = {"name": "api-outage", "namespace": elsewhere}
        said = f"remediationpolicies/api-outage in {elsewhere}"
        await refused(login("desk").create(incident(target=None, policyRef=ref), teams.a), "may not have it act", said)
    own = {"name": "api-outage", "namespace": teams.a}
    await allowed(login("desk"), incident(target=None, policyRef=own), teams.a)
    await allowed(login("boss"), incident(target=None, policyRef=own | {"namespace": "paramedic-system"}), teams.a)


async def test_an_incident_stays_in_its_creators_namespace(login: Login, teams: Teams) -> None:
    await refused(login("dev").create(incident(), teams.b), "cannot create resource")
    made = await allowed(login("dev"), incident(target={"name": "x", "namespace": teams.b}), teams.a)
    assert made["spec"]["target"] == {"kind": "Deployment", "name": "x"}


async def test_only_a_reporter_says_what_an_alert_said(login: Login, teams: Teams, operator: Api) -> None:
    made_up = incident(alert={"fingerprint": "f", "labels": {"deployment": "other"}})
    await refused(login("dev").create(made_up, teams.a), "spec.alert", "leave it out")
    await allowed(operator, made_up, teams.a)


async def test_the_operator_opens_incidents_where_it_may_not_act(operator: Api, teams: Teams) -> None:
    """Else the alert would be lost; the missing right is found when it acts, and a person is told."""
    await allowed(operator, incident(target={"kind": "Deployment", "name": "anything"}), teams.b)


CHANGES = {
    "target": ({"target": {"name": "other"}}, 422),
    "policy": ({"policyRef": {"name": "other"}}, 422),
    "type": ({"type": "HighLoad"}, 422),
    "addresses": ({"sourceAddresses": ["203.0.113.9"]}, 422),
    "alert": ({"alert": {"fingerprint": "f", "labels": {"namespace": "b"}}}, 422),
}


@pytest.mark.parametrize("field", CHANGES)
async def test_what_decides_on_the_action_cannot_be_changed_later(
    login: Login, teams: Teams, stored: Callable[..., Any], field: str
) -> None:
    change, status = CHANGES[field]
    name = await stored(incident("fixed"))
    text = await refused(login("dev").patch(INCIDENTS, name, {"spec": change}, teams.a), status=status)
    assert "cannot be changed after creation" in text


@pytest.mark.parametrize(
    "change", [{"paused": False}, {"severity": "P0"}, {"resolution": {"resolvedBy": "{me}"}}, {"title": "x"}]
)
async def test_what_can_make_paramedic_act_needs_the_right_on_update_too(
    login: Login, teams: Teams, stored: Callable[..., Any], change: Json
) -> None:
    name = await stored(incident("paused", paused=True))
    body = {"spec": _filled(change, teams, me=teams.user("clerk"))}
    await refused(login("clerk").patch(INCIDENTS, name, body, teams.a), "may not patch deployments/covet-app")
    body = {"spec": _filled(change, teams, me=teams.user("dev"))}
    await login("dev").patch(INCIDENTS, name, body, teams.a)


async def test_to_pause_and_to_acknowledge_need_no_right_on_the_target(
    login: Login, teams: Teams, stored: Callable[..., Any]
) -> None:
    name = await stored(incident("mine"))
    body = {"spec": {"paused": True, "acknowledgedBy": teams.user("clerk")}}
    await login("clerk").patch(INCIDENTS, name, body, teams.a)


# -- people's names ---------------------------------------------------------------------------------------------------


async def test_names_are_ones_own_at_creation(login: Login, teams: Teams) -> None:
    approver, someone = login("approver"), "system:admin"
    await refused(
        approver.create(incident(acknowledgedBy=someone), teams.a), "your own user name", teams.user("approver")
    )
    await refused(approver.create(incident(resolution={"resolvedBy": someone}), teams.a), "resolvedBy must be your own")
    await refused(
        approver.create(incident(escalation={"requestedBy": someone, "message": "help"}), teams.a),
        "requestedBy must be your own",
    )
    forged = [{"step": "s", "approvedBy": someone}]
    await refused(approver.create(incident(approvals=forged), teams.a), "approvedBy must be your own", someone)


async def test_an_acknowledgement_is_ones_own(login: Login, teams: Teams, stored: Callable[..., Any]) -> None:
    name = await stored(incident("mine"))
    dev, approver = login("dev"), login("approver")

    def by(who: str | None) -> Json:
        return {"spec": {"acknowledgedBy": teams.user(who) if who else None}}

    await refused(dev.patch(INCIDENTS, name, by("approver"), teams.a), "your own user name")
    await dev.patch(INCIDENTS, name, by("dev"), teams.a)
    await approver.patch(INCIDENTS, name, {"spec": {"title": "renamed"}}, teams.a)
    await approver.patch(INCIDENTS, name, by("approver"), teams.a)
    await refused(dev.patch(INCIDENTS, name, by("viewer"), teams.a), "your own user name")
    await dev.patch(INCIDENTS, name, by(None), teams.a)


async def test_a_resolution_is_signed_by_who_writes_it(login: Login, teams: Teams, stored: Callable[..., Any]) -> None:
    name = await stored(incident("mine"))
    dev, approver = login("dev"), login("approver")
    mine = {"spec": {"resolution": {"resolvedBy": teams.user("dev"), "rootCause": "a bad release"}}}
    await refused(approver.patch(INCIDENTS, name, mine, teams.a), "signs it")
    await dev.patch(INCIDENTS, name, mine, teams.a)
    await approver.patch(INCIDENTS, name, {"spec": {"title": "renamed"}}, teams.a)
    await refused(
        approver.patch(INCIDENTS, name, {"spec": {"resolution": {"rootCause": "sabotage"}}}, teams.a), "signs it"
    )


async def test_an_item_of_the_checklist_is_ticked_for_oneself(
    login: Login, teams: Teams, stored: Callable[..., Any]
) -> None:
    name = await stored(incident("over"))
    dev, clerk = login("dev"), login("clerk")
    mine, theirs = ({"item": "Document lessons learned", "doneBy": teams.user(who)} for who in ("dev", "clerk"))
    await refused(dev.patch(INCIDENTS, name, {"spec": {"checklist": [theirs]}}, teams.a), "doneBy must be your own")
    await refused(dev.create(incident(checklist=[theirs]), teams.a), "doneBy must be your own")
    await refused(
        dev.patch(INCIDENTS, name, {"spec": {"checklist": [mine | {"item": "Have a rest"}]}}, teams.a),
        "Unsupported value",
        status=422,
    )
    await dev.patch(INCIDENTS, name, {"spec": {"checklist": [mine]}}, teams.a)
    await clerk.patch(INCIDENTS, name, {"spec": {"checklist": [mine, theirs]}}, teams.a)  # no right on the target
    for stolen in ([theirs], [], [mine | {"doneBy": teams.user("clerk")}, theirs]):
        await refused(clerk.patch(INCIDENTS, name, {"spec": {"checklist": stolen}}, teams.a), "written, changed or")
    await refused(login("viewer").patch(INCIDENTS, name, {"spec": {"checklist": []}}, teams.a), "forbidden")
    await clerk.patch(INCIDENTS, name, {"spec": {"checklist": [mine]}}, teams.a)
    await dev.patch(INCIDENTS, name, {"spec": {"checklist": None}}, teams.a)


async def test_to_keep_what_is_leased_needs_the_right_on_the_target(
    login: Login, teams: Teams, stored: Callable[..., Any]
) -> None:
    name = await stored(incident("leased"))
    said = {"spec": {"resolution": {"resolvedBy": teams.user("clerk"), "keep": ["more-room"]}}}
    await refused(login("clerk").patch(INCIDENTS, name, said, teams.a), "may not patch deployments/covet-app")


async def test_approving_needs_the_verb_and_ones_own_name(
    login: Login, teams: Teams, stored: Callable[..., Any]
) -> None:
    name = await stored(incident("mine"))

    def approved(*who: str, **extra: str) -> Json:
        return {"spec": {"approvals": [{"step": "more-room", "approvedBy": teams.user(w), **extra} for w in who]}}

    dev, approver, second = login("dev"), login("approver"), login("second")
    await refused(dev.patch(INCIDENTS, name, approved("dev"), teams.a), "verb approve", "incidents/mine")
    await refused(dev.create(incident(approvals=approved("dev")["spec"]["approvals"]), teams.a), "verb approve")
    await refused(approver.patch(INCIDENTS, name, approved("dev"), teams.a), "must be your own user name")
    await refused(login("guest-approver").patch(INCIDENTS, name, approved("guest-approver"), teams.a), "may not patch")
    await approver.patch(INCIDENTS, name, approved("approver"), teams.a)
    # Others leave it as it is, and cannot bind it to another plan, nor take it away without the verb.
    await dev.patch(INCIDENTS, name, {"spec": {"title": "renamed"}}, teams.a)
    changed = approved("approver", operation="0123")
    await refused(second.patch(INCIDENTS, name, changed, teams.a), "must be your own user name")
    await refused(dev.patch(INCIDENTS, name, approved(), teams.a), "verb approve")
    await second.patch(INCIDENTS, name, approved("approver", "second"), teams.a)
    await approver.patch(INCIDENTS, name, approved("second"), teams.a)
    await second.patch(INCIDENTS, name, approved(), teams.a)


async def test_no_name_but_ones_own_even_for_the_clusters_admin(admin: Api, teams: Teams) -> None:
    await refused(admin.create(incident(acknowledgedBy=teams.user("dev")), teams.a), "your own user name, admin")
    await allowed(admin, incident(acknowledgedBy="admin", approvals=[{"step": "s", "approvedBy": "admin"}]), teams.a)


# -- the status, and what controllers do ------------------------------------------------------------------------------


@pytest.mark.parametrize("who", ["dev", "owner", "approver", "desk", "boss"])
async def test_nobody_forges_a_status(login: Login, teams: Teams, stored: Callable[..., Any], who: str) -> None:
    name, other = await stored(incident("mine")), await stored(policy("mine"))
    words = ["only Paramedic"] if who in ("owner", "boss") else ["cannot patch resource"]
    api, body = login(who), {"status": {"phase": "Resolved"}}
    await refused(api.patch(INCIDENTS, name, body, teams.a, subresource="status"), *words)
    await refused(api.patch(POLICIES, other, {"status": {"matched": 9}}, teams.a, subresource="status"), *words)


async def test_a_status_cannot_come_in_with_the_spec(admin: Api, login: Login, teams: Teams) -> None:
    made = await allowed(login("dev"), incident() | {"status": {"phase": "Resolved"}}, teams.a)
    assert "status" not in made


async def test_the_operator_and_system_masters_write_a_status(
    admin: Api, operator: Api, teams: Teams, stored: Callable[..., Any]
) -> None:
    name = await stored(incident("mine"))
    body = {"status": {"phase": "Open"}}
    await admin.patch(INCIDENTS, name, body, teams.a, subresource="status")
    await operator.patch(INCIDENTS, name, body, teams.a, subresource="status")
    await operator.patch(INCIDENTS, name, {"metadata": {"finalizers": ["paramedic.dev/put-back"]}}, teams.a)
    await operator.patch(INCIDENTS, name, {"metadata": {"finalizers": None}}, teams.a)


async def test_controllers_change_metadata_as_ever(
    login: Login, admin: Api, teams: Teams, stored: Callable[..., Any]
) -> None:
    """As the garbage collector and Argo CD do: whoever may patch the object, whatever its spec says."""
    named = {"acknowledgedBy": "admin", "approvals": [{"step": "s", "approvedBy": "admin"}]}
    name = await stored(incident("mine", **named))
    body = {"metadata": {"finalizers": ["example.com/x"], "annotations": {"argocd.argoproj.io/tracking-id": "x"}}}
    await login("clerk").patch(INCIDENTS, name, body, teams.a)
    await login("clerk").patch(INCIDENTS, name, {"metadata": {"finalizers": None}}, teams.a)


async def test_a_viewer_changes_nothing(login: Login, teams: Teams, stored: Callable[..., Any]) -> None:
    name = await stored(incident("mine"))
    assert (await login("viewer").get(INCIDENTS, name, teams.a))["spec"]["title"] == "down"
    await refused(login("viewer").patch(INCIDENTS, name, {"spec": {"paused": True}}, teams.a), "cannot patch")
    await refused(login("viewer").create(policy(), teams.a), "cannot create")
    await refused(login("neighbour").get(INCIDENTS, name, teams.a), "cannot get")


def _filled(value: Any, teams: Teams, me: str = "") -> Any:
    """The value with {a}, {b} and {me} filled in, wherever they stand."""
    if isinstance(value, dict):
        return {k: _filled(v, teams, me) for k, v in value.items()}
    if isinstance(value, list):
        return [_filled(v, teams, me) for v in value]
    if isinstance(value, str):
        return value.replace("{a}", teams.a).replace("{b}", teams.b).replace("{me}", me)
    return value


def _merged(base: Json, change: Json) -> Json:
    return base | {k: _merged(base[k], v) if isinstance(v, dict) and k in base else v for k, v in change.items()}
