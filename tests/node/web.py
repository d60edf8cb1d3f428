"""A web server of two pods and its Service, on the real node."""

from __future__ import annotations

import urllib.request
from typing import Any

from testbed.api import Api, eventually

IMAGE = "docker.io/local/busybox:1"
SERVE = "mkdir -p /tmp/www && echo release 1 > /tmp/www/index.html && exec httpd -f -p 8080 -h /tmp/www"
LABELS = {"app": "web"}


async def serve(api: Api, namespace: str) -> None:
    """Creates them; does not wait until they are ready."""
    await eventually(lambda: api.find("v1/serviceaccounts", "default", namespace), what="the default ServiceAccount")
    await api.create(deployment(), namespace)
    await api.create(service(), namespace)


def deployment() -> dict[str, Any]:
    """All pods at once are replaced at a release: a bad one is an outage."""
    container = {
        "name": "web",
        "image": IMAGE,
        "imagePullPolicy": "Never",
        "command": ["sh", "-c", SERVE],
        "ports": [{"name": "http", "containerPort": 8080}],
        "readinessProbe": {"httpGet": {"path": "/", "port": "http"}, "periodSeconds": 1},
    }
    template = {
        "metadata": {"labels": LABELS},
        "spec": {"containers": [container], "terminationGracePeriodSeconds": 1},
    }
    spec = {
        "replicas": 2,
        "selector": {"matchLabels": LABELS},
        "strategy": {"type": "Recreate"},
        "template": template,
    }
    return {"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "web"}, "spec": spec}


def service() -> dict[str, Any]:
    spec = {"selector": LABELS, "ports": [{"port": 80, "targetPort": "http"}]}
    return {"apiVersion": "v1", "kind": "Service", "metadata": {"name": "web"}, "spec": spec}


def body(url: str) -> str:
    with urllib.request.urlopen(url, timeout=2) as answer:
        text: str = answer.read().decode()
        return text


async def address_of(api: Api, namespace: str, name: str) -> str:
    return str((await api.get("v1/services", name, namespace))["spec"]["clusterIP"])
