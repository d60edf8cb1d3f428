"""Paramedic as manifests/ have it, with the image of this work tree and the settings of game days. Pure."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import yaml

from gameday.aurora import CLUSTER
from gameday.aws import Aws
from gameday.balancer import NEVER_BLOCK
from gameday.cloud import BUCKET, PARAMEDIC_KEYS, REGION
from gameday.stores import DATABASE, DUMPER, OPERATOR, Stores
from testbed.operator_process import NAMESPACE

Json = dict[str, Any]

IMAGE = "docker.io/local/paramedic:dev"
POLL_GRACE_SECONDS = 15
"""So long the webhook may take before Paramedic takes an alert from Prometheus itself."""
CONNECTIONS = "connections"
"""A Secret with the password of covet's databases, and the volume that brings it to the pods."""
CONNECTIONS_FOLDER = "/secrets/connections"
AWS = "aws-credentials"
"""A Secret with the keys for AWS, as variables of the pods' environment."""


def settings_for(stores: Stores, aws: Aws, prometheus_url: str, namespaces: Sequence[str]) -> Json:
    """paramedic.yaml: where Prometheus is, covet's databases and AWS as connections for these namespaces, and the
    bucket for evidence.
    """
    shared = {"host": stores.host, "passwordFile": f"{CONNECTIONS_FOLDER}/covet"}
    database = {"port": stores.postgres.port, "database": DATABASE, "username": OPERATOR, "sslmode": "disable"}
    writer = database | {"host": aws.aurora.endpoint, "port": aws.aurora.port, "passwordFile": shared["passwordFile"]}
    dumped = database | {"username": DUMPER}
    queue = {"port": stores.redis.port, "tls": False}
    access = {"region": REGION, "endpointURL": aws.cloud.url}
    grace = f"{POLL_GRACE_SECONDS}s"
    listener = access | {"listenerARN": aws.balancer.listener_arn, "neverBlock": [NEVER_BLOCK]}
    return {
        "prometheus": {"url": prometheus_url, "pollInterval": "5s", "pollGrace": grace, "endGrace": grace},
        "connections": [
            {"name": "covet-db", "namespaces": list(namespaces), "postgres": shared | database},
            {"name": "covet-dump", "namespaces": list(namespaces), "postgres": shared | dumped},
            {"name": "covet-queue", "namespaces": list(namespaces), "redis": shared | queue},
            {"name": "covet-account", "namespaces": list(namespaces), "aws": access},
            {"name": "covet-aurora", "namespaces": list(namespaces), "aurora": access | {"cluster": CLUSTER}},
            {"name": "covet-aurora-writer", "namespaces": list(namespaces), "postgres": writer},
            {"name": "covet-alb", "namespaces": list(namespaces), "loadBalancer": listener},
        ],
        "evidence": {"s3": {"bucket": BUCKET, "prefix": "paramedic", **access}},
    }


def adapted(built: str, settings: Json, webhook_token: str, password: str) -> str:
    """What `kubectl kustomize manifests` has printed, as one list for `kubectl apply`, with all that is needed here."""
    objects: list[Json] = [one for one in yaml.safe_load_all(built) if one]
    for one in objects:
        if (one["kind"], one["metadata"]["name"]) == ("ConfigMap", "paramedic"):
            one["data"]["paramedic.yaml"] = json.dumps(settings)
        if (one["kind"], one["metadata"]["name"]) == ("Deployment", "paramedic"):
            _adapt_pods(one["spec"]["template"]["spec"])
    objects.append(secret(NAMESPACE, "paramedic-webhook", {"token": webhook_token}))
    objects.append(secret(NAMESPACE, CONNECTIONS, {"covet": password}))
    objects.append(secret(NAMESPACE, AWS, PARAMEDIC_KEYS))
    return json.dumps({"apiVersion": "v1", "kind": "List", "items": objects})


def secret(namespace: str, name: str, values: dict[str, str]) -> Json:
    """A Secret's manifest."""
    metadata = {"name": name, "namespace": namespace}
    return {"apiVersion": "v1", "kind": "Secret", "metadata": metadata, "stringData": values}


def _adapt_pods(pod: Json) -> None:
    pod["volumes"].append({"name": CONNECTIONS, "secret": {"secretName": CONNECTIONS}})
    (container,) = pod["containers"]
    container |= {"image": IMAGE, "imagePullPolicy": "Never"}
    container["envFrom"] = [{"secretRef": {"name": AWS}}]  # on EKS a role does it, without keys (manifests/README.md)
    container["volumeMounts"].append({"name": CONNECTIONS, "mountPath": CONNECTIONS_FOLDER, "readOnly": True})
