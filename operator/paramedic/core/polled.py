"""What Prometheus' own list of alerts says about the incidents: which alerts were missed, which have ended.

Alertmanager may have seen other labels than Prometheus shows (external labels added, some relabelled away), so that
fingerprints need not agree. Two alerts are taken for the same when they have the same name and no label in common with
different values: in doubt an alert counts as known, and as still firing.
"""

from collections import defaultdict
from collections.abc import Iterable, Mapping

from paramedic.core.alert import Alert

Labels = Mapping[str, str]


def agree(one: Labels, other: Labels) -> bool:
    """Whether the two label sets may belong to the same alert."""
    return all(other[name] == value for name, value in one.items() if name in other)


def missed(firing: Iterable[Alert], open_alerts: Iterable[Labels]) -> list[Alert]:
    """Firing alerts that no open incident may be about."""
    known = _by_name(open_alerts)
    return [a for a in firing if not any(agree(a.labels, k) for k in known[a.labels.get("alertname", "")])]


def has_ended(alert: Labels, firing: Mapping[str, list[Labels]], rules: set[str]) -> bool:
    """Whether an incident's alert has ended: this Prometheus has its rule, and shows nothing firing like it."""
    name = alert.get("alertname", "")
    return name in rules and not any(agree(alert, other) for other in firing.get(name, []))


def by_name(alerts: Iterable[Alert]) -> Mapping[str, list[Labels]]:
    """The alerts' labels by alert name."""
    return _by_name(a.labels for a in alerts)


def _by_name(labels: Iterable[Labels]) -> dict[str, list[Labels]]:
    grouped: dict[str, list[Labels]] = defaultdict(list)
    for entry in labels:
        grouped[entry.get("alertname", "")].append(entry)
    return grouped
