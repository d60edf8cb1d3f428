"""Many alerts at once: for many targets, in one POST, for one target."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from typing import Any

from bench.bed import Bed, Scale, deployment, encode, in_parallel, policy
from bench.figures import MILLI, Figure, against_floor, at_most, exactly, median, percentile
from bench.floor import ThreeWrites
from bench.senders import Sender, Sent, alerts_on, one_by_one
from bench.watch import Changes, changes
from testbed.operator_process import payload

Json = dict[str, Any]

FLOOR_AT_ONCE = 20
SETTLE = 60.0


class Tally:
    """What came of the rounds."""

    def __init__(self) -> None:
        self.ours: list[float] = []
        self.floors: list[float] = []
        self.actions = self.changed = self.lost = self.missing = 0
        self.answers: dict[int, int] = {}

    def figures(self, name: str, rounds: int, targets: int) -> list[Figure]:
        """Counts over all rounds, times as medians."""
        answers = ", ".join(f"{count} × {status}" for status, count in sorted(self.answers.items()))
        return [
            exactly(f"{name}: actions", self.actions, rounds * targets, f"{rounds} rounds; answers: {answers}"),
            exactly("  targets changed", self.changed, rounds * targets),
            exactly("  alerts lost", self.lost + self.missing, 0),
            against_floor("  until all are changed", median(self.ours), median(self.floors), "s", 2),
        ]


async def storm(b: Bed) -> list[Figure]:
    """Each alert in a POST of its own, from many senders."""
    scale = b.scale
    tally = await _many_rounds(b, "storm", whole=False)
    return tally.figures(f"storm, {scale.storm_alerts} POSTs", scale.storm_rounds, scale.storm_targets)


async def one_post(b: Bed) -> list[Figure]:
    """All alerts in one POST."""
    scale = b.scale
    tally = await _many_rounds(b, "one-post", whole=True)
    return tally.figures(f"storm, 1 POST of {scale.storm_alerts}", scale.storm_rounds, scale.storm_targets)


async def _many_rounds(b: Bed, name: str, *, whole: bool) -> Tally:
    tally = Tally()
    async with b.running(), changes(b.bare) as seen, Sender(b) as sender:
        for number in range(b.scale.storm_rounds):
            await _one_round(b, seen, sender, tally, f"{name}-{number}", floor_first=bool(number % 2), whole=whole)
    return tally


async def _one_round(
    b: Bed, seen: Changes, sender: Sender, tally: Tally, name: str, *, floor_first: bool, whole: bool
) -> None:
    """The floor first in every other round, so that neither side always meets the warmer server."""
    scale = b.scale
    ours = [f"{name}-ours-{index}" for index in range(scale.storm_targets)]
    floors = [f"{name}-floor-{index}" for index in range(scale.storm_targets)]
    await b.bare.create_all([deployment(one) for one in (*ours, *floors)])
    await b.bare.create_all([policy(name, f'alertname="{name}"')])
    alerts = alerts_on(ours, name, scale.storm_alerts)
    bodies = [encode(payload(*alerts))] if whole else one_by_one(alerts)
    await b.policies_known()
    await asyncio.sleep(1.5)  # the controllers have made the ReplicaSets
    mark = b.mark()
    if floor_first:
        tally.floors.append(await _floor(b, seen, floors))
    tally.ours.append(await _storm(b, seen, sender, ours, bodies, tally))
    if not floor_first:
        tally.floors.append(await _floor(b, seen, floors))
    tally.missing += await _not_recorded(b, name, alerts)
    writes = b.target_writes(mark)
    tally.actions += len(writes)
    tally.changed += len(set(writes) & set(ours) & seen.at.keys())


async def _storm(
    b: Bed, seen: Changes, sender: Sender, targets: Sequence[str], bodies: Sequence[bytes], tally: Tally
) -> float:
    """Seconds from the first POST until every target is seen changed."""
    began = time.monotonic()
    delivery = asyncio.create_task(sender.deliver_all(bodies, b.scale.senders))
    changed = await seen.of(targets)
    sent = await delivery
    tally.lost += sent.lost
    for status, count in sent.answers.items():
        tally.answers[status] = tally.answers.get(status, 0) + count
    return changed - began


async def _floor(b: Bed, seen: Changes, targets: Sequence[str]) -> float:
    """The same for the writes that are needed, by a bare client."""
    jobs = [ThreeWrites.on(target).job(b.floor) for target in targets]
    began = time.monotonic()
    await in_parallel(jobs, FLOOR_AT_ONCE)
    return await seen.of(targets) - began


async def _not_recorded(b: Bed, policy_name: str, alerts: Sequence[Json]) -> int:
    """How many of the alerts stand on no Incident, once all is quiet."""
    sent = {str(one["fingerprint"]) for one in alerts}
    deadline = time.monotonic() + SETTLE
    while True:
        incidents = await b.incidents(policy_name)
        known = {f for one in incidents for f in one.get("status", {}).get("alert", {}).get("firing", [])}
        missing = len(sent - known)
        if not missing or time.monotonic() > deadline:
            return missing
        await asyncio.sleep(0.5)


async def hot_target(b: Bed) -> list[Figure]:
    """All alerts for one target."""
    scale = b.scale
    await b.bare.create_all([deployment("hot"), policy("hot", 'alertname="hot"')])
    alerts = alerts_on(["hot"], "hot", scale.storm_alerts)
    async with b.running():
        await b.policies_known()
        mark = b.mark()
        async with changes(b.bare) as seen, Sender(b) as sender:
            sent = await sender.deliver_all(one_by_one(alerts), scale.senders)
            await seen.of(["hot"])
            missing = await _not_recorded(b, "hot", alerts)
        return _hot_figures(scale, sent, b.target_writes(mark), missing, _status_writes(b, mark))


def _status_writes(b: Bed, mark: int) -> int:
    return sum(one.resource == "incidents/status" for one in b.writes(mark))


def _hot_figures(scale: Scale, sent: Sent, actions: list[str], missing: int, status_writes: int) -> list[Figure]:
    errors = sum(count for status, count in sent.answers.items() if status >= 300)
    slowest = percentile(sent.seconds, 99) * MILLI
    note = f"p50 {percentile(sent.seconds, 50) * MILLI:.0f} ms; {status_writes} status writes"
    return [
        exactly(f"hot target, {scale.storm_alerts} alerts: actions", len(actions), 1),
        exactly("  answers that are not 2xx", errors, 0),
        exactly("  alerts lost", sent.lost + missing, 0),
        at_most("  receiver, p99", slowest, "ms", 250, note),
    ]
