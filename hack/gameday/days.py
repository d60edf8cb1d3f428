"""The game days: which fault, how it is noticed, what Paramedic is told to do about it. Each is a line of the table.

Each happens in a namespace of its own, on a service that was well before. Alert rules are as in production, with
seconds where production has minutes.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from gameday import evidence
from gameday.aurora import INSTANCES
from gameday.balancer import not_blocked, not_kept_out
from gameday.load import Call, Sample
from gameday.scene import Act, Scene

Json = dict[str, Any]

ALL = 'sum(rate(http_requests_total{job="covet"}[5s]))'
QUICK = 'sum(rate(http_request_duration_seconds_bucket{job="covet",le="0.25"}[5s]))'
FAILED = 'sum(rate(http_requests_total{job="covet",code=~"5.."}[5s]))'
BY_SOURCE = 'sum by (source) (rate(http_requests_by_source_total{job="covet"}[5s]))'
SLOWEST = 'histogram_quantile(0.9, sum by (le) (rate(http_request_duration_seconds_bucket{job="covet"}[5s])))'

LATELY_SECONDS = 3
RESTOCK = Call("POST", "/restock")
GUESS = Call("GET", "/admin")


@dataclass(frozen=True)
class GameDay:
    """One fault."""

    name: str
    """Lower case with dashes: part of a namespace's name."""
    section: str
    """Of the runbook."""
    fault: str
    alert: str
    summary: str
    expression: str
    """PromQL: there is an alert when it has been true for two seconds."""
    policy: str
    """The file in policies/."""
    begin: Callable[[Scene], None]
    acts: Mapping[str, int]
    """What Paramedic is to change in each round, and how often: by the audit log, or the database's own log."""
    annotations: Mapping[str, str] = field(default_factory=dict)
    """What the alert says beside its summary."""
    ends: str = "Resolved"
    """What the incident's phase is in the end; Holding when what was done is for as long as the fault lasts."""
    rate: float = 20
    """Requests per second."""
    settings: Mapping[str, str] = field(default_factory=dict)
    """On top of covet's usual ones."""
    recreate: bool = False
    """Whether a release replaces all pods at once: in a rolling update, users see nothing of pods that do not start."""
    sidecar: bool = False
    """Whether each of the app's pods has an Envoy in front, as in a service mesh."""
    aurora: bool = False
    """Whether covet's database is the Aurora cluster instead of a server of its own."""
    balancer: bool = False
    """Whether users come through the load balancer."""
    hurt: Callable[[Scene], list[Sample]] = Scene.of_users
    """Whose requests, or what else, tells when the fault began to hurt and when it no longer did."""
    watch_seconds: float = 0
    """So long it is watched in any case: a fault may come again."""
    incidents: int = 1
    """As many make one round of what is done."""
    repeats: bool = False
    """Whether it comes again after what was done, and is answered again, each time by incidents of its own."""
    by_alert: bool = True
    """Whether an alert has Paramedic act; if not, a person's order."""
    hurts: bool = True
    """Whether somebody is hurt; if not, a fault that hurt nobody was none."""
    killed: str = ""
    """Why Kubernetes says that containers were ended when nobody acts, as in `lastState.terminated.reason`."""
    look: Callable[[Scene, Sequence[Act]], list[str]] | None = None
    """What else there is to see of it in the end, with what Paramedic has changed: says what is not as it should be."""
    compared: bool = True
    """Whether there is something to see when nobody acts."""

    def rule(self, namespace: str) -> Json:
        """The alert rule."""
        return {
            "alert": self.alert,
            "expr": self.expression,
            "for": "2s",
            "labels": {"severity": "critical", "namespace": namespace},
            "annotations": {"summary": self.summary, **self.annotations},
        }


def _release(fault: str) -> Callable[[Scene], None]:
    return lambda scene: scene.release(fault)


def _surge(scene: Scene) -> None:
    scene.users.rate = 40


def _wrong_database(scene: Scene) -> None:
    """Somebody's own settings, rolled out by a restart."""
    scene.configure(DB_HOST="127.0.0.1")
    scene.restart()


def _poisoned_query(scene: Scene) -> None:
    scene.ask(RESTOCK)


def _writer_dies(scene: Scene) -> None:
    scene.aws.aurora.kill_writer()


def _taken_over(scene: Scene, _: Sequence[Act]) -> list[str]:
    """By the database itself: the other instance writes, is where covet was sent, and has the orders of today."""
    host, writes = scene.get("configmap", "covet-config")["data"]["DB_HOST"], scene.aws.aurora.endpoint_of(INSTANCES[1])
    found = [] if host == writes else [f"covet was sent to {host}, where {writes} was due"]
    if not scene.aws.aurora.takes_orders(INSTANCES[1]):
        found.append("no order has come to the new writer in the last seconds")
    return found


def _import(scene: Scene) -> None:
    """A nightly import puts more into the queue than the workers can take."""
    scene.queue_tasks(500)


def _guesses(scene: Scene) -> None:
    scene.outsider(20, [GUESS])


def _guesses_inside(scene: Scene) -> None:
    scene.insider(GUESS)


def _cut_off(scene: Scene) -> None:
    scene.cut_off()


def _flood(scene: Scene) -> None:
    scene.flood(80)


def _turned_away(scene: Scene, _: Sequence[Act]) -> list[str]:
    """By what the flood was answered: 429 is the sidecars' word, covet has no such answer."""
    limited = sum(one.failure == "HTTP 429" for one in scene.of_the_flood())
    return [] if limited else ["no request of the flood was answered HTTP 429"]


def _flood_from_outside(scene: Scene) -> None:
    scene.flood(80, scene.aws.balancer.outsider)


def _kept_out(scene: Scene, _: Sequence[Act]) -> list[str]:
    """By the rules of the listener, and by what the flood in the end and all users were answered."""
    lately = [one for one in scene.of_the_flood() if one.at >= time.time() - LATELY_SECONDS]
    balancer = scene.aws.balancer
    return [*not_blocked(balancer.rules(), balancer.outsider), *not_kept_out(lately, scene.of_users())]


def _down_and_back(scene: Scene) -> None:
    """The incident commander has it all shut down; as soon as that is done, the cause is gone."""
    scene.order("shut-down", "EmergencyShutdown", "shutdown")
    scene.wait_resolved("shut-down")
    scene.order("bring-back", "EmergencyRecovery", "recover")


_APP_ONCE = {"patch deployments covet-app": 1}
_SMALL = {"SLOTS": "2", "WORK_SECONDS": "0.2"}
"""A pod takes nine requests a second: what a small machine can overload without being overloaded itself."""

DAYS = (
    GameDay(
        name="bad-release",
        section="1 API outage",
        fault="a release answers 500",
        alert="CovetApiErrors",
        summary="covet's API answers 5xx",
        expression=f"{FAILED} / {ALL} > 0.05",
        policy="api-outage",
        begin=_release("errors"),
        acts=_APP_ONCE,
    ),
    GameDay(
        name="crash",
        section="1 API outage",
        fault="a release crashes at its start",
        alert="CovetUnavailable",
        summary="nobody answers at covet's Service",
        expression='up{job="covet-service"} == 0',
        policy="api-outage",
        begin=_release("crash"),
        acts=_APP_ONCE,
        recreate=True,
    ),
    GameDay(
        name="never-ready",
        section="1 API outage",
        fault="a release never gets ready",
        alert="CovetUnavailable",
        summary="nobody answers at covet's Service",
        expression='up{job="covet-service"} == 0',
        policy="api-outage",
        begin=_release("never-ready"),
        acts=_APP_ONCE,
        recreate=True,
    ),
    GameDay(
        name="bad-config",
        section="1 API outage",
        fault="a wrong database host in the ConfigMap",
        alert="CovetDatabaseUnreachable",
        summary="covet cannot use its database",
        expression='sum(rate(covet_database_errors_total{job="covet"}[5s])) > 1',
        policy="configuration",
        begin=_wrong_database,
        acts={"patch configmaps covet-config": 1, **_APP_ONCE},
        recreate=True,
    ),
    GameDay(
        name="slow",
        section="3 High load",
        fault="a release is slow",
        alert="CovetSlow",
        summary="a tenth of covet's requests take more than 0.8 s",
        expression=f"{SLOWEST} > 0.8",
        policy="api-outage",
        begin=_release("slow"),
        acts=_APP_ONCE,
    ),
    GameDay(
        name="surge",
        section="3 High load",
        fault="more users than there is room for",
        alert="CovetHighLoad",
        summary="covet turns users away",
        expression=f"{FAILED} / {ALL} > 0.05",
        policy="high-load",
        begin=_surge,
        acts=_APP_ONCE,
        rate=15,
        settings=_SMALL,
    ),
    GameDay(
        name="leak",
        section="3 High load",
        fault="a release leaks until the kernel kills it",
        alert="CovetMemory",
        summary="covet is about to run out of memory",
        expression='max(process_resident_memory_bytes{job="covet"}) > 110e6',
        policy="memory",
        begin=_release("leak"),
        acts=_APP_ONCE,
        settings={"LEAK_BYTES": "300000"},
        watch_seconds=100,
        repeats=True,
        hurts=False,  # one pod after the other, and others answer meanwhile
        killed="OOMKilled",
    ),
    GameDay(
        name="poisoned-query",
        section="2 Database",
        fault="a query holds the locks of all rows",
        alert="CovetOrdersFail",
        summary="orders fail",
        expression=f"{FAILED} / {ALL} > 0.05",
        policy="database",
        begin=_poisoned_query,
        acts={"PostgreSQL: statement ended": 1},
    ),
    GameDay(
        name="failover",
        section="2 Database failover",
        fault="the writer of the Aurora cluster dies",
        alert="CovetDatabaseWriterDown",
        summary="covet cannot use its database",
        expression='sum(rate(covet_database_errors_total{job="covet"}[5s])) > 1',
        policy="database-failover",
        begin=_writer_dies,
        acts={
            "AWS: AddTagsToResource": 1,  # who has asked for it
            "AWS: FailoverDBCluster": 1,
            "patch configmaps covet-config": 1,
            **_APP_ONCE,
            "patch deployments covet-worker": 1,
        },
        aurora=True,
        look=_taken_over,
    ),
    GameDay(
        name="slow-queries",
        section="2 Slow queries",
        fault="a release searches without an index",
        alert="CovetSlowQueries",
        summary="a tenth of covet's requests take more than 0.25 s",
        expression=f"1 - {QUICK} / {ALL} > 0.1",
        policy="slow-queries",
        begin=_release("unindexed"),
        acts={"PostgreSQL: log of slow queries": 2, **_APP_ONCE},  # there and back
        rate=4,  # a search for every fifth, of which each takes a processor for 0.7 s
        hurt=Scene.of_those_who_wait,
        watch_seconds=30,  # a single slow answer while it is rolled out is not the whole of it
        look=evidence.of_the_slow_queries,
    ),
    GameDay(
        name="network",
        section="3 Network issues",
        fault="pods lose their way to the database",
        alert="CovetNetworkErrors",
        summary="covet's pods do not reach their database",
        expression='sum(rate(covet_database_errors_total{job="covet"}[5s])) > 0.5',
        policy="network",
        begin=_cut_off,
        acts=_APP_ONCE,
        sidecar=True,
    ),
    GameDay(
        name="queue",
        section="3 Queue backlog",
        fault="500 tasks more than two workers can do",
        alert="CovetQueueBacklog",
        summary="tasks wait in the queue",
        expression='max(covet_queue_depth{job="covet",queue="task_queue"}) > 100',
        policy="queue",
        begin=_import,
        acts={"patch deployments covet-worker": 2},  # there and back
        rate=10,
        settings={"TASK_SECONDS": "0.4"},
        hurt=Scene.of_the_queue,
    ),
    GameDay(
        name="intrusion",
        section="4 Security",
        fault="somebody outside guesses tokens",
        alert="CovetGuessedTokens",
        summary="wrong tokens, again and again",
        expression='sum(rate(http_requests_total{job="covet",code="401"}[5s])) > 5',
        policy="containment",
        begin=_guesses,
        acts={"patch services covet-service": 1},
        hurt=Scene.of_the_intruder,
    ),
    GameDay(
        name="breach",
        section="4 Data breach",
        fault="somebody outside guesses tokens; what there is to see of it must be kept",
        alert="CovetDataBreach",
        summary="wrong tokens, again and again",
        expression='sum(rate(http_requests_total{job="covet",code="401"}[5s])) > 5',
        policy="breach",
        begin=_guesses,
        acts={
            "patch services covet-service": 1,
            "patch deployments covet-app": 2,  # to 1, and the restart
            "patch configmaps covet-config": 1,
            "AWS: CreateSnapshot": 1,
        },
        hurt=Scene.of_the_intruder,
        look=evidence.of_the_breach,
    ),
    GameDay(
        name="insider",
        section="4 Security",
        fault="a pod that was taken over guesses tokens",
        alert="CovetGuessedTokens",
        summary="wrong tokens, again and again",
        expression='sum(rate(http_requests_total{job="covet",code="401"}[5s])) > 3',
        policy="isolation",
        begin=_guesses_inside,
        acts={"create networkpolicies": 1},
        hurt=Scene.of_the_intruder,
    ),
    GameDay(
        name="flood",
        section="4 DDoS",
        fault="a flood from one address",
        alert="CovetRequestFlood",
        summary="more requests than covet was built for",
        expression=f"{ALL} > 30",
        policy="ddos",
        begin=_flood,
        acts={"create envoyfilters": 1},
        ends="Holding",
        rate=10,
        settings=_SMALL,
        sidecar=True,
        hurt=Scene.of_the_overload,
        look=_turned_away,
    ),
    GameDay(
        name="flood-alb",
        section="4 DDoS at the load balancer",
        fault="a flood from one address",
        alert="CovetFloodFromFewAddresses",
        summary="one address sends more requests than any user does",
        expression=f"{BY_SOURCE} > 30",
        annotations={"sources": "{{ $labels.source }}"},
        policy="ddos-addresses",
        begin=_flood_from_outside,
        acts={"AWS: CreateRule": 1},
        ends="Holding",
        rate=10,
        settings=_SMALL,
        balancer=True,
        hurt=Scene.of_the_overload,
        look=_kept_out,
    ),
    GameDay(
        name="emergency",
        section="Emergency procedures",
        fault="by order, all is shut down and brought back",
        alert="CovetUnavailable",
        summary="nobody answers at covet's Service",
        expression='up{job="covet-service"} == 0',
        policy="emergency",
        begin=_down_and_back,
        acts={
            "patch services covet-service": 2,
            "patch deployments covet-app": 3,  # to 0, to 1, to all
            "patch deployments covet-worker": 3,
            "create jobs": 1,
        },
        incidents=2,
        by_alert=False,
        compared=False,
    ),
)
