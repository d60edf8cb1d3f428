"""What Prometheus' own list of alerts says about the incidents: which alerts were missed, which have ended.

Alertmanager may have seen other labels than Prometheus shows (external labels added, some relabelled away), so that
fingerprints need not agree. Two alerts are taken for the same when they have the same name and no label in common with
different values: in doubt an alert counts as known, and as still firing.
"""

from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
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


def has_ended(alert: Labels, firing: Mapping[str, list[Labels]], rules: set[str]) -> bool:
    """Whether an incident's alert has ended: this Prometheus has its rule, and shows nothing firing like it."""
    name = alert.get("alertname", "")
    return name in rules and not any(agree(alert, other) for other in firing.get(name, []))


def by_name(alerts: Iterable[Alert]) -> Mapping[str, list[Labels]]:
    """The alerts' labels by alert name."""
    grouped: dict[str, list[Labels]] = defaultdict(list)
    for alert in alerts:
        grouped[alert.labels.get("alertname", "")].append(alert.labels)
    return grouped
