"""Puts the parts together and runs them: the one place that knows them all."""

import asyncio
import contextlib
import gc
import signal
import time
from collections.abc import Coroutine, Iterable, Mapping
from datetime import UTC, datetime, timedelta
from importlib.metadata import version
from typing import Any

from paramedic import log
from paramedic.acting import Acting
from paramedic.actions import ACTIONS
from paramedic.actions.base import Clients
from paramedic.background import Background
from paramedic.channels import make_channels
from paramedic.channels.base import Channel
from paramedic.checklists import Checklists
from paramedic.clients.connections import Connections
from paramedic.clients.evidence import EvidenceStore, Limits
from paramedic.clients.evidence_directory import DirectoryBackend
from paramedic.clients.evidence_s3 import S3Backend
from paramedic.clients.kube import Configuration, Kube, load_configuration
from paramedic.clients.prometheus import Prometheus
from paramedic.closing import Closing
from paramedic.core.guard import GUARDS
from paramedic.delivery import Delivery
from paramedic.diagnostician import Diagnostician, Examiner
from paramedic.errors import NotFound, ParamedicError, Retry
from paramedic.execute import Executor
from paramedic.handlers import Handlers
from paramedic.inbound import inbound_edges
from paramedic.inbound.slack import SlackInbound
from paramedic.intake import Intake
from paramedic.leadership import Leadership
from paramedic.messages import Messages
from paramedic.metrics import Metrics
from paramedic.notifier import Notifier
from paramedic.outcomes import Outcomes
from paramedic.parents import Parents
from paramedic.people import People
from paramedic.permit import Permits
from paramedic.policies import PolicyReporter
from paramedic.poller import Poller
from paramedic.putback import PutBack
from paramedic.reachable import Reachable
from paramedic.receiver import Receiver
from paramedic.reconcile import Reconciler
from paramedic.record import Draft, Recorder
from paramedic.report.keeping import ReportKeeper
from paramedic.resync import Resync
from paramedic.retention import Retention
from paramedic.server import serve
from paramedic.settings import EvidenceSettings, Settings
from paramedic.slow import SlowActions
from paramedic.store import Store
from paramedic.verification import Verifier
from paramedic.voices import Voices

_log = log.get_logger(__name__)
_POLICY_COUNTS_EVERY = timedelta(seconds=60)
_FRESH_LOAD_SECONDS = 5.0
_GRACE_SECONDS = 5.0
_GC_YOUNG = 10_000


class App:
    """One running operator."""

    def __init__(self, settings: Settings, kube: Kube, metrics: Metrics, leadership: Leadership | None) -> None:
        self.settings = settings
        self.metrics = metrics
        self.store = Store()
        self._kube = kube
        self._leadership = leadership
        self._prometheus = _prometheus(settings)
        self._evidence = _evidence(settings.evidence)
        self._connections = Connections(settings.connections, kube, never_block=settings.never_block)
        metrics.expect(ACTIONS, map(str, GUARDS))
        if leadership is None:
            metrics.leader.set(1)
        self.recorder = Recorder(kube, self.store, metrics, settings.identity)
        channels = make_channels(settings.channels, Messages(settings, self._prometheus, self.store, _clock))
        self.notifier = self._make_notifier(channels)
        self.people = People(settings.people, self.store, self.notifier, metrics)
        self.checklists = Checklists(
            self.notifier, settings.channels, settings.closing.stable_for, has_store=self._evidence is not None
        )
        self.reconciler = self._make_reconciler()
        self.parents = Parents(
            kube, self.store, settings.people.several_services, self.reconciler.queue.add_after, self.leads, _clock
        )
        self.delivery = self._make_delivery(channels)
        self._keep_report = (
            ReportKeeper(self._evidence, self._prometheus, self.store, _clock).keep if self._evidence else None
        )
        self.closing = self._make_closing()
        self.voices = Voices(kube, self.store, self.reconciler)
        self._slack = SlackInbound(settings.channels, self.voices, self.store, kube, metrics)
        self._inbound = inbound_edges(settings, self.voices, self.store, metrics) | self._slack.edges()
        self.intake = Intake(kube, self.store, self.reconciler, metrics, namespace=settings.namespace, leads=self.leads)
        self._receiver = Receiver(settings, self.intake, self.store, metrics)
        self.reporter = self._make_reporter()
        self.handlers = Handlers(kube, self.store, self.reconciler, self.reporter, settings.namespace)
        self.resync = self._make_resync()
        self._tie()
        self._stop = asyncio.Event()
        self._wound_down = asyncio.Event()
        self._watch_stop = asyncio.Event()
        self._failure: ParamedicError | None = None
        self._has_taken_over = leadership is None  # then there is nobody to take over from

    def _tie(self) -> None:
        """What one part tells another that it does not know."""
        self.recorder.attend = self._attend
        self.people.after_round, self.store.part_left = self.parents.after_round, self.parents.part_left
        self.store.parent_gone = self.parents.parent_gone
        self.notifier.wake = self.delivery.wake
        self.checklists.wake = self.closing.wake
        self.resync.ended_changed = self.closing.look_soon

    def _make_notifier(self, channels: Iterable[str]) -> Notifier:
        settings = self.settings
        reserved = {one.name: (settings.namespace, *one.namespaces) for one in settings.channels if one.namespaces}
        paging = [one.name for one in settings.channels if one.pagerduty]
        return Notifier(list(channels), settings.notify, reserved, paging=paging, people=settings.people)

    def _make_reconciler(self) -> Reconciler:
        """With the parts that nobody else knows."""
        kube, settings = self._kube, self.settings
        examiner = Examiner(kube, self._evidence, _clock, self._connections)
        acting = Acting(
            Clients(kube, self._evidence, examiner, self._connections),
            self.store,
            self.recorder,
            self.metrics,
            may_act=self.leads,
            clock=_clock,
        )
        kube.gate.before_acting = acting.require_lead  # while it waited for its turn, another may have taken over
        permits, outcomes = Permits(kube, self.store, self.metrics), Outcomes(acting, self.metrics)
        slow = SlowActions(acting, Background(), permits, outcomes)
        executor = Executor(acting, self.store, permits, slow, outcomes, namespace=settings.namespace)
        return Reconciler(
            kube,
            self.store,
            self.recorder,
            acting,
            executor,
            slow,
            PutBack(acting),
            Verifier(kube, self._prometheus),
            Diagnostician(examiner, _clock, kube.gate.quiet_seconds, enabled=settings.diagnose),
            self.people,
            self.metrics,
            namespace=settings.namespace,
            workers=settings.workers,
            may_act=self.leads,
        )

    def _make_delivery(self, channels: Mapping[str, Channel]) -> Delivery:
        return Delivery(
            channels,
            self.settings.channels,
            self.store,
            self.reconciler.amend,
            self.metrics,
            self.leads,
            self._kube.gate.quiet_seconds,
        )

    def _make_closing(self) -> Closing:
        return Closing(
            self._kube,
            self.store,
            self.checklists,
            Verifier(self._kube, self._prometheus),
            self._keep_report,
            self.reconciler.amend,
            self.settings.closing.stable_for,
            self.leads,
            _clock,
        )

    def _make_reporter(self) -> PolicyReporter:
        return PolicyReporter(
            self._kube,
            self.store,
            self.leads,
            _POLICY_COUNTS_EVERY,
            Reachable(self._connections),
            has_prometheus=self.settings.prometheus.url is not None,
        )

    def _make_resync(self) -> Resync:
        return Resync(
            self._kube,
            self.store,
            self.reconciler,
            self.metrics,
            self.handlers.progress,
            namespace=self.settings.namespace,
            every=self.settings.resync_interval,
        )

    def _attend(self, draft: Draft) -> None:
        """What is added to each write of a status."""
        self.checklists.attend(draft)
        self.people.attend(draft)

    def leads(self) -> bool:
        """Whether this process acts: not before it has read what the last leader left."""
        return self._has_taken_over and (self._leadership is None or self._leadership.leads())

    def alive(self) -> str | None:
        """Liveness: a dead watch fails it, not only a dead process."""
        return self.resync.problem()

    def ready(self) -> str | None:
        """Readiness: everything stored is known, so that no alert is taken for new by mistake."""
        return None if self.store.loaded else "still reading what is stored"

    def _count_open(self) -> None:
        for phase, count in self.store.count_by_phase().items():
            self.metrics.incidents_open.labels(phase).set(count)
        self.metrics.incidents_unreadable.set(self.store.count_unreadable())

    async def run(self) -> None:
        """Runs until a signal. Raises ParamedicError when something that everything hangs on has ended."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):  # until Kopf takes them
            loop.add_signal_handler(number, self._stop.set)
        server = serve(
            self.settings, self._receiver, self.metrics, self.alive, self.ready, self._count_open, self._inbound
        )
        async with server as port:
            _log.info("listening", port=port, version=version("paramedic"))
            await self._load()
            _spare_what_stays()
            await self._run_until_stopped()

    async def _stop_and_wait(self) -> None:
        self._stop.set()
        await self._wound_down.wait()

    async def _load(self) -> None:
        while not self._stop.is_set():
            gc.disable()  # hardly anything of what is read is garbage
            try:
                await self.resync.load_everything()
                _log.info("loaded", incidents=len(self.store.entries), policies=len(self.store.policies))
                return
            except Retry as error:
                _log.warning("cannot read what is stored; trying again", error=str(error))
            except NotFound:
                _log.warning("the CRDs are not installed: kubectl apply -f crds/; trying again")
            finally:
                gc.enable()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(1):
                    await self._stop.wait()

    async def _run_until_stopped(self) -> None:
        watch = asyncio.create_task(self.handlers.run(self._watch_stop, self._stop_and_wait), name="the watch")
        jobs: list[asyncio.Task[Any]] = [asyncio.create_task(job, name=name) for name, job in self._jobs().items()]
        stopped = asyncio.create_task(self._stop.wait())
        done, _ = await asyncio.wait([stopped, watch, *jobs], return_when=asyncio.FIRST_COMPLETED)
        failed = next((t for t in done if t is not stopped), None)
        await self._wind_down([*jobs, stopped], watch)
        if failed is None and watch.done() and not watch.cancelled() and watch.exception():
            failed = watch  # Kopf lets us end before it says why
        if self._failure:
            raise self._failure
        if failed is not None:
            cause = None if failed.cancelled() else failed.exception()
            raise ParamedicError(f"{failed.get_name()} has ended: {cause!r}") from cause

    async def _wind_down(self, jobs: list["asyncio.Task[Any]"], watch: "asyncio.Task[None]") -> None:
        """What is under way gets a moment to write its result; an intent without one would cost a look later.

        Kopf ends last, because it then cancels every task of the loop that it does not know.
        """
        deadline = time.monotonic() + _GRACE_SECONDS
        self.reconciler.queue.close()
        while not self.reconciler.queue.idle and time.monotonic() < deadline:  # noqa: ASYNC110
            await asyncio.sleep(0.02)
        for task in jobs:
            task.cancel()
        await asyncio.wait(jobs, timeout=_GRACE_SECONDS)
        self._wound_down.set()
        self._watch_stop.set()
        await asyncio.wait([watch], timeout=_GRACE_SECONDS + 2)  # it gives what it does not know 5 s
        if self._prometheus:
            self._prometheus.close()
        if self._evidence:
            self._evidence.close()
        self._connections.close()
        await self.delivery.close()
        await self._slack.close()

    def _jobs(self) -> dict[str, Coroutine[Any, Any, None]]:
        jobs = {
            "the reconciler": self.reconciler.queue.run(),
            "the event sender": self.recorder.run(),
            "the resync": self.resync.run(),
            "the policy reporter": self.reporter.run(),
            "the leadership": self._lead(),
            "the look for several services": self.parents.queue.run(),
            "the look at ended incidents": self.closing.queue.run(),
        }
        if self.settings.retention.resolved_for is not None:
            jobs["the retention"] = self._retention(self.settings.retention.resolved_for).run()
        if self.settings.channels:
            jobs["the delivery of notices"] = self.delivery.run()
        jobs |= self._slack.jobs()
        if self._prometheus:
            poller = Poller(
                self._prometheus,
                self.intake,
                self.reconciler,
                self.store,
                self.metrics,
                self.settings.prometheus,
                self.leads,
            )
            jobs["the poller"] = poller.run()
        return jobs

    def _retention(self, resolved_for: timedelta) -> Retention:
        keep = self._keep_report if self.settings.retention.export else None
        return Retention(self._kube, self.store, keep, resolved_for, self.metrics, self.leads, _clock)

    async def _lead(self) -> None:
        if self._leadership:
            await self._leadership.run(self._take_over, self._lose_lead, self._resume)
        else:
            await self._take_over()
            await self._stop.wait()

    async def _take_over(self) -> None:
        """A new leader reads everything once more, unless it has just done so: another may have acted meanwhile."""
        last = self.resync.last_full
        try:
            if last is None or time.monotonic() - last > _FRESH_LOAD_SECONDS:
                await self._load()
        except Exception as error:  # noqa: BLE001 - nobody looks at the task in which the election runs this
            self._failure = error if isinstance(error, ParamedicError) else ParamedicError(f"taking over: {error!r}")
            self._stop.set()
            return
        self._has_taken_over = True
        self.resync.wake_all()
        self.delivery.wake_all()
        self.closing.wake_all()
        self.reporter.wake()

    def _resume(self) -> None:
        self.resync.wake_all()
        self.closing.wake_all()

    def _lose_lead(self) -> None:
        self._has_taken_over = False
        self.reconciler.stop()
        self.parents.queue.clear()
        self.delivery.stop()
        self.closing.stop()


def _clock() -> datetime:
    return datetime.now(UTC)


def _spare_what_stays() -> None:
    """Libraries and what was loaded stay: to look through them for garbage would hold up everything for 150 ms, and
    most likely in a storm. What is made from now on is looked through in larger portions.
    """
    gc.freeze()
    gc.set_threshold(_GC_YOUNG, 10, 10)


async def run(settings: Settings) -> None:
    """Runs the operator. Raises ParamedicError with what a person can do about it."""
    log.configure(settings.log_level, settings.log_format)
    configuration = await load_configuration()
    metrics = Metrics()
    async with Kube(configuration, request_seconds=settings.request_timeout.total_seconds()) as kube:
        await App(settings, kube, metrics, _leadership(settings, configuration, metrics)).run()


def _leadership(settings: Settings, configuration: Configuration, metrics: Metrics) -> Leadership | None:
    if not settings.leader_election:
        return None
    return Leadership(
        configuration,
        metrics,
        namespace=settings.namespace,
        identity=settings.identity,
        lease=settings.lease_duration,
        renew_deadline=settings.renew_deadline,
        retry_period=settings.retry_period,
    )


def _prometheus(settings: Settings) -> Prometheus | None:
    chosen = settings.prometheus
    if chosen.url is None:
        return None
    return Prometheus(
        chosen.url, timeout_seconds=chosen.timeout.total_seconds(), bearer_token_file=chosen.bearer_token_file
    )


def _evidence(chosen: EvidenceSettings) -> EvidenceStore | None:
    """Raises Terminal when the place cannot be used as configured."""
    limits = Limits(chosen.max_item_bytes, chosen.max_total_bytes, chosen.max_dump_bytes, chosen.max_bytes_per_day)
    if chosen.directory:
        return EvidenceStore(DirectoryBackend(chosen.directory), limits)
    if chosen.s3:
        return EvidenceStore(S3Backend(**chosen.s3.model_dump()), limits)
    return None
