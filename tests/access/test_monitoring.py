"""Rules and dashboard speak of metrics that exist, and Prometheus takes every expression."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest
import yaml

from installed import ROOT
from paramedic.metrics import Metrics
from testbed.monitoring import Prometheus

COMPONENTS = ROOT / "manifests" / "components"
RULES = yaml.safe_load((COMPONENTS / "monitoring" / "paramedic.rules.yaml").read_text())["groups"]
DASHBOARD = json.loads((COMPONENTS / "monitoring" / "paramedic-dashboard.json").read_text())
ALERTS = [rule for group in RULES for rule in group["rules"]]
SUFFIXES = {"counter": ["_total"], "histogram": ["_bucket", "_sum", "_count"], "gauge": [""], "info": ["_info"]}
ADDED_BY_PROMETHEUS = {"pod", "job", "instance", "namespace", "le"}


def _expressions() -> Iterator[str]:
    yield from (rule["expr"] for rule in ALERTS)
    yield from (target["expr"] for panel in DASHBOARD["panels"] for target in panel["targets"])


EXPRESSIONS = sorted(set(_expressions()))


def _labels_by_series() -> dict[str, set[str]]:
    """Every series that /metrics can show, with its labels."""
    metrics = Metrics()
    labels = {
        f"{family.name}{suffix}": set[str]()
        for family in metrics.registry.collect()
        for suffix in SUFFIXES[family.type]
    }
    attributes = vars(metrics).values()
    collectors = [one for value in attributes for one in (value.values() if isinstance(value, dict) else (value,))]
    for collector in collectors:
        for name in labels:
            if re.fullmatch(f"{getattr(collector, '_name', '-')}(_total|_bucket|_sum|_count)?", name):
                labels[name] = set(collector._labelnames)
    return labels


SERIES = _labels_by_series()


@pytest.mark.parametrize("expression", EXPRESSIONS)
def test_an_expression_speaks_of_what_exists(expression: str) -> None:
    names = set(re.findall(r"\b(?:paramedic|process|python)_[a-z_]+", expression))
    assert names
    assert names <= set(SERIES), f"{names - set(SERIES)} is not among {sorted(SERIES)}"
    known = set().union(*(SERIES[name] for name in names)) | ADDED_BY_PROMETHEUS
    grouped = [part.strip() for found in re.findall(r"\bby \(([^)]*)\)", expression) for part in found.split(",")]
    matched = re.findall(r"[{,]\s*([a-z_]+)\s*(?:=~|!~|!=|=)", expression)
    assert set(grouped) | set(matched) <= known


def test_every_metric_of_ours_is_on_the_dashboard() -> None:
    shown = " ".join(target["expr"] for panel in DASHBOARD["panels"] for target in panel["targets"])
    families = {re.sub("(_total|_bucket|_sum|_count)$", "", name) for name in SERIES if name.startswith("paramedic_")}
    assert not {family for family in families if family not in shown}


@pytest.mark.parametrize("rule", ALERTS, ids=lambda rule: rule["alert"])
def test_an_alert_says_what_it_means_and_what_to_do(rule: dict[str, Any]) -> None:
    assert set(rule["annotations"]) == {"summary", "description", "todo"}
    assert rule["labels"]["severity"] in ("critical", "warning", "info")
    assert all(len(text) > 20 for text in rule["annotations"].values())


def test_the_operators_rules_are_the_same() -> None:
    found = yaml.safe_load((COMPONENTS / "prometheus-operator" / "rules.yaml").read_text())
    assert found["spec"]["groups"] == RULES


async def test_prometheus_takes_every_expression(tmp_path: Path) -> None:
    with Prometheus(tmp_path, rules=RULES) as prometheus:
        async with aiohttp.ClientSession(prometheus.url) as session:
            for expression in EXPRESSIONS:
                query = {"query": expression.replace("$__rate_interval", "5m")}
                async with session.get("/api/v1/query", params=query) as answer:
                    assert answer.status == 200, f"{expression}: {await answer.text()}"
