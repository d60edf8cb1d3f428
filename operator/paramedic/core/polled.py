"""What Prometheus' own list of alerts says about the incidents: which alerts were missed, which have ended.

Alertmanager may have seen other labels than Prometheus shows (external labels added, some relabelled away), so that
fingerprints need not agree. Two alerts are taken for the same when they have the same name and no label in common with
different values: in doubt an alert counts as known, and as still firing. One that is pending has not ended: a
Prometheus that was restarted begins its rules' ``for`` anew, in the middle of an outage.
"""

from collections import defaultdict
from collections.abc import Container, Iterable, Mapping
from dataclasses import dataclass, replace
from datetime import datetime

from paramedic.core.alert import Alert

Labels = Mapping[str, str]


def agree(one: Labels, other: Labels) -> bool:
    """Whether the two label sets may belong to the same alert."""
    return all(other[name] == value for name, value in one.items() if name in other)


@dataclass(frozen=True, slots=True)
class Known:
    """What an incident is about: its namespace, its alert's labels, and when it was closed, if it was."""

    namespace: str
    labels: Labels
    closed_at: datetime | None = None

    def may_be(self, alert: Alert) -> bool:
        """Whether it may be about this alert: not when that has begun after it was closed."""
        return agree(alert.labels, self.labels) and (self.closed_at is None or alert.starts_at <= self.closed_at)


class KnownAlerts:
    """Which firing alerts are known, in each namespace: one team's incident is none of another's."""

    def __init__(self, known: Iterable[Known]) -> None:
        self._known: dict[tuple[str, str], list[Known]] = defaultdict(list)
        for one in known:
            self._known[one.namespace, one.labels.get("alertname", "")].append(one)

    def include(self, alert: Alert, namespace: str) -> bool:
        """Whether an incident of the namespace may be about the alert."""
        return any(one.may_be(alert) for one in self._known.get((namespace, alert.labels.get("alertname", "")), ()))


@dataclass(slots=True)
class _ToldEnd:
    labels: Labels
    at: datetime
    seen_again: datetime | None = None


class ToldEnds:
    """The ends of incidents that nobody has told but Prometheus, by showing the alert no more. It may have been another
    Prometheus behind the same Service that answered: then the alert is shown again with its old beginning, by which it
    would be taken for what has ended.
    """

    def __init__(self) -> None:
        self._ends: dict[str, dict[str, _ToldEnd]] = defaultdict(dict)
        """By alert name and incident."""

    def add(self, incident: str, labels: Labels, at: datetime) -> None:
        """The alerts with these labels have not been shown since ``at``."""
        self._ends[labels.get("alertname", "")][incident] = _ToldEnd(labels, at)

    def keep(self, incidents: Container[str]) -> None:
        """Forgets all but what is about these."""
        for name, ends in list(self._ends.items()):
            self._ends[name] = {incident: end for incident, end in ends.items() if incident in incidents}
            if not self._ends[name]:
                del self._ends[name]

    def begun_anew(self, alert: Alert, now: datetime) -> Alert:
        """The alert; if it has begun before an end that was told of it, as one that has begun when it was first shown
        again.
        """
        ends = self._ends.get(alert.labels.get("alertname", ""), {}).values()
        wrong = [end for end in ends if alert.starts_at <= end.at and agree(alert.labels, end.labels)]
        for end in wrong:
            end.seen_again = end.seen_again or now
        return replace(alert, starts_at=max(end.seen_again or now for end in wrong)) if wrong else alert


def has_ended(alert: Labels, active: Mapping[str, list[Labels]], rules: set[str]) -> bool:
    """Whether an incident's alert has ended: this Prometheus has its rule, and shows nothing like it, be it pending."""
    name = alert.get("alertname", "")
    return name in rules and not any(agree(alert, other) for other in active.get(name, []))


def by_name(alerts: Iterable[Alert]) -> Mapping[str, list[Labels]]:
    """The alerts' labels by alert name."""
    grouped: dict[str, list[Labels]] = defaultdict(list)
    for alert in alerts:
        grouped[alert.labels.get("alertname", "")].append(alert.labels)
    return grouped
