"""How many writes a remediated alert costs, from its receipt to the end of the incident."""

from __future__ import annotations

import asyncio
import time
from collections import Counter

from bench.bed import NAMESPACE, Bed, deployment, encode, policy
from bench.figures import Figure, exactly, no_more_than
from bench.senders import Sender
from testbed.audit import Request
from testbed.operator_process import alert, payload, resolved

LIMIT = 90.0
AFTERWARDS = 3.0


async def measure(b: Bed) -> list[Figure]:
    """Alerts one after the other, with a real rollout to verify, each resolved some seconds later."""
    names = [f"writes-{number}" for number in range(b.scale.writes_alerts)]
    verify = {"rollout": True, "alertResolved": True, "timeout": "2m"}
    await b.bare.create_all([deployment(name, replicas=1) for name in names])
    await b.bare.create_all([policy("writes", 'alertname="BenchWrites"', verify=verify)])
    async with b.running():
        await b.policies_known()
        await asyncio.sleep(3)  # the rollouts are over
        mark = b.mark()
        async with Sender(b) as sender:
            await _whole_lives(sender, names)
        over = await _all_resolved(b, len(names))
        await asyncio.sleep(AFTERWARDS)
        kinds = Counter(f"{one.verb} {one.resource}" for one in b.writes(mark) if one.status < 300 and not _of_all(one))
    each = ", ".join(f"{count / len(names):.3g} {kind}" for kind, count in sorted(kinds.items()))
    return [
        no_more_than("writes per remediated alert", kinds.total() / len(names), 6, each),
        exactly("  incidents resolved", over, len(names)),
    ]


def _of_all(one: Request) -> bool:
    """Whether it is one for all of them: so many targets at once also have a parent."""
    return one.name.startswith("several-services-")


async def _whole_lives(sender: Sender, names: list[str]) -> None:
    """Fires them all, waits for the rollouts, and ends them all."""
    firing = [alert("BenchWrites", deployment=name, namespace=NAMESPACE, severity="critical") for name in names]
    for one in firing:
        await sender.post(encode(payload(one)))
    await asyncio.sleep(4)
    for one in firing:
        await sender.post(encode(payload(resolved(one))))


async def _all_resolved(b: Bed, wanted: int) -> int:
    """How many are over, at the latest after the limit."""
    deadline = time.monotonic() + LIMIT
    while True:
        incidents = await b.incidents("writes")
        over = sum(1 for one in incidents if one.get("status", {}).get("phase") == "Resolved")
        if over == wanted or time.monotonic() > deadline:
            return over
        await asyncio.sleep(0.3)
