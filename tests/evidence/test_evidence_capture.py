"""captureEvidence on a real API server, with the operator's own rights: logs, Events, manifests, history, packets."""

from __future__ import annotations

import asyncio
import hashlib
import json
import pickle
import tracemalloc
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from builders import NOW, workload
from evidence.places import Directory, Place, opened, policy
from paramedic.actions import ACTIONS
from paramedic.actions.base import Change, Clients, Observed, Report
from paramedic.api.incident import Evidence
from paramedic.api.reasons import Reason
from paramedic.api.workload import BoundTarget, bound
from paramedic.clients.evidence import EvidenceStore, Limits
from paramedic.clients.evidence_directory import DirectoryBackend
from paramedic.clients.kube import Kube, load_configuration
from paramedic.core.operation import new_operation
from paramedic.errors import Refused, Terminal
from paramedic.evidence.network import Network
from testbed.access import Access
from testbed.api import Api, ApiError, eventually
from testbed.cluster import CONTAINER_LOG, PREVIOUS_LOG, Cluster

Json = dict[str, Any]
ACTION = ACTIONS["captureEvidence"]
EVER = "3650d"
"""The test bed's logs are old."""
DUMP = (Path(__file__).parent / "tcpdump.txt").read_text()
HIDDEN = ("hunter2-secret", "hunter2-env", "hunter2-config")
MIB = 1 << 20


@pytest.fixture
async def kube(installed: Access) -> AsyncIterator[Kube]:
    """The operator's own."""
    token = installed.service_account_token("paramedic-system", "paramedic")
    async with Kube(await load_configuration(installed.kubeconfig_for(token))) as opened_kube:
        yield opened_kube


@pytest.fixture
async def powerful(cluster: Access) -> AsyncIterator[Kube]:
    """With the right to start ephemeral containers."""
    async with Kube(await load_configuration(cluster.kubeconfig)) as opened_kube:
        yield opened_kube


@pytest.fixture
async def app(admin: Api, namespace: str) -> BoundTarget:
    """covet-app in its second release: two pods, an init container, one container restarted; secrets all over."""
    await admin.create(
        {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "covet-secrets"}, "stringData": {"k": HIDDEN[0]}},
        namespace,
    )
    await admin.create(
        {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "c"}, "data": {"password": HIDDEN[2]}}, namespace
    )
    manifest = workload()
    container = manifest["spec"]["template"]["spec"]["containers"][0]
    container["env"] = [
        {"name": "DB_PASSWORD", "value": HIDDEN[1]},
        {"name": "KEY", "valueFrom": {"secretKeyRef": {"name": "covet-secrets", "key": "k"}}},
    ]
    manifest["spec"]["template"]["spec"]["initContainers"] = [{"name": "wait", "image": "wait:1"}]
    await admin.create(manifest, namespace)
    await eventually(lambda: _running(admin, namespace, "covet:1"), 30, what="the first release runs")
    second = {"spec": {"template": {"spec": {"containers": [{"name": "main", "image": "covet:2"}]}}}}
    await admin.patch("apps/v1/deployments", "covet-app", second, namespace, kind="strategic")
    pods = await eventually(lambda: _running(admin, namespace, "covet:2"), 30, what="the second release runs")
    status = pods[0]["status"]
    status["containerStatuses"][0]["restartCount"] = 1
    await admin.patch("v1/pods", pods[0]["metadata"]["name"], {"status": status}, namespace, subresource="status")
    return bound("Deployment", namespace, "covet-app")


async def _running(admin: Api, namespace: str, image: str) -> list[Json]:
    pods = await admin.list("v1/pods", namespace)
    found = all(pod["spec"]["containers"][0]["image"] == image and pod["status"]["phase"] == "Running" for pod in pods)
    return sorted(pods, key=lambda pod: str(pod["metadata"]["name"])) if found and len(pods) == 2 else []


async def planned(kube: Kube, store: EvidenceStore | None, target: BoundTarget, **params: Any) -> Change:
    seen = await ACTION.observe(target, Clients(kube, store))
    seen = Observed(seen.target, seen.related, seen.left, "api-down")
    change = ACTION.plan(seen, ACTION.params.model_validate(params), new_operation(NOW))
    return replace(change, seconds=60)


async def captured(kube: Kube, store: EvidenceStore, target: BoundTarget, **params: Any) -> Report:
    report = await ACTION.apply(await planned(kube, store, target, **params), Clients(kube, store))
    assert report is not None
    return report


def named(report: Report) -> dict[str, Evidence]:
    assert len({item.name for item in report.evidence}) == len(report.evidence)
    return {item.name: item for item in report.evidence}


def text_of(place: Place, item: Evidence) -> str:
    assert item.uri is not None, item.note
    content = place.read(item.uri)
    assert item.sha256 == hashlib.sha256(content).hexdigest()
    assert item.size_bytes == len(content)
    return content.decode()


def stamped(log: str) -> str:
    """What the runtime wrote as `kubectl logs --timestamps` shows it."""
    lines = [line.split(" ", 3) for line in log.splitlines()]
    return "".join(f"{time} {text}\n" for time, _, _, text in lines)


async def test_everything_is_kept_and_no_secret_with_it(
    admin: Api, kube: Kube, app: BoundTarget, namespace: str, place: Place
) -> None:
    with opened(place) as store:
        report = await captured(kube, store, app, since=EVER)
    items = named(report)
    assert not report.failed
    assert [item.note for item in report.evidence if item.note] == []
    first, second = (pod["metadata"]["name"] for pod in await _running(admin, namespace, "covet:2"))
    assert {name for name in items if name.startswith("logs/")} == {
        f"logs/{first}/main.log", f"logs/{first}/main.previous.log", f"logs/{first}/wait.log",
        f"logs/{second}/main.log", f"logs/{second}/wait.log",
    }  # fmt: skip
    assert text_of(place, items[f"logs/{second}/main.log"]) == stamped(CONTAINER_LOG)
    assert text_of(place, items[f"logs/{first}/main.previous.log"]) == stamped(PREVIOUS_LOG)
    for name, item in items.items():
        assert not [secret for secret in HIDDEN if secret in text_of(place, item)], name
    assert json.loads(text_of(place, items["manifests/secrets.json"]))["secrets"] == {"covet-secrets": ["k"]}
    config_maps = json.loads(text_of(place, items["manifests/configmaps.json"]))["items"]
    assert {c["metadata"]["name"]: c["data"] for c in config_maps}["c"] == {"password": "***"}
    reasons = {event["reason"] for event in json.loads(text_of(place, items["events.json"]))["items"]}
    assert {"ScalingReplicaSet", "SuccessfulCreate"} <= reasons
    history = json.loads(text_of(place, items["history.json"]))["items"]
    assert {h["revision"]: h["template"]["spec"]["containers"][0]["image"] for h in history} == {
        1: "covet:1", 2: "covet:2"
    }  # fmt: skip
    index = json.loads(text_of(place, report.evidence[0]))
    assert index["target"] == "Deployment/covet-app"
    assert index["incident"] == "api-down"
    assert index["items"] == [item.to_wire() for item in report.evidence[1:]]
    assert report.result == {
        "items": len(items) - 1, "bytes": sum(i["sizeBytes"] for i in index["items"]), "lacking": 0
    }  # fmt: skip
    assert report.message.startswith(f"{len(items) - 1} items, ")


async def test_the_manifests_can_be_applied_again(
    cluster: Access, kube: Kube, app: BoundTarget, namespace: str, directory: Directory, admin: Api
) -> None:
    await admin.create(
        {"apiVersion": "v1", "kind": "Service", "metadata": {"name": "s"}, "spec": {"ports": [{"port": 80}]}}, namespace
    )
    with opened(directory) as store:
        items = named(await captured(kube, store, app, include=["manifests"]))
    for plural in ("services", "deployments", "networkpolicies"):
        found = text_of(directory, items[f"manifests/{plural}.json"])
        assert json.loads(found)["kind"] == "List"
        if plural == "services":
            cluster.kubectl("replace", "--dry-run=server", "-f", "-", input=found)


async def test_only_what_is_asked_for(kube: Kube, app: BoundTarget, directory: Directory, admin: Api) -> None:
    await admin.create(
        {
            "apiVersion": "v1", "kind": "Pod", "metadata": {"name": "other", "labels": {"app": "worker"}},
            "spec": {"containers": [{"name": "only", "image": "w:1"}]},
        },
        app.namespace,
    )  # fmt: skip
    with opened(directory) as store:
        logs = named(await captured(kube, store, app, include=["logs"], selector={"app": "worker"}, since=EVER))
        recent = named(await captured(kube, store, app, include=["logs"], previous=False))
        nothing = await captured(kube, store, app, include=["logs"], selector={"app": "nobody"})
    assert set(logs) == {"index.json", "logs/other/only.log"}
    assert not [name for name in recent if "previous" in name]
    assert {item.size_bytes for name, item in recent.items() if name != "index.json"} == {0}, "all of it is older"
    assert nothing.failed
    assert named(nothing)["logs"].note == "not captured: no pod matches app=nobody"


async def test_a_services_pods_are_those_that_it_selects(
    kube: Kube, app: BoundTarget, directory: Directory, admin: Api
) -> None:
    spec = {"selector": {"app": "covet-app"}, "ports": [{"port": 80}]}
    await admin.create({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "s"}, "spec": spec}, app.namespace)
    await admin.create(
        {"apiVersion": "v1", "kind": "Service", "metadata": {"name": "bare"}, "spec": {"ports": [{"port": 80}]}},
        app.namespace,
    )
    with opened(directory) as store:
        items = named(await captured(kube, store, bound("Service", app.namespace, "s"), include=["logs", "history"]))
        with pytest.raises(Refused, match="selects no pods by labels: set selector"):
            await planned(kube, store, bound("Service", app.namespace, "bare"))
    assert len([name for name in items if name.startswith("logs/")]) == 5
    assert "history.json" not in items


async def test_planning_is_pure_and_can_be_sent_elsewhere(kube: Kube, app: BoundTarget, directory: Directory) -> None:
    with opened(directory) as store:
        change = await planned(kube, store, app, since="24h", networkCapture={"image": "netshoot:1", "port": 443})
    assert not change.is_empty
    assert change.forward == ()
    kept = "logs (the last 1d), Events, manifests, rollout history, network packets (30s)"
    assert change.message == f"covet-app: keeping {kept}"
    assert pickle.loads(pickle.dumps(change)) == change
    assert directory.names() == []
    json.dumps([change.before, change.after])


async def test_without_a_store_it_is_refused_with_the_setting_that_is_missing(kube: Kube, app: BoundTarget) -> None:
    with pytest.raises(Refused, match=r"evidence\.directory or evidence\.s3\.bucket") as refusal:
        await planned(kube, None, app)
    assert refusal.value.reason is Reason.NO_EVIDENCE_STORE


# -- partial results ---------------------------------------------------------------------------------------------------


@pytest.fixture
async def limited(cluster: Access, admin: Api, namespace: str) -> AsyncIterator[Kube]:
    """May read pods, Deployments and ConfigMaps of the namespace, but no log and nothing else."""
    rbac = "rbac.authorization.k8s.io/v1"
    rules = [
        {"apiGroups": ["", "apps"], "resources": ["pods", "deployments", "configmaps"], "verbs": ["get", "list"]},
    ]
    await admin.create({"apiVersion": rbac, "kind": "Role", "metadata": {"name": "limited"}, "rules": rules}, namespace)
    await admin.create(
        {
            "apiVersion": rbac, "kind": "RoleBinding", "metadata": {"name": "limited"},
            "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": "limited"},
            "subjects": [{"kind": "ServiceAccount", "name": "default", "namespace": namespace}],
        },
        namespace,
    )  # fmt: skip
    token = cluster.service_account_token(namespace, "default")
    async with Kube(await load_configuration(cluster.kubeconfig_for(token))) as opened_kube:
        yield opened_kube


async def test_what_is_forbidden_is_said_and_the_rest_is_kept(
    limited: Kube, app: BoundTarget, directory: Directory
) -> None:
    with opened(directory) as store:
        report = await captured(limited, store, app, since=EVER)
    items = named(report)
    assert not report.failed
    kept = {name for name, item in items.items() if item.uri}
    assert kept == {
        "index.json", "manifests/pods.json", "manifests/deployments.json", "manifests/configmaps.json",
        "manifests/secrets.json",
    }  # fmt: skip
    for name in items.keys() - kept:
        note = items[name].note or ""
        assert note.startswith("not captured: ")
        assert "forbidden" in note
    assert report.result is not None
    assert report.result["lacking"] == len(items) - len(kept)
    assert "missing or cut: " in report.message


async def test_a_store_that_is_not_there_fails_the_step(kube: Kube, app: BoundTarget, tmp_path: Path) -> None:
    store = EvidenceStore(DirectoryBackend(tmp_path / "nowhere"))
    report = await captured(kube, store, app, since=EVER)
    store.close()
    assert report.failed
    assert "is the volume mounted?" in report.message
    assert not any(item.uri for item in report.evidence)


async def test_a_log_that_cannot_be_had_costs_only_itself(
    kube: Kube, app: BoundTarget, directory: Directory, admin: Api, own_cluster: Cluster
) -> None:
    (own_cluster.folder / "kwok" / "previous.log").unlink()
    try:
        with opened(directory) as store:
            report = await captured(kube, store, app, since=EVER, include=["logs"])
    finally:
        (own_cluster.folder / "kwok" / "previous.log").write_text(PREVIOUS_LOG)
    lacking = [item for item in report.evidence if item.note]
    assert [item.name.rpartition("/")[2] for item in lacking] == ["main.previous.log"]
    assert not report.failed
    assert report.result == {"items": 4, "bytes": 4 * len(stamped(CONTAINER_LOG)), "lacking": 1}


async def test_large_logs_are_streamed_and_cut(
    kube: Kube, app: BoundTarget, place: Place, own_cluster: Cluster
) -> None:
    """Five logs of 40 MB each, of which one may have 10 MiB and all together 25 MiB; and one of them whole."""
    log = own_cluster.folder / "kwok" / "container.log"
    line = "2026-01-01T00:00:00.000000000Z stdout F " + "x" * 8000 + "\n"
    log.write_text(line * 5000)
    try:
        with opened(place, Limits(10 * MIB, 25 * MIB)) as store:
            tracemalloc.start()
            report = await captured(kube, store, app, since=EVER, include=["logs"], previous=False)
            _, peak = tracemalloc.get_traced_memory()
            tracemalloc.stop()
        with opened(place) as store:
            whole = await captured(kube, store, app, since=EVER, include=["logs"], previous=False)
    finally:
        log.write_text(CONTAINER_LOG)
    sizes = [item.size_bytes or 0 for item in report.evidence if item.name != "index.json"]
    assert max(sizes) <= 10 * MIB
    assert 24 * MIB < sum(sizes) <= 25 * MIB
    assert all((item.note or "").startswith("cut at") for item in report.evidence if item.name != "index.json")
    assert peak < 60 * MIB, f"{peak / MIB:.1f} MiB"
    for item in whole.evidence:
        assert item.note is None
        text_of(place, item)
    assert all(item.size_bytes == 5000 * 8032 for item in whole.evidence if item.name != "index.json")


async def test_a_namespace_that_has_stored_enough_today_gets_no_more(
    kube: Kube, app: BoundTarget, place: Place
) -> None:
    limits = Limits(10 * MIB, 25 * MIB, day_bytes=2000)
    with opened(place, limits) as store:
        first = await captured(kube, store, app, include=["manifests"])
        assert any("the most for a namespace and day" in (item.note or "") for item in first.evidence)
        before = place.names()
        with pytest.raises(Terminal, match="nothing more was captured") as refusal:
            await captured(kube, store, app, include=["events"])
    assert refusal.value.reason is Reason.EVIDENCE_LIMIT
    assert place.names() == before


async def test_a_storm_waits_for_its_turn_and_loses_nothing(kube: Kube, app: BoundTarget, directory: Directory) -> None:
    told: list[str] = []
    with opened(directory) as store:
        changes = [await planned(kube, store, app, include=["events"]) for _ in range(8)]
        clients = Clients(kube, store)
        reports = await asyncio.gather(*(ACTION.apply(replace(one, tell=told.append), clients) for one in changes))
    results = [report.result for report in reports if report and report.result]
    assert [(result["items"], result["lacking"]) for result in results] == [(1, 0)] * 8
    assert told.count("waiting for other captures to end") == 6
    assert len({item.uri for report in reports if report for item in report.evidence}) == 16


# -- packets -----------------------------------------------------------------------------------------------------------

CAPTURE = {"image": "example/netshoot:1", "duration": "2s", "protocol": "tcp", "port": 443, "host": "10.0.0.1"}


def hurried(change: Change) -> Change:
    """Waits less long for the container."""
    wanted = change.work
    assert isinstance(wanted.network, Network)
    return replace(change, work=replace(wanted, network=replace(wanted.network, start_seconds=1, end_seconds=1)))


async def packets(kube: Kube, store: EvidenceStore, change: Change) -> Evidence:
    report = await ACTION.apply(change, Clients(kube, store))
    assert report is not None
    assert report.evidence[0].uri is not None
    assert named(report)["events.json"].uri, "the rest is kept whatever becomes of the packets"
    return named(report)["network.pcap"]


async def test_a_container_that_does_not_start_is_said(
    powerful: Kube, app: BoundTarget, directory: Directory, admin: Api
) -> None:
    with opened(directory) as store:
        change = hurried(await planned(powerful, store, app, include=["events"], networkCapture=CAPTURE))
        item = await packets(powerful, store, change)
        again = await packets(powerful, store, change)
    assert item.note == "not captured: its container did not start within 1 s: the kubelet says nothing of it"
    assert again.note == item.note
    pods = await _running(admin, app.namespace, "covet:2")
    containers = [c for pod in pods for c in pod["spec"].get("ephemeralContainers") or []]
    assert len(containers) == 1, "done again it does not start another"
    assert containers[0]["name"] == f"paramedic-{change.work.operation}"
    assert containers[0]["image"] == "example/netshoot:1"
    assert containers[0]["command"] == [
        "timeout", "2", "tcpdump", "-i", "any", "-y", "LINUX_SLL", "-n", "-l", "-tt", "-xx", "-s", "65535",
        "-Z", "root", "tcp", "and", "port", "443", "and", "host", "10.0.0.1",
    ]  # fmt: skip
    assert containers[0]["securityContext"]["capabilities"] == {"drop": ["ALL"], "add": ["NET_RAW"]}


@pytest.mark.parametrize("state", ["running", "terminated"])
async def test_packets_are_kept_as_a_capture_file(
    state: str, powerful: Kube, app: BoundTarget, directory: Directory, admin: Api, own_cluster: Cluster
) -> None:
    """The kubelet here is kwok: that the container runs is written by the test, and its log is tcpdump's.

    While it runs, the log does not end.
    """
    log = own_cluster.folder / "kwok" / "container.log"
    log.write_text("".join(f"2026-01-01T00:00:00.000000000Z stdout F {line}\n" for line in DUMP.splitlines()))
    try:
        with opened(directory) as store:
            change = hurried(await planned(powerful, store, app, include=["events"], networkCapture=CAPTURE))
            await packets(powerful, store, change)
            await _say_it_has_run(admin, app.namespace, f"paramedic-{change.work.operation}", state)
            item = await packets(powerful, store, change)
    finally:
        log.write_text(CONTAINER_LOG)
    assert item.note is None
    assert item.uri is not None
    file = directory.read(item.uri)
    assert item.sha256 == hashlib.sha256(file).hexdigest()
    assert file.startswith(b"\xd4\xc3\xb2\xa1")
    assert file.count(b"hello paramedic") == 60


async def test_a_container_that_captures_nothing_is_quoted(
    powerful: Kube, app: BoundTarget, directory: Directory, admin: Api
) -> None:
    with opened(directory) as store:
        change = hurried(await planned(powerful, store, app, include=["events"], networkCapture=CAPTURE))
        await packets(powerful, store, change)
        await _say_it_has_run(admin, app.namespace, f"paramedic-{change.work.operation}")
        item = await packets(powerful, store, change)
    assert item.uri is None
    assert item.note == (
        "not captured: no packet came; the container said: "
        "starting / listening on :8080 / cannot reach the database: connection refused"
    )


async def _say_it_has_run(admin: Api, namespace: str, container: str, state: str = "terminated") -> None:
    pods = await admin.list("v1/pods", namespace)
    pod = next(p for p in pods if p["spec"].get("ephemeralContainers"))
    ended = {
        "exitCode": 124,
        "reason": "Error",
        "startedAt": "2026-01-01T00:00:00Z",
        "finishedAt": "2026-01-01T00:00:02Z",
    }
    status = {
        "name": container, "image": "x", "imageID": "x", "ready": False, "restartCount": 0,
        "state": {"terminated": ended} if state == "terminated" else {"running": {"startedAt": ended["startedAt"]}},
    }  # fmt: skip
    body = {"status": {"ephemeralContainerStatuses": [status]}}
    await admin.patch("v1/pods", pod["metadata"]["name"], body, namespace, subresource="status")


async def test_without_the_right_to_it_the_refusal_is_quoted(
    kube: Kube, app: BoundTarget, directory: Directory
) -> None:
    with opened(directory) as store:
        change = await planned(kube, store, app, include=["events"], networkCapture=CAPTURE)
        item = await packets(kube, store, change)
    assert (item.note or "").startswith("not captured: pods ")
    assert "forbidden" in (item.note or "")


async def test_where_pod_security_refuses_it_that_is_said(
    powerful: Kube, app: BoundTarget, directory: Directory, admin: Api
) -> None:
    label = {"metadata": {"labels": {"pod-security.kubernetes.io/enforce": "restricted"}}}
    await admin.patch("v1/namespaces", app.namespace, label)
    with opened(directory) as store:
        change = await planned(powerful, store, app, include=["events"], networkCapture=CAPTURE)
        item = await packets(powerful, store, change)
    assert "violates PodSecurity" in (item.note or "")
    pods = await admin.list("v1/pods", app.namespace)
    assert not any(pod["spec"].get("ephemeralContainers") for pod in pods)


async def test_packets_need_a_running_pod(powerful: Kube, app: BoundTarget, directory: Directory) -> None:
    with opened(directory) as store:
        change = await planned(
            powerful, store, app, include=["events"], selector={"app": "nobody"}, networkCapture=CAPTURE
        )
        item = await packets(powerful, store, change)
    assert item.note == "not captured: no pod that matches app=nobody is running"


# -- what the API server takes -----------------------------------------------------------------------------------------

DATABASE = {"connection": "covet-db"}


@pytest.mark.parametrize(
    "params",
    [
        {},
        {"since": "24h", "selector": {"app": "covet", "covet.dev/tier": "web"}, "include": ["logs"], "maxBytes": 4096},
        {"networkCapture": {"image": "registry.example:5000/net/shoot@sha256:" + "0" * 64}},
        {"networkCapture": CAPTURE | {"host": "2001:db8::1", "duration": "10m"}},
        {"databaseDump": {"connection": "covet-db"}},
        {"databaseDump": DATABASE | {"withoutRowsOf": ["cards", "audit.log_*", "_x.a$b?"], "maxBytes": 4096}},
    ],
)
async def test_right_parameters_are_taken(installed: Access, admin: Api, namespace: str, params: Json) -> None:
    taken = await admin.create(policy(**params), namespace, dryRun="All")
    given = ACTION.params.model_validate(taken["spec"]["steps"][0]["captureEvidence"])
    assert given.model_dump() == ACTION.params.model_validate(params).model_dump()


@pytest.mark.parametrize(
    ("params", "words"),
    [
        ({"since": "yesterday"}, "a duration is a number with a unit"),
        ({"include": []}, "at least 1"),
        ({"include": ["secrets"]}, 'supported values: "logs", "events", "manifests", "history"'),
        ({"selector": {"app=x,b": "y"}}, "a key of selector is a label"),
        ({"selector": {"app": "x,b=y"}}, "should match"),
        ({"maxBytes": 0}, "greater than or equal to 1024"),
        ({"networkCapture": {}}, "image: Required value"),
        ({"networkCapture": CAPTURE | {"image": "x; reboot"}}, "should match"),
        ({"networkCapture": CAPTURE | {"image": "--privileged"}}, "should match"),
        ({"networkCapture": CAPTURE | {"duration": "1h"}}, "between 1s and 10m"),
        ({"networkCapture": CAPTURE | {"duration": "0s"}}, "between 1s and 10m"),
        ({"networkCapture": CAPTURE | {"port": 0}}, "greater than or equal to 1"),
        ({"networkCapture": CAPTURE | {"port": "443 or 1"}}, "must be of type integer"),
        ({"networkCapture": CAPTURE | {"host": "evil.example -w /etc/x"}}, "should match"),
        ({"networkCapture": CAPTURE | {"protocol": "tcp or udp"}}, "Unsupported value"),
        ({"networkCapture": {"image": "x", "protocol": "icmp", "port": 1}}, "icmp has no ports"),
        ({"databaseDump": {}}, "connection: Required value"),
        ({"databaseDump": DATABASE | {"withoutRowsOf": ["--file=/etc/x"]}}, "should match"),
        ({"databaseDump": DATABASE | {"withoutRowsOf": ["a; DROP TABLE b"]}}, "should match"),
        ({"databaseDump": DATABASE | {"withoutRowsOf": ['"A"']}}, "should match"),
        ({"databaseDump": DATABASE | {"withoutRowsOf": ["a.b.c"]}}, "should match"),
        ({"databaseDump": DATABASE | {"maxBytes": 1}}, "greater than or equal to 1024"),
    ],
)
async def test_wrong_parameters_are_refused(
    installed: Access, admin: Api, namespace: str, params: Json, words: str
) -> None:
    with pytest.raises(ApiError) as refusal:
        await admin.create(policy(**params), namespace, dryRun="All")
    assert words in str(refusal.value), str(refusal.value)
