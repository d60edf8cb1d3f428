"""What kwok is told: one node, pods that run at once, and pods that never get ready.

A pod is *bad* when

- the image of one of its containers contains `:bad` or `:broken` (`shop/api:bad`, `shop/api:broken-2`), or
- it carries the annotation `testbed.paramedic.dev/never-ready: "true"` (put it on the pod template).

A bad pod is Running but not Ready, for ever, as one whose readiness probe fails: a rollout to it hangs, and after
`progressDeadlineSeconds` says so. A Job's bad pod fails with exit code 1. All other pods are Ready, or for a Job
complete, within a fraction of a second. Container logs (`kubectl logs`) are one fixed text, and another for what ran
before a restart (`--previous`).
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

Json = dict[str, Any]

NODE_NAME = "testbed-0"
NODE_SELECTOR = "kwok.x-k8s.io/node=fake"
NEVER_READY = "testbed.paramedic.dev/never-ready"
BAD_TAGS = (":bad", ":broken")

_HAS_BAD_TAG = " or ".join(f"contains({json.dumps(tag)})" for tag in BAD_TAGS)
IS_BAD = (
    f'(.metadata.annotations["{NEVER_READY}"] == "true") or '
    f"([.spec.containers[].image | select({_HAS_BAD_TAG})] | length > 0)"
)
"""A jq query over a Pod."""


def node() -> Json:
    """The one node, with room for everything a test wants."""
    key, value = NODE_SELECTOR.split("=")
    room = {"cpu": "1000", "memory": "1Ti", "pods": "10000"}
    return {
        "apiVersion": "v1",
        "kind": "Node",
        "metadata": {
            "name": NODE_NAME,
            "annotations": {key: value},
            "labels": {"kubernetes.io/hostname": NODE_NAME, "kubernetes.io/os": "linux", "type": "kwok"},
        },
        "status": {"allocatable": room, "capacity": room},
    }


def write_stages(folder: Path, defaults: list[Path], container_log: Path, previous_log: Path) -> list[Path]:
    """Writes our stages (JSON is YAML) into `folder`; returns all config files for kwok, its defaults first.

    Where several stages fit a pod, kwok takes only those with a weight. The defaults have none, so ours win.
    """
    folder.mkdir(parents=True, exist_ok=True)
    own = {"never-ready": _never_ready(), "job-fails": _job_fails(), "logs": _logs(container_log, previous_log)}
    files = []
    for name, document in own.items():
        file = folder / f"{name}.yaml"
        file.write_text(json.dumps(document, indent=1))
        files.append(file)
    return [*defaults, *files]


def _stage(name: str, selector: list[Json], status: str) -> Json:
    return {
        "apiVersion": "kwok.x-k8s.io/v1alpha1",
        "kind": "Stage",
        "metadata": {"name": name},
        "spec": {
            "resourceRef": {"apiGroup": "v1", "kind": "Pod"},
            "selector": {
                "matchExpressions": [
                    {"key": ".metadata.deletionTimestamp", "operator": "DoesNotExist"},
                    {"key": IS_BAD, "operator": "In", "values": ["true"]},
                    *selector,
                ]
            },
            "weight": 1,
            "next": {"statusTemplate": status},
        },
    }


def _never_ready() -> Json:
    return _stage(
        "pod-never-ready", [{"key": ".status.phase", "operator": "In", "values": ["Pending"]}], NEVER_READY_STATUS
    )


def _job_fails() -> Json:
    selector = [
        {"key": ".status.phase", "operator": "In", "values": ["Running"]},
        {"key": ".metadata.ownerReferences.[].kind", "operator": "In", "values": ["Job"]},
    ]
    return _stage("pod-job-fails", selector, FAILED_STATUS)


def _logs(container_log: Path, previous_log: Path) -> Json:
    return {
        "apiVersion": "kwok.x-k8s.io/v1alpha1",
        "kind": "ClusterLogs",
        "metadata": {"name": "all"},
        "spec": {"logs": [{"logsFile": str(container_log), "previousLogsFile": str(previous_log), "follow": False}]},
    }


NEVER_READY_STATUS = """\
{{ $now := Now }}
conditions:
- {type: Initialized, status: "True", lastTransitionTime: {{ $now | Quote }}}
- {type: Ready, status: "False", lastTransitionTime: {{ $now | Quote }}, reason: ContainersNotReady}
- {type: ContainersReady, status: "False", lastTransitionTime: {{ $now | Quote }}, reason: ContainersNotReady}
containerStatuses:
{{ range .spec.containers }}
- image: {{ .image | Quote }}
  name: {{ .name | Quote }}
  ready: false
  started: true
  restartCount: 0
  state: {running: {startedAt: {{ $now | Quote }}}}
{{ end }}
{{ with PodIPsWith .spec.nodeName ( or .spec.hostNetwork false ) .metadata.uid .metadata.name .metadata.namespace }}
podIP: {{ index . 0 | Quote }}
podIPs:
{{ range . }}
- ip: {{ . | Quote }}
{{ end }}
{{ end }}
phase: Running
startTime: {{ $now | Quote }}
"""

FAILED_STATUS = """\
{{ $now := Now }}
containerStatuses:
{{ range .spec.containers }}
- image: {{ .image | Quote }}
  name: {{ .name | Quote }}
  ready: false
  started: false
  restartCount: 0
  state: {terminated: {exitCode: 1, finishedAt: {{ $now | Quote }}, reason: Error, startedAt: {{ $now | Quote }}}}
{{ end }}
phase: Failed
"""
