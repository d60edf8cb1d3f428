"""Ten thousand incidents stored: start-up, memory, idling, and going on after a kill.

The stored ones are copies of three that Paramedic itself has written a moment before (resolved, escalated, held back by
a cooldown), so their status is whatever the present version writes.
"""

from __future__ import annotations

import asyncio
import json
import re
import time
from typing import Any

from bench.bed import GROUP, NAMESPACE, Bed, deployment, encode, in_parallel, kind_of, policy
from bench.figures import Figure, against_floor, at_most, exactly, median
from bench.senders import Sender
from bench.watch import changes
from testbed.api import eventually
from testbed.operator_process import DEFINITIONS, alert, payload, resolved

Json = dict[str, Any]

_CRD = "apiextensions.k8s.io/v1/customresourcedefinitions"
_INCIDENTS = f"/apis/{GROUP}/namespaces/{NAMESPACE}/incidents"
_PAGE = 500
_CONTINUE = re.compile(rb'"continue":"([^"]+)"')
_MEGA = 1024 * 1024
_QUIET_SECONDS = 3.0
_SETTLE_LIMIT = 60.0
_SAMPLE, _MISSING = "sample-target", "sample-missing"
_POLICY = "sample-policy"


async def measure(b: Bed) -> list[Figure]:
    """All that is about a full store, on the same store."""
    await _fill(b, await _real_incidents(b))
    mark = b.mark()
    starts, lists = await _start_up(b)
    await _until_quiet(b)
    memory = b.operator.rss_bytes() / _MEGA
    acted_again = len(b.target_writes(mark))
    load, writes = await _idle(b)
    gap, actions = await _kill_and_go_on(b)
    await b.stop_operator()
    stored = f"{b.scale.stored_incidents} incidents, {b.scale.stored_policies} policies"
    return [
        against_floor(f"{stored}: start to ready", median(starts), median(lists), "s", 3, "floor: one paginated list"),
        at_most("  resident memory", memory, "MB", 250),
        exactly("  targets acted on again", acted_again, 0),
        at_most("  idle: CPU", load, "% of a core", 2, f"over {b.scale.idle_seconds:g} s"),
        exactly("  idle: writes", writes, 0),
        at_most("kill -9, started again: ready → acted", gap, "s", 2, f"{b.scale.restart_incidents} open incidents"),
        exactly("  actions", actions, b.scale.restart_incidents),
    ]


# -- what is stored ---------------------------------------------------------------------------------------------------


async def _real_incidents(b: Bed) -> dict[str, Json]:
    """One Resolved, one Escalated (its target is missing) and one Blocked (cooldown), as Paramedic writes them."""
    verify = {"rollout": True, "alertResolved": True, "timeout": "5m"}
    await b.bare.create_all([deployment(_SAMPLE), policy(_POLICY, 'alertname="BenchStored"', verify=verify)])
    first, again, lost = (_sample_alert(target, n) for n, target in enumerate((_SAMPLE, _SAMPLE, _MISSING)))
    async with b.running(), Sender(b) as sender:
        await b.policies_known()
        await sender.post(encode(payload(first, lost)))
        await eventually(lambda: b.target_writes(0).count(_SAMPLE), 20, what="the sample is restarted")
        await sender.post(encode(payload(resolved(first))))
        found = {"Resolved": await _in_phase(b, "Resolved")}
        await sender.post(encode(payload(again)))
        for phase in ("Blocked", "Escalated"):
            found[phase] = await _in_phase(b, phase)
    return found


def _sample_alert(target: str, number: int) -> Json:
    texts = {"summary": "95th percentile above 2 s for 5 minutes", "runbook_url": "https://runbooks.example/slow"}
    labels = {"deployment": target, "namespace": NAMESPACE, "severity": "critical", "job": "app", "team": "payments"}
    return alert("BenchStored", fingerprint=f"sample{number:010x}", annotations=texts, **labels)


async def _in_phase(b: Bed, phase: str) -> Json:
    async def probe() -> Json | None:
        found = [one for one in await b.incidents(_POLICY) if one.get("status", {}).get("phase") == phase]
        return found[0] if found else None

    found = await eventually(probe, 30, what=f"a sample incident is {phase}")
    assert found is not None
    return found


async def _fill(b: Bed, samples: dict[str, Json]) -> None:
    """Policies, their targets, and the incidents with their status."""
    count = b.scale.stored_policies
    await b.bare.create_all([deployment(f"stored-{n}") for n in range(count)])
    await b.bare.create_all(
        [policy(f"stored-{n}", f'deployment="stored-{n}"', target=f"stored-{n}") for n in range(count)]
    )
    policies = await b.admin.list(f"{GROUP}/remediationpolicies", NAMESPACE)
    uids = {one["metadata"]["name"]: one["metadata"]["uid"] for one in policies}
    known = samples["Resolved"]["metadata"]["name"]
    definition = await b.admin.get(_CRD, DEFINITIONS[0])
    await _serve_status(b, definition, known, apart=False)
    await b.bare.create_all(_copies(b, samples, uids))
    await _serve_status(b, definition, known, apart=True)


async def _serve_status(b: Bed, definition: Json, known: str, *, apart: bool) -> None:
    """Makes the status a subresource or, for the fixtures, part of the object, so that one write stores both."""
    wanted = json.loads(json.dumps(definition))
    del wanted["metadata"]["resourceVersion"]
    if not apart:
        del wanted["spec"]["versions"][0]["subresources"]["status"]
    await b.admin.patch(_CRD, DEFINITIONS[0], {"spec": {"versions": wanted["spec"]["versions"]}})

    async def served() -> bool:
        try:
            await b.bare.send("GET", f"{_INCIDENTS}/{known}/status")
        except RuntimeError:
            return not apart
        return apart

    await eventually(served, 20, what="the changed definition is served")


def _copies(b: Bed, samples: dict[str, Json], uids: dict[str, str]) -> list[Json]:
    """Mostly Resolved ones; of the open ones every fourth is Blocked, the others are Escalated."""
    count, open_ones = b.scale.stored_incidents, b.scale.stored_open
    phases = [("Blocked" if n % 4 == 0 else "Escalated") if n < open_ones else "Resolved" for n in range(count)]
    return [
        _copy(samples[phase], number, number % b.scale.stored_policies, uids) for number, phase in enumerate(phases)
    ]


def _copy(sample: Json, number: int, of_policy: int, uids: dict[str, str]) -> Json:
    """The sample under another policy, on another target, with ids of its own."""
    own = f"{number:012x}"
    text = json.dumps({"spec": sample["spec"], "status": sample["status"]})
    text = text.replace(_POLICY, f"stored-{of_policy}").replace(_SAMPLE, f"stored-{of_policy}")
    text = text.replace(_MISSING, f"missing-{of_policy}").replace(uids[_POLICY], uids[f"stored-{of_policy}"])
    text = re.sub(r'"((?:[0-9a-f]{4,8}-){4})[0-9a-f]{12}"', rf'"\g<1>{own}"', text)
    text = re.sub(r'"sample[0-9a-f]{10}"', f'"beef{own}"', text)
    document = json.loads(text)
    document["spec"]["alert"]["groupKey"] = f"feed{own}"
    document["status"]["policy"]["uid"] = uids[f"stored-{of_policy}"]
    metadata = {"name": f"bench-stored-{number:06d}", "namespace": NAMESPACE}
    return {"apiVersion": GROUP, "kind": "Incident", "metadata": metadata, **document}


# -- what is measured -------------------------------------------------------------------------------------------------


async def _start_up(b: Bed) -> tuple[list[float], list[float]]:
    """Seconds from the process's start to ready, and of the list; the operator of the last round is left running."""
    starts: list[float] = []
    lists: list[float] = []
    for number in range(b.scale.stored_rounds):
        if number:
            await b.stop_operator()
        lists.append(await _list_once(b))
        began = time.monotonic()
        b.operator.start()
        await asyncio.to_thread(b.operator.wait_ready)
        starts.append(time.monotonic() - began)
        await asyncio.to_thread(b.operator.wait_leading)
    return starts, lists


async def _list_once(b: Bed) -> float:
    """All pages, not parsed beyond the marker of the next."""
    began = time.monotonic()
    query = f"limit={_PAGE}"
    while True:
        raw = await b.bare.send("GET", f"{_INCIDENTS}?{query}")
        found = _CONTINUE.search(raw, max(0, len(raw) - 2000))
        if not found:
            return time.monotonic() - began
        query = f"limit={_PAGE}&continue={found[1].decode()}"


async def _until_quiet(b: Bed) -> None:
    """Until nothing was written for a while: the policies' status is, once, after a start."""
    deadline = time.monotonic() + _SETTLE_LIMIT
    while time.monotonic() < deadline:
        mark = b.mark()
        await asyncio.sleep(_QUIET_SECONDS)
        if not b.writes(mark):
            return


async def _idle(b: Bed) -> tuple[float, int]:
    """Percent of a core, and writes, while nothing happens."""
    mark, cpu, began = b.mark(), b.operator.cpu_seconds(), time.monotonic()
    await asyncio.sleep(b.scale.idle_seconds)
    used, elapsed = b.operator.cpu_seconds() - cpu, time.monotonic() - began
    return 100 * used / elapsed, len(b.writes(mark))


async def _kill_and_go_on(b: Bed) -> tuple[float, int]:
    """Incidents are opened while it is dead; seconds from ready again until the last of their targets is changed."""
    targets = [f"restart-{number}" for number in range(b.scale.restart_incidents)]
    await b.bare.create_all([*(deployment(one) for one in targets), policy("restart", 'alertname="none"', target=None)])
    await b.policies_known()
    await asyncio.to_thread(b.operator.kill)
    mark = b.mark()
    async with changes(b.bare) as seen:
        await in_parallel([_declare(b, one) for one in targets], 1)
        b.operator.start()
        await asyncio.to_thread(b.operator.wait_ready)
        ready = time.monotonic()
        changed = await seen.of(targets)
    await asyncio.sleep(1)
    return max(0.0, changed - ready), len(b.target_writes(mark))


def _declare(b: Bed, target: str) -> Any:
    """A job that opens an Incident as a person does."""
    reference = {"apiVersion": "apps/v1", "kind": "Deployment", "name": target}
    manifest = {
        "apiVersion": GROUP,
        "kind": "Incident",
        "metadata": {"name": target, "namespace": NAMESPACE},
        "spec": {"title": "it hangs", "type": kind_of("restart"), "severity": "P1", "target": reference},
    }
    return lambda: b.bare.send("POST", _INCIDENTS, encode(manifest))
