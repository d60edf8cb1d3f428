"""The Job that comes of a template, what is told of it, and that there is only one: the last on a real API server."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any, cast

import pytest
from pydantic import ValidationError

from builders import NOW, OPERATION, Json, observed, workload
from paramedic.actions import ACTIONS
from paramedic.actions.base import Change, Clients, Observed, Report
from paramedic.actions.job_template import RunJobParams, job_name
from paramedic.clients.evidence import EvidenceStore, Limits
from paramedic.clients.evidence_directory import DirectoryBackend
from paramedic.clients.kube import Kube
from paramedic.core.jobs import exit_of, job_end, last_lines, newest_pod, obstacle, output_of, result_of, told
from paramedic.core.operation import new_operation
from paramedic.errors import Terminal
from testbed.api import Api

RUN_JOB = ACTIONS["runJob"]
CONTAINER: Json = {"name": "check", "image": "covet/app:1", "command": ["python", "manage.py", "check"]}


def params(*containers: Json, pod: Json | None = None, **fields: Any) -> Json:
    return {"template": {"spec": {"containers": list(containers) or [CONTAINER]} | (pod or {})}} | fields


def planned(operation: str = OPERATION, seen: Observed | None = None, **fields: Any) -> Change:
    found = replace(seen or observed(), step="db-check", incident="down", incident_uid="uid-i")
    change: Change = RUN_JOB.plan(found, RunJobParams.model_validate(params(**fields)), operation)
    return change


def pod_of(change: Change) -> Json:
    spec: Json = change.work.body["spec"]["template"]["spec"]
    return spec


# -- the manifest ------------------------------------------------------------------------------------------------------


def test_a_job_without_a_service_account_has_no_token() -> None:
    assert pod_of(planned())["automountServiceAccountToken"] is False
    named = pod_of(planned(pod={"serviceAccountName": "migrator"}))
    assert named["serviceAccountName"] == "migrator"
    assert "automountServiceAccountToken" not in named


def test_every_container_is_kept_from_gaining_rights() -> None:
    inits = {"initContainers": [CONTAINER | {"name": "first", "securityContext": {"runAsUser": 7}}]}
    spec = pod_of(planned(pod=inits))
    assert spec["initContainers"][0]["securityContext"] == {"runAsUser": 7, "allowPrivilegeEscalation": False}
    assert spec["containers"][0]["securityContext"] == {"allowPrivilegeEscalation": False}


def test_the_whole_template_reaches_the_job() -> None:
    container = CONTAINER | {
        "env": [{"name": "PW", "valueFrom": {"secretKeyRef": {"name": "s", "key": "k"}}}, {"name": "A", "value": ""}],
        "envFrom": [{"configMapRef": {"name": "c"}}],
        "volumeMounts": [{"name": "v", "mountPath": "/v", "readOnly": True}],
        "resources": {"requests": {"cpu": 1}, "limits": {"memory": "64Mi"}},
    }
    pod: Json = {
        "volumes": [{"name": "v", "persistentVolumeClaim": {"claimName": "data"}}],
        "nodeSelector": {"disk": "ssd"},
        "tolerations": [{"key": "a", "operator": "Exists"}],
        "securityContext": {"runAsNonRoot": True, "fsGroup": 7},
        "imagePullSecrets": [{"name": "pull"}],
    }
    made = pod_of(planned(pod=pod | {"containers": [container]}))
    safe = {"securityContext": {"allowPrivilegeEscalation": False}}
    assert made == pod | {
        "containers": [container | safe],
        "restartPolicy": "Never",
        "automountServiceAccountToken": False,
    }


def test_the_job_is_stamped_owned_and_bounded() -> None:
    body = planned(backoffLimit=2).work.body
    assert body["metadata"]["name"] == f"db-check-{OPERATION[-8:]}"
    assert body["metadata"]["annotations"]["paramedic.dev/operation"] == OPERATION
    assert [(o["uid"], o["controller"]) for o in body["metadata"]["ownerReferences"]] == [("uid-i", False)]
    assert (body["spec"]["backoffLimit"], body["spec"]["ttlSecondsAfterFinished"]) == (2, 86400)
    assert len(job_name("s" * 63, OPERATION)) <= 63


def test_the_plan_is_the_same_under_another_operation() -> None:
    assert planned(new_operation(NOW)).after == planned(new_operation(NOW)).after


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"pod": {"hostNetwork": True}}, "must be false"),
        ({"pod": {"hostPID": True}}, "must be false"),
        ({"pod": {"hostIPC": True}}, "must be false"),
        ({"pod": {"volumes": [{"name": "v", "hostPath": {"path": "/"}}]}}, "must be left out"),
        ({"pod": {"automountServiceAccountToken": True}}, "only under a serviceAccountName"),
        ({"pod": {"containers": [CONTAINER | {"securityContext": {"privileged": True}}]}}, "must be false"),
        ({"pod": {"containers": [CONTAINER | {"env": [{"name": "API_TOKEN", "value": "x"}]}]}}, "looks like a secret"),
    ],
)
def test_what_admission_refuses_is_refused_when_read_as_well(wrong: Json, words: str) -> None:
    with pytest.raises(ValidationError) as refusal:
        planned(**wrong)
    assert words in str(refusal.value)


# -- what is told ------------------------------------------------------------------------------------------------------


def job(condition: str = "", reason: str = "", message: str = "") -> Json:
    at = (NOW + timedelta(seconds=12)).isoformat()
    ended = {"type": condition, "status": "True", "reason": reason, "message": message, "lastTransitionTime": at}
    status: Json = {"startTime": NOW.isoformat(), "conditions": [ended] if condition else []}
    return {"metadata": {"name": "j", "uid": "u", "creationTimestamp": NOW.isoformat()}, "status": status}


def pod(code: int | None = None, why: str = "", *, name: str = "p", uid: str = "u", **status: Any) -> Json:
    state = {"terminated": {"exitCode": code, "reason": why}} if code is not None else {"running": {}}
    return {
        "metadata": {"name": name, "creationTimestamp": NOW.isoformat(), "ownerReferences": [{"uid": uid}]},
        "spec": {"containers": [{"name": "check"}]},
        "status": {"containerStatuses": [{"name": "check", "state": state}]} | status,
    }


WAITING = {
    "containerStatuses": [{"name": "check", "image": "x:1", "state": {"waiting": {"reason": "ImagePullBackOff"}}}]
}
NO_NODE = {"conditions": [{"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": "0/1"}]}


@pytest.mark.parametrize(
    ("found", "ran", "text"),
    [
        (job("Complete"), pod(0), "Job j succeeded in 12 s"),
        (
            job("Failed", "BackoffLimitExceeded"),
            pod(3, "Error"),
            "failed after 12 s: exit code 3 (Error); BackoffLimit",
        ),
        (job("Failed", "DeadlineExceeded", "too long"), None, "DeadlineExceeded: too long; no pod of it was made"),
        (job("Failed", "BackoffLimitExceeded"), pod(137, "OOMKilled"), "exit code 137 (OOMKilled)"),
        (job(), pod(), "not over within 60 s: it was still running"),
        (job(), None, "not over within 60 s: no pod of it was made"),
        (job(), pod(**WAITING), "pod p: image x:1 of container check cannot be pulled"),
        (job(), pod(**NO_NODE), "pod p: no node takes it (Unschedulable: 0/1)"),
        (job("FailureTarget"), pod(), "not over"),
    ],
)
def test_one_line_says_how_it_went(found: Json, ran: Json | None, text: str) -> None:
    assert text in told("j", job_end(found), ran, 60.0, NOW)


def test_only_pods_of_this_very_job_count() -> None:
    later = pod(name="p2") | {"metadata": pod(name="p2")["metadata"] | {"creationTimestamp": "2027-01-01T00:00:00Z"}}
    assert newest_pod(job(), [pod(name="p1"), later, pod(name="other", uid="x")]) is later
    assert newest_pod(job(), [pod(uid="x")]) is None
    assert exit_of(None) == (None, "")
    assert obstacle(pod(0), NOW) == ""


def test_the_container_that_failed_gives_the_exit_code() -> None:
    statuses = [{"state": {"terminated": {"exitCode": code, "reason": "R"}}} for code in (0, 4, 0)]
    assert exit_of({"metadata": {}, "status": {"containerStatuses": statuses}}) == (4, "R")


@pytest.mark.parametrize(
    ("log", "count", "kept"),
    [
        (b"", 20, ""),
        (b"one\ntwo\nthree\n", 2, "two\nthree"),
        (b"one\n", 0, ""),
        (b"password=hunter2\nok", 5, "password=***\nok"),
        (b"\xff\xfe bad bytes", 5, "\ufffd\ufffd bad bytes"),
        (b"x" * 9000, 5, "x" * 1000),
    ],
)
def test_the_last_lines_of_a_log(log: bytes, count: int, kept: str) -> None:
    assert last_lines(log, count) == kept


def test_the_log_on_a_status_is_bounded() -> None:
    assert len(last_lines(b"\n".join([b"y" * 500] * 200), 200).encode()) <= 4096


@pytest.mark.parametrize(
    ("log", "output"),
    [
        (b'hello\n{"rows": 3, "ok": true, "who": {"name": "a"}}\n', {"rows": 3, "ok": True, "who": {"name": "a"}}),
        (b'{"rows": 3}\nbye', {}),
        (b"[1, 2]", {}),
        (b'"text"', {}),
        (b"{", {}),
        (b"", {}),
        (b'{"api_token": "abcdef", "n": 1}', {"api_token": "***", "n": 1}),
        (
            b'{"db":{"password":"x"},"tokens":["abc"],"password":123,"secret":{"a":[1]},"has_token":true,"rows":[1,2]}',
            {
                "db": {"password": "***"},
                "tokens": "***",
                "password": "***",
                "secret": "***",
                "has_token": True,
                "rows": [1, 2],
            },
        ),
        (
            b'{"env":[[{"deep":{"MASTER_KEY":"k"}}]],"next_token":null}',
            {"env": [[{"deep": {"MASTER_KEY": "***"}}]], "next_token": None},
        ),
        (
            b'{"url":"postgres://a:b@c/d","name":"token","value":"abcdef"}',
            {"url": "postgres://***@c/d", "name": "token", "value": "***"},
        ),
        (b'{"args":["--password","hunter2"]}', {"args": ["--password", "***"]}),
        (b'{"a": "' + b"x" * 5000 + b'"}', {}),
        # what could not be stored on a status
        (b'{"a": "\\ud800"}', {}),
        (b'{"\\ud800 and so on": 1}', {}),
        (b'{"a": NaN}', {}),
        (b'{"a": 1e999}', {}),
        (b'{"a": 9223372036854775808}', {}),
        (b'{"a": 9223372036854775807}', {"a": 9223372036854775807}),
        (b'{"a":' * 300 + b"1" + b"}" * 300, {}),
        (b'{"a":' * 600 + b"1" + b"}" * 600, {}),
        (b"[" * 4000, {}),
    ],
)
def test_the_last_line_may_give_values(log: bytes, output: Json) -> None:
    assert output_of(log) == output


def test_the_result_fits_a_status() -> None:
    result = result_of("j", job_end(job("Complete")), pod(0, "Completed"), 60.0, "ok", {"rows": 3})
    assert result == {
        "job": "j",
        "succeeded": True,
        "exitCode": 0,
        "reason": "Completed",
        "seconds": 12.0,
        "log": "ok",
        "output": {"rows": 3},
    }
    assert json.loads(json.dumps(result)) == result
    over = result_of("j", None, None, 60.04, "", {})
    assert (over["succeeded"], over["exitCode"], over["reason"], over["seconds"]) == (False, -1, "TimedOut", 60.0)


class KubeWithSidecars:
    """Ends every Job at once; a mesh has put its own container in front in every pod."""

    async def create(self, path: str, body: Json) -> Json:
        return job("Complete")

    async def list(self, path: str, selector: str = "") -> list[Json]:
        return [pod(0) | {"spec": {"containers": [{"name": "istio-proxy"}, {"name": "check"}]}}]

    async def stream(self, path: str, query: dict[str, str], **_: Any) -> AsyncIterator[bytes]:
        yield b"proxy is going" if query["container"] == "istio-proxy" else b'{"rows": 3}'


async def test_the_log_that_counts_is_not_a_sidecars() -> None:
    report = await run(Clients(cast("Kube", KubeWithSidecars())), "covet", new_operation(NOW))
    assert report.result is not None
    assert (report.result["log"], report.result["output"]) == ('{"rows": 3}', {"rows": 3})


# -- on a real API server ----------------------------------------------------------------------------------------------


async def run(clients: Clients, namespace: str, operation: str, seconds: float = 20, **fields: Any) -> Report:
    seen = observed(workload())
    seen.target["metadata"]["namespace"] = namespace
    change = RUN_JOB.plan(seen, RunJobParams.model_validate(params(**fields)), operation)
    report = await RUN_JOB.apply(replace(change, seconds=seconds), clients)
    assert report is not None
    return report


async def test_begun_twice_there_is_one_job(admin: Api, kube: Kube, namespace: str) -> None:
    operation = new_operation(NOW)
    first = await run(Clients(kube), namespace, operation)
    again = await run(Clients(kube), namespace, operation)
    (made,) = await admin.list("batch/v1/jobs", namespace)
    assert made["status"]["succeeded"] == 1
    assert (first.failed, again.failed) == (False, False)
    assert first.message == again.message
    await run(Clients(kube), namespace, new_operation(NOW))
    assert len(await admin.list("batch/v1/jobs", namespace)) == 2


async def test_a_namesake_is_not_taken_for_it(admin: Api, kube: Kube, namespace: str) -> None:
    operation = new_operation(NOW)
    spec = {"template": {"spec": {"containers": [CONTAINER], "restartPolicy": "Never"}}}
    theirs = {"apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": job_name("", operation)}, "spec": spec}
    await admin.create(theirs, namespace)
    with pytest.raises(Terminal) as refusal:
        await run(Clients(kube), namespace, operation)
    assert "is not this step's" in str(refusal.value)


async def test_its_whole_log_is_kept_as_evidence(kube: Kube, namespace: str, tmp_path: Path) -> None:
    store = EvidenceStore(DirectoryBackend(tmp_path))
    report = await run(Clients(kube, store), namespace, new_operation(NOW))
    store.close()
    logs = [item for item in report.evidence if item.name.endswith("/check.log")]
    assert len(logs) == 1
    assert logs[0].sha256
    assert logs[0].size_bytes
    kept = [file for file in tmp_path.rglob("check.log") if file.is_file()]
    assert len(kept) == 1
    assert report.result is not None
    assert str(report.result["log"]).splitlines()[-1] in kept[0].read_text()


async def test_a_namespace_that_has_stored_enough_today_keeps_no_more_logs(
    kube: Kube, namespace: str, tmp_path: Path
) -> None:
    store = EvidenceStore(DirectoryBackend(tmp_path), Limits(day_bytes=10))
    first = await run(Clients(kube, store), namespace, new_operation(NOW))
    again = await run(Clients(kube, store), namespace, new_operation(NOW))
    store.close()
    assert (first.failed, again.failed) == (False, False)
    (log,) = [item for item in first.evidence if item.name.endswith("/check.log")]
    assert log.size_bytes == 10
    (missed,) = again.evidence
    assert missed.uri is None
    assert "evidence.maxBytesPerDay" in str(missed.note)


async def test_logs_do_not_wait_long_for_captures(kube: Kube, namespace: str, tmp_path: Path) -> None:
    store = EvidenceStore(DirectoryBackend(tmp_path))
    async with AsyncExitStack() as others:
        for _ in range(2):
            await others.enter_async_context(store.shares.turn(namespace, float("inf"), lambda: None))
        report = await run(Clients(kube, store), namespace, new_operation(NOW))
    store.close()
    assert not report.failed
    (missed,) = report.evidence
    assert "others were under way" in str(missed.note)


async def test_one_that_hangs_is_ended(admin: Api, kube: Kube, namespace: str) -> None:
    report = await run(Clients(kube), namespace, new_operation(NOW), seconds=3, pod={"nodeSelector": {"a": "b"}})
    assert report.failed
    assert "no node takes it" in report.message
    assert report.message.endswith("; it was deleted")
    assert await admin.list("batch/v1/jobs", namespace) == []
