"""Runs the checks in parallel and puts what they saw together."""

import asyncio
import time
from collections.abc import Awaitable
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any

from paramedic import log
from paramedic.actions.base import read_target
from paramedic.api.diagnosis import DiagnoseParams
from paramedic.api.incident import Finding
from paramedic.api.workload import BoundTarget
from paramedic.clients.connections import Connections
from paramedic.clients.kube import Kube
from paramedic.clients.web import Web
from paramedic.core.findings import findings_of
from paramedic.core.outside import Outside
from paramedic.core.picture import Answer, Breaker, Picture, name_of
from paramedic.core.redact import clean
from paramedic.diagnosis.capacity import read_autoscalers, read_node_usage, read_nodes, read_pod_usage
from paramedic.diagnosis.connections import read_connections
from paramedic.diagnosis.document import document
from paramedic.diagnosis.logs import read_logs
from paramedic.diagnosis.looking import Limits, Looks, nothing
from paramedic.diagnosis.outside import PodStats, ask_all, read_envoys
from paramedic.diagnosis.traffic import Traffic, read_traffic
from paramedic.diagnosis.workload import (
    MOST_EVENTS,
    History,
    has_history,
    labels_of,
    own_events,
    own_pods,
    read_events,
    read_history,
    read_pods,
    read_quotas,
    selector_of,
)
from paramedic.errors import NotFound

Json = dict[str, Any]
_log = log.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Diagnosis:
    """What was found (at most ten findings, causes first), the whole of it, and what could not be looked at."""

    findings: tuple[Finding, ...]
    document: Json
    failed: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class _Pods:
    """The pods and what waits for them."""

    pods: list[Json] | None
    history: History | None
    logs: list[Json]
    envoys: list[PodStats]


@dataclass(frozen=True, slots=True)
class _Around:
    """What can be looked at without knowing the pods."""

    events: list[Json] | None
    quotas: list[Json] | None
    nodes: list[Json] | None
    autoscalers: list[Json] | None
    node_usage: list[Json] | None


async def diagnose(
    kube: Kube,
    target: BoundTarget,
    params: DiagnoseParams,
    alert_started_at: datetime | None,
    now: datetime,
    *,
    web: Web | None = None,
    limits: Limits | None = None,
    connections: Connections | None = None,
) -> Diagnosis:
    """Looks at everything that the runbook looks at; changes nothing and raises nothing.

    A look that fails or takes longer than its limit is a line in ``failed`` ("could not look: …"). Without ``web``
    it makes a client of its own, which never asks a loopback address. Without ``connections`` it knows none.
    """
    if web is None:
        async with Web() as own:
            return await diagnose(
                kube, target, params, alert_started_at, now, web=own, limits=limits, connections=connections
            )
    run = _Run(kube, web, connections, target, params, limits or Limits(), alert_started_at)
    try:
        return await run.diagnosis(now)
    except Exception as error:  # noqa: BLE001 - whatever is wrong with a diagnosis, the incident goes on
        _log.exception("the diagnosis failed", target=str(target), namespace=target.namespace)
        line = f"could not look: {target}: {type(error).__name__}: {clean(error)}"
        return Diagnosis((), {"target": str(target), "couldNotLook": [line]}, (line,))


class _Run:
    """One diagnosis."""

    def __init__(
        self,
        kube: Kube,
        web: Web,
        connections: Connections | None,
        target: BoundTarget,
        params: DiagnoseParams,
        limits: Limits,
        alert_started_at: datetime | None,
    ) -> None:
        self._kube = kube
        self._web = web
        self._connections = connections
        self._target = target
        self._params = params
        self._limits = limits
        self._alert_started_at = alert_started_at
        self._looks = Looks()
        self._target_missing = False

    async def diagnosis(self, now: datetime) -> Diagnosis:
        began = time.monotonic()
        answers, outside, around, (workload, of_pods, traffic, usage) = await asyncio.gather(
            ask_all(self._web, self._params, self._looks, self._limits.web),
            self._outside(),
            self._around(),
            self._of_target(),
        )
        picture = self._picture(now, workload, of_pods, traffic, around, usage, answers)
        picture = replace(picture, outside=outside)
        # In a thread: thousands of pods take a while, and other incidents must not wait for them.
        findings, whole = await asyncio.to_thread(self._told, picture, of_pods, around)
        whole["milliseconds"] = round(1000 * (time.monotonic() - began))
        return Diagnosis(findings, whole, tuple(self._looks.failed))

    def _told(self, picture: Picture, of_pods: _Pods, around: _Around) -> tuple[tuple[Finding, ...], Json]:
        findings = findings_of(picture)
        return findings, document(
            picture,
            findings,
            self._looks.failed,
            revisions=of_pods.history.revisions if of_pods.history else [],
            logs=of_pods.logs,
            node_usage=around.node_usage,
            envoys=of_pods.envoys,
        )

    async def _of_target(self) -> tuple[Json | None, _Pods, Traffic, list[Json] | None]:
        """What is found by the target's labels, which must be read first."""
        workload = await self._looks.at(str(self._target), self._read_target(), self._limits.target)
        selector = selector_of(workload) if workload else ""
        usage = read_pod_usage(self._kube, self._target.namespace, selector) if selector else nothing()
        traffic = read_traffic(
            self._kube,
            self._web,
            self._target,
            self._params,
            labels_of(workload) if workload else {},
            self._looks,
            self._limits.api,
        )
        of_pods, found, used = await asyncio.gather(
            self._of_pods(workload, selector), traffic, self._at("usage of pods", usage)
        )
        return workload, of_pods, found, used

    async def _history(self, workload: Json) -> History | None:
        looking = read_history(self._kube, self._target, workload, self._alert_started_at)
        found: History | None = await self._at("rollout history", looking)
        return found

    async def _of_pods(self, workload: Json | None, selector: str) -> _Pods:
        if workload is None or not selector:
            return _Pods(None, None, [], [])
        rolls_out = has_history(self._target)
        matching, history = await asyncio.gather(
            self._at("pods", read_pods(self._kube, self._target.namespace, selector)),
            self._history(workload) if rolls_out else nothing(),
        )
        pods = None if matching is None else own_pods(matching, history)
        logs, envoys = await asyncio.gather(
            read_logs(self._kube, pods or [], self._params.log_lines, self._looks, self._limits.pods),
            self._envoys(pods or []),
        )
        return _Pods(pods, history, logs, envoys)

    async def _envoys(self, pods: list[Json]) -> list[PodStats]:
        port = self._params.envoy_stats_port
        return await read_envoys(self._web, pods, port, self._looks, self._limits.pods) if port else []

    async def _outside(self) -> tuple[Outside, ...]:
        checks, namespace, seconds = self._params.connections, self._target.namespace, self._limits.connections
        if self._connections is None:
            return ()
        return await read_connections(self._connections, self._kube, namespace, checks, self._looks, seconds)

    async def _around(self) -> _Around:
        namespace = self._target.namespace
        events, quotas, nodes, autoscalers, node_usage = await asyncio.gather(
            self._at("events", read_events(self._kube, namespace)),
            self._at("resource quotas", read_quotas(self._kube, namespace)),
            self._at("nodes", read_nodes(self._kube)),
            self._at("autoscalers", read_autoscalers(self._kube, self._target)),
            self._at("usage of nodes", read_node_usage(self._kube)),
        )
        if events is not None and len(events) >= MOST_EVENTS:
            self._looks.missed("further events", f"of the namespace's Warnings only {len(events)} were read")
        return _Around(events, quotas, nodes, autoscalers, node_usage)

    async def _read_target(self) -> Json | None:
        # Other kinds have no pods of their own, and some must not be read at all.
        if not (has_history(self._target) or self._target.kind == "Service"):
            return None
        try:
            return await read_target(self._target, self._kube)
        except NotFound:
            self._target_missing = True
            return None

    async def _at(self, what: str, look: Awaitable[Any]) -> Any:
        return await self._looks.at(what, look, self._limits.api)

    def _picture(
        self,
        now: datetime,
        workload: Json | None,
        of_pods: _Pods,
        traffic: Traffic,
        around: _Around,
        usage: list[Json] | None,
        answers: tuple[Answer, ...],
    ) -> Picture:
        missing = (str(self._target),) if self._target_missing else ()
        related = {f"Service/{name_of(s)}" for s in traffic.services or []}
        related |= {f"Ingress/{name_of(i)}" for i in traffic.ingresses or []}
        related |= {f"HorizontalPodAutoscaler/{name_of(h)}" for h in around.autoscalers or []}
        events = around.events
        return Picture(
            target=str(self._target),
            namespace=self._target.namespace,
            now=now,
            alert_started_at=self._alert_started_at,
            workload=workload,
            labels=labels_of(workload) if workload else {},
            pods=of_pods.pods,
            release=of_pods.history.release if of_pods.history else None,
            events=None if events is None else own_events(events, self._target, of_pods.pods, related),
            services=traffic.services,
            stray_services=traffic.strays,
            endpoint_slices=traffic.slices,
            ingresses=traffic.ingresses,
            nodes=around.nodes,
            autoscalers=around.autoscalers,
            quotas=around.quotas,
            pod_usage=usage,
            answers=answers,
            names=traffic.names,
            breakers=tuple(
                Breaker(one.pod, s.cluster, s.name) for one in of_pods.envoys for s in one.stats if s.is_open
            ),
            missing=(*missing, *(m for m in traffic.missing if m not in missing)),
        )
