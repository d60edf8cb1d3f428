"""From an alert's receipt to the change of its target."""

from __future__ import annotations

import asyncio
import time

from bench.bed import Bed, deployment, encode, policy
from bench.figures import MILLI, Figure, against_floor, exactly, percentile
from bench.floor import ThreeWrites
from bench.senders import Sender
from bench.watch import Changes, changes
from testbed.operator_process import alert, payload

PAUSE = 0.03
"""Between two alerts, and between two floors: each is measured on its own, not in the wake of the last."""
WARM_UP = 5


async def measure(b: Bed) -> list[Figure]:
    """Sequential alerts, each with a target and a policy of its own."""
    total = b.scale.latency_rounds * b.scale.latency_alerts + WARM_UP
    ours, floors = names("latency-ours", total), names("latency-floor", total)
    await b.bare.create_all([deployment(name) for name in (*ours, *floors)])
    await b.bare.create_all([policy(name, f'deployment="{name}"', target=name) for name in ours])
    async with b.running():
        await b.policies_known()
        async with changes(b.bare) as seen, Sender(b) as sender:
            mark = b.mark()
            mine, bare = await _rounds(b, seen, sender, ours, floors)
            await asyncio.sleep(1)
            actions = b.target_writes(mark)
    return [
        against_floor("alert → target changed, p50", percentile(mine, 50), percentile(bare, 50), "ms", 1.5),
        against_floor("alert → target changed, p99", percentile(mine, 99), percentile(bare, 99), "ms", 3),
        exactly("  actions", len(actions), total),
    ]


def names(prefix: str, count: int) -> list[str]:
    """Of as many targets."""
    return [f"{prefix}-{number}" for number in range(count)]


async def _rounds(
    b: Bed, seen: Changes, sender: Sender, ours: list[str], floors: list[str]
) -> tuple[list[float], list[float]]:
    """Milliseconds of both, warm-up left out."""
    mine: list[float] = []
    bare: list[float] = []
    size = b.scale.latency_alerts
    for start in (0, *range(WARM_UP, len(ours), size)):
        end = start + (size if start else WARM_UP)
        mine += [await one_alert(seen, sender, name) for name in ours[start:end]]
        await b.idle()  # what an alert leads to afterwards must not burden the floor
        bare += [await _one_floor(b, seen, name) for name in floors[start:end]]
    return mine[WARM_UP:], bare[WARM_UP:]


async def one_alert(seen: Changes, sender: Sender, target: str) -> float:
    """Milliseconds from the alert's sending to the change of its target."""
    body = encode(payload(alert("BenchLatency", deployment=target, namespace="bench", severity="critical")))
    began = time.monotonic()
    posted = asyncio.create_task(sender.post(body))
    changed = await seen.of([target], 30)
    if (status := await posted) != 200:
        raise RuntimeError(f"the webhook answered {status}")
    await asyncio.sleep(PAUSE)
    return (changed - began) * MILLI


async def _one_floor(b: Bed, seen: Changes, target: str) -> float:
    writes = ThreeWrites.on(target)
    began = time.monotonic()
    made = asyncio.create_task(writes.make(b.floor))
    changed = await seen.of([target], 30)
    await made
    await asyncio.sleep(PAUSE)
    return (changed - began) * MILLI
