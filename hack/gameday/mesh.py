"""A service mesh for covet: a real Envoy in each of its pods, and a control plane that tells them what to do.

This plays Istio, of which three things are done otherwise. Its webhook's part, the second container, is done to the
manifests before they are applied (`injected`). Traffic comes to the sidecar's port by the Service's targetPort, not
by iptables. And the control plane, `ControlPlane`, answers Envoy's own xDS API by REST, not by a gRPC stream, and knows
EnvoyFilters only. Ports and names are those of Istio.
"""

from __future__ import annotations

import contextlib
import copy
import json
import threading
from collections.abc import Mapping, Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any, Self

from gameday.envoy import ROUTER, TYPE, chain
from gameday.envoyfilters import patched
from gameday.repeated import Repeated
from images.envoy import NAME as IMAGE
from testbed.rest import ApiError, Rest

Json = dict[str, Any]

POLL_SECONDS = 0.5
CONTAINER = "istio-proxy"
INBOUND_PORT, STATS_PORT, ADMIN_PORT, APP_PORT = 15006, 15090, 15000, 8000
BOOTSTRAP = "istio-proxy"
"""A ConfigMap, and the volume that brings it to the pods."""
MOST_REQUESTS = 100
"""Connections, and requests that wait for one, between a sidecar and its app; with more, the circuit breaker opens."""
LISTENERS = "/v3/discovery:listeners"
_FOLDER = "/etc/istio/proxy"
_INBOUND, _CONTROL, _ADMIN = f"inbound|{APP_PORT}||", "xds", "admin"
_LISTENER = f"{TYPE}.config.listener.v3.Listener"


class ControlPlane:
    """Serves a namespace's sidecars at `address` (host:port), as long as the context lasts.

    A sidecar asks by its pod's name, again and again. It is told its listener, with the filters that the namespace's
    EnvoyFilters make of it; one that is not known here (FilterError) ends this, and the context raises it.
    """

    def __init__(self, api: Rest, namespace: str, host: str, port: int) -> None:
        self.address = f"{host}:{port}"
        self._api = api
        self._pods = f"/api/v1/namespaces/{namespace}/pods"
        self._filters = f"/apis/networking.istio.io/v1alpha3/namespaces/{namespace}/envoyfilters"
        self._listeners: dict[str, Json] = {}
        self._following = Repeated("mesh", POLL_SECONDS / 2, self._follow)
        self._server = ThreadingHTTPServer((host, port), self._handler())
        self._thread = threading.Thread(target=self._server.serve_forever, name="xds", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        self._following.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            self._following.__exit__(kind, error, trace)
        finally:
            self._server.shutdown()
            self._server.server_close()
            self._thread.join()

    def _follow(self) -> None:
        with contextlib.suppress(OSError, ApiError):
            specs = [one["spec"] for one in self._api.request("GET", self._filters)["items"]]
            pods = [one["metadata"] for one in self._api.request("GET", self._pods)["items"]]
            self._listeners = {pod["name"]: inbound_listener(specs, pod.get("labels", {})) for pod in pods}

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        def listener_of(pod: str) -> Json | None:
            return self._listeners.get(pod)

        class Discovery(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                listener = listener_of(asked["node"]["id"])
                known = self.path == LISTENERS and listener is not None
                body = json.dumps(_discovered(listener or {})).encode() if known else b""
                self.send_response(200 if known else 404)  # a pod of which nothing was heard yet asks again
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                with contextlib.suppress(OSError):  # the pod has gone meanwhile
                    self.wfile.write(body)

            def log_message(self, *_: object) -> None:
                """The sidecars' logs say what they were told."""

        return Discovery


def injected(objects: Sequence[Json], control_plane: str) -> list[Json]:
    """Manifests with a sidecar in each Deployment's pods that a Service of theirs leads to; that Service leads to it.

    `control_plane` is host:port as pods reach it.
    """
    made = copy.deepcopy(list(objects))
    services = [one for one in made if one["kind"] == "Service"]
    for deployment in [one for one in made if one["kind"] == "Deployment"]:
        template = deployment["spec"]["template"]
        ours = [one for one in services if one["spec"]["selector"].items() <= template["metadata"]["labels"].items()]
        for service in ours:
            for port in service["spec"]["ports"]:
                port["targetPort"] = INBOUND_PORT
        if ours:
            _inject(template["spec"])
    return [_bootstrap_map(control_plane), *made]


def inbound_listener(specs: Sequence[Json], labels: Mapping[str, str]) -> Json:
    """The listener for the inbound traffic of a pod with these labels. FilterError for EnvoyFilters not known here."""
    filters = [ROUTER]
    for spec in specs:
        filters = patched(spec, filters, labels)
    return _listener("virtualInbound", INBOUND_PORT, _INBOUND, "/", filters)


def bootstrap(control_plane: str) -> Json:
    """What a sidecar knows from the start: where the control plane and the app are, and who may see its statistics."""
    host, _, port = control_plane.partition(":")
    source = {"api_type": "REST", "transport_api_version": "V3", "cluster_names": [_CONTROL]}
    source["refresh_delay"] = f"{POLL_SECONDS}s"
    return {
        "admin": {"address": _address("127.0.0.1", ADMIN_PORT)},
        "dynamic_resources": {"lds_config": {"resource_api_version": "V3", "api_config_source": source}},
        "static_resources": {
            "listeners": [_listener("stats", STATS_PORT, _ADMIN, "/stats/prometheus", [ROUTER])],
            "clusters": [
                _cluster(_CONTROL, host, int(port)),
                _cluster(_INBOUND, "127.0.0.1", APP_PORT),
                _cluster(_ADMIN, "127.0.0.1", ADMIN_PORT),
            ],
        },
    }


def _discovered(listener: Json) -> Json:
    version = str(hash(json.dumps(listener)))
    return {"version_info": version, "type_url": _LISTENER, "resources": [{"@type": _LISTENER} | listener]}


def _listener(name: str, port: int, cluster: str, prefix: str, filters: list[Json]) -> Json:
    route: Json = {"match": {"prefix": prefix}, "route": {"cluster": cluster, "timeout": "0s"}}
    return {
        "name": name,
        "address": _address("0.0.0.0", port),  # noqa: S104  # a pod's own address
        "filter_chains": [chain(route, filters, stat_prefix=name)],
    }


def _cluster(name: str, host: str, port: int) -> Json:
    endpoint = {"endpoint": {"address": _address(host, port)}}
    limits = {"max_connections": MOST_REQUESTS, "max_pending_requests": MOST_REQUESTS}
    return {
        "name": name,
        "type": "STATIC",
        "connect_timeout": "1s",
        "circuit_breakers": {"thresholds": [limits]},
        "load_assignment": {"cluster_name": name, "endpoints": [{"lb_endpoints": [endpoint]}]},
    }


def _address(host: str, port: int) -> Json:
    return {"socket_address": {"address": host, "port_value": port}}


def _bootstrap_map(control_plane: str) -> Json:
    data = {"bootstrap.json": json.dumps(bootstrap(control_plane))}
    return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": BOOTSTRAP}, "data": data}


def _inject(pod: Json) -> None:
    pod.setdefault("volumes", []).append({"name": BOOTSTRAP, "configMap": {"name": BOOTSTRAP}})
    pod["containers"].append(_container())


def _container() -> Json:
    name = {"name": "POD_NAME", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}}
    arguments = ["--config-path", f"{_FOLDER}/bootstrap.json", "--service-node", "$(POD_NAME)"]
    return {
        "name": CONTAINER,
        "image": IMAGE,
        "imagePullPolicy": "Never",
        "args": [*arguments, "--service-cluster", "covet", "--log-level", "warning"],
        "env": [name],
        "ports": [{"name": "inbound", "containerPort": INBOUND_PORT}, {"name": "stats", "containerPort": STATS_PORT}],
        "readinessProbe": {"tcpSocket": {"port": INBOUND_PORT}, "periodSeconds": 1},
        "lifecycle": {"preStop": {"sleep": {"seconds": 1}}},
        "volumeMounts": [{"name": BOOTSTRAP, "mountPath": _FOLDER, "readOnly": True}],
        "resources": {"requests": {"cpu": "50m", "memory": "64Mi"}, "limits": {"memory": "256Mi"}},
        "securityContext": {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        },
    }
