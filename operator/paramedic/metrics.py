"""What ``/metrics`` shows. Names follow Prometheus' conventions: base units, ``_total`` for counters."""

from collections.abc import Iterable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from prometheus_client.gc_collector import GCCollector
from prometheus_client.platform_collector import PlatformCollector
from prometheus_client.process_collector import ProcessCollector

ACTION_RESULTS = ("Applied", "Verified", "VerificationFailed", "PutBack", "NotPutBack", "Failed", "Unknown")
_OF_PEOPLE = (60, 120, 300, 600, 900, 1800, 3600, 7200, 14400, 28800, 86400)
_FAST = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300)


class Metrics:
    """One registry for one process (or one test)."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        for collector in (ProcessCollector, PlatformCollector, GCCollector):
            collector(registry=self.registry)
        self.actions = self._counter("paramedic_actions", "Actions by result.", "action", "result")
        self.refusals = self._counter("paramedic_refusals", "Actions held back, by guard.", "guard")
        self.alerts = self._counter("paramedic_alerts", "Alerts received, by what became of them.", "source", "outcome")
        self.webhook_requests = self._counter("paramedic_webhook_requests", "Webhook requests by status.", "code")
        self.inbound_requests = self._counter(
            "paramedic_inbound_requests", "Requests of other systems than Alertmanager by status.", "edge", "code"
        )
        self.reconcile_errors = self._counter("paramedic_reconcile_errors", "Reconciliations that failed.", "error")
        self.events_dropped = self._counter("paramedic_events_dropped", "Kubernetes Events that could not be sent.")
        self.notices = self._counter("paramedic_notices", "Notices by channel and result.", "channel", "result")
        self.channel_up = self._gauge("paramedic_channel_up", "0 while a channel does not answer.", "channel")
        self.incidents_pruned = self._counter("paramedic_incidents_pruned", "Ended incidents that were deleted.")
        self.poller_errors = self._counter("paramedic_poller_errors", "Looks at Prometheus that failed.")
        self.alert_to_action = self._histogram(
            "paramedic_alert_to_action_seconds", "From the receipt of an alert to the change of its target."
        )
        self.times = {
            "acknowledge": self._of_people("paramedic_time_to_acknowledge_seconds", "a person took the incident on"),
            "mitigate": self._of_people("paramedic_time_to_mitigate_seconds", "a remedy was verified"),
            "resolve": self._of_people("paramedic_time_to_resolve_seconds", "the incident was over"),
        }
        self.webhook_seconds = self._histogram("paramedic_webhook_seconds", "Time to answer the webhook.")
        self.queue_depth = self._gauge("paramedic_queue_depth", "Incidents waiting to be reconciled.")
        self.incidents_open = self._gauge("paramedic_incidents_open", "Incidents that are not resolved.", "phase")
        self.incidents_unreadable = self._gauge(
            "paramedic_incidents_unreadable", "Open incidents that this version cannot read: nothing is done for them."
        )
        self.leader = self._gauge("paramedic_leader", "1 while this process is the one that acts.")
        self.watch_lag = self._gauge(
            "paramedic_watch_lag_seconds", "How long a change has been missing from the watch; 0 when none is."
        )

    def expect(self, actions: Iterable[str], guards: Iterable[str]) -> None:
        """Shows these series from the start, at 0: a first increase is otherwise invisible to ``increase()``."""
        for action in actions:
            for result in ACTION_RESULTS:
                self.actions.labels(action, result)
        for guard in guards:
            self.refusals.labels(guard)
        for code in ("200", "400", "401", "413", "503"):
            self.webhook_requests.labels(code)

    def _counter(self, name: str, text: str, *labels: str) -> Counter:
        return Counter(name, text, labels, registry=self.registry)

    def _gauge(self, name: str, text: str, *labels: str) -> Gauge:
        return Gauge(name, text, labels, registry=self.registry)

    def _of_people(self, name: str, until: str) -> Histogram:
        text = f"From the beginning of the trouble until {until}, by severity."
        return Histogram(name, text, ("severity",), registry=self.registry, buckets=_OF_PEOPLE)

    def _histogram(self, name: str, text: str) -> Histogram:
        return Histogram(name, text, registry=self.registry, buckets=_FAST)
